//! The processes of a run: this program, started again.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::place::Place;

/// In a process of ours: ends it when the one that started it is gone, however that ended.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0)
    });
}

/// A process of ours; it ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Held open: to wait for a child closes the one that it has.
    _input: Option<ChildStdin>,
}

impl Running {
    /// Starts `what` on a place, with a crash point if there is one.
    pub(crate) fn start(what: &str, place: &Place, folder: &Path, more: &[&str], crash: Option<&str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(what).args(place.urls()).arg(folder).args(more);
        // Its end is this process's end: see `end_with_parent`.
        command.stdin(Stdio::piped()).kill_on_drop(true);
        if let Some(crash) = crash {
            command.env("MILLHAND_CRASH", crash);
        }
        let mut child = command.spawn().with_context(|| format!("{what} cannot be started"))?;
        Ok(Self {
            _input: child.stdin.take(),
            child,
        })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("it did not end within {patience:?}"),
        }
    }

    /// Waits until it has killed itself.
    pub(crate) async fn crashed(&mut self, patience: Duration) -> Result<()> {
        let status = self.ended(patience).await?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("it did not come to its crash point: {status}");
        }
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Stops it in the middle of whatever it does.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        Ok(kill_process(pid.context("it has ended")?, signal)?)
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(patience).await
    }
}
