//! Publishing with lapin as Millhand does (`broker/src/rabbitmq/publish.rs`): joined, in windows, each
//! on a channel of its own.

use anyhow::{Result, ensure};
use futures_util::future::{join_all, try_join_all};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

const CHANNELS: usize = 4;
/// Messages of a window.
pub(crate) const WINDOW: usize = 128;

/// Channels that confirm.
pub(crate) struct Publishers(Vec<Channel>);

impl Publishers {
    pub(crate) async fn open(connection: &Connection) -> Result<Self> {
        let channels = (0..CHANNELS).map(|_| async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            anyhow::Ok(channel)
        });
        Ok(Self(try_join_all(channels).await?))
    }

    /// One of them.
    pub(crate) fn channel(&self) -> &Channel {
        &self.0[0]
    }

    /// Publishes all; the confirms are awaited.
    pub(crate) async fn publish(&self, queue: &str, bodies: &[Vec<u8>]) -> Result<()> {
        let windows: Vec<_> = bodies.chunks(WINDOW).collect();
        let lanes = self.0.iter().enumerate().map(|(lane, channel)| {
            let windows = windows.iter().skip(lane).step_by(CHANNELS);
            async move {
                for window in windows {
                    let sent = join_all(window.iter().map(|body| publish(channel, queue, body)));
                    sent.await.into_iter().collect::<Result<()>>()?;
                }
                anyhow::Ok(())
            }
        });
        try_join_all(lanes).await?;
        Ok(())
    }
}

/// Publishes a persistent message and waits for its confirm.
pub(crate) async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let confirm = channel
        .basic_publish("".into(), queue.into(), options, body, persistent)
        .await?
        .await?;
    ensure!(matches!(confirm, Confirmation::Ack(None)), "not confirmed: {confirm:?}");
    Ok(())
}
