//! The sandbox itself: what the node holds.

use crate::adapter::{self, AdapterConfig, AdapterInfo, AdapterSource, OpenedAdapter, StoragePlan};
use crate::builtin;
use crate::cache::CacheState;
use crate::counters::SandboxCounters;
use crate::data_type::{self, DataType, Effect};
use crate::engine::{Deadline, Engine, SharedEngine, shorten};
use crate::error::SandboxError;
use crate::loader::{Interface, Loader};
use crate::options::SandboxOptions;
use crate::resolver::{self, Bounds, Moment, Outcome, Resolver, Reuse};
use crate::siblings::Values;
use crate::value_adapter::Adapters;
use bytes::Bytes;
use mks_logic::id::Dot;
use mks_logic::port::{
    Columns, DataTypes, Merged, NewState, Resolve, ResolveError, ResolverHash, Role, Siblings, TypeError, Verdict,
};
use mks_logic::time::Hlc;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// An instance's memory for each byte of siblings that it merges.
const MERGE_SHARE: usize = 4;

/// What a component may export.
const EVERY_KIND: &str =
    "my-key-store:resolver/resolve, my-key-store:datatype/crdt or my-key-store:storage-adapter/adapter";

/// A component that was loaded to look at it.
#[derive(Debug)]
pub enum Plugin {
    /// It settles conflicts.
    Resolver(Box<Resolver>),
    /// It is a data type.
    DataType(Box<DataType>),
    /// It configures an engine: ask [`Sandbox::plan`].
    Adapter(AdapterInfo),
}

/// Runs components. One per process; all methods can be called from any thread.
pub struct Sandbox {
    engine: SharedEngine,
    loader: Loader,
    bounds: Bounds,
    /// See [`Sandbox::merge`].
    merge_bytes_max: usize,
    adapter_deadline: Deadline,
    values_deadline: Deadline,
    resolvers_max: usize,
    cache_state: CacheState,
    /// Fixed, so that the usual call takes no lock.
    builtin: Vec<Resolver>,
    installed: RwLock<BTreeMap<ResolverHash, Arc<Resolver>>>,
    data_type_bounds: data_type::Bounds,
    data_types_max: usize,
    data_types: RwLock<BTreeMap<ResolverHash, Arc<DataType>>>,
    /// Bounded by the adapters that a node opens.
    adapter_calls: Mutex<BTreeMap<String, u64>>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Opens the sandbox and loads the built-in resolvers. The first time this compiles them (about 50 ms each), later
    /// they come from the cache.
    ///
    /// # Errors
    /// When the options can't be met on this machine, or the directory can't be used.
    pub fn new(options: SandboxOptions) -> Result<Arc<Self>, SandboxError> {
        let engine = Arc::new(Engine::new(&options)?);
        let (loader, cache_state) = Loader::new(Arc::clone(&engine), &options)?;
        let bounds =
            Bounds { deadline: Deadline::new(options.resolver_deadline_ms), batch_rows_max: options.batch_rows_max };
        let load = |b: &builtin::Builtin| Resolver::load(&engine, &loader, b.name, b.bytes, bounds, Reuse::Warm);
        let builtin = builtin::RESOLVERS.iter().chain(builtin::MERGERS).map(load).collect::<Result<_, _>>()?;
        let data_type_bounds = data_type::Bounds {
            deadline: Deadline::new(options.data_type_deadline_ms),
            state_bytes_max: options.state_bytes_max,
        };
        Ok(Arc::new(Self {
            engine,
            loader,
            bounds,
            merge_bytes_max: options.instance_bytes_max / MERGE_SHARE,
            adapter_deadline: Deadline::new(options.adapter_deadline_ms),
            values_deadline: Deadline::new(options.values_deadline_ms),
            resolvers_max: options.resolvers_max,
            cache_state,
            builtin,
            installed: RwLock::default(),
            data_type_bounds,
            data_types_max: options.data_types_max,
            data_types: RwLock::default(),
            adapter_calls: Mutex::default(),
        }))
    }

    /// Names and content hashes of the resolvers of this binary that go by metadata; the first one is the default.
    ///
    /// Keyspaces name a resolver by hash: two builds of the same source need not have the same one.
    #[must_use]
    pub fn builtin_resolvers() -> Vec<(&'static str, ResolverHash)> {
        builtin::RESOLVERS.iter().map(|b| (b.name, ResolverHash(*blake3::hash(b.bytes).as_bytes()))).collect()
    }

