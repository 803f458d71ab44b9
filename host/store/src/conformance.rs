//! What every engine, and every adapter in front of one, has to do. Behind the feature `conformance`.
//!
//! A check panics with the claim that does not hold. [`behaves`] wants an empty store and needs no disk;
//! [`survives_reopening`] opens one directory again and again.

use bytes::Bytes;
use mks_logic::port::{Batch, Change, Durability, Read, Store, StoreError, Table};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

/// Random histories that each store is taken through.
const HISTORIES: u32 = 24;

/// A value that engines with value separation keep apart.
const LARGE_BYTES: usize = 6_000;

/// What a store holds, as a map per table.
pub type Contents = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// All checks that need no second opening. `empty` returns an empty store each time.
///
/// # Panics
/// When the store breaks a promise.
pub fn behaves(empty: &dyn Fn() -> Arc<dyn Store>) {
    agrees_with_a_map(&*empty());
    scans_in_order_within_bounds_until_told_to_stop(&*empty());
    a_batch_shows_at_once_or_not_at_all(&*empty());
    bad_keys_are_refused_and_leave_nothing(&*empty());
    writers_who_wait_together_all_land(&empty());
    large_values_come_and_go(&*empty());
}

/// What was synced is there after closing and opening. `open` opens the same directory each time, empty at first.
///
/// # Panics
/// When the store breaks a promise.
pub fn survives_reopening(open: &dyn Fn() -> Arc<dyn Store>) {
    let mut expected = Contents::new();
    for round in 0..4_u32 {
        let store = open();
        assert_eq!(contents(&*store), expected, "what was closed is there at opening {round}");
        for n in 0..200_u32 {
            let value = vec![round as u8; (n as usize % 7) * 1_000];
            let mut batch = vec![put(Table::Records, &key(n * (round + 1) % 300), &value)];
            batch.push(put(Table::Log, &key(n), b"entry"));
            if n % 50 == 49 {
                batch.push(range(Table::Records, &key(n), &key(n + 60)));
                batch.push(range(Table::Log, &key(0), &key(n - 10)));
                batch.push(delete(Table::Records, &key(n + 70)));
            }
            play(&mut expected, &batch);
            let durability = if n % 20 == 0 { Durability::Sync } else { Durability::Os };
            store.apply(batch, durability).expect("a good batch is applied");
        }
    }
    assert_eq!(contents(&*open()), expected, "what was closed is there at the last opening");
}

/// Everything in `view`.
///
/// # Panics
/// When it can't be read, or keys come out of order.
pub fn contents(view: &dyn Read) -> Contents {
    read_all(view).expect("the tables can be read")
}

