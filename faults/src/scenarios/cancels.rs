//! Cancels that come while a job starts, runs, ends, waits for its next attempt or for its time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use millhand_broker::Acted;
use millhand_client::Client;
use serde_json::{Value, json};

use crate::diary::{Diary, PRODUCED};
use crate::jobs::Kind;
use crate::load::{self, Pace};
use crate::scenario::{Run, Scenario, Where};
use crate::scene::Scene;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "F50",
    what: "cancels race the start, the end, the retry and the delay of jobs",
    runs: |options| {
        let jobs = options.pick(300, 3000);
        let run = |place| {
            let run = Run::new(place, "at all times", cancelled);
            run.jobs(jobs).kinds(&[Kind::Succeed, Kind::Retry, Kind::Snooze])
        };
        [Where::Sqlite, Where::Fleet].into_iter().map(run).collect()
    },
}];

/// Jobs that are on their way together.
const TOGETHER: usize = 12;

async fn cancelled(scene: Arc<Scene>) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    let client = Client::new(scene.place.open()?);
    let mut jobs = scene.jobs.clone();
    for (_, work) in &mut jobs {
        // A fifth is delayed.
        work.delay = if work.n % 5 == 0 { 1500 } else { 0 };
    }
    let pace = Pace {
        at_once: TOGETHER,
        ..Pace::default()
    };
    let mut asked = Vec::new();
    for few in jobs.chunks(TOGETHER) {
        load::produce(&scene.place, &scene.folder, few, pace).await?;
        for (id, work) in few {
            let (client, id, n) = (client.clone(), *id, work.n);
            let diary = Diary::open(&scene.folder, PRODUCED)?;
            asked.push(tokio::spawn(async move {
                // From before it starts to after its end, and into the wait for its next attempt.
                tokio::time::sleep(Duration::from_millis(n * 37 % 150)).await;
                let of = [("id", json!(id.to_string()))];
                diary.write("cancel", &of)?;
                let acted = client.cancel(id).await?;
                if acted == Acted::Done {
                    diary.write("cancelled", &of)?;
                }
                anyhow::Ok(acted)
            }));
        }
    }
    let (mut done, mut during, mut late) = (0, 0, 0);
    for asked in asked {
        match asked.await?? {
            Acted::Done => done += 1,
            Acted::Asked => during += 1,
            Acted::Refused(_) => late += 1,
            Acted::Unknown => {}
        }
    }
    client.close().await;
    ensure!(
        done > 0 && during > 0 && late > 0,
        "no race: {done} before, {during} while they ran, {late} after"
    );
    let mut facts = scene.over(workers).await?;
    facts["cancels"] = json!({ "done": done, "asked": during, "refused": late });
    Ok(facts)
}
