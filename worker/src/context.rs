//! What a handler knows of its job.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use millhand_client::{InvalidJob, Job};
use millhand_proto::{Fence, JobCopy, JobId, Parcel, Progress, Task, TaskName, Timestamp, limits};

use crate::log::{Said, Sink, Source, cut};
use crate::stop::{Step, Stop};

/// What a handler knows of its job and may ask of its worker. Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    facts: Facts,
    since: Instant,
    stop: Stop,
    states: Arc<States>,
    sink: Sink,
    children: Mutex<Vec<Parcel>>,
}

/// Which run this is.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) job: JobId,
    /// The first of the line of jobs that enqueued each other; the job itself when it has no parent.
    pub(crate) root: JobId,
    pub(crate) task: TaskName,
    pub(crate) attempt: u32,
    pub(crate) fence: Fence,
    /// When the attempt was claimed, by the store's clock.
    pub(crate) claimed: Timestamp,
    pub(crate) deadline: Option<Instant>,
}

/// A handler asked for state that the worker was not given.
#[derive(Debug, thiserror::Error)]
#[error("no state of type {0} was given to the worker")]
pub struct MissingState(&'static str);

/// A job that a handler could not enqueue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The job is not one that can be enqueued.
    #[error(transparent)]
    Invalid(#[from] InvalidJob),
    /// More children than one attempt may have.
    #[error("one attempt may enqueue at most {} jobs and {} MiB", limits::CHILDREN, limits::CHILDREN_BYTES >> 20)]
    TooMany,
}

impl Context {
    pub(crate) fn new(facts: Facts, stop: Stop, states: Arc<States>, sink: Sink) -> Self {
        Self(Arc::new(Inner {
            facts,
            since: Instant::now(),
            stop,
            states,
            sink,
            children: Mutex::default(),
        }))
    }

    /// The job's id.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.0.facts.job
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.facts.attempt
    }

    /// The claim of this run. It grows with every run of the job, so that a system that keeps the
    /// highest one it has seen can refuse a run that was taken for dead.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.0.facts.fence
    }

    /// The task's name.
    #[must_use]
    pub fn task(&self) -> &TaskName {
        &self.0.facts.task
    }

    /// When the attempt is stopped; `None` without a hard limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.facts.deadline
    }

    /// Whether the run is to end: its job was cancelled, its worker stops, or its time is over.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.stop.is(Step::Told)
    }

    /// Waits until the run is to end.
    pub async fn cancelled(&self) {
        self.0.stop.reaches(Step::Told).await;
    }

    /// What the worker was given with `Worker::state`.
    ///
    /// # Errors
    /// When it was given nothing of this type.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, MissingState> {
        self.0.states.get().ok_or(MissingState(type_name::<T>()))
    }

    /// Writes into the job's log, which is kept beside its record when the attempt has ended and as
    /// long as that: its newest lines, 64 KiB of them (`millhand limits`). `millhand job log` prints it.
    /// The worker's own log gets it too, with the job's id and task.
    pub fn log(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            self.say(Said::Line(line.to_owned()));
        }
    }

    /// Says how far the job is: `done` of `total` units of work, `total` being 0 where it is not known.
    /// What was said last is seen while the job runs, a few seconds late. Cheap enough for every step of
    /// a loop.
    pub fn progress(&self, done: u64, total: u64) {
        self.say(Said::Progress(Progress { done, total }));
    }

    fn say(&self, said: Said) {
        let Facts { job, task, .. } = &self.0.facts;
        match (&self.0.sink, said) {
            (Sink::Here(log), Said::Line(mut line)) => {
                cut(&mut line);
                tracing::info!(%job, %task, "{line}");
                log.add(Source::Said, line);
            }
            (Sink::Here(log), Said::Progress(progress)) => {
                tracing::trace!(%job, %task, %progress, "progress");
                log.set_progress(progress);
            }
            (Sink::Worker(send), said) => send(said),
        }
    }

    /// The time by the store's clock.
    fn now(&self) -> Timestamp {
        self.0.facts.claimed.plus(self.0.since.elapsed())
    }

    /// Enqueues a job with this one's success: it is durable before this job has ended, and is not
    /// enqueued when the attempt fails. Its id, unless it was given one, follows from this job's
    /// and from how many were enqueued before it, so that a second run makes no second child.
    ///
    /// # Errors
    /// When the job is not valid, or the attempt enqueued as many as it may.
    pub fn enqueue<T: Task>(&self, job: impl Into<Job<T>>) -> Result<JobId, EnqueueError> {
        let raw = job.into().into_raw()?;
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        let id = raw
            .given_id()
            .unwrap_or_else(|| JobId::child_of(self.job_id(), &children.len().to_string()));
        let mut core = raw.into_core(id, self.now(), None, None)?;
        core.parent = Some(self.job_id());
        core.root = Some(self.0.facts.root);
        let child = JobCopy::first(core);
        let bytes = children.iter().flat_map(Parcel::jobs).map(JobCopy::len).sum::<usize>() + child.len();
        if children.len() >= limits::CHILDREN || bytes > limits::CHILDREN_BYTES {
            return Err(EnqueueError::TooMany);
        }
        children.push(Parcel::of(child));
        Ok(id)
    }

    pub(crate) fn take_children(&self) -> Vec<Parcel> {
        std::mem::take(&mut self.0.children.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("facts", &self.0.facts)
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

/// Values given to the worker for its handlers, one per type.
#[derive(Default)]
pub(crate) struct States(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl States {
    /// Keeps `value`; an earlier one of its type is replaced.
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Arc::new(value));
    }

    fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>()).cloned()?.downcast().ok()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0.len())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use millhand_proto::AttemptLog;

    use super::*;
    use crate::log::JobLog;

    pub(crate) fn facts(task: &str) -> Facts {
        Facts {
            job: JobId::given("a job"),
            root: JobId::given("its root"),
            task: TaskName::new(task).unwrap(),
            attempt: 1,
            fence: Fence {
                hand: 0,
                claim: 1,
                token: 7,
            },
            claimed: Timestamp::from_micros(1_790_000_000_000_000),
            deadline: None,
        }
    }

    /// A log that nobody reads.
    pub(crate) fn here() -> Sink {
        Sink::Here(JobLog::default())
    }

    #[test]
    fn what_a_handler_says_reaches_the_log_or_the_worker() {
        let log = JobLog::default();
        let cx = |sink| Context::new(facts("t"), Stop::default(), Arc::default(), sink);
        let speak = |cx: Context| {
            cx.log("one\ntwo");
            cx.progress(1, 3);
            cx.log(String::new());
            cx.progress(2, 3);
        };
        speak(cx(Sink::Here(log.clone())));
        assert_eq!(log.progress(), Some(Progress { done: 2, total: 3 }));
        let kept = AttemptLog::decode(&log.take(1).unwrap()).unwrap();
        let lines: Vec<_> = kept.lines.iter().map(|l| (l.source, l.text.as_str())).collect();
        assert_eq!(lines, [(Source::Said, "one"), (Source::Said, "two")]);

        let sent = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&sent);
        speak(cx(Sink::Worker(Box::new(move |said| hears.lock().unwrap().push(said)))));
        let progress = |done| Said::Progress(Progress { done, total: 3 });
        let line = |text: &str| Said::Line(text.into());
        assert_eq!(
            *sent.lock().unwrap(),
            [line("one"), line("two"), progress(1), progress(2)]
        );
    }

    #[test]
    fn a_second_run_enqueues_the_same_children() {
        use crate::registry::tests::Double;
        let cx = || Context::new(facts("t"), Stop::default(), Arc::default(), here());
        let (first, second) = (cx(), cx());
        let a = first.enqueue(Double(1)).unwrap();
        let b = first.enqueue(Job::of(Double(2)).queue("slow")).unwrap();
        assert_ne!(a, b);
        assert_eq!(second.enqueue(Double(1)).unwrap(), a);
        let children = first.take_children();
        assert_eq!(children.len(), 2);
        let core = &children[1].jobs()[0].core;
        assert_eq!(
            (core.parent, core.root),
            (Some(first.job_id()), Some(JobId::given("its root")))
        );
        assert!(
            core.enqueued_at >= facts("t").claimed
                && core.enqueued_at < facts("t").claimed.plus(std::time::Duration::from_secs(60))
        );
        for _ in 1..limits::CHILDREN {
            second.enqueue(Double(1)).unwrap();
        }
        assert!(matches!(second.enqueue(Double(1)), Err(EnqueueError::TooMany)));
    }

    #[test]
    fn the_children_of_one_attempt_are_bounded_in_bytes() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Text(String);
        impl Task for Text {
            const NAME: &'static str = "text";
            type Output = ();
        }
        let text = |bytes: usize| Text("x".repeat(bytes));
        let piece = limits::CHILDREN_BYTES / 32;
        // What a child takes beside its text.
        let beside = {
            let cx = Context::new(facts("t"), Stop::default(), Arc::default(), here());
            cx.enqueue(text(piece)).unwrap();
            cx.take_children()[0].jobs()[0].len() - piece
        };
        let cx = Context::new(facts("t"), Stop::default(), Arc::default(), here());
        for _ in 1..32 {
            cx.enqueue(text(piece - beside)).unwrap();
        }
        let past = cx.enqueue(text(piece - beside + 1));
        assert!(matches!(past, Err(EnqueueError::TooMany)), "{past:?}");
        cx.enqueue(text(piece - beside)).unwrap();
        assert_eq!(cx.take_children().len(), 32, "what was refused is not enqueued");
    }

    #[test]
    fn state_is_found_by_its_type() {
        let mut states = States::default();
        states.insert(7_u32);
        states.insert(String::from("seven"));
        let cx = Context::new(facts("t"), Stop::default(), Arc::new(states), here());
        assert_eq!(*cx.state::<u32>().unwrap(), 7);
        assert_eq!(*cx.state::<String>().unwrap(), "seven");
        assert!(cx.state::<u64>().unwrap_err().to_string().contains("u64"));
    }
}
