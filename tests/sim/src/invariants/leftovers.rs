//! When everybody has had time to end, nothing is left of any operation.

use super::{Invariant, Verdict};
use crate::site::{Phase, Site};
use mks_logic::node::Load;

#[derive(Debug, Default)]
pub(super) struct Leftovers;

impl Invariant for Leftovers {
    fn name(&self) -> &'static str {
        "leftovers"
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        if site.phase != Phase::Liveness {
            return Ok(());
        }
        for machine in site.present() {
            let load = machine.node.as_ref().map(mks_logic::node::Node::load);
            if load != Some(Load::default()) || !machine.waiting.is_empty() {
                return Err(format!("{}: {load:?}, {} jobs at the disk", machine.id, machine.waiting.len()));
            }
        }
        Ok(())
    }
}
