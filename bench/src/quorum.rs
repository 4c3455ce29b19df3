//! Arguments of quorum queues, as the broker's are (`broker/src/rabbitmq/names.rs`).

use lapin::types::{AMQPValue, FieldTable};

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// What leaves it by itself goes on to this exchange, and stays until it has arrived.
fn then(exchange: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-dead-letter-exchange".into(), text(exchange));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

/// The same for a queue that is worked on.
pub(crate) fn work(lost: &str) -> FieldTable {
    let mut arguments = then(lost);
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(100));
    arguments
}

/// The same for one that holds messages, then passes them to a queue.
pub(crate) fn hold(millis: i64, queue: &str) -> FieldTable {
    let mut arguments = then("");
    arguments.insert("x-dead-letter-routing-key".into(), text(queue));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
    arguments
}
