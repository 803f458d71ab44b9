//! Cables are cut under load, and healed: what was acknowledged is there, owners agree, nothing deleted returns. Each
//! node runs on a host of its own, and who can't reach whom is a rule of the packet filter between them.

use mks_tests_cluster::{Carts, Client, Cluster, Contest, History, skipped};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Few enough that writes of all clients meet on each of them.
const KEYS: u64 = 24;
const WORKERS: usize = 2;
/// A causal keyspace.
const CARTS: &str = "carts";
/// By then a node that can't be reached is known to be away, and requests go around it.
const NOTICED: Duration = Duration::from_secs(2);

/// Three nodes on hosts of their own, or `None`, said so, where those can't be made.
fn three_hosts(test: &str) -> Option<Cluster> {
    // Comparisons often, so that the end of the test is not the wait for the next one.
    let often = "[limits]\nsync_period_ms = 2000\nsync_quiet_ms = 200";
    match Cluster::on_hosts(3, |setup| setup.with(often)) {
        Ok(cluster) => Some(cluster),
        Err(reason) => {
            skipped(test, &format!("no network namespaces here ({reason})"));
            None
        }
    }
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    (1..=3).map(|id| cluster.node(id).client()).collect()
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

/// Under a load that goes on before and after, node 3 is cut off from the other two: from when until when.
async fn isolated(cluster: &mut Cluster) -> Range<Instant> {
    seconds(2).await;
    let cut = Instant::now();
    cluster.hosts().isolate(3);
    seconds(6).await;
    cluster.hosts().heal();
    let healed = Instant::now();
    seconds(2).await;
    cut..healed
}

/// Everybody is linked to everybody again, and all owners hold what the history allows.
async fn assert_whole(cluster: &mut Cluster, history: &History) {
    history.assert_settled(cluster, &clients(cluster)).await;
    for node in cluster.nodes() {
        assert!(node.running() && node.is_ready(), "node {} serves", node.id());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_under_load_and_healed_loses_nothing_and_revives_nothing() {
    let Some(mut cluster) = three_hosts("a_node_cut_off_under_load_and_healed_loses_nothing_and_revives_nothing")
    else {
        return;
    };
    let contest = Contest::start(&clients(&cluster), WORKERS, KEYS);
    let Range { start: cut, end: healed } = isolated(&mut cluster).await;
    let history = contest.stop().await;

    // The two that see each other go on; the one that sees nobody acknowledges nothing.
    let late = |at: usize| {
        let span = cut + NOTICED..healed - Duration::from_secs(1);
        history
            .failures
            .iter()
            .filter(move |(begun, client, _)| *client == at && span.contains(begun))
            .collect::<Vec<_>>()
    };
    assert!(
        late(0).is_empty() && late(1).is_empty(),
        "failed on the side of the majority: {:?} {:?}",
        late(0),
        late(1)
    );
    assert!(!late(2).is_empty(), "a node that sees nobody can't have a quorum");
    let acknowledged = history.acknowledged_between(cut + NOTICED, healed);
    assert!(acknowledged > 100, "only {acknowledged} writes were acknowledged during the cut: that proves nothing");
    assert_whole(&mut cluster, &history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_under_load_loses_no_sibling_and_brings_none_back() {
    let Some(mut cluster) = three_hosts("a_node_cut_off_under_load_loses_no_sibling_and_brings_none_back") else {
        return;
    };
    let clients = clients(&cluster);
    clients[0].create_keyspace(CARTS, "keep-siblings").await.expect("a quorum of voters");
    for client in &clients {
        cluster.eventually("the keyspace is known", async |_| client.get_in(CARTS, "no cart").await.is_ok()).await;
    }
    let carts = Carts::start(&clients, CARTS, WORKERS, KEYS);
    let Range { start: cut, end: healed } = isolated(&mut cluster).await;
    let history = carts.stop().await;

    let acknowledged = history.acknowledged_between(cut + NOTICED, healed);
    assert!(acknowledged > 100, "only {acknowledged} writes were acknowledged during the cut: that proves nothing");
    let lonely = |(begun, client, _): &&(Instant, usize, String)| *client == 2 && (cut..healed).contains(begun);
    assert!(history.failures.iter().any(|failure| lonely(&failure)), "a node that sees nobody can't have a quorum");
    let siblings = history.stories.values().flat_map(|story| &story.reads).filter(|read| read.shown.len() > 1);
    assert!(siblings.count() > 20, "too few reads showed siblings: that proves nothing");
    history.assert_settled(&cluster, &clients, CARTS).await;
    assert!(cluster.nodes().all(|node| node.running() && node.is_ready()), "all nodes serve");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cables_that_carry_one_way_only_and_shift_about_lose_nothing_and_revive_nothing() {
    let Some(mut cluster) =
        three_hosts("cables_that_carry_one_way_only_and_shift_about_lose_nothing_and_revive_nothing")
    else {
        return;
    };
    let contest = Contest::start(&clients(&cluster), WORKERS, KEYS);
    seconds(1).await;
    let begun = Instant::now();
    // Speaks and hears nothing; hears and can't speak; a ring of which each edge carries one way.
    let shapes: [&[(u8, u8)]; 4] = [&[(1, 3), (2, 3)], &[(2, 1), (2, 3)], &[(1, 2), (2, 3), (3, 1)], &[(1, 2), (2, 1)]];
    for shape in shapes {
        shape.iter().for_each(|(from, to)| cluster.hosts().cut(*from, *to));
        seconds(3).await;
        cluster.hosts().heal();
        seconds(1).await;
    }
    let history = contest.stop().await;
    let acknowledged = history.acknowledged_between(begun, Instant::now());
    assert!(acknowledged > 100, "only {acknowledged} writes were acknowledged: that proves nothing");
    assert_whole(&mut cluster, &history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_any_cable_ends_requests_in_time_and_goes_on_when_healed() {
    let Some(mut cluster) = three_hosts("a_cluster_without_any_cable_ends_requests_in_time_and_goes_on_when_healed")
    else {
        return;
    };
    let contest = Contest::start(&clients(&cluster), WORKERS, KEYS);
    seconds(1).await;
    (1..=3).for_each(|host| cluster.hosts().isolate(host));
    seconds(5).await;
    cluster.hosts().heal();
    let healed = Instant::now();
    seconds(4).await;
    let history = contest.stop().await;
    let writes = history.stories.values().flat_map(|story| &story.writes);
    let longest = writes.map(|write| write.ended - write.begun).max().unwrap();
    assert!(longest < Duration::from_secs(3), "a deadline of one second took {longest:?}");
    let after = history.acknowledged_between(healed, Instant::now());
    assert!(after > 20, "only {after} writes were acknowledged after the healing");
    assert_whole(&mut cluster, &history).await;
}
