//! `logic::message` to protobuf and back. A peer's nonsense is an error here and a count above.

mod sync;

use crate::grpc::convert as forward;
use bytes::Bytes;
use mks_logic::context::Context;
use mks_logic::id::{Epoch, Incarnation, Key, KeyspaceId, NodeId};
use mks_logic::message::{Message, ReadOutcome, Refused, Tag, Want, WriteOutcome};
use mks_logic::port::Durability;
use mks_logic::record::Record;
use mks_logic::time::Hlc;
use mks_logic::version::Version;
use mks_proto::v1::peer_message::Body;
use mks_proto::v1::{self as wire, PeerKey, PeerMessage, found, written};

/// Bytes that a peer should not have sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a peer sent {0}")]
pub struct Malformed(&'static str);

/// The wire form of a message.
#[must_use]
pub fn to_wire(message: Message) -> PeerMessage {
    let (tag, body) = match message {
        Message::Write { tag, key, version, past, fresh, durability } => {
            let (record, sync) = (Record::of(version).with_past(&past).encode(), durability == Durability::Sync);
            (tag, Body::Write(wire::Write { key: Some(key_to_wire(key)), record, fresh, sync }))
        }
        Message::Keep { tag, owner, key, version, past, durability } => {
            let (record, sync) = (Record::of(version).with_past(&past).encode(), durability == Durability::Sync);
            (tag, Body::Keep(wire::Keep { owner: owner.0, key: Some(key_to_wire(key)), record, sync }))
        }
        Message::Written { tag, outcome } => {
            let outcome = match outcome {
                WriteOutcome::Held | WriteOutcome::Minted { .. } | WriteOutcome::Applied { .. } => {
                    written::Outcome::Held(true)
                }
                WriteOutcome::StaleStamp { latest } => written::Outcome::StaleStamp(latest.0),
                WriteOutcome::StaleEpoch { current } => written::Outcome::StaleEpoch(current.0),
                WriteOutcome::Refused(refused) => written::Outcome::Refused(refused_to_wire(refused)),
                WriteOutcome::NotApplied(_) => written::Outcome::Refused(refused_to_wire(Refused::Store)),
            };
            (tag, Body::Written(wire::Written { outcome: Some(outcome) }))
        }
        Message::Read { tag, key, epoch, want } => {
            let record = want == Want::Record;
            (tag, Body::Read(wire::Read { key: Some(key_to_wire(key)), epoch: epoch.0, record }))
        }
        Message::Found { tag, outcome } => {
            let outcome = match outcome {
                ReadOutcome::Record(record) if record.is_empty() => found::Outcome::Record(Bytes::new()),
                ReadOutcome::Record(record) => found::Outcome::Record(record.encode()),
                ReadOutcome::Digest(digest) => found::Outcome::Digest(digest),
                ReadOutcome::StaleEpoch { current } => found::Outcome::StaleEpoch(current.0),
                ReadOutcome::Refused(refused) => found::Outcome::Refused(refused_to_wire(refused)),
            };
            (tag, Body::Found(wire::Found { outcome: Some(outcome) }))
        }
        Message::Forward { tag, request, remaining_ms, incarnation } => {
            let request = forward::encode_request(&request);
            (tag, Body::Forward(wire::Forward { request, remaining_ms, incarnation: incarnation.0 }))
        }
        Message::Forwarded { tag, reply } => {
            (tag, Body::Forwarded(wire::Forwarded { reply: forward::encode_reply(&reply) }))
        }
        Message::Sync { tag, ask } => (tag, Body::Sync(sync::ask_to_wire(ask))),
        Message::Synced { tag, answer } => (tag, Body::Synced(sync::answer_to_wire(answer))),
    };
    PeerMessage { tag: tag.0, body: Some(body) }
}

/// The message behind its wire form; values share its bytes. Whatever `logic` indexes with was checked.
///
/// # Errors
/// When it makes no sense.
pub fn from_wire(message: PeerMessage) -> Result<Message, Malformed> {
    let tag = Tag(message.tag);
    match message.body.ok_or(Malformed("a message of an unknown kind"))? {
        Body::Write(write) => {
            let durability = if write.sync { Durability::Sync } else { Durability::Os };
            let (key, (version, past)) = (key_from_wire(write.key)?, single(&write.record)?);
            Ok(Message::Write { tag, key, version, past, fresh: write.fresh, durability })
        }
        Body::Keep(keep) => {
            let durability = if keep.sync { Durability::Sync } else { Durability::Os };
            let (owner, key) = (NodeId(keep.owner), key_from_wire(keep.key)?);
            let (version, past) = single(&keep.record)?;
            Ok(Message::Keep { tag, owner, key, version, past, durability })
        }
        Body::Written(written) => {
            let outcome = match written.outcome.ok_or(Malformed("an answer without an outcome"))? {
                written::Outcome::Held(_) => WriteOutcome::Held,
                written::Outcome::StaleStamp(latest) => WriteOutcome::StaleStamp { latest: Hlc(latest) },
                written::Outcome::StaleEpoch(current) => WriteOutcome::StaleEpoch { current: Epoch(current) },
                written::Outcome::Refused(refused) => WriteOutcome::Refused(refused_from_wire(refused)?),
            };
            Ok(Message::Written { tag, outcome })
        }
        Body::Read(read) => {
            let want = if read.record { Want::Record } else { Want::Digest };
            Ok(Message::Read { tag, key: key_from_wire(read.key)?, epoch: Epoch(read.epoch), want })
        }
        Body::Found(found) => {
            let outcome = match found.outcome.ok_or(Malformed("an answer without an outcome"))? {
                found::Outcome::Record(bytes) => {
                    ReadOutcome::Record(Record::decode(&bytes).map_err(|_| Malformed("a damaged record"))?)
                }
                found::Outcome::Digest(digest) => ReadOutcome::Digest(digest),
                found::Outcome::StaleEpoch(current) => ReadOutcome::StaleEpoch { current: Epoch(current) },
                found::Outcome::Refused(refused) => ReadOutcome::Refused(refused_from_wire(refused)?),
            };
            Ok(Message::Found { tag, outcome })
        }
        Body::Forward(forwarded) => {
            let request = forward::decode_request(forwarded.request).map_err(|_| Malformed("a damaged request"))?;
            let (remaining_ms, incarnation) = (forwarded.remaining_ms, Incarnation(forwarded.incarnation));
            Ok(Message::Forward { tag, request, remaining_ms, incarnation })
        }
        Body::Forwarded(forwarded) => {
            let reply = forward::decode_reply(forwarded.reply).map_err(|_| Malformed("a damaged reply"))?;
            Ok(Message::Forwarded { tag, reply })
        }
        Body::Sync(ask) => Ok(Message::Sync { tag, ask: sync::ask_from_wire(ask)? }),
        Body::Synced(answer) => Ok(Message::Synced { tag, answer: sync::answer_from_wire(answer)? }),
    }
}

fn single(record: &Bytes) -> Result<(Version, Context), Malformed> {
    let record = Record::decode(record).map_err(|_| Malformed("a damaged version"))?;
    let (versions, past) = record.into_parts();
    let [version] = <[Version; 1]>::try_from(versions).map_err(|_| Malformed("not one version"))?;
    // Only the disk of its coordinator gives a version its name.
    if version.dot.counter == 0 { Err(Malformed("a version without a name")) } else { Ok((version, past)) }
}

fn key_to_wire(key: Key) -> PeerKey {
    PeerKey { keyspace: key.keyspace.0, partition_key: key.partition_key, sort_key: key.sort_key }
}

fn key_from_wire(key: Option<PeerKey>) -> Result<Key, Malformed> {
    let PeerKey { keyspace, partition_key, sort_key } = key.ok_or(Malformed("a message without its key"))?;
    Ok(Key { keyspace: KeyspaceId(keyspace), partition_key, sort_key })
}

/// The numbers are part of the contract between releases.
const REFUSALS: [(Refused, u32); 12] = [
    (Refused::NotOwner, 1),
    (Refused::UnknownKeyspace, 2),
    (Refused::StampFromFuture, 3),
    (Refused::Damaged, 4),
    (Refused::Busy, 5),
    (Refused::DiskFull, 6),
    (Refused::Store, 7),
    (Refused::TooManySiblings, 8),
    (Refused::ContextTooLarge, 9),
    (Refused::DamagedRecord, 10),
    (Refused::HintsFull, 12),
    (Refused::Closed, 13),
];

fn refused_to_wire(refused: Refused) -> u32 {
    REFUSALS.iter().find(|(r, _)| *r == refused).map_or(0, |(_, number)| *number)
}

fn refused_from_wire(number: u32) -> Result<Refused, Malformed> {
    REFUSALS.iter().find(|(_, n)| *n == number).map(|(r, _)| *r).ok_or(Malformed("an unknown refusal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::event::{Operation, Request};
    use mks_logic::id::Dot;
    use mks_logic::version::value_digest;

    fn samples() -> Vec<Message> {
        let tag = Tag(u64::MAX);
        let key = Key { keyspace: KeyspaceId(9), partition_key: "p".into(), sort_key: "s".into() };
        let version = Version {
            dot: Dot { node: NodeId(1), incarnation: Incarnation(2), counter: 3 },
            written: Hlc(4),
            epoch: Epoch(5),
            expires_ms: 6,
            digest: value_digest(Some(b"value")),
            value: Some("value".into()),
        };
        let operation = Operation::Get { key: key.clone() };
        let request = Request {
            operation,
            quorum: Some(2),
            durability: None,
            deadline_ms: Some(5),
            ttl_ms: None,
            request_id: Some(7),
            context: None,
            sloppy: true,
            node_confirms: Some(2),
        };
        let past: Context = [4, 6, 7].map(|counter| Dot { counter, ..version.dot }).into_iter().collect();
        let mut samples = vec![
            Message::Write {
                tag,
                key: key.clone(),
                version: version.clone(),
                past: Context::default(),
                fresh: true,
                durability: Durability::Sync,
            },
            Message::Write {
                tag,
                key: key.clone(),
                version: version.clone(),
                past: past.clone(),
                fresh: false,
                durability: Durability::Os,
            },
            Message::Keep {
                tag,
                owner: NodeId(3),
                key: key.clone(),
                version: version.clone(),
                past: past.clone(),
                durability: Durability::Sync,
            },
            Message::Written { tag, outcome: WriteOutcome::Held },
            Message::Written { tag, outcome: WriteOutcome::StaleStamp { latest: Hlc(9) } },
            Message::Written { tag, outcome: WriteOutcome::StaleEpoch { current: Epoch(9) } },
            Message::Read { tag, key: key.clone(), epoch: Epoch(3), want: Want::Digest },
            Message::Found { tag, outcome: ReadOutcome::Record(Record::of(version.clone())) },
            Message::Found { tag, outcome: ReadOutcome::Record(Record::of(version).with_past(&past)) },
            Message::Found { tag, outcome: ReadOutcome::Record(Record::default()) },
            Message::Found { tag, outcome: ReadOutcome::Digest(1) },
            Message::Found { tag, outcome: ReadOutcome::StaleEpoch { current: Epoch(9) } },
            Message::Forward { tag, request, remaining_ms: 77, incarnation: Incarnation(3) },
            Message::Forwarded { tag, reply: Err(mks_logic::event::OpError::NoOwner) },
        ];
        samples.extend(REFUSALS.map(|(refused, _)| Message::Written { tag, outcome: WriteOutcome::Refused(refused) }));
        samples
    }

    #[test]
    fn every_message_survives_the_wire() {
        for message in samples() {
            assert_eq!(from_wire(to_wire(message.clone())), Ok(message));
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for body in [
            None,
            Some(Body::Written(wire::Written { outcome: None })),
            Some(Body::Read(wire::Read { key: None, epoch: 1, record: true })),
            Some(Body::Written(wire::Written { outcome: Some(written::Outcome::Refused(99)) })),
            Some(Body::Found(wire::Found { outcome: Some(found::Outcome::Record("garbage".into())) })),
            Some(Body::Forward(wire::Forward { request: "\u{1}garbage".into(), remaining_ms: 1, incarnation: 0 })),
        ] {
            assert!(from_wire(PeerMessage { tag: 1, body: body.clone() }).is_err(), "{body:?}");
        }
    }
}
