//! How late the async executor is: from time to time a task with nothing to do is put on it, and how long
//! that waits for a thread is what any other would have waited.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millhand_broker::LoopLag;
use tokio::runtime::Handle;

/// How often it is looked.
pub(crate) const PROBE: Duration = Duration::from_millis(100);
/// How long a probe counts.
const KEEP: Duration = Duration::from_secs(60);

/// Probes that fit in that time.
const MOST: usize = 600;

/// The probes of the last minute.
#[derive(Default)]
pub(super) struct Lag(Mutex<Probes>);

#[derive(Default)]
struct Probes {
    /// When each was sent, and how long it waited; the oldest first.
    ran: VecDeque<(Instant, Duration)>,
    /// One that waits.
    waits: Option<Instant>,
}

impl Lag {
    fn probes(&self) -> MutexGuard<'_, Probes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a probe, unless one waits.
    pub(super) fn probe(self: &Arc<Self>, tasks: &Handle) {
        let sent = Instant::now();
        let waiting = *self.probes().waits.get_or_insert(sent);
        if waiting == sent {
            let this = Arc::clone(self);
            tasks.spawn(async move { this.arrived(sent) });
        }
    }

    fn arrived(&self, sent: Instant) {
        let now = Instant::now();
        let mut probes = self.probes();
        probes.waits = None;
        probes.ran.push_back((sent, now.duration_since(sent)));
        if probes.ran.len() > MOST {
            probes.ran.pop_front();
        }
    }

    /// The longest that something waited between two points in time.
    pub(super) fn within(&self, begun: Instant, ended: Instant) -> Duration {
        let probes = self.probes();
        let overlap = |sent: Instant, ran: Instant| ran.min(ended).saturating_duration_since(sent.max(begun));
        let ran = probes.ran.iter().rev().take_while(|(sent, lag)| *sent + *lag > begun);
        let ran = ran.map(|(sent, lag)| overlap(*sent, *sent + *lag)).max();
        let waits = probes.waits.map(|sent| overlap(sent, ended));
        ran.max(waits).unwrap_or_default()
    }

    pub(super) fn percentiles(&self) -> Option<LoopLag> {
        let probes = self.probes();
        let now = Instant::now();
        let fresh = |(sent, _): &&(Instant, Duration)| now.duration_since(*sent) <= KEEP;
        let mut lags: Vec<Duration> = probes.ran.iter().filter(fresh).map(|(_, lag)| *lag).collect();
        lags.extend(probes.waits.map(|sent| now.duration_since(sent)));
        lags.sort_unstable();
        let at = |percent: usize| {
            let place = (lags.len() * percent).div_ceil(100).checked_sub(1)?;
            u64::try_from(lags.get(place)?.as_micros()).ok()
        };
        Some(LoopLag {
            p50: at(50)?,
            p99: at(99)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_waited_is_the_part_within_the_poll() {
        let lag = Lag::default();
        let ms = Duration::from_millis;
        let t = Instant::now();
        lag.probes().ran.push_back((t, ms(30)));
        lag.probes().ran.push_back((t + ms(100), ms(1)));
        assert_eq!(lag.within(t + ms(10), t + ms(90)), ms(20));
        assert_eq!(lag.within(t + ms(40), t + ms(90)), ms(0));
        lag.probes().waits = Some(t + ms(150));
        assert_eq!(lag.within(t + ms(90), t + ms(200)), ms(50));
    }

    #[test]
    fn percentiles_are_those_of_the_last_minute() {
        let lag = Lag::default();
        assert_eq!(lag.percentiles(), None);
        let now = Instant::now();
        for n in 1..=100 {
            lag.probes().ran.push_back((now, Duration::from_micros(n)));
        }
        if let Some(old) = now.checked_sub(KEEP * 2) {
            lag.probes().ran.push_front((old, Duration::from_secs(9)));
        }
        assert_eq!(lag.percentiles(), Some(LoopLag { p50: 50, p99: 99 }));
    }
}
