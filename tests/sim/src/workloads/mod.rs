//! What clients ask: a workload is one file with one function that invents an operation.

mod additions;
mod batches;
mod carts;
mod counts;
mod deletes;
mod graves;
mod registers;
mod sets;

use crate::dice::Dice;
use crate::history::Saw;
use bytes::Bytes;
use mks_logic::context::Context;
use mks_logic::id::Key;
use mks_logic::request::Operation;
use std::collections::BTreeMap;

/// Which workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Puts and gets.
    Registers,
    /// Deletes among them.
    Deletes,
    /// Several keys at once.
    Batches,
    /// Deletes of keys that are left alone until their tombstones are purged.
    Graves,
    /// Writes that settle the siblings that were read.
    Carts,
    /// Chains of writes that know one another.
    Sets,
    /// The same as carts, and readers get one value in the place of siblings.
    Unions,
    /// Operations on a counter.
    Counts,
    /// Operations on a set: each element is added once.
    Additions,
}

impl Kind {
    /// Those of keyspaces where the last write wins, but for graves: those have runs of their own.
    pub const PLAIN: &'static [Self] = &[Self::Registers, Self::Deletes, Self::Batches];
    /// Those of causal keyspaces that keep siblings.
    pub const CAUSAL: &'static [Self] = &[Self::Carts, Self::Sets];
    /// Those of keyspaces with a data type.
    pub const TYPED: &'static [Self] = &[Self::Counts, Self::Additions];

    /// Whether its keyspace is causal, and keeps siblings.
    #[must_use]
    pub const fn is_causal(self) -> bool {
        matches!(self, Self::Carts | Self::Sets) || self.is_merged() || self.is_typed()
    }

    /// Whether a resolver merges siblings for readers.
    #[must_use]
    pub const fn is_merged(self) -> bool {
        matches!(self, Self::Unions)
    }

    /// Whether its keyspace has a data type.
    #[must_use]
    pub const fn is_typed(self) -> bool {
        matches!(self, Self::Counts | Self::Additions)
    }

    /// A look at a key, as this workload's keyspace wants it.
    #[must_use]
    pub fn look(self, key: Key) -> Operation {
        if self.is_typed() { Operation::View { key, question: Bytes::new() } } else { Operation::Get { key } }
    }

    /// A write of a new value, or an operation that adds it.
    #[must_use]
    pub fn write(self, key: Key, value: Bytes) -> Operation {
        match self {
            Self::Counts => Operation::Apply { key, operation: value },
            Self::Additions => Operation::Apply { key, operation: [b"+", &value[..]].concat().into() },
            _ => Operation::Put { key, value },
        }
    }

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Deletes => "deletes",
            Self::Batches => "batches",
            Self::Graves => "graves",
            Self::Carts => "carts",
            Self::Sets => "sets",
            Self::Unions => "unions",
            Self::Counts => "counts",
            Self::Additions => "additions",
        }
    }

    /// The next operation of some client.
    pub fn invent(self, work: &mut Work<'_>) -> Invented {
        match self {
            Self::Registers => registers::invent(work).into(),
            Self::Deletes => deletes::invent(work).into(),
            Self::Batches => batches::invent(work).into(),
            Self::Graves => graves::invent(work).into(),
            Self::Carts | Self::Unions => carts::invent(work),
            Self::Sets => sets::invent(work),
            Self::Counts => counts::invent(work),
            Self::Additions => additions::invent(work),
        }
    }
}

/// An operation, and what its client knows.
#[derive(Debug)]
pub struct Invented {
    /// What.
    pub operation: Operation,
    /// Of a put or delete: what its writer has seen.
    pub context: Option<Context>,
    /// The values in that, for each part of the operation; none: nothing.
    pub saw: Vec<Saw>,
}

impl From<Operation> for Invented {
    fn from(operation: Operation) -> Self {
        Self { operation, context: None, saw: Vec::new() }
    }
}

/// What a client knows of a key.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// As it was told.
    pub context: Option<Context>,
    /// The values that it was shown with it, or wrote.
    pub saw: Saw,
}

/// What a workload draws from.
#[derive(Debug)]
pub struct Work<'a> {
    /// The clients' dice.
    pub dice: &'a mut Dice,
    /// All keys.
    pub keys: &'a [Key],
    /// The last value that was written.
    pub serial: &'a mut u64,
    /// What the client knows, by the position of the key.
    pub known: &'a BTreeMap<usize, Known>,
    /// Keys are deleted once rather than over and over.
    pub once: bool,
}

impl Work<'_> {
    /// Any key's position.
    fn at(&mut self) -> usize {
        self.dice.below(self.keys.len() as u64) as usize
    }

    fn get(&self, at: usize) -> Invented {
        Operation::Get { key: self.keys[at].clone() }.into()
    }

    /// A new value, in the place of what the client knows if it is `informed`.
    fn put(&mut self, at: usize, informed: bool) -> Invented {
        let operation = Operation::Put { key: self.keys[at].clone(), value: self.value() };
        self.known.get(&at).filter(|_| informed).map_or_else(
            || operation.clone().into(),
            |known| Invented {
                operation: operation.clone(),
                context: known.context.clone(),
                saw: vec![known.saw.clone()],
            },
        )
    }

    /// Removes what the client knows; who knows nothing looks.
    fn delete(&self, at: usize) -> Invented {
        let Some(known) = self.known.get(&at) else { return self.get(at) };
        let operation = Operation::Delete { key: self.keys[at].clone() };
        Invented { operation, context: known.context.clone(), saw: vec![known.saw.clone()] }
    }

    /// Any key.
    pub fn key(&mut self) -> Key {
        self.keys[self.dice.below(self.keys.len() as u64) as usize].clone()
    }

    /// A value that nobody wrote before.
    pub fn value(&mut self) -> Bytes {
        *self.serial += 1;
        Bytes::copy_from_slice(&self.serial.to_be_bytes())
    }
}
