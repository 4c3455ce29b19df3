//! Jobs into the queue, each noted before it is sent and when it is answered; and what is heard of their runs.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use millhand_client::{Client, Enqueued, Job};
use millhand_proto::JobId;
use serde_json::{Value, json};

use crate::diary::{Diary, PRODUCED, RAN};
use crate::jobs::{Kind, Work};
use crate::place::Place;

/// The queue of a run.
pub(crate) const QUEUE: &str = "faults";

/// Stands in every job's arguments, and must be seen in no log.
pub(crate) const SECRET: &str = "canary-of-an-argument";

/// Jobs of a run: their kinds take turns.
pub(crate) fn jobs(count: u64, kinds: &[Kind], seed: u64) -> Vec<(JobId, Work)> {
    let kinds = kinds.iter().cycle();
    let job = |(n, kind): (u64, &Kind)| {
        let work = Work {
            n,
            kind: *kind,
            millis: 5 + n * 7 % 20,
            later: 50,
            secret: SECRET.to_owned(),
        };
        (JobId::given(&format!("{seed}/{n}")), work)
    };
    (0..count).zip(kinds).map(job).collect()
}

/// What the handlers' diary has said so far.
#[derive(Debug)]
pub(crate) struct Heard {
    path: PathBuf,
    read: u64,
    /// The beginning of a line that is not whole.
    rest: String,
    /// Runs that began.
    pub(crate) starts: usize,
    /// Jobs whose handlers said that they ended for good; children left out.
    pub(crate) ended: HashSet<String>,
    /// Jobs that are put off, or will be tried again.
    pub(crate) waiting: HashSet<String>,
}

impl Heard {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(RAN),
            read: 0,
            rest: String::new(),
            starts: 0,
            ended: HashSet::new(),
            waiting: HashSet::new(),
        }
    }

    /// Reads what has been said since.
    pub(crate) fn listen(&mut self) -> Result<()> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = std::mem::take(&mut self.rest);
        self.read += file.read_to_string(&mut text)? as u64;
        let mut lines: Vec<&str> = text.split('\n').collect();
        self.rest = lines.pop().unwrap_or_default().to_owned();
        for line in lines {
            let line: Value = serde_json::from_str(line)?;
            match line["what"].as_str() {
                Some("start") => {
                    self.starts += 1;
                    line["id"].as_str().map(|id| self.waiting.remove(id));
                }
                Some("failed" | "snoozed") => self.waiting.extend(line["id"].as_str().map(str::to_owned)),
                Some("end" | "died") if line["parentless"] == true => {
                    self.ended.extend(line["id"].as_str().map(str::to_owned));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// How fast jobs are enqueued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many in one call.
    pub(crate) at_once: usize,
    /// At most so many in a second.
    pub(crate) per_second: Option<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            at_once: 4,
            per_second: None,
        }
    }
}

/// Enqueues all of them, a few at a time; what was not accepted is asked again with the same id.
pub(crate) async fn produce(place: &Place, folder: &Path, jobs: &[(JobId, Work)], pace: Pace) -> Result<()> {
    let diary = Diary::open(folder, PRODUCED)?;
    let client = Client::new(place.open()?);
    let (began, mut sent) = (Instant::now(), 0);
    for few in jobs.chunks(pace.at_once) {
        if let Some(per_second) = pace.per_second {
            let due = began + Duration::from_secs(1) * sent / per_second;
            tokio::time::sleep_until(due.into()).await;
        }
        sent += u32::try_from(few.len())?;
        let mut open: Vec<_> = few.iter().collect();
        while !open.is_empty() {
            for (id, work) in &open {
                let facts = [
                    ("id", json!(id.to_string())),
                    ("kind", json!(work.kind)),
                    ("n", json!(work.n)),
                ];
                diary.write("attempt", &facts)?;
            }
            let mut calls: Vec<Job<Work>> = Vec::with_capacity(open.len());
            for (id, work) in &open {
                calls.push(Job::of(work.clone()).queue(QUEUE).job_id(*id));
            }
            let answers = client.enqueue_many(calls).await;
            let mut again = Vec::new();
            for (job, answer) in open.into_iter().zip(answers) {
                let (what, why) = match answer {
                    Enqueued::Accepted(_) => ("ok", None),
                    Enqueued::Unknown { why, .. } => {
                        again.push(job);
                        ("unknown", Some(why))
                    }
                    // RabbitMQ is away, or the queue is full: as a program does that has to get rid of its jobs.
                    Enqueued::Rejected { why, .. } => {
                        again.push(job);
                        ("rejected", Some(why))
                    }
                };
                diary.write(what, &[("id", json!(job.0.to_string())), ("why", json!(why))])?;
            }
            if !again.is_empty() {
                // As a program does that is told to try again.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            open = again;
        }
    }
    client.close().await;
    Ok(())
}
