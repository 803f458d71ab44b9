//! Resolvers: the component, its instances, and the check of its answers.

use crate::bindings::resolver::{Columns as Batch, Guest as Interface, ResolverPre};
use crate::counters::ResolverCounters;
use crate::engine::{Deadline, Guest, SharedEngine};
use crate::error::SandboxError;
use crate::loader::{Loader, check_info};
use crossbeam_queue::ArrayQueue;
use mks_logic::port::{Columns, ResolveError, ResolverHash, Verdict};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::Store;

/// The interface that makes a component a resolver.
const INTERFACE: &str = "my-key-store:resolver/resolve@0.1.0";
/// The answer "keep them all" of the contract.
const KEEP_ALL: u32 = 0xFFFF_FFFE;
/// Idle instances that one built-in resolver keeps, one for each thread that settles at the same time.
const WARM_MAX: usize = 8;

/// Whether an instance serves again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Stateless by our own word: the built-in resolvers.
    Warm,
    /// A fresh instance for every batch, so that no answer depends on what was asked before.
    Never,
}

/// A resolver that is ready to be asked.
pub(crate) struct Resolver {
    pub(crate) hash: ResolverHash,
    name: String,
    engine: SharedEngine,
    component: ResolverPre<Guest>,
    deadline: Deadline,
    batch_rows_max: usize,
    /// Lock-free, and only ever holds instances whose last call went well. `None` for [`Reuse::Never`].
    warm: Option<ArrayQueue<Instance>>,
    calls: AtomicU64,
    conflicts: AtomicU64,
    failures: AtomicU64,
    instances: AtomicU64,
}

struct Instance {
    store: Store<Guest>,
    interface: Interface,
}

/// What bounds a resolver's calls.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) deadline: Deadline,
    pub(crate) batch_rows_max: usize,
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
        let loaded = loader.load(source, bytes)?;
        let wrong = |error| loader.wrong_world(source, &loaded.component, INTERFACE, &error);
        let linked = loader.linker().instantiate_pre(&loaded.component).map_err(wrong)?;
        let component = ResolverPre::new(linked).map_err(wrong)?;
        let mut resolver = Self {
            hash: ResolverHash(*loaded.hash.as_bytes()),
            name: String::new(),
            engine: SharedEngine::clone(engine),
            component,
            deadline: bounds.deadline,
            batch_rows_max: bounds.batch_rows_max,
            warm: (reuse == Reuse::Warm).then(|| ArrayQueue::new(WARM_MAX)),
            calls: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            instances: AtomicU64::new(0),
        };
        let failed = |reason| SandboxError::Failed { component: source.to_owned(), reason };
        let mut instance = resolver.instantiate().map_err(failed)?;
        let info = instance.interface.call_describe(&mut instance.store);
        let info = info.map_err(|error| failed(bounds.deadline.explain(&error)))?;
        check_info(source, &info.name, &info.version)?;
        resolver.name = info.name;
        resolver.put_back(instance);
        Ok(resolver)
    }

    /// One verdict per conflict.
    pub(crate) fn settle(&self, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        self.calls.fetch_add(1, Relaxed);
        let verdicts = self.ask(conflicts);
        match &verdicts {
            Ok(_) => self.conflicts.fetch_add(conflicts.len() as u64, Relaxed),
            Err(_) => self.failures.fetch_add(1, Relaxed),
        };
        verdicts
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

    fn ask(&self, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        let rows = conflicts.nodes.len();
        if rows > self.batch_rows_max {
            let max = self.batch_rows_max;
            return Err(ResolveError::Failed(format!("{rows} versions in one batch, and {max} are allowed")));
        }
        let mut instance = match self.warm.as_ref().and_then(ArrayQueue::pop) {
            Some(instance) => instance,
            None => self.instantiate().map_err(ResolveError::Failed)?,
        };
        instance.store.set_epoch_deadline(self.deadline.ticks);
        // An instance that fails here is dropped with its store: its memory may be in any state.
        let answers = instance.interface.call_by_metadata(&mut instance.store, batch(conflicts));
        let answers = answers.map_err(|error| ResolveError::Failed(self.deadline.explain(&error)))?;
        let verdicts = verdicts(conflicts, &answers)?;
        self.put_back(instance);
        Ok(verdicts)
    }

    fn instantiate(&self) -> Result<Instance, String> {
        let mut store = self.engine.store(self.deadline);
        let exports = self.component.instantiate(&mut store).map_err(|error| self.deadline.explain(&error))?;
        self.instances.fetch_add(1, Relaxed);
        Ok(Instance { store, interface: exports.my_key_store_resolver_resolve().clone() })
    }

    fn put_back(&self, instance: Instance) {
        if let Some(warm) = &self.warm {
            // A full queue has enough instances; this one is dropped.
            drop(warm.push(instance));
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
fn verdicts(conflicts: &Columns, answers: &[u32]) -> Result<Vec<Verdict>, ResolveError> {
    if answers.len() != conflicts.len() {
        let (answers, conflicts) = (answers.len(), conflicts.len());
        return Err(ResolveError::Nonsense(format!("{answers} answers to {conflicts} conflicts")));
    }
    let verdict = |(i, &answer): (usize, &u32)| {
        let versions = conflicts.rows(i).len();
        match answer {
            KEEP_ALL => Ok(Verdict::KeepAll),
            row if (row as usize) < versions => Ok(Verdict::Keep(row)),
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
        let answer = verdicts(&conflicts(&[2, 3]), &[1, KEEP_ALL]);
        assert_eq!(answer, Ok(vec![Verdict::Keep(1), Verdict::KeepAll]));
    }

    #[test]
    fn rows_of_the_next_conflict_and_reserved_answers_make_no_sense() {
        for answer in [2, 3, 0xFFFF_FFFD, 0xFFFF_FFFF] {
            assert!(matches!(verdicts(&conflicts(&[2, 3]), &[answer, 0]), Err(ResolveError::Nonsense(_))), "{answer}");
        }
    }

    #[test]
    fn too_few_and_too_many_answers_make_no_sense() {
        for answers in [&[][..], &[0], &[0, 0, 0]] {
            assert!(matches!(verdicts(&conflicts(&[2, 3]), answers), Err(ResolveError::Nonsense(_))));
        }
    }
}
