//! Resolvers: the component, its instances, and the check of its answers.

use crate::bindings::resolver::resolve::{self, Columns as Batch};
use crate::bindings::resolver::{settle, siblings};
use crate::counters::ResolverCounters;
use crate::engine::{Deadline, Guest, SharedEngine};
use crate::error::SandboxError;
use crate::faults::Faults;
use crate::loader::{Interface, Loader, check_info};
use crate::siblings::{SLACK_BYTES, Siblings, Values};
use crossbeam_queue::ArrayQueue;
use mks_logic::port::{Columns, ResolveError, ResolverHash, Verdict};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use wasmtime::Store;
use wasmtime::component::{HasSelf, InstancePre, Linker};

/// The interface that makes a component a resolver.
pub(crate) const INTERFACE: Interface = Interface("my-key-store:resolver/resolve@0.1.1");
/// The interface of those that look at values.
const SETTLE: Interface = Interface("my-key-store:resolver/settle@0.1.1");
/// What they import for that.
pub(crate) const SIBLINGS: Interface = Interface("my-key-store:resolver/siblings@0.1.1");
/// The answer "keep them all" of the contract.
const KEEP_ALL: u32 = 0xFFFF_FFFE;
/// The answer "ask by value".
const ASK_BY_VALUE: u32 = 0xFFFF_FFFF;
/// Idle instances that one built-in resolver keeps, one for each thread that settles at the same time.
const WARM_MAX: usize = 8;

/// When a resolver wants to be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// By every owner, as soon as versions meet.
    AtWrite,
    /// For a reader; the store keeps the siblings.
    AtRead,
}

/// An answer about one conflict whose values were seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Keep this version alone: its position, from 0.
    Keep(u32),
    /// Keep these, at least one, in ascending order.
    KeepSome(Vec<u32>),
    /// Keep all of them.
    KeepAll,
    /// A new value, to be stored under the union of all dots.
    Merged(Vec<u8>),
}

/// An answer from what is known about versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Verdict(Verdict),
    /// Only by resolvers that look at values.
    AskByValue,
}

/// Whether an instance serves again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Stateless by our own word: the built-in resolvers.
    Warm,
    /// A fresh instance for every batch, so that no answer depends on what was asked before.
    Never,
}

/// A resolver that is ready to be asked.
pub struct Resolver {
    pub(crate) hash: ResolverHash,
    name: String,
    version: String,
    engine: SharedEngine,
    component: InstancePre<Guest>,
    resolve: resolve::GuestIndices,
    /// Of resolvers that look at values.
    settle: Option<settle::GuestIndices>,
    moment: Moment,
    deadline: Deadline,
    batch_rows_max: usize,
    /// Lock-free, and only ever holds instances whose last call went well. `None` for [`Reuse::Never`].
    warm: Option<ArrayQueue<Instance>>,
    pub(crate) faults: Faults,
    calls: AtomicU64,
    conflicts: AtomicU64,
    failures: AtomicU64,
    instances: AtomicU64,
}

/// One instance of a resolver.
pub(crate) struct Instance {
    store: Store<Guest>,
    resolve: resolve::Guest,
    settle: Option<settle::Guest>,
}

impl Instance {
    /// Memory that it has taken, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }
}

