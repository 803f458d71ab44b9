//! Names for the writes of causal keyspaces.
//!
//! A context stays small only if the dots of one key have no gaps between them. So in causal keyspaces a dot is minted
//! for each key by itself, by the one thread that changes this owner's records: one above the highest dot of this
//! opening that the record knows, whether living or past.
//!
//! That is safe as long as the record knows all of them. A record that was lost and came back from other owners may not
//! know the latest ones, and a dot used twice is the worst bug of this family: others take the second write for the
//! first one, which they know to be superseded, and drop it. So the first dot of a key in an opening is this node's
//! clock of that moment, as is the first one after something was lost: above everything minted before, because the
//! clock moves at least as fast as counters do. One gap, one span more.

use crate::id::Incarnation;
use core::sync::atomic::{AtomicU64, Ordering};

/// Something was lost and no dot was minted since.
const LOST: u64 = u64::MAX;

/// What one opening of a data directory knows about the dots that it minted. Shared by whoever changes its records.
#[derive(Debug, Default)]
pub struct Mints {
    /// Dots below this may have been minted for records that no longer know them.
    trusted_from: AtomicU64,
}

impl Mints {
    /// Records of this node were removed, or replaced by what other owners know of them. To be called before the next
    /// write can come, by whoever quarantines, purges, or drops a partition.
    pub fn lost(&self) {
        self.trusted_from.store(LOST, Ordering::Release);
    }

    /// The counter of the next dot, given the `highest` of this opening that the record knows, and this node's clock
    /// when the write was handed out: another one for each. `None`: the record knows a dot that was never minted.
    #[must_use]
    pub fn next(&self, highest: Option<u64>, clock: u64) -> Option<u64> {
        let mut from = self.trusted_from.load(Ordering::Acquire);
        if from == LOST {
            self.trusted_from.store(clock, Ordering::Release);
            from = clock;
        }
        match highest {
            Some(highest) if highest >= clock => None,
            Some(highest) if highest >= from => Some(highest + 1),
            Some(_) | None => Some(clock),
        }
    }

    /// As who this opening updates states of data types, to be asked after [`Self::next`]. A type counts on finding all
    /// that it did as somebody in the state that it starts from, and after something was lost that may not be so: then
    /// it is somebody else, by the clock since when, which is far from every incarnation.
    #[must_use]
    pub fn actor(&self, incarnation: Incarnation) -> Incarnation {
        match self.trusted_from.load(Ordering::Acquire) {
            0 | LOST => incarnation,
            clock => Incarnation(clock),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Records are lost, and come back without the latest dots: no dot is ever minted twice.
        #[test]
        fn no_dot_is_minted_twice(
            steps in prop::collection::vec((0u8..10, 1u64..4, any::<prop::sample::Index>()), 1..80),
        ) {
            let (mints, mut clock, mut minted, mut known) = (Mints::default(), 100, Vec::new(), None);
            for (what, pause, back_to) in steps {
                clock += pause;
                if what == 0 {
                    mints.lost();
                    // Another owner knew all of them up to some, or none.
                    let upto = back_to.index(minted.len() + 1);
                    known = minted[..upto].iter().copied().max();
                    continue;
                }
                let counter = mints.next(known, clock).unwrap();
                minted.push(counter);
                known = known.max(Some(counter));
            }
            let distinct: BTreeSet<u64> = minted.iter().copied().collect();
            prop_assert_eq!(distinct.len(), minted.len(), "{:?}", minted);
        }
    }

    #[test]
    fn dots_of_one_key_have_no_gaps_until_something_is_lost() {
        let mints = Mints::default();
        assert_eq!(mints.next(None, 1_000), Some(1_000));
        assert_eq!(mints.next(Some(1_000), 2_000), Some(1_001));
        mints.lost();
        assert_eq!(mints.next(Some(1_000), 3_000), Some(3_000), "1,001 was minted, and the record has forgotten it");
        assert_eq!(mints.next(Some(3_000), 4_000), Some(3_001));
        assert_eq!(mints.next(Some(1_001), 4_001), Some(4_001), "a record that was not written since");
    }

    #[test]
    fn whoever_lost_something_updates_states_as_somebody_else() {
        let (mints, me) = (Mints::default(), Incarnation(7));
        assert_eq!((mints.next(None, 1_000), mints.actor(me)), (Some(1_000), me));
        mints.lost();
        assert_eq!((mints.next(Some(1_000), 3_000), mints.actor(me)), (Some(3_000), Incarnation(3_000)));
        assert_eq!((mints.next(Some(3_000), 4_000), mints.actor(me)), (Some(3_001), Incarnation(3_000)));
    }

    #[test]
    fn a_dot_out_of_the_future_is_no_dot_of_ours() {
        assert_eq!(Mints::default().next(Some(u64::MAX), 10), None);
        assert_eq!(Mints::default().next(Some(10), 10), None);
    }
}
