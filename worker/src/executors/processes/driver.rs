//! One child's driver: it gives the child its jobs, one after the other, and ends each: with the child's
//! answer, at a limit, or with the child.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_proto::{Outcome, Payload, limits};
use tokio::task::JoinHandle;

use super::super::frames::{
    Cancel, Carried, Done, End, FRAME_BYTES, Frame, FrameError, RunJob, failure, millis, parcels,
};
use super::super::shared;
use super::super::{Ended, GRACE, LOOK, LOOK_LAZILY, Run, Step, tree};
use super::alarm::Alarm;
use super::child::{Child, Heard};
use super::pool::{Ask, Pool};
use crate::log::Source;

/// Jobs that take less, in the mean, are given to a child several at a time.
const SMALL: Duration = Duration::from_micros(500);

/// Small jobs that a child holds at once.
const DEPTH: usize = 16;

/// How long a job must run before what it left behind is looked for at once. After shorter ones it is looked
/// from time to time.
const LOOK_BEHIND: Duration = Duration::from_millis(1);

/// Children that a job may find gone before that is its own end.
const MISSES: u32 = 3;

/// Serves jobs until none comes for a long time, or the pool stops.
pub(super) async fn drive(pool: Arc<Pool>) {
    let mut warm: Option<Child> = None;
    let mut renewal = Renewal::default();
    let mut alarm = Alarm::new();
    while let Some(ask) = pool.take(&mut alarm, &mut warm).await {
        let Ok(_slot) = pool.slots.acquire().await else { break };
        let alone = ask.run.suspect;
        if warm.as_mut().is_some_and(Child::died_idle) {
            // It died while it was idle, which is no job's fault.
            warm = None;
        }
        renewal.swap(&pool, &mut warm).await;
        // A suspect must not meet what another job left behind, nor the other way round.
        let (child, start) = match warm.take_if(|_| !alone) {
            Some(child) => (child, None),
            None => {
                let asked = Instant::now();
                let fresh = tokio::select! {
                    child = pool.fresh() => child,
                    () = ask.run.stop.reaches(Step::Asked) => Err(String::new()),
                    () = pool.stopping.cancelled() => Err(String::new()),
                };
                match fresh {
                    Ok(child) => (child, Some(asked.elapsed())),
                    Err(_) if ask.run.stop.is(Step::Asked) => {
                        let outcome = ask.run.stop.outcome();
                        ask.answer(Ended::only(outcome));
                        continue;
                    }
                    Err(_) if pool.stopping.is_cancelled() => break,
                    Err(why) => {
                        let text = format!("no child process could be started: {why}");
                        ask.answer(Ended::failed(text));
                        continue;
                    }
                }
            }
        };
        let driver = Driver::new(&pool, child);
        let kept = driver.serve(ask, start, alone, &mut renewal, &mut alarm).await;
        match kept {
            // Beside the driver, which is free for the next job at once.
            Some(child) if alone => drop(pool.tasks.spawn(child.dismiss())),
            Some(child) => warm = Some(child),
            None => {}
        }
    }
    if let Some(child) = warm {
        child.dismiss().await;
    }
    pool.left().await;
}

/// A child's successor, started while the child still works.
#[derive(Default)]
struct Renewal(Option<JoinHandle<Result<Child, String>>>);

impl Renewal {
    fn begin(&mut self, pool: &Arc<Pool>) {
        if self.0.is_none() {
            let pool = Arc::clone(pool);
            self.0 = Some(tokio::spawn(async move { pool.fresh().await }));
        }
    }

