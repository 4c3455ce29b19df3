//! A back end for one machine: queue and store in one SQLite database, in a file or in memory.

mod commit;
mod engine;
mod mail;
mod presence;
mod pump;
mod records;
mod schema;
mod tables;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use millhand_proto::protocol::Meeting;
use millhand_proto::{AttemptLog, JobId, Mailbox, Parcel, QueueName, Tally, Timestamp, WorkerId, limits};
use tokio::sync::mpsc;

use self::commit::{Committer, Mode};
use self::engine::{Effects, Engine};
use self::mail::Switchboard;
use self::presence::Presence;
use self::pump::Ledger;
use self::tables::{NewCopy, Sql, Tables};
use crate::backend::{
    Act, Acted, Backend, BoxFuture, Claim, Consumer, Control, Controlled, Counts, Facts, Mail, Pending, Pushed,
    Settled, Settlement, Subscription,
};
use crate::clock::Clock;
use crate::crash;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::view::{JobFilter, JobPage, JobView, QueueView, WorkerBeat, WorkerView, oldest_minute};

/// How often the locks of others are tried.
const LOOK: Duration = Duration::from_millis(500);
/// Tokens of numbers that are remembered: more than there are workers in a process.
const TALLIED: usize = 256;

/// Queue and store in one database.
#[derive(Debug)]
pub(crate) struct Local {
    place: String,
    writer: Committer,
    /// A file has a second connection, so that long lists do not hold up the work.
    reader: Option<Committer>,
    clock: Clock,
    board: Arc<Switchboard>,
    ledger: Arc<Ledger>,
    dir: Option<PathBuf>,
    present: Mutex<HashMap<Mailbox, Presence>>,
    /// Whether the thread runs that looks after dead workers.
    watches: AtomicBool,
    /// Tokens of the numbers that this process added last. A commit that failed added nothing, so that
    /// only who asked here can ask again for what was added.
    tallied: Mutex<VecDeque<u64>>,
}

impl Local {
    pub(crate) fn in_memory(clock: Clock) -> Result<Arc<Self>> {
        let writer = Committer::start(schema::in_memory()?, Mode::Write, "memory:".into())?;
        Ok(Arc::new(Self::new("memory:".into(), writer, None, clock, None)))
    }

    pub(crate) fn file(path: &Path) -> Result<Arc<Self>> {
        let place = format!("sqlite:{}", path.display());
        let writer = Committer::start(schema::open(path)?, Mode::Write, place.clone())?;
        let reader = Committer::start(schema::open(path)?, Mode::Read, place.clone())?;
        // By its one name: workers that came by another must find each other.
        let real = path.canonicalize().map_err(|error| Error::unreachable(&place, error))?;
        let dir = presence::folder(&real);
        Ok(Arc::new(Self::new(
            place,
            writer,
            Some(reader),
            Clock::system(),
            Some(dir),
        )))
    }

    fn new(place: String, writer: Committer, reader: Option<Committer>, clock: Clock, dir: Option<PathBuf>) -> Self {
        Self {
            place,
            writer,
            reader,
            clock,
            board: Arc::new(Switchboard::new(dir.clone())),
            ledger: Arc::default(),
            dir,
            present: Mutex::default(),
            watches: AtomicBool::new(false),
            tallied: Mutex::default(),
        }
    }

