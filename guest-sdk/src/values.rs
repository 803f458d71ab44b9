//! Resolvers that look at values: they choose by what was written, or merge it.
//!
//! ```
//! use mks_guest_sdk::values::{Outcome, Siblings, ValueResolver};
//! use std::collections::BTreeSet;
//!
//! /// Values are lists of lines; the outcome has every line of every version once, in order.
//! struct Lines;
//!
//! impl ValueResolver for Lines {
//!     const NAME: &'static str = "lines";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!
//!     fn by_value(siblings: &Siblings<'_>) -> Outcome {
//!         let values: Vec<Vec<u8>> = (0..siblings.len()).map(|row| siblings.value(row)).collect();
//!         let lines: BTreeSet<&[u8]> = values.iter().flat_map(|value| value.split(|&byte| byte == b'\n')).collect();
//!         Outcome::Merged(lines.into_iter().collect::<Vec<_>>().join(&b'\n'))
//!     }
//! }
//!
//! mks_guest_sdk::export_value_resolver!(Lines);
//!
//! mks_guest_sdk::testing::assert_value_resolver::<Lines>();
//! ```

use crate::bindings::resolver::exports::my_key_store::resolver::resolve::{Columns, Guest as Resolve};
use crate::bindings::resolver::my_key_store::common::types::Info;
use crate::bindings::settling::exports::my_key_store::resolver::settle as wit;
use crate::bindings::settling::my_key_store::resolver::siblings as host;
use crate::resolver::{Conflict, Sibling, Verdict, answers, number};
use core::marker::PhantomData;

/// The answer "ask by value" of the contract.
const ASK_BY_VALUE: u32 = 0xFFFF_FFFF;

/// When conflicts are settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Moment {
    /// On every owner, as soon as versions meet. The laws are those of a join.
    #[default]
    AtWrite,
    /// For a reader, whose next write replaces the siblings that the store has kept. The outcome must only be a
    /// function.
    AtRead,
}

/// What becomes of a conflict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Keep this version alone: its position, from 0.
    Keep(usize),
    /// Keep these, at least one, in ascending order.
    KeepSome(Vec<usize>),
    /// Keep all of them.
    KeepAll,
    /// A new value in place of all of them; at most as long as all of them together and 64 KiB more.
    Merged(Vec<u8>),
}

/// Where the values of one conflict are.
pub(crate) trait Source {
    fn key(&self) -> Vec<u8>;
    fn value(&self, row: u32) -> Vec<u8>;
    fn read(&self, row: u32, offset: u32, max_len: u32) -> Vec<u8>;
}

/// In the host, behind the sandbox wall.
struct Host;

impl Source for Host {
    fn key(&self) -> Vec<u8> {
        host::key()
    }

    fn value(&self, row: u32) -> Vec<u8> {
        host::value(row)
    }

    fn read(&self, row: u32, offset: u32, max_len: u32) -> Vec<u8> {
        host::read(row, offset, max_len)
    }
}

/// In memory, for tests.
struct Given<'a> {
    key: &'a [u8],
    values: &'a [&'a [u8]],
}

impl Source for Given<'_> {
    fn key(&self) -> Vec<u8> {
        self.key.to_vec()
    }

    fn value(&self, row: u32) -> Vec<u8> {
        self.values[row as usize].to_vec()
    }

    fn read(&self, row: u32, offset: u32, max_len: u32) -> Vec<u8> {
        let value = self.values[row as usize];
        let start = value.len().min(offset as usize);
        value[start..value.len().min(start.saturating_add(max_len as usize))].to_vec()
    }
}

/// The versions of one key, of which none supersedes another, in the order of their dots, and their values.
#[derive(Clone, Copy)]
pub struct Siblings<'a> {
    versions: &'a [Sibling],
    source: &'a dyn Source,
}

impl core::fmt::Debug for Siblings<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.versions).finish()
    }
}

impl<'a> Siblings<'a> {
    /// Number of versions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// True when there is no version at all, which a node never asks about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// What is known about them.
    #[must_use]
    pub fn versions(&self) -> &'a [Sibling] {
        self.versions
    }

    /// The key, without its keyspace.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        self.source.key()
    }

    /// The value at `row`, from 0; empty for a delete. Each call copies it from the node and counts towards a limit of
    /// four times all values.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn value(&self, row: usize) -> Vec<u8> {
        self.source.value(position(row))
    }

    /// Up to `max_len` bytes of a value from `offset`: for long values whose front decides.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn read(&self, row: usize, offset: u32, max_len: u32) -> Vec<u8> {
        self.source.read(position(row), offset, max_len)
    }
}

fn position(row: usize) -> u32 {
    u32::try_from(row).expect("a position within a list of less than 2^32 rows")
}

