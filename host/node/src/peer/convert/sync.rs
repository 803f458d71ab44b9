//! The words in which owners compare what they hold, to protobuf and back. Whatever the logic indexes with is checked
//! here.

use super::{Malformed, key_from_wire, key_to_wire};
use bytes::Bytes;
use mks_logic::digest::{Age, Range};
use mks_logic::exchange::{List, Prints, SLICE_BITS_MAX, Sketch, SyncAnswer, SyncAsk, SyncRefused};
use mks_logic::id::{BUCKETS, Epoch, Key, PartitionId};
use mks_logic::record::Record;
use mks_logic::ring::RING_WIDTH_MAX;
use mks_proto::v1 as wire;
use mks_proto::v1::sync_answer::Answer;
use mks_proto::v1::sync_ask::Ask;

/// Longest part of a key that any config allows.
const KEY_BYTES_MAX: usize = 16 << 10;
/// Longest engine key: both parts, the first one escaped.
const ENGINE_KEY_BYTES_MAX: usize = 64 << 10;

pub(super) fn ask_to_wire(ask: SyncAsk) -> wire::SyncAsk {
    let range = Some(range_to_wire(ask.range()));
    let ask = match ask {
        SyncAsk::Root { code, root, .. } => {
            Ask::Root(wire::SyncRoot { code, root_high: (root >> 64) as u64, root_low: root as u64 })
        }
        SyncAsk::Sketches { nonce, sketches, .. } => {
            let sketch =
                |Sketch { bucket, bits, sums }| wire::SyncSketch { bucket: bucket.into(), bits: bits.into(), sums };
            Ask::Sketches(wire::SyncSketches { nonce, sketches: sketches.into_iter().map(sketch).collect() })
        }
        SyncAsk::Mend { nonce, records, wants, .. } => {
            let want = |Prints { bucket, prints }| wire::SyncPrints { bucket: bucket.into(), prints };
            let (records, wants) = (records_to_wire(records), wants.into_iter().map(want).collect());
            Ask::Mend(wire::SyncMend { nonce, records, wants })
        }
        SyncAsk::Pull { buckets, after, .. } => {
            Ask::Pull(wire::SyncPull { buckets: buckets.into_iter().map(u32::from).collect(), after })
        }
    };
    wire::SyncAsk { range, ask: Some(ask) }
}

pub(super) fn ask_from_wire(asked: wire::SyncAsk) -> Result<SyncAsk, Malformed> {
    let range = range_from_wire(asked.range.ok_or(Malformed("a comparison without its range"))?)?;
    match asked.ask.ok_or(Malformed("a comparison of an unknown kind"))? {
        Ask::Root(wire::SyncRoot { code, root_high, root_low }) => {
            Ok(SyncAsk::Root { range, code, root: u128::from(root_high) << 64 | u128::from(root_low) })
        }
        Ask::Sketches(wire::SyncSketches { nonce, sketches }) => {
            let sketches = sketches.into_iter().map(sketch_from_wire).collect::<Result<_, _>>()?;
            Ok(SyncAsk::Sketches { range, nonce, sketches })
        }
        Ask::Mend(wire::SyncMend { nonce, records, wants }) => {
            let wants = wants.into_iter().map(prints_from_wire).collect::<Result<_, _>>()?;
            Ok(SyncAsk::Mend { range, nonce, records: records_from_wire(records)?, wants })
        }
        Ask::Pull(wire::SyncPull { buckets, after }) => {
            if !buckets.is_sorted_by(|a, b| a < b) {
                return Err(Malformed("buckets out of order"));
            }
            let buckets = buckets.into_iter().map(bucket_from_wire).collect::<Result<_, _>>()?;
            Ok(SyncAsk::Pull { range, buckets, after: engine_key(after)? })
        }
    }
}

