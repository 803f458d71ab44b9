//! Batches of puts and deletes beside single requests.

use super::Work;
use mks_logic::request::{Item, Operation};

pub(super) fn invent(work: &mut Work<'_>) -> Operation {
    match work.dice.below(100) {
        0..45 => Operation::Get { key: work.key() },
        45..65 => Operation::Put { key: work.key(), value: work.value() },
        65..72 => Operation::Delete { key: work.key() },
        _ => {
            let keys = work.keys.to_vec();
            let item = |key| Item { key, value: (!work.dice.chance(20)).then(|| work.value()), context: None };
            Operation::Batch { items: keys.into_iter().map(item).collect() }
        }
    }
}
