//! A counter that names what it counted.

use super::{Invented, Kind, Work};

pub(super) fn invent(work: &mut Work<'_>) -> Invented {
    let key = work.key();
    if work.dice.chance(35) {
        return Kind::Counts.look(key).into();
    }
    Kind::Counts.write(key, work.value()).into()
}
