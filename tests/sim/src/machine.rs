//! One process with its disk and its clock.

use crate::disk::Disk;
use crate::plan::MS;
use crate::rules::Rules;
use mks_logic::cluster::State;
use mks_logic::event::WriteJob;
use mks_logic::id::NodeId;
use mks_logic::node::Node;
use mks_logic::replica::Ports;
use mks_logic::time::Now;
use std::sync::Arc;

/// Unix time at the start of every run, milliseconds.
pub const BIRTH_MS: u64 = 1_800_000_000_000;

/// See the module's own words.
#[derive(Debug)]
pub struct Machine {
    /// Who it is.
    pub id: NodeId,
    /// `None` while it is dead.
    pub node: Option<Node>,
    /// The name of the process.
    pub opening: u128,
    /// Its disk.
    pub disk: Disk,
    /// Its resolver.
    pub rules: Rules,
    /// What the epoch log says here, and how many entries that is.
    pub state: Arc<State>,
    /// See [`Machine::state`].
    pub applied: usize,
    /// It does not hear of the epoch log before then.
    pub deaf_until: u64,
    /// Writes that the disk has not begun.
    pub waiting: Vec<WriteJob>,
    /// The disk has a commit under way.
    pub committing: bool,
    /// How many times longer the disk takes.
    pub slow: u64,
    /// It does not run before then.
    pub paused_until: u64,
    /// How far its wall clock is off, milliseconds.
    pub skew_ms: i64,
    /// How much faster its clocks run, millionths.
    pub drift: i64,
    /// When its node wants a tick; `u64::MAX`: never.
    pub wake_us: u64,
}

impl Machine {
    /// A machine that is off.
    #[must_use]
    pub fn new(id: NodeId, state: Arc<State>, applied: usize) -> Self {
        Self {
            id,
            node: None,
            opening: u128::from(id.0),
            disk: Disk::default(),
            rules: Rules::Work,
            state,
            applied,
            deaf_until: 0,
            waiting: Vec::new(),
            committing: false,
            slow: 1,
            paused_until: 0,
            skew_ms: 0,
            drift: 0,
            wake_us: u64::MAX,
        }
    }

    /// What its clocks say. Monotonic clocks of different nodes have nothing to do with each other.
    #[must_use]
    pub fn now(&self, true_us: u64) -> Now {
        let own_us = true_us.saturating_add_signed(true_us as i64 * self.drift / 1_000_000);
        let wall_ms = (BIRTH_MS + own_us / MS).saturating_add_signed(self.skew_ms);
        Now { mono_us: self.zero() + own_us, wall_ms }
    }

    /// The first moment at which its monotonic clock says so.
    #[must_use]
    pub fn when(&self, mono_us: u64) -> u64 {
        let own_us = mono_us.saturating_sub(self.zero());
        let rate = 1_000_000u64.saturating_add_signed(self.drift);
        let mut true_us = (own_us * 1_000_000 / rate.max(1)).saturating_sub(2);
        while self.now(true_us).mono_us < mono_us {
            true_us += 1;
        }
        true_us
    }

    fn zero(&self) -> u64 {
        self.id.0 * 1_000_000_007
    }

    /// What its node works with as an owner.
    #[must_use]
    pub fn ports(&self) -> Ports<'_> {
        let partition_bits = self.state.partition_bits;
        Ports { store: &self.disk, outlines: &self.disk, resolve: &self.rules, partition_bits }
    }
}
