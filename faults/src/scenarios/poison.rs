//! Jobs that take their whole worker along.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::jobs::Kind;
use crate::process::Running;
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::Scene;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F09",
        what: "a job takes memory until the kernel kills its worker",
        runs: |options| runs(options, Kind::Glutton),
    },
    Scenario {
        name: "F42",
        what: "a job aborts its worker each time it runs",
        runs: |options| runs(options, Kind::Poison),
    },
];

/// Deaths of workers after which such a job is dead: 2 until it is a suspect, 3 as one.
const DEATHS: usize = 5;
/// Jobs that come with it in one parcel: those that run beside it are suspects as well.
const PACK: usize = 20;

fn runs(options: Options, kind: Kind) -> Vec<Run> {
    let places: &[Where] = if options.short {
        &[Where::Sqlite]
    } else {
        &[Where::Sqlite, Where::Fleet]
    };
    let poisons = options.pick(1, 2);
    let mut kinds = vec![kind];
    kinds.extend(Kind::ALL.iter().cycle().take(59));
    let mut runs = Vec::new();
    for pack in [1, PACK] {
        for place in places {
            let plan = format!("{poisons} of {} jobs, {pack} in a parcel", poisons * kinds.len());
            let run = Run::new(*place, plan, move |scene| poisoned(scene, kind, poisons, pack));
            runs.push(run.jobs((poisons * kinds.len()) as u64).kinds(&kinds));
        }
    }
    runs
}

/// Workers come back for as long as somebody kills them; nobody else dies.
async fn poisoned(scene: Arc<Scene>, kind: Kind, poisons: usize, pack: usize) -> Result<Value> {
    let cage = if kind == Kind::Glutton {
        match Cage::new() {
            Ok(cage) => Some(cage),
            Err(why) => return Ok(json!({ "not_run": why })),
        }
    } else {
        None
    };
    let start = || -> Result<Running> {
        let worker = scene.worker()?;
        if let (Some(cage), Some(pid)) = (&cage, worker.pid()) {
            cage.enter(pid)?;
        }
        Ok(worker)
    };
    scene.produce_packed(pack).await?;
    let mut workers = vec![start()?, start()?];
    let mut deaths = 0;
    {
        let mut ended = std::pin::pin!(scene.ended());
        loop {
            tokio::select! {
                ended = &mut ended => {
                    ensure!(ended?, "not all jobs ended");
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            for worker in &mut workers {
                let pid = worker.pid();
                if let Some(status) = worker.gone()? {
                    ensure!(
                        !status.success() && status.code().is_none(),
                        "a worker ended with {status}"
                    );
                    scene.note("kill", pid)?;
                    deaths += 1;
                    *worker = start()?;
                }
            }
        }
    }
    let mut facts = scene.over(workers).await?;
    // One may take another along that runs beside it for the first times.
    ensure!(
        (DEATHS..=DEATHS * poisons).contains(&deaths),
        "{deaths} workers died of {poisons} jobs"
    );
    facts["worker_deaths"] = deaths.into();
    Ok(facts)
}

/// A memory cgroup, version 1: what is in it may hold so much together.
struct Cage(PathBuf);

impl Cage {
    fn new() -> Result<Self, String> {
        static CAGES: AtomicU32 = AtomicU32::new(0);
        let number = CAGES.fetch_add(1, Ordering::Relaxed);
        let name = format!("millhand-faults-{}-{number}", std::process::id());
        let folder = Path::new("/sys/fs/cgroup/memory").join(name);
        std::fs::create_dir(&folder).map_err(|error| format!("mkdir {}: {error}", folder.display()))?;
        let cage = Self(folder);
        let limit = cage.0.join("memory.limit_in_bytes");
        std::fs::write(&limit, "300M").map_err(|error| format!("{}: {error}", limit.display()))?;
        Ok(cage)
    }

    fn enter(&self, pid: u32) -> Result<()> {
        Ok(std::fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Who was in it may take a moment to go.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} cannot be removed", self.0.display());
    }
}
