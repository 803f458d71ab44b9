//! A counter that goes up and down: two totals per node, each merged by the greater one.
//!
//! Operations: `add`, `add N`, `sub` and `sub N`. The empty question answers what was added less what was taken away.
//! Shapiro et al., "A comprehensive study of Convergent and Commutative Replicated Data Types", 2011, specification 7.

use mks_guest_sdk::Random;
use mks_guest_sdk::codec::{Malformed, Reader, Writer};
use mks_guest_sdk::data_type::{Actor, Change, Context, DataType, State, command};
use std::collections::BTreeMap;

/// What each node has added and taken away; never nothing of both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals(BTreeMap<Actor, (u64, u64)>);

impl State for Totals {
    fn join(&mut self, other: Self) {
        for (actor, (added, taken)) in other.0 {
            let held = self.0.entry(actor).or_default();
            *held = (added.max(held.0), taken.max(held.1));
        }
    }

    fn write(&self, out: &mut Writer) {
        for ((node, incarnation), (added, taken)) in &self.0 {
            out.number(*node).number(*incarnation).number(*added).number(*taken);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut totals = BTreeMap::new();
        while !reader.is_at_end() {
            let actor = (reader.number()?, reader.number()?);
            let total = (reader.number()?, reader.number()?);
            if total == (0, 0) {
                return Err(Malformed("totals of nothing"));
            }
            totals.insert(actor, total);
        }
        Ok(Self(totals))
    }
}

/// See the [crate].
#[derive(Debug)]
pub struct PnCounter;

impl DataType for PnCounter {
    const NAME: &'static str = "pn-counter";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type State = Totals;

    fn update(context: &Context, state: &Totals, op: &[u8]) -> Result<Change<Totals>, String> {
        let (word, amount) = command(op)?;
        let number = |_| format!("`{amount}` is no number from 0 to 2^64 - 1");
        let amount: u64 = if amount.is_empty() { 1 } else { amount.parse().map_err(number)? };
        let (added, taken) = state.0.get(&context.actor()).copied().unwrap_or_default();
        let total = match word {
            "add" => added.checked_add(amount).map(|added| (added, taken)),
            "sub" => taken.checked_add(amount).map(|taken| (added, taken)),
            other => return Err(format!("a pn-counter knows `add`, `add N`, `sub` and `sub N`, not `{other}`")),
        };
        let total = total.ok_or("one node's part of this counter would go beyond 2^64 - 1")?;
        let mut delta = Totals::default();
        if amount > 0 {
            delta.0.insert(context.actor(), total);
        }
        Ok(Change::silent(delta))
    }

    fn query(state: &Totals, question: &[u8]) -> Result<Vec<u8>, String> {
        match command(question)? {
            ("", "") => {
                let sum: i128 = state.0.values().map(|(added, taken)| i128::from(*added) - i128::from(*taken)).sum();
                Ok(sum.to_string().into_bytes())
            }
            (other, _) => Err(format!("a pn-counter answers the empty question, not `{other}`")),
        }
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        let mut random = Random::new(seed);
        let word = random.pick(&["add", "sub"]).copied()?;
        Some(format!("{word} {}", random.below(10)).into_bytes())
    }
}

mks_guest_sdk::export_data_type!(PnCounter);

#[cfg(test)]
mod tests {
    use super::PnCounter;
    use mks_guest_sdk::testing::{Replica, assert_data_type};

    #[test]
    fn it_counts_up_and_down_on_both_sides() {
        let (mut a, mut b) = (Replica::<PnCounter>::new(1), Replica::<PnCounter>::new(2));
        a.apply("add 3").expect("added");
        b.apply("sub 5").expect("taken");
        a.merge(&b);
        a.merge(&b);
        assert_eq!(a.query(""), Ok("-2".into()));
        a.apply("add").expect("added");
        a.apply("sub").expect("taken");
        b.merge(&a);
        assert_eq!(b.query(""), Ok("-2".into()));
    }

    #[test]
    fn other_operations_and_overflows_are_refused() {
        let mut a = Replica::<PnCounter>::new(1);
        for op in ["", "mul 2", "add -1", "sub x"] {
            assert!(a.apply(op).is_err(), "{op}");
        }
        a.apply(format!("sub {}", u64::MAX)).expect("the most");
        assert!(a.apply("sub").is_err());
        assert_eq!(a.query(""), Ok(format!("-{}", u64::MAX)));
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_data_type::<PnCounter>();
    }
}
