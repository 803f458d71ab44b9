//! Storage adapters: components that turn the operator's options into a plan for a native engine, and say what they
//! want to see of what passes.

use crate::bindings::storage_adapter::adapter as wit;
use crate::builtin;
use crate::engine::{Guest, shorten};
use crate::error::SandboxError;
use crate::loader::{Interface as ContractInterface, Loaded, Loader, check_info};
use crate::value_adapter::{self, Adapters, ValueAdapter};
use mks_logic::port::ResolverHash as ContentHash;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::InstancePre;

/// The interface that makes a component a storage adapter.
pub(crate) const INTERFACE: ContractInterface = ContractInterface("my-key-store:storage-adapter/adapter@0.1.1");
/// Memtables that are full at the same time, at most, by the contract.
const MEMTABLES_FULL_MAX: u64 = 7;
/// Threads that a plan may ask for.
const WORKERS: std::ops::RangeInclusive<u32> = 2..=64;

/// Where an adapter comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterSource {
    /// Part of this binary: `fjall`, `rocksdb`, `compress` or `encrypt`.
    Builtin(&'static str),
    /// A component file.
    Path(PathBuf),
}

/// What the node is to open. Checked: it can be followed as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoragePlan {
    /// The engine's name: `fjall`, `rocksdb` or `memory`. Whether this binary has it is for the caller to see.
    pub engine: String,
    /// The adapter's name.
    pub adapter: String,
    /// The adapter's version.
    pub version: String,
    /// The content hash (BLAKE3) of the adapter.
    pub hash: ContentHash,
    /// The engine's settings.
    pub tuning: Tuning,
}

/// Settings that every engine has, by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Cache of blocks read from disk, bytes.
    pub cache_bytes: u64,
    /// A memtable is flushed to disk when it holds this much, bytes. At most seven are full at any time.
    pub memtable_bytes: u64,
    /// Values of at least this size are stored apart from their keys, bytes. `None`: never.
    pub separate_values_from: Option<u32>,
    /// How blocks on disk are packed.
    pub compression: Compression,
    /// Threads for flushing and compaction, at least 2.
    pub workers: u32,
}

/// How blocks on disk are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
}

/// What the operator wrote for an adapter.
#[derive(Clone, Default)]
pub struct AdapterConfig {
    /// Names and values.
    pub options: Vec<(String, String)>,
    /// Contents of files, by the names that the config gives them. They are handed to the adapter and shown nowhere.
    pub secrets: Vec<(String, Vec<u8>)>,
    /// What cache and memtables may take, bytes.
    pub memory_budget: u64,
}

impl fmt::Debug for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterConfig").field("options", &self.options).finish_non_exhaustive()
    }
}

/// An adapter that has read its options.
#[derive(Clone, Debug)]
pub struct OpenedAdapter {
    /// Who it is.
    pub info: AdapterInfo,
    /// The engine that it names, if it does.
    pub plan: Option<StoragePlan>,
    /// Itself, if it sees values.
    pub values: Option<Arc<ValueAdapter>>,
}

/// What an adapter calls itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
}

/// Who an adapter is, without asking it for a plan.
pub(crate) fn info(adapters: Adapters<'_>, name: &str, loaded: &Loaded) -> Result<AdapterInfo, SandboxError> {
    let (_, _, about) = describe(adapters, name, &linked(adapters, name, loaded)?)?;
    Ok(AdapterInfo { name: about.info.name, version: about.info.version })
}

fn linked(adapters: Adapters<'_>, name: &str, loaded: &Loaded) -> Result<InstancePre<Guest>, SandboxError> {
    let linked = adapters.loader.linker::<Guest>().instantiate_pre(&loaded.component);
    linked.map_err(|error| adapters.loader.wrong_world(name, &loaded.component, INTERFACE, &error))
}

/// An instance of an adapter that has said who it is.
fn describe(
    Adapters { engine, loader, deadline, .. }: Adapters<'_>,
    name: &str,
    linked: &InstancePre<Guest>,
) -> Result<(Store<Guest>, wit::Guest, wit::Description), SandboxError> {
    let indices = wit::GuestIndices::new(linked);
    let indices = indices.map_err(|error| loader.wrong_world(name, linked.component(), INTERFACE, &error))?;
    let failed =
        |error: wasmtime::Error| SandboxError::Failed { component: name.to_owned(), reason: deadline.explain(&error) };
    let mut store = engine.store(deadline);
    let instance = linked.instantiate(&mut store).map_err(failed)?;
    let adapter = indices.load(&mut store, &instance).map_err(failed)?;
    let about = adapter.call_describe(&mut store).map_err(failed)?;
    check_info(name, &about.info.name, &about.info.version)?;
    Ok((store, adapter, about))
}

