//! A keyspace gets another number of copies, while clients read and write what must not get lost.

use mks_tests_cluster::{Client, Cluster, Contest, Output, mks_patiently};
use serde_json::Value;
use std::time::Duration;

const KEYS: u64 = 60;

/// `mks ARGUMENTS` through node 1, to its end, away from the test's own tasks.
async fn done(cluster: &Cluster, arguments: &[&str]) -> Output {
    let address = cluster.node(1).client_address().to_string();
    let arguments: Vec<String> = ["--addr", &address].iter().chain(arguments).map(ToString::to_string).collect();
    let run = move || mks_patiently(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

async fn alter(cluster: &Cluster, n: &str) {
    let output = done(cluster, &["keyspace", "alter", "default", "--n", n]).await;
    assert_eq!(output.status, 0, "{output:?}");
}

/// What `mks --json ARGUMENTS` says; nothing, if it fails.
async fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let output = done(cluster, &[&["--json"], arguments].concat()).await;
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Until the keyspace has so many copies, and nobody holds more than its own.
async fn made(cluster: &Cluster, n: u64) {
    cluster
        .eventually("the copies are made", async |cluster| {
            let keyspace = &json(cluster, &["keyspace", "list"]).await[0];
            let moves = json(cluster, &["moves"]).await;
            (&keyspace["n"], &keyspace["next"]) == (&n.into(), &Value::Null)
                && moves["over"] == true
                && moves["silent"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_in_place_of_three_and_back_under_load_and_no_write_is_lost() {
    let mut cluster = Cluster::of(3);
    let clients: Vec<Client> = (1..=2).map(|id| cluster.node(id).client()).collect();
    let contest = Contest::start(&clients, 2, KEYS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (n, killed) in [(2, 2), (3, 3)] {
        alter(&cluster, &n.to_string()).await;
        cluster.node_mut(killed).kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.node_mut(killed).start();
        cluster.node_mut(killed).wait_ready();
        made(&cluster, n).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let history = contest.stop().await;
    assert!(history.acknowledged() > 100, "only {} writes: that proves nothing", history.acknowledged());
    let owners: Vec<Client> = (1..=3).map(|id| cluster.node(id).client()).collect();
    history.assert_settled(&cluster, &owners).await;
    let told = done(&cluster, &["epoch"]).await.text();
    assert!(told.contains("gets 2 copies, and had 3") && told.contains("gets 3 copies, and had 2"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_there_can_never_be_are_refused_with_the_reason() {
    let cluster = Cluster::of(3);
    for (arguments, why) in [
        (&["--n", "4"][..], "3 members that own data"),
        (&["--n", "6"], "1 to 5"),
        (&["--n", "2", "--r", "3"], "r = 3"),
        (&["--n", "2", "--w", "3"], "w = 3"),
    ] {
        let output = done(&cluster, &[&["keyspace", "alter", "default"], arguments].concat()).await;
        assert!(output.status != 0 && output.stderr.contains(why), "{arguments:?}: {output:?}");
    }
    let keyspace = &json(&cluster, &["keyspace", "list"]).await[0];
    assert_eq!((&keyspace["n"], &keyspace["next"]), (&3.into(), &Value::Null), "nothing has changed");
}
