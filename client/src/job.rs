//! A job before it is enqueued: a task's arguments and what its producer wants.

use std::time::Duration;

use millhand_proto::{
    Class, Codec, Core, JobId, Mailbox, Payload, QueueName, RetryWish, Task, TaskName, TimeLimits, Timestamp, limits,
    wire,
};

use crate::error::InvalidJob;

/// A point in time, or a span from the moment of enqueueing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    In(Duration),
    At(Timestamp),
}

impl When {
    fn resolve(self, name: &'static str, what: &'static str, now: Timestamp) -> Result<Timestamp, InvalidJob> {
        let at = match self {
            Self::In(span) => now.plus(span),
            Self::At(at) if at.is_plausible() => at,
            Self::At(at) => return Err(InvalidJob::BadTime { what: name, at }),
        };
        let ahead = at.since(now);
        if ahead > limits::HORIZON {
            return Err(InvalidJob::TooFar { what, ahead });
        }
        Ok(at)
    }
}

/// What a producer wants of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    queue: Option<String>,
    id: Option<JobId>,
    empty_id: bool,
    start: Option<When>,
    expiry: Option<When>,
    retries: Option<u32>,
    timeout: Option<Duration>,
    class: Class,
    tags: Vec<String>,
}

macro_rules! options {
    () => {
        /// Sends it to this queue instead of the task's own.
        #[must_use]
        pub fn queue(mut self, queue: impl Into<String>) -> Self {
            self.options.queue = Some(queue.into());
            self
        }

        /// Gives it this id: a UUID, or any text, of which a UUID is made. Enqueueing twice with
        /// one id is one job, while its record lives.
        #[must_use]
        pub fn id(mut self, id: impl AsRef<str>) -> Self {
            self.options.empty_id = id.as_ref().is_empty();
            self.options.id = Some(JobId::given(id.as_ref()));
            self
        }

        /// Gives it an id that is known, as after an enqueue of which nobody can say what became.
        #[must_use]
        pub fn job_id(mut self, id: JobId) -> Self {
            self.options.empty_id = false;
            self.options.id = Some(id);
            self
        }

        /// Starts it so long after it was enqueued, at the earliest.
        #[must_use]
        pub fn delay(mut self, delay: Duration) -> Self {
            self.options.start = Some(When::In(delay));
            self
        }

        /// Starts it at this time, at the earliest.
        #[must_use]
        pub fn not_before(mut self, time: Timestamp) -> Self {
            self.options.start = Some(When::At(time));
            self
        }

        /// Lets it expire when it has not started so long after it was enqueued.
        #[must_use]
        pub fn expires_in(mut self, span: Duration) -> Self {
            self.options.expiry = Some(When::In(span));
            self
        }

        /// Lets it expire when it has not started at this time.
        #[must_use]
        pub fn expires_at(mut self, time: Timestamp) -> Self {
            self.options.expiry = Some(When::At(time));
            self
        }

        /// Attempts after the first; rules over the worker's policy.
        #[must_use]
        pub fn retries(mut self, retries: u32) -> Self {
            self.options.retries = Some(retries);
            self
        }

        /// The hard limit of one attempt: then it is stopped.
        #[must_use]
        pub fn timeout(mut self, limit: Duration) -> Self {
            self.options.timeout = Some(limit);
            self
        }

        /// How urgent it is among the jobs of its queue.
        #[must_use]
        pub fn class(mut self, class: Class) -> Self {
            self.options.class = class;
            self
        }

        /// Adds a tag, by which people find it.
        #[must_use]
        pub fn tag(mut self, tag: impl Into<String>) -> Self {
            self.options.tags.push(tag.into());
            self
        }
    };
}

