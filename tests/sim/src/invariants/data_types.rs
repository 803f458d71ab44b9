//! A counter shows every acknowledged operation once, and a set every acknowledged element that nobody removed; what
//! was removed by somebody who asked when its addition was acknowledged stays away. Whatever was lost, late, repeated
//! or concurrent: so a counter equals the sum of the acknowledged operations and of some of those that nobody knows of.
//!
//! Where code is in quarantine, nobody is asked in its place.
//!
//! Operations are unique, and so are elements. What has no acknowledgement may take effect at any time after it began,
//! or never.

use super::{Invariant, Verdict};
use crate::history::{Act, At, Event};
use crate::site::Site;
use mks_logic::event::Effect;
use mks_logic::id::NodeId;
use mks_logic::port::ResolverHash;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct DataTypes;

impl Invariant for DataTypes {
    fn name(&self) -> &'static str {
        "data-types"
    }

    fn stepped(&mut self, _: &Site, node: NodeId, effects: &[Effect]) -> Verdict {
        let nobody = |effect: &&Effect| match effect {
            Effect::Ask(job) => job.code == ResolverHash::NOBODY,
            Effect::Write(job) => job.apply.is_some() && job.policy.resolver == ResolverHash::NOBODY,
            _ => false,
        };
        let asked = effects.iter().find(nobody);
        asked.map_or(Ok(()), |effect| Err(format!("{node} asks nobody: {effect:?}")))
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        if !site.plan.workload.is_typed() {
            return Ok(());
        }
        match violations(&site.history.events).first() {
            Some((view, why)) => Err(format!("of {:?}: {why} in {view:?}", site.keys[view.key])),
            None => Ok(()),
        }
    }
}

/// When something began, and when it was acknowledged.
type Life = (At, Option<At>);

/// What was done to one key.
#[derive(Default)]
struct Deeds {
    adds: BTreeMap<u64, Life>,
    removes: BTreeMap<u64, Vec<Life>>,
}

/// All views that show what they must not, or do not show what they must, and what that is.
fn violations(events: &[Event]) -> Vec<(Event, String)> {
    let mut deeds: BTreeMap<usize, Deeds> = BTreeMap::new();
    for event in events {
        let (deeds, life) = (deeds.entry(event.key).or_default(), (event.began, event.ended));
        match event.act {
            Act::Write(Some(value)) => drop(deeds.adds.insert(value, life)),
            Act::Write(None) => event.saw.iter().for_each(|value| deeds.removes.entry(*value).or_default().push(life)),
            Act::Read(_) => {}
        }
    }
    let mut found = Vec::new();
    for view in events {
        let (Act::Read(seen), Some(ended)) = (&view.act, view.ended) else { continue };
        let shown: Vec<u64> = seen.iter().filter_map(|value| *value).collect();
        if let Some(why) = deeds[&view.key].wrong(&shown, view.began, ended) {
            found.push((view.clone(), why));
        }
    }
    found
}

impl Deeds {
    fn wrong(&self, shown: &[u64], began: At, ended: At) -> Option<String> {
        let distinct: BTreeSet<u64> = shown.iter().copied().collect();
        if distinct.len() < shown.len() {
            return Some("an operation counts twice".into());
        }
        for value in &distinct {
            let Some((asked, acked)) = self.adds.get(value) else { return Some(format!("nobody added {value}")) };
            if *asked >= ended {
                return Some(format!("{value} is not added yet"));
            }
            let saw_it =
                |(asked, gone): &Life| acked.is_some_and(|at| at < *asked) && gone.is_some_and(|at| at < began);
            if self.removes.get(value).is_some_and(|removes| removes.iter().any(saw_it)) {
                return Some(format!("{value} came back"));
            }
        }
        let may_be_gone =
            |value: &u64| self.removes.get(value).is_some_and(|all| all.iter().any(|(at, _)| *at < ended));
        let must = |acked: Option<At>| acked.is_some_and(|at| at < began);
        let lost =
            |(value, (_, acked)): &(&u64, &Life)| must(*acked) && !distinct.contains(value) && !may_be_gone(value);
        self.adds.iter().find(lost).map(|(value, _)| format!("{value} is lost"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Saw;

    fn event(act: Act, saw: &[u64], began: At, ended: impl Into<Option<At>>) -> Event {
        Event { key: 0, act, began, ended: ended.into(), saw: saw.iter().copied().collect::<Saw>() }
    }

    #[test]
    fn what_was_acknowledged_is_shown_once_unless_somebody_removed_it() {
        let deeds = [
            event(Act::Write(Some(1)), &[], 10, 20),
            event(Act::Write(Some(2)), &[], 12, None),
            event(Act::Write(None), &[1], 30, 40),
            event(Act::Write(None), &[2], 50, 60),
        ];
        let is_sound = |shown: &[u64], began, ended| {
            let view = event(Act::Read(shown.iter().map(|value| Some(*value)).collect()), &[], began, Some(ended));
            violations(&[&deeds[..], &[view]].concat()).is_empty()
        };
        assert!(is_sound(&[1], 25, 28) && is_sound(&[1, 2], 25, 28) && !is_sound(&[2], 25, 28), "1 is acknowledged");
        assert!(!is_sound(&[1, 1], 25, 28) && !is_sound(&[1, 9], 25, 28) && !is_sound(&[1, 2], 5, 11));
        assert!(is_sound(&[1], 32, 35) && is_sound(&[], 32, 35), "while it is removed");
        assert!(is_sound(&[2], 45, 46) && !is_sound(&[1], 45, 46), "it stays away");
        assert!(is_sound(&[2], 70, 71) && is_sound(&[], 70, 71), "nobody knows whether the remove saw it");
    }
}