pub(super) fn answer_to_wire(answer: SyncAnswer) -> wire::SyncAnswer {
    let answer = match answer {
        SyncAnswer::Same => Answer::Same(true),
        SyncAnswer::Drift => Answer::Drift(true),
        SyncAnswer::Sums(sums) => Answer::Sums(wire::SyncSums { sums }),
        SyncAnswer::Lists { lists, covered } => {
            let list = |List { bucket, bits, slices, prints, more }| {
                let slices = slices.into_iter().map(u32::from).collect();
                wire::SyncList { bucket: bucket.into(), bits: bits.into(), slices, prints, more }
            };
            Answer::Lists(wire::SyncLists { lists: lists.into_iter().map(list).collect(), covered })
        }
        SyncAnswer::Records { records, more, next, refused } => {
            Answer::Records(wire::SyncRecords { records: records_to_wire(records), more, next, refused })
        }
        SyncAnswer::Refused(refused) => Answer::Refused(refusal_to_wire(refused)),
    };
    wire::SyncAnswer { answer: Some(answer) }
}

pub(super) fn answer_from_wire(answer: wire::SyncAnswer) -> Result<SyncAnswer, Malformed> {
    match answer.answer.ok_or(Malformed("an answer to a comparison of an unknown kind"))? {
        Answer::Same(_) => Ok(SyncAnswer::Same),
        Answer::Drift(_) => Ok(SyncAnswer::Drift),
        Answer::Sums(wire::SyncSums { sums }) if sums.len() == BUCKETS as usize => Ok(SyncAnswer::Sums(sums)),
        Answer::Sums(_) => Err(Malformed("not one sum for each bucket")),
        Answer::Lists(wire::SyncLists { lists, covered }) => {
            let lists = lists.into_iter().map(list_from_wire).collect::<Result<_, _>>()?;
            Ok(SyncAnswer::Lists { lists, covered })
        }
        Answer::Records(wire::SyncRecords { records, more, next, refused }) => {
            Ok(SyncAnswer::Records { records: records_from_wire(records)?, more, next: engine_key(next)?, refused })
        }
        Answer::Refused(refused) => Ok(SyncAnswer::Refused(refusal_from_wire(refused)?)),
    }
}

/// The numbers are part of the contract between releases.
const AGES: [(Age, u32); 4] = [(Age::Closed, 1), (Age::Previous, 2), (Age::Open, 3), (Age::Any, 4)];

fn range_to_wire(range: Range) -> wire::SyncRange {
    let Range { partition, copies_min, epoch, age, purged, closed } = range;
    let age = AGES.iter().find(|(known, _)| *known == age).map_or(0, |(_, number)| *number);
    let (partition, copies_min) = (partition.0.into(), copies_min.into());
    wire::SyncRange { partition, copies_min, epoch: epoch.0, age, purged: purged.0, closed: closed.0 }
}

fn range_from_wire(range: wire::SyncRange) -> Result<Range, Malformed> {
    let wire::SyncRange { partition, copies_min, epoch, age, purged, closed } = range;
    let partition = u16::try_from(partition).map_err(|_| Malformed("a partition that can't be"))?;
    let copies = u8::try_from(copies_min).ok().filter(|copies| (1..=RING_WIDTH_MAX).contains(copies));
    let copies_min = copies.ok_or(Malformed("more copies than there can be"))?;
    let age = AGES.iter().find(|(_, number)| *number == age).ok_or(Malformed("an unknown age of records"))?.0;
    let [epoch, purged, closed] = [epoch, purged, closed].map(Epoch);
    Ok(Range { partition: PartitionId(partition), copies_min, epoch, age, purged, closed })
}

fn bucket_from_wire(bucket: u32) -> Result<u16, Malformed> {
    let bucket = u16::try_from(bucket).ok().filter(|bucket| u32::from(*bucket) < BUCKETS);
    bucket.ok_or(Malformed("a bucket that can't be"))
}

fn bits_from_wire(bits: u32) -> Result<u8, Malformed> {
    let bits = u8::try_from(bits).ok().filter(|bits| *bits <= SLICE_BITS_MAX);
    bits.ok_or(Malformed("more slices than there can be"))
}

fn sketch_from_wire(sketch: wire::SyncSketch) -> Result<Sketch, Malformed> {
    let wire::SyncSketch { bucket, bits, sums } = sketch;
    let (bucket, bits) = (bucket_from_wire(bucket)?, bits_from_wire(bits)?);
    if sums.len() != 1 << bits {
        return Err(Malformed("not one sum for each slice"));
    }
    Ok(Sketch { bucket, bits, sums })
}

