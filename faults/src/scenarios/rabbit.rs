//! RabbitMQ restarts, dies, stands still, refuses, closes connections and loses queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millhand_servers::Rabbit;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::jobs::Kind;
use crate::process::Running;
use crate::scenario::{Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene, millis};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F13",
        what: "RabbitMQ is restarted with grace while jobs come and run",
        runs: |_| vec![strike("restart", 1, restart)],
    },
    Scenario {
        name: "F14",
        what: "RabbitMQ is killed again and again while jobs come and run",
        runs: |options| vec![strike("kills", options.pick(2, 10), kill)],
    },
    Scenario {
        name: "F15",
        what: "RabbitMQ stands still",
        runs: |options| {
            let still = Duration::from_secs(options.seconds(20, 90));
            vec![strike("frozen", 1, move |rabbit| {
                rabbit.freeze();
                std::thread::sleep(still);
                rabbit.thaw();
            })]
        },
    },
    Scenario {
        name: "F16",
        what: "RabbitMQ is away when a worker starts, and for long",
        runs: |options| {
            let away = Duration::from_secs(options.seconds(15, 600));
            let plan = format!("away for {away:?}");
            vec![Run::new(Where::OwnFleet, plan, move |scene| absent(scene, away))]
        },
    },
    Scenario {
        name: "F18",
        what: "RabbitMQ closes every connection",
        runs: |options| {
            vec![strike("closed", options.pick(2, 10), |rabbit| {
                rabbit.ctl(&["close_all_connections", "a fault"]);
            })]
        },
    },
    Scenario {
        name: "F19",
        what: "RabbitMQ takes the user's rights away, and gives them back",
        runs: |_| vec![strike("no rights", 1, no_rights)],
    },
    Scenario {
        name: "F20",
        what: "the work queues are deleted under their consumers",
        runs: |_| vec![Run::new(Where::OwnFleet, "deleted", deleted)],
    },
    Scenario {
        name: "F21",
        what: "RabbitMQ's own limit for a delivery passes while jobs run",
        runs: |_| vec![Run::new(Where::OwnFleet, "consumer_timeout", overdue).jobs(30)],
    },
    Scenario {
        name: "F27",
        what: "RabbitMQ has no memory left, and none on its disk, and blocks who publishes",
        runs: |options| {
            let time = Duration::from_secs(options.seconds(8, 30));
            vec![
                strike("memory alarm", 1, move |rabbit| {
                    rabbit.ctl(&["set_vm_memory_high_watermark", "0"]);
                    std::thread::sleep(time);
                    rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]);
                }),
                strike("disk alarm", 1, move |rabbit| {
                    rabbit.ctl(&["set_disk_free_limit", "10000000000000"]);
                    std::thread::sleep(time);
                    rabbit.ctl(&["set_disk_free_limit", "64MB"]);
                }),
            ]
        },
    },
    Scenario {
        name: "F29",
        what: "the work queues are full, and refuse",
        runs: |_| vec![Run::new(Where::OwnFleet, "max-length", full).jobs(400)],
    },
    Scenario {
        name: "F30",
        what: "one job in a window of 64 has no queue",
        runs: |_| vec![Run::new(Where::OwnFleet, "unroutable", unroutable).jobs(640)],
    },
    Scenario {
        name: "F46",
        what: "RabbitMQ is killed while jobs wait on the ladder",
        runs: |options| {
            let jobs = options.pick(200, 2000);
            vec![
                Run::new(Where::OwnFleet, "ladder", ladder)
                    .jobs(jobs)
                    .kinds(&[Kind::Snooze]),
            ]
        },
    },
    Scenario {
        name: "R03",
        what: "a queue of RabbitMQ's confirms nothing, and only jobs that need it wait",
        runs: |_| vec![Run::new(Where::OwnFleet, "suspended", silent).jobs(100)],
    },
];

/// RabbitMQ writes down late which queues it has (docs/guarantees.md). Who kills it before attacks that, and not
/// Millhand: the first jobs have been through every queue that there will be.
pub(super) const SETTLED: Duration = Duration::from_secs(6);

