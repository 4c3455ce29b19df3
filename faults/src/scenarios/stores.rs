//! Redis dies, forgets, stands still, is full, is replaced by one that knows less, refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use millhand_client::{Client, WaitError};
use millhand_servers::{Manner, Redis, Reply, Servers};
use serde_json::Value;

use crate::place::redis_like;
use crate::process::Setting;
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scenarios::rabbit::SETTLED;
use crate::scene::{PATIENCE, Scene, millis};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F31",
        what: "Redis is restarted, and killed, with and without what it wrote down",
        runs: |options| {
            let times = options.pick(1, 5);
            vec![
                strike("restarted", times, |redis| {
                    redis.stop();
                    redis.restart();
                }),
                // What it answered last may not be written yet.
                strike("killed", times, |redis| {
                    redis.kill();
                    redis.restart();
                })
                .forgets(),
                strike("killed, its data gone", times, Redis::wipe_and_restart).forgets(),
            ]
        },
    },
    Scenario {
        name: "F32",
        what: "Redis stands still, or answers slowly",
        runs: |options| {
            let still = Duration::from_secs(options.seconds(8, 30));
            vec![
                strike("frozen", 1, move |redis| {
                    redis.freeze();
                    std::thread::sleep(still);
                    redis.thaw();
                }),
                Run::new(Where::OwnFleet, "600 ms late", late).jobs(100),
            ]
        },
    },
    Scenario {
        name: "F33",
        what: "Redis loses all its keys while jobs run and are waited for",
        runs: |options| {
            let flushes = options.pick(2, 10);
            let flushed = Run::new(Where::OwnFleet, format!("{flushes} flushes"), move |scene| {
                flush(scene, flushes)
            });
            vec![flushed.jobs(1000).forgets()]
        },
    },
    Scenario {
        name: "F34",
        what: "Redis has no memory left, or would drop keys by itself",
        runs: |_| {
            vec![
                strike("full for 8 s", 1, |redis| {
                    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
                    std::thread::sleep(Duration::from_secs(8));
                    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
                }),
                Run::new(Where::OwnFleet, "allkeys-lru", drops_keys),
            ]
        },
    },
    Scenario {
        name: "F35",
        what: "another Redis that knows less takes over, or the same with an old copy of its data",
        runs: |_| {
            vec![
                Run::new(Where::OwnFleet, "a replica 2 s behind is promoted", takeover)
                    .jobs(1200)
                    .forgets(),
                Run::new(Where::OwnFleet, "an old copy", rollback).jobs(1200).forgets(),
            ]
        },
    },
    Scenario {
        name: "F36",
        what: "Redis refuses: read-only, no disk, no replicas, no rights, no script, busy",
        runs: refusals,
    },
    Scenario {
        name: "F37",
        what: "Redis and RabbitMQ are both away, and come back in either order",
        runs: |_| {
            let both = |first: &'static str| {
                let plan = format!("both killed, {first} comes first");
                Run::new(Where::OwnFleet, plan, move |scene| both_away(scene, first == "Redis")).jobs(1000)
            };
            ["Redis", "RabbitMQ"].into_iter().map(both).map(Run::forgets).collect()
        },
    },
];

const PER_SECOND: u32 = 100;

/// What takes longer to be noticed was not.
const UNNOTICED: Duration = Duration::from_secs(30);

/// A run in which something is done to Redis so many times, while jobs come and run.
fn strike(plan: &'static str, times: u32, deed: impl Fn(&Redis) + Clone + Send + Sync + 'static) -> Run {
    let jobs = 400 + 400 * u64::from(times);
    let quiet = plan == "NOSCRIPT";
    let run = Run::new(Where::OwnFleet, plan, move |scene| struck(scene, times, quiet, deed));
    run.jobs(jobs)
}

async fn struck(
    scene: Arc<Scene>,
    times: u32,
    quiet: bool,
    deed: impl Fn(&Redis) + Clone + Send + Sync + 'static,
) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    let load = scene.produce_slowly(scene.place.clone(), PER_SECOND);
    scene.started(100).await?;
    scene.baseline(&workers)?;
    let mut noticed = Duration::ZERO;
    for time in 1..=times {
        scene.started(100 + 250 * (time as usize - 1)).await?;
        scene.note(if scene.forgets { "flush" } else { "fault" }, None)?;
        let (began, before) = (Instant::now(), dropped(&scene)?);
        let deed = deed.clone();
        let done = scene.place.with_redis(move |redis| deed(redis));
        let noticing = async {
            while dropped(&scene)? == before && began.elapsed() < UNNOTICED {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, anyhow::Error>(began.elapsed())
        };
        let (done, after) = tokio::join!(done, noticing);
        done?;
        let after = after?;
        // A script that is gone is loaded again without a word.
        ensure!(quiet || after < UNNOTICED, "no worker noticed");
        noticed = noticed.max(after);
        scene.note("heal", None)?;
    }
    load.await??;
    let mut facts = scene.over(workers).await?;
    facts["t_noticed"] = millis(noticed).into();
    Ok(facts)
}

