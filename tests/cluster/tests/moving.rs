//! Nodes join, leave and are replaced, while clients read and write what must not get lost.

use mks_proto::v1::Durability;
use mks_tests_cluster::{Client, Cluster, Contest, Load, NodeSetup, Output, mks_patiently};
use serde_json::Value;
use std::time::Duration;

const KEYS: u64 = 60;

/// `mks ARGUMENTS` through node 1, to its end, away from the test's own tasks.
async fn done(cluster: &Cluster, arguments: &[&str]) -> Output {
    let address = cluster.node(1).client_address().to_string();
    let arguments: Vec<String> = ["--addr", &address].iter().chain(arguments).map(ToString::to_string).collect();
    let run = move || mks_patiently(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.expect("it does not panic");
    assert_eq!(output.status, 0, "{output:?}");
    output
}

/// `mks node ARGUMENTS --wait`.
async fn node(cluster: &Cluster, arguments: &[&str]) {
    done(cluster, &[&["node"], arguments, &["--wait"]].concat()).await;
}

/// What `mks --json ARGUMENTS` says.
async fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let output = done(cluster, &[&["--json"], arguments].concat()).await;
    serde_json::from_slice(&output.stdout).expect("it was asked for JSON")
}

/// Partitions that each member owns, by node.
async fn owned(cluster: &Cluster) -> Vec<(u64, u32)> {
    let members = cluster.node(1).client().members().await.expect("a node that runs says who is there");
    members.iter().map(|member| (member.node, member.partitions)).collect()
}

