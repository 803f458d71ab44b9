//! What a resolver may read while it settles one conflict by its values: the one import of our own worlds.

use crate::bindings::resolver::siblings::Host;
use crate::engine::Guest;
use bytes::Bytes;

/// Reads may take this many times the bytes of all values.
const READS_MAX: u64 = 4;
/// And this much more, bytes: a result may be longer than its inputs by as much.
pub(crate) const SLACK_BYTES: usize = 64 << 10;

/// The key and the values of one conflict, in the order of its versions' dots.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Values {
    /// The key, without its keyspace.
    pub key: Bytes,
    /// One value per version; empty for a delete.
    pub values: Vec<Bytes>,
}

impl Values {
    /// Bytes of all values together.
    pub(crate) fn bytes(&self) -> usize {
        self.values.iter().map(Bytes::len).sum()
    }
}

/// The same, with what may still be read.
pub(crate) struct Siblings {
    values: Values,
    bytes_left: u64,
}

impl Siblings {
    pub(crate) fn new(values: Values) -> Self {
        let bytes_left = values.bytes() as u64 * READS_MAX + SLACK_BYTES as u64;
        Self { values, bytes_left }
    }

    /// Counts what is handed over; beyond the limit the call ends.
    fn hand_over(&mut self, bytes: &Bytes) -> wasmtime::Result<Vec<u8>> {
        self.bytes_left = self.bytes_left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            let most = self.values.bytes() as u64 * READS_MAX + SLACK_BYTES as u64;
            wasmtime::format_err!("it read more than {most} bytes of keys and values: read each value once")
        })?;
        Ok(bytes.to_vec())
    }

    fn row(&self, row: u32) -> wasmtime::Result<Bytes> {
        let there = self.values.values.len();
        let value = self.values.values.get(row as usize);
        value.cloned().ok_or_else(|| wasmtime::format_err!("it reads row {row} of a conflict with {there} versions"))
    }
}

impl Guest {
    fn asked(&mut self) -> wasmtime::Result<&mut Siblings> {
        self.siblings.as_mut().ok_or_else(|| {
            wasmtime::format_err!("it reads values outside of by-value: answer 0xffffffff to be asked by value")
        })
    }
}

impl Host for Guest {
    fn key(&mut self) -> wasmtime::Result<Vec<u8>> {
        let siblings = self.asked()?;
        let key = siblings.values.key.clone();
        siblings.hand_over(&key)
    }

    fn value(&mut self, row: u32) -> wasmtime::Result<Vec<u8>> {
        let siblings = self.asked()?;
        let value = siblings.row(row)?;
        siblings.hand_over(&value)
    }

    fn read(&mut self, row: u32, offset: u32, max_len: u32) -> wasmtime::Result<Vec<u8>> {
        let siblings = self.asked()?;
        let value = siblings.row(row)?;
        let start = value.len().min(offset as usize);
        let end = value.len().min(start.saturating_add(max_len as usize));
        siblings.hand_over(&value.slice(start..end))
    }
}
