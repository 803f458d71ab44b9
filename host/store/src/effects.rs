//! The last word of a batch on each key, for engines that can't take changes one after the other.

use bytes::Bytes;
use mks_logic::port::{Batch, Change, StoreError, Table};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Most stored keys that one `DeleteRange` may cover on an engine without range tombstones.
pub const RANGE_DELETE_KEYS_MAX: usize = 100_000;

/// Per key the value to set, or `None` to remove it.
pub(crate) type Effects = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// Lists the stored keys of a table in `start..end` until the visitor breaks.
pub(crate) type ListKeys<'a> =
    &'a dyn Fn(Table, &[u8], &[u8], &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), StoreError>;

/// Plays `batch` in order. The caller keeps other writers away until the effects are applied.
///
/// # Errors
/// When `list` fails, or a range holds more than [`RANGE_DELETE_KEYS_MAX`] keys.
pub(crate) fn settle(batch: Batch, list: ListKeys<'_>) -> Result<Effects, StoreError> {
    let mut effects = Effects::new();
    for change in batch {
        match change {
            Change::Put { table, key, value } => {
                effects.insert((table, key), Some(value));
            }
            Change::Delete { table, key } => {
                effects.insert((table, key), None);
            }
            Change::DeleteRange { table, start, end } => {
                if let Some((from, to)) = crate::engine::clamp(&start, Some(&end)) {
                    delete_range(&mut effects, table, from, to, list)?;
                }
            }
        }
    }
    Ok(effects)
}

fn delete_range(
    effects: &mut Effects,
    table: Table,
    start: &[u8],
    end: &[u8],
    list: ListKeys<'_>,
) -> Result<(), StoreError> {
    let bound = |key: &[u8]| (table, Bytes::copy_from_slice(key));
    effects.range_mut(bound(start)..bound(end)).for_each(|(_, value)| *value = None);
    let mut covered = 0;
    list(table, start, end, &mut |key| {
        covered += 1;
        if covered > RANGE_DELETE_KEYS_MAX {
            return ControlFlow::Break(());
        }
        effects.insert(bound(key), None);
        ControlFlow::Continue(())
    })?;
    if covered > RANGE_DELETE_KEYS_MAX {
        return Err(StoreError::Io(format!(
            "the range covers more than {RANGE_DELETE_KEYS_MAX} keys of {}: delete it in parts",
            table.name()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Change {
        Change::Put { table: Table::Records, key: key.into(), value: value.into() }
    }

    #[test]
    fn the_last_change_of_a_key_wins() {
        let range = Change::DeleteRange { table: Table::Records, start: "a".into(), end: "c".into() };
        let batch = vec![put("a", "1"), put("c", "1"), range, put("b", "2"), put("b", "3")];
        let effects = settle(batch, &|_, _, _, visit| {
            let _ = visit(b"aa");
            Ok(())
        })
        .unwrap();
        let got: Vec<_> = effects.iter().map(|((_, key), value)| (key.as_ref(), value.as_deref())).collect();
        let want: Vec<(&[u8], Option<&[u8]>)> =
            vec![(b"a", None), (b"aa", None), (b"b", Some(b"3")), (b"c", Some(b"1"))];
        assert_eq!(got, want);
    }

    #[test]
    fn a_range_beyond_the_limit_is_refused() {
        let range = Change::DeleteRange { table: Table::Log, start: "a".into(), end: "b".into() };
        let refused = settle(vec![range], &|_, _, _, visit| {
            for n in 0..=RANGE_DELETE_KEYS_MAX {
                if visit(format!("a{n}").as_bytes()).is_break() {
                    break;
                }
            }
            Ok(())
        });
        assert!(matches!(refused, Err(StoreError::Io(why)) if why.contains("in parts")));
    }
}
