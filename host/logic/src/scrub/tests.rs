//! A disk that lies is found out, and what it lost is put back.

use super::*;
use crate::digest::{Age, Range, Sums};
use crate::event::WriteJob;
use crate::message::{ReadOutcome, Refused, Want, WriteOutcome};
use crate::port::Store;
use crate::replica::{absorb, find};
use crate::testing::{Disk, PARTITION_BITS, Rules, job, key, version};
use crate::time::Hlc;
use crate::version::Version;

fn filled() -> Disk {
    let disk = Disk::default();
    for i in 1..200 {
        let version = Version { epoch: Epoch(i % 7), ..version(1, i, Hlc(i), Some("v")) };
        let jobs = [WriteJob { fresh: false, ..job(&key(&format!("key {i}")), version) }];
        assert_eq!(absorb(disk.ports(&Rules::Work), &jobs).0, [WriteOutcome::Held]);
    }
    disk
}

fn looked(disk: &Disk, partition: PartitionId, bucket: u16) -> Looked {
    match work(disk.ports(&Rules::Work), &ScrubWork::Look { partition, bucket }) {
        ScrubOutcome::Looked(looked) => looked,
        other => panic!("{other:?}"),
    }
}

/// Looks at everything, and checks what is suspect.
fn scrub_all(disk: &Disk) -> Vec<(Place, Checked)> {
    let mut found = Vec::new();
    for partition in (0..1 << PARTITION_BITS).map(PartitionId) {
        let mut next = Some(0);
        while let Some(bucket) = next {
            let looked = looked(disk, partition, bucket);
            for bucket in looked.suspects {
                found.push((Place { partition, bucket }, check(disk.ports(&Rules::Work), partition, bucket).unwrap()));
            }
            next = looked.next;
        }
    }
    found
}

fn sums(disk: &Disk, partition: PartitionId) -> [Option<Sums>; 3] {
    let range = |age| Range { partition, copies_min: 1, epoch: Epoch(9), age, purged: Epoch(0), closed: Epoch(0) };
    Age::ALL.map(|age| disk.digests(|digests| digests.sums(range(age))))
}

fn said(disk: &Disk, partition: PartitionId) -> [Option<Sums>; 3] {
    let range = |age| Range { partition, copies_min: 1, epoch: Epoch(9), age, purged: Epoch(0), closed: Epoch(0) };
    Age::ALL.map(|age| disk.recomputed().sums(range(age)))
}

#[test]
fn a_healthy_disk_is_left_alone() {
    let disk = filled();
    let batches = disk.stats().batches;
    assert_eq!(scrub_all(&disk), []);
    assert_eq!(disk.stats().batches, batches);
}

#[test]
fn looks_see_every_record_once_in_pieces_of_bounded_size() {
    let disk = Disk::default();
    let value = "v".repeat(20_000);
    for i in 1..200 {
        let jobs = [job(&key(&format!("key {i}")), version(1, i, Hlc(i), Some(&value)))];
        assert_eq!(absorb(disk.ports(&Rules::Work), &jobs).0, [WriteOutcome::Held]);
    }
    let (mut records, mut looks) = (0, 0);
    for partition in (0..1 << PARTITION_BITS).map(PartitionId) {
        let mut next = Some(0);
        while let Some(bucket) = next {
            let looked = looked(&disk, partition, bucket);
            assert!(looked.bytes < LOOK_BYTES_MAX + 5 * 20_100 && looked.suspects.is_empty(), "{looked:?}");
            assert!(looked.next.is_none_or(|next| next > bucket));
            (records, looks, next) = (records + looked.records, looks + 1, looked.next);
        }
    }
    assert_eq!(records, 199);
    assert!(looks > 1 << PARTITION_BITS, "{looks} looks");
}

