//! Notices at opening that a disk lost what it had promised to keep.
//!
//! An LSM engine replays its journal up to the first record that makes no sense and takes the rest for the unfinished
//! end of a crash. That is right after a power cut, and silently wrong when a bit flipped in the middle: everything
//! behind it was acknowledged. So about once a second a numbered *beacon* goes into every table with some batch, and
//! after the next fsync its number goes into a small file. A store that opens with an older beacon than that number
//! has lost synced data, and says so.

use crate::engine::KEYS_END;
use bytes::Bytes;
use mks_logic::port::{Change, Read, StoreError, Table};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How often a beacon is placed while batches come in: what a damaged journal can lose unnoticed.
pub(crate) const BEACON_EVERY: Duration = Duration::from_secs(1);

/// The number and its hash: small enough that a disk writes it in one piece.
const FILE_BYTES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Floor {
    file: File,
    /// The newest beacon that a batch carried.
    placed: AtomicU64,
    /// The newest beacon that is known to be on the disk.
    raised: AtomicU64,
}

impl Floor {
    /// Its name in the directory of a store.
    pub(crate) const FILE: &str = "floor";

    /// Reads the number at `path`, 0 when there is none: a missing or torn file only means that nothing is noticed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut stored = [0; FILE_BYTES];
        let raised = match file.read_exact_at(&mut stored, 0) {
            Ok(()) => decode(stored),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(e),
        };
        let raised = raised.unwrap_or(0);
        Ok(Self { file, placed: AtomicU64::new(raised), raised: AtomicU64::new(raised) })
    }

    /// Compares what the tables hold with what the disk had.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a table lost synced data, or whatever reading it answers.
    pub(crate) fn check(&self, tables: &dyn Read) -> Result<(), StoreError> {
        let raised = self.raised.load(Ordering::Acquire);
        for table in Table::ALL {
            let stored = tables.get(table, KEYS_END)?;
            let found = stored.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes);
            if found < raised {
                let name = table.name();
                return Err(StoreError::Corrupt(format!(
                    "table {name} ends at beacon {found}, but beacon {raised} was on the disk: synced writes are gone"
                )));
            }
            self.placed.fetch_max(found, Ordering::AcqRel);
        }
        Ok(())
    }

    /// The changes that place the next beacon; [`Self::placed`] follows when they are applied.
    pub(crate) fn next(&self) -> (u64, impl Iterator<Item = Change>) {
        let next = self.placed.load(Ordering::Acquire) + 1;
        let value = Bytes::copy_from_slice(&next.to_le_bytes());
        let key = Bytes::from_static(KEYS_END);
        let changes =
            Table::ALL.into_iter().map(move |table| Change::Put { table, key: key.clone(), value: value.clone() });
        (next, changes)
    }

    /// Beacon `number` was applied.
    pub(crate) fn placed(&self, number: u64) {
        self.placed.fetch_max(number, Ordering::AcqRel);
    }

    /// The newest beacon that an fsync which starts now will cover.
    pub(crate) fn covered_by_sync(&self) -> u64 {
        self.placed.load(Ordering::Acquire)
    }

    /// An fsync covered beacon `number`: remember it. Called by one thread at a time.
    pub(crate) fn raise(&self, number: u64) {
        if self.raised.fetch_max(number, Ordering::AcqRel) >= number {
            return;
        }
        // The write may be lost or fail: an older floor notices less, and is never wrong.
        if let Err(e) = self.file.write_all_at(&encode(number), 0) {
            tracing::warn!("the floor file can't be written, a damaged journal may go unnoticed: {e}");
        }
    }
}

fn encode(number: u64) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&xxh3_64(&number.to_le_bytes()).to_le_bytes());
    bytes
}

fn decode(bytes: [u8; FILE_BYTES]) -> Option<u64> {
    let (number, _) = bytes.split_first_chunk()?;
    let number = u64::from_le_bytes(*number);
    (encode(number) == bytes).then_some(number)
}