/// A conflict policy that may look at values.
pub trait ValueResolver {
    /// 1 to 64 characters out of a-z, 0-9 and `-`.
    const NAME: &'static str;
    /// For people; `env!("CARGO_PKG_VERSION")` suits.
    const VERSION: &'static str;
    /// When conflicts are settled. Nodes take resolvers that do so at read.
    const WHEN: Moment = Moment::AtWrite;

    /// An answer where the values could not change it: cheaper, because no value leaves the store. `None`: they could.
    fn by_metadata(conflict: Conflict<'_>) -> Option<Verdict> {
        let _ = conflict;
        None
    }

    /// Settles one conflict of two or more versions. A panic is no outcome: the node then keeps all versions.
    fn by_value(siblings: &Siblings<'_>) -> Outcome;

    /// A value such as clients write, for the law checker; equal seeds must give equal values. [`crate::Random`] helps.
    /// `None`: it makes its own, which are short words and arbitrary bytes.
    fn sample(seed: u64) -> Option<Vec<u8>> {
        let _ = seed;
        None
    }
}

/// Settles one conflict the way a node asks for it, natively: for the tests of a plugin.
///
/// # Panics
/// When there are not as many values as versions.
#[must_use]
pub fn settle<R: ValueResolver>(key: &[u8], versions: &[Sibling], values: &[&[u8]]) -> Outcome {
    assert_eq!(versions.len(), values.len(), "a value for each version");
    R::by_value(&Siblings { versions, source: &Given { key, values } })
}

/// Fits a [`ValueResolver`] to the generated traits.
#[doc(hidden)]
#[derive(Debug)]
pub struct Exported<R>(PhantomData<R>);

impl<R: ValueResolver> Resolve for Exported<R> {
    fn describe() -> Info {
        Info { name: R::NAME.into(), version: R::VERSION.into() }
    }

    fn by_metadata(batch: Columns) -> Vec<u32> {
        answers(&batch, |conflict| R::by_metadata(conflict).map_or(ASK_BY_VALUE, number))
    }
}

impl<R: ValueResolver> wit::Guest for Exported<R> {
    fn when() -> wit::Moment {
        match R::WHEN {
            Moment::AtWrite => wit::Moment::AtWrite,
            Moment::AtRead => wit::Moment::AtRead,
        }
    }

    fn by_value(versions: Vec<wit::Sibling>) -> wit::Verdict {
        let sibling = |version: &wit::Sibling| {
            let &wit::Sibling { node, incarnation, counter, written, size, tombstone, digest } = version;
            Sibling { node, incarnation, counter, written, size, tombstone, digest }
        };
        let versions: Vec<Sibling> = versions.iter().map(sibling).collect();
        match R::by_value(&Siblings { versions: &versions, source: &Host }) {
            Outcome::Keep(row) => wit::Verdict::Keep(position(row)),
            Outcome::KeepSome(rows) => wit::Verdict::KeepSome(rows.into_iter().map(position).collect()),
            Outcome::KeepAll => wit::Verdict::KeepAll,
            Outcome::Merged(value) => wit::Verdict::Merged(value),
        }
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        R::sample(seed)
    }
}

/// Exports a type that implements [`values::ValueResolver`](crate::values::ValueResolver) as a component's resolver.
///
/// Once per crate. Outside of WebAssembly it only checks that the type fits.
#[macro_export]
macro_rules! export_value_resolver {
    ($resolver:ty) => {
        const _: () = {
            const fn fits<R: $crate::values::ValueResolver>() {}
            fits::<$resolver>();
        };
        #[cfg(target_arch = "wasm32")]
        mod __mks_export {
            use super::*;
            #[global_allocator]
            static ARENA: $crate::arena::Arena = $crate::arena::Arena::new();
            type Exported = $crate::values::Exported<$resolver>;
            $crate::bindings::resolver::export!(Exported with_types_in $crate::bindings::resolver);
            $crate::bindings::settling::export!(Exported with_types_in $crate::bindings::settling);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FrontOf;

    impl ValueResolver for FrontOf {
        const NAME: &'static str = "front-of";
        const VERSION: &'static str = "0.0.1";

        fn by_value(siblings: &Siblings<'_>) -> Outcome {
            let front = |row: &usize| siblings.read(*row, 1, 2);
            Outcome::Keep((0..siblings.len()).max_by_key(front).expect("versions"))
        }
    }

    #[test]
    fn values_are_read_in_pieces_and_never_beyond_their_end() {
        let versions = [Sibling::default(); 3];
        assert_eq!(settle::<FrontOf>(b"k", &versions, &[b"xab", b"xb", b""]), Outcome::Keep(1));
        let given = Given { key: b"k", values: &[b"abc"] };
        assert_eq!(
            (given.key(), given.read(0, 2, u32::MAX), given.read(0, 9, 1)),
            (b"k".to_vec(), b"c".to_vec(), vec![])
        );
    }
}
