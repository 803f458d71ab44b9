//! The storage adapters that a config names: asked what they want, and checked to fit together.

use crate::config::{Adapter, Config, Link, Storage, read_key};
use anyhow::{Context as _, bail, ensure};
use mks_logic::port::Adapt;
use mks_sandbox::{
    AdapterConfig, AdapterSource, Compression, OpenedAdapter, Sandbox, StoragePlan, Tuning, ValueAdapter,
};
use mks_store::{Adapters, Engine, Options, ShadowOptions, stack_of};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a store is opened with.
#[derive(Debug)]
pub struct Chosen {
    /// The engine, its directory and its settings.
    pub options: Options,
    /// What stands in front of it.
    pub adapters: Adapters,
    /// Those of them that see values, for figures.
    pub values: Vec<Arc<ValueAdapter>>,
    /// Names and versions of all that were asked, or `none`.
    pub name: String,
}

/// Where a node keeps its store.
#[must_use]
pub fn store_directory(config: &Config) -> PathBuf {
    config.node.data_dir.join("store")
}

/// Asks all adapters of a config.
///
/// # Errors
/// When one can't be loaded, refuses its options or secrets, or stands where it does not belong.
pub fn choose(config: &Config, sandbox: &Sandbox) -> anyhow::Result<Chosen> {
    let storage = &config.storage;
    let directory = store_directory(config);
    let defaults = Options { directory: directory.clone(), reserve_bytes: storage.reserve_bytes, ..Options::default() };
    let (last, others) = storage.adapter.0.split_last().context("storage.adapter names no adapter")?;
    let (mut values, mut names) = (Vec::new(), Vec::new());
    for link in others {
        let opened = ask(sandbox, link, storage)?;
        if let Some(StoragePlan { engine, .. }) = &opened.plan {
            bail!(
                "the storage adapter {} names the engine {engine}: it must be the last in storage.adapter",
                link.adapter
            );
        }
        names.push(format!("{} {}", opened.info.name, opened.info.version));
        values.extend(opened.values);
    }
    let options = if last.adapter == Adapter::Memory {
        ensure!(
            !directory.exists(),
            "{} holds data, and the adapter memory would start without them: name the adapter that they were written \
             with, or give this node another data directory",
            directory.display()
        );
        Options { engine: Engine::Memory, ..defaults }
    } else {
        let mut last = last.clone();
        last.options.extend(storage.options.clone());
        let opened = ask(sandbox, &last, storage)?;
        let plan = opened.plan.with_context(|| {
            format!(
                "the storage adapter {} names no engine: name another one after it in storage.adapter",
                last.adapter
            )
        })?;
        names.push(format!("{} {}", opened.info.name, opened.info.version));
        values.extend(opened.values);
        let shadow = storage.shadow.as_ref().map(|link| shadow(sandbox, link, storage)).transpose()?;
        Options { shadow, ..planned(defaults, &plan)? }
    };
    let earlier = earlier(sandbox, storage, &directory, &values)?;
    let chain = values.iter().map(|adapter| Arc::clone(adapter) as Arc<dyn Adapt>).collect();
    let name = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Ok(Chosen { options, adapters: Adapters { chain, earlier }, values, name })
}

fn ask(sandbox: &Sandbox, link: &Link, storage: &Storage) -> anyhow::Result<OpenedAdapter> {
    let name = &link.adapter;
    let source = match name {
        Adapter::Memory => bail!("the engine memory has no adapter"),
        Adapter::Fjall => AdapterSource::Builtin("fjall"),
        Adapter::Rocksdb => AdapterSource::Builtin("rocksdb"),
        Adapter::Compress => AdapterSource::Builtin("compress"),
        Adapter::Encrypt => AdapterSource::Builtin("encrypt"),
        Adapter::Component(path) => AdapterSource::Path(path.clone()),
    };
    let mut config = AdapterConfig {
        options: link.options.clone().into_iter().collect(),
        secrets: Vec::new(),
        memory_budget: storage.memory_bytes,
    };
    for (secret, path) in &link.secrets {
        let bytes = read_key(path).with_context(|| format!("the secret `{secret}` of the storage adapter {name}"))?;
        config.secrets.push((secret.clone(), bytes.to_vec()));
    }
    sandbox.adapter(&source, &config).with_context(|| format!("the storage adapter {name} gave no plan"))
}

/// What a second engine is opened with. It gets what the values have become in front of the first one.
fn shadow(sandbox: &Sandbox, link: &Link, storage: &Storage) -> anyhow::Result<Box<ShadowOptions>> {
    let OpenedAdapter { plan, values, .. } = ask(sandbox, link, storage)?;
    let plan = plan.filter(|_| values.is_none()).with_context(|| {
        format!(
            "the storage adapter {} does more or less than to name an engine: storage.shadow needs one",
            link.adapter
        )
    })?;
    Ok(Box::new(ShadowOptions { engine: planned(Options::default(), &plan)?, ..ShadowOptions::default() }))
}

/// Adapters that read what lies in the directory, beside those of the chain.
fn earlier(
    sandbox: &Sandbox,
    storage: &Storage,
    directory: &Path,
    chain: &[Arc<ValueAdapter>],
) -> anyhow::Result<Vec<Arc<dyn Adapt>>> {
    let mut earlier: Vec<Arc<dyn Adapt>> = Vec::new();
    for link in &storage.earlier {
        let values = ask(sandbox, link, storage)?.values;
        let values = values.with_context(|| {
            format!(
                "the storage adapter {} sees no values and wrote none: remove it from storage.earlier",
                link.adapter
            )
        })?;
        earlier.push(values);
    }
    // If the directory can't be read, whoever opens it says so.
    for form in stack_of(directory).ok().flatten().map_or_else(Vec::new, |stack| stack.forms) {
        let is_known = chain.iter().any(|a| a.form() == form) || earlier.iter().any(|a| a.form() == form);
        // It needs no secrets, so nobody has to name it.
        if !is_known && form.starts_with("compress ") {
            let opened = ask(sandbox, &Adapter::Compress.into(), storage)?;
            earlier.extend(opened.values.map(|values| values as Arc<dyn Adapt>));
        }
    }
    Ok(earlier)
}

/// The plan's choices over the config's defaults.
fn planned(defaults: Options, plan: &StoragePlan) -> anyhow::Result<Options> {
    let Tuning { cache_bytes, memtable_bytes, separate_values_from, compression, workers } = plan.tuning;
    Ok(Options {
        engine: plan.engine.parse().map_err(anyhow::Error::msg).context("the storage adapter's plan")?,
        cache_bytes,
        memtable_bytes,
        value_separation_bytes: separate_values_from.unwrap_or(0),
        compression: compression == Compression::Lz4,
        workers,
        ..defaults
    })
}
