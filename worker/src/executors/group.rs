//! A process with its group: what is started for a job ends with it, grandchildren included.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use millhand_proto::CrashCause;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use super::tree;

/// A started process that leads a group of its own. Dropping it kills the group.
pub(super) struct Group {
    pub(super) leader: Child,
    pid: Option<Pid>,
}

impl Group {
    /// Starts `command` at the head of a new group.
    ///
    /// There is no `pre_exec`: it would force a fork, whose cost grows with this process's memory.
    pub(super) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let leader = command.process_group(0).kill_on_drop(true).spawn()?;
        let pid = leader
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok(Self { leader, pid })
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // An error says that nobody is left.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Kills all of the group and waits for its leader.
    pub(super) async fn kill(&mut self) -> Option<ExitStatus> {
        self.kill_tree();
        let status = self.leader.wait().await.ok();
        self.forget();
        status
    }

    /// After the leader ended by itself: kills what it left behind, and says how many those were. To be
    /// called at once, before its number can belong to another process.
    pub(super) fn kill_rest(&mut self) -> usize {
        let left = self.pid.map_or(0, tree::members);
        self.signal(Signal::KILL);
        self.forget();
        left
    }

    /// Also those that left the group, as long as they hang on its leader.
    fn kill_tree(&self) {
        let descendants = self.leader.id().map(tree::descendants).unwrap_or_default();
        self.signal(Signal::KILL);
        for pid in descendants.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    fn forget(&mut self) {
        self.pid = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// How a process ended.
pub(super) fn end(status: ExitStatus) -> CrashCause {
    match (status.code(), status.signal()) {
        (Some(code), _) => CrashCause::Exit(code),
        (None, number) => CrashCause::Signal(signal_name(number.unwrap_or_default())),
    }
}

/// The same in words: `exit code 3`, `killed by SIGSEGV`.
pub(super) fn end_in_words(status: ExitStatus) -> String {
    match end(status) {
        CrashCause::Signal(name) => format!("killed by {name}"),
        _ => format!("exit code {}", status.code().unwrap_or_default()),
    }
}

fn signal_name(number: i32) -> String {
    const NAMES: [(Signal, &str); 18] = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::HUP, "SIGHUP"),
        (Signal::ILL, "SIGILL"),
        (Signal::INT, "SIGINT"),
        (Signal::KILL, "SIGKILL"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::PROF, "SIGPROF"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::XCPU, "SIGXCPU"),
    ];
    let named = NAMES.iter().find(|(signal, _)| signal.as_raw() == number);
    named.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}
