//! Frames over a Unix socket, with the descriptors that travel beside them. One call, one system call:
//! the worker waits with tokio, a child blocks.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, send, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::frames::{Carried, FRAME_BYTES, Frame, FrameError};
use super::shared;

/// Descriptors that come with one system call, and that may wait for their frame.
const DESCRIPTORS: usize = 16;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// The worker's end, for tokio to watch for `interest` alone.
#[allow(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
pub(super) fn registered(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: a `UnixStream` owns its descriptor, which is open and the same until the stream is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest)? })
}

/// The reading end.
pub(crate) struct Inbox {
    buffer: BytesMut,
    chunk: Box<[u8]>,
    descriptors: VecDeque<OwnedFd>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            descriptors: VecDeque::new(),
        }
    }

    /// One that has received these bytes.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        Self {
            buffer: bytes.into(),
            ..Self::new()
        }
    }

    /// Reads what there is; 0 at the end of the stream.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = if cfg!(target_os = "linux") {
            cloexec()
        } else {
            RecvFlags::empty()
        };
        let got = rustix::io::retry_on_intr(|| {
            recvmsg(&socket, &mut [IoSliceMut::new(&mut self.chunk)], &mut control, flags)
        })?;
        self.buffer.extend_from_slice(&self.chunk[..got.bytes]);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > DESCRIPTORS {
            // Nobody waits for so many: they would pile up.
            self.descriptors.clear();
        }
        Ok(got.bytes)
    }

    /// The next frame, if all of it is here.
    pub(crate) fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let body = self.buffer.split_to(length);
        // Who stays must not hold the memory of the largest frame it has seen.
        if self.buffer.is_empty() && body.len() > 1 << 20 {
            self.buffer = BytesMut::new();
        }
        Frame::decode(&body).map(Some)
    }

    /// Whether the stream may end here.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The bytes of a payload from a child, of at most `most` if they are in a file.
    pub(crate) fn payload(&mut self, carried: Carried, most: u64) -> Result<Bytes, FrameError> {
        self.take(carried, |file, length| shared::read(file, length, most))
    }

    /// The same of one from the worker, whose files can be trusted: they are not copied.
    pub(crate) fn trusted_payload(&mut self, carried: Carried, most: u64) -> Result<Bytes, FrameError> {
        self.take(carried, |file, length| shared::map(file, length, most))
    }

    fn take(
        &mut self,
        carried: Carried,
        open: impl FnOnce(OwnedFd, u64) -> Result<Bytes, FrameError>,
    ) -> Result<Bytes, FrameError> {
        match (carried.bytes, carried.length) {
            (Some(bytes), None) => Ok(bytes),
            (None, Some(length)) => {
                let file = self
                    .descriptors
                    .pop_front()
                    .ok_or(FrameError::Payload("its descriptor is missing"))?;
                open(file, length)
            }
            _ => Err(FrameError::Payload("it has neither bytes nor a length, or both")),
        }
    }
}

#[cfg(target_os = "linux")]
fn cloexec() -> RecvFlags {
    RecvFlags::CMSG_CLOEXEC
}

#[cfg(not(target_os = "linux"))]
fn cloexec() -> RecvFlags {
    RecvFlags::empty()
}

/// The writing end: frames that are not sent yet.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes that were sent of all that were ever pushed.
    gone: u64,
    /// They go with the next byte.
    descriptors: Vec<OwnedFd>,
}

impl Outbox {
    pub(crate) fn push(&mut self, frame: &Frame) -> Result<(), FrameError> {
        frame.append_to(&mut self.bytes)
    }

    /// Adds a frame whose payloads are in these files; whatever was pushed before goes first.
    pub(crate) fn push_with(&mut self, frame: &Frame, file: OwnedFd) -> Result<(), FrameError> {
        self.push(frame)?;
        self.descriptors.push(file);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.gone
    }

    /// Bytes that will have been sent when all is.
    pub(crate) fn pushed(&self) -> u64 {
        self.gone + (self.bytes.len() - self.sent) as u64
    }

    /// Sends what the socket takes.
    pub(crate) fn send(&mut self, socket: impl AsFd) -> io::Result<()> {
        let sent = if self.descriptors.is_empty() {
            let rest = &self.bytes[self.sent..];
            rustix::io::retry_on_intr(|| send(&socket, rest, SendFlags::NOSIGNAL))?
        } else {
            self.send_descriptors(&socket)?
        };
        self.sent += sent;
        self.gone += sent as u64;
        if self.sent == self.bytes.len() {
            self.sent = 0;
            self.bytes.clear();
            if self.bytes.capacity() > CHUNK {
                self.bytes = Vec::new();
            }
        }
        Ok(())
    }

    fn send_descriptors(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let rest = [IoSlice::new(&self.bytes[self.sent..])];
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("too many descriptors wait to be sent"));
        }
        let sent = rustix::io::retry_on_intr(|| sendmsg(&socket, &rest, &mut control, SendFlags::NOSIGNAL))?;
        self.descriptors.clear();
        Ok(sent)
    }

    /// Sends all of it over a socket that blocks.
    pub(crate) fn send_all(&mut self, socket: impl AsFd) -> io::Result<()> {
        while !self.is_empty() {
            self.send(&socket)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millhand_proto::JobId;

    use super::super::frames::Cancel;
    use super::*;

    fn received(bytes: &[u8]) -> Inbox {
        let (a, b) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &a, bytes).unwrap();
        drop(a);
        let mut inbox = Inbox::new();
        while inbox.receive(&b).unwrap() > 0 {}
        inbox
    }

    #[test]
    fn frames_come_as_they_were_written() {
        let mut bytes = Vec::new();
        let cancel = Frame::Cancel(Cancel { job: JobId::given("x") });
        cancel.append_to(&mut bytes).unwrap();
        cancel.append_to(&mut bytes).unwrap();
        bytes.extend([0, 0, 0]);
        let mut inbox = received(&bytes);
        for _ in 0..2 {
            assert!(matches!(inbox.frame().unwrap(), Some(Frame::Cancel(_))));
        }
        assert!(inbox.frame().unwrap().is_none() && !inbox.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_refused_without_allocating_it() {
        let unknown = [0, 0, 0, 3, 0x81, 0xa0, 0xc0];
        for bad in [&[0xff; 8][..], &[0, 0, 0, 1, 0xc1], &unknown] {
            assert!(received(bad).frame().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_payload_goes_by_descriptor_and_a_missing_one_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let big = Bytes::from(vec![7; 300_000]);
        let file = shared::write(&big).unwrap();
        let carried = Carried {
            codec: millhand_proto::Codec::Json,
            bytes: None,
            length: Some(300_000),
        };
        let frame = Frame::Cancel(Cancel { job: JobId::given("x") });
        let mut outbox = Outbox::default();
        outbox.push(&frame).unwrap();
        outbox.push_with(&frame, file).unwrap();
        outbox.send_all(&a).unwrap();
        let mut inbox = Inbox::new();
        inbox.receive(&b).unwrap();
        assert!(inbox.frame().unwrap().is_some() && inbox.frame().unwrap().is_some());
        assert_eq!(inbox.payload(carried.clone(), 1 << 20).unwrap(), big);
        assert!(matches!(inbox.payload(carried, 1 << 20), Err(FrameError::Payload(_))));
    }
}
