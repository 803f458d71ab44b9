//! A disk in memory: what was not synced is gone after a power cut, and it fails when it is told to.

use bytes::Bytes;
use mks_logic::event::HintId;
use mks_logic::outline::{Outline, OutlineTable, Outlines};
use mks_logic::port::{Batch, Change, Durability, Read, Store, StoreError, StoreStats, Table, Visit};
use mks_logic::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Few slots (2^bits), so that keys push each other out.
const OUTLINE_BITS: u8 = 2;

/// What is wrong with a disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// Every change fails with this error, and nothing of it is there.
    Changes(StoreError),
    /// Reads fail as well.
    Everything(StoreError),
    /// The next fsync fails: nobody knows what is there (`true`: it is), and the store stops until it is opened again.
    Sync(bool),
}

type Rows = BTreeMap<Bytes, Bytes>;

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Disk {
    platter: Mutex<Platter>,
}

#[derive(Debug, Default)]
struct Platter {
    rows: [Rows; Table::ALL.len()],
    /// What a power cut brings back: the synced value of everything that was changed since the last fsync.
    unsynced: [BTreeMap<Bytes, Option<Bytes>>; Table::ALL.len()],
    trouble: Trouble,
    /// The store stopped.
    stopped: bool,
    /// A record whose bytes are not what was written: reads show this bit flipped until it is written again.
    flipped: Option<(Bytes, u64)>,
    /// All records that this ever happened to: what was held of them may be gone.
    hurt: BTreeSet<Bytes>,
    /// It says that it synced, and did not.
    lies: bool,
    /// What the process remembers. Gone with it.
    outlines: Option<OutlineTable>,
    fsyncs: u64,
}

impl Platter {
    /// What a read of a record shows.
    fn shown(&self, table: Table, key: &[u8], value: &Bytes) -> Bytes {
        match &self.flipped {
            Some((flipped, number)) if flipped[..] == *key && table == Table::Records && !value.is_empty() => {
                let mut bytes = value.to_vec();
                let bit = *number as usize % (8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes.into()
            }
            _ => value.clone(),
        }
    }

    fn set(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        if self.flipped.as_ref().is_some_and(|(flipped, _)| *flipped == key) {
            self.flipped = None;
        }
        let rows = &mut self.rows[table as usize];
        let before = match value {
            Some(value) => rows.insert(key.clone(), value),
            None => rows.remove(&key),
        };
        self.unsynced[table as usize].entry(key).or_insert(before);
    }

    fn change(&mut self, batch: Batch) {
        for change in batch {
            match change {
                Change::Put { table, key, value } => self.set(table, key, Some(value)),
                Change::Delete { table, key } => self.set(table, key, None),
                Change::DeleteRange { table, start, end } => {
                    let gone: Vec<Bytes> =
                        self.rows[table as usize].range(start..end).map(|(k, _)| k.clone()).collect();
                    gone.into_iter().for_each(|key| self.set(table, key, None));
                }
            }
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Fatal("an fsync failed".into())
}

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is wrong with it.
    pub fn trouble(&self, trouble: Trouble) {
        self.platter().trouble = trouble;
    }

    /// Fsyncs so far.
    #[must_use]
    pub fn fsyncs(&self) -> u64 {
        self.platter().fsyncs
    }

    /// True when an fsync failed and the process has to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.platter().stopped
    }

    /// It will say that it synced and not do it.
    pub fn lie(&self) {
        self.platter().lies = true;
    }

    /// Flips a bit of one record, chosen by `number`. False when there is none.
    pub fn flip(&self, number: u64) -> bool {
        let mut platter = self.platter();
        let records = &platter.rows[Table::Records as usize];
        let key = records.keys().nth(number as usize % records.len().max(1)).cloned();
        platter.hurt.extend(key.clone());
        platter.flipped = key.map(|key| (key, number));
        platter.flipped.is_some()
    }

    /// True while a record is not what was written.
    #[must_use]
    pub fn is_flipped(&self) -> bool {
        let platter = self.platter();
        platter.flipped.as_ref().is_some_and(|(key, _)| platter.rows[Table::Records as usize].contains_key(key))
    }

    /// Whether the record under this engine key ever was not what was written.
    #[must_use]
    pub fn is_hurt(&self, key: &[u8]) -> bool {
        self.platter().hurt.contains(key)
    }

    /// Nothing fails any more. What it damaged stays damaged.
    pub fn mend(&self) {
        self.platter().trouble = Trouble::None;
    }

    /// Another process opens it: a store that stopped goes on at what the disk holds.
    pub fn open(&self) {
        self.platter().stopped = false;
    }

    /// The process died: what it remembered is gone.
    pub fn forget(&self) {
        self.platter().outlines = None;
    }

    /// What was not synced is gone. The memory of the process stays: see [`Disk::forget`].
    pub fn lose_power(&self) {
        let mut platter = self.platter();
        for table in Table::ALL {
            for (key, value) in std::mem::take(&mut platter.unsynced[table as usize]) {
                match value {
                    Some(value) => drop(platter.rows[table as usize].insert(key, value)),
                    None => drop(platter.rows[table as usize].remove(&key)),
                }
            }
        }
    }

    /// The record under an engine key as it was written, also when the disk fails.
    #[must_use]
    pub fn record(&self, key: &[u8]) -> Record {
        decoded(self.platter().rows[Table::Records as usize].get(key).cloned())
    }

    /// The record that a power cut would leave.
    #[must_use]
    pub fn synced_record(&self, key: &[u8]) -> Record {
        let platter = self.platter();
        let synced = platter.unsynced[Table::Records as usize].get(key).cloned();
        decoded(synced.unwrap_or_else(|| platter.rows[Table::Records as usize].get(key).cloned()))
    }

    /// The hints that it keeps, or that a power cut would leave.
    #[must_use]
    pub fn hints(&self, synced: bool) -> Vec<HintId> {
        let platter = self.platter();
        let (rows, unsynced) = (&platter.rows[Table::Hints as usize], &platter.unsynced[Table::Hints as usize]);
        let lasts = |key: &&Bytes| !synced || !matches!(unsynced.get(*key), Some(None));
        // Removed, but not for good.
        let back = unsynced.iter().filter(|(_, before)| synced && before.is_some()).map(|(key, _)| key);
        rows.keys().filter(lasts).chain(back).filter_map(|key| HintId::from_engine_key(key)).collect()
    }

    /// The digest that the process remembers of a record.
    #[must_use]
    pub fn remembered(&self, key: &[u8]) -> Option<u64> {
        self.platter().outlines.as_ref()?.get(key).map(|outline| outline.digest)
    }
}

/// What the logic wrote can be read; if not, the empty record makes some invariant speak.
fn decoded(bytes: Option<Bytes>) -> Record {
    Record::decode(&bytes.unwrap_or_default()).unwrap_or_default()
}

impl Outlines for Disk {
    fn get(&self, key: &[u8]) -> Option<Outline> {
        self.platter().outlines.as_ref().and_then(|table| table.get(key)).cloned()
    }

