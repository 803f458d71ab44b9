//! A map in which each key has a clock of its own: the later write of a key wins, whatever happens to other keys.
//!
//! Operations: `set KEY VALUE` (a key has no spaces, the value is the rest) and `remove KEY`. The empty question
//! answers a JSON object, `get KEY` a JSON string or `null`. What was removed is remembered as long as the map lives,
//! in a few bytes each, so that an older write can't bring it back. States are compared by summaries: clocks without
//! values.

use mks_guest_sdk::Random;
use mks_guest_sdk::codec::{Malformed, Reader, Writer, push_json};
use mks_guest_sdk::data_type::{Change, Context, DataType, State, Summary, command};
use std::collections::BTreeMap;

/// Clock, node, incarnation, counter: unique, and later than whatever the writer had seen.
type Stamp = [u64; 4];

/// Keys with their last write; `None` was removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Map(BTreeMap<String, (Stamp, Option<String>)>);

fn write_stamp(out: &mut Writer, stamp: &Stamp) {
    for part in stamp {
        out.number(*part);
    }
}

fn read_stamp(reader: &mut Reader<'_>) -> Result<Stamp, Malformed> {
    Ok([reader.number()?, reader.number()?, reader.number()?, reader.number()?])
}

impl State for Map {
    fn join(&mut self, other: Self) {
        for (key, theirs) in other.0 {
            match self.0.get_mut(&key) {
                Some(ours) if *ours >= theirs => {}
                Some(ours) => *ours = theirs,
                None => drop(self.0.insert(key, theirs)),
            }
        }
    }

    fn write(&self, out: &mut Writer) {
        for (key, (stamp, value)) in &self.0 {
            out.bytes(key.as_bytes());
            write_stamp(out, stamp);
            match value {
                Some(value) => out.byte(1).bytes(value.as_bytes()),
                None => out.byte(0),
            };
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut map = BTreeMap::new();
        while !reader.is_at_end() {
            let key = reader.text()?.to_owned();
            let stamp = read_stamp(reader)?;
            let value = match reader.byte()? {
                0 => None,
                1 => Some(reader.text()?.to_owned()),
                _ => return Err(Malformed("neither a value nor none")),
            };
            map.insert(key, (stamp, value));
        }
        Ok(Self(map))
    }
}

impl Summary for Map {
    fn summary(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for (key, (stamp, _)) in &self.0 {
            out.bytes(key.as_bytes());
            write_stamp(&mut out, stamp);
        }
        out.finish()
    }

    fn diff(&self, summary: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = Reader::new(summary);
        let mut known = BTreeMap::new();
        while !reader.is_at_end() {
            known.insert(reader.text()?, read_stamp(&mut reader)?);
        }
        let lacking = |key: &str, stamp: &Stamp| known.get(key).is_none_or(|known| known < stamp);
        let lacking = self.0.iter().filter(|(key, (stamp, _))| lacking(key, stamp));
        let diff: BTreeMap<_, _> = lacking.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        Ok((!diff.is_empty()).then_some(Self(diff)))
    }
}

/// See the [crate].
#[derive(Debug)]
pub struct LwwMap;

impl DataType for LwwMap {
    const NAME: &'static str = "lww-map";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type State = Map;

    fn update(context: &Context, state: &Map, op: &[u8]) -> Result<Change<Map>, String> {
        let (word, rest) = command(op)?;
        let (key, value) = rest.split_once(' ').map_or((rest, None), |(key, value)| (key, Some(value)));
        let value = match (word, value) {
            ("set", Some(value)) => Some(value.to_owned()),
            ("remove", None) => None,
            ("set" | "remove", _) => return Err("write `set KEY VALUE` or `remove KEY`; a key has no spaces".into()),
            (other, _) => return Err(format!("an lww-map knows `set KEY VALUE` and `remove KEY`, not `{other}`")),
        };
        if key.is_empty() {
            return Err("a key has at least one character".into());
        }
        let mut delta = Map::default();
        if value.is_some() || state.0.contains_key(key) {
            let stamp = [context.now, context.node, context.incarnation, context.counter];
            delta.0.insert(key.into(), (stamp, value));
        }
        Ok(Change::silent(delta))
    }

    fn query(state: &Map, question: &[u8]) -> Result<Vec<u8>, String> {
        let mut json = String::new();
        match command(question)? {
            ("", "") => {
                json.push('{');
                for (key, value) in state.0.iter().filter_map(|(key, (_, value))| Some((key, value.as_ref()?))) {
                    json.push_str(if json.len() > 1 { "," } else { "" });
                    push_json(&mut json, key);
                    json.push(':');
                    push_json(&mut json, value);
                }
                json.push('}');
            }
            ("get", key) => match state.0.get(key) {
                Some((_, Some(value))) => push_json(&mut json, value),
                _ => json.push_str("null"),
            },
            (other, _) => return Err(format!("an lww-map answers the empty question and `get KEY`, not `{other}`")),
        }
        Ok(json.into_bytes())
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        let mut random = Random::new(seed);
        let key = random.pick(&["a", "b", "c"]).copied()?;
        let op = if random.one_in(3) { format!("remove {key}") } else { format!("set {key} {}", random.below(9)) };
        Some(op.into_bytes())
    }
}

mks_guest_sdk::export_delta_data_type!(LwwMap);

#[cfg(test)]
mod tests {
    use super::LwwMap;
    use mks_guest_sdk::testing::{Replica, assert_delta_data_type};

    #[test]
    fn the_later_write_of_each_key_wins_by_itself() {
        let (mut a, mut b) = (Replica::<LwwMap>::new(1), Replica::<LwwMap>::new(2));
        a.apply("set name Ada Lovelace").expect("set");
        a.apply("set city London").expect("set");
        b.merge(&a);
        b.apply("set city Paris").expect("set");
        a.apply("remove name").expect("removed");
        a.merge(&b);
        b.merge(&a);
        assert_eq!(a.query(""), Ok(r#"{"city":"Paris"}"#.into()));
        assert_eq!((b.query(""), b.query("get name")), (a.query(""), Ok("null".into())));
        assert_eq!(b.query("get city"), Ok("\"Paris\"".into()));
    }

    #[test]
    fn what_was_removed_does_not_come_back() {
        let (mut a, mut b) = (Replica::<LwwMap>::new(1), Replica::<LwwMap>::new(2));
        a.apply("set k old").expect("set");
        b.merge(&a);
        b.apply("remove k").expect("removed");
        b.merge(&a);
        assert_eq!(b.query(""), Ok("{}".into()));
    }

    #[test]
    fn operations_without_a_key_or_a_value_are_refused() {
        let mut a = Replica::<LwwMap>::new(1);
        for op in ["", "set", "set k", "remove", "remove a b", "set  v", "get k"] {
            assert!(a.apply(op).is_err(), "{op}");
        }
        a.apply("remove k").expect("nothing to remove is fine");
        assert_eq!(a.query(""), Ok("{}".into()));
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_delta_data_type::<LwwMap>();
    }
}
