//! What else lies on a disk: hints, keys and the sums over the records. It reads, or is known as damaged.

use super::{past, version};
use bytes::Bytes;
use mks_logic::digest::{Age, Delta, DigestTable, Range};
use mks_logic::event::{Hint, HintId};
use mks_logic::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId, PartitionId};
use mks_logic::port::{Change, Durability, Read, Store, Table};
use mks_logic::time::Hlc;
use mks_tests_sim::disk::Disk;
use std::ops::ControlFlow;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How sums lie in their table: the mark, where pages begin, where the log begins.
const MARK: &[u8] = &[0];
const PAGE: [u8; 4] = [1, 0, 3, 3];
const LOG: [u8; 9] = [2, 0, 0, 0, 0, 0, 0, 0, 9];

pub fn run(input: &[u8]) {
    let Some((&kind, body)) = input.split_first() else { return };
    match kind % 4 {
        0 => hint(body),
        1 => engine_key(body),
        2 => sums(&PAGE, body),
        _ => sums(&LOG, body),
    }
}

fn id() -> HintId {
    HintId {
        owner: NodeId(2),
        partition: PartitionId(3),
        epoch: Epoch(4),
        written: Hlc(5),
        dot: Dot { node: NodeId(1), incarnation: Incarnation(6), counter: 7 },
    }
}

fn hint(body: &[u8]) {
    if let Some(id) = HintId::from_engine_key(body) {
        assert_eq!(id.engine_key(), body);
    }
    let check = |bytes: &[u8]| {
        if let Some(hint) = Hint::decode(id(), &Bytes::copy_from_slice(bytes)) {
            assert_eq!(Hint::decode(id(), &hint.encode()).as_ref(), Some(&hint));
        }
    };
    check(body);
    // Again with a right hash behind the two parts of the key, where one can stand.
    let part = |at: usize| {
        let size = body.get(at..at + 4)?;
        Some(at + 4 + u32::from_be_bytes(size.try_into().ok()?) as usize)
    };
    let Some(end) = part(5).and_then(part).filter(|end| *end <= body.len()) else { return };
    let (head, record) = body.split_at(end);
    let hash = xxh3_64_with_seed(head, xxh3_64(&id().engine_key()));
    check(&[head, &hash.to_be_bytes(), record].concat());
}

fn engine_key(body: &[u8]) {
    if let Some(key) = Key::from_engine_key(body) {
        // The place is made anew: the first four bytes.
        assert_eq!(key.engine_key(8)[4..], body[4..]);
    }
}

fn put(key: &[u8], value: Vec<u8>) -> Change {
    Change::Put { table: Table::Digests, key: Bytes::copy_from_slice(key), value: value.into() }
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &xxh3_64(body).to_le_bytes()].concat()
}

/// Opens sums of which one piece is `body`, with a right checksum, and goes on with them.
fn sums(key: &[u8], body: &[u8]) {
    let store = Disk::default();
    store.apply(vec![put(MARK, vec![1]), put(key, sealed(body))], Durability::Os).expect("there is room");
    let mut table = DigestTable::open(&store, [(KeyspaceId(1), 3)]).expect("the store reads");
    let range = Range {
        partition: PartitionId(3),
        copies_min: 1,
        epoch: Epoch(u64::MAX),
        age: Age::Closed,
        purged: Epoch(0),
        closed: Epoch(0),
    };
    let delta = Delta { partition: PartitionId(3), keyspace: KeyspaceId(3), bucket: 9, epoch: Epoch(5), sum: 11 };
    let batch = table.stage(vec![delta]);
    store.apply(batch, Durability::Os).expect("there is room");
    table.settle(true);
    let again = DigestTable::open(&store, [(KeyspaceId(1), 3)]).expect("the store reads");
    assert!(table.sums(range) == again.sums(range), "what was written reads otherwise");
}

/// The values that real tables write, without their checksums: over this many commits for each epoch.
fn written(commits: u64) -> Vec<Vec<u8>> {
    let store = Disk::default();
    let mut table = DigestTable::open(&store, [(KeyspaceId(1), 3)]).expect("the store reads");
    let mut seeds = Vec::new();
    for number in 1..=5_000_u64 {
        let (bucket, epoch) = ((number % 7) as u16, Epoch(number / commits));
        let delta =
            Delta { partition: PartitionId(3), keyspace: KeyspaceId(3), bucket, epoch, sum: u128::from(number) << 70 };
        let batch = table.stage(vec![delta]);
        store.apply(batch, Durability::Os).expect("there is room");
        table.settle(true);
    }
    for (kind, start) in [(2, &PAGE[..1]), (3, &LOG[..1])] {
        let mut kept = 0;
        let end = [start[0] + 1];
        let scanned = store.scan(Table::Digests, start, Some(&end), &mut |_, value| {
            seeds.push([&[kind], &value[..value.len() - 8]].concat());
            kept += 1;
            if kept < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        scanned.expect("memory reads");
    }
    seeds
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let key = Key { keyspace: KeyspaceId(1), partition_key: "a\0b".into(), sort_key: "sort".into() };
    let hint = Hint { id: id(), key: key.clone(), version: version(3, 7, Some(b"value")), past: past(), counted: true };
    let encoded = hint.encode();
    let head = 5 + 4 + 3 + 4 + 4;
    let bare = [&[0], &encoded[..head], &encoded[head + 8..]].concat();
    let mut seeds = vec![[&[0], &encoded[..]].concat(), bare, [&[0], &id().engine_key()[..]].concat()];
    seeds.push([&[1], &key.engine_key(8)[..]].concat());
    seeds.extend(written(2_000));
    seeds.extend(written(u64::MAX));
    seeds
}
