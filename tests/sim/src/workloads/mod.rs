//! What clients ask: a workload is one file with one function that invents an operation.

mod batches;
mod deletes;
mod registers;

use crate::dice::Dice;
use bytes::Bytes;
use mks_logic::id::Key;
use mks_logic::request::Operation;

/// Which workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Puts and gets.
    Registers,
    /// Deletes among them.
    Deletes,
    /// Several keys at once.
    Batches,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Registers, Self::Deletes, Self::Batches];

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Deletes => "deletes",
            Self::Batches => "batches",
        }
    }

    /// The next operation of some client.
    pub fn invent(self, work: &mut Work<'_>) -> Operation {
        match self {
            Self::Registers => registers::invent(work),
            Self::Deletes => deletes::invent(work),
            Self::Batches => batches::invent(work),
        }
    }
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
}

impl Work<'_> {
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
