//! The sandbox itself: what the node holds.

use crate::adapter::{self, AdapterSource, StoragePlan};
use crate::builtin;
use crate::cache::CacheState;
use crate::counters::SandboxCounters;
use crate::engine::{Deadline, Engine, SharedEngine};
use crate::error::SandboxError;
use crate::loader::Loader;
use crate::options::SandboxOptions;
use crate::resolver::{Bounds, Resolver, Reuse};
use mks_logic::port::{Columns, Resolve, ResolveError, ResolverHash, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Runs components. One per process; all methods can be called from any thread.
pub struct Sandbox {
    engine: SharedEngine,
    loader: Loader,
    bounds: Bounds,
    adapter_deadline: Deadline,
    resolvers_max: usize,
    cache_state: CacheState,
    /// Fixed, so that the usual call takes no lock.
    builtin: [Resolver; builtin::RESOLVERS.len()],
    installed: RwLock<BTreeMap<ResolverHash, Arc<Resolver>>>,
    /// Bounded by the adapters that a node opens: one.
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
        let load = |b: builtin::Builtin| Resolver::load(&engine, &loader, b.name, b.bytes, bounds, Reuse::Warm);
        let [first, second, third] = builtin::RESOLVERS.map(load);
        let builtin = [first?, second?, third?];
        Ok(Arc::new(Self {
            engine,
            loader,
            bounds,
            adapter_deadline: Deadline::new(options.adapter_deadline_ms),
            resolvers_max: options.resolvers_max,
            cache_state,
            builtin,
            installed: RwLock::default(),
            adapter_calls: Mutex::default(),
        }))
    }

    /// Names and content hashes of the resolvers that are part of this binary; the first one is the default.
    ///
    /// Keyspaces name a resolver by hash: two builds of the same source need not have the same one.
    #[must_use]
    pub fn builtin_resolvers() -> Vec<(&'static str, ResolverHash)> {
        builtin::RESOLVERS.iter().map(|b| (b.name, ResolverHash(*blake3::hash(b.bytes).as_bytes()))).collect()
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

    /// Asks a storage adapter which engine to open, and how.
    ///
    /// `options` are the operator's, names and values; `memory_budget` is what cache and memtables may take, bytes.
    ///
    /// # Errors
    /// When the adapter can't be loaded, refuses the options, fails, or makes a plan that a node can't follow.
    pub fn plan(
        &self,
        source: &AdapterSource,
        options: &[(String, String)],
        memory_budget: u64,
    ) -> Result<StoragePlan, SandboxError> {
        let plan = adapter::plan(&self.engine, &self.loader, self.adapter_deadline, source, options, memory_budget)?;
        let mut calls = self.adapter_calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry(plan.adapter.clone()).or_default() += 1;
        Ok(plan)
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
        if let Some(builtin) = self.builtin.iter().find(|builtin| builtin.hash == hash) {
            return builtin.settle(conflicts);
        }
        let installed = self.installed.read().unwrap_or_else(PoisonError::into_inner);
        let resolver = installed.get(&hash).map(Arc::clone);
        drop(installed);
        resolver.ok_or(ResolveError::Unknown(hash))?.settle(conflicts)
    }
}
