//! A dot names one write, for ever: the same value of the same key, with the same stamp. In a causal keyspace dots
//! count for each key, and a write may be stamped anew under its dot.

use super::{Invariant, Verdict, carried};
use crate::site::Site;
use mks_logic::event::Effect;
use mks_logic::id::{Dot, Key, NodeId};
use mks_logic::time::Hlc;
use mks_logic::version::Version;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Dots {
    known: BTreeMap<(Dot, Option<Key>), (Hlc, u64)>,
}

impl Invariant for Dots {
    fn name(&self) -> &'static str {
        "dots"
    }

    fn stepped(&mut self, site: &Site, node: NodeId, effects: &[Effect]) -> Verdict {
        let causal = site.plan.workload.is_causal();
        let ours = |(_, version, _): &(&Key, &Version, bool)| version.dot.node == node && version.dot.counter > 0;
        for (key, version, _) in effects.iter().filter_map(carried).filter(ours) {
            let seen = (if causal { Hlc::ZERO } else { version.written }, version.digest);
            let known = *self.known.entry((version.dot, causal.then(|| key.clone()))).or_insert(seen);
            if known != seen {
                return Err(format!("{:?} names {known:?} and {seen:?}", version.dot));
            }
        }
        Ok(())
    }
}
