//! A client's request on its way to a node that owns the key, and the reply on its way back. Nothing is lost: the
//! client hears the same whichever node it asked.

use bytes::Bytes;
use mks_logic::context::Context;
use mks_logic::event::{Answer, Item, OpError, Operation, Reply, Request};
use mks_logic::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId};
use mks_logic::port::{Durability, ResolverHash, TypeError};
use mks_logic::time::Hlc;
use mks_logic::version::Version;
use mks_proto::v1::forwarded_error::Error as WireError;
use mks_proto::v1::forwarded_reply::Reply as WireReply;
use mks_proto::v1::forwarded_request::Operation as WireOperation;
use mks_proto::v1::{
    ForwardedApplied, ForwardedBatch, ForwardedError, ForwardedForming, ForwardedFound, ForwardedItem, ForwardedPut,
    ForwardedReplies, ForwardedReply, ForwardedRequest, ForwardedTally, ForwardedTooLarge, ForwardedTyped,
    ForwardedVersion, ForwardedViewed, ForwardedWritten, PeerDurability, PeerKey,
};
use prost::Message;

/// A peer sent bytes that are no request or no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a forwarded message makes no sense: {0}")]
pub struct Malformed(String);

/// The byte form of a request for [`decode_request`].
#[must_use]
pub fn encode_request(request: &Request) -> Bytes {
    let operation = match &request.operation {
        Operation::Put { key, value } => WireOperation::Put(ForwardedPut { key: wire_key(key), value: value.clone() }),
        Operation::Get { key } => WireOperation::Get(wire_key_of(key)),
        Operation::Delete { key } => WireOperation::Delete(wire_key_of(key)),
        Operation::Batch { items } => {
            let item = |item: &Item| ForwardedItem {
                key: wire_key(&item.key),
                value: item.value.clone(),
                context: item.context.as_ref().map(Context::to_bytes),
            };
            WireOperation::Batch(ForwardedBatch { items: items.iter().map(item).collect() })
        }
        Operation::Apply { key, operation } => WireOperation::Apply(typed(key, operation)),
        Operation::View { key, question } => WireOperation::View(typed(key, question)),
    };
    let durability = request.durability.map(|durability| match durability {
        Durability::Os => PeerDurability::Os as i32,
        Durability::Sync => PeerDurability::Sync as i32,
    });
    let wire = ForwardedRequest {
        operation: Some(operation),
        quorum: request.quorum.map(u32::from),
        durability,
        deadline_ms: request.deadline_ms,
        ttl_ms: request.ttl_ms,
        request_id: request.request_id.map(|id| Bytes::copy_from_slice(&id.to_be_bytes())).unwrap_or_default(),
        context: request.context.as_ref().map(Context::to_bytes),
        sloppy: request.sloppy,
        node_confirms: request.node_confirms.map(u32::from),
    };
    wire.encode_to_vec().into()
}

/// The request behind `bytes`; keys and values share them.
///
/// # Errors
/// When the bytes are no request.
pub fn decode_request(bytes: Bytes) -> Result<Request, Malformed> {
    let wire = ForwardedRequest::decode(bytes).map_err(undecodable)?;
    let operation =
        match wire.operation.ok_or_else(|| malformed("no operation, or one that is newer than this node"))? {
            WireOperation::Put(put) => Operation::Put { key: key(put.key)?, value: put.value },
            WireOperation::Get(wire) => Operation::Get { key: key(Some(wire))? },
            WireOperation::Delete(wire) => Operation::Delete { key: key(Some(wire))? },
            WireOperation::Batch(batch) => {
                let item = |item: ForwardedItem| {
                    Ok(Item { key: key(item.key)?, value: item.value, context: context(item.context)? })
                };
                Operation::Batch { items: batch.items.into_iter().map(item).collect::<Result<_, _>>()? }
            }
            WireOperation::Apply(wire) => Operation::Apply { key: key(wire.key)?, operation: wire.text },
            WireOperation::View(wire) => Operation::View { key: key(wire.key)?, question: wire.text },
        };
    let durability = match wire.durability.map(PeerDurability::try_from) {
        None => None,
        Some(Ok(PeerDurability::Os)) => Some(Durability::Os),
        Some(Ok(PeerDurability::Sync)) => Some(Durability::Sync),
        Some(Ok(PeerDurability::Unspecified) | Err(_)) => return Err(malformed("unknown durability")),
    };
    let request_id = match &wire.request_id[..] {
        [] => None,
        id => Some(u128::from_be_bytes(id.try_into().map_err(|_| malformed("a request id is not 16 bytes"))?)),
    };
    Ok(Request {
        operation,
        quorum: wire.quorum.map(small).transpose()?,
        durability,
        deadline_ms: wire.deadline_ms,
        ttl_ms: wire.ttl_ms,
        request_id,
        context: context(wire.context)?,
        sloppy: wire.sloppy,
        node_confirms: wire.node_confirms.map(small).transpose()?,
    })
}

