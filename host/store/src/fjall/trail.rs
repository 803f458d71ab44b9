//! Writes the journal back while it grows.
//!
//! fjall syncs its journal with its writers shut out, at each flush of a memtable and when it begins a new journal.
//! After many writes without a sync of their own that is all that they wrote, and a disk takes a tenth of a second for
//! it. Here a thread follows the newest journal through a descriptor of its own, where it holds up nobody, so that
//! little is left to sync. What RocksDB does with `wal_bytes_per_sync`.

use super::journal;
use mks_logic::port::StoreError;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

/// Bytes in the journal, not synced by anybody, from which on the disk is asked to take them.
const UNSYNCED_MAX: u64 = 2 << 20;

/// See the module.
pub(super) struct Trail {
    unsynced: AtomicU64,
    failed: Arc<OnceLock<String>>,
    /// `None` only while it is dropped.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Trail {
    /// Follows the journals in `directory`.
    pub(super) fn start(directory: &Path) -> io::Result<Self> {
        let (wake, asked) = sync_channel(1);
        let failed = Arc::new(OnceLock::new());
        let thread = thread::Builder::new().name("journal-trail".into()).spawn({
            let (directory, failed) = (directory.to_owned(), Arc::clone(&failed));
            move || follow(&directory, &asked, &failed)
        })?;
        Ok(Self { unsynced: AtomicU64::new(0), failed, wake: Some(wake), thread: Some(thread) })
    }

    /// So many bytes were written. An error of an earlier write-back ends the store as one of a sync does: the kernel
    /// may have thrown away what it could not write.
    pub(super) fn wrote(&self, bytes: u64) -> Result<(), StoreError> {
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes >= UNSYNCED_MAX {
            self.unsynced.store(0, Ordering::Relaxed);
            // A full channel: one is about to begin, and takes these bytes along.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
        match self.failed.get() {
            Some(why) => Err(StoreError::Fatal(format!("fjall's journal could not be written back: {why}"))),
            None => Ok(()),
        }
    }

    /// Somebody synced all that was written.
    pub(super) fn synced(&self) {
        self.unsynced.store(0, Ordering::Relaxed);
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.wake = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn follow(directory: &Path, asked: &Receiver<()>, failed: &OnceLock<String>) {
    while asked.recv().is_ok() {
        if let Err(e) = write_back(directory) {
            let _ = failed.set(e.to_string());
            return;
        }
    }
}

/// Syncs the newest journal. Those before it were synced when it was begun.
fn write_back(directory: &Path) -> io::Result<()> {
    let Some((_, newest)) = journal::list(directory)?.pop() else { return Ok(()) };
    match File::open(newest) {
        Ok(file) => file.sync_data(),
        // Removed in this moment: a later one is there.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_journal_is_written_back_and_an_error_ends_the_store() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(write_back(directory.path()).is_ok(), "no journal yet");
        std::fs::write(directory.path().join("1.jnl"), "older").expect("a file");
        let trail = Trail::start(directory.path()).expect("a thread");
        trail.wrote(UNSYNCED_MAX - 1).expect("nothing to do");
        trail.synced();
        trail.wrote(UNSYNCED_MAX - 1).expect("nothing to do: it was synced");
        // What is no file can't be synced.
        std::os::unix::net::UnixListener::bind(directory.path().join("2.jnl")).expect("a socket");
        trail.wrote(1).expect("asked, and not known yet");
        let begin = std::time::Instant::now();
        while trail.wrote(0).is_ok() {
            assert!(begin.elapsed().as_secs() < 30, "the newest journal was never looked at");
            thread::yield_now();
        }
        assert!(matches!(trail.wrote(0), Err(StoreError::Fatal(why)) if why.contains("written back")));
    }
}
