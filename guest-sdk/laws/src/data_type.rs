//! The laws of data types, over histories of operations.

use crate::history::{History, Play, name};
use crate::law::{Breach, Broken, Law, Life, Options, Passed, ensure, show};
use crate::random::Random;
use crate::shrink::shrink;
use std::cell::Cell;

/// A merged state may be longer than its parts together by this much, bytes.
const MERGE_SLACK_BYTES: usize = 1 << 10;
/// An update may add this much to a state beside four times its operation, bytes.
const UPDATE_SLACK_BYTES: usize = 16 << 10;
/// The first clock of a history: 48 bits of milliseconds, then 16 bits of counter.
const CLOCK_START: u64 = 1_700_000_000_000 << 16;

/// The arguments of one update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update<'a> {
    /// Dot: the node.
    pub node: u64,
    /// Dot: which opening of its data directory.
    pub incarnation: u64,
    /// Dot: grows, with gaps.
    pub counter: u64,
    /// Hybrid logical clock.
    pub now: u64,
    /// What the replica holds, if anything.
    pub state: Option<&'a [u8]>,
    /// What the client sent.
    pub op: &'a [u8],
}

/// What an update did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effect {
    /// The new state.
    pub state: Vec<u8>,
    /// The least state that brings the same change elsewhere.
    pub delta: Option<Vec<u8>>,
    /// What the client is told.
    pub reply: Option<Vec<u8>>,
}

/// What a component answers: the outer error is its failure (a trap, a timeout, nonsense), the inner one its refusal.
type Said<T> = Result<Result<T, String>, String>;

/// A data type under test.
pub trait DataType {
    /// # Errors
    /// What the component failed of; within, why it refuses the operation.
    fn update(&self, life: Life, update: &Update<'_>) -> Said<Effect>;

    /// # Errors
    /// What the component failed of; within, why it refuses the states.
    fn merge(&self, life: Life, states: &[&[u8]]) -> Said<Vec<u8>>;

    /// # Errors
    /// What the component failed of; within, why it refuses the question.
    fn query(&self, life: Life, state: &[u8], question: &[u8]) -> Said<Vec<u8>>;

    /// # Errors
    /// What the component failed of; within, why this is no state.
    fn validate(&self, life: Life, state: &[u8]) -> Said<()>;

    /// An operation such as clients send.
    ///
    /// # Errors
    /// What the component failed of.
    fn sample(&self, _seed: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    /// A summary of `theirs`, and what of `ours` the peer lacks by it; `None` when the type has no summaries.
    ///
    /// # Errors
    /// What the component failed of; within, why it refuses the states.
    fn diff(&self, _life: Life, _ours: &[u8], _theirs: &[u8]) -> Option<Said<Option<Vec<u8>>>> {
        None
    }
}

/// Looks for a history that breaks a law.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn check_data_type(data_type: &impl DataType, options: &Options) -> Result<Passed, Box<Broken>> {
    let checker = Checker { data_type, writes: Cell::new(0), refused: Cell::new(0) };
    for case in 0..options.cases {
        let seed = options.seed.wrapping_add(case.into());
        let history = checker.generate(seed);
        if let Err(breach) = checker.run(&history) {
            return Err(Box::new(shrink((history, breach), seed, simpler, describe, |history| {
                checker.run(history).err()
            })));
        }
    }
    Ok(Passed { cases: options.cases, refused: checker.refused.get(), writes: checker.writes.get() })
}

/// An operation, and how much later than the one before it comes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Operation {
    op: Vec<u8>,
    later: u64,
}

struct Checker<'a, D> {
    data_type: &'a D,
    writes: Cell<u64>,
    refused: Cell<u64>,
}