/// The byte form of a reply for [`decode_reply`].
#[must_use]
pub fn encode_reply(reply: &Reply) -> Bytes {
    wire_reply(reply).encode_to_vec().into()
}

/// The reply behind `bytes`; values share them.
///
/// # Errors
/// When the bytes are no reply.
pub fn decode_reply(bytes: Bytes) -> Result<Reply, Malformed> {
    reply(ForwardedReply::decode(bytes).map_err(undecodable)?, true)
}

fn wire_reply(reply: &Reply) -> ForwardedReply {
    let reply = match reply {
        Ok(Answer::Written { written, acks, hints, context }) => {
            let context = context.as_ref().map(Context::to_bytes);
            let (acks, hints) = ((*acks).into(), (*hints).into());
            WireReply::Written(ForwardedWritten { written: written.0, acks, hints, context })
        }
        Ok(Answer::Found { versions, context }) => {
            let context = context.as_ref().map(Context::to_bytes);
            WireReply::Found(ForwardedFound { versions: versions.iter().map(wire_version).collect(), context })
        }
        Ok(Answer::Applied { written, acks, hints, reply }) => {
            let (acks, hints) = ((*acks).into(), (*hints).into());
            WireReply::Applied(ForwardedApplied { written: written.0, acks, hints, reply: reply.clone() })
        }
        Ok(Answer::Viewed { answer }) => WireReply::Viewed(ForwardedViewed { answer: answer.clone() }),
        Ok(Answer::Batch { replies }) => {
            WireReply::Batch(ForwardedReplies { replies: replies.iter().map(wire_reply).collect() })
        }
        Err(error) => WireReply::Error(ForwardedError { error: Some(wire_error(error)) }),
    };
    ForwardedReply { reply: Some(reply) }
}

fn reply(wire: ForwardedReply, batch_allowed: bool) -> Result<Reply, Malformed> {
    match wire.reply.ok_or_else(|| malformed("no reply, or one that is newer than this node"))? {
        WireReply::Written(wire) => {
            let (written, acks, hints) = (Hlc(wire.written), small(wire.acks)?, small(wire.hints)?);
            Ok(Ok(Answer::Written { written, acks, hints, context: context(wire.context)? }))
        }
        WireReply::Found(wire) => {
            let versions = wire.versions.into_iter().map(version).collect();
            Ok(Ok(Answer::Found { versions, context: context(wire.context)? }))
        }
        WireReply::Applied(wire) => {
            let (acks, hints) = (small(wire.acks)?, small(wire.hints)?);
            Ok(Ok(Answer::Applied { written: Hlc(wire.written), acks, hints, reply: wire.reply }))
        }
        WireReply::Viewed(wire) => Ok(Ok(Answer::Viewed { answer: wire.answer })),
        WireReply::Batch(wire) if batch_allowed => {
            let replies = wire.replies.into_iter().map(|wire| reply(wire, false)).collect::<Result<_, _>>()?;
            Ok(Ok(Answer::Batch { replies }))
        }
        WireReply::Batch(_) => Err(malformed("a batch within a batch")),
        WireReply::Error(wire) => {
            Ok(Err(error(wire.error.ok_or_else(|| malformed("no error, or one that is newer than this node"))?)?))
        }
    }
}

