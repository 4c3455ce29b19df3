//! What others put into the queue: one message many times, and bytes that make no sense, among good jobs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Connection as Amqp, ConnectionProperties};
use millhand_broker::Pushed;
use millhand_client::RawJob;
use millhand_proto::{JobId, Parcel, Payload, TaskName, Timestamp};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::diary::{Diary, PRODUCED, RAN, lines};
use crate::jobs::{Kind, STRANGER, Work};
use crate::load::{self, Pace, QUEUE};
use crate::place::Place;
use crate::process::{Setting, Setup};
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F40",
        what: "each message lies in the queue 2 to 100 times",
        runs: |options| {
            let jobs = options.pick(20, 1000);
            // Each copy of a dead job may leave one in the queue of the dead.
            let kinds = [Kind::Succeed, Kind::Retry, Kind::Snooze, Kind::Parent];
            let run = |place| Run::new(place, "2 to 100 copies", copied).jobs(jobs).kinds(&kinds);
            [Where::Sqlite, Where::Fleet].into_iter().map(run).collect()
        },
    },
    Scenario {
        name: "F41",
        what: "parcels that make no sense, too many of them, among good jobs",
        runs: hostile_runs,
    },
];

async fn copied(scene: Arc<Scene>) -> Result<Value> {
    let setting = Setting {
        setup: Setup {
            asyncs: 16,
            ..Setup::default()
        },
        ..Setting::default()
    };
    let workers = vec![scene.worker_with(&setting)?, scene.worker_with(&setting)?];
    let diary = Diary::open(&scene.folder, PRODUCED)?;
    let backend = scene.place.open()?;
    let mut all = 0;
    scene.note("fault", None)?;
    for job in &scene.jobs {
        let copies = 2 + usize::try_from(job.1.n)? * 37 % 99;
        // The same bytes, in one go: several are in hands at the same time.
        let parcel = load::parcel(std::slice::from_ref(job), backend.now())?;
        load::note_attempt(&diary, &job.0, &job.1)?;
        let pushed = backend.push(vec![parcel; copies]).await;
        ensure!(pushed.iter().all(|pushed| *pushed == Pushed::Accepted), "{pushed:?}");
        diary.write("ok", &[("id", json!(job.0.to_string()))])?;
        all += copies;
    }
    ensure!(scene.ended().await?, "not all jobs ended");
    scene.drained().await?;
    let mut facts = scene.over(workers).await?;
    facts["copies"] = all.into();
    Ok(facts)
}

/// Good jobs in a second.
const GOOD: u32 = 200;
/// Hostile parcels in one go.
const AT_ONCE: u64 = 20;

fn hostile_runs(options: Options) -> Vec<Run> {
    let (pairs, seconds) = (options.pick(1, 5), options.seconds(3, 50));
    let jobs = u64::from(GOOD) * seconds * 2 * pairs;
    // Hostile parcels in a second.
    let hostile = options.pick(200, 2000);
    let plan = format!("{pairs} × {seconds} s without and with {hostile}/s");
    let places: &[Where] = if options.short {
        &[Where::OwnFleet]
    } else {
        &[Where::Sqlite, Where::OwnFleet]
    };
    let run = |place: &Where| {
        let run = Run::new(*place, plan.clone(), move |scene| beset(scene, pairs, hostile));
        run.jobs(jobs).kinds(&[Kind::Succeed])
    };
    places.iter().map(run).collect()
}

