//! What people and programs read: jobs, lists, queues, workers.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use millhand_proto::{
    AttemptLog, Entry, JobCopy, JobId, Parcel, QueueName, Record, RecordKey, State, TaskName, Timestamp, limits,
};

use super::Pair;
use super::beats::Said;
use super::changes::{places, read_beside};
use super::control::Rules;
use super::group::bucket;
use super::records;
use super::store::{Found, Key, Read};
use crate::error::{Error, Result};
use crate::view::Unreadable;
use crate::view::{JobFilter, JobPage, JobView, QueueView, WorkerView};

/// Ids that are read in one piece of a list.
const PIECE: usize = 500;
/// How many buckets of ten minutes are looked at in one piece: six hours.
const BUCKETS: u64 = 36;

impl Pair {
    /// The entry where the copy's hand lives.
    pub(super) async fn entry(&self, copy: &JobCopy) -> Result<Option<Entry>> {
        let key = copy.id().record_at(copy.hop.hand);
        let found = self.store.read(vec![Read::Get(Key::Record(key))]).await?.pop();
        Ok(found
            .and_then(records::decode)
            .and_then(|r| r.entry(key, copy.id()).cloned()))
    }

    /// What is known of these jobs; one answer each, in order.
    pub(super) async fn views(&self, ids: &[JobId]) -> Result<Vec<Option<JobView>>> {
        let mut known: HashMap<RecordKey, Option<Record>> = HashMap::new();
        self.records_of(ids.iter().map(|id| id.record_at(0)).collect(), &mut known)
            .await?;
        let entry = |known: &HashMap<RecordKey, Option<Record>>, key, id| {
            let record = known.get(&key)?.as_ref()?;
            let entry = record.entry(key, id).filter(|e| !e.moved)?.clone();
            Some((entry, record.queue.clone(), record.class))
        };
        // What is dead there may have been tried again already, and not be marked as moved yet.
        let elsewhere = ids.iter().filter(|id| {
            let here = entry(&known, id.record_at(0), **id);
            here.is_none_or(|(entry, ..)| entry.state == State::Dead)
        });
        let later: Vec<_> = elsewhere
            .map(|id| id.record_at(1))
            .filter(|key| !known.contains_key(key))
            .collect();
        self.records_of(later, &mut known).await?;
        let mut views: Vec<Option<JobView>> = ids
            .iter()
            .map(|id| {
                let newest = places(*id).filter_map(|key| entry(&known, key, *id));
                let (entry, queue, class) = newest.max_by_key(|(entry, ..)| entry.hand)?;
                Some(JobView {
                    id: *id,
                    queue,
                    class,
                    entry,
                    args: None,
                })
            })
            .collect();
        self.fill(&mut views).await?;
        Ok(views)
    }

    /// What the job's newest attempt that ended printed and said.
    pub(super) async fn log(&self, id: JobId) -> Result<Option<AttemptLog>> {
        let found = self.store.read(vec![Read::Get(Key::Log(id))]).await?.pop();
        let bytes = found.and_then(Found::bytes);
        Ok(bytes.and_then(|bytes| AttemptLog::decode(&bytes)))
    }

