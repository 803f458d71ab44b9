//! A second engine that gets the same batches: the store itself behaves as if it were alone, and what differs is found.

use crate::full::SmallDisk;
use crate::history::{Model, Writer, batch, last};
use crate::{durable, small};
use bytes::Bytes;
use mks_logic::port::{Change, Durability, ShadowState, ShadowStats, Store, Table};
use mks_store::conformance::{self, contents};
use mks_store::{
    BUILT, Engine, How, OpenError, Options, ShadowOptions, Verified, migrate, open, open_watched, promote, verify,
};
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Each engine, and another one that shadows it: itself, in a binary that has no other.
fn pairs() -> impl Iterator<Item = (Engine, Engine)> {
    let single = durable().count() == 1;
    durable().flat_map(move |engine| {
        durable().filter(move |shadow| single || *shadow != engine).map(move |shadow| (engine, shadow))
    })
}

/// A store with a shadow that is compared without a pause.
pub(crate) fn shadowed((engine, shadow): (Engine, Engine), directory: &Path) -> Options {
    let compare_every = Duration::from_millis(1);
    let shadow = ShadowOptions { engine: small(shadow, directory), compare_every, ..ShadowOptions::default() };
    Options { shadow: Some(Box::new(shadow)), ..small(engine, directory) }
}

fn shadow(options: &mut Options) -> &mut ShadowOptions {
    options.shadow.as_deref_mut().unwrap()
}

fn stats(store: &dyn Store) -> ShadowStats {
    store.stats().shadow.expect("a store with a shadow")
}

/// Waits until the shadow is as wanted.
fn wait(store: &dyn Store, wanted: impl Fn(&ShadowStats) -> bool) -> ShadowStats {
    let began = Instant::now();
    loop {
        let stats = stats(store);
        if wanted(&stats) {
            return stats;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it never comes to that: {stats:?}");
        sleep(Duration::from_millis(1));
    }
}

fn wait_following(store: &dyn Store) -> ShadowStats {
    wait(store, |stats| {
        assert!(!stats.state.has_ended(), "{stats:?}");
        stats.state == ShadowState::Following
    })
}

/// Waits until each entry was compared at least once more.
fn wait_compared(store: &dyn Store) -> ShadowStats {
    let (before, entries) = (stats(store).compared, contents(store).len() as u64);
    wait(store, |stats| stats.compared > before + 2 * entries || stats.state.has_ended())
}

fn verified(options: &Options) -> Verified {
    verify(options, &mut |_| {}).unwrap()
}

fn assert_same(options: &Options) -> u64 {
    let verified = verified(options);
    assert_eq!((verified.differing(), &verified.samples[..]), (0, &[][..]), "{verified:?}");
    verified.entries()
}

fn assert_not_even(options: &Options) {
    let refused = verify(options, &mut |_| {}).expect_err("there is nothing to compare");
    assert!(matches!(refused, OpenError::ShadowNotEven { .. }), "{refused}");
}

/// Lets a history go on until batch `to`.
fn go_on(store: &dyn Store, to: u64) {
    for n in last(store) + 1..=to {
        store.apply(batch(n), Durability::Os).unwrap();
    }
}

#[test]
fn every_engine_behaves_with_a_shadow_and_the_shadow_holds_the_same() {
    for pair in pairs() {
        let directories = RefCell::new(Vec::new());
        conformance::behaves(&|| {
            let directory = tempfile::tempdir().unwrap();
            let store = open(&shadowed(pair, directory.path())).unwrap();
            wait_following(&*store);
            directories.borrow_mut().push(directory);
            store
        });
        let same = |directory: tempfile::TempDir| assert_same(&shadowed(pair, directory.path()));
        assert!(directories.take().into_iter().map(same).sum::<u64>() > 0, "{pair:?}");
    }
}

#[test]
fn a_shadow_goes_on_where_it_was_when_the_store_is_opened_again() {
    for pair in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let (options, openings) = (shadowed(pair, directory.path()), Cell::new(0));
        conformance::survives_reopening(&|| {
            let store = open(&options).unwrap();
            let before = contents(&*store).len();
            assert_eq!(wait_following(&*store).filled, 0, "{pair:?}: it was empty with the store, or holds the same");
            assert_eq!(before > 0, openings.replace(openings.get() + 1) > 0);
            store
        });
        assert!(assert_same(&options) > 100, "{pair:?}");
    }
}

