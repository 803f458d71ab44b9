//! A disk that runs full, as a small tmpfs.

use crate::{durable, history, small};
use mks_logic::port::{Durability, StoreError};
use mks_store::{Options, open};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DISK_BYTES: u64 = 96 << 20;
const RESERVE_BYTES: u64 = 32 << 20;

/// A file system of its own that goes away with the test.
pub(crate) struct SmallDisk {
    _directory: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl SmallDisk {
    pub(crate) fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { _directory: directory, path });
        }
        println!("SKIPPED: a full disk can't be tested here, mounting a tmpfs needs root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Takes all but `leave` bytes.
fn ballast(disk: &Path, leave: u64) -> PathBuf {
    let path = disk.join("ballast");
    fs::write(&path, vec![1; (DISK_BYTES - leave) as usize]).unwrap();
    path
}

#[test]
fn a_full_disk_is_said_before_the_engine_meets_it_and_passes() {
    for engine in durable() {
        let Some(disk) = SmallDisk::mount() else { return };
        let options = Options { reserve_bytes: RESERVE_BYTES, ..small(engine, &disk.path.join("store")) };
        let store = open(&options).unwrap();
        let ballast = ballast(&disk.path, RESERVE_BYTES + (12 << 20));
        let mut model = history::Model::default();
        let mut n = 0;
        let full = loop {
            n += 1;
            assert!(n < 100_000, "{engine}: the disk never runs full");
            if let Err(e) = store.apply(history::batch(n), Durability::Os) {
                break e;
            }
        };
        assert!(matches!(full, StoreError::Full(_)), "{engine}: {full:?}");
        assert!(full.to_string().contains("bytes are free"), "{full}");
        model.check(&*store, n - 1);
        assert_eq!(history::last(&*store), n - 1, "{engine}: nothing of the refused batch is there");
        let delete = vec![mks_logic::port::Change::Delete { table: mks_logic::port::Table::Log, key: "none".into() }];
        store.apply(delete, Durability::Sync).expect("deletes go on for a while, so that space can be made");
        fs::remove_file(ballast).unwrap();
        store.apply(history::batch(n), Durability::Sync).expect("with space again, writes go on");
        model.check(&*store, n);
        drop(store);
        model.check(&*open(&options).unwrap(), n);
    }
}

#[test]
fn a_disk_that_runs_dry_all_the_same_ends_in_a_typed_error_and_loses_no_ack() {
    for engine in durable() {
        let Some(disk) = SmallDisk::mount() else { return };
        let options = small(engine, &disk.path.join("store"));
        let store = open(&options).unwrap();
        let ballast = ballast(&disk.path, 6 << 20);
        let mut n = 0;
        let error = loop {
            n += 1;
            assert!(n < 100_000, "{engine}: the disk never runs dry");
            if let Err(e) = store.apply(history::batch(n), Durability::Sync) {
                break e;
            }
        };
        assert!(matches!(error, StoreError::Full(_) | StoreError::Fatal(_)), "{engine}: {error:?}");
        drop(store);
        fs::remove_file(ballast).unwrap();
        history::Model::default().check(&*open(&options).unwrap(), n - 1);
    }
}
