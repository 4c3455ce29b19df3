//! Retry policy and time limits: what the producer may set, and what the worker's policy fills in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;

/// When a failed attempt is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u32,
    /// The cap of the first delay; it doubles with each retry.
    pub base: Duration,
    /// The largest cap.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: limits::RETRIES,
            base: limits::RETRY_BASE,
            longest: limits::RETRY_CAP,
        }
    }
}

impl RetryPolicy {
    /// The delay before retry number `retry` (from 1), in [cap/2, cap]; `seed` chooses where.
    #[must_use]
    pub fn delay(&self, retry: u32, seed: u64) -> Duration {
        let doublings = retry.saturating_sub(1).min(40);
        let cap = self
            .base
            .saturating_mul(1u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX))
            .min(self.longest);
        let half = cap / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_micros(seed % span)
    }
}

/// What a producer said of retries (`rp` on the wire): unset values are the worker's to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryWish {
    /// Attempts after the first.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// The cap of the first delay, in milliseconds.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub base_ms: Option<u64>,
    /// The largest cap, in milliseconds.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub longest_ms: Option<u64>,
}

impl RetryWish {
    /// The policy in force: what the producer set wins, the rest is `policy`.
    #[must_use]
    pub fn over(&self, policy: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            retries: self.retries.unwrap_or(policy.retries),
            base: self.base_ms.map_or(policy.base, Duration::from_millis),
            longest: self.longest_ms.map_or(policy.longest, Duration::from_millis),
        }
    }

    /// Whether nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Time limits of one attempt (`to` on the wire), in milliseconds there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeLimits {
    /// After this the job is asked to stop.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub soft_ms: Option<u64>,
    /// After this the job is stopped.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub hard_ms: Option<u64>,
}

impl TimeLimits {
    /// The soft limit.
    #[must_use]
    pub fn soft(&self) -> Option<Duration> {
        self.soft_ms.map(Duration::from_millis)
    }

    /// The hard limit.
    #[must_use]
    pub fn hard(&self) -> Option<Duration> {
        self.hard_ms.map(Duration::from_millis)
    }

    /// What this sets wins over `other`.
    #[must_use]
    pub fn over(&self, other: Self) -> Self {
        Self {
            soft_ms: self.soft_ms.or(other.soft_ms),
            hard_ms: self.hard_ms.or(other.hard_ms),
        }
    }

    /// Whether nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_between_half_and_cap_and_take_about_48_minutes() {
        let policy = RetryPolicy::default();
        let mut mean = Duration::ZERO;
        for retry in 1..=policy.retries {
            let cap = Duration::from_secs(15 << (retry - 1));
            for seed in [0, 1, 12_345_678_901, u64::MAX] {
                let delay = policy.delay(retry, seed);
                assert!(delay >= cap / 2 && delay <= cap, "{retry} {delay:?}");
            }
            mean += cap * 3 / 4;
        }
        assert_eq!(mean.as_secs() / 60, 47);
        assert_eq!(policy.delay(u32::MAX, 0), limits::RETRY_CAP / 2);
    }

    #[test]
    fn what_the_producer_set_wins() {
        let wish = RetryWish {
            retries: Some(0),
            ..RetryWish::default()
        };
        let policy = wish.over(RetryPolicy::default());
        assert_eq!(policy.retries, 0);
        assert_eq!(policy.base, limits::RETRY_BASE);
    }
}
