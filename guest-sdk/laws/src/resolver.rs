//! The laws of resolvers, over histories of writes that know nothing of each other.

use crate::history::{History, Play, name};
use crate::law::{Breach, Broken, Law, Life, Options, Passed, ensure, show};
use crate::random::Random;
use crate::shrink::shrink;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// A merged value may be longer than all values together by this much, bytes.
const MERGED_SLACK_BYTES: usize = 64 << 10;
/// Versions that are kept from earlier cases, to ask about beside a new conflict.
const OTHERS_MAX: usize = 8;

/// (node, incarnation, counter)
type Dot = (u64, u64, u64);

/// One version of a key, as a resolver may see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The node that coordinated the write.
    pub node: u64,
    /// Which opening of that node's data directory.
    pub incarnation: u64,
    /// The number of the write within that opening.
    pub counter: u64,
    /// Hybrid logical clock.
    pub written: u64,
    /// The version is a delete.
    pub tombstone: bool,
    /// The value; empty for a delete.
    pub value: Vec<u8>,
}

impl Version {
    /// A stand-in for the hash that nodes use: equal values, equal digests.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        Random::new(self.value.iter().fold(0xCBF2_9CE4_8422_2325, fold)).bits()
    }

    fn dot(&self) -> Dot {
        (self.node, self.incarnation, self.counter)
    }
}

/// What to do with a conflict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Keep this version alone, by its position.
    Keep(usize),
    /// Keep these, in ascending order.
    KeepSome(Vec<usize>),
    /// Keep all.
    KeepAll,
    /// A new value in place of all of them.
    Merged(Vec<u8>),
    /// By metadata only: the values must be seen.
    AskByValue,
}

/// A resolver under test. The outer error is a failure of the component: a trap, a timeout, nonsense.
pub trait Resolver {
    /// One answer per conflict; each conflict's versions are in the order of their dots.
    ///
    /// # Errors
    /// What the component failed of.
    fn by_metadata(&self, life: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, String>;

    /// `None` when it looks at metadata only.
    ///
    /// # Errors
    /// What the component failed of.
    fn by_value(&self, life: Life, conflict: &[Version]) -> Option<Result<Answer, String>>;

    /// Siblings stay stored and are settled for readers, so that order and grouping can't show.
    fn settles_at_read(&self) -> bool;

    /// A value such as clients write.
    ///
    /// # Errors
    /// What the component failed of.
    fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String>;
}

/// Looks for a history that breaks a law.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn check_resolver(resolver: &impl Resolver, options: &Options) -> Result<Passed, Box<Broken>> {
    let checker = Checker { resolver, others: RefCell::default(), writes: Cell::new(0) };
    for case in 0..options.cases {
        let seed = options.seed.wrapping_add(case.into());
        let history = checker.generate(seed);
        if let Err(breach) = checker.run(&history) {
            // Asked beside other conflicts than those of earlier cases, so that the seed alone finds it again.
            checker.others.borrow_mut().clear();
            let breach = checker.run(&history).err().unwrap_or(breach);
            return Err(Box::new(shrink((history, breach), seed, simpler, describe, |history| {
                checker.run(history).err()
            })));
        }
    }
    Ok(Passed { cases: options.cases, refused: 0, writes: checker.writes.get() })
}

struct Checker<'a, R> {
    resolver: &'a R,
    /// Conflicts of earlier cases.
    others: RefCell<Vec<Vec<Version>>>,
    writes: Cell<u64>,
}