impl<D: DataType> Checker<'_, D> {
    fn generate(&self, seed: u64) -> History<Operation> {
        let mut random = Random::new(seed);
        History::generate(&mut random, |random, _| {
            let sample = self.data_type.sample(random.bits()).ok().flatten();
            Operation { op: sample.unwrap_or_else(|| random.value()), later: random.below(3) }
        })
    }

    fn run(&self, history: &History<Operation>) -> Result<(), Breach> {
        let states = vec![None; history.replicas.into()];
        let mut replicas = Replicas { checker: self, deltas: states.clone(), states, counter: 0, now: CLOCK_START };
        replicas.play(history)?;
        let Replicas { states, deltas, .. } = replicas;
        for (other, state) in states.iter().enumerate() {
            let reason = || format!("A ends with {}, {} with {}", maybe(&states[0]), name(small(other)), maybe(state));
            ensure(*state == states[0], Law::Convergence, reason)?;
            let reason = || format!("with deltas alone {}, with states {}", maybe(&deltas[other]), maybe(&states[0]));
            ensure(deltas[other] == states[0], Law::Delta, reason)?;
        }
        let Some(state) = &states[0] else { return Ok(()) };
        self.questions(state)?;
        self.damage(state)
    }

    /// Questions are functions too.
    fn questions(&self, state: &[u8]) -> Result<(), Breach> {
        let fresh = self.data_type.query(Life::Fresh, state, b"").map_err(failed)?;
        let again = self.data_type.query(Life::Fresh, state, b"").map_err(failed)?;
        ensure(fresh == again, Law::Function, || format!("query: once {fresh:?}, once {again:?}"))?;
        let warm = self.data_type.query(Life::Warm, state, b"").map_err(failed)?;
        ensure(fresh == warm, Law::Memory, || format!("query: fresh {fresh:?}, warm {warm:?}"))
    }

    /// Damaged states are refused or are states; nothing traps.
    fn damage(&self, state: &[u8]) -> Result<(), Breach> {
        let mut random = Random::new(state.len() as u64);
        let mut flipped = state.to_vec();
        let at = usize::try_from(random.below(state.len() as u64)).unwrap_or(0);
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
        for bytes in [&state[..state.len() / 2], &flipped, b"", b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"] {
            if self.data_type.validate(Life::Fresh, bytes).map_err(failed)?.is_ok() {
                let alone = self.merge("what validate accepts", &[bytes])?;
                let reason = || format!("validate accepts {}, and merge makes {} of it", show(bytes), show(&alone));
                ensure(alone == bytes, Law::Validity, reason)?;
            }
        }
        Ok(())
    }

    fn merge(&self, what: &str, states: &[&[u8]]) -> Result<Vec<u8>, Breach> {
        let merged = self.data_type.merge(Life::Fresh, states).map_err(failed)?;
        merged.map_err(|reason| Breach { law: Law::Validity, reason: format!("merge refuses {what}: {reason}") })
    }

    /// The join of two states, with every law that it has to keep.
    fn join(&self, a: &[u8], b: &[u8]) -> Result<Vec<u8>, Breach> {
        let both =
            |both: &[u8], other: &[u8]| format!("a = {}, b = {}: {} and {}", show(a), show(b), show(both), show(other));
        let ab = self.merge("states of its own", &[a, b])?;
        let ba = self.merge("states of its own", &[b, a])?;
        if ab != ba {
            let again = self.merge("states of its own", &[a, b])?;
            let law = if again == ab { Law::Order } else { Law::Function };
            return ensure(false, law, || both(&ab, &ba)).map(|()| ab);
        }
        let warm = self.data_type.merge(Life::Warm, &[a, b]).map_err(failed)?;
        ensure(warm.as_ref() == Ok(&ab), Law::Memory, || both(&ab, warm.as_deref().unwrap_or_default()))?;
        if a != b {
            for part in [a, b] {
                let again = self.merge("its own result", &[&ab, part])?;
                ensure(again == ab, Law::Repetition, || both(&ab, &again))?;
            }
        }
        let most = a.len() + b.len() + MERGE_SLACK_BYTES;
        let reason = || format!("{} and {} bytes make {}", a.len(), b.len(), ab.len());
        ensure(ab.len() <= most, Law::Growth, reason)?;
        self.accepts("a merged state", &ab)?;
        self.compare(a, b, &ab)?;
        Ok(ab)
    }

    fn accepts(&self, what: &str, state: &[u8]) -> Result<(), Breach> {
        let accepted = self.data_type.validate(Life::Fresh, state).map_err(failed)?;
        let refusal = accepted.err().unwrap_or_default();
        ensure(refusal.is_empty(), Law::Validity, || format!("validate refuses {what} {}: {refusal}", show(state)))
    }

    /// Summaries, where there are some.
    fn compare(&self, a: &[u8], b: &[u8], both: &[u8]) -> Result<(), Breach> {
        for (ours, theirs) in [(a, b), (both, both)] {
            let Some(diff) = self.data_type.diff(Life::Fresh, ours, theirs) else { return Ok(()) };
            let refused = |reason| Breach { law: Law::Validity, reason };
            let Some(diff) = diff.map_err(failed)?.map_err(refused)? else {
                let reason = || format!("{} lacks something of {}, and diff is none", show(theirs), show(ours));
                ensure(theirs == both, Law::Summary, reason)?;
                continue;
            };
            let reason = || format!("diff of {} with itself is {}", show(ours), show(&diff));
            ensure(ours != theirs, Law::Summary, reason)?;
            let completed = self.merge("a diff", &[theirs, &diff])?;
            let reason = || format!("with the diff {} becomes {}, not {}", show(theirs), show(&completed), show(both));
            ensure(completed == both, Law::Summary, reason)?;
        }
        Ok(())
    }
}

