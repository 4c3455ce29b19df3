//! What handlers say: into the job's log when the attempt has ended, and as progress while it runs.
#![allow(missing_docs, clippy::unwrap_used, clippy::needless_pass_by_value)]

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use millhand::{Client, Context, Failure, LogSource, Progress, Task, Worker};
use millhand_broker::faults::{Door, Fault, Faulty};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize)]
struct Talk;

impl Task for Talk {
    const NAME: &'static str = "talk";
    type Output = ();
}

#[derive(Serialize, Deserialize)]
struct Shut;

impl Task for Shut {
    const NAME: &'static str = "shut";
    type Output = ();
}

#[derive(Serialize, Deserialize)]
struct Whisper;

impl Task for Whisper {
    const NAME: &'static str = "whisper";
    type Output = ();
}

/// Says that it runs, then fails unless it is the second attempt.
fn talk(_: Talk, cx: Context) -> Result<(), Failure> {
    cx.log(format!("attempt {}\nits second line", cx.attempt()));
    if cx.attempt() == 2 {
        return Ok(());
    }
    Err(std::io::Error::other("not yet").into())
}

#[tokio::test]
async fn the_log_of_the_last_attempt_is_kept() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let loud = client.enqueue(Talk).await.unwrap().id();
    let silent = client.enqueue(Whisper).await.unwrap().id();
    let worker = Worker::new(Arc::clone(&backend))
        .on_thread(talk)
        .on_async(|_: Whisper, _: Context| async { Ok(()) });
    worker.run_until_idle().await.unwrap();
    let log = client.log(loud).await.unwrap().unwrap();
    let lines: Vec<_> = log.lines.iter().map(|l| (l.source, l.text.as_str())).collect();
    assert_eq!(
        lines,
        [(LogSource::Said, "attempt 2"), (LogSource::Said, "its second line")]
    );
    assert_eq!((log.attempt, log.dropped), (2, 0));
    assert_eq!(client.log(silent).await.unwrap(), None);
}

#[tokio::test]
async fn progress_is_seen_while_the_job_runs() {
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let id = client.enqueue(Whisper).await.unwrap().id();
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let whisper = move |_: Whisper, cx: Context| {
        let waits = Arc::clone(&waits);
        async move {
            (0..=42).for_each(|done| cx.progress(done, 100));
            waits.notified().await;
            Ok(())
        }
    };
    let worker = Worker::new(Arc::clone(&backend)).on_async(whisper);
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let running = tokio::spawn(async move { worker.run(async move { stopped.notified().await }).await });
    let seen = async {
        loop {
            let view = client.get(id).await.unwrap().unwrap();
            if let Some((progress, _)) = client.progress(&view).await.unwrap() {
                return progress;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap();
    assert_eq!(seen, Progress { done: 42, total: 100 });
    go_on.notify_one();
    stop.notify_one();
    running.await.unwrap().unwrap();
    let view = client.get(id).await.unwrap().unwrap();
    assert_eq!(client.progress(&view).await.unwrap(), None, "it has ended");
    assert_eq!(client.log(id).await.unwrap(), None, "progress is no log");
}

/// Another program's idea of the task `whisper`.
#[derive(Serialize, Deserialize)]
struct Shout(String);

impl Task for Shout {
    const NAME: &'static str = Whisper::NAME;
    type Output = ();
}

/// What is logged anywhere in this process.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What is logged from now on, at the latest.
fn logged() -> &'static Logged {
    static LOGGED: LazyLock<Logged> = LazyLock::new(|| {
        let logged = Logged::default();
        let writer = logged.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        logged
    });
    &LOGGED
}

#[tokio::test]
async fn a_job_is_said_to_be_dead_when_it_is() {
    let logged = logged();
    let faulty = Faulty::around(millhand::memory().unwrap());
    let id = Client::new(faulty.clone()).enqueue(Shut).await.unwrap().id();
    faulty.plan(Door::Settle, Fault::RequestLost, 3);
    let dies = |_: Shut, _: Context| async { Err::<(), _>(Failure::fatal("shut")) };
    Worker::new(faulty).on_async(dies).run_until_idle().await.unwrap();
    let logged = logged.text();
    let lines = |what: &str, which: &str| {
        let holds = |(_, line): &(usize, &str)| line.contains(what) && line.contains(which);
        let lines = logged.lines().enumerate().filter(holds);
        lines.map(|(number, _)| number).collect::<Vec<_>>()
    };
    let (dead, refused) = (
        lines("the job is dead", &id.to_string()),
        lines("it is asked again", "what=\"settle\""),
    );
    assert_eq!((dead.len(), refused.len()), (1, 3), "{logged}");
    assert!(refused[2] < dead[0], "{logged}");
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_told_in_the_record_and_not_logged() {
    let logged = logged();
    let backend = millhand::memory().unwrap();
    let client = Client::new(Arc::clone(&backend));
    let id = client.enqueue(Shout("canary".into())).await.unwrap().id();
    let worker = Worker::new(backend).on_async(|_: Whisper, _: Context| async { Ok(()) });
    worker.run_until_idle().await.unwrap();
    let told = client.handle::<Shout>(id).wait(Duration::from_secs(60)).await.unwrap();
    assert!(told.unwrap_err().to_string().contains("canary"));
    let logged = logged.text();
    let line = logged
        .lines()
        .find(|line| line.contains("the job is dead") && line.contains(&id.to_string()));
    assert!(line.unwrap().contains("bad_arguments"), "{logged}");
    assert!(!logged.contains("canary"), "{logged}");
}
