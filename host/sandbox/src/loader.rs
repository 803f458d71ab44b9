//! From bytes to a component that may run: size, validity, imports, kind, and native code from the cache or the
//! compiler.

use crate::cache::{Cache, CacheState};
use crate::engine::{SharedEngine, shorten};
use crate::error::SandboxError;
use crate::options::SandboxOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker};

/// Packages whose interfaces may be imported as long as they hold types only.
const OWN_PACKAGES: &str = "my-key-store:";
/// Longest name or version by which a component describes itself, bytes.
const NAME_BYTES_MAX: usize = 64;

/// A component whose imports were audited.
pub(crate) struct Loaded {
    pub(crate) component: Component,
    pub(crate) hash: blake3::Hash,
}

/// An interface of our contracts, with the version that this node knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interface(pub(crate) &'static str);

impl Interface {
    /// The name without its version, and the part of the version within which additions are compatible.
    fn parts(name: &str) -> (&str, &str) {
        let (name, version) = name.split_once('@').unwrap_or((name, ""));
        let compatible = version.match_indices('.').map(|(at, _)| at).nth(usize::from(version.starts_with("0.")));
        (name, compatible.map_or(version, |at| &version[..at]))
    }

    /// Whether an import or export is this interface, in this or a compatible version.
    pub(crate) fn names(self, other: &str) -> bool {
        Self::parts(self.0) == Self::parts(other)
    }

    /// The same in any version.
    pub(crate) fn is_of_same_name(self, other: &str) -> bool {
        Self::parts(self.0).0 == Self::parts(other).0
    }

    fn is_other_version(self, other: &str) -> bool {
        !self.names(other) && self.is_of_same_name(other)
    }
}

/// Loads components and counts how.
pub(crate) struct Loader {
    engine: SharedEngine,
    cache: Cache,
    component_bytes_max: usize,
    compiled: AtomicU64,
    cache_hits: AtomicU64,
}

impl Loader {
    pub(crate) fn new(engine: SharedEngine, options: &SandboxOptions) -> Result<(Self, CacheState), SandboxError> {
        let (cache, state) = Cache::open(&options.directory, engine.code_tag())?;
        let loader = Self {
            engine,
            cache,
            component_bytes_max: options.component_bytes_max,
            compiled: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
        };
        Ok((loader, state))
    }