fn failed(reason: String) -> Breach {
    Breach { law: Law::Answer, reason }
}

fn maybe(state: &Option<Vec<u8>>) -> String {
    state.as_deref().map_or("nothing".into(), show)
}

fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}

struct Replicas<'a, D> {
    checker: &'a Checker<'a, D>,
    states: Vec<Option<Vec<u8>>>,
    /// What the replicas would hold if deltas were sent in place of states, in another order.
    deltas: Vec<Option<Vec<u8>>>,
    counter: u64,
    now: u64,
}

impl<D: DataType> Replicas<'_, D> {
    /// All replicas hear of a delta at once, the last one first.
    fn spread(&mut self, delta: &[u8]) -> Result<(), Breach> {
        for held in self.deltas.iter_mut().rev() {
            *held = Some(match held {
                Some(state) => self.checker.merge("a delta", &[delta, state])?,
                None => delta.to_vec(),
            });
        }
        Ok(())
    }
}

impl<D: DataType> Play<Operation> for Replicas<'_, D> {
    type Mail = Option<Vec<u8>>;
    type Stop = Breach;

    fn write(&mut self, at: u8, Operation { op, later }: &Operation) -> Result<(), Breach> {
        let Checker { data_type, writes, refused } = self.checker;
        self.counter += 1;
        self.now += later;
        writes.set(writes.get() + 1);
        let old = self.states[usize::from(at)].clone();
        let (node, counter) = (u64::from(at) + 1, self.counter);
        let update = Update { node, incarnation: 1, counter, now: self.now, state: old.as_deref(), op };
        let effect = data_type.update(Life::Fresh, &update).map_err(failed)?;
        for (life, law) in [(Life::Fresh, Law::Function), (Life::Warm, Law::Memory)] {
            let again = data_type.update(life, &update).map_err(failed)?;
            ensure(again == effect, law, || format!("update: {effect:?} and {again:?}"))?;
        }
        let Ok(Effect { state, delta, .. }) = effect else {
            refused.set(refused.get() + 1);
            return Ok(());
        };
        self.checker.accepts("an updated state", &state)?;
        let most = old.as_ref().map_or(0, Vec::len) + 4 * op.len() + UPDATE_SLACK_BYTES;
        ensure(state.len() <= most, Law::Growth, || format!("{} bytes after an update", state.len()))?;
        if let Some(old) = &old {
            let inflated = self.checker.merge("a state and its successor", &[old, &state])?;
            let reason = || format!("{} becomes {}, their merge is {}", show(old), show(&state), show(&inflated));
            ensure(inflated == state, Law::Inflation, reason)?;
        }
        if let Some(delta) = &delta {
            self.checker.accepts("a delta", delta)?;
            let parts: Vec<&[u8]> = old.iter().map(Vec::as_slice).chain([delta.as_slice()]).collect();
            let grown = self.checker.merge("a delta", &parts)?;
            let reason = || format!("{} and {} make {}, not {}", maybe(&old), show(delta), show(&grown), show(&state));
            ensure(grown == state, Law::Delta, reason)?;
        }
        let same = self.checker.merge("a state twice", &[&state, &state])?;
        ensure(same == state, Law::Repetition, || format!("{} twice is {}", show(&state), show(&same)))?;
        self.spread(delta.as_ref().unwrap_or(&state))?;
        self.states[usize::from(at)] = Some(state);
        Ok(())
    }

    fn mail(&self, from: u8) -> Option<Vec<u8>> {
        self.states[usize::from(from)].clone()
    }

    fn receive(&mut self, to: u8, mail: &Option<Vec<u8>>) -> Result<(), Breach> {
        let Some(theirs) = mail else { return Ok(()) };
        let held = &mut self.states[usize::from(to)];
        let joined = match held.as_deref() {
            Some(ours) if ours == theirs => return Ok(()),
            Some(ours) => self.checker.join(ours, theirs)?,
            None => theirs.clone(),
        };
        *held = Some(joined);
        self.grouped()
    }
}