/// Everything in `view`, or the error that reading it met.
///
/// # Errors
/// What the store answered.
///
/// # Panics
/// When keys come out of order.
pub fn read_all(view: &dyn Read) -> Result<Contents, StoreError> {
    let mut all = Contents::new();
    for table in Table::ALL {
        view.scan(table, &[], None, &mut |key, value| {
            let last = all.last_key_value().filter(|((of, _), _)| *of == table);
            assert!(last.is_none_or(|((_, last), _)| last.as_slice() < key), "a scan goes upwards");
            all.insert((table, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        })?;
    }
    Ok(all)
}

/// What `batch` does to a map.
pub fn play(contents: &mut Contents, batch: &Batch) {
    for change in batch {
        match change {
            Change::Put { table, key, value } => {
                contents.insert((*table, key.to_vec()), value.to_vec());
            }
            Change::Delete { table, key } => {
                contents.remove(&(*table, key.to_vec()));
            }
            Change::DeleteRange { table, start, end } => {
                contents
                    .retain(|(of, key), _| of != table || key.as_slice() < &start[..] || key.as_slice() >= &end[..]);
            }
        }
    }
}

fn key(n: u32) -> Vec<u8> {
    format!("key-{n:05}").into_bytes()
}

fn put(table: Table, key: &[u8], value: &[u8]) -> Change {
    Change::Put { table, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
}

fn delete(table: Table, key: &[u8]) -> Change {
    Change::Delete { table, key: Bytes::copy_from_slice(key) }
}

fn range(table: Table, start: &[u8], end: &[u8]) -> Change {
    Change::DeleteRange { table, start: Bytes::copy_from_slice(start), end: Bytes::copy_from_slice(end) }
}

fn clear(store: &dyn Store) {
    let batch = Table::ALL.map(|table| range(table, &[0], &[0xff; 20])).to_vec();
    store.apply(batch, Durability::Os).expect("everything can be deleted");
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Apply(Batch, Durability),
    Get(Table, Vec<u8>),
    Scan(Table, Vec<u8>, Option<Vec<u8>>),
    Freeze,
}

fn any_table() -> impl Strategy<Value = Table> {
    select(Table::ALL.to_vec())
}

/// Short keys of few letters, so that histories meet the same key again, and the edges of the byte order.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(select(vec![0_u8, 1, b'a', b'b', 0xfe, 0xff]), 1..4)
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => any::<u8>().prop_map(|byte| vec![byte; LARGE_BYTES]),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (any_table(), any_key(), any_value()).prop_map(|(table, key, value)| put(table, &key, &value)),
        2 => (any_table(), any_key()).prop_map(|(table, key)| delete(table, &key)),
        1 => (any_table(), any_key(), any_key()).prop_map(|(table, start, end)| range(table, &start, &end)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![9 => Just(Durability::Os), 1 => Just(Durability::Sync)];
    prop_oneof![
        6 => (proptest::collection::vec(any_change(), 0..12), durability)
            .prop_map(|(batch, how)| Step::Apply(batch, how)),
        3 => (any_table(), any_key()).prop_map(|(table, key)| Step::Get(table, key)),
        2 => (any_table(), any_key(), proptest::option::of(any_key()))
            .prop_map(|(table, start, end)| Step::Scan(table, start, end)),
        1 => Just(Step::Freeze),
    ]
}

fn agrees_with_a_map(store: &dyn Store) {
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let history = proptest::collection::vec(any_step(), 1..60);
    let outcome = TestRunner::new(config).run(&history, |steps| {
        clear(store);
        follow(store, &steps)
    });
    if let Err(e) = outcome {
        panic!("the store agrees with a map: {e}");
    }
}

fn follow(store: &dyn Store, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Contents::new();
    let mut frozen = Vec::new();
    for step in steps {
        match step {
            Step::Apply(batch, how) => {
                play(&mut model, batch);
                store.apply(batch.clone(), *how).map_err(|e| TestCaseError::fail(e.to_string()))?;
            }
            Step::Get(table, key) => {
                let got = store.get(*table, key).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(got.as_deref(), model.get(&(*table, key.clone())).map(Vec::as_slice));
            }
            Step::Scan(table, start, end) => {
                let mut got = Contents::new();
                let mut visit = |key: &[u8], value: &[u8]| {
                    got.insert((*table, key.to_vec()), value.to_vec());
                    ControlFlow::Continue(())
                };
                let scanned = store.scan(*table, start, end.as_deref(), &mut visit);
                scanned.map_err(|e| TestCaseError::fail(e.to_string()))?;
                let inside = |key: &Vec<u8>| key >= start && end.as_ref().is_none_or(|end| key < end);
                let mut want = model.clone();
                want.retain(|(of, key), _| of == table && inside(key));
                prop_assert_eq!(got, want);
            }
            Step::Freeze => frozen.push((store.snapshot(), model.clone())),
        }
    }
    prop_assert_eq!(contents(store), model);
    for (view, model) in frozen {
        prop_assert_eq!(contents(&*view), model, "a snapshot stays as it was");
    }
    Ok(())
}

fn scans_in_order_within_bounds_until_told_to_stop(store: &dyn Store) {
    let batch = (0..100).rev().map(|n| put(Table::Records, &key(n), &key(n))).collect();
    store.apply(batch, Durability::Os).expect("a good batch is applied");
    let scan = |start: &[u8], end: Option<&[u8]>, limit: usize| {
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            seen.push(key.to_vec());
            if seen.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.scan(Table::Records, start, end, &mut visit).expect("a scan works");
        seen
    };
    let keys = |from, to| (from..to).map(key).collect::<Vec<_>>();
    assert_eq!(scan(&key(10), Some(&key(20)), usize::MAX), keys(10, 20), "the start belongs to it, the end does not");
    assert_eq!(scan(&key(95), None, usize::MAX), keys(95, 100), "no end is the end of the table");
    assert_eq!(scan(b"", None, 7), keys(0, 7), "`Break` ends the scan");
    assert_eq!(scan(&key(20), Some(&key(10)), usize::MAX), keys(0, 0), "a range upside down is empty");
    store
        .scan(Table::Records, b"", None, &mut |key, _| {
            store.apply(vec![delete(Table::Records, key)], Durability::Os).expect("a visitor may write");
            ControlFlow::Continue(())
        })
        .expect("a scan goes on while its table changes");
    assert_eq!(scan(b"", None, usize::MAX), keys(0, 0), "the visitor saw every key once");
}

fn a_batch_shows_at_once_or_not_at_all(store: &dyn Store) {
    const BATCHES: u32 = 300;
    let pair = |n: u32| vec![put(Table::Records, b"a", &n.to_le_bytes()), put(Table::Meta, b"z", &n.to_le_bytes())];
    store.apply(pair(0), Durability::Os).expect("a good batch is applied");
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 1..BATCHES {
                store.apply(pair(n), Durability::Os).expect("a good batch is applied");
            }
        });
        while !writer.is_finished() {
            let view = store.snapshot();
            let [a, z] = [(Table::Records, b"a"), (Table::Meta, b"z")].map(|(table, key)| view.get(table, key));
            assert_eq!(a.expect("a get works"), z.expect("a get works"), "half of a batch was visible");
        }
    });
}

