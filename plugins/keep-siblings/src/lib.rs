//! Keeps all siblings: nothing is decided here, whoever reads the key decides.
//!
//! For values that can be merged by those who understand them, such as shopping carts (the Dynamo paper, 4.4). A reader
//! gets all versions that were written without knowledge of one another, and a context; what it writes with that
//! context takes the place of exactly those versions.

use mks_guest_sdk::resolver::{Conflict, Resolver, Verdict};

/// See the [crate].
#[derive(Debug)]
pub struct KeepSiblings;

impl Resolver for KeepSiblings {
    const NAME: &'static str = "keep-siblings";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn settle(_: Conflict<'_>) -> Verdict {
        Verdict::KeepAll
    }
}

mks_guest_sdk::export_resolver!(KeepSiblings);

#[cfg(test)]
mod tests {
    use super::KeepSiblings;
    use mks_guest_sdk::resolver::{Sibling, Verdict, settle};

    #[test]
    fn every_sibling_stays_whatever_is_known_about_it() {
        let write = |node, written| Sibling { node, written, ..Sibling::default() };
        let delete = Sibling { tombstone: true, ..write(3, 30) };
        let conflicts: [&[Sibling]; 2] = [&[write(1, 10), write(2, 20), delete], &[write(1, 10), delete]];
        assert_eq!(settle::<KeepSiblings>(&conflicts), [Verdict::KeepAll; 2]);
    }
}
