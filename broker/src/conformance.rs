//! The suite that every back end passes: one entry, [`exercise`]. Differences between back ends are
//! declared in their [`Facts`](crate::Facts), and [`table`] prints them for `docs/backends.md`.

mod deliver;
mod leave;
mod newer;
mod operate;
mod page;
mod parcels;
mod settle;
mod steps;
mod views;

use std::sync::Arc;
use std::time::Duration;

pub use self::page::table;
use crate::backend::{Backend, BoxFuture};

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(10);

/// Opens a fresh, empty back end each time.
pub type Fresh<'a> = dyn Fn() -> Arc<dyn Backend> + 'a;

/// One promise, and the check of it.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// The promise in words.
    pub promise: &'static str,
    run: fn(Arc<dyn Backend>) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($step:ident::$name:ident: $promise:literal,)+) => {
        /// All cases.
        pub const CASES: &[Case] = &[
            $(Case { name: stringify!($name), promise: $promise, run: |backend| Box::pin($step::$name(backend)) },)+
        ];
    };
}

cases! {
    deliver::pushed_jobs_are_seen: "a job that was accepted is queued until it runs",
    deliver::delivered_to_one: "each parcel is delivered to one consumer at a time",
    deliver::claimed_by_one: "one worker runs a job; another that meets a copy of it finds it busy",
    deliver::a_repeated_claim_is_the_same: "a claim that is asked again with its token gets the same fence",
    settle::results_come_back: "results come back as they were, small and big",
    settle::logs_stay_with_their_jobs: "what the last attempt printed and said is kept as long as its job is remembered; the log of an outcome that was thrown away is not",
    settle::an_end_is_written_once: "an end that is written again changes nothing; an older claim's end is thrown away",
    leave::retries_wait_for_their_time: "a retry is the next hand, is not delivered before it is due, and keeps the history",
    operate::a_scheduled_job_runs_now: "a scheduled job keeps its arguments and can be run now; its other copy is dropped",
    leave::long_runs_let_go: "a job that runs long lets go of its delivery, where one is held at a cost, and ends once",
    parcels::a_split_parcel_comes_alone: "jobs that are released alone come in parcels of their own",
    leave::a_snooze_counts_no_attempt: "a snoozed job comes again as the same attempt",
    leave::the_dead_keep_their_arguments: "a dead job keeps its arguments, and an operator's retry runs it again",
    leave::released_copies_come_again: "a released copy comes again with its hand",
    leave::given_back_jobs_run_again: "a run that was interrupted is given back and runs again, uncounted",
    parcels::parcels_end_job_by_job: "a parcel of several jobs is held until each of its jobs is settled",
    parcels::jobs_of_a_parcel_go_together: "jobs of one parcel are claimed and settled in one call, each with its own answer",
    deliver::the_same_id_is_one_job: "a second copy of a job that ended is dropped",
    operate::cancelled_before_the_start: "a cancelled job does not start",
    operate::cancelled_while_running: "a cancel of a running job reaches its worker",
    deliver::expired_jobs_do_not_start: "a job that is too late expires",
    deliver::unknown_jobs_are_parked: "a job that the worker does not know is parked and comes again",
    newer::unknown_fields_come_back_from_every_way: "what a newer producer wrote and this version does not know comes back byte for byte from a delay, a release, a give-back, a snooze, a retry, a death and an operator's retry",
    newer::fields_that_must_be_understood_wait_for_who_does: "a job with a field that must be understood waits in sight, uncounted and unchanged, for a worker that does",
    operate::a_paused_queue_delivers_nothing: "a paused queue delivers nothing; a resumed one goes on",
    views::workers_are_seen: "a worker that beats is listed with what it says of itself and of its jobs, and learns which of its queues are paused; one that left is not",
    operate::a_purge_cancels_what_waits: "a purge cancels what waits and is due, and nothing else",
    settle::waiters_are_told: "the mailbox in a job, and any that listens later, is told of its end",
    settle::children_come_with_the_success: "jobs that a job enqueued are there when it has succeeded, and only then",
    views::numbers_add_up: "what workers count is added up by minute, queue and task, once for each token, and read back for the minutes asked for",
    views::lists_filter: "lists filter by state, task and queue, newest first, and say when there is more",
    operate::dropped_jobs_are_forgotten: "an ended job can be forgotten, a waiting one not",
    operate::nothing_is_known_of_strangers: "of an id that was never enqueued nothing is known",
}

/// Runs every case on a back end of its own.
///
/// # Panics
/// When a promise is broken; the message names the case.
pub async fn exercise(fresh: &Fresh<'_>) {
    for case in CASES {
        let backend = fresh();
        let run = tokio::spawn((case.run)(backend));
        match tokio::time::timeout(SOON * 3, run).await {
            Ok(Ok(())) => {}
            Ok(Err(broken)) => panic!("{}: {} ({broken})", case.name, case.promise),
            Err(_) => panic!("{}: it did not end", case.name),
        }
    }
}
