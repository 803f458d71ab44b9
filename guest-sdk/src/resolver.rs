//! Resolvers: which of the versions of a key that nobody has superseded is kept.
//!
//! A resolver sees what is known *about* the versions (who wrote them, when, how big, which hash) and not their values.
//! All owners of a key must come to the same answer, so the answer must depend on the versions alone: not on their
//! order, nor on what the resolver was asked before, nor on the order in which a `HashMap` happens to iterate.

use crate::bindings::resolver::exports::my_key_store::resolver::resolve::{Columns, Guest};
use crate::bindings::resolver::my_key_store::common::types::Info;
use core::marker::PhantomData;
use core::ops::Range;

/// Bit of the column `marks`: the version is a delete.
const TOMBSTONE: u8 = 1;
/// The answer "keep them all" of the contract.
const KEEP_ALL: u32 = 0xFFFF_FFFE;

/// What is known about one version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sibling {
    /// The node that coordinated the write.
    pub node: u64,
    /// Which opening of that node's data directory.
    pub incarnation: u64,
    /// The number of the write within that opening, from 1.
    pub counter: u64,
    /// Hybrid logical clock: 48 bits of Unix milliseconds, then 16 bits of counter.
    pub written: u64,
    /// Bytes of the value; 0 for a delete.
    pub size: u32,
    /// The version is a delete.
    pub tombstone: bool,
    /// Hash of the value: equal digests, equal values.
    pub digest: u64,
}

/// What to do with a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Keep this version alone: its position within the conflict, from 0.
    Keep(usize),
    /// Keep all of them; the reader gets siblings.
    KeepAll,
}

/// The versions of one key, of which none supersedes another, in the order of their dots.
#[derive(Clone, Copy)]
pub struct Conflict<'a> {
    nodes: &'a [u64],
    incarnations: &'a [u64],
    counters: &'a [u64],
    written: &'a [u64],
    sizes: &'a [u32],
    marks: &'a [u8],
    digests: &'a [u64],
}

impl core::fmt::Debug for Conflict<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One answer per conflict of a batch.
pub(crate) fn answers(batch: &Columns, mut answer: impl FnMut(Conflict<'_>) -> u32) -> Vec<u32> {
    let mut start = 0;
    let each = |&end: &u32| {
        let rows = start..end as usize;
        start = rows.end;
        answer(Conflict::new(batch, rows))
    };
    batch.ends.iter().map(each).collect()
}

/// The number that stands for a verdict in the contract.
pub(crate) fn number(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Keep(index) => u32::try_from(index).expect("a position within a list of less than 2^32 rows"),
        Verdict::KeepAll => KEEP_ALL,
    }
}

impl<'a> Conflict<'a> {
    #[inline]
    fn new(columns: &'a Columns, rows: Range<usize>) -> Self {
        Self {
            nodes: &columns.nodes[rows.clone()],
            incarnations: &columns.incarnations[rows.clone()],
            counters: &columns.counters[rows.clone()],
            written: &columns.written[rows.clone()],
            sizes: &columns.sizes[rows.clone()],
            marks: &columns.marks[rows.clone()],
            digests: &columns.digests[rows],
        }
    }

    /// Number of versions.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True when there is no version at all, which a node never asks about.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The version at `index`, from 0.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> Sibling {
        Sibling {
            node: self.nodes[index],
            incarnation: self.incarnations[index],
            counter: self.counters[index],
            written: self.written[index],
            size: self.sizes[index],
            tombstone: self.marks[index] & TOMBSTONE != 0,
            digest: self.digests[index],
        }
    }

    /// All versions, in the order of their dots.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Sibling> + use<'a> {
        let conflict = *self;
        (0..self.len()).map(move |index| conflict.get(index))
    }

    /// Keeps the version with the greatest key. Versions with equal keys are told apart by their dots, so that the
    /// answer never depends on the order in which they came.
    #[must_use]
    #[inline]
    pub fn keep_max_by_key<K: Ord>(&self, mut key: impl FnMut(&Sibling) -> K) -> Verdict {
        self.iter()
            .enumerate()
            .max_by_key(|(_, s)| (key(s), s.node, s.incarnation, s.counter))
            .map_or(Verdict::KeepAll, |(index, _)| Verdict::Keep(index))
    }

    /// Keeps the version with the least key; see [`Self::keep_max_by_key`].
    #[must_use]
    #[inline]
    pub fn keep_min_by_key<K: Ord>(&self, mut key: impl FnMut(&Sibling) -> K) -> Verdict {
        self.keep_max_by_key(|s| core::cmp::Reverse(key(s)))
    }
}

/// A conflict policy.
pub trait Resolver {
    /// 1 to 64 characters out of a-z, 0-9 and `-`.
    const NAME: &'static str;
    /// For people; `env!("CARGO_PKG_VERSION")` suits.
    const VERSION: &'static str;

