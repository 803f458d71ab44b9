//! Puts, gets and many deletes: what is gone stays gone.

use super::Work;
use mks_logic::request::Operation;

pub(super) fn invent(work: &mut Work<'_>) -> Operation {
    match work.dice.below(100) {
        0..45 => Operation::Get { key: work.key() },
        45..75 => Operation::Put { key: work.key(), value: work.value() },
        _ => Operation::Delete { key: work.key() },
    }
}
