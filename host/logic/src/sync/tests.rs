//! Two owners in memory: no node, no network, only the rules.

use super::*;
use crate::digest::{Age, root};
use crate::event::WriteJob;
use crate::exchange::{Found, Work, record_bytes};
use crate::id::{Epoch, PartitionId};
use crate::port::Durability;
use crate::replica::absorb;
use crate::testing::{Disk, PARTITION_BITS, Rules, formed, job, version};
use crate::time::Hlc;
use crate::version::Version;
use bytes::Bytes;
use proptest::prelude::*;

const CODE: u64 = 7;
const MESSAGE_BYTES: usize = 64 << 10;

fn range(age: Age) -> Range {
    Range { partition: PartitionId(3), copies_min: 3, epoch: Epoch(9), age, purged: Epoch(0), closed: Epoch(0) }
}

/// Keys of partition 3 of a last-write-wins keyspace.
fn keys() -> impl Iterator<Item = Key> {
    let keys = (0u64..).map(|i| Key {
        keyspace: crate::testing::LWW,
        partition_key: Bytes::from(format!("key {i}")),
        sort_key: Bytes::new(),
    });
    keys.filter(|key| key.place(PARTITION_BITS).partition == PartitionId(3))
}

fn job_of(key: &Key, node: u64, at: u64, epoch: u64) -> WriteJob {
    let value = format!("{at:0100}");
    let version = Version { epoch: Epoch(epoch), ..version(node, at, Hlc(at), Some(&value)) };
    WriteJob { fresh: false, durability: Durability::Os, ..job(key, version) }
}

fn write(disk: &Disk, jobs: &[WriteJob]) {
    for jobs in jobs.chunks(512) {
        let _ = absorb(disk.ports(&Rules::Work), jobs);
    }
}

fn merge(disk: &Disk, records: Vec<(Key, Record)>) {
    let policy = formed(1, (1, 1, 1)).keyspaces[&crate::testing::LWW].policy();
    let jobs = records.into_iter().flat_map(|(key, record)| {
        let of = move |version| WriteJob { fresh: false, policy, durability: Durability::Os, ..job(&key, version) };
        record.into_versions().into_iter().map(of)
    });
    write(disk, &jobs.collect::<Vec<_>>());
}

/// What the other owner answers.
fn answer(disk: &Disk, ask: &SyncAsk, code: u64) -> SyncAnswer {
    let found = |work: &Work| found(disk.ports(&Rules::Work), work, MESSAGE_BYTES);
    let (work, mine) = match ask.clone() {
        SyncAsk::Root { code: theirs, .. } if theirs != code => return SyncAnswer::Drift,
        SyncAsk::Root { range, root, .. } => (Work::Sums(range), root),
        SyncAsk::Sketches { range, nonce, sketches } => (Work::List { range, nonce, sketches }, 0),
        SyncAsk::Pull { range, buckets, after } => (Work::Page { range, buckets, after, whole: false }, 0),
        SyncAsk::Mend { range, nonce, records, wants } => {
            let sent = records.iter().map(|(key, record)| (key.clone(), record.digest())).collect();
            merge(disk, records);
            (Work::Fetch { range, nonce, sent, wants }, 0)
        }
    };
    match found(&work) {
        Found::Sums(Some(sums)) if root(&sums) == mine => SyncAnswer::Same,
        Found::Sums(Some(sums)) => SyncAnswer::Sums(sums.into_iter().map(|sum| sum as u64).collect()),
        Found::Lists { lists, covered } => SyncAnswer::Lists { lists, covered },
        Found::Records { records, more, next } => SyncAnswer::Records { records, more, next, refused: 0 },
        other => panic!("{other:?}"),
    }
}

/// Lets `a` compare a range with `b`; `meanwhile` happens before each answer. `None` when the link is lost.
fn session(
    (a, b): (&Disk, &Disk),
    age: Age,
    steps_max: u32,
    meanwhile: &mut dyn FnMut(u32) -> bool,
) -> Option<(End, Tally)> {
    let nonce = a.stats_nonce();
    let (mut session, mut turn) = Session::new(range(age), CODE, nonce, steps_max);
    loop {
        turn = match turn {
            Turn::Work(work) => session.found(found(a.ports(&Rules::Work), &work, MESSAGE_BYTES)),
            Turn::Ask(ask) => {
                if !meanwhile(session.tally().steps) {
                    return None;
                }
                assert!(ask.bytes() < 3 * MESSAGE_BYTES, "{} bytes", ask.bytes());
                let answer = answer(b, &ask, CODE);
                assert!(answer.bytes() < 3 * MESSAGE_BYTES, "{} bytes", answer.bytes());
                session.answered(&ask, answer)
            }
            Turn::Absorb(records) => {
                merge(a, records);
                session.absorbed(0)
            }
            Turn::Done(end) => return Some((end, session.tally())),
        }
    }
}

