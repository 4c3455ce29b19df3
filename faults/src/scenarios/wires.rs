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
    for manner in ["deaf", "dumb", "both", "half-closed"] {
        if !options.short || manner == "dumb" {
            let plan = format!("all connections {manner} for 20 s");
            runs.push(Run::new(Where::Fleet, plan, move |scene| silent(scene, manner)).jobs(400));
        }
    }
    runs
}

/// A deed at several frames of a kind, first few, then many.
fn harmed(frame: Frame, word: &str, deed: Deed, options: Options) -> Run {
    let times = options.pick(2, 6);
    let plan = format!("{deed:?} at {times} × {word}");
    Run::new(Where::Fleet, plan, move |scene| harm(scene, frame, deed, times)).jobs(300)
}

async fn harm(scene: Arc<Scene>, frame: Frame, deed: Deed, times: u32) -> Result<Value> {
    let (place, to_rabbit, to_redis) = scene.place.wired()?;
    let wire = if matches!(frame, Frame::Command | Frame::Reply) {
        Arc::new(to_redis)
    } else {
        Arc::new(to_rabbit)
    };
    // Keeps the other one.
    let workers = vec![scene.worker_with(&Setting::at(place.clone()))?, scene.worker()?];
    let load = scene.produce_slowly(place, 20);
    scene.started(20).await?;
    scene.baseline(&workers)?;
    for time in 1..=times {
        wire.at(frame, 5 + 7 * time, deed);
        let waiting = Arc::clone(&wire);
        let came = tokio::task::spawn_blocking(move || waiting.harmed(time, PATIENCE)).await?;
        ensure!(came, "the frame did not come");
        scene.note("fault", None)?;
    }
    load.await??;
    let facts = scene.over(workers).await;
    drop(wire);
    facts
}

/// Nobody hears, or is heard, for longer than every heartbeat; then all is well again.
async fn silent(scene: Arc<Scene>, how: &'static str) -> Result<Value> {
    let (place, to_rabbit, to_redis) = scene.place.wired()?;
    let workers = vec![scene.worker_with(&Setting::at(place.clone()))?, scene.worker()?];
    let load = scene.produce_slowly(place, 20);
    scene.started(50).await?;
    let manner = Manner {
        deaf: how != "dumb",
        dumb: how != "deaf",
        ..Manner::default()
    };
    let wires: [&Proxy; 2] = [&to_rabbit, &to_redis];
    for wire in wires {
        if how == "half-closed" {
            wire.half_close();
        } else {
            wire.be(manner);
        }
    }
    // Its claims end with its lease, and others may run what it runs.
    scene.note("freeze", workers[0].pid())?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    wires.into_iter().for_each(Proxy::mend);
    scene.note("heal", None)?;
    load.await??;
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
