//! The sandbox, and the store behind the adapter that the config names.

use super::OPENING_SAID;
use crate::config::{Adapter, Config};
use crate::metrics::{Metrics, Sample, SampleKind};
use crate::plugins::Plugins;
use anyhow::Context as _;
use mks_logic::id::NodeId;
use mks_logic::port::Store;
use mks_sandbox::{AdapterSource, Compression, Sandbox, SandboxOptions, StoragePlan, Tuning};
use mks_store::{Engine, OpenError, Options, Swapping};
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
    /// Name and version of the adapter, or that there is none.
    pub(super) adapter: String,
}

/// Takes the data directory for this process alone. The lock ends with the process, however it ends.
pub(super) fn lock(data_dir: &Path) -> anyhow::Result<File> {
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

/// Asks the adapter for its plan and opens the engine that it names, on a thread of its own: the store of another
/// engine is copied first. `None` when the node is stopped meanwhile.
pub(super) async fn open(
    config: &Config,
    sandbox: &Sandbox,
    metrics: &Metrics,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<Option<Opened>> {
    let storage = &config.storage;
    let defaults = Options {
        directory: config.node.data_dir.join("store"),
        reserve_bytes: storage.reserve_bytes,
        ..Options::default()
    };
    let source = match &storage.adapter {
        Adapter::Memory => None,
        Adapter::Fjall => Some(AdapterSource::Builtin("fjall")),
        Adapter::Rocksdb => Some(AdapterSource::Builtin("rocksdb")),
        Adapter::Component(path) => Some(AdapterSource::Path(path.clone())),
    };
    let (options, adapter) = match source {
        None => {
            anyhow::ensure!(
                !defaults.directory.exists(),
                "{} holds data, and the adapter memory would start without them: name the adapter that they were \
                 written with, or give this node another data directory",
                defaults.directory.display()
            );
            (Options { engine: Engine::Memory, ..defaults }, "none".to_owned())
        }
        Some(source) => {
            let given: Vec<_> = storage.options.clone().into_iter().collect();
            let plan = sandbox
                .plan(&source, &given, storage.memory_bytes)
                .with_context(|| format!("the storage adapter {} gave no plan", storage.adapter))?;
            let name = format!("{} {}", plan.adapter, plan.version);
            (planned(defaults, &plan, config.node.id)?, name)
        }
    };
    let (engine, directory) = (options.engine, options.directory.clone());
    let opened = spawn_blocking(move || mks_store::open_watched(&options, &mut progress(stopped)));
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
    Ok(Some(Opened { store, adapter }))
}

/// Says now and then how far a copy to another engine is, until the node is stopped.
fn progress(stopped: watch::Receiver<bool>) -> impl FnMut(Swapping) -> bool {
    let mut said = Instant::now();
    move |Swapping { from, to, checking, entries, about }| {
        if said.elapsed() > OPENING_SAID {
            said = Instant::now();
            let doing = if checking { "reading back what was copied" } else { "copying everything" };
            tracing::info!(%from, %to, entries, about, "{doing}, so that the store gets its new engine");
        }
        !*stopped.borrow()
    }
}

/// The plan's choices over the config's defaults.
fn planned(defaults: Options, plan: &StoragePlan, node: NodeId) -> anyhow::Result<Options> {
    let Tuning { cache_bytes, memtable_bytes, separate_values_from, compression, workers } = plan.tuning;
    Ok(Options {
        engine: plan.engine.parse().map_err(anyhow::Error::msg).context("the storage adapter's plan")?,
        cache_bytes,
        memtable_bytes: staggered(memtable_bytes, node),
        value_separation_bytes: separate_values_from.unwrap_or(0),
        compression: compression == Compression::Lz4,
        workers,
        ..defaults
    })
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