impl Disk {
    /// Another number for each session.
    fn stats_nonce(&self) -> u64 {
        crate::port::Store::stats(self).batches
    }
}

fn calm(pair: (&Disk, &Disk), age: Age) -> (End, Tally) {
    session(pair, age, 100_000, &mut |_| true).unwrap()
}

fn equal(a: &Disk, b: &Disk) -> bool {
    Age::ALL.iter().all(|age| a.digests(|d| d.sums(range(*age))) == b.digests(|d| d.sums(range(*age))))
}

/// Two owners that hold the same `count` keys.
fn twins(count: usize) -> (Disk, Disk, Vec<Key>) {
    let keys: Vec<Key> = keys().take(count).collect();
    let jobs: Vec<_> = keys.iter().zip(1..).map(|(key, at)| job_of(key, 1, at, 2)).collect();
    let (a, b) = (Disk::default(), Disk::default());
    write(&a, &jobs);
    write(&b, &jobs);
    (a, b, keys)
}

#[test]
fn equal_owners_say_one_small_message_each() {
    let (a, b, _) = twins(3_000);
    let (end, tally) = calm((&a, &b), Age::Closed);
    assert_eq!((end, tally.steps, tally.sent + tally.received), (End::Clean, 1, 0));
    assert!(tally.bytes < 128, "{} bytes", tally.bytes);
}

#[test]
fn one_difference_is_mended_in_three_round_trips() {
    let (a, b, keys) = twins(20_000);
    for (at, changed) in [(1 << 40, &a), (1 << 41, &b)] {
        write(changed, &[job_of(&keys[777], 2, at, 2)]);
        let (end, tally) = calm((&a, &b), Age::Closed);
        assert_eq!(end, End::Mended);
        assert!(equal(&a, &b));
        assert!(tally.steps <= 3, "{tally:?}");
        assert!(tally.bytes < 16 << 10, "{tally:?}");
    }
}

#[test]
fn many_differences_cost_little_more_than_their_records() {
    costs(20_000, 1_000);
}

/// In one partition: `cargo test -p mks-logic --release --lib -- --ignored million --nocapture`.
#[test]
#[ignore = "minutes without --release"]
fn of_a_million_keys_differences_cost_little_more_than_their_records() {
    costs(1_000_000, 1_000);
    let (a, b, keys) = twins(1_000_000);
    let (end, tally) = calm((&a, &b), Age::Closed);
    println!("clean: {tally:?}");
    assert_eq!((end, tally.steps), (End::Clean, 1));
    write(&b, &[job_of(&keys[777], 2, 1 << 40, 2)]);
    let (end, tally) = calm((&a, &b), Age::Closed);
    println!("one: {tally:?}");
    assert!(end == End::Mended && equal(&a, &b));
    assert!(tally.steps <= 3 && tally.bytes < 64 << 10, "{tally:?}");
}

fn costs(count: usize, changes: usize) {
    let (a, b, keys) = twins(count);
    let mut bytes = 0;
    for (i, key) in keys.iter().step_by(count / changes).enumerate() {
        let (job, disk) = (job_of(key, 2, (1 << 40) + i as u64, 2), if i % 2 == 0 { &a } else { &b });
        bytes += record_bytes(key, &Record::of(job.version.clone())) as u64;
        write(disk, &[job]);
    }
    let (end, tally) = calm((&a, &b), Age::Closed);
    println!("{changes} of {count}: {bytes} bytes of records, {tally:?}");
    assert_eq!(end, End::Mended);
    assert!(equal(&a, &b));
    assert!(tally.bytes <= 3 * bytes + (256 << 10), "{tally:?} for records of {bytes} bytes");
}

#[test]
fn an_empty_owner_is_filled_from_either_side() {
    let (full, _, keys) = twins(5_000);
    for flip in [false, true] {
        let empty = Disk::default();
        let pair = if flip { (&empty, &full) } else { (&full, &empty) };
        let (end, tally) = calm(pair, Age::Closed);
        assert_eq!(end, End::Mended);
        assert!(equal(&full, &empty));
        assert_eq!(tally.sent + tally.received, keys.len() as u64, "each record travels once");
        // About 1,000 buckets, and 13 messages full of records.
        assert!(tally.steps < 40, "many buckets to a page: {tally:?}");
    }
}