impl<R: Resolver> Checker<'_, R> {
    fn generate(&self, seed: u64) -> History<Version> {
        let mut random = Random::new(seed);
        let mut counters = BTreeMap::new();
        History::generate(&mut random, |random, at| {
            // Few nodes, clocks and values, so that ties are common.
            let (node, incarnation) = (1 + random.below(3), 1 + random.below(2));
            let counter = counters.entry((node, incarnation)).or_insert(0);
            *counter += 1 + random.below(2);
            let tombstone = random.one_in(8);
            let sample = if random.one_in(4) { None } else { self.resolver.sample(random.bits()).ok().flatten() };
            let value = sample.unwrap_or_else(|| random.value());
            Version {
                node,
                incarnation,
                counter: *counter,
                written: 1_000 + random.below(4) + u64::from(at % 2),
                tombstone,
                value: if tombstone { Vec::new() } else { value },
            }
        })
    }

    fn run(&self, history: &History<Version>) -> Result<(), Breach> {
        let mut all: Vec<Version> = history.writes().map(|(_, version)| version.clone()).collect();
        self.writes.set(self.writes.get() + all.len() as u64);
        all.sort_by_key(Version::dot);
        if all.len() < 2 {
            return Ok(());
        }
        let once = self.alone(&all)?;
        self.beside_others(&all)?;
        if self.resolver.settles_at_read() {
            return Ok(());
        }
        let mut replicas = Replicas { checker: self, records: vec![Record::default(); history.replicas.into()] };
        replicas.play(history)?;
        let shown: Vec<String> = replicas.records.iter().map(Record::show).collect();
        if let Some(other) = shown.iter().position(|other| *other != shown[0]) {
            let reason = || format!("A ends with {}, {} with {}", shown[0], name(small(other)), shown[other]);
            return ensure(false, Law::Convergence, reason);
        }
        let mut whole = Record::default();
        all.iter().for_each(|version| whole.add(version));
        whole.apply(&all, &once);
        let reason = || format!("merged step by step it is {}, all at once {}", shown[0], whole.show());
        ensure(whole.show() == shown[0], Law::Grouping, reason)
    }

    /// Everything that is promised about one conflict by itself.
    fn alone(&self, conflict: &[Version]) -> Result<Answer, Breach> {
        let fresh = self.settle(Life::Fresh, conflict)?;
        let again = self.settle(Life::Fresh, conflict)?;
        ensure(again == fresh, Law::Function, || format!("once {fresh:?}, once {again:?}"))?;
        for _ in 0..2 {
            let warm = self.settle(Life::Warm, conflict)?;
            let reason = || format!("a fresh instance answers {fresh:?}, one that was asked before {warm:?}");
            ensure(warm == fresh, Law::Memory, reason)?;
        }
        let metadata = self.by_metadata(Life::Fresh, &[conflict])?.remove(0);
        let settled = metadata != Answer::AskByValue;
        if let Some(by_value) = settled.then(|| self.resolver.by_value(Life::Fresh, conflict)).flatten() {
            let by_value = by_value.map_err(failed)?;
            let reason = || format!("by metadata {metadata:?}, by value {by_value:?}");
            ensure(by_value == metadata, Law::Agreement, reason)?;
        }
        Ok(fresh)
    }

    /// The same conflict in a batch with others.
    fn beside_others(&self, conflict: &[Version]) -> Result<(), Breach> {
        let alone = self.by_metadata(Life::Fresh, &[conflict])?;
        let mut others = self.others.borrow_mut();
        // With no others yet, the conflict itself stands beside what is left of it.
        let mut batch: Vec<&[Version]> = others.iter().map(Vec::as_slice).collect();
        batch.push(&conflict[..conflict.len() - 1]);
        batch.push(conflict);
        let answers = self.by_metadata(Life::Fresh, &batch)?;
        let last = answers.last();
        let reason = || format!("alone {:?}, as the last of {} conflicts {last:?}", alone[0], batch.len());
        ensure(last == alone.first(), Law::Batch, reason)?;
        if others.len() < OTHERS_MAX {
            others.push(conflict.to_vec());
        } else {
            let at = conflict.len() % OTHERS_MAX;
            others[at] = conflict.to_vec();
        }
        Ok(())
    }

    fn by_metadata(&self, life: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, Breach> {
        let answers = self.resolver.by_metadata(life, batch).map_err(failed)?;
        let count = || format!("{} answers to {} conflicts", answers.len(), batch.len());
        ensure(answers.len() == batch.len(), Law::Answer, count)?;
        for (answer, conflict) in answers.iter().zip(batch) {
            check(answer, conflict)?;
        }
        Ok(answers)
    }

    /// The outcome, by value where metadata is not enough.
    fn settle(&self, life: Life, conflict: &[Version]) -> Result<Answer, Breach> {
        let answer = self.by_metadata(life, &[conflict])?.remove(0);
        if answer != Answer::AskByValue {
            return Ok(answer);
        }
        let no_values = || Err("it asks for values and has no by-value".to_owned());
        let answer = self.resolver.by_value(life, conflict).unwrap_or_else(no_values).map_err(failed)?;
        ensure(answer != Answer::AskByValue, Law::Answer, || "by-value asks for values again".into())?;
        check(&answer, conflict)?;
        Ok(answer)
    }
}

