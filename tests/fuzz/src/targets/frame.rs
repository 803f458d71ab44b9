//! Frames between nodes: every message reads to what it would be written as, or is refused.

use super::{past, request_of, version};
use bytes::Bytes;
use mks::peer::convert::{from_wire, to_wire};
use mks_logic::context::Context;
use mks_logic::digest::{Age, Range};
use mks_logic::event::{Answer, OpError, Operation};
use mks_logic::exchange::{List, Prints, Sketch, SyncAnswer, SyncAsk, SyncRefused};
use mks_logic::id::{BUCKETS, Epoch, Incarnation, Key, KeyspaceId, PartitionId};
use mks_logic::message::{Message, ReadOutcome, Refused, Tag, Want, WriteOutcome};
use mks_logic::port::Durability;
use mks_logic::record::Record;
use mks_logic::time::Hlc;
use mks_proto::v1::Frame;
use prost::Message as _;

pub fn run(input: &[u8]) {
    let Ok(frame) = Frame::decode(input) else { return };
    for message in frame.messages {
        let Ok(read) = from_wire(message) else { continue };
        let written = to_wire(read.clone());
        assert_eq!(from_wire(written), Ok(read), "a message must survive the wire");
    }
}

pub(super) fn encoded(messages: Vec<Message>) -> Vec<u8> {
    let frame = Frame { clock: (1_800_000_000_000 << 16) | 3, messages: messages.into_iter().map(to_wire).collect() };
    frame.encode_to_vec()
}

/// A key of the keyspace that the formed cluster of the tests has.
pub(super) fn key(name: &'static str) -> Key {
    Key { keyspace: KeyspaceId(1), partition_key: name.into(), sort_key: Bytes::new() }
}

/// One message of each kind.
pub(super) fn messages() -> Vec<Message> {
    let tag = Tag(77);
    let request = request_of(Operation::Put { key: key("b"), value: "forwarded".into() });
    let mut messages = vec![
        Message::Write {
            tag,
            key: key("a"),
            version: version(2, 1, Some(b"value")),
            past: past(),
            fresh: true,
            durability: Durability::Sync,
        },
        Message::Write {
            tag,
            key: key("a"),
            version: version(2, 2, None),
            past: Context::default(),
            fresh: false,
            durability: Durability::Os,
        },
        Message::Written { tag, outcome: WriteOutcome::Held },
        Message::Written { tag, outcome: WriteOutcome::StaleStamp { latest: Hlc(9) } },
        Message::Written { tag, outcome: WriteOutcome::StaleEpoch { current: Epoch(9) } },
        Message::Written { tag, outcome: WriteOutcome::Refused(Refused::Busy) },
        Message::Read { tag, key: key("a"), epoch: Epoch(3), want: Want::Digest },
        Message::Found { tag, outcome: ReadOutcome::Record(Record::of(version(3, 4, Some(b"other")))) },
        Message::Found { tag, outcome: ReadOutcome::Digest(1) },
        Message::Forward { tag, request, remaining_ms: 77, incarnation: Incarnation(3) },
        Message::Forwarded { tag, reply: Err(OpError::NoOwner) },
        Message::Forwarded {
            tag,
            reply: Ok(Answer::Found { versions: vec![version(3, 4, Some(b"other"))], context: Some(past()) }),
        },
    ];
    messages.extend(asks().map(|ask| Message::Sync { tag, ask }));
    messages.extend(answers().map(|answer| Message::Synced { tag, answer }));
    messages
}

fn records() -> Vec<(Key, Record)> {
    vec![(key("a"), Record::of(version(2, 1, Some(b"value")))), (key("b"), Record::of(version(3, 2, None)))]
}

fn asks() -> impl Iterator<Item = SyncAsk> {
    let range = |age| Range {
        partition: PartitionId(3),
        copies_min: 3,
        epoch: Epoch(5),
        age,
        purged: Epoch(0),
        closed: Epoch(0),
    };
    let bucket = key("a").place(4).bucket;
    let sketches = vec![Sketch { bucket, bits: 1, sums: vec![7, 0] }];
    let wants = vec![Prints { bucket, prints: vec![1, 1, u32::MAX] }];
    [
        SyncAsk::Root { range: range(Age::Closed), code: 1, root: u128::MAX - 1 },
        SyncAsk::Sketches { range: range(Age::Previous), nonce: 1, sketches },
        SyncAsk::Mend { range: range(Age::Open), nonce: 2, records: records(), wants },
        SyncAsk::Pull { range: range(Age::Closed), buckets: vec![bucket], after: "after".into() },
    ]
    .into_iter()
}

fn answers() -> impl Iterator<Item = SyncAnswer> {
    let mut sums = vec![0; BUCKETS as usize];
    sums[5] = 3;
    let list = List { bucket: 3, bits: 12, slices: vec![0, 4_095], prints: vec![2, 3], more: true };
    [
        SyncAnswer::Same,
        SyncAnswer::Drift,
        SyncAnswer::Sums(sums),
        SyncAnswer::Lists { lists: vec![list], covered: 1 },
        SyncAnswer::Records { records: records(), more: true, next: "next".into(), refused: 3 },
        SyncAnswer::Refused(SyncRefused::OtherEpoch(Epoch(9))),
    ]
    .into_iter()
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    messages().into_iter().map(|message| encoded(vec![message])).collect()
}
