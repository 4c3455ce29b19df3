//! What the same servers do without Millhand: no record, no fence, no index, no wake-up but one list.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use crate::publishers::{Publishers, publish};
use crate::quorum;
use crate::servers::Servers;

/// Messages in hands, and those that are acknowledged at once.
const PREFETCH: u16 = 512;
pub(super) const ACKS: usize = 256;
/// What is remembered of each message.
const RECORD: usize = 120;
const KEEP: Duration = Duration::from_secs(600);
/// Round trips that start things and do not count.
const FIRST: usize = 50;

/// One queue and one connection to each server.
pub(super) struct Raw {
    /// lapin's connection lives as long as this.
    connection: Connection,
    publishers: Publishers,
    redis: MultiplexedConnection,
    queue: String,
    /// Records written so far: each has its own key.
    records: usize,
}

impl Raw {
    pub(super) async fn open(servers: &Servers) -> Result<Self> {
        let connection = servers.rabbit().await?;
        let queue = format!("millhand-bench.{}", std::process::id());
        let publishers = Publishers::open(&connection).await?;
        let (options, arguments) = (QueueDeclareOptions::durable(), quorum::work("millhand-bench.lost"));
        let declared = publishers
            .channel()
            .queue_declare(queue.as_str().into(), options, arguments);
        declared.await?;
        Ok(Self {
            connection,
            publishers,
            redis: servers.redis().await?,
            queue,
            records: 0,
        })
    }

    pub(super) async fn enqueue(&self, bodies: &[Vec<u8>]) -> Result<()> {
        self.publishers.publish(&self.queue, bodies).await
    }

    /// Takes so many, remembers each, and acknowledges many at once.
    pub(super) async fn drain(&mut self, count: usize) -> Result<()> {
        let (channel, mut consumer) = self.consume().await?;
        let (batches, mut full) = mpsc::channel::<(u64, usize)>(1);
        let take = async {
            let mut got = 0;
            while got < count {
                let mut last = 0;
                let batch = ACKS.min(count - got);
                for _ in 0..batch {
                    last = consumer.next().await.context("the consumer ended")??.delivery_tag;
                }
                got += batch;
                batches.send((last, batch)).await?;
            }
            drop(batches);
            anyhow::Ok(())
        };
        let (mut redis, first) = (self.redis.clone(), self.records);
        let remember = async {
            let mut at = first;
            while let Some((tag, batch)) = full.recv().await {
                let mut sets = redis::pipe();
                for number in at..at + batch {
                    set(&mut sets, number);
                }
                at += batch;
                let () = sets.query_async(&mut redis).await?;
                channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(take, remember)?;
        self.records += count;
        // Answered when the acknowledgements before it were.
        channel.close(200, "OK".into()).await?;
        Ok(())
    }

    /// Publish and confirm; on the other side consume, SET and LPUSH; BLPOP.
    pub(super) async fn trips(&mut self, servers: &Servers, bodies: &[Vec<u8>]) -> Result<Vec<Duration>> {
        let (channel, mut consumer) = self.consume().await?;
        let reply = format!("{}.reply", self.queue);
        let (mut redis, mut waiting) = (self.redis.clone(), servers.redis().await?);
        let rounds = FIRST + bodies.len();
        let first = self.records;
        let answer = async {
            for round in 0..rounds {
                let delivery = consumer.next().await.context("the consumer ended")??;
                let mut end = redis::pipe();
                set(&mut end, first + round);
                end.lpush(&reply, round).ignore();
                let () = end.query_async(&mut redis).await?;
                channel
                    .basic_ack(delivery.delivery_tag, BasicAckOptions::default())
                    .await?;
            }
            anyhow::Ok(())
        };
        let ask = async {
            let mut times = Vec::with_capacity(bodies.len());
            for round in 0..rounds {
                let started = Instant::now();
                publish(self.publishers.channel(), &self.queue, &bodies[round % bodies.len()]).await?;
                let (_, got): (String, usize) = redis::cmd("BLPOP")
                    .arg(&reply)
                    .arg(30)
                    .query_async(&mut waiting)
                    .await?;
                let whole = started.elapsed();
                ensure!(got == round, "a wrong answer");
                if round >= FIRST {
                    times.push(whole);
                }
            }
            Ok(times)
        };
        let ((), times) = tokio::try_join!(answer, ask)?;
        self.records += rounds;
        channel.close(200, "OK".into()).await?;
        Ok(times)
    }

    async fn consume(&self) -> Result<(Channel, Consumer)> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel
            .basic_consume(self.queue.as_str().into(), "raw".into(), options, none)
            .await?;
        Ok((channel, consumer))
    }

    /// Leaves nothing in RabbitMQ; what is in Redis expires.
    pub(super) async fn close(self) -> Result<()> {
        let deleted = self
            .publishers
            .channel()
            .queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default());
        deleted.await?;
        self.connection.close(200, "OK".into()).await?;
        Ok(())
    }
}

fn set(pipe: &mut redis::Pipeline, number: usize) {
    let key = format!("millhand-bench:{}:{number}", std::process::id());
    let record = [7u8; RECORD];
    pipe.cmd("SET")
        .arg(key)
        .arg(&record[..])
        .arg("EX")
        .arg(KEEP.as_secs())
        .ignore();
}
