//! Nobody sees, and no disk holds, a value that no client wrote to that key.

use super::{Invariant, Replied, Verdict};
use crate::clients::{number, numbers};
use crate::log::PARTITION_BITS;
use crate::site::Site;
use mks_logic::request::Answer;

#[derive(Debug, Default)]
pub(super) struct Phantoms;

impl Invariant for Phantoms {
    fn name(&self) -> &'static str {
        "phantoms"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        for (_, key, reply) in &replied.parts {
            let Ok(Answer::Found { versions, .. }) = reply else { continue };
            let mut shown = versions.iter().filter_map(|v| v.value.as_ref()).flat_map(|value| numbers(value));
            if let Some(value) = shown.find(|value| !site.history.asked.contains(&(*key, *value))) {
                return Err(format!("{} shows {value}, which nobody wrote to {:?}", replied.node, site.keys[*key]));
            }
        }
        Ok(())
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        // States are no values that anybody wrote.
        if site.plan.workload.is_typed() {
            return Ok(());
        }
        for (at, key) in site.keys.iter().enumerate() {
            let engine_key = key.engine_key(PARTITION_BITS);
            for machine in &site.machines {
                let record = machine.disk.record(&engine_key);
                let strange = |value: &&bytes::Bytes| !site.history.asked.contains(&(at, number(value)));
                if let Some(value) = record.versions().iter().filter_map(|v| v.value.as_ref()).find(strange) {
                    return Err(format!("{} holds {value:?}, which nobody wrote to {key:?}", machine.id));
                }
            }
        }
        Ok(())
    }
}
