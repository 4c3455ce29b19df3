//! Mailboxes: channels of the store, pushed to this process (RESP3).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use millhand_proto::{JobId, Mailbox};
use tokio::sync::mpsc;

use crate::backend::Mail;
use crate::lock::lock;

/// Messages that wait in a process for whoever watches the mailbox.
const BOX: usize = 8192;

/// Kind and id of a message. Messages of one kind travel as the kind and all their ids.
pub(super) fn encode(mail: Mail) -> (&'static str, Vec<u8>) {
    match mail {
        Mail::Ended(id) => ("E", id.as_bytes().to_vec()),
        Mail::Cancel(id) => ("C", id.as_bytes().to_vec()),
        Mail::Control => ("P", Vec::new()),
        Mail::Lost => ("L", Vec::new()),
    }
}

fn decode(payload: &[u8]) -> Vec<Mail> {
    let Some((kind, ids)) = payload.split_first() else {
        return Vec::new();
    };
    let with_id: fn(JobId) -> Mail = match kind {
        b'E' => Mail::Ended,
        b'C' => Mail::Cancel,
        b'P' => return vec![Mail::Control],
        // What a newer build says may concern this one too.
        _ => return vec![Mail::Lost],
    };
    let ids = ids.chunks_exact(16).filter_map(|id| id.try_into().ok());
    ids.map(|id| with_id(JobId::from_bytes(id))).collect()
}

#[derive(Debug)]
struct Slot {
    to: mpsc::Sender<Mail>,
    /// Messages were dropped, and the reader was not told yet.
    lost: bool,
}

impl Slot {
    fn put(&mut self, mail: Mail) {
        if self.lost {
            self.lost = self.to.try_send(Mail::Lost).is_err();
        }
        self.lost |= self.to.try_send(mail).is_err();
    }
}

/// The mailboxes that are open in this process.
#[derive(Debug, Default)]
pub(super) struct Mailboxes(Mutex<HashMap<Mailbox, Vec<Slot>>>);

impl Mailboxes {
    fn slots(&self) -> MutexGuard<'_, HashMap<Mailbox, Vec<Slot>>> {
        lock(&self.0)
    }

    /// Opens a mailbox; also answers what tells when its reader is gone.
    pub(super) fn open(&self, mailbox: Mailbox) -> (mpsc::Receiver<Mail>, mpsc::Sender<Mail>) {
        let (to, mails) = mpsc::channel(BOX);
        let slot = Slot {
            to: to.clone(),
            lost: false,
        };
        self.slots().entry(mailbox).or_default().push(slot);
        (mails, to)
    }

    /// Forgets readers that are gone; answers whether nobody reads the mailbox any more.
    pub(super) fn close(&self, mailbox: Mailbox) -> bool {
        let mut slots = self.slots();
        let Some(readers) = slots.get_mut(&mailbox) else {
            return false;
        };
        readers.retain(|slot| !slot.to.is_closed());
        let empty = readers.is_empty();
        if empty {
            slots.remove(&mailbox);
        }
        empty
    }

    pub(super) fn all(&self) -> Vec<Mailbox> {
        self.slots().keys().copied().collect()
    }

    pub(super) fn received(&self, mailbox: Mailbox, payload: &[u8]) {
        let mails = decode(payload);
        for slot in self.slots().get_mut(&mailbox).into_iter().flatten() {
            mails.iter().for_each(|mail| slot.put(*mail));
        }
    }

    /// The connection was away: whatever was told meanwhile is lost.
    pub(super) fn lost(&self) {
        for slot in self.slots().values_mut().flatten() {
            slot.put(Mail::Lost);
        }
    }
}