fn list_from_wire(list: wire::SyncList) -> Result<List, Malformed> {
    let wire::SyncList { bucket, bits, slices, prints, more } = list;
    let (bucket, bits) = (bucket_from_wire(bucket)?, bits_from_wire(bits)?);
    if !slices.is_sorted_by(|a, b| a < b) || slices.last().is_some_and(|slice| *slice >> bits != 0) {
        return Err(Malformed("slices out of order or of range"));
    }
    let slices = slices.into_iter().map(|slice| slice as u16).collect();
    Ok(List { bucket, bits, slices, prints: in_order(prints)?, more })
}

fn prints_from_wire(prints: wire::SyncPrints) -> Result<Prints, Malformed> {
    let wire::SyncPrints { bucket, prints } = prints;
    Ok(Prints { bucket: bucket_from_wire(bucket)?, prints: in_order(prints)? })
}

fn in_order(prints: Vec<u32>) -> Result<Vec<u32>, Malformed> {
    if prints.is_sorted() { Ok(prints) } else { Err(Malformed("prints out of order")) }
}

fn engine_key(key: Bytes) -> Result<Bytes, Malformed> {
    if key.len() <= ENGINE_KEY_BYTES_MAX { Ok(key) } else { Err(Malformed("a key that is too long")) }
}

fn records_to_wire(records: Vec<(Key, Record)>) -> Vec<wire::SyncRecord> {
    let record =
        |(key, record): (Key, Record)| wire::SyncRecord { key: Some(key_to_wire(key)), record: record.encode() };
    records.into_iter().map(record).collect()
}

fn records_from_wire(records: Vec<wire::SyncRecord>) -> Result<Vec<(Key, Record)>, Malformed> {
    let record = |wire::SyncRecord { key, record }| {
        let key = key_from_wire(key)?;
        if key.partition_key.len().max(key.sort_key.len()) > KEY_BYTES_MAX {
            return Err(Malformed("a key that is too long"));
        }
        Ok((key, Record::decode(&record).map_err(|_| Malformed("a damaged record"))?))
    };
    records.into_iter().map(record).collect()
}

fn refusal_to_wire(refused: SyncRefused) -> wire::SyncRefusal {
    let (reason, epoch) = match refused {
        SyncRefused::OtherEpoch(epoch) => (1, epoch.0),
        SyncRefused::Busy => (2, 0),
        SyncRefused::Unready => (3, 0),
        SyncRefused::NotOwner => (4, 0),
        SyncRefused::Store => (5, 0),
    };
    wire::SyncRefusal { reason, epoch }
}