impl<D: DataType> Replicas<'_, D> {
    /// Three states, merged from the left, from the right, and all at once.
    fn grouped(&self) -> Result<(), Breach> {
        let mut states: Vec<&[u8]> = self.states.iter().flatten().map(Vec::as_slice).collect();
        states.sort_unstable();
        states.dedup();
        let [a, b, c, ..] = states[..] else { return Ok(()) };
        let left = self.checker.merge("its own result", &[&self.checker.merge("states", &[a, b])?, c])?;
        let right = self.checker.merge("its own result", &[a, &self.checker.merge("states", &[b, c])?])?;
        let at_once = self.checker.merge("three states", &[a, b, c])?;
        let reason = || {
            let (left, right, at_once) = (show(&left), show(&right), show(&at_once));
            format!("a = {}, b = {}, c = {}: {left}, {right} and {at_once}", show(a), show(b), show(c))
        };
        ensure(left == right && right == at_once, Law::Grouping, reason)
    }
}

/// Simpler operations in place of one.
fn simpler(Operation { op, later }: &Operation) -> Vec<Operation> {
    let mut simpler = Vec::new();
    if *later > 0 {
        simpler.push(Operation { op: op.clone(), later: 0 });
    }
    for shorter in [&op[..0], &op[..op.len() / 2], &op[..op.len().saturating_sub(1)]] {
        if shorter.len() < op.len() {
            simpler.push(Operation { op: shorter.to_vec(), later: *later });
        }
    }
    simpler
}

