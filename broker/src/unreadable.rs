//! What is kept of a message that cannot be read.

use millhand_proto::limits;

/// The bytes to keep: all of them, for whoever can make something of them. What is longer than a message may be was
/// never one, and RabbitMQ would not get it from here.
pub(crate) fn kept(body: &[u8]) -> &[u8] {
    if body.len() > limits::MESSAGE_BYTES {
        &body[..limits::UNREADABLE_BYTES]
    } else {
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_kept_whole_unless_it_is_longer_than_one_may_be() {
        let kept = |bytes: usize| kept(&vec![0; bytes]).len();
        assert_eq!(kept(limits::MESSAGE_BYTES), limits::MESSAGE_BYTES);
        assert_eq!(kept(limits::MESSAGE_BYTES + 1), limits::UNREADABLE_BYTES);
    }
}
