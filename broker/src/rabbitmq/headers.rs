//! What the headers of a message tell. Anyone may have written them.

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use millhand_proto::Timestamp;

use super::publish::AT;

/// How often the message was delivered before, and when it was published.
pub(crate) fn told(properties: &BasicProperties) -> (u32, Option<Timestamp>) {
    let published_at = header(properties, AT).map(Timestamp::from_micros);
    (redeliveries(properties), published_at.filter(|at| at.is_plausible()))
}

/// How often it was delivered before. RabbitMQ 4.3 tells it; older ones tell which deliveries failed,
/// and to them each failed that was not acknowledged.
fn redeliveries(properties: &BasicProperties) -> u32 {
    let count = header(properties, "x-acquired-count").or_else(|| header(properties, "x-delivery-count"));
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

fn header(properties: &BasicProperties, name: &str) -> Option<i64> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}
