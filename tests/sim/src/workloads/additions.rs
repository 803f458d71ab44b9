//! A set: each element is added once, and removed by clients that saw it, or wrote it themselves.

use super::{Invented, Kind, Work};
use crate::history::Saw;
use mks_logic::request::Operation;

pub(super) fn invent(work: &mut Work<'_>) -> Invented {
    let at = work.at();
    let key = work.keys[at].clone();
    let seen: Vec<u64> = work.known.get(&at).map(|known| known.saw.iter().copied().collect()).unwrap_or_default();
    match work.dice.below(100) {
        0..35 => Kind::Additions.look(key).into(),
        35..55 if !seen.is_empty() => {
            let element = work.dice.pick(&seen);
            let operation = [b"-", &element.to_be_bytes()[..]].concat().into();
            let operation = Operation::Apply { key, operation };
            Invented { operation, context: None, saw: vec![Saw::from([element])] }
        }
        _ => Kind::Additions.write(key, work.value()).into(),
    }
}
