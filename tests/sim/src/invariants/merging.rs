//! Where a resolver merges siblings for readers, once the trouble is over, a reader gets one value and no siblings; and
//! in the end, when owners have been compared, every node shows the same. That everything acknowledged whose place
//! nobody took is part of it is for the invariant of siblings to say.

use super::{Invariant, Replied, Verdict};
use crate::history::Act;
use crate::site::{Phase, Site};
use mks_logic::limits::Limits;
use mks_logic::request::Answer;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Merging;

/// Short queues turn away a question to the resolver as well: then a reader gets siblings.
fn is_usual(site: &Site) -> bool {
    site.plan.workload.is_merged() && site.plan.limits.disk_jobs_max == Limits::default().disk_jobs_max
}

impl Invariant for Merging {
    fn name(&self) -> &'static str {
        "merging"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        if !is_usual(site) || site.phase != Phase::Liveness {
            return Ok(());
        }
        for (_, key, reply) in &replied.parts {
            if let Ok(Answer::Found { versions, .. }) = reply
                && versions.len() > 1
            {
                return Err(format!("{} shows {} siblings of {:?}", replied.node, versions.len(), site.keys[*key]));
            }
        }
        Ok(())
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        if !is_usual(site) {
            return Ok(());
        }
        let mut shown: BTreeMap<usize, &Vec<Option<u64>>> = BTreeMap::new();
        let last = site.history.events.iter().filter(|event| event.began >= site.last_looks_us);
        for event in last.filter(|event| event.ended.is_some()) {
            let Act::Read(seen) = &event.act else { continue };
            let first = shown.entry(event.key).or_insert(seen);
            if *first != seen {
                return Err(format!("of {:?}, one node shows {first:?}, and one {seen:?}", site.keys[event.key]));
            }
        }
        Ok(())
    }
}
