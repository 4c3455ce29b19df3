//! Waiting by push: one mailbox per client, and one task that reads it for all waits.
//!
//! The order is subscribe, read, wait: what ends before the read is seen by it, what ends after it
//! is told by the mailbox. Messages may be lost, so open waits are read again from time to time,
//! all in one batch.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millhand_broker::{Act, Backend, Error, JobView, Mail};
use millhand_proto::{JobId, Mailbox, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::WaitError;

/// How often all open waits are read again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long after a fault the back end is asked again.
const AFTER_FAULT: Duration = Duration::from_millis(500);
/// After this a job that was enqueued and is still not there is forgotten.
const SETTLED: Duration = Duration::from_secs(1);
/// Jobs that are read at once.
const READ_BATCH: usize = 1024;

/// What one read said of a job.
type Told = Result<Option<JobView>, Arc<Error>>;

struct Waiter {
    number: u64,
    tell: mpsc::UnboundedSender<Told>,
}

#[derive(Default)]
struct Table {
    waiters: HashMap<JobId, Vec<Waiter>>,
    /// Waits that were not read yet; `true` when the job must be told our mailbox first.
    fresh: HashMap<JobId, bool>,
    next: u64,
    task: Option<JoinHandle<()>>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    mailbox: Mailbox,
    table: Mutex<Table>,
    wake: Notify,
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All waits of a client.
pub(crate) struct Waits(Arc<Inner>);

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waits")
            .field("mailbox", &self.0.mailbox)
            .finish_non_exhaustive()
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(task) = self.0.table().task.take() {
            task.abort();
        }
    }
}

/// A registered wait; gone when it is dropped.
struct Ticket {
    inner: Arc<Inner>,
    id: JobId,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.inner.table();
        if let Some(waiters) = table.waiters.get_mut(&self.id) {
            waiters.retain(|w| w.number != self.number);
            if waiters.is_empty() {
                table.waiters.remove(&self.id);
                table.fresh.remove(&self.id);
            }
        }
    }
}

impl Waits {
    pub(crate) fn new(backend: Arc<dyn Backend>, mailbox: Mailbox) -> Self {
        Self(Arc::new(Inner {
            backend,
            mailbox,
            table: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// `known`: the job is known to have been there then, and carries our mailbox.
    pub(crate) async fn wait(
        &self,
        id: JobId,
        timeout: Duration,
        known: Option<Timestamp>,
    ) -> Result<JobView, WaitError> {
        let deadline = Instant::now().checked_add(timeout);
        let (_ticket, mut told) = self.register(id, known.is_none());
        let mut since = known;
        let mut missing: Option<Instant> = None;
        let mut fault = None;
        loop {
            let next = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, told.recv()).await,
                None => Ok(told.recv().await),
            };
            let timed_out = || WaitError::TimedOut { id, after: timeout };
            match next {
                Err(_) => return Err(fault.map_or_else(timed_out, WaitError::Backend)),
                // The task that tells is gone with its runtime.
                Ok(None) => return Err(WaitError::Backend(Arc::new(Error::Closed))),
                Ok(Some(Ok(Some(view)))) if view.entry.state.is_ended() => return Ok(view),
                Ok(Some(Ok(Some(_)))) => (since, missing, fault) = (Some(self.0.backend.now()), None, None),
                Ok(Some(Ok(None))) => {
                    let Some(since) = since else {
                        return Err(WaitError::Unknown(id));
                    };
                    // A store may learn of a new job a moment after its queue: look again.
                    if missing.get_or_insert_with(Instant::now).elapsed() >= SETTLED {
                        return Err(WaitError::Forgotten { id, since });
                    }
                    fault = None;
                }
                Ok(Some(Err(error))) if matches!(*error, Error::Unreachable { .. }) => {
                    fault = Some(error);
                }
                Ok(Some(Err(error))) => return Err(WaitError::Backend(error)),
            }
        }
    }

    fn register(&self, id: JobId, listen: bool) -> (Ticket, mpsc::UnboundedReceiver<Told>) {
        let (tell, told) = mpsc::unbounded_channel();
        let mut table = self.0.table();
        table.next += 1;
        let number = table.next;
        table.waiters.entry(id).or_default().push(Waiter { number, tell });
        *table.fresh.entry(id).or_default() |= listen;
        if table.task.as_ref().is_none_or(JoinHandle::is_finished) {
            table.task = Some(tokio::spawn(Box::pin(dispatch(self.0.clone()))));
        }
        drop(table);
        self.0.wake.notify_one();
        (
            Ticket {
                inner: self.0.clone(),
                id,
                number,
            },
            told,
        )
    }
}

/// Reads the mailbox and tells the waits, until the client is dropped.
async fn dispatch(inner: Arc<Inner>) {
    let mut again = tokio::time::interval_at(Instant::now() + AGAIN, AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut mail = match inner.backend.watch(inner.mailbox).await {
            Ok(mail) => mail,
            Err(error) => {
                let error = Arc::new(error);
                let ids: Vec<_> = inner.table().waiters.keys().copied().collect();
                for id in ids {
                    tell(&inner, id, &Err(error.clone()));
                }
                tokio::time::sleep(AFTER_FAULT).await;
                continue;
            }
        };
        // Whatever was told while no mailbox was open is lost.
        let mut ids = all(&inner);
        loop {
            if !read(&inner, ids).await {
                tokio::time::sleep(AFTER_FAULT).await;
            }
            ids = tokio::select! {
                first = mail.recv() => match first {
                    Some(first) => sort(&inner, first, &mut mail),
                    None => break,
                },
                () = inner.wake.notified() => HashSet::new(),
                _ = again.tick() => all(&inner),
            };
        }
        tracing::debug!("the mailbox closed; opening it again");
        tokio::time::sleep(AFTER_FAULT).await;
    }
}

fn all(inner: &Inner) -> HashSet<JobId> {
    inner.table().waiters.keys().copied().collect()
}

/// The jobs to read after this message and all that lie behind it.
fn sort(inner: &Inner, first: Mail, mail: &mut mpsc::Receiver<Mail>) -> HashSet<JobId> {
    let mut ids = HashSet::new();
    let mut lost = false;
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Mail::Ended(id) => {
                ids.insert(id);
            }
            Mail::Lost => lost = true,
            Mail::Cancel(_) | Mail::Control => {}
        }
        next = mail.try_recv().ok();
    }
    if lost {
        return all(inner);
    }
    let table = inner.table();
    ids.retain(|id| table.waiters.contains_key(id));
    ids
}