/// How often workers found Redis away, or refusing, by their logs.
fn dropped(scene: &Scene) -> Result<usize> {
    let log = std::fs::read_to_string(scene.folder.join("worker.log"))?;
    let of_redis = |line: &&str| line.contains(" WARN ") && line.contains("redis://");
    Ok(log.lines().filter(of_redis).count())
}

async fn late(scene: Arc<Scene>) -> Result<Value> {
    let (place, _to_rabbit, to_redis) = scene.place.wired()?;
    to_redis.be(Manner {
        delay: Duration::from_millis(300),
        ..Manner::default()
    });
    scene.note("fault", None)?;
    let workers = vec![scene.worker_with(&Setting::at(place.clone()))?];
    scene.produce_slowly(place, PER_SECOND).await??;
    scene.over(workers).await
}

/// Waits that are open when the store forgets end, and soon.
async fn flush(scene: Arc<Scene>, flushes: usize) -> Result<Value> {
    scene.produce().await?;
    let told = forgotten(&scene).await?;
    let workers = vec![scene.worker()?, scene.worker()?];
    for flush in 1..=flushes {
        scene.started(flush * scene.jobs.len() / (flushes + 1)).await?;
        scene.place.with_redis(Redis::flush).await?;
        scene.note("flush", None)?;
    }
    let mut facts = scene.over(workers).await?;
    facts["t_forgotten"] = millis(told).into();
    Ok(facts)
}

/// Flushes under ten open waits; when the last was told.
async fn forgotten(scene: &Scene) -> Result<Duration> {
    let client = Client::new(scene.place.open()?);
    let waiting = scene.jobs.iter().take(10).map(|(id, _)| {
        let (client, id) = (client.clone(), *id);
        tokio::spawn(async move { client.wait_raw(id, PATIENCE).await })
    });
    let waiting: Vec<_> = waiting.collect();
    // One look at open waits must have passed: they are known to be unfinished.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let began = Instant::now();
    scene.place.with_redis(Redis::flush).await?;
    scene.note("flush", None)?;
    for wait in waiting {
        match wait.await? {
            Err(WaitError::Forgotten { .. }) => {}
            other => bail!("a wait whose job the store forgot ended with {other:?}"),
        }
    }
    let told = began.elapsed();
    client.close().await;
    Ok(told)
}

/// A worker that starts on a store that would forget by itself says so, and takes no job.
async fn drops_keys(scene: Arc<Scene>) -> Result<Value> {
    let set = |policy: &'static str, most: &'static str| {
        scene.place.with_redis(move |redis| {
            redis.command(&["CONFIG", "SET", "maxmemory", most]);
            redis.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        })
    };
    set("allkeys-lru", "100mb").await?;
    scene.note("fault", None)?;
    let mut worker = scene.worker()?;
    let status = worker.ended(PATIENCE).await?;
    let log = std::fs::read_to_string(scene.folder.join("worker.log"))?;
    ensure!(
        !status.success() && log.contains("noeviction"),
        "a worker on a store that drops keys ended with {status}"
    );
    set("noeviction", "0").await?;
    scene.note("heal", None)?;
    scene.produce().await?;
    scene.over(vec![scene.worker()?]).await
}

/// A replica that has not heard of the last two seconds takes over; the old one comes back, and takes no
/// writes.
async fn takeover(scene: Arc<Scene>) -> Result<Value> {
    let (wired, _to_rabbit, to_redis) = scene.place.wired()?;
    let replica = tokio::task::spawn_blocking(|| redis_like(&[])).await?;
    let first = scene.place.with_redis(Redis::port).await?.to_string();
    replica.command(&["REPLICAOF", "127.0.0.1", &first]);
    let workers = vec![
        scene.worker_with(&Setting::at(wired.clone()))?,
        scene.worker_with(&Setting::at(wired.clone()))?,
    ];
    let load = scene.produce_slowly(wired.clone(), PER_SECOND);
    scene.started(200).await?;
    scene.baseline(&workers)?;
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Everybody is on the old one, which is about to become a replica: it refuses every write.
    let second = replica.port().to_string();
    scene.note("flush", None)?;
    to_redis.lead_to(replica.port());
    let copies = second.clone();
    scene
        .place
        .with_redis(move |redis| redis.command(&["REPLICAOF", "127.0.0.1", &copies]))
        .await?;
    scene.note("heal", None)?;
    load.await??;
    // What is asked at the end is asked of the one that took over.
    scene.over_at(&wired, workers).await
}

