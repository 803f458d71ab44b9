//! Storage engines are opened through adapters, which are components too, and may differ from node to node.

use crate::kills::assert_sums_are_true;
use mks_proto::v1::{PutRequest, WriteOptions};
use mks_store::Engine;
use mks_tests_cluster::{Client, Cluster, Contest, NodeSetup, key, metric_sum, mks, mks_binary, put_request};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_on_rocksdb_and_two_on_fjall_are_one_cluster() {
    let mut cluster = Cluster::with(&["fjall", "rocksdb", "fjall"]);
    let engines = ["fjall", "rocksdb", "fjall"];
    for (id, engine) in (1..).zip(engines) {
        let store = cluster.node(id).client().status().await.unwrap().store.unwrap();
        assert_eq!(store.engine, engine, "node {id}: {store:?}");
        let metrics = cluster.node(id).metrics();
        let calls = metric_sum(&metrics, "mks_adapter_calls_total", &[&format!("adapter=\"{engine}\"")]);
        assert!(calls >= 1.0, "node {id} opened its store through its adapter");
    }
    for number in 0..50 {
        let writer = cluster.node(1 + number % 3).client();
        writer.put(&format!("mixed-{number}"), &format!("value {number}")).await.unwrap();
    }
    // Whichever node is down, the other two engines agree.
    for down in 1..=3 {
        cluster.node_mut(down).kill();
        let reader = cluster.node(1 + down % 3).client();
        for number in 0..50 {
            let found = reader.get(&format!("mixed-{number}")).await.unwrap();
            assert_eq!(found, Some(format!("value {number}")), "with node {down} down");
        }
        cluster.node_mut(down).start();
        cluster.node_mut(down).wait_ready();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_engine_does_not_start_beside_data_that_it_would_hide() {
    let mut cluster = Cluster::of(1);
    cluster.node(1).client().put("kept", "value").await.unwrap();
    assert!(cluster.node_mut(1).terminate().success());
    cluster.reconfigure(1, &NodeSetup::founder(1).with_adapter("memory"));
    let log = cluster.node_mut(1).start_refused();
    assert!(log.contains("would start without them"), "{log}");
    cluster.reconfigure(1, &NodeSetup::founder(1));
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
    assert_eq!(cluster.node(1).client().get("kept").await.unwrap(), Some("value".to_owned()));
}

/// Compares all that a node holds with the other owners, once all of them are in reach. Returns how many comparisons
/// found no difference, and how many records were moved because of one.
async fn repair(cluster: &Cluster, id: u64) -> (u64, u64) {
    let address = cluster.node(id).client_address().to_string();
    let (mut clean, mut moved) = (0, 0);
    cluster
        .eventually("a repair that asks everybody", async |_| {
            let output = mks(&["--addr", &address, "--json", "repair"]);
            assert_eq!(output.status, 0, "{output:?}");
            let done: Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
            let count = |name: &str| done[name].as_u64().expect("a number");
            clean += count("clean");
            moved += count("records_sent") + count("records_received");
            count("failed") == 0
        })
        .await;
    (clean, moved)
}

/// The node's config names another engine from now on; it has stopped, and serves again.
async fn assert_swapped(cluster: &mut Cluster, id: u64, setup: &NodeSetup, engine: &str) {
    cluster.reconfigure(id, &setup.clone().with_adapter(engine));
    cluster.node_mut(id).start();
    cluster.node_mut(id).wait_ready();
    let store = cluster.node(id).client().status().await.unwrap().store.unwrap();
    assert_eq!(store.engine, engine, "{store:?}");
    let log = cluster.node(id).log();
    assert!(log.contains("the copy has taken the place of the store"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_running_cluster_gets_another_engine_by_config_and_keeps_everything() {
    const KEYS: u64 = 200;
    // Nothing is compared unless the test says so, and nothing was missed: what the node holds is what it kept.
    let setup = |setup: NodeSetup| setup.with("[limits]\nsync_period_ms = 86400000");
    let mut cluster = Cluster::empty();
    cluster.add(1, &setup(NodeSetup::founder(3))).start();
    let joiner = setup(NodeSetup::joiner(&[1]));
    (2..=3).for_each(|id| cluster.add(id, &joiner).start());
    cluster.wait_ready();
    let clients: Vec<Client> = (1..=3).map(|id| cluster.node(id).client()).collect();
    for number in 0..KEYS {
        let put = put_request(key("", format!("kept-{number}")), format!("value {number}"));
        let options = WriteOptions { w: Some(3), ..put.options.unwrap() };
        clients[0].put_with(PutRequest { options: Some(options), ..put }).await.unwrap();
    }
    assert!(cluster.node_mut(2).terminate().success());
    assert_swapped(&mut cluster, 2, &joiner, "rocksdb").await;
    let (clean, moved) = repair(&cluster, 2).await;
    assert!(
        clean > 0 && moved == 0,
        "the sums are as they were: {clean} comparisons without a difference, {moved} moved"
    );

    // And back, after a death instead of a goodbye, while the cluster has its hands full.
    let contest = Contest::start(&clients, 2, KEYS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.node_mut(2).kill();
    assert!(assert_sums_are_true(cluster.node(2), Engine::RocksDb) >= KEYS as usize);
    assert_swapped(&mut cluster, 2, &joiner, "fjall").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let history = contest.stop().await;
    assert!(history.acknowledged() > 100, "only {} writes: that proves nothing", history.acknowledged());
    for id in 1..=3 {
        repair(&cluster, id).await;
    }
    history.assert_settled(&cluster, &clients).await;
    for number in 0..KEYS {
        let found = clients[1].get(&format!("kept-{number}")).await.unwrap();
        assert_eq!(found, Some(format!("value {number}")));
    }
    cluster.node_mut(2).kill();
    assert!(assert_sums_are_true(cluster.node(2), Engine::Fjall) >= KEYS as usize);
}

/// The default fjall adapter as a file: what the build embeds in the binary.
fn adapter_component() -> PathBuf {
    let built = mks_binary().parent().unwrap().join("build");
    let candidates = std::fs::read_dir(&built).unwrap().flatten().filter_map(|entry| {
        let path = entry.path().join("out/fjall.wasm");
        let time = path.metadata().ok()?.modified().ok()?;
        Some((time, path))
    });
    candidates.max().expect("the sandbox's build makes fjall.wasm").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_may_be_a_component_file() {
    let mut cluster = Cluster::empty();
    let path = cluster.path("my-adapter.wasm");
    std::fs::copy(adapter_component(), &path).unwrap();
    let setup = NodeSetup::founder(1).with_adapter(&path.to_string_lossy());
    cluster.add(1, &setup).start();
    cluster.wait_ready();
    let client = cluster.node(1).client();
    client.put("through", "a component of mine").await.unwrap();
    let status = client.status().await.unwrap();
    assert!(status.store.is_some_and(|store| store.engine == "fjall"), "it plans the engine fjall");
    assert!(cluster.node_mut(1).terminate().success());
    cluster.node_mut(1).start();
    cluster.wait_ready();
    let found = cluster.node(1).client().get("through").await.unwrap();
    assert_eq!(found.as_deref(), Some("a component of mine"));
}

#[test]
fn a_file_that_is_no_adapter_is_refused() {
    let cluster = Cluster::empty();
    let garbage = cluster.path("garbage.wasm");
    std::fs::write(&garbage, b"\0asm this is no component").unwrap();
    let empty = cluster.path("empty.wasm");
    std::fs::write(&empty, b"").unwrap();
    for (number, path) in [(1, garbage), (2, empty)] {
        let setup = NodeSetup::founder(1).with_adapter(&path.to_string_lossy());
        let log = cluster.stranger(number, &format!("refused-{number}"), &setup).start_refused();
        assert!(log.contains(&*path.to_string_lossy()), "the message names the file:\n{log}");
    }
}
