//! Context tokens on all surfaces.

use super::fake::{CARTS, FakeNode, context};
use super::http::{ask, ask_with};
use bytes::Bytes;
use mks::metrics::Surface;
use mks::token;
use mks_logic::context::Context;
use mks_logic::id::KeyspaceId;
use mks_proto::detail_of;
use mks_proto::v1::session_operation::Operation;
use mks_proto::v1::{
    BatchItem, BatchRequest, DeleteRequest, GetRequest, Key, PutRequest, SessionOperation, SessionRequest,
    WriteOptions, batch_result, session_result,
};
use tonic::{Code, Status};

const PATH: &str = "/v1/keyspaces/carts/keys";

fn key(partition_key: &'static str) -> Option<Key> {
    Some(Key { keyspace: CARTS.into(), partition_key: partition_key.into(), sort_key: Bytes::new() })
}

fn get(partition_key: &'static str) -> GetRequest {
    GetRequest { key: key(partition_key), options: None }
}

fn put(partition_key: &'static str, context: Bytes) -> PutRequest {
    let options = Some(WriteOptions { context, ..WriteOptions::default() });
    PutRequest { key: key(partition_key), value: "v".into(), options }
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), detail_of(status).map(|detail| detail.reason).unwrap_or_default())
}

/// What the pump is told that a client knows.
fn known(partition_key: &'static str, upto: u64) -> Option<Context> {
    let key =
        mks_logic::id::Key { keyspace: KeyspaceId(3), partition_key: partition_key.into(), sort_key: Bytes::new() };
    context(&key, upto)
}

#[tokio::test]
async fn the_context_of_a_read_comes_back_with_a_write_and_reaches_the_pump() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let written = kv.put(put("a", Bytes::new())).await.unwrap().into_inner();
    let found = kv.get(get("a")).await.unwrap().into_inner();
    kv.put(put("a", found.context.clone())).await.unwrap();
    kv.put(put("a", written.context)).await.unwrap();
    let options = Some(WriteOptions { context: found.context, ..WriteOptions::default() });
    kv.delete(DeleteRequest { key: key("a"), options }).await.unwrap();
    let contexts: Vec<_> = node.seen().into_iter().map(|request| request.context).collect();
    assert_eq!(contexts, [None, None, known("a", 7), known("a", 9), known("a", 7)]);
}

#[tokio::test]
async fn an_absent_key_has_a_context_too() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let absent = kv.get(get("absent")).await.unwrap_err();
    assert_eq!(reason(&absent), (Code::NotFound, "NOT_FOUND".into()));
    kv.put(put("absent", detail_of(&absent).unwrap().context)).await.unwrap();
    assert_eq!(node.seen()[1].context, known("absent", 7));
    let page = ask(&node, "GET", &format!("{PATH}/gone")).await;
    let token = token::from_text(page.headers["mks-context"].as_bytes()).unwrap();
    assert_eq!((page.error().0, kv.put(put("gone", token)).await.is_ok()), (404, true));
}

#[tokio::test]
async fn a_context_of_another_key_or_keyspace_or_of_nobody_is_refused() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let token = kv.put(put("a", Bytes::new())).await.unwrap().into_inner().context;
    let mut changed = token.to_vec();
    changed[2] ^= 1;
    let whole = Some(WriteOptions { context: token.clone(), ..WriteOptions::default() });
    let elsewhere = Some(Key { keyspace: String::new(), ..key("a").unwrap() });
    let before = node.seen().len();
    let refusals = [
        kv.put(put("b", token.clone())).await.unwrap_err(),
        kv.put(put("a", changed.into())).await.unwrap_err(),
        kv.put(put("a", Bytes::from_static(b"none"))).await.unwrap_err(),
        kv.put(put("a", vec![1; 1 << 20].into())).await.unwrap_err(),
        kv.put(PutRequest { key: elsewhere, ..put("a", token.clone()) }).await.unwrap_err(),
        kv.batch(BatchRequest { items: vec![BatchItem { key: key("a"), ..BatchItem::default() }], options: whole })
            .await
            .unwrap_err(),
    ];
    for refusal in &refusals {
        assert_eq!(reason(refusal), (Code::InvalidArgument, "BAD_CONTEXT".into()), "{refusal:?}");
    }
    assert_eq!(node.seen().len(), before, "the pump hears of none of them");
    assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), refusals.len() as u64);
}

