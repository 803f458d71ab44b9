//! The HTTP routes, asked with curl.

use mks_tests_cluster::{Cluster, curl, metric};

#[test]
fn keys_are_set_and_got_as_curl_users_expect() {
    let cluster = Cluster::of(3);
    let (first, last) = (cluster.node(1), cluster.node(3));
    assert_eq!(curl(&[&first.url("/set?key=a&value=1")]).status, 200);
    let got = curl(&[&last.url("/get?key=a")]);
    assert_eq!((got.status, got.text().trim()), (200, "1"));
    assert_eq!(curl(&["--request", "POST", &last.url("/set?key=a&value=two%20words")]).status, 200);
    assert_eq!(curl(&[&first.url("/get?key=a")]).text().trim(), "two words");
    assert_eq!(curl(&[&first.url("/get?key=absent")]).status, 404);
    for path in ["/get", "/get?value=1", "/set?key=a", "/set"] {
        let refused = curl(&[&first.url(path)]);
        assert_eq!(refused.status, 400, "{path}: {}", refused.text());
    }
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(curl(&[&first.url(path)]).status, 200, "{path}");
    }
    assert_eq!(curl(&[&first.url("/no-such-page")]).status, 404);
}

#[test]
fn values_of_any_bytes_and_size_travel_as_raw_bodies() {
    let cluster = Cluster::of(3);
    let node = cluster.node(2);
    let path = cluster.path("value.bin");
    let at = format!("@{}", path.display());
    let url = node.url("/v1/keyspaces/default/keys/some%2Fkey%20with%20%C3%BC");
    // Up to the limit of 4 MiB, and one byte beyond.
    for size in [0, 1, 70_000, 4 << 20] {
        let value: Vec<u8> = (0..size).map(|i: usize| (i * 31 + size) as u8).collect();
        std::fs::write(&path, &value).unwrap();
        let put = curl(&["--request", "PUT", "--data-binary", &at, &url]);
        assert!((200..300).contains(&put.status), "put of {size} bytes: {} {}", put.status, put.text());
        let got = curl(&[&url]);
        assert_eq!(got.status, 200, "get of {size} bytes");
        assert!(got.stdout == value, "{size} bytes came back as they went");
    }
    std::fs::write(&path, vec![7; (4 << 20) + 1]).unwrap();
    let refused = curl(&["--request", "PUT", "--data-binary", &at, &url]);
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert_eq!(curl(&[&url]).stdout.len(), 4 << 20, "what was there is still there");

    assert!((200..300).contains(&curl(&["--request", "DELETE", &url]).status));
    assert_eq!(curl(&[&url]).status, 404);
    assert_eq!(curl(&["--request", "PATCH", &url]).status, 405);
}

#[test]
fn nonsense_over_http_is_answered_and_counted() {
    let mut cluster = Cluster::of(1);
    let node = cluster.node(1);
    let long = format!("/v1/keyspaces/default/keys/{}", "k".repeat(5_000));
    let wrong = [
        ("/v1/keyspaces/no-such/keys/a", "GET"),
        ("/v1/keyspaces/%00/keys/a", "GET"),
        ("/v1/keyspaces/default/keys/", "GET"),
        (&long, "GET"),
        ("/v1/keyspaces/default/keys/a?w=9", "PUT"),
        ("/v1/keyspaces/default/keys/a?w=many", "PUT"),
        ("/v1/keyspaces/default/keys/a?deadline_ms=0", "PUT"),
    ];
    for (path, method) in wrong {
        let refused = curl(&["--request", method, &node.url(path)]);
        assert!((400..500).contains(&refused.status), "{method} {path}: {} {}", refused.status, refused.text());
        assert!(refused.text().len() > 10 || refused.status == 405, "{method} {path} says why: {}", refused.text());
    }
    let counted = metric(&node.metrics(), "mks_malformed_inputs_total", &["surface=\"http\""]);
    assert!(counted >= 1.0, "malformed input is counted: {counted}");
    assert!(cluster.node_mut(1).running());
}
