//! What a scenario is, and how its runs go: several at once, each judged when it is over.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use millhand_servers::Servers;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use crate::jobs::Kind;
use crate::load;
use crate::place::{Place, servers};
use crate::scene::Scene;

/// Runs at once: most of each is waiting for a lease to end.
const AT_ONCE: usize = 6;

/// A fault, by its number in the fault matrix.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What is done.
    pub(crate) what: &'static str,
    pub(crate) runs: fn(Options) -> Vec<Run>,
}

/// What the caller of the program wishes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// A part of each, for every day.
    pub(crate) short: bool,
    /// How long a load lasts that is not a number of jobs.
    pub(crate) seconds: Option<u64>,
    /// Only on SQLite, or only on a fleet.
    pub(crate) on: Option<Where>,
}

impl Options {
    /// One of two, by whether the short form is asked for.
    pub(crate) fn pick<T>(self, short: T, whole: T) -> T {
        if self.short { short } else { whole }
    }

    /// How long a load lasts: as asked for, or one of two.
    pub(crate) fn seconds(self, short: u64, whole: u64) -> u64 {
        self.seconds.unwrap_or(self.pick(short, whole))
    }
}

/// Where a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Sqlite,
    /// On servers that other runs use too.
    Fleet,
    /// On servers that nobody else uses.
    OwnFleet,
}

impl Where {
    /// As a user names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Fleet | Self::OwnFleet => "fleet",
        }
    }
}

/// What is done in a run, once.
type Play = Box<dyn FnOnce(Arc<Scene>) -> Pin<Box<dyn Future<Output = Result<Value>> + Send>> + Send>;

