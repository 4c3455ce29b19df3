//! As programs read it.

use std::collections::BTreeMap;

use millhand_proto::{Count, Histogram, Measure, Profile, Timestamp};
use serde::Serialize;

use super::{QUANTILES, TaskStats, shown};
use crate::times::{rfc3339, seconds};

#[derive(Debug, Serialize)]
pub(crate) struct StatsList {
    schema: &'static str,
    as_of: String,
    since: String,
    pub(crate) items: Vec<TaskJson>,
}

impl StatsList {
    pub(crate) fn new(tasks: &[TaskStats], since: Timestamp, now: Timestamp) -> Self {
        Self {
            schema: "millhand.stats/1",
            as_of: rfc3339(now),
            since: rfc3339(since),
            items: tasks.iter().map(TaskJson::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TaskJson {
    task: String,
    runs: u64,
    executors: BTreeMap<&'static str, u64>,
    counts: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_share: Option<f64>,
    /// By phase, then by percentile.
    phases: Vec<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<PhaseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryJson>,
}

#[derive(Debug, Serialize)]
struct PhaseJson {
    phase: &'static str,
    count: u64,
    p50_seconds: f64,
    p95_seconds: f64,
    p99_seconds: f64,
}

#[derive(Debug, Serialize)]
struct MemoryJson {
    count: u64,
    p50_bytes: u64,
    p95_bytes: u64,
    p99_bytes: u64,
}

impl PhaseJson {
    /// `None` when nothing was measured.
    fn of(phase: &'static str, histogram: &Histogram) -> Option<Self> {
        let [p50, p95, p99] = QUANTILES.map(|q| histogram.quantile(q));
        Some(Self {
            phase,
            count: histogram.count(),
            p50_seconds: seconds(p50?),
            p95_seconds: seconds(p95?),
            p99_seconds: seconds(p99?),
        })
    }
}

impl MemoryJson {
    fn of(histogram: &Histogram) -> Option<Self> {
        let bytes = |q| Some(u64::try_from(histogram.quantile(q)?.as_micros()).unwrap_or(u64::MAX));
        Some(Self {
            count: histogram.count(),
            p50_bytes: bytes(0.5)?,
            p95_bytes: bytes(0.95)?,
            p99_bytes: bytes(0.99)?,
        })
    }
}

impl From<&TaskStats> for TaskJson {
    fn from(task: &TaskStats) -> Self {
        let (numbers, profile) = (&task.numbers, task.numbers.profile());
        let of = |what: Measure| profile.and_then(|p| PhaseJson::of(what.as_str(), p.measure(what)));
        Self {
            task: task.task.clone(),
            runs: numbers.run.count(),
            executors: task.executors().map(|(executor, n)| (executor.as_str(), n)).collect(),
            counts: Count::ALL.map(|what| (what.as_str(), shown(numbers, what))).into(),
            overhead_share: task.overhead(),
            cpu_share: profile.and_then(Profile::cpu_share),
            phases: task
                .phases()
                .into_iter()
                .filter_map(|(name, h)| PhaseJson::of(name, h))
                .collect(),
            moved: of(Measure::Moved),
            cpu: of(Measure::Cpu),
            blocked: of(Measure::Blocked),
            start: of(Measure::Start),
            memory: profile.and_then(|p| MemoryJson::of(p.measure(Measure::Peak))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW, ago};
    use crate::stats::fixture::{late, resize};

    #[test]
    fn as_programs_read_it() {
        let list = StatsList::new(&[resize(), late()], ago(4_000), NOW);
        insta::assert_snapshot!(serde_json::to_string_pretty(&list).unwrap(), @r#"
        {
          "schema": "millhand.stats/1",
          "as_of": "2031-02-03T04:05:06.789Z",
          "since": "2031-02-03T02:58:26.789Z",
          "items": [
            {
              "task": "resize",
              "runs": 200,
              "executors": {
                "process": 200
              },
              "counts": {
                "cancelled": 0,
                "crashed": 1,
                "dead": 0,
                "expired": 0,
                "failed": 2,
                "retried": 1,
                "snoozed": 0,
                "succeeded": 200
              },
              "overhead_share": 0.05547512767925363,
              "cpu_share": 0.8728046833422033,
              "phases": [
                {
                  "phase": "enqueue",
                  "count": 200,
                  "p50_seconds": 0.0004,
                  "p95_seconds": 0.000464,
                  "p99_seconds": 0.000464
                },
                {
                  "phase": "queue",
                  "count": 200,
                  "p50_seconds": 0.237568,
                  "p95_seconds": 0.4096,
                  "p99_seconds": 0.4096
                },
                {
                  "phase": "fetch",
                  "count": 200,
                  "p50_seconds": 0.000084,
                  "p95_seconds": 0.000084,
                  "p99_seconds": 0.000084
                },
                {
                  "phase": "room",
                  "count": 200,
                  "p50_seconds": 0.139264,
                  "p95_seconds": 0.139264,
                  "p99_seconds": 0.139264
                },
                {
                  "phase": "claim",
                  "count": 200,
                  "p50_seconds": 0.001344,
                  "p95_seconds": 0.0016,
                  "p99_seconds": 0.0016
                },
                {
                  "phase": "dispatch",
                  "count": 200,
                  "p50_seconds": 0.000058,
                  "p95_seconds": 0.000058,
                  "p99_seconds": 0.000058
                },
                {
                  "phase": "run",
                  "count": 200,
                  "p50_seconds": 0.047104,
                  "p95_seconds": 0.0512,
                  "p99_seconds": 0.0512
                },
                {
                  "phase": "encode",
                  "count": 200,
                  "p50_seconds": 0.000012,
                  "p95_seconds": 0.000012,
                  "p99_seconds": 0.000012
                },
                {
                  "phase": "settle",
                  "count": 200,
                  "p50_seconds": 0.000928,
                  "p95_seconds": 0.000928,
                  "p99_seconds": 0.000928
                }
              ],
              "moved": {
                "phase": "moved",
                "count": 200,
                "p50_seconds": 0.002688,
                "p95_seconds": 0.0032,
                "p99_seconds": 0.0032
              },
              "cpu": {
                "phase": "cpu",
                "count": 200,
                "p50_seconds": 0.043008,
                "p95_seconds": 0.043008,
                "p99_seconds": 0.043008
              },
              "start": {
                "phase": "start",
                "count": 1,
                "p50_seconds": 0.003712,
                "p95_seconds": 0.003712,
                "p99_seconds": 0.003712
              },
              "memory": {
                "count": 200,
                "p50_bytes": 88080384,
                "p95_bytes": 88080384,
                "p99_bytes": 88080384
              }
            },
            {
              "task": "late",
              "runs": 0,
              "executors": {},
              "counts": {
                "cancelled": 0,
                "crashed": 0,
                "dead": 0,
                "expired": 1,
                "failed": 0,
                "retried": 0,
                "snoozed": 0,
                "succeeded": 0
              },
              "phases": []
            }
          ]
        }
        "#);
    }
}
