//! Time as an argument, and the hybrid logical clock (Kulkarni et al. 2014; DDIA chapter 8 on why wall clocks lie).

use core::fmt;
use serde::{Deserialize, Serialize};

/// What time it is, as the caller sees it. Logic never asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Microseconds of a clock that never goes back; its zero means nothing.
    pub mono_us: u64,
    /// Unix time in milliseconds, as wrong as clocks are.
    pub wall_ms: u64,
}

/// A moment of the monotonic clock, microseconds: see [`Now::mono_us`].
pub type MonoUs = u64;

/// A hybrid logical timestamp: 48 bits of Unix milliseconds, 16 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The earliest timestamp.
    pub const ZERO: Self = Self(0);

    /// The first timestamp of a millisecond.
    #[must_use]
    pub const fn from_ms(wall_ms: u64) -> Self {
        Self(wall_ms << 16)
    }

    /// Unix milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The next timestamp after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.ms(), self.0 & 0xFFFF)
    }
}

/// The node's hybrid logical clock: every timestamp it gives is above all it gave and all it saw.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    latest: Hlc,
}

impl Clock {
    /// A clock that has seen `latest`: a node restarts above what its disk holds.
    #[must_use]
    pub const fn starting_at(latest: Hlc) -> Self {
        Self { latest }
    }

    /// A timestamp above everything given or seen so far, and not behind the wall clock.
    pub fn tick(&mut self, now: Now) -> Hlc {
        self.latest = self.latest.next().max(Hlc::from_ms(now.wall_ms));
        self.latest
    }

    /// Takes in a timestamp from a peer. One that is more than `offset_max_ms` ahead of our own clock is refused:
    /// otherwise one broken clock would drag the whole cluster into the future.
    ///
    /// # Errors
    /// [`TooFarAhead`], and the clock is unchanged.
    pub fn observe(&mut self, seen: Hlc, now: Now, offset_max_ms: u64) -> Result<(), TooFarAhead> {
        let ahead_ms = seen.ms().saturating_sub(now.wall_ms);
        if ahead_ms > offset_max_ms {
            return Err(TooFarAhead { ahead_ms });
        }
        self.latest = self.latest.max(seen);
        Ok(())
    }

    /// The latest timestamp given or seen: what rides on messages.
    #[must_use]
    pub const fn latest(&self) -> Hlc {
        self.latest
    }
}

/// A timestamp from a clock that is ahead of ours by more than is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a timestamp is {ahead_ms} ms ahead of this node's clock; one of the two clocks is wrong")]
pub struct TooFarAhead {
    /// By how much, milliseconds.
    pub ahead_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(wall_ms: u64) -> Now {
        Now { mono_us: 0, wall_ms }
    }

    proptest! {
        /// Whatever the wall clock does (jump back, stop, run ahead), stamps only rise.
        #[test]
        fn ticks_rise_whatever_the_wall_clock_does(walls in prop::collection::vec(0u64..1 << 40, 1..200)) {
            let mut clock = Clock::default();
            let mut last = Hlc::ZERO;
            for wall in walls {
                let stamp = clock.tick(at(wall));
                prop_assert!(stamp > last);
                prop_assert!(stamp >= Hlc::from_ms(wall));
                last = stamp;
            }
        }

        #[test]
        fn a_tick_is_above_what_was_seen(wall in 0u64..1 << 40, ahead in 0u64..=500) {
            let mut clock = Clock::default();
            let seen = Hlc(Hlc::from_ms(wall + ahead).0 | 77);
            clock.observe(seen, at(wall), 500).unwrap();
            prop_assert!(clock.tick(at(wall)) > seen);
        }
    }

    #[test]
    fn a_stamp_from_the_future_is_refused_and_changes_nothing() {
        let mut clock = Clock::default();
        let before = clock.tick(at(1_000));
        assert_eq!(clock.observe(Hlc::from_ms(1_501), at(1_000), 500), Err(TooFarAhead { ahead_ms: 501 }));
        assert_eq!(clock.latest(), before);
    }
}
