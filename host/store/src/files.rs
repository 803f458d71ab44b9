//! Directories and files whose existence survives a power cut.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
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
