//! The code that this node has: on its disk, in the sandbox, and looked at before anybody relies on it.

use super::{Shadows, hex};
use mks_logic::cluster::{Plugin as Announced, State};
use mks_logic::port::{ResolverHash, Role};
use mks_sandbox::check::{Broken, Options};
use mks_sandbox::{Components, DataTypeCounters, Moment, Plugin, Rehearsal, Sandbox, SandboxError, check};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Made-up histories that the node which takes an upload tries, and each other member with a seed of its own.
const CASES_AT_UPLOAD: u32 = 1_000;
const CASES_AT_FETCH: u32 = 200;
/// Uploads that one node takes at the same time, from the first byte until the log has said yes or no. Each holds a
/// whole component in memory, and of two with the same code one must not clear away what the other has promised.
const UPLOADS_MAX: usize = 1;

/// Why code is not taken. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It is no component that may run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// It is one of another kind.
    #[error(
        "{name} is a {kind}, and what is installed on a running cluster is a resolver or a data type: name its path as \
         `storage.adapter` in the config of a node"
    )]
    Kind {
        /// What it calls itself.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// It wants to see values when versions are written.
    #[error(
        "{0} looks at values as soon as versions meet, and nodes show them to resolvers that merge at read only, so far: \
         answer `at-read` in `when`, or write it for the world `resolver`"
    )]
    AtWrite(String),
    /// It breaks a law.
    #[error("{name} breaks a law, so that owners would not agree: {broken}")]
    Lawless {
        /// What it calls itself.
        name: String,
        /// How.
        broken: Box<Broken>,
    },
    /// It is part of every node.
    #[error("this code is part of every node already: use it as {0:?}, without a version")]
    Builtin(&'static str),
    /// The disk.
    #[error("the plugin directory can't be used: {0}")]
    Disk(#[from] std::io::Error),
    /// Its thread died.
    #[error("the check of the plugin died; this is a bug of my-key-store")]
    Died,
}

/// What a component is, as it says itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// Its code.
    pub hash: ResolverHash,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its size.
    pub bytes: u64,
    /// Whom it serves, and when.
    pub role: Role,
}

/// What this node does about a plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Local {
    /// It is checked, compiled, and can be asked.
    Ready,
    /// On its way: so many of so many bytes.
    Fetching(Progress),
    /// It is not here, and this is why.
    Missing(String),
}

/// How much of something is there, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// So many.
    pub done: u64,
    /// Of so many.
    pub total: u64,
}

/// See the [module](super).
#[expect(missing_debug_implementations, reason = "made of what runs")]
pub struct Plugins {
    sandbox: Arc<Sandbox>,
    components: Arc<Components>,
    local: Mutex<BTreeMap<ResolverHash, Local>>,
    /// Uploads under way: no garbage, although the log does not name them yet.
    uploading: Mutex<BTreeSet<ResolverHash>>,
    uploads: Arc<Semaphore>,
    shadows: Arc<Shadows>,
    /// Somebody knows of something to do before the next round.
    pub(super) nudge: Notify,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) fetches_failed: AtomicU64,
}

impl Plugins {
    /// Opens the components in the plugin directory; damaged ones are removed, and fetched again later.
    ///
    /// # Errors
    /// When the directory can't be used.
    pub fn open(directory: &Path, sandbox: Arc<Sandbox>) -> Result<Self, SandboxError> {
        let (components, removed) = Components::open(directory)?;
        if !removed.is_empty() {
            tracing::warn!(?removed, "components were damaged or strangers; what is needed is fetched again");
        }
        let shadows = Arc::new(Shadows::new(Arc::new(Rehearsal::new(Arc::clone(&sandbox)))));
        Ok(Self {
            sandbox,
            shadows,
            components: Arc::new(components),
            local: Mutex::default(),
            uploading: Mutex::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            nudge: Notify::new(),
            bytes_fetched: AtomicU64::new(0),
            fetches_failed: AtomicU64::new(0),
        })
    }

    /// The files, for other members who want them.
    #[must_use]
    pub fn components(&self) -> &Arc<Components> {
        &self.components
    }

    /// Candidates that shadow others.
    #[must_use]
    pub const fn shadows(&self) -> &Arc<Shadows> {
        &self.shadows
    }

