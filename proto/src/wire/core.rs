//! The core of a job: what never changes, copied verbatim whenever the job is published again.

use bytes::Bytes;

use super::WireError;
use super::value::{self, Fields};
use crate::class::Class;
use crate::id::{JobId, Mailbox};
use crate::limits;
use crate::name::{QueueName, TaskName};
use crate::policy::{RetryWish, TimeLimits};
use crate::time::Timestamp;

/// Fields that are reserved: kept, not interpreted by this build.
pub(super) const RESERVED: &[&str] = &["sh", "tn", "ck", "uk", "dp", "wf", "sc", "tp", "ts", "bl", "tr", "re"];

/// What this build understands of a job's core. The bytes themselves travel on unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// `i`: the job's id.
    pub id: JobId,
    /// `t`: the task's name.
    pub task: TaskName,
    /// `a`: the arguments, opaque.
    pub args: Bytes,
    /// `ct`: the codec's number; one that this build does not know parks the job.
    pub codec: u8,
    /// `tv`: the task's version; 0 when not said.
    pub task_version: u32,
    /// `q`: the queue.
    pub queue: QueueName,
    /// `p`: the class.
    pub class: Class,
    /// `ea`: when it was enqueued, by the producer's clock.
    pub enqueued_at: Timestamp,
    /// `nb`: not before this.
    pub not_before: Option<Timestamp>,
    /// `xp`: not after this.
    pub expires: Option<Timestamp>,
    /// `to`: time limits.
    pub limits: TimeLimits,
    /// `rp`: what the producer said of retries.
    pub retry: RetryWish,
    /// `tg`: tags.
    pub tags: Vec<String>,
    /// `pa`: the job that enqueued this one.
    pub parent: Option<JobId>,
    /// `ro`: the first of that line.
    pub root: Option<JobId>,
    /// `by`: the producer, as it names itself.
    pub producer: Option<String>,
    /// `mb`: the mailbox that is told when the job ends.
    pub mailbox: Option<Mailbox>,
    /// Keys that must be understood and are not, the first few; the job is parked.
    pub not_understood: Vec<String>,
}

impl Core {
    /// A job of this task that says nothing else: no arguments, defaults everywhere.
    #[must_use]
    pub fn new(id: JobId, task: TaskName, queue: QueueName, enqueued_at: Timestamp) -> Self {
        Self {
            id,
            task,
            args: Bytes::new(),
            codec: 0,
            task_version: 0,
            queue,
            class: Class::default(),
            enqueued_at,
            not_before: None,
            expires: None,
            limits: TimeLimits::default(),
            retry: RetryWish::default(),
            tags: Vec::new(),
            parent: None,
            root: None,
            producer: None,
            mailbox: None,
            not_understood: Vec::new(),
        }
    }
}

/// Fields as they are found, header first, then the job's own over them.
#[derive(Clone, Default)]
pub(super) struct Draft {
    id: Option<JobId>,
    task: Option<TaskName>,
    args: Option<Bytes>,
    codec: u8,
    task_version: u32,
    queue: Option<QueueName>,
    class: Class,
    enqueued_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
    limits: TimeLimits,
    retry: RetryWish,
    tags: Vec<String>,
    parent: Option<JobId>,
    root: Option<JobId>,
    producer: Option<String>,
    mailbox: Option<Mailbox>,
    not_understood: Vec<String>,
}

impl Draft {
    /// The id, once a core was read: a job that is bad otherwise can still be recorded as dead.
    pub(super) fn id(&self) -> Option<JobId> {
        self.id
    }

    /// Notes a key that must be understood and is not.
    pub(super) fn must_understand(&mut self, key: &str) {
        value::note(&mut self.not_understood, key);
    }

    /// Reads the map at the start of `bytes` over what is here; answers its length.
    ///
    /// `source` is the buffer that `bytes` is a part of, so that arguments are not copied.
    pub(super) fn read(&mut self, source: &Bytes, bytes: &[u8]) -> Result<usize, WireError> {
        let (fields, end) = Fields::of(bytes)?;
        // The id is looked for even when another field is bad.
        let mut first_error = None;
        for field in fields {
            let (key, value) = field?;
            if let Err(error) = self.field(source, key, value) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(end), Err)
    }

