//! One child at work: it is given a job, and small ones behind it, and each is ended: with the child's
//! answer, at a limit, or with the child.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millhand_proto::{Outcome, Payload, TimeLimit, limits};

use super::super::frames::{
    Cancel, Carried, Done, End, FRAME_BYTES, Frame, FrameError, LogLine, Progress, RunJob, failure, millis, parcels,
};
use super::super::shared;
use super::super::{Ended, GRACE, LOOK, LOOK_LAZILY, Run, tree};
use super::alarm::Alarm;
use super::child::{Child, Heard};
use super::driver::Renewal;
use super::pool::{Ask, Pool};
use crate::log::Source;
use crate::stop::Step;

/// Jobs that take less, in the mean, are given to a child several at a time.
const SMALL: Duration = Duration::from_micros(500);

/// Small jobs that a child holds at once.
const DEPTH: usize = 16;

/// How long a job must run before what it left behind is looked for at once. After shorter ones it is looked
/// from time to time.
const LOOK_BEHIND: Duration = Duration::from_millis(1);

/// Children that a job may find gone before that is its own end.
const MISSES: u32 = 3;

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

/// A child while it serves.
pub(super) struct Service<'d> {
    pool: &'d Arc<Pool>,
    child: Child,
    renewal: &'d mut Renewal,
    alarm: &'d mut Alarm,
    /// The start of the child, which the first job waited for.
    start: Option<Duration>,
    /// The first one runs; the others have not begun.
    held: VecDeque<Ask>,
    front: Front,
    /// Jobs that were given back, or never begun.
    left: Vec<Ask>,
    mean: Duration,
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

impl<'d> Service<'d> {
    pub(super) fn new(pool: &'d Arc<Pool>, child: Child, renewal: &'d mut Renewal, alarm: &'d mut Alarm) -> Self {
        Self {
            pool,
            child,
            renewal,
            alarm,
            start: None,
            held: VecDeque::new(),
            front: Front::now(),
            left: Vec::new(),
            mean: Duration::MAX,
            behind: false,
        }
    }

    /// Serves a job, and small ones that wait behind it; the child, if it is still well.
    pub(super) async fn serve(mut self, ask: Ask, start: Option<Duration>) -> Option<Child> {
        self.start = start;
        let alone = ask.run.suspect;
        let close = match self.give_first(ask).await {
            Ok(()) => self.talk(alone).await,
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
                        start: self.start,
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
                        start: self.start,
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
        if self.child.descriptors && goes_beside(args.bytes.len()) {
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

    async fn talk(&mut self, alone: bool) -> Close {
        loop {
            if !alone
                && !self.behind
                && !self.renewal.is_ready()
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
            self.alarm.set(self.next_look());
            let stop = &first.run.stop;
            let asked = self.front.asked.is_some();
            // What ends a job goes first: a child may never stop speaking.
            tokio::select! {
                biased;
                () = stop.reaches(if asked { Step::AtOnce } else { Step::Asked }) => {
                    if stop.is(Step::AtOnce) {
                        return Close::Stopped(stop.outcome());
                    }
                    self.front.asked = Some(Instant::now());
                    self.cancel(0);
                }
                () = self.alarm.rings() => if let Some(close) = self.look() {
                    return close;
                },
                heard = self.child.event() => match heard {
                    Heard::Frame(Ok(Some(frame))) => {
                        if let Err(error) = self.hear(frame) {
                            return Close::Broken(Some(error));
                        }
                        // Nor may it keep the others from their turn.
                        tokio::task::consume_budget().await;
                    }
                    Heard::Frame(Ok(None) | Err(FrameError::Io(_))) => return Close::Broken(None),
                    Heard::Frame(Err(error)) => return Close::Broken(Some(error)),
                    Heard::Printed => self.child.printed(&first.run.log).await,
                    Heard::Moved => {}
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
            return Some(Close::Stopped(Outcome::TimedOut(TimeLimit::Hard(limit))));
        }
        if self.front.asked.is_some_and(|at| now >= at + GRACE) {
            return Some(Close::Stopped(run.stop.outcome()));
        }
        if let Some(limit) = run.soft
            && !self.front.softened
            && now >= self.front.since + limit
        {
            self.front.softened = true;
            run.ask_at_soft_limit(limit);
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

    fn hear(&mut self, frame: Frame) -> Result<(), FrameError> {
        match frame {
            Frame::Done(done) => {
                for done in done {
                    self.done(done)?;
                    self.weigh();
                }
                Ok(())
            }
            // A thread of a handler may speak after the answer.
            Frame::Log(LogLine { job, .. }) | Frame::Progress(Progress { job, .. }) if self.child.last == Some(job) => {
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

    fn done(&mut self, done: Done) -> Result<(), FrameError> {
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
        self.child.last = Some(ask.run.job);
        let outcome = ask.run.stop.explains(outcome);
        ask.answer(Ended {
            run: Some(ran),
            encode: Duration::from_micros(done.encode),
            cpu: done.cpu.map(Duration::from_micros),
            start: self.start.take(),
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
        if left > 0 && !self.behind {
            log.add(
                Source::Said,
                format!("{who} left {left} process(es) behind, which were ended"),
            );
            self.behind = true;
        }
    }

    /// Whether it is time for another child.
    fn weigh(&mut self) {
        const EVERY: Duration = Duration::from_millis(100);
        let mut due = self.child.served >= self.child.lives;
        if let Some(most) = self.child.outgrows
            && self.child.weighed.elapsed() > EVERY
            && let Some(pid) = self.child.pid()
        {
            self.child.weighed = Instant::now();
            due |= tree::resident(pid).is_some_and(|held| held > most);
        }
        if due {
            self.renewal.begin(self.pool);
        }
    }
}

/// Whether arguments of so many bytes go by descriptor.
fn goes_beside(bytes: usize) -> bool {
    bytes > limits::SHARED_OVER && bytes <= limits::SHARED_BYTES
}

/// The job as its child learns of it, the arguments in the frame or in a file beside it.
fn job(run: &Run, shared: bool) -> RunJob {
    let Payload { codec, bytes } = run.args.clone();
    let length = shared.then_some(bytes.len() as u64);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_arguments_go_beside_the_socket() {
        let (over, most) = (limits::SHARED_OVER, limits::SHARED_BYTES);
        let beside = [over, over + 1, most, most + 1].map(goes_beside);
        assert_eq!(beside, [false, true, true, false]);
    }
}
