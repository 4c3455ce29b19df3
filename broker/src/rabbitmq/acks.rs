//! Acknowledgements of one channel. As many as possible go out in one frame: when everything up to
//! a tag is done, one acknowledgement ends it all.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::backend::DeliveryId;
use crate::lock::lock;
use crate::pair::queue::Generation;

/// How long the last acknowledgements of a channel may take.
const LAST: Duration = Duration::from_secs(2);

/// What is written next: up to this tag everything, and these beside it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    up_to: Option<u64>,
    single: Vec<u64>,
}

/// Which deliveries of a channel are in hands, and which of them are done.
#[derive(Debug, Default)]
struct Tags {
    /// All that are not acknowledged, up to the highest that was seen.
    outstanding: BTreeSet<u64>,
    highest: u64,
    done: HashSet<u64>,
    ending: bool,
}

impl Tags {
    /// A delivery was seen. Consumers of one channel are read side by side, so one with a lower tag
    /// may still come: it is outstanding already, and no prefix may pass it.
    fn see(&mut self, tag: u64) {
        self.outstanding.extend(self.highest + 1..=tag);
        self.highest = self.highest.max(tag);
    }

    /// What can be said now. The tag that ends a prefix is always outstanding: RabbitMQ closes the
    /// channel over one that it does not know.
    fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        while let Some(first) = self.outstanding.first().copied()
            && self.done.remove(&first)
        {
            self.outstanding.pop_first();
            plan.up_to = Some(first);
        }
        plan.single = self.done.drain().filter(|tag| self.outstanding.remove(tag)).collect();
        plan
    }
}

/// The acknowledgements of one channel.
#[derive(Debug)]
pub(super) struct Acker {
    tags: Mutex<Tags>,
    work: Notify,
    /// Nothing is in hands any more.
    empty: Notify,
}

impl Acker {
    fn tags(&self) -> MutexGuard<'_, Tags> {
        lock(&self.tags)
    }

    /// A delivery came.
    pub(super) fn delivered(&self, tag: u64) {
        self.tags().see(tag);
    }

    /// A delivery was given back.
    pub(super) fn given_back(&self, tag: u64) {
        let mut tags = self.tags();
        tags.see(tag);
        tags.outstanding.remove(&tag);
    }

    /// Waits until every delivery is acknowledged, or cannot be any more.
    pub(super) async fn all_done(&self) {
        loop {
            let empty = self.empty.notified();
            if self.tags().outstanding.is_empty() {
                return;
            }
            empty.await;
        }
    }

    async fn run(self: Arc<Self>, channel: Channel) {
        loop {
            let work = self.work.notified();
            let (plan, ending) = {
                let mut tags = self.tags();
                (tags.plan(), tags.ending)
            };
            let many = plan.up_to.map(|tag| (tag, true));
            let writes = many.into_iter().chain(plan.single.iter().map(|tag| (*tag, false)));
            let writes: Vec<_> = writes
                .map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple }))
                .collect();
            if writes.is_empty() {
                if ending {
                    return;
                }
                work.await;
                continue;
            }
            for written in join_all(writes).await {
                if let Err(error) = written {
                    // The channel is gone, and what it had delivered comes again.
                    tracing::debug!(%error, "acknowledgements are lost");
                    self.tags().outstanding.clear();
                    self.empty.notify_waiters();
                    return;
                }
            }
            self.empty.notify_waiters();
        }
    }
}

/// The ackers of all channels that are open.
#[derive(Debug, Default)]
pub(super) struct Acks {
    open: Mutex<HashMap<Generation, Arc<Acker>>>,
}

impl Acks {
    fn open(&self) -> MutexGuard<'_, HashMap<Generation, Arc<Acker>>> {
        lock(&self.open)
    }

    /// A channel is opened.
    pub(super) fn begin(self: &Arc<Self>, generation: Generation, channel: &Channel) -> Acking {
        let acker = Arc::new(Acker {
            tags: Mutex::default(),
            work: Notify::new(),
            empty: Notify::new(),
        });
        self.open().insert(generation, Arc::clone(&acker));
        let writing = tokio::spawn(Arc::clone(&acker).run(channel.clone()));
        Acking {
            acks: Arc::clone(self),
            generation,
            acker,
            writing,
        }
    }

    /// Ends deliveries; those of a channel that is gone come again, and are passed over.
    pub(super) fn done(&self, deliveries: Vec<DeliveryId>) {
        let mut by_channel: HashMap<Generation, Vec<u64>> = HashMap::new();
        for delivery in deliveries {
            let (generation, tag) = Generation::of(delivery);
            by_channel.entry(generation).or_default().push(tag);
        }
        for (generation, tags) in by_channel {
            let Some(acker) = self.open().get(&generation).cloned() else {
                continue;
            };
            acker.tags().done.extend(tags);
            acker.work.notify_one();
        }
    }
}

/// An open channel's acknowledgements, for as long as it is open.
#[derive(Debug)]
pub(super) struct Acking {
    acks: Arc<Acks>,
    pub(super) generation: Generation,
    pub(super) acker: Arc<Acker>,
    writing: JoinHandle<()>,
}

impl Acking {
    /// Writes what is done; nothing after that is acknowledged.
    pub(super) async fn finish(mut self) {
        self.acks.open().remove(&self.generation);
        self.acker.tags().ending = true;
        self.acker.work.notify_one();
        let _ = tokio::time::timeout(LAST, &mut self.writing).await;
    }
}

impl Drop for Acking {
    fn drop(&mut self) {
        self.acks.open().remove(&self.generation);
        self.writing.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tags: &mut Tags, done: &[u64]) -> (Option<u64>, Vec<u64>) {
        tags.done.extend(done);
        let mut plan = tags.plan();
        plan.single.sort_unstable();
        (plan.up_to, plan.single)
    }

    #[test]
    fn a_prefix_goes_in_one_the_rest_one_by_one() {
        let mut tags = Tags::default();
        tags.see(10);
        assert_eq!(plan(&mut tags, &[]), (None, vec![]));
        assert_eq!(plan(&mut tags, &[3, 4, 7]), (None, vec![3, 4, 7]));
        assert_eq!(plan(&mut tags, &[1]), (Some(1), vec![]));
        // 3 and 4 are acknowledged already: what is outstanding below 6 is 2 and 5.
        assert_eq!(plan(&mut tags, &[2, 5, 6, 9]), (Some(6), vec![9]));
        assert_eq!(tags.outstanding, BTreeSet::from([8, 10]));
        assert_eq!(plan(&mut tags, &[8]), (Some(8), vec![]));
        assert_eq!(plan(&mut tags, &[10]), (Some(10), vec![]));
        assert!(tags.outstanding.is_empty());
    }

    #[test]
    fn a_prefix_does_not_pass_what_is_still_on_its_way() {
        let mut tags = Tags::default();
        tags.see(1);
        tags.see(4);
        assert_eq!(plan(&mut tags, &[1, 4]), (Some(1), vec![4]));
        tags.see(2);
        tags.see(3);
        assert_eq!(plan(&mut tags, &[3, 2]), (Some(3), vec![]));
    }

    #[test]
    fn what_was_never_delivered_or_is_done_twice_is_not_acknowledged() {
        let mut tags = Tags::default();
        tags.see(1);
        tags.see(2);
        assert_eq!(plan(&mut tags, &[2, 2, 77]), (None, vec![2]));
        assert_eq!(plan(&mut tags, &[1, 2]), (Some(1), vec![]));
        assert_eq!(plan(&mut tags, &[2]), (None, vec![]));
    }
}
