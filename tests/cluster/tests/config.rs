//! A config that is wrong refuses to start, with the place and the reason; nothing is left behind.

use mks_tests_cluster::{Cluster, NodeSetup};

#[test]
fn wrong_settings_are_refused_with_the_place_and_the_reason() {
    let cluster = Cluster::empty();
    // What stands in the file, and words that the message must have.
    let mistakes: [(&str, &[&str]); 9] = [
        ("[node\nid = 1", &["mks.toml"]),
        ("[node]\nid = 1\nidd = 2", &["mks.toml", "idd"]),
        ("[nodes]\nid = 1", &["nodes"]),
        ("[node]\nid = \"one\"", &["id"]),
        ("[node]\nid = 0\ndata_dir = \"d\"", &["node.id"]),
        ("[node]\nid = 1", &["data_dir"]),
        ("[node]\nid = 1\ndata_dir = \"d\"\n[storage]\nadapter = \"leveldb\"", &["leveldb", "fjall"]),
        ("[node]\nid = 1\ndata_dir = \"d\"\n[cluster]\nbootstrap = true\njoin = [\"h:1\"]", &["bootstrap", "join"]),
        ("[node]\nid = 1\ndata_dir = \"d\"\n[limits]\nvalue_bytes_max = 1_000_000_000_000", &["value_bytes_max"]),
    ];
    let mut node = cluster.stranger(1, "mistaken", &NodeSetup::founder(1));
    for (text, words) in mistakes {
        node.configure(text);
        let log = node.start_refused();
        for word in words {
            assert!(log.contains(word), "the message must name {word:?} for\n{text}\nbut is\n{log}");
        }
        assert!(!node.data_dir().exists(), "nothing is made for\n{text}");
    }
}

#[test]
fn a_key_that_others_could_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let cluster = Cluster::empty();
    std::fs::set_permissions(cluster.key_path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let log = cluster.stranger(1, "open", &NodeSetup::founder(1)).start_refused();
    assert!(log.contains("chmod 600"), "the message says what to do:\n{log}");

    std::fs::remove_file(cluster.key_path()).unwrap();
    let log = cluster.stranger(2, "absent", &NodeSetup::founder(1)).start_refused();
    assert!(log.contains("cluster.key"), "the message names the file:\n{log}");
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    let cluster = Cluster::of(1);
    // Other directory and id, same ports.
    let mut second = cluster.stranger(9, "second", &NodeSetup::founder(1));
    let taken = cluster.node(1).client_address().to_string();
    second.set_arguments(&["--set", &format!("listen.client={taken}")]);
    let log = second.start_refused();
    assert!(log.contains(&taken), "the message names the address:\n{log}");
}

#[test]
fn another_cluster_key_is_no_way_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut cluster = Cluster::of(1);
    let key = cluster.path("other.key");
    std::fs::write(&key, "ab".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut stranger = cluster.stranger(2, "stranger", &NodeSetup::joiner(&[1]));
    stranger.set_arguments(&["--set", &format!("cluster.key_file={}", key.display())]);
    stranger.start();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(!stranger.is_ready(), "a node with another key serves nobody");
    let log = stranger.log();
    assert!(log.contains("key"), "it says what may be wrong:\n{log}");
    assert!(cluster.node(1).is_ready() && cluster.node_mut(1).running());
}
