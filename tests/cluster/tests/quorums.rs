//! What R and W mean when owners are missing, and what an error says of what it left behind.

use mks_proto::v1::{KeyspaceDefinition, WriteResponse};
use mks_tests_cluster::{Client, Cluster, Failure, get_request, key, put_request};
use std::time::{Duration, Instant};
use tonic::Code;

/// A put that asks for `w` owners within `deadline_ms`.
pub(crate) async fn put_at(client: &Client, name: &str, w: u32, deadline_ms: u64) -> Result<WriteResponse, Failure> {
    let mut request = put_request(key("", name.to_owned()), "value");
    let options = request.options.get_or_insert_default();
    options.w = Some(w);
    options.deadline_ms = Some(deadline_ms);
    client.put_with(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_all_owners_fails_within_its_deadline_and_says_how_many_hold_it() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    assert_eq!(put_at(&client, "all", 3, 5_000).await.unwrap().acks, 3);

    cluster.node_mut(3).kill();
    let begun = Instant::now();
    let failure = put_at(&client, "all", 3, 1_000).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "a deadline of one second took {:?}", begun.elapsed());
    let detail = failure.detail.clone().expect("a node made the error");
    assert!(matches!(failure.reason(), "TIMEOUT" | "QUORUM_LOST" | "NO_OWNER"), "{failure:?}");
    assert!(matches!(failure.code, Code::DeadlineExceeded | Code::Unavailable), "{failure:?}");
    assert_eq!((detail.acks, detail.needed, detail.owners), (2, 3, 3), "{failure:?}");
    assert!(failure.message.contains("2 of the 3"), "people read it too: {}", failure.message);
    // The two that hold it are a quorum, so it is read.
    assert_eq!(client.get("all").await.unwrap().as_deref(), Some("value"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_requests_end_in_time_and_configuration_says_what_it_waits_for() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    client.put("before", "value").await.unwrap();
    cluster.node_mut(2).kill();
    cluster.node_mut(3).kill();

    let begun = Instant::now();
    let failure = put_at(&client, "before", 2, 1_000).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "a deadline of one second took {:?}", begun.elapsed());
    assert_eq!(failure.detail.as_ref().map(|detail| (detail.needed, detail.owners)), Some((2, 3)), "{failure:?}");
    // One owner is enough for who asks for one.
    assert!(put_at(&client, "alone", 1, 1_000).await.is_ok());
    let mut read = get_request(key("", "alone"));
    read.options.get_or_insert_default().r = Some(1);
    assert_eq!(client.get_with(read).await.unwrap().as_deref(), Some("value"));

    let failure = client.create_keyspace("later", "lww").await.unwrap_err();
    assert!(matches!(failure.reason(), "NO_LEADER" | "UNCONFIRMED"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorums_that_make_no_sense_are_refused_at_once() {
    let cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    for w in [0, 4, 1_000] {
        let failure = put_at(&client, "k", w, 5_000).await.unwrap_err();
        assert_eq!((failure.code, failure.reason()), (Code::InvalidArgument, "INVALID"), "w = {w}: {failure:?}");
    }
    for (n, r, w) in [(3, 4, 1), (3, 1, 4), (3, 0, 2), (0, 1, 1), (4, 2, 2)] {
        let definition = KeyspaceDefinition {
            name: format!("n{n}r{r}w{w}"),
            n: Some(n),
            r: Some(r),
            w: Some(w),
            ..KeyspaceDefinition::default()
        };
        let failure = client.create_keyspace_with(definition).await.unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument, "n = {n}, r = {r}, w = {w}: {failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_id_writes_once() {
    let cluster = Cluster::of(3);
    let client = cluster.node(2).client();
    let mut request = put_request(key("", "once"), "first");
    request.options.get_or_insert_default().request_id = vec![7; 16].into();
    let first = client.put_with(request.clone()).await.unwrap();
    client.put("once", "second").await.unwrap();
    let again = client.put_with(request).await.unwrap();
    assert_eq!(again.written, first.written, "the retry is answered with the first write's stamp");
    assert_eq!(client.get("once").await.unwrap().as_deref(), Some("second"), "and is not applied again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_key_is_absent_on_every_node_and_may_be_written_again() {
    let cluster = Cluster::of(3);
    cluster.node(1).client().put("gone", "value").await.unwrap();
    cluster.node(2).client().delete("gone").await.unwrap();
    for id in 1..=3 {
        assert_eq!(cluster.node(id).client().get("gone").await.unwrap(), None, "node {id}");
    }
    cluster.node(3).client().put("gone", "back").await.unwrap();
    assert_eq!(cluster.node(1).client().get("gone").await.unwrap().as_deref(), Some("back"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_with_a_lifetime_is_absent_after_it() {
    let cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    let mut request = put_request(key("", "short"), "value");
    request.options.get_or_insert_default().ttl_ms = Some(2_000);
    client.put_with(request).await.unwrap();
    assert_eq!(client.get("short").await.unwrap().as_deref(), Some("value"));
    cluster.eventually("the value expires", async |_| client.get("short").await.unwrap().is_none()).await;
}
