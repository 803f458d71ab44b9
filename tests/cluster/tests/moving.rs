//! Nodes join, leave and are replaced, while clients read and write what must not get lost.

use mks_tests_cluster::{Client, Cluster, Contest, NodeSetup, mks};
use std::time::Duration;

const KEYS: u64 = 60;

/// `mks node ARGUMENTS --wait`, away from the test's own tasks.
async fn node(cluster: &Cluster, arguments: &[&str]) {
    let address = cluster.node(1).client_address().to_string();
    let arguments: Vec<String> =
        ["--addr", &address, "node"].iter().chain(arguments).chain(&["--wait"]).map(ToString::to_string).collect();
    let run = move || mks(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.expect("it does not panic");
    assert_eq!(output.status, 0, "{output:?}");
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