/// Jobs in a second, of a load behind which something happens.
const PER_SECOND: u32 = 100;

fn restart(rabbit: &Rabbit) {
    rabbit.stop();
    rabbit.restart();
}

fn kill(rabbit: &Rabbit) {
    rabbit.kill();
    rabbit.restart();
}

fn no_rights(rabbit: &Rabbit) {
    rabbit.ctl(&["clear_permissions", "mill"]);
    rabbit.ctl(&["close_all_connections", "a fault"]);
    std::thread::sleep(Duration::from_secs(5));
    rabbit.ctl(&["set_permissions", "mill", ".*", ".*", ".*"]);
}

/// A run in which something is done to RabbitMQ so many times, while jobs come and run.
fn strike(plan: &'static str, times: u32, deed: impl Fn(&Rabbit) + Clone + Send + Sync + 'static) -> Run {
    let jobs = 1000 + 600 * u64::from(times);
    let run = Run::new(Where::OwnFleet, plan, move |scene| struck(scene, times, deed));
    run.jobs(jobs)
}

async fn struck(
    scene: Arc<Scene>,
    times: u32,
    deed: impl Fn(&Rabbit) + Clone + Send + Sync + 'static,
) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    consumers_back(&scene, &workers).await?;
    let load = scene.produce_slowly(scene.place.clone(), PER_SECOND);
    scene.started(50).await?;
    tokio::time::sleep(SETTLED).await;
    scene.baseline(&workers)?;
    let mut back = Vec::new();
    for time in 1..=times {
        scene.started(600 + 400 * (time as usize - 1)).await?;
        scene.note("fault", None)?;
        let deed = deed.clone();
        scene.place.with_rabbit(move |rabbit| deed(rabbit)).await?;
        scene.note("heal", None)?;
        let before = scene.accepted()?;
        back.push(millis(consumers_back(&scene, &workers).await?));
        // What is measured from a fault's end must not reach into the next one.
        scene.accepts_more_than(before).await?;
    }
    load.await??;
    let mut facts = scene.over(workers).await?;
    facts["t_consumers"] = back.iter().max().copied().into();
    facts["t_consumers_each"] = back.into();
    Ok(facts)
}

/// Waits until every worker consumes each class of the queue, as many parcels at once as it should; how long
/// that took.
async fn consumers_back(scene: &Scene, workers: &[Running]) -> Result<Duration> {
    let (began, wanted) = (Instant::now(), 3 * workers.len());
    loop {
        let listed = scene
            .place
            .with_rabbit(|rabbit| rabbit.ctl(&["list_consumers", "queue_name", "prefetch_count", "active"]))
            .await?;
        let ours: Vec<&str> = listed.lines().filter(|line| line.contains(".faults.")).collect();
        let bounded = |line: &&&str| {
            let prefetch: Option<u64> = line.split('\t').nth(1).and_then(|word| word.parse().ok());
            prefetch.is_some_and(|prefetch| (1..=100).contains(&prefetch))
        };
        if ours.len() == wanted && ours.iter().filter(bounded).count() == wanted {
            return Ok(began.elapsed());
        }
        if began.elapsed() > PATIENCE {
            bail!("{} of {wanted} consumers are back:\n{listed}", ours.len());
        }
    }
}

/// A worker and a producer start while nobody is there.
async fn absent(scene: Arc<Scene>, away: Duration) -> Result<Value> {
    scene.place.with_rabbit(Rabbit::kill).await?;
    scene.note("fault", None)?;
    let worker = scene.worker()?;
    let load = scene.produce_slowly(scene.place.clone(), PER_SECOND);
    let began = ticks(&worker)?;
    tokio::time::sleep(away).await;
    let busy = ticks(&worker)? - began;
    scene.place.with_rabbit(Rabbit::restart).await?;
    scene.note("heal", None)?;
    load.await??;
    let mut facts = scene.over(vec![worker]).await?;
    // Of one core, in the time in which it could do nothing.
    let share = busy as f64 / 100.0 / away.as_secs_f64();
    facts["cpu_share_while_away"] = json!((share * 1000.0).round() / 1000.0);
    ensure!(
        share < 0.2,
        "a worker that waits for RabbitMQ used {share:.2} of a core"
    );
    Ok(facts)
}

