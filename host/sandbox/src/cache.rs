//! Native code of components, kept on disk so that a restart compiles nothing.
//!
//! ```text
//! <directory>/native/<BLAKE3 of the component>-<engine tag>.cwasm    mode 0600
//! <directory>/fingerprint                                            Merkle root of native/, then each file's hash
//! ```
//!
//! Native code runs without a wall around it, so a file is used only while it hashes to what was recorded when it was
//! written. That guards against damage and mix-ups, not against somebody who can write to the node's own directory.
//! The cache is never more than a help: what can't be used is removed and made again.

use crate::error::SandboxError;
use merkle_hash::{Algorithm, Encodable, MerkleTree};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files that the cache keeps. Beyond it new code is compiled and not kept.
const FILES_MAX: usize = 256;
/// First line of the record.
const FORMAT: &str = "my-key-store plugin cache 1";

/// What the start found in the plugin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheState {
    /// Everything hashes to the recorded fingerprint. A new directory is intact as well.
    Intact,
    /// Something did not. These files were removed; their components are compiled again when they are used.
    Repaired {
        /// Names within the directory, sorted. Empty when files were missing or only the record was damaged.
        removed: Vec<String>,
    },
}

/// See the [module](self).
pub(crate) struct Cache {
    native: PathBuf,
    record: PathBuf,
    tag: String,
    /// What `native` should hold. Its lock also serialises changes of the directory.
    known: Mutex<Tree>,
}

/// The Merkle root of a directory, and the hash of each file in it by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: String,
    files: BTreeMap<String, String>,
}

impl Cache {
    /// Opens the cache and brings directory and record into agreement.
    pub(crate) fn open(directory: &Path, tag: String) -> Result<(Self, CacheState), SandboxError> {
        let unusable =
            |error: io::Error| SandboxError::Directory { directory: directory.to_owned(), reason: error.to_string() };
        let cache = Self {
            native: directory.join("native"),
            record: directory.join("fingerprint"),
            tag,
            known: Mutex::default(),
        };
        let state = cache.check().map_err(unusable)?;
        if let CacheState::Repaired { removed } = &state {
            tracing::warn!(?removed, directory = %directory.display(), "the plugin cache was damaged and is repaired");
        }
        Ok((cache, state))
    }

    /// The file with the native code of a component, if there is one that can be trusted.
    pub(crate) fn find(&self, component: &blake3::Hash) -> Option<PathBuf> {
        let name = self.name(component);
        let path = self.native.join(&name);
        let mut known = self.lock();
        let recorded = known.files.get(&name)?.clone();
        match Tree::of(&self.native) {
            Ok(found) if found.files.get(&name) == Some(&recorded) => Some(path),
            _ => {
                tracing::warn!(file = %path.display(), "native code of a plugin is not what was written; compiling again");
                self.forget(&mut known, &name);
                None
            }
        }
    }

    /// Removes code that turned out to be of no use.
    pub(crate) fn remove(&self, component: &blake3::Hash) {
        self.forget(&mut self.lock(), &self.name(component));
    }

    /// Keeps the native code of a component. Not being able to costs a compilation at the next start, nothing else.
    pub(crate) fn keep(&self, component: &blake3::Hash, code: &[u8]) {
        let mut known = self.lock();
        if known.files.len() >= FILES_MAX {
            tracing::warn!(
                files = known.files.len(),
                "the plugin cache is full; this component is compiled every time"
            );
            return;
        }
        let name = self.name(component);
        let path = self.native.join(&name);
        let kept = write_whole(&path, code).and_then(|()| Tree::of(&self.native)).and_then(|mut tree| {
            // Only this file's hash is news: taking over all of them would bless what was damaged meanwhile.
            let hash = tree.files.remove(&name).ok_or_else(|| io::Error::other("it vanished"))?;
            known.files.insert(name, hash);
            known.root = tree.root;
            write_whole(&self.record, known.to_text().as_bytes())
        });
        if let Err(error) = kept {
            tracing::warn!(file = %path.display(), %error, "native code of a plugin can't be kept; it is compiled again");
        }
    }

    fn name(&self, component: &blake3::Hash) -> String {
        format!("{}-{}.cwasm", component.to_hex(), self.tag)
    }

