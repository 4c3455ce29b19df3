//! What happened, minute by minute: a hash of each minute, to which every worker adds.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{QueueName, Tally, TaskName, Timestamp, limits};

use super::Pair;
use super::store::{Effect, Expected, Key, Read, Swap, Version, Write};
use crate::error::Result;
use crate::view::oldest_minute;

/// An hour more than is promised: a minute may be added to while it is read.
const KEEP: Duration = limits::KEEP_STATS.saturating_add(Duration::from_secs(3600));
/// Numbers that are added in one call, so that none holds up the store for long.
const PIECE: usize = 500;
/// How long it is known which pieces were added.
const REPEATS: Duration = Duration::from_secs(3600);
/// What stands for a piece that was added.
const FLUSHED: Version = *b"flushed.";

impl Pair {
    pub(super) async fn add_tallies(&self, token: u64, tallies: Vec<Tally>) -> Result<()> {
        let oldest = oldest_minute(self.store.now());
        let adds: Vec<(u64, String, u64)> = tallies
            .iter()
            .flat_map(|tally| {
                let (minute, queue, task) = (tally.minute, &tally.queue, &tally.task);
                let parts = tally.numbers.parts();
                parts.map(move |(part, n)| (minute, format!("{queue}/{task}/{part}"), n))
            })
            .collect();
        // Old minutes are passed over in their pieces: a piece is the same one when it is repeated.
        let pieces = adds.chunks(PIECE).zip(0..).map(|(adds, piece)| Swap {
            writes: vec![Write {
                key: Key::Flushed(token, piece),
                expected: Expected::Absent,
                bytes: Some(FLUSHED.to_vec()),
                keep: REPEATS,
            }],
            effects: adds
                .iter()
                .filter(|(minute, ..)| *minute >= oldest)
                .map(|(minute, field, n)| Effect::Add(Key::Minute(*minute), field.clone(), *n, KEEP))
                .collect(),
        });
        let pieces: Vec<Swap> = pieces.filter(|piece| !piece.effects.is_empty()).collect();
        if pieces.is_empty() {
            return Ok(());
        }
        // What stands already was added by a call whose answer was lost.
        self.store.swap(pieces).await.map(drop)
    }

    pub(super) async fn read_tallies(&self, since: Timestamp, until: Timestamp) -> Result<Vec<Tally>> {
        let now = self.store.now();
        let from = Tally::minute_of(since).max(oldest_minute(now));
        // Clocks of others may be ahead a little, but nothing is to be found in the far future.
        let to = Tally::minute_of(until).min(Tally::minute_of(now) + 1);
        let minutes: Vec<u64> = (from..=to).collect();
        let reads = minutes
            .iter()
            .map(|minute| Read::Fields(Key::Minute(*minute)))
            .collect();
        let mut tallies = Vec::new();
        for (minute, found) in minutes.into_iter().zip(self.store.read(reads).await?) {
            let mut merged: BTreeMap<(QueueName, TaskName), Tally> = BTreeMap::new();
            for (field, n) in found.fields() {
                let Some((queue, task, part)) = names(&field) else {
                    continue;
                };
                let tally = merged
                    .entry((queue.clone(), task.clone()))
                    .or_insert_with(|| Tally::new(minute, queue, task));
                tally.numbers.add_part(part, number(&n));
            }
            tallies.extend(merged.into_values());
        }
        Ok(tallies)
    }
}

/// The parts of a field's name; `None` for one that nobody writes.
fn names(field: &str) -> Option<(QueueName, TaskName, &str)> {
    let mut words = field.splitn(3, '/');
    let mut next = || words.next();
    Some((QueueName::new(next()?).ok()?, TaskName::new(next()?).ok()?, next()?))
}

fn number(bytes: &Bytes) -> u64 {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