/// A key of its own table row, so that pages of the fill hold many of them.
fn wide(n: u64) -> Bytes {
    format!("wide-{:05}", n % 3_000).into()
}

#[test]
fn a_store_with_data_fills_its_shadow_while_it_takes_writes_and_no_lag_is_a_difference() {
    for pair in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let mut options = shadowed(pair, directory.path());
        shadow(&mut options).fill_bytes_per_second = 24 << 20;
        let store = open(&small(pair.0, directory.path())).unwrap();
        for n in 0..3_000 {
            let put = Change::Put { table: Table::Records, key: wide(n), value: vec![n as u8; 4_000].into() };
            store.apply(vec![put], Durability::Os).unwrap();
        }
        drop(store);
        let store = open(&options).unwrap();
        let (began, mut n, mut wrote_while_filling) = (Instant::now(), 0, 0);
        // Until it was compared for a while: pages that were copied, and pages that were not yet, are written over.
        while stats(&*store).compared < 10_000 {
            n += 1;
            let mut changes = batch(n);
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            changes.push(Change::Put { table: Table::Records, key: wide(random), value: vec![n as u8; 900].into() });
            changes.push(Change::Delete { table: Table::Records, key: wide(random + 7) });
            if n % 20 == 0 {
                let (start, end) = (wide(random % 2_900), wide(random % 2_900 + 30));
                changes.push(Change::DeleteRange { table: Table::Records, start, end });
            }
            store.apply(changes, Durability::Os).unwrap();
            match stats(&*store).state {
                ShadowState::Filling => wrote_while_filling += 1,
                state => assert!(!state.has_ended(), "{:?}", stats(&*store)),
            }
            // A machine that is busy elsewhere is not what is tried here.
            while stats(&*store).lag > 300 {
                sleep(Duration::from_millis(1));
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", stats(&*store));
            sleep(Duration::from_micros(300));
        }
        let found = wait_compared(&*store);
        println!("{pair:?}: {wrote_while_filling} of {n} batches came while it was filled; {found:?}");
        assert!(wrote_while_filling > 10 && found.filled > 1_000, "{wrote_while_filling}, {found:?}");
        assert_eq!((found.differing, &found.reason[..]), (0, ""), "{found:?}");
        assert_eq!((found.lag, found.batches), (0, n));
        assert!(found.write_ns > 0 && found.store_write_ns > 0 && found.disk_bytes > 0, "{found:?}");
        let entries = contents(&*store).len() as u64;
        drop(store);
        assert_eq!(assert_same(&options), entries, "{pair:?}");
    }
}

#[test]
fn what_differs_is_found_by_a_look_at_both_closed_and_while_the_store_is_open() {
    for pair in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let options = shadowed(pair, directory.path());
        let store = open(&options).unwrap();
        wait_following(&*store);
        go_on(&*store, 200);
        let (first, second) = ("planted-other", "planted-missing");
        let put = |key: &'static str, value: &'static str| Change::Put {
            table: Table::Records,
            key: key.into(),
            value: value.into(),
        };
        store.apply(vec![put(first, "a"), put(second, "b")], Durability::Os).unwrap();
        drop(store);
        assert_same(&options);
        let planted = open(&small(pair.1, &directory.path().join("shadow"))).unwrap();
        let extra = Change::Put { table: Table::Hints, key: "of nobody".into(), value: "c".into() };
        let lacks = Change::Delete { table: Table::Records, key: second.into() };
        planted.apply(vec![put(first, "A"), lacks, extra], Durability::Sync).unwrap();
        drop(planted);
        for exchange in [verify, promote] {
            let found = exchange(&options, &mut |_| {}).unwrap();
            let samples: Vec<_> = found.samples.iter().map(|d| (d.table, &d.key[..], d.how)).collect();
            let expected = [
                (Table::Records, second.as_bytes(), How::Missing),
                (Table::Records, first.as_bytes(), How::Other),
                (Table::Hints, b"of nobody", How::Extra),
            ];
            assert_eq!((found.differing(), &samples[..]), (3, &expected[..]));
            assert_eq!((found.store.engine, found.shadow.engine), pair, "nothing was exchanged");
        }
        let store = open(&options).unwrap();
        let found = wait(&*store, |stats| stats.differing >= 3);
        assert_eq!((found.state, found.filled), (ShadowState::Following, 0), "{found:?}");
        let shown = found.samples.join("; ");
        assert!(shown.contains("records planted-other: another value"), "{shown}");
        assert!(shown.contains("hints of nobody: only in the shadow"), "{shown}");
        assert_eq!(store.get(Table::Records, first.as_bytes()).unwrap().as_deref(), Some(&b"a"[..]));
    }
}