    /// Settles one conflict of two or more versions. A panic is no verdict: the node then keeps all versions.
    fn settle(conflict: Conflict<'_>) -> Verdict;
}

/// Settles conflicts the way a node asks for them, natively: for the tests of a plugin.
///
/// ```
/// # use mks_guest_sdk::resolver::{self, Conflict, Resolver, Sibling, Verdict};
/// struct Newest;
/// impl Resolver for Newest {
///     const NAME: &'static str = "newest";
///     const VERSION: &'static str = "1.0.0";
///     fn settle(conflict: Conflict<'_>) -> Verdict {
///         conflict.keep_max_by_key(|version| version.written)
///     }
/// }
///
/// let old = Sibling { node: 1, written: 10, ..Sibling::default() };
/// let new = Sibling { node: 2, written: 11, ..Sibling::default() };
/// assert_eq!(resolver::settle::<Newest>(&[&[old, new], &[new]]), [Verdict::Keep(1), Verdict::Keep(0)]);
/// ```
#[must_use]
pub fn settle<R: Resolver>(conflicts: &[&[Sibling]]) -> Vec<Verdict> {
    let columns = columns(conflicts);
    let answers = Exported::<R>::by_metadata(columns);
    answers.into_iter().map(|a| if a == KEEP_ALL { Verdict::KeepAll } else { Verdict::Keep(a as usize) }).collect()
}

fn columns(conflicts: &[&[Sibling]]) -> Columns {
    let all = || conflicts.iter().copied().flatten();
    let mut end = 0;
    let ends = conflicts.iter().map(|conflict| {
        end += conflict.len();
        u32::try_from(end).expect("a test has fewer than 2^32 versions")
    });
    Columns {
        ends: ends.collect(),
        nodes: all().map(|sibling| sibling.node).collect(),
        incarnations: all().map(|sibling| sibling.incarnation).collect(),
        counters: all().map(|sibling| sibling.counter).collect(),
        written: all().map(|sibling| sibling.written).collect(),
        sizes: all().map(|sibling| sibling.size).collect(),
        marks: all().map(|sibling| if sibling.tombstone { TOMBSTONE } else { 0 }).collect(),
        digests: all().map(|sibling| sibling.digest).collect(),
    }
}

/// Fits a [`Resolver`] to the generated trait.
#[doc(hidden)]
#[derive(Debug)]
pub struct Exported<R>(PhantomData<R>);

impl<R: Resolver> Guest for Exported<R> {
    fn describe() -> Info {
        Info { name: R::NAME.into(), version: R::VERSION.into() }
    }

    fn by_metadata(batch: Columns) -> Vec<u32> {
        answers(&batch, |conflict| number(R::settle(conflict)))
    }
}

/// Exports a type that implements [`resolver::Resolver`](crate::resolver::Resolver) as a component's resolver.
///
/// Once per crate. Outside of WebAssembly it only checks that the type fits.
#[macro_export]
macro_rules! export_resolver {
    ($resolver:ty) => {
        const _: () = {
            const fn fits<R: $crate::resolver::Resolver>() {}
            fits::<$resolver>();
        };
        #[cfg(target_arch = "wasm32")]
        mod __mks_export {
            use super::*;
            #[global_allocator]
            static ARENA: $crate::arena::Arena = $crate::arena::Arena::new();
            type Exported = $crate::resolver::Exported<$resolver>;
            $crate::bindings::resolver::export!(Exported with_types_in $crate::bindings::resolver);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Biggest;

    impl Resolver for Biggest {
        const NAME: &'static str = "biggest";
        const VERSION: &'static str = "0.0.1";

        fn settle(conflict: Conflict<'_>) -> Verdict {
            if conflict.iter().all(|s| s.size == 0) {
                return Verdict::KeepAll;
            }
            conflict.keep_max_by_key(|s| s.size)
        }
    }

    fn sized(node: u64, size: u32) -> Sibling {
        Sibling { node, size, ..Sibling::default() }
    }

    #[test]
    fn every_conflict_of_a_batch_gets_its_own_answer() {
        let conflicts: [&[Sibling]; 3] = [&[sized(1, 5), sized(2, 9)], &[sized(1, 0), sized(2, 0)], &[sized(3, 1)]];
        assert_eq!(settle::<Biggest>(&conflicts), [Verdict::Keep(1), Verdict::KeepAll, Verdict::Keep(0)]);
    }

    #[test]
    fn equal_keys_are_told_apart_by_dot_and_not_by_order() {
        let (a, b) = (sized(1, 7), sized(2, 7));
        assert_eq!(settle::<Biggest>(&[&[a, b], &[b, a]]), [Verdict::Keep(1), Verdict::Keep(0)]);
    }

    #[test]
    fn the_least_key_can_be_kept_as_well() {
        let columns = [sized(1, 7), sized(2, 3), sized(3, 3)];
        struct Smallest;
        impl Resolver for Smallest {
            const NAME: &'static str = "smallest";
            const VERSION: &'static str = "0.0.1";
            fn settle(conflict: Conflict<'_>) -> Verdict {
                conflict.keep_min_by_key(|s| s.size)
            }
        }
        let kept = settle::<Smallest>(&[&columns]);
        assert_eq!(kept, [Verdict::Keep(2)], "the higher dot wins a tie, whichever way the key is ordered");
    }

    #[test]
    fn no_conflicts_no_answers() {
        assert_eq!(settle::<Biggest>(&[]), []);
        assert_eq!(settle::<Biggest>(&[&[]]), [Verdict::KeepAll]);
    }
}
