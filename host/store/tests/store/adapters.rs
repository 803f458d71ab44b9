//! A store behind adapters: it behaves as any other, shows nothing of users to the engine, and loses nothing when an
//! adapter fails or the chain becomes another one. What the adapters do here is no more than a test needs.

use crate::{durable, small};
use bytes::Bytes;
use mks_logic::port::{
    Adapt, AdaptError, Change, Durability, Read, Rows, Store, StoreError, Table, UNREADABLE, Unpacked,
};
use mks_logic::scrub::QUARANTINE;
use mks_store::conformance::{self, contents};
use mks_store::{Adapters, BUILT, Engine, OpenError, Stack, open, open_watched, stack_of};
use std::cell::RefCell;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Masks each value with a byte, behind the mask and before a sum of its name: it notices what is not its own.
#[derive(Default)]
struct Mask {
    form: String,
    mask: u8,
    fault: AtomicU8,
    calls: AtomicUsize,
    /// Rows and bytes of the largest call.
    largest: Mutex<(usize, usize)>,
}

/// What a [`Mask`] does wrong.
const FAILS: u8 = 1;
const LENGTHENS: u8 = 2;

impl Mask {
    fn new(mask: u8) -> Arc<Self> {
        Arc::new(Self { form: format!("mask/{mask}"), mask, ..Self::default() })
    }

    fn each(&self, rows: &mut Rows, mut row: impl FnMut(&[u8], &[u8]) -> Vec<u8>) -> Result<(), AdaptError> {
        self.calls.fetch_add(1, Relaxed);
        let mut largest = self.largest.lock().unwrap();
        *largest = (largest.0.max(rows.len()), largest.1.max(rows.values.len()));
        if self.fault.load(Relaxed) == FAILS {
            return Err(AdaptError { adapter: "mask".into(), reason: "told to".into() });
        }
        let mut names = Vec::new();
        let mut start = 0;
        for end in &rows.name_ends {
            names.push(rows.names[start..*end as usize].to_vec());
            start = *end as usize;
        }
        let mut out = Rows { names: rows.names.clone(), name_ends: rows.name_ends.clone(), ..Rows::default() };
        for (name, value) in names.iter().zip(rows.iter()) {
            out.values.extend(row(name, value));
            out.ends.push(out.values.len() as u32);
        }
        *rows = out;
        Ok(())
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(7, |sum, byte| sum.rotate_left(3) ^ byte)
}

impl Adapt for Mask {
    fn form(&self) -> &str {
        &self.form
    }

    fn pack(&self, rows: &mut Rows) -> Result<(), AdaptError> {
        self.each(rows, |name, value| {
            let mut packed = vec![self.mask];
            packed.extend(value.iter().map(|byte| byte ^ self.mask));
            packed.push(sum(name) ^ sum(value));
            packed
        })
    }

    fn unpack(&self, rows: &mut Rows) -> Result<Vec<Unpacked>, AdaptError> {
        let mut outcomes = Vec::new();
        self.each(rows, |name, packed| {
            let [mask, middle @ .., check] = packed else {
                outcomes.push(Unpacked::Damaged);
                return Vec::new();
            };
            let mut value: Vec<u8> = middle.iter().map(|byte| byte ^ self.mask).collect();
            outcomes.push(match (*mask == self.mask, sum(name) ^ sum(&value) == *check) {
                (false, _) => Unpacked::Foreign,
                (true, false) => Unpacked::Damaged,
                (true, true) => Unpacked::Whole,
            });
            if self.fault.load(Relaxed) == LENGTHENS {
                value.push(0);
            }
            if outcomes.last() == Some(&Unpacked::Whole) { value } else { Vec::new() }
        })?;
        Ok(outcomes)
    }
}

fn behind(chain: &[&Arc<Mask>]) -> Adapters {
    let chain = chain.iter().map(|mask| Arc::clone(mask) as Arc<dyn Adapt>).collect();
    Adapters { chain, earlier: Vec::new() }
}

fn opened(engine: Engine, directory: &Path, adapters: &Adapters) -> Arc<dyn Store> {
    open_watched(&small(engine, directory), adapters, &mut |_| true).unwrap()
}

fn put(table: Table, key: &'static str, value: impl Into<Bytes>) -> Change {
    Change::Put { table, key: key.into(), value: value.into() }
}

fn pairs(read: &dyn Read, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        all.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    read.scan(table, &[], None, &mut visit).unwrap();
    all
}

#[test]
fn every_engine_behaves_behind_adapters() {
    for &engine in BUILT {
        let directories = RefCell::new(Vec::new());
        conformance::behaves(&|| {
            let directory = tempfile::tempdir().unwrap();
            let store = opened(engine, directory.path(), &behind(&[&Mask::new(3), &Mask::new(5)]));
            directories.borrow_mut().push(directory);
            store
        });
    }
}

#[test]
fn every_durable_engine_survives_reopening_behind_adapters() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        let adapters = behind(&[&Mask::new(3), &Mask::new(5)]);
        conformance::survives_reopening(&|| opened(engine, directory.path(), &adapters));
    }
}