fn refusal_from_wire(refused: wire::SyncRefusal) -> Result<SyncRefused, Malformed> {
    match refused.reason {
        1 => Ok(SyncRefused::OtherEpoch(Epoch(refused.epoch))),
        2 => Ok(SyncRefused::Busy),
        3 => Ok(SyncRefused::Unready),
        4 => Ok(SyncRefused::NotOwner),
        5 => Ok(SyncRefused::Store),
        _ => Err(Malformed("an unknown refusal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::id::{Dot, Incarnation, KeyspaceId, NodeId};
    use mks_logic::time::Hlc;
    use mks_logic::version::{Version, value_digest};

    const RANGE: Range = Range {
        partition: PartitionId(u16::MAX),
        copies_min: 3,
        epoch: Epoch(7),
        age: Age::Previous,
        purged: Epoch(4),
        closed: Epoch(5),
    };

    fn records() -> Vec<(Key, Record)> {
        let version = Version {
            dot: Dot { node: NodeId(1), incarnation: Incarnation(2), counter: 3 },
            written: Hlc(4),
            epoch: Epoch(5),
            expires_ms: 6,
            digest: value_digest(Some(b"value")),
            value: Some("value".into()),
        };
        let key = Key { keyspace: KeyspaceId(9), partition_key: "p".into(), sort_key: "s".into() };
        vec![(key, Record::of(version))]
    }

    fn asks() -> Vec<SyncAsk> {
        let sketch = Sketch { bucket: 1_023, bits: 1, sums: vec![u32::MAX, 0] };
        let wants = vec![Prints { bucket: 0, prints: vec![1, 1, u32::MAX] }];
        let with = |age| Range { age, ..RANGE };
        vec![
            SyncAsk::Root { range: with(Age::Closed), code: u64::MAX, root: u128::MAX - 1 },
            SyncAsk::Sketches { range: with(Age::Open), nonce: 1, sketches: vec![sketch] },
            SyncAsk::Mend { range: RANGE, nonce: 2, records: records(), wants },
            SyncAsk::Pull { range: RANGE, buckets: vec![5, 6, 9], after: "after".into() },
        ]
    }

    fn answers() -> Vec<SyncAnswer> {
        let list = List { bucket: 3, bits: 12, slices: vec![0, 4_095], prints: vec![2, 3], more: true };
        let refusals = [
            SyncRefused::OtherEpoch(Epoch(9)),
            SyncRefused::Busy,
            SyncRefused::Unready,
            SyncRefused::NotOwner,
            SyncRefused::Store,
        ];
        let mut answers = vec![
            SyncAnswer::Same,
            SyncAnswer::Drift,
            SyncAnswer::Sums(vec![u64::MAX; BUCKETS as usize]),
            SyncAnswer::Lists { lists: vec![list], covered: 1 },
            SyncAnswer::Records { records: records(), more: true, next: "next".into(), refused: 3 },
        ];
        answers.extend(refusals.map(SyncAnswer::Refused));
        answers
    }

    #[test]
    fn every_word_of_a_comparison_survives_the_wire() {
        for ask in asks() {
            assert_eq!(ask_from_wire(ask_to_wire(ask.clone())), Ok(ask));
        }
        for answer in answers() {
            assert_eq!(answer_from_wire(answer_to_wire(answer.clone())), Ok(answer));
        }
    }

    #[test]
    fn a_comparison_of_what_can_not_be_is_an_error() {
        let good = range_to_wire(RANGE);
        for range in [
            wire::SyncRange { partition: 1 << 16, ..good },
            wire::SyncRange { copies_min: 0, ..good },
            wire::SyncRange { copies_min: 6, ..good },
            wire::SyncRange { age: 0, ..good },
            wire::SyncRange { age: 5, ..good },
        ] {
            assert!(range_from_wire(range).is_err(), "{range:?}");
        }
        let sketch = |bucket, bits, sums| wire::SyncSketch { bucket, bits, sums };
        for sketch in [sketch(1_024, 0, vec![0]), sketch(0, 13, vec![0; 1 << 13]), sketch(0, 1, vec![0])] {
            assert!(sketch_from_wire(sketch).is_err());
        }
        let list = |bits, slices, prints| wire::SyncList { bucket: 0, bits, slices, prints, more: false };
        for list in [list(1, vec![2], vec![]), list(2, vec![1, 1], vec![]), list(2, vec![0], vec![2, 1])] {
            assert!(list_from_wire(list).is_err());
        }
        let key =
            Key { keyspace: KeyspaceId(1), partition_key: vec![0; KEY_BYTES_MAX + 1].into(), sort_key: Bytes::new() };
        let record = wire::SyncRecord { key: Some(key_to_wire(key)), record: Bytes::new() };
        assert!(records_from_wire(vec![record]).is_err());
        assert!(records_from_wire(vec![wire::SyncRecord { key: None, record: Bytes::new() }]).is_err());
        assert!(engine_key(vec![0; ENGINE_KEY_BYTES_MAX + 1].into()).is_err());
        let sums = wire::SyncAnswer { answer: Some(Answer::Sums(wire::SyncSums { sums: vec![0; 3] })) };
        assert!(answer_from_wire(sums).is_err());
        assert!(ask_from_wire(wire::SyncAsk { range: Some(good), ask: None }).is_err());
        assert!(refusal_from_wire(wire::SyncRefusal { reason: 6, epoch: 0 }).is_err());
    }
}