    /// Runs `work` in a transaction, then tells others what came of it.
    async fn write<R: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut Engine<'_>) -> Sql<R> + Send + 'static,
    ) -> Result<R> {
        let clock = self.clock.clone();
        let call = self.writer.call(move |connection| {
            let mut engine = Engine::new(connection, clock.now());
            let result = work(&mut engine)?;
            Ok((result, engine.finish()?))
        });
        let (result, effects) = call.await?;
        self.tell(&effects);
        Ok(result)
    }

    async fn look<R: Send + 'static>(&self, work: impl Fn(&Engine<'_>) -> Sql<R> + Send + 'static) -> Result<R> {
        let clock = self.clock.clone();
        let place = self.reader.as_ref().unwrap_or(&self.writer);
        place
            .call(move |connection| work(&Engine::new(connection, clock.now())))
            .await
    }

    fn tell(&self, effects: &Effects) {
        if effects.pushed {
            self.board.wake();
        }
        let mut by_box: HashMap<Mailbox, Vec<Mail>> = HashMap::new();
        for (id, waiters) in &effects.ended {
            for mailbox in waiters {
                by_box.entry(*mailbox).or_default().push(Mail::Ended(*id));
            }
        }
        for (id, owner) in &effects.cancels {
            by_box.entry(*owner).or_default().push(Mail::Cancel(*id));
        }
        for (mailbox, mails) in by_box {
            self.board.post(mailbox, &mails);
        }
    }

    /// Appears on the file under this mailbox, once.
    fn appear(self: &Arc<Self>, me: Mailbox, worker: bool) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut present = lock(&self.present);
        if let std::collections::hash_map::Entry::Vacant(place) = present.entry(me) {
            let presence = Presence::appear(dir, me, worker, &self.board)
                .map_err(|e| Error::unreachable(&dir.display().to_string(), e))?;
            place.insert(presence);
            if worker && !self.watches.swap(true, Ordering::SeqCst) {
                self.watch_over_others()?;
            }
        }
        Ok(())
    }

    /// Gives back what dead workers held, and forgets what is old.
    fn watch_over_others(self: &Arc<Self>) -> Result<()> {
        let me: Weak<Self> = Arc::downgrade(self);
        let run = move || {
            let mut rounds = 0u64;
            loop {
                let Some(local) = me.upgrade() else { return };
                let looked = local.look_after(rounds.is_multiple_of(120));
                let looked = looked.and_then(|()| match rounds % 10 {
                    0 => local.look_for_lost(),
                    _ => Ok(()),
                });
                if let Err(error) = looked {
                    tracing::warn!(place = local.place, %error, "could not look after dead workers");
                }
                drop(local);
                rounds += 1;
                std::thread::sleep(LOOK);
            }
        };
        std::thread::Builder::new()
            .name("millhand-watch".into())
            .spawn(run)
            .map_err(|e| Error::unreachable("a thread", e))?;
        Ok(())
    }

    /// Gives back what is held by workers of whom not even a lock file is left: the folder beside
    /// the file was removed, or the file came alone from a backup.
    fn look_for_lost(&self) -> Result<()> {
        let (Some(dir), Some(reader)) = (&self.dir, &self.reader) else {
            return Ok(());
        };
        for owner in reader.call_blocking(|connection| Tables(connection).owners())? {
            if presence::unheard_of(dir, owner) && !self.ledger.knows(owner) {
                let freed = self
                    .writer
                    .call_blocking(move |connection| Tables(connection).free(owner, true))?;
                tracing::warn!(worker = %owner, parcels = freed, "a worker left no trace; its parcels go back");
                self.board.wake();
            }
        }
        Ok(())
    }

    fn look_after(&self, sweep: bool) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        for (id, worker) in presence::gone(dir, |id| lock(&self.present).contains_key(&id)) {
            if worker {
                let freed = self.writer.call_blocking(move |connection| {
                    let tables = Tables(connection);
                    tables.delete_beat(id)?;
                    tables.free(id, true)
                })?;
                tracing::info!(worker = %id, parcels = freed, "a worker is gone; its parcels go back");
            }
            presence::bury(dir, id);
            self.board.wake();
        }
        if sweep {
            let clock = self.clock.clone();
            self.writer.call_blocking(move |connection| {
                let mut engine = Engine::new(connection, clock.now());
                engine.sweep(1000)?;
                engine.finish().map(drop)
            })?;
        }
        Ok(())
    }
}

/// `Arc`, because consumers and the watch over others outlive a call.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Local>);