/// One call of a task, and what its producer wants of it. It is checked when it is enqueued.
///
/// ```
/// # use millhand_proto::Task;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Resize { image: u64 }
/// # impl Task for Resize { const NAME: &'static str = "resize"; type Output = String; }
/// use std::time::Duration;
///
/// use millhand_client::Job;
/// use millhand_proto::Class;
///
/// let job = Job::of(Resize { image: 7 })
///     .queue("slow")
///     .id("invoice 7")                      // twice with one id is one job
///     .delay(Duration::from_secs(300))
///     .expires_in(Duration::from_secs(3600))
///     .retries(3)
///     .timeout(Duration::from_secs(30))
///     .class(Class::High)
///     .tag("customer-9");
/// # let _ = job;
/// ```
#[derive(Clone, Debug)]
pub struct Job<T> {
    task: T,
    options: Options,
}

impl<T: Task> Job<T> {
    /// A call of `task`, with nothing special.
    #[must_use]
    pub fn of(task: T) -> Self {
        Self {
            task,
            options: Options::default(),
        }
    }

    options!();

    pub(crate) fn given_id(&self) -> Option<JobId> {
        self.options.id
    }

    /// The same job without its type.
    ///
    /// # Errors
    /// When the task's name cannot be used, or its arguments cannot be encoded.
    pub fn into_raw(self) -> Result<RawJob, InvalidJob> {
        let mut options = self.options;
        if options.queue.is_none() && T::QUEUE != "default" {
            options.queue = Some(T::QUEUE.to_owned());
        }
        Ok(RawJob {
            task: TaskName::new(T::NAME)?,
            args: Payload::encode(&self.task)?,
            options,
        })
    }
}

impl<T: Task> From<T> for Job<T> {
    fn from(task: T) -> Self {
        Self::of(task)
    }
}

/// A job whose task is known by name only, as on the command line.
///
/// ```
/// use millhand_client::RawJob;
/// use millhand_proto::{Payload, TaskName};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let job = RawJob::new(TaskName::new("wordcount")?, Payload::json(r#""a b c""#)?).retries(0);
/// # let _ = job;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RawJob {
    task: TaskName,
    args: Payload,
    options: Options,
}

impl RawJob {
    /// A call of the task of this name.
    #[must_use]
    pub fn new(task: TaskName, args: Payload) -> Self {
        Self {
            task,
            args,
            options: Options::default(),
        }
    }

    options!();

    /// The id that it was given, if any.
    #[must_use]
    pub fn given_id(&self) -> Option<JobId> {
        self.options.id
    }

    /// Bytes that it takes in a parcel, about.
    pub(crate) fn weight(&self) -> usize {
        self.args.bytes.len() + self.options.tags.iter().map(String::len).sum::<usize>() + 192
    }