/// What bounds a resolver's calls.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) deadline: Deadline,
    pub(crate) batch_rows_max: usize,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("name", &self.name).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Loads a component and asks it who it is. `source` is how errors call it.
    pub(crate) fn load(
        engine: &SharedEngine,
        loader: &Loader,
        source: &str,
        bytes: &[u8],
        bounds: Bounds,
        reuse: Reuse,
    ) -> Result<Self, SandboxError> {
        let loaded = loader.load(source, bytes, Some(SIBLINGS))?;
        let whole = &loaded.component;
        let wrong = |interface| move |error: wasmtime::Error| loader.wrong_world(source, whole, interface, &error);
        let mut linker: Linker<Guest> = loader.linker();
        siblings::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |guest| guest).map_err(wrong(SIBLINGS))?;
        let component = linker.instantiate_pre(&loaded.component).map_err(wrong(INTERFACE))?;
        let resolve = resolve::GuestIndices::new(&component).map_err(wrong(INTERFACE))?;
        let sees_values = loader.exports(&loaded.component).iter().any(|export| SETTLE.names(export));
        let settle = sees_values.then(|| settle::GuestIndices::new(&component)).transpose().map_err(wrong(SETTLE))?;
        let mut resolver = Self {
            hash: ResolverHash(*loaded.hash.as_bytes()),
            name: String::new(),
            version: String::new(),
            engine: SharedEngine::clone(engine),
            component,
            resolve,
            settle,
            moment: Moment::AtWrite,
            deadline: bounds.deadline,
            batch_rows_max: bounds.batch_rows_max,
            warm: (reuse == Reuse::Warm).then(|| ArrayQueue::new(WARM_MAX)),
            faults: Faults::default(),
            calls: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            instances: AtomicU64::new(0),
        };
        let failed = |reason| SandboxError::Failed { component: source.to_owned(), reason };
        let explain = |error: wasmtime::Error| failed(Deadline::LOADING.explain(&error));
        let mut instance = resolver.instantiate_within(Deadline::LOADING).map_err(failed)?;
        let info = instance.resolve.call_describe(&mut instance.store).map_err(explain)?;
        check_info(source, &info.name, &info.version)?;
        (resolver.name, resolver.version) = (info.name, info.version);
        if let Some(settle) = &instance.settle {
            let when = settle.call_when(&mut instance.store);
            resolver.moment = match when.map_err(explain)? {
                settle::Moment::AtWrite => Moment::AtWrite,
                settle::Moment::AtRead => Moment::AtRead,
            };
        }
        resolver.put_back(instance);
        Ok(resolver)
    }

    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, for people.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// BLAKE3 of the component.
    #[must_use]
    pub fn hash(&self) -> ResolverHash {
        self.hash
    }

    /// When it wants to be asked.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Whether it may ask for values.
    #[must_use]
    pub fn sees_values(&self) -> bool {
        self.settle.is_some()
    }

    /// One verdict per conflict. A conflict whose values it wants to see keeps all versions.
    pub(crate) fn settle(&self, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        self.may_ask()?;
        let verdicts = self.rehearse(conflicts);
        self.count(conflicts.len(), verdicts.as_ref().err());
        verdicts
    }

    /// The same, and nothing of it is counted or held against it.
    pub(crate) fn rehearse(&self, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        let verdict = |answer| match answer {
            Answer::Verdict(verdict) => verdict,
            Answer::AskByValue => Verdict::KeepAll,
        };
        Ok(self.ask(conflicts)?.into_iter().map(verdict).collect())
    }

    /// Settles one conflict by its values.
    ///
    /// # Errors
    /// When it looks at no values, fails, or gives an answer that makes no sense. All versions are to be kept then.
    pub fn by_value(&self, versions: &Columns, values: Values) -> Result<Outcome, ResolveError> {
        self.may_ask()?;
        let outcome = self.rehearse_by_value(versions, values);
        self.count(1, outcome.as_ref().err());
        outcome
    }

    /// The same, and nothing of it is counted or held against it.
    pub(crate) fn rehearse_by_value(&self, versions: &Columns, values: Values) -> Result<Outcome, ResolveError> {
        // Never a warm instance: what it has read must be gone.
        let mut instance = self.instantiate().map_err(ResolveError::Failed)?;
        self.by_value_in(&mut instance, versions, values)
    }

    fn may_ask(&self) -> Result<(), ResolveError> {
        if let Some(reason) = self.faults.reason() {
            return Err(ResolveError::Failed(format!("it is not asked any more: {reason}")));
        }
        self.calls.fetch_add(1, Relaxed);
        Ok(())
    }

    fn count(&self, conflicts: usize, error: Option<&ResolveError>) {
        let Some(error) = error else {
            self.conflicts.fetch_add(conflicts as u64, Relaxed);
            return;
        };
        self.failures.fetch_add(1, Relaxed);
        // What is part of every node was checked with it, and nobody could take it away.
        if self.warm.is_none() {
            self.faults.note(Instant::now(), &error.to_string());
        }
    }

    pub(crate) fn counters(&self) -> ResolverCounters {
        ResolverCounters {
            name: self.name.clone(),
            hash: self.hash,
            calls: self.calls.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
            failures: self.failures.load(Relaxed),
            instances: self.instances.load(Relaxed),
        }
    }

    pub(crate) fn ask(&self, conflicts: &Columns) -> Result<Vec<Answer>, ResolveError> {
        let mut instance = match self.warm.as_ref().and_then(ArrayQueue::pop) {
            Some(instance) => instance,
            None => self.instantiate().map_err(ResolveError::Failed)?,
        };
        // An instance that fails here is dropped with its store: its memory may be in any state.
        let answers = self.ask_in(&mut instance, conflicts)?;
        self.put_back(instance);
        Ok(answers)
    }

    pub(crate) fn ask_in(&self, instance: &mut Instance, conflicts: &Columns) -> Result<Vec<Answer>, ResolveError> {
        let rows = conflicts.nodes.len();
        if rows > self.batch_rows_max {
            let max = self.batch_rows_max;
            return Err(ResolveError::Failed(format!("{rows} versions in one batch, and {max} are allowed")));
        }
        self.deadline.start(&mut instance.store);
        let answers = instance.resolve.call_by_metadata(&mut instance.store, batch(conflicts));
        let answers = answers.map_err(|error| ResolveError::Failed(self.deadline.explain(&error)))?;
        checked(conflicts, &answers, self.sees_values())
    }

    pub(crate) fn by_value_in(
        &self,
        instance: &mut Instance,
        versions: &Columns,
        values: Values,
    ) -> Result<Outcome, ResolveError> {
        let Instance { store, settle, .. } = instance;
        let settle = settle.as_ref();
        let settle = settle.ok_or_else(|| ResolveError::Failed("it does not look at values".into()))?;
        let rows = versions.nodes.len();
        if versions.len() != 1 || values.values.len() != rows {
            let (conflicts, values) = (versions.len(), values.values.len());
            return Err(ResolveError::Failed(format!("{values} values to {rows} versions of {conflicts} conflicts")));
        }
        let siblings: Vec<settle::Sibling> = (0..rows).map(|row| sibling(versions, row)).collect();
        let merged_bytes_max = values.bytes().saturating_add(SLACK_BYTES);
        self.deadline.start(store);
        // Beside a merged value an answer takes few bytes; the rows of `keep-some` count too.
        store.set_hostcall_fuel(merged_bytes_max.saturating_add(SLACK_BYTES).saturating_add(rows * 16));
        store.data_mut().siblings = Some(Siblings::new(values));
        let verdict = settle.call_by_value(&mut *store, &siblings);
        store.data_mut().siblings = None;
        let verdict = verdict.map_err(|error| ResolveError::Failed(self.deadline.explain(&error)))?;
        outcome(verdict, rows, merged_bytes_max)
    }

    /// A value such as clients write, by the component's own generator.
    pub(crate) fn sample_in(&self, instance: &mut Instance, seed: u64) -> Result<Option<Vec<u8>>, String> {
        let Instance { store, settle, .. } = instance;
        let Some(settle) = settle else { return Ok(None) };
        self.deadline.start(store);
        settle.call_sample(store, seed).map_err(|error| self.deadline.explain(&error))
    }

    pub(crate) fn instantiate(&self) -> Result<Instance, String> {
        self.instantiate_within(self.deadline)
    }

    fn instantiate_within(&self, deadline: Deadline) -> Result<Instance, String> {
        let explain = |error: wasmtime::Error| deadline.explain(&error);
        let mut store = self.engine.store(deadline);
        let exports = self.component.instantiate(&mut store).map_err(explain)?;
        let resolve = self.resolve.load(&mut store, &exports).map_err(explain)?;
        let settle = self.settle.as_ref().map(|settle| settle.load(&mut store, &exports));
        self.instances.fetch_add(1, Relaxed);
        Ok(Instance { resolve, settle: settle.transpose().map_err(explain)?, store })
    }

    fn put_back(&self, instance: Instance) {
        if let Some(warm) = &self.warm {
            // A full queue has enough instances; this one is dropped.
            drop(warm.push(instance));
        }
    }
}

