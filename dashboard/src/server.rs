//! The socket: only on this machine, and with bounds on what a connection may send and how many
//! there are.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use millhand_client::Client;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::figures::Figures;
use crate::guard::Hosts;
use crate::live::Live;
use crate::pages::{Site, router};

/// Connections at once; more wait for a place.
const CONNECTIONS: usize = 256;
/// Bytes of a request's line and headers.
const HEAD: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a request's head may take, and a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers that are under way may take at a stop.
const GRACE: Duration = Duration::from_secs(3);

/// An address that only this machine reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

impl Default for Loopback {
    fn default() -> Self {
        Self(SocketAddr::from(([127, 0, 0, 1], 7700)))
    }
}

impl fmt::Display for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Loopback {
    type Err = BindError;
    fn from_str(text: &str) -> Result<Self, BindError> {
        let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = named
            .as_deref()
            .unwrap_or(text)
            .parse()
            .map_err(|_| BindError::NoAddress)?;
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(BindError::NotLoopback { port: address.port() })
        }
    }
}

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The text is no address.
    #[error("it is no address: write 127.0.0.1:7700, [::1]:7700 or localhost:7700")]
    NoAddress,
    /// Others could reach it.
    #[error(
        "the dashboard has no sign-in, so it listens on this machine only: 127.0.0.1:{port} or [::1]:{port}. \
         From another machine: ssh -L {port}:127.0.0.1:{port} HOST"
    )]
    NotLoopback {
        /// The port that was asked for.
        port: u16,
    },
    /// The address cannot be had.
    #[error("{address} cannot be listened on: {source}")]
    Taken {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A dashboard with its socket open.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    client: Client,
}

impl Dashboard {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(client: Client, to: Loopback) -> Result<Self, BindError> {
        let taken = |source| BindError::Taken { address: to.0, source };
        let listener = TcpListener::bind(to.0).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        Ok(Self {
            listener,
            address,
            client,
        })
    }

    /// Where it is: with the port that was given to it, if it asked for any.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; answers that are under way are finished, streams end.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let ended = CancellationToken::new();
        let figures = Arc::new(Figures::new(self.client));
        let site = Site {
            live: Live::new(Arc::clone(&figures), ended.clone()),
            figures,
            hosts: Arc::new(Hosts::of(self.address)),
        };
        let service = TowerToHyperService::new(router(site));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(HEAD)
            .max_headers(HEADERS);
        let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        tokio::pin!(shutdown);
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                Some((self.listener.accept().await, place))
            };
            let (stream, place) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accepted => match accepted {
                    Some((Ok((stream, _)), place)) => (stream, place),
                    Some((Err(error), _)) => {
                        // Of one connection, or of all while files are scarce.
                        tracing::debug!(%error, "a connection could not be taken");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                    None => break,
                },
            };
            let connection = http.serve_connection(TokioIo::new(stream), service.clone());
            let ended = ended.clone();
            connections.spawn(async move {
                tokio::pin!(connection);
                let served = tokio::select! {
                    served = connection.as_mut() => served,
                    () = ended.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop(place);
            });
        }
        drop(self.listener);
        ended.cancel();
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::debug!("some answers were not finished");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_can_be_listened_on() {
        for good in ["127.0.0.1:7700", "[::1]:7700", "localhost:1", "127.1.2.3:0"] {
            assert!(good.parse::<Loopback>().is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0:7700",
            "[::]:7700",
            "192.168.1.5:7700",
            "[::ffff:127.0.0.1]:7700",
            "8.8.8.8:80",
        ] {
            let error = bad.parse::<Loopback>().unwrap_err().to_string();
            assert!(
                error.contains("no sign-in") && error.contains("ssh -L"),
                "{bad}: {error}"
            );
        }
        for bad in ["", "7700", "localhost", "example.com:80", "127.0.0.1", "localhost:x"] {
            assert!(matches!(bad.parse::<Loopback>(), Err(BindError::NoAddress)), "{bad}");
        }
    }
}
