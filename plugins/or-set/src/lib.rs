//! A set in which an add wins over a remove that did not see it.
//!
//! Operations: `add X`, `remove X` and `clear`; elements are texts. The empty question answers a JSON array, `contains
//! X` `true` or `false`, `count` a number.
//!
//! Each add has a dot. A state holds the dots of what is in the set and, in runs, every dot it has heard of: a dot that
//! was heard of and is not there was removed, so that nothing else of a removed element is kept. Bieniusa et al., "An
//! optimized conflict-free replicated set", 2012.

use mks_guest_sdk::Random;
use mks_guest_sdk::codec::{Malformed, Reader, Writer, push_json};
use mks_guest_sdk::data_type::{Actor, Change, Context, DataType, State, command};
use std::collections::{BTreeMap, BTreeSet};

mod heard;

use heard::Heard;

/// Who added, and the number of that update.
type Dot = (Actor, u64);

/// Elements by the adds that are not removed, and all adds that were heard of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Set {
    elements: BTreeMap<String, BTreeSet<Dot>>,
    heard: Heard,
}

impl State for Set {
    fn join(&mut self, other: Self) {
        let Self { elements: theirs, heard } = other;
        let nothing = BTreeSet::new();
        self.elements.retain(|element, dots| {
            let held = theirs.get(element).unwrap_or(&nothing);
            dots.retain(|dot| held.contains(dot) || !heard.contains(dot));
            !dots.is_empty()
        });
        for (element, dots) in theirs {
            let missing: Vec<Dot> = dots.into_iter().filter(|dot| !self.heard.contains(dot)).collect();
            if !missing.is_empty() {
                self.elements.entry(element).or_default().extend(missing);
            }
        }
        self.heard.join(heard);
    }

    fn write(&self, out: &mut Writer) {
        self.heard.write(out);
        for (element, dots) in &self.elements {
            out.bytes(element.as_bytes()).number(dots.len() as u64);
            for ((node, incarnation), counter) in dots {
                out.number(*node).number(*incarnation).number(*counter);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let heard = Heard::read(reader)?;
        let mut elements = BTreeMap::new();
        let mut seen = BTreeSet::new();
        while !reader.is_at_end() {
            let element = reader.text()?.to_owned();
            let mut dots = BTreeSet::new();
            for _ in 0..reader.number()? {
                let dot = ((reader.number()?, reader.number()?), reader.number()?);
                if !heard.contains(&dot) || !seen.insert(dot) {
                    return Err(Malformed("an add that was not heard of, or that added two elements"));
                }
                dots.insert(dot);
            }
            if dots.is_empty() {
                return Err(Malformed("an element that nobody added"));
            }
            elements.insert(element, dots);
        }
        Ok(Self { elements, heard })
    }
}

/// See the [crate].
#[derive(Debug)]
pub struct OrSet;

impl DataType for OrSet {
    const NAME: &'static str = "or-set";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type State = Set;

    fn update(context: &Context, state: &Set, op: &[u8]) -> Result<Change<Set>, String> {
        let (word, element) = command(op)?;
        let mut delta = Set::default();
        let gone = |delta: &mut Set, dots: &BTreeSet<Dot>| dots.iter().for_each(|dot| delta.heard.add(*dot));
        match (word, element) {
            ("add" | "remove", "") => return Err(format!("write `{word} X`: an element has at least one character")),
            ("add", element) => {
                // The new dot stands for the element, so the older ones can go.
                state.elements.get(element).into_iter().for_each(|dots| gone(&mut delta, dots));
                delta.heard.add_after(context.actor(), state.heard.last(context.actor()), context.counter);
                delta.elements.insert(element.into(), BTreeSet::from([(context.actor(), context.counter)]));
            }
            ("remove", element) => state.elements.get(element).into_iter().for_each(|dots| gone(&mut delta, dots)),
            ("clear", "") => state.elements.values().for_each(|dots| gone(&mut delta, dots)),
            (other, _) => return Err(format!("an or-set knows `add X`, `remove X` and `clear`, not `{other}`")),
        }
        Ok(Change::silent(delta))
    }

    fn query(state: &Set, question: &[u8]) -> Result<Vec<u8>, String> {
        let answer = match command(question)? {
            ("", "") => {
                let mut json = String::from("[");
                for element in state.elements.keys() {
                    json.push_str(if json.len() > 1 { "," } else { "" });
                    push_json(&mut json, element);
                }
                json.push(']');
                json
            }
            ("contains", element) => state.elements.contains_key(element).to_string(),
            ("count", "") => state.elements.len().to_string(),
            (other, _) => {
                return Err(format!("an or-set answers the empty question, `contains X` and `count`, not `{other}`"));
            }
        };
        Ok(answer.into_bytes())
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        let mut random = Random::new(seed);
        let element = random.pick(&["a", "b", "c"]).copied()?;
        let op = match random.below(12) {
            0 => "clear".to_owned(),
            1..=4 => format!("remove {element}"),
            _ => format!("add {element}"),
        };
        Some(op.into_bytes())
    }
}

mks_guest_sdk::export_data_type!(OrSet);

#[cfg(test)]
mod tests {
    use super::OrSet;
    use mks_guest_sdk::testing::{Replica, assert_data_type};

    #[test]
    fn an_add_wins_over_a_remove_that_did_not_see_it() {
        let (mut a, mut b) = (Replica::<OrSet>::new(1), Replica::<OrSet>::new(2));
        a.apply("add milk").expect("added");
        b.merge(&a);
        b.apply("remove milk").expect("removed");
        a.apply("add milk").expect("added again");
        a.merge(&b);
        b.merge(&a);
        assert_eq!((a.query(""), b.query("")), (Ok(r#"["milk"]"#.into()), Ok(r#"["milk"]"#.into())));
    }

    #[test]
    fn a_remove_takes_away_what_it_saw_and_it_stays_away() {
        let (mut a, mut b) = (Replica::<OrSet>::new(1), Replica::<OrSet>::new(2));
        a.apply("add milk").expect("added");
        a.apply("add red wine").expect("added");
        b.merge(&a);
        b.apply("remove milk").expect("removed");
        b.merge(&a);
        a.merge(&b);
        assert_eq!((a.query(""), a.query("count")), (Ok(r#"["red wine"]"#.into()), Ok("1".into())));
        assert_eq!((a.query("contains milk"), a.query("contains red wine")), (Ok("false".into()), Ok("true".into())));
        a.apply("clear").expect("cleared");
        assert_eq!(a.query(""), Ok("[]".into()));
    }

    #[test]
    fn a_set_that_is_used_for_long_stays_small() {
        let mut a = Replica::<OrSet>::new(1);
        for round in 0..2_000 {
            a.apply(format!("add {round}")).expect("added");
            a.apply(format!("remove {round}")).expect("removed");
        }
        assert!(a.state().expect("a state").len() < 16, "{:?}", a.state());
    }

    #[test]
    fn operations_that_name_nothing_are_refused() {
        let mut a = Replica::<OrSet>::new(1);
        for op in ["", "add", "remove", "remove ", "toggle x", "clear all"] {
            assert!(a.apply(op).is_err(), "{op}");
        }
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_data_type::<OrSet>();
    }
}
