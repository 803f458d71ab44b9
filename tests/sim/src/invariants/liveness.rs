//! Once faults are over, every request gets a good answer. Only where a plan makes the queue of a disk so short that
//! what mends owners in the background fills it, an owner may still be busy.

use super::{Invariant, Replied, Verdict};
use crate::site::{Phase, Site};
use mks_logic::limits::Limits;
use mks_logic::message::Refused;
use mks_logic::request::OpError;

#[derive(Debug, Default)]
pub(super) struct Liveness;

fn may_be_busy(site: &Site, error: &OpError) -> bool {
    let short = site.plan.limits.disk_jobs_max < Limits::default().disk_jobs_max;
    match error {
        OpError::QuorumLost { refused, .. } | OpError::NotNamed { refused } => {
            short && *refused == Refused::Busy.to_string()
        }
        _ => false,
    }
}

impl Invariant for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        let probe = replied.asked.is_some_and(|asked| asked.client.is_none());
        match replied.reply {
            Err(error) if probe && site.phase == Phase::Liveness && !may_be_busy(site, error) => {
                Err(format!("{} says: {error}", replied.node))
            }
            _ => Ok(()),
        }
    }
}