#[test]
fn a_shadow_that_can_not_keep_up_ends_and_the_next_start_fills_a_new_one() {
    for pair in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let options = shadowed(pair, directory.path());
        let mut narrow = options.clone();
        shadow(&mut narrow).queue_bytes_max = 1;
        let store = open(&narrow).unwrap();
        go_on(&*store, 500);
        let ended = wait(&*store, |stats| stats.state.has_ended());
        assert_eq!(ended.state, ShadowState::Behind, "{ended:?}");
        assert!(ended.reason.contains("slower than the load"), "{ended:?}");
        go_on(&*store, 600);
        assert_eq!(wait(&*store, |stats| stats.queue_bytes == 0).batches, ended.batches, "it takes no more");
        drop(store);
        assert_not_even(&options);
        let store = open(&options).unwrap();
        assert!(wait_following(&*store).filled > 0);
        Model::default().check(&*store, 600);
        drop(store);
        assert_same(&options);
    }
}

#[test]
fn a_damaged_shadow_fails_alone() {
    for pair in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let options = shadowed(pair, directory.path());
        let store = open(&options).unwrap();
        wait_following(&*store);
        go_on(&*store, 100);
        drop(store);
        let engine = directory.path().join("shadow/live/engine");
        fs::remove_dir_all(&engine).unwrap();
        fs::create_dir(&engine).unwrap();
        let store = open(&options).unwrap();
        let failed = wait(&*store, |stats| stats.state.has_ended());
        assert_eq!(failed.state, ShadowState::Failed);
        assert!(failed.reason.starts_with("it is damaged: "), "{failed:?}");
        go_on(&*store, 200);
        Model::default().check(&*store, 200);
        drop(store);
        assert_not_even(&options);
        let store = open(&options).unwrap();
        wait_following(&*store);
        Model::default().check(&*store, 200);
        drop(store);
        assert_same(&options);
    }
}

#[test]
fn a_full_disk_ends_the_shadow_and_what_it_took_is_given_back() {
    for pair in pairs() {
        let Some(disk) = SmallDisk::mount() else { return };
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&disk.path, directory.path().join("shadow")).unwrap();
        let mut options = Options { reserve_bytes: 16 << 20, ..shadowed(pair, directory.path()) };
        shadow(&mut options).engine.compression = false;
        let store = open(&options).unwrap();
        wait_following(&*store);
        let mut n = 0;
        while !stats(&*store).state.has_ended() {
            n += 1;
            assert!(n < 2_000, "the disk never runs full: {:?}", stats(&*store));
            let value = vec![n as u8; 100_000];
            let put = Change::Put { table: Table::Log, key: Bytes::from(format!("{n:08}")), value: value.into() };
            store.apply(vec![put], Durability::Os).unwrap();
            wait(&*store, |stats| stats.lag < 50 || stats.state.has_ended());
        }
        let failed = stats(&*store);
        assert!(failed.state == ShadowState::Failed && failed.reason.contains("the disk is full"), "{failed:?}");
        let began = Instant::now();
        while disk.path.join("live").exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "its files stay");
            sleep(Duration::from_millis(5));
        }
        store.apply(batch(1), Durability::Sync).expect("the store goes on");
        assert_eq!(last(&*store), 1);
    }
}

