//! Operations on data types, done where the record lies.

use super::{Ports, Slot};
use crate::event::{Apply, Deed, WriteJob};
use crate::id::Dot;
use crate::message::{Refused, WriteOutcome};
use crate::port::{NewState, TypeError};
use crate::version::{Version, value_digest};
use alloc::vec::Vec;
use bytes::Bytes;

impl Slot {
    /// Does an operation on all that this owner, and the owners that its coordinator read, know of the key: their
    /// states are joined, the operation changes the join, and one version takes the place of them all. If the data type
    /// fails, everything stays as it is.
    pub(super) fn apply(&mut self, i: usize, job: &WriteJob, apply: &Apply, ports: Ports<'_>) -> WriteOutcome {
        if self.failed.is_some() {
            // Whatever is said here, the refusal takes its place.
            self.jobs.push(i);
            return WriteOutcome::Held;
        }
        if let Some(latest) = self.latest_beside(job.version.dot).filter(|at| job.fresh && *at >= job.version.written) {
            return WriteOutcome::StaleStamp { latest };
        }
        let held = match self.versions(ports, &job.key.engine_key(ports.partition_bits)) {
            Ok(held) => held,
            Err(refused) => return WriteOutcome::Refused(refused),
        };
        let mut past = self.past.clone();
        past.unite(&job.past);
        held.iter().for_each(|version| past.add(version.dot));
        let states = self.states(&held, job, apply);
        let Dot { node, incarnation, .. } = job.version.dot;
        let clock = job.mint.unwrap_or(job.version.written.0);
        let Some(counter) = ports.mints.next(past.highest(node, incarnation), clock) else {
            return WriteOutcome::Refused(Refused::Damaged);
        };
        let made = match &apply.deed {
            Deed::Operate(operation) => {
                let dot = Dot { node, incarnation: ports.mints.actor(incarnation), counter };
                ports.types.apply(self.policy.resolver, (dot, job.version.written), &states, operation)
            }
            // It was done here, and is no longer: only our own disk can have lost it.
            Deed::Again(dot) if !past.covers(*dot) || states.is_empty() => {
                return WriteOutcome::Refused(Refused::DamagedRecord);
            }
            Deed::Again(_) => {
                ports.types.join(self.policy.resolver, &states).map(|state| NewState { state, reply: None })
            }
        };
        let NewState { state, reply } = match made {
            Ok(made) if u32::try_from(made.state.len()).is_ok() => made,
            Ok(_) => return WriteOutcome::NotApplied(TypeError::Failed("the new state is too large".into())),
            Err(error) => return WriteOutcome::NotApplied(error),
        };
        let version = Version {
            dot: Dot { node, incarnation, counter },
            digest: value_digest(Some(&state)),
            value: Some(state.clone()),
            ..job.version.clone()
        };
        self.grow(&past);
        self.put(version, false);
        self.jobs.push(i);
        WriteOutcome::Applied { counter, state, past, reply }
    }

    /// The states that nobody knows to be superseded: the rule by which two records merge, for one that came as its
    /// versions and all that its reader has seen, themselves among it.
    fn states(&self, held: &[Version], job: &WriteJob, Apply { seen, .. }: &Apply) -> Vec<Bytes> {
        let has = |versions: &[Version], dot: Dot| versions.iter().any(|version| version.dot == dot);
        let ours = held.iter().filter(|v| !job.past.covers(v.dot) || has(seen, v.dot));
        let theirs = seen.iter().filter(|v| !self.past.covers(v.dot) && !has(held, v.dot));
        ours.chain(theirs).filter_map(|version| version.value.clone()).collect()
    }
}