    /// Largest component that is taken, bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.sandbox.component_bytes_max()
    }

    /// What this node does about a plugin of the log.
    #[must_use]
    pub fn local(&self, hash: ResolverHash) -> Local {
        self.locals().get(&hash).cloned().unwrap_or_else(|| Local::Missing("it was announced just now".into()))
    }

    /// Whether a plugin can be asked on this node, whatever became of its file.
    #[must_use]
    pub fn runs(&self, hash: ResolverHash) -> bool {
        self.sandbox.runs(hash)
    }

    /// The Merkle root of the directory of components; empty when it can't be read.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.components.fingerprint().unwrap_or_default()
    }

    /// What was done since the start: bytes fetched from other members, and fetches that failed.
    #[must_use]
    pub fn fetched(&self) -> (u64, u64) {
        (self.bytes_fetched.load(Relaxed), self.fetches_failed.load(Relaxed))
    }

    /// Calls of a plugin on this node, conflicts that it settled, and calls that failed.
    #[must_use]
    pub fn figures(&self, hash: ResolverHash) -> (u64, u64, u64) {
        if let Some(data_type) = self.sandbox.data_type(hash) {
            let DataTypeCounters { calls, failures } = data_type.counters();
            return (calls, 0, failures);
        }
        let resolvers = self.sandbox.counters().resolvers;
        resolvers
            .iter()
            .find(|resolver| resolver.hash == hash)
            .map_or((0, 0, 0), |r| (r.calls, r.conflicts, r.failures))
    }

    /// Plugins that failed so often that this node does not ask them any more.
    pub(super) fn suspended(&self) -> Vec<(ResolverHash, String)> {
        self.sandbox.suspended()
    }

    /// They may be asked again.
    pub(super) fn resume(&self, hash: ResolverHash) {
        self.sandbox.resume(hash);
    }

    /// Whether it can be asked, or could be if it did not fail.
    pub(super) fn is_ready(&self, hash: ResolverHash) -> bool {
        self.locals().get(&hash) == Some(&Local::Ready)
    }

    pub(super) fn note(&self, hash: ResolverHash, local: Local) {
        self.locals().insert(hash, local);
    }

    /// Everything that the log names and that is on the disk goes into the sandbox: before the node serves, so that a
    /// restart makes nobody wait. It blocks.
    pub fn load(&self, state: &State) {
        for (hash, plugin) in &state.plugins {
            match self.shelved(*hash, plugin) {
                Ok(true) => self.note(*hash, Local::Ready),
                Ok(false) => self.note(*hash, Local::Missing("the plugin directory does not have it".into())),
                Err(error) => self.note(*hash, Local::Missing(error.to_string())),
            }
        }
        tracing::info!(plugins = state.plugins.len(), fingerprint = self.fingerprint(), "the plugin directory is open");
    }

    /// Puts a component of the disk into the sandbox; false when there is none.
    pub(super) fn shelved(&self, hash: ResolverHash, plugin: &Announced) -> Result<bool, PluginError> {
        let Some(bytes) = self.components.read(hash)? else { return Ok(false) };
        self.install(&plugin.full_name(), plugin.role, &bytes)?;
        Ok(true)
    }

    fn install(&self, name: &str, role: Role, bytes: &[u8]) -> Result<(), SandboxError> {
        match role {
            Role::Resolver | Role::Merger => self.sandbox.install_resolver(name, bytes).map(drop),
            Role::DataType => self.sandbox.install_data_type(name, bytes).map(drop),
        }
    }

    /// Takes what another member has sent: checks, keeps and compiles it. It blocks.
    pub(super) fn take(&self, plugin: &Announced, bytes: &[u8], seed: u64) -> Result<(), PluginError> {
        let name = plugin.full_name();
        self.examine(&name, bytes, Options { cases: CASES_AT_FETCH, seed })?;
        self.components.write(bytes)?;
        self.install(&name, plugin.role, bytes)?;
        Ok(())
    }

    /// A place for one upload: others wait for it to end.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.uploads).acquire_owned().await.ok()
    }

    /// The same as [`Self::take`] for an upload, which nobody has looked at yet.
    ///
    /// # Errors
    /// [`PluginError`]; nothing of it is kept.
    pub async fn receive(
        self: &Arc<Self>,
        turn: OwnedSemaphorePermit,
        bytes: Vec<u8>,
        seed: u64,
    ) -> Result<Upload, PluginError> {
        let shelf = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || {
            let about = shelf.examine("the upload", &bytes, Options { cases: CASES_AT_UPLOAD, seed })?;
            let hash = about.hash;
            let known = shelf.locals().contains_key(&hash);
            // From here on it is no garbage.
            shelf.uploads_under_way().insert(hash);
            let upload = Upload { shelf: Arc::clone(&shelf), about, keeps: known, _turn: turn };
            shelf.components.write(&bytes)?;
            shelf.install(&upload.about.name, upload.about.role, &bytes)?;
            shelf.note(hash, Local::Ready);
            Ok(upload)
        });
        taken.await.map_err(|_| PluginError::Died)?
    }

    fn examine(&self, source: &str, bytes: &[u8], options: Options) -> Result<About, PluginError> {
        let hash = ResolverHash(*blake3::hash(bytes).as_bytes());
        if let Some((name, ..)) = Sandbox::builtin_code().into_iter().find(|(_, builtin, _)| *builtin == hash) {
            return Err(PluginError::Builtin(name));
        }
        let (name, version, role, checked) = match self.sandbox.inspect(source, bytes)? {
            Plugin::Resolver(resolver) => {
                let name = resolver.name().to_owned();
                let role = match (resolver.sees_values(), resolver.moment()) {
                    (false, _) => Role::Resolver,
                    (true, Moment::AtRead) => Role::Merger,
                    (true, Moment::AtWrite) => return Err(PluginError::AtWrite(name)),
                };
                (name, resolver.version().to_owned(), role, check::resolver(&resolver, &options))
            }
            Plugin::DataType(data_type) => {
                let (name, version) = (data_type.name().to_owned(), data_type.version().to_owned());
                (name, version, Role::DataType, check::data_type(&data_type, &options))
            }
            Plugin::Adapter(other) => return Err(PluginError::Kind { name: other.name, kind: "storage adapter" }),
        };
        if let Err(broken) = checked {
            return Err(PluginError::Lawless { name, broken });
        }
        Ok(About { hash, name, version, bytes: bytes.len() as u64, role })
    }

    /// Forgets what the log does not name any more: files, code in the sandbox, native code.
    pub(super) fn discard(&self, hash: ResolverHash) {
        if self.uploads_under_way().contains(&hash) {
            return;
        }
        self.sandbox.uninstall(hash);
        self.locals().remove(&hash);
        match self.components.remove(hash) {
            Ok(()) => tracing::info!(plugin = hex(hash), "a plugin that nobody needs any more is gone"),
            Err(error) => tracing::warn!(plugin = hex(hash), %error, "a plugin that nobody needs can't be removed"),
        }
    }

    /// Plugins that run here although their file is gone: somebody else lost the directory for us.
    pub(super) fn without_file(&self) -> Vec<ResolverHash> {
        let files = self.components.list().unwrap_or_default();
        let locals = self.locals();
        let ready = locals.iter().filter(|(_, local)| **local == Local::Ready).map(|(hash, _)| *hash);
        ready.filter(|hash| !files.contains(hash)).collect()
    }

    /// Files that the log does not name.
    pub(super) fn leftovers(&self, state: &State) -> Vec<ResolverHash> {
        let files = self.components.list().unwrap_or_default();
        files.into_iter().filter(|hash| !state.plugins.contains_key(hash)).collect()
    }

    fn locals(&self) -> MutexGuard<'_, BTreeMap<ResolverHash, Local>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads_under_way(&self) -> MutexGuard<'_, BTreeSet<ResolverHash>> {
        self.uploading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload that was taken, until the log names it. Dropped before that, it leaves nothing behind.
#[expect(missing_debug_implementations, reason = "made of what runs")]
pub struct Upload {
    shelf: Arc<Plugins>,
    /// What it is.
    pub about: About,
    keeps: bool,
    _turn: OwnedSemaphorePermit,
}

impl Upload {
    /// The log names it, or may do so soon.
    pub fn keep(mut self) {
        self.keeps = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.shelf.uploads_under_way().remove(&self.about.hash);
        if !self.keeps {
            self.shelf.discard(self.about.hash);
        }
        self.shelf.nudge.notify_one();
    }
}
