//! A back end that only remembers what was pushed, for the tests of waiting.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millhand_broker::{
    Act, Acted, Backend, BoxFuture, Claim, Clock, Consumer, Control, Controlled, Counts, Error, Facts, JobFilter,
    JobPage, JobView, Mail, Pending, Pushed, QueueView, Result, Settled, Settlement, Subscription, WorkerBeat,
    WorkerView,
};
use millhand_proto::protocol::Meeting;
use millhand_proto::{
    AttemptLog, Entry, JobId, Mailbox, Parcel, Payload, QueueName, State, Tally, Timestamp, WorkerId,
};
use tokio::sync::mpsc;

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) jobs: Mutex<HashMap<JobId, JobView>>,
    pub(crate) boxes: Mutex<Vec<(Mailbox, mpsc::Sender<Mail>)>>,
    /// Whether ends are told.
    pub(crate) deaf: bool,
    /// Reads that fail before one succeeds.
    pub(crate) faults: AtomicUsize,
    pub(crate) reads: AtomicUsize,
}

impl Fake {
    pub(crate) fn finish(&self, id: JobId, result: &str) {
        let mut jobs = self.jobs.lock().unwrap();
        let view = jobs.get_mut(&id).unwrap();
        view.entry.state = State::Succeeded;
        view.entry.result = Some(Payload::encode(result).unwrap());
        for (mailbox, tell) in &*self.boxes.lock().unwrap() {
            if !self.deaf && view.entry.waiters.contains(mailbox) {
                let _ = tell.try_send(Mail::Ended(id));
            }
        }
    }

    pub(crate) fn forget(&self, id: JobId) {
        self.jobs.lock().unwrap().remove(&id);
    }

    pub(crate) fn lose_mail(&self) {
        for (_, tell) in &*self.boxes.lock().unwrap() {
            let _ = tell.try_send(Mail::Lost);
        }
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Backend for Fake {
    fn facts(&self) -> Facts {
        Facts {
            kind: "fake",
            place: String::new(),
            durable: false,
            shared: false,
            detach: false,
            settles_apart: false,
            on_the_way: false,
            notices_death_within: Duration::ZERO,
            keeps_waiting_arguments: true,
            cancels_strangers: false,
            counts: Counts::Jobs,
        }
    }
    fn now(&self) -> Timestamp {
        Clock::system().now()
    }
    fn push(&self, parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Pushed>> {
        let mut jobs = self.jobs.lock().unwrap();
        let pushed = parcels.iter().map(|parcel| {
            if parcel.queue().as_str() == "unsure" {
                return Pushed::Unknown("the line broke".into());
            }
            for copy in parcel.jobs() {
                let core = &copy.core;
                let (queue, class, args) = (core.queue.clone(), core.class, copy.args());
                let view = JobView {
                    id: copy.id(),
                    queue,
                    class,
                    entry: Entry::accepted(copy),
                    args,
                };
                jobs.entry(copy.id()).or_insert(view);
            }
            Pushed::Accepted
        });
        ready(pushed.collect())
    }
    fn read(&self, ids: Vec<JobId>) -> BoxFuture<'_, Result<Vec<Option<JobView>>>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let fails = self
            .faults
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok();
        if fails {
            return ready(Err(Error::Unreachable {
                what: "fake".into(),
                source: "cut".into(),
            }));
        }
        let jobs = self.jobs.lock().unwrap();
        ready(Ok(ids.iter().map(|id| jobs.get(id).cloned()).collect()))
    }
    fn log(&self, _: JobId) -> BoxFuture<'_, Result<Option<AttemptLog>>> {
        ready(Err(Error::Closed))
    }
    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>> {
        let (tell, told) = mpsc::channel(16);
        self.boxes.lock().unwrap().push((mailbox, tell));
        ready(Ok(told))
    }
    fn act(&self, acts: Vec<Act>) -> BoxFuture<'_, Result<Vec<Acted>>> {
        let mut jobs = self.jobs.lock().unwrap();
        let acted = acts.into_iter().map(|act| match act {
            Act::Listen(id, mailbox) => jobs.get_mut(&id).map_or(Acted::Unknown, |view| {
                view.entry.waiters.push(mailbox);
                Acted::Done
            }),
            _ => Acted::Unknown,
        });
        ready(Ok(acted.collect()))
    }
    fn consume(&self, _: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        ready(Err(Error::Closed))
    }
    fn claim(&self, _: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Meeting>>> {
        ready(Err(Error::Closed))
    }
    fn settle(&self, _: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<Settled>>> {
        ready(Err(Error::Closed))
    }
    fn beat(&self, _: WorkerBeat) -> BoxFuture<'_, Result<Vec<QueueName>>> {
        ready(Err(Error::Closed))
    }
    fn leave(&self, _: WorkerId) -> BoxFuture<'_, Result<()>> {
        ready(Err(Error::Closed))
    }
    fn control(&self, _: Control) -> BoxFuture<'_, Result<Controlled>> {
        ready(Err(Error::Closed))
    }
    fn jobs(&self, _: JobFilter) -> BoxFuture<'_, Result<JobPage>> {
        ready(Err(Error::Closed))
    }
    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueView>>> {
        ready(Err(Error::Closed))
    }
    fn workers(&self) -> BoxFuture<'_, Result<Vec<WorkerView>>> {
        ready(Err(Error::Closed))
    }
    fn tally(&self, _: u64, _: Vec<Tally>) -> BoxFuture<'_, Result<()>> {
        ready(Err(Error::Closed))
    }
    fn stats(&self, _: Timestamp, _: Timestamp) -> BoxFuture<'_, Result<Vec<Tally>>> {
        ready(Err(Error::Closed))
    }
    fn pending(&self, _: Vec<QueueName>) -> BoxFuture<'_, Result<Pending>> {
        ready(Err(Error::Closed))
    }
}
