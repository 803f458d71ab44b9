use super::net::{Cluster, memory, wait};
use bytes::Bytes;
use mks::epoch_log::{Kind, ServeError, StartError};
use mks_logic::id::{Incarnation, NodeId};
use std::time::Duration;

/// First byte of every message: without it nothing behind it is looked at.
const FORMAT: u8 = 6;

async fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.settled().await;
    cluster
}

async fn fence(cluster: &Cluster, node: u64) -> String {
    let fenced = cluster.logs[&node].fenced();
    wait("the node is told to stop", || fenced.borrow().as_ref().map(ToString::to_string)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_with_a_taken_id_is_refused() {
    let mut cluster = three().await;
    let before = cluster.state(1);
    let mut options = cluster.options(2);
    options.store = memory();
    options.addresses.client = "elsewhere:1".to_owned();
    options.addresses.peer = "elsewhere:2".to_owned();
    options.addresses.http = "elsewhere:3".to_owned();
    cluster.start_with(22, options).await.unwrap();
    let reason = fence(&cluster, 22).await;
    assert!(reason.contains("n2") && reason.contains("another data directory"), "{reason}");
    assert_eq!(cluster.state(1), before);
    assert_eq!(*cluster.logs[&2].fenced().borrow(), None, "the honest one goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_on_one_directory_the_earlier_one_must_stop() {
    let mut cluster = three().await;
    let mut copy = cluster.options(2);
    copy.addresses.peer = "copy:2".to_owned();
    cluster.start_with(22, copy).await.unwrap();
    let reason = fence(&cluster, 2).await;
    assert!(reason.contains("another process"), "{reason}");
    assert_eq!(cluster.incarnations(1)[&2], Incarnation(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_cluster_is_refused() {
    let mut other = Cluster::new(1);
    other.start(1).await;
    other.settled().await;
    other.kill(1).await;
    let strayed = other.store(1);
    let mut cluster = three().await;
    cluster.kill(1).await;
    let mut options = cluster.options(1);
    options.store = strayed;
    // It would lead its own cluster of one, and nobody would notice that it is not where it was sent.
    let refused = cluster.start_with(11, options).await;
    assert!(matches!(refused, Err(StartError::OtherCluster { .. })), "{refused:?}");
    let mut options = cluster.options(4);
    let mut third = Cluster::new(3);
    for node in [1, 4] {
        third.start(node).await;
    }
    wait("node 4 is in the other cluster", || third.state(1).members.contains_key(&NodeId(4)).then_some(())).await;
    third.kill(4).await;
    options.store = third.store(4);
    let refused = cluster.start_with(4, options).await;
    assert!(matches!(refused, Err(StartError::OtherCluster { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_one_address_are_refused() {
    let mut cluster = three().await;
    let mut options = cluster.options(4);
    options.addresses.client = "node2:7001".to_owned();
    cluster.start_with(4, options).await.unwrap();
    let reason = fence(&cluster, 4).await;
    assert!(reason.contains("node2:7001") && reason.contains("n2"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_belongs_to_no_cluster_yet_has_no_vote() {
    let mut cluster = Cluster::new(3);
    cluster.start(2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Cluster 0, and a vote of zeros: what a node without a cluster would say.
    let body = Bytes::from_static(&[FORMAT, 0, 0, 0, 0, 0, 0, 0, 0]);
    let refused = cluster.logs[&2].serve("test", Kind::Vote as u32, body).await;
    assert!(matches!(refused, Err(ServeError::OtherCluster { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_changes_nothing() {
    let cluster = three().await;
    let before = cluster.state(1);
    let mut noise = 0x9E37_79B9_7F4A_7C15u64;
    for length in 0..400usize {
        let body: Vec<u8> = (0..length % 97)
            .map(|i| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if i == 0 { FORMAT } else { (noise >> 33) as u8 }
            })
            .collect();
        let kind = 1 + (length % 5) as u32;
        let answer = cluster.logs[&1].serve("test", kind, body.into()).await;
        assert!(
            matches!(answer, Err(ServeError::Malformed(_) | ServeError::OtherCluster { .. })),
            "{kind}: {answer:?}"
        );
    }
    let unknown = cluster.logs[&1].serve("test", 99, Bytes::new()).await;
    assert_eq!(unknown, Err(ServeError::UnknownKind(99)));
    let large = cluster.logs[&1].serve("test", 1, vec![FORMAT; 5 << 20].into()).await;
    assert_eq!(large, Err(ServeError::TooLarge { bytes: 5 << 20, max: 4 << 20 }));
    assert_eq!(cluster.state(1), before);
}
