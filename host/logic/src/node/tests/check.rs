//! What clients saw, and whether a regular register may show that.
//!
//! Values are unique, so a read names the write that it saw. A write without an acknowledgement may take effect at any
//! time after it began, or never.

use crate::id::Key;
use std::collections::BTreeMap;

/// Microseconds of the simulation's true time.
type At = u64;

/// What a client did to one key.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Wrote this value, or deleted (`None`).
    Write(Option<u64>),
    /// Read this value, or nothing (`None`).
    Read(Option<u64>),
}

/// One act with its time.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) key: Key,
    pub(super) act: Act,
    pub(super) began: At,
    /// When the client had a good answer; `None`: it never had one.
    pub(super) ended: Option<At>,
}

/// A read that nothing explains.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "shown to people")]
pub(super) struct Violation {
    pub(super) read: Event,
    /// The write whose value was read; `None`: nobody wrote that.
    pub(super) saw: Option<Event>,
    /// A write that should have hidden it.
    pub(super) hidden_by: Option<Event>,
}

/// All reads that a regular register would not have given.
pub(super) fn violations(events: &[Event]) -> Vec<Violation> {
    let mut by_key: BTreeMap<&Key, (Vec<&Event>, Vec<&Event>)> = BTreeMap::new();
    for event in events {
        let (writes, reads) = by_key.entry(&event.key).or_default();
        match event.act {
            Act::Write(_) => writes.push(event),
            Act::Read(_) => reads.push(event),
        }
    }
    by_key.into_values().flat_map(|(writes, reads)| of_key(&writes, &reads)).collect()
}

fn of_key(writes: &[&Event], reads: &[&Event]) -> Vec<Violation> {
    let mut found = Vec::new();
    for read in reads {
        let (Act::Read(value), Some(ended)) = (&read.act, read.ended) else { continue };
        let saw: Vec<&&Event> = writes.iter().filter(|w| matches!(&w.act, Act::Write(v) if v == value)).collect();
        // Before its first write a key is absent, as if it had been deleted before time began.
        let unwritten = value.is_none() && overwritten(Some(0), writes, read.began).is_none();
        let explained = |w: &&&Event| w.began < ended && overwritten(w.ended, writes, read.began).is_none();
        if !unwritten && !saw.iter().any(explained) {
            let saw = saw.first().map(|w| (**w).clone());
            let hidden_by = overwritten(saw.as_ref().map_or(Some(0), |w| w.ended), writes, read.began).cloned();
            found.push(Violation { read: (*read).clone(), saw, hidden_by });
        }
    }
    found
}

/// A write that began after that one had ended, and was acknowledged before `by`.
fn overwritten<'a>(ended: Option<At>, writes: &[&'a Event], by: At) -> Option<&'a Event> {
    let ended = ended?;
    writes.iter().find(|w| w.began > ended && w.ended.is_some_and(|end| end < by)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn event(act: Act, began: At, ended: impl Into<Option<At>>) -> Event {
        Event { key: key("k"), act, began, ended: ended.into() }
    }

    #[test]
    fn a_read_may_show_the_last_write_or_one_under_way_and_nothing_else() {
        let writes = [
            event(Act::Write(Some(1)), 10, 20),
            event(Act::Write(Some(2)), 30, 40),
            event(Act::Write(Some(3)), 50, None),
            event(Act::Write(Some(4)), 65, 90),
        ];
        let is_sound = |value, began, ended| {
            let read = event(Act::Read(value), began, ended);
            violations(&[&writes[..], &[read]].concat()).is_empty()
        };
        assert!(is_sound(None, 5, 15) && !is_sound(None, 25, 26), "absent only before the first ack");
        assert!(is_sound(Some(1), 15, 16) && is_sound(Some(1), 39, 60) && !is_sound(Some(1), 45, 46));
        assert!(!is_sound(Some(2), 25, 29) && is_sound(Some(2), 60, 61) && !is_sound(Some(2), 95, 96));
        assert!(is_sound(Some(3), 60, 61) && is_sound(Some(3), 200, 201), "without an ack it may come at any time");
        assert!(!is_sound(Some(9), 60, 61), "nobody wrote that");
    }
}
