//! Enqueueing: the queue confirms, then the store is told, and nobody waits for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use millhand_proto::{Parcel, State, Timestamp, limits};
use tokio::sync::{mpsc, oneshot};

use super::Pair;
use super::deliveries::accepted;
use super::group::{INDEX, bucket};
use super::queue::{Outgoing, Route};
use super::records::encode;
use super::store::{ACCEPTED, Effect, Expected, Key, Store, Swap, Write, shard_of};
use crate::backend::Pushed;
use crate::crash;

/// Notes that may wait to be written; more are left out, which costs only their sight.
const WAITING: usize = 16 * 1024;
/// Bytes of delayed parcels among them.
const WAITING_BYTES: usize = 64 << 20;
/// Notes in one call.
const BATCH: usize = 256;
/// Parcels that a list of ten minutes holds.
const LISTED: usize = 10_000;

#[derive(Debug)]
enum Note {
    /// With the bytes of a delayed parcel.
    Say(Box<Swap>, usize),
    /// All that was said before is written.
    Flush(oneshot::Sender<()>),
}

/// Writes what is only to be looked at, such as the records of accepted jobs: nobody waits for it.
#[derive(Debug)]
pub(super) struct Notes {
    sender: mpsc::Sender<Note>,
    bytes: Arc<AtomicUsize>,
}

impl Notes {
    pub(super) fn start(store: Arc<dyn Store>, io: &crate::io::Io) -> Self {
        let (sender, mut waiting) = mpsc::channel(WAITING);
        let bytes = Arc::<AtomicUsize>::default();
        let held = Arc::clone(&bytes);
        io.handle().spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                let (mut swaps, mut flushed) = (Vec::new(), Vec::new());
                for note in batch.drain(..) {
                    match note {
                        Note::Say(swap, bytes) => {
                            held.fetch_sub(bytes, Ordering::Relaxed);
                            swaps.push(*swap);
                        }
                        Note::Flush(done) => flushed.push(done),
                    }
                }
                if !swaps.is_empty()
                    && let Err(error) = store.swap(swaps).await
                {
                    tracing::debug!(%error, "what was noted is not shown; accepted jobs are when they run");
                }
                for done in flushed {
                    let _ = done.send(());
                }
            }
        });
        Self { sender, bytes }
    }

    pub(super) fn say(&self, swap: Swap, bytes: usize) {
        let room = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= WAITING_BYTES;
        if !room || self.sender.try_send(Note::Say(Box::new(swap), bytes)).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            tracing::debug!("too much is noted at once; this is not shown; an accepted job is when it runs");
        }
    }

    /// Waits until what was accepted before is written.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.sender.send(Note::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

impl Pair {
    /// `or_later`: what a full queue refuses goes by the ladder, for who cannot keep it.
    pub(super) async fn push_all(&self, parcels: Vec<Parcel>, or_later: bool) -> Vec<Pushed> {
        let now = self.store.now();
        let (mut answers, mut sent, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for (at, parcel) in parcels.iter().enumerate() {
            let body: Bytes = parcel.encode().into();
            let (bytes, limit) = (body.len(), limits::MESSAGE_BYTES);
            if bytes > limit {
                let why = format!("the message has {bytes} bytes; the limit is {limit}");
                answers.push(Pushed::Rejected(why));
                continue;
            }
            // Told below.
            answers.push(Pushed::Unknown(String::new()));
            let wait = parcel.due().map(|due| due.since(now)).unwrap_or_default();
            let to = Route::to(&parcel.jobs()[0], wait, false);
            sent.push((at, body.clone(), matches!(to, Route::Later(..))));
            let message = Outgoing::new(to, body);
            messages.push(if or_later { message.or_later() } else { message });
        }
        crash::point("push.before");
        let answered = self.queue.publish(messages).await;
        crash::point("push.after");
        for ((at, body, later), pushed) in sent.into_iter().zip(answered) {
            if pushed == Pushed::Accepted {
                let bytes = if later { body.len() } else { 0 };
                self.notes.say(self.note(&parcels[at], body, later, now), bytes);
            }
            answers[at] = pushed;
        }
        answers
    }

    /// The accepted record of a parcel, set where there is none.
    fn note(&self, parcel: &Parcel, body: Bytes, later: bool, now: Timestamp) -> Swap {
        let first = &parcel.jobs()[0];
        let key = first.id().parcel_key();
        let shard = shard_of(key, self.store.shards());
        let until = parcel.jobs().iter().filter_map(millhand_proto::JobCopy::due).max();
        let keep = until.unwrap_or_default().max(now).plus(limits::KEEP_OTHERS).since(now);
        let mut listed = key.as_bytes().to_vec();
        listed.extend(u16::try_from(parcel.jobs().len()).unwrap_or(u16::MAX).to_be_bytes());
        let mut effects = Vec::new();
        if later {
            effects.push(Effect::Put(Key::Delayed(key), body, keep));
            let index = Key::Index(shard, State::Scheduled);
            let ids = parcel
                .jobs()
                .iter()
                .map(|job| Bytes::copy_from_slice(job.id().as_bytes()));
            effects.extend(ids.map(|id| Effect::AppendCapped(index.clone(), id, keep, INDEX)));
        } else {
            // A subset of a parcel is not the parcel: its jobs are told one by one.
            let whole = (0..).zip(parcel.jobs()).all(|(at, job)| job.id().index() == at);
            let list = Key::Accepted(shard, parcel.queue().clone(), bucket(now));
            let append = |bytes: Bytes| Effect::AppendCapped(list.clone(), bytes, limits::KEEP_SUCCEEDED, LISTED);
            if whole {
                effects.push(append(listed.into()));
            } else {
                let ids = parcel
                    .jobs()
                    .iter()
                    .map(|job| Bytes::copy_from_slice(job.id().as_bytes()));
                effects.extend(ids.map(append));
            }
        }
        effects.extend(self.registry.note(Key::Queues, parcel.queue().as_str(), now));
        let write = Write {
            key: Key::Record(first.id().record_at(first.hop.hand)),
            expected: Expected::Absent,
            bytes: Some(encode(ACCEPTED, &accepted(parcel))),
            keep,
        };
        Swap {
            writes: vec![write],
            effects,
        }
    }
}
