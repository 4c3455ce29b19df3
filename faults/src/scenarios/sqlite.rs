//! Harm to the SQLite file, to its disk, and to those who share it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, ErrorCode};
use serde_json::{Value, json};

use crate::process::Running;
use crate::scenario::{Options, Run, Scenario, Where};
use crate::scene::{PATIENCE, Scene, millis};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "F52",
    what: "a SQLite file whose processes are killed, whose disk is full or read-only, that is locked or damaged",
    runs,
}];

/// Processes on one file.
const WORKERS: usize = 8;

fn runs(options: Options) -> Vec<Run> {
    let run = |plan: &str| format!("{plan} on one file");
    let kills = options.pick(10, 200);
    // SQLite's own limit, in a worker, is about 30 s.
    let locked = Duration::from_secs(options.seconds(5, 45));
    vec![
        Run::new(
            Where::Sqlite,
            run(&format!("{kills} kills of {WORKERS} workers")),
            move |scene| killed(scene, kills),
        )
        .jobs(100 * kills as u64),
        Run::new(Where::Sqlite, "full disk", full).jobs(400),
        Run::new(Where::Sqlite, format!("locked for {locked:?}"), move |scene| {
            locked_out(scene, locked)
        }),
        Run::new(Where::Sqlite, "read-only disk", read_only).jobs(20),
        Run::new(Where::Sqlite, "damaged page", |scene| damaged(scene, spoil)).jobs(20),
        Run::new(Where::Sqlite, "cut short", |scene| damaged(scene, cut_short)).jobs(20),
        Run::new(Where::Sqlite, "log cut short", log_cut_short).jobs(100),
    ]
}

/// Whether another process has the lock of writers.
pub(super) fn is_locked(file: &Path) -> Result<bool> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::ZERO)?;
    match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(true),
        other => Ok(other.map(|()| false)?),
    }
}

/// What SQLite says of the whole file.
fn integrity(file: &Path) -> Result<String> {
    let connection = Connection::open(file)?;
    Ok(connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?)
}

/// Nothing is lost, and the file is whole.
async fn sound(scene: &Scene, workers: Vec<Running>) -> Result<Value> {
    let mut facts = scene.over(workers).await?;
    let integrity = integrity(&scene.place.file()?)?;
    ensure!(integrity == "ok", "the file is not whole: {integrity}");
    facts["integrity"] = integrity.into();
    Ok(facts)
}

async fn killed(scene: Arc<Scene>, kills: usize) -> Result<Value> {
    let load = scene.produce_beside(16);
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(scene.worker()?);
    }
    for kill in 1..=kills {
        scene.started(kill * scene.jobs.len() / (kills + 1)).await?;
        let worker = std::mem::replace(&mut workers[kill % WORKERS], scene.worker()?);
        scene.kill(worker).await?;
    }
    load.await??;
    sound(&scene, workers).await
}