/// Processor time that it has used, in hundredths of a second.
fn ticks(worker: &Running) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid().unwrap_or_default()))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |at: usize| fields.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    Ok(field(11) + field(12))
}

/// What was in the queues is lost by the operator's hand: here they are empty. Who publishes and consumes finds
/// them again.
async fn deleted(scene: Arc<Scene>) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    consumers_back(&scene, &workers).await?;
    scene.baseline(&workers)?;
    scene.note("fault", None)?;
    let namespace = scene.place.namespace()?.to_owned();
    scene
        .place
        .with_rabbit(move |rabbit| {
            for class in ["low", "normal", "high"] {
                rabbit.ctl(&["delete_queue", &format!("mh.{namespace}.1.q.faults.{class}")]);
            }
        })
        .await?;
    scene.note("heal", None)?;
    let back = consumers_back(&scene, &workers).await?;
    scene.produce().await?;
    let mut facts = scene.over(workers).await?;
    facts["t_consumers"] = millis(back).into();
    Ok(facts)
}

/// RabbitMQ takes back what is not settled in time, and ends the channel: those who run go on.
async fn overdue(scene: Arc<Scene>) -> Result<Value> {
    scene
        .place
        .with_rabbit(|rabbit| {
            for setting in ["consumer_timeout, 5000", "channel_tick_interval, 1000"] {
                rabbit.ctl(&["eval", &format!("application:set_env(rabbit, {setting}).")]);
            }
        })
        .await?;
    let mut jobs = scene.jobs.clone();
    for (_, work) in &mut jobs {
        // Longer than RabbitMQ allows, and than it takes to look.
        work.millis = 9_000;
    }
    scene.produce_these(&jobs).await?;
    let workers = vec![scene.worker()?, scene.worker()?];
    scene.note("fault", None)?;
    let facts = scene.over(workers).await?;
    let log = std::fs::read_to_string(scene.folder.join("worker.log"))?;
    ensure!(
        log.contains("RabbitMQ took back what was held"),
        "no delivery was overdue"
    );
    Ok(facts)
}

/// A queue with a limit refuses what is too much: for good, by RabbitMQ's word, or for who asks again.
async fn full(scene: Arc<Scene>) -> Result<Value> {
    let namespace = scene.place.namespace()?.to_owned();
    // What comes from the ladder and is refused comes again after this; RabbitMQ's own value is three minutes.
    scene
        .place
        .with_rabbit(|rabbit| {
            let setting = "rabbit, dead_letter_worker_publisher_confirm_timeout, 5000";
            rabbit.ctl(&["eval", &format!("application:set_env({setting}).")]);
        })
        .await?;
    let policy = format!("^mh\\.{namespace}\\.1\\.q\\.faults\\.");
    // A worker makes the queues.
    let worker = scene.worker()?;
    consumers_back(&scene, std::slice::from_ref(&worker)).await?;
    worker.stop(PATIENCE).await?;
    scene
        .place
        .with_rabbit(move |rabbit| {
            rabbit.ctl(&[
                "set_policy",
                "full",
                &policy,
                r#"{"max-length":100}"#,
                "--apply-to",
                "queues",
            ])
        })
        .await?;
    scene.note("fault", None)?;
    let load = scene.produce_slowly(scene.place.clone(), 1000);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // RabbitMQ counts a queue's messages anew every five seconds.
    let counted = async {
        loop {
            let (ready, accepted) = (scene.place.messages().await?, scene.accepted()?);
            let ready: u64 = ready.iter().map(|(_, count)| count).sum();
            if usize::try_from(ready)? >= accepted {
                return anyhow::Ok(accepted);
            }
        }
    };
    let accepted = timeout(PATIENCE, counted)
        .await
        .context("what was accepted is not in the queue")??;
    ensure!(accepted < scene.jobs.len(), "all {accepted} were accepted");
    let workers = vec![scene.worker()?];
    scene.note("heal", None)?;
    load.await??;
    scene.over(workers).await
}

