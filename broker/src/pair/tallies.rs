//! What happened, minute by minute: a hash of each minute, to which every worker adds.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use millhand_proto::{Numbers, QueueName, Tally, TaskName, Timestamp, limits};

use super::Pair;
use super::store::{Effect, Expected, Key, Read, Swap, Version, Write};
use crate::error::Result;
use crate::view::oldest_minute;

/// An hour more than is promised: a minute may be added to while it is read.
const KEEP: Duration = limits::KEEP_STATS.saturating_add(Duration::from_secs(3600));
/// Numbers that are added in one call, so that none holds up the store for long.
const PIECE: usize = 500;
/// Minutes that are read in one piece: a fleet has thousands of numbers in each.
const MINUTES: usize = 5;
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
        let mut tallies = Vec::new();
        let mut names = Names::default();
        for minutes in minutes.chunks(MINUTES) {
            let reads = minutes.iter().map(|minute| Read::Fields(Key::Minute(*minute)));
            let found = self.store.read(reads.collect()).await?;
            for (minute, found) in minutes.iter().zip(found) {
                tallies.extend(names.tallies(*minute, found.fields()));
            }
        }
        Ok(tallies)
    }
}

/// The names that stood in fields so far: a few of them stand in thousands of fields.
#[derive(Default)]
struct Names {
    /// By what stands before the part; nothing where no name is.
    known: HashMap<String, Option<usize>>,
    list: Vec<(QueueName, TaskName)>,
}

impl Names {
    /// The numbers of a minute, by queue and task.
    fn tallies(&mut self, minute: u64, fields: Vec<(String, Bytes)>) -> Vec<Tally> {
        let mut merged: Vec<Option<Numbers>> = Vec::new();
        for (field, n) in fields {
            let Some((names, part)) = field.rsplit_once('/') else {
                continue;
            };
            let Some(at) = self.place(names) else { continue };
            if merged.len() <= at {
                merged.resize(at + 1, None);
            }
            merged[at].get_or_insert_default().add_part(part, number(&n));
        }
        let found = merged.into_iter().zip(&self.list);
        let mut tallies: Vec<Tally> = found
            .filter_map(|(numbers, (queue, task))| {
                let (queue, task) = (queue.clone(), task.clone());
                Some(Tally {
                    minute,
                    queue,
                    task,
                    numbers: numbers?,
                })
            })
            .collect();
        tallies.sort_unstable_by(|a, b| (&a.queue, &a.task).cmp(&(&b.queue, &b.task)));
        tallies
    }

    /// Where these names stand in the list; `None` for what nobody writes.
    fn place(&mut self, names: &str) -> Option<usize> {
        if let Some(place) = self.known.get(names) {
            return *place;
        }
        let found = names
            .split_once('/')
            .and_then(|(queue, task)| Some((QueueName::new(queue).ok()?, TaskName::new(task).ok()?)));
        let place = found.map(|names| {
            self.list.push(names);
            self.list.len() - 1
        });
        self.known.insert(names.to_owned(), place);
        place
    }
}

fn number(bytes: &Bytes) -> u64 {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
