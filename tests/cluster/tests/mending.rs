//! A node that was away gets what it missed: by hints from those who coordinated, by reads that find it behind, and by
//! comparisons of owners.

use crate::session::{burst, operation};
use mks_proto::v1::session_operation::Operation;
use mks_proto::v1::session_result::Result as Outcome;
use mks_proto::v1::{BatchItem, BatchRequest, GetRequest, ReadOptions};
use mks_tests_cluster::{Client, Cluster, NodeSetup, get_request, key, metric, metric_sum, mks};
use std::time::Duration;

const KEYS: usize = 500;
/// Keys that change while a node is away, in the tests of many. `MKS_MENDING_KEYS=100000` is the full measure.
const MANY: usize = 20_000;
/// Items of one batch.
const BATCH: usize = 1_000;

fn many() -> usize {
    let text = std::env::var("MKS_MENDING_KEYS").ok();
    text.map_or(MANY, |text| text.parse().expect("MKS_MENDING_KEYS is a number of keys"))
}

fn name(i: usize) -> String {
    format!("missed-{i}")
}

async fn write_all(client: &Client, keys: usize, value: &str) {
    for first in (0..keys).step_by(BATCH) {
        let item =
            |i| BatchItem { key: Some(key("", name(i))), value: Some(value.to_owned().into()), ..BatchItem::default() };
        let items = (first..keys.min(first + BATCH)).map(item).collect();
        let response = client.kv.clone().batch(BatchRequest { items, options: None }).await.expect("a batch");
        let results = response.into_inner().results;
        let failed = results.iter().filter_map(|r| match &r.result {
            Some(mks_proto::v1::batch_result::Result::Written(_)) => None,
            other => Some(other),
        });
        assert_eq!(failed.collect::<Vec<_>>(), Vec::<&Option<_>>::new(), "two of three owners are a quorum");
    }
}

/// A read that asks this node's own disk alone: with three nodes every one owns every key.
fn from_own_disk(i: usize) -> GetRequest {
    let options = ReadOptions { r: Some(1), deadline_ms: Some(20_000), ..ReadOptions::default() };
    GetRequest { options: Some(options), ..get_request(key("", name(i))) }
}

/// How many of the keys have this value on the node's own disk.
async fn held(client: &Client, keys: usize, value: &str) -> usize {
    let reads = (0..keys).map(|i| operation(i as u64, Operation::Get(from_own_disk(i))));
    let found = burst(client, reads.collect()).await;
    let is_held =
        |outcome: &&Outcome| matches!(outcome, Outcome::Found(f) if f.version.as_ref().unwrap().value == *value);
    found.values().filter(is_held).count()
}

/// Three nodes with these settings, of which the third was away while every key changed.
async fn behind(limits: &str, keys: usize) -> Cluster {
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        let setup = if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
        cluster.add(id, &setup.with(&format!("[limits]\n{limits}"))).start();
    }
    cluster.wait_ready();
    write_all(&cluster.node(1).client(), keys, "old").await;
    // Two of three are enough for that; what the third had not taken yet would be owed to it as well.
    cluster
        .eventually("node 3 holds everything", async |cluster| {
            held(&cluster.node(3).client(), keys, "old").await == keys
        })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.node_mut(3).kill();
    write_all(&cluster.node(1).client(), keys, "new").await;
    cluster
}

/// Places whose hints were dropped would be compared as soon as the third is back: a restart forgets them.
fn forget_what_needs_sync(cluster: &mut Cluster) {
    cluster.node_mut(1).terminate();
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
}

fn bring_back(cluster: &mut Cluster) {
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
}