async fn beset(scene: Arc<Scene>, pairs: u64, per_second: u32) -> Result<Value> {
    let setting = |strangers| Setting {
        setup: Setup {
            asyncs: 16,
            strangers,
            ..Setup::default()
        },
        ..Setting::default()
    };
    let workers = vec![scene.worker_with(&setting(false))?, scene.worker_with(&setting(false))?];
    let slices: Vec<_> = scene
        .jobs
        .chunks(scene.jobs.len() / (2 * usize::try_from(pairs)?))
        .collect();
    // The first jobs of a worker are slower.
    let warm = &slices[0][..scene.jobs.len().min(100)];
    produce(&scene, warm).await?;
    scene.baseline(&workers)?;
    let (mut clean, mut beset, mut sent) = (Vec::new(), Vec::new(), 0);
    for (turn, slice) in slices.into_iter().enumerate() {
        // A B, B A: what changes with time is the same for both.
        if matches!(turn % 4, 0 | 3) {
            produce(&scene, slice).await?;
            clean.push(p99(&scene, slice)?);
        } else {
            scene.note("fault", None)?;
            let stop = Arc::new(AtomicBool::new(false));
            let door = Door::open(&scene.place).await?;
            let first = slice.first().map_or(0, |(_, work)| work.n);
            let pests = tokio::spawn(pester(door, Arc::clone(&stop), per_second, first));
            let produced = enqueue(&scene, slice).await;
            stop.store(true, Ordering::Relaxed);
            sent += pests.await??;
            produced?;
            ended(&scene, slice).await?;
            scene.note("heal", None)?;
            beset.push(p99(&scene, slice)?);
        }
    }
    // Who knows the strange tasks comes last: nothing may be left on the ladder.
    let knows = scene.worker_with(&setting(true))?;
    let mut most = 0;
    for worker in workers {
        most = most.max(worker.usage()?.rss_kib);
        worker.stop(PATIENCE).await?;
    }
    let unreadable = swept(&scene).await?;
    let mut facts = scene.over(vec![knows]).await?;
    let mut ratios: Vec<f64> = clean
        .iter()
        .zip(&beset)
        .map(|(clean, beset)| *beset as f64 / *clean as f64)
        .collect();
    ratios.sort_by(f64::total_cmp);
    facts["p99_clean"] = json!(clean);
    facts["p99_beset"] = json!(beset);
    facts["p99_ratio"] = json!(ratios.get(ratios.len() / 2));
    facts["hostile"] = sent.into();
    facts["unreadable_kept"] = unreadable.into();
    facts["rss_kib"] = most.into();
    Ok(facts)
}

/// Enqueues these at their pace.
async fn enqueue(scene: &Scene, jobs: &[(JobId, Work)]) -> Result<()> {
    let pace = Pace {
        per_second: Some(GOOD),
        ..Pace::default()
    };
    load::produce(&scene.place, &scene.folder, jobs, pace).await
}

async fn ended(scene: &Scene, jobs: &[(JobId, Work)]) -> Result<()> {
    let ended = |heard: &load::Heard| jobs.iter().all(|(id, _)| heard.ended.contains(&id.to_string()));
    scene.until("the end of the good jobs", ended).await
}

async fn produce(scene: &Scene, jobs: &[(JobId, Work)]) -> Result<()> {
    enqueue(scene, jobs).await?;
    ended(scene, jobs).await
}

/// Milliseconds from before a job was sent to the end of its handler, which 1 in 100 takes longer.
fn p99(scene: &Scene, jobs: &[(JobId, Work)]) -> Result<u64> {
    let mut times: HashMap<String, [u64; 2]> = jobs.iter().map(|(id, _)| (id.to_string(), [0; 2])).collect();
    for (at, name, what) in [(0, PRODUCED, "attempt"), (1, RAN, "end")] {
        for line in lines(&scene.folder, name)? {
            let line = line?;
            if line["what"] == what
                && let Some(times) = line["id"].as_str().and_then(|id| times.get_mut(id))
            {
                times[at] = line["at"].as_u64().unwrap_or_default();
            }
        }
    }
    let mut waits: Vec<u64> = times.values().map(|[from, to]| to.saturating_sub(*from)).collect();
    waits.sort_unstable();
    Ok(waits.get(waits.len() * 99 / 100).copied().unwrap_or_default().max(1))
}

/// How bytes come into the queue behind Millhand's back.
enum Door {
    Rabbit {
        /// Held: the channel ends with it.
        _connection: Box<Amqp>,
        channel: Box<Channel>,
        queue: String,
    },
    File(Box<Mutex<Connection>>),
}

impl Door {
    async fn open(place: &Place) -> Result<Self> {
        if let Ok(file) = place.file() {
            let connection = Connection::open(file)?;
            connection.busy_timeout(PATIENCE)?;
            return Ok(Self::File(Box::new(Mutex::new(connection))));
        }
        let url = place.with_rabbit(|rabbit| rabbit.url()).await?;
        let connection = Amqp::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let queue = format!("mh.{}.1.q.{QUEUE}.normal", place.namespace()?);
        Ok(Self::Rabbit {
            _connection: Box::new(connection),
            channel: Box::new(channel),
            queue,
        })
    }

