//! Jobs into the queue, each noted before it is sent and when it is answered.

use std::path::Path;

use anyhow::Result;
use millhand_client::{Client, Enqueued, Job};
use millhand_proto::JobId;
use serde_json::json;

use crate::diary::{Diary, PRODUCED, RAN};
use crate::jobs::{Kind, Work};
use crate::place::Place;

/// The queue of a run.
pub(crate) const QUEUE: &str = "faults";

/// Jobs of a run: their kinds take turns.
pub(crate) fn jobs(count: u64, kinds: &[Kind], seed: u64) -> Vec<(JobId, Work)> {
    let kinds = kinds.iter().cycle();
    let job = |(n, kind): (u64, &Kind)| {
        let work = Work {
            n,
            kind: *kind,
            millis: 5 + n * 7 % 20,
        };
        (JobId::given(&format!("{seed}/{n}")), work)
    };
    (0..count).zip(kinds).map(job).collect()
}

/// Runs that handlers have begun, by their diary.
pub(crate) fn starts(folder: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(folder.join(RAN)).unwrap_or_default();
    Ok(text.matches("\"what\":\"start\"").count())
}

/// Jobs whose handlers have said that they ended for good; children left out.
pub(crate) fn ends(folder: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(folder.join(RAN)).unwrap_or_default();
    let mut ended = std::collections::HashSet::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let ends = matches!(line["what"].as_str(), Some("end" | "died"));
        if ends && line["parentless"] == true {
            ended.extend(line["id"].as_str().map(str::to_owned));
        }
    }
    Ok(ended.len())
}

/// Enqueues all of them, a few at a time; what nobody can say is asked again with the same id.
pub(crate) async fn produce(place: &Place, folder: &Path, jobs: &[(JobId, Work)]) -> Result<()> {
    let diary = Diary::open(folder, PRODUCED)?;
    let client = Client::new(place.open()?);
    for few in jobs.chunks(4) {
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
            let mut sent: Vec<Job<Work>> = Vec::with_capacity(open.len());
            for (id, work) in &open {
                sent.push(Job::of(work.clone()).queue(QUEUE).job_id(*id));
            }
            let answers = client.enqueue_many(sent).await;
            let mut again = Vec::new();
            for (job, answer) in open.into_iter().zip(answers) {
                let what = match answer {
                    Enqueued::Accepted(_) => "ok",
                    Enqueued::Unknown { .. } => {
                        again.push(job);
                        "unknown"
                    }
                    Enqueued::Rejected { .. } => "rejected",
                };
                diary.write(what, &[("id", json!(job.0.to_string()))])?;
            }
            open = again;
        }
    }
    client.close().await;
    Ok(())
}
