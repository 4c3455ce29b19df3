//! lapin on our own streams: in the clear or over TLS, and what comes goes through the [`Sieve`].
//!
//! lapin takes streams of the type that its reactor's connections have, so this is tokio with another
//! such type. lapin is built without TLS of its own: given an `amqps://` address, it would talk in the
//! clear.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::sieve::Sieve;
use crate::tls::{self, Tls};

/// Connects to a server, over TLS where that is given. The stream ends when `wanted` is cancelled.
pub(super) async fn connect(
    uri: AMQPUri,
    tls: Option<Tls>,
    wanted: CancellationToken,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Ours(tokio)));
    let connect = async move |uri: AMQPUri, _| {
        let (host, port) = (uri.authority.host.as_str(), uri.authority.port);
        let stream = match &tls {
            Some(tls) => Either::Right(tls.connect(host, port).await?),
            None => {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                Either::Left(stream)
            }
        };
        // Plain to lapin, which has nothing to add to it.
        Ok(AsyncTcpStream::Plain(Sieve::new(stream, wanted.clone()).compat()))
    };
    Connection::connector(uri, runtime, connect, properties).await
}

/// Tokio, but for the type of its streams.
#[derive(Clone, Debug)]
struct Ours(Tokio);

impl Reactor for Ours {
    type TcpStream = Compat<Sieve<Either<TcpStream, tls::Stream>>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn sleep(&self, span: Duration) -> Self::Sleep {
        self.0.sleep(span)
    }

    fn interval(&self, span: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(span)
    }

    /// Not asked for: an address alone does not say whose certificate to expect.
    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Not asked for.
    #[expect(refining_impl_trait, reason = "the traits' crate need not be named")]
    fn register<H: Read + Write + Send + 'static>(&self, _: H) -> io::Result<Self::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
