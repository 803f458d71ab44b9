//! `storage.adapter`: one adapter by its name, or a list of them, each with options and secrets of its own.

use super::Storage;
use super::check::Complaint;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Adapters that may stand in one list.
const CHAIN_MAX: usize = 8;

/// A storage adapter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Adapter {
    /// The built-in one for fjall.
    Fjall,
    /// The built-in one for RocksDB; not in every binary.
    Rocksdb,
    /// No disk at all: for tests and caches. No component names this engine.
    Memory,
    /// The built-in one that makes values smaller.
    Compress,
    /// The built-in one that hides them.
    Encrypt,
    /// A component file.
    Component(PathBuf),
}

impl TryFrom<String> for Adapter {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "fjall" => Ok(Self::Fjall),
            "rocksdb" => Ok(Self::Rocksdb),
            "memory" => Ok(Self::Memory),
            "compress" => Ok(Self::Compress),
            "encrypt" => Ok(Self::Encrypt),
            // On the command line a list is written with commas.
            path if (path.contains('/') || path.ends_with(".wasm")) && !path.contains(',') => {
                Ok(Self::Component(path.into()))
            }
            _ => Err(format!(
                "there is no adapter named {name:?}; use fjall, rocksdb, memory, compress, encrypt, or the path of a \
                 component file (./my-adapter.wasm)"
            )),
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fjall => f.write_str("fjall"),
            Self::Rocksdb => f.write_str("rocksdb"),
            Self::Memory => f.write_str("memory"),
            Self::Compress => f.write_str("compress"),
            Self::Encrypt => f.write_str("encrypt"),
            Self::Component(path) => path.display().fmt(f),
        }
    }
}

/// One adapter of a list: its name alone, or `{ name = "encrypt", secrets = { key = "storage.key" } }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which one.
    pub adapter: Adapter,
    /// Handed to it as they are.
    pub options: BTreeMap<String, String>,
    /// Files of 32 bytes as hex or base64, which nobody else may read; their contents are handed to it.
    pub secrets: BTreeMap<String, PathBuf>,
}

impl From<Adapter> for Link {
    fn from(adapter: Adapter) -> Self {
        Self { adapter, options: BTreeMap::new(), secrets: BTreeMap::new() }
    }
}

/// The adapters between the node and its engine, the one nearest to the node first; the last one names the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterChain(pub Vec<Link>);

impl Default for AdapterChain {
    fn default() -> Self {
        Self(vec![Adapter::Fjall.into()])
    }
}

impl fmt::Display for AdapterChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|link| link.adapter.to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Links;

        impl<'de> Visitor<'de> for Links {
            type Value = Link;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an adapter, or a table with its name, options and secrets")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Link, E> {
                Adapter::try_from(name.to_owned()).map(Link::from).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Link, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    name: Adapter,
                    #[serde(default)]
                    options: BTreeMap<String, String>,
                    #[serde(default)]
                    secrets: BTreeMap<String, PathBuf>,
                }
                let Fields { name, options, secrets } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Link { adapter: name, options, secrets })
            }
        }

        deserializer.deserialize_any(Links)
    }
}

impl<'de> Deserialize<'de> for AdapterChain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Chains;

        impl<'de> Visitor<'de> for Chains {
            type Value = AdapterChain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an adapter, or a list of adapters")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<AdapterChain, E> {
                let adapter = Adapter::try_from(name.to_owned()).map_err(E::custom)?;
                Ok(AdapterChain(vec![adapter.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AdapterChain, A::Error> {
                let mut links = Vec::new();
                while let Some(link) = list.next_element()? {
                    links.push(link);
                }
                Ok(AdapterChain(links))
            }
        }

        deserializer.deserialize_any(Chains)
    }
}

const CHAIN: &[&str] = &["storage.adapter"];
const EARLIER: &[&str] = &["storage.earlier"];
const SHADOW: &[&str] = &["storage.shadow"];

/// What is wrong with the adapters, as far as that shows without asking them.
pub(super) fn complaints(storage: &Storage) -> Vec<Complaint> {
    let mut out = Vec::new();
    let links = &storage.adapter.0;
    if links.is_empty() || links.len() > CHAIN_MAX {
        out.push((CHAIN, format!("names {} adapters, 1 to {CHAIN_MAX} are possible", links.len())));
    }
    let names_engine = |link: &&Link| matches!(link.adapter, Adapter::Fjall | Adapter::Rocksdb | Adapter::Memory);
    if let Some((last, others)) = links.split_last() {
        if matches!(last.adapter, Adapter::Compress | Adapter::Encrypt) {
            let name = &last.adapter;
            out.push((CHAIN, format!("ends with {name}, which keeps nothing; name an engine after it: \"fjall\"")));
        }
        if let Some(Link { adapter, .. }) = others.iter().find(names_engine) {
            out.push((CHAIN, format!("names {adapter} before the end, and nothing can come after an engine")));
        }
        if !last.options.is_empty() && !storage.options.is_empty() {
            let name = &last.adapter;
            out.push((
                &["storage.options", "storage.adapter"],
                format!("are those of {name}, which has options of its own in storage.adapter; keep them in one place"),
            ));
        }
    }
    if let Some(Link { adapter, .. }) = storage.earlier.iter().find(names_engine) {
        out.push((EARLIER, format!("names {adapter}, which reads itself; only adapters that see values belong here")));
    }
    for (fields, links) in [(CHAIN, &links[..]), (EARLIER, &storage.earlier[..]), (SHADOW, storage.shadow.as_slice())] {
        links.iter().for_each(|link| check_link(fields, link, &mut out));
    }
    if let Some(Link { adapter, .. }) = &storage.shadow {
        match adapter {
            Adapter::Memory | Adapter::Compress | Adapter::Encrypt => out
                .push((SHADOW, format!("is {adapter}, which keeps nothing; name an engine: \"rocksdb\" or \"fjall\""))),
            _ if links.last().is_some_and(|last| last.adapter == Adapter::Memory) => out.push((
                SHADOW,
                format!("is {adapter}, and the adapter memory has no place for it; remove it, or name another adapter"),
            )),
            _ => {}
        }
    }
    out
}

fn check_link(fields: &'static [&'static str], link: &Link, out: &mut Vec<Complaint>) {
    match &link.adapter {
        Adapter::Rocksdb if !cfg!(feature = "rocksdb") => out.push((
            fields,
            "is \"rocksdb\", which this binary was built without; use \"fjall\", or build with `--features rocksdb` \
             (`./dev up --adapter rocksdb` does)"
                .into(),
        )),
        Adapter::Component(path) if !path.is_file() => {
            out.push((fields, format!("names {}, and there is no such file", path.display())));
        }
        _ => {}
    }
    for (name, path) in &link.secrets {
        if !path.is_file() {
            let (adapter, path) = (&link.adapter, path.display());
            out.push((fields, format!("names {path} as the secret `{name}` of {adapter}, and there is no such file")));
        }
    }
}
