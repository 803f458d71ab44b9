//! What is deleted leaves the disks, and comes back from nowhere.
//!
//! These open the data directory of nodes that have ended, as their next start would.

use bytes::Bytes;
use mks_logic::note::{MARKS_SPAN, read_note_key};
use mks_logic::port::Table;
use mks_proto::v1::batch_result::Result as Outcome;
use mks_proto::v1::{BatchItem, BatchRequest, BatchResult, GetRequest, ReadOptions, WriteOptions};
use mks_store::Options;
use mks_tests_cluster::{Client, Cluster, Node, PATIENCE, get_request, key, metric, mks};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const KEYS: usize = 300;
/// Keys of the measurement; `MKS_PURGE_KEYS` says otherwise.
const MEASURED_KEYS: usize = 20_000;
/// Items of one batch.
const BATCH_ITEMS: usize = 500;

fn name(i: usize) -> String {
    format!("gone-{i:07}")
}

/// Puts (or deletes) all keys, with all owners.
async fn write(client: &Client, keys: usize, value: Option<&str>, w: u32) {
    let all: Vec<usize> = (0..keys).collect();
    for part in all.chunks(BATCH_ITEMS) {
        let item = |i: &usize| BatchItem {
            key: Some(key("", name(*i))),
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
            context: Bytes::new(),
        };
        let options = WriteOptions { w: Some(w), deadline_ms: Some(20_000), ..WriteOptions::default() };
        let request = BatchRequest { items: part.iter().map(item).collect(), options: Some(options) };
        let response = client.kv.clone().batch(request).await.expect("enough owners are there").into_inner();
        let written = |result: &BatchResult| matches!(result.result, Some(Outcome::Written(_)));
        assert!(response.results.len() == part.len() && response.results.iter().all(written), "{response:?}");
    }
}

/// What `mks status` says of seals, as scripts see it.
fn seals(node: &Node) -> serde_json::Value {
    let output = mks(&["--addr", &node.client_address().to_string(), "--json", "status"]);
    assert_eq!(output.status, 0, "{output:?}");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
    status["seals"].clone()
}

/// The next epoch begins: any change that all agree on does that.
fn advance(node: &Node) {
    let output = mks(&["--addr", &node.client_address().to_string(), "keyspace", "alter", "default", "--w", "2"]);
    assert_eq!(output.status, 0, "{output:?}");
}

fn epoch(node: &Node) -> u64 {
    let output = mks(&["--addr", &node.client_address().to_string(), "--json", "epoch"]);
    let epochs: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
    epochs["epoch"].as_u64().expect("a number")
}

fn sealed(node: &Node) -> f64 {
    metric(&node.metrics(), "mks_sealed_epoch", &[])
}

fn purged(node: &Node) -> f64 {
    metric(&node.metrics(), "mks_tombstones_purged_total", &[])
}

/// Records, and notes of tombstones, that lie on the disk of a node that has ended.
fn left(node: &mut Node) -> (usize, usize) {
    assert!(!node.running());
    let options = Options { directory: node.data_dir().join("store"), ..Options::default() };
    let store = mks_store::open(&options).expect("a whole store");
    let (mut records, mut notes) = (0, 0);
    let scanned = store.scan(Table::Records, &[], None, &mut |_, _| {
        records += 1;
        ControlFlow::Continue(())
    });
    scanned.expect("it can be read");
    let scanned = store.scan(Table::Digests, MARKS_SPAN.1, None, &mut |key, _| {
        notes += usize::from(read_note_key(key).is_some());
        ControlFlow::Continue(())
    });
    scanned.expect("it can be read");
    (records, notes)
}

async fn wait_purged(cluster: &Cluster, deleted_in: u64) {
    cluster
        .eventually("all partitions are sealed, and purged on every node", async |cluster| {
            [1, 2, 3].iter().all(|id| {
                let node = cluster.node(*id);
                sealed(node) >= deleted_in as f64 && metric(&node.metrics(), "mks_purging_partitions", &[]) == 0.0
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_in_one_epoch_is_on_no_disk_two_epochs_later() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    write(&client, KEYS, Some("value"), 3).await;
    write(&client, KEYS, None, 3).await;
    let deleted_in = epoch(cluster.node(1));
    assert_eq!(purged(cluster.node(1)), 0.0, "nothing goes before its epoch is over");
    advance(cluster.node(1));
    advance(cluster.node(2));
    wait_purged(&cluster, deleted_in).await;
    assert!([1, 2, 3].iter().all(|id| purged(cluster.node(*id)) >= KEYS as f64));
    for node in cluster.nodes() {
        node.terminate();
        assert_eq!(left(node), (0, 0), "records and notes on the disk of node {}", node.id());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_down_holds_up_the_seal_says_so_and_brings_nothing_back() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    write(&client, KEYS, Some("value"), 3).await;
    cluster.node_mut(3).terminate();
    write(&client, KEYS, None, 2).await;
    let deleted_in = epoch(cluster.node(1));
    for _ in 0..4 {
        advance(cluster.node(1));
    }
    cluster
        .eventually("the status says for whom the seal waits", async |cluster| {
            let waits = seals(cluster.node(1))["waits"].to_string();
            waits.contains("n3 (does not answer gossip") && waits.contains("node leave 3 --dead")
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(sealed(cluster.node(1)) < deleted_in as f64 && purged(cluster.node(1)) == 0.0);
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    // As a process that has just started it can speak of the epoch in which it did, and of later ones.
    for _ in 0..3 {
        advance(cluster.node(1));
    }
    wait_purged(&cluster, deleted_in).await;
    for id in 1..=3 {
        let options = ReadOptions { r: Some(1), deadline_ms: Some(2_000), ..ReadOptions::default() };
        for i in 0..KEYS {
            let request = GetRequest { options: Some(options), ..get_request(key("", name(i))) };
            assert_eq!(cluster.node(id).client().get_with(request).await.unwrap(), None, "{} on node {id}", name(i));
        }
    }
    for node in cluster.nodes() {
        node.terminate();
        assert_eq!(left(node), (0, 0), "records and notes on the disk of node {}", node.id());
    }
}

/// `MKS_PURGE_KEYS=1000000 cargo test ... --test cluster -- --ignored --nocapture a_million` measures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_million_deleted_keys_leave_the_disks() {
    let keys = std::env::var("MKS_PURGE_KEYS").map_or(MEASURED_KEYS, |text| text.parse().expect("a number"));
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    let begin = Instant::now();
    write(&client, keys, Some("value"), 3).await;
    let put = begin.elapsed();
    write(&client, keys, None, 3).await;
    let deleted = begin.elapsed() - put;
    let deleted_in = epoch(cluster.node(1));
    advance(cluster.node(1));
    advance(cluster.node(1));
    let begin = Instant::now();
    let is_over = |cluster: &Cluster| {
        let over = |node: &Node| {
            sealed(node) >= deleted_in as f64 && metric(&node.metrics(), "mks_purging_partitions", &[]) == 0.0
        };
        (1..=3).all(|id| over(cluster.node(id)))
    };
    while !is_over(&cluster) {
        assert!(begin.elapsed() < PATIENCE * 20, "{:?}", seals(cluster.node(1)));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let over = begin.elapsed();
    let mut lefts = Vec::new();
    for node in cluster.nodes() {
        node.terminate();
        lefts.push(left(node));
    }
    println!("{keys} keys: put in {put:?}, deleted in {deleted:?}, purged {over:?} after the second epoch had begun");
    println!("left on the disks (records, notes): {lefts:?}");
    assert!(lefts.iter().all(|left| *left == (0, 0)));
}
