use crate::history::{self, Model, Writer};
use crate::power_disk::PowerDisk;
use crate::{durable, small};
use mks_logic::port::{Durability, StoreError, Table};
use mks_store::{Engine, open};
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// Cuts per engine. RocksDB without optimisation takes its time to open.
fn cuts(engine: Engine) -> u32 {
    if engine == Engine::Fjall { 30 } else { 20 }
}

/// fjall names the files of its value log and never syncs their directory: it needs what Linux's file systems do beyond
/// POSIX. RocksDB gets the strictest disk.
fn disk(engine: Engine, seed: u64) -> PowerDisk {
    if engine == Engine::Fjall { PowerDisk::new(seed).like_linux() } else { PowerDisk::new(seed) }
}

/// A session whose power was cut may end with an error of its own: what counts is what the disk holds.
pub(crate) fn unmount(session: fuser::BackgroundSession) {
    if let Err(error) = session.umount_and_join() {
        println!("unmounting: {error}");
    }
}

/// One disk that lives through many cuts; every other one is torn.
#[test]
fn what_was_synced_survives_power_cuts() {
    for engine in durable() {
        let mountpoint = tempfile::tempdir().unwrap();
        let disk = disk(engine, 7);
        let mut model = Model::default();
        let mut acked = 0;
        for cut in 0..cuts(engine) {
            let Some(session) = disk.mount(mountpoint.path()) else { return };
            let directory = mountpoint.path().join("store");
            let mut writer = Writer::start(engine, &directory, Durability::Sync);
            // Every fifth cut hits the opening, or the birth.
            if cut % 5 != 0 {
                assert!(writer.wait_for_ack(), "{engine}: the writer starts before cut {cut}");
            }
            sleep(Duration::from_millis(u64::from(cut * 29 % 120)));
            disk.cut(cut % 2 == 1);
            acked = writer.kill().max(acked);
            unmount(session);
            disk.restore();
            let session = disk.mount(mountpoint.path()).expect("it mounted before");
            let store = open(&small(engine, &directory)).unwrap_or_else(|e| panic!("{engine}: after cut {cut}: {e}"));
            model.check(&*store, acked);
            acked = history::last(&*store);
            drop(store);
            unmount(session);
        }
        println!("{engine}: {acked} batches through {} cuts", cuts(engine));
        assert!(acked > 0, "{engine}: something was written between the cuts");
    }
}

/// Without a sync nothing is promised but order: what is left is how things were at some earlier time.
#[test]
fn what_was_not_synced_goes_from_the_end() {
    for engine in durable() {
        for cut in 0..6 {
            let mountpoint = tempfile::tempdir().unwrap();
            let disk = disk(engine, cut);
            let Some(session) = disk.mount(mountpoint.path()) else { return };
            let directory = mountpoint.path().join("store");
            let mut writer = Writer::start(engine, &directory, Durability::Os);
            assert!(writer.wait_for_ack(), "{engine}: the writer starts before cut {cut}");
            sleep(Duration::from_millis(30 + cut * 20));
            disk.cut(cut % 2 == 1);
            writer.kill();
            unmount(session);
            disk.restore();
            let session = disk.mount(mountpoint.path()).expect("it mounted before");
            let store = open(&small(engine, &directory)).unwrap_or_else(|e| panic!("{engine}: after cut {cut}: {e}"));
            Model::default().check(&*store, 0);
            drop(store);
            unmount(session);
        }
    }
}

/// fjall syncs a journal before it begins the next one. RocksDB does so only later, so that a disk may keep the next
/// one and not the end of this one.
#[test]
fn what_follows_a_lost_end_is_lost_as_well() {
    for engine in durable().filter(|engine| *engine != Engine::Fjall) {
        let mountpoint = tempfile::tempdir().unwrap();
        let disk = disk(engine, 1);
        let Some(session) = disk.mount(mountpoint.path()) else { return };
        let directory = mountpoint.path().join("store");
        let store = open(&small(engine, &directory)).unwrap();
        let newest_journal = || {
            let entries = fs::read_dir(directory.join("live/engine")).unwrap();
            let names = entries.map(|entry| PathBuf::from(entry.unwrap().file_name()));
            names.filter(|name| name.extension().is_some_and(|extension| extension == "log")).max().unwrap()
        };
        disk.hold_syncs();
        let lost = newest_journal();
        let mut written = 0;
        let mut write = || {
            written += 1;
            store.apply(history::batch(written), Durability::Os).unwrap();
            written
        };
        while newest_journal() == lost {
            assert!(write() < 1_000, "{engine}: there is no second journal");
        }
        for _ in 0..5 {
            write();
        }
        disk.cut_without(lost.as_os_str());
        drop(store);
        unmount(session);
        disk.restore();
        let session = disk.mount(mountpoint.path()).expect("it mounted before");
        let store = open(&small(engine, &directory)).unwrap_or_else(|e| panic!("{engine}: {e}"));
        Model::default().check(&*store, 0);
        assert_eq!(history::last(&*store), 0, "{engine}: all of the first journal is lost");
        drop(store);
        unmount(session);
    }
}

#[test]
fn a_failed_fsync_is_the_end_and_is_never_tried_again() {
    for engine in durable() {
        let mountpoint = tempfile::tempdir().unwrap();
        let disk = disk(engine, 1);
        let Some(session) = disk.mount(mountpoint.path()) else { return };
        let options = small(engine, &mountpoint.path().join("store"));
        let store = open(&options).unwrap();
        store.apply(history::batch(1), Durability::Sync).unwrap();
        disk.fail_syncs(true);
        let snapshot = store.snapshot();
        let failed = store.apply(history::batch(2), Durability::Sync);
        assert!(matches!(failed, Err(StoreError::Fatal(_))), "{engine}: {failed:?}");
        disk.fail_syncs(false);
        let fatal = |answer: Result<_, StoreError>| assert!(matches!(answer, Err(StoreError::Fatal(_))), "{engine}");
        fatal(store.apply(history::batch(3), Durability::Sync));
        fatal(store.apply(history::batch(3), Durability::Os));
        fatal(store.get(Table::Meta, b"last").map(drop));
        fatal(snapshot.get(Table::Meta, b"last").map(drop));
        assert_eq!(store.stats().fsyncs, 2, "{engine}: one that worked, one that failed, none after it");
        drop(snapshot);
        drop(store);
        Model::default().check(&*open(&options).expect("it opens again at what the disk holds"), 1);
        session.umount_and_join().unwrap();
    }
}
