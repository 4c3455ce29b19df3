//! One attempt, from the claim to the settlement, as one function.

use std::sync::Arc;
use std::time::Duration;

use millhand_broker::{Claim, Release, Settled, Settlement, Verdict};
use millhand_proto::protocol::{Decision, Ended, Meeting, Situation, decide};
use millhand_proto::{Codec, Leaving, Outcome, Receipt, Successor, Tally, Timestamp};

use crate::crew::{Crew, Slot};
use crate::executors::Run;
use crate::log::JobLog;
use crate::registry::{BAD_ARGUMENTS, Executor};
use crate::room::Waiting;
use crate::stop::Stop;
use crate::tally::Counted;

/// Runs one job to the end of one attempt. It holds a slot; a job that this worker does not know
/// has none and only learns that it is parked. Answers the job when its outcome was stale: its copy
/// is to be met again.
pub(crate) async fn attempt(crew: Arc<Crew>, job: Waiting, slot: Option<Slot>) -> Option<Waiting> {
    let id = job.copy.id();
    let stop = Stop::default();
    let presence = crew.enter(id, job.delivery, stop.clone());
    let slot_at = crew.backend.now();

    // Claim: leave to run, or what to do instead.
    let mut claim = claim(&crew, &job, presence.is_none(), slot.is_some());
    let mut meeting = crew.claim(claim.clone()).await?;
    // A suspect is claimed only with the leave to run it: one that waited with its claim would be found running
    // when the suspect that it waits for kills the worker.
    let alone = match meeting {
        Meeting::Suspect(_) => crew.suspects.try_acquire().ok(),
        _ => None,
    };
    if alone.is_some() {
        claim.situation.suspect_here = false;
        meeting = crew.claim(claim.clone()).await?;
    }
    let (fence, suspect, crashes) = match meeting {
        Meeting::Run {
            fence,
            suspect,
            crashes,
        } => (fence, suspect, crashes),
        instead => {
            drop((slot, alone));
            let counted = Counted::met(&instead);
            let settlement = settlement(&job, without_run(&instead, &crew));
            let settled = crew.settle(&settlement).await;
            tell(&job, &settlement.verdict, settled);
            crew.count(&job, settled, &counted, slot_at);
            return (settled == Some(Settled::Stale)).then_some(job);
        }
    };
    // Its older attempt may have been on its way out when this one came in.
    let presence = presence.or_else(|| crew.enter(id, job.delivery, stop.clone()));
    let log = JobLog::default();
    crew.claimed(id, claim, fence, log.clone());
    let claimed_at = crew.backend.now();
    let _alone = alone.filter(|_| suspect);

    // Run.
    let task = crew.registry.get(&job.copy.core.task)?;
    let args = job.copy.args()?;
    let limits = job.copy.core.limits.over(task.limits);
    let ran = crew
        .executors
        .run(Run {
            job: id,
            root: job.copy.core.root.unwrap_or(id),
            task: job.copy.core.task.clone(),
            attempt: job.copy.attempt(),
            fence,
            claimed: claimed_at,
            args,
            stop: stop.clone(),
            soft: limits.soft(),
            hard: limits.hard(),
            memory: task.memory,
            log: log.clone(),
            suspect,
        })
        .await;
    let now = crew.backend.now();

    // Decide what follows.
    let receipt = Receipt {
        enqueue: micros(job.ready_at.since(job.copy.core.enqueued_at)),
        queue: micros(job.taken_at.since(job.ready_at)),
        fetch: micros(job.arrived_at.since(job.taken_at)),
        room: micros(slot_at.since(job.arrived_at)),
        claim: micros(claimed_at.since(slot_at)),
        dispatch: micros(ran.dispatch),
        run: micros(ran.run),
        cpu: ran.cpu.map(micros),
        encode: micros(ran.encode),
        blocked: ran.blocked.map(micros),
        start: ran.start.map(micros),
        peak: ran.peak,
    };
    let receipt = if job.copy.due().is_some() {
        Receipt { enqueue: 0, ..receipt }
    } else {
        receipt
    };
    let ended = Ended {
        worker: crew.me,
        started: claimed_at,
        now,
        crashes,
        most_crashes: task.crashes,
        cancel_asked: matches!(ran.outcome, Outcome::Cancelled) || crew.cancel_asked(id),
        seed: crate::crew::random(),
    };
    let verdict = match decide(ran.outcome, &job.copy, task.retry, ended) {
        Decision::Succeed(result) => Verdict::Succeed {
            fence,
            result,
            receipt,
            children: ran.children,
        },
        Decision::Cancel(note) => Verdict::Cancel {
            fence,
            note: Some(note),
            receipt,
        },
        Decision::Leave {
            successor,
            reason,
            note,
        } => Verdict::Leave {
            fence: Some(fence),
            successor,
            reason,
            note: Some(note),
            receipt: Some(receipt),
        },
        Decision::GiveBack => Verdict::GiveBack { fence, worker: crew.me },
    };

    // Settle: the slot is free as soon as the settle window takes what ended.
    let window = crew.window.acquire().await;
    if let Some(slot) = slot {
        slot.free(ran.run);
    }
    let counted = Counted::of(&verdict, task.executor);
    let settlement = Settlement {
        log: log.take(job.copy.attempt()),
        ..settlement(&job, verdict)
    };
    let settled = crew.settle(&settlement).await;
    tell(&job, &settlement.verdict, settled);
    crew.count(&job, settled, &counted, now);
    drop(window);
    drop(presence);
    (settled == Some(Settled::Stale)).then_some(job)
}

