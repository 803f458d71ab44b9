//! Data types: values that clients change by operations, and that owners merge.
//!
//! Every call gets a fresh instance. States and operations are bounded on their way in and out, and what a component
//! answers about a state never replaces what the node holds unless the call went well.

use crate::bindings::datatype::{crdt, crdt_delta};
use crate::engine::{Deadline, Guest, SharedEngine, shorten};
use crate::error::SandboxError;
use crate::faults::Faults;
use crate::loader::{Interface, Loader, check_info};
use bytes::Bytes;
use mks_logic::id::{Dot, NodeId};
use mks_logic::port::{ResolverHash, TypeError};
use mks_logic::time::Hlc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use wasmtime::Store;
use wasmtime::component::{InstancePre, Linker};

/// The interface that makes a component a data type.
pub(crate) const INTERFACE: Interface = Interface("my-key-store:datatype/crdt@0.1.0");
/// The interface of those whose states can be compared by summaries.
const DELTA: Interface = Interface("my-key-store:datatype/crdt-delta@0.1.0");
/// States that one merge may join.
pub const STATES_MAX: usize = 64;

/// What an operation did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effect {
    /// The new state.
    pub state: Vec<u8>,
    /// The least state that brings the same change elsewhere, if that is less than the whole.
    pub delta: Option<Vec<u8>>,
    /// What the client is told.
    pub reply: Option<Vec<u8>>,
}

/// Why a data type gave no answer. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataTypeError {
    /// The type refuses the operation, the question or the bytes, in its own words. The client's fault, if anybody's.
    #[error("refused by the data type: {0}")]
    Refused(String),
    /// More bytes, or more states, than a call may have.
    #[error("{what} takes {amount}, and {max} are allowed")]
    TooLarge {
        /// A state, an operation, an answer.
        what: &'static str,
        /// What it takes.
        amount: usize,
        /// What is allowed.
        max: usize,
    },
    /// The component trapped, or ran out of time or memory.
    #[error("the data type failed: {0}")]
    Failed(String),
}

impl From<DataTypeError> for TypeError {
    fn from(error: DataTypeError) -> Self {
        match error {
            // What is too large came with the operation.
            DataTypeError::Refused(_) | DataTypeError::TooLarge { .. } => Self::Refused(error.to_string()),
            DataTypeError::Failed(reason) => Self::Failed(reason),
        }
    }
}

/// Calls of a data type since it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DataTypeCounters {
    /// Calls of any function.
    pub calls: u64,
    /// Calls without an answer: traps, timeouts, answers beyond their bound.
    pub failures: u64,
}

/// What bounds a data type's calls.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) deadline: Deadline,
    pub(crate) state_bytes_max: usize,
}

/// A data type that is ready to be asked.
pub struct DataType {
    hash: ResolverHash,
    name: String,
    version: String,
    engine: SharedEngine,
    component: InstancePre<Guest>,
    crdt: crdt::GuestIndices,
    delta: Option<crdt_delta::GuestIndices>,
    bounds: Bounds,
    /// Part of every node: it was checked with it, and nobody could take it away.
    pub(crate) builtin: bool,
    pub(crate) faults: Faults,
    calls: AtomicU64,
    failures: AtomicU64,
}

/// One instance of a data type.
pub(crate) struct Instance {
    store: Store<Guest>,
    crdt: crdt::Guest,
    delta: Option<crdt_delta::Guest>,
}

impl Instance {
    /// Memory that it has taken, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }
}

impl std::fmt::Debug for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataType").field("name", &self.name).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// What a call of the component itself gives.
type Called<T> = wasmtime::Result<Result<T, String>>;