fn wire_error(error: &OpError) -> WireError {
    match error {
        OpError::Forming { joined, expected } => {
            WireError::Forming(ForwardedForming { joined: *joined, expected: *expected })
        }
        OpError::NotAdmitted => WireError::NotAdmitted(true),
        OpError::UnknownKeyspace(keyspace) => WireError::UnknownKeyspace(keyspace.0),
        OpError::Invalid(message) => WireError::Invalid(message.clone()),
        OpError::TooLarge { what, bytes, max } => {
            WireError::TooLarge(ForwardedTooLarge { what: (*what).into(), bytes: *bytes, max: *max })
        }
        OpError::Busy { operations } => WireError::Busy(*operations),
        OpError::Timeout { write, acks, needed, owners, hints } => {
            WireError::Timeout(tally(*write, [*acks, *needed, *owners, *hints], String::new()))
        }
        OpError::QuorumLost { write, acks, needed, owners, hints, refused } => {
            WireError::QuorumLost(tally(*write, [*acks, *needed, *owners, *hints], refused.clone()))
        }
        OpError::NoOwner => WireError::NoOwner(true),
        OpError::UnderWay => WireError::UnderWay(true),
        OpError::ClockOff { offset_ms } => WireError::ClockOff(*offset_ms),
        OpError::ContextNeeded => WireError::ContextNeeded(true),
        OpError::TooManySiblings { max, acks, needed, owners, causal } => {
            let tally = tally(true, [*acks, *needed, *owners, 0], String::new());
            WireError::TooManySiblings(ForwardedTally { max: *max, causal: *causal, ..tally })
        }
        OpError::NotNamed { refused } => WireError::NotNamed(refused.clone()),
        OpError::Type { error: TypeError::Unknown(hash) } => WireError::TypeUnknown(Bytes::copy_from_slice(&hash.0)),
        OpError::Type { error: TypeError::Refused(text) } => WireError::TypeRefused(text.clone()),
        OpError::Type { error: TypeError::Failed(text) } => WireError::TypeFailed(text.clone()),
        OpError::Type { error: TypeError::Quarantined(name) } => WireError::TypeQuarantined(name.clone()),
    }
}

fn error(wire: WireError) -> Result<OpError, Malformed> {
    Ok(match wire {
        WireError::Forming(wire) => OpError::Forming { joined: wire.joined, expected: wire.expected },
        WireError::NotAdmitted(_) => OpError::NotAdmitted,
        WireError::UnknownKeyspace(id) => OpError::UnknownKeyspace(KeyspaceId(id)),
        WireError::Invalid(message) => OpError::Invalid(message),
        WireError::TooLarge(wire) => OpError::TooLarge { what: measured(&wire.what), bytes: wire.bytes, max: wire.max },
        WireError::Busy(operations) => OpError::Busy { operations },
        WireError::Timeout(wire) => OpError::Timeout {
            write: wire.write,
            acks: small(wire.acks)?,
            needed: small(wire.needed)?,
            owners: small(wire.owners)?,
            hints: small(wire.hints)?,
        },
        WireError::QuorumLost(wire) => OpError::QuorumLost {
            write: wire.write,
            acks: small(wire.acks)?,
            needed: small(wire.needed)?,
            owners: small(wire.owners)?,
            hints: small(wire.hints)?,
            refused: wire.refused,
        },
        WireError::NoOwner(_) => OpError::NoOwner,
        WireError::UnderWay(_) => OpError::UnderWay,
        WireError::ClockOff(offset_ms) => OpError::ClockOff { offset_ms },
        WireError::ContextNeeded(_) => OpError::ContextNeeded,
        WireError::TooManySiblings(wire) => OpError::TooManySiblings {
            max: wire.max,
            acks: small(wire.acks)?,
            needed: small(wire.needed)?,
            owners: small(wire.owners)?,
            causal: wire.causal,
        },
        WireError::NotNamed(refused) => OpError::NotNamed { refused },
        WireError::TypeUnknown(hash) => {
            let hash = hash[..].try_into().map_err(|_| malformed("the hash of a data type is not 32 bytes"))?;
            OpError::Type { error: TypeError::Unknown(ResolverHash(hash)) }
        }
        WireError::TypeRefused(text) => OpError::Type { error: TypeError::Refused(text) },
        WireError::TypeFailed(text) => OpError::Type { error: TypeError::Failed(text) },
        WireError::TypeQuarantined(name) => OpError::Type { error: TypeError::Quarantined(name) },
    })
}

fn tally(write: bool, counts: [u8; 4], refused: String) -> ForwardedTally {
    let [acks, needed, owners, hints] = counts.map(u32::from);
    ForwardedTally { write, acks, needed, owners, hints, refused, max: 0, causal: false }
}

fn context(bytes: Option<Bytes>) -> Result<Option<Context>, Malformed> {
    bytes.map(Context::from_bytes).transpose().map_err(|error| Malformed(error.to_string()))
}

/// Things whose size is limited, as [`OpError::TooLarge`] names them.
const MEASURED: [&str; 8] = [
    "the partition key",
    "the sort key",
    "the value",
    "the batch",
    "a batch",
    "the number of items of a batch",
    "the operation",
    "the question",
];

/// The name as a constant: a peer's string can't become one without leaking memory.
fn measured(what: &str) -> &'static str {
    MEASURED.into_iter().find(|known| *known == what).unwrap_or("a part of the request")
}

