//! lapin over TLS.
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
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::tls::{self, Tls};

/// Connects to a server over TLS.
pub(super) async fn connect(uri: AMQPUri, tls: Tls, properties: ConnectionProperties) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Secure(tokio)));
    let connect = async move |uri: AMQPUri, _| {
        let stream = tls.connect(&uri.authority.host, uri.authority.port).await?;
        // Plain to lapin, which has nothing to add to it.
        Ok(AsyncTcpStream::Plain(stream.compat()))
    };
    Connection::connector(uri, runtime, connect, properties).await
}

/// Tokio, but for the type of its streams.
#[derive(Clone, Debug)]
struct Secure(Tokio);

impl Reactor for Secure {
    type TcpStream = Compat<tls::Stream>;
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
