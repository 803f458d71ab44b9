use super::net::{Cluster, address, memory, wait};
use mks::epoch_log::{EpochLog, StartError};
use mks_logic::cluster::Standing;
use mks_logic::id::{Incarnation, NodeId};
use std::time::Duration;
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_forms_in_whatever_order_its_nodes_start() {
    for (order, apart_ms) in [([1, 2, 3], 0), ([3, 2, 1], 0), ([2, 3, 1], 300), ([1, 3, 2], 300)] {
        let mut cluster = Cluster::new(3);
        for node in order {
            cluster.start(node).await;
            sleep(Duration::from_millis(apart_ms)).await;
        }
        let state = cluster.settled().await;
        assert_eq!(state.ring.as_ref().unwrap().width(), 3, "{order:?}");
        assert!(state.keyspace("default").is_some());
        assert!(state.members.values().all(|member| member.incarnation == Incarnation(1)));
        wait("all three vote", || (cluster.logs[&1].status().voters.len() == 3).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_started_at_once_form_one_cluster_with_five_voters() {
    let mut cluster = Cluster::new(5);
    for node in [4, 2, 5, 1, 3] {
        cluster.start(node).await;
    }
    let state = cluster.settled().await;
    assert_eq!(state.ring.as_ref().unwrap().width(), 5);
    wait("all five vote", || (cluster.logs[&3].status().voters.len() == 5).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_config_says_so_whoever_joins_gets_its_share_unasked() {
    for auto_accept in [false, true] {
        let mut cluster = Cluster::new(3);
        cluster.auto_accept = auto_accept;
        for node in 1..=4 {
            if node == 4 {
                cluster.settled().await;
            }
            cluster.start(node).await;
        }
        if auto_accept {
            let state = wait("a change begins", || cluster.state(2).change.is_some().then(|| cluster.state(2))).await;
            assert!(state.change.as_ref().unwrap().next.owned_by(NodeId(4), 5) > 0);
            assert_eq!(state.members[&NodeId(4)].standing, Standing::Up);
        } else {
            let state = cluster.settled().await;
            assert_eq!((state.members[&NodeId(4)].standing, state.asked), (Standing::Joining, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_forms() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    assert_eq!(cluster.settled().await.keyspace("default").unwrap().1.n, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_when_all_its_nodes_restart() {
    let mut cluster = Cluster::new(3);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let before = cluster.settled().await;
    for round in 2..=3 {
        for node in 1..=3 {
            cluster.kill(node).await;
        }
        for node in [2, 3, 1] {
            cluster.start(node).await;
            assert_eq!(cluster.state(node).cluster, before.cluster, "known before anybody answers");
        }
        let state = cluster.settled().await;
        assert_eq!((state.cluster, &state.ring), (before.cluster, &before.ring));
        assert!(state.members.values().all(|member| member.incarnation == Incarnation(round)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_dies_while_the_cluster_forms_goes_on_where_it_stopped() {
    let mut cluster = Cluster::new(3);
    for _ in 0..3 {
        cluster.start(1).await;
        cluster.start(2).await;
        sleep(Duration::from_millis(60)).await;
        cluster.kill(1).await;
        cluster.kill(2).await;
    }
    for node in 1..=3 {
        cluster.start(node).await;
    }
    assert_eq!(cluster.settled().await.members.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_later_learns_everything_and_owns_nothing() {
    let mut cluster = Cluster::new(3);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let formed = cluster.settled().await;
    cluster.start(4).await;
    let state = cluster.settled().await;
    assert_eq!(state.ring, formed.ring);
    assert!(state.epoch > formed.epoch);
    assert_eq!(state.ring.as_ref().unwrap().owned_by(NodeId(4), 5), 0);
    assert!(!cluster.logs[&1].status().voters.contains(&NodeId(4)), "a fourth vote adds nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_directory_must_be_told_what_to_do() {
    let mut cluster = Cluster::new(1);
    let mut options = cluster.options(1);
    options.bootstrap = false;
    assert_eq!(cluster.start_with(1, options).await, Err(StartError::NoCluster));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_lost_its_disk_does_not_found_a_second_cluster() {
    let mut cluster = Cluster::new(3);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let state = cluster.settled().await;
    cluster.kill(1).await;
    let mut options = cluster.options(1);
    options.store = memory();
    let refused = cluster.start_with(1, options).await;
    let expected = StartError::AlreadyFounded { address: address(2), cluster: state.cluster };
    assert_eq!(refused, Err(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_node() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    cluster.settled().await;
    cluster.kill(1).await;
    let mut options = cluster.options(2);
    options.store = cluster.store(1);
    let refused = cluster.start_with(2, options).await;
    assert_eq!(refused, Err(StartError::OtherNode { directory_of: NodeId(1), node: NodeId(2) }));
}