#[test]
fn what_users_wrote_passes_through_the_adapters_and_nothing_else_does() {
    let mask = Mask::new(0x55);
    let store = opened(Engine::Memory, Path::new("nowhere"), &behind(&[&mask]));
    for (table, key, passes) in [
        (Table::Records, "a", true),
        (Table::Hints, "a", true),
        (Table::Log, "a", false),
        (Table::Meta, "a", false),
        (Table::Digests, "a", false),
    ] {
        let before = mask.calls.load(Relaxed);
        store.apply(vec![put(table, key, "value")], Durability::Os).unwrap();
        assert_eq!(store.get(table, key.as_bytes()).unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(pairs(&*store, table), [(key.into(), b"value".to_vec())]);
        assert_eq!(mask.calls.load(Relaxed) > before, passes, "{table:?}");
    }
    // A damaged record that is kept for people lies between the sums.
    let kept = Bytes::from([QUARANTINE, b"a"].concat());
    let before = mask.calls.load(Relaxed);
    let put_kept = Change::Put { table: Table::Digests, key: kept.clone(), value: "x".into() };
    store.apply(vec![put_kept], Durability::Os).unwrap();
    assert_eq!(mask.calls.load(Relaxed), before + 1);
    assert_eq!(pairs(&*store, Table::Digests), [(b"a".to_vec(), b"value".to_vec()), (kept.to_vec(), b"x".to_vec())]);
}

#[test]
fn a_group_is_one_call_and_a_page_is_one() {
    let mask = Mask::new(1);
    let store = opened(Engine::Memory, Path::new("nowhere"), &behind(&[&mask]));
    let key = |n: u32| Bytes::from(n.to_be_bytes().to_vec());
    let batch = (0..400).map(|n| Change::Put { table: Table::Records, key: key(n), value: key(n) });
    store.apply(batch.collect(), Durability::Os).unwrap();
    assert_eq!((mask.calls.load(Relaxed), mask.largest.lock().unwrap().0), (1, 400));
    assert_eq!(pairs(&*store, Table::Records).len(), 400);
    // 16, 32, 64, 128 and the 160 that are left.
    assert_eq!(mask.calls.load(Relaxed), 6);
}

#[test]
fn long_values_come_in_parts_and_no_call_is_large() {
    const MEBIBYTE: usize = 1 << 20;
    for &engine in BUILT {
        let directory = tempfile::tempdir().unwrap();
        let mask = Mask::new(9);
        let store = opened(engine, directory.path(), &behind(&[&mask]));
        let lengths = [0, 1, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 3 * MEBIBYTE, 5 * MEBIBYTE / 2];
        let value = |n: usize| Bytes::from((0..lengths[n]).map(|i| (i * 31 + n) as u8).collect::<Vec<u8>>());
        let key = |n: usize| Bytes::from(vec![n as u8 + 1]);
        let batch = (0..lengths.len()).map(|n| Change::Put { table: Table::Records, key: key(n), value: value(n) });
        store.apply(batch.collect(), Durability::Sync).unwrap();
        for (n, bytes) in lengths.iter().enumerate() {
            assert_eq!(store.get(Table::Records, &key(n)).unwrap(), Some(value(n)), "{bytes} bytes");
        }
        let found = pairs(&*store, Table::Records);
        assert_eq!(found.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), lengths);
        assert!(mask.largest.lock().unwrap().1 < MEBIBYTE + 100);
    }
}

