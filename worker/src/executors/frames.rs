//! The frames between a worker and its child processes, as `docs/child-protocol.md` says: a length,
//! then a MessagePack map with one key, the frame's kind. What comes from a child is not trusted.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::limits::{CHILD_JOBS, CHILDREN};
use millhand_proto::{Codec, ErrorText, Fence, JobId, Outcome, Parcel, TaskName, Timestamp};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The version of the protocol.
pub(crate) const VERSION: u32 = 1;

/// Bytes of one frame after its length: the largest arguments or children, and some room.
pub(crate) const FRAME_BYTES: usize = 18 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// Child to worker, once.
    #[serde(rename = "hello")]
    Hello(Hello),
    /// Worker to child: jobs.
    #[serde(rename = "run")]
    Run(#[serde(deserialize_with = "few::<_, _, CHILD_JOBS>")] Vec<RunJob>),
    /// Child to worker: their ends.
    #[serde(rename = "done")]
    Done(#[serde(deserialize_with = "few::<_, _, CHILD_JOBS>")] Vec<Done>),
    /// Worker to child: the job is to end.
    #[serde(rename = "cancel")]
    Cancel(Cancel),
    /// Child to worker: a line for the job's log.
    #[serde(rename = "log")]
    Log(LogLine),
    /// Child to worker: how far the job is.
    #[serde(rename = "progress")]
    Progress(Progress),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    #[serde(rename = "v")]
    pub(crate) version: u32,
    #[serde(rename = "p")]
    pub(crate) pid: u32,
    #[serde(rename = "t", deserialize_with = "few::<_, _, TASKS>")]
    pub(crate) tasks: Vec<TaskName>,
    /// Jobs that the child may hold at once.
    #[serde(rename = "w", default = "one")]
    pub(crate) window: usize,
    /// Whether payloads may come and go by descriptor.
    #[serde(rename = "fd", default)]
    pub(crate) descriptors: bool,
}

fn one() -> usize {
    1
}

/// Tasks that a child may name.
const TASKS: usize = 10_000;

/// A list of at most `MOST`: a longer one is refused before more of it is held.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(list: D) -> Result<Vec<T>, D::Error> {
    struct Few<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Few<T, MOST> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut few = Vec::new();
            while let Some(item) = list.next_element()? {
                if few.len() == MOST {
                    return Err(serde::de::Error::invalid_length(MOST + 1, &self));
                }
                few.push(item);
            }
            Ok(few)
        }
    }
    list.deserialize_seq(Few::<T, MOST>(PhantomData))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunJob {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
    #[serde(rename = "ro")]
    pub(crate) root: JobId,
    #[serde(rename = "n")]
    pub(crate) attempt: u32,
    #[serde(rename = "f")]
    pub(crate) fence: Fence,
    /// Microseconds, by the store's clock.
    #[serde(rename = "at")]
    pub(crate) claimed: Timestamp,
    #[serde(rename = "t")]
    pub(crate) task: TaskName,
    #[serde(rename = "a")]
    pub(crate) args: Carried,
    /// Milliseconds until the job is asked to end.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(crate) soft_ms: Option<u64>,
    /// Milliseconds until the job is killed.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<u64>,
}

/// A payload in a frame: its bytes, or the length of the file whose descriptor comes with the frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carried {
    #[serde(rename = "c", default)]
    pub(crate) codec: Codec,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<Bytes>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cancel {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogLine {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
    #[serde(rename = "m")]
    pub(crate) text: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
    #[serde(rename = "d")]
    pub(crate) done: u64,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<u64>,
}

/// Times are microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
    #[serde(rename = "o")]
    pub(crate) end: End,
    #[serde(rename = "w", default)]
    pub(crate) run: u64,
    #[serde(rename = "n", default)]
    pub(crate) encode: u64,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<u64>,
    /// Parcels that the job enqueued, as on the wire.
    #[serde(
        rename = "c",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "few::<_, _, CHILDREN>"
    )]
    pub(crate) children: Vec<Bytes>,
}

impl Done {
    /// An end without a handler.
    pub(crate) fn only(job: JobId, end: End) -> Self {
        Self {
            job,
            end,
            run: 0,
            encode: 0,
            cpu: None,
            children: Vec::new(),
        }
    }
}

/// The ends that a child may report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum End {
    #[serde(rename = "ok")]
    Ok(Carried),
    #[serde(rename = "failed")]
    Failed {
        #[serde(rename = "x")]
        error: String,
        #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
    },
    #[serde(rename = "fatal")]
    Fatal {
        #[serde(rename = "w")]
        reason: String,
        #[serde(rename = "x")]
        error: String,
    },
    #[serde(rename = "snooze")]
    Snooze {
        #[serde(rename = "d")]
        delay_ms: u64,
    },
    /// The job had not begun when it was cancelled.
    #[serde(rename = "back")]
    Back(()),
}

