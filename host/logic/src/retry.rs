//! The request ids that a coordinator remembers, so that a write sent again is answered and not applied again.

use crate::id::{Dot, Epoch, Incarnation, Key, NodeId};
use crate::request::Reply;
use crate::time::Hlc;
use crate::version::Version;
use alloc::collections::{BTreeMap, VecDeque};
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

/// Chosen by the client, or derived from one: see [`item_id`].
pub type RequestId = u128;

/// The id of item `item` of the batch `batch`: far from every id that a client that counts would choose next.
#[must_use]
pub fn item_id(batch: RequestId, item: u32) -> RequestId {
    xxh3_128_with_seed(&batch.to_le_bytes(), u64::from(item) + 1)
}

/// The name under which a write went out: a retry goes out under the same one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// The version's dot; its counter is zero where it never had one.
    pub dot: Dot,
    /// Its clock.
    pub written: Hlc,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it expires: a retry does not move that.
    pub expires_ms: u64,
}

impl Name {
    /// The name of a version.
    #[must_use]
    pub const fn of(version: &Version) -> Self {
        let Version { dot, written, epoch, expires_ms, .. } = *version;
        Self { dot, written, epoch, expires_ms }
    }
}

#[derive(Clone, Debug)]
enum Outcome {
    UnderWay,
    Done(Reply),
    /// It ended without an answer from a quorum: the version may be somewhere.
    Unknown(Name),
}

/// What a coordinator does with a write that carries a request id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Never seen: apply it.
    New,
    /// Seen, outcome unknown: apply it under the old name.
    Again(Name),
    /// Seen and done: this was the reply.
    Done(Reply),
    /// Seen and still being worked on.
    UnderWay,
    /// Seen with another key or value.
    Different,
}

/// The memory, bounded: the oldest ids are forgotten first.
#[derive(Debug)]
pub struct Memory {
    max: usize,
    known: BTreeMap<RequestId, (u64, Outcome)>,
    order: VecDeque<RequestId>,
}

/// Tells two writes under one request id apart.
#[must_use]
pub fn fingerprint(key: &Key, value: Option<&Bytes>) -> u64 {
    let seed = value.map_or(1, |v| xxh3_64(v));
    let seed = xxh3_64_with_seed(&key.sort_key, seed ^ u64::from(key.keyspace.0));
    xxh3_64_with_seed(&key.partition_key, seed)
}

impl Memory {
    /// Remembers at most `max` ids, and one at least.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), known: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Looks a write up and, unless it is done or under way, remembers that it is under way now.
    pub fn begin(&mut self, request: RequestId, fingerprint: u64) -> Seen {
        match self.known.get_mut(&request) {
            Some((known, _)) if *known != fingerprint => Seen::Different,
            Some((_, Outcome::UnderWay)) => Seen::UnderWay,
            Some((_, Outcome::Done(reply))) => Seen::Done(reply.clone()),
            Some((_, outcome @ Outcome::Unknown(_))) => match core::mem::replace(outcome, Outcome::UnderWay) {
                Outcome::Unknown(name) => Seen::Again(name),
                Outcome::UnderWay | Outcome::Done(_) => Seen::New,
            },
            None => {
                while self.order.len() >= self.max {
                    if let Some(oldest) = self.order.pop_front() {
                        self.known.remove(&oldest);
                    }
                }
                self.order.push_back(request);
                self.known.insert(request, (fingerprint, Outcome::UnderWay));
                Seen::New
            }
        }
    }

    /// Whether this id is remembered.
    #[must_use]
    pub fn knows(&self, request: RequestId) -> bool {
        self.known.contains_key(&request)
    }

    /// Remembers how a write ended: a good reply is repeated, after anything else a retry runs under the same name.
    pub fn end(&mut self, request: RequestId, name: Name, reply: &Reply) {
        if let Some((_, outcome)) = self.known.get_mut(&request) {
            *outcome = if reply.is_ok() { Outcome::Done(reply.clone()) } else { Outcome::Unknown(name) };
        }
    }
}

/// Which opening of which owner has an operation on a data type: done twice it would count twice, so a node that is no
/// owner hands it to nobody else when it comes again. Bounded: the oldest ids are forgotten first.
#[derive(Debug)]
pub struct Handed {
    max: usize,
    known: BTreeMap<RequestId, (NodeId, Incarnation)>,
    order: VecDeque<RequestId>,
}

impl Handed {
    /// Remembers at most `max` ids, and one at least.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), known: BTreeMap::new(), order: VecDeque::new() }
    }

    /// To whom it was handed.
    #[must_use]
    pub fn to(&self, request: RequestId) -> Option<(NodeId, Incarnation)> {
        self.known.get(&request).copied()
    }

    /// Nobody did anything.
    pub fn forget(&mut self, request: RequestId) {
        if self.known.remove(&request).is_some() {
            self.order.retain(|known| *known != request);
        }
    }

    /// It is handed to this owner; those that had it before have done nothing.
    pub fn hand(&mut self, request: RequestId, to: (NodeId, Incarnation)) {
        if self.known.insert(request, to).is_none() {
            self.order.push_back(request);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Answer, OpError};

    const KEY: RequestId = 7;

    fn name(counter: u64) -> Name {
        Name { dot: Dot { counter, ..Dot::default() }, written: Hlc(counter), epoch: Epoch(1), expires_ms: 0 }
    }

    #[test]
    fn a_done_write_is_answered_and_not_applied_again() {
        let mut memory = Memory::new(10);
        assert_eq!(memory.begin(KEY, 1), Seen::New);
        assert_eq!(memory.begin(KEY, 1), Seen::UnderWay);
        let reply = Ok(Answer::Written { written: Hlc(1), acks: 2, hints: 0, context: None });
        memory.end(KEY, name(1), &reply);
        assert_eq!(memory.begin(KEY, 1), Seen::Done(reply));
        assert_eq!(memory.begin(KEY, 2), Seen::Different);
    }

    #[test]
    fn an_unknown_outcome_is_tried_again_under_the_same_name() {
        let mut memory = Memory::new(10);
        memory.begin(KEY, 1);
        memory.end(KEY, name(5), &Err(OpError::Timeout { write: true, acks: 1, needed: 2, owners: 3, hints: 0 }));
        assert_eq!(memory.begin(KEY, 1), Seen::Again(name(5)));
        assert_eq!(memory.begin(KEY, 1), Seen::UnderWay);
    }

    #[test]
    fn the_oldest_ids_are_forgotten_first() {
        let mut memory = Memory::new(2);
        for id in 0..3 {
            memory.begin(id, 1);
        }
        assert_eq!(memory.known.len(), 2);
        assert_eq!(memory.begin(2, 1), Seen::UnderWay);
        assert_eq!(memory.begin(0, 1), Seen::New);
    }

    #[test]
    fn the_last_owner_that_was_handed_something_is_known_until_there_are_too_many() {
        let (mut handed, to) = (Handed::new(2), |node| (NodeId(node), Incarnation(1)));
        handed.hand(1, to(1));
        handed.hand(1, to(2));
        handed.hand(2, to(3));
        assert_eq!((handed.to(1), handed.to(2), handed.to(3)), (Some(to(2)), Some(to(3)), None));
        handed.hand(3, to(1));
        assert_eq!((handed.to(1), handed.to(3)), (None, Some(to(1))));
    }
}
