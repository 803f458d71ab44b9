//! A node that was away gets what it missed: by hints from those who coordinated, and by reads that find it behind.

use mks_proto::v1::{GetRequest, ReadOptions};
use mks_tests_cluster::{Client, Cluster, NodeSetup, get_request, key, metric, metric_sum, mks};

const KEYS: usize = 500;

fn name(i: usize) -> String {
    format!("missed-{i}")
}

async fn write_all(client: &Client, value: &str) {
    for i in 0..KEYS {
        client.put(&name(i), value).await.expect("two of three owners are a quorum");
    }
}

/// A read that asks this node's own disk alone: with three nodes every one owns every key.
fn from_own_disk(i: usize) -> GetRequest {
    let options = ReadOptions { r: Some(1), deadline_ms: Some(2_000) };
    GetRequest { options: Some(options), ..get_request(key("", name(i))) }
}

async fn held(client: &Client, value: &str) -> usize {
    let mut held = 0;
    for i in 0..KEYS {
        let found = client.get_with(from_own_disk(i)).await.expect("a read at R = 1");
        held += usize::from(found.as_deref() == Some(value));
    }
    held
}

/// Writes that `client`'s node keeps for node 3.
async fn owed(client: &Client) -> u64 {
    let members = client.members().await.expect("a node that runs says who is there");
    members.iter().find(|member| member.node == 3).map_or(0, |member| member.hints)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_missed_it_gets_by_hints_and_status_shows_the_debt() {
    let mut cluster = Cluster::of(3);
    cluster.node_mut(3).kill();
    write_all(&cluster.node(1).client(), "new").await;
    cluster
        .eventually("node 1 owes node 3 every write", async |cluster| {
            owed(&cluster.node(1).client()).await == KEYS as u64
        })
        .await;
    // A debt outlives the process that owes it.
    cluster.node_mut(1).terminate();
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
    cluster
        .eventually("node 1 remembers what it owes", async |cluster| {
            owed(&cluster.node(1).client()).await == KEYS as u64
        })
        .await;

    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    cluster.eventually("all is paid", async |cluster| owed(&cluster.node(1).client()).await == 0).await;
    assert_eq!(held(&cluster.node(3).client(), "new").await, KEYS);
    let metrics = cluster.node(1).metrics();
    assert_eq!(metric(&metrics, "mks_hints_replayed_total", &[]), KEYS as f64);
    assert_eq!(metric_sum(&metrics, "mks_hints_dropped_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_mends_the_owner_that_it_finds_behind() {
    // Without room for hints, and without comparisons before tomorrow, so that only reads can do it.
    let setup = |setup: NodeSetup| setup.with("[limits]\nhint_bytes_per_owner_max = 0\nsync_period_ms = 86400000");
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        let first = if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
        cluster.add(id, &setup(first)).start();
    }
    cluster.wait_ready();
    write_all(&cluster.node(1).client(), "old").await;
    cluster.node_mut(3).kill();
    write_all(&cluster.node(1).client(), "new").await;
    cluster
        .eventually("hints were dropped", async |cluster| {
            metric(&cluster.node(1).metrics(), "mks_hints_dropped_total", &["reason=\"no_room\""]) >= KEYS as f64
        })
        .await;
    // Places whose hints were dropped would be compared as soon as node 3 is back; a restart forgets them.
    cluster.node_mut(1).terminate();
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    let behind = cluster.node(3).client();
    // But for what was still under way when it came back.
    let before = held(&behind, "new").await;
    assert!(before < KEYS / 2, "somebody told it of {before}");

    let client = cluster.node(1).client();
    for i in 0..KEYS {
        let options = ReadOptions { r: Some(3), deadline_ms: Some(5_000) };
        let request = GetRequest { options: Some(options), ..get_request(key("", name(i))) };
        assert_eq!(client.get_with(request).await.expect("all owners answer").as_deref(), Some("new"));
    }
    cluster
        .eventually("the reads have mended node 3", async |cluster| {
            held(&cluster.node(3).client(), "new").await == KEYS
        })
        .await;
    let metrics = cluster.node(1).metrics();
    assert!(metric(&metrics, "mks_repairs_total", &["cause=\"stale\""]) >= (KEYS - before) as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hints_and_without_a_read_owners_become_equal_by_comparing() {
    // Neither hints nor repairs, and places whose hints were dropped are forgotten when node 1 restarts.
    let limits = "[limits]\nhint_bytes_per_owner_max = 0\nrepairs_max = 0\nsync_period_ms = 2000\nsync_quiet_ms = 200";
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        let first = if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
        cluster.add(id, &first.with(limits)).start();
    }
    cluster.wait_ready();
    write_all(&cluster.node(1).client(), "old").await;
    cluster.node_mut(3).kill();
    write_all(&cluster.node(1).client(), "new").await;
    cluster.node_mut(1).terminate();
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    // No read before all of it is there: the figures alone say so.
    cluster
        .eventually("comparisons brought node 3 what it missed", async |cluster| {
            let of = |id: u64, name: &str| metric(&cluster.node(id).metrics(), name, &[]);
            let sent = of(1, "mks_sync_records_sent_total") + of(2, "mks_sync_records_sent_total");
            sent + of(3, "mks_sync_records_received_total") >= KEYS as f64
        })
        .await;
    cluster
        .eventually("node 3 holds every key", async |cluster| held(&cluster.node(3).client(), "new").await == KEYS)
        .await;
    for id in 1..=3 {
        let metrics = cluster.node(id).metrics();
        assert_eq!(metric_sum(&metrics, "mks_repairs_total", &[]), 0.0);
        assert_eq!(metric(&metrics, "mks_hints_replayed_total", &[]), 0.0);
        assert_eq!(metric(&metrics, "mks_sync_sessions_total", &["outcome=\"plugin_drift\""]), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_on_demand_mends_now_what_the_schedule_would_mend_some_day() {
    let limits = "[limits]\nhint_bytes_per_owner_max = 0\nrepairs_max = 0\nsync_period_ms = 86400000";
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        let first = if id == 1 { NodeSetup::founder(3) } else { NodeSetup::joiner(&[1]) };
        cluster.add(id, &first.with(limits)).start();
    }
    cluster.wait_ready();
    write_all(&cluster.node(1).client(), "old").await;
    cluster.node_mut(3).kill();
    write_all(&cluster.node(1).client(), "new").await;
    cluster.node_mut(1).terminate();
    cluster.node_mut(1).start();
    cluster.node_mut(1).wait_ready();
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
    let address = cluster.node(3).client_address().to_string();
    cluster
        .eventually("a repair finds all links up", async |_| {
            let output = mks(&["--addr", &address, "--json", "repair"]);
            assert_eq!(output.status, 0, "{output:?}");
            let done: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON for scripts");
            done["failed"] == 0
        })
        .await;
    assert_eq!(held(&cluster.node(3).client(), "new").await, KEYS);
    let strange = mks(&["--addr", &address, "repair", "--partition", "60000"]);
    assert_eq!(strange.status, 1, "{strange:?}");
}
