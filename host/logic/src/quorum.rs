//! The tally of a quorum, and the one place that compares a count with W or R, and zones with how many are wanted.

/// Owners of one key, at most: the ring is never wider.
pub const OWNERS_MAX: usize = 16;

/// What the answers so far amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Neither yet.
    Pending,
    /// Enough distinct nodes did it.
    Won,
    /// So many refused that enough never will.
    Lost,
}

/// How far apart those must be who did it. Zones are small numbers, the same for nodes of the same zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// Distinct zones; zero and one ask for nothing.
    pub zones_min: u8,
    /// The zone of each owner, below [`Self::ZONES_MAX`].
    pub zones: [u8; OWNERS_MAX],
}

impl Spread {
    /// Zones that are told apart.
    pub const ZONES_MAX: u8 = 32;

    /// Distinct zones of these owners.
    #[must_use]
    pub fn zones_of(&self, owners: impl Iterator<Item = usize>) -> u8 {
        owners.fold(0u32, |seen, owner| seen | 1 << self.zones[owner]).count_ones() as u8
    }
}

/// Who of a key's owners did it, and who refused. Owners are positions in the owner list.
///
/// In a sloppy quorum another node may stand in for an owner. Owner and stand-in are one seat, and a seat counts once:
/// when the hint is delivered the owner holds the write in the stand-in's place, and no fewer nodes than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    owners: u8,
    /// Of each table; where there is one, the first.
    needed: [u8; 2],
    acked: u16,
    refused: u16,
    /// Owners that another node stands in for.
    kept: u16,
    /// Stand-ins that may still take an owner's place.
    spare: u8,
    spread: Spread,
    /// While a partition moves: the owners of each of its two tables, one bit each. Both zero: there is one table.
    tables: [u16; 2],
}

impl Tally {
    /// A tally of `owners` of whom `needed` must do it.
    #[must_use]
    pub fn new(owners: usize, needed: u8) -> Self {
        assert!(owners <= OWNERS_MAX, "a ring is never wider than {OWNERS_MAX}");
        let spread = Spread::default();
        Self {
            owners: owners as u8,
            needed: [needed; 2],
            acked: 0,
            refused: 0,
            kept: 0,
            spare: 0,
            spread,
            tables: [0; 2],
        }
    }

    /// The same where owners belong to two tables, one bit each: so many of *each* must do it. One quorum over all of
    /// them together could lie in the one table alone, and readers of the other one would miss it.
    #[must_use]
    pub fn tables(self, tables: [u16; 2], needed: [u8; 2]) -> Self {
        Self { tables, needed, ..self }
    }

    /// The same, and so far apart.
    #[must_use]
    pub fn spread(self, spread: Spread) -> Self {
        Self { spread, ..self }
    }

    /// So many other nodes may still stand in for owners.
    pub fn spare(&mut self, nodes: usize) {
        self.spare = nodes.min(OWNERS_MAX) as u8;
    }

    /// This owner did it. Saying so twice counts once; an ack after a refusal counts.
    pub fn ack(&mut self, owner: usize) {
        debug_assert!(owner < usize::from(self.owners));
        self.acked |= 1 << owner;
        self.refused &= !(1 << owner);
    }

