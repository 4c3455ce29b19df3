//! A worker process for a file that several share: `fleet_worker FILE LOG`. It squares numbers and
//! writes a line to LOG when a job starts and when it ends.
//!
//! Start it as often as you like on one file; the tests start four and kill some of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use millhand::{Context, Failure, Slots, Task, Worker, shutdown_signal};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Square {
    n: u64,
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
    tokio::time::sleep(Duration::from_millis(job.n % 10)).await;
    log.line("end", &cx)?;
    Ok(job.n * job.n)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(file), Some(log)) = (args.next(), args.next()) else {
        return Err("usage: fleet_worker FILE LOG".into());
    };
    Worker::new(millhand::sqlite(file)?)
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
