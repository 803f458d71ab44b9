use super::net::{Cluster, create, insist, wait};
use mks::epoch_log::{EpochLog, Fence, ProposeError};
use mks_logic::cluster::{Applied, Entry, Refusal, Standing, Wish};
use mks_logic::id::{KeyspaceId, NodeId};
use std::time::Duration;

async fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.settled().await;
    wait("all three vote", || (cluster.logs[&1].status().voters.len() == 3).then_some(())).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_can_propose_and_sees_its_own_entry_applied() {
    let cluster = three().await;
    for node in 1..=3u64 {
        let name = format!("from-{node}");
        let applied = cluster.logs[&node].propose(create(&name)).await;
        assert_eq!(applied, Ok(Applied::Keyspace(KeyspaceId(1 + node as u32))));
        assert!(cluster.state(node).keyspace(&name).is_some(), "applied here when the call returns");
        let again = cluster.logs[&node].propose(create(&name)).await;
        assert_eq!(again, Err(ProposeError::Refused(Refusal::KeyspaceExists(name))));
    }
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_takes_over_and_the_old_one_comes_back() {
    let mut cluster = three().await;
    let old = wait("a leader", || cluster.leader()).await;
    insist(&cluster.logs[&old], create("before")).await;
    cluster.kill(old).await;
    let new = wait("another leader", || cluster.leader()).await;
    assert_ne!(new, old);
    let follower = (1..=3).find(|node| *node != old && *node != new).unwrap();
    insist(&cluster.logs[&follower], create("meanwhile")).await;
    cluster.start(old).await;
    let state = cluster.settled().await;
    assert!(state.keyspace("before").is_some() && state.keyspace("meanwhile").is_some());
    let member = &state.members[&NodeId(old)];
    assert_eq!((member.incarnation.0, member.opened), (2, 2), "its directory was opened twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_left_hears_so_and_is_forgotten() {
    let mut cluster = three().await;
    cluster.start(4).await;
    cluster.settled().await;
    let follows = |cluster: &Cluster| cluster.logs[&1].status().learners.contains(&NodeId(4));
    wait("node 4 follows", || follows(&cluster).then_some(())).await;
    let leave = Entry::Change { wish: Wish::Leave { node: NodeId(4), dead: false }, seen: None };
    insist(&cluster.logs[&2], leave.signed("test", 1)).await;
    let asked = |cluster: &Cluster| cluster.state(4).members[&NodeId(4)].standing == Standing::Leaving;
    wait("node 4 hears that it shall leave", || asked(&cluster).then_some(())).await;
    let fenced = cluster.logs[&4].fenced();
    // Its node says so when it has handed over what it keeps for others.
    insist(&cluster.logs[&1], Entry::Left { node: NodeId(4) }).await;
    let fence = wait("node 4 is told to stop", || fenced.borrow().clone()).await;
    assert_eq!(fence, Fence::Left(NodeId(4)), "it never owned anything, and ends as one that did");
    wait("Raft forgets it", || (!follows(&cluster)).then_some(())).await;
    cluster.kill(4).await;
    cluster.start(4).await;
    let fenced = cluster.logs[&4].fenced();
    wait("it is not let in again", || fenced.borrow().clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_changes_are_refused_and_the_state_stays_readable() {
    let mut cluster = three().await;
    let state = cluster.state(1);
    cluster.kill(2).await;
    cluster.kill(3).await;
    let refused = loop {
        // The first proposal may still reach a leader that has not noticed yet: it ends as "not confirmed".
        match cluster.logs[&1].propose(create("lonely")).await {
            Err(ProposeError::Timeout) => {}
            other => break other,
        }
    };
    let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
    assert_eq!(refused, Err(ProposeError::NoLeader { voters }));
    assert_eq!(cluster.state(1), state);
    cluster.kill(1).await;
    cluster.start(1).await;
    assert_eq!(cluster.state(1), state, "also after a restart, with nobody else there");
    cluster.start(2).await;
    wait("a majority is enough to be let in", || {
        let opening = cluster.logs[&1].opening();
        (cluster.state(1).members[&NodeId(1)].opening == opening).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_confirms_nothing_and_follows_later() {
    let cluster = three().await;
    let old = wait("a leader", || cluster.leader()).await;
    cluster.cut(old);
    let lost = cluster.logs[&old].propose(create("lost")).await;
    assert!(matches!(lost, Err(ProposeError::Timeout | ProposeError::NoLeader { .. })), "{lost:?}");
    let others: Vec<u64> = (1..=3).filter(|node| *node != old).collect();
    insist(&cluster.logs[&others[0]], create("kept")).await;
    assert!(cluster.state(old).keyspace("kept").is_none());
    cluster.mend();
    let state = cluster.settled().await;
    assert!(state.keyspace("kept").is_some() && state.keyspace("lost").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_ends_each_epoch_when_its_time_is_over() {
    let mut cluster = Cluster::new(3);
    cluster.epoch_period = Duration::from_millis(200);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let start = cluster.settled().await.epoch;
    wait("three epochs later on every node", || {
        (1..=3).all(|node| cluster.state(node).epoch.0 >= start.0 + 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    let mut cluster = three().await;
    cluster.kill(3).await;
    for i in 0..1_600 {
        let name = format!("k{}", i % 3);
        let (create, log) = (create(&name), &cluster.logs[&1]);
        let alter = match create {
            mks_logic::cluster::Entry::CreateKeyspace { keyspace } if i >= 3 => {
                mks_logic::cluster::Entry::AlterKeyspace { keyspace }
            }
            create => create,
        };
        insist(log, alter).await;
    }
    cluster.start(3).await;
    cluster.start(4).await;
    let state = cluster.settled().await;
    assert!(state.epoch.0 > 1_600 && state.keyspace("k2").is_some());
}