impl DataType {
    /// Loads a component and asks it who it is. `source` is how errors call it.
    pub(crate) fn load(
        engine: &SharedEngine,
        loader: &Loader,
        source: &str,
        bytes: &[u8],
        bounds: Bounds,
    ) -> Result<Self, SandboxError> {
        let loaded = loader.load(source, bytes, None)?;
        let whole = &loaded.component;
        let wrong = |interface| move |error: wasmtime::Error| loader.wrong_world(source, whole, interface, &error);
        let linker: Linker<Guest> = loader.linker();
        let component = linker.instantiate_pre(&loaded.component).map_err(wrong(INTERFACE))?;
        let crdt = crdt::GuestIndices::new(&component).map_err(wrong(INTERFACE))?;
        let has_delta = loader.exports(&loaded.component).iter().any(|export| DELTA.names(export));
        let delta = has_delta.then(|| crdt_delta::GuestIndices::new(&component)).transpose().map_err(wrong(DELTA))?;
        let hash = ResolverHash(*loaded.hash.as_bytes());
        let mut data_type = Self {
            hash,
            name: String::new(),
            version: String::new(),
            engine: SharedEngine::clone(engine),
            component,
            crdt,
            delta,
            bounds,
            builtin: false,
            faults: Faults::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        let failed = |reason| SandboxError::Failed { component: source.to_owned(), reason };
        let mut instance = data_type.instantiate_within(Deadline::LOADING).map_err(failed)?;
        let info = instance.crdt.call_describe(&mut instance.store);
        let info = info.map_err(|error| failed(Deadline::LOADING.explain(&error)))?;
        check_info(source, &info.name, &info.version)?;
        (data_type.name, data_type.version) = (info.name, info.version);
        Ok(data_type)
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

    /// Whether states can be compared by summaries.
    #[must_use]
    pub fn has_summaries(&self) -> bool {
        self.delta.is_some()
    }

    /// Calls since it was loaded.
    #[must_use]
    pub fn counters(&self) -> DataTypeCounters {
        DataTypeCounters { calls: self.calls.load(Relaxed), failures: self.failures.load(Relaxed) }
    }

    /// Applies one operation of a client to a state, or to none.
    ///
    /// The dot is fresh; this node and incarnation update a key one at a time, from a state that holds all of their
    /// earlier updates of that key: data types count on it.
    ///
    /// # Errors
    /// When the type refuses the operation, or fails. Nothing is changed then.
    pub fn update(&self, dot: Dot, now: Hlc, state: Option<&[u8]>, op: &[u8]) -> Result<Effect, DataTypeError> {
        self.fresh(|instance| self.update_in(instance, dot, now, state, op))
    }

    /// The join of states and deltas, each of which [`Self::validate`] accepts.
    ///
    /// # Errors
    /// When one of them is no state, or the type fails.
    pub fn merge(&self, states: &[&[u8]]) -> Result<Vec<u8>, DataTypeError> {
        self.fresh(|instance| self.merge_in(instance, states))
    }

    /// The join of one state or more, of which there may be any number.
    pub(crate) fn joined(&self, states: &[Bytes]) -> Result<Bytes, TypeError> {
        // Whoever stored them took them for states: if they are none, that is no client's fault.
        let failed = |error: DataTypeError| TypeError::Failed(error.to_string());
        if let [only] = states {
            return Ok(only.clone());
        }
        let mut joined: Option<Bytes> = None;
        for group in states.chunks(STATES_MAX - 1) {
            let all: Vec<&[u8]> = joined.iter().chain(group).map(|state| &state[..]).collect();
            joined = Some(self.merge(&all).map_err(failed)?.into());
        }
        joined.ok_or_else(|| TypeError::Failed("there is no state to join".into()))
    }

    /// Answers a question about a state; the empty one asks for the whole value.
    ///
    /// # Errors
    /// When the type refuses the question, or fails.
    pub fn query(&self, state: &[u8], question: &[u8]) -> Result<Vec<u8>, DataTypeError> {
        self.fresh(|instance| self.query_in(instance, state, question))
    }

    /// Whether bytes from a client or a peer are a state.
    ///
    /// # Errors
    /// [`DataTypeError::Refused`] when they are none.
    pub fn validate(&self, state: &[u8]) -> Result<(), DataTypeError> {
        self.fresh(|instance| self.validate_in(instance, state))
    }

    /// What a state holds, in few bytes. `None` when the type has no summaries.
    ///
    /// # Errors
    /// When the bytes are no state, or the type fails.
    pub fn summary(&self, state: &[u8]) -> Option<Result<Vec<u8>, DataTypeError>> {
        self.delta.as_ref().map(|_| self.fresh(|instance| self.summary_in(instance, state)))
    }

    /// What a peer with this summary lacks of a state, if anything. `None` when the type has no summaries.
    ///
    /// # Errors
    /// When the bytes are no state or no summary, or the type fails.
    pub fn diff(&self, state: &[u8], summary: &[u8]) -> Option<Result<Option<Vec<u8>>, DataTypeError>> {
        self.delta.as_ref().map(|_| self.fresh(|instance| self.diff_in(instance, state, summary)))
    }

    pub(crate) fn update_in(
        &self,
        instance: &mut Instance,
        dot: Dot,
        now: Hlc,
        state: Option<&[u8]>,
        op: &[u8],
    ) -> Result<Effect, DataTypeError> {
        self.fits("a state", state.map_or(0, <[u8]>::len))?;
        self.fits("an operation", op.len())?;
        let Dot { node: NodeId(node), incarnation, counter } = dot;
        let dot = crdt::Dot { node, incarnation: incarnation.0, counter };
        let context = crdt::Context { dot, now: now.0 };
        let effect = self.call(instance, |Instance { store, crdt, .. }| crdt.call_update(store, context, state, op))?;
        let crdt::Effect { state, delta, reply } = effect;
        self.fits("a new state", state.len())?;
        self.fits("a delta", delta.as_ref().map_or(0, Vec::len))?;
        self.fits("a reply", reply.as_ref().map_or(0, Vec::len))?;
        Ok(Effect { state, delta, reply })
    }

    pub(crate) fn merge_in(&self, instance: &mut Instance, states: &[&[u8]]) -> Result<Vec<u8>, DataTypeError> {
        if states.len() > STATES_MAX {
            return Err(DataTypeError::TooLarge { what: "the list of states", amount: states.len(), max: STATES_MAX });
        }
        states.iter().try_for_each(|state| self.fits("a state", state.len()))?;
        let merged = self.call(instance, |Instance { store, crdt, .. }| crdt.call_merge(store, states))?;
        self.fits("a merged state", merged.len())?;
        Ok(merged)
    }

    pub(crate) fn query_in(
        &self,
        instance: &mut Instance,
        state: &[u8],
        question: &[u8],
    ) -> Result<Vec<u8>, DataTypeError> {
        self.fits("a state", state.len())?;
        self.fits("a question", question.len())?;
        let answer = self.call(instance, |Instance { store, crdt, .. }| crdt.call_query(store, state, question))?;
        self.fits("an answer", answer.len())?;
        Ok(answer)
    }

    pub(crate) fn validate_in(&self, instance: &mut Instance, state: &[u8]) -> Result<(), DataTypeError> {
        self.fits("a state", state.len())?;
        self.call(instance, |Instance { store, crdt, .. }| crdt.call_validate(store, state))
    }

    pub(crate) fn summary_in(&self, instance: &mut Instance, state: &[u8]) -> Result<Vec<u8>, DataTypeError> {
        self.fits("a state", state.len())?;
        let summary =
            self.call(instance, |Instance { store, delta, .. }| delta_of(delta)?.call_summary(store, state))?;
        self.fits("a summary", summary.len())?;
        Ok(summary)
    }

    pub(crate) fn diff_in(
        &self,
        instance: &mut Instance,
        state: &[u8],
        summary: &[u8],
    ) -> Result<Option<Vec<u8>>, DataTypeError> {
        self.fits("a state", state.len())?;
        self.fits("a summary", summary.len())?;
        let call = |Instance { store, delta, .. }: &mut Instance| delta_of(delta)?.call_diff(store, state, summary);
        let diff = self.call(instance, call)?;
        self.fits("a diff", diff.as_ref().map_or(0, Vec::len))?;
        Ok(diff)
    }

    /// An operation such as clients send, by the component's own generator.
    pub(crate) fn sample_in(&self, instance: &mut Instance, seed: u64) -> Result<Option<Vec<u8>>, DataTypeError> {
        self.call(instance, |Instance { store, crdt, .. }| crdt.call_sample(store, seed).map(Ok))
    }

    pub(crate) fn instantiate(&self) -> Result<Instance, String> {
        self.instantiate_within(self.bounds.deadline)
    }

    fn instantiate_within(&self, deadline: Deadline) -> Result<Instance, String> {
        let explain = |error: wasmtime::Error| deadline.explain(&error);
        let mut store = self.engine.store(deadline);
        let exports = self.component.instantiate(&mut store).map_err(explain)?;
        let crdt = self.crdt.load(&mut store, &exports).map_err(explain)?;
        let delta = self.delta.as_ref().map(|delta| delta.load(&mut store, &exports));
        Ok(Instance { crdt, delta: delta.transpose().map_err(explain)?, store })
    }

    /// A call in an instance of its own, counted.
    fn fresh<T>(&self, call: impl FnOnce(&mut Instance) -> Result<T, DataTypeError>) -> Result<T, DataTypeError> {
        if let Some(reason) = self.faults.reason() {
            return Err(DataTypeError::Failed(format!("it is not asked any more: {reason}")));
        }
        self.calls.fetch_add(1, Relaxed);
        let answer = self.instantiate().map_err(DataTypeError::Failed).and_then(|mut instance| call(&mut instance));
        if let Err(DataTypeError::Failed(reason)) = &answer {
            self.failures.fetch_add(1, Relaxed);
            if !self.builtin {
                self.faults.note(Instant::now(), reason);
            }
        }
        answer
    }

    fn call<T>(
        &self,
        instance: &mut Instance,
        call: impl FnOnce(&mut Instance) -> Called<T>,
    ) -> Result<T, DataTypeError> {
        self.bounds.deadline.start(&mut instance.store);
        // A state, a delta and a reply may come back together.
        instance.store.set_hostcall_fuel(self.bounds.state_bytes_max.saturating_mul(3));
        let answer = call(instance).map_err(|error| DataTypeError::Failed(self.bounds.deadline.explain(&error)))?;
        answer.map_err(|reason| DataTypeError::Refused(shorten(reason)))
    }

    fn fits(&self, what: &'static str, amount: usize) -> Result<(), DataTypeError> {
        let max = self.bounds.state_bytes_max;
        if amount <= max { Ok(()) } else { Err(DataTypeError::TooLarge { what, amount, max }) }
    }
}

fn delta_of(delta: &Option<crdt_delta::Guest>) -> wasmtime::Result<&crdt_delta::Guest> {
    delta.as_ref().ok_or_else(|| wasmtime::format_err!("it has no summaries"))
}