    /// Names, content hashes and roles of all code for keyspaces that is part of this binary.
    #[must_use]
    pub fn builtin_code() -> Vec<(&'static str, ResolverHash, Role)> {
        let roles = [
            (builtin::RESOLVERS, Role::Resolver),
            (builtin::MERGERS, Role::Merger),
            (builtin::DATA_TYPES, Role::DataType),
        ];
        let hash = |b: &builtin::Builtin| ResolverHash(*blake3::hash(b.bytes).as_bytes());
        roles.iter().flat_map(|(all, role)| all.iter().map(move |b| (b.name, hash(b), *role))).collect()
    }

    /// A data type that was installed, or one that is part of this binary: that is compiled, or taken from the cache,
    /// when it is asked for the first time.
    fn data_type_or_builtin(&self, hash: ResolverHash) -> Result<Arc<DataType>, TypeError> {
        if let Some(known) = self.data_type(hash) {
            return Ok(known);
        }
        let is = |b: &&builtin::Builtin| blake3::hash(b.bytes) == blake3::Hash::from(hash.0);
        let builtin = builtin::DATA_TYPES.iter().find(is).ok_or(TypeError::Unknown(hash))?;
        let loaded = self.load_data_type(builtin.name, builtin.bytes, true);
        loaded.map_err(|error| TypeError::Failed(error.to_string()))
    }

    /// Whether the plugin directory matched its recorded fingerprint at the start, and what was repaired if not.
    #[must_use]
    pub fn cache_state(&self) -> &CacheState {
        &self.cache_state
    }

    /// Adds a resolver. It gets a fresh instance for every batch. Installing the same bytes again changes nothing.
    ///
    /// `source` is how errors call it, a path for instance.
    ///
    /// # Errors
    /// When the bytes are no resolver that may run here, or no more can be installed.
    pub fn install_resolver(&self, source: &str, bytes: &[u8]) -> Result<ResolverHash, SandboxError> {
        let resolver = Resolver::load(&self.engine, &self.loader, source, bytes, self.bounds, Reuse::Never)?;
        let hash = resolver.hash;
        let mut installed = self.installed.write().unwrap_or_else(PoisonError::into_inner);
        let is_known = installed.contains_key(&hash) || self.builtin.iter().any(|builtin| builtin.hash == hash);
        if !is_known && installed.len() >= self.resolvers_max {
            return Err(SandboxError::TooManyResolvers(self.resolvers_max));
        }
        if !is_known {
            installed.insert(hash, Arc::new(resolver));
        }
        Ok(hash)
    }

    /// Removes a resolver or a data type that was installed. Calls under way end as they would.
    pub fn uninstall(&self, hash: ResolverHash) {
        self.installed.write().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        self.data_types.write().unwrap_or_else(PoisonError::into_inner).remove(&hash);
    }

    /// The resolvers that were installed.
    #[must_use]
    pub fn installed_resolvers(&self) -> Vec<ResolverHash> {
        self.installed.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Installed resolvers and data types that failed so often that they are not asked any more, and how.
    #[must_use]
    pub fn suspended(&self) -> Vec<(ResolverHash, String)> {
        let installed = self.installed.read().unwrap_or_else(PoisonError::into_inner);
        let data_types = self.data_types.read().unwrap_or_else(PoisonError::into_inner);
        let resolvers = installed.iter().map(|(hash, resolver)| (*hash, &resolver.faults));
        let all = resolvers.chain(data_types.iter().map(|(hash, data_type)| (*hash, &data_type.faults)));
        all.filter_map(|(hash, faults)| Some((hash, faults.reason()?))).collect()
    }

    /// Lets what was suspended be asked again.
    pub fn resume(&self, hash: ResolverHash) {
        self.with_resolver(hash, |resolver| resolver.faults.forgive());
        if let Some(data_type) = self.data_type(hash) {
            data_type.faults.forgive();
        }
    }

    /// Whether there is such a resolver or data type, and it is not suspended.
    #[must_use]
    pub fn runs(&self, hash: ResolverHash) -> bool {
        self.has(hash) || self.data_type(hash).is_some_and(|data_type| !data_type.faults.is_suspended())
    }

    /// When a resolver that was installed or is built in wants to be asked.
    #[must_use]
    pub fn resolver_moment(&self, hash: ResolverHash) -> Option<Moment> {
        self.with_resolver(hash, Resolver::moment)
    }

    /// Settles one conflict by its values, for a resolver that looks at them; it gets a fresh instance.
    ///
    /// # Errors
    /// As [`Resolve::settle`]: all versions are to be kept then.
    pub fn settle_by_value(
        &self,
        hash: ResolverHash,
        versions: &Columns,
        values: Values,
    ) -> Result<Outcome, ResolveError> {
        self.with_resolver(hash, |resolver| resolver.by_value(versions, values)).ok_or(ResolveError::Unknown(hash))?
    }

    /// Adds a data type. Installing the same bytes again changes nothing.
    ///
    /// # Errors
    /// When the bytes are no data type that may run here, or no more can be installed.
    pub fn install_data_type(&self, source: &str, bytes: &[u8]) -> Result<Arc<DataType>, SandboxError> {
        self.load_data_type(source, bytes, false)
    }

    fn load_data_type(&self, source: &str, bytes: &[u8], builtin: bool) -> Result<Arc<DataType>, SandboxError> {
        let mut data_type = DataType::load(&self.engine, &self.loader, source, bytes, self.data_type_bounds)?;
        data_type.builtin = builtin;
        let mut installed = self.data_types.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = installed.get(&data_type.hash()) {
            return Ok(Arc::clone(known));
        }
        // Those of every node are few, and have room of their own.
        if !builtin && installed.values().filter(|known| !known.builtin).count() >= self.data_types_max {
            return Err(SandboxError::TooManyDataTypes(self.data_types_max));
        }
        let data_type = Arc::new(data_type);
        installed.insert(data_type.hash(), Arc::clone(&data_type));
        Ok(data_type)
    }

    /// A data type that was installed.
    #[must_use]
    pub fn data_type(&self, hash: ResolverHash) -> Option<Arc<DataType>> {
        self.data_types.read().unwrap_or_else(PoisonError::into_inner).get(&hash).map(Arc::clone)
    }

    /// Most bytes that a component may have.
    #[must_use]
    pub fn component_bytes_max(&self) -> usize {
        self.loader.component_bytes_max()
    }

    /// Reads a component's file, unless it is larger than a component may be.
    ///
    /// # Errors
    /// When it can't be read, or is too large.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, SandboxError> {
        self.loader.read(path)
    }