    fn lock(&self) -> MutexGuard<'_, Tree> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, known: &mut Tree, name: &str) {
        known.files.remove(name);
        let gone = fs::remove_file(self.native.join(name)).and_then(|()| Tree::of(&self.native)).and_then(|tree| {
            known.root = tree.root;
            write_whole(&self.record, known.to_text().as_bytes())
        });
        if let Err(error) = gone {
            tracing::warn!(name, %error, "damaged code of a plugin can't be removed; it is not used");
        }
    }

    /// Removes everything that is not recorded or does not hash to what is, and then what another engine has left.
    fn check(&self) -> io::Result<CacheState> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.native)?;
        let text = match fs::read_to_string(&self.record) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Tree::of(Path::new(""))?.to_text(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(error),
        };
        let recorded = Tree::from_text(&text).unwrap_or_default();
        let mut removed = remove_strangers(&self.native, &recorded)?;
        let found = Tree::of(&self.native)?;
        for (name, hash) in &found.files {
            if recorded.files.get(name) != Some(hash) {
                fs::remove_file(self.native.join(name))?;
                removed.push(name.clone());
            }
        }
        let intact = removed.is_empty() && found == recorded;
        for name in found.files.keys().filter(|name| !name.ends_with(&format!("-{}.cwasm", self.tag))) {
            if !removed.contains(name) {
                fs::remove_file(self.native.join(name))?;
            }
        }
        let tree = Tree::of(&self.native)?;
        write_whole(&self.record, tree.to_text().as_bytes())?;
        *self.lock() = tree;
        removed.sort();
        Ok(if intact { CacheState::Intact } else { CacheState::Repaired { removed } })
    }
}

/// Removes what was never recorded, without reading it: it could be a link to anywhere.
fn remove_strangers(native: &Path, recorded: &Tree) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(native)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_file() && name.to_str().is_some_and(|name| recorded.files.contains_key(name)) {
            continue;
        }
        if kind.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
        removed.push(name.to_string_lossy().into_owned());
    }
    Ok(removed)
}

/// Writes beside and renames, so that the file is whole or not there. For the node's user only.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?.write_all(bytes)?;
    fs::rename(&beside, path)
}