impl Shared {
    async fn push(&self, parcels: Vec<Parcel>) -> Vec<Pushed> {
        let count = parcels.len();
        let copies: Vec<NewCopy> = parcels.iter().map(NewCopy::of).collect();
        drop(parcels);
        crash::point("push.before");
        let pushed = self.0.write(move |engine| engine.push(&copies)).await;
        crash::point("push.after");
        match pushed {
            Ok(pushed) => pushed,
            // Nothing can have been written there.
            Err(error @ Error::Unusable { .. }) => vec![Pushed::Rejected(error.to_string()); count],
            Err(error) => vec![Pushed::Unknown(error.to_string()); count],
        }
    }

    async fn claim(&self, claims: Vec<Claim>) -> Result<Vec<Meeting>> {
        let dir = self.0.dir.clone();
        let ledger = Arc::clone(&self.0.ledger);
        let alive = move |worker| match &dir {
            Some(dir) => presence::alive(dir, worker),
            None => ledger.knows(worker),
        };
        crash::point("claim.before");
        let met = self
            .0
            .write(move |engine| claims.iter().map(|claim| engine.claim(claim, &alive)).collect())
            .await;
        crash::point("claim.after");
        met
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>> {
        crash::point("settle.before");
        let settlements = Arc::new(settlements);
        let (work, ledger) = (Arc::clone(&settlements), Arc::clone(&self.0.ledger));
        let settled = self
            .0
            .write(move |engine| {
                let settled = work
                    .iter()
                    .map(|settlement| engine.settle(&settlement.copy, &settlement.verdict, settlement.log.as_ref()))
                    .collect::<Sql<Vec<_>>>()?;
                // A delivery ends in the transaction that settles the last of its jobs.
                let done = work.iter().zip(&settled).filter(|(_, s)| **s == Settled::Done);
                for delivery in ledger.ending(done.map(|(settlement, _)| settlement)) {
                    engine.tables.delete(pump::row(delivery))?;
                }
                crash::point("settle.before_commit");
                Ok(settled)
            })
            .await?;
        for (settlement, _) in settlements.iter().zip(&settled).filter(|(_, s)| **s == Settled::Done) {
            self.0.ledger.settled(settlement.delivery, settlement.copy.id());
        }
        crash::point("settle.after");
        Ok(settled)
    }

    async fn act(&self, acts: Vec<Act>) -> Result<Vec<Acted>> {
        self.0
            .write(move |engine| acts.iter().map(|act| engine.act(act)).collect())
            .await
    }

    async fn control(&self, control: Control) -> Result<Controlled> {
        let controlled = self
            .0
            .write(move |engine| match &control {
                Control::Pause(queue) => {
                    let changed = engine.tables.paused(queue.as_str())?.is_none();
                    if changed {
                        engine.tables.set_paused(queue, Some(engine.now))?;
                    }
                    Ok(Controlled {
                        changed,
                        ..Controlled::default()
                    })
                }
                Control::Resume(queue) => {
                    let changed = engine.tables.paused(queue.as_str())?.is_some();
                    if changed {
                        engine.tables.set_paused(queue, None)?;
                    }
                    Ok(Controlled {
                        changed,
                        ..Controlled::default()
                    })
                }
                Control::Purge(queue, most) => {
                    let (jobs, more) = engine.purge(queue, *most)?;
                    Ok(Controlled {
                        changed: jobs > 0 || more,
                        jobs,
                        more,
                    })
                }
            })
            .await?;
        if controlled.changed {
            self.0.board.control();
        }
        Ok(controlled)
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        self.0
            .look(|engine| {
                let tables = &engine.tables;
                let mut queues: std::collections::BTreeMap<QueueName, QueueView> = std::collections::BTreeMap::new();
                let mut names: Vec<String> = tables.controlled_queues()?;
                let numbers = tables.queue_numbers(engine.now)?;
                let unreadable = tables.unreadable(limits::UNREADABLE_NOTES)?;
                names.extend(numbers.iter().map(|n| n.queue.clone()));
                names.extend(unreadable.iter().map(|(queue, _)| queue.clone()));
                for name in names {
                    // Rows may have been written by others with names that nobody may use.
                    let Ok(queue) = QueueName::new(&name) else { continue };
                    if let std::collections::btree_map::Entry::Vacant(place) = queues.entry(queue.clone()) {
                        place.insert(QueueView {
                            name: queue,
                            trouble: None,
                            queued: 0,
                            scheduled: Some(0),
                            held: 0,
                            oldest: None,
                            paused: tables.paused(&name)?,
                            unreadable: Vec::new(),
                        });
                    }
                }
                for row in numbers {
                    let Some(view) = queues.get_mut(row.queue.as_str()) else {
                        continue;
                    };
                    match (row.held, row.due) {
                        (true, _) => view.held += row.jobs,
                        (false, true) => {
                            view.queued += row.jobs;
                            view.oldest = Some(row.oldest);
                        }
                        (false, false) => view.scheduled = view.scheduled.map(|jobs| jobs + row.jobs),
                    }
                }
                for (queue, item) in unreadable {
                    if let Some(view) = queues.get_mut(queue.as_str()) {
                        view.add_unreadable(item);
                    }
                }
                Ok(queues.into_values().collect())
            })
            .await
    }

    async fn pending(&self, queues: Vec<QueueName>) -> Result<Pending> {
        self.0
            .look(move |engine| {
                let mut pending = Pending::default();
                for row in engine.tables.queue_numbers(engine.now)? {
                    if !queues.is_empty() && !queues.iter().any(|q| q.as_str() == row.queue) {
                        continue;
                    }
                    let parcels = usize::try_from(row.parcels).unwrap_or(usize::MAX);
                    match (row.held, row.due) {
                        (true, _) => pending.held += parcels,
                        (false, true) => pending.ready += parcels,
                        (false, false) => {
                            pending.next_due = Some(pending.next_due.map_or(row.oldest, |next| next.min(row.oldest)));
                        }
                    }
                }
                Ok(pending)
            })
            .await
    }
}

impl Backend for Shared {
    fn facts(&self) -> Facts {
        let file = self.0.dir.is_some();
        Facts {
            kind: if file { "sqlite" } else { "memory" },
            place: self.0.place.clone(),
            durable: file,
            shared: file,
            detach: false,
            settles_apart: false,
            on_the_way: false,
            notices_death_within: if file { Duration::from_secs(1) } else { Duration::ZERO },
            keeps_waiting_arguments: true,
            cancels_strangers: false,
            counts: Counts::Jobs,
        }
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn advance_to(&self, time: Timestamp) -> bool {
        let moved = self.0.clock.advance_to(time);
        if moved {
            self.0.board.wake();
        }
        moved
    }

    fn push(&self, parcels: Vec<Parcel>) -> BoxFuture<'_, Vec<Pushed>> {
        Box::pin(Self::push(self, parcels))
    }

    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        Box::pin(async move {
            self.0.ledger.welcome(subscription.worker);
            self.0.appear(subscription.worker, true)?;
            Ok(pump::start(Arc::clone(&self.0), subscription))
        })
    }

