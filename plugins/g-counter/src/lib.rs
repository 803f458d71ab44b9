//! A counter that only grows: one total per node (and opening of its data directory), merged by the greater one.
//!
//! Operations: `add` and `add N`. The empty question answers the sum. Shapiro et al., "A comprehensive study of
//! Convergent and Commutative Replicated Data Types", 2011, specification 6.

use mks_guest_sdk::Random;
use mks_guest_sdk::codec::{Malformed, Reader, Writer};
use mks_guest_sdk::data_type::{Actor, Change, Context, DataType, State, command};
use std::collections::BTreeMap;

/// What each node has added; no zeroes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals(BTreeMap<Actor, u64>);

impl State for Totals {
    fn join(&mut self, other: Self) {
        for (actor, total) in other.0 {
            let held = self.0.entry(actor).or_default();
            *held = total.max(*held);
        }
    }

    fn write(&self, out: &mut Writer) {
        for ((node, incarnation), total) in &self.0 {
            out.number(*node).number(*incarnation).number(*total);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut totals = BTreeMap::new();
        while !reader.is_at_end() {
            let actor = (reader.number()?, reader.number()?);
            let total = reader.number()?;
            if total == 0 {
                return Err(Malformed("a total of nothing"));
            }
            totals.insert(actor, total);
        }
        Ok(Self(totals))
    }
}

/// See the [crate].
#[derive(Debug)]
pub struct GCounter;

impl DataType for GCounter {
    const NAME: &'static str = "g-counter";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type State = Totals;

    fn update(context: &Context, state: &Totals, op: &[u8]) -> Result<Change<Totals>, String> {
        let amount: u64 = match command(op)? {
            ("add", "") => 1,
            ("add", amount) => amount.parse().map_err(|_| format!("`{amount}` is no number from 0 to 2^64 - 1"))?,
            (other, _) => return Err(format!("a g-counter knows `add` and `add N`, not `{other}`")),
        };
        let held = state.0.get(&context.actor()).copied().unwrap_or_default();
        let total = held.checked_add(amount).ok_or("this counter would go beyond 2^64 - 1")?;
        let mut delta = Totals::default();
        if amount > 0 {
            delta.0.insert(context.actor(), total);
        }
        Ok(Change::silent(delta))
    }

    fn query(state: &Totals, question: &[u8]) -> Result<Vec<u8>, String> {
        match command(question)? {
            ("", "") => Ok(state.0.values().map(|total| u128::from(*total)).sum::<u128>().to_string().into_bytes()),
            (other, _) => Err(format!("a g-counter answers the empty question, not `{other}`")),
        }
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        let mut random = Random::new(seed);
        Some(if random.one_in(3) { "add".into() } else { format!("add {}", random.below(10)) }.into_bytes())
    }
}

mks_guest_sdk::export_data_type!(GCounter);

#[cfg(test)]
mod tests {
    use super::GCounter;
    use mks_guest_sdk::testing::{Replica, assert_data_type};

    #[test]
    fn the_sum_is_that_of_all_increments_however_often_states_are_merged() {
        let (mut a, mut b) = (Replica::<GCounter>::new(1), Replica::<GCounter>::new(2));
        a.apply("add 3").expect("added");
        b.apply("add").expect("added");
        for _ in 0..3 {
            a.merge(&b);
            b.merge(&a);
        }
        a.apply("add 2").expect("added");
        b.merge(&a);
        assert_eq!((a.query(""), b.query("")), (Ok("6".into()), Ok("6".into())));
    }

    #[test]
    fn what_is_no_increment_is_refused_and_changes_nothing() {
        let mut a = Replica::<GCounter>::new(1);
        for op in ["", "add -1", "add x", "sub 1", "add 99999999999999999999"] {
            assert!(a.apply(op).is_err(), "{op}");
        }
        assert_eq!(a.state(), None);
        a.apply(format!("add {}", u64::MAX)).expect("the most");
        assert!(a.apply("add 1").is_err() && a.query("what").is_err());
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_data_type::<GCounter>();
    }
}
