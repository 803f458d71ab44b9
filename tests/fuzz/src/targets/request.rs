//! Requests of clients: what passes the checks is within the limits, and a request or reply that is handed on arrives
//! as it was.

use super::{past, request_of, version};
use bytes::Bytes;
use mks::grpc::convert::{Checker, decode_reply, decode_request, encode_reply, encode_request};
use mks::token::Tokens;
use mks_logic::cluster::State;
use mks_logic::event::{Answer, OpError, Operation, Request};
use mks_logic::id::Key;
use mks_logic::limits::Limits;
use mks_logic::time::Hlc;
use mks_proto::v1;
use mks_tests_sim::log::form;
use prost::Message;
use std::sync::LazyLock;
use std::time::Duration;

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| Tokens::new(&[7; 32]));
static FORMED: LazyLock<State> = LazyLock::new(|| form(3));
/// Small ones, so that inputs reach them.
static LIMITS: LazyLock<Limits> = LazyLock::new(|| Limits {
    key_bytes_max: 64,
    value_bytes_max: 128,
    batch_items_max: 4,
    batch_bytes_max: 256,
    ..Limits::default()
});

pub fn run(input: &[u8]) {
    let Some((&kind, body)) = input.split_first() else { return };
    let checker =
        Checker::new(&LIMITS, &FORMED, &TOKENS).within((kind & 0x80 != 0).then_some(Duration::from_millis(3)));
    let checked = match kind % 7 {
        0 => v1::PutRequest::decode(body).ok().map(|request| checker.put(request)),
        1 => v1::GetRequest::decode(body).ok().map(|request| checker.get(request)),
        2 => v1::DeleteRequest::decode(body).ok().map(|request| checker.delete(request)),
        3 => v1::BatchRequest::decode(body).ok().map(|request| checker.batch(request)),
        4 => v1::SessionOperation::decode(body).ok().map(|request| checker.session(request.operation)),
        5 => decode_request(Bytes::copy_from_slice(body)).ok().map(Ok),
        _ => return reply(body),
    };
    match checked {
        None => {}
        Some(Err(fault)) => assert!(!fault.message.is_empty(), "a refusal says why"),
        Some(Ok(request)) => {
            if kind % 7 != 5 {
                assert_within_limits(&request);
            }
            assert_eq!(decode_request(encode_request(&request)), Ok(request));
        }
    }
}

fn reply(body: &[u8]) {
    if let Ok(reply) = decode_reply(Bytes::copy_from_slice(body)) {
        assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
    }
}

fn assert_within_limits(request: &Request) {
    let fits = |key: &Key, value: Option<&Bytes>| {
        assert!((1..=LIMITS.key_bytes_max).contains(&key.partition_key.len()), "{key:?}");
        assert!(key.sort_key.len() <= LIMITS.key_bytes_max, "{key:?}");
        assert!(value.is_none_or(|value| value.len() <= LIMITS.value_bytes_max), "{value:?}");
    };
    match &request.operation {
        Operation::Put { key, value } => fits(key, Some(value)),
        Operation::Batch { items } => {
            assert!((1..=LIMITS.batch_items_max).contains(&items.len()), "{} items", items.len());
            items.iter().for_each(|item| fits(&item.key, item.value.as_ref()));
        }
        Operation::Get { key } | Operation::Delete { key } => fits(key, None),
        Operation::Apply { key, operation: text } | Operation::View { key, question: text } => fits(key, Some(text)),
    }
    assert!(request.quorum.is_none_or(|quorum| (1..=3).contains(&quorum)), "{request:?}");
    assert!(request.deadline_ms.is_none_or(|ms| (1..=LIMITS.deadline_max_ms).contains(&ms)), "{request:?}");
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let key = || Some(v1::Key { partition_key: "key".into(), sort_key: "sort".into(), ..v1::Key::default() });
    let options = v1::WriteOptions {
        w: Some(2),
        durability: 2,
        deadline_ms: Some(500),
        ttl_ms: Some(60_000),
        request_id: vec![7; 16].into(),
        ..v1::WriteOptions::default()
    };
    let put = v1::PutRequest { key: key(), value: "value".into(), options: Some(options.clone()) };
    let get = v1::GetRequest {
        key: key(),
        options: Some(v1::ReadOptions { r: Some(1), deadline_ms: Some(9), ..v1::ReadOptions::default() }),
    };
    let delete = v1::DeleteRequest { key: key(), options: Some(v1::WriteOptions { ttl_ms: None, ..options.clone() }) };
    let item =
        |value: Option<&'static str>| v1::BatchItem { key: key(), value: value.map(Bytes::from), ..Default::default() };
    let batch = v1::BatchRequest { items: vec![item(Some("a")), item(None)], options: None };
    let session = v1::SessionOperation { id: 9, operation: Some(v1::session_operation::Operation::Put(put.clone())) };
    let forwarded = request_of(Operation::Put { key: super::frame::key("b"), value: "forwarded".into() });
    let replies = [
        Ok(Answer::Written { written: Hlc(7), acks: 2, context: None, hints: 0 }),
        Ok(Answer::Found { versions: vec![version(1, 2, Some(b"value"))], context: Some(past()) }),
        Ok(Answer::Batch {
            replies: vec![
                Err(OpError::NoOwner),
                Ok(Answer::Written { written: Hlc(7), acks: 2, context: None, hints: 0 }),
            ],
        }),
        Err(OpError::Timeout { write: true, acks: 1, needed: 2, owners: 3, hints: 0 }),
        Err(OpError::TooLarge { what: "the value", bytes: 9, max: 8 }),
    ];
    let bytes = |kind: u8, body: &[u8]| [&[kind], body].concat();
    let mut seeds = vec![
        bytes(0, &put.encode_to_vec()),
        bytes(1 + 0x80 - 0x80 % 7, &get.encode_to_vec()),
        bytes(2, &delete.encode_to_vec()),
        bytes(3, &batch.encode_to_vec()),
        bytes(4, &session.encode_to_vec()),
        bytes(5, &encode_request(&forwarded)),
    ];
    seeds.extend(replies.iter().map(|reply| bytes(6, &encode_reply(reply))));
    seeds
}
