//! What everything in RabbitMQ is called, what it is declared with, and the ladder of delays.
//!
//! A delayed message waits on the levels that its delay has as binary digits: level `k` holds it for
//! 2^k seconds. Headers name the levels on which it waits, its routing key says where it belongs. A
//! level's exchange sends to its queue what names it, and all else on to the level below: matching one
//! header costs RabbitMQ a fraction of what a pattern over a long key does.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use millhand_proto::{Class, QueueName, limits};

use crate::pair::queue::Side;

/// Levels of the ladder.
pub(super) const LEVELS: u8 = 21;
/// The longest delay in seconds; what is longer goes round again.
const LONGEST: u64 = (1 << LEVELS) - 1;
/// Deliveries of one message before it is taken for lost.
const DELIVERIES: i64 = 100;
/// The same beside the work queues. There is nowhere further to go, and RabbitMQ 4 drops after 20
/// deliveries where nothing is said.
const DELIVERIES_ASIDE: i64 = 1_000_000;

/// The names of one namespace.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// What is declared differently needs other names: the number counts those changes.
    pub(super) fn new(namespace: &str) -> Self {
        let prefix = format!("mh.{namespace}.1.");
        Self { prefix }
    }

    /// The work queue of a class.
    pub(super) fn work(&self, queue: &QueueName, class: Class) -> String {
        format!("{}q.{queue}.{class}", self.prefix)
    }

    /// A queue beside those; the lost one's exchange has the same name.
    pub(super) fn side(&self, side: Side) -> String {
        let word = match side {
            Side::Dead => "dead",
            Side::Lost => "lost",
            Side::Unreadable => "unreadable",
        };
        format!("{}{word}", self.prefix)
    }

    /// Exchange and queue of a level. What an earlier layout called `ladder.N` and `due` may still be
    /// there: it empties by itself into the same work queues.
    pub(super) fn level(&self, level: u8) -> String {
        format!("{}level.{level}", self.prefix)
    }

    /// The queue that only who makes levels has.
    pub(super) fn making(&self) -> String {
        format!("{}making", self.prefix)
    }

    /// The exchange below the lowest level.
    pub(super) fn due(&self) -> String {
        format!("{}ready", self.prefix)
    }

    /// Where a message goes from this level.
    pub(super) fn below(&self, level: u8) -> String {
        level
            .checked_sub(1)
            .map_or_else(|| self.due(), |below| self.level(below))
    }

    /// What a work queue is declared with: the same on every version of RabbitMQ.
    pub(super) fn work_arguments(&self) -> FieldTable {
        let mut arguments = quorum();
        put(&mut arguments, "x-delivery-limit", AMQPValue::LongLongInt(DELIVERIES));
        self.then(&mut arguments, &self.side(Side::Lost));
        arguments
    }

    pub(super) fn level_arguments(&self, level: u8) -> FieldTable {
        let mut arguments = quorum();
        put(&mut arguments, "x-message-ttl", AMQPValue::LongLongInt(1000 << level));
        self.then(&mut arguments, &self.below(level));
        arguments
    }

    /// What leaves the queue by itself goes on to this exchange, and stays until it has arrived.
    fn then(&self, arguments: &mut FieldTable, exchange: &str) {
        put(arguments, "x-dead-letter-exchange", text(exchange));
        put(arguments, "x-dead-letter-strategy", text("at-least-once"));
        put(arguments, "x-overflow", text("reject-publish"));
    }

    pub(super) fn side_arguments(&self, side: Side) -> FieldTable {
        let mut arguments = quorum();
        put(
            &mut arguments,
            "x-delivery-limit",
            AMQPValue::LongLongInt(DELIVERIES_ASIDE),
        );
        match side {
            Side::Lost => {}
            Side::Dead => {
                let keep = i64::try_from(limits::KEEP_OTHERS.as_millis()).unwrap_or(i64::MAX);
                put(&mut arguments, "x-message-ttl", AMQPValue::LongLongInt(keep));
            }
            Side::Unreadable => {
                let most = i64::try_from(limits::UNREADABLE).unwrap_or(i64::MAX);
                put(&mut arguments, "x-max-length", AMQPValue::LongLongInt(most));
                put(&mut arguments, "x-overflow", text("drop-head"));
            }
        }
        arguments
    }

    /// What a level's exchange is declared with: who does not wait there goes on below.
    pub(super) fn level_exchange_arguments(&self, level: u8) -> FieldTable {
        alternate(&self.below(level))
    }

    /// What the exchange below the ladder is declared with: what finds no way is lost, and so found.
    pub(super) fn due_arguments(&self) -> FieldTable {
        alternate(&self.side(Side::Lost))
    }
}

fn alternate(exchange: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    put(&mut arguments, "alternate-exchange", text(exchange));
    arguments
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    put(&mut arguments, "x-queue-type", text("quorum"));
    arguments
}

