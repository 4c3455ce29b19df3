//! Numbers for people, and how durations are summed up.

use std::time::Duration;

use millhand_proto::Receipt;
use millhand_proto::words::three;

use crate::output::grouped;

/// `812 B`, `4.80 KiB`, `1.20 MiB`, in three figures.
pub(super) fn bytes(number: u64) -> String {
    if number < 1024 {
        format!("{number} B")
    } else {
        rate_bytes(number as f64)
    }
}

/// The same for what is no whole number.
pub(super) fn rate_bytes(number: f64) -> String {
    let mut number = number;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if number < 999.5 {
            return format!("{} {unit}", three(number));
        }
        number /= 1024.0;
    }
    format!("{} TiB", three(number))
}

/// Per second, in three figures.
pub(super) fn rate(count: u64, span: Duration) -> String {
    let rate = count as f64 / span.as_secs_f64().max(1e-6);
    if rate < 999.5 {
        three(rate)
    } else {
        grouped(Duration::from_secs_f64(rate.min(1e18)).as_secs())
    }
}

/// Bits per byte: 0 for one byte over and over, 8 for noise.
pub(super) fn entropy(histogram: &[u64; 256]) -> f64 {
    let all = histogram.iter().sum::<u64>() as f64;
    let part = |count: &u64| {
        let share = *count as f64 / all;
        -share * share.log2()
    };
    // No bytes and one byte value give -0 otherwise.
    histogram.iter().filter(|c| **c > 0).map(part).sum::<f64>().abs()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How many durations fell where, each kept within 3 %, in bounded space.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    buckets: Vec<u64>,
    count: u64,
}

impl Spread {
    pub(super) fn add(&mut self, micros: u64) {
        let at = bucket(micros);
        if self.buckets.len() <= at {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] += 1;
        self.count += 1;
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The value below which so many of a thousand lie; `None` with too few to say.
    pub(super) fn percentile(&self, thousandths: u64) -> Option<Duration> {
        let enough = match thousandths {
            0..=500 => 1,
            501..=950 => 20,
            _ => 100,
        };
        if self.count < enough {
            return None;
        }
        let rank = (self.count * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        let at = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        Some(Duration::from_micros(middle(at)))
    }
}

/// 32 buckets for each doubling.
fn bucket(micros: u64) -> usize {
    if micros < 32 {
        return usize::try_from(micros).unwrap_or(0);
    }
    let power = 63 - micros.leading_zeros();
    let sub = usize::try_from(micros >> (power - 5)).unwrap_or(0) - 32;
    usize::try_from(power - 4).unwrap_or(0) * 32 + sub
}

fn middle(bucket: usize) -> u64 {
    let at = u64::try_from(bucket).unwrap_or(0);
    if at < 64 {
        return at;
    }
    let power = at / 32 - 1;
    ((32 + at % 32) << power) + (1 << power) / 2
}

/// Where the time of a task's jobs went.
#[derive(Clone, Debug)]
pub(super) struct Phases {
    pub(super) phases: Vec<(&'static str, Spread)>,
    pub(super) whole: Spread,
    /// CPU time of all runs together, where it is known.
    pub(super) cpu: Duration,
}

impl Default for Phases {
    fn default() -> Self {
        let phases = Receipt::default().phases().map(|(name, _)| (name, Spread::default()));
        Self {
            phases: phases.into(),
            whole: Spread::default(),
            cpu: Duration::ZERO,
        }
    }
}

impl Phases {
    pub(super) fn add(&mut self, receipt: &Receipt) {
        for ((_, spread), (_, micros)) in self.phases.iter_mut().zip(receipt.phases()) {
            spread.add(micros);
        }
        self.whole.add(receipt.whole());
        self.cpu += Duration::from_micros(receipt.cpu.unwrap_or(0));
    }

    /// All rows: the phases, then the whole.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, &Spread)> {
        self.phases
            .iter()
            .map(|(name, spread)| (*name, spread))
            .chain([("whole", &self.whole)])
    }
}

/// What happened when, in at most 120 steps of one width.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    width: Duration,
    /// Jobs that ended, bytes that were counted.
    pub(super) steps: Vec<(u64, u64)>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: Duration::from_millis(20),
            steps: Vec::new(),
        }
    }
}

impl Timeline {
    pub(super) fn width(&self) -> Duration {
        self.width
    }

    pub(super) fn add(&mut self, at: Duration, jobs: u64, bytes: u64) {
        while at >= self.width * 120 {
            self.steps = self
                .steps
                .chunks(2)
                .map(|c| c.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)))
                .collect();
            self.width *= 2;
        }
        let step = usize::try_from(at.as_micros() / self.width.as_micros()).unwrap_or(0);
        if self.steps.len() <= step {
            self.steps.resize(step + 1, (0, 0));
        }
        self.steps[step].0 += jobs;
        self.steps[step].1 += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_keeps_every_value_within_3_percent() {
        for micros in (0..2_000).chain([1 << 20, 123_456_789, u64::MAX >> 1]) {
            let middle = middle(bucket(micros));
            assert!(middle.abs_diff(micros) * 32 <= micros, "{micros}: {middle}");
        }
        let mut spread = Spread::default();
        (1..=100).for_each(|n| spread.add(n));
        assert_eq!(spread.percentile(500), Some(Duration::from_micros(50)));
        assert!(spread.percentile(990).unwrap() >= Duration::from_micros(97));
        assert_eq!(Spread::default().percentile(500), None);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!((bytes(1023), bytes(1 << 20)), ("1023 B".into(), "1.00 MiB".into()));
        let mut flat = [0; 256];
        assert!(entropy(&flat).abs() < 1e-9);
        flat[7] = 9;
        assert_eq!(format!("{:.2}", entropy(&flat)), "0.00");
        assert!((entropy(&[3; 256]) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn a_timeline_stays_short() {
        let mut line = Timeline::default();
        for second in 0..1000 {
            line.add(Duration::from_secs(second), 1, 2);
        }
        assert!(line.steps.len() <= 120);
        assert_eq!(line.steps.iter().map(|s| s.0).sum::<u64>(), 1000);
    }
}
