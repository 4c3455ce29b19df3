//! On what the figures were taken.

use std::path::Path;

use serde::Serialize;

/// Versions and machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    millhand: &'static str,
    /// Of what was measured on.
    servers: Vec<String>,
    rustc: &'static str,
    cores: usize,
    cpu: String,
    kernel: String,
    file_system: String,
    /// Of the last minute, before the run: the work of others.
    load: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

impl Machine {
    /// `servers`: each with its version. `dir`: where data lies.
    pub(crate) fn look(servers: Vec<String>, dir: &Path) -> Self {
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        Self {
            millhand: env!("CARGO_PKG_VERSION"),
            servers,
            rustc: env!("BENCH_RUSTC"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: cpu.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(dir),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn lines(&self) -> [String; 2] {
        [
            format!(
                "millhand {}, {}, {}",
                self.millhand,
                self.servers.join(", "),
                self.rustc
            ),
            format!(
                "{} cores ({}), Linux {}, {}, load before the run {}",
                self.cores, self.cpu, self.kernel, self.file_system, self.load
            ),
        ]
    }
}

/// The kind of the file system that `dir` is on: that of the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = read("/proc/self/mounts");
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
            dir.starts_with(at).then_some((at.len(), kind))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown file system".into(), |(_, kind)| kind.to_owned())
}