    fn put(&self, key: &[u8], outline: Outline) {
        self.platter().outlines.get_or_insert_with(|| OutlineTable::new(OUTLINE_BITS)).put(key, outline);
    }

    fn forget(&self, key: &[u8]) {
        if let Some(table) = &mut self.platter().outlines {
            table.forget(key);
        }
    }

    fn forget_under(&self, prefix: &[u8]) {
        if let Some(table) = &mut self.platter().outlines {
            table.forget_under(prefix);
        }
    }
}

impl Read for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let platter = self.platter();
        if platter.stopped {
            return Err(stopped());
        }
        if let Trouble::Everything(error) = &platter.trouble {
            return Err(error.clone());
        }
        Ok(platter.rows[table as usize].get(key).map(|value| platter.shown(table, key, value)))
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        let platter = self.platter();
        if platter.stopped {
            return Err(stopped());
        }
        let within = |key: &Bytes| end.is_none_or(|end| &key[..] < end);
        let from = Bytes::copy_from_slice(start);
        for (key, value) in platter.rows[table as usize].range(from..).take_while(|(key, _)| within(key)) {
            if visit(key, &platter.shown(table, key, value)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Store for Disk {
    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut platter = self.platter();
        if platter.stopped {
            return Err(stopped());
        }
        match platter.trouble.clone() {
            Trouble::None => {}
            Trouble::Changes(error) | Trouble::Everything(error) => return Err(error),
            Trouble::Sync(_) if durability == Durability::Os => {}
            Trouble::Sync(there) => {
                if there {
                    platter.change(batch);
                }
                platter.stopped = true;
                platter.trouble = Trouble::None;
                return Err(stopped());
            }
        }
        platter.change(batch);
        platter.fsyncs += u64::from(durability == Durability::Sync);
        if durability == Durability::Sync && !platter.lies {
            platter.unsynced.iter_mut().for_each(BTreeMap::clear);
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        let rows = self.platter().rows.clone();
        Box::new(Self { platter: Mutex::new(Platter { rows, ..Platter::default() }) })
    }

    fn stats(&self) -> StoreStats {
        StoreStats { engine: "simulated", fsyncs: self.platter().fsyncs, ..StoreStats::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Batch {
        vec![Change::Put { table: Table::Meta, key: Bytes::from(key), value: Bytes::from(value) }]
    }

    #[test]
    fn a_power_cut_leaves_what_was_synced() {
        let disk = Disk::default();
        let get = |key: &str| Read::get(&disk, Table::Meta, key.as_bytes()).unwrap();
        disk.apply(put("a", "1"), Durability::Os).unwrap();
        disk.apply(put("b", "1"), Durability::Sync).unwrap();
        disk.apply(put("a", "2"), Durability::Os).unwrap();
        disk.apply(put("a", "3"), Durability::Os).unwrap();
        disk.apply(put("c", "1"), Durability::Os).unwrap();
        assert_eq!(get("a"), Some(Bytes::from("3")));
        disk.lose_power();
        assert_eq!((get("a"), get("b"), get("c")), (Some(Bytes::from("1")), Some(Bytes::from("1")), None));
    }

    #[test]
    fn after_a_failed_fsync_nothing_works_until_the_process_is_another_one() {
        let disk = Disk::default();
        disk.trouble(Trouble::Sync(true));
        disk.apply(put("a", "1"), Durability::Os).unwrap();
        assert!(disk.apply(put("a", "2"), Durability::Sync).is_err() && disk.is_stopped());
        assert!(Read::get(&disk, Table::Meta, b"a").is_err() && disk.apply(put("a", "3"), Durability::Os).is_err());
        disk.open();
        assert_eq!(Read::get(&disk, Table::Meta, b"a").unwrap(), Some(Bytes::from("2")));
    }
}