#[tokio::test]
async fn items_of_a_batch_have_contexts_of_their_own() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let token = kv.put(put("a", Bytes::new())).await.unwrap().into_inner().context;
    let item = |name, context| BatchItem { key: key(name), value: Some("v".into()), context };
    let items = vec![item("a", token), item("b", Bytes::new())];
    let results = kv.batch(BatchRequest { items, options: None }).await.unwrap().into_inner().results;
    let context = |at: usize| match results[at].result.clone() {
        Some(batch_result::Result::Written(written)) => written.context,
        other => panic!("{other:?}"),
    };
    kv.put(put("b", context(1))).await.unwrap();
    assert_eq!(reason(&kv.put(put("b", context(0))).await.unwrap_err()).1, "BAD_CONTEXT");
}

#[tokio::test]
async fn a_session_has_contexts_as_calls_have_them() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let operation = |id, operation| SessionOperation { id, operation: Some(operation) };
    let operations = vec![
        operation(1, Operation::Get(get("absent"))),
        operation(2, Operation::Put(put("a", Bytes::new()))),
        operation(3, Operation::Get(get("a"))),
    ];
    let requests = tokio_stream::iter([SessionRequest { operations }]);
    let mut responses = kv.session(requests).await.unwrap().into_inner();
    let mut results = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        results.extend(response.results);
    }
    results.sort_by_key(|result| result.id);
    let contexts = results.into_iter().map(|result| match result.result {
        Some(session_result::Result::NotFound(true)) => ("absent", result.context),
        Some(session_result::Result::Written(written)) => ("a", written.context),
        Some(session_result::Result::Found(found)) => ("a", found.context),
        other => panic!("{other:?}"),
    });
    for (name, context) in contexts {
        kv.put(put(name, context)).await.unwrap();
    }
}

#[tokio::test]
async fn http_has_the_context_in_a_header() {
    let node = FakeNode::start().await;
    let path = format!("{PATH}/siblings");
    let written = ask_with(&node, "PUT", &path, "", b"v").await;
    let found = ask(&node, "GET", &path).await;
    assert_eq!((found.status, found.headers["mks-siblings"].as_str()), (300, "1"));
    for page in [&written, &found] {
        let header = format!("mks-context: {}\r\n", page.headers["mks-context"]);
        assert_eq!(ask_with(&node, "PUT", &path, &header, b"v").await.status, 200);
        assert_eq!(ask_with(&node, "DELETE", &path, &header, b"").await.status, 200);
        let other = ask_with(&node, "PUT", &format!("{PATH}/other"), &header, b"v").await;
        assert_eq!(other.error(), (400, "BAD_CONTEXT".into()));
    }
    let other = ask_with(&node, "PUT", &path, "mks-context: not a token\r\n", b"v").await;
    assert_eq!(other.error(), (400, "BAD_CONTEXT".into()));
    assert!(!ask(&node, "GET", "/v1/keyspaces/default/keys/x").await.headers.contains_key("mks-context"));
}

#[tokio::test]
async fn too_many_siblings_and_an_owner_that_can_not_have_words_of_their_own() {
    let node = FakeNode::start().await;
    let mut kv = node.kv().await;
    let crowded = kv.put(put("crowded", Bytes::new())).await.unwrap_err();
    assert_eq!(reason(&crowded), (Code::ResourceExhausted, "TOO_MANY_SIBLINGS".into()));
    assert!(crowded.message().contains("64") && crowded.message().contains("context"), "{}", crowded.message());
    let refused = kv.put(put("owner-refused", Bytes::new())).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::Unavailable, "OWNER_REFUSED".into()));
    assert_eq!(ask_with(&node, "PUT", &format!("{PATH}/crowded"), "", b"v").await.error().0, 409);
}
