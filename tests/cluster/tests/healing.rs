//! How fast a replica that lost everything is whole again, against what the engines alone could do, and what clients
//! notice meanwhile: figures for people, taken in one run. See `docs/benchmarks.md`.
//!
//! An id stays with its data directory, so a lost replica is another node in its place (`mks node replace`).

use bytes::Bytes;
use mks_logic::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId};
use mks_logic::port::{Batch, Change, Durability, Store, Table};
use mks_logic::record::Record;
use mks_logic::time::Hlc;
use mks_logic::version::{Version, value_digest};
use mks_store::Options;
use mks_tests_cluster::{Cluster, NodeSetup, mks_patiently};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Keys, of 1 KiB each. `MKS_HEALING_KEYS=1000000` is the full measure.
const KEYS: u64 = 50_000;
const VALUE_BYTES: usize = 1_024;
/// Records of one batch when engines are tried: as many as a comparison sends at once.
const BATCH: usize = 256;
/// Batches between the engine that reads and the one that writes.
const BATCHES_AHEAD: usize = 4;
/// How long clients are watched for one figure.
const WINDOW_SECONDS: u64 = 3;
/// Windows for one state of the cluster that lasts.
const WINDOWS: usize = 3;
/// A measurement ends by then, one way or the other.
const PATIENCE: Duration = Duration::from_secs(3_600);

fn keys() -> u64 {
    let text = std::env::var("MKS_HEALING_KEYS").ok();
    text.map_or(KEYS, |text| text.parse().expect("MKS_HEALING_KEYS is a number of keys"))
}

/// Lines for `[limits]`, with `;` between them: `MKS_HEALING_LIMITS="sync_bytes_per_second = 100000000"`.
fn setup(first: bool) -> NodeSetup {
    let limits = std::env::var("MKS_HEALING_LIMITS").unwrap_or_default().replace(';', "\n");
    let setup = if first { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
    setup.with(&format!("[limits]\n{limits}"))
}

/// Records per second.
struct Engines {
    /// Written in random order, as clients do.
    write: f64,
    /// Read in order, by one scan.
    read: f64,
    /// Read from one store and written to another one, at the same time.
    copy: f64,
}

/// What engines can do with such records, on the disk of the cluster.
fn engines(directory: &Path, keys: u64) -> Engines {
    let open = |name: &str| {
        let options = Options { directory: directory.join(name), ..Options::default() };
        mks_store::open(&options).expect("a store of its own")
    };
    let (from, to) = (open("from"), open("to"));
    let rate = |begun: Instant| keys as f64 / begun.elapsed().as_secs_f64();
    let apply = |store: &dyn Store, batch: Batch| store.apply(batch, Durability::Sync).expect("there is room");
    let begun = Instant::now();
    for first in (0..keys).step_by(BATCH) {
        apply(&*from, (first..keys.min(first + BATCH as u64)).map(record).collect());
    }
    let write = rate(begun);
    let begun = Instant::now();
    let mut read = 0;
    pages(&*from, |batch| read += batch.len() as u64);
    assert_eq!(read, keys);
    let read = rate(begun);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let (from, to) = (&*from, &*to);
        scope.spawn(move || receiver.into_iter().for_each(|batch| apply(to, batch)));
        pages(from, |batch| sender.send(batch).expect("somebody writes"));
    });
    Engines { write, read, copy: rate(begun) }
}

/// Hands over all records of a store, in batches.
fn pages(store: &dyn Store, mut take: impl FnMut(Batch)) {
    let mut batch = Vec::with_capacity(BATCH);
    let visit = &mut |key: &[u8], value: &[u8]| {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        batch.push(Change::Put { table: Table::Records, key, value });
        if batch.len() == BATCH {
            take(std::mem::take(&mut batch));
        }
        ControlFlow::Continue(())
    };
    store.scan(Table::Records, &[], None, visit).expect("what was written can be read");
    take(batch);
}

/// A record as a node stores it, of bytes that nothing makes smaller.
fn record(number: u64) -> Change {
    let mut dice = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let byte = |_| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice as u8
    };
    let value: Bytes = (0..VALUE_BYTES).map(byte).collect();
    let dot = Dot { node: NodeId(1), incarnation: Incarnation(1), counter: number };
    let digest = value_digest(Some(&value));
    let version = Version { dot, written: Hlc(number), epoch: Epoch(1), expires_ms: 0, digest, value: Some(value) };
    let partition_key = Bytes::copy_from_slice(&number.to_be_bytes());
    let key = Key { keyspace: KeyspaceId(1), partition_key, sort_key: Bytes::new() };
    Change::Put { table: Table::Records, key: key.engine_key(8).into(), value: Record::of(version).encode() }
}

