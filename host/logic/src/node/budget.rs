//! Bytes that background work may use: a token bucket.

use crate::time::MonoUs;

/// A bucket that holds one second's worth. What is spent beyond it must be waited for before the next question.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    /// When all that was spent will have been allowed.
    paid_at: MonoUs,
}

/// The bucket's depth.
const BURST_US: u64 = 1_000_000;

impl Budget {
    /// Whether something may be sent now.
    pub(super) fn is_ready(self, now: MonoUs, rate: u64) -> bool {
        self.ready_at(rate) <= now
    }

    /// When something may be sent.
    pub(super) fn ready_at(self, rate: u64) -> MonoUs {
        if rate == 0 { MonoUs::MAX } else { self.paid_at.saturating_sub(BURST_US) }
    }

    /// So many bytes were sent or received.
    pub(super) fn spend(&mut self, now: MonoUs, bytes: usize, rate: u64) {
        let us = (bytes as u64).saturating_mul(1_000_000) / rate.max(1);
        self.paid_at = self.paid_at.max(now).saturating_add(us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_carries_more_than_the_rate_and_one_burst() {
        let (mut budget, rate, mut sent) = (Budget::default(), 1_000, 0);
        for now in (5_000_000..15_000_000).step_by(10_000) {
            if budget.is_ready(now, rate) {
                budget.spend(now, 100, rate);
                sent += 100;
            }
        }
        assert!((10_000..=11_200).contains(&sent), "{sent} bytes in 10 s");
        assert!(budget.ready_at(rate) < 15_200_000, "and it goes on");
    }
}
