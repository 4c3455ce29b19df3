//! The protocol on tables: every call here is a part of one transaction, so that a job's record
//! and its copies change together and `leaving` is never seen from outside.

mod act;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use millhand_proto::protocol::{Cancel, End, Meeting, Written, adopt, cancel, confirm, finish, give_back, leave, meet};
use millhand_proto::{
    AttemptLog, Class, Entry, JobCopy, JobId, Leaving, Mailbox, Parcel, Payload, QueueName, RecordKey, State,
    Timestamp, WorkerId, limits,
};

use super::records::Records;
use super::tables::{CopyRow, NewCopy, Sql, Tables, copy_in};
use crate::backend::{Claim, Pushed, Settled, Verdict};
use crate::unreadable::kept_because;
use crate::view::{JobFilter, JobPage, JobView};

/// What others must be told after the commit.
#[derive(Default)]
pub(super) struct Effects {
    /// Jobs that ended, and who waits for them.
    pub(super) ended: Vec<(JobId, Vec<Mailbox>)>,
    /// Owners of running jobs that are to be cancelled.
    pub(super) cancels: Vec<(JobId, WorkerId)>,
    /// Whether parcels came into the queue.
    pub(super) pushed: bool,
}

/// A job's entry and where it stands.
struct Found {
    key: RecordKey,
    queue: QueueName,
    class: Class,
    entry: Entry,
}

/// One transaction's work.
pub(super) struct Engine<'c> {
    pub(super) tables: Tables<'c>,
    records: Records,
    pub(super) now: Timestamp,
    pub(super) effects: Effects,
}

impl<'c> Engine<'c> {
    pub(super) fn new(connection: &'c rusqlite::Connection, now: Timestamp) -> Self {
        Self {
            tables: Tables(connection),
            records: Records::default(),
            now,
            effects: Effects::default(),
        }
    }

    pub(super) fn push(&mut self, copies: &[NewCopy]) -> Sql<Vec<Pushed>> {
        let fits = |copy: &NewCopy| copy.body.len() <= limits::MESSAGE_BYTES;
        self.tables.insert(copies.iter().filter(|copy| fits(copy)), self.now)?;
        self.effects.pushed = true;
        let answer = |copy: &NewCopy| match fits(copy) {
            true => Pushed::Accepted,
            false => Pushed::Rejected(format!(
                "the message has {} bytes; the limit is {}",
                copy.body.len(),
                limits::MESSAGE_BYTES
            )),
        };
        Ok(copies.iter().map(answer).collect())
    }

    fn publish(&mut self, copy: JobCopy) -> Sql<()> {
        self.tables.insert([&NewCopy::of(&Parcel::of(copy))], self.now)?;
        self.effects.pushed = true;
        Ok(())
    }

    /// Writes what changed; answers what others must be told after the commit.
    pub(super) fn finish(self) -> Sql<Effects> {
        self.records.write(&self.tables)?;
        Ok(self.effects)
    }

    fn entry(&self, key: RecordKey, id: JobId) -> Sql<Option<Entry>> {
        Ok(self.records.get(&self.tables, key, id)?.map(|(_, _, entry)| entry))
    }

    /// A worker meets a copy.
    pub(super) fn claim(&mut self, claim: &Claim, alive: &dyn Fn(WorkerId) -> bool) -> Sql<Meeting> {
        let copy = &claim.copy;
        let id = copy.id();
        let key = id.record_at(copy.hop.hand);
        let entry = self.entry(key, id)?;
        let mut situation = claim.situation.clone();
        situation.now = self.now;
        situation.owner_alive = entry
            .as_ref()
            .filter(|e| e.state == State::Running)
            .and_then(|e| e.owner)
            .is_some_and(|owner| owner != situation.worker && alive(owner));
        let (meeting, entry) = meet(entry, copy, &situation);
        if let Some(entry) = entry {
            let place = (key, copy.core.queue.clone(), copy.core.class);
            self.put(place, id, entry)?;
        }
        Ok(meeting)
    }

