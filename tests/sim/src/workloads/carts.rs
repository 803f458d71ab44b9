//! Shopping carts: read, and write with the context of what was read. Some write without having looked.

use super::{Invented, Work};

pub(super) fn invent(work: &mut Work<'_>) -> Invented {
    let at = work.at();
    match work.dice.below(100) {
        0..45 => work.get(at),
        45..80 => work.put(at, true),
        80..88 => work.put(at, false),
        _ => work.delete(at),
    }
}
