//! Conflicts are settled by WebAssembly components, and each keyspace has its own.

use mks_tests_cluster::{Cluster, get_request, key, metric_sum, put_request};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_write_wins_by_default_and_the_first_where_a_keyspace_says_so() {
    let cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    client.create_keyspace("seats", "first-write-wins").await.unwrap();

    for (keyspace, winner) in [("", "from 3"), ("seats", "from 1")] {
        for id in 1..=3 {
            let client = cluster.node(id).client();
            cluster
                .eventually("the keyspace is known everywhere", async |_| client.get_in(keyspace, "x").await.is_ok())
                .await;
            client.put_with(put_request(key(keyspace, "4A"), format!("from {id}"))).await.unwrap();
        }
        for id in 1..=3 {
            let found = cluster.node(id).client().get_in(keyspace, "4A").await.unwrap();
            assert_eq!(found.as_deref(), Some(winner), "keyspace {keyspace:?} through node {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_owner_runs_the_resolver_in_the_sandbox_and_metrics_prove_it() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    for number in 0..20 {
        client.put("same", &format!("value {number}")).await.unwrap();
    }
    for node in cluster.nodes() {
        let metrics = node.metrics();
        let calls = metric_sum(&metrics, "mks_resolver_calls_total", &["resolver=\"lww\""]);
        let conflicts = metric_sum(&metrics, "mks_resolver_conflicts_total", &["resolver=\"lww\""]);
        // Each owner misses at most what it had not seen when the answer was sent.
        assert!(calls >= 1.0 && conflicts >= calls, "node {}: {calls} calls, {conflicts} conflicts", node.id());
        let failures = metric_sum(&metrics, "mks_resolver_failures_total", &[]);
        assert_eq!(failures, 0.0, "node {}: no resolver call failed", node.id());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_are_listed_altered_and_never_made_twice_or_of_nothing() {
    let cluster = Cluster::of(1);
    let client = cluster.node(1).client();
    let made = client.create_keyspace("seats", "first-write-wins").await.unwrap();
    assert_eq!(made.resolver_hash.len(), 64, "the code is named by its hash: {made:?}");

    let failure = client.create_keyspace("seats", "lww").await.unwrap_err();
    assert_eq!((failure.code, failure.reason()), (Code::AlreadyExists, "EXISTS"), "{failure:?}");
    let failure = client.create_keyspace("other", "no-such-resolver").await.unwrap_err();
    assert_eq!((failure.code, failure.reason()), (Code::FailedPrecondition, "UNKNOWN_RESOLVER"), "{failure:?}");
    for name in ["", "with space", "a/b", "\u{0}", &"x".repeat(1_000)] {
        let failure = client.create_keyspace(name, "lww").await.unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument, "name {name:?}: {failure:?}");
    }

    let listed = client.admin.clone().list_keyspaces(mks_proto::v1::ListKeyspacesRequest {}).await.unwrap();
    let names: Vec<String> =
        listed.into_inner().keyspaces.into_iter().filter_map(|k| k.keyspace).map(|k| k.name).collect();
    assert_eq!(names, ["default", "seats"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_keyspace_never_looks_like_an_absent_key() {
    let cluster = Cluster::of(1);
    let client = cluster.node(1).client();
    let failure = client.get_with(get_request(key("no-such", "k"))).await.unwrap_err();
    assert_eq!((failure.code, failure.reason()), (Code::FailedPrecondition, "UNKNOWN_KEYSPACE"), "{failure:?}");
    assert!(failure.message.contains("no-such"), "the message names it: {}", failure.message);
    let failure = client.put_with(put_request(key("no-such", "k"), "v")).await.unwrap_err();
    assert_eq!(failure.reason(), "UNKNOWN_KEYSPACE", "{failure:?}");
}