/// Reads these jobs and those that were never read, and tells their waits; `false` after a fault.
async fn read(inner: &Inner, mut ids: HashSet<JobId>) -> bool {
    let fresh = std::mem::take(&mut inner.table().fresh);
    let listen: Vec<_> = fresh
        .iter()
        .filter(|(_, l)| **l)
        .map(|(id, _)| Act::Listen(*id, inner.mailbox))
        .collect();
    ids.extend(fresh.keys());
    let ids: Vec<_> = ids.into_iter().collect();
    if !fresh.is_empty() {
        // Jobs that this client enqueued a moment ago are to be found.
        inner.backend.flush().await;
    }
    let mut result = Ok(());
    for acts in listen.chunks(READ_BATCH) {
        // What it answers is seen by the read.
        if let Err(error) = inner.backend.act(acts.to_vec()).await {
            result = Err(error);
            break;
        }
    }
    if result.is_ok() {
        for batch in ids.chunks(READ_BATCH) {
            match inner.backend.read(batch.to_vec()).await {
                Ok(views) => {
                    for (id, view) in batch.iter().zip(views) {
                        tell(inner, *id, &Ok(view));
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
    }
    let Err(error) = result else { return true };
    let error = Arc::new(error);
    for id in &ids {
        tell(inner, *id, &Err(error.clone()));
    }
    // All of them are still to be read, and some still to be told our mailbox.
    let mut table = inner.table();
    for id in ids {
        if table.waiters.contains_key(&id) {
            *table.fresh.entry(id).or_default() |= fresh.get(&id).copied().unwrap_or(false);
        }
    }
    drop(table);
    inner.wake.notify_one();
    false
}

fn tell(inner: &Inner, id: JobId, told: &Told) {
    let table = inner.table();
    for waiter in table.waiters.get(&id).into_iter().flatten() {
        let _ = waiter.tell.send(told.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use millhand_proto::Task;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::fake::Fake;
    use crate::{Client, EnqueueError, Enqueued, Job};

    #[derive(Clone, Serialize, Deserialize)]
    struct Echo(u32);

    impl Task for Echo {
        const NAME: &'static str = "echo";
        type Output = String;
    }

    const LONG: Duration = Duration::from_secs(60);

    fn client(fake: Fake) -> (Arc<Fake>, Client) {
        let fake = Arc::new(fake);
        (fake.clone(), Client::new(fake))
    }

    /// The end is told well before anything would be read again by the clock.
    #[tokio::test]
    async fn an_end_is_pushed_to_every_wait_and_asks_for_few_reads() {
        let (fake, client) = client(Fake::default());
        let handles: Vec<_> = {
            let mut handles = Vec::new();
            for n in 0..100 {
                handles.push(client.enqueue(Echo(n)).await.unwrap());
            }
            handles
        };
        let waits: Vec<_> = handles
            .iter()
            .flat_map(|h| [h.clone(), h.clone()])
            .map(|h| tokio::spawn(async move { h.wait(LONG).await }))
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        for handle in &handles {
            fake.finish(handle.id(), "done");
        }
        // 100 messages do not fit into the mailbox: the rest is found as the caller is told so.
        fake.lose_mail();
        tokio::time::sleep(Duration::from_millis(20)).await;
        fake.lose_mail();
        for wait in waits {
            assert_eq!(wait.await.unwrap().unwrap().unwrap(), "done");
        }
        assert!(started.elapsed() < Duration::from_secs(4));
        assert!(fake.reads.load(Ordering::SeqCst) < 20, "{:?}", fake.reads);
        assert!(client_is_empty(&client));
    }

    fn client_is_empty(client: &Client) -> bool {
        let table = client.waits().0.table();
        table.waiters.is_empty() && table.fresh.is_empty()
    }

    #[tokio::test]
    async fn a_job_of_another_process_is_listened_to() {
        let (fake, other) = client(Fake::default());
        let id = other.enqueue(Echo(1)).await.unwrap().id();
        let client = Client::new(fake.clone());
        let wait = tokio::spawn(async move { client.handle::<Echo>(id).wait(Duration::from_secs(4)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.finish(id, "x");
        assert_eq!(wait.await.unwrap().unwrap().unwrap(), "x");
    }

    #[tokio::test(start_paused = true)]
    async fn lost_messages_forgotten_and_unknown_jobs_end_a_wait_too() {
        let (fake, client) = client(Fake {
            deaf: true,
            ..Fake::default()
        });
        let quiet = client.enqueue(Echo(1)).await.unwrap();
        let lost = client.enqueue(Echo(2)).await.unwrap();
        let (a, b) = (quiet.clone(), lost.clone());
        let a = tokio::spawn(async move { a.wait(LONG).await });
        let b = tokio::spawn(async move { b.wait(LONG).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        fake.finish(quiet.id(), "late");
        fake.forget(lost.id());
        let started = Instant::now();
        assert_eq!(a.await.unwrap().unwrap().unwrap(), "late");
        assert!(matches!(b.await.unwrap(), Err(WaitError::Forgotten { .. })));
        assert!(started.elapsed() <= Duration::from_secs(11), "{:?}", started.elapsed());
        let nobody = client.wait_raw(JobId::given("nobody"), LONG).await;
        assert!(matches!(nobody, Err(WaitError::Unknown(_))));
        let open = client.enqueue(Echo(3)).await.unwrap();
        assert!(matches!(
            open.wait(Duration::from_secs(30)).await,
            Err(WaitError::TimedOut { .. })
        ));
        assert!(client_is_empty(&client));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_outlives_faults_and_names_the_last_one_at_its_time_out() {
        let (fake, client) = client(Fake {
            faults: 3.into(),
            ..Fake::default()
        });
        let handle = client.enqueue(Echo(1)).await.unwrap();
        fake.finish(handle.id(), "x");
        assert_eq!(handle.wait(LONG).await.unwrap().unwrap(), "x");
        fake.faults.store(usize::MAX, Ordering::SeqCst);
        let error = handle.wait(Duration::from_secs(9)).await.unwrap_err();
        assert!(matches!(error, WaitError::Backend(_)), "{error}");
    }

    #[tokio::test]
    async fn many_jobs_have_one_answer_each_in_order() {
        let (fake, client) = client(Fake::default());
        let jobs = (0..5_000).map(|n| match n {
            10 => Job::of(Echo(n)).queue("Bad"),
            11 => Job::of(Echo(n)).queue("unsure"),
            12 => Job::of(Echo(n)).id("mine"),
            n => Job::of(Echo(n)),
        });
        let answers = client.enqueue_packed(64, jobs).await;
        assert_eq!(answers.len(), 5_000);
        for (n, answer) in answers.iter().enumerate() {
            match (n, answer) {
                (10, Enqueued::Rejected { why, .. }) => assert!(why.contains("queue name")),
                (11, Enqueued::Unknown { why, .. }) => assert_eq!(why, "the line broke"),
                (12, Enqueued::Accepted(id)) => assert_eq!(*id, JobId::given("mine")),
                (n, Enqueued::Accepted(id)) => {
                    let args = client.get(*id).await.unwrap().unwrap().args.unwrap();
                    assert_eq!(args.decode::<Echo>().unwrap().0 as usize, n);
                }
                other => panic!("{other:?}"),
            }
        }
        let again = Job::of(Echo(11)).job_id(answers[11].id());
        assert_eq!(
            client.enqueue_many([again]).await,
            [Enqueued::Accepted(answers[11].id())]
        );
        let unsure = client.enqueue(Job::of(Echo(0)).queue("unsure")).await;
        assert!(matches!(unsure, Err(EnqueueError::Unknown { .. })));
        drop(fake);
    }
}