    /// Writes an entry, and what its end brings with it.
    fn put(&mut self, place: (RecordKey, QueueName, Class), id: JobId, entry: Entry) -> Sql<()> {
        if entry.state.is_ended() && !entry.moved {
            self.tables
                .put_ended(id, entry.ended.unwrap_or(self.now), entry.state, &entry.task, &place.1)?;
            self.effects.ended.push((id, entry.waiters.clone()));
        }
        self.records.put(&self.tables, place, entry)
    }

    /// One job of a delivery is settled. The delivery itself is ended by the caller.
    pub(super) fn settle(&mut self, copy: &JobCopy, verdict: &Verdict, log: Option<&Bytes>) -> Sql<Settled> {
        let id = copy.id();
        let key = id.record_at(copy.hop.hand);
        let place = || (key, copy.core.queue.clone(), copy.core.class);
        match verdict {
            // A delivery is held here as long as its job runs, at no cost.
            Verdict::Acknowledge | Verdict::Detach => Ok(Settled::Done),
            Verdict::Release(release) => {
                self.publish(release.of(copy, self.now))?;
                Ok(Settled::Done)
            }
            Verdict::Succeed {
                fence,
                result,
                receipt,
                children,
            } => {
                let entry = self.entry(key, id)?;
                let inline = result.is_inline();
                let end = End::Succeeded(inline.then(|| result.clone()));
                let (written, entry) = finish(entry, copy, *fence, end, *receipt, self.now);
                if let Some(entry) = entry {
                    if !inline {
                        self.put_payload("v", id, result)?;
                    }
                    for child in children {
                        self.push(&[NewCopy::of(child)])?;
                    }
                    self.put_log(copy, log)?;
                    self.put(place(), id, entry)?;
                }
                Ok(settled(written))
            }
            Verdict::Cancel { fence, note, receipt } => {
                let entry = self.entry(key, id)?;
                let (written, entry) = finish(entry, copy, *fence, End::Cancelled(note.clone()), *receipt, self.now);
                if let Some(entry) = entry {
                    self.put_log(copy, log)?;
                    self.put(place(), id, entry)?;
                }
                Ok(settled(written))
            }
            Verdict::Leave {
                fence,
                successor,
                reason,
                note,
                receipt,
            } => {
                let entry = self.entry(key, id)?;
                let (written, entry) = leave(
                    entry,
                    copy,
                    *fence,
                    *successor,
                    reason.as_deref(),
                    note.clone(),
                    *receipt,
                );
                if let Some(entry) = entry {
                    // What dies without a run leaves the log of its last attempt.
                    if fence.is_some() {
                        self.put_log(copy, log)?;
                    }
                    let error = note
                        .as_ref()
                        .and_then(|n| n.error.as_ref())
                        .map(|e| e.as_str().to_owned());
                    self.hand_over(copy, entry, error.as_deref())?;
                }
                Ok(settled(written))
            }
            Verdict::Replay(_) => {
                let entry = self.entry(key, id)?;
                if let Some(entry) = entry.filter(|e| e.leaving.is_some()) {
                    self.hand_over(copy, entry, None)?;
                }
                Ok(Settled::Done)
            }
            Verdict::GiveBack { fence, worker } => {
                let entry = self.entry(key, id)?;
                let (written, entry) = give_back(entry, copy, *fence, *worker, self.now);
                if let Some(entry) = entry {
                    self.put(place(), id, entry)?;
                }
                if written != Written::Stale {
                    self.publish(copy.clone())?;
                }
                Ok(settled(written))
            }
        }
    }

