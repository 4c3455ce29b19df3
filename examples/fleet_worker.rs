//! One worker process of several: `fleet_worker LOG FILE`, or `fleet_worker LOG BROKER STORE` with
//! the URLs of RabbitMQ and Redis. It squares numbers and writes a line to LOG when a job starts and
//! when it ends.
//!
//! Start it as often as you like; the tests start some and kill some of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use millhand::{Context, Failure, Slots, Task, Worker, shutdown_signal};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Square {
    n: u64,
    /// How long it takes.
    millis: u64,
}

impl Task for Square {
    const NAME: &'static str = "square";
    type Output = u64;
}

struct Log(std::path::PathBuf);

impl Log {
    /// One line at once, so that the lines of several processes do not mix.
    fn line(&self, what: &str, cx: &Context) -> std::io::Result<()> {
        let line = format!("{what} {} {}\n", cx.job_id(), std::process::id());
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)?
            .write_all(line.as_bytes())
    }
}

async fn square(job: Square, cx: Context) -> Result<u64, Failure> {
    let log = cx.state::<Log>()?;
    log.line("start", &cx)?;
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    log.line("end", &cx)?;
    Ok(job.n * job.n)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (log, backend) = match args[..] {
        [log, file] => (log, millhand::sqlite(file)?),
        [log, broker, store] => (log, millhand::fleet(broker, store)?),
        _ => return Err("usage: fleet_worker LOG FILE, or fleet_worker LOG BROKER STORE".into()),
    };
    Worker::new(backend)
        .state(Log(log.into()))
        .slots(Slots {
            asyncs: 10,
            threads: 1,
            processes: 1,
        })
        .on_async(square)
        .run(shutdown_signal())
        .await?;
    Ok(())
}