fn failed(reason: String) -> Breach {
    Breach { law: Law::Answer, reason }
}

/// An answer names what is there, and a merged value keeps its bound.
fn check(answer: &Answer, conflict: &[Version]) -> Result<(), Breach> {
    let there = |row: &usize| *row < conflict.len();
    let sound = match answer {
        Answer::Keep(row) => there(row),
        Answer::KeepSome(rows) => {
            !rows.is_empty() && rows.iter().all(there) && rows.windows(2).all(|pair| pair[0] < pair[1])
        }
        Answer::KeepAll | Answer::AskByValue | Answer::Merged(_) => true,
    };
    ensure(sound, Law::Answer, || format!("{answer:?} of {} versions", conflict.len()))?;
    let Answer::Merged(bytes) = answer else { return Ok(()) };
    let most = conflict.iter().map(|version| version.value.len()).sum::<usize>() + MERGED_SLACK_BYTES;
    ensure(bytes.len() <= most, Law::Growth, || format!("{} bytes, the most is {most}", bytes.len()))
}

/// What a replica holds: versions by the dots they stand for, and every dot it has heard of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Record {
    versions: BTreeMap<BTreeSet<Dot>, BTreeMap<Vec<u8>, Version>>,
    heard: BTreeSet<Dot>,
}

impl Record {
    fn add(&mut self, version: &Version) {
        let dots = BTreeSet::from([version.dot()]);
        self.heard.insert(version.dot());
        self.versions.entry(dots).or_default().insert(version.value.clone(), version.clone());
    }

    /// In the order of their dots, as a node hands them over.
    fn rows(&self) -> Vec<(BTreeSet<Dot>, Version)> {
        let mut rows: Vec<_> = Vec::new();
        for (dots, versions) in &self.versions {
            rows.extend(versions.values().map(|version| (dots.clone(), version.clone())));
        }
        rows.sort_by(|(_, a), (_, b)| (a.dot(), &a.value).cmp(&(b.dot(), &b.value)));
        rows
    }

    /// What `theirs` has superseded goes; what they have and we have not superseded comes.
    fn join(&mut self, theirs: &Self) {
        let keeps =
            |dots: &BTreeSet<Dot>, other: &Self| other.versions.contains_key(dots) || !dots.is_subset(&other.heard);
        self.versions.retain(|dots, _| keeps(dots, theirs));
        for (dots, versions) in &theirs.versions {
            if self.versions.contains_key(dots) || !dots.is_subset(&self.heard) {
                self.versions.entry(dots.clone()).or_default().extend(versions.clone());
            }
        }
        self.heard.extend(&theirs.heard);
    }

    /// Keeps what the answer says of `rows`, which are all of this record's.
    fn apply(&mut self, conflict: &[Version], answer: &Answer) {
        let rows = self.rows();
        debug_assert_eq!(rows.len(), conflict.len());
        let kept: Vec<usize> = match answer {
            Answer::Keep(row) => vec![*row],
            Answer::KeepSome(kept) => kept.clone(),
            Answer::KeepAll | Answer::AskByValue => return,
            Answer::Merged(value) => return self.merge(rows, value),
        };
        self.versions.clear();
        for (dots, version) in kept.into_iter().filter_map(|row| rows.get(row)) {
            self.versions.entry(dots.clone()).or_default().insert(version.value.clone(), version.clone());
        }
    }

    fn merge(&mut self, rows: Vec<(BTreeSet<Dot>, Version)>, value: &[u8]) {
        let dots: BTreeSet<Dot> = rows.iter().flat_map(|(dots, _)| dots.iter().copied()).collect();
        let newest =
            rows.into_iter().map(|(_, version)| version).max_by_key(|version| (version.written, version.dot()));
        let Some(newest) = newest else { return };
        let merged = Version { value: value.to_vec(), tombstone: false, ..newest };
        self.versions.clear();
        self.versions.entry(dots).or_default().insert(value.to_vec(), merged);
    }

