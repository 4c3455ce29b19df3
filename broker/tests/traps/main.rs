//! What lapin, redis-rs and the servers do in the versions of the lock file and of this machine, where
//! Millhand is built around it. When one of these fails, the library or the server has changed, and
//! what was built around it may go (`docs/architecture.md`, *Traps*).
#![allow(missing_docs, clippy::unwrap_used)]

mod lapin;
mod rabbitmq;
mod redis;

use std::time::Duration;

use ::lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use ::lapin::types::FieldTable;
use ::lapin::{Channel, Connection, ConnectionProperties};

/// Long enough for anything that is to happen.
const SOON: Duration = Duration::from_secs(20);
/// How long nothing must come for it to count as nothing.
const QUIET: Duration = Duration::from_millis(400);

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

/// Declares a queue; answers how many messages in it are ready.
async fn queue(channel: &Channel, name: &str, arguments: FieldTable) -> u32 {
    let durable = QueueDeclareOptions::durable();
    let declared = channel.queue_declare(name.into(), durable, arguments).await;
    declared.unwrap().message_count()
}

fn mandatory() -> BasicPublishOptions {
    BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    }
}