impl End {
    /// What a handler's outcome is in a frame. The outcomes that only the worker can know become
    /// failures; no handler makes them.
    pub(crate) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(result) => Self::Ok(Carried {
                codec: result.codec,
                bytes: Some(result.bytes),
                length: None,
            }),
            Outcome::Failed { error, retry_in } => Self::Failed {
                error: error.as_str().to_owned(),
                retry_in_ms: retry_in.map(millis),
            },
            Outcome::Fatal { reason, error } => Self::Fatal {
                reason,
                error: error.as_str().to_owned(),
            },
            Outcome::Snoozed(delay) => Self::Snooze {
                delay_ms: millis(delay),
            },
            other @ (Outcome::Cancelled | Outcome::TimedOut(_) | Outcome::Crashed { .. } | Outcome::Interrupted) => {
                Self::Failed {
                    error: format!("{other:?}"),
                    retry_in_ms: None,
                }
            }
        }
    }

    pub(crate) fn failed(error: impl Into<String>) -> Self {
        Self::Failed {
            error: error.into(),
            retry_in_ms: None,
        }
    }
}

/// The outcome of a failure that a child reported.
pub(crate) fn failure(error: String, retry_in_ms: Option<u64>) -> Outcome {
    Outcome::Failed {
        error: ErrorText::new(error),
        retry_in: retry_in_ms.map(Duration::from_millis),
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A frame that cannot be read or written; the other side is not to be spoken to any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES}")]
    TooLong(usize),
    #[error("the frame cannot be written: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    #[error("the frame is no MessagePack: {0}")]
    Malformed(#[from] millhand_proto::WireError),
    #[error("the frame is none of this protocol: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    #[error("a parcel of children cannot be read")]
    Children,
    #[error("it answered job {0}, which it was not given or which was not the next")]
    OtherJob(JobId),
    #[error("a frame that only the other side sends, or a second hello")]
    Unexpected,
    #[error("a payload that cannot be taken: {0}")]
    Payload(&'static str),
    #[error("the stream ended inside a frame")]
    Cut,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Frame {
    /// Appends the frame with its length before it; nothing when it fails.
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        let written = rmp_serde::encode::write_named(bytes, self);
        let body = bytes.len() - start - 4;
        let length = u32::try_from(body).ok().filter(|_| body <= FRAME_BYTES);
        match (written, length) {
            (Ok(()), Some(length)) => {
                bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
                Ok(())
            }
            (written, _) => {
                bytes.truncate(start);
                written?;
                Err(FrameError::TooLong(body))
            }
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FrameError> {
        millhand_proto::wire::scan(body)?;
        Ok(rmp_serde::from_slice(body)?)
    }
}

/// The parcels in an answer.
pub(crate) fn parcels(children: &[Bytes]) -> Result<Vec<Parcel>, FrameError> {
    let whole = |bytes| match Parcel::decode(bytes) {
        Ok(opened) if opened.bad.is_empty() => opened.parcel.ok_or(FrameError::Children),
        _ => Err(FrameError::Children),
    };
    children.iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_these_bytes() {
        let job = JobId::from_bytes([7; 16]);
        let mut expected = vec![0, 0, 0, 29, 0x81, 0xa6];
        expected.extend(b"cancel");
        expected.extend([0x81, 0xa1, b'i', 0xc4, 16]);
        expected.extend([7; 16]);
        let mut bytes = Vec::new();
        Frame::Cancel(Cancel { job }).append_to(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_end_is_a_map_with_one_key() {
        let back = Frame::Done(vec![Done::only(JobId::from_bytes([7; 16]), End::Back(()))]);
        let mut bytes = Vec::new();
        back.append_to(&mut bytes).unwrap();
        let end = b"\xa1o\x81\xa4back\xc0";
        assert!(bytes.windows(end.len()).any(|part| part == end), "{bytes:02x?}");
        let again = Frame::decode(&bytes[4..]).unwrap();
        assert!(matches!(again, Frame::Done(done) if matches!(done[0].end, End::Back(()))));
    }

    #[test]
    fn lists_end_at_their_limits() {
        let reads = |frame: Frame| {
            let mut bytes = Vec::new();
            frame.append_to(&mut bytes).unwrap();
            Frame::decode(&bytes[4..]).map(drop).map_err(|e| e.to_string())
        };
        let done = || Done::only(JobId::from_bytes([7; 16]), End::Back(()));
        let answers = |count: usize| reads(Frame::Done((0..count).map(|_| done()).collect()));
        assert_eq!(answers(CHILD_JOBS), Ok(()));
        assert!(answers(CHILD_JOBS + 1).unwrap_err().contains("at most 64"));
        let children = |count: usize| {
            let children = vec![Bytes::new(); count];
            reads(Frame::Done(vec![Done { children, ..done() }]))
        };
        assert_eq!(children(CHILDREN), Ok(()));
        assert!(children(CHILDREN + 1).unwrap_err().contains("at most 1000"));
        let tasks = |count: usize| {
            reads(Frame::Hello(Hello {
                version: VERSION,
                pid: 1,
                tasks: vec![TaskName::new("a").unwrap(); count],
                window: 1,
                descriptors: false,
            }))
        };
        assert_eq!(tasks(TASKS), Ok(()));
        assert!(tasks(TASKS + 1).is_err());
    }
}
