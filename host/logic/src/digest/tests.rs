use super::*;
use crate::event::WriteJob;
use crate::id::{Epoch, Key, KeyspaceId};
use crate::message::{Refused, WriteOutcome};
use crate::outline::Outline;
use crate::port::{Change, Durability, Store, StoreError, Table};
use crate::record::Record;
use crate::replica::absorb;
use crate::testing::{COPIES, Disk, FIRST, PARTITION_BITS, Rules, formed, job, key, version};
use crate::time::Hlc;
use crate::version::Version;
use bytes::Bytes;
use proptest::prelude::*;

/// Every sum that a peer could ask for.
fn all(digests: &DigestTable, current: u64) -> Vec<(Range, Option<Sums>)> {
    let ranges = (0..1 << PARTITION_BITS).flat_map(|partition| {
        (2..=3).flat_map(move |copies_min| {
            let partition = PartitionId(partition);
            Age::ALL.map(move |age| Range {
                partition,
                copies_min,
                epoch: Epoch(current),
                age,
                purged: Epoch(0),
                closed: Epoch(0),
            })
        })
    });
    ranges.map(|range| (range, digests.sums(range))).collect()
}

fn agrees(disk: &Disk, current: u64) {
    let (kept, recomputed) = (disk.digests(|digests| all(digests, current)), all(&disk.recomputed(), current));
    for ((range, kept), (_, recomputed)) in kept.into_iter().zip(recomputed) {
        assert!(kept == recomputed, "{range:?} seen from {current} differs");
    }
}

fn write(name: u64, node: u64, at: u64, epoch: u64) -> WriteJob {
    let value = (!at.is_multiple_of(5)).then(|| format!("{node} at {at}"));
    let version = Version { epoch: Epoch(epoch), ..version(node, at, Hlc(at), value.as_deref()) };
    let mut key = key(&format!("key {name}"));
    let mut policy = formed(1, (1, 1, 1)).keyspaces[&key.keyspace].policy();
    if name.is_multiple_of(3) {
        key.keyspace = FIRST;
        policy = formed(1, (1, 1, 1)).keyspaces[&FIRST].policy();
    }
    let durability = if at.is_multiple_of(2) { Durability::Sync } else { Durability::Os };
    WriteJob { fresh: false, durability, policy, ..job(&key, version) }
}

#[derive(Clone, Debug)]
enum Act {
    Write { jobs: Vec<(u64, u64, u64, u64)>, rules: u8 },
    FullDisk { jobs: Vec<(u64, u64, u64, u64)> },
    Restart,
    LosePower,
}

fn act() -> impl Strategy<Value = Act> {
    let jobs = || prop::collection::vec((0u64..30, 1u64..4, 1u64..60, 0u64..3), 1..20);
    prop_oneof![
        6 => (jobs(), 0u8..3).prop_map(|(jobs, rules)| Act::Write { jobs, rules }),
        1 => jobs().prop_map(|jobs| Act::FullDisk { jobs }),
        1 => Just(Act::Restart),
        1 => Just(Act::LosePower),
    ]
}

