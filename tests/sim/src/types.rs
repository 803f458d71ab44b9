//! Native stand-ins for two data types, which show more than the real ones: a counter that names the operations that it
//! counted, and a set.
//!
//! Both count on what data types may count on: that a state holds all that the same actor did to it before. A counter
//! merges an actor's count by the higher one, a set takes an add that was heard of and is not there for removed.

use bytes::Bytes;
use mks_logic::id::Dot;
use mks_logic::port::{NewState, ResolverHash, TypeError};
use std::collections::{BTreeMap, BTreeSet};

/// The code of the counter.
pub const COUNTER_CODE: ResolverHash = ResolverHash([3; 32]);
/// The code of the set.
pub const SET_CODE: ResolverHash = ResolverHash([4; 32]);

/// Node and incarnation.
type Actor = (u64, u64);

/// Operations of one actor in order; of two such lists the longer one stands.
#[derive(Default)]
struct Counter(BTreeMap<Actor, Vec<u64>>);

/// Elements with the dots of their adds, and the last dot of each actor that was heard of.
#[derive(Default)]
struct Set {
    elements: BTreeSet<(u64, Actor, u64)>,
    heard: BTreeMap<Actor, u64>,
}

/// Does what a data type does.
///
/// # Errors
/// When the code is neither, or a state is none.
pub fn apply(code: ResolverHash, dot: Dot, states: &[Bytes], operation: &[u8]) -> Result<NewState, TypeError> {
    let actor = (dot.node.0, dot.incarnation.0);
    let state = if code == COUNTER_CODE {
        let mut counter = Counter::join(states)?;
        counter.0.entry(actor).or_default().push(number(operation)?);
        counter.bytes()
    } else {
        let mut set = Set::join(states)?;
        let (word, element) = operation.split_first().ok_or_else(malformed)?;
        let element = number(element)?;
        if *word == b'+' {
            set.heard.insert(actor, dot.counter);
            set.elements.insert((element, actor, dot.counter));
        } else {
            set.elements.retain(|(known, ..)| *known != element);
        }
        set.bytes()
    };
    Ok(NewState { state, reply: None })
}

/// The join of states.
///
/// # Errors
/// As [`apply`].
pub fn join(code: ResolverHash, states: &[Bytes]) -> Result<Bytes, TypeError> {
    if code == COUNTER_CODE { Ok(Counter::join(states)?.bytes()) } else { Ok(Set::join(states)?.bytes()) }
}

/// All operations that a counter counted, or all elements of a set, eight bytes each.
///
/// # Errors
/// As [`apply`].
pub fn view(code: ResolverHash, states: &[Bytes]) -> Result<Bytes, TypeError> {
    let shown: Vec<u64> = if code == COUNTER_CODE {
        Counter::join(states)?.0.into_values().flatten().collect()
    } else {
        Set::join(states)?.elements.into_iter().map(|(element, ..)| element).collect()
    };
    Ok(shown.into_iter().flat_map(u64::to_be_bytes).collect::<Vec<u8>>().into())
}

impl Counter {
    fn join(states: &[Bytes]) -> Result<Self, TypeError> {
        let mut joined = Self::default();
        for state in states {
            let mut numbers = numbers(state)?.into_iter();
            while let Some(node) = numbers.next() {
                let mut next = || numbers.next().ok_or_else(malformed);
                let (incarnation, length) = (next()?, next()?);
                let list = (0..length).map(|_| next()).collect::<Result<Vec<u64>, _>>()?;
                let known = joined.0.entry((node, incarnation)).or_default();
                if (list.len(), &list) > (known.len(), known) {
                    *known = list;
                }
            }
        }
        Ok(joined)
    }

    fn bytes(self) -> Bytes {
        let row = |((node, incarnation), list): (Actor, Vec<u64>)| {
            [node, incarnation, list.len() as u64].into_iter().chain(list).collect::<Vec<u64>>()
        };
        written(self.0.into_iter().flat_map(row))
    }
}

impl Set {
    fn join(states: &[Bytes]) -> Result<Self, TypeError> {
        let mut joined = Self::default();
        for state in states {
            let other = Self::read(state)?;
            let heard = |set: &Self, actor: &Actor, counter: u64| set.heard.get(actor).is_some_and(|h| *h >= counter);
            let stays = |one: &Self, other: &Self| -> Vec<(u64, Actor, u64)> {
                let stays = |add: &&(u64, Actor, u64)| other.elements.contains(*add) || !heard(other, &add.1, add.2);
                one.elements.iter().filter(stays).copied().collect()
            };
            joined.elements = stays(&joined, &other).into_iter().chain(stays(&other, &joined)).collect();
            for (actor, counter) in other.heard {
                let known = joined.heard.entry(actor).or_default();
                *known = counter.max(*known);
            }
        }
        Ok(joined)
    }

    fn read(state: &Bytes) -> Result<Self, TypeError> {
        let mut numbers = numbers(state)?.into_iter();
        let mut next = || numbers.next().ok_or_else(malformed);
        let mut set = Self::default();
        for _ in 0..next()? {
            let actor = (next()?, next()?);
            set.heard.insert(actor, next()?);
        }
        for _ in 0..next()? {
            set.elements.insert((next()?, (next()?, next()?), next()?));
        }
        Ok(set)
    }

    fn bytes(self) -> Bytes {
        let heard = self.heard.iter().flat_map(|((node, incarnation), last)| [*node, *incarnation, *last]);
        let adds = self.elements.iter().flat_map(|(element, actor, counter)| [*element, actor.0, actor.1, *counter]);
        let counts = [self.heard.len() as u64, self.elements.len() as u64];
        written(std::iter::once(counts[0]).chain(heard).chain([counts[1]]).chain(adds))
    }
}

fn malformed() -> TypeError {
    TypeError::Failed("that is no state, or no operation".into())
}

fn number(bytes: &[u8]) -> Result<u64, TypeError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| malformed())
}

fn numbers(bytes: &[u8]) -> Result<Vec<u64>, TypeError> {
    bytes.chunks(8).map(number).collect()
}

fn written(numbers: impl Iterator<Item = u64>) -> Bytes {
    numbers.flat_map(u64::to_be_bytes).collect::<Vec<u8>>().into()
}
