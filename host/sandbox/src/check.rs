//! What a plugin's author and a cluster want to know of a component before they trust it: does it keep the laws, and
//! what does it cost.

use crate::data_type::{self, DataType, DataTypeError, Effect};
use crate::resolver::{self, Answer as Metadata, Moment, Outcome, Resolver};
use crate::siblings::Values;
use bytes::Bytes;
use mks_laws::{Answer, Life, Update, Version};
use mks_logic::id::{Dot, Incarnation, NodeId};
use mks_logic::port::{Columns, ResolveError, Verdict};
use mks_logic::time::Hlc;
use std::cell::RefCell;
use std::time::{Duration, Instant};

pub use mks_laws::{Broken, Law, Options, Passed};

/// Looks for a history in which a resolver breaks a law. 10,000 cases of a Rust resolver take one to two seconds.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn resolver(resolver: &Resolver, options: &Options) -> Result<Passed, Box<Broken>> {
    mks_laws::check_resolver(
        &TestedResolver { resolver, warm: RefCell::default(), sampler: RefCell::default() },
        options,
    )
}

/// Looks for a history in which a data type breaks a law.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn data_type(data_type: &DataType, options: &Options) -> Result<Passed, Box<Broken>> {
    let tested = TestedDataType { data_type, warm: RefCell::default(), sampler: RefCell::default() };
    mks_laws::check_data_type(&tested, options)
}

/// One call, many times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figure {
    /// What was called.
    pub call: &'static str,
    /// The median time of one, nanoseconds; of a batch, that of one conflict.
    pub median_ns: u64,
}

/// What a plugin costs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Calls in fresh instances, as a node makes them.
    pub calls: Vec<Figure>,
    /// Memory of one instance after a call, bytes.
    pub memory_bytes: usize,
}

/// Conflicts of a batch that is measured.
const BATCH: usize = 100;

/// Measures a resolver for about `each` per call.
///
/// # Errors
/// When it fails.
pub fn measure_resolver(resolver: &Resolver, each: Duration) -> Result<Figures, String> {
    let text = |error: ResolveError| error.to_string();
    let mut random = mks_laws::Random::new(1);
    let mut instance = resolver.instantiate()?;
    let mut sampler = resolver.instantiate()?;
    let mut version = |node| -> Result<Version, String> {
        let value = resolver.sample_in(&mut sampler, random.bits())?.unwrap_or_else(|| random.value());
        Ok(Version { node, incarnation: 1, counter: 1, written: 1_000 + random.below(9), tombstone: false, value })
    };
    let conflict = [version(1)?, version(2)?];
    let conflicts: Vec<&[Version]> = vec![&conflict[..]; BATCH];
    let (one, many) = (columns(&conflicts[..1]), columns(&conflicts));
    resolver.ask_in(&mut instance, &many).map_err(text)?;
    let mut calls = vec![
        Figure { call: "one conflict by metadata", median_ns: median(each, || resolver.ask(&one).map_err(text))? },
        Figure {
            call: "each of 100 conflicts by metadata",
            median_ns: median(each, || resolver.ask(&many).map_err(text))? / BATCH as u64,
        },
    ];
    if resolver.sees_values() {
        let values = values(&conflict);
        resolver.by_value_in(&mut instance, &one, values.clone()).map_err(text)?;
        let median_ns = median(each, || resolver.by_value(&one, values.clone()).map_err(text))?;
        calls.push(Figure { call: "one conflict by value", median_ns });
    }
    Ok(Figures { calls, memory_bytes: instance.memory_bytes() })
}

