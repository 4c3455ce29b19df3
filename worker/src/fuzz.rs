//! What the fuzz target does with child frames; see `fuzz/README.md`. Compiled into tests and into the
//! target only.

use std::time::Duration;

use millhand_proto::{ErrorText, Outcome, Payload};

use crate::executors::frames::{Carried, End, Frame, failure, parcels};
use crate::executors::socket::Inbox;

/// The frames of a stream up to the first that is none, as a worker and a child read them.
pub fn read_frames(data: &[u8]) -> usize {
    let mut inbox = Inbox::holding(data);
    std::iter::from_fn(|| inbox.frame().ok().flatten()).count()
}

/// What can be read of a stream of frames is written and read again as the same.
pub fn frames(data: &[u8]) {
    let mut inbox = Inbox::holding(data);
    while let Ok(Some(frame)) = inbox.frame() {
        let mut written = Vec::new();
        frame
            .append_to(&mut written)
            .unwrap_or_else(|e| panic!("{frame:?}: {e}"));
        let again = Inbox::holding(&written).frame();
        let Ok(Some(again)) = again else {
            panic!("{frame:?} came back as {again:?}")
        };
        let mut rewritten = Vec::new();
        assert!(
            again.append_to(&mut rewritten).is_ok() && rewritten == written,
            "{frame:?}"
        );
        if let Frame::Done(done) = frame {
            for done in done {
                drop(parcels(&done.children));
                end(done.end);
            }
        }
    }
}

/// The outcome that a child reports is what it reports of that outcome.
fn end(end: End) {
    let shown = format!("{end:?}");
    let outcome = match end {
        End::Failed { error, retry_in_ms } if error.len() < 1024 => failure(error, retry_in_ms),
        End::Fatal { reason, error } if error.len() < 1024 => Outcome::Fatal {
            reason,
            error: ErrorText::new(error),
        },
        End::Snooze { delay_ms } => Outcome::Snoozed(Duration::from_millis(delay_ms)),
        End::Ok(Carried {
            codec,
            bytes: Some(bytes),
            length: None,
        }) => Outcome::Succeeded(Payload { codec, bytes }),
        _ => return,
    };
    assert_eq!(format!("{:?}", End::of(outcome)), shown);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    /// The inbox itself, which a worker has once for each child.
    const ROOM: usize = 192 << 10;

    #[test]
    fn the_corpus_of_frames() {
        replay::corpus("frames", ROOM, |data| assert!(read_frames(data) <= data.len()), frames);
    }

    #[test]
    fn much_of_anything_costs_no_more_than_its_bytes() {
        const MANY: u32 = 200_000;
        let many = |head: &[u8], each: &[u8]| {
            let body = [head, b"\xdd", &MANY.to_be_bytes(), &each.repeat(MANY as usize)].concat();
            [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
        };
        let id = [&b"\xa1i\xc4\x10"[..], &[7; 16]].concat();
        let done = [b"\x82", &id[..], b"\xa1o\x81\xa4back\xc0"].concat();
        let one_done = [b"\x81\xa4done\x91\x83", &id[..], b"\xa1o\x81\xa4back\xc0\xa1c"].concat();
        for (name, stream) in [
            ("answers", many(b"\x81\xa4done", &done)),
            ("children of a job", many(&one_done, b"\xc4\0")),
            ("tasks", many(b"\x81\xa5hello\x83\xa1v\x01\xa1p\x01\xa1t", b"\xa1a")),
            ("frames", b"\0\0\0\x01\xc0".repeat(MANY as usize)),
        ] {
            replay::bounded(name, &stream, ROOM, |data| assert_eq!(read_frames(data), 0));
        }
    }
}