    /// Components compiled, and components found in the cache.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.compiled.load(Relaxed), self.cache_hits.load(Relaxed))
    }

    /// Most bytes of one.
    pub(crate) fn component_bytes_max(&self) -> usize {
        self.component_bytes_max
    }

    /// Reads a component's file, whose size is checked first.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, SandboxError> {
        let name = path.display().to_string();
        let unreadable =
            |error: std::io::Error| SandboxError::Unreadable { component: name.clone(), reason: error.to_string() };
        let about = std::fs::metadata(path).map_err(unreadable)?;
        if !about.is_file() {
            return Err(SandboxError::Unreadable { component: name, reason: "it is no file".into() });
        }
        self.check_size(&name, about.len())?;
        std::fs::read(path).map_err(unreadable)
    }

    /// Makes a component out of bytes. `name` is how errors call it; of the imports only `allowed` may have functions.
    pub(crate) fn load(&self, name: &str, bytes: &[u8], allowed: Option<Interface>) -> Result<Loaded, SandboxError> {
        self.check_size(name, bytes.len() as u64)?;
        let hash = blake3::hash(bytes);
        let component = match self.cached(&hash) {
            Some(component) => component,
            None => self.compile(name, bytes, &hash)?,
        };
        self.audit(name, &component, allowed)?;
        Ok(Loaded { component, hash })
    }

    /// Why a component is not of the kind that was looked for.
    pub(crate) fn wrong_world(
        &self,
        name: &str,
        component: &Component,
        expected: Interface,
        error: &wasmtime::Error,
    ) -> SandboxError {
        let exports = self.exports(component);
        let same_contract = exports.iter().find(|export| expected.is_other_version(export));
        let found = match (exports.as_slice(), same_contract) {
            ([], _) => "nothing".to_owned(),
            (_, Some(other)) => {
                let component = name.to_owned();
                return SandboxError::OtherVersion { component, expected: expected.0, found: shorten(other.clone()) };
            }
            (exports, _) if exports.iter().any(|export| expected.names(export)) => {
                format!("it, but not as this node knows it: {error:#}")
            }
            (exports, _) => exports.join(", "),
        };
        SandboxError::WrongWorld { component: name.to_owned(), expected: expected.0, found: shorten(found) }
    }

    /// The names of what a component exports.
    pub(crate) fn exports(&self, component: &Component) -> Vec<String> {
        component.component_type().exports(self.engine.inner()).map(|(export, _)| export.to_owned()).collect()
    }

    /// The names of what it imports, types included.
    pub(crate) fn imports(&self, component: &Component) -> Vec<String> {
        component.component_type().imports(self.engine.inner()).map(|(import, _)| import.to_owned()).collect()
    }

    /// Links nothing: what survived the audit imports nothing that would need it.
    pub(crate) fn linker<T: 'static>(&self) -> Linker<T> {
        Linker::new(self.engine.inner())
    }

    fn check_size(&self, name: &str, bytes: u64) -> Result<(), SandboxError> {
        if bytes <= self.component_bytes_max as u64 {
            return Ok(());
        }
        Err(SandboxError::TooLarge { component: name.to_owned(), bytes, bytes_max: self.component_bytes_max })
    }

    fn cached(&self, hash: &blake3::Hash) -> Option<Component> {
        let file = self.cache.find(hash)?;
        // SAFETY: the file is in the node's own directory, was written by this sandbox, and hashes to what was written.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize_file(self.engine.inner(), &file) };
        match component {
            Ok(component) => {
                self.cache_hits.fetch_add(1, Relaxed);
                Some(component)
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "native code of a plugin can't be used; compiling again");
                self.cache.remove(hash);
                None
            }
        }
    }

    fn compile(&self, name: &str, bytes: &[u8], hash: &blake3::Hash) -> Result<Component, SandboxError> {
        let malformed = |reason: String| SandboxError::Malformed { component: name.to_owned(), reason };
        if is_core_module(bytes) {
            let hint = "it is a core module; make a component of it with `mks plugin build`, or with `wasm-tools component new`";
            return Err(malformed(hint.to_owned()));
        }
        let component = Component::from_binary(self.engine.inner(), bytes);
        let component = component.map_err(|error| malformed(shorten(format!("{error:#}"))))?;
        self.compiled.fetch_add(1, Relaxed);
        match component.serialize() {
            Ok(code) => self.cache.keep(hash, &code),
            Err(error) => tracing::warn!(component = name, %error, "native code of a plugin can't be kept"),
        }
        Ok(component)
    }

    /// Refuses every import but interfaces of our own that hold types only, which give no authority, and `allowed`.
    fn audit(&self, name: &str, component: &Component, allowed: Option<Interface>) -> Result<(), SandboxError> {
        let kind = component.component_type();
        for (import, item) in kind.imports(self.engine.inner()) {
            let offence = match item.ty {
                ComponentItem::ComponentInstance(_) if allowed.is_some_and(|allowed| allowed.names(import)) => continue,
                ComponentItem::ComponentInstance(instance) => self.first_item(&instance),
                ComponentItem::Type(_) => continue,
                _ => Some(String::new()),
            };
            let is_own = import.starts_with(OWN_PACKAGES);
            let full = match offence {
                None if is_own => continue,
                Some(item) if !item.is_empty() => format!("{import} (for one, `{item}`)"),
                _ => import.to_owned(),
            };
            let fix = fix(import);
            return Err(SandboxError::Import { component: name.to_owned(), import: shorten(full), fix });
        }
        Ok(())
    }

    /// The first thing in an interface that is more than a type.
    fn first_item(&self, instance: &ComponentInstance) -> Option<String> {
        let mut exports = instance.exports(self.engine.inner());
        exports.find(|(_, item)| !matches!(item.ty, ComponentItem::Type(_))).map(|(name, _)| name.to_owned())
    }
}

/// What to do about an import that is refused.
fn fix(import: &str) -> &'static str {
    if import.starts_with("wasi:") {
        "build Rust for wasm32-unknown-unknown instead of wasm32-wasip1 or -wasip2; stub WASI out in other languages \
         (`mks plugin new --lang` shows how)"
    } else if import.starts_with(OWN_PACKAGES) {
        "this kind of plugin may not use it: build against the contract of the node's version"
    } else {
        "remove what needs it; what an update needs to know comes as an argument"
    }
}

/// The fifth to eighth byte tell modules (version 1, layer 0) from components (layer 1).
fn is_core_module(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x01\0\0\0")
}

/// Checks how a component describes itself: its name becomes a label of metrics.
pub(crate) fn check_info(component: &str, name: &str, version: &str) -> Result<(), SandboxError> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let is_version = version.len() <= NAME_BYTES_MAX && version.chars().all(|c| !c.is_control());
    if is_name && is_version {
        return Ok(());
    }
    let reason = format!("it calls itself `{name}`, version `{version}`: a name is 1 to 64 of a-z, 0-9 and `-`");
    Err(SandboxError::Failed { component: component.to_owned(), reason: shorten(reason) })
}

#[cfg(test)]
mod tests {
    use super::Interface;

    #[test]
    fn versions_that_only_add_are_the_same_interface() {
        let ours = Interface("my-key-store:resolver/resolve@0.1.1");
        for compatible in ["my-key-store:resolver/resolve@0.1.0", "my-key-store:resolver/resolve@0.1.12"] {
            assert!(ours.names(compatible) && !ours.is_other_version(compatible), "{compatible}");
        }
        for other in ["my-key-store:resolver/resolve@0.2.0", "my-key-store:resolver/resolve@1.1.1"] {
            assert!(!ours.names(other) && ours.is_other_version(other), "{other}");
        }
        for foreign in ["my-key-store:resolver/settle@0.1.1", "a:b/c@0.1.1", "resolve", ""] {
            assert!(!ours.names(foreign) && !ours.is_other_version(foreign), "{foreign}");
        }
        assert!(Interface("a:b/c@1.2.0").names("a:b/c@1.9.0"));
    }
}
