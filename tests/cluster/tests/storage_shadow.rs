//! A second engine on trial: it gets what the store gets, is compared with it, and may take its place.

use bytes::Bytes;
use mks_logic::port::Table;
use mks_proto::v1::Durability;
use mks_store::{Engine, Options, open};
use mks_tests_cluster::{Cluster, Load, Node, NodeSetup, Output, metric, mks, mks_json, mks_patiently};
use serde_json::Value;
use std::ops::ControlFlow;
use std::time::Duration;

fn storage(node: &Node, command: &str) -> Output {
    mks_patiently(&["--json", "storage", command, "--config", &node.config_path().to_string_lossy()])
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn status(node: &Node) -> Value {
    mks_json(&node.client_address().to_string(), &["status"])
}

async fn wait_following(cluster: &Cluster) {
    cluster
        .eventually("the shadow follows", async |cluster| {
            status(cluster.node(1))["store"]["shadow"]["state"] == "following"
        })
        .await;
}

/// Changes the value of a record in the shadow of a node that does not run.
fn plant(node: &mut Node) {
    assert!(!node.running());
    let directory = node.data_dir().join("store/shadow");
    let store = open(&Options { directory, engine: Engine::RocksDb, ..Options::default() }).expect("a whole store");
    let mut planted = None;
    store
        .scan(Table::Records, &[], None, &mut |key, value| {
            planted = Some((Bytes::copy_from_slice(key), [value, b"!"].concat()));
            ControlFlow::Break(())
        })
        .unwrap();
    let (key, value) = planted.expect("there are records");
    crate::scrub::put(&*store, key, value);
}

/// What a node says of a shadow that follows and is the same.
fn assert_shown(node: &Node) {
    let metrics = node.metrics();
    let shadow = |name: &str, label: &str| metric(&metrics, &format!("mks_storage_shadow_{name}"), &[label]);
    assert!(shadow("batches_total", "rocksdb") > 100.0, "{metrics}");
    assert!(shadow("filled_total", "rocksdb") > 100.0, "after the crash it was filled anew");
    assert!(shadow("write_seconds_total", "side=\"store\"") > 0.0);
    assert!(shadow("write_seconds_total", "side=\"shadow\"") > 0.0);
    assert_eq!(shadow("state", "state=\"following\""), 1.0);
    assert_eq!(shadow("failed_total", "rocksdb") + shadow("differing_total", "rocksdb"), 0.0);
    let text = mks(&["--addr", &node.client_address().to_string(), "status"]).text();
    assert!(text.contains("shadow: rocksdb is following; ") && text.contains("0 differ"), "{text}");
}

/// A difference is found while the node does not run, and while it does.
async fn assert_planted_is_found(cluster: &mut Cluster) {
    plant(cluster.node_mut(1));
    for command in ["verify", "promote"] {
        let differs = storage(cluster.node(1), command);
        let told = said(&differs);
        assert!(differs.status == 1 && differs.stderr.contains("DIFFER in 1 of"), "{differs:?}");
        assert_eq!((&told["differing"], &told["promoted"]), (&1.into(), &false.into()));
        assert_eq!(told["samples"][0]["how"], "another value", "{told}");
    }
    cluster.node_mut(1).start();
    cluster.wait_ready();
    cluster
        .eventually("the running node finds it as well", async |cluster| {
            let status = status(cluster.node(1));
            let differing = status["store"]["shadow"]["differing"].as_u64();
            differing >= Some(1) && status["warnings"].to_string().contains("differs from it in ")
        })
        .await;
    assert!(cluster.node(1).log().contains("differs from it: records "), "{}", cluster.node(1).log_tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tries_another_engine_beside_its_own_through_a_crash_and_then_moves_to_it() {
    let mut cluster = Cluster::empty();
    let setup = NodeSetup::founder(1).with("shadow = { name = \"rocksdb\", options = { workers = \"3\" } }");
    cluster.add(1, &setup).start();
    cluster.wait_ready();
    wait_following(&cluster).await;
    let clients = [cluster.node(1).client()];
    let load = Load::start(&clients, 4, Durability::Os);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = storage(cluster.node(1), "verify");
    assert!(refused.status == 1 && refused.stderr.contains("in use"), "it runs: {refused:?}");
    cluster.node_mut(1).kill();
    let mut acknowledged = load.stop().await.acknowledged;
    assert!(acknowledged.len() > 100, "only {} puts: that proves nothing", acknowledged.len());
    let refused = storage(cluster.node(1), "verify");
    assert!(refused.status == 1 && refused.stderr.contains("the node was killed"), "{refused:?}");

    cluster.node_mut(1).start();
    cluster.wait_ready();
    wait_following(&cluster).await;
    let load = Load::start(&clients, 4, Durability::Sync);
    tokio::time::sleep(Duration::from_secs(2)).await;
    acknowledged.extend(load.stop().await.acknowledged);
    cluster
        .eventually("records are compared", async |cluster| {
            let compared = status(cluster.node(1))["store"]["shadow"]["compared"].as_u64();
            compared > Some(acknowledged.len() as u64)
        })
        .await;
    assert_shown(cluster.node(1));
    assert!(cluster.node_mut(1).terminate().success());
    let same = storage(cluster.node(1), "verify");
    let told = said(&same);
    assert!(same.status == 0 && told["same"] == true, "{same:?}");
    assert!(told["tables"][0]["entries"].as_u64() >= Some(acknowledged.len() as u64), "{told}");
    assert_eq!((&told["store"]["engine"], &told["shadow"]["engine"]), (&"fjall".into(), &"rocksdb".into()));

    assert_planted_is_found(&mut cluster).await;
    // A crash, and the shadow is made anew.
    cluster.node_mut(1).kill();
    cluster.node_mut(1).start();
    cluster.wait_ready();
    wait_following(&cluster).await;
    assert!(cluster.node_mut(1).terminate().success());
    let promoted = storage(cluster.node(1), "promote");
    assert!(promoted.status == 0 && said(&promoted)["promoted"] == true, "{promoted:?}");
    cluster.reconfigure(1, &NodeSetup::founder(1).with_adapter("rocksdb"));
    cluster.node_mut(1).start();
    cluster.wait_ready();
    let status = status(cluster.node(1));
    assert_eq!((&status["store"]["engine"], &status["store"]["shadow"]), (&"rocksdb".into(), &Value::Null));
    assert!(!cluster.node(1).log().contains("the store is copied"), "it has the place of the one before");
    for (name, value) in &acknowledged {
        let found = clients[0].get(name).await.expect("the only owner is up");
        assert_eq!(found.as_ref(), Some(value), "the acknowledged put of {name}");
    }
}