    /// Another node, of that zone, did it in this owner's place.
    pub fn keep(&mut self, owner: usize, zone: u8) {
        debug_assert!(owner < usize::from(self.owners) && zone < Spread::ZONES_MAX);
        self.kept |= 1 << owner;
        if !self.acked(owner) {
            self.spread.zones[owner] = zone;
        }
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

    /// True when another node certainly did it in this owner's place.
    #[must_use]
    pub fn kept(&self, owner: usize) -> bool {
        self.kept & (1 << owner) != 0
    }

    /// Owners that certainly did it.
    #[must_use]
    pub fn acks(&self) -> u8 {
        self.acked.count_ones() as u8
    }

    /// Owners that have not done it, and that another node certainly stands in for.
    #[must_use]
    pub fn hints(&self) -> u8 {
        (self.kept & !self.acked).count_ones() as u8
    }

    /// Nodes that must do it: of one table; of the other one, if there is one, so many are enough as well.
    #[must_use]
    pub fn needed(&self) -> u8 {
        self.each_table().map(|(_, needed)| needed).max().unwrap_or(0)
    }

    /// All owners.
    #[must_use]
    pub fn owners(&self) -> u8 {
        self.owners
    }

    /// Whether these seats, given that they are taken or will be, are enough.
    #[must_use]
    pub fn suffices(&self, seats: u16, spread: &Spread) -> bool {
        self.each_table().all(|table| self.suffices_in(table, seats, spread))
    }

    /// The tables in force: their owners, and how many of those must do it.
    fn each_table(&self) -> impl Iterator<Item = (u16, u8)> + use<> {
        let all = if self.tables == [0; 2] { [u16::MAX, 0] } else { self.tables };
        all.into_iter().zip(self.needed).filter(|(table, _)| *table != 0)
    }

    fn suffices_in(&self, (table, needed): (u16, u8), seats: u16, spread: &Spread) -> bool {
        let seats = seats & table;
        let positions = (0..usize::from(self.owners)).filter(|i| seats & 1 << i != 0);
        let zones = if spread.zones_min > 1 { spread.zones_of(positions) } else { spread.zones_min };
        seats.count_ones() as u8 >= needed && zones >= spread.zones_min
    }

    /// In how many tables that lack some this owner is.
    #[must_use]
    pub fn lacking(&self, owner: usize, seats: u16, spread: &Spread) -> usize {
        let lacks = |table: &(u16, u8)| table.0 & 1 << owner != 0 && !self.suffices_in(*table, seats, spread);
        self.each_table().filter(lacks).count()
    }

    /// What it amounts to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let taken = self.acked | self.kept;
        let hopeless = self.refused & !taken;
        let open = u16::MAX.checked_shr(16 - u32::from(self.owners)).unwrap_or(0) & !hopeless;
        // Zones of stand-ins that are not known yet may be any.
        let spread = if self.spare > 0 { Spread::default() } else { self.spread };
        let reachable = |(table, needed): (u16, u8)| {
            let spare = ((hopeless & table).count_ones() as u8).min(self.spare);
            self.suffices_in((table, needed.saturating_sub(spare)), open, &spread)
        };
        if self.suffices(taken, &self.spread) {
            Verdict::Won
        } else if self.each_table().all(reachable) {
            Verdict::Pending
        } else {
            Verdict::Lost
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
    fn an_owner_and_its_stand_in_count_once() {
        let mut tally = Tally::new(3, 2);
        tally.spare(2);
        tally.keep(1, 16);
        tally.ack(1);
        assert_eq!((tally.verdict(), tally.acks(), tally.hints()), (Verdict::Pending, 1, 0));
        tally.keep(2, 17);
        assert_eq!((tally.verdict(), tally.acks(), tally.hints()), (Verdict::Won, 1, 1));
    }

    #[test]
    fn a_quorum_is_lost_only_when_stand_ins_are_used_up() {
        let mut tally = Tally::new(3, 2);
        tally.spare(1);
        tally.refuse(0);
        tally.refuse(1);
        assert_eq!(tally.verdict(), Verdict::Pending);
        tally.spare(0);
        assert_eq!(tally.verdict(), Verdict::Lost);
    }

    #[test]
    fn those_who_did_it_must_be_as_far_apart_as_was_asked() {
        let mut zones = [0; OWNERS_MAX];
        zones[2] = 2;
        let mut tally = Tally::new(3, 2).spread(Spread { zones_min: 2, zones });
        tally.ack(0);
        tally.ack(1);
        assert_eq!(tally.verdict(), Verdict::Pending, "both lie in one zone");
        let mut lost = tally;
        lost.refuse(2);
        assert_eq!(lost.verdict(), Verdict::Lost, "no other zone is left");
        tally.ack(2);
        assert_eq!(tally.verdict(), Verdict::Won);
    }

    proptest! {
        /// Two tables are won when each of them alone would be, and lost when one of them is.
        #[test]
        fn two_tables_are_two_quorums(
            needed in [1u8..=3, 1u8..=3],
            answers in prop::collection::vec((0usize..5, any::<bool>()), 0..12),
        ) {
            // The owners 0, 1, 2 and 1, 3, 4.
            let tables = [0b0_0111u16, 0b1_1010];
            let mut both = Tally::new(5, 0).tables(tables, needed);
            let mut alone = needed.map(|needed| Tally::new(3, needed));
            for (owner, did) in answers {
                if did { both.ack(owner) } else { both.refuse(owner) }
                for (tally, table) in alone.iter_mut().zip([[0, 1, 2], [1, 3, 4]]) {
                    if let Some(i) = table.iter().position(|at| *at == owner) {
                        if did { tally.ack(i) } else { tally.refuse(i) }
                    }
                }
            }
            let verdicts = alone.map(|tally| tally.verdict());
            let expected = if verdicts.contains(&Verdict::Lost) {
                Verdict::Lost
            } else if verdicts.contains(&Verdict::Pending) {
                Verdict::Pending
            } else {
                Verdict::Won
            };
            prop_assert_eq!(both.verdict(), expected);
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
