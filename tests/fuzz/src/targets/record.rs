//! Bytes of a record, from a disk or a peer: that record, or an error, and never more memory than they are.

use super::{past, version};
use bytes::Bytes;
use mks_logic::outline::Outline;
use mks_logic::record::{FORMAT, FORMAT_WITH_PAST, Record};
use xxhash_rust::xxh3::xxh3_64;

pub fn run(input: &[u8]) {
    check(input);
    // A checksum stops nearly all of them; so the same with one that is right. The first byte says where values begin.
    let Some((&split, body)) = input.split_first() else { return };
    let (meta, values) = body.split_at(usize::from(split).min(body.len()).min(127));
    for format in [FORMAT, FORMAT_WITH_PAST] {
        let mut whole = vec![format, meta.len() as u8];
        whole.extend_from_slice(meta);
        whole.extend_from_slice(&(xxh3_64(meta) as u32).to_le_bytes());
        whole.extend_from_slice(values);
        check(&whole);
    }
}

fn check(bytes: &[u8]) {
    let Ok(record) = Record::decode(&Bytes::copy_from_slice(bytes)) else { return };
    assert!(record.versions().iter().all(|version| version.is_intact()), "a damaged value was taken");
    let past = record.past();
    assert!(record.versions().iter().all(|version| !past.covers(version.dot)), "a version that it says is superseded");
    assert!(record.versions().is_sorted_by(|a, b| a.dot < b.dot), "versions are ordered by their dots");
    let written = record.encode();
    assert!(written.len() <= bytes.len() || bytes.is_empty(), "written again it is longer");
    assert_eq!(Record::decode(&written).as_ref(), Ok(&record));
    assert_eq!(Outline::of(&record).digest, record.digest());
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut siblings = Record::of(version(1, 300, Some(b"a value")));
    siblings.insert(version(2, 1, None));
    siblings.insert(version(3, u64::MAX, Some(b"")));
    let causal = Record::of(version(3, 9, Some(b"of a writer who saw others"))).with_past(&past());
    let records = [Record::of(version(1, 1, Some(b"value"))), Record::of(version(1, 1, None)), causal, siblings];
    let whole = records.iter().map(|record| record.encode().to_vec());
    // The same in the second form.
    let bare = records.iter().map(|record| {
        let bytes = record.encode();
        let meta = usize::from(bytes[1]);
        [&[bytes[1]], &bytes[2..2 + meta], &bytes[6 + meta..]].concat()
    });
    whole.chain(bare).collect()
}
