//! Slows writers down in proportion to the engine's backlog, so that it never has to stop them.

use std::time::Duration;

/// A byte written at full pressure costs its writer this long: 2 MB/s, about the least a disk that works will flush.
const NANOS_PER_BYTE_AT_FULL: f64 = 500.0;

/// Longest wait of one batch before the backlog is looked at again.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Waits shorter than this are saved up: a sleep is not exact enough for them.
const PAUSE_MIN: Duration = Duration::from_micros(500);

/// The waiting that a writer owes.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    owed: Duration,
}

impl Throttle {
    /// How long the writer of `bytes` should wait at `pressure` (0 to 1), zero nearly always.
    ///
    /// The wait grows with the square of the pressure: hardly felt at first, and at any speed of the disk there is a
    /// pressure at which as much comes in as goes out.
    pub(crate) fn charge(&mut self, bytes: u64, pressure: f64) -> Duration {
        let pressure = pressure.clamp(0.0, 1.0);
        let nanos = bytes as f64 * NANOS_PER_BYTE_AT_FULL * pressure * pressure;
        self.owed = (self.owed + Duration::from_nanos(nanos as u64)).min(PAUSE_MAX);
        if pressure == 0.0 || self.owed < PAUSE_MIN {
            self.owed = if pressure == 0.0 { Duration::ZERO } else { self.owed };
            return Duration::ZERO;
        }
        std::mem::take(&mut self.owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(pressure: f64, batches: u32, bytes: u64) -> Duration {
        let mut throttle = Throttle::default();
        (0..batches).map(|_| throttle.charge(bytes, pressure)).sum()
    }

    #[test]
    fn an_idle_engine_costs_no_wait() {
        assert_eq!(total(0.0, 1_000, 1 << 20), Duration::ZERO);
    }

    #[test]
    fn waits_grow_with_the_backlog_and_are_not_lost_when_tiny() {
        let light = total(0.1, 10_000, 1_000);
        let half = total(0.5, 10_000, 1_000);
        assert!(light >= Duration::from_millis(40), "{light:?}");
        assert!(half >= light * 20, "{half:?} after {light:?}");
    }

    #[test]
    fn one_batch_never_waits_longer_than_the_limit() {
        assert_eq!(total(1.0, 1, 1 << 30), PAUSE_MAX);
    }
}
