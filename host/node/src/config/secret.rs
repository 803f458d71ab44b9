//! The cluster key: 32 bytes that every member has and nobody else. Secrets of storage adapters lie in files like its
//! own.

use super::Config;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest key file that is read: 64 hex digits and some white space are far less.
const KEY_FILE_BYTES_MAX: u64 = 1_024;
/// Where a node that founds a cluster puts the key that it makes up.
const OWN_KEY_FILE: &str = "cluster.key";

/// The key that seals gossip and opens peer streams. It is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ClusterKey([u8; 32]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Neither in the config nor in the data directory.
    #[error(
        "no cluster key: set cluster.key_file to a copy of the key file of the cluster (`mks keygen FILE` makes one \
         for a new cluster)"
    )]
    Missing,
    /// Others could read it.
    #[error("the key file {0} is open to others (mode {mode:03o}); run: chmod 600 {0}", .path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not 32 bytes in a form we know. The text itself is not repeated: it may be a secret.
    #[error("the key file {} holds {problem}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it holds instead.
        problem: String,
    },
    /// The file system said no.
    #[error("the key file {}: {error}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl ClusterKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> io::Result<Self> {
        use rand::TryRng as _;
        let mut bytes = [0; 32];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads its file: see [`read_key`].
    ///
    /// # Errors
    /// As of [`read_key`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        read_key(path).map(Self)
    }

    /// Writes a new key file that only its owner may read.
    ///
    /// # Errors
    /// When the file exists (a key is never overwritten) or can't be written.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{hex}")?;
        file.sync_all()
    }
}

impl TryFrom<String> for ClusterKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse(&text).map(Self)
    }
}

/// Reads a key file: 64 hex digits or base64, white space around it.
///
/// # Errors
/// Also when others than its owner may read or write the file; its group counts as others.
pub fn read_key(path: &Path) -> Result<[u8; 32], KeyError> {
    let io = |error| KeyError::Io { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    // Group read is how Kubernetes mounts a secret for a process that is not root; writing is never needed.
    if mode & 0o037 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
    parse(&text).map_err(|problem| KeyError::Malformed { path: path.to_owned(), problem })
}

fn parse(text: &str) -> Result<[u8; 32], String> {
    let text = text.trim();
    let bytes = unhex(text).or_else(|| STANDARD.decode(text).ok());
    let bytes = bytes.ok_or("something that is neither 64 hex digits nor base64; a key is 32 bytes")?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| format!("{length} bytes; a key is 32 bytes"))
}

/// Hex of a whole key. Other lengths are left to base64, which may mean them.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

impl Config {
    /// The key of this node's cluster: `cluster.key`, else `cluster.key_file`, else the one that this node made when
    /// it founded the cluster. A founder without any makes one, in a file of its data directory (which must exist),
    /// for the operator to copy to the other nodes.
    ///
    /// # Errors
    /// [`KeyError`] says what to do.
    pub fn cluster_key(&self) -> Result<ClusterKey, KeyError> {
        if let Some(key) = &self.cluster.key {
            return Ok(key.clone());
        }
        if let Some(path) = &self.cluster.key_file {
            return ClusterKey::read(path);
        }
        let own = self.node.data_dir.join(OWN_KEY_FILE);
        match ClusterKey::read(&own) {
            Err(KeyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        if !self.cluster.bootstrap {
            return Err(KeyError::Missing);
        }
        let made = ClusterKey::random().and_then(|key| key.write_new(&own).map(|()| key));
        let key = made.map_err(|error| KeyError::Io { path: own.clone(), error })?;
        tracing::info!(file = %own.display(), "made a cluster key; nodes that join need a copy of this file");
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_key_reads_as_hex_and_as_base64() {
        let hex = ClusterKey::try_from(HEX.to_owned()).unwrap();
        assert_eq!(hex.bytes()[31], 31);
        let base64 = ClusterKey::try_from(format!(" {}\n", STANDARD.encode(hex.bytes()))).unwrap();
        assert_eq!(hex, base64);
    }

    #[test]
    fn a_key_of_another_length_is_refused_without_repeating_it() {
        for (text, piece) in [("00ff", "3 bytes"), ("not a key!", "neither"), ("", "0 bytes")] {
            let error = ClusterKey::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(piece), "{text:?}: {error}");
            assert!(text.is_empty() || !error.contains(text));
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_with_the_command_that_helps() {
        for mode in [0o644, 0o604, 0o620, 0o660, 0o601] {
            let (_dir, path) = file(HEX, mode);
            let error = ClusterKey::read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:03o}")) && error.contains("chmod 600"), "{error}");
        }
        for mode in [0o600, 0o400, 0o440] {
            let (_dir, path) = file(HEX, mode);
            ClusterKey::read(&path).unwrap();
        }
    }

    #[test]
    fn a_written_key_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = ClusterKey::random().unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(ClusterKey::read(&path).unwrap(), key);
        let again = ClusterKey::random().unwrap().write_new(&path).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(ClusterKey::read(&path).unwrap(), key);
    }

    #[test]
    fn a_founder_makes_a_key_once_and_a_joiner_needs_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = dir.path().to_owned();
        assert!(matches!(config.cluster_key(), Err(KeyError::Missing)));
        config.cluster.bootstrap = true;
        let key = config.cluster_key().unwrap();
        config.cluster.bootstrap = false;
        assert_eq!(config.cluster_key().unwrap(), key, "a restart finds the key again");
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ClusterKey::try_from(HEX.to_owned()).unwrap();
        assert_eq!(format!("{key:?}"), "ClusterKey(..)");
    }
}