#[test]
fn a_failing_adapter_refuses_and_leaves_everything_as_it_was() {
    for &engine in BUILT {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (Mask::new(1), Mask::new(2));
        let store = opened(engine, directory.path(), &behind(&[&first, &second]));
        store.apply(vec![put(Table::Records, "a", "before")], Durability::Os).unwrap();
        for broken in [&first, &second] {
            broken.fault.store(FAILS, Relaxed);
            let batch = vec![put(Table::Meta, "m", "half"), put(Table::Records, "a", "after")];
            let refused = store.apply(batch, Durability::Sync).unwrap_err();
            assert!(matches!(&refused, StoreError::Io(why) if why.contains("mask failed: told to")), "{refused}");
            assert!(matches!(store.get(Table::Records, b"a"), Err(StoreError::Io(_))));
            let scanned = store.scan(Table::Records, &[], None, &mut |_, _| ControlFlow::Continue(()));
            assert!(matches!(scanned, Err(StoreError::Io(_))));
            store.apply(vec![put(Table::Log, "l", "needs no adapter")], Durability::Sync).unwrap();
            broken.fault.store(0, Relaxed);
        }
        assert_eq!(store.get(Table::Records, b"a").unwrap().as_deref(), Some(&b"before"[..]));
        assert_eq!(store.get(Table::Meta, b"m"), Ok(None), "nothing of the batch was written");
    }
}

#[test]
fn a_value_that_is_damaged_is_no_record_and_spoils_no_other() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        let mask = Mask::new(1);
        let adapters = behind(&[&mask]);
        let store = opened(engine, directory.path(), &adapters);
        let batch = ["a", "b", "c"].map(|key| put(Table::Records, key, key)).to_vec();
        store.apply(batch, Durability::Sync).unwrap();
        drop(store);
        // Behind the adapters' back, what another key holds takes the place of a value, and rubbish that of another.
        disguised(directory.path(), |store| {
            let c = store.get(Table::Records, b"c").unwrap().unwrap();
            let batch = vec![put(Table::Records, "b", c), put(Table::Records, "a", "\u{1}")];
            store.apply(batch, Durability::Sync).unwrap();
        });
        let store = opened(engine, directory.path(), &adapters);
        let found = pairs(&*store, Table::Records);
        assert_eq!((found[0].1[0], found[1].1[0], &found[2].1[..]), (UNREADABLE, UNREADABLE, &b"c"[..]));
        assert_eq!(store.get(Table::Records, b"b").unwrap().unwrap()[0], UNREADABLE);
        assert_eq!(&store.get(Table::Records, b"a").unwrap().unwrap()[..], [UNREADABLE, 1], "its bytes are kept");
        // A value that comes out longer than it went in is none either.
        mask.fault.store(LENGTHENS, Relaxed);
        assert_eq!(store.get(Table::Records, b"c").unwrap().unwrap()[0], UNREADABLE);
    }
}

/// Lets somebody at a store as if there were no adapters in front of it.
fn disguised(directory: &Path, work: impl FnOnce(&dyn Store)) {
    let marker = directory.join("live/marker");
    let text = fs::read_to_string(&marker).unwrap();
    let engine: Engine = text.split_once("engine = ").unwrap().1.lines().next().unwrap().parse().unwrap();
    let plain: Vec<&str> = text.lines().filter(|line| !line.starts_with("adapter_")).collect();
    fs::write(&marker, plain.join("\n").replace("format = 2", "format = 1")).unwrap();
    let store = open(&small(engine, directory)).unwrap();
    work(&*store);
    drop(store);
    fs::write(&marker, text).unwrap();
}