/// Asks an adapter what it wants, in an instance of its own.
pub(crate) fn open(
    adapters: Adapters<'_>,
    source: &AdapterSource,
    config: &AdapterConfig,
) -> Result<OpenedAdapter, SandboxError> {
    let (name, loaded) = load(adapters.loader, source)?;
    let linked = linked(adapters, &name, &loaded)?;
    let (mut store, adapter, about) = describe(adapters, &name, &linked)?;
    let deadline = adapters.deadline;
    let failed =
        |error: wasmtime::Error| SandboxError::Failed { component: name.clone(), reason: deadline.explain(&error) };
    let options: Vec<_> = config.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let asked = wit::Config { options: &options, memory_budget: config.memory_budget };
    let plan = adapter.call_open(&mut store, asked).map_err(failed)?;
    let plan = plan.map_err(|refusal| refused(&about, refusal))?;
    let info = AdapterInfo { name: about.info.name.clone(), version: about.info.version.clone() };
    let sees_keys = match plan.sees {
        wit::Sees::None => None,
        wit::Sees::Values => Some(false),
        wit::Sees::KeysAndValues => Some(true),
    };
    let values = match sees_keys {
        Some(sees_keys) => Some(Arc::new(value_adapter::start(adapters, &info, &loaded, linked, sees_keys, config)?)),
        None if !config.secrets.is_empty() => {
            let reason = "it takes no secrets".to_owned();
            return Err(SandboxError::Refused { adapter: info.name, reason });
        }
        None => None,
    };
    if values.is_some() && plan.engine.is_empty() {
        return Ok(OpenedAdapter { info, plan: None, values });
    }
    let plan = checked(about, plan, config.memory_budget, ContentHash(*loaded.hash.as_bytes()))?;
    Ok(OpenedAdapter { info, plan: Some(plan), values })
}

fn load(loader: &Loader, source: &AdapterSource) -> Result<(String, Loaded), SandboxError> {
    match source {
        AdapterSource::Builtin(name) => {
            let found = builtin::ADAPTERS.iter().find(|adapter| adapter.name == *name);
            let adapter = found.ok_or_else(|| SandboxError::UnknownAdapter {
                name: (*name).to_owned(),
                known: builtin::ADAPTERS.iter().map(|adapter| adapter.name).collect::<Vec<_>>().join(" or "),
            })?;
            Ok(((*name).to_owned(), loader.load(name, adapter.bytes, None)?))
        }
        AdapterSource::Path(path) => {
            let name = path.display().to_string();
            let loaded = loader.load(&name, &loader.read(path)?, None)?;
            Ok((name, loaded))
        }
    }
}

fn refused(about: &wit::Description, refusal: wit::Refusal) -> SandboxError {
    let adapter = about.info.name.clone();
    match refusal {
        wit::Refusal::UnknownOption(option) => {
            let known: Vec<_> = about.options.iter().map(|option| option.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            SandboxError::UnknownOption { adapter, option: shorten(option), known: shorten(known) }
        }
        wit::Refusal::BadValue(bad) => SandboxError::BadValue {
            adapter,
            option: shorten(bad.name),
            value: shorten(bad.value),
            expected: shorten(bad.expected),
        },
        wit::Refusal::BudgetTooSmall(bytes) => SandboxError::Refused {
            adapter,
            reason: format!("the memory budget is too small, it needs at least {bytes} bytes"),
        },
        wit::Refusal::Other(reason) => SandboxError::Refused { adapter, reason: shorten(reason) },
    }
}

/// An adapter is code of strangers: its plan must be one that a node can follow.
fn checked(
    about: wit::Description,
    plan: wit::Plan,
    memory_budget: u64,
    hash: ContentHash,
) -> Result<StoragePlan, SandboxError> {
    let adapter = about.info.name;
    let tuning = Tuning {
        cache_bytes: plan.tuning.cache_bytes,
        memtable_bytes: plan.tuning.memtable_bytes,
        separate_values_from: plan.tuning.separate_values_from,
        compression: match plan.tuning.compression {
            wit::Compression::None => Compression::None,
            wit::Compression::Lz4 => Compression::Lz4,
        },
        workers: plan.tuning.workers,
    };
    let memtables = tuning.memtable_bytes.saturating_mul(MEMTABLES_FULL_MAX);
    let memory = tuning.cache_bytes.saturating_add(memtables);
    let reason = if memory > memory_budget {
        format!("cache and memtables take {memory} bytes together, and the memory budget is {memory_budget}")
    } else if !WORKERS.contains(&tuning.workers) {
        format!("{} workers, and {} to {} are possible", tuning.workers, WORKERS.start(), WORKERS.end())
    } else if plan.engine.is_empty() {
        "it names no engine".to_owned()
    } else {
        let engine = shorten(plan.engine);
        return Ok(StoragePlan { engine, adapter, version: about.info.version, hash, tuning });
    };
    Err(SandboxError::BadPlan { adapter, reason })
}
