//! Sets: adds in chains, each with the context of the write before it, and several keys at once.

use super::{Invented, Work};
use mks_logic::request::{Item, Operation};

pub(super) fn invent(work: &mut Work<'_>) -> Invented {
    let at = work.at();
    match work.dice.below(100) {
        0..30 => work.get(at),
        30..75 => work.put(at, true),
        75..80 => work.put(at, false),
        80..85 => work.delete(at),
        _ => {
            let (mut items, mut saw) = (Vec::new(), Vec::new());
            for at in 0..work.keys.len() {
                let known = work.known.get(&at).cloned();
                let deletes = known.is_some() && work.dice.chance(20);
                let known = known.unwrap_or_default();
                let value = (!deletes).then(|| work.value());
                items.push(Item { key: work.keys[at].clone(), value, context: known.context });
                saw.push(known.saw);
            }
            Invented { operation: Operation::Batch { items }, context: None, saw }
        }
    }
}