/// Writes that `client`'s node keeps for node 3.
async fn owed(client: &Client) -> u64 {
    let members = client.members().await.expect("a node that runs says who is there");
    members.iter().find(|member| member.node == 3).map_or(0, |member| member.hints)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_missed_it_gets_by_hints_and_status_shows_the_debt() {
    let keys = many();
    let mut cluster = behind("sync_period_ms = 86400000", keys).await;
    cluster
        .eventually("node 1 owes node 3 every write", async |cluster| {
            owed(&cluster.node(1).client()).await == keys as u64
        })
        .await;
    // A debt outlives the process that owes it.
    forget_what_needs_sync(&mut cluster);
    cluster
        .eventually("node 1 remembers what it owes", async |cluster| {
            owed(&cluster.node(1).client()).await == keys as u64
        })
        .await;
    let begun = std::time::Instant::now();
    bring_back(&mut cluster);
    cluster.eventually("all is paid", async |cluster| owed(&cluster.node(1).client()).await == 0).await;
    println!("{keys} hints were paid {:.1} s after the node was started", begun.elapsed().as_secs_f64());
    assert_eq!(held(&cluster.node(3).client(), keys, "new").await, keys);
    let metrics = cluster.node(1).metrics();
    assert_eq!(metric(&metrics, "mks_hints_replayed_total", &[]), keys as f64);
    assert_eq!(metric(&metrics, "mks_repairs_total", &["cause=\"hint\""]), keys as f64);
    assert_eq!(metric_sum(&metrics, "mks_hints_dropped_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_hints_were_dropped_owners_compare_first_and_status_shows_it() {
    let keys = many();
    // Nothing is due before tomorrow: it is compared because hints were dropped.
    let limits = "hint_bytes_per_owner_max = 0\nrepairs_max = 0\nsync_period_ms = 86400000";
    let mut cluster = behind(limits, keys).await;
    let address = cluster.node(1).client_address().to_string();
    let to_compare = || {
        let output = mks(&["--addr", &address, "--json", "status"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
        status["members"][2]["needs_sync"].as_u64().expect("a number of partitions")
    };
    cluster.eventually("every partition needs a comparison", async |_| to_compare() == 256).await;
    let dropped = ["reason=\"no_room\""];
    assert!(metric(&cluster.node(1).metrics(), "mks_hints_dropped_total", &dropped) > 0.0);

    let begun = std::time::Instant::now();
    bring_back(&mut cluster);
    cluster.eventually("every partition was compared", async |_| to_compare() == 0).await;
    println!("{keys} keys were mended {:.1} s after the node was started", begun.elapsed().as_secs_f64());
    assert_eq!(held(&cluster.node(3).client(), keys, "new").await, keys);
    let metrics = cluster.node(1).metrics();
    assert!(metric(&metrics, "mks_repairs_total", &["cause=\"sync\""]) >= keys as f64 * 0.9, "node 1 sent them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_mends_the_owner_that_it_finds_behind() {
    // Without room for hints, and without comparisons before tomorrow, so that only reads can do it.
    let mut cluster = behind("hint_bytes_per_owner_max = 0\nsync_period_ms = 86400000", KEYS).await;
    forget_what_needs_sync(&mut cluster);
    bring_back(&mut cluster);
    let client = cluster.node(1).client();
    for i in 0..KEYS {
        let options = ReadOptions { r: Some(3), deadline_ms: Some(20_000), ..ReadOptions::default() };
        let request = GetRequest { options: Some(options), ..get_request(key("", name(i))) };
        assert_eq!(client.get_with(request).await.expect("all owners answer").as_deref(), Some("new"));
    }
    // Node 3 is not read before: what it finds behind at itself it would mend at once. Absent is what it was killed
    // too early for, as two of three had acknowledged.
    cluster
        .eventually("node 1 has mended what its reads found behind", async |cluster| {
            let metrics = cluster.node(1).metrics();
            let mended = |cause: &str| metric(&metrics, "mks_repairs_total", &[&format!("cause=\"{cause}\"")]);
            mended("stale") + mended("absent") >= KEYS as f64 * 0.95
        })
        .await;
    cluster
        .eventually("node 3 has what was sent", async |cluster| {
            held(&cluster.node(3).client(), KEYS, "new").await == KEYS
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hints_and_without_a_read_owners_become_equal_by_comparing() {
    // Neither hints nor repairs, and places whose hints were dropped are forgotten when node 1 restarts.
    let limits = "hint_bytes_per_owner_max = 0\nrepairs_max = 0\nsync_period_ms = 2000\nsync_quiet_ms = 200";
    let mut cluster = behind(limits, KEYS).await;
    forget_what_needs_sync(&mut cluster);
    bring_back(&mut cluster);
    // No read before all of it is there: the figures alone say so.
    cluster
        .eventually("comparisons brought node 3 what it missed", async |cluster| {
            let of = |id: u64, name: &str| metric(&cluster.node(id).metrics(), name, &[]);
            let sent = of(1, "mks_sync_records_sent_total") + of(2, "mks_sync_records_sent_total");
            sent + of(3, "mks_sync_records_received_total") >= KEYS as f64
        })
        .await;
    cluster
        .eventually("node 3 holds every key", async |cluster| {
            held(&cluster.node(3).client(), KEYS, "new").await == KEYS
        })
        .await;
    for id in 1..=3 {
        let metrics = cluster.node(id).metrics();
        for cause in ["stale", "absent", "own_disk", "hint"] {
            assert_eq!(metric(&metrics, "mks_repairs_total", &[&format!("cause=\"{cause}\"")]), 0.0, "{cause}");
        }
        assert_eq!(metric(&metrics, "mks_sync_sessions_total", &["outcome=\"plugin_drift\""]), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_on_demand_mends_now_what_the_schedule_would_mend_some_day() {
    let limits = "hint_bytes_per_owner_max = 0\nrepairs_max = 0\nsync_period_ms = 86400000";
    let mut cluster = behind(limits, KEYS).await;
    forget_what_needs_sync(&mut cluster);
    bring_back(&mut cluster);
    let address = cluster.node(3).client_address().to_string();
    cluster
        .eventually("a repair finds all links up", async |_| {
            let output = mks(&["--addr", &address, "--json", "repair"]);
            assert_eq!(output.status, 0, "{output:?}");
            let done: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
            done["failed"] == 0
        })
        .await;
    assert_eq!(held(&cluster.node(3).client(), KEYS, "new").await, KEYS);
    let strange = mks(&["--addr", &address, "repair", "--partition", "60000"]);
    assert_eq!(strange.status, 1, "{strange:?}");
}

/// A sloppy put through `node`, as the command line has it: owners and other nodes that hold it.
fn sloppy_put(cluster: &Cluster, node: u64, name: &str) -> (u64, u64) {
    let address = cluster.node(node).client_address().to_string();
    let output = mks(&["--addr", &address, "--json", "put", name, "kept", "--sloppy", "--deadline", "10s"]);
    assert_eq!(output.status, 0, "{output:?}");
    let written: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
    (written["acks"].as_u64().unwrap(), written["hints"].as_u64().unwrap())
}

/// Owners of a key, and everybody else.
async fn owners_and_others(cluster: &Cluster, name: &str) -> (Vec<u64>, Vec<u64>) {
    let request = mks_proto::v1::RingRequest { key: Some(key("", name.to_owned())) };
    let ring = cluster.node(1).client().admin.clone().ring(request).await.expect("a ring").into_inner();
    let owners = ring.ranges[0].owners.clone();
    let others = (1..=5).filter(|id| !owners.contains(id)).collect();
    (owners, others)
}

async fn promised(client: &Client) -> u64 {
    client.members().await.expect("a node that runs says who is there").iter().map(|m| m.hints_counted).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sloppy_write_outlives_the_absence_of_all_owners_and_a_kill_of_those_who_stood_in() {
    let mut cluster = Cluster::of(5);
    let (owners, others) = owners_and_others(&cluster, "sloppy").await;
    owners.iter().for_each(|owner| cluster.node_mut(*owner).kill());
    let strict = mks(&[
        "--addr",
        &cluster.node(others[0]).client_address().to_string(),
        "put",
        "sloppy",
        "strict",
        "--deadline",
        "1s",
    ]);
    assert_ne!(strict.status, 0, "no owner is there: {strict:?}");
    // Gossip needs a moment to find them dead; until then a write may be handed to one of them in vain.
    cluster
        .eventually("the owners seem dead", async |cluster| {
            let members = cluster.node(others[0]).client().members().await.unwrap();
            members.iter().filter(|member| !member.alive).count() == 3
        })
        .await;
    assert_eq!(sloppy_put(&cluster, others[0], "sloppy"), (0, 2));
    for other in &others {
        cluster.node_mut(*other).kill();
        cluster.node_mut(*other).start();
    }
    owners.iter().for_each(|owner| cluster.node_mut(*owner).start());
    cluster.wait_ready();
    cluster
        .eventually("the owners have it", async |cluster| {
            cluster.node(owners[0]).client().get("sloppy").await.is_ok_and(|found| found.as_deref() == Some("kept"))
        })
        .await;
    cluster
        .eventually("nothing is owed any more", async |cluster| {
            promised(&cluster.node(others[0]).client()).await + promised(&cluster.node(others[1]).client()).await == 0
        })
        .await;
    assert_eq!(cluster.node(owners[1]).client().get("sloppy").await.unwrap().as_deref(), Some("kept"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_of_three_have_nobody_to_stand_in_and_say_so() {
    let mut cluster = Cluster::of(3);
    cluster.node_mut(2).kill();
    cluster.node_mut(3).kill();
    let address = cluster.node(1).client_address().to_string();
    let refused = mks(&["--addr", &address, "--json", "put", "k", "v", "--sloppy", "--deadline", "1s"]);
    assert_eq!(refused.status, 4, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_data_directory_was_deleted_is_refused_with_what_to_do() {
    let mut cluster = Cluster::of(3);
    write_all(&cluster.node(1).client(), KEYS, "old").await;
    cluster.node_mut(3).kill();
    std::fs::remove_dir_all(cluster.node(3).data_dir()).expect("the test owns it");
    // An id stays with its directory: what this one had promised is gone, and nobody must take it for what it was.
    let log = cluster.node_mut(3).start_refused();
    assert!(log.contains("another data directory") && log.contains("an id of its own"), "{log}");
    assert_eq!(cluster.node(2).client().get(&name(7)).await.unwrap().as_deref(), Some("old"));
}