    fn show(&self) -> String {
        let one = |(dots, version): &(BTreeSet<Dot>, Version)| {
            let dots: Vec<String> = dots.iter().map(|(n, i, c)| format!("{n}.{i}.{c}")).collect();
            let value = if version.tombstone { "a delete".to_owned() } else { show(&version.value) };
            format!("{value} ({})", dots.join(" "))
        };
        let mut rows = self.rows();
        rows.sort_by(|(a, v), (b, w)| (a, &v.value).cmp(&(b, &w.value)));
        format!("[{}]", rows.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

struct Replicas<'a, R> {
    checker: &'a Checker<'a, R>,
    records: Vec<Record>,
}

impl<R: Resolver> Replicas<'_, R> {
    fn settle(&mut self, at: u8) -> Result<(), Breach> {
        let record = &mut self.records[usize::from(at)];
        let conflict: Vec<Version> = record.rows().into_iter().map(|(_, version)| version).collect();
        if conflict.len() > 1 {
            let answer = self.checker.settle(Life::Fresh, &conflict)?;
            record.apply(&conflict, &answer);
        }
        Ok(())
    }
}

impl<R: Resolver> Play<Version> for Replicas<'_, R> {
    type Mail = Record;
    type Stop = Breach;

    fn write(&mut self, at: u8, version: &Version) -> Result<(), Breach> {
        self.records[usize::from(at)].add(version);
        self.settle(at)
    }

    fn mail(&self, from: u8) -> Record {
        self.records[usize::from(from)].clone()
    }

    fn receive(&mut self, to: u8, mail: &Record) -> Result<(), Breach> {
        self.records[usize::from(to)].join(mail);
        self.settle(to)
    }
}

fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}

/// Simpler writes in place of one.
fn simpler(version: &Version) -> Vec<Version> {
    let mut simpler = Vec::new();
    if version.tombstone {
        simpler.push(Version { tombstone: false, ..version.clone() });
    }
    if version.written != 1_000 {
        simpler.push(Version { written: 1_000, ..version.clone() });
    }
    for value in [&b""[..], b"a", b"b", &version.value[..version.value.len() / 2]] {
        let shorter = (value.len(), value) < (version.value.len(), &version.value);
        if !version.tombstone && shorter {
            simpler.push(Version { value: value.to_vec(), ..version.clone() });
        }
    }
    simpler
}