/// A node that joins, and is seen by node 1.
async fn joined(cluster: &mut Cluster, id: u64) {
    cluster.add(id, &NodeSetup::joiner(&[1])).start();
    cluster.node_mut(id).wait_ready();
    cluster
        .eventually("gossip has gone round", async |cluster| {
            let members = cluster.node(1).client().members().await;
            members.is_ok_and(|members| members.iter().any(|member| member.node == id && member.alive))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_another_leaves_under_load_and_no_write_is_lost() {
    let mut cluster = Cluster::of(3);
    let clients: Vec<Client> = (1..=2).map(|id| cluster.node(id).client()).collect();
    let contest = Contest::start(&clients, 2, KEYS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    joined(&mut cluster, 4).await;
    assert_eq!(owned(&cluster).await[3], (4, 0), "it owns nothing before it is accepted");

    node(&cluster, &["accept", "4"]).await;
    let all = owned(&cluster).await;
    assert!(all.iter().all(|(_, partitions)| *partitions == 192), "three copies of 256 on four nodes: {all:?}");

    node(&cluster, &["leave", "3"]).await;
    let left = owned(&cluster).await;
    assert_eq!(left, [(1, 256), (2, 256), (4, 256)], "who has left is no member any more");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let history = contest.stop().await;
    assert!(history.acknowledged() > 100, "only {} writes: that proves nothing", history.acknowledged());
    let owners: Vec<Client> = [1, 2, 4].map(|id| cluster.node(id).client()).into();
    history.assert_settled(&cluster, &owners).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_under_load_and_no_write_is_lost() {
    let mut cluster = Cluster::of(3);
    let clients: Vec<Client> = (1..=2).map(|id| cluster.node(id).client()).collect();
    let contest = Contest::start(&clients, 2, KEYS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.node_mut(3).kill();
    joined(&mut cluster, 4).await;
    cluster
        .eventually("node 3 seems dead", async |cluster| {
            let members = cluster.node(1).client().members().await;
            members.is_ok_and(|members| members.iter().any(|member| member.node == 3 && !member.alive))
        })
        .await;
    node(&cluster, &["replace", "3", "--by", "4"]).await;
    assert_eq!(owned(&cluster).await, [(1, 256), (2, 256), (4, 256)]);
    let history = contest.stop().await;
    assert!(history.acknowledged() > 100, "only {} writes: that proves nothing", history.acknowledged());
    let owners: Vec<Client> = [1, 2, 4].map(|id| cluster.node(id).client()).into();
    history.assert_settled(&cluster, &owners).await;
    let log = cluster.node_mut(3).start_refused();
    assert!(log.contains("left") || log.contains("removed"), "its data is never merged back:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_three_nodes_to_five_and_back_under_load_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of(3);
    let clients: Vec<Client> = (1..=3).map(|id| cluster.node(id).client()).collect();
    let contest = Contest::start(&clients, 1, KEYS);
    let load = Load::start_stubborn(&clients, 3, Durability::Os);
    tokio::time::sleep(Duration::from_secs(1)).await;
    joined(&mut cluster, 4).await;
    joined(&mut cluster, 5).await;
    node(&cluster, &["accept", "4", "5"]).await;
    let grown = owned(&cluster).await;
    assert!(grown.len() == 5 && grown.iter().all(|(_, share)| (153..=154).contains(share)), "evenly: {grown:?}");
    cluster
        .eventually("all five vote", async |cluster| {
            cluster.node(2).client().status().await.is_ok_and(|status| status.log.unwrap().voters.len() == 5)
        })
        .await;
    cluster.eventually("nothing moves any more", async |cluster| json(cluster, &["moves"]).await["over"] == true).await;

    node(&cluster, &["leave", "4", "5"]).await;
    for id in [4, 5] {
        assert!(cluster.node_mut(id).wait_exit().success(), "node {id} has done what it was asked for");
    }
    assert_eq!(owned(&cluster).await, [(1, 256), (2, 256), (3, 256)]);
    let history = contest.stop().await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{} requests failed: {:#?}", report.failures.len(), report.failures);
    let acknowledged = history.acknowledged() + report.acknowledged.len();
    assert!(acknowledged > 200, "only {acknowledged} writes: that proves nothing");
    history.assert_settled(&cluster, &clients).await;
    for (name, value) in &report.acknowledged {
        let found = cluster.node(1).client().get(name).await.expect("all owners are up");
        assert_eq!(found.as_ref(), Some(value), "the acknowledged put of {name}");
    }
    let log = cluster.node_mut(5).start_refused();
    assert!(log.contains("has left this cluster"), "its data can't come back:\n{log}");
    let events = json(&cluster, &["epoch"]).await["events"].to_string();
    for what in ["n4 shall own its share", "change 1 began", "n5 shall leave", "n5 has left"] {
        assert!(events.contains(what), "{what}: {events}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_never_accepted_leaves_as_one_that_was() {
    let mut cluster = Cluster::of(3);
    joined(&mut cluster, 4).await;
    node(&cluster, &["leave", "4"]).await;
    assert_eq!(owned(&cluster).await.len(), 3);
    assert!(cluster.node_mut(4).wait_exit().success(), "{}", cluster.node(4).log_tail());
    let log = cluster.node(4).log();
    assert!(log.contains("n4 has left this cluster, and other nodes hold everything that it held"), "{log}");
    assert!(cluster.node_mut(4).start_refused().contains("has left this cluster"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_during_a_change_follows_it() {
    let mut cluster = Cluster::of(3);
    for number in 0..50 {
        cluster.node(1).client().put(&format!("key-{number}"), "here").await.expect("three of three");
    }
    joined(&mut cluster, 4).await;
    joined(&mut cluster, 5).await;
    for wish in [&["accept", "4"][..], &["accept", "5"], &["leave", "4"], &["weight", "5", "50"]] {
        done(&cluster, &[&["node"], wish].concat()).await;
    }
    done(&cluster, &["moves", "--wait"]).await;
    let shares = owned(&cluster).await;
    assert_eq!(shares.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 5], "{shares:?}");
    assert!((100..=115).contains(&shares[3].1), "half a share of 768 copies: {shares:?}");
    assert!(cluster.node_mut(4).wait_exit().success());
    for number in 0..50 {
        let found = cluster.node(5).client().get(&format!("key-{number}")).await.expect("all owners are up");
        assert_eq!(found.as_deref(), Some("here"), "key-{number}");
    }
}
