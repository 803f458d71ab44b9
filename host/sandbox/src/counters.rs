//! What the sandbox has done since it was opened: for metrics, and as proof that conflicts are settled in here.

use mks_logic::port::ResolverHash;

/// See [`crate::Sandbox::counters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxCounters {
    /// Per resolver, the built-in ones first.
    pub resolvers: Vec<ResolverCounters>,
    /// Calls of storage adapters by the adapter's name.
    pub adapter_calls: Vec<(String, u64)>,
    /// Components that were compiled.
    pub compiled: u64,
    /// Components whose native code was found in the cache.
    pub cache_hits: u64,
}

/// What one resolver has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverCounters {
    /// What it calls itself.
    pub name: String,
    /// What it is: two resolvers may have the same name.
    pub hash: ResolverHash,
    /// Batches that it was asked to settle.
    pub calls: u64,
    /// Conflicts that it gave a verdict on.
    pub conflicts: u64,
    /// Batches without a verdict: traps, timeouts, answers that make no sense. All versions were kept.
    pub failures: u64,
    /// Instances made. A built-in resolver makes a new one after a failure only, another one for every batch.
    pub instances: u64,
}
