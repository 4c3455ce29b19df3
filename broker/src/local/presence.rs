//! Who is alive on a file: each process with a mailbox holds one locked file in `<file>.workers/`
//! for its life. The lock of a process that is gone, however it went, can be taken.
//!
//! The database file itself is never opened or locked beside SQLite: closing any handle of it
//! would drop SQLite's own locks.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millhand_proto::{Mailbox, WorkerId};

use super::mail::{Inbox, Switchboard};

/// The folder beside the file.
pub(super) fn folder(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".workers");
    name.into()
}

/// This process's presence under one mailbox.
#[derive(Debug)]
pub(super) struct Presence {
    path: PathBuf,
    _lock: File,
    _inbox: Inbox,
}

impl Presence {
    /// Appears: as a worker, whom pushes wake, or only as somebody who waits.
    pub(super) fn appear(dir: &Path, me: Mailbox, worker: bool, board: &Arc<Switchboard>) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{me}.{}", if worker { "worker" } else { "waiter" }));
        // Locked before it has its name: nobody may find it unlocked.
        let draft = dir.join(format!("{me}.draft"));
        let lock = File::create(&draft)?;
        lock.try_lock().map_err(std::io::Error::from)?;
        let inbox = Inbox::open(dir, me, Arc::clone(board))?;
        std::fs::rename(&draft, &path)?;
        Ok(Self {
            path,
            _lock: lock,
            _inbox: inbox,
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the worker's lock is held.
pub(super) fn alive(dir: &Path, worker: WorkerId) -> bool {
    match File::open(dir.join(format!("{worker}.worker"))) {
        // Shared, so that two who look at once do not take each other for the worker.
        Ok(file) => file.try_lock_shared().is_err(),
        // What cannot be looked at is no proof of a death.
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Whether not even a file says that this worker lived.
pub(super) fn unheard_of(dir: &Path, worker: WorkerId) -> bool {
    matches!(dir.join(format!("{worker}.worker")).try_exists(), Ok(false))
}

/// The processes that are gone but whose files are still there; `mine` are left alone.
pub(super) fn gone(dir: &Path, mine: impl Fn(Mailbox) -> bool) -> Vec<(Mailbox, bool)> {
    let mut gone = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((id, kind)) = name.to_str().and_then(|n| n.split_once('.')) else {
            continue;
        };
        let Some(id) = Mailbox::parse(id).filter(|id| !mine(*id)) else {
            continue;
        };
        if !matches!(kind, "worker" | "waiter" | "draft") {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock_shared().is_err() {
            continue;
        }
        if kind == "draft" {
            // A process between making and locking it: only an old one is left over.
            let old = entry
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|m| m.elapsed().ok());
            if old.is_none_or(|age| age.as_secs() < 60) {
                continue;
            }
        }
        gone.push((id, kind == "worker"));
    }
    gone
}

/// Removes the files of a process that is gone.
pub(super) fn bury(dir: &Path, id: Mailbox) {
    for kind in ["worker", "waiter", "draft", "pipe"] {
        let _ = std::fs::remove_file(dir.join(format!("{id}.{kind}")));
    }
}