fn bad_keys_are_refused_and_leave_nothing(store: &dyn Store) {
    let long = vec![b'k'; crate::KEY_BYTES_MAX + 1];
    for bad in [&b""[..], &long, crate::KEYS_END] {
        let batch = vec![put(Table::Records, b"good", b"value"), put(Table::Records, bad, b"value")];
        let answer = store.apply(batch, Durability::Os);
        assert!(matches!(answer, Err(StoreError::Io(_))), "a key of {} bytes got {answer:?}", bad.len());
        assert_eq!(store.get(Table::Records, bad), Ok(None));
    }
    assert_eq!(contents(store), Contents::new(), "a refused batch leaves nothing");
    let longest = &long[..crate::KEY_BYTES_MAX];
    store.apply(vec![put(Table::Records, longest, b"value")], Durability::Os).expect("the longest key fits");
    assert_eq!(store.get(Table::Records, longest), Ok(Some(Bytes::from_static(b"value"))));
}

fn writers_who_wait_together_all_land(store: &Arc<dyn Store>) {
    const WRITERS: u32 = 8;
    const BATCHES: u32 = 12;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for n in 0..BATCHES {
                    let batch = vec![put(Table::Records, &key(writer * BATCHES + n), b"value")];
                    store.apply(batch, Durability::Sync).expect("a good batch is applied");
                }
            });
        }
    });
    assert_eq!(contents(&**store).len() as u32, WRITERS * BATCHES);
    let stats = store.stats();
    assert_eq!(stats.batches, u64::from(WRITERS * BATCHES), "every batch is counted");
    assert!(stats.fsyncs <= stats.batches, "no batch costs two fsyncs: {stats:?}");
    store.apply(Batch::new(), Durability::Sync).expect("an empty batch is a barrier");
    assert_eq!(store.stats().batches, stats.batches, "an empty batch is no batch");
}

fn large_values_come_and_go(store: &dyn Store) {
    const MEBIBYTE: usize = 1 << 20;
    let value = |n: u32| vec![n as u8; MEBIBYTE + n as usize];
    for n in 0..6 {
        let batch = vec![put(Table::Records, &key(n % 3), &value(n)), put(Table::Log, &key(n), &value(n)[..100])];
        store.apply(batch, Durability::Os).expect("a large value fits");
    }
    for n in 3..6 {
        let got = store.get(Table::Records, &key(n % 3)).expect("a get works");
        assert_eq!(got.map(|value| value.len()), Some(MEBIBYTE + n as usize), "the last value of a key is read");
    }
    store.apply(vec![delete(Table::Records, &key(0))], Durability::Sync).expect("a good batch is applied");
    assert_eq!(store.get(Table::Records, &key(0)), Ok(None), "a deleted value is gone");
}
