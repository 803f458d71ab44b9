//! Two stores side by side, a page of a table at a time.

use bytes::Bytes;
use mks_logic::port::{Read, StoreError, Table};
use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;

/// An entry that the store and its shadow do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table that it belongs to.
    pub table: Table,
    /// Its key, as the engines have it.
    pub key: Vec<u8>,
    /// What is not alike.
    pub how: How,
}

/// See [`Difference::how`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The store has it, and the shadow does not.
    Missing,
    /// The shadow has it, and the store does not.
    Extra,
    /// Both have it, with other values.
    Other,
}

impl How {
    /// In words, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing in the shadow",
            Self::Extra => "only in the shadow",
            Self::Other => "another value",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.table.name(), self.key.escape_ascii(), self.how.name())
    }
}

/// Where a walk through all tables is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    table: usize,
    /// The first key that it has not seen.
    start: Vec<u8>,
}

impl Place {
    /// The table that comes next; none behind the last one.
    pub(crate) fn table(&self) -> Option<Table> {
        Table::ALL.get(self.table).copied()
    }

    pub(crate) fn start(&self) -> &[u8] {
        &self.start
    }

    /// Goes on behind `last`; none: with the next table.
    pub(crate) fn go_behind(&mut self, last: Option<&[u8]>) {
        self.start.clear();
        match last {
            Some(last) => {
                self.start.extend_from_slice(last);
                self.start.push(0);
            }
            None => self.table += 1,
        }
    }
}

/// Entries of a table that follow each other.
pub(crate) struct Page {
    pub(crate) entries: Vec<(Bytes, Bytes)>,
    pub(crate) bytes: u64,
    /// None: the table ends here.
    pub(crate) last: Option<Bytes>,
}

/// Entries from a key on: as many as have `bytes_max` together, and at least one unless there is none.
///
/// # Errors
/// What reading met.
pub(crate) fn page(from: &dyn Read, table: Table, start: &[u8], bytes_max: u64) -> Result<Page, StoreError> {
    let mut page = Page { entries: Vec::new(), bytes: 0, last: None };
    from.scan(table, start, None, &mut |key, value| {
        page.bytes += (key.len() + value.len()) as u64;
        page.entries.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if page.bytes < bytes_max {
            return ControlFlow::Continue(());
        }
        page.last = page.entries.last().map(|(key, _)| key.clone());
        ControlFlow::Break(())
    })?;
    Ok(page)
}

/// One of two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Store,
    Shadow,
}

/// What a comparison of one page found.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Entries that one of the two has, or both.
    pub(crate) entries: u64,
    pub(crate) differing: Vec<Difference>,
}

/// Compares the entries at `place`, about `bytes_max` of each side, and moves it behind them.
///
/// # Errors
/// Which side could not be read, and why.
pub(crate) fn compare(
    store: &dyn Read,
    shadow: &dyn Read,
    place: &mut Place,
    bytes_max: u64,
) -> Result<Compared, (Side, StoreError)> {
    let mut compared = Compared::default();
    let Some(table) = place.table() else { return Ok(compared) };
    let ours = page(store, table, place.start(), bytes_max).map_err(|e| (Side::Store, e))?;
    let theirs = page(shadow, table, place.start(), bytes_max).map_err(|e| (Side::Shadow, e))?;
    // Behind it one of the two was not read yet.
    let last = ours.last.iter().chain(&theirs.last).min().cloned();
    let seen = |(key, _): &(Bytes, Bytes)| last.as_ref().is_none_or(|last| key <= last);
    let mut ours = ours.entries.into_iter().filter(seen).peekable();
    let mut theirs = theirs.entries.into_iter().filter(seen).peekable();
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (Some((our, _)), Some((their, _))) => our.cmp(their),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        compared.entries += 1;
        let our = if order.is_le() { ours.next() } else { None };
        let their = if order.is_ge() { theirs.next() } else { None };
        let how = match (&our, &their) {
            (Some((_, our)), Some((_, their))) if our == their => continue,
            (Some(_), Some(_)) => How::Other,
            (Some(_), None) => How::Missing,
            (None, _) => How::Extra,
        };
        let key = our.or(their).map_or_else(Vec::new, |(key, _)| key.to_vec());
        compared.differing.push(Difference { table, key, how });
    }
    place.go_behind(last.as_deref());
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::memory::Memory;
    use mks_logic::port::Change;

    fn holding(entries: &[(Table, &'static str, &'static str)]) -> Memory {
        let memory = Memory::default();
        let put = |(table, key, value): &(Table, &'static str, &'static str)| Change::Put {
            table: *table,
            key: (*key).into(),
            value: (*value).into(),
        };
        memory.write(entries.iter().map(put).collect()).expect("memory takes everything");
        memory
    }

    #[test]
    fn every_difference_is_found_once_whatever_the_size_of_a_page() {
        use Table::{Digests, Log, Records};
        let store = holding(&[(Records, "a", "1"), (Records, "b", "2"), (Records, "c", "33333"), (Digests, "z", "1")]);
        let shadow = holding(&[
            (Records, "a", "1"),
            (Records, "aa", "x"),
            (Records, "c", "4"),
            (Log, "l", "1"),
            (Log, "m", "1"),
        ]);
        let expected = [
            (Records, "aa", How::Extra),
            (Records, "b", How::Missing),
            (Records, "c", How::Other),
            (Log, "l", How::Extra),
            (Log, "m", How::Extra),
            (Digests, "z", How::Missing),
        ];
        let expected = expected.map(|(table, key, how)| Difference { table, key: key.into(), how });
        for bytes_max in 1..20 {
            let (mut place, mut entries, mut differing) = (Place::default(), 0, Vec::new());
            while place.table().is_some() {
                let compared = compare(&store, &shadow, &mut place, bytes_max).expect("memory can be read");
                entries += compared.entries;
                differing.extend(compared.differing);
            }
            assert_eq!((entries, &differing[..]), (7, &expected[..]), "pages of {bytes_max} bytes");
        }
        assert_eq!(expected[1].to_string(), "records b: missing in the shadow");
    }
}
