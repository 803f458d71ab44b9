//! The tally of a quorum, and the one place that compares a count with W or R.

/// Owners of one key, at most: the ring is never wider.
pub const OWNERS_MAX: usize = 16;

/// What the answers so far amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Neither yet.
    Pending,
    /// Enough distinct owners did it.
    Won,
    /// So many refused that enough never will.
    Lost,
}

/// Who of a key's owners did it, and who refused. Owners are positions in the owner list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    owners: u8,
    needed: u8,
    acked: u16,
    refused: u16,
}

impl Tally {
    /// A tally of `owners` of whom `needed` must do it.
    #[must_use]
    pub fn new(owners: usize, needed: u8) -> Self {
        assert!(owners <= OWNERS_MAX, "a ring is never wider than {OWNERS_MAX}");
        Self { owners: owners as u8, needed, acked: 0, refused: 0 }
    }

    /// This owner did it. Saying so twice counts once; an ack after a refusal counts.
    pub fn ack(&mut self, owner: usize) {
        debug_assert!(owner < usize::from(self.owners));
        self.acked |= 1 << owner;
        self.refused &= !(1 << owner);
    }

    /// This owner refused. An ack of the same owner stands.
    pub fn refuse(&mut self, owner: usize) {
        debug_assert!(owner < usize::from(self.owners));
        self.refused |= (1 << owner) & !self.acked;
    }

    /// True when this owner has answered either way.
    #[must_use]
    pub fn answered(&self, owner: usize) -> bool {
        (self.acked | self.refused) & (1 << owner) != 0
    }

    /// True when this owner certainly did it.
    #[must_use]
    pub fn acked(&self, owner: usize) -> bool {
        self.acked & (1 << owner) != 0
    }

    /// Owners that certainly did it.
    #[must_use]
    pub fn acks(&self) -> u8 {
        self.acked.count_ones() as u8
    }

    /// Owners that must do it.
    #[must_use]
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// All owners.
    #[must_use]
    pub fn owners(&self) -> u8 {
        self.owners
    }

    /// What it amounts to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let refused = self.refused.count_ones() as u8;
        if self.acks() >= self.needed {
            Verdict::Won
        } else if self.owners - refused < self.needed {
            Verdict::Lost
        } else {
            Verdict::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a naive list of answers.
        #[test]
        fn the_verdict_is_the_naive_one(
            owners in 1usize..=7,
            needed in 1u8..=7,
            answers in prop::collection::vec((0usize..7, any::<bool>()), 0..20),
        ) {
            let mut tally = Tally::new(owners, needed);
            let mut naive = vec![None; owners];
            for (owner, did) in answers.into_iter().filter(|(owner, _)| *owner < owners) {
                if did {
                    tally.ack(owner);
                    naive[owner] = Some(true);
                } else {
                    tally.refuse(owner);
                    naive[owner] = naive[owner].or(Some(false));
                }
            }
            let acks = naive.iter().filter(|a| **a == Some(true)).count();
            let open = naive.iter().filter(|a| **a != Some(false)).count();
            let verdict = if acks >= usize::from(needed) {
                Verdict::Won
            } else if open < usize::from(needed) {
                Verdict::Lost
            } else {
                Verdict::Pending
            };
            prop_assert_eq!(tally.verdict(), verdict);
            prop_assert_eq!(usize::from(tally.acks()), acks);
        }
    }

    #[test]
    fn an_owner_counts_once() {
        let mut tally = Tally::new(3, 2);
        tally.ack(1);
        tally.ack(1);
        assert_eq!(tally.verdict(), Verdict::Pending);
        tally.ack(0);
        assert_eq!(tally.verdict(), Verdict::Won);
    }
}