/// With no record behind them: sums that were made anew would be zero.
#[test]
fn what_was_kept_is_read_back_and_not_made_anew() {
    for epochs in 1..=4 {
        let disk = Disk::default();
        let mut table = DigestTable::open(&disk, [(FIRST, 3)]).unwrap();
        for number in 0..3 * FLUSH_EVERY as u64 {
            let delta = Delta {
                partition: PartitionId((number % 3) as u16),
                keyspace: FIRST,
                bucket: (number % 1_000) as u16,
                epoch: Epoch(5 + number * epochs / (3 * FLUSH_EVERY as u64)),
                sum: 1 << (number % 100),
            };
            let batch = table.stage(vec![delta]);
            disk.apply(batch, Durability::Os).unwrap();
            table.settle(true);
        }
        let again = DigestTable::open(&disk, [(FIRST, 3)]).unwrap();
        assert!(all(&table, 10) == all(&again, 10), "{epochs} epochs");
        assert!(all(&table, 10).iter().any(|(_, sums)| sums.as_ref().is_some_and(|sums| root(sums) != 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written, refused, lost or opened again.
    #[test]
    fn the_sums_are_those_of_the_records(acts in prop::collection::vec(act(), 1..40)) {
        let disk = Disk::default();
        for (i, act) in acts.into_iter().enumerate() {
            // Time passes: what was the open epoch becomes the previous one, and then one of the closed ones.
            let epoch = 3 + i as u64 / 6;
            let group = |jobs: Vec<(u64, u64, u64, u64)>| -> Vec<WriteJob> {
                jobs.into_iter().map(|(key, node, at, age)| write(key, node, at + i as u64 * 9, epoch - age)).collect()
            };
            match act {
                Act::Write { jobs, rules } => {
                    let rules = [Rules::Work, Rules::Fail, Rules::Nonsense][usize::from(rules)];
                    let _ = absorb(disk.ports(&rules), &group(jobs));
                }
                Act::FullDisk { jobs } => {
                    disk.fail(Some(StoreError::Full("no room".into())));
                    let _ = absorb(disk.ports(&Rules::Work), &group(jobs));
                    disk.fail(None);
                }
                Act::Restart => disk.restart(),
                Act::LosePower => disk.lose_power(),
            }
            if i % 3 == 0 {
                agrees(&disk, epoch);
            }
        }
        agrees(&disk, 1_000);
    }

    #[test]
    fn the_order_and_grouping_of_writes_do_not_matter(
        writes in prop::collection::vec((0u64..20, 1u64..4, 1u64..60), 1..60),
        cut in 1usize..10,
    ) {
        let (one, many) = (Disk::default(), Disk::default());
        let jobs: Vec<_> = writes.into_iter().map(|(name, node, at)| write(name, node, at, 1 + at / 20)).collect();
        let _ = absorb(one.ports(&Rules::Work), &jobs);
        let reversed: Vec<_> = jobs.into_iter().rev().collect();
        for group in reversed.chunks(cut) {
            let _ = absorb(many.ports(&Rules::Work), group);
        }
        // What a key's versions settle to does not depend on the order, so neither do the sums.
        prop_assert!(one.digests(|digests| all(digests, 4)) == many.digests(|digests| all(digests, 4)));
    }

    #[test]
    fn damaged_bytes_are_no_page_and_no_deltas(bytes: Vec<u8>) {
        prop_assert!(codec::decode_page(&bytes).is_none());
        prop_assert!(codec::decode_deltas(&bytes).is_none());
    }
}

#[test]
fn an_outline_adds_what_its_record_adds() {
    let mut record = Record::of(version(1, 1, Hlc(10), Some("a")));
    record.insert(version(2, 1, Hlc(11), None));
    let key = key("k").engine_key(PARTITION_BITS);
    let sum = |outline: &Outline| outline.rows.iter().map(|row| contribution(key_hash(&key), row)).collect::<Vec<_>>();
    let remembered = Outline::of(&record);
    let read = Outline::of(&Record::decode(&record.encode()).unwrap());
    assert_eq!(sum(&remembered), sum(&read));
    assert_ne!(sum(&remembered)[0], sum(&remembered)[1]);
}

/// What every owner adds for one version: a change makes owners of different releases differ for ever.
#[test]
fn a_contribution_never_changes() {
    let row = Row::of(&version(3, 7, Hlc(0x0192_5D3A_7F00_0001), Some("a value")));
    assert_eq!(
        contribution(key_hash(&key("k").engine_key(8)), &row),
        140_992_576_799_895_363_194_390_984_017_690_659_790
    );
}

#[test]
fn a_write_moves_its_key_to_its_own_epoch() {
    let disk = Disk::default();
    let at = |age| {
        let range = Range {
            partition: key("a").place(PARTITION_BITS).partition,
            copies_min: 1,
            epoch: Epoch(9),
            age,
            purged: Epoch(0),
            closed: Epoch(0),
        };
        disk.digests(|digests| root(&digests.sums(range).unwrap()))
    };
    let put = |written, epoch| {
        job(&key("a"), Version { epoch: Epoch(epoch), ..version(1, written, Hlc(written), Some("v")) })
    };
    let _ = absorb(disk.ports(&Rules::Work), &[put(1, 2)]);
    let (closed, nothing) = (at(Age::Closed), 0);
    assert_ne!(closed, nothing);
    let _ = absorb(disk.ports(&Rules::Work), &[put(2, 9)]);
    assert_eq!((at(Age::Closed), at(Age::Previous)), (nothing, nothing));
    assert_ne!(at(Age::Open), nothing);
}

#[test]
fn sums_of_an_epoch_to_come_are_not_guessed() {
    let disk = Disk::default();
    let late = Version { epoch: Epoch(9), ..version(1, 1, Hlc(1), Some("v")) };
    let _ = absorb(disk.ports(&Rules::Work), &[job(&key("a"), late)]);
    let partition = key("a").place(PARTITION_BITS).partition;
    let range = |epoch| Range {
        partition,
        copies_min: 1,
        epoch: Epoch(epoch),
        age: Age::Closed,
        purged: Epoch(0),
        closed: Epoch(0),
    };
    assert_eq!(disk.digests(|digests| digests.sums(range(8))), None);
    assert!(disk.digests(|digests| digests.sums(range(9))).is_some());
}

#[test]
fn keyspaces_of_few_copies_can_be_left_out() {
    let disk = Disk::default();
    let first = Key { keyspace: FIRST, ..key("a") };
    let policy = formed(1, (1, 1, 1)).keyspaces[&FIRST].policy();
    let _ = absorb(disk.ports(&Rules::Work), &[WriteJob { policy, ..job(&first, version(1, 1, Hlc(1), Some("v"))) }]);
    let partition = first.place(PARTITION_BITS).partition;
    let range = |copies_min| Range {
        partition,
        copies_min,
        epoch: Epoch(1),
        age: Age::Open,
        purged: Epoch(0),
        closed: Epoch(0),
    };
    let root = |copies_min| disk.digests(|digests| super::root(&digests.sums(range(copies_min)).unwrap()));
    assert_ne!(root(2), 0);
    assert_eq!(root(3), 0, "the third owner holds none of it");
}

#[test]
fn a_record_of_an_unknown_keyspace_is_refused_and_not_written_without_its_sum() {
    let disk = Disk::default();
    let mut stranger = job(&key("a"), version(1, 1, Hlc(1), Some("v")));
    stranger.key.keyspace = KeyspaceId(77);
    let (outcomes, figures) = absorb(disk.ports(&Rules::Work), &[stranger]);
    assert_eq!(outcomes, [WriteOutcome::Refused(Refused::UnknownKeyspace)]);
    assert_eq!(figures.written, 0);
}

#[test]
fn the_log_stays_short_and_opens_again_at_any_moment() {
    let disk = Disk::default();
    for round in 0..60u64 {
        let jobs: Vec<_> = (0..500).map(|i| write(i * 7 % 900, 1, round * 500 + i + 1, 3 + round / 20)).collect();
        let _ = absorb(disk.ports(&Rules::Work), &jobs);
        if round % 7 == 0 {
            disk.restart();
        }
    }
    agrees(&disk, 5);
    // 30,000 deltas in 60 commits. Many small commits are bounded as well: 3 is what an entry costs beside its delta.
    for i in 0..12_000u64 {
        let _ = absorb(disk.ports(&Rules::Work), &[write(1, 1, 40_001 + 2 * i, 5)]);
    }
    let entries = disk.digests(|digests| digests.log_entries());
    let pages = (1 << PARTITION_BITS) * 2;
    assert!(entries < pages * FLUSH_EVERY as u64 / 4 + 1_024, "{entries} entries");
    disk.restart();
    agrees(&disk, 5);
}

#[test]
fn damaged_or_missing_sums_are_recomputed() {
    let jobs: Vec<_> = (0..200).map(|i| write(i, 1, 2 * i + 2, 3)).collect();
    for table_key in [codec::MARK.to_vec(), codec::log_key(1), codec::page_key((PartitionId(3), FIRST))] {
        let disk = Disk::default();
        let _ = absorb(disk.ports(&Rules::Work), &jobs);
        let value = Bytes::from_static(b"not what was written");
        let change = Change::Put { table: Table::Digests, key: table_key.into(), value };
        disk.apply(vec![change], Durability::Sync).unwrap();
        disk.restart();
        agrees(&disk, 3);
        // And what was recomputed is what the next opening reads.
        disk.restart();
        let (_, loaded) = (agrees(&disk, 3), DigestTable::open(&disk, COPIES).unwrap());
        assert!(all(&loaded, 3) == all(&disk.recomputed(), 3));
    }
}

#[test]
fn a_recomputation_tells_how_far_it_is_and_can_be_stopped() {
    let disk = Disk::default();
    let jobs: Vec<_> = (0..3_000).map(|i| write(i, 1, 2 * i + 2, 3)).collect();
    let _ = absorb(disk.ports(&Rules::Work), &jobs);
    let mut heard = Vec::new();
    let mut watch = |records| {
        heard.push(records);
        true
    };
    assert!(DigestTable::open_watched(&disk, COPIES, &mut watch).unwrap().is_some());
    assert_eq!(heard, [], "what is there need not be recomputed");
    let gone = Change::Delete { table: Table::Digests, key: Bytes::from_static(codec::MARK) };
    disk.apply(vec![gone], Durability::Sync).unwrap();
    assert!(DigestTable::open_watched(&disk, COPIES, &mut |records| records < 2_048).unwrap().is_none());
    let mut watch = |records| {
        heard.push(records);
        true
    };
    let table = DigestTable::open_watched(&disk, COPIES, &mut watch).unwrap().unwrap();
    assert_eq!(heard, [1_024, 2_048], "one that was stopped begins anew");
    assert!(all(&table, 3) == all(&disk.recomputed(), 3));
}
