//! What to measure, from the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub(crate) const USAGE: &str = "millhand-bench sqlite|fleet|ladder|executors [OPTIONS] [--json]

sqlite: one SQLite file beside a raw table
  --jobs N         jobs of each enqueue and drain (20000)
  --rounds N       pairs of raw and Millhand (7)
  --pack N         jobs per parcel (1); the goals are for 1
  --trips N        round trips (2000)
  --idle SECONDS   of idling (20)
  --dir DIR        where the files are made (the folder for temporary files)

fleet: RabbitMQ and Redis beside raw loops over the same servers
  --jobs, --rounds, --trips, --idle as above
  --pack N         jobs per parcel in the further rows (64)

ladder: how late delayed jobs start
  --jobs N         jobs due within one minute (100000)
  --pack N         jobs per parcel (1)

executors: each executor beside the bare thing that it is made of
  --jobs N         jobs of each measurement (20000)
  --rounds N       measurements of each (7)

fleet and ladder start servers of their own, or use what is there
  --broker URL     amqp://…, where the vhost has no namespace `bench` that is in use
  --store URL      redis://…

  --json           the same as JSON";

/// The benches, with the options that each has.
const BENCHES: [(&str, &[&str]); 4] = [
    (
        "sqlite",
        &["--jobs", "--rounds", "--pack", "--trips", "--idle", "--dir"],
    ),
    (
        "fleet",
        &[
            "--jobs", "--rounds", "--pack", "--trips", "--idle", "--broker", "--store",
        ],
    ),
    ("ladder", &["--jobs", "--pack", "--broker", "--store"]),
    ("executors", &["--jobs", "--rounds"]),
];

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) bench: String,
    pub(crate) jobs: usize,
    pub(crate) rounds: usize,
    pub(crate) pack: usize,
    pub(crate) trips: usize,
    pub(crate) idle: Duration,
    pub(crate) dir: PathBuf,
    /// Broker and store; servers of its own where there are none.
    pub(crate) urls: Option<(String, String)>,
    pub(crate) json: bool,
}

impl Options {
    /// `None` where only help is asked for.
    pub(crate) fn of(args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let args: Vec<String> = args.collect();
        if args.iter().any(|arg| arg == "--help" || arg == "-h") {
            return Ok(None);
        }
        let mut args = args.into_iter();
        let bench = args.next().context(USAGE)?;
        let known = BENCHES.iter().find(|(name, _)| *name == bench);
        let (_, flags) = known.with_context(|| format!("there is no bench {bench}\n\n{USAGE}"))?;
        let mut options = Self {
            jobs: if bench == "ladder" { 100_000 } else { 20_000 },
            rounds: 7,
            pack: if bench == "fleet" { 64 } else { 1 },
            bench,
            trips: 2_000,
            idle: Duration::from_secs(20),
            dir: std::env::temp_dir(),
            urls: None,
            json: false,
        };
        let (mut broker, mut store) = (None, None);
        while let Some(flag) = args.next() {
            if flag == "--json" {
                options.json = true;
                continue;
            }
            ensure!(
                flags.contains(&flag.as_str()),
                "{} has no option {flag}\n\n{USAGE}",
                options.bench
            );
            let value = args.next().with_context(|| format!("{flag} needs a value"))?;
            let number = || {
                let number: Option<usize> = value.parse().ok().filter(|n| *n > 0);
                number.with_context(|| format!("{flag}: {value} is no positive number"))
            };
            match flag.as_str() {
                "--jobs" => options.jobs = number()?,
                "--rounds" => options.rounds = number()?,
                "--pack" => options.pack = number()?,
                "--trips" => options.trips = number()?,
                "--idle" => options.idle = Duration::from_secs(u64::try_from(number()?)?),
                "--dir" => options.dir = value.into(),
                "--broker" => broker = Some(value),
                "--store" => store = Some(value),
                _ => bail!("there is no option {flag}"),
            }
        }
        options.urls = match (broker, store) {
            (Some(broker), Some(store)) => Some((broker, store)),
            (None, None) => None,
            _ => bail!("--broker and --store go together"),
        };
        Ok(Some(options))
    }
}
