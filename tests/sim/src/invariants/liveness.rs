//! Once faults are over, every request gets a good answer.

use super::{Invariant, Replied, Verdict};
use crate::site::{Phase, Site};

#[derive(Debug, Default)]
pub(super) struct Liveness;

impl Invariant for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        let probe = replied.asked.is_some_and(|asked| asked.client.is_none());
        match replied.reply {
            Err(error) if probe && site.phase == Phase::Liveness => Err(format!("{} says: {error}", replied.node)),
            _ => Ok(()),
        }
    }
}