    fn field(&mut self, source: &Bytes, key: &str, value: &[u8]) -> Result<(), WireError> {
        let wrong = |expected| value::wrong(key, expected);
        match key {
            "i" => self.id = Some(JobId::from_bytes(value::bytes16(key, value)?)),
            "t" => self.task = Some(TaskName::new(value::text(key, value)?)?),
            "a" => self.args = Some(source.slice_ref(value::bin(key, value)?)),
            "ct" => self.codec = u8::try_from(value::uint(key, value)?).map_err(|_| wrong("a codec number"))?,
            "tv" => self.task_version = value::small(key, value)?,
            "q" => self.queue = Some(QueueName::new(value::text(key, value)?)?),
            "p" => {
                let number = u8::try_from(value::uint(key, value)?).map_err(|_| wrong("a class"))?;
                self.class = Class::try_from(number).map_err(|_| wrong("a class (0, 1 or 2)"))?;
            }
            "ea" => self.enqueued_at = Some(value::time(key, value)?),
            "nb" => self.not_before = Some(value::time(key, value)?),
            "xp" => self.expires = Some(value::time(key, value)?),
            "to" => self.limits = rmp_serde::from_slice(value).map_err(|_| wrong("a map of time limits"))?,
            "rp" => self.retry = rmp_serde::from_slice(value).map_err(|_| wrong("a map of retry settings"))?,
            "tg" => {
                // Counted before anything is made of them.
                let count = rmp::decode::read_array_len(&mut &*value).map_err(|_| wrong("a list of text"))?;
                if count as usize > limits::TAGS {
                    return Err(wrong("at most 8 tags of at most 64 bytes"));
                }
                let tags: Vec<String> = rmp_serde::from_slice(value).map_err(|_| wrong("a list of text"))?;
                if tags.iter().any(|t| t.len() > limits::TAG_BYTES) {
                    return Err(wrong("at most 8 tags of at most 64 bytes"));
                }
                self.tags = tags;
            }
            "pa" => self.parent = Some(JobId::from_bytes(value::bytes16(key, value)?)),
            "ro" => self.root = Some(JobId::from_bytes(value::bytes16(key, value)?)),
            "by" => self.producer = Some(value::text(key, value)?.chars().take(128).collect()),
            "mb" => self.mailbox = Some(Mailbox::from_bytes(value::bytes16(key, value)?)),
            // Arguments that this build could not read are as good as a field that it must know.
            "z" | "e" => self.must_understand(key),
            _ if RESERVED.contains(&key) => {}
            _ if key.starts_with(|c: char| c.is_ascii_uppercase()) => {
                self.must_understand(key);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Core, WireError> {
        Ok(Core {
            id: self.id.ok_or(WireError::Missing("i"))?,
            task: self.task.ok_or(WireError::Missing("t"))?,
            args: self.args.ok_or(WireError::Missing("a"))?,
            codec: self.codec,
            task_version: self.task_version,
            queue: self.queue.ok_or(WireError::Missing("q"))?,
            class: self.class,
            enqueued_at: self.enqueued_at.ok_or(WireError::Missing("ea"))?,
            not_before: self.not_before,
            expires: self.expires,
            limits: self.limits,
            retry: self.retry,
            tags: self.tags,
            parent: self.parent,
            root: self.root,
            producer: self.producer,
            mailbox: self.mailbox,
            not_understood: self.not_understood,
        })
    }
}

impl Core {
    /// Writes what all jobs of a parcel share: queue, class, time, producer and mailbox.
    pub(super) fn put_common(&self, out: &mut Vec<u8>) {
        let fields = 3 + usize::from(self.producer.is_some()) + usize::from(self.mailbox.is_some());
        value::put_map(out, fields);
        value::put_text(out, "q");
        value::put_text(out, self.queue.as_str());
        value::put_text(out, "p");
        value::put_uint(out, u64::from(self.class.number()));
        value::put_text(out, "ea");
        value::put_time(out, self.enqueued_at);
        if let Some(producer) = &self.producer {
            value::put_text(out, "by");
            value::put_text(out, producer);
        }
        if let Some(mailbox) = &self.mailbox {
            value::put_text(out, "mb");
            value::put_bin(out, mailbox.as_bytes());
        }
    }

    /// Writes what is the job's own.
    pub(super) fn put_own(&self, out: &mut Vec<u8>) {
        let flags = [
            self.codec != 0,
            self.task_version != 0,
            self.not_before.is_some(),
            self.expires.is_some(),
            !self.limits.is_empty(),
            !self.retry.is_empty(),
            !self.tags.is_empty(),
            self.parent.is_some(),
            self.root.is_some(),
        ];
        value::put_map(out, 3 + flags.iter().filter(|f| **f).count());
        value::put_text(out, "i");
        value::put_bin(out, self.id.as_bytes());
        value::put_text(out, "t");
        value::put_text(out, self.task.as_str());
        if self.codec != 0 {
            value::put_text(out, "ct");
            value::put_uint(out, u64::from(self.codec));
        }
        if self.task_version != 0 {
            value::put_text(out, "tv");
            value::put_uint(out, u64::from(self.task_version));
        }
        for (key, time) in [("nb", self.not_before), ("xp", self.expires)] {
            if let Some(time) = time {
                value::put_text(out, key);
                value::put_time(out, time);
            }
        }
        if !self.limits.is_empty() {
            value::put_text(out, "to");
            put_serde(out, &self.limits);
        }
        if !self.retry.is_empty() {
            value::put_text(out, "rp");
            put_serde(out, &self.retry);
        }
        if !self.tags.is_empty() {
            value::put_text(out, "tg");
            put_serde(out, &self.tags);
        }
        for (key, id) in [("pa", &self.parent), ("ro", &self.root)] {
            if let Some(id) = id {
                value::put_text(out, key);
                value::put_bin(out, id.as_bytes());
            }
        }
        value::put_text(out, "a");
        value::put_bin(out, &self.args);
    }
}

/// For the few small maps and lists; none of these types can fail to encode.
fn put_serde<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) {
    if let Ok(bytes) = rmp_serde::to_vec_named(value) {
        out.extend_from_slice(&bytes);
    }
}
