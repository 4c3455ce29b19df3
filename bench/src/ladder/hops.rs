//! How many messages RabbitMQ passes from queue to queue when their time is up, without Millhand.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use lapin::Channel;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use crate::figures::float;
use crate::publishers::Publishers;
use crate::quorum;
use crate::servers::Servers;

/// How long the first queue holds a message: long enough to publish all of them meanwhile.
const HOLD: Duration = Duration::from_secs(5);
/// How long the hops may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Hops per second when so many messages are spread over so many pairs of queues, and all are due
/// within the time that their publishing took.
pub(super) async fn rate(servers: &Servers, pairs: usize, messages: usize) -> Result<f64> {
    let connection = servers.rabbit().await?;
    let publishers = Publishers::open(&connection).await?;
    let channel = publishers.channel();
    let names: Vec<(String, String)> = (0..pairs)
        .map(|pair| {
            let name = format!("millhand-bench.{}.{pair}", std::process::id());
            (format!("{name}.from"), format!("{name}.to"))
        })
        .collect();
    for (from, to) in &names {
        let hold = quorum::hold(i64::try_from(HOLD.as_millis())?, to);
        for (name, arguments) in [(to, quorum::work("millhand-bench.lost")), (from, hold)] {
            let declared = channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments);
            declared.await?;
        }
    }
    let bodies = crate::noop::bodies(messages / pairs);
    let started = Instant::now();
    try_join_all(names.iter().map(|(from, _)| publishers.publish(from, &bodies))).await?;
    let published = started.elapsed();
    ensure!(
        published < HOLD,
        "publishing took {published:?}: the machine is too busy for this"
    );
    let all = bodies.len() * pairs;
    while arrived(channel, &names).await? < all {
        ensure!(started.elapsed() < LIMIT, "the hops take longer than {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let hops = started.elapsed().saturating_sub(HOLD);
    for name in names.iter().flat_map(|(from, to)| [from, to]) {
        channel
            .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
            .await?;
    }
    connection.close(200, "OK".into()).await?;
    Ok(float(all) / hops.as_secs_f64())
}

/// Messages that have made their hop.
async fn arrived(channel: &Channel, names: &[(String, String)]) -> Result<usize> {
    let look = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let mut all = 0;
    for (_, to) in names {
        let queue = channel
            .queue_declare(to.as_str().into(), look, FieldTable::default())
            .await?;
        all += usize::try_from(queue.message_count())?;
    }
    Ok(all)
}
