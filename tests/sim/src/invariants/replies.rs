//! A request is answered once, and by its deadline.

use super::{Invariant, Replied, Verdict};
use crate::plan::{DEADLINE_MS, MS};
use crate::site::{Phase, Site};

/// Ticks come at the very moment that they were asked for; clocks count whole microseconds.
const LATE_US_MAX: u64 = 10;

#[derive(Debug, Default)]
pub(super) struct Replies;

impl Invariant for Replies {
    fn name(&self) -> &'static str {
        "replies"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        let Some(asked) = replied.asked else {
            return Err(format!("{} answers twice: {:?}", replied.node, replied.reply));
        };
        let machine = site.machine(asked.node);
        // A process that does not run answers late.
        if machine.paused_until >= asked.sent_us && machine.paused_until > 0 {
            return Ok(());
        }
        let deadline_us = asked.request.deadline_ms.unwrap_or(DEADLINE_MS) * MS;
        let took_us = machine.now(site.now_us).mono_us - asked.sent_mono_us;
        if took_us > deadline_us + LATE_US_MAX {
            return Err(format!("{} took {took_us} of {deadline_us} us", replied.node));
        }
        Ok(())
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        if site.phase == Phase::Liveness && site.waiting > 0 {
            return Err(format!("{} requests without a reply", site.waiting));
        }
        Ok(())
    }
}