/// A small disk in memory, mounted on a folder until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Why there is none is for the run's line.
    fn mount(folder: &Path) -> Result<Self, String> {
        let words = ["-t", "tmpfs", "-o", "size=48m", "millhand-faults"];
        let output = Command::new("mount").args(words).arg(folder).output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(folder.to_owned())),
            Ok(output) => Err(format!(
                "mount {}: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    fn again(&self, how: &str) -> Result<()> {
        let options = format!("remount,{how}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status()?;
        ensure!(status.success(), "mount -o {options}: {status}");
        Ok(())
    }

    /// Takes all the space that there is.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        for piece in [&[0; 1 << 16][..], &[0; 512], &[0; 1]] {
            while file.write_all(piece).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // Somebody may still use it.
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

fn disk(scene: &Scene) -> Result<Result<Disk, String>> {
    let file = scene.place.file()?;
    Ok(Disk::mount(file.parent().context("the file has a folder")?))
}

/// What cannot be tried here: the command, and its error.
fn not_run(why: &str) -> Value {
    json!({ "not_run": why })
}

/// Who enqueues is told that nobody can say; workers wait, and go on when there is space again.
async fn full(scene: Arc<Scene>) -> Result<Value> {
    let disk = match disk(&scene)? {
        Ok(disk) => disk,
        Err(why) => return Ok(not_run(&why)),
    };
    let workers = vec![scene.worker()?, scene.worker()?];
    let load = scene.produce_slowly(scene.place.clone(), 100);
    scene.started(50).await?;
    scene.baseline(&workers)?;
    let filler = disk.fill()?;
    scene.note("fault", None)?;
    let log = scene.folder.join("worker.log");
    until_said(&log, "full").await?;
    // Whoever asks meanwhile is told.
    tokio::time::sleep(Duration::from_secs(3)).await;
    std::fs::remove_file(filler)?;
    scene.note("heal", None)?;
    load.await??;
    sound(&scene, workers).await
}

async fn until_said(log: &Path, what: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(log)?.contains(what) {
        ensure!(Instant::now() < end, "no worker says {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Another process holds the lock of writers; workers that run, and one that starts, wait.
async fn locked_out(scene: Arc<Scene>, locked: Duration) -> Result<Value> {
    let worker = scene.worker()?;
    let load = scene.produce_slowly(scene.place.clone(), 100);
    scene.started(50).await?;
    let connection = Connection::open(scene.place.file()?)?;
    connection.busy_timeout(PATIENCE)?;
    tokio::task::block_in_place(|| connection.execute_batch("BEGIN IMMEDIATE"))?;
    scene.note("fault", None)?;
    let workers = vec![worker, scene.worker()?];
    tokio::time::sleep(locked).await;
    connection.execute_batch("ROLLBACK")?;
    drop(connection);
    scene.note("heal", None)?;
    load.await??;
    sound(&scene, workers).await
}

/// A worker that cannot work says why, and ends; how long that takes.
async fn refuses(scene: &Scene, why: &str) -> Result<Duration> {
    let began = Instant::now();
    let status = scene.worker()?.ended(PATIENCE).await?;
    ensure!(!status.success(), "it ended as if all were well");
    let log = std::fs::read_to_string(scene.folder.join("worker.log"))?;
    ensure!(log.contains(why), "it does not say that {why}");
    Ok(began.elapsed())
}

async fn read_only(scene: Arc<Scene>) -> Result<Value> {
    let disk = match disk(&scene)? {
        Ok(disk) => disk,
        Err(why) => return Ok(not_run(&why)),
    };
    scene.produce().await?;
    disk.again("ro")?;
    scene.note("fault", None)?;
    let refused = refuses(
        &scene,
        "the file cannot be opened or made; check the path and its rights",
    )
    .await?;
    disk.again("rw")?;
    scene.note("heal", None)?;
    let mut facts = sound(&scene, vec![scene.worker()?]).await?;
    facts["t_refused"] = millis(refused).into();
    Ok(facts)
}

/// Damages the file; a worker refuses it, and with the backup all goes on.
async fn damaged(scene: Arc<Scene>, harm: fn(&Path) -> Result<()>) -> Result<Value> {
    scene.produce().await?;
    let file = scene.place.file()?;
    // All of it is in the file, and nothing in the log beside it.
    Connection::open(&file)?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let backup = scene.folder.join("backup.db");
    std::fs::copy(&file, &backup)?;
    harm(&file)?;
    scene.note("fault", None)?;
    let refused = refuses(&scene, "the file is damaged; restore a backup").await?;
    for left in ["jobs.db-wal", "jobs.db-shm"] {
        let _ = std::fs::remove_file(file.with_file_name(left));
    }
    std::fs::copy(&backup, &file)?;
    scene.note("heal", None)?;
    let mut facts = sound(&scene, vec![scene.worker()?]).await?;
    facts["t_refused"] = millis(refused).into();
    Ok(facts)
}

/// The pages of the tables and indexes that a worker needs first are overwritten.
fn spoil(file: &Path) -> Result<()> {
    let connection = Connection::open(file)?;
    let size: u64 = connection
        .query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?
        .try_into()?;
    let mut roots = connection.prepare("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'copies'")?;
    let roots: Vec<i64> = roots.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut raw = OpenOptions::new().write(true).open(file)?;
    for root in roots {
        raw.seek(SeekFrom::Start((u64::try_from(root)? - 1) * size))?;
        raw.write_all(&vec![0xa5; usize::try_from(size)?])?;
    }
    Ok(())
}

/// Only the first page is left.
fn cut_short(file: &Path) -> Result<()> {
    Ok(OpenOptions::new().write(true).open(file)?.set_len(4096)?)
}

/// A log whose last part never came to the disk: what it held is gone, the file is whole, and who enqueued
/// asks again.
async fn log_cut_short(scene: Arc<Scene>) -> Result<Value> {
    // Who goes last writes the log back.
    let keeper = scene.place.open()?;
    scene.produce().await?;
    let copy = scene.folder.join("copy");
    std::fs::create_dir(&copy)?;
    let file = scene.place.file()?;
    let log = file.with_file_name("jobs.db-wal");
    ensure!(std::fs::metadata(&log)?.len() > 0, "there is no log");
    std::fs::copy(&file, copy.join("jobs.db"))?;
    std::fs::copy(&log, copy.join("jobs.db-wal"))?;
    drop(keeper);
    for entry in std::fs::read_dir(file.parent().context("the file has a folder")?)? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::remove_file(path)?;
        }
    }
    std::fs::copy(copy.join("jobs.db"), &file)?;
    let whole = std::fs::copy(copy.join("jobs.db-wal"), &log)?;
    // In the middle of a frame.
    OpenOptions::new().write(true).open(&log)?.set_len(whole / 2 + 77)?;
    scene.note("fault", None)?;
    let integrity = integrity(&file)?;
    ensure!(integrity == "ok", "the file is not whole: {integrity}");
    scene.produce().await?;
    sound(&scene, vec![scene.worker()?]).await
}
