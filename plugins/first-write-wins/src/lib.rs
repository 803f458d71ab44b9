//! First write wins: a key keeps the value that was written first, until somebody who has read it writes another.
//!
//! "First" is the order of stamps from below: hybrid clock, then a value before a delete, then the lower node, then the
//! lower hash of the value. For names that are claimed, such as user names or locks.

use core::cmp::Reverse;
use mks_guest_sdk::resolver::{Conflict, Resolver, Verdict};

/// See the [crate].
#[derive(Debug)]
pub struct FirstWriteWins;

impl Resolver for FirstWriteWins {
    const NAME: &'static str = "first-write-wins";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn settle(conflict: Conflict<'_>) -> Verdict {
        conflict.keep_max_by_key(|version| {
            let stamp = (version.written, version.tombstone, version.node, version.digest);
            Reverse((stamp, version.incarnation, version.counter))
        })
    }
}

mks_guest_sdk::export_resolver!(FirstWriteWins);

#[cfg(test)]
mod tests {
    use super::FirstWriteWins;
    use mks_guest_sdk::resolver::{Sibling, Verdict, settle};

    const BASE: Sibling =
        Sibling { node: 5, incarnation: 1, counter: 1, written: 100, size: 3, tombstone: false, digest: 50 };

    fn beats(winner: Sibling, loser: Sibling) {
        let verdicts = settle::<FirstWriteWins>(&[&[winner, loser], &[loser, winner]]);
        assert_eq!(verdicts, [Verdict::Keep(0), Verdict::Keep(1)], "{winner:?} against {loser:?}");
    }

    #[test]
    fn the_earlier_clock_wins_over_everything_else() {
        beats(BASE, Sibling { written: 101, node: 1, digest: 0, ..BASE });
        beats(Sibling { written: 99, tombstone: true, node: 9, ..BASE }, BASE);
    }

    #[test]
    fn at_equal_clocks_a_value_wins_over_a_delete() {
        beats(Sibling { node: 9, ..BASE }, Sibling { tombstone: true, node: 1, ..BASE });
    }

    #[test]
    fn then_the_lower_node_wins_and_then_the_lower_hash() {
        beats(Sibling { node: 4, digest: 99, ..BASE }, BASE);
        beats(Sibling { digest: 49, ..BASE }, BASE);
    }

    #[test]
    fn of_equal_stamps_the_lower_dot_wins() {
        beats(Sibling { counter: 7, ..BASE }, Sibling { incarnation: 2, ..BASE });
    }
}