    /// Loads a component of any kind without installing it, for checks and measurements.
    ///
    /// # Errors
    /// When it is no component of a kind that a node knows, or may not run here.
    pub fn inspect(&self, source: &str, bytes: &[u8]) -> Result<Plugin, SandboxError> {
        let loaded = self.loader.load(source, bytes, Some(resolver::SIBLINGS))?;
        let exports = self.loader.exports(&loaded.component);
        let is = |interface: Interface| exports.iter().any(|export| interface.is_of_same_name(export));
        if is(data_type::INTERFACE) {
            let data_type = DataType::load(&self.engine, &self.loader, source, bytes, self.data_type_bounds)?;
            return Ok(Plugin::DataType(Box::new(data_type)));
        }
        if is(adapter::INTERFACE) {
            let about = adapter::info(self.adapters(), source, &loaded)?;
            return Ok(Plugin::Adapter(about));
        }
        if !is(resolver::INTERFACE) {
            let found = if exports.is_empty() { "nothing".to_owned() } else { shorten(exports.join(", ")) };
            return Err(SandboxError::WrongWorld { component: source.to_owned(), expected: EVERY_KIND, found });
        }
        let resolver = Resolver::load(&self.engine, &self.loader, source, bytes, self.bounds, Reuse::Never)?;
        Ok(Plugin::Resolver(Box::new(resolver)))
    }

    /// The names of all that a component imports.
    ///
    /// # Errors
    /// When it is no component, or imports what no plugin may.
    pub fn imports(&self, source: &str, bytes: &[u8]) -> Result<Vec<String>, SandboxError> {
        let loaded = self.loader.load(source, bytes, Some(resolver::SIBLINGS))?;
        Ok(self.loader.imports(&loaded.component))
    }

    pub(crate) fn with_resolver<T>(&self, hash: ResolverHash, with: impl FnOnce(&Resolver) -> T) -> Option<T> {
        if let Some(builtin) = self.builtin.iter().find(|builtin| builtin.hash == hash) {
            return Some(with(builtin));
        }
        let installed = self.installed.read().unwrap_or_else(PoisonError::into_inner);
        let resolver = installed.get(&hash).map(Arc::clone);
        drop(installed);
        resolver.map(|resolver| with(&resolver))
    }

