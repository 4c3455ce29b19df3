//! A bad network: cut at a frame, silent in one direction or both, slow, garbled.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use millhand_servers::{Deed, Frame, Manner, Proxy};
use serde_json::Value;

use crate::process::Setting;
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "F24",
        what: "the wire to a server is cut, falls silent, or is garbled",
        runs: cuts,
    },
    Scenario {
        name: "F25",
        what: "what a server answers is lost, and was done",
        runs: |options| {
            let frames: &[(Frame, &str)] = &[(Frame::Publish, "publish"), (Frame::Command, "command")];
            let lost = |(frame, word): &(Frame, &'static str)| harmed(*frame, word, Deed::LoseAnswer, options);
            frames.iter().map(lost).collect()
        },
    },
    Scenario {
        name: "F26",
        what: "the wires are slow",
        runs: |options| {
            let ms = Duration::from_millis;
            let manner = |delay, rate, stalls| Manner {
                delay,
                rate,
                stalls,
                ..Manner::default()
            };
            let manners = [
                ("5 ms", manner(ms(5), None, 0)),
                ("500 ms", manner(ms(500), None, 0)),
                ("1 % stall", manner(ms(1), None, 10)),
                ("64 kbit/s", manner(ms(20), Some(8000), 0)),
            ];
            let slow = |(plan, manner)| Run::new(Where::Fleet, plan, move |scene| slow(scene, manner)).jobs(100);
            let count = options.pick(2, manners.len());
            manners.into_iter().rev().take(count).map(slow).collect()
        },
    },
];

fn cuts(options: Options) -> Vec<Run> {
    let mut runs = Vec::new();
    let frames = [
        (Frame::Publish, "publish"),
        (Frame::Confirm, "confirm"),
        (Frame::Deliver, "deliver"),
        (Frame::Ack, "ack"),
        (Frame::Command, "command"),
        (Frame::Reply, "reply"),
    ];
    let deeds = [Deed::Cut, Deed::Silence, Deed::Garble];
    for (at, (frame, word)) in frames.into_iter().enumerate() {
        for (turn, deed) in deeds.into_iter().enumerate() {
            if !options.short || at % deeds.len() == turn {
                runs.push(harmed(frame, word, deed, options));
            }
        }
    }
    for manner in ["deaf", "dumb", "both", "half-closed", "cut"] {
        if !options.short || manner == "cut" {
            let plan = format!("all connections {manner} for {SILENT:?}");
            // Few enough that the other worker soon meets what the cut one holds.
            runs.push(Run::new(Where::Fleet, plan, move |scene| silent(scene, manner)).jobs(60));
        }
    }
    runs
}

/// Longer than a lease and every heartbeat.
const SILENT: Duration = Duration::from_secs(25);

/// A deed at several frames of a kind, first few, then many.
fn harmed(frame: Frame, word: &str, deed: Deed, options: Options) -> Run {
    let times = match (deed, frame) {
        // Such a silence lasts until its heartbeats are missed, and the other worker runs all jobs meanwhile.
        (Deed::Silence, Frame::Deliver | Frame::Ack) => 1,
        _ => options.pick(2, 6),
    };
    let plan = format!("{deed:?} at {times} × {word}");
    Run::new(Where::Fleet, plan, move |scene| harm(scene, frame, deed, times)).jobs(options.pick(300, 600))
}

/// Of two workers one has the bad wire; of two producers one: what is published is not only jobs, but what
/// follows from them.
async fn harm(scene: Arc<Scene>, frame: Frame, deed: Deed, times: u32) -> Result<Value> {
    let (for_worker, rabbit_of_worker, redis_of_worker) = scene.place.wired()?;
    let (for_producer, rabbit_of_producer, _redis_of_producer) = scene.place.wired()?;
    let wires = match frame {
        Frame::Command | Frame::Reply => vec![redis_of_worker],
        Frame::Publish | Frame::Confirm => vec![rabbit_of_worker, rabbit_of_producer],
        _ => vec![rabbit_of_worker],
    };
    let workers = vec![scene.worker_with(&Setting::at(for_worker))?, scene.worker()?];
    let load = scene.produce_slowly(for_producer, 20);
    scene.started(20).await?;
    scene.baseline(&workers)?;
    let wires = Arc::new(wires);
    for time in 1..=times {
        let wires = Arc::clone(&wires);
        let came = tokio::task::spawn_blocking(move || {
            for wire in wires.iter() {
                wire.at(frame, 2 + 3 * time, deed);
            }
            wires.iter().all(|wire| wire.harmed(time, PATIENCE))
        });
        ensure!(came.await?, "the frame did not come");
        scene.note("fault", None)?;
    }
    load.await??;
    scene.over(workers).await
}

/// Nobody hears, or is heard, for longer than every heartbeat; then all is well again. The jobs are long enough
/// to be in the middle of it.
async fn silent(scene: Arc<Scene>, how: &'static str) -> Result<Value> {
    let (place, to_rabbit, to_redis) = scene.place.wired()?;
    let mut jobs = scene.jobs.clone();
    for (_, work) in &mut jobs {
        work.millis = 300;
    }
    scene.produce_these(&jobs).await?;
    let workers = vec![scene.worker_with(&Setting::at(place))?, scene.worker()?];
    scene.started(20).await?;
    let manner = Manner {
        deaf: how != "dumb",
        dumb: how != "deaf",
        ..Manner::default()
    };
    let wires: [&Proxy; 2] = [&to_rabbit, &to_redis];
    for wire in wires {
        match how {
            "half-closed" => wire.half_close(),
            "cut" => wire.cut(),
            _ => wire.be(manner),
        }
    }
    // Its claims end with its lease, and others may run what it runs.
    scene.note("freeze", workers[0].pid())?;
    tokio::time::sleep(SILENT).await;
    wires.into_iter().for_each(Proxy::mend);
    scene.note("heal", None)?;
    scene.over(workers).await
}

async fn slow(scene: Arc<Scene>, manner: Manner) -> Result<Value> {
    let (place, to_rabbit, to_redis) = scene.place.wired()?;
    to_rabbit.be(manner);
    to_redis.be(manner);
    scene.note("fault", None)?;
    let workers = vec![scene.worker_with(&Setting::at(place.clone()))?];
    scene.produce_slowly(place, 20).await??;
    scene.over(workers).await
}