impl Tree {
    /// Reads and hashes all files of a flat directory. The empty path stands for a directory without files.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        if directory.as_os_str().is_empty() || fs::read_dir(directory)?.next().is_none() {
            return Ok(Self { root: blake3::hash(b"").to_hex().to_string(), files: BTreeMap::new() });
        }
        let path = directory.to_str().ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
        let tree = MerkleTree::builder(path).algorithm(Algorithm::Blake3).hash_names(true).build();
        let tree = tree.map_err(|error| io::Error::other(error.to_string()))?;
        let files = tree.root.children.iter();
        Ok(Self {
            root: tree.root.item.hash.to_hex_string(),
            files: files.map(|file| (file.item.path.relative.to_string(), file.item.hash.to_hex_string())).collect(),
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{FORMAT}\n{}\n", self.root);
        for (name, hash) in &self.files {
            text.push_str(&format!("{hash}  {name}\n"));
        }
        text
    }

    /// `None` when it is no record of ours.
    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next() != Some(FORMAT) {
            return None;
        }
        let root = lines.next()?.to_owned();
        let file = |line: &str| line.split_once("  ").map(|(hash, name)| (name.to_owned(), hash.to_owned()));
        let files = lines.map(file).collect::<Option<_>>()?;
        Some(Self { root, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path, tag: &str) -> (Cache, CacheState) {
        Cache::open(directory, tag.into()).expect("a usable directory")
    }

    fn component(n: u8) -> blake3::Hash {
        blake3::hash(&[n])
    }

    fn removed(names: &[String]) -> CacheState {
        CacheState::Repaired { removed: names.to_vec() }
    }

    #[test]
    fn what_is_kept_is_found_also_after_opening_again() {
        let home = tempfile::tempdir().expect("a directory");
        let (cache, state) = open(home.path(), "e1");
        assert_eq!((state, cache.find(&component(1))), (CacheState::Intact, None));
        cache.keep(&component(1), b"code one");
        cache.keep(&component(2), b"code two");
        let (cache, state) = open(home.path(), "e1");
        assert_eq!(state, CacheState::Intact);
        let file = cache.find(&component(1)).expect("kept");
        assert_eq!(fs::read(&file).expect("readable"), b"code one");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_damaged_file_is_removed_at_the_start_and_the_others_stay() {
        let home = tempfile::tempdir().expect("a directory");
        let (cache, _) = open(home.path(), "e1");
        cache.keep(&component(1), b"code one");
        cache.keep(&component(2), b"code two");
        let file = cache.find(&component(1)).expect("kept");
        fs::write(&file, b"code 0ne").expect("writable");
        let (cache, state) = open(home.path(), "e1");
        assert_eq!(state, removed(&[cache.name(&component(1))]));
        assert_eq!(cache.find(&component(1)), None);
        assert!(cache.find(&component(2)).is_some());
        assert_eq!(open(home.path(), "e1").1, CacheState::Intact, "the repair is recorded");
    }

    #[test]
    fn a_file_that_is_damaged_later_is_not_found() {
        let home = tempfile::tempdir().expect("a directory");
        let (cache, _) = open(home.path(), "e1");
        cache.keep(&component(1), b"code one");
        let file = cache.find(&component(1)).expect("kept");
        fs::write(&file, b"code 0ne").expect("writable");
        assert_eq!(cache.find(&component(1)), None);
        assert!(!file.exists());
        cache.keep(&component(1), b"code one");
        assert!(cache.find(&component(1)).is_some());
    }

    #[test]
    fn keeping_one_file_does_not_bless_the_damage_of_another() {
        let home = tempfile::tempdir().expect("a directory");
        let (cache, _) = open(home.path(), "e1");
        cache.keep(&component(1), b"code one");
        fs::write(cache.find(&component(1)).expect("kept"), b"code 0ne").expect("writable");
        cache.keep(&component(2), b"code two");
        assert_eq!(cache.find(&component(1)), None);
        assert!(cache.find(&component(2)).is_some());
    }

    #[test]
    fn strangers_links_and_leftovers_are_removed_unread() {
        let home = tempfile::tempdir().expect("a directory");
        let (cache, _) = open(home.path(), "e1");
        cache.keep(&component(1), b"code one");
        let native = home.path().join("native");
        std::os::unix::fs::symlink("/", native.join("everything")).expect("a link");
        fs::create_dir_all(native.join("a/b")).expect("directories");
        fs::write(native.join("evil.cwasm"), b"not ours").expect("a file");
        let (cache, state) = open(home.path(), "e1");
        assert_eq!(state, removed(&["a".into(), "everything".into(), "evil.cwasm".into()]));
        assert!(cache.find(&component(1)).is_some());
        assert!(Path::new("/").exists());
    }

    #[test]
    fn a_lost_or_damaged_record_costs_the_cache_and_nothing_else() {
        for damage in [None, Some(&b"garbage"[..]), Some(b"\xff\xfe"), Some(b"")] {
            let home = tempfile::tempdir().expect("a directory");
            let (cache, _) = open(home.path(), "e1");
            cache.keep(&component(1), b"code one");
            let record = home.path().join("fingerprint");
            match damage {
                None => fs::remove_file(record).expect("removable"),
                Some(bytes) => fs::write(record, bytes).expect("writable"),
            }
            let (cache, state) = open(home.path(), "e1");
            assert_eq!(state, removed(&[cache.name(&component(1))]));
            assert_eq!(cache.find(&component(1)), None);
        }
    }

    #[test]
    fn code_of_another_engine_is_cleared_away_without_alarm() {
        let home = tempfile::tempdir().expect("a directory");
        open(home.path(), "e1").0.keep(&component(1), b"code one");
        let (cache, state) = open(home.path(), "e2");
        assert_eq!((state, cache.find(&component(1))), (CacheState::Intact, None));
        assert_eq!(fs::read_dir(home.path().join("native")).expect("there").count(), 0);
    }

    #[test]
    fn a_missing_file_is_noticed() {
        let home = tempfile::tempdir().expect("a directory");
        let (cache, _) = open(home.path(), "e1");
        cache.keep(&component(1), b"code one");
        fs::remove_file(cache.find(&component(1)).expect("kept")).expect("removable");
        assert_eq!(open(home.path(), "e1").1, removed(&[]));
    }
}