    fn is_ready(&self) -> bool {
        self.0.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Puts the successor, if it is ready, in the place of the child.
    async fn swap(&mut self, pool: &Pool, warm: &mut Option<Child>) {
        if !self.is_ready() {
            return;
        }
        let Some(started) = self.0.take() else { return };
        match started.await {
            Ok(Ok(successor)) => {
                if let Some(old) = warm.replace(successor) {
                    pool.tasks.spawn(old.dismiss());
                }
            }
            Ok(Err(why)) => tracing::warn!(why, "a child could not be replaced by a new one; it goes on"),
            Err(_) => {}
        }
    }
}

/// What is known of the job that runs.
struct Front {
    since: Instant,
    /// It was asked to end.
    asked: Option<Instant>,
    softened: bool,
    looked: Instant,
    peak: Option<u64>,
}

impl Front {
    fn now() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            asked: None,
            softened: false,
            looked: now,
            peak: None,
        }
    }
}

struct Driver<'p> {
    pool: &'p Arc<Pool>,
    child: Child,
    /// The first one runs; the others have not begun.
    held: VecDeque<Ask>,
    front: Front,
    /// Jobs that were given back, or never begun.
    left: Vec<Ask>,
    mean: Duration,
    weighed: Instant,
    behind: bool,
}

/// How a child's service ends.
enum Close {
    /// All is answered.
    Well,
    /// The first job ended from outside: the child is to be killed.
    Stopped(Outcome),
    /// The child broke, for this reason if it is not its own end.
    Broken(Option<FrameError>),
}

impl<'p> Driver<'p> {
    fn new(pool: &'p Arc<Pool>, child: Child) -> Self {
        Self {
            pool,
            child,
            held: VecDeque::new(),
            front: Front::now(),
            left: Vec::new(),
            mean: Duration::MAX,
            weighed: Instant::now(),
            behind: false,
        }
    }

    /// Serves a job, and small ones that wait behind it; the child, if it is still well.
    async fn serve(
        mut self,
        ask: Ask,
        start: Option<Duration>,
        alone: bool,
        renewal: &mut Renewal,
        alarm: &mut Alarm,
    ) -> Option<Child> {
        let close = match self.give_first(ask).await {
            Ok(()) => self.talk(start, alone, renewal, alarm).await,
            Err(error) => Close::Broken(Some(error)),
        };
        let first = self.held.pop_front();
        let kept = match (close, first) {
            (Close::Well, _) => {
                if self.behind {
                    self.child.kill().await;
                    None
                } else {
                    self.child.rests();
                    Some(self.child)
                }
            }
            (Close::Stopped(outcome), first) => {
                self.child.kill().await;
                if let Some(ask) = first {
                    self.child.printed_all(&ask.run.log);
                    ask.answer(Ended {
                        peak: self.front.peak,
                        start,
                        ..Ended::only(outcome)
                    });
                }
                None
            }
            (Close::Broken(reason), Some(mut ask)) => {
                // A job that was not sent whole did not begin.
                let began = self.child.outbox.sent() >= ask.sent_at;
                let (cause, text) = self.child.broken(reason, &ask.run.log).await;
                if began || ask.missed >= MISSES {
                    ask.answer(Ended {
                        peak: self.front.peak,
                        start,
                        ..Ended::crashed(cause, text)
                    });
                } else {
                    tracing::debug!(text, "a child was gone before it had its job");
                    ask.missed += 1;
                    self.left.push(ask);
                }
                None
            }
            (Close::Broken(reason), None) => {
                let (_, text) = self.child.broken(reason, &crate::log::JobLog::default()).await;
                tracing::debug!(text, "a child broke without a job");
                None
            }
        };
        self.left.extend(self.held.drain(..));
        if !self.left.is_empty() {
            self.pool.put_back(self.left.into_iter());
        }
        kept
    }