    /// The job as it travels, enqueued at `now` under `id`.
    ///
    /// # Errors
    /// When a name, a time, a tag or the size of the arguments is not allowed.
    pub fn into_core(
        self,
        id: JobId,
        now: Timestamp,
        mailbox: Option<Mailbox>,
        producer: Option<String>,
    ) -> Result<Core, InvalidJob> {
        let options = self.options;
        if options.empty_id {
            return Err(InvalidJob::EmptyId);
        }
        let bytes = self.args.bytes.len();
        if bytes > limits::ARGS_BYTES {
            return Err(InvalidJob::ArgsTooBig {
                bytes,
                limit: limits::ARGS_BYTES,
            });
        }
        if self.args.codec == Codec::MessagePack {
            // What a worker would refuse to decode is refused here, where someone can mend it.
            wire::scan(&self.args.bytes).map_err(|e| InvalidJob::Args(e.into()))?;
        }
        if options.tags.len() > limits::TAGS || options.tags.iter().any(|t| !(1..=limits::TAG_BYTES).contains(&t.len()))
        {
            return Err(InvalidJob::Tags);
        }
        let not_before = options
            .start
            .map(|w| w.resolve("not_before", "the delay", now))
            .transpose()?;
        let expires = options
            .expiry
            .map(|w| w.resolve("expires_at", "the expiry", now))
            .transpose()?;
        if let (Some(start), Some(end)) = (not_before, expires)
            && end <= start
        {
            return Err(InvalidJob::ExpiresFirst);
        }
        let hard_ms = match options.timeout {
            Some(Duration::ZERO) => return Err(InvalidJob::NoTime),
            // Part of a millisecond is one: it must not become none.
            Some(limit) => Some(u64::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)),
            None => None,
        };
        Ok(Core {
            id,
            task: self.task,
            args: self.args.bytes,
            codec: self.args.codec.number(),
            task_version: 0,
            queue: options
                .queue
                .as_deref()
                .map_or(Ok(QueueName::default()), QueueName::new)?,
            class: options.class,
            enqueued_at: now,
            // A time that is past is no delay, and needs no trip over the ladder.
            not_before: not_before.filter(|t| *t > now),
            expires,
            limits: TimeLimits { soft_ms: None, hard_ms },
            retry: RetryWish {
                retries: options.retries,
                ..RetryWish::default()
            },
            tags: options.tags,
            parent: None,
            root: None,
            producer,
            mailbox,
            not_understood: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawJob {
        RawJob::new(TaskName::new("t").unwrap(), Payload::json("1").unwrap())
    }

    fn core(job: RawJob) -> Result<Core, String> {
        let now = Timestamp::from_micros(1_790_000_000_000_000);
        job.into_core(JobId::given("x"), now, None, None)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_its_reason() {
        let sec = Duration::from_secs(1);
        let big = Payload::json(format!("\"{}\"", "x".repeat(limits::ARGS_BYTES))).unwrap();
        for (job, why) in [
            (raw().queue("Mail"), "queue name"),
            (raw().id(""), "empty"),
            (raw().delay(limits::HORIZON + sec), "the delay lies 366.0 days ahead"),
            (raw().expires_in(Duration::MAX), "the expiry"),
            (
                raw().not_before(Timestamp::from_micros(1_790_000_000)),
                "seconds or milliseconds",
            ),
            (raw().delay(sec).expires_in(sec), "before it is due"),
            (raw().timeout(Duration::ZERO), "no time"),
            (raw().tag("x".repeat(65)), "tags"),
            (raw().tag(""), "tags"),
            ((0..9).fold(raw(), |j, n| j.tag(n.to_string())), "at most 8 tags"),
            (
                RawJob::new(TaskName::new("t").unwrap(), big),
                "1048578 bytes; the limit \"arguments\" is 1048576",
            ),
        ] {
            let error = core(job).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn limits_at_their_edge() {
        let args = |bytes: usize| {
            let args = Payload::json(format!("\"{}\"", "x".repeat(bytes - 2))).unwrap();
            core(RawJob::new(TaskName::new("t").unwrap(), args))
        };
        assert!(args(limits::ARGS_BYTES).is_ok());
        assert!(args(limits::ARGS_BYTES + 1).unwrap_err().contains("\"arguments\""));
        let micro = Duration::from_micros(1);
        for at in [raw().delay(limits::HORIZON), raw().expires_in(limits::HORIZON)] {
            assert!(core(at).is_ok());
        }
        for past in [
            raw().delay(limits::HORIZON + micro),
            raw().expires_in(limits::HORIZON + micro),
        ] {
            assert!(core(past).unwrap_err().contains("\"horizon\""));
        }
        let tags = |count: usize| (0..count).fold(raw(), |job, _| job.tag("x".repeat(limits::TAG_BYTES)));
        assert!(core(tags(limits::TAGS)).is_ok());
        assert!(core(tags(limits::TAGS + 1)).is_err());
    }

    #[test]
    fn what_is_allowed_arrives() {
        let job = raw()
            .queue("slow")
            .delay(Duration::from_secs(5))
            .expires_in(Duration::from_secs(9))
            .retries(0);
        let core = core(job.timeout(Duration::from_micros(1)).class(Class::Low).tag("a")).unwrap();
        assert_eq!(core.queue.as_str(), "slow");
        assert_eq!(core.not_before, Some(core.enqueued_at.plus(Duration::from_secs(5))));
        assert_eq!(core.expires, Some(core.enqueued_at.plus(Duration::from_secs(9))));
        assert_eq!(core.limits.hard_ms, Some(1));
        assert_eq!((core.retry.retries, core.class, core.codec), (Some(0), Class::Low, 1));
        assert_eq!(super::RawJob::given_id(&raw().id("a")), Some(JobId::given("a")));
    }
}