#[test]
fn other_code_is_reported_and_nothing_is_moved() {
    let (a, b, keys) = twins(100);
    write(&b, &[job_of(&keys[7], 2, 1 << 40, 2)]);
    let (mut session, turn) = Session::new(range(Age::Closed), CODE + 1, 1, 100);
    let Turn::Work(work) = turn else { panic!("{turn:?}") };
    let Turn::Ask(ask) = session.found(found(a.ports(&Rules::Work), &work, MESSAGE_BYTES)) else { panic!() };
    assert_eq!(session.answered(&ask, answer(&b, &ask, CODE)), Turn::Done(End::PluginDrift));
    assert!(!equal(&a, &b));
}

#[test]
fn live_writes_do_not_keep_a_session_going() {
    let (a, b, keys) = twins(2_000);
    write(&b, &keys.iter().step_by(3).map(|key| job_of(key, 2, 1 << 40, 2)).collect::<Vec<_>>());
    let mut at = 1 << 41;
    let ended = session((&a, &b), Age::Closed, 200, &mut |step| {
        for key in keys.iter().skip(step as usize % 7).step_by(11) {
            at += 1;
            write(if at % 2 == 0 { &a } else { &b }, &[job_of(key, 2, at, 2)]);
        }
        true
    });
    let (end, tally) = ended.unwrap();
    assert!(matches!(end, End::Mended | End::Cut), "{end:?}");
    assert!(tally.steps <= 200);
    // And once they stop, one more session is enough.
    calm((&a, &b), Age::Closed);
    assert!(equal(&a, &b));
}

#[test]
fn a_session_that_may_not_go_on_is_continued_by_the_next_ones() {
    let (a, b, keys) = twins(2_000);
    write(&b, &keys.iter().map(|key| job_of(key, 2, 1 << 40, 2)).collect::<Vec<_>>());
    let mut rounds = 0;
    while session((&a, &b), Age::Closed, 8, &mut |_| true).unwrap().0 == End::Cut {
        rounds += 1;
        assert!(rounds < 50);
    }
    assert!(rounds > 0 && equal(&a, &b));
}

#[test]
fn a_link_lost_at_any_message_leaves_only_what_was_mended() {
    for lost in 1.. {
        let (a, b, keys) = twins(300);
        write(&a, &[job_of(&keys[1], 2, 1 << 40, 2), job_of(&keys[2], 2, 1 << 40, 2)]);
        write(&b, &[job_of(&keys[2], 3, 1 << 41, 2), job_of(&keys[3], 3, 1 << 40, 2)]);
        if session((&a, &b), Age::Closed, 1_000, &mut |step| step < lost).is_some() {
            assert!(lost > 3);
            return;
        }
        assert_eq!(calm((&a, &b), Age::Closed).0, End::Mended);
        assert!(equal(&a, &b), "lost at {lost}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever two owners hold, of whatever epochs, after comparing each age once each way they hold the same.
    #[test]
    fn owners_become_equal(
        left in prop::collection::vec((0usize..400, 1u64..4, 1u64..1_000), 0..300),
        right in prop::collection::vec((0usize..400, 1u64..4, 1u64..1_000), 0..300),
    ) {
        let (a, b, keys) = twins(300);
        let keys: Vec<Key> = keys.into_iter().chain(self::keys().skip(300)).take(400).collect();
        let job = |(key, node, at): (usize, u64, u64)| job_of(&keys[key], node, at + 400, 6 + at % 4);
        write(&a, &left.into_iter().map(job).collect::<Vec<_>>());
        write(&b, &right.into_iter().map(job).collect::<Vec<_>>());
        for pair in [(&a, &b), (&b, &a)] {
            for age in Age::ALL {
                let (end, _) = calm(pair, age);
                prop_assert!(matches!(end, End::Mended | End::Clean), "{:?}", end);
            }
        }
        prop_assert!(equal(&a, &b));
    }

    #[test]
    fn nonsense_ends_a_session(covered: u32, bucket in 0u16..1_024, bits in 0u8..16, prints: Vec<u32>) {
        let (mut session, _) = Session::new(range(Age::Closed), CODE, 1, 100);
        let Turn::Ask(root) = session.found(Found::Sums(Some(crate::digest::nothing()))) else { panic!() };
        let list = List { bucket, bits, slices: vec![0], prints, more: true };
        let turn = session.answered(&root, SyncAnswer::Lists { lists: vec![list], covered });
        prop_assert_eq!(turn, Turn::Done(End::Nonsense));
        prop_assert_eq!(session.answered(&root, SyncAnswer::Sums(vec![1; 3])), Turn::Done(End::Nonsense));
    }
}
