//! Between the socket and lapin: what lapin's parser (4.12.3) does not survive is taken off a message.
//!
//! A producer may write anything into the properties of a message, and RabbitMQ passes it on as it is. Text
//! that is no UTF-8 is an error of the whole connection to lapin, and headers that nest some thousand deep
//! overflow its stack, which ends the process: every worker that such a message came to would be lost, one
//! after the other. Without its properties the message is one that makes no sense, and is set aside like any.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Tables and arrays in each other. Ours nest once, those of RabbitMQ three times.
const DEEPEST: usize = 16;
/// What no frame that lapin agrees to is longer than; what says so is passed on, for it to refuse.
const LONGEST: usize = 1 << 20;

/// Read at a time.
const PIECE: usize = 32 << 10;

/// A frame's type, channel and length, and the mark at its end.
const HEAD: usize = 7;
const END: u8 = 0xce;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// `basic.deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];

/// A connection to RabbitMQ whose messages lapin can read.
#[derive(Debug)]
pub(super) struct Sieve<S> {
    stream: S,
    /// Resolves when nobody wants the connection. lapin itself would wait for a server that never answers, for as
    /// long as that lives.
    unwanted: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What has come and lapin has not read.
    came: BytesMut,
    /// So much of it, from its beginning, has been looked at.
    seen: usize,
    /// What comes are no frames, or no more.
    open: bool,
}

impl<S> Sieve<S> {
    pub(super) fn new(stream: S, wanted: CancellationToken) -> Self {
        Self {
            stream,
            unwanted: Box::pin(wanted.cancelled_owned()),
            came: BytesMut::new(),
            seen: 0,
            open: false,
        }
    }

    /// Looks at the frames that have come whole.
    fn look(&mut self) {
        while let Some(head) = self.came.get(self.seen..self.seen + HEAD).filter(|_| !self.open) {
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let kind = head[0];
            // The first answer of a server that speaks another protocol is no frame.
            if !matches!(kind, 1..=3 | 8) || length > LONGEST {
                self.open = true;
                break;
            }
            let from = self.seen + HEAD;
            let Some(payload) = self.came.get(from..from + length) else {
                break;
            };
            let Some(&end) = self.came.get(from + length) else {
                break;
            };
            if end != END {
                self.open = true;
                break;
            }
            let mended = match kind {
                HEADER => without_properties(payload),
                METHOD => without_key(payload),
                _ => None,
            };
            let Some(mended) = mended else {
                self.seen = from + length + 1;
                continue;
            };
            tracing::debug!("a message has properties that cannot be read; it is taken without them");
            let rest = self.came.split_off(from);
            let head = self.came.len() - HEAD;
            self.came.truncate(head + 3);
            // Shorter than what it stands for.
            let len = u32::try_from(mended.len()).unwrap_or(0);
            self.came.extend_from_slice(&len.to_be_bytes());
            self.came.extend_from_slice(&mended);
            self.seen = self.came.len() + 1;
            self.came.extend_from_slice(rest.get(length..).unwrap_or_default());
        }
        if self.open {
            self.seen = self.came.len();
        }
    }
}

/// A content header without its properties, if they cannot be read.
fn without_properties(payload: &[u8]) -> Option<Vec<u8>> {
    // Class, weight and the body's length.
    let (before, properties) = payload.split_at_checked(12)?;
    match can_be_read(properties) {
        true => None,
        false => Some([before, &[0, 0]].concat()),
    }
}

/// A delivery without the key that it was published with, if that is no text; nobody asks for it.
fn without_key(payload: &[u8]) -> Option<Vec<u8>> {
    let mut rest = payload.strip_prefix(&DELIVER)?;
    let _tag = short(&mut rest)?;
    let _number_and_redelivered = take(&mut rest, 9)?;
    let _exchange = short(&mut rest)?;
    let before = payload.len() - rest.len();
    match std::str::from_utf8(short(&mut rest)?) {
        Ok(_) => None,
        Err(_) => Some([payload.get(..before)?, &[0]].concat()),
    }
}

/// Whether lapin can read these properties.
fn can_be_read(properties: &[u8]) -> bool {
    let Some((flags, mut rest)) = properties.split_first_chunk() else {
        return false;
    };
    let flags = u16::from_be_bytes(*flags);
    // From the highest bit on: type and coding of the content, headers, delivery mode, priority, four texts,
    // timestamp, four texts.
    let fine = (2..16).rev().filter(|bit| flags & 1 << bit != 0).all(|bit| {
        let read = match bit {
            13 => table(&mut rest, DEEPEST),
            12 | 11 => take(&mut rest, 1).map(drop),
            6 => take(&mut rest, 8).map(drop),
            _ => text(&mut rest),
        };
        read.is_some()
    });
    fine && rest.is_empty()
}

fn take<'b>(from: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

/// What follows its length in one byte.
fn short<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::from(*take(from, 1)?.first()?);
    take(from, length)
}

/// What follows its length in four bytes.
fn long<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    *from = rest;
    take(from, u32::from_be_bytes(*length) as usize)
}

fn text(from: &mut &[u8]) -> Option<()> {
    std::str::from_utf8(short(from)?).ok().map(drop)
}