fn describe(Operation { op, later }: &Operation) -> String {
    let later = if *later > 0 { format!(" ({later} ticks later)") } else { String::new() };
    format!("applies {}{later}", show(op))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    /// A data type of text, by an update and a merge of two states.
    struct By<U, M>(U, M);

    impl<U, M> DataType for By<U, M>
    where
        U: Fn(&Update<'_>) -> String,
        M: Fn(&str, &str) -> String,
    {
        fn update(&self, _: Life, update: &Update<'_>) -> Said<Effect> {
            Ok(Ok(Effect { state: (self.0)(update).into_bytes(), delta: None, reply: None }))
        }
        fn merge(&self, _: Life, states: &[&[u8]]) -> Said<Vec<u8>> {
            let mut states = states.iter().map(|state| text(state).to_owned());
            let first = states.next().unwrap_or_default();
            Ok(Ok(states.fold(first, |a, b| (self.1)(&a, &b)).into_bytes()))
        }
        fn query(&self, _: Life, state: &[u8], _: &[u8]) -> Said<Vec<u8>> {
            Ok(Ok(state.to_vec()))
        }
        fn validate(&self, _: Life, state: &[u8]) -> Said<()> {
            Ok(std::str::from_utf8(state).map(drop).map_err(|error| error.to_string()))
        }
        fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String> {
            Ok(Some((seed % 5).to_string().into_bytes()))
        }
    }

    fn text(state: &[u8]) -> &str {
        std::str::from_utf8(state).unwrap_or_default()
    }

    fn number(state: &str) -> u64 {
        state.parse().unwrap_or(0)
    }

    fn old<'a>(update: &Update<'a>) -> &'a str {
        update.state.map_or("", text)
    }

    /// The law that a type breaks, by a history that fits a screen and that its seed alone finds again.
    fn law(update: impl Fn(&Update<'_>) -> String, merge: impl Fn(&str, &str) -> String) -> Law {
        let by = By(update, merge);
        let broken = check_data_type(&by, &Options::default()).expect_err("it breaks a law");
        assert!(broken.history.lines().count() <= 6, "{broken}");
        let again = check_data_type(&by, &Options { seed: broken.seed, cases: 1 });
        assert!(again.is_err(), "the seed {} does not find it again", broken.seed);
        broken.law
    }

    /// `node:count` pairs, as a counter that only grows keeps them.
    fn counts(state: &str) -> BTreeMap<u64, u64> {
        let pair = |pair: &str| pair.split_once(':').map(|(node, count)| (number(node), number(count)));
        state.split(',').filter_map(pair).collect()
    }

    fn written(counts: &BTreeMap<u64, u64>) -> String {
        counts.iter().map(|(node, count)| format!("{node}:{count}")).collect::<Vec<_>>().join(",")
    }

    fn joined(a: &str, b: &str) -> String {
        let mut counts = counts(a);
        for (node, count) in self::counts(b) {
            let held = counts.entry(node).or_default();
            *held = count.max(*held);
        }
        written(&counts)
    }

    fn counted(update: &Update<'_>) -> String {
        let mut counts = counts(old(update));
        *counts.entry(update.node).or_default() += number(text(update.op));
        written(&counts)
    }

    #[test]
    fn a_counter_with_an_entry_per_node_keeps_the_laws() {
        struct Counter;
        impl DataType for Counter {
            fn update(&self, _: Life, update: &Update<'_>) -> Said<Effect> {
                let delta = counts(&counted(update)).remove(&update.node).map(|n| format!("{}:{n}", update.node));
                let delta = delta.map(String::into_bytes);
                Ok(Ok(Effect { state: counted(update).into_bytes(), delta, reply: None }))
            }
            fn merge(&self, life: Life, states: &[&[u8]]) -> Said<Vec<u8>> {
                By(counted, joined).merge(life, states)
            }
            fn query(&self, _: Life, state: &[u8], _: &[u8]) -> Said<Vec<u8>> {
                Ok(Ok(counts(text(state)).values().sum::<u64>().to_string().into_bytes()))
            }
            fn validate(&self, _: Life, state: &[u8]) -> Said<()> {
                let sound = written(&counts(text(state))).as_bytes() == state;
                Ok(if sound { Ok(()) } else { Err("no counter".into()) })
            }
            fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String> {
                Ok(Some((seed % 5).to_string().into_bytes()))
            }
        }
        let passed = check_data_type(&Counter, &Options::default()).unwrap_or_else(|broken| panic!("{broken}"));
        assert!(passed.writes > 1_000 && passed.refused == 0, "{passed:?}");
    }

    #[test]
    fn a_counter_that_adds_up_is_caught() {
        let add = |a: &str, b: &str| (number(a) + number(b)).to_string();
        assert!(matches!(
            law(|u| (number(old(u)) + number(text(u.op))).to_string(), add),
            Law::Inflation | Law::Repetition
        ));
    }

    #[test]
    fn keep_mine_is_caught() {
        assert!(matches!(law(|u| text(u.op).to_owned(), |a, _| a.to_owned()), Law::Inflation | Law::Order));
        assert_eq!(
            law(|u| format!("{}{}", old(u), text(u.op)), |a, b| if b.starts_with(a) { b } else { a }.to_owned()),
            Law::Order
        );
    }

    #[test]
    fn concatenation_is_caught() {
        assert!(matches!(law(|u| text(u.op).to_owned(), |a, b| format!("{a}{b}")), Law::Inflation | Law::Repetition));
    }

    #[test]
    fn a_removal_without_a_trace_is_caught() {
        let letters = |a: &str, b: &str| {
            let set: std::collections::BTreeSet<char> = a.chars().chain(b.chars()).collect();
            set.into_iter().collect::<String>()
        };
        let toggle = |u: &Update<'_>| {
            let (state, op) = (old(u), text(u.op));
            if state.contains(op) { state.replace(op, "") } else { letters(state, op) }
        };
        assert_eq!(law(toggle, letters), Law::Inflation);
    }

    #[test]
    fn the_order_of_a_hash_map_is_caught() {
        let merge = |a: &str, b: &str| {
            let set: HashSet<char> = a.chars().chain(b.chars()).collect();
            set.into_iter().collect::<String>()
        };
        let law = law(move |u| merge(old(u), text(u.op)), merge);
        assert!(matches!(law, Law::Function | Law::Memory | Law::Inflation | Law::Repetition | Law::Order), "{law}");
    }

    #[test]
    fn a_state_that_grows_without_end_is_caught() {
        let longer = |a: &str, b: &str| if a.len() >= b.len() { a.to_owned() } else { b.to_owned() };
        assert_eq!(law(|u| format!("{}{}", old(u), "x".repeat(20_000)), longer), Law::Growth);
    }
}
