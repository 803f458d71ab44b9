//! `kill -9` at random moments: whatever a process was doing, what its disk holds fits together.
//!
//! Unlike all other tests these open the data directory of a dead node, as its next start would.

use mks_logic::digest::{Age, DigestTable, Range, recompute};
use mks_logic::id::{Epoch, KeyspaceId};
use mks_logic::port::{Read, Store, Table};
use mks_store::{Engine, Options};
use mks_tests_cluster::{Client, Cluster, Contest, Node, NodeSetup};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a node is killed; `MKS_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 10;
const KEYS: u64 = 400;
/// The keyspace that every cluster has, and its copies.
const COPIES: (KeyspaceId, u8) = (KeyspaceId(1), 3);
/// No cluster of a test gets that far.
const EPOCHS_MAX: u64 = 1_000;

fn rounds() -> u64 {
    std::env::var("MKS_KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("MKS_KILL_ROUNDS is a number"))
}

fn store_of(node: &Node, engine: Engine) -> Arc<dyn Store> {
    let options = Options { directory: node.data_dir().join("store"), engine, ..Options::default() };
    mks_store::open(&options).unwrap_or_else(|error| panic!("node {} does not open: {error}", node.id()))
}

fn rows(store: &dyn Read, table: Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    let scanned = store.scan(table, &[], None, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    scanned.expect("a store that opened reads");
    rows
}

/// The sums that lie on the disk of a dead node are those of the records that lie there. Returns how many records
/// that was.
pub(crate) fn assert_sums_are_true(node: &Node, engine: Engine) -> usize {
    let store = store_of(node, engine);
    let before = rows(&*store, Table::Digests);
    let kept = DigestTable::open(&*store, [COPIES]).expect("the store reads");
    // Where sums were damaged or missing, opening would have made them anew, and there were nothing to compare.
    assert_eq!(before, rows(&*store, Table::Digests), "node {}: the sums on its disk are no good", node.id());
    let records = rows(&*store, Table::Records).len();
    assert!(records == 0 || !before.is_empty(), "node {} has {records} records and no sums", node.id());

    let true_ones = recompute(&*store, BTreeMap::from([COPIES])).expect("the store reads");
    let partitions = |table: &DigestTable| table.partitions().collect::<Vec<_>>();
    for (partition, _) in partitions(&kept).into_iter().chain(partitions(&true_ones)) {
        let mut compared = 0;
        for (epoch, age) in (0..EPOCHS_MAX).flat_map(|epoch| Age::ALL.map(|age| (Epoch(epoch), age))) {
            let range = Range { partition, copies_min: 1, epoch, age, purged: Epoch(0), closed: Epoch(0) };
            let (found, expected) = (kept.sums(range), true_ones.sums(range));
            // `None`: there is a later epoch already. Before that the two may have folded different ones.
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found == expected, "node {}: {range:?} is not what its records say", node.id());
                compared += 1;
                if compared > 6 {
                    break;
                }
            }
        }
        assert!(compared > 0, "node {}: {partition} was not compared", node.id());
    }
    records
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    (1..=3).map(|id| cluster.node(id).client()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_at_random_moments_the_sums_are_those_of_the_records_and_nothing_is_lost() {
    let often = "[limits]\nsync_period_ms = 3000\nsync_quiet_ms = 200";
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        let first = if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
        cluster.add(id, &first.with(often)).start();
    }
    cluster.wait_ready();
    let contest = Contest::start(&clients(&cluster), 3, KEYS);
    let mut dice = u64::from(std::process::id()) << 20 | 1;
    let (begun, mut records) = (Instant::now(), 0);
    for round in 0..rounds() {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let (id, wait) = (1 + dice % 3, 20 + (dice >> 32) % 400);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        cluster.node_mut(id).kill();
        records = assert_sums_are_true(cluster.node(id), Engine::Fjall).max(records);
        cluster.node_mut(id).start();
        cluster.node_mut(id).wait_ready();
        println!("round {round}: node {id} after {wait} ms, {records} records at most so far");
    }
    let took = begun.elapsed();
    let history = contest.stop().await;
    println!("{} rounds in {took:?}, {} writes acknowledged", rounds(), history.acknowledged());
    assert!(records > 20 && history.acknowledged() > 100, "{records} records, {} writes", history.acknowledged());

    history.assert_settled(&cluster, &clients(&cluster)).await;
    cluster.nodes().for_each(Node::kill);
    for node in cluster.nodes() {
        assert_sums_are_true(node, Engine::Fjall);
    }
}