fn describe(version: &Version) -> String {
    let Version { node, incarnation, counter, written, tombstone, value } = version;
    let what = if *tombstone { "deletes".to_owned() } else { format!("writes {}", show(value)) };
    format!("{what} (dot {node}.{incarnation}.{counter}, clock {written})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resolver by a function over one conflict, with a memory of its own.
    struct By<F>(F);

    impl<F: Fn(Life, &[Version]) -> Answer> Resolver for By<F> {
        fn by_metadata(&self, _: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, String> {
            Ok(vec![Answer::AskByValue; batch.len()])
        }
        fn by_value(&self, life: Life, conflict: &[Version]) -> Option<Result<Answer, String>> {
            Some(Ok((self.0)(life, conflict)))
        }
        fn settles_at_read(&self) -> bool {
            false
        }
        fn sample(&self, _: u64) -> Result<Option<Vec<u8>>, String> {
            Ok(None)
        }
    }

    fn max_by<K: Ord>(conflict: &[Version], key: impl Fn(&Version) -> K) -> Answer {
        let row = (0..conflict.len()).max_by_key(|&row| (key(&conflict[row]), conflict[row].dot()));
        Answer::Keep(row.expect("a conflict has versions"))
    }

    fn broken(answer: impl Fn(Life, &[Version]) -> Answer) -> Broken {
        *check_resolver(&By(answer), &Options::default()).expect_err("it breaks a law")
    }

    fn passes(answer: impl Fn(Life, &[Version]) -> Answer) {
        if let Err(broken) = check_resolver(&By(answer), &Options::default()) {
            panic!("{broken}");
        }
    }

    #[test]
    fn total_orders_keep_the_laws() {
        passes(|_, conflict| max_by(conflict, |version| version.written));
        passes(|_, conflict| max_by(conflict, |version| version.value.len()));
        passes(|_, _| Answer::KeepAll);
        passes(|_, _| Answer::Keep(0));
    }

    #[test]
    fn unions_and_the_best_few_keep_the_laws() {
        passes(|_, conflict| {
            let lines: BTreeSet<&[u8]> = conflict.iter().flat_map(|v| v.value.split(|&byte| byte == b'\n')).collect();
            Answer::Merged(lines.into_iter().collect::<Vec<_>>().join(&b'\n'))
        });
        passes(|_, conflict| {
            let most = conflict.iter().map(|version| version.written).max();
            Answer::KeepSome((0..conflict.len()).filter(|&row| Some(conflict[row].written) == most).collect())
        });
    }

    #[test]
    fn concatenation_is_caught_with_a_history_that_fits_a_screen() {
        let broken =
            broken(|_, conflict| Answer::Merged(conflict.iter().flat_map(|version| version.value.clone()).collect()));
        assert!(matches!(broken.law, Law::Convergence | Law::Grouping), "{broken}");
        assert!(broken.history.lines().count() <= 6, "{broken}");
    }

    #[test]
    fn an_average_and_a_vote_are_caught() {
        let middle = broken(|_, conflict| Answer::Keep(conflict.len() / 2));
        assert!(matches!(middle.law, Law::Convergence | Law::Grouping), "{middle}");
        let hashed = broken(|_, conflict| {
            let sum = conflict.iter().fold(0u64, |sum, version| sum.wrapping_add(version.digest()));
            Answer::Keep((sum % conflict.len() as u64) as usize)
        });
        assert!(matches!(hashed.law, Law::Convergence | Law::Grouping), "{hashed}");
    }

    #[test]
    fn hidden_state_is_caught() {
        let calls = Cell::new(0);
        let counting = broken(|_, conflict| {
            calls.set(calls.get() + 1);
            Answer::Keep(calls.get() % conflict.len())
        });
        assert_eq!(counting.law, Law::Function, "{counting}");
        let warm = broken(|life, conflict| match life {
            Life::Fresh => max_by(conflict, |version| version.written),
            Life::Warm => max_by(conflict, |version| u64::MAX - version.written),
        });
        assert_eq!(warm.law, Law::Memory, "{warm}");
    }

    #[test]
    fn answers_that_name_nothing_or_grow_are_caught() {
        assert_eq!(broken(|_, conflict| Answer::Keep(conflict.len())).law, Law::Answer);
        assert_eq!(broken(|_, _| Answer::KeepSome(Vec::new())).law, Law::Answer);
        assert_eq!(broken(|_, _| Answer::KeepSome(vec![1, 0])).law, Law::Answer);
        assert_eq!(broken(|_, _| Answer::Merged(vec![0; 100 << 10])).law, Law::Growth);
    }

    #[test]
    fn the_seed_of_a_counterexample_finds_it_again() {
        let middle = |_: Life, conflict: &[Version]| Answer::Keep(conflict.len() / 2);
        let found = broken(middle);
        let again = check_resolver(&By(middle), &Options { seed: found.seed, cases: 1 }).expect_err("still broken");
        assert_eq!(*again, found);
    }

    struct Batched;

    impl Resolver for Batched {
        fn by_metadata(&self, _: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, String> {
            Ok(batch.iter().enumerate().map(|(i, conflict)| Answer::Keep(i.min(conflict.len() - 1))).collect())
        }
        fn by_value(&self, _: Life, conflict: &[Version]) -> Option<Result<Answer, String>> {
            Some(Ok(Answer::Keep(conflict.len() - 1)))
        }
        fn settles_at_read(&self) -> bool {
            true
        }
        fn sample(&self, _: u64) -> Result<Option<Vec<u8>>, String> {
            Ok(None)
        }
    }

    #[test]
    fn metadata_and_values_must_agree_even_at_read() {
        let broken = check_resolver(&Batched, &Options::default()).expect_err("row 0 is not the last one");
        assert_eq!(broken.law, Law::Agreement);
    }
}