/// Of many publishes under way the one without a queue is told from the others.
async fn unroutable(scene: Arc<Scene>) -> Result<Value> {
    let worker = scene.worker()?;
    consumers_back(&scene, std::slice::from_ref(&worker)).await?;
    worker.stop(PATIENCE).await?;
    let namespace = scene.place.namespace()?.to_owned();
    scene.note("fault", None)?;
    let gone = scene.place.with_rabbit(move |rabbit| {
        rabbit.ctl(&["delete_queue", &format!("mh.{namespace}.1.q.faults.normal")]);
    });
    // The queue goes while windows of 64 come one after the other.
    let produced = async {
        scene.produce_by(64, Some(100)).await?;
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let gone = async {
        gone.await?;
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let (produced, gone) = tokio::join!(produced, gone);
    ensure!(gone? < produced?, "all was published before the queue was gone");
    scene.note("heal", None)?;
    // What lay in the queue went with it: the operator's loss, and the producer's to say again.
    scene.produce().await?;
    let workers = vec![scene.worker()?];
    scene.over(workers).await
}

/// Killed while jobs are on the ladder, at each of the hops that seven seconds have.
async fn ladder(scene: Arc<Scene>) -> Result<Value> {
    let mut jobs = scene.jobs.clone();
    for (_, work) in &mut jobs {
        (work.millis, work.later) = (1, 7_000);
    }
    let workers = vec![scene.worker()?];
    let (first, rest) = jobs.split_at(jobs.len() / 10);
    scene.produce_these(first).await?;
    // These were on every level that the others will be on.
    scene
        .until("a job after the ladder", |heard| heard.ended.len() == first.len())
        .await?;
    tokio::time::sleep(SETTLED).await;
    scene.produce_these(rest).await?;
    let most = rest.len() / 3;
    scene
        .until("jobs on the ladder", |heard| heard.waiting.len() > most)
        .await?;
    for _ in 0..3 {
        ensure!(scene.look(|heard| !heard.waiting.is_empty())?, "the ladder is empty");
        scene.note("fault", None)?;
        scene.place.with_rabbit(kill).await?;
        scene.note("heal", None)?;
    }
    scene.over(workers).await
}

/// The queue of dead jobs confirms nothing, like one that lost its leader: what goes elsewhere does not wait for it.
async fn silent(scene: Arc<Scene>) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    let (first, rest) = scene.jobs.split_at(10);
    scene.produce_these(first).await?;
    scene
        .until("the first end", |heard| heard.ended.len() >= first.len())
        .await?;
    scene.drained().await?;
    let process = format!("'%2F_mh.{}.1.dead'", scene.place.namespace()?);
    let (stop, go_on) = (format!("sys:suspend({process})."), format!("sys:resume({process})."));
    scene
        .place
        .with_rabbit(move |rabbit| rabbit.ctl(&["eval", &stop]))
        .await?;
    scene.note("fault", None)?;
    let began = Instant::now();
    scene.produce_these(rest).await?;
    // Remembered, and not only said by their handlers; also what has to go round by the ladder first.
    ensure!(
        scene.ended_of(|kind| kind != Kind::Die).await?,
        "others did not end within {PATIENCE:?}"
    );
    let others = began.elapsed();
    scene
        .place
        .with_rabbit(move |rabbit| rabbit.ctl(&["eval", &go_on]))
        .await?;
    scene.note("heal", None)?;
    let mut facts = scene.over(workers).await?;
    facts["t_others"] = millis(others).into();
    // Who was on a channel with the first that met it waited for five seconds, or twice that.
    ensure!(others < Duration::from_secs(20), "others waited too: {others:?}");
    Ok(facts)
}
