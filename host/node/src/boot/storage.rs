//! The sandbox, and the store behind the adapter that the config names.

use super::OPENING_SAID;
use crate::adapters::{self, Chosen};
use crate::config::Config;
use crate::metrics::{Metrics, Sample, SampleKind};
use crate::plugins::Plugins;
use anyhow::Context as _;
use mks_logic::id::NodeId;
use mks_logic::port::Store;
use mks_sandbox::{Sandbox, SandboxOptions, ValueAdapter, ValueAdapterCounters};
use mks_store::{OpenError, Swapping};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// What the store was opened with, for status pages.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    /// Names and versions of the adapters, or that there is none.
    pub(super) adapter: String,
}

/// Takes the data directory for this process alone. The lock ends with the process, however it ends.
pub(crate) fn lock(data_dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(data_dir).with_context(|| format!("can't make the data directory {}", data_dir.display()))?;
    let path = data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("can't open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => anyhow::bail!(
            "the data directory {} is in use by another process; stop that one, or give this node a directory of its own",
            data_dir.display()
        ),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// Starts the sandbox with its caches in the data directory.
pub(super) fn sandbox(config: &Config, metrics: &Metrics) -> anyhow::Result<(Arc<Sandbox>, Arc<Plugins>)> {
    let directory = config.node.data_dir.join("plugins");
    let options = SandboxOptions { directory: directory.clone(), ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).context("can't start the plugin sandbox")?;
    let plugins = Plugins::open(&directory, Arc::clone(&sandbox)).context("can't open the plugin directory")?;
    let plugins = Arc::new(plugins);
    let (counted, fetched) = (Arc::clone(&sandbox), Arc::clone(&plugins));
    metrics.register(Box::new(move || samples(&counted, &fetched)));
    Ok((sandbox, plugins))
}

/// Asks the adapters for their plan and opens the engine that they name, on a thread of its own: the store of another
/// engine or chain is copied first. `None` when the node is stopped meanwhile.
pub(super) async fn open(
    config: &Config,
    sandbox: &Sandbox,
    metrics: &Metrics,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<Option<Opened>> {
    let chosen = adapters::choose(config, sandbox)?;
    let Chosen { mut options, adapters, values, name } = chosen;
    options.memtable_bytes = staggered(options.memtable_bytes, config.node.id);
    if let Some(shadow) = &mut options.shadow {
        shadow.engine.memtable_bytes = staggered(shadow.engine.memtable_bytes, config.node.id);
    }
    let (engine, directory) = (options.engine, options.directory.clone());
    let opened = spawn_blocking(move || mks_store::open_watched(&options, &adapters, &mut progress(stopped)));
    let store = match opened.await.context("the thread that opens the store died")? {
        Err(stop @ OpenError::SwapStopped { .. }) => {
            tracing::info!("{stop}");
            return Ok(None);
        }
        opened => opened
            .map_err(anyhow::Error::from)
            .with_context(|| format!("can't open the {engine} store in {}", directory.display()))?,
    };
    metrics.register_store(Arc::clone(&store));
    if !values.is_empty() {
        metrics.register(Box::new(move || values.iter().flat_map(|adapter| value_samples(adapter)).collect()));
    }
    Ok(Some(Opened { store, adapter: name }))
}

/// Says now and then how far a copy is, until the node is stopped.
fn progress(stopped: watch::Receiver<bool>) -> impl FnMut(Swapping) -> bool {
    let mut said = Instant::now();
    move |Swapping { from, to, checking, entries, about }| {
        if said.elapsed() > OPENING_SAID {
            said = Instant::now();
            let doing = if checking { "reading back what was copied" } else { "copying the store" };
            tracing::info!(%from, %to, entries, about, "{doing}");
        }
        !*stopped.borrow()
    }
}

/// 65 to 100 % of a size, another share for each node.
///
/// The owners of a partition take the same writes, and an engine keeps them waiting while a full memtable goes to the
/// disk. With memtables of one size all owners would do so at the same moment, and a quorum would wait with them.
fn staggered(bytes: u64, node: NodeId) -> u64 {
    // Multiples of the golden ratio's fraction spread evenly, however many nodes there are.
    let share = (node.0 as f64 * 0.618_033_988_749_895).fract();
    (bytes as f64 * (1.0 - 0.35 * share)) as u64
}

/// What an adapter that sees values has done.
fn value_samples(adapter: &ValueAdapter) -> [Sample; 5] {
    let ValueAdapterCounters { packed, unpacked, damaged, foreign, failures, .. } = adapter.counters();
    let sample = |name: &'static str, help: &'static str, value: u64| Sample {
        name: name.into(),
        help: help.into(),
        kind: SampleKind::Counter,
        labels: vec![("adapter", adapter.name().to_owned())],
        value: value as f64,
    };
    [
        sample("adapter_packed", "Values that an adapter packed for the engine", packed),
        sample("adapter_unpacked", "Values that an adapter unpacked", unpacked),
        sample("adapter_damaged", "Values that were not what the adapter had packed", damaged),
        sample(
            "adapter_foreign",
            "Damaged values that name another key or form than the adapter's, not counted as adapter_damaged",
            foreign,
        ),
        sample(
            "adapter_failures",
            "Calls of an adapter that failed; writes were refused, reads not answered",
            failures,
        ),
    ]
}

/// What the sandbox has done: the proof that conflicts are settled in it, and that stores are opened through it.
fn samples(sandbox: &Sandbox, plugins: &Plugins) -> Vec<Sample> {
    let counters = sandbox.counters();
    let sample = |name: &'static str, help: &'static str, labels, value: u64| Sample {
        name: name.into(),
        help: help.into(),
        kind: SampleKind::Counter,
        labels,
        value: value as f64,
    };
    let mut samples = vec![
        sample("sandbox_compiled", "Components that were compiled", Vec::new(), counters.compiled),
        sample("sandbox_cache_hits", "Components whose native code was in the cache", Vec::new(), counters.cache_hits),
    ];
    let (bytes, failed) = plugins.fetched();
    samples.extend([
        sample("plugin_fetched_bytes", "Bytes of plugins that other nodes sent", Vec::new(), bytes),
        sample("plugin_fetches_failed", "Fetches of plugins from other nodes that failed", Vec::new(), failed),
    ]);
    for (name, calls) in counters.adapter_calls {
        samples.push(sample("adapter_calls", "Calls of storage adapters", vec![("adapter", name)], calls));
    }
    for resolver in counters.resolvers {
        let labels = || vec![("resolver", resolver.name.clone()), ("hash", format!("{:?}", resolver.hash))];
        samples.extend([
            sample(
                "resolver_calls",
                "Batches of conflicts that a resolver was asked to settle",
                labels(),
                resolver.calls,
            ),
            sample("resolver_conflicts", "Conflicts that a resolver settled", labels(), resolver.conflicts),
            sample(
                "resolver_failures",
                "Batches without a verdict; all versions were kept",
                labels(),
                resolver.failures,
            ),
        ]);
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_do_not_flush_at_the_same_size_and_nobody_beyond_the_plan() {
        let sizes: Vec<u64> = (1..=64).map(|node| staggered(16 << 20, NodeId(node))).collect();
        assert!(sizes.iter().all(|size| (10 << 20..=16 << 20).contains(size)), "{sizes:?}");
        for three in sizes.windows(3) {
            let (low, high) = (three.iter().min().expect("three"), three.iter().max().expect("three"));
            assert!(high - low > 2 << 20, "{three:?}");
        }
    }
}