    /// Publishes the decided successor and writes its confirm.
    fn hand_over(&mut self, copy: &JobCopy, entry: Entry, error: Option<&str>) -> Sql<()> {
        let id = copy.id();
        let Some(successor) = entry.leaving else { return Ok(()) };
        let next = successor.copy(copy, error);
        if successor.why == Leaving::Death {
            self.tables.put_value("b", id, &Parcel::of(next).encode())?;
        } else {
            self.publish(next)?;
        }
        let place = (copy.core.queue.clone(), copy.core.class);
        let confirmed = confirm(entry, copy, self.now);
        if let Some(here) = confirmed.here {
            self.put((id.record_at(copy.hop.hand), place.0.clone(), place.1), id, here)?;
        }
        if let Some(own) = confirmed.own {
            let key = RecordKey::Own(id);
            if self.entry(key, id)?.is_none() {
                self.put((key, place.0, place.1), id, own)?;
            }
        }
        Ok(())
    }

    /// Keeps the log of an attempt that ended, in place of an earlier one's.
    fn put_log(&self, copy: &JobCopy, log: Option<&Bytes>) -> Sql<()> {
        match log {
            Some(log) => self.tables.put_value("l", copy.id(), log),
            None if copy.hop.hand > 0 => self.tables.delete_log(copy.id()),
            None => Ok(()),
        }
    }

    pub(super) fn log(&self, id: JobId) -> Sql<Option<AttemptLog>> {
        let body = self.tables.value("l", id)?;
        Ok(body.and_then(|body| AttemptLog::decode(&body)))
    }

    fn put_payload(&mut self, kind: &str, id: JobId, payload: &Payload) -> Sql<()> {
        let mut body = Vec::with_capacity(payload.bytes.len() + 1);
        body.push(payload.codec.number());
        body.extend_from_slice(&payload.bytes);
        self.tables.put_value(kind, id, &body)
    }

    fn payload(&self, kind: &str, id: JobId) -> Sql<Option<Payload>> {
        Ok(self.tables.value(kind, id)?.and_then(|body| {
            let (codec, bytes) = body.split_first()?;
            Some(Payload {
                codec: (*codec).try_into().ok()?,
                bytes: Bytes::copy_from_slice(bytes),
            })
        }))
    }

