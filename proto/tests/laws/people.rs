//! What people do: they enqueue, cancel, retry what is dead, and run at once.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::protocol::{Cancel, cancel, retry};
use millhand_proto::{Class, Core, Entry, JobCopy, JobId, Leaving, Parcel, QueueName, State, TaskName};

use super::{Known, World, mix};

impl World {
    pub(super) fn enqueue(&mut self, jobs: u32, how: u32) {
        let random = mix(self.next());
        let given = how % 4 == 0;
        let expires = (how % 8 == 1).then(|| self.now.plus(Duration::from_secs(3600)));
        let not_before = (how % 8 == 2).then(|| self.now.plus(Duration::from_secs(90)));
        let jobs = if given { 1 } else { 1 + u16::try_from(jobs % 4).unwrap() };
        let core = |index| Core {
            id: if given {
                JobId::given(&format!("job {random}"))
            } else {
                JobId::minted(self.now, random, index)
            },
            task: TaskName::new("task").unwrap(),
            args: Bytes::from_static(&[0xc0]),
            codec: 0,
            task_version: 0,
            queue: QueueName::default(),
            class: Class::Normal,
            enqueued_at: self.now,
            not_before,
            expires,
            limits: millhand_proto::TimeLimits::default(),
            retry: millhand_proto::RetryWish::default(),
            tags: vec![],
            parent: None,
            root: None,
            producer: None,
            mailbox: None,
            not_understood: vec![],
        };
        let copies = Parcel::pack((0..jobs).map(core).collect()).unwrap().into_jobs();
        for copy in &copies {
            self.jobs.insert(
                copy.id(),
                Known {
                    first: copy.clone(),
                    ended: None,
                    results: HashMap::new(),
                },
            );
        }
        self.publish(copies.clone(), not_before.unwrap_or(self.now));
        if how & 64 == 0 {
            // The accepted records come later, or never.
            for copy in copies {
                self.accept(&copy);
            }
        }
    }

    pub(super) fn accept(&mut self, copy: &JobCopy) {
        let key = copy.id().record_at(0);
        if self.entry(key, copy.id()).is_none() {
            self.put(key, copy.id(), Entry::accepted(copy));
        }
    }

    pub(super) fn pick_job(&self, which: u32) -> Option<JobId> {
        let len = self.jobs.len();
        (len > 0).then(|| *self.jobs.keys().nth(which as usize % len).unwrap())
    }

    pub(super) fn cancel(&mut self, id: JobId) {
        let Some((key, entry)) = self.newest(id) else {
            let copy = &self.jobs[&id].first;
            let (_, entry) = cancel(Entry::accepted(copy), "cancelled", self.now);
            return self.put(id.record_at(0), id, entry.unwrap());
        };
        let successor = entry.leaving;
        let hand = entry.hand;
        let (did, entry) = cancel(entry, "cancelled", self.now);
        let Some(entry) = entry else { return };
        let next = id.record_at(hand + 1);
        if did == Cancel::Cancelled && successor.is_some_and(|s| s.why != Leaving::Death) && next != key {
            let mut own = entry.clone();
            own.index = 0;
            if self.entry(next, id).is_none_or(|there| there.hand < own.hand) {
                self.put(next, id, own);
            }
        }
        self.put(key, id, entry);
    }

    pub(super) fn operator_retry(&mut self, id: JobId, write: bool) {
        let Some((key, entry)) = self.newest(id) else { return };
        let Some(copy) = self.dead.get(&id).cloned() else {
            assert!(
                !self.clean || entry.state != State::Dead,
                "{id} is dead without its copy"
            );
            return;
        };
        let Ok((next, here, own)) = retry(&entry, &copy, self.now) else {
            return;
        };
        self.publish(vec![next], self.now);
        self.jobs.get_mut(&id).unwrap().ended = None;
        if write {
            self.put(key, id, here);
            if let Some(own) = own {
                let place = id.record_at(own.hand);
                if self.entry(place, id).is_none_or(|there| there.hand < own.hand) {
                    self.put(place, id, own);
                }
            }
        }
    }

    /// Run now, or a copy that the broker sent twice.
    pub(super) fn duplicate(&mut self, which: u32, now: bool) {
        let copies: Vec<_> = self
            .queue
            .values()
            .flat_map(|m| m.jobs.iter().zip(&m.done))
            .filter(|(_, done)| !**done)
            .collect();
        if copies.is_empty() {
            return;
        }
        let mut copy = copies[which as usize % copies.len()].0.clone();
        if now {
            copy.hop.due = Some(self.now);
        }
        let visible = self.now;
        self.publish(vec![copy], visible);
    }
}
