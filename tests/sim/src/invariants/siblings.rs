//! A quorum read of a causal keyspace that keeps siblings shows every acknowledged value whose place nobody took who
//! had seen it, and none whose place was taken: whatever was lost, late, repeated or concurrent. Where somebody took
//! its place, that write is there, or a delete, or what took its place in turn.
//!
//! Values are unique, and a write remembers which ones its writer had seen, so a history is checked read by read. A
//! write without an acknowledgement may take effect at any time after it began, or never.

use super::{Invariant, Verdict};
use crate::history::{Act, At, Event};
use crate::site::Site;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Siblings;

impl Invariant for Siblings {
    fn name(&self) -> &'static str {
        "siblings"
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        // Data types have an invariant of their own.
        if !site.plan.workload.is_causal() || site.plan.workload.is_typed() {
            return Ok(());
        }
        match violations(&site.history.events).first() {
            Some((read, why)) => Err(format!("of {:?}: {why} in {read:?}", site.keys[read.key])),
            None => Ok(()),
        }
    }
}

/// The life of one value.
#[derive(Clone, Copy)]
struct Value {
    began: At,
    acked: Option<At>,
    /// The first acknowledgement of a write whose writer had seen it.
    gone: Option<At>,
}

fn earlier(known: &mut Option<At>, at: At) {
    *known = Some(known.map_or(at, |known| known.min(at)));
}

fn values<'a>(events: impl Iterator<Item = &'a Event> + Clone) -> BTreeMap<u64, Value> {
    let mut values = BTreeMap::new();
    for event in events.clone() {
        if let Act::Write(Some(value)) = event.act {
            values.insert(value, Value { began: event.began, acked: event.ended, gone: None });
        }
    }
    for event in events.filter(|event| matches!(event.act, Act::Write(_))) {
        for value in &event.saw {
            let Some(value) = values.get_mut(value) else { continue };
            event.ended.into_iter().for_each(|ended| earlier(&mut value.gone, ended));
        }
    }
    values
}

/// All reads that show what they must not, or do not show what they must, and what that is.
#[must_use]
pub fn violations(events: &[Event]) -> Vec<(Event, String)> {
    let mut by_key: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
    for event in events {
        by_key.entry(event.key).or_default().push(event);
    }
    let mut found = Vec::new();
    for events in by_key.into_values() {
        let values = values(events.iter().copied());
        for read in &events {
            let (Act::Read(seen), Some(ended)) = (&read.act, read.ended) else { continue };
            let shown: Vec<u64> = seen.iter().filter_map(|value| *value).collect();
            if let Some(why) = wrong((&values, &events), &shown, read.began, ended) {
                found.push(((*read).clone(), why));
            }
        }
    }
    found
}

/// Values that are there, or whose place was taken by what is there or by a delete, of writes that had begun by
/// `ended`.
fn accounted(events: &[&Event], there: &BTreeSet<u64>, ended: At) -> BTreeSet<u64> {
    let mut accounted = there.clone();
    let mut open: Vec<&Event> = events.iter().copied().filter(|event| event.began < ended).collect();
    loop {
        let before = open.len();
        open.retain(|event| {
            let stands = match event.act {
                Act::Write(value) => value.is_none_or(|value| accounted.contains(&value)),
                Act::Read(_) => false,
            };
            if stands {
                accounted.extend(&event.saw);
            }
            !stands
        });
        if open.len() == before {
            return accounted;
        }
    }
}

fn wrong((values, events): (&BTreeMap<u64, Value>, &[&Event]), shown: &[u64], began: At, ended: At) -> Option<String> {
    let distinct: BTreeSet<u64> = shown.iter().copied().collect();
    if distinct.len() < shown.len() {
        return Some("a value is there twice".into());
    }
    for value in &distinct {
        match values.get(value) {
            Some(known) if known.began >= ended => return Some(format!("{value} is not written yet")),
            Some(Value { gone: Some(gone), .. }) if *gone < began => return Some(format!("{value} came back")),
            Some(_) => {}
            None => return Some(format!("nobody wrote {value}")),
        }
    }
    let must = |known: &Value| known.acked.is_some_and(|at| at < began);
    if values.iter().all(|(value, known)| !must(known) || distinct.contains(value)) {
        return None;
    }
    let accounted = accounted(events, &distinct, ended);
    let lost = values.iter().find(|(value, known)| must(known) && !accounted.contains(value));
    lost.map(|(value, _)| format!("{value} is lost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, saw: &[u64], began: At, ended: impl Into<Option<At>>) -> Event {
        Event { key: 0, act: Act::Write(Some(value)), began, ended: ended.into(), saw: saw.iter().copied().collect() }
    }

    fn is_sound(writes: &[Event], shown: &[u64], began: At, ended: At) -> bool {
        let act = Act::Read(shown.iter().map(|value| Some(*value)).collect());
        let read = Event { key: 0, act, began, ended: Some(ended), saw: BTreeSet::new() };
        violations(&[writes, &[read]].concat()).is_empty()
    }

    #[test]
    fn what_nobody_saw_stays_and_what_was_seen_and_replaced_is_gone() {
        let writes =
            [write(1, &[], 10, 20), write(2, &[], 12, 22), write(3, &[1], 30, 40), write(4, &[2, 3], 50, None)];
        let is_sound = |shown: &[u64], began, ended| is_sound(&writes, shown, began, ended);
        assert!(is_sound(&[1, 2], 25, 28) && !is_sound(&[1], 25, 28) && !is_sound(&[], 25, 28));
        assert!(is_sound(&[1], 15, 18), "the second is under way");
        assert!(is_sound(&[1, 2], 31, 35) && is_sound(&[2, 3], 31, 35), "while the third is under way");
        assert!(is_sound(&[2, 3], 45, 46) && !is_sound(&[1, 2, 3], 45, 46) && !is_sound(&[2], 45, 46));
        assert!(is_sound(&[2, 3], 60, 61) && is_sound(&[4], 60, 61), "without an acknowledgement either is right");
        assert!(!is_sound(&[2], 60, 61) && !is_sound(&[], 60, 61), "what took the place of the third is not there");
        assert!(!is_sound(&[4, 4], 60, 61) && !is_sound(&[9], 60, 61) && !is_sound(&[2, 3, 4], 45, 46));
    }
}
