//! What is kept of a message that cannot be read.

use bytes::Bytes;
use millhand_proto::{Parcel, limits};

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
    use super::*;

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
