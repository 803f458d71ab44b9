//! The only place that asks the operating system what time it is.

use mks_logic::time::{Hlc, Now};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// A node's clocks: shared by the pump, which steps the logic with them, and the links, which stamp frames.
#[derive(Debug)]
pub struct NodeClock {
    began: Instant,
    offset_ms: i64,
    latest: AtomicU64,
}

impl NodeClock {
    /// Clocks that start now. `offset_ms` is added to the wall clock: zero, but for tests of skewed clocks.
    #[must_use]
    pub fn new(offset_ms: i64) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), offset_ms, latest: AtomicU64::new(0) })
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall_ms = wall_ms().saturating_add_signed(self.offset_ms);
        Now { mono_us: self.began.elapsed().as_micros() as u64, wall_ms }
    }

    /// The moment that the logic calls `mono_us`.
    #[must_use]
    pub fn moment(&self, mono_us: u64) -> Instant {
        self.began + Duration::from_micros(mono_us)
    }

    /// The pump says what the logic's hybrid clock shows.
    pub fn note(&self, latest: Hlc) {
        self.latest.store(latest.0, Ordering::Relaxed);
    }

    /// What a frame carries that leaves now: the hybrid clock, not behind the wall clock.
    #[must_use]
    pub fn frame(&self) -> Hlc {
        Hlc(self.latest.load(Ordering::Relaxed)).max(Hlc::from_ms(self.now().wall_ms))
    }
}

/// The wall clock, milliseconds since 1970. Data are never stamped with it alone: it is for what people read.
#[must_use]
pub fn wall_ms() -> u64 {
    // A clock before 1970 reads as 1970: every peer will say that it is off.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
