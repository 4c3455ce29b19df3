//! The processes of a run: this program, started again.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, ChildStdin, Command};

use crate::place::Place;

/// Whether this process is the child of a worker of ours.
pub(crate) fn is_child() -> bool {
    std::env::var_os("MILLHAND_CHILD").is_some()
}

/// In a process of ours: ends it when the one that started it is gone, however that ended. A worker's child
/// sees to that itself: its standard input is its worker's word.
pub(crate) fn end_with_parent() {
    if is_child() {
        return;
    }
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0)
    });
}

/// What a worker is told about itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) asyncs: usize,
    pub(crate) threads: usize,
    pub(crate) processes: usize,
    /// Whether it knows the tasks that others do not know.
    pub(crate) strangers: bool,
    /// How long running jobs may go on after a stop, in milliseconds.
    pub(crate) grace: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            asyncs: 4,
            threads: 0,
            processes: 0,
            strangers: false,
            grace: 30_000,
        }
    }
}

impl Setup {
    /// Jobs that run at once.
    pub(crate) fn slots(self) -> usize {
        self.asyncs + self.threads + self.processes
    }
}

/// How a process differs from the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    pub(crate) setup: Setup,
    /// Where else than the rest of its run: through a wire that is harmed.
    pub(crate) place: Option<Place>,
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Setting {
    /// A crash point: `settle.after_release:3`.
    pub(crate) fn crash(plan: &str) -> Self {
        Self {
            env: vec![("MILLHAND_CRASH", plan.to_owned())],
            ..Self::default()
        }
    }

    /// Through a wire.
    pub(crate) fn at(place: Place) -> Self {
        Self {
            place: Some(place),
            ..Self::default()
        }
    }
}

/// A process of ours; it ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Held open: to wait for a child closes the one that it has.
    _input: Option<ChildStdin>,
}

impl Running {
    /// Starts `what` on a place; what it logs goes into a file of the run's.
    pub(crate) fn start(what: &str, place: &Place, folder: &Path, more: &[&str], setting: &Setting) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let place = setting.place.as_ref().unwrap_or(place);
        command.arg(what).args(place.urls()).arg(folder).args(more);
        command.envs(setting.env.iter().map(|(name, value)| (name, value)));
        // All that it starts has it too.
        command.env(RUN, folder);
        let log = folder.join(format!("{what}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        // Its end is this process's end: see `end_with_parent`.
        command.stdin(Stdio::piped()).stderr(log).kill_on_drop(true);
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

    /// How it ended, if it has.
    pub(crate) fn gone(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
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

    /// Tells it to stop.
    pub(crate) fn tell_to_stop(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        Ok(kill_process(pid.context("it has ended")?, signal)?)
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.tell_to_stop()?;
        self.ended(patience).await
    }

    /// What it holds of the machine now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid().context("it has ended")?)
    }
}

/// In the environment of all processes of a run: its folder.
const RUN: &str = "MILLHAND_FAULTS_RUN";

/// The processes of a run that live, by their numbers and command lines.
pub(crate) fn of_run(folder: &Path) -> Vec<String> {
    let mark = [RUN.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        // It may end while it is looked at.
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|part| part == mark) {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            found.push(format!("{}: {words}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    pub(crate) rss_kib: u64,
    pub(crate) files: u64,
    pub(crate) threads: u64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            word.with_context(|| format!("no {name} in the status of {pid}"))
        };
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self {
            rss_kib: number("VmRSS:")?,
            files: files.try_into()?,
            threads: number("Threads:")?,
        })
    }
}
