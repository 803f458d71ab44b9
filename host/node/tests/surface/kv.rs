//! Unary calls.

use super::fake::{FakeNode, SINGLE, key};
use bytes::Bytes;
use mks::metrics::Surface;
use mks_proto::detail_of;
use mks_proto::v1::{
    BatchItem, BatchRequest, DeleteRequest, GetRequest, Key, PutRequest, ReadOptions, WriteOptions, batch_result,
};
use std::time::Duration;
use tonic::{Code, Request, Status};

fn put(partition_key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key(partition_key), value: value.into(), options: None }
}

fn get(partition_key: &'static str) -> GetRequest {
    GetRequest { key: key(partition_key), options: None }
}

fn put_with(options: WriteOptions) -> PutRequest {
    PutRequest { options: Some(options), ..put("k", "v") }
}

fn get_with(options: ReadOptions) -> GetRequest {
    GetRequest { options: Some(options), ..get("k") }
}

fn item(partition_key: impl Into<Bytes>, value: Option<&'static str>) -> BatchItem {
    BatchItem { key: key(partition_key), value: value.map(Bytes::from), ..BatchItem::default() }
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), detail_of(status).map(|detail| detail.reason).unwrap_or_default())
}

#[tokio::test]
async fn what_is_put_is_found_until_it_is_deleted() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let written = kv.put(put("k", "v")).await.unwrap().into_inner();
    assert_eq!(written.acks, 2);
    let found = kv.get(get("k")).await.unwrap().into_inner();
    assert_eq!(found.version.unwrap().value, "v");
    assert!(found.siblings.is_empty());

    kv.delete(DeleteRequest { key: key("k"), options: None }).await.unwrap();
    let absent = kv.get(get("k")).await.unwrap_err();
    assert_eq!(reason(&absent), (Code::NotFound, "NOT_FOUND".into()));
    node.stopped().await;
}

#[tokio::test]
async fn siblings_are_all_shown() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    kv.put(put("siblings", "one")).await.unwrap();
    let found = kv.get(get("siblings")).await.unwrap().into_inner();
    assert_eq!(found.version.unwrap().value, "one");
    assert_eq!(found.siblings.len(), 1);
    assert_eq!(found.siblings[0].value, "other");
}

#[tokio::test]
async fn every_item_of_a_batch_has_its_own_result() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let items = vec![item("a", Some("1")), item("lost", Some("2")), item("b", None)];
    let response = kv.batch(BatchRequest { items, options: None }).await.unwrap().into_inner();
    let words: Vec<_> = response
        .results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            batch_result::Result::Written(_) => "written".to_owned(),
            batch_result::Result::Error(detail) => format!("{} {}/{}", detail.reason, detail.acks, detail.needed),
        })
        .collect();
    assert_eq!(words, ["written", "QUORUM_LOST 1/2", "written"]);
}

#[tokio::test]
async fn the_options_of_a_request_reach_the_pump() {
    let node = FakeNode::start().await;
    let id = 77u128;
    let options = WriteOptions {
        w: Some(3),
        durability: 2,
        deadline_ms: Some(900),
        ttl_ms: Some(1_000),
        request_id: Bytes::copy_from_slice(&id.to_be_bytes()),
        sloppy: true,
        node_confirms: 2,
        ..WriteOptions::default()
    };
    node.kv().await.put(put_with(options)).await.unwrap();
    let seen = node.seen().remove(0);
    assert_eq!(seen.quorum, Some(3));
    assert_eq!(seen.durability, Some(mks_logic::port::Durability::Sync));
    assert_eq!((seen.deadline_ms, seen.ttl_ms, seen.request_id), (Some(900), Some(1_000), Some(id)));
    assert_eq!((seen.sloppy, seen.node_confirms), (true, Some(2)));
}

#[tokio::test]
async fn the_earlier_of_two_deadlines_counts() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    for (header_ms, own_ms, expected_ms) in
        [(10_000, Some(700), 700), (20_000, None, 19_000), (4_000_000, None, 60_000)]
    {
        let mut request = Request::new(get_with(ReadOptions { deadline_ms: own_ms, ..ReadOptions::default() }));
        request.set_timeout(Duration::from_millis(header_ms));
        assert_eq!(kv.get(request).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(node.seen().last().unwrap().deadline_ms, Some(expected_ms));
    }
}

#[tokio::test]
async fn faults_of_the_cluster_arrive_with_what_was_left_behind() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    for (name, code, word, acks) in [
        ("timeout", Code::DeadlineExceeded, "TIMEOUT", 1),
        ("lost", Code::Unavailable, "QUORUM_LOST", 1),
        ("busy", Code::ResourceExhausted, "BUSY", 0),
        ("no-owner", Code::Unavailable, "NO_OWNER", 0),
        ("under-way", Code::Aborted, "UNDER_WAY", 0),
    ] {
        let status = kv.put(put(name, "v")).await.unwrap_err();
        assert_eq!(reason(&status), (code, word.into()));
        assert_eq!(detail_of(&status).unwrap().acks, acks, "{name}");
    }
    assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), 0, "the client is not to blame for any of them");
}

#[tokio::test]
async fn a_forming_cluster_says_so() {
    let node = FakeNode::start_forming().await;
    let status = node.kv().await.put(put("k", "v")).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Unavailable, "FORMING".into()));
    assert!(status.message().contains("2 of 3"), "{}", status.message());
}

