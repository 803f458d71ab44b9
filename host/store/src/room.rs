//! Watches the free space of the disk, so that `Full` is said while the engine still has room for its own work.

use mks_logic::port::StoreError;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The free space is looked up once per this many bytes of batches, and for each batch while there is too little.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Room {
    directory: PathBuf,
    reserve: u64,
    unseen: AtomicU64,
    short: AtomicBool,
}

impl Room {
    /// Keeps `reserve` bytes free on the file system of `directory`.
    pub(crate) fn new(directory: PathBuf, reserve: u64) -> Self {
        Self { directory, reserve, unseen: AtomicU64::new(LOOK_EVERY_BYTES), short: AtomicBool::new(false) }
    }

    /// Whether a batch of `bytes` may go in; one that only deletes may use half of the reserve.
    ///
    /// # Errors
    /// [`StoreError::Full`] when it may not, [`StoreError::Io`] when the file system does not answer.
    pub(crate) fn ask(&self, bytes: u64, deletes_only: bool) -> Result<(), StoreError> {
        let unseen = self.unseen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unseen < LOOK_EVERY_BYTES && !self.short.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.unseen.store(0, Ordering::Relaxed);
        let free = self.free()?;
        self.short.store(free < self.reserve, Ordering::Relaxed);
        let needed = if deletes_only { self.reserve / 2 } else { self.reserve };
        if free < needed {
            let (reserve, directory) = (self.reserve, self.directory.display());
            return Err(StoreError::Full(format!(
                "{free} bytes are free at {directory}, the store keeps {reserve} for its own work"
            )));
        }
        Ok(())
    }

    /// Whether there was too little at the last look.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file system does not answer.
    pub(crate) fn free(&self) -> Result<u64, StoreError> {
        let directory = self.directory.display();
        let disk = rustix::fs::statvfs(&self.directory)
            .map_err(|e| StoreError::Io(format!("the file system of {directory} does not say its free space: {e}")))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}