    /// Gives the child its first job.
    async fn give_first(&mut self, ask: Ask) -> Result<(), FrameError> {
        self.front = Front::now();
        let args = &ask.run.args;
        if self.child.descriptors && args.bytes.len() > limits::SHARED_OVER && shared_length(args).is_some() {
            let bytes = args.bytes.clone();
            let file = tokio::task::spawn_blocking(move || shared::write(&bytes)).await;
            let file = file.map_err(std::io::Error::other).flatten();
            let frame = Frame::Run(vec![job(&ask.run, true)]);
            self.held.push_back(ask);
            self.child.outbox.push_with(&frame, file?)?;
        } else if args.bytes.len() + (64 << 10) > FRAME_BYTES {
            let text = format!("its arguments of {} bytes do not fit a frame", args.bytes.len());
            ask.answer(Ended::failed(text));
            return Ok(());
        } else {
            let frame = Frame::Run(vec![job(&ask.run, false)]);
            self.held.push_back(ask);
            self.child.outbox.push(&frame)?;
        }
        self.given(1);
        Ok(())
    }

    /// The newest of the held jobs were put on their way.
    fn given(&mut self, count: usize) {
        let more = u32::try_from(count).unwrap_or(u32::MAX);
        self.child.served = self.child.served.saturating_add(more);
        let sent_at = self.child.outbox.pushed();
        for ask in self.held.iter_mut().rev().take(count) {
            ask.sent_at = sent_at;
        }
    }

