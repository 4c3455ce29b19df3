//! Who cleans up: a shell that holds the other end of a pipe.
//!
//! A static is never dropped and a killed process drops nothing, so no destructor can be relied on.
//! The keeper reads a pipe that only the test process writes to; when that process is gone, for
//! whatever reason, the pipe ends, and the keeper kills the servers and removes their folder.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// `$$` leads the group of all servers. Who kills the group must not be in it: hence `setsid`.
const SCRIPT: &str = r#"cat >/dev/null
exec setsid sh -c 'kill -s KILL -- "-$1"; rm -rf -- "$2" || { sleep 1; rm -rf -- "$2"; }' sh "$$" "$1""#;

/// A folder and a process group that end with the test process.
#[derive(Debug)]
pub(crate) struct Keeper {
    shell: Child,
    folder: PathBuf,
}

impl Keeper {
    /// `kind` is part of the folder's name.
    pub(crate) fn new(kind: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("millhand-{kind}-")).tempdir();
        let folder = folder.expect("a temporary folder").keep();
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh must start");
        Self { shell, folder }
    }

    /// Where the server may write.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a server in the group. What it prints goes into `log`, so that nobody waits for a pipe
    /// that a server still holds.
    pub(crate) fn spawn(&self, command: &mut Command, log: &str) -> std::io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.folder.join(log))?;
        let group = i32::try_from(self.shell.id()).expect("a process id");
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(group)
            .spawn()
    }

    /// The end of a log, for messages.
    pub(crate) fn log(&self, log: &str) -> String {
        let text = std::fs::read(self.folder.join(log)).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Keeper {
    /// The servers are dropped before; what is left is done here rather than later, by the shell.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A free port. Not one that the kernel gives to clients: while a server is down, a client that
/// connects from that very port would keep it, or even meet itself.
pub(crate) fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let seed = RandomState::new().hash_one(std::process::id());
    (0..12_000)
        .filter_map(|n| u16::try_from(20_000 + seed.wrapping_add(n) % 12_000).ok())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port on 127.0.0.1")
}