/// One run of a scenario.
pub(crate) struct Run {
    place: Where,
    plan: String,
    jobs: u64,
    kinds: Vec<Kind>,
    short_jobs: bool,
    packed: bool,
    forgets: bool,
    play: Play,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("place", &self.place)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// `plan` says what is done, in words; 200 jobs of every kind, unless another number or kinds follow.
    pub(crate) fn new<F, Fut>(place: Where, plan: impl Into<String>, play: F) -> Self
    where
        F: FnOnce(Arc<Scene>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Value>> + Send + 'static,
    {
        Self {
            place,
            plan: plan.into(),
            jobs: 200,
            kinds: Kind::ALL.to_vec(),
            short_jobs: false,
            packed: false,
            forgets: false,
            play: Box::new(|scene| Box::pin(play(scene))),
        }
    }

    pub(crate) fn jobs(mut self, jobs: u64) -> Self {
        self.jobs = jobs;
        self
    }

    pub(crate) fn kinds(mut self, kinds: &[Kind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// Jobs of no time, where there are many.
    pub(crate) fn short_jobs(mut self, short_jobs: bool) -> Self {
        self.short_jobs = short_jobs;
        self
    }

    /// Many jobs in one parcel.
    pub(crate) fn packed(mut self) -> Self {
        self.packed = true;
        self
    }

    /// The store loses what it knew: what ended is known from the handlers' diary only.
    pub(crate) fn forgets(mut self) -> Self {
        self.forgets = true;
        self
    }

    /// Runs it in a folder of its own; the line of it, and whether it passed.
    async fn go(self, scenario: &str, seed: u64, place: Place, folder: &Path) -> Result<(Value, bool)> {
        let mut line = json!({
            "scenario": scenario,
            "place": self.place.name(),
            "plan": self.plan,
            "kinds": self.kinds,
            "seed": seed,
            "versions": place.versions(),
        });
        let mut jobs = load::jobs(self.jobs, &self.kinds, seed);
        if self.short_jobs {
            jobs.iter_mut().for_each(|(_, work)| work.millis = 0);
        }
        if self.packed {
            load::pack(&mut jobs, seed, place.open()?.now());
        }
        let scene = Arc::new(Scene::new(place, folder, jobs, self.forgets, seed)?);
        let facts = (self.play)(scene).await;
        let verdict = judged(folder).await?;
        let mut passed = facts.is_ok() && verdict["wrong"].as_array().is_some_and(Vec::is_empty);
        // Where a play says how many extra runs its harm explains, that holds too.
        if let Some(bound) = facts.as_ref().ok().and_then(|facts| facts["bound"].as_u64()) {
            passed &= verdict["extra_executions"].as_u64() <= Some(bound);
        }
        let facts = facts.unwrap_or_else(|error| json!({ "void": format!("{error:#}") }));
        let passed_or_not = if facts["not_run"].is_string() {
            json!({ "passed": null })
        } else {
            json!({ "passed": passed })
        };
        for facts in [verdict, facts, passed_or_not] {
            if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
                line.extend(facts);
            }
        }
        Ok((line, passed))
    }
}

impl Scenario {
    /// Its runs, numbered, that are asked for: the number stays the same when only one place is.
    fn asked(&self, options: Options) -> Vec<(u64, Run)> {
        let there = |run: &Run| options.on.is_none_or(|on| on.name() == run.place.name());
        let runs = (0..).zip((self.runs)(options));
        runs.filter(|(_, run)| there(run)).collect()
    }

    /// Where it has runs that are asked for.
    pub(crate) fn places(&self, options: Options) -> BTreeSet<&'static str> {
        self.asked(options).iter().map(|(_, run)| run.place.name()).collect()
    }

    /// Runs it and prints a line for each run; how many of them failed.
    pub(crate) async fn run(&self, options: Options) -> Result<usize> {
        let (gate, shared) = (
            Arc::new(Semaphore::new(AT_ONCE)),
            Arc::<OnceCell<Arc<Servers>>>::default(),
        );
        let mut under_way = JoinSet::new();
        for (number, run) in self.asked(options) {
            let (gate, shared, scenario) = (Arc::clone(&gate), Arc::clone(&shared), self.name);
            under_way.spawn(async move {
                // Servers of its own, and what is measured on them, need the machine for themselves.
                let turns = if run.place == Where::OwnFleet { AT_ONCE } else { 1 };
                let _turns = gate.acquire_many_owned(u32::try_from(turns)?).await?;
                let folder = tempfile::tempdir()?;
                let start = || tokio::task::spawn_blocking(servers);
                let place = match run.place {
                    Where::Sqlite => Place::sqlite(folder.path())?,
                    Where::Fleet => {
                        let servers = shared.get_or_try_init(start).await?;
                        Place::fleet(&format!("f-{:x}-{number}", options.seed), Arc::clone(servers))
                    }
                    Where::OwnFleet => Place::fleet("alone", start().await?),
                };
                let seed = options.seed.wrapping_add(number);
                let done = run.go(scenario, seed, place, folder.path()).await?;
                keep(scenario, number, &done, &folder)?;
                Ok::<_, anyhow::Error>(done)
            });
        }
        let mut failed = 0;
        while let Some(done) = under_way.join_next().await {
            let (line, passed) = done??;
            println!("{line}");
            failed += usize::from(!passed);
        }
        Ok(failed)
    }
}

/// Keeps the files of a run that failed, when somebody wants to look at them.
fn keep(scenario: &str, number: u64, (_, passed): &(Value, bool), folder: &tempfile::TempDir) -> Result<()> {
    let Some(kept) = std::env::var_os("MILLHAND_FAULTS_KEEP").filter(|_| !passed) else {
        return Ok(());
    };
    let kept = Path::new(&kept).join(format!("{scenario}-{number}"));
    let status = std::process::Command::new("cp")
        .arg("-r")
        .args([folder.path(), &kept])
        .status()?;
    if !status.success() {
        bail!("the files of {scenario} cannot be kept in {}", kept.display());
    }
    Ok(())
}

/// What the checker says, a process of its own.
async fn judged(folder: &Path) -> Result<Value> {
    let checker = Command::new(std::env::current_exe()?).arg("check").arg(folder).output();
    let output = checker.await?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the checker: {}", String::from_utf8_lossy(&output.stderr)))
}