#[test]
fn after_kill_9_the_shadow_is_filled_anew_and_shows_no_difference() {
    for pair in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let options = shadowed(pair, directory.path());
        let mut model = Model::default();
        for round in 0..3_u64 {
            let mut writer = Writer::start_shadowed(pair.0, Some(pair.1), directory.path(), Durability::Os);
            assert!(writer.wait_for_ack(), "{pair:?}: the writer starts in round {round}");
            sleep(Duration::from_millis(300 + round * 170));
            let acked = writer.kill();
            let refused = verify(&options, &mut |_| {}).expect_err("there is nothing to compare");
            // If it was killed before there were any files of the shadow.
            assert!(matches!(refused, OpenError::ShadowNotEven { .. } | OpenError::NoShadow { .. }), "{refused}");
            let store = open(&options).unwrap();
            assert!(wait_following(&*store).filled > 0);
            model.check(&*store, acked);
            let found = wait_compared(&*store);
            assert_eq!((found.differing, &found.reason[..]), (0, ""), "{pair:?}: {found:?}");
            drop(store);
            assert_same(&options);
        }
    }
}

#[test]
fn a_promoted_shadow_is_the_store_and_until_it_opens_there_is_a_way_back() {
    for (engine, second) in pairs().filter(|(engine, second)| engine != second) {
        for opened in [engine, second] {
            let directory = tempfile::tempdir().unwrap();
            let options = shadowed((engine, second), directory.path());
            let store = open(&options).unwrap();
            wait_following(&*store);
            go_on(&*store, 300);
            drop(store);
            let verified = promote(&options, &mut |_| {}).unwrap();
            assert_eq!(verified.differing(), 0);
            assert!(matches!(verify(&options, &mut |_| {}), Err(OpenError::NoShadow { .. })));
            let mut copied = false;
            let mut watch = |_| {
                copied = true;
                true
            };
            let store = open_watched(&small(opened, directory.path()), &Default::default(), &mut watch).unwrap();
            assert_eq!(store.stats().engine, opened.name());
            Model::default().check(&*store, 300);
            assert!(!copied, "{engine} with {second}, opened as {opened}");
            drop(store);
            let mut names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["live", "lock"]);
        }
    }
}

#[test]
fn a_shadow_of_another_time_is_filled_anew_and_one_that_nobody_wants_goes() {
    for (engine, second) in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let options = shadowed((engine, second), directory.path());
        let even = || {
            let store = open(&options).unwrap();
            let filled = wait_following(&*store).filled;
            go_on(&*store, last(&*store) + 50);
            drop(store);
            assert_same(&options);
            filled
        };
        assert_eq!(even(), 0);
        // Opened without it, the store goes on alone.
        drop(open(&small(engine, directory.path())).unwrap());
        assert!(!directory.path().join("shadow").exists());
        assert!(even() > 0);
        for other in durable().filter(|other| *other != engine) {
            let copied = migrate(&small(other, directory.path()), &Default::default(), &mut |_| true).unwrap();
            assert!(copied.is_some());
            assert_not_even(&options);
        }
    }
}

#[test]
fn a_shadow_needs_an_engine_that_this_binary_has() {
    let directory = tempfile::tempdir().unwrap();
    let options = shadowed((Engine::Fjall, Engine::RocksDb), directory.path());
    match open(&options) {
        Ok(_) => assert!(BUILT.contains(&Engine::RocksDb)),
        Err(refused) => {
            assert!(!BUILT.contains(&Engine::RocksDb));
            assert!(matches!(refused, OpenError::NotBuilt(Engine::RocksDb)), "{refused}");
        }
    }
    let refused = verify(&small(Engine::Fjall, &directory.path().join("nowhere")), &mut |_| {});
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
}
