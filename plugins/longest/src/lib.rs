//! The longest value wins: for values that only ever grow, such as logs that clients append to.
//!
//! Of equally long values the one that was written later, then the higher node, then the higher hash. A delete has no
//! length and loses to every value, and so does an empty value that is older than it.

use mks_guest_sdk::resolver::{Conflict, Resolver, Verdict};

/// See the [crate].
#[derive(Debug)]
pub struct Longest;

impl Resolver for Longest {
    const NAME: &'static str = "longest";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn settle(conflict: Conflict<'_>) -> Verdict {
        conflict
            .keep_max_by_key(|version| (version.size, version.written, version.tombstone, version.node, version.digest))
    }
}

mks_guest_sdk::export_resolver!(Longest);

#[cfg(test)]
mod tests {
    use super::Longest;
    use mks_guest_sdk::resolver::{Sibling, Verdict, settle};
    use mks_guest_sdk::testing::assert_resolver;

    const BASE: Sibling =
        Sibling { node: 5, incarnation: 1, counter: 1, written: 100, size: 3, tombstone: false, digest: 50 };

    fn beats(winner: Sibling, loser: Sibling) {
        let verdicts = settle::<Longest>(&[&[winner, loser], &[loser, winner]]);
        assert_eq!(verdicts, [Verdict::Keep(0), Verdict::Keep(1)], "{winner:?} against {loser:?}");
    }

    #[test]
    fn the_longer_value_wins_over_everything_else() {
        beats(Sibling { size: 4, written: 1, node: 1, digest: 0, ..BASE }, BASE);
        beats(BASE, Sibling { size: 0, tombstone: true, written: 900, ..BASE });
    }

    #[test]
    fn of_equally_long_values_the_later_one_wins_and_then_the_higher_node() {
        beats(Sibling { written: 101, node: 1, ..BASE }, BASE);
        beats(Sibling { node: 6, digest: 0, ..BASE }, BASE);
    }

    #[test]
    fn an_empty_value_and_a_delete_are_told_apart_by_their_clocks() {
        let (empty, delete) = (Sibling { size: 0, ..BASE }, Sibling { size: 0, tombstone: true, ..BASE });
        beats(delete, empty);
        beats(Sibling { written: 101, ..empty }, delete);
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_resolver::<Longest>();
    }
}
