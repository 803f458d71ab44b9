//! Who belongs to the cluster: what operators see and ask, and directories that must not come back.

use mks_tests_cluster::{Cluster, NodeSetup, mks_at, mks_json};
use std::path::Path;
use std::process::Command;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(status.expect("there is a cp command").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_data_directory_is_refused_and_hurts_nobody() {
    let mut cluster = Cluster::of(3);
    cluster.node(1).client().put("before", "1").await.expect("three of three");
    let copied = cluster.path("copy");
    assert!(cluster.node_mut(3).terminate().success());
    copy(&cluster.node(3).data_dir(), &copied);
    cluster.node_mut(3).start();
    cluster.wait_ready();
    // The cluster goes on, so the copy is behind in the epoch log too.
    for i in 0..5 {
        cluster.node(1).client().create_keyspace(&format!("since-{i}"), "lww").await.expect("a majority is up");
    }
    cluster.node_mut(3).kill();
    let lost = cluster.path("lost");
    cluster.node_mut(3).take_data_dir(&lost);
    copy(&copied, &cluster.node(3).data_dir());
    let log = cluster.node_mut(3).start_refused();
    assert!(log.contains("old copy") && log.contains("replace n3"), "it says what it is and what to do:\n{log}");

    for id in [1, 2] {
        assert!(cluster.node_mut(id).running(), "node {id} outlives it:\n{}", cluster.node(id).log_tail());
        assert_eq!(cluster.node(id).client().get("before").await.expect("two of three").as_deref(), Some("1"));
    }
    cluster.node(2).client().create_keyspace("after", "lww").await.expect("the log goes on");
    // The directory that it really left is still good.
    std::fs::remove_dir_all(cluster.node(3).data_dir()).expect("it is the test's own");
    std::fs::rename(&lost, cluster.node(3).data_dir()).expect("both lie in the test's directory");
    cluster.node_mut(3).start();
    cluster.node_mut(3).wait_ready();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_who_is_there_what_changed_and_what_a_change_would_move() {
    let mut cluster = Cluster::of(3);
    cluster.add(4, &NodeSetup::joiner(&[1])).start();
    cluster.wait_ready();
    let addresses = cluster.node(1).client_address().to_string();
    let members = mks_json(&addresses, &["node", "list"]);
    let standings: Vec<_> = members.as_array().unwrap().iter().map(|m| m["standing"].as_str().unwrap()).collect();
    assert_eq!(standings, ["up", "up", "up", "joining"]);
    let warnings = mks_json(&addresses, &["status"])["warnings"].to_string();
    assert!(warnings.contains("n4 owns nothing"), "{warnings}");

    let epochs = mks_json(&addresses, &["epoch"]);
    let events = epochs["events"].as_array().unwrap();
    let joined = events.iter().find(|event| event["what"] == "n4 joined the roster").expect("it is in the history");
    assert_eq!(joined["who"], "n4");
    assert!(joined["at_ms"].as_u64() > Some(1_700_000_000_000), "{joined}");
    assert!(mks_at(&addresses, &["keyspace", "create", "ours"]).status == 0);
    let epochs = mks_at(&addresses, &["epoch"]).text();
    assert!(epochs.contains("keyspace \"ours\" was made") && epochs.contains('@'), "it names who asked:\n{epochs}");

    cluster
        .eventually("gossip has gone round", async |cluster| {
            let members = cluster.node(1).client().members().await;
            members.is_ok_and(|members| members.len() == 4 && members.iter().all(|member| member.alive))
        })
        .await;
    let plan = mks_json(&addresses, &["node", "accept", "4", "--plan"]);
    assert_eq!((plan["partitions"].as_u64(), plan["moved"].as_u64()), (Some(192), Some(192)), "{plan}");
    assert_eq!(plan["loads"].as_array().unwrap().len(), 4);
    assert!(mks_at(&addresses, &["node", "accept", "4", "--plan"]).text().contains("will own"));
    assert_eq!(mks_at(&addresses, &["node", "accept", "4", "--plan", "--wait"]).status, USAGE, "nothing to wait for");
    for (arguments, word) in [
        (vec!["node", "leave", "1"], "n = 3 copies"),
        (vec!["node", "leave", "9"], "no member n9"),
        (vec!["node", "leave", "2", "--dead"], "NODE_ALIVE"),
        (vec!["node", "replace", "2", "--by", "4"], "NODE_ALIVE"),
        (vec!["node", "accept", "2"], "STANDING"),
        (vec!["node", "accept", "4", "9"], "no member n9"),
        (vec!["node", "replace", "9", "--by", "4"], "no member n9"),
        (vec!["node", "weight", "9", "50"], "no member n9"),
    ] {
        for how in [&["--plan"][..], &[]] {
            let output = mks_at(&addresses, &[&arguments[..], how].concat());
            assert_eq!(output.status, REFUSED, "{arguments:?}: {output:?}");
            assert!(output.stderr.contains(word), "{arguments:?}: {}", output.stderr);
        }
    }
    let (seen, now) = (plan["epoch"].as_u64().unwrap(), mks_json(&addresses, &["epoch"])["epoch"].as_u64().unwrap());
    assert_eq!(seen, now, "a plan changes nothing");
    assert!(mks_at(&addresses, &["keyspace", "create", "since"]).status == 0);
    let stale = mks_at(&addresses, &["node", "accept", "4", "--planned-in", &seen.to_string()]);
    assert!(stale.status == REFUSED && stale.stderr.contains("STALE_PLAN"), "{stale:?}");
    let moves = mks_json(&addresses, &["moves"]);
    assert_eq!((&moves["asked"], &moves["over"]), (&0.into(), &true.into()), "nothing of all that was taken");
}
