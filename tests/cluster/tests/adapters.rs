//! Adapters that see values: a cluster whose nodes have different ones, and one that gets them while clients go on.

use crate::scrub::{self, KEYS, QUIET, held, name, put, stored};
use mks_proto::v1::Durability;
use mks_store::{Options, open};
use mks_tests_cluster::{Client, Cluster, Load, Node, NodeSetup, metric, mks, mks_patiently};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A key for what a node keeps.
fn storage_key(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.path(name);
    assert_eq!(mks(&["keygen", &path.to_string_lossy()]).status, 0);
    path
}

fn encrypt(key: &Path) -> String {
    format!("{{ name = \"encrypt\", secrets = {{ key = {key:?} }} }}")
}

/// `compress` and `encrypt` in front of fjall, as TOML.
fn chain(key: &Path) -> String {
    format!("[\"compress\", {}, \"fjall\"]", encrypt(key))
}

/// Whether any file below a directory holds these bytes.
fn shows(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| {
        let path = entry.path();
        let holds = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        if path.is_dir() { shows(&path, text) } else { holds(fs::read(&path).unwrap()) }
    })
}

/// A byte of what lies in the engine that says which secret it was encrypted with.
const KEY_ID_AT: usize = 6;

/// Turns a bit in the value of each of some keys, as it lies in the engine of a node that does not run: in this byte,
/// or in the last one.
fn damage(node: &mut Node, places: &[(usize, usize)]) {
    assert!(!node.running());
    let directory = node.data_dir().join("store");
    // To look past the adapters one has to deny that there are any.
    let marker = directory.join("live/marker");
    let text = fs::read_to_string(&marker).unwrap();
    let plain: Vec<&str> = text.lines().filter(|line| !line.starts_with("adapter_")).collect();
    fs::write(&marker, plain.join("\n").replace("format = 2", "format = 1")).unwrap();
    let store = open(&Options { directory, ..Options::default() }).expect("a whole store");
    for (i, at) in places {
        let (key, mut value) = stored(&*store, *i);
        let last = value.len() - 1;
        value[last.min(*at)] ^= 0x10;
        put(&*store, key, value);
    }
    drop(store);
    fs::write(&marker, text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_encrypts_is_a_member_like_any_other_and_its_damage_is_mended() {
    let mut cluster = Cluster::empty();
    let (key, other_key) = (storage_key(&cluster, "storage.key"), storage_key(&cluster, "other.key"));
    let joiner = NodeSetup::joiner(&[1]).with(QUIET);
    let encrypted = joiner.clone().with_adapter(&chain(&key));
    cluster.add(1, &NodeSetup::founder(3).with(QUIET)).start();
    cluster.add(2, &encrypted).start();
    cluster.add(3, &joiner).start();
    cluster.wait_ready();
    scrub::fill(&cluster).await;
    let metrics = cluster.node(2).metrics();
    assert!(metric(&metrics, "mks_adapter_packed_total", &["adapter=\"encrypt\""]) >= KEYS as f64);
    for id in 1..=3 {
        assert!(cluster.node_mut(id).terminate().success());
        let shown = shows(&cluster.node(id).data_dir().join("store"), "value of 0007");
        assert_eq!(shown, id != 2, "node {id}");
    }
    for id in [1, 3] {
        cluster.node_mut(id).start();
    }
    // Neither without its adapters nor with another key does it start, and nothing is lost by trying.
    for setup in [joiner.clone(), joiner.clone().with_adapter(&chain(&other_key))] {
        cluster.reconfigure(2, &setup);
        let log = cluster.node_mut(2).start_refused();
        assert!(log.contains("compress lz4/1, encrypt xchacha20-poly1305/1 key"), "{log}");
        assert!(log.contains("storage.earlier"), "{log}");
    }
    damage(cluster.node_mut(2), &[(7, usize::MAX), (8, KEY_ID_AT)]);
    cluster.reconfigure(2, &encrypted);
    cluster.node_mut(2).start();
    cluster.wait_ready();
    cluster
        .eventually("a scrub of node 2 reaches both other owners and mends the records", async |cluster| {
            let seen = scrub::scrub(cluster.node(2));
            assert!(seen["records"].as_u64() >= Some(KEYS as u64), "no record ends it: {seen}");
            scrub::status(cluster.node(2))["scrub"]["mended"] == 2
        })
        .await;
    let metrics = cluster.node(2).metrics();
    for counter in ["mks_adapter_damaged_total", "mks_adapter_foreign_total"] {
        assert!(metric(&metrics, counter, &["adapter=\"encrypt\""]) >= 1.0, "{counter}");
    }
    assert!(cluster.node(2).log().contains("values name another key or form"));
    assert_eq!(held(&cluster.node(2).client()).await, KEYS);
    assert!(cluster.node_mut(2).terminate().success());
    let shown = shows(&cluster.node(2).data_dir().join("store"), &format!("value of {:04}", 7));
    assert!(!shown, "not even what is kept of the damaged record: {}", name(7));
}

fn migrate(node: &Node, from: &str, to: &str) -> mks_tests_cluster::Output {
    let config = node.config_path().to_string_lossy().into_owned();
    mks_patiently(&["--json", "storage", "migrate", "--config", &config, "--from", from, "--to", to])
}

/// Begins a migration and kills it at once.
fn begin_migration(node: &Node, to: &str) {
    let binary = mks_tests_cluster::mks_binary();
    let config = node.config_path();
    let mut begun = Command::new(binary)
        .args(["storage", "migrate", "--to", to, "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let _ = begun.kill();
    begun.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_under_load_gets_compression_and_encryption_node_by_node_and_loses_nothing() {
    let mut cluster = Cluster::of(3);
    let setup = |id: u64| if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
    let clients: Vec<Client> = (1..=3).map(|id| cluster.node(id).client()).collect();
    for i in 0..KEYS {
        clients[0].put(&name(i), &format!("value of {i:04}")).await.unwrap();
    }
    let load = Load::start_stubborn(&clients, 4, Durability::Sync);
    for id in 1..=3 {
        let key = storage_key(&cluster, &format!("storage-{id}.key"));
        let encrypted = chain(&key);
        let refused = migrate(cluster.node(id), "fjall", &encrypted);
        assert!(refused.status == 1 && refused.stderr.contains("in use"), "it runs: {refused:?}");
        assert!(cluster.node_mut(id).terminate().success());
        let refused = migrate(cluster.node(id), "compress,fjall", &encrypted);
        assert!(refused.status == 1 && refused.stderr.contains("nothing was changed"), "{refused:?}");
        begin_migration(cluster.node(id), &encrypted);
        let output = migrate(cluster.node(id), "fjall", &encrypted);
        // The one that was killed may have come to its end.
        if output.status != 0 {
            assert!(output.stderr.contains("behind compress"), "{output:?}");
        } else {
            let done: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
            assert_eq!(done["to"]["adapters"][0], "compress lz4/1");
            // All but the last renaming may have been done as well.
            let all = || done["tables"][0]["entries"].as_u64() >= Some(KEYS as u64);
            assert!(done["copied"] == false || all(), "{done}");
        }
        cluster.reconfigure(id, &setup(id).with_adapter(&encrypted));
        cluster.node_mut(id).start();
        cluster.node_mut(id).wait_ready();
        assert!(!cluster.node(id).log().contains("the store is copied"), "it was copied before");
        cluster.wait_back(id).await;
    }
    // And one of them back again, by its config alone.
    let earlier = format!("earlier = [\"compress\", {}]", encrypt(&cluster.path("storage-3.key")));
    assert!(cluster.node_mut(3).terminate().success());
    cluster.reconfigure(3, &setup(3).with(&earlier));
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    assert!(cluster.node(3).log().contains("the copy has taken the place of the store"));
    cluster.wait_back(3).await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{} requests failed: {:#?}", report.failures.len(), report.failures);
    assert!(report.answered > 100, "only {} answers: that proves nothing", report.answered);
    for client in &clients {
        assert_eq!(held(client).await, KEYS);
    }
    for (name, value) in &report.acknowledged {
        let found = clients[1].get(name).await.expect("all owners are up");
        assert_eq!(found.as_ref(), Some(value), "the acknowledged put of {name}");
    }
    for id in 1..=3 {
        assert!(cluster.node_mut(id).terminate().success());
        assert_eq!(shows(&cluster.node(id).data_dir().join("store"), "value of 0007"), id == 3, "node {id}");
    }
}