    /// An instance must have room for the values, for what it makes of them, and for its work. What is too large for
    /// that is nobody's fault, and no failure of the resolver.
    pub(crate) fn merged(
        &self,
        hash: ResolverHash,
        siblings: &Siblings,
        ask: impl FnOnce(&Resolver, &Columns, Values) -> Result<Outcome, ResolveError>,
    ) -> Result<Merged, ResolveError> {
        let Siblings { key, versions, values } = siblings;
        let values = Values { key: key.clone(), values: values.clone() };
        let (bytes, max) = (values.bytes(), self.merge_bytes_max);
        if bytes > max {
            return Err(ResolveError::Failed(format!("the siblings have {bytes} bytes, and {max} are merged at most")));
        }
        let outcome = self.with_resolver(hash, |resolver| ask(resolver, versions, values));
        let outcome = outcome.ok_or(ResolveError::Unknown(hash))??;
        Ok(match outcome {
            Outcome::Merged(value) => Merged::Value(value.into()),
            Outcome::Keep(row) => Merged::Kept(vec![row]),
            Outcome::KeepSome(rows) => Merged::Kept(rows),
            Outcome::KeepAll => Merged::Kept((0..).take(siblings.values.len()).collect()),
        })
    }

    /// Asks a storage adapter which engine to open, and how.
    ///
    /// `options` are the operator's, names and values; `memory_budget` is what cache and memtables may take, bytes.
    ///
    /// # Errors
    /// As [`Self::adapter`], and when it names no engine.
    pub fn plan(
        &self,
        source: &AdapterSource,
        options: &[(String, String)],
        memory_budget: u64,
    ) -> Result<StoragePlan, SandboxError> {
        let config = AdapterConfig { options: options.to_vec(), secrets: Vec::new(), memory_budget };
        let OpenedAdapter { info, plan, .. } = self.adapter(source, &config)?;
        let reason = || "it names no engine, another one must come after it".to_owned();
        plan.ok_or_else(|| SandboxError::BadPlan { adapter: info.name, reason: reason() })
    }

    /// Asks a storage adapter what it wants: to name an engine, to see values, or both.
    ///
    /// # Errors
    /// When the adapter can't be loaded, refuses options or secrets, fails, or makes a plan that a node can't follow.
    pub fn adapter(&self, source: &AdapterSource, config: &AdapterConfig) -> Result<OpenedAdapter, SandboxError> {
        let opened = adapter::open(self.adapters(), source, config)?;
        let mut calls = self.adapter_calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry(opened.info.name.clone()).or_default() += 1;
        Ok(opened)
    }

    fn adapters(&self) -> Adapters<'_> {
        let Self { engine, loader, adapter_deadline: deadline, values_deadline, .. } = self;
        Adapters { engine, loader, deadline: *deadline, values_deadline: *values_deadline }
    }

    /// What was done since the sandbox was opened.
    #[must_use]
    pub fn counters(&self) -> SandboxCounters {
        let (compiled, cache_hits) = self.loader.counts();
        let installed = self.installed.read().unwrap_or_else(PoisonError::into_inner);
        let resolvers = self.builtin.iter().chain(installed.values().map(|resolver| &**resolver));
        let adapter_calls = self.adapter_calls.lock().unwrap_or_else(PoisonError::into_inner);
        SandboxCounters {
            resolvers: resolvers.map(Resolver::counters).collect(),
            adapter_calls: adapter_calls.iter().map(|(name, calls)| (name.clone(), *calls)).collect(),
            compiled,
            cache_hits,
        }
    }
}

impl Resolve for Sandbox {
    fn settle(&self, hash: ResolverHash, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        self.with_resolver(hash, |resolver| resolver.settle(conflicts)).ok_or(ResolveError::Unknown(hash))?
    }

    fn has(&self, hash: ResolverHash) -> bool {
        self.with_resolver(hash, |resolver| !resolver.faults.is_suspended()).unwrap_or(false)
    }

    fn merge(&self, hash: ResolverHash, siblings: &Siblings) -> Result<Merged, ResolveError> {
        self.merged(hash, siblings, |resolver, versions, values| resolver.by_value(versions, values))
    }
}

impl DataTypes for Sandbox {
    fn apply(
        &self,
        data_type: ResolverHash,
        (dot, now): (Dot, Hlc),
        states: &[Bytes],
        operation: &Bytes,
    ) -> Result<NewState, TypeError> {
        let data_type = self.data_type_or_builtin(data_type)?;
        let state = if states.is_empty() { None } else { Some(data_type.joined(states)?) };
        let Effect { state, reply, .. } = data_type.update(dot, now, state.as_deref(), operation)?;
        Ok(NewState { state: state.into(), reply: reply.map(Bytes::from) })
    }

    fn join(&self, data_type: ResolverHash, states: &[Bytes]) -> Result<Bytes, TypeError> {
        self.data_type_or_builtin(data_type)?.joined(states)
    }

    fn view(&self, data_type: ResolverHash, states: &[Bytes], question: &Bytes) -> Result<Bytes, TypeError> {
        let data_type = self.data_type_or_builtin(data_type)?;
        Ok(data_type.query(&data_type.joined(states)?, question)?.into())
    }
}