fn sibling(versions: &Columns, row: usize) -> settle::Sibling {
    settle::Sibling {
        node: versions.nodes[row],
        incarnation: versions.incarnations[row],
        counter: versions.counters[row],
        written: versions.written[row],
        size: versions.sizes[row],
        tombstone: versions.marks[row] & Columns::TOMBSTONE != 0,
        digest: versions.digests[row],
    }
}

/// Believes nothing: rows are there and in order, a merged value keeps its bound.
fn outcome(verdict: settle::Verdict, rows: usize, merged_bytes_max: usize) -> Result<Outcome, ResolveError> {
    let there = |row: &u32| (*row as usize) < rows;
    match verdict {
        settle::Verdict::Keep(row) if there(&row) => Ok(Outcome::Keep(row)),
        settle::Verdict::Keep(row) => {
            Err(ResolveError::Nonsense(format!("row {row} of a conflict with {rows} versions")))
        }
        settle::Verdict::KeepSome(kept) => {
            let in_order = kept.windows(2).all(|pair| pair[0] < pair[1]);
            if kept.is_empty() || !in_order || !kept.iter().all(there) {
                let what = format!("it keeps the rows {kept:?} of a conflict with {rows} versions");
                return Err(ResolveError::Nonsense(crate::engine::shorten(what)));
            }
            Ok(Outcome::KeepSome(kept))
        }
        settle::Verdict::KeepAll => Ok(Outcome::KeepAll),
        settle::Verdict::Merged(value) if value.len() <= merged_bytes_max => Ok(Outcome::Merged(value)),
        settle::Verdict::Merged(value) => {
            let what = format!("a merged value of {} bytes, the most is {merged_bytes_max}", value.len());
            Err(ResolveError::Nonsense(what))
        }
    }
}