fn typed(key: &Key, text: &Bytes) -> ForwardedTyped {
    ForwardedTyped { key: wire_key(key), text: text.clone() }
}

fn wire_key(key: &Key) -> Option<PeerKey> {
    Some(wire_key_of(key))
}

fn wire_key_of(key: &Key) -> PeerKey {
    PeerKey { keyspace: key.keyspace.0, partition_key: key.partition_key.clone(), sort_key: key.sort_key.clone() }
}

fn key(wire: Option<PeerKey>) -> Result<Key, Malformed> {
    let wire = wire.ok_or_else(|| malformed("no key"))?;
    Ok(Key { keyspace: KeyspaceId(wire.keyspace), partition_key: wire.partition_key, sort_key: wire.sort_key })
}

fn wire_version(version: &Version) -> ForwardedVersion {
    ForwardedVersion {
        node: version.dot.node.0,
        incarnation: version.dot.incarnation.0,
        counter: version.dot.counter,
        written: version.written.0,
        epoch: version.epoch.0,
        expires_ms: version.expires_ms,
        digest: version.digest,
        value: version.value.clone(),
    }
}

fn version(wire: ForwardedVersion) -> Version {
    let dot = Dot { node: NodeId(wire.node), incarnation: Incarnation(wire.incarnation), counter: wire.counter };
    Version {
        dot,
        written: Hlc(wire.written),
        epoch: Epoch(wire.epoch),
        expires_ms: wire.expires_ms,
        digest: wire.digest,
        value: wire.value,
    }
}

fn small(number: u32) -> Result<u8, Malformed> {
    u8::try_from(number).map_err(|_| Malformed(format!("a count of owners is {number}")))
}

fn malformed(why: &str) -> Malformed {
    Malformed(why.into())
}