    async fn records_of(&self, mut keys: Vec<RecordKey>, known: &mut HashMap<RecordKey, Option<Record>>) -> Result<()> {
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(());
        }
        let reads = keys.iter().map(|key| Read::Get(Key::Record(*key))).collect();
        let found = self.store.read(reads).await?;
        known.extend(keys.into_iter().zip(found.into_iter().map(records::decode)));
        Ok(())
    }

    /// What lies beside the records, and what time and purges make of the entries.
    async fn fill(&self, views: &mut [Option<JobView>]) -> Result<()> {
        let waiting = |view: &JobView| matches!(view.entry.state, State::Queued | State::Scheduled);
        let rules = if views.iter().flatten().any(waiting) {
            self.rules().await?
        } else {
            Rules::default()
        };
        let now = self.store.now();
        let (mut places, mut reads) = (Vec::new(), Vec::new());
        for (at, view) in views.iter_mut().enumerate() {
            let Some(view) = view else { continue };
            let entry = &mut view.entry;
            if entry.state == State::Scheduled && entry.due.is_none_or(|due| due <= now) {
                entry.state = State::Queued;
            }
            if entry.state == State::Queued
                && let Some(purged) = rules.purged(&view.queue).filter(|at| published(entry) < Some(*at))
            {
                entry.state = State::Cancelled;
                entry.reason = Some("purged".into());
                entry.ended = Some(purged);
            }
            let key = match entry.state {
                State::Succeeded if entry.result.is_none() => Key::Result(view.id),
                State::Dead => Key::Dead(view.id),
                State::Scheduled if entry.hand == 0 => Key::Delayed(view.id.parcel_key()),
                _ => continue,
            };
            places.push(at);
            reads.push(Read::Get(key));
        }
        if reads.is_empty() {
            return Ok(());
        }
        let found = self.store.read(reads).await?;
        for (at, found) in places.into_iter().zip(found) {
            let (Some(view), Some(bytes)) = (&mut views[at], found.bytes()) else {
                continue;
            };
            if view.entry.state == State::Succeeded {
                view.entry.result = read_beside(&bytes);
            } else {
                view.args = copy_in(&bytes, view.id).and_then(|copy| copy.args());
            }
        }
        Ok(())
    }

    /// Lists jobs, the newest first, from the lists that were written when states changed.
    pub(super) async fn list(&self, filter: &JobFilter) -> Result<JobPage> {
        let wants = |state: State| filter.states.is_empty() || filter.states.contains(&state);
        let limit = filter.limit.max(1);
        let mut page = JobPage {
            complete: true,
            ..JobPage::default()
        };
        let mut seen: HashSet<JobId> = HashSet::new();
        if wants(State::Running) {
            let said = self.said().await?;
            let ids = said.into_iter().flat_map(|(_, said)| said.running).collect();
            self.take(ids, filter, &mut seen, &mut page).await?;
        }
        for state in State::ALL {
            if wants(state) && !matches!(state, State::Queued | State::Running | State::Succeeded) {
                for shard in 0..self.store.shards() {
                    self.take_list(&Key::Index(shard, state), 0, filter, &mut seen, &mut page)
                        .await?;
                }
            }
        }
        let (queues, tasks) = self.names(filter).await?;
        // What was purged lies where it waited, as long as those lists live: nothing else was written of it.
        let listed = limits::KEEP_SUCCEEDED;
        let purged = wants(State::Cancelled) && self.rules().await?.purged_within(listed, self.store.now());
        if wants(State::Queued) || wants(State::Scheduled) || purged {
            let lists = |shard, at| {
                queues
                    .iter()
                    .map(move |q| Key::Accepted(shard, q.clone(), at))
                    .collect()
            };
            self.take_buckets(&lists, filter, &mut seen, &mut page).await?;
        }
        if wants(State::Succeeded) {
            let lists = |shard, at| {
                tasks
                    .iter()
                    .map(move |t| Key::Succeeded(shard, t.clone(), at))
                    .collect()
            };
            self.take_buckets(&lists, filter, &mut seen, &mut page).await?;
        }
        let newest = |view: &JobView| {
            let entry = &view.entry;
            (
                entry.state.is_ended(),
                std::cmp::Reverse(entry.ended.unwrap_or(entry.enqueued_at)),
            )
        };
        page.jobs.sort_by_key(newest);
        page.more = page.jobs.len() > limit;
        page.jobs.truncate(limit);
        Ok(page)
    }

    /// The queues and tasks whose lists may hold what is looked for.
    async fn names(&self, filter: &JobFilter) -> Result<(Vec<QueueName>, Vec<TaskName>)> {
        let reads = vec![Read::Fields(Key::Queues), Read::Fields(Key::Tasks)];
        let mut found = self.store.read(reads).await?.into_iter();
        let mut next = || found.next().map(Found::fields).unwrap_or_default();
        let queues = next().into_iter().filter_map(|(name, _)| QueueName::new(&name).ok());
        let tasks = next().into_iter().filter_map(|(name, _)| TaskName::new(&name).ok());
        Ok((
            queues
                .filter(|q| filter.queue.as_ref().is_none_or(|f| f == q))
                .collect(),
            tasks.filter(|t| filter.task.as_ref().is_none_or(|f| f == t)).collect(),
        ))
    }

    /// Reads jobs and takes those that fit.
    async fn take(
        &self,
        mut ids: Vec<JobId>,
        filter: &JobFilter,
        seen: &mut HashSet<JobId>,
        page: &mut JobPage,
    ) -> Result<usize> {
        ids.retain(|id| seen.insert(*id));
        page.looked_at += ids.len();
        let fits = |view: &JobView| {
            (filter.states.is_empty() || filter.states.contains(&view.entry.state))
                && filter.task.as_ref().is_none_or(|t| *t == view.entry.task)
                && filter.queue.as_ref().is_none_or(|q| *q == view.queue)
        };
        let before = page.jobs.len();
        for piece in ids.chunks(PIECE) {
            let views = self.views(piece).await?;
            page.jobs.extend(views.into_iter().flatten().filter(fits));
        }
        Ok(page.jobs.len() - before)
    }

    /// Reads one list from its newest end, after passing over so many, until it has given enough.
    async fn take_list(
        &self,
        key: &Key,
        mut skip: usize,
        filter: &JobFilter,
        seen: &mut HashSet<JobId>,
        page: &mut JobPage,
    ) -> Result<()> {
        let mut taken = 0;
        // Most of the newest entries are still in this state.
        let piece = (filter.limit + 1).clamp(50, PIECE);
        while taken <= filter.limit {
            if page.looked_at >= limits::LIST_SCAN {
                page.complete = false;
                return Ok(());
            }
            let read = Read::Tail {
                key: key.clone(),
                skip,
                count: piece,
            };
            let found = self.store.read(vec![read]).await?.pop();
            let list = found.map(Found::list).unwrap_or_default();
            let last = list.len() < piece;
            skip += list.len();
            let ids = list.iter().rev().flat_map(jobs_of).collect();
            taken += self.take(ids, filter, seen, page).await?;
            if last {
                return Ok(());
            }
        }
        page.complete = false;
        Ok(())
    }

    /// Reads lists by buckets of time, the newest first, until they have given enough.
    async fn take_buckets(
        &self,
        lists: &(dyn Fn(u16, u64) -> Vec<Key> + Sync),
        filter: &JobFilter,
        seen: &mut HashSet<JobId>,
        page: &mut JobPage,
    ) -> Result<()> {
        let newest = bucket(self.store.now());
        let kept = limits::KEEP_SUCCEEDED.as_secs() / 600 + 1;
        let mut taken = 0;
        for piece in 0..kept.div_ceil(BUCKETS) {
            let from = newest.saturating_sub(piece * BUCKETS);
            let keys: Vec<Key> = (0..BUCKETS)
                .map(|back| from.saturating_sub(back))
                .flat_map(|at| (0..self.store.shards()).flat_map(move |shard| lists(shard, at)))
                .collect();
            if keys.is_empty() {
                return Ok(());
            }
            let count = (filter.limit + 1).clamp(50, PIECE);
            let head = |key: &Key| Read::Tail {
                key: key.clone(),
                skip: 0,
                count,
            };
            let reads = keys.iter().map(head).collect();
            let heads = self.store.read(reads).await?;
            for (key, found) in keys.into_iter().zip(heads) {
                let list = found.list();
                let ids = list.iter().rev().flat_map(jobs_of).collect();
                let before = page.jobs.len();
                self.take(ids, filter, seen, page).await?;
                if list.len() == count {
                    self.take_list(&key, count, filter, seen, page).await?;
                }
                taken += page.jobs.len() - before;
                if taken > filter.limit || page.looked_at >= limits::LIST_SCAN {
                    page.complete = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The queues that are known, with their numbers.
    pub(super) async fn queue_views(&self) -> Result<Vec<QueueView>> {
        let reads = vec![Read::Fields(Key::Queues), Read::Fields(Key::Empty)];
        let mut found = self.store.read(reads).await?.into_iter();
        let mut next = || found.next().map(Found::fields).unwrap_or_default();
        let (used, empty) = (next(), next());
        let rules = self.rules().await?;
        let mut views: BTreeMap<QueueName, QueueView> = BTreeMap::new();
        let names = used.into_iter().filter_map(|(name, _)| QueueName::new(&name).ok());
        for name in names.chain(rules.queues()) {
            views.entry(name.clone()).or_insert_with(|| QueueView {
                paused: rules.paused(&name),
                name,
                trouble: None,
                queued: 0,
                scheduled: None,
                held: 0,
                oldest: None,
                unreadable: Vec::new(),
            });
        }
        // What came through since then is younger.
        let mut reached: HashMap<QueueName, Timestamp> = HashMap::new();
        for (name, at) in empty {
            if let (Ok(name), Some(at)) = (QueueName::new(&name), super::control::time(&at)) {
                reached.insert(name, at);
            }
        }
        for (_, said) in self.said().await? {
            for (queue, jobs) in said.held {
                if let Some(view) = views.get_mut(&queue) {
                    view.held += jobs;
                }
            }
            for (queue, at) in said.reached {
                let newest = reached.entry(queue).or_default();
                *newest = at.max(*newest);
            }
        }
        let depths = self.depths(views.keys().cloned().collect()).await;
        for (view, depth) in views.values_mut().zip(depths) {
            match depth {
                Ok(depth) => {
                    view.queued = depth;
                    view.oldest = reached.get(&view.name).copied().filter(|_| depth > 0);
                }
                Err(why) => view.trouble = Some(why),
            }
        }
        for item in self.unreadable().await? {
            let view = views.values_mut().find(|view| view.name.as_str() == item.0);
            if let Some(view) = view {
                view.add_unreadable(item.1);
            }
        }
        Ok(views.into_values().collect())
    }

    /// What waits in each queue, or why it cannot be asked: one that is not as it should be does not
    /// hide the others.
    async fn depths(&self, queues: Vec<QueueName>) -> Vec<std::result::Result<u64, String>> {
        let error = match self.queue.depths(queues.clone()).await {
            Ok(depths) => return depths.into_iter().map(Ok).collect(),
            Err(error) => error,
        };
        if matches!(error, Error::Unreachable { .. }) {
            return vec![Err(error.to_string()); queues.len()];
        }
        let each = queues
            .into_iter()
            .map(async |queue| match self.queue.depths(vec![queue]).await {
                Ok(depths) => Ok(depths.into_iter().sum()),
                Err(error) => Err(error.to_string()),
            });
        futures_util::future::join_all(each).await
    }

    /// Notes of what could not be read, the newest first, with their queues.
    async fn unreadable(&self) -> Result<Vec<(String, Unreadable)>> {
        let read = Read::Tail {
            key: Key::Unreadable,
            skip: 0,
            count: limits::UNREADABLE_NOTES,
        };
        let notes = self.store.read(vec![read]).await?.pop();
        let notes = notes.map(Found::list).unwrap_or_default();
        let read = notes.iter().rev().filter_map(|note| {
            let (at, queue, reason, bytes) = rmp_serde::from_slice(note).ok()?;
            Some((queue, Unreadable { at, reason, bytes }))
        });
        Ok(read.collect())
    }

    pub(super) async fn worker_views(&self) -> Result<Vec<WorkerView>> {
        let said = self.said().await?;
        let mut views: Vec<_> = said
            .into_iter()
            .map(|(_, Said { beat, at, .. })| WorkerView { beat, at })
            .collect();
        views.sort_by_key(|view| view.beat.started);
        Ok(views)
    }
}

/// When the present copy came into its queue, as far as the entry tells. A parked one counts as
/// there all the time: its next meeting drops it after a purge.
fn published(entry: &Entry) -> Option<Timestamp> {
    if let Some(parked) = &entry.parked {
        return Some(parked.since);
    }
    let again = entry.notes.last().map(|note| note.ended);
    [Some(entry.enqueued_at), entry.due, again].into_iter().flatten().max()
}

/// The copy of a job in the bytes of a parcel that were kept.
pub(super) fn copy_in(bytes: &Bytes, id: JobId) -> Option<JobCopy> {
    let parcel = Parcel::decode(bytes).ok()?.parcel?;
    parcel.into_jobs().into_iter().find(|copy| copy.id() == id)
}

fn job_id(bytes: &Bytes) -> Option<JobId> {
    Some(JobId::from_bytes(bytes.get(..16)?.try_into().ok()?))
}

/// The ids in an entry of a list: one job, or a parcel's key and how many jobs it has.
fn jobs_of(bytes: &Bytes) -> Vec<JobId> {
    let Some(key) = job_id(bytes) else { return Vec::new() };
    match bytes.get(16..18) {
        Some(count) => {
            let count = u16::from_be_bytes([count[0], count[1]]);
            (0..count).rev().map(|index| key.sibling(index)).collect()
        }
        None => vec![key],
    }
}
