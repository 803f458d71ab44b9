//! `Kv.Session`: many operations under way on one stream, answered out of order.

use mks_proto::v1::session_operation::Operation;
use mks_proto::v1::session_result::Result as Outcome;
use mks_proto::v1::{SessionOperation, SessionRequest, SessionResult};
use mks_tests_cluster::{Client, Cluster, get_request, key, put_request};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Sends `operations` in one burst, ends the stream, and returns every result by its id.
pub(crate) async fn burst(client: &Client, operations: Vec<SessionOperation>) -> BTreeMap<u64, Outcome> {
    let (sender, receiver) = mpsc::channel(1_024);
    let mut responses = client.kv.clone().session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let welcome = responses.message().await.unwrap().unwrap().welcome.expect("the first response welcomes");
    assert!(welcome.node > 0 && welcome.window > 0, "{welcome:?}");

    let sending = tokio::spawn(async move {
        for chunk in operations.chunks(16) {
            sender.send(SessionRequest { operations: chunk.to_vec() }).await.unwrap();
        }
    });
    let mut results = BTreeMap::new();
    while let Some(response) = responses.message().await.unwrap() {
        for SessionResult { id, result, .. } in response.results {
            let before = results.insert(id, result.expect("every result says something"));
            assert!(before.is_none(), "operation {id} was answered twice");
        }
    }
    sending.await.unwrap();
    results
}

pub(crate) fn operation(id: u64, operation: Operation) -> SessionOperation {
    SessionOperation { id, operation: Some(operation) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_answers_every_operation_once_under_the_clients_id() {
    const COUNT: u64 = 2_000;
    let cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    let name = |number: u64| key("", format!("session-{number}"));

    let puts = (0..COUNT).map(|i| operation(i, Operation::Put(put_request(name(i), format!("value {i}")))));
    let results = burst(&client, puts.collect()).await;
    assert_eq!(results.len() as u64, COUNT);
    for (id, result) in &results {
        assert!(matches!(result, Outcome::Written(written) if written.acks >= 2), "put {id}: {result:?}");
    }

    // Through another node: what was acknowledged is on a quorum, not on this stream.
    let gets = (0..=COUNT).map(|i| operation(7 * i, Operation::Get(get_request(name(i)))));
    let results = burst(&cluster.node(3).client(), gets.collect()).await;
    for (id, result) in results {
        match result {
            Outcome::Found(found) => {
                assert_eq!(found.version.unwrap().value, format!("value {}", id / 7));
            }
            Outcome::NotFound(_) => assert_eq!(id, 7 * COUNT, "only the last key was never put"),
            other => panic!("get {id}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_operation_fails_alone() {
    let cluster = Cluster::of(1);
    let client = cluster.node(1).client();
    let results = burst(
        &client,
        vec![
            operation(1, Operation::Put(put_request(key("", "good"), "value"))),
            operation(2, Operation::Put(put_request(key("no-such", "k"), "value"))),
            operation(3, Operation::Put(put_request(key("", vec![b'k'; 5_000]), "value"))),
            SessionOperation { id: 4, operation: None },
            operation(5, Operation::Get(get_request(key("", "absent")))),
        ],
    )
    .await;
    let reason = |id: u64| match &results[&id] {
        Outcome::Error(detail) => detail.reason.as_str(),
        Outcome::NotFound(_) => "absent",
        Outcome::Written(_) => "written",
        other => panic!("operation {id}: {other:?}"),
    };
    assert_eq!([1, 2, 3, 4, 5].map(reason), ["written", "UNKNOWN_KEYSPACE", "TOO_LARGE", "INVALID", "absent"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_the_middle_costs_nothing() {
    let mut cluster = Cluster::of(1);
    let client = cluster.node(1).client();
    for round in 0..20 {
        let (sender, receiver) = mpsc::channel(64);
        let responses = client.kv.clone().session(ReceiverStream::new(receiver)).await.unwrap();
        let put = |i: u64| operation(i, Operation::Put(put_request(key("", format!("left-{i}")), "value")));
        sender.send(SessionRequest { operations: (0..100).map(put).collect() }).await.unwrap();
        // Before any answer was read.
        drop((sender, responses));
        assert!(cluster.node_mut(1).running(), "round {round}");
    }
    cluster
        .eventually("all operations of the lost sessions end", async |_| {
            client.status().await.is_ok_and(|status| status.operations == 0)
        })
        .await;
    client.put("after", "value").await.unwrap();
}
