//! How late messages are when nothing but the ladder's hops takes time, and hops take turns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A message: when it was published, and when it is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    pub(super) from: Duration,
    pub(super) due: Duration,
}

/// How late each comes out of the ladder, at so many hops per second.
pub(super) fn lateness(messages: &[Waits], rate: f64) -> Vec<Duration> {
    let hop = Duration::from_secs_f64(1.0 / rate);
    let mut ready = BinaryHeap::new();
    for (number, message) in messages.iter().enumerate() {
        let seconds = message
            .due
            .saturating_sub(message.from)
            .as_millis()
            .div_ceil(1000)
            .max(1);
        let level = highest(seconds);
        ready.push(Reverse((
            message.from + level,
            number,
            seconds - u128::from(level.as_secs()),
        )));
    }
    let mut free = Duration::ZERO;
    let mut late = Vec::with_capacity(messages.len());
    while let Some(Reverse((at, number, left))) = ready.pop() {
        free = free.max(at) + hop;
        if left == 0 {
            late.push(free.saturating_sub(messages[number].due));
        } else {
            let level = highest(left);
            ready.push(Reverse((free + level, number, left - u128::from(level.as_secs()))));
        }
    }
    late
}

/// How long the highest level holds a message that has so many seconds left.
fn highest(seconds: u128) -> Duration {
    Duration::from_secs(1 << seconds.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(from: u64, due: u64) -> Waits {
        Waits {
            from: Duration::from_secs(from),
            due: Duration::from_secs(due),
        }
    }

    #[test]
    fn a_lone_message_is_late_by_its_hops() {
        // 13 s are levels of 8, 4 and 1.
        assert_eq!(lateness(&[waits(2, 15)], 10.0), [Duration::from_millis(300)]);
        assert_eq!(lateness(&[waits(0, 64)], 10.0), [Duration::from_millis(100)]);
    }

    #[test]
    fn what_is_due_at_once_takes_turns() {
        let late = lateness(&[waits(0, 4); 100], 10.0);
        assert_eq!(late.last(), Some(&Duration::from_secs(10)));
    }
}