fn undecodable(error: prost::DecodeError) -> Malformed {
    Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_key() -> Key {
        Key { keyspace: KeyspaceId(7), partition_key: "partition".into(), sort_key: "sort".into() }
    }

    fn some_context() -> Context {
        (1..4).map(|counter| Dot { node: NodeId(1), incarnation: Incarnation(2), counter: 2 * counter }).collect()
    }

    fn requests() -> Vec<Request> {
        let item = |value: Option<&'static str>| Item {
            key: some_key(),
            value: value.map(Bytes::from),
            context: value.map(|_| some_context()),
        };
        let operations = [
            Operation::Put { key: some_key(), value: "value".into() },
            Operation::Put { key: some_key(), value: Bytes::new() },
            Operation::Get { key: Key { sort_key: Bytes::new(), ..some_key() } },
            Operation::Apply { key: some_key(), operation: "add 3".into() },
            Operation::View { key: some_key(), question: Bytes::new() },
            Operation::Delete { key: some_key() },
            Operation::Batch { items: vec![item(Some("v")), item(Some("")), item(None)] },
        ];
        let chosen = |durability, number: u8| Request {
            quorum: Some(number),
            durability: Some(durability),
            deadline_ms: Some(number.into()),
            ttl_ms: Some(number.into()),
            request_id: Some(number.into()),
            context: Some(if number == 0 { Context::default() } else { some_context() }),
            sloppy: number > 0,
            node_confirms: Some(number),
            ..Request::new(Operation::Delete { key: some_key() })
        };
        let mut requests: Vec<_> = operations.map(Request::new).into();
        // Zero is a choice, and not the same as none.
        requests.extend([chosen(Durability::Os, 0), chosen(Durability::Sync, u8::MAX)]);
        requests
    }

    fn replies() -> Vec<Reply> {
        let version = |value: Option<&'static str>| Version {
            dot: Dot { node: NodeId(1), incarnation: Incarnation(2), counter: 3 },
            written: Hlc(u64::MAX),
            epoch: Epoch(4),
            expires_ms: 5,
            digest: 6,
            value: value.map(Bytes::from),
        };
        let refused = "2 disks are full".to_owned();
        let mut replies = vec![
            Ok(Answer::Written { written: Hlc(9), acks: 2, hints: 1, context: None }),
            Ok(Answer::Applied { written: Hlc(9), acks: 2, hints: 1, reply: None }),
            Ok(Answer::Applied { written: Hlc(9), acks: 2, hints: 0, reply: Some("true".into()) }),
            Ok(Answer::Viewed { answer: None }),
            Ok(Answer::Viewed { answer: Some("3".into()) }),
            Err(OpError::Type { error: TypeError::Unknown(ResolverHash([7; 32])) }),
            Err(OpError::Type { error: TypeError::Refused("no".into()) }),
            Err(OpError::Type { error: TypeError::Failed("it trapped".into()) }),
            Err(OpError::Type { error: TypeError::Quarantined("words@0.1.0".into()) }),
            Ok(Answer::Written { written: Hlc(9), acks: 2, hints: 0, context: Some(some_context()) }),
            Ok(Answer::Found { versions: Vec::new(), context: None }),
            Ok(Answer::Found { versions: Vec::new(), context: Some(Context::default()) }),
            Ok(Answer::Found {
                versions: vec![version(Some("v")), version(Some("")), version(None)],
                context: Some(some_context()),
            }),
            Ok(Answer::Batch { replies: Vec::new() }),
            Err(OpError::Forming { joined: 1, expected: 3 }),
            Err(OpError::NotAdmitted),
            Err(OpError::UnknownKeyspace(KeyspaceId(8))),
            Err(OpError::Invalid("no".into())),
            Err(OpError::Busy { operations: 16_384 }),
            Err(OpError::Timeout { write: true, acks: 1, needed: 2, owners: 3, hints: 1 }),
            Err(OpError::Timeout { write: false, acks: 0, needed: 2, owners: 3, hints: 0 }),
            Err(OpError::QuorumLost { write: true, acks: 1, needed: 2, owners: 3, hints: 0, refused }),
            Err(OpError::NoOwner),
            Err(OpError::UnderWay),
            Err(OpError::ContextNeeded),
            Err(OpError::TooManySiblings { max: 64, acks: 0, needed: 2, owners: 3, causal: true }),
            Err(OpError::NotNamed { refused: "its disk is full".into() }),
        ];
        replies.extend(MEASURED.map(|what| Err(OpError::TooLarge { what, bytes: 2, max: 1 })));
        let batch = Ok(Answer::Batch { replies: replies.iter().filter(|r| !is_batch(r)).cloned().collect() });
        replies.push(batch);
        replies
    }

    fn is_batch(reply: &Reply) -> bool {
        matches!(reply, Ok(Answer::Batch { .. }))
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        for request in requests() {
            assert_eq!(decode_request(encode_request(&request)), Ok(request));
        }
    }

    #[test]
    fn a_reply_arrives_as_it_was_sent() {
        for reply in replies() {
            assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
        }
    }

    #[test]
    fn a_value_is_shared_and_not_copied() {
        let bytes = encode_request(&requests().remove(0));
        let Ok(Request { operation: Operation::Put { value, .. }, .. }) = decode_request(bytes.clone()) else {
            panic!("it was a put");
        };
        assert!(bytes.as_ptr_range().contains(&value.as_ptr()));
    }

    #[test]
    fn bytes_that_were_cut_or_changed_never_panic() {
        let requests = requests().iter().map(encode_request).collect::<Vec<_>>();
        let replies = replies().iter().map(encode_reply).collect::<Vec<_>>();
        for bytes in requests.iter().chain(&replies) {
            for cut in 0..bytes.len() {
                let _ = (decode_request(bytes.slice(..cut)), decode_reply(bytes.slice(..cut)));
                let mut changed = bytes.to_vec();
                changed[cut] ^= 0x55;
                let _ = (decode_request(changed.clone().into()), decode_reply(changed.into()));
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let request = |wire: ForwardedRequest| decode_request(wire.encode_to_vec().into());
        let delete = || ForwardedRequest {
            operation: Some(WireOperation::Delete(PeerKey::default())),
            ..ForwardedRequest::default()
        };
        assert!(request(delete()).is_ok());
        assert!(request(ForwardedRequest::default()).is_err());
        assert!(request(ForwardedRequest { quorum: Some(256), ..delete() }).is_err());
        assert!(request(ForwardedRequest { durability: Some(0), ..delete() }).is_err());
        assert!(request(ForwardedRequest { durability: Some(3), ..delete() }).is_err());
        assert!(request(ForwardedRequest { request_id: "short".into(), ..delete() }).is_err());
        let put = WireOperation::Put(ForwardedPut { key: None, value: Bytes::new() });
        assert!(request(ForwardedRequest { operation: Some(put), ..delete() }).is_err());

        let nested = ForwardedReply {
            reply: Some(WireReply::Batch(ForwardedReplies {
                replies: vec![wire_reply(&Ok(Answer::Batch { replies: Vec::new() }))],
            })),
        };
        assert!(decode_reply(nested.encode_to_vec().into()).is_err());
        assert!(decode_reply(Bytes::new()).is_err());
    }
}
