//! Jobs into the queue, each noted before it is sent and when it is answered; and what is heard of their runs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millhand_broker::Pushed;
use millhand_client::{Client, Enqueued};
use millhand_proto::{JobId, Parcel, Timestamp};
use serde_json::json;

use crate::diary::{self, Diary, PRODUCED, RAN};
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
            delay: 0,
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
    /// Runs that began and are not known to be over, by job: the process that each is in.
    pub(crate) running: HashMap<String, u64>,
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
            running: HashMap::new(),
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
            let Some(line) = diary::read(line)? else {
                continue;
            };
            let (Some(what), Some(id)) = (line["what"].as_str(), line["id"].as_str()) else {
                continue;
            };
            if what == "start" {
                self.starts += 1;
                self.waiting.remove(id);
                self.running
                    .insert(id.to_owned(), line["pid"].as_u64().unwrap_or_default());
                continue;
            }
            self.running.remove(id);
            if ["failed", "snoozed"].contains(&what) {
                self.waiting.insert(id.to_owned());
            } else if ["end", "died"].contains(&what) && line["parentless"] == true {
                self.ended.insert(id.to_owned());
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
    /// At most so many in one parcel.
    pub(crate) pack: usize,
    /// At most so many in a second.
    pub(crate) per_second: Option<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            at_once: 4,
            pack: 1,
            per_second: None,
        }
    }
}

/// Notes that a job is about to be enqueued.
pub(crate) fn note_attempt(diary: &Diary, id: &JobId, work: &Work) -> Result<()> {
    let facts = [
        ("id", json!(id.to_string())),
        ("kind", json!(work.kind)),
        ("n", json!(work.n)),
    ];
    diary.write("attempt", &facts)
}

/// The jobs as one parcel, as it travels.
pub(crate) fn parcel(jobs: &[(JobId, Work)], now: Timestamp) -> Result<Parcel> {
    let core = |(id, work): &(JobId, Work)| Ok(work.call()?.into_core(*id, now, None, None)?);
    Ok(Parcel::pack(jobs.iter().map(core).collect::<Result<_>>()?)?)
}

/// Jobs of a parcel of many, and parcels of one call.
const PACK: usize = 64;
const PARCELS: usize = 32;

/// Ids as a program has them that enqueues many jobs in one parcel.
pub(crate) fn pack(jobs: &mut [(JobId, Work)], seed: u64, now: Timestamp) {
    for (pack, jobs) in jobs.chunks_mut(PACK).enumerate() {
        let random = (seed << 32) ^ (pack as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for (index, job) in (0..).zip(jobs) {
            job.0 = JobId::minted(now, random, index);
        }
    }
}

/// Enqueues all of them as fast as it goes, in parcels of many.
pub(crate) async fn flood(place: &Place, folder: &Path, jobs: &[(JobId, Work)]) -> Result<()> {
    let diary = Diary::open(folder, PRODUCED)?;
    let backend = place.open()?;
    let now = backend.now();
    for many in jobs.chunks(PACK * PARCELS) {
        for (id, work) in many {
            note_attempt(&diary, id, work)?;
        }
        let packs: Vec<_> = many.chunks(PACK).collect();
        let parcels = packs.iter().map(|jobs| parcel(jobs, now)).collect::<Result<Vec<_>>>()?;
        let pushed = backend.push(parcels).await;
        for (jobs, pushed) in packs.into_iter().zip(pushed) {
            ensure!(pushed == Pushed::Accepted, "{pushed:?}");
            for (id, _) in jobs {
                diary.write("ok", &[("id", json!(id.to_string()))])?;
            }
        }
    }
    backend.flush().await;
    Ok(())
}

/// So much of a load that waited comes at once.
const MADE_UP: Duration = Duration::from_secs(1);

/// Enqueues all of them, a few at a time; what was not accepted is asked again with the same id.
pub(crate) async fn produce(place: &Place, folder: &Path, jobs: &[(JobId, Work)], pace: Pace) -> Result<()> {
    let diary = Diary::open(folder, PRODUCED)?;
    let client = Client::new(place.open()?);
    let mut due = Instant::now();
    for few in jobs.chunks(pace.at_once) {
        if let Some(per_second) = pace.per_second {
            // A pause is made up for, an outage is not: the load goes on after it as it was before.
            due = due.max(Instant::now() - MADE_UP);
            tokio::time::sleep_until(due.into()).await;
            due += Duration::from_secs(1) * u32::try_from(few.len())? / per_second;
        }
        let mut open: Vec<_> = few.iter().collect();
        while !open.is_empty() {
            for (id, work) in &open {
                note_attempt(&diary, id, work)?;
            }
            let mut calls = Vec::with_capacity(open.len());
            for (id, work) in &open {
                calls.push(work.call()?.job_id(*id));
            }
            let answers = client.enqueue_raw_packed(pace.pack, calls).await;
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