    /// The job's newest entry; a job without a record is read from its copy.
    fn find(&self, id: JobId) -> Sql<Option<Found>> {
        let mut newest: Option<Found> = None;
        for key in [id.record_at(0), RecordKey::Own(id)] {
            let Some((queue, class, entry)) = self.records.get(&self.tables, key, id)? else {
                continue;
            };
            if entry.moved {
                continue;
            }
            if newest.as_ref().is_none_or(|found| found.entry.hand < entry.hand) {
                newest = Some(Found {
                    key,
                    queue,
                    class,
                    entry,
                });
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
        let copies = self.copies(id)?;
        Ok(copies
            .into_iter()
            .max_by_key(|(_, copy)| copy.hop.hand)
            .map(|(_, copy)| Found {
                key: id.record_at(copy.hop.hand),
                queue: copy.core.queue.clone(),
                class: copy.core.class,
                entry: adopt(None, &copy),
            }))
    }

    fn copies(&self, id: JobId) -> Sql<Vec<(CopyRow, JobCopy)>> {
        let rows = self.tables.copies_of(id)?;
        Ok(rows
            .into_iter()
            .filter_map(|row| copy_in(&row, id).map(|copy| (row, copy)))
            .collect())
    }

    fn put_found(&mut self, id: JobId, found: Found) -> Sql<()> {
        self.put((found.key, found.queue, found.class), id, found.entry)
    }

    /// Cancels what waits in the queue and is due.
    /// Answers how many jobs, and whether there may be more.
    pub(super) fn purge(&mut self, queue: &QueueName, most: usize) -> Sql<(usize, bool)> {
        let mut purged = 0;
        let rows = self.tables.ready(queue, self.now, most.max(1))?;
        let more = rows.len() == most.max(1);
        for row in rows {
            self.tables.delete(row.seq)?;
            let opened = match Parcel::decode(&row.body) {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::warn!(%queue, %error, bytes = row.body.len(), "unreadable; set aside");
                    let (kept, why) = kept_because(&row.body, &error.to_string());
                    self.set_aside(&row.queue, None, &why, &kept)?;
                    continue;
                }
            };
            for copy in opened.parcel.map(Parcel::into_jobs).unwrap_or_default() {
                let id = copy.id();
                let found = self.find(id)?.unwrap_or_else(|| Found {
                    key: id.record_at(copy.hop.hand),
                    queue: copy.core.queue.clone(),
                    class: copy.core.class,
                    entry: adopt(None, &copy),
                });
                // A running job, or a later copy of this one, is not what waits here.
                if found.entry.state == State::Running || found.entry.hand > copy.hop.hand {
                    continue;
                }
                let (answer, entry) = cancel(found.entry.clone(), "purged", self.now);
                if let (Cancel::Cancelled, Some(entry)) = (answer, entry) {
                    self.put_found(id, Found { entry, ..found })?;
                    purged += 1;
                }
            }
        }
        Ok((purged, more))
    }

    /// Takes a parcel, or a job of it, that cannot be read out of the way.
    pub(super) fn set_aside(&mut self, queue: &str, id: Option<JobId>, reason: &str, body: &[u8]) -> Sql<()> {
        self.tables
            .put_unreadable(self.now, queue, reason, body, limits::UNREADABLE)?;
        let (Some(id), Ok(queue), Ok(task)) = (id, QueueName::new(queue), millhand_proto::TaskName::new("unreadable"))
        else {
            return Ok(());
        };
        // Another copy that can be read, or an entry that says more, is the job's truth.
        if self
            .find(id)?
            .is_some_and(|f| f.entry.state != State::Queued && f.entry.state != State::Scheduled)
            || !self.copies(id)?.is_empty()
        {
            return Ok(());
        }
        let core = millhand_proto::Core::new(id, task, queue.clone(), self.now);
        let mut entry = adopt(None, &JobCopy::first(core));
        entry.state = State::Dead;
        entry.ended = Some(self.now);
        entry.reason = Some(format!("unreadable: {reason}"));
        let key = id.record_at(0);
        self.put((key, queue, Class::Normal), id, entry)
    }

    /// The copy that is kept of a dead job.
    fn kept_copy(&self, id: JobId) -> Sql<Option<JobCopy>> {
        let kept = self.tables.value("b", id)?;
        Ok(kept.and_then(|body| {
            let parcel = Parcel::decode(&body.into()).ok()?.parcel?;
            parcel.into_jobs().into_iter().next()
        }))
    }

    pub(super) fn view(&self, id: JobId) -> Sql<Option<JobView>> {
        let Some(Found {
            queue,
            class,
            mut entry,
            ..
        }) = self.find(id)?
        else {
            return Ok(None);
        };
        if entry.state == State::Succeeded && entry.result.is_none() {
            entry.result = self.payload("v", id)?;
        }
        if entry.state == State::Scheduled && entry.due.is_none_or(|due| due <= self.now) {
            entry.state = State::Queued;
        }
        let args = match entry.state {
            State::Dead => self.kept_copy(id)?.and_then(|copy| copy.args()),
            state if state.is_ended() => None,
            _ => self
                .copies(id)?
                .into_iter()
                .max_by_key(|(_, c)| c.hop.hand)
                .and_then(|(_, c)| c.args()),
        };
        Ok(Some(JobView {
            id,
            queue,
            class,
            entry,
            args,
        }))
    }

    pub(super) fn list(&self, filter: &JobFilter) -> Sql<JobPage> {
        let mut page = JobPage {
            complete: true,
            ..JobPage::default()
        };
        let limit = filter.limit.max(1);
        let wants = |state: State| filter.states.is_empty() || filter.states.contains(&state);
        let fits = |view: &JobView| {
            wants(view.entry.state)
                && filter.task.as_ref().is_none_or(|t| *t == view.entry.task)
                && filter.queue.as_ref().is_none_or(|q| *q == view.queue)
        };
        let mut seen = std::collections::HashSet::new();
        if State::ALL.into_iter().any(|s| !s.is_ended() && wants(s)) {
            self.tables.each_copy(|row| {
                page.looked_at += 1;
                if page.looked_at > limits::LIST_SCAN {
                    page.complete = false;
                    return Ok(false);
                }
                if filter.queue.as_ref().is_some_and(|q| q.as_str() != row.queue) {
                    return Ok(true);
                }
                let parcel = Parcel::decode(&row.body).ok().and_then(|o| o.parcel);
                for copy in parcel.map(Parcel::into_jobs).unwrap_or_default() {
                    let other = filter.task.as_ref().is_some_and(|task| *task != copy.core.task);
                    if other || !seen.insert(copy.id()) {
                        continue;
                    }
                    page.looked_at += 1;
                    if let Some(view) = self.view(copy.id())?.filter(|v| !v.entry.state.is_ended() && fits(v)) {
                        page.jobs.push(view);
                        if page.jobs.len() > limit {
                            page.complete = false;
                            return Ok(false);
                        }
                    }
                }
                Ok(true)
            })?;
        }
        let ended: Vec<State> = State::ALL.into_iter().filter(|s| s.is_ended() && wants(*s)).collect();
        let narrow = if ended.len() == 1 { Some(ended[0]) } else { None };
        if !ended.is_empty() && page.jobs.len() <= limit {
            let mut looked = 0;
            let (task, queue) = (
                filter.task.as_ref().map(|t| t.as_str()),
                filter.queue.as_ref().map(QueueName::as_str),
            );
            self.tables.each_ended(narrow, task, queue, limits::LIST_SCAN, |row| {
                looked += 1;
                if !ended.iter().any(|s| s.as_str() == row.state) || !seen.insert(row.id) {
                    return Ok(true);
                }
                if let Some(view) = self.view(row.id)?.filter(|v| fits(v)) {
                    page.jobs.push(view);
                }
                Ok(page.jobs.len() <= limit)
            })?;
            page.looked_at += looked;
            page.complete &= looked < limits::LIST_SCAN;
        }
        if page.jobs.len() > limit {
            page.jobs.truncate(limit);
            page.more = true;
        }
        Ok(page)
    }

    /// Forgets what is older than its retention, a bounded piece at a time.
    pub(super) fn sweep(&mut self, most: usize) -> Sql<usize> {
        let before = |keep: std::time::Duration| {
            Timestamp::from_micros(self.now.as_micros() - i64::try_from(keep.as_micros()).unwrap_or(0))
        };
        let mut rows = self.tables.oldest_ended(true, before(limits::KEEP_SUCCEEDED), most)?;
        rows.extend(self.tables.oldest_ended(false, before(limits::KEEP_OTHERS), most)?);
        for row in &rows {
            self.tables.delete_ended(row.seq)?;
            // A line may be of an end that an operator's retry undid.
            let current = self
                .find(row.id)?
                .filter(|f| f.entry.state.as_str() == row.state && f.entry.ended == Some(row.at));
            let Some(found) = current else { continue };
            if self.copies(row.id)?.is_empty() {
                for key in [row.id.record_at(0), RecordKey::Own(row.id)] {
                    self.records.forget(&self.tables, key, row.id)?;
                }
                self.tables.delete_values(row.id)?;
                self.tables.delete_log(row.id)?;
            } else {
                // A copy that comes later must still find that the job ended.
                let entry = found.entry;
                self.tables
                    .put_ended(row.id, row.at, entry.state, &entry.task, &found.queue)?;
            }
        }
        Ok(rows.len())
    }
}

fn settled(written: Written) -> Settled {
    match written {
        Written::Applied | Written::Already => Settled::Done,
        Written::Stale => Settled::Stale,
    }
}
