//! The same with Python's pool of processes, where there is a Python.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// Two processes; one job at a time, many at once, and one with a big argument of which every byte is read.
const SCRIPT: &str = r#"
import concurrent.futures, json, statistics, sys, time

def nothing():
    return None

def every_byte(data):
    return data.count(1)

def main():
    jobs, size = int(sys.argv[1]), int(sys.argv[2])
    big = bytes(size)
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        for f in [pool.submit(nothing) for _ in range(100)]:
            f.result()
        ones = []
        for _ in range(jobs // 4):
            began = time.perf_counter()
            pool.submit(nothing).result()
            ones.append(time.perf_counter() - began)
        began = time.perf_counter()
        for f in [pool.submit(nothing) for _ in range(jobs)]:
            f.result()
        rate = jobs / (time.perf_counter() - began)
        bigs = []
        for _ in range(3):
            began = time.perf_counter()
            pool.submit(every_byte, big).result()
            bigs.append(time.perf_counter() - began)
    print(json.dumps({
        "version": sys.version.split()[0],
        "one_us": statistics.median(ones) * 1e6,
        "per_second": rate,
        "big_ms": statistics.median(bigs) * 1e3,
    }))

main()
"#;

/// What Python's `ProcessPoolExecutor` did.
#[derive(Debug, Deserialize)]
pub(super) struct Python {
    pub(super) version: String,
    /// A job that does nothing, one at a time.
    pub(super) one_us: f64,
    /// Jobs that do nothing, all submitted at once.
    pub(super) per_second: f64,
    /// One job with the big argument.
    pub(super) big_ms: f64,
}

impl Python {
    pub(super) async fn measure(jobs: usize, big: usize) -> Result<Self> {
        // From a file: its children read it again, whichever way they are started.
        let file = tempfile::Builder::new().suffix(".py").tempfile()?;
        std::fs::write(file.path(), SCRIPT)?;
        let output = Command::new("python3")
            .arg(file.path())
            .args([jobs.to_string(), big.to_string()])
            .output()
            .await
            .context("python3 cannot be started; the goals beside ProcessPoolExecutor need it")?;
        ensure!(
            output.status.success(),
            "python3: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
