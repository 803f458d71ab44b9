//! Components that were uploaded, as they came: one file each, named by what is in it.
//!
//! ```text
//! <directory>/components/<BLAKE3 of the component>.wasm    mode 0600
//! ```
//!
//! A file is what its name says, or it is removed: whoever needs it fetches it again from another node. So nothing has
//! to be recorded beside it, and directories that hold the same plugins have the same fingerprint on all nodes.

use crate::cache::{Tree, write_whole};
use crate::error::SandboxError;
use mks_logic::port::ResolverHash;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const EXTENSION: &str = "wasm";

/// See the [module](self).
#[derive(Debug)]
pub struct Components {
    directory: PathBuf,
}

impl Components {
    /// Opens the folder of components in the plugin directory, and removes what is no component or a damaged one: their
    /// names, sorted.
    ///
    /// # Errors
    /// When the directory can't be used.
    pub fn open(directory: &Path) -> Result<(Self, Vec<String>), SandboxError> {
        let components = Self { directory: directory.join("components") };
        let unusable = |error: io::Error| SandboxError::Directory {
            directory: components.directory.clone(),
            reason: error.to_string(),
        };
        components.make_directory().map_err(unusable)?;
        let removed = components.check().map_err(unusable)?;
        Ok((components, removed))
    }

    /// The bytes of a component; `None` when they are not here. A damaged file is removed.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn read(&self, hash: ResolverHash) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(hash);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if blake3::hash(&bytes) == blake3::Hash::from(hash.0) {
            return Ok(Some(bytes));
        }
        tracing::warn!(file = %path.display(), "a component is not what its name says; it is removed");
        fs::remove_file(path)?;
        Ok(None)
    }

    /// A piece of a component for another node, which checks the whole, and the size of the whole.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn piece(&self, hash: ResolverHash, offset: u64, bytes_max: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut file = match File::open(self.path(hash)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let total = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.min(total)))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(Some((total, bytes)))
    }

    /// Keeps a component, durably: other nodes may rely on it from then on.
    ///
    /// # Errors
    /// When the disk can't be written; nothing of it is there then.
    pub fn write(&self, bytes: &[u8]) -> io::Result<ResolverHash> {
        let hash = ResolverHash(*blake3::hash(bytes).as_bytes());
        // Somebody may have taken the directory away under a node that runs.
        self.make_directory()?;
        write_whole(&self.path(hash), bytes)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(hash)
    }

    /// Removes a component; absent is fine.
    ///
    /// # Errors
    /// When the disk can't be written.
    pub fn remove(&self, hash: ResolverHash) -> io::Result<()> {
        match fs::remove_file(self.path(hash)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is there.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn list(&self) -> io::Result<BTreeSet<ResolverHash>> {
        fs::read_dir(&self.directory)?.map(|entry| Ok(named(&entry?.path()))).filter_map(Result::transpose).collect()
    }

    /// The Merkle root over the names and the contents of all files, 64 hex digits.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn fingerprint(&self) -> io::Result<String> {
        Ok(Tree::of(&self.directory)?.root)
    }

    fn make_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    fn path(&self, hash: ResolverHash) -> PathBuf {
        self.directory.join(format!("{}.{EXTENSION}", blake3::Hash::from(hash.0).to_hex()))
    }

    fn check(&self) -> io::Result<Vec<String>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            // What is no file of ours is removed unread: it could be a link to anywhere.
            let is_whole = match named(&path) {
                Some(hash) if kind.is_file() => self.read(hash)?.is_some(),
                _ if kind.is_dir() => fs::remove_dir_all(&path).map(|()| false)?,
                _ => fs::remove_file(&path).map(|()| false)?,
            };
            if !is_whole {
                removed.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        removed.sort();
        Ok(removed)
    }
}

/// The hash that a file is named by.
fn named(path: &Path) -> Option<ResolverHash> {
    let is_ours = path.extension().is_some_and(|extension| extension == EXTENSION);
    let hash = path.file_stem().filter(|_| is_ours).and_then(|stem| blake3::Hash::from_hex(stem.to_str()?).ok())?;
    Some(ResolverHash(*hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(home: &Path) -> (Components, Vec<String>) {
        Components::open(home).expect("a usable directory")
    }

    #[test]
    fn a_component_comes_back_whole_in_pieces_and_after_opening_again() {
        let home = tempfile::tempdir().expect("a directory");
        let (components, removed) = open(home.path());
        assert!(removed.is_empty());
        let hash = components.write(b"a component").expect("writable");
        let (components, removed) = open(home.path());
        assert_eq!((removed, components.list().expect("readable")), (vec![], BTreeSet::from([hash])));
        assert_eq!(components.read(hash).expect("readable").as_deref(), Some(&b"a component"[..]));
        let piece = |offset, bytes_max| components.piece(hash, offset, bytes_max).expect("readable");
        assert_eq!(piece(0, 4), Some((11, b"a co".to_vec())));
        assert_eq!(piece(4, 100), Some((11, b"mponent".to_vec())));
        assert_eq!((piece(11, 4), piece(u64::MAX, 4)), (Some((11, vec![])), Some((11, vec![]))));
        components.remove(hash).expect("writable");
        components.remove(hash).expect("absent is fine");
        assert_eq!((components.read(hash).expect("readable"), piece(0, 4)), (None, None));
        fs::remove_dir_all(home.path()).expect("removable");
        assert_eq!(components.write(b"a component").expect("the directory comes back"), hash);
    }

    #[test]
    fn a_damaged_file_is_not_there_and_strangers_go_unread() {
        let home = tempfile::tempdir().expect("a directory");
        let (components, _) = open(home.path());
        let (hash, other) = (components.write(b"one").expect("writable"), components.write(b"two").expect("writable"));
        fs::write(components.path(hash), b"0ne").expect("writable");
        assert_eq!(components.read(hash).expect("readable"), None);
        assert!(!components.path(hash).exists(), "it is fetched again");

        fs::write(components.path(other), b"tw0").expect("writable");
        let folder = home.path().join("components");
        std::os::unix::fs::symlink("/", folder.join("everything")).expect("a link");
        fs::create_dir_all(folder.join("a/b")).expect("directories");
        fs::write(folder.join("beside.tmp"), b"half").expect("a file");
        let (components, removed) = open(home.path());
        let damaged = format!("{}.wasm", blake3::Hash::from(other.0).to_hex());
        assert!(removed.contains(&damaged) && removed.len() == 4, "{removed:?}");
        assert!(components.list().expect("readable").is_empty() && Path::new("/").exists());
    }

    #[test]
    fn equal_directories_have_equal_fingerprints() {
        let homes = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let [(one, _), (two, _)] = [open(homes[0].path()), open(homes[1].path())];
        let print = |components: &Components| components.fingerprint().expect("readable");
        assert_eq!(print(&one), print(&two));
        let empty = print(&one);
        for component in [&b"first"[..], b"second"] {
            one.write(component).expect("writable");
        }
        assert_ne!(print(&one), print(&two));
        for component in [&b"second"[..], b"first"] {
            two.write(component).expect("writable");
        }
        assert_eq!(print(&one), print(&two));
        assert_ne!(print(&one), empty);
    }
}
