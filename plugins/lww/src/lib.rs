//! Last write wins: the default resolver.
//!
//! "Last" is the order of stamps: hybrid clock first, a delete before a value at equal clocks, then the higher node,
//! then the higher hash of the value. A strict total order over all versions, so owners that never talk agree.

use mks_guest_sdk::resolver::{Conflict, Resolver, Verdict};

/// See the [crate].
#[derive(Debug)]
pub struct LastWriteWins;

impl Resolver for LastWriteWins {
    const NAME: &'static str = "lww";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn settle(conflict: Conflict<'_>) -> Verdict {
        conflict.keep_max_by_key(|version| (version.written, version.tombstone, version.node, version.digest))
    }
}

mks_guest_sdk::export_resolver!(LastWriteWins);

#[cfg(test)]
mod tests {
    use super::LastWriteWins;
    use mks_guest_sdk::resolver::{Sibling, Verdict, settle};

    const BASE: Sibling =
        Sibling { node: 5, incarnation: 1, counter: 1, written: 100, size: 3, tombstone: false, digest: 50 };

    fn beats(winner: Sibling, loser: Sibling) {
        let verdicts = settle::<LastWriteWins>(&[&[winner, loser], &[loser, winner]]);
        assert_eq!(verdicts, [Verdict::Keep(0), Verdict::Keep(1)], "{winner:?} against {loser:?}");
    }

    #[test]
    fn the_later_clock_wins_over_everything_else() {
        let earlier = Sibling { written: 99, tombstone: true, node: 9, digest: 99, ..BASE };
        beats(BASE, earlier);
    }

    #[test]
    fn at_equal_clocks_a_delete_wins() {
        beats(Sibling { tombstone: true, node: 1, digest: 0, ..BASE }, Sibling { node: 9, digest: 99, ..BASE });
    }

    #[test]
    fn then_the_higher_node_wins_and_then_the_higher_hash() {
        beats(Sibling { node: 6, digest: 0, ..BASE }, BASE);
        beats(Sibling { digest: 51, ..BASE }, BASE);
    }

    #[test]
    fn of_equal_stamps_the_higher_dot_wins() {
        beats(Sibling { incarnation: 2, ..BASE }, Sibling { counter: 7, ..BASE });
    }
}