/// Each refused with a typed error, counted, and never seen by the pump.
#[tokio::test]
async fn bad_input_is_an_error_and_nothing_else() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let mut expected = 0;
    let mut check = |what: &str, status: Status, code: Code, word: &str| {
        assert_eq!(reason(&status), (code, word.to_owned()), "{what}: {}", status.message());
        expected += 1;
        assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), expected, "{what}");
        assert!(node.seen().is_empty(), "{what} reached the pump");
    };
    let long = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    let keys = [
        ("no key", None, "INVALID"),
        ("an empty key", key(""), "INVALID"),
        ("a key of 4 KiB + 1", key(long(4_097)), "TOO_LARGE"),
        ("a key of 1 MiB + 1", key(long((1 << 20) + 1)), "TOO_LARGE"),
        ("a long sort key", Some(Key { sort_key: long(4_097), ..key("k").unwrap() }), "TOO_LARGE"),
        ("an unknown keyspace", Some(Key { keyspace: "../etc".into(), ..key("k").unwrap() }), "UNKNOWN_KEYSPACE"),
    ];
    for (what, key, word) in keys {
        let code = match word {
            "TOO_LARGE" => Code::ResourceExhausted,
            "UNKNOWN_KEYSPACE" => Code::FailedPrecondition,
            _ => Code::InvalidArgument,
        };
        check(what, kv.put(PutRequest { key: key.clone(), ..put("k", "v") }).await.unwrap_err(), code, word);
        check(what, kv.get(GetRequest { key: key.clone(), options: None }).await.unwrap_err(), code, word);
        check(what, kv.delete(DeleteRequest { key: key.clone(), options: None }).await.unwrap_err(), code, word);
        let items = vec![item("fine", None), BatchItem { key, ..BatchItem::default() }];
        check(what, kv.batch(BatchRequest { items, options: None }).await.unwrap_err(), code, word);
    }

    let value = PutRequest { value: long((4 << 20) + 1), ..put("k", "v") };
    check("a value of 4 MiB + 1", kv.put(value).await.unwrap_err(), Code::ResourceExhausted, "TOO_LARGE");
    let none = WriteOptions::default;
    let single = Some(Key { keyspace: SINGLE.into(), ..key("k").unwrap() });
    let beyond = PutRequest { key: single, ..put_with(WriteOptions { w: Some(2), ..none() }) };
    for (what, request) in [
        ("w = 0", put_with(WriteOptions { w: Some(0), ..none() })),
        ("w > n", put_with(WriteOptions { w: Some(4), ..none() })),
        ("w > n of this keyspace", beyond),
        ("w = 257, which is 1 in a byte", put_with(WriteOptions { w: Some(257), ..none() })),
        ("an unknown durability", put_with(WriteOptions { durability: 9, ..none() })),
        ("no time at all", put_with(WriteOptions { deadline_ms: Some(0), ..none() })),
        ("all the time in the world", put_with(WriteOptions { deadline_ms: Some(u64::MAX), ..none() })),
        ("more zones than owners", put_with(WriteOptions { node_confirms: 4, ..none() })),
        ("half a request id", put_with(WriteOptions { request_id: long(8), ..none() })),
    ] {
        check(what, kv.put(request).await.unwrap_err(), Code::InvalidArgument, "INVALID");
    }
    for (what, options) in [
        ("r = 0", ReadOptions { r: Some(0), ..ReadOptions::default() }),
        ("r > n", ReadOptions { r: Some(4), ..ReadOptions::default() }),
        ("no time", ReadOptions { deadline_ms: Some(0), ..ReadOptions::default() }),
        ("more zones than owners", ReadOptions { node_confirms: 4, ..ReadOptions::default() }),
    ] {
        check(what, kv.get(get_with(options)).await.unwrap_err(), Code::InvalidArgument, "INVALID");
    }
    let options = Some(WriteOptions { ttl_ms: Some(5), ..none() });
    let status = kv.delete(DeleteRequest { key: key("k"), options }).await.unwrap_err();
    check("a delete that expires", status, Code::InvalidArgument, "INVALID");
    let mut request = Request::new(get("k"));
    request.metadata_mut().insert("grpc-timeout", "-5S".parse().unwrap());
    check("a negative timeout", kv.get(request).await.unwrap_err(), Code::InvalidArgument, "INVALID");
    node.stopped().await;
}

#[tokio::test]
async fn batches_have_limits() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let big = |count: usize| {
        let value = Bytes::from(vec![0; 4 << 20]);
        let one = |i: usize| BatchItem { key: key(i.to_string()), value: Some(value.clone()), ..BatchItem::default() };
        (0..count).map(one).collect::<Vec<_>>()
    };
    for (what, items, word) in [
        ("nothing", Vec::new(), "INVALID"),
        ("1,001 items", (0..1_001).map(|i: usize| item(i.to_string(), None)).collect(), "TOO_LARGE"),
        ("16 MiB and some bytes", big(4), "TOO_LARGE"),
    ] {
        let status = kv.batch(BatchRequest { items, options: None }).await.unwrap_err();
        assert_eq!(reason(&status).1, word, "{what}: {}", status.message());
    }
    assert!(node.seen().is_empty());
    let most = (0..1_000).map(|i: usize| item(i.to_string(), None)).collect();
    assert_eq!(kv.batch(BatchRequest { items: most, options: None }).await.unwrap().into_inner().results.len(), 1_000);
}

#[tokio::test]
async fn a_call_after_its_deadline_is_not_started() {
    let node = FakeNode::start().await;
    let mut request = Request::new(get("k"));
    request.metadata_mut().insert("grpc-timeout", "0m".parse().unwrap());
    let status = node.kv().await.get(request).await.unwrap_err();
    // Which of the two a client sees depends on whether its own library or the node is quicker to say so.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert!(node.seen().is_empty());
}
