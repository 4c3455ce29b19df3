//! The queue and the store; every write to the store is held against the laws.

use millhand_proto::{Class, Entry, JobCopy, JobId, QueueName, Record, RecordKey, State, Timestamp};

use super::{Message, World};

impl World {
    pub(super) fn publish(&mut self, jobs: Vec<JobCopy>, visible: Timestamp) {
        let number = self.next();
        let done = vec![false; jobs.len()];
        self.queue.insert(
            number,
            Message {
                jobs,
                done,
                held: None,
                redelivered: 0,
                visible,
            },
        );
    }

    pub(super) fn acknowledge(&mut self, message: Option<(u64, usize)>) {
        let Some((number, index)) = message else { return };
        let message = self.queue.get_mut(&number).unwrap();
        message.done[index] = true;
        if message.done.iter().all(|d| *d) {
            self.queue.remove(&number);
        }
    }

    pub(super) fn free_messages_of(&mut self, worker: usize) {
        for message in self.queue.values_mut().filter(|m| m.held == Some(worker)) {
            message.held = None;
            message.redelivered += 1;
            message.done.fill(false);
        }
    }

    pub(super) fn entry(&self, key: RecordKey, id: JobId) -> Option<Entry> {
        self.store.get(&key)?.entry(key, id).cloned()
    }

    /// Where the highest hand decided so far lives.
    pub(super) fn newest(&self, id: JobId) -> Option<(RecordKey, Entry)> {
        let (first, own) = (id.record_at(0), id.record_at(1));
        let own = self.entry(own, id).map(|e| (own, e));
        let first = self.entry(first, id).map(|e| (first, e));
        match (first, own) {
            (Some(first), Some(own)) => Some(if own.1.hand >= first.1.hand { own } else { first }),
            (first, own) => first.or(own),
        }
    }

    /// The swap; every write goes through here and is held against the laws.
    pub(super) fn put(&mut self, key: RecordKey, id: JobId, entry: Entry) {
        if let Some(old) = self.entry(key, id) {
            assert!(
                entry.hand >= old.hand,
                "the hand of {id} falls from {} to {}",
                old.hand,
                entry.hand
            );
            if entry.hand == old.hand {
                let legal = !self.clean || old.state.may_become(entry.state);
                assert!(legal, "{id}: {} becomes {} at one hand", old.state, entry.state);
                assert!(entry.claims >= old.claims, "claims of {id} fall");
                assert!(!old.moved || entry.moved, "{id} comes back to the record that it left");
            } else if self.clean && !old.moved {
                let ended = matches!(old.state, State::Succeeded | State::Cancelled | State::Expired);
                assert!(!ended, "{id} had {} and gets a later hand", old.state);
            }
        }
        if entry.state.is_ended() && !entry.moved {
            let known = self.jobs.get_mut(&id).unwrap();
            if self.clean {
                let before = known.ended.unwrap_or(entry.state);
                assert_eq!(before, entry.state, "{id} has two recorded ends");
            }
            if entry.state == State::Dead {
                assert!(self.dead.contains_key(&id), "{id} is dead and not in the dead queue");
            }
            known.ended = Some(entry.state);
        }
        let record = self
            .store
            .entry(key)
            .or_insert_with(|| Record::new(QueueName::default(), Class::Normal));
        record.put(entry);
    }
}