fn table(from: &mut &[u8], depth: usize) -> Option<()> {
    let mut entries = long(from)?;
    while !entries.is_empty() {
        text(&mut entries)?;
        value(&mut entries, depth)?;
    }
    Some(())
}

/// A value of a table, or of an array, of the types that lapin knows.
fn value(from: &mut &[u8], depth: usize) -> Option<()> {
    let length = match take(from, 1)?.first()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'S' | b'x' => return long(from).map(drop),
        b'F' => return table(from, depth.checked_sub(1)?),
        b'A' => {
            let (depth, mut entries) = (depth.checked_sub(1)?, long(from)?);
            while !entries.is_empty() {
                value(&mut entries, depth)?;
            }
            return Some(());
        }
        _ => return None,
    };
    take(from, length).map(drop)
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieve<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unwanted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        while this.seen == 0 {
            this.came.reserve(PIECE);
            // At its end what has come is all that there is.
            if ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.came))? == 0 {
                this.open = true;
                this.seen = this.came.len();
                break;
            }
            this.look();
        }
        let length = this.seen.min(into.remaining());
        into.put_slice(this.came.get(..length).unwrap_or_default());
        this.came.advance(length);
        this.seen -= length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieve<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], &length[..], payload, &[END]].concat()
    }

    fn header(properties: &[u8]) -> Vec<u8> {
        let size = 4u64.to_be_bytes();
        frame(HEADER, &[&[0, 60, 0, 0], &size[..], properties].concat())
    }

    fn headers(table: &[u8]) -> Vec<u8> {
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        header(&[&[0x20, 0], &length[..], table].concat())
    }

    /// What is read of these bytes, which come in such pieces.
    async fn sifted(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut there, here) = tokio::io::duplex(piece);
        let bytes = bytes.to_vec();
        let wrote = tokio::spawn(async move { there.write_all(&bytes).await.unwrap() });
        let mut read = Vec::new();
        Sieve::new(here, CancellationToken::new())
            .read_to_end(&mut read)
            .await
            .unwrap();
        wrote.await.unwrap();
        read
    }

    fn nested(depth: usize) -> Vec<u8> {
        let mut value = vec![b'V'];
        for _ in 0..depth {
            let length = u32::try_from(value.len()).unwrap().to_be_bytes();
            value = [&b"A"[..], &length, &value].concat();
        }
        [&b"\x01x"[..], &value].concat()
    }

    #[tokio::test]
    async fn what_can_be_read_is_passed_on_and_what_cannot_goes_without() {
        let body = frame(3, b"body");
        let deliver = |key: &[u8]| {
            let key = [&[u8::try_from(key.len()).unwrap()], key].concat();
            frame(METHOD, &[&DELIVER[..], b"\x01c", &[0; 9], b"\0", &key].concat())
        };
        let all_types = b"\x01at\x01\x01bb\x01\x01cB\x01\x01ds\0\x01\x01eU\0\x01\x01fu\0\x01\x01gI\0\0\0\x01\x01hi\0\0\0\x01\
            \x01jL\0\0\0\0\0\0\0\x01\x01kl\0\0\0\0\0\0\0\x01\x01mf\0\0\0\0\x01nd\0\0\0\0\0\0\0\0\x01oD\0\0\0\0\x01\
            \x01pS\0\0\0\x01\xff\x01qx\0\0\0\x01\xff\x01rT\0\0\0\0\0\0\0\0\x01wV\x01yF\0\0\0\x03\x01zV\x01AA\0\0\0\x01V";
        let all_properties =
            b"\xff\xfc\x01a\x01b\0\0\0\0\x02\x05\x01c\x01d\x01e\x01f\0\0\0\0\0\0\0\x01\x01g\x01h\x01i\x01j";
        let fine = [
            header(&[0, 0]),
            header(all_properties),
            headers(b""),
            headers(all_types),
            headers(&nested(DEEPEST)),
            deliver(b"a key"),
            frame(8, b""),
            body.clone(),
        ];
        let bare = header(&[0, 0]);
        let bad = [
            headers(b"\x02\xff\xfet\x01"),
            headers(&nested(DEEPEST + 1)),
            headers(&nested(2_000)),
            headers(b"\x01?z"),
            headers(b"\x01aI\0"),
            headers(b"\x01aF\0\0\0\x04\x01\xffV!"),
            header(&[0x20, 0, 0, 0, 0, 9]),
            header(&[0, 0, 1]),
            header(b"\x80\0\x01\xff"),
            header(&[]),
        ];
        for piece in [1, 7, 100_000] {
            for frame in &fine {
                assert_eq!(sifted(frame, piece).await, *frame);
            }
            assert_eq!(sifted(&deliver(b"\xff"), piece).await, deliver(b""));
            let mut came = fine.concat();
            let mut expected = came.clone();
            for frame in &bad {
                came.extend([&frame[..], &body].concat());
                expected.extend([&bare[..], &body].concat());
            }
            assert_eq!(sifted(&came, piece).await, expected);
        }
    }

    #[tokio::test]
    async fn what_are_no_frames_is_passed_on() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"AMQP\0\0\x09\x01",
            b"\x01\0\0\xff\xff\xff\xff",
            b"\x02\0\0\0\0\0\x02\0\0!\x02\0\0",
            b"\x02\0",
        ] {
            assert_eq!(sifted(bytes, 3).await, bytes);
        }
    }
}
