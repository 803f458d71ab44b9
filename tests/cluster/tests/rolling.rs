//! An operator restarts every node, one after the other, while clients go on.

use mks_proto::v1::Durability;
use mks_tests_cluster::{Client, Cluster, Contest, Load};
use std::time::{Duration, Instant};

const KEYS: u64 = 60;
/// Requests that began later than this after a node went or came are served by the others.
const NOTICED: Duration = Duration::from_secs(1);

/// Restarts one node after the other. Returns whom, and from when to when it did not serve.
async fn restart_all(cluster: &mut Cluster) -> Vec<(u64, Instant, Instant)> {
    let mut away = Vec::new();
    for id in 1..=3 {
        let stopped = Instant::now();
        assert!(cluster.node_mut(id).terminate().success(), "node {id} stops well");
        cluster.node_mut(id).start();
        cluster.node_mut(id).wait_ready();
        away.push((id, stopped, Instant::now()));
        cluster.wait_back(id).await;
    }
    away
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_all_nodes_notices_nothing_of_a_rolling_restart() {
    let mut cluster = Cluster::of(3);
    let clients: Vec<Client> = (1..=3).map(|id| cluster.node(id).client()).collect();
    let load = Load::start_stubborn(&clients, 4, Durability::Sync);
    tokio::time::sleep(Duration::from_secs(1)).await;
    restart_all(&mut cluster).await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{} requests failed: {:#?}", report.failures.len(), report.failures);
    assert!(report.answered > 100, "only {} answers: that proves nothing", report.answered);
    for (name, value) in &report.acknowledged {
        let found = cluster.node(2).client().get(name).await.expect("all owners are up");
        assert_eq!(found.as_ref(), Some(value), "the acknowledged put of {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_request_of_other_nodes_and_loses_nothing() {
    let mut cluster = Cluster::of(3);
    let clients: Vec<Client> = (1..=3).map(|id| cluster.node(id).client()).collect();
    let contest = Contest::start(&clients, 2, KEYS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let away = restart_all(&mut cluster).await;
    let history = contest.stop().await;

    let unexplained = history.failures.iter().filter(|(moment, client, _)| {
        !away.iter().any(|(id, stopped, back)| {
            // Whoever asks the node itself is turned away until it is back; everybody else only for a moment.
            let own = *client as u64 + 1 == *id && (*stopped..*back + NOTICED).contains(moment);
            own || (*stopped - NOTICED..*stopped + NOTICED).contains(moment)
        })
    });
    let unexplained: Vec<_> = unexplained.collect();
    assert!(unexplained.is_empty(), "{} requests failed: {unexplained:#?}", unexplained.len());
    let acknowledged = history.acknowledged_between(begun, Instant::now());
    assert!(acknowledged > 100, "only {acknowledged} writes were acknowledged: that proves nothing");
    history.assert_settled(&cluster, &clients).await;
}
