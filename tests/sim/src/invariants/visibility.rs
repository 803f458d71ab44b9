//! A quorum read shows what a regular register may show: the last acknowledged write before it began, or one that was
//! under way. A write without an acknowledgement may take effect at any time after it began, or never.
//!
//! Values are unique, so a read names the write that it saw, and a history is checked in n log n.

use super::{Invariant, Verdict};
use crate::fault::Fault;
use crate::history::{Act, At, Event};
use crate::site::Site;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Visibility;

impl Invariant for Visibility {
    fn name(&self) -> &'static str {
        "visibility"
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        // Siblings have an invariant of their own.
        if site.plan.workload.is_causal() {
            return Ok(());
        }
        // While resolvers fail, readers get all siblings, and a tombstone among them can't be shown.
        let lenient_until = if site.plan.faults.has(Fault::Resolver) { site.healed_us } else { 0 };
        match violations(&site.history.events, lenient_until).first() {
            Some(read) => Err(format!("of {:?}, nothing explains {read:?}", site.keys[read.key])),
            None => Ok(()),
        }
    }
}

/// What was written to one key.
#[derive(Default)]
struct Writes {
    /// When the write of each value began and ended.
    values: BTreeMap<u64, (At, Option<At>)>,
    /// Beginning of each delete, and the latest end (`None`: open) of all up to it. A key begins as if deleted.
    deletes: Vec<(At, Option<At>)>,
    /// End of each acknowledged write, and the latest beginning of all up to it.
    acked: Vec<(At, At)>,
}

impl Writes {
    fn of<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let mut writes = Self { deletes: vec![(0, Some(0))], ..Self::default() };
        for event in events {
            match event.act {
                Act::Write(Some(value)) => drop(writes.values.insert(value, (event.began, event.ended))),
                Act::Write(None) => writes.deletes.push((event.began, event.ended)),
                Act::Read(_) => continue,
            }
            writes.acked.extend(event.ended.map(|ended| (ended, event.began)));
        }
        writes.acked.sort_unstable();
        let mut latest = 0;
        for (_, began) in &mut writes.acked {
            latest = latest.max(*began);
            *began = latest;
        }
        writes.deletes.sort_unstable();
        let mut latest = Some(0);
        for (_, ended) in &mut writes.deletes {
            latest = latest.zip(*ended).map(|(a, b)| a.max(b));
            *ended = latest;
        }
        writes
    }

    /// The latest beginning of all writes that were acknowledged before `by`.
    fn settled(&self, by: At) -> At {
        self.acked[..self.acked.partition_point(|(ended, _)| *ended < by)].last().map_or(0, |(_, began)| *began)
    }

    fn explain(&self, value: Option<u64>, began: At, ended: At) -> bool {
        let write = match value {
            Some(value) => self.values.get(&value).copied(),
            None => self.deletes[..self.deletes.partition_point(|(began, _)| *began < ended)].last().copied(),
        };
        let settled = self.settled(began);
        write.is_some_and(|(began, end)| began < ended && end.is_none_or(|end| end >= settled))
    }
}

/// All reads that a regular register would not have given. Of those that began before `lenient_until` it is enough that
/// one of the shown siblings is explained, or that the key might be absent.
#[must_use]
pub fn violations(events: &[Event], lenient_until: At) -> Vec<Event> {
    let mut by_key: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
    for event in events {
        by_key.entry(event.key).or_default().push(event);
    }
    let mut found = Vec::new();
    for events in by_key.into_values() {
        let writes = Writes::of(events.iter().copied());
        for read in events {
            let (Act::Read(seen), Some(ended)) = (&read.act, read.ended) else { continue };
            let explained = |value: &Option<u64>| writes.explain(*value, read.began, ended);
            let lenient = read.began < lenient_until;
            let single = lenient || seen.len() == 1;
            if !(single && (seen.iter().any(explained) || lenient && explained(&None))) {
                found.push(read.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Saw;

    fn event(act: Act, began: At, ended: impl Into<Option<At>>) -> Event {
        Event { key: 0, act, began, ended: ended.into(), saw: Saw::new() }
    }

    fn is_sound(writes: &[Event], value: Option<u64>, began: At, ended: At) -> bool {
        let read = event(Act::Read(vec![value]), began, ended);
        violations(&[writes, &[read]].concat(), 0).is_empty()
    }

    #[test]
    fn a_read_may_show_the_last_write_or_one_under_way_and_nothing_else() {
        let writes = [
            event(Act::Write(Some(1)), 10, 20),
            event(Act::Write(Some(2)), 30, 40),
            event(Act::Write(Some(3)), 50, None),
            event(Act::Write(Some(4)), 65, 90),
        ];
        let is_sound = |value, began, ended| is_sound(&writes, value, began, ended);
        assert!(is_sound(None, 5, 15) && !is_sound(None, 25, 26), "absent only before the first ack");
        assert!(is_sound(Some(1), 15, 16) && is_sound(Some(1), 39, 60) && !is_sound(Some(1), 45, 46));
        assert!(!is_sound(Some(2), 25, 29) && is_sound(Some(2), 60, 61) && !is_sound(Some(2), 95, 96));
        assert!(is_sound(Some(3), 60, 61) && is_sound(Some(3), 200, 201), "without an ack it may come at any time");
        assert!(!is_sound(Some(9), 60, 61), "nobody wrote that");
    }

    #[test]
    fn what_was_deleted_stays_gone() {
        let writes = [
            event(Act::Write(Some(1)), 10, 20),
            event(Act::Write(None), 30, 40),
            event(Act::Write(Some(2)), 50, 60),
            event(Act::Write(None), 70, None),
        ];
        assert!(!is_sound(&writes, Some(1), 45, 46), "the delete was acknowledged");
        assert!(is_sound(&writes, None, 45, 46) && !is_sound(&writes, None, 65, 66));
        assert!(is_sound(&writes, None, 80, 81) && is_sound(&writes, Some(2), 80, 81), "a delete without an ack");
    }
}
