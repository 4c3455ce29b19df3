//! Pauses and purges: a record for each queue, told to everybody, read again with each beat.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{QueueName, Timestamp};

use super::Pair;
use super::store::{EVERYBODY, Effect, Found, Key, Read};
use crate::backend::{Control, Controlled, Mail};
use crate::error::Result;

/// Control records live a year, renewed by beats.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What holds for the queues: when each was paused, and purged last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules(HashMap<QueueName, (Option<Timestamp>, Option<Timestamp>)>);

impl Rules {
    pub(super) fn paused(&self, queue: &QueueName) -> Option<Timestamp> {
        self.0.get(queue)?.0
    }

    pub(super) fn purged(&self, queue: &QueueName) -> Option<Timestamp> {
        self.0.get(queue)?.1
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = QueueName> {
        self.0.keys().cloned()
    }

    /// Whether any queue was purged in this time until now.
    pub(super) fn purged_within(&self, span: Duration, now: Timestamp) -> bool {
        let mut purges = self.0.values().filter_map(|(_, purged)| *purged);
        purges.any(|at| now.since(at) < span)
    }

    fn read(fields: Vec<(String, Bytes)>) -> Self {
        let rules = fields.into_iter().filter_map(|(name, bytes)| {
            let (paused, purged) = bytes.split_first_chunk::<8>()?;
            let time = |bytes: [u8; 8]| {
                Some(i64::from_be_bytes(bytes))
                    .filter(|t| *t > 0)
                    .map(Timestamp::from_micros)
            };
            let purged = time(purged.try_into().ok()?);
            Some((QueueName::new(&name).ok()?, (time(*paused), purged)))
        });
        Self(rules.collect())
    }
}

/// A point in time as the store keeps it beside records.
pub(super) fn bytes_of(at: Option<Timestamp>) -> [u8; 8] {
    at.unwrap_or_default().as_micros().to_be_bytes()
}

/// Reads what [`bytes_of`] wrote.
pub(super) fn time(bytes: &[u8]) -> Option<Timestamp> {
    let micros = i64::from_be_bytes(bytes.try_into().ok()?);
    (micros > 0).then(|| Timestamp::from_micros(micros))
}

fn written(queue: &QueueName, paused: Option<Timestamp>, purged: Option<Timestamp>) -> Effect {
    let bytes = Bytes::from([bytes_of(paused), bytes_of(purged)].concat());
    Effect::Field(Key::Control, queue.to_string(), bytes, YEAR)
}

impl Pair {
    /// What holds now; consumers here learn it too. Rules are never taken away, so one that is known
    /// here and not there was lost with the store's memory: it is written again.
    pub(super) async fn rules(&self) -> Result<Rules> {
        let found = self.store.read(vec![Read::Fields(Key::Control)]).await?.pop();
        let mut rules = Rules::read(found.map(Found::fields).unwrap_or_default());
        let known = self.rules.borrow().clone();
        let lost: Vec<_> = known
            .0
            .into_iter()
            .filter(|(queue, _)| !rules.0.contains_key(queue))
            .collect();
        if !lost.is_empty() {
            let written = lost
                .iter()
                .map(|(queue, (paused, purged))| written(queue, *paused, *purged));
            self.effects(written.collect()).await?;
            rules.0.extend(lost);
        }
        self.rules.send_if_modified(|now| {
            let changed = *now != rules;
            now.clone_from(&rules);
            changed
        });
        Ok(rules)
    }

    pub(super) async fn control_queue(&self, control: Control) -> Result<Controlled> {
        let rules = self.rules().await?;
        let now = self.store.now();
        match control {
            Control::Pause(queue) => {
                let changed = rules.paused(&queue).is_none();
                if changed {
                    self.rule(&queue, Some(now), rules.purged(&queue)).await?;
                }
                Ok(Controlled {
                    changed,
                    ..Controlled::default()
                })
            }
            Control::Resume(queue) => {
                let changed = rules.paused(&queue).is_some();
                if changed {
                    self.rule(&queue, None, rules.purged(&queue)).await?;
                }
                Ok(Controlled {
                    changed,
                    ..Controlled::default()
                })
            }
            // RabbitMQ empties a queue as a whole.
            Control::Purge(queue, _) => {
                let parcels = self.queue.purge(queue.clone()).await?;
                self.rule(&queue, rules.paused(&queue), Some(self.store.now())).await?;
                Ok(Controlled {
                    changed: parcels > 0,
                    jobs: usize::try_from(parcels).unwrap_or(usize::MAX),
                    more: false,
                })
            }
        }
    }

    async fn rule(&self, queue: &QueueName, paused: Option<Timestamp>, purged: Option<Timestamp>) -> Result<()> {
        let effects = vec![written(queue, paused, purged), Effect::Post(EVERYBODY, Mail::Control)];
        self.effects(effects).await?;
        self.rules().await.map(drop)
    }

    /// Hears what is told to everybody, for as long as this back end lives.
    pub(super) async fn hear(self: &Arc<Self>) -> Result<()> {
        let mut mails = self.store.watch(EVERYBODY).await?;
        self.rules().await?;
        let pair = Arc::downgrade(self);
        self.io.handle().spawn(async move {
            while let Some(mail) = mails.recv().await {
                let Some(pair) = pair.upgrade() else { return };
                if matches!(mail, Mail::Control | Mail::Lost)
                    && let Err(error) = pair.rules().await
                {
                    tracing::debug!(%error, "pauses could not be read; the next beat reads them");
                }
            }
        });
        Ok(())
    }
}
