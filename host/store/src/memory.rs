//! A sorted map that dies with the process.

use crate::engine::{self, Engine};
use bytes::Bytes;
use mks_logic::port::{Batch, Change, Read, StoreError, Table, Visit};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

type Map = BTreeMap<Bytes, Bytes>;

/// The tables at one instant. A map is copied by the first write after a view of it was taken.
#[derive(Clone, Debug, Default)]
struct Tables(Arc<[Arc<Map>; Table::ALL.len()]>);

fn index(table: Table) -> usize {
    match table {
        Table::Records => 0,
        Table::Log => 1,
        Table::Meta => 2,
        Table::Hints => 3,
        Table::Digests => 4,
    }
}

fn span<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), Bound::Excluded(end))
}

impl Read for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0[index(table)].get(key).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        let Some((start, end)) = engine::clamp(start, end) else { return Ok(()) };
        for (key, value) in self.0[index(table)].range::<[u8], _>(span(start, end)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Tables {
    fn change(&mut self, change: Change) {
        let (Change::Put { table, .. } | Change::Delete { table, .. } | Change::DeleteRange { table, .. }) = &change;
        let map = Arc::make_mut(&mut Arc::make_mut(&mut self.0)[index(*table)]);
        match change {
            Change::Put { key, value, .. } => {
                map.insert(key, value);
            }
            Change::Delete { key, .. } => {
                map.remove(&key);
            }
            Change::DeleteRange { start, end, .. } => {
                let Some((start, end)) = engine::clamp(&start, Some(&end)) else { return };
                let doomed: Vec<_> = map.range::<[u8], _>(span(start, end)).map(|(key, _)| key.clone()).collect();
                for key in doomed {
                    map.remove(&key);
                }
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    now: RwLock<Tables>,
}

impl Memory {
    fn tables(&self) -> Tables {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        // On a view, so that the visitor may write.
        self.tables().scan(table, start, end, visit)
    }
}

impl Engine for Memory {
    fn name(&self) -> &'static str {
        crate::Engine::Memory.name()
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        batch.into_iter().for_each(|change| now.change(change));
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn view(&self) -> Box<dyn Read + Send + '_> {
        Box::new(self.tables())
    }

    fn pressure(&self) -> f64 {
        0.0
    }

    fn records_estimate(&self) -> u64 {
        self.tables().0[index(Table::Records)].len() as u64
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