/// Killed, and started with the data that it had two seconds before.
async fn rollback(scene: Arc<Scene>) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    let load = scene.produce_slowly(scene.place.clone(), PER_SECOND);
    scene.started(200).await?;
    scene.baseline(&workers)?;
    scene.place.with_redis(Redis::keep_copy).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.note("flush", None)?;
    scene.place.with_redis(Redis::go_back).await?;
    scene.note("heal", None)?;
    load.await??;
    scene.over(workers).await
}

fn refusals(options: Options) -> Vec<Run> {
    let time = Duration::from_secs(options.pick(4, 10));
    let during = |plan, before: &'static [&'static [&'static str]], after: &'static [&'static [&'static str]]| {
        strike(plan, 1, move |redis| {
            before.iter().for_each(|words| said(redis, words));
            std::thread::sleep(time);
            after.iter().for_each(|words| said(redis, words));
        })
    };
    let mut runs = vec![
        during(
            "NOREPLICAS",
            &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
            &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        ),
        during(
            "NOPERM",
            &[&["ACL", "SETUSER", "mill", "-@scripting", "-@write"]],
            &[&["ACL", "SETUSER", "mill", "+@all"]],
        ),
        during(
            "READONLY",
            &[&["REPLICAOF", "127.0.0.1", "1"], &["CLIENT", "KILL", "TYPE", "normal"]],
            &[&["REPLICAOF", "NO", "ONE"]],
        ),
    ];
    if !options.short {
        runs.extend([
            during("NOSCRIPT", &[&["SCRIPT", "FLUSH"]], &[]),
            during(
                "NOAUTH",
                &[&["ACL", "SETUSER", "mill", "off"], &["CLIENT", "KILL", "USER", "mill"]],
                &[&["ACL", "SETUSER", "mill", "on"]],
            ),
            during(
                "BUSY",
                &[&["CONFIG", "SET", "busy-reply-threshold", "100"], &["EVAL", BUSY, "0"]],
                &[&["CONFIG", "SET", "busy-reply-threshold", "5000"]],
            ),
            strike("MISCONF", 1, move |redis| no_snapshot(redis, time)),
        ]);
    }
    runs
}

/// A snapshot that cannot be written stops writes: where it should lie is a folder.
fn no_snapshot(redis: &Redis, time: Duration) {
    let snapshot = redis.folder().join("data/dump.rdb");
    std::fs::create_dir(&snapshot).expect("a folder for the snapshot");
    said(redis, &["CONFIG", "SET", "appendonly", "no"]);
    said(redis, &["CONFIG", "SET", "save", "1 1"]);
    std::thread::sleep(time);
    let status = redis.command(&["INFO", "persistence"]);
    assert!(status.text().contains("rdb_last_bgsave_status:err"), "{status:?}");
    said(redis, &["CONFIG", "SET", "save", ""]);
    std::fs::remove_dir(&snapshot).expect("the folder that no snapshot replaced");
    said(redis, &["CONFIG", "SET", "appendonly", "yes"]);
}

/// A setting that Redis refuses would do no harm.
fn said(redis: &Redis, words: &[&str]) {
    let reply = redis.command(words);
    assert!(!matches!(reply, Reply::Error(_)), "{words:?}: {reply:?}");
}

/// Three seconds of work for one script.
const BUSY: &str =
    "local t = redis.call('TIME') local e = t[1] + 3 while redis.call('TIME')[1] + 0 < e do end return 1";

async fn both_away(scene: Arc<Scene>, redis_first: bool) -> Result<Value> {
    let workers = vec![scene.worker()?, scene.worker()?];
    let load = scene.produce_slowly(scene.place.clone(), PER_SECOND);
    scene.started(50).await?;
    tokio::time::sleep(SETTLED).await;
    scene.baseline(&workers)?;
    scene.note("flush", None)?;
    let away = Duration::from_secs(5);
    let back = move |servers: &Servers| {
        servers.rabbit.kill();
        servers.redis.kill();
        std::thread::sleep(away);
        if redis_first {
            servers.redis.restart();
            std::thread::sleep(away);
            servers.rabbit.restart();
        } else {
            servers.rabbit.restart();
            std::thread::sleep(away);
            servers.redis.restart();
        }
    };
    scene.place.with_servers(back).await?;
    scene.note("heal", None)?;
    load.await??;
    scene.over(workers).await
}
