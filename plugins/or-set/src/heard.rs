//! Which dots were heard of: runs of counters for each actor, exact and short.

use crate::Dot;
use mks_guest_sdk::codec::{Malformed, Reader, Writer};
use mks_guest_sdk::data_type::Actor;
use std::collections::BTreeMap;

/// Runs of an actor by their first counter, with their last one. No two touch.
type Runs = BTreeMap<u64, u64>;

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Heard(BTreeMap<Actor, Runs>);

impl Heard {
    pub(crate) fn contains(&self, (actor, counter): &Dot) -> bool {
        let run = self.0.get(actor).and_then(|runs| runs.range(..=counter).next_back());
        run.is_some_and(|(_, last)| counter <= last)
    }

    /// The highest counter of an actor.
    pub(crate) fn last(&self, actor: Actor) -> Option<u64> {
        self.0.get(&actor).and_then(|runs| runs.values().next_back().copied())
    }

    pub(crate) fn add(&mut self, (actor, counter): Dot) {
        add(self.0.entry(actor).or_default(), counter, counter);
    }

    /// Everything of an actor above `last` up to `counter`: it has added nothing between the two.
    pub(crate) fn add_after(&mut self, actor: Actor, last: Option<u64>, counter: u64) {
        let first = last.map_or(0, |last| last.saturating_add(1)).min(counter);
        add(self.0.entry(actor).or_default(), first, counter);
    }

    pub(crate) fn join(&mut self, other: Self) {
        for (actor, theirs) in other.0 {
            let ours = self.0.entry(actor).or_default();
            theirs.into_iter().for_each(|(first, last)| add(ours, first, last));
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.number(self.0.len() as u64);
        for ((node, incarnation), runs) in &self.0 {
            out.number(*node).number(*incarnation).number(runs.len() as u64);
            for (first, last) in runs {
                out.number(*first).number(last - first);
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut heard = BTreeMap::new();
        for _ in 0..reader.number()? {
            let actor = (reader.number()?, reader.number()?);
            let mut runs = Runs::new();
            for _ in 0..reader.number()? {
                let first = reader.number()?;
                let last = first.checked_add(reader.number()?).ok_or(Malformed("a run beyond 64 bits"))?;
                add(&mut runs, first, last);
            }
            if runs.is_empty() {
                return Err(Malformed("an actor without runs"));
            }
            heard.insert(actor, runs);
        }
        Ok(Self(heard))
    }
}

/// Adds `first..=last`, and makes one run of all that it overlaps or touches.
fn add(runs: &mut Runs, mut first: u64, mut last: u64) {
    while let Some((&start, &end)) = runs.range(..=last.saturating_add(1)).next_back() {
        if end.saturating_add(1) < first {
            break;
        }
        runs.remove(&start);
        first = first.min(start);
        last = last.max(end);
    }
    runs.insert(first, last);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_overlap_or_touch_become_one() {
        let mut runs = Runs::new();
        for (first, last) in
            [(5, 6), (1, 2), (9, 9), (7, 7), (3, 4), (u64::MAX, u64::MAX), (20, 30), (22, 40), (10, 10)]
        {
            add(&mut runs, first, last);
        }
        let expected = Runs::from([(1, 7), (9, 10), (20, 40), (u64::MAX, u64::MAX)]);
        assert_eq!(runs, expected);
        add(&mut runs, 0, u64::MAX);
        assert_eq!(runs, Runs::from([(0, u64::MAX)]));
    }

    #[test]
    fn what_was_added_is_heard_and_nothing_else() {
        let mut heard = Heard::default();
        heard.add(((1, 1), 4));
        heard.add_after((2, 1), None, 3);
        heard.add_after((2, 1), Some(7), 9);
        let known = |actor, counter| heard.contains(&(actor, counter));
        assert!(known((1, 1), 4) && !known((1, 1), 3) && !known((1, 2), 4));
        assert!(known((2, 1), 0) && known((2, 1), 3) && !known((2, 1), 7) && known((2, 1), 8) && known((2, 1), 9));
        assert_eq!((heard.last((2, 1)), heard.last((3, 1))), (Some(9), None));
    }
}