#[test]
fn a_damaged_record_is_named_not_served_and_replaced_by_what_other_owners_hold() {
    let disk = filled();
    let good = disk.record(&key("key 42"));
    disk.damage(&key("key 42"));
    disk.restart();
    let place = key("key 42").place(PARTITION_BITS);
    let found = scrub_all(&disk);
    let engine_key = Bytes::from(key("key 42").engine_key(PARTITION_BITS));
    let named = Checked { damaged: vec![engine_key.clone()], differed: true, ..found[0].1.clone() };
    assert_eq!(found, [(place, named)]);
    assert_eq!(sums(&disk, place.partition), said(&disk, place.partition));
    let find = || find(disk.ports(&Rules::Work), &key("key 42"), Want::Record);
    assert_eq!(find(), ReadOutcome::Refused(Refused::DamagedRecord), "what was there is not known: it is not nothing");

    let mend = ScrubWork::Mend { key: key("key 42"), record: good.clone() };
    assert_eq!(work(disk.ports(&Rules::Work), &mend), ScrubOutcome::Mended);
    assert_eq!(find(), ReadOutcome::Record(good.clone()));
    assert_eq!(sums(&disk, place.partition), sums(&filled(), place.partition));
    let kept = [QUARANTINE, &engine_key].concat();
    assert!(crate::port::Read::get(&disk, Table::Digests, &kept).unwrap().is_some(), "for people");
    disk.restart();
    assert_eq!(scrub_all(&disk), []);
    // A mend that comes late finds a record that can be read, and leaves it.
    let late = ScrubWork::Mend { key: key("key 42"), record: Record::default() };
    assert_eq!(work(disk.ports(&Rules::Work), &late), ScrubOutcome::Mended);
    assert_eq!(find(), ReadOutcome::Record(good));
}

#[test]
fn what_no_other_owner_holds_is_gone_and_its_place_is_free() {
    let disk = filled();
    disk.damage(&key("key 42"));
    disk.restart();
    scrub_all(&disk);
    let mend = ScrubWork::Mend { key: key("key 42"), record: Record::default() };
    assert_eq!(work(disk.ports(&Rules::Work), &mend), ScrubOutcome::Mended);
    let jobs = [job(&key("key 42"), version(2, 1, Hlc(500), Some("new")))];
    assert_eq!(absorb(disk.ports(&Rules::Work), &jobs).0, [WriteOutcome::Held]);
    assert_eq!(scrub_all(&disk), []);
}

#[test]
fn a_record_that_a_disk_lost_shows_in_the_sums_and_is_not_remembered() {
    let (disk, whole) = (filled(), filled());
    let lost = key("key 77").engine_key(PARTITION_BITS);
    let good = whole.record(&key("key 77")).versions()[0].clone();
    let place = key("key 77").place(PARTITION_BITS);
    // The process that lost it still remembers it.
    let again = [WriteJob { fresh: false, ..job(&key("key 77"), good) }];
    assert_eq!(absorb(disk.ports(&Rules::Work), &again).0, [WriteOutcome::Held]);
    disk.apply(vec![Change::Delete { table: Table::Records, key: lost.into() }], Durability::Sync).unwrap();
    assert_eq!(sums(&disk, place.partition), sums(&whole, place.partition), "the disk lies");
    let found = scrub_all(&disk);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, place);
    assert!(found[0].1.differed && found[0].1.damaged.is_empty());
    assert_ne!(sums(&disk, place.partition), sums(&whole, place.partition), "now a comparison finds it");
    assert_eq!(absorb(disk.ports(&Rules::Work), &again).1.written, 1, "and what it brings is written");
    assert_eq!(sums(&disk, place.partition), sums(&whole, place.partition));
    disk.restart();
    assert_eq!(scrub_all(&disk), []);
}

#[test]
fn a_disk_that_is_full_changes_nothing() {
    let disk = filled();
    disk.damage(&key("key 42"));
    disk.restart();
    let Place { partition, bucket } = key("key 42").place(PARTITION_BITS);
    disk.fail(Some(StoreError::Full("no room".into())));
    let check = || work(disk.ports(&Rules::Work), &ScrubWork::Check { partition, bucket });
    assert_eq!(check(), ScrubOutcome::Failed);
    disk.fail(None);
    assert!(matches!(check(), ScrubOutcome::Checked(checked) if checked.damaged.len() == 1 && checked.differed));
}
