//! What the guard asks of an engine, and the rules for keys and values that hold for all of them.

use bytes::Bytes;
use mks_logic::port::{Batch, Change, Read, StoreError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 256 << 20;

/// Keys from here on are the store's own.
pub const KEYS_END: &[u8] = &[0xff; 16];

/// What a batch costs beside its keys and values, bytes per change: enough to make a flood of deletes count.
const CHANGE_BYTES: usize = 64;

/// An engine that is filled must not be closer to stopping its writers than this.
const PRESSURE_MAX: f64 = 0.5;

/// How long an engine may flush nothing before it is given up, and how often it is asked.
const HALT_MAX: Duration = Duration::from_secs(30);
const HALT_LOOK: Duration = Duration::from_millis(2);

/// A native engine. Everything that all engines have in common is done by [`crate::guard::Guard`] in front of it.
pub(crate) trait Engine: Read + Send + Sync {
    /// Its name, as in [`crate::Engine::name`].
    fn name(&self) -> &'static str;

    /// Applies `batch` as one, as far as the operating system. The guard calls it from one thread at a time.
    ///
    /// # Errors
    /// [`StoreError::Fatal`] when the state is unknown from now on; after any other error nothing was applied.
    fn write(&self, batch: Batch) -> Result<(), StoreError>;

    /// One fsync that covers every earlier [`Self::write`].
    ///
    /// # Errors
    /// All of them are the end of the store, whatever their kind.
    fn sync(&self) -> Result<(), StoreError>;

    /// A frozen view.
    fn view(&self) -> Box<dyn Read + Send + '_>;

    /// How close writers are to being stopped by the engine: 0 far away, 1 there.
    fn pressure(&self) -> f64;

    /// Keys in the records table, estimated.
    fn records_estimate(&self) -> u64;

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// Waits until an engine takes more without being held back: for writers with no guard in front of them.
///
/// # Errors
/// [`StoreError::Io`] when it flushes nothing for too long.
pub(crate) fn wait_for(engine: &dyn Engine) -> Result<(), StoreError> {
    let halted = Instant::now();
    while engine.pressure() > PRESSURE_MAX {
        if halted.elapsed() > HALT_MAX {
            return Err(StoreError::Io(format!("the engine {} flushed nothing for {HALT_MAX:?}", engine.name())));
        }
        sleep(HALT_LOOK);
    }
    Ok(())
}

/// Bytes that `batch` will cost a write buffer.
///
/// # Errors
/// [`StoreError::Io`] when a key or value breaks the rules of the crate.
pub(crate) fn weigh(batch: &Batch) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for change in batch {
        bytes += CHANGE_BYTES;
        bytes += match change {
            Change::Put { key, value, .. } => {
                check_key(key)?;
                if value.len() > VALUE_BYTES_MAX {
                    let got = value.len();
                    return Err(StoreError::Io(format!("a value of {got} bytes: at most {VALUE_BYTES_MAX} fit")));
                }
                key.len() + value.len()
            }
            Change::Delete { key, .. } => check_key(key).map(|()| key.len())?,
            Change::DeleteRange { start, end, .. } => start.len() + end.len(),
        };
    }
    Ok(bytes as u64)
}

fn check_key(key: &Bytes) -> Result<(), StoreError> {
    let why = match key.len() {
        0 => "a key has at least one byte".to_owned(),
        got @ KEY_BYTES_MAX.. if got > KEY_BYTES_MAX => format!("a key of {got} bytes: at most {KEY_BYTES_MAX} fit"),
        _ if key.as_ref() >= KEYS_END => "keys from sixteen 0xff bytes on belong to the store".to_owned(),
        _ => return Ok(()),
    };
    Err(StoreError::Io(why))
}

/// `start..end` as the engines take it: nothing when it is empty, and never the store's own keys.
pub(crate) fn clamp<'a>(start: &'a [u8], end: Option<&'a [u8]>) -> Option<(&'a [u8], &'a [u8])> {
    let end = end.map_or(KEYS_END, |end| end.min(KEYS_END));
    (start < end).then_some((start, end))
}
