//! A disk that does not hold what was written is found out, named, and mended by the other owners.

use bytes::Bytes;
use mks_logic::port::{Change, Durability, Store, Table};
use mks_logic::record::Record;
use mks_logic::version::value_digest;
use mks_proto::v1::{GetRequest, ReadOptions};
use mks_store::{Options, open};
use mks_tests_cluster::{Client, Cluster, Node, get_request, key, metric, mks};
use std::ops::ControlFlow;
use std::sync::Arc;

pub(crate) const KEYS: usize = 300;

/// Nothing but a scrub mends anything, and none comes by itself.
pub(crate) const QUIET: &str = "[limits]\nrepairs_max = 0\nsync_period_ms = 86400000\nscrub_bytes_per_second = 0";

pub(crate) fn name(i: usize) -> String {
    format!("kept-{i:04}")
}

/// Every owner holds every key.
pub(crate) async fn fill(cluster: &Cluster) {
    let client = cluster.node(1).client();
    for i in 0..KEYS {
        client.put(&name(i), &format!("value of {i:04}")).await.expect("all owners are there");
    }
    cluster
        .eventually("every node holds every key", async |cluster| {
            held(&cluster.node(2).client()).await == KEYS && held(&cluster.node(3).client()).await == KEYS
        })
        .await;
}

/// What a node has on its own disk: with three nodes every one owns every key.
async fn own(client: &Client, i: usize) -> Option<String> {
    let options = ReadOptions { r: Some(1), deadline_ms: Some(2_000), ..ReadOptions::default() };
    let request = GetRequest { options: Some(options), ..get_request(key("", name(i))) };
    client.get_with(request).await.ok().flatten()
}

pub(crate) async fn held(client: &Client) -> usize {
    let mut held = 0;
    for i in 0..KEYS {
        held += usize::from(own(client, i).await == Some(format!("value of {i:04}")));
    }
    held
}

/// The store of a node that does not run.
fn store(node: &mut Node) -> Arc<dyn Store> {
    assert!(!node.running());
    open(&Options { directory: node.data_dir().join("store"), ..Options::default() }).expect("a whole store")
}

/// The stored form of a key's record, and the key that it lies under.
pub(crate) fn stored(store: &dyn Store, i: usize) -> (Bytes, Vec<u8>) {
    let (name, mut found) = (name(i), None);
    store
        .scan(Table::Records, &[], None, &mut |key, value| {
            if key.windows(name.len()).any(|part| part == name.as_bytes()) {
                found = Some((Bytes::copy_from_slice(key), value.to_vec()));
            }
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("it can be read");
    found.expect("every node holds every key")
}

pub(crate) fn put(store: &dyn Store, key: Bytes, value: Vec<u8>) {
    let change = Change::Put { table: Table::Records, key, value: value.into() };
    store.apply(vec![change], Durability::Sync).expect("it can be written");
}

/// What `mks scrub` says, as scripts see it.
pub(crate) fn scrub(node: &Node) -> serde_json::Value {
    let output = mks(&["--addr", &node.client_address().to_string(), "--json", "scrub"]);
    assert_eq!(output.status, 0, "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON for scripts")
}

pub(crate) fn status(node: &Node) -> serde_json::Value {
    let output = mks(&["--addr", &node.client_address().to_string(), "--json", "status"]);
    serde_json::from_slice(&output.stdout).expect("JSON for scripts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_a_disk_damaged_is_named_and_mended_by_the_other_owners() {
    let mut cluster = Cluster::configured(3, QUIET);
    fill(&cluster).await;
    cluster.node_mut(2).terminate();
    let store = store(cluster.node_mut(2));
    let (engine_key, mut value) = stored(&*store, 7);
    let last = value.len() - 1;
    value[last] ^= 0x10;
    put(&*store, engine_key, value);
    drop(store);
    cluster.node_mut(2).start();
    cluster.node_mut(2).wait_ready();
    cluster
        .eventually("a scrub of node 2 reaches both other owners and mends the record", async |cluster| {
            let seen = scrub(cluster.node(2));
            assert!(seen["records"].as_u64() >= Some(KEYS as u64), "{seen}");
            let known = status(cluster.node(2))["scrub"].take();
            // Shown when it is in vain.
            eprintln!("a scrub said {seen}, and then the status {known}");
            known["mended"] == 1
        })
        .await;
    assert_eq!(held(&cluster.node(2).client()).await, KEYS);
    let seen = status(cluster.node(2));
    let fault = &seen["scrub"]["faults"][0];
    assert_eq!((fault["kind"].as_str(), fault["key"].as_str().map(str::len)), (Some("damaged"), Some(16)), "{seen}");
    assert!(
        fault["mended_ms"].is_u64() && seen["warnings"].to_string().contains("1 damaged records (1 mended"),
        "{seen}"
    );
    let log = cluster.node(2).log();
    assert!(log.contains("the disk has damaged a record") && log.contains(fault["key"].as_str().unwrap()), "{log}");
    let metrics = cluster.node(2).metrics();
    assert_eq!(metric(&metrics, "mks_scrub_faults_total", &["kind=\"damaged\""]), 1.0);
    assert!(metric(&metrics, "mks_scrub_fault_found_seconds", &["kind=\"damaged\"", "mended=\"true\""]) > 0.0);
    // The others were never told anything else.
    for id in [1, 3] {
        assert_eq!(held(&cluster.node(id).client()).await, KEYS);
        assert_eq!(scrub(cluster.node(id))["faults"].as_array().map(Vec::len), Some(0));
    }
    assert_eq!(scrub(cluster.node(2))["damaged"], 0, "it is whole now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_a_disk_lost_or_exchanged_are_found_by_the_scrub_s_own_rhythm() {
    let mut cluster =
        Cluster::configured(3, "[limits]\nrepairs_max = 0\nsync_period_ms = 86400000\nscrub_period_ms = 2000");
    fill(&cluster).await;
    cluster.node_mut(3).terminate();
    let store = store(cluster.node_mut(3));
    // One record is whole and can be read, but its value is another one; and one is gone.
    let (engine_key, value) = stored(&*store, 8);
    let mut version = Record::decode(&value.into()).expect("what a node wrote").into_versions().remove(0);
    version.value = Some(Bytes::from_static(b"a lie"));
    version.digest = value_digest(version.value.as_deref());
    put(&*store, engine_key, Record::of(version).encode().to_vec());
    let key = stored(&*store, 10).0;
    store.apply(vec![Change::Delete { table: Table::Records, key }], Durability::Sync).expect("it can be written");
    drop(store);
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    cluster
        .eventually("both records are what the other owners hold", async |cluster| {
            held(&cluster.node(3).client()).await == KEYS
        })
        .await;
    cluster.eventually("both places are named", async |cluster| status(cluster.node(3))["scrub"]["altered"] == 2).await;
}