fn put(arguments: &mut FieldTable, name: &str, value: AMQPValue) {
    arguments.insert(name.into(), value);
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A delay in whole seconds, rounded up, as long as the ladder goes. A coarse one has at most three
/// digits set, so that it makes at most three hops.
pub(super) fn seconds(delay: Duration, coarse: bool) -> u64 {
    let whole = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
    let whole = whole.clamp(1, LONGEST);
    if !coarse {
        return whole;
    }
    let digits = u64::BITS - whole.leading_zeros();
    let step = 1 << digits.saturating_sub(3);
    let round = whole.next_multiple_of(step);
    // The longest delay has all digits set; what would be longer is cut to three.
    if round > LONGEST { 0b111 << (LEVELS - 3) } else { round }
}

/// The highest level on which it waits.
pub(super) fn highest(seconds: u64) -> u8 {
    u8::try_from(seconds.max(1).ilog2())
        .unwrap_or(LEVELS - 1)
        .min(LEVELS - 1)
}

/// The header of those that wait on a level.
fn header(level: u8) -> String {
    format!("mh-level-{level}")
}

/// Names in a message's headers the levels on which it waits.
pub(super) fn climb(headers: &mut FieldTable, seconds: u64) {
    for level in (0..LEVELS).filter(|level| seconds >> level & 1 == 1) {
        put(headers, &header(level), AMQPValue::Boolean(true));
    }
}

/// What matches the headers of those that wait on a level.
pub(super) fn waits_on(level: u8) -> FieldTable {
    let mut arguments = FieldTable::default();
    put(&mut arguments, "x-match", text("all"));
    put(&mut arguments, &header(level), AMQPValue::Boolean(true));
    arguments
}

/// The routing key of what belongs to a queue's class.
pub(super) fn belongs(queue: &QueueName, class: Class) -> String {
    format!("{queue}.{class}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(seconds: u64, coarse: bool) -> u64 {
        super::seconds(Duration::from_secs(seconds), coarse)
    }

    #[test]
    fn a_delay_is_rounded_up_to_seconds_that_the_ladder_has() {
        assert_eq!(seconds(Duration::ZERO, false), 1);
        assert_eq!(seconds(Duration::from_millis(1), false), 1);
        assert_eq!(seconds(Duration::from_millis(1001), false), 2);
        assert_eq!(whole(3600, false), 3600);
        assert_eq!(seconds(Duration::MAX, false), LONGEST);
        assert_eq!(highest(1), 0);
        assert_eq!(highest(LONGEST), LEVELS - 1);
    }

    #[test]
    fn a_coarse_delay_makes_three_hops_and_is_not_short_and_at_most_a_quarter_late() {
        for exact in (1..5000).chain([86_400, 1_000_000, 1_835_008]) {
            let coarse = whole(exact, true);
            assert!(coarse.count_ones() <= 3, "{exact} became {coarse}");
            assert!(coarse >= exact && coarse * 4 <= exact * 5, "{exact} became {coarse}");
        }
        assert_eq!(whole(9, true), 10);
        assert_eq!(whole(15, true), 16);
        // Beyond three digits there is nothing longer on the ladder.
        assert_eq!(whole(LONGEST, true), 0b111 << 18);
        assert_eq!(seconds(Duration::MAX, true), 0b111 << 18);
    }

    #[test]
    fn a_message_waits_exactly_as_long_as_its_headers_say() {
        for delay in [1, 2, 3, 5, 64, 100, 3599, 86_399, LONGEST] {
            let mut headers = FieldTable::default();
            climb(&mut headers, delay);
            let wanted = |level| {
                waits_on(level)
                    .inner()
                    .clone()
                    .into_iter()
                    .filter(|(key, _)| key != &"x-match".into())
            };
            let waits = |level| wanted(level).all(|(key, value)| headers.inner().get(&key) == Some(&value));
            let waited = (0..=highest(delay))
                .filter(|level| waits(*level))
                .map(|level| 1 << level);
            assert_eq!(waited.sum::<u64>(), delay);
        }
    }

    #[test]
    fn unreadable_messages_are_bounded_by_their_queue() {
        let arguments = Names::new("ns").side_arguments(Side::Unreadable);
        let most = arguments.inner().get("x-max-length").cloned();
        let kept = i64::try_from(limits::UNREADABLE).unwrap();
        assert_eq!(most, Some(AMQPValue::LongLongInt(kept)));
    }

    #[test]
    fn the_longest_names_fit() {
        let long = "a".repeat(64);
        let names = Names::new(&long);
        let queue = QueueName::new(&long).unwrap();
        assert!(names.work(&queue, Class::Normal).len() < 255);
        assert!(belongs(&queue, Class::Normal).len() < 255);
        assert_eq!(names.below(1), names.level(0));
        assert_eq!(names.below(0), names.due());
    }

    /// What is declared differently is refused by RabbitMQ, so this stays for ever too.
    #[test]
    fn names_and_arguments_are_as_they_were_frozen() {
        use std::fmt::Write as _;
        let names = Names::new("main");
        let queue = QueueName::new("slow").expect("a name");
        let mut page = String::new();
        let mut line = |name: &str, arguments: &FieldTable| {
            let words = arguments.inner().iter().map(|(key, value)| match value {
                AMQPValue::LongString(text) => format!(" {key}={text}"),
                AMQPValue::LongLongInt(number) => format!(" {key}={number}"),
                other => format!(" {key}={other:?}"),
            });
            let _ = writeln!(page, "{name}{}", words.collect::<String>());
        };
        for class in Class::ALL {
            line(&names.work(&queue, class), &names.work_arguments());
        }
        for side in [Side::Dead, Side::Lost, Side::Unreadable] {
            line(&names.side(side), &names.side_arguments(side));
        }
        for level in [0, 1, LEVELS - 1] {
            line(&names.level(level), &names.level_arguments(level));
            line(&names.level(level), &names.level_exchange_arguments(level));
            line("waits there:", &waits_on(level));
        }
        line(&names.due(), &names.due_arguments());
        line(&belongs(&queue, Class::High), &FieldTable::default());
        let mut headers = FieldTable::default();
        climb(&mut headers, 6);
        line("6 s:", &headers);
        crate::golden::same("topology.txt", &page);
    }
}
