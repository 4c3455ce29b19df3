//! The frames between a worker and its child processes, as `docs/child-protocol.md` says: a length,
//! then a MessagePack map with one key, the frame's kind. What comes from a child is not trusted.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use millhand_proto::{ErrorText, Fence, JobId, Outcome, Parcel, Payload, TaskName, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The version of the protocol.
pub(crate) const VERSION: u32 = 1;

/// Bytes of one frame after its length: the largest arguments or children, and some room.
pub(crate) const FRAME_BYTES: usize = 18 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// Child to worker, once.
    #[serde(rename = "hello")]
    Hello(Hello),
    /// Worker to child: a job.
    #[serde(rename = "run")]
    Run(RunFrame),
    /// Child to worker: its end.
    #[serde(rename = "done")]
    Done(Done),
    /// Worker to child: the job is to end.
    #[serde(rename = "cancel")]
    Cancel(Cancel),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    #[serde(rename = "v")]
    pub(crate) version: u32,
    #[serde(rename = "p")]
    pub(crate) pid: u32,
    #[serde(rename = "t")]
    pub(crate) tasks: Vec<TaskName>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunFrame {
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
    /// Codec and bytes.
    #[serde(rename = "a")]
    pub(crate) args: Payload,
    /// Milliseconds until the job is killed.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cancel {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
}

/// Times are microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    #[serde(rename = "i")]
    pub(crate) job: JobId,
    #[serde(rename = "o")]
    pub(crate) answer: Answer,
    #[serde(rename = "w", default)]
    pub(crate) run: u64,
    #[serde(rename = "n", default)]
    pub(crate) encode: u64,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<u64>,
    /// Parcels that the job enqueued, as on the wire.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) children: Vec<Bytes>,
}

/// The outcomes that a child may report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    #[serde(rename = "ok")]
    Ok(Payload),
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
}

impl Answer {
    /// What a handler's outcome is on the wire. The outcomes that only the worker can know become
    /// failures; no handler makes them.
    pub(crate) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(result) => Self::Ok(result),
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

    pub(crate) fn into_outcome(self) -> Outcome {
        match self {
            Self::Ok(result) => Outcome::Succeeded(result),
            Self::Failed { error, retry_in_ms } => {
                let retry_in = retry_in_ms.map(Duration::from_millis);
                Outcome::Failed {
                    error: ErrorText::new(error),
                    retry_in,
                }
            }
            Self::Fatal { reason, error } => Outcome::Fatal {
                reason: reason.chars().take(64).collect(),
                error: ErrorText::new(error),
            },
            Self::Snooze { delay_ms } => Outcome::Snoozed(Duration::from_millis(delay_ms)),
        }
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
    #[error("it answered job {0}, which it was not given")]
    OtherJob(JobId),
    #[error("a frame that only a worker sends, or a second hello")]
    Unexpected,
    #[error("the stream ended inside a frame")]
    Cut,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Frame {
    /// The frame with its length before it.
    pub(crate) fn encode(&self) -> Result<Bytes, FrameError> {
        let mut bytes = vec![0; 4];
        rmp_serde::encode::write_named(&mut bytes, self)?;
        let body = bytes.len() - 4;
        let length = u32::try_from(body).map_err(|_| FrameError::TooLong(body))?;
        if body > FRAME_BYTES {
            return Err(FrameError::TooLong(body));
        }
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        Ok(bytes.into())
    }

    fn decode(body: &[u8]) -> Result<Self, FrameError> {
        millhand_proto::wire::scan(body)?;
        Ok(rmp_serde::from_slice(body)?)
    }

    /// Writes the frame, blocking.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> Result<(), FrameError> {
        Ok(out.write_all(&self.encode()?)?)
    }

    /// Reads one frame, blocking; `None` at the end of the stream.
    pub(crate) fn read_from(stream: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut length = [0; 4];
        match stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let length = checked(u32::from_be_bytes(length))?;
        let mut body = Vec::new();
        stream.take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(FrameError::Cut);
        }
        Self::decode(&body).map(Some)
    }
}

fn checked(length: u32) -> Result<usize, FrameError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > FRAME_BYTES {
        Err(FrameError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// The parcels in a done frame.
pub(crate) fn parcels(children: &[Bytes]) -> Result<Vec<Parcel>, FrameError> {
    let whole = |bytes| match Parcel::decode(bytes) {
        Ok(opened) if opened.bad.is_empty() => opened.parcel.ok_or(FrameError::Children),
        _ => Err(FrameError::Children),
    };
    children.iter().map(whole).collect()
}

/// The worker's reading end. [`Frames::next`] may be dropped at any await without losing bytes.
pub(crate) struct Frames<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Cut)
                };
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = checked(u32::from_be_bytes(*length))?;
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let body = self.buffer.split_to(length);
        // A warm child must not hold the memory of its largest answer.
        if self.buffer.is_empty() && body.len() > 1 << 20 {
            self.buffer = BytesMut::new();
        }
        Frame::decode(&body).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel() -> Frame {
        Frame::Cancel(Cancel { job: JobId::given("x") })
    }

    #[tokio::test]
    async fn both_readers_take_what_was_written_and_end_at_the_end() {
        let bytes = [cancel().encode().unwrap(), cancel().encode().unwrap()].concat();
        let (mut a, mut b) = (Frames::new(&bytes[..]), &bytes[..]);
        for _ in 0..2 {
            assert!(matches!(a.next().await.unwrap(), Some(Frame::Cancel(_))));
            assert!(matches!(Frame::read_from(&mut b).unwrap(), Some(Frame::Cancel(_))));
        }
        assert!(a.next().await.unwrap().is_none());
        assert!(Frame::read_from(&mut b).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_without_allocating_it() {
        let cut = &cancel().encode().unwrap()[..9];
        let unknown = [0, 0, 0, 3, 0x81, 0xa0, 0xc0];
        for bad in [&[0xff; 8][..], &[0, 0, 0, 1, 0xc1], &unknown, cut] {
            assert!(Frames::new(bad).next().await.is_err(), "{bad:?}");
            assert!(Frame::read_from(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_cancel_is_these_bytes() {
        let job = JobId::from_bytes([7; 16]);
        let mut expected = vec![0, 0, 0, 29, 0x81, 0xa6];
        expected.extend(b"cancel");
        expected.extend([0x81, 0xa1, b'i', 0xc4, 16]);
        expected.extend([7; 16]);
        assert_eq!(Frame::Cancel(Cancel { job }).encode().unwrap(), expected);
    }
}
