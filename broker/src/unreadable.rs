//! What is kept, and said, of messages that cannot be read.

use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Parcel, QueueName, limits};
use tokio::time::{Instant, sleep_until};

/// The pause between two lines of the log.
const PAUSE: Duration = Duration::from_secs(1);

/// Says in the log what was set aside: what comes first at once, what comes after it together. Whoever sends much
/// of it must not fill the log.
#[derive(Debug)]
pub(crate) struct Report {
    queue: QueueName,
    /// What came and is not said yet.
    messages: usize,
    bytes: usize,
    /// Why the first of these could not be read.
    reason: String,
    /// When the next line may come.
    next: Instant,
}

impl Report {
    pub(crate) fn new(queue: QueueName) -> Self {
        Self {
            queue,
            messages: 0,
            bytes: 0,
            reason: String::new(),
            next: Instant::now(),
        }
    }

    /// Messages were set aside, of so many bytes; the first for this reason.
    pub(crate) fn add(&mut self, messages: usize, bytes: usize, reason: &str) {
        if self.messages == 0 {
            reason.clone_into(&mut self.reason);
        }
        self.messages += messages;
        self.bytes += bytes;
        self.say();
    }

    /// Waits until there is something to be said.
    pub(crate) async fn due(&self) {
        if self.messages == 0 {
            std::future::pending::<()>().await;
        }
        sleep_until(self.next).await;
    }

    /// Says what there is to be said, if it is time.
    pub(crate) fn say(&mut self) {
        if self.messages > 0 && self.next <= Instant::now() {
            self.next = Instant::now() + PAUSE;
            let (messages, bytes) = (std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes));
            let (queue, reason) = (&self.queue, &self.reason);
            tracing::warn!(%queue, messages, bytes, reason, "unreadable; set aside");
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.next = Instant::now();
        self.say();
    }
}

/// The bytes to keep of a message. What may hold jobs, of whatever version, is kept whole, for whoever can make
/// something of it, unless it is longer than RabbitMQ would take from here. Of what never held any the beginning says
/// whence it came, and the rest would cost the servers as much as good jobs do.
pub(crate) fn kept(body: &[u8]) -> &[u8] {
    if Parcel::begins(body) && body.len() <= limits::MESSAGE_BYTES {
        body
    } else {
        &body[..body.len().min(limits::UNREADABLE_BYTES)]
    }
}

/// The same, and why the message cannot be read, with its length where not all of it is kept.
pub(crate) fn kept_because(body: &Bytes, why: &str) -> (Bytes, String) {
    let kept = body.slice_ref(kept(body));
    let why = if kept.len() < body.len() {
        format!("{why}; the first {} of {} bytes are kept", kept.len(), body.len())
    } else {
        why.to_owned()
    };
    (kept, why)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_much_comes_is_said_once_a_second() {
        let mut report = Report::new("mill".parse().expect("a name"));
        report.add(1, 10, "the first");
        assert_eq!(report.messages, 0, "it is said");
        assert!(report.due().now_or_never().is_none());
        for _ in 0..100 {
            report.add(2, 20, "the next");
        }
        assert_eq!((report.messages, report.bytes), (200, 2000));
        let before = Instant::now();
        report.due().await;
        report.say();
        assert_eq!((report.messages, before.elapsed()), (0, PAUSE));
    }

    fn long(begin: &[u8], bytes: usize) -> Vec<u8> {
        let mut body = begin.to_vec();
        body.resize(bytes, b'x');
        body
    }

    #[test]
    fn what_may_hold_jobs_is_kept_whole_unless_it_is_longer_than_a_message_may_be() {
        // A parcel of a version that nobody knows yet, written with long lengths or with short ones.
        for begin in [&b"\x92\x81\xa1v\x63"[..], b"\xdc\x00\x02\xdf\x00\x00\x00\x01\xa1v\x63"] {
            assert_eq!(kept(&long(begin, limits::MESSAGE_BYTES)).len(), limits::MESSAGE_BYTES);
            assert_eq!(
                kept(&long(begin, limits::MESSAGE_BYTES + 1)).len(),
                limits::UNREADABLE_BYTES
            );
        }
    }

    #[test]
    fn of_what_holds_none_the_beginning_is_kept() {
        for begin in [&b"{"[..], b"\xc1", b"\x92\x01", b"\x91\x81", b"\xdd\xff\xff\xff\xff"] {
            let body = long(begin, limits::UNREADABLE_BYTES + 1);
            assert_eq!(kept(&body), &body[..limits::UNREADABLE_BYTES]);
            assert_eq!(kept(&body[..limits::UNREADABLE_BYTES]).len(), limits::UNREADABLE_BYTES);
            assert_eq!(kept(begin), begin);
        }
        assert_eq!(kept(b""), b"");
    }
}
