//! How clusters come to be, come back, and whom they turn away.

use mks_tests_cluster::{Cluster, Node, NodeSetup};

/// Every node sees all `count` members alive and linked, and serves what any other one stored.
async fn assert_whole(cluster: &mut Cluster, count: u64) {
    let nodes: Vec<u64> = (1..=count).collect();
    for &id in &nodes {
        cluster
            .eventually("all members alive and linked", async |cluster| {
                let Ok(members) = cluster.node(id).client().members().await else { return false };
                members.iter().map(|member| member.node).eq(nodes.iter().copied())
                    && members.iter().all(|member| member.node == id || (member.alive && member.linked))
            })
            .await;
    }
    for &writer in &nodes {
        let name = format!("from-{writer}");
        cluster.node(writer).client().put(&name, "here").await.unwrap();
        for &reader in &nodes {
            let found = cluster.node(reader).client().get(&name).await.unwrap();
            assert_eq!(found.as_deref(), Some("here"), "node {reader} must see what node {writer} took");
        }
    }
}

async fn cluster_name(node: &Node) -> String {
    node.client().status().await.unwrap().cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_started_at_once_form_one_cluster() {
    let mut cluster = Cluster::of(3);
    assert_whole(&mut cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_started_before_the_founder_wait_for_it_and_join_by_any_seed() {
    let mut cluster = Cluster::empty();
    // Node 3 knows only node 2, which itself is not a member yet.
    cluster.add(3, &NodeSetup::joiner(&[2])).start();
    cluster.add(2, &NodeSetup::joiner(&[3, 1])).start();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(cluster.nodes().all(|node| node.running() && !node.is_ready()), "nobody serves before the founder came");
    cluster.add(1, &NodeSetup::founder(3)).start();
    cluster.wait_ready();
    assert_whole(&mut cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_is_a_cluster() {
    let mut cluster = Cluster::of(1);
    assert_whole(&mut cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_restarted_one_by_one_and_all_at_once_are_the_same_cluster_with_the_same_data() {
    let mut cluster = Cluster::of(3);
    let name = cluster_name(cluster.node(1)).await;
    cluster.node(2).client().put("kept", "through restarts").await.unwrap();

    for id in 1..=3 {
        let before = cluster.node(id).client().status().await.unwrap().incarnation;
        assert!(cluster.node_mut(id).terminate().success(), "node {id} stops well");
        cluster.node_mut(id).start();
        cluster.node_mut(id).wait_ready();
        let after = cluster.node(id).client().status().await.unwrap().incarnation;
        assert!(after > before, "every opening of node {id} gets an incarnation of its own: {before}, then {after}");
    }
    for node in cluster.nodes() {
        node.terminate();
    }
    cluster.nodes().for_each(Node::start);
    cluster.wait_ready();

    assert_eq!(cluster_name(cluster.node(3)).await, name);
    assert_eq!(cluster.node(3).client().get("kept").await.unwrap().as_deref(), Some("through restarts"));
    assert_whole(&mut cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_refused() {
    let mut cluster = Cluster::of(1);
    // Another process with node 1's directory and id, on ports of its own.
    let mut twin = cluster.stranger(1, "twin", &NodeSetup::founder(1));
    let directory = cluster.node(1).data_dir().to_string_lossy().into_owned();
    twin.set_arguments(&["--data-dir", &directory]);
    let log = twin.start_refused();
    assert!(
        log.contains(&directory) && log.contains("in use"),
        "the message names the directory and the reason:\n{log}"
    );
    assert_whole(&mut cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_id_that_lives_elsewhere_is_refused() {
    let mut cluster = Cluster::of(3);
    let mut impostor = cluster.stranger(2, "impostor", &NodeSetup::joiner(&[1]));
    let log = impostor.start_refused();
    assert!(log.contains("another data directory"), "the message says why:\n{log}");

    // The same while the rightful owner of the id is down.
    cluster.node_mut(2).kill();
    let log = impostor.start_refused();
    assert!(log.contains("another data directory"), "the message says why:\n{log}");
    cluster.node_mut(2).start();
    cluster.node_mut(2).wait_ready();
    assert_whole(&mut cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::of(1);
    // The stranger founds a cluster of its own with the same key, then is told to join ours.
    let mut stranger = cluster.stranger(4, "stranger", &NodeSetup::founder(1));
    stranger.start();
    stranger.wait_ready();
    assert!(stranger.terminate().success());
    let mut mover = cluster.stranger(4, "mover", &NodeSetup::joiner(&[1]));
    stranger.take_data_dir(&mover.data_dir());
    let log = mover.start_refused();
    assert!(log.contains("belongs to cluster"), "the message says why:\n{log}");
    assert_whole(&mut cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::of(1);
    cluster.node_mut(1).terminate();
    cluster.node_mut(1).set_arguments(&["--id", "7"]);
    let log = cluster.node_mut(1).start_refused();
    assert!(log.contains("belongs to node 1"), "the message names the node that owns the directory:\n{log}");
    cluster.node_mut(1).set_arguments(&[]);
    cluster.node_mut(1).start();
    cluster.wait_ready();
    assert_whole(&mut cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_joins_later_owns_nothing_and_status_says_so() {
    let mut cluster = Cluster::of(3);
    cluster.node(1).client().put("early", "value").await.unwrap();
    cluster.add(4, &NodeSetup::joiner(&[2])).start();
    cluster.wait_ready();
    assert_whole(&mut cluster, 4).await;

    let members = cluster.node(1).client().members().await.unwrap();
    let owned: Vec<u32> = members.iter().map(|member| member.partitions).collect();
    assert!(owned[..3].iter().all(|&partitions| partitions > 0), "the first three own everything: {owned:?}");
    assert_eq!(owned[3], 0, "the fourth owns nothing: {owned:?}");
    let warnings = cluster.node(4).client().status().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("owns nothing")), "status says so: {warnings:?}");
    // It serves clients all the same.
    assert_eq!(cluster.node(4).client().get("early").await.unwrap().as_deref(), Some("value"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_and_sigint_end_a_node_with_exit_code_zero() {
    let mut cluster = Cluster::of(1);
    for signal in ["TERM", "INT"] {
        cluster.node(1).signal(signal);
        let status = cluster.node_mut(1).wait_exit();
        assert_eq!(status.code(), Some(0), "SIG{signal} is a wish, not a fault");
        cluster.node_mut(1).start();
        cluster.wait_ready();
    }
}