    /// Gives the child small jobs behind the first.
    fn give_more(&mut self) -> Result<(), FrameError> {
        let depth = if self.mean < SMALL {
            DEPTH.min(self.child.window)
        } else {
            1
        };
        let mut jobs = Vec::new();
        while self.held.len() < depth {
            let fits = |run: &Run| !run.suspect && run.args.bytes.len() <= limits::SHARED_OVER / DEPTH;
            let Some(ask) = self.pool.more(fits) else { break };
            jobs.push(job(&ask.run, false));
            self.held.push_back(ask);
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let count = jobs.len();
        self.child.outbox.push(&Frame::Run(jobs))?;
        self.given(count);
        Ok(())
    }

    async fn talk(
        &mut self,
        mut start: Option<Duration>,
        alone: bool,
        renewal: &mut Renewal,
        alarm: &mut Alarm,
    ) -> Close {
        loop {
            if !alone
                && !self.behind
                && !renewal.is_ready()
                && let Err(error) = self.give_more()
            {
                return Close::Broken(Some(error));
            }
            if !self.child.outbox.is_empty() {
                self.child.send_now();
            }
            let Some(first) = self.held.front() else {
                return Close::Well;
            };
            alarm.set(self.next_look());
            let stop = &first.run.stop;
            let asked = self.front.asked.is_some();
            tokio::select! {
                biased;
                heard = self.child.event() => match heard {
                    Heard::Frame(Ok(Some(frame))) => {
                        if let Err(error) = self.hear(frame, &mut start, renewal) {
                            return Close::Broken(Some(error));
                        }
                    }
                    Heard::Frame(Ok(None) | Err(FrameError::Io(_))) => return Close::Broken(None),
                    Heard::Frame(Err(error)) => return Close::Broken(Some(error)),
                    Heard::Printed => self.child.printed(&first.run.log).await,
                    Heard::Moved => {}
                },
                () = stop.reaches(Step::AtOnce) => return Close::Stopped(stop.outcome()),
                () = stop.reaches(Step::Asked), if !asked => {
                    self.front.asked = Some(Instant::now());
                    self.cancel(0);
                }
                () = alarm.rings() => if let Some(close) = self.look() {
                    return close;
                },
            }
        }
    }

    /// When the first job is to be looked at next.
    fn next_look(&self) -> Instant {
        let Some(first) = self.held.front() else {
            return Instant::now() + LOOK_LAZILY;
        };
        let run = &first.run;
        let every = if run.memory.is_some() || self.front.since == self.front.looked {
            LOOK
        } else {
            LOOK_LAZILY
        };
        let hard = run.hard.map(|limit| self.front.since + limit);
        let soft = run.soft.filter(|_| !self.front.softened);
        let soft = soft.map(|limit| self.front.since + limit);
        let patience = self.front.asked.map(|at| at + GRACE);
        let looks = [Some(self.front.looked + every), hard, soft, patience];
        looks.into_iter().flatten().min().unwrap_or(self.front.looked + every)
    }

    /// Looks at a job that lasts.
    fn look(&mut self) -> Option<Close> {
        let now = Instant::now();
        let run = &self.held.front()?.run;
        if let Some(limit) = run.hard
            && now >= self.front.since + limit
        {
            return Some(Close::Stopped(Outcome::TimedOut(limit)));
        }
        if self.front.asked.is_some_and(|at| now >= at + GRACE) {
            return Some(Close::Stopped(run.stop.outcome()));
        }
        if let Some(limit) = run.soft
            && !self.front.softened
            && now >= self.front.since + limit
        {
            self.front.softened = true;
            run.stop.soft_limit(limit);
            self.cancel(0);
        }
        if self.pool.stopping.is_cancelled() {
            return Some(Close::Stopped(Outcome::Interrupted));
        }
        if now < self.front.looked + LOOK {
            return None;
        }
        self.front.looked = now;
        // It lasts after all: the jobs behind it need not wait for it.
        if self.held.len() > 1 {
            self.mean = Duration::MAX;
            for behind in 1..self.held.len() {
                self.cancel(behind);
            }
        }
        // Somebody else may hold its end of the socket.
        if self.child.has_ended() {
            return Some(Close::Broken(None));
        }
        let run = &self.held.front()?.run;
        let held = tree::resident_with_descendants(self.child.pid()?)?;
        self.front.peak = self.front.peak.max(Some(held));
        run.over_memory(Some(held)).map(Close::Stopped)
    }

    fn cancel(&mut self, at: usize) {
        if let Some(ask) = self.held.get(at) {
            let frame = Frame::Cancel(Cancel { job: ask.run.job });
            // It is small: it can be written.
            let _ = self.child.outbox.push(&frame);
        }
    }

    fn hear(&mut self, frame: Frame, start: &mut Option<Duration>, renewal: &mut Renewal) -> Result<(), FrameError> {
        match frame {
            Frame::Done(done) => {
                for done in done {
                    self.done(done, start.take())?;
                    self.weigh(renewal);
                }
                Ok(())
            }
            Frame::Log(said) => {
                let first = self.first(said.job)?;
                first.run.log.add(Source::Said, said.text);
                Ok(())
            }
            Frame::Progress(progress) => {
                let first = self.first(progress.job)?;
                first.run.log.set_progress(millhand_proto::Progress {
                    done: progress.done,
                    total: progress.total.unwrap_or(0),
                });
                Ok(())
            }
            Frame::Hello(_) | Frame::Run(_) | Frame::Cancel(_) => Err(FrameError::Unexpected),
        }
    }

    /// The job that runs, if it is this one.
    fn first(&self, job: millhand_proto::JobId) -> Result<&Ask, FrameError> {
        let first = self.held.front().filter(|ask| ask.run.job == job);
        first.ok_or(FrameError::OtherJob(job))
    }

    fn done(&mut self, done: Done, start: Option<Duration>) -> Result<(), FrameError> {
        if matches!(done.end, End::Back(())) {
            // The job before it may have been answered meanwhile: it may be the first by now.
            let at = self.held.iter().position(|ask| ask.run.job == done.job);
            let ask = at.and_then(|at| self.held.remove(at));
            let ask = ask.ok_or(FrameError::OtherJob(done.job))?;
            if at == Some(0) {
                self.front = Front::now();
            }
            if ask.run.stop.is(Step::Asked) {
                let outcome = ask.run.stop.outcome();
                ask.answer(Ended::only(outcome));
            } else {
                self.left.push(ask);
            }
            return Ok(());
        }
        let log = self.first(done.job)?.run.log.clone();
        let children = parcels(&done.children)?;
        let outcome = match done.end {
            End::Ok(carried) => self.result(carried)?,
            End::Failed { error, retry_in_ms } => failure(error, retry_in_ms),
            End::Fatal { reason, error } => Outcome::Fatal {
                reason: reason.chars().take(64).collect(),
                error: millhand_proto::ErrorText::new(error),
            },
            End::Snooze { delay_ms } => Outcome::Snoozed(Duration::from_millis(delay_ms)),
            End::Back(()) => return Err(FrameError::Unexpected),
        };
        self.child.printed_all(&log);
        let ran = Duration::from_micros(done.run);
        let (now, unseen) = (Instant::now(), self.child.unseen);
        if now - self.front.since >= LOOK_BEHIND || unseen.is_some_and(|since| now - since >= LOOK_LAZILY) {
            let who = unseen.map_or("it", |_| "it, or a short job just before it,");
            self.look_behind(who, &log);
        } else {
            self.child.unseen = unseen.or(Some(now));
        }
        let Some(ask) = self.held.pop_front() else {
            return Ok(());
        };
        let outcome = ask.run.stop.explains(outcome);
        ask.answer(Ended {
            run: Some(ran),
            encode: Duration::from_micros(done.encode),
            cpu: done.cpu.map(Duration::from_micros),
            start,
            peak: self.front.peak,
            children,
            ..Ended::only(outcome)
        });
        self.mean = if self.mean == Duration::MAX {
            ran
        } else {
            (self.mean * 7 + ran) / 8
        };
        self.front = Front::now();
        Ok(())
    }

    fn result(&mut self, carried: Carried) -> Result<Outcome, FrameError> {
        let codec = carried.codec;
        if let Some(length) = carried.length.filter(|length| *length > limits::RESULT_BYTES as u64) {
            // Not read: it would be thrown away.
            self.child.inbox.payload(carried, 0).err();
            return Ok(Outcome::Fatal {
                reason: "result_too_big".to_owned(),
                error: millhand_proto::ErrorText::new(format!(
                    "the result has {length} bytes; the limit is {}",
                    limits::RESULT_BYTES
                )),
            });
        }
        let bytes = self.child.inbox.payload(carried, limits::RESULT_BYTES as u64)?;
        Ok(Outcome::Succeeded(Payload { codec, bytes }))
    }

    /// What a job started ends with it; a child that is left with company is replaced.
    fn look_behind(&mut self, who: &str, log: &crate::log::JobLog) {
        let left = self.child.company();
        if left > 0 {
            log.add(
                Source::Said,
                format!("{who} left {left} process(es) behind, which were ended"),
            );
            self.behind = true;
        }
    }

    /// Whether it is time for another child.
    fn weigh(&mut self, renewal: &mut Renewal) {
        const EVERY: Duration = Duration::from_millis(100);
        let mut due = self.child.served >= self.child.lives;
        if let Some(most) = self.child.outgrows
            && self.weighed.elapsed() > EVERY
            && let Some(pid) = self.child.pid()
        {
            self.weighed = Instant::now();
            due |= tree::resident(pid).is_some_and(|held| held > most);
        }
        if due {
            renewal.begin(self.pool);
        }
    }
}

fn shared_length(args: &Payload) -> Option<u64> {
    (args.bytes.len() <= limits::SHARED_BYTES).then_some(args.bytes.len() as u64)
}

/// The job as its child learns of it, the arguments in the frame or in a file beside it.
fn job(run: &Run, shared: bool) -> RunJob {
    let Payload { codec, bytes } = run.args.clone();
    let length = shared.then(|| shared_length(&run.args)).flatten();
    RunJob {
        job: run.job,
        root: run.root,
        attempt: run.attempt,
        fence: run.fence,
        claimed: run.claimed,
        task: run.task.clone(),
        args: Carried {
            codec,
            bytes: length.is_none().then_some(bytes),
            length,
        },
        soft_ms: run.soft.map(millis),
        deadline_ms: run.hard.map(millis),
    }
}
