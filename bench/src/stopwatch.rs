//! Wall and CPU time of a stretch of work.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One measured run of many jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// The start of a measurement.
pub(crate) struct Start {
    at: Instant,
    cpu: Duration,
}

impl Start {
    pub(crate) fn now() -> Result<Self> {
        Ok(Self {
            cpu: cpu_time()?,
            at: Instant::now(),
        })
    }

    pub(crate) fn end(&self) -> Result<Sample> {
        Ok(Sample {
            wall: self.at.elapsed(),
            cpu: cpu_time()?.saturating_sub(self.cpu),
        })
    }
}

/// CPU time of this process so far, all threads, in user mode and in the kernel.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields after the program's name, which stands in brackets and may hold anything.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("/proc/self/stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("/proc/self/stat")?.parse()?) };
    // utime and stime, in hundredths of a second.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}
