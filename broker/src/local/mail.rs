//! Messages between the processes that share a file, and inside one.
//!
//! Each process with a mailbox reads one named pipe in `<file>.workers/`; a message is 17 bytes and
//! written at once, so writers never mix. Pipes, not sockets: a socket's path is limited to about
//! 108 bytes. Messages may be lost (a full pipe); readers look again from time to time.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use millhand_proto::{JobId, Mailbox};
use tokio::sync::{Notify, mpsc};

use crate::backend::Mail;
use crate::lock::lock;

/// Bytes of one message: its kind and an id.
const FRAME: usize = 17;
/// Messages that are read at once; as many waiting may mean that some were lost.
const READ_FRAMES: usize = 512;
/// Messages that wait in a process for whoever watches the mailbox.
const BOX: usize = 8192;

/// The mailboxes of this process, and the way to those of others.
#[derive(Debug, Default)]
pub(super) struct Switchboard {
    boxes: Mutex<HashMap<Mailbox, mpsc::Sender<Mail>>>,
    /// Told when parcels may have come into the queue.
    pub(super) work: Notify,
    dir: Option<PathBuf>,
}

fn encode(mail: Mail) -> [u8; FRAME] {
    let (kind, id) = match mail {
        Mail::Ended(id) => (b'E', Some(id)),
        Mail::Cancel(id) => (b'C', Some(id)),
        Mail::Control => (b'P', None),
        Mail::Lost => (b'L', None),
    };
    let mut frame = [0; FRAME];
    frame[0] = kind;
    if let Some(id) = id {
        frame[1..].copy_from_slice(id.as_bytes());
    }
    frame
}

impl Switchboard {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, ..Self::default() }
    }

    /// A mailbox, and what tells when its reader is gone.
    pub(super) fn open(&self, mailbox: Mailbox) -> (mpsc::Receiver<Mail>, mpsc::Sender<Mail>) {
        let (sender, receiver) = mpsc::channel(BOX);
        lock(&self.boxes).insert(mailbox, sender.clone());
        (receiver, sender)
    }

    pub(super) fn close(&self, mailbox: Mailbox) {
        lock(&self.boxes).remove(&mailbox);
    }

    /// Sends a message to a mailbox, wherever it is.
    pub(super) fn post(&self, to: Mailbox, mails: &[Mail]) {
        let local = lock(&self.boxes).get(&to).cloned();
        if let Some(sender) = local {
            for mail in mails {
                // Full or closed: its reader looks again by itself.
                let _ = sender.try_send(*mail);
            }
        } else if let Some(dir) = &self.dir {
            let frames: Vec<u8> = mails.iter().flat_map(|mail| encode(*mail)).collect();
            write(&pipe(dir, to), &frames);
        }
    }

    /// Tells every worker on this file that there may be work.
    pub(super) fn wake(&self) {
        self.work.notify_waiters();
        self.to_workers(b'W');
    }

    /// Tells every worker that a pause changed.
    pub(super) fn control(&self) {
        for sender in lock(&self.boxes).values() {
            let _ = sender.try_send(Mail::Control);
        }
        self.work.notify_waiters();
        self.to_workers(b'P');
    }

    fn to_workers(&self, kind: u8) {
        let Some(dir) = &self.dir else { return };
        let mut frame = [0; FRAME];
        frame[0] = kind;
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(id) = name
                .to_str()
                .and_then(|n| n.strip_suffix(".worker"))
                .and_then(Mailbox::parse)
            else {
                continue;
            };
            if !lock(&self.boxes).contains_key(&id) {
                write(&pipe(dir, id), &frame);
            }
        }
    }

    fn received(&self, me: Mailbox, frames: &[u8]) {
        let mut work = false;
        let own = lock(&self.boxes).get(&me).cloned();
        let give = |mail| {
            if let Some(sender) = &own {
                let _ = sender.try_send(mail);
            }
        };
        for frame in frames.chunks_exact(FRAME) {
            let mut id = [0; 16];
            id.copy_from_slice(&frame[1..]);
            let id = JobId::from_bytes(id);
            match frame[0] {
                b'E' => give(Mail::Ended(id)),
                b'C' => give(Mail::Cancel(id)),
                b'P' => {
                    give(Mail::Control);
                    work = true;
                }
                b'W' => work = true,
                _ => give(Mail::Lost),
            }
        }
        if frames.len() == FRAME * READ_FRAMES {
            give(Mail::Lost);
        }
        if work {
            self.work.notify_waiters();
        }
    }
}

fn pipe(dir: &Path, mailbox: Mailbox) -> PathBuf {
    dir.join(format!("{mailbox}.pipe"))
}

/// Writes without waiting: a reader that is gone or a full pipe is no concern of the writer's.
fn write(path: &Path, frames: &[u8]) {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let Ok(mut file) = OpenOptions::new().write(true).custom_flags(nonblocking).open(path) else {
        return;
    };
    // Whole frames only: what fits into PIPE_BUF (at least 512 bytes) is written at once or not.
    for chunk in frames.chunks(FRAME * 30) {
        if file.write(chunk).is_err() {
            return;
        }
    }
}

/// This process's pipe, read by a thread of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Inbox {
    path: PathBuf,
}

impl Inbox {
    /// Makes the pipe of `mailbox` in `dir` and starts to read it.
    pub(super) fn open(dir: &Path, mailbox: Mailbox, board: Arc<Switchboard>) -> std::io::Result<Self> {
        let path = pipe(dir, mailbox);
        make_pipe(&path)?;
        // Opened for both ways, so that it neither waits for a writer nor ends without one.
        let mut file: File = OpenOptions::new().read(true).write(true).open(&path)?;
        std::thread::Builder::new()
            .name("millhand-mail".into())
            .spawn(move || {
                let mut buffer = [0; FRAME * READ_FRAMES];
                while let Ok(read) = file.read(&mut buffer) {
                    if read == 0 || buffer[..read].chunks(FRAME).any(|frame| frame[0] == b'Q') {
                        break;
                    }
                    board.received(mailbox, &buffer[..read]);
                }
            })?;
        Ok(Self { path })
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        write(&self.path, &[b'Q'; FRAME]);
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(not(target_vendor = "apple"))]
fn make_pipe(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, Mode, mkfifoat};
    Ok(mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?)
}

#[cfg(target_vendor = "apple")]
fn make_pipe(path: &Path) -> std::io::Result<()> {
    // rustix has no mkfifo there; the program is in every POSIX system, and this runs once.
    let status = std::process::Command::new("mkfifo")
        .arg("-m")
        .arg("600")
        .arg(path)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other("mkfifo failed"))
    }
}
