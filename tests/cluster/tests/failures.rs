//! Nodes die; what was promised is kept, and what goes on goes on.

use mks_proto::v1::Durability;
use mks_tests_cluster::{Client, Cluster, Load, Node};
use std::time::{Duration, Instant};

const WORKERS: usize = 8;

/// Clients of the nodes with these ids.
fn clients(cluster: &Cluster, ids: &[u64]) -> Vec<Client> {
    ids.iter().map(|&id| cluster.node(id).client()).collect()
}

async fn run_for(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_requests_go_on_while_one_of_three_is_killed_and_it_rejoins() {
    let mut cluster = Cluster::of(3);
    let load = Load::start(&clients(&cluster, &[1, 2]), WORKERS, Durability::Os);
    run_for(Duration::from_secs(1)).await;

    let killed = Instant::now();
    cluster.node_mut(3).kill();
    run_for(Duration::from_secs(5)).await;
    let report = load.stop().await;
    let late = report.failures_since(killed + Duration::from_secs(1));
    assert!(late.is_empty(), "requests begun a second after the kill or later failed: {late:#?}");
    assert!(report.answered > 100, "only {} requests were answered: that proves nothing", report.answered);

    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    // All three hold a write again: that is what being back means.
    cluster
        .eventually("a write to all three owners", async |cluster| {
            crate::quorums::put_at(&cluster.node(1).client(), "after", 3, 2_000).await.is_ok()
        })
        .await;
    let client = cluster.node(3).client();
    for (name, value) in report.acknowledged.iter().step_by(7) {
        assert_eq!(client.get(name).await.unwrap().as_ref(), Some(value), "{name} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_founder_and_leader_is_as_expendable_as_any_other_node() {
    let mut cluster = Cluster::of(3);
    let load = Load::start(&clients(&cluster, &[2, 3]), WORKERS, Durability::Os);
    run_for(Duration::from_secs(1)).await;
    let killed = Instant::now();
    cluster.node_mut(1).kill();
    run_for(Duration::from_secs(4)).await;
    let report = load.stop().await;
    let late = report.failures_since(killed + Duration::from_secs(1));
    assert!(late.is_empty(), "requests begun a second after the kill or later failed: {late:#?}");

    // Another node leads by now, so configuration goes on too.
    cluster
        .eventually("a keyspace can be created", async |cluster| {
            match cluster.node(2).client().create_keyspace("made-without-node-1", "lww").await {
                Ok(_) => true,
                Err(failure) => failure.reason() == "EXISTS",
            }
        })
        .await;
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
    cluster
        .eventually("the founder follows", async |cluster| {
            let client = cluster.node(1).client();
            client.get_in("made-without-node-1", "x").await.is_ok_and(|found| found.is_none())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_with_sync_is_lost_when_all_nodes_are_killed_at_once() {
    let mut cluster = Cluster::of(3);
    let mut promised = std::collections::BTreeMap::new();
    for round in 0..2 {
        let load = Load::start(&clients(&cluster, &[1, 2, 3]), WORKERS, Durability::Sync);
        run_for(Duration::from_secs(2)).await;
        cluster.nodes().for_each(Node::kill);
        let report = load.stop().await;
        assert!(report.acknowledged.len() > 20, "only {} writes: that proves nothing", report.acknowledged.len());
        // The second round writes the same keys with the same values again, so both rounds may be checked at the end.
        promised.extend(report.acknowledged);

        cluster.nodes().for_each(Node::start);
        cluster.wait_ready();
        let client = cluster.node(1 + round).client();
        for (name, value) in &promised {
            assert_eq!(client.get(name).await.unwrap().as_ref(), Some(value), "{name} was acknowledged");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_node_holds_nobody_up_and_comes_back_when_it_wakes() {
    let mut cluster = Cluster::of(3);
    let load = Load::start(&clients(&cluster, &[1, 2]), WORKERS, Durability::Os);
    run_for(Duration::from_secs(1)).await;
    let paused = Instant::now();
    // A stopped process keeps its connections: nothing tells its peers but silence.
    cluster.node(3).signal("STOP");
    run_for(Duration::from_secs(4)).await;
    cluster.node(3).signal("CONT");
    run_for(Duration::from_secs(1)).await;
    let report = load.stop().await;
    let late = report.failures_since(paused + Duration::from_secs(1));
    assert!(late.is_empty(), "requests begun a second after the pause or later failed: {late:#?}");
    cluster
        .eventually("a write to all three owners", async |cluster| {
            crate::quorums::put_at(&cluster.node(1).client(), "after", 3, 2_000).await.is_ok()
        })
        .await;
    assert!(cluster.node_mut(3).running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stops_gracefully_under_load_and_loses_nothing() {
    let mut cluster = Cluster::of(3);
    let load = Load::start(&clients(&cluster, &[1, 2]), WORKERS, Durability::Os);
    run_for(Duration::from_secs(1)).await;
    let stopped = Instant::now();
    assert_eq!(cluster.node_mut(3).terminate().code(), Some(0));
    run_for(Duration::from_secs(2)).await;
    let report = load.stop().await;
    let late = report.failures_since(stopped + Duration::from_secs(1));
    assert!(late.is_empty(), "requests begun a second after the stop or later failed: {late:#?}");
    cluster.node_mut(3).start();
    cluster.wait_ready();
    let client = cluster.node(3).client();
    for (name, value) in report.acknowledged.iter().step_by(5) {
        assert_eq!(client.get(name).await.unwrap().as_ref(), Some(value), "{name} was acknowledged");
    }
}