fn batch(conflicts: &Columns) -> Batch<'_> {
    Batch {
        ends: &conflicts.ends,
        nodes: &conflicts.nodes,
        incarnations: &conflicts.incarnations,
        counters: &conflicts.counters,
        written: &conflicts.written,
        sizes: &conflicts.sizes,
        marks: &conflicts.marks,
        digests: &conflicts.digests,
    }
}

/// Believes nothing: every answer must name a row of its own conflict.
fn checked(conflicts: &Columns, answers: &[u32], sees_values: bool) -> Result<Vec<Answer>, ResolveError> {
    if answers.len() != conflicts.len() {
        let (answers, conflicts) = (answers.len(), conflicts.len());
        return Err(ResolveError::Nonsense(format!("{answers} answers to {conflicts} conflicts")));
    }
    let verdict = |(i, &answer): (usize, &u32)| {
        let versions = conflicts.rows(i).len();
        match answer {
            KEEP_ALL => Ok(Answer::Verdict(Verdict::KeepAll)),
            ASK_BY_VALUE if sees_values => Ok(Answer::AskByValue),
            row if (row as usize) < versions => Ok(Answer::Verdict(Verdict::Keep(row))),
            row => Err(ResolveError::Nonsense(format!("row {row} of conflict {i}, which has {versions} versions"))),
        }
    };
    answers.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::id::Dot;

    fn conflicts(sizes: &[usize]) -> Columns {
        let mut columns = Columns::default();
        for &size in sizes {
            (0..size).for_each(|_| columns.row(Dot::default(), 1, 1, false, 1));
            columns.close();
        }
        columns
    }

    #[test]
    fn rows_of_the_conflict_itself_are_verdicts() {
        let answer = checked(&conflicts(&[2, 3]), &[1, KEEP_ALL], false);
        assert_eq!(answer, Ok(vec![Answer::Verdict(Verdict::Keep(1)), Answer::Verdict(Verdict::KeepAll)]));
    }

    #[test]
    fn rows_of_the_next_conflict_and_reserved_answers_make_no_sense() {
        for answer in [2, 3, 0xFFFF_FFFD, 0xFFFF_FFFF] {
            assert!(
                matches!(checked(&conflicts(&[2, 3]), &[answer, 0], false), Err(ResolveError::Nonsense(_))),
                "{answer}"
            );
        }
    }

    #[test]
    fn too_few_and_too_many_answers_make_no_sense() {
        for answers in [&[][..], &[0], &[0, 0, 0]] {
            assert!(matches!(checked(&conflicts(&[2, 3]), answers, true), Err(ResolveError::Nonsense(_))));
        }
    }

    #[test]
    fn only_who_looks_at_values_may_ask_for_them() {
        let asked = |sees_values| checked(&conflicts(&[2, 3]), &[ASK_BY_VALUE, 0], sees_values);
        assert_eq!(asked(true), Ok(vec![Answer::AskByValue, Answer::Verdict(Verdict::Keep(0))]));
        assert!(matches!(asked(false), Err(ResolveError::Nonsense(_))));
    }

    #[test]
    fn outcomes_name_rows_that_are_there_in_order_and_keep_their_bound() {
        use settle::Verdict as V;
        let good = [V::Keep(1), V::KeepSome(vec![0, 1]), V::KeepAll, V::Merged(vec![0; 8])];
        assert!(good.into_iter().all(|verdict| outcome(verdict, 2, 8).is_ok()));
        let rows = [vec![], vec![1, 0], vec![0, 0], vec![0, 2]].map(V::KeepSome);
        for verdict in rows.into_iter().chain([V::Keep(2), V::Merged(vec![0; 9])]) {
            assert!(matches!(outcome(verdict, 2, 8), Err(ResolveError::Nonsense(_))));
        }
    }
}