    fn claim(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Meeting>>> {
        Box::pin(Self::claim(self, claims))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<Settled>>> {
        Box::pin(Self::settle(self, settlements))
    }

    fn read(&self, ids: Vec<JobId>) -> BoxFuture<'_, Result<Vec<Option<JobView>>>> {
        Box::pin(
            self.0
                .look(move |engine| ids.iter().map(|id| engine.view(*id)).collect()),
        )
    }

    fn log(&self, id: JobId) -> BoxFuture<'_, Result<Option<AttemptLog>>> {
        Box::pin(self.0.look(move |engine| engine.log(id)))
    }

    fn watch(&self, mailbox: Mailbox) -> BoxFuture<'_, Result<mpsc::Receiver<Mail>>> {
        Box::pin(async move {
            let (mails, closed) = self.0.board.open(mailbox);
            self.0.appear(mailbox, false)?;
            let local = Arc::downgrade(&self.0);
            // Nothing of a mailbox stays when its reader is gone. A worker leaves by itself.
            tokio::spawn(async move {
                closed.closed().await;
                if let Some(local) = local.upgrade().filter(|local| !local.ledger.knows(mailbox)) {
                    local.board.close(mailbox);
                    lock(&local.present).remove(&mailbox);
                }
            });
            Ok(mails)
        })
    }

    fn beat(&self, beat: WorkerBeat) -> BoxFuture<'_, Result<Vec<QueueName>>> {
        Box::pin(self.0.write(move |engine| {
            engine.tables.put_beat(&beat, engine.now)?;
            let mut paused = Vec::new();
            for queue in &beat.queues {
                if engine.tables.paused(queue.as_str())?.is_some() {
                    paused.push(queue.clone());
                }
            }
            Ok(paused)
        }))
    }

    fn leave(&self, worker: WorkerId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            // First, so that its pumps take nothing after it is gone.
            self.0.ledger.farewell(worker);
            self.0
                .write(move |engine| {
                    engine.effects.pushed |= engine.tables.free(worker, false)? > 0;
                    engine.tables.delete_beat(worker)
                })
                .await?;
            self.0.board.close(worker);
            lock(&self.0.present).remove(&worker);
            Ok(())
        })
    }

    fn act(&self, acts: Vec<Act>) -> BoxFuture<'_, Result<Vec<Acted>>> {
        Box::pin(Self::act(self, acts))
    }

    fn control(&self, control: Control) -> BoxFuture<'_, Result<Controlled>> {
        Box::pin(Self::control(self, control))
    }

    fn jobs(&self, filter: JobFilter) -> BoxFuture<'_, Result<JobPage>> {
        Box::pin(self.0.look(move |engine| engine.list(&filter)))
    }

    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueView>>> {
        Box::pin(Self::queues(self))
    }

    fn workers(&self) -> BoxFuture<'_, Result<Vec<WorkerView>>> {
        Box::pin(self.0.look(|engine| engine.tables.beats()))
    }

    fn tally(&self, token: u64, tallies: Vec<Tally>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            {
                // Noted before: who asks may stop waiting, and what was asked is done all the same.
                let mut tallied = lock(&self.0.tallied);
                if tallied.contains(&token) {
                    return Ok(());
                }
                tallied.push_back(token);
                if tallied.len() > TALLIED {
                    tallied.pop_front();
                }
            }
            let added = self.0.write(move |engine| {
                engine.tables.forget_tallies(oldest_minute(engine.now))?;
                tallies.iter().try_for_each(|tally| engine.tables.add_tally(tally))
            });
            let added = added.await;
            if added.is_err() {
                lock(&self.0.tallied).retain(|other| *other != token);
            }
            added
        })
    }

    fn stats(&self, since: Timestamp, until: Timestamp) -> BoxFuture<'_, Result<Vec<Tally>>> {
        Box::pin(self.0.look(move |engine| {
            let from = oldest_minute(engine.now).max(Tally::minute_of(since));
            engine.tables.tallies(from, Tally::minute_of(until))
        }))
    }

    fn pending(&self, queues: Vec<QueueName>) -> BoxFuture<'_, Result<Pending>> {
        Box::pin(Self::pending(self, queues))
    }
}

#[cfg(test)]
mod tests {
    use millhand_proto::{Count, TaskName, limits};

    use super::*;
    use crate::memory::Memory;

    #[tokio::test]
    async fn numbers_of_a_day_are_kept() {
        let backend = Memory::standing().expect("a back end");
        let oldest = Tally::minute_of(backend.now()) - limits::KEEP_STATS.as_secs() / 60;
        let tally = |minute| {
            let mut tally = Tally::new(minute, QueueName::default(), TaskName::new("act").expect("a name"));
            tally.numbers.count(Count::Succeeded);
            tally
        };
        let minutes = async || {
            let stats = backend.stats(Timestamp::default(), backend.now()).await.expect("read");
            stats.iter().map(|tally| tally.minute).collect::<Vec<_>>()
        };
        let written = backend.tally(1, vec![tally(oldest - 1), tally(oldest)]).await;
        written.expect("written");
        assert_eq!(minutes().await, [oldest]);
        assert!(backend.advance_to(backend.now().plus(Duration::from_secs(60))));
        assert_eq!(minutes().await, [0; 0]);
    }
}