    async fn push(&self, bodies: &[Vec<u8>]) -> Result<()> {
        match self {
            Self::Rabbit { channel, queue, .. } => {
                for body in bodies {
                    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
                    let sent = channel.basic_publish("".into(), queue.as_str().into(), options, body, properties);
                    sent.await?;
                }
            }
            Self::File(connection) => tokio::task::block_in_place(|| -> Result<()> {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                let write = connection.transaction()?;
                for body in bodies {
                    let row = "INSERT INTO copies (key, queue, class, due, jobs, body) VALUES (0, ?, 1, 0, 1, ?)";
                    write.execute(row, (QUEUE, body))?;
                }
                Ok(write.commit()?)
            })?,
        }
        Ok(())
    }
}

/// Puts hostile parcels into the queue until it is told to stop; how many.
async fn pester(door: Door, stop: Arc<AtomicBool>, per_second: u32, first: u64) -> Result<u64> {
    let (began, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let bodies = (sent..sent + AT_ONCE)
            .map(|n| hostile(first, n, per_second > 1000))
            .collect::<Result<Vec<_>>>()?;
        door.push(&bodies).await?;
        sent += AT_ONCE;
        let due = began + Duration::from_secs(1) * u32::try_from(sent)? / per_second;
        tokio::time::sleep_until(due.into()).await;
    }
    Ok(sent)
}

/// One of many kinds.
fn hostile(first: u64, n: u64, strangers: bool) -> Result<Vec<u8>> {
    let stranger = |task: &str| -> Result<Vec<u8>> {
        let call = RawJob::new(TaskName::new(task)?, Payload::encode("args")?).queue(QUEUE);
        let id = JobId::given(&format!("hostile {first} {n}"));
        let core = call.into_core(id, Timestamp::MIN_WIRE, None, None)?;
        Ok(Parcel::pack(vec![core])?.encode())
    };
    if n == 7 {
        // Longer than a parcel may be.
        return Ok(vec![0x91; 16 << 20]);
    }
    // Each waits on the ladder for up to a minute.
    if strangers && n.is_multiple_of(200) {
        return stranger(STRANGER);
    }
    Ok(match n % 8 {
        0 => Vec::new(),
        1 => (0..1024)
            .map(|at| (n * 31 + at * 17 + (at >> 3)).to_le_bytes()[0])
            .collect(),
        2 => vec![0x91; 3000],
        3 => {
            let mut body = stranger(STRANGER)?;
            body.truncate(body.len() - 1);
            body
        }
        4 => vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        // A version that nobody knows.
        5 => b"\x92\x81\xa1v\x63\x90".to_vec(),
        6 => {
            let mut body = stranger(STRANGER)?;
            let at = body
                .windows(STRANGER.len())
                .position(|part| part == STRANGER.as_bytes());
            body[at.context("a task has its name")?] = b'A';
            body
        }
        _ => vec![0xc1; 64 << 10],
    })
}

/// Waits until nothing but what nobody can read is left; how many of those are kept.
async fn swept(scene: &Scene) -> Result<u64> {
    scene.drained().await?;
    let kept = if let Ok(file) = scene.place.file() {
        let connection = Connection::open(file)?;
        let count: i64 = connection.query_row("SELECT count(*) FROM unreadable", [], |row| row.get(0))?;
        count.try_into()?
    } else {
        let messages = scene.place.messages().await?;
        let aside = messages.iter().find(|(name, _)| name.ends_with(".unreadable"));
        let kept = aside.map_or(0, |(_, count)| *count);
        let queue = format!("mh.{}.1.unreadable", scene.place.namespace()?);
        scene
            .place
            .with_rabbit(move |rabbit| rabbit.ctl(&["purge_queue", &queue]))
            .await?;
        kept
    };
    ensure!((1..=10_000).contains(&kept), "{kept} unreadable parcels are kept");
    Ok(kept)
}
