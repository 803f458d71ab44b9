//! Storage engines are opened through adapters, which are components too, and may differ from node to node.

use mks_tests_cluster::{Cluster, NodeSetup, metric_sum, mks_binary};
use std::path::PathBuf;

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