/// Measures a data type for about `each` per call.
///
/// # Errors
/// When it fails, or refuses every operation.
pub fn measure_data_type(data_type: &DataType, each: Duration) -> Result<Figures, String> {
    /// Operations that make the state that is measured.
    const OPS: u64 = 64;
    let text = |error: DataTypeError| error.to_string();
    let tested = TestedDataType { data_type, warm: RefCell::default(), sampler: RefCell::default() };
    let mut random = mks_laws::Random::new(1);
    let mut instance = data_type.instantiate()?;
    let mut states: [Option<Vec<u8>>; 2] = [None, None];
    let mut last_op = Vec::new();
    for counter in 1..=OPS {
        let at = usize::try_from(counter % 2).unwrap_or(0);
        let op = mks_laws::DataType::sample(&tested, random.bits())?.unwrap_or_else(|| random.value());
        let dot = Dot { node: NodeId(at as u64 + 1), incarnation: Incarnation(1), counter };
        match data_type.update_in(&mut instance, dot, Hlc(counter << 16), states[at].as_deref(), &op) {
            Ok(Effect { state, .. }) => (states[at], last_op) = (Some(state), op),
            Err(DataTypeError::Refused(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let [Some(a), Some(b)] = &states else { return Err("it refuses every operation: export a `sample`".into()) };
    let dot = Dot { node: NodeId(1), incarnation: Incarnation(1), counter: OPS + 1 };
    let now = Hlc((OPS + 1) << 16);
    let update = || data_type.update(dot, now, Some(a), &last_op).map_err(text);
    let calls = vec![
        Figure { call: "update", median_ns: median(each, update)? },
        Figure { call: "merge of two states", median_ns: median(each, || data_type.merge(&[a, b]).map_err(text))? },
        Figure { call: "query", median_ns: median(each, || data_type.query(a, b"").map_err(text))? },
        Figure { call: "validate", median_ns: median(each, || data_type.validate(a).map_err(text))? },
    ];
    Ok(Figures { calls, memory_bytes: instance.memory_bytes() })
}

/// The median time of a call, nanoseconds.
fn median<T>(for_about: Duration, mut call: impl FnMut() -> Result<T, String>) -> Result<u64, String> {
    const SAMPLES_MIN: usize = 11;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < SAMPLES_MIN || begin.elapsed() < for_about {
        let start = Instant::now();
        call()?;
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn columns(batch: &[&[Version]]) -> Columns {
    let mut columns = Columns::default();
    for conflict in batch {
        for version in *conflict {
            let Version { node, incarnation, counter, .. } = *version;
            let dot = Dot { node: NodeId(node), incarnation: Incarnation(incarnation), counter };
            let size = u32::try_from(version.value.len()).unwrap_or(u32::MAX);
            columns.row(dot, version.written, size, version.tombstone, version.digest());
        }
        columns.close();
    }
    columns
}

fn values(conflict: &[Version]) -> Values {
    let values = conflict.iter().map(|version| Bytes::from(version.value.clone())).collect();
    Values { key: Bytes::from_static(b"key"), values }
}

/// Calls in a new instance, or in the one that is kept. After a failure the kept one is dropped.
fn live<I, T, E>(
    life: Life,
    kept: &RefCell<Option<I>>,
    new: impl FnOnce() -> Result<I, E>,
    call: impl FnOnce(&mut I) -> Result<T, E>,
) -> Result<T, E> {
    let mut instance = match life {
        Life::Warm => kept.borrow_mut().take().map_or_else(new, Ok)?,
        Life::Fresh => new()?,
    };
    let answer = call(&mut instance)?;
    if life == Life::Warm {
        *kept.borrow_mut() = Some(instance);
    }
    Ok(answer)
}

struct TestedResolver<'a> {
    resolver: &'a Resolver,
    warm: RefCell<Option<resolver::Instance>>,
    sampler: RefCell<Option<resolver::Instance>>,
}

impl TestedResolver<'_> {
    fn live<T>(
        &self,
        life: Life,
        call: impl FnOnce(&mut resolver::Instance) -> Result<T, ResolveError>,
    ) -> Result<T, String> {
        let new = || self.resolver.instantiate().map_err(ResolveError::Failed);
        live(life, &self.warm, new, call).map_err(|error| error.to_string())
    }
}

fn row(row: u32) -> usize {
    row as usize
}

impl mks_laws::Resolver for TestedResolver<'_> {
    fn by_metadata(&self, life: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, String> {
        let columns = columns(batch);
        let answers = self.live(life, |instance| self.resolver.ask_in(instance, &columns))?;
        let answer = |answer| match answer {
            Metadata::Verdict(Verdict::Keep(kept)) => Answer::Keep(row(kept)),
            Metadata::Verdict(Verdict::KeepAll) => Answer::KeepAll,
            Metadata::AskByValue => Answer::AskByValue,
        };
        Ok(answers.into_iter().map(answer).collect())
    }

    fn by_value(&self, life: Life, conflict: &[Version]) -> Option<Result<Answer, String>> {
        if !self.resolver.sees_values() {
            return None;
        }
        let (columns, values) = (columns(&[conflict]), values(conflict));
        let outcome = self.live(life, |instance| self.resolver.by_value_in(instance, &columns, values));
        Some(outcome.map(|outcome| match outcome {
            Outcome::Keep(kept) => Answer::Keep(row(kept)),
            Outcome::KeepSome(kept) => Answer::KeepSome(kept.into_iter().map(row).collect()),
            Outcome::KeepAll => Answer::KeepAll,
            Outcome::Merged(value) => Answer::Merged(value),
        }))
    }

    fn settles_at_read(&self) -> bool {
        self.resolver.moment() == Moment::AtRead
    }

    fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String> {
        let new = || self.resolver.instantiate();
        live(Life::Warm, &self.sampler, new, |instance| self.resolver.sample_in(instance, seed))
    }
}

struct TestedDataType<'a> {
    data_type: &'a DataType,
    warm: RefCell<Option<data_type::Instance>>,
    sampler: RefCell<Option<data_type::Instance>>,
}

impl TestedDataType<'_> {
    fn live<T>(
        &self,
        life: Life,
        call: impl FnOnce(&mut data_type::Instance) -> Result<T, DataTypeError>,
    ) -> Result<Result<T, String>, String> {
        let new = || self.data_type.instantiate().map_err(DataTypeError::Failed);
        // A refusal is an answer: the instance that gave it stays.
        let call = |instance: &mut data_type::Instance| match call(instance) {
            Ok(answer) => Ok(Ok(answer)),
            Err(DataTypeError::Refused(reason)) => Ok(Err(reason)),
            Err(error) => Err(error),
        };
        live(life, &self.warm, new, call).map_err(|error| error.to_string())
    }
}

impl mks_laws::DataType for TestedDataType<'_> {
    fn update(&self, life: Life, update: &Update<'_>) -> Result<Result<mks_laws::Effect, String>, String> {
        let Update { node, incarnation, counter, now, state, op } = *update;
        let dot = Dot { node: NodeId(node), incarnation: Incarnation(incarnation), counter };
        let effect = self.live(life, |instance| self.data_type.update_in(instance, dot, Hlc(now), state, op))?;
        Ok(effect.map(|Effect { state, delta, reply }| mks_laws::Effect { state, delta, reply }))
    }

    fn merge(&self, life: Life, states: &[&[u8]]) -> Result<Result<Vec<u8>, String>, String> {
        self.live(life, |instance| self.data_type.merge_in(instance, states))
    }

    fn query(&self, life: Life, state: &[u8], question: &[u8]) -> Result<Result<Vec<u8>, String>, String> {
        self.live(life, |instance| self.data_type.query_in(instance, state, question))
    }

    fn validate(&self, life: Life, state: &[u8]) -> Result<Result<(), String>, String> {
        self.live(life, |instance| self.data_type.validate_in(instance, state))
    }

    fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String> {
        let new = || self.data_type.instantiate();
        let call = |instance: &mut data_type::Instance| {
            self.data_type.sample_in(instance, seed).map_err(|error| error.to_string())
        };
        live(Life::Warm, &self.sampler, new, call)
    }

    fn diff(&self, life: Life, ours: &[u8], theirs: &[u8]) -> Option<Result<Result<Option<Vec<u8>>, String>, String>> {
        self.data_type.has_summaries().then(|| {
            self.live(life, |instance| {
                let summary = self.data_type.summary_in(instance, theirs)?;
                self.data_type.diff_in(instance, ours, &summary)
            })
        })
    }
}