/// `mks --json ARGUMENTS`, away from the test's own tasks.
async fn json(address: &str, arguments: &[&str]) -> Value {
    let arguments: Vec<String> =
        ["--addr", address, "--json"].iter().chain(arguments).map(ToString::to_string).collect();
    let run = move || mks_patiently(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.expect("it does not panic");
    assert_eq!(output.status, 0, "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it was asked for JSON")
}

/// What clients of nodes 1 and 2 notice in one window. Without a rate they ask as fast as they are answered.
async fn clients(cluster: &Cluster, rate: Option<f64>, more: &[&str]) -> Value {
    let address = |id| cluster.node(id).client_address().to_string();
    let (keys, duration) = (keys().to_string(), format!("{WINDOW_SECONDS}s"));
    let rate = rate.map(|rate| format!("{rate:.1}"));
    let mut arguments = vec!["bench", "--keys", &keys, "--duration", &duration, "--warmup", "500ms", "--pids", "none"];
    arguments.extend(rate.iter().flat_map(|rate| ["--rate", rate.as_str()]));
    arguments.extend(more);
    json(&format!("{},{}", address(1), address(2)), &arguments).await
}

/// p99s of windows in milliseconds, lowest first, and operations that failed.
#[derive(Default)]
struct Noticed {
    p99_ms: Vec<f64>,
    failed: u64,
}

impl Noticed {
    fn add(&mut self, window: &Value) {
        self.p99_ms.push(window["all"]["p99_us"].as_f64().expect("a figure") / 1e3);
        self.p99_ms.sort_by(f64::total_cmp);
        let errors = window["errors"].as_object().expect("errors by name");
        self.failed += errors.values().filter_map(Value::as_u64).sum::<u64>();
    }

    fn median(&self) -> f64 {
        self.p99_ms[self.p99_ms.len() / 2]
    }

    fn show(&self, when: &str) {
        let all: Vec<String> = self.p99_ms.iter().map(|p99| format!("{p99:.1}")).collect();
        println!("p99 at half load, {when}: {:.1} ms (of {}), {} failed", self.median(), all.join(", "), self.failed);
    }
}

async fn noticed(cluster: &Cluster, rate: f64) -> Noticed {
    let mut noticed = Noticed::default();
    for _ in 0..WINDOWS {
        noticed.add(&clients(cluster, Some(rate), &[]).await);
    }
    noticed
}

/// Node `old` is lost with all that it held, and node `new` waits to take its place.
async fn lose(cluster: &mut Cluster, old: u64, new: u64) {
    cluster.node_mut(old).kill();
    std::fs::remove_dir_all(cluster.node(old).data_dir()).expect("the test owns it");
    cluster.add(new, &setup(false)).start();
    cluster.node_mut(new).wait_ready();
    cluster
        .eventually("gossip has gone round", async |cluster| {
            let members = cluster.node(1).client().members().await.unwrap_or_default();
            let is = |id, alive| members.iter().any(|member| member.node == id && member.alive == alive);
            is(old, false) && is(new, true)
        })
        .await;
}

/// Begins to put `new` in the place of `old`; the task ends with how long it took.
async fn replace(cluster: &Cluster, old: u64, new: u64) -> tokio::task::JoinHandle<Duration> {
    let address = cluster.node(1).client_address().to_string();
    let begun = Instant::now();
    json(&address, &["node", "replace", &old.to_string(), "--by", &new.to_string()]).await;
    tokio::spawn(async move {
        while json(&address, &["moves"]).await["over"] != true {
            assert!(begun.elapsed() < PATIENCE, "it never ends");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        begun.elapsed()
    })
}

/// Says how long it took, and sees to it that nothing is missing but what clients write just then: so many (`late`).
async fn healed(cluster: &Cluster, new: u64, took: Duration, engines: &Engines, late: u64) {
    let when = if late == 0 { "without load" } else { "at half load" };
    let rate = keys() as f64 / took.as_secs_f64();
    println!(
        "healed {when}: {} keys in {:.1} s, {rate:.0} records/s; healing / engines: {:.2} (goal: 0.50)",
        keys(),
        took.as_secs_f64(),
        rate / engines.copy
    );
    let left = json(&cluster.node(new).client_address().to_string(), &["repair"]).await;
    let received = left["records_received"].as_u64().expect("a figure");
    assert!(left["clean"].as_u64() > Some(0) && received <= late, "node {new} was not whole: {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures; see docs/benchmarks.md"]
async fn how_fast_a_lost_replica_is_whole_again_and_what_clients_notice() {
    if cfg!(debug_assertions) {
        println!("this is a debug build: its engines are slow, and the ratios below say little");
    }
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        cluster.add(id, &setup(id == 1)).start();
    }
    cluster.wait_ready();
    let directory = cluster.path("engines");
    let engines = tokio::task::spawn_blocking(move || {
        let engines = engines(&directory, keys());
        drop(std::fs::remove_dir_all(&directory));
        engines
    });
    let engines = engines.await.expect("it does not panic");
    let Engines { write, read, copy } = engines;
    println!("engines alone: {write:.0} records/s written, {read:.0} read, {copy:.0} copied from one to another");

    let full = clients(&cluster, None, &["--fill"]).await["ops_per_s"].as_f64().expect("a figure");
    let half = full / 2.0;
    println!("clients: {full:.0} operations/s at full load");
    lose(&mut cluster, 3, 4).await;
    let took = replace(&cluster, 3, 4).await.await.expect("it ends");
    healed(&cluster, 4, took, &engines, 0).await;

    let before = noticed(&cluster, half).await;
    lose(&mut cluster, 4, 5).await;
    let lost = noticed(&cluster, half).await;
    let healing = replace(&cluster, 4, 5).await;
    let mut meanwhile = Noticed::default();
    while !healing.is_finished() {
        meanwhile.add(&clients(&cluster, Some(half), &[]).await);
    }
    let took = healing.await.expect("it ends");
    healed(&cluster, 5, took, &engines, keys() / 100).await;
    before.show("three nodes");
    lost.show("one of them lost");
    meanwhile.show("while it heals");
    println!("p99 meanwhile / before: {:.2} (goal: 2.00)", meanwhile.median() / before.median());
}
