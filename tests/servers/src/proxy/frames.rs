//! Where a frame of AMQP or of Redis's protocol ends, and what it is.

/// What a wire carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// Nothing that is looked into.
    Bytes,
    Amqp,
    Resp,
}

/// A kind of frame, and with it its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// AMQP, to the server: a message.
    Publish,
    /// AMQP, to the server: a delivery is settled.
    Ack,
    /// AMQP, to the client: messages are confirmed.
    Confirm,
    /// AMQP, to the client: a message.
    Deliver,
    /// Redis, to the server: a command.
    Command,
    /// Redis, to the client: an answer.
    Reply,
    /// Anything else.
    Other,
}

/// The first frame of `bytes`: how long it is, and what; `None` while it is not whole.
pub(super) fn first(speech: Speech, to_server: bool, bytes: &[u8]) -> Option<(usize, Frame)> {
    match speech {
        Speech::Bytes => (!bytes.is_empty()).then_some((bytes.len(), Frame::Other)),
        Speech::Amqp => amqp(to_server, bytes),
        Speech::Resp => {
            let kind = if to_server { Frame::Command } else { Frame::Reply };
            Some((resp(bytes)?, kind))
        }
    }
}

/// Type, channel, size, payload and an end mark; a method's payload begins with its class and its number.
fn amqp(to_server: bool, bytes: &[u8]) -> Option<(usize, Frame)> {
    // The client's greeting.
    if bytes.starts_with(b"AMQP") {
        return (bytes.len() >= 8).then_some((8, Frame::Other));
    }
    let size = u32::from_be_bytes(bytes.get(3..7)?.try_into().ok()?);
    let whole = usize::try_from(size).ok()?.checked_add(8)?;
    let frame = bytes.get(..whole)?;
    let kind = match (frame[0], frame.get(7..11), to_server) {
        (1, Some([0, 60, 0, 40]), true) => Frame::Publish,
        (1, Some([0, 60, 0, 80]), true) => Frame::Ack,
        (1, Some([0, 60, 0, 80]), false) => Frame::Confirm,
        (1, Some([0, 60, 0, 60]), false) => Frame::Deliver,
        _ => Frame::Other,
    };
    Some((whole, kind))
}

/// One value, with all that lies in it.
fn resp(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut values) = (0, 1_u64);
    while values > 0 {
        let rest = bytes.get(at..)?;
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let number: i64 = std::str::from_utf8(rest.get(1..line)?)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(-1);
        at += line + 2;
        values -= 1;
        match (rest[0], u64::try_from(number)) {
            (b'$' | b'!' | b'=', Ok(length)) => at += usize::try_from(length).ok()? + 2,
            (b'*' | b'~' | b'>', Ok(count)) => values += count,
            (b'%', Ok(pairs)) => values += 2 * pairs,
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_they_end() {
        let publish = [&[1, 0, 1, 0, 0, 0, 5, 0, 60, 0, 40, 9, 0xce][..], b"more"].concat();
        assert_eq!(first(Speech::Amqp, true, &publish), Some((13, Frame::Publish)));
        assert_eq!(first(Speech::Amqp, false, &publish), Some((13, Frame::Other)));
        assert_eq!(first(Speech::Amqp, true, &publish[..12]), None);
        assert_eq!(
            first(Speech::Amqp, true, b"AMQP\0\0\x09\x01\x01"),
            Some((8, Frame::Other))
        );

        let nested = b"*3\r\n$5\r\nab\r\nc\r\n%1\r\n+k\r\n:1\r\n*-1\r\n";
        let more = [&nested[..], b"+OK\r\n"].concat();
        assert_eq!(first(Speech::Resp, false, &more), Some((nested.len(), Frame::Reply)));
        for cut in 0..nested.len() {
            assert_eq!(first(Speech::Resp, true, &nested[..cut]), None, "{cut}");
        }
    }
}
