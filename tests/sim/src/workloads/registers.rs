//! Puts and gets.

use super::Work;
use mks_logic::request::Operation;

pub(super) fn invent(work: &mut Work<'_>) -> Operation {
    if work.dice.chance(45) {
        return Operation::Get { key: work.key() };
    }
    Operation::Put { key: work.key(), value: work.value() }
}
