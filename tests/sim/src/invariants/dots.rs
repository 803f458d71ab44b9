//! A dot names one write, for ever: the same value of the same key, with the same stamp.

use super::{Invariant, Verdict, carried};
use crate::site::Site;
use mks_logic::event::Effect;
use mks_logic::id::{Dot, NodeId};
use mks_logic::time::Hlc;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Dots {
    known: BTreeMap<Dot, (Hlc, u64)>,
}

impl Invariant for Dots {
    fn name(&self) -> &'static str {
        "dots"
    }

    fn stepped(&mut self, _site: &Site, node: NodeId, effects: &[Effect]) -> Verdict {
        for (version, _) in effects.iter().filter_map(carried).filter(|(version, _)| version.dot.node == node) {
            let seen = (version.written, version.digest);
            let known = *self.known.entry(version.dot).or_insert(seen);
            if known != seen {
                return Err(format!("{:?} names {known:?} and {seen:?}", version.dot));
            }
        }
        Ok(())
    }
}
