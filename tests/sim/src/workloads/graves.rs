//! Keys that live for a moment: each is written and deleted a few times, from anywhere, and left alone until its
//! tombstone is purged and somebody writes it again. So a copy that comes late finds nothing that would hold it back.

use super::Work;
use mks_logic::request::Operation;

/// Values that a key gets before it is the turn of the next one.
const VALUES: u64 = 3;

pub(super) fn invent(work: &mut Work<'_>) -> Operation {
    let written = *work.serial;
    let values = if work.once { 1 } else { VALUES };
    let of = |value: u64| work.keys[(value / values) as usize % work.keys.len()].clone();
    // The key of the last value that was written, and of the next one.
    let (last, next) = (of(written.saturating_sub(1)), of(written));
    match work.dice.below(100) {
        0..15 => Operation::Get { key: last },
        15..25 => Operation::Get { key: work.key() },
        25..65 if work.once => Operation::Put { key: next, value: work.value() },
        25..55 => Operation::Put { key: next, value: work.value() },
        _ => Operation::Delete { key: last },
    }
}