#[test]
fn a_value_of_another_key_of_the_adapter_is_damage_and_ends_no_scan() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        let adapters = behind(&[&Mask::new(1)]);
        let store = opened(engine, directory.path(), &adapters);
        let batch = ["a", "b", "c"].map(|key| put(Table::Records, key, key)).to_vec();
        store.apply(batch, Durability::Sync).unwrap();
        drop(store);
        // A bit turned where the key is named: behind the kind and the length.
        let mut turned = Vec::new();
        disguised(directory.path(), |store| {
            turned = store.get(Table::Records, b"b").unwrap().unwrap().to_vec();
            turned[2] ^= 2;
            store.apply(vec![put(Table::Records, "b", turned.clone())], Durability::Sync).unwrap();
        });
        let store = opened(engine, directory.path(), &adapters);
        let kept = [&[UNREADABLE][..], &turned].concat();
        let value = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        let expected = [value(b"a", b"a"), value(b"b", &kept), value(b"c", b"c")];
        assert_eq!(pairs(&*store, Table::Records), expected);
        assert_eq!(store.get(Table::Records, b"b").unwrap().as_deref(), Some(&kept[..]), "its bytes are kept");
        store.apply(vec![put(Table::Records, "b", "again")], Durability::Sync).unwrap();
        assert_eq!(store.get(Table::Records, b"b").unwrap().as_deref(), Some(&b"again"[..]));
    }
}

#[test]
fn another_chain_gets_a_copy_and_the_way_back_is_the_same() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&small(engine, directory.path())).unwrap();
        let batch = Table::ALL.map(|table| put(table, "key", "a value that can be looked for")).to_vec();
        store.apply(batch, Durability::Sync).unwrap();
        let before = contents(&*store);
        drop(store);
        let (one, two) = (Mask::new(1), Mask::new(2));
        let stacks = [(vec![&one], vec![]), (vec![&two, &one], vec![]), (vec![&two], vec![&one]), (vec![], vec![&two])];
        for (chain, earlier) in &stacks {
            let adapters = Adapters { earlier: behind(earlier).chain, ..behind(chain) };
            let mut told = None;
            let options = small(engine, directory.path());
            let store = open_watched(&options, &adapters, &mut |swapping| told.replace(swapping).is_none_or(|_| true));
            assert_eq!(contents(&*store.unwrap()), before);
            let forms: Vec<String> = chain.iter().map(|mask| mask.form.clone()).collect();
            assert_eq!(told.expect("a copy").to, Stack { engine, forms: forms.clone() });
            assert_eq!(stack_of(directory.path()).unwrap(), Some(Stack { engine, forms }));
            // Opened again, nothing is copied.
            let mut copied = false;
            let again = open_watched(&options, &adapters, &mut |_| {
                copied = true;
                true
            });
            assert_eq!((contents(&*again.unwrap()), copied), (before.clone(), false));
        }
    }
}

#[test]
fn a_chain_that_can_not_read_what_is_there_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let written = behind(&[&Mask::new(1), &Mask::new(2)]);
    let store = opened(Engine::Fjall, directory.path(), &written);
    store.apply(vec![put(Table::Records, "a", "value")], Durability::Sync).unwrap();
    drop(store);
    for adapters in [Adapters::default(), behind(&[&Mask::new(1)]), behind(&[&Mask::new(1), &Mask::new(3)])] {
        let refused = open_watched(&small(Engine::Fjall, directory.path()), &adapters, &mut |_| true).err().unwrap();
        assert!(matches!(&refused, OpenError::NoReader { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("mask/1, mask/2") && text.contains("storage.earlier"), "{text}");
    }
    assert_eq!(
        opened(Engine::Fjall, directory.path(), &written).get(Table::Records, b"a").unwrap().as_deref(),
        Some(&b"value"[..])
    );
}
