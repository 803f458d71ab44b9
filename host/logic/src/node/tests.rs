//! Histories: whole clusters from a seed, and what clients may see of them. `tests/` holds the parts and the claims
//! about one node.

mod check;
mod clients;
mod cluster;
mod coordinator;
mod dice;
mod hints;
mod owner;
mod repair;
mod solo;

use crate::event::{Answer, Operation};
use crate::id::NodeId;
use crate::limits::Limits;
use crate::testing::{key, request};
use bytes::Bytes;
use check::violations;
use cluster::{Cluster, MS, Plan};

/// Every promise that holds whatever happens.
fn is_sound(cluster: &mut Cluster, what: &str) {
    let wrong = violations(cluster.clients.history());
    assert!(wrong.is_empty(), "{what}: {} of them, first {:#?}", wrong.len(), wrong.first());
    assert_eq!(cluster.leftovers(), Vec::<String>::new(), "{what}");
    assert_eq!(cluster.clients.waiting(), 0, "{what}: requests without a reply");
}

/// Once the trouble is over, every node serves every key.
fn serves(cluster: &mut Cluster) {
    let nodes: Vec<_> = cluster.state.members.keys().copied().collect();
    for (i, node) in nodes.into_iter().enumerate() {
        let (key, value) = (key("a"), Bytes::copy_from_slice(&(1 << 40 | i as u64).to_be_bytes()));
        let put = cluster.ask(node, request(Operation::Put { key: key.clone(), value: value.clone() }));
        assert!(matches!(put, Ok(Answer::Written { .. })), "{node}: {put:?}");
        let got = cluster.ask(node, request(Operation::Get { key }));
        let Ok(Answer::Found { versions }) = got else { panic!("{node}: {got:?}") };
        assert_eq!(versions[0].value, Some(value));
    }
}

#[test]
fn a_calm_cluster_answers_everything_well() {
    for seed in 0..20 {
        let plan = Plan { nodes: 3 + seed % 3, skew_ms: 200, ..Plan::default() };
        let mut cluster = Cluster::new(plan, seed);
        cluster.run();
        is_sound(&mut cluster, &format!("seed {seed}"));
        assert_eq!(cluster.bad, [], "seed {seed}");
        assert!(cluster.good > 100, "seed {seed}: only {} replies", cluster.good);
    }
}

#[test]
fn quorum_reads_see_acknowledged_writes_whatever_breaks() {
    let mut good = 0;
    for seed in 0..200 {
        let plan = Plan { nodes: 3 + seed % 3, skew_ms: 200, faults: true, ..Plan::default() };
        let mut cluster = Cluster::new(plan, seed);
        cluster.run();
        serves(&mut cluster);
        is_sound(&mut cluster, &format!("seed {seed}"));
        good += cluster.good;
    }
    assert!(good > 200 * 100, "only {good} good replies");
}

#[test]
fn clocks_that_jump_cost_availability_and_nothing_else() {
    for seed in 0..100 {
        let plan = Plan { nodes: 3 + seed % 3, skew_ms: 2_000, jumps: true, faults: true, ..Plan::default() };
        let mut cluster = Cluster::new(plan, seed);
        cluster.run();
        is_sound(&mut cluster, &format!("seed {seed}"));
    }
}

#[test]
fn without_the_restamp_rule_skewed_clocks_lose_acknowledged_writes() {
    let lost = (0..60).filter(|seed| {
        let plan = Plan { nodes: 5, skew_ms: 240, faults: true, load_ms: 1_500, fresh: false, ..Plan::default() };
        !violations(Cluster::new(plan, *seed).run().clients.history()).is_empty()
    });
    let lost = lost.count();
    assert!(lost >= 3, "only {lost} of 60 seeds show it: the checker does not bite");
}

#[test]
fn owners_that_were_away_converge_by_hints_alone() {
    for seed in 0..20 {
        let limits = Limits { repairs_max: 0, ..Limits::default() };
        let mut cluster = Cluster::new(Plan { nodes: 3 + seed % 3, limits, ..Plan::default() }, seed);
        cluster.advance(100 * MS);
        cluster.separate(NodeId(1 + seed % 3), true);
        cluster.advance(400 * MS);
        assert!(!cluster.unequal().is_empty(), "seed {seed}: nothing to mend");
        cluster.separate(NodeId(1 + seed % 3), false);
        cluster.run();
        cluster.advance(2_500 * MS);
        assert_eq!(cluster.unequal(), Vec::<String>::new(), "seed {seed}");
        is_sound(&mut cluster, &format!("seed {seed}"));
        assert!(cluster.replayed() > 0, "seed {seed}: no hint was needed");
    }
}

#[test]
fn quorums_that_do_not_meet_show_stale_reads() {
    let stale = (0..20).filter(|seed| {
        let mut cluster = Cluster::new(Plan { quorums: (3, 1, 1), ..Plan::default() }, *seed);
        !violations(cluster.run().clients.history()).is_empty()
    });
    assert!(stale.count() > 10, "the checker does not bite");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let plan = Plan { nodes: 4, skew_ms: 200, faults: true, jumps: true, traced: true, ..Plan::default() };
        Cluster::new(plan, seed).run().trace()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
