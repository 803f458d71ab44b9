//! Read repair: owners that a read found behind get what they lack, after the reply.
//!
//! Nobody waits for it and nothing was promised, so it asks for no fsync: what a power cut takes back, the next read
//! finds again. For the same reason it may be left out where too much is under way.

use super::linger::After;
use super::own::WriteAsked;
use super::{JobFor, Kind, Node, Op, Step};
use crate::cluster::Keyspace;
use crate::get::Repair;
use crate::id::NodeId;
use crate::message::{Message, Tag};
use crate::port::Durability;
use crate::time::MonoUs;
use alloc::collections::{BTreeMap, VecDeque};
use bytes::Bytes;

/// Why an owner was given something that it lacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A read found that a peer held other versions.
    Stale,
    /// A read found that a peer held nothing of the key.
    Absent,
    /// A read found that this node's own disk was behind.
    OwnDisk,
    /// It was away when this node coordinated the write, or stood in for it.
    Hint,
    /// A comparison of this node's own found a difference, on either side.
    Sync,
}

impl Cause {
    /// All causes, in the order of the figures.
    pub const ALL: [Self; 5] = [Self::Stale, Self::Absent, Self::OwnDisk, Self::Hint, Self::Sync];

    /// For people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Absent => "absent",
            Self::OwnDisk => "own_disk",
            Self::Hint => "hint",
            Self::Sync => "sync",
        }
    }
}

/// Repairs that were sent and not answered yet.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// Bytes of each.
    under_way: BTreeMap<Tag, usize>,
    bytes: usize,
    /// When each is taken for lost, in order. Answered ones stay until they are in front.
    until: VecDeque<(MonoUs, Tag)>,
}

impl Repairs {
    fn sent(&mut self, tag: Tag, bytes: usize, until: MonoUs) {
        self.bytes += bytes;
        self.under_way.insert(tag, bytes);
        self.until.push_back((until, tag));
    }

    fn answered(&mut self, tag: Tag) {
        self.bytes -= self.under_way.remove(&tag).unwrap_or_default();
        while self.until.front().is_some_and(|(_, tag)| !self.under_way.contains_key(tag)) {
            self.until.pop_front();
        }
    }

    /// Whoever did not answer by now will not.
    pub(super) fn expire(&mut self, now_us: MonoUs) {
        while let Some((_, tag)) = self.until.front().copied().filter(|(at, _)| *at <= now_us) {
            self.answered(tag);
        }
    }

    pub(super) fn next_wake(&self) -> Option<MonoUs> {
        self.until.front().map(|(at, _)| *at)
    }

    /// Repairs without an answer.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }
}

impl Node {
    /// Mends what a read saw so far. Each owner gets each merged record at most once.
    pub(super) fn repair(&mut self, step: &mut Step<'_>, tag: Tag, after: After) {
        let Some(Op { kind: Kind::Read(op), .. }) = self.ops.get_mut(&tag) else { return };
        if after != After::Success {
            return;
        }
        let repairs = op.repairs(step.resolve);
        if repairs.is_empty() {
            return;
        }
        let key = op.key.clone();
        let Ok(policy) = self.keyspace(key.keyspace).map(Keyspace::policy) else { return };
        for Repair { owner, absent, versions, past } in repairs {
            if !self.may_repair(owner) {
                self.figures.repairs_dropped += 1;
                continue;
            }
            let cause = if owner == self.me {
                Cause::OwnDisk
            } else if absent {
                Cause::Absent
            } else {
                Cause::Stale
            };
            self.figures.repairs[cause as usize] += 1;
            for version in versions {
                let tag = self.tag();
                let bytes = version.value.as_ref().map_or(0, Bytes::len);
                self.repairs.sent(tag, bytes, step.now.mono_us + self.limits.repair_after_ms * 1_000);
                let (key, past, fresh, durability) = (key.clone(), past.clone(), false, Durability::Os);
                if owner == self.me {
                    let asked = WriteAsked::plain(key, version, past, fresh, durability);
                    self.write_here(step, JobFor::Own(tag), asked, policy);
                } else {
                    self.send(step, owner, Message::Write { tag, key, version, past, fresh, durability });
                }
            }
        }
    }

    /// The bounds are looked at before each owner's repair, which may take them a record beyond.
    fn may_repair(&self, owner: NodeId) -> bool {
        let there = if owner == self.me { !self.disk_is_busy() } else { self.is_linked(owner) };
        let Repairs { under_way, bytes, .. } = &self.repairs;
        there && under_way.len() < self.limits.repairs_max && *bytes < self.limits.repairs_bytes_max
    }

    /// An answer to a repair: whatever it is, it is no longer under way.
    pub(super) fn mended(&mut self, tag: Tag) {
        self.repairs.answered(tag);
    }
}
