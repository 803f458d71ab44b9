//! Directories and files whose existence survives a power cut.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a lock that somebody else has is asked for again.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Makes the names inside `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes everything below `directory`, and the names inside it, durable.
pub(crate) fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

/// Makes `directory` and those above it that are missing, durably.
pub(crate) fn make_directories(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directories(parent)?;
    match fs::create_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => sync_directory(parent),
    }
}

/// Bytes that the files of `directory` with this extension take up on the disk; 0 when nobody can say.
pub(crate) fn bytes_of(directory: &Path, extension: &str) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .filter(|entry| Path::new(&entry.file_name()).extension().is_some_and(|found| found == extension))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks() * BLOCK_BYTES)
        .sum()
}

/// A directory held by this process. Given back when dropped, and by the system when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// What came of asking for a [`Lock`].
#[derive(Debug)]
pub(crate) enum Locking {
    /// It is ours.
    Ours(Lock),
    /// Somebody else has it: this process, as far as it said.
    Theirs(Option<u32>),
}

impl Lock {
    /// Asks for the lock at `path`, for a moment: whoever was killed just now, or was let go while its process began
    /// another one, has it a little longer.
    pub(crate) fn take(path: &Path) -> io::Result<Locking> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let begun = Instant::now();
        let mut taken = file.try_lock();
        while matches!(taken, Err(TryLockError::WouldBlock)) && begun.elapsed() < LOCK_PATIENCE {
            std::thread::sleep(LOCK_POLL);
            taken = file.try_lock();
        }
        match taken {
            Ok(()) => {
                // For the message that the next one gets; of no use after a crash, so not synced.
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}", std::process::id())?;
                Ok(Locking::Ours(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = file.read_to_string(&mut holder);
                Ok(Locking::Theirs(read.ok().and_then(|_| holder.trim().parse().ok())))
            }
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}
