//! The bare thing beside the process executor: this program, started again, sends back on its standard
//! input what comes there.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Set in the environment of an echo, with its kind.
const VARIABLE: &str = "MILLHAND_BENCH_ECHO";

/// Bytes of one message, about those of a job without arguments.
const MESSAGE: usize = 128;

/// How an echo waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tokio,
    Blocking,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::Blocking => "blocking",
        }
    }
}

/// Whether this process was started as an echo.
pub(crate) fn is_echo() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Is an echo until the other side closes.
pub(crate) fn echo() -> Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut message = [0; MESSAGE];
    if std::env::var(VARIABLE)? == Kind::Blocking.name() {
        while socket.read_exact(&mut message).is_ok() {
            socket.write_all(&message)?;
        }
        return Ok(());
    }
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut socket = tokio::net::UnixStream::from_std(socket)?;
        while socket.read_exact(&mut message).await.is_ok() {
            socket.write_all(&message).await?;
        }
        Ok(())
    })
}

/// An echo, and this side of its socket.
pub(super) struct Echo {
    child: Child,
    socket: Socket,
}

enum Socket {
    Tokio(tokio::net::UnixStream),
    Blocking(UnixStream),
}

impl Echo {
    pub(super) fn start(kind: Kind) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(std::env::current_exe()?)
            .env(VARIABLE, kind.name())
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .context("the echo cannot be started")?;
        let socket = if kind == Kind::Tokio {
            ours.set_nonblocking(true)?;
            Socket::Tokio(tokio::net::UnixStream::from_std(ours)?)
        } else {
            Socket::Blocking(ours)
        };
        Ok(Self { child, socket })
    }

    /// So many messages there and back, one at a time.
    pub(super) async fn times(&mut self, count: usize) -> Result<Vec<Duration>> {
        let mut message = [7; MESSAGE];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let started = Instant::now();
            match &mut self.socket {
                Socket::Tokio(socket) => {
                    socket.write_all(&message).await?;
                    socket.read_exact(&mut message).await?;
                }
                Socket::Blocking(socket) => {
                    socket.write_all(&message)?;
                    socket.read_exact(&mut message)?;
                }
            }
            times.push(started.elapsed());
        }
        Ok(times)
    }

    /// Closes the socket, at which the echo ends.
    pub(super) fn stop(self) -> Result<()> {
        let Self { mut child, socket } = self;
        drop(socket);
        child.wait()?;
        Ok(())
    }
}
