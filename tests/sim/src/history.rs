//! What clients did and saw. Values are unique, so a read names the write that it saw.

use std::collections::BTreeSet;

/// Microseconds of the simulation's true time.
pub type At = u64;

/// What a client did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Wrote this value, or deleted (`None`).
    Write(Option<u64>),
    /// Read these: a single one, unless siblings were shown that no resolver settled, or that it keeps.
    Read(Vec<Option<u64>>),
}

/// One act with its time.
#[derive(Clone, Debug)]
pub struct Event {
    /// Position in the run's keys.
    pub key: usize,
    /// What.
    pub act: Act,
    /// When the client asked first.
    pub began: At,
    /// When it had a good answer that counts; `None`: never, so that a write may take effect at any time, or never.
    pub ended: Option<At>,
    /// Of a write in a causal keyspace: values that its writer had seen, and whose place it takes.
    pub saw: Saw,
}

/// Values that somebody has seen.
pub type Saw = BTreeSet<u64>;

/// Everything that clients did.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which they began.
    pub events: Vec<Event>,
    /// Key and value of every put that was asked.
    pub asked: BTreeSet<(usize, u64)>,
}

impl History {
    /// Something begins; returns its position.
    pub fn begin(&mut self, key: usize, act: Act, began: At, saw: Saw) -> usize {
        if let Act::Write(Some(value)) = act {
            self.asked.insert((key, value));
        }
        self.events.push(Event { key, act, began, ended: None, saw });
        self.events.len() - 1
    }
}