fn claim(crew: &Crew, job: &Waiting, running_here: bool, has_slot: bool) -> Claim {
    let task = crew.registry.get(&job.copy.core.task);
    let limits = task.map_or(job.copy.core.limits, |t| job.copy.core.limits.over(t.limits));
    let not_understood = crew.not_understood(&job.copy);
    debug_assert!(has_slot || not_understood.is_some());
    Claim {
        copy: job.copy.clone(),
        situation: Situation {
            worker: crew.me,
            owner_alive: false,
            running_here,
            // So that the claims of others need not wait for one another.
            suspect_here: true,
            not_understood,
            // A thread cannot be stopped at its limit: its claim is renewed instead.
            hard_limit: task
                .filter(|t| t.executor != Executor::Thread)
                .and_then(|_| limits.hard()),
            token: crate::crew::random(),
            now: Timestamp::default(),
        },
    }
}

/// Says in the log what an operator would ask about, when it is so: what is decided may wait long for its
/// settlement, and be thrown away there.
fn tell(job: &Waiting, verdict: &Verdict, settled: Option<Settled>) {
    let copy = &job.copy;
    let (id, task, attempt) = (copy.id(), &copy.core.task, copy.attempt());
    if settled != Some(Settled::Done) {
        tracing::debug!(job = %id, %task, attempt, ?settled, "not settled; it comes again");
        return;
    }
    match verdict {
        Verdict::Leave {
            successor,
            reason,
            note,
            ..
        } => {
            let told = reason.as_deref() != Some(BAD_ARGUMENTS);
            let error = note.as_ref().and_then(|n| n.error.as_ref()).filter(|_| told);
            let error = error.map(|e| telling_line(e.as_str()));
            match successor.why {
                Leaving::Death => {
                    tracing::warn!(job = %id, %task, attempt, reason, error, "the job is dead");
                }
                Leaving::Retry => {
                    tracing::info!(job = %id, %task, attempt, error, "the attempt failed; another follows");
                }
                Leaving::Snooze => tracing::debug!(job = %id, %task, "snoozed"),
            }
        }
        Verdict::Cancel { .. } => tracing::info!(job = %id, %task, attempt, "cancelled"),
        Verdict::GiveBack { .. } => tracing::info!(job = %id, %task, attempt, "interrupted; given back"),
        Verdict::Release(Release::Parked(_)) => {
            tracing::info!(job = %id, %task, times = copy.hop.parked.map_or(0, |p| p.times) + 1, "not known here; parked");
        }
        _ => tracing::debug!(job = %id, %task, attempt, "settled"),
    }
}

/// The line of an error that tells most: the first, or the last where the first only announces it.
fn telling_line(error: &str) -> &str {
    let first = error.lines().next().unwrap_or_default();
    let last = error.lines().next_back().filter(|_| first.ends_with(':'));
    last.unwrap_or(first)
}

/// What follows when a copy is not run.
fn without_run(meeting: &Meeting, crew: &Crew) -> Verdict {
    match *meeting {
        Meeting::Run { .. } | Meeting::Drop | Meeting::Ended(_) => Verdict::Acknowledge,
        Meeting::Replay(successor) => Verdict::Replay(successor),
        Meeting::Busy(until) | Meeting::Suspect(until) => Verdict::Release(Release::Busy(until)),
        Meeting::NotDue(due) => Verdict::Release(Release::NotDue(due)),
        Meeting::Parked(until) => Verdict::Release(Release::Parked(until)),
        Meeting::Die(reason) => Verdict::Leave {
            fence: None,
            successor: Successor {
                why: Leaving::Death,
                due: crew.backend.now(),
            },
            reason: Some(reason.to_owned()),
            note: None,
            receipt: None,
        },
    }
}

pub(crate) fn settlement(job: &Waiting, verdict: Verdict) -> Settlement {
    Settlement {
        delivery: job.delivery,
        copy: job.copy.clone(),
        verdict,
        log: None,
    }
}

impl Crew {
    /// Counts what was decided at `since` and is settled; an outcome that was thrown away is nobody's.
    fn count(&self, job: &Waiting, settled: Option<Settled>, counted: &Counted, since: Timestamp) {
        if settled == Some(Settled::Done) {
            let now = self.backend.now();
            let minute = Tally::minute_of(now);
            self.tallies.count(minute, &job.copy.core, counted, now.since(since));
        }
    }

    /// Why this worker cannot run the job, if it cannot.
    fn not_understood(&self, copy: &millhand_proto::JobCopy) -> Option<String> {
        let task = &copy.core.task;
        if self.registry.get(task).is_none() {
            return Some(format!("task {task} is not known here"));
        }
        if copy.core.task_version > 0 {
            return Some(format!(
                "version {} of task {task} is not known here",
                copy.core.task_version
            ));
        }
        if Codec::try_from(copy.core.codec).is_err() {
            return Some(format!("codec {} is not known here", copy.core.codec));
        }
        let fields: Vec<&str> = copy.not_understood().collect();
        (!fields.is_empty()).then(|| format!("field {} is not known here", fields.join(", ")))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
