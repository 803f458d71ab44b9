//! The `mks` command line against real nodes: what scripts rely on.

use mks_tests_cluster::{Cluster, mks_at, mks_binary, mks_json, run};
use serde_json::Value;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const TIMEOUT: i32 = 4;
const UNREACHABLE: i32 = 5;

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let mut cluster = Cluster::of(3);
    let address = cluster.node(1).client_address().to_string();
    assert_eq!(mks_at(&address, &["put", "k", "v"]).status, 0);
    let got = mks_at(&address, &["get", "k"]);
    assert_eq!((got.status, got.text().as_str()), (0, "v"), "raw bytes and nothing else");
    assert_eq!(mks_at(&address, &["get", "absent"]).status, NOT_FOUND);
    assert_eq!(mks_at(&address, &["del", "k"]).status, 0);
    assert_eq!(mks_at(&address, &["get", "k"]).status, NOT_FOUND);
    assert_eq!(mks_at(&address, &["del", "absent"]).status, 0, "removing what is absent is fine");
    assert_eq!(mks_at(&address, &["put", "k"]).status, USAGE);
    assert_eq!(mks_at(&address, &["get", "k", "--keyspace", "no-such"]).status, REFUSED);
    assert_eq!(mks_at(&address, &["put", "k", "v", "--w", "4"]).status, REFUSED);

    cluster.node_mut(3).kill();
    let late = mks_at(&address, &["put", "k", "v", "--w", "3", "--deadline", "1s"]);
    assert_eq!(late.status, TIMEOUT, "{late:?}");
    assert!(late.stderr.contains("2 of the 3"), "it says how many owners hold it: {}", late.stderr);
    let dead = cluster.node(3).client_address().to_string();
    let unreachable = mks_at(&dead, &["get", "k"]);
    assert_eq!(unreachable.status, UNREACHABLE, "{unreachable:?}");
    assert!(unreachable.stderr.contains(&dead), "it says whom it tried: {}", unreachable.stderr);
    // With several addresses the dead one is passed over.
    assert_eq!(mks_at(&format!("{dead},{address}"), &["put", "k", "again"]).status, 0);
}

#[test]
fn tables_are_for_people_and_json_is_for_scripts() {
    let cluster = Cluster::of(3);
    let addresses = cluster.addresses();
    for command in [vec!["status"], vec!["ring"], vec!["keyspace", "list"]] {
        let people = mks_at(&addresses, &command);
        assert_eq!(people.status, 0, "{command:?}: {people:?}");
        assert!(serde_json::from_slice::<Value>(&people.stdout).is_err(), "{command:?} for people is no JSON");
        assert!(!mks_json(&addresses, &command).is_null(), "{command:?}");
    }
    let status = mks_at(&addresses, &["status"]).text();
    for id in 1..=3 {
        let address = cluster.node(id).client_address().to_string();
        assert!(status.contains(&address), "status shows where node {id} is:\n{status}");
    }
    let put = mks_json(&addresses, &["put", "json", "v"]);
    assert!(put["acks"].as_u64() >= Some(2), "{put}");
    assert_eq!(mks_json(&addresses, &["get", "json"])["value"], "v");
    let error = mks_at(&addresses, &["--json", "get", "json", "--keyspace", "no-such"]);
    assert_eq!(error.status, REFUSED);
    let shown: Value = serde_json::from_str(error.stderr.trim()).unwrap();
    assert!(shown["error"].is_object(), "errors are JSON too: {shown}");
}

#[test]
fn a_batch_comes_from_a_file_or_from_standard_input() {
    let cluster = Cluster::of(3);
    let addresses = cluster.addresses();
    let lines: String = (0..1_200).map(|i| format!("{{\"put\": \"b{i}\", \"value\": \"value {i}\"}}\n")).collect();
    let file = cluster.path("batch.jsonl");
    std::fs::write(&file, lines).unwrap();
    let loaded = mks_at(&addresses, &["batch", &file.to_string_lossy()]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    assert_eq!(mks_at(&addresses, &["get", "b0"]).text(), "value 0");
    assert_eq!(mks_at(&addresses, &["get", "b1199"]).text(), "value 1199");

    let piped = b"{\"delete\": \"b0\"}\n\n{\"put\": \"b1\", \"value_base64\": \"AAH/\"}\n";
    let loaded = run(mks_binary(), &["--addr", &addresses, "batch", "-"], piped);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    assert_eq!(mks_at(&addresses, &["get", "b0"]).status, NOT_FOUND);
    assert_eq!(mks_at(&addresses, &["get", "b1"]).stdout, [0, 1, 255]);

    let nonsense = run(mks_binary(), &["--addr", &addresses, "batch"], b"{\"put\": \"b2\"}\n");
    assert_ne!(nonsense.status, 0, "a put without a value is refused");
    assert_eq!(mks_at(&addresses, &["get", "b2"]).text(), "value 2", "and changes nothing");
}

#[test]
fn keyspaces_are_made_and_changed_by_hand() {
    let cluster = Cluster::of(3);
    let addresses = cluster.addresses();
    let made = mks_at(&addresses, &["keyspace", "create", "seats", "--resolver", "first-write-wins"]);
    assert_eq!(made.status, 0, "{made:?}");
    for value in ["first", "second"] {
        assert_eq!(mks_at(&addresses, &["put", "4A", value, "--keyspace", "seats"]).status, 0);
    }
    assert_eq!(mks_at(&addresses, &["get", "4A", "--keyspace", "seats"]).text(), "first");
    let altered = mks_at(&addresses, &["keyspace", "alter", "seats", "--w", "3"]);
    assert_eq!(altered.status, 0, "{altered:?}");
    let listed = mks_json(&addresses, &["keyspace", "list"]).to_string();
    assert!(listed.contains("seats") && listed.contains("first-write-wins"), "{listed}");
}
