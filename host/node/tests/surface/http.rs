//! The HTTP surface.

use super::fake::{FakeNode, HELD, until};
use mks::metrics::Surface;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Page {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Page {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn error(&self) -> (u16, String) {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let error = &json["error"];
        assert_eq!(error["code"], self.status, "{json}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
        (self.status, error["reason"].as_str().unwrap().to_owned())
    }
}

/// Sends bytes as they are and reads until the node closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A node that refuses early may have closed its side already.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

fn parse(answer: &[u8]) -> Page {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("the end of the headers");
    let mut lines = std::str::from_utf8(&answer[..end]).unwrap().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())).unwrap();
    Page { status, headers: lines.map(header).collect(), body: answer[end + 4..].to_vec() }
}

pub(crate) async fn ask_with(node: &FakeNode, method: &str, path: &str, headers: &str, body: &[u8]) -> Page {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    parse(&raw(node.http, &[head.as_bytes(), body].concat()).await)
}

pub(crate) async fn ask(node: &FakeNode, method: &str, path: &str) -> Page {
    ask_with(node, method, path, "", b"").await
}

const KEYS: &str = "/v1/keyspaces/default/keys";

#[tokio::test]
async fn text_is_set_and_got_as_in_a_browser() {
    let node = FakeNode::start().await;
    assert_eq!(ask(&node, "GET", "/get?key=a").await.error(), (404, "NOT_FOUND".into()));
    assert_eq!(ask(&node, "GET", "/set?key=a&value=caf%C3%A9+au+lait").await.text(), "ok\n");
    let page = ask(&node, "GET", "/get?key=a").await;
    assert_eq!((page.status, page.text()), (200, "café au lait"));
    assert_eq!(page.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");

    let form = "content-type: application/x-www-form-urlencoded\r\n";
    for (path, headers, body) in [
        ("/set?key=b&value=1", "", ""),
        ("/set", form, "key=b&value=1"),
        ("/set?key=b", "content-type: text/plain\r\n", "1"),
        // What `curl --data` sends when the key is in the path.
        ("/set?key=b", form, "1"),
    ] {
        ask(&node, "GET", "/set?key=b&value=0").await;
        assert_eq!(ask_with(&node, "POST", path, headers, body.as_bytes()).await.status, 200, "{path} {body}");
        assert_eq!(ask(&node, "GET", "/get?key=b").await.text(), "1", "{path} {body}");
    }
    node.stopped().await;
}

#[tokio::test]
async fn raw_bodies_of_any_size_are_kept_as_they_are() {
    let node = FakeNode::start().await;
    let path = format!("{KEYS}/%00%2F%FF?sort=%01");
    for size in [0, 1, 100_000, 4 << 20] {
        let value: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let page = ask_with(&node, "PUT", &path, "", &value).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let written: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        assert!(written["written"].is_string() && written["acks"] == 2, "{written}");
        let page = ask(&node, "GET", &path).await;
        assert!(page.body == value, "{size} bytes came back as {}", page.body.len());
        assert_eq!(page.headers["content-type"], "application/octet-stream");
        assert_eq!(page.headers["mks-written"], "7");
    }
    assert_eq!(ask(&node, "GET", &format!("{KEYS}/%00%2F%FF")).await.status, 404, "the sort key is part of the key");
    assert_eq!(ask(&node, "DELETE", &path).await.status, 200);
    assert_eq!(ask(&node, "GET", &path).await.error(), (404, "NOT_FOUND".into()));
}

#[tokio::test]
async fn the_options_in_the_query_reach_the_pump() {
    let node = FakeNode::start().await;
    let query = "w=3&durability=sync&ttl_ms=9&deadline_ms=70&request_id=0000000000000000000000000000000a";
    ask_with(&node, "PUT", &format!("{KEYS}/k?{query}"), "", b"v").await;
    ask(&node, "GET", &format!("{KEYS}/k?r=1&deadline_ms=80")).await;
    let seen = node.seen();
    assert_eq!((seen[0].quorum, seen[0].ttl_ms, seen[0].deadline_ms), (Some(3), Some(9), Some(70)));
    assert_eq!(seen[0].durability, Some(mks_logic::port::Durability::Sync));
    assert_eq!(seen[0].request_id, Some(10));
    assert_eq!((seen[1].quorum, seen[1].deadline_ms), (Some(1), Some(80)));
}

#[tokio::test]
async fn siblings_are_announced() {
    let node = FakeNode::start().await;
    ask_with(&node, "PUT", &format!("{KEYS}/siblings"), "", b"v").await;
    let found = ask(&node, "GET", &format!("{KEYS}/siblings")).await;
    assert_eq!((found.status, &*found.headers["mks-siblings"]), (300, "1"));
    let all: serde_json::Value = serde_json::from_slice(&found.body).unwrap();
    assert_eq!(all["siblings"].as_array().map(Vec::len), Some(2));
    assert_eq!((&all["siblings"][0]["value"], &all["siblings"][1]["value_base64"]), (&"v".into(), &"b3RoZXI=".into()));
}

/// Each is answered with a status that fits and a typed reason, counted, and never seen by the pump.
#[tokio::test]
async fn bad_input_is_an_error_and_nothing_else() {
    let node = FakeNode::start().await;
    let long = "x".repeat(4_097);
    let mut expected = 0;
    for (method, path, status, reason) in [
        ("GET", "/", 404, "NO_SUCH_PATH"),
        ("GET", "/v1/keyspaces/default/keys/", 404, "NO_SUCH_PATH"),
        ("GET", "/v1/keyspaces/default/keys/a/b", 404, "NO_SUCH_PATH"),
        ("GET", "/v1/keyspaces/../../etc/passwd", 404, "NO_SUCH_PATH"),
        ("GET", "/v1/keyspaces/..%2F..%2Fetc/keys/passwd", 404, "UNKNOWN_KEYSPACE"),
        ("GET", "/v1/keyspaces/%00/keys/k", 404, "UNKNOWN_KEYSPACE"),
        ("PUT", "/v1/keyspaces/nowhere/keys/k", 404, "UNKNOWN_KEYSPACE"),
        ("GET", "/v1/keyspaces/%FF/keys/k", 400, "INVALID"),
        ("GET", "/get", 400, "INVALID"),
        ("GET", "/get?key=", 400, "INVALID"),
        ("GET", "/get?key=a&key=b", 400, "INVALID"),
        ("GET", "/get?kye=a", 400, "INVALID"),
        ("GET", "/set?key=a", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?w=0", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?w=4", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?w=-1", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?ttl=5", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?durability=disk", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?deadline_ms=0", 400, "INVALID"),
        ("PUT", "/v1/keyspaces/default/keys/k?request_id=7", 400, "INVALID"),
        ("GET", "/v1/keyspaces/default/keys/k?r=9", 400, "INVALID"),
        ("DELETE", "/v1/keyspaces/default/keys/k?ttl_ms=5", 400, "INVALID"),
        ("GET", &format!("/get?key={long}"), 413, "TOO_LARGE"),
        ("PUT", &format!("{KEYS}/k?sort={long}"), 413, "TOO_LARGE"),
        ("PUT", "/get?key=a", 405, "WRONG_METHOD"),
        ("POST", "/v1/keyspaces/default/keys/k", 405, "WRONG_METHOD"),
        ("DELETE", "/metrics", 405, "WRONG_METHOD"),
    ] {
        let page = ask(&node, method, path).await;
        assert_eq!(page.error(), (status, reason.into()), "{method} {path}: {}", page.text());
        assert_eq!(page.headers.contains_key("allow"), status == 405, "{method} {path}");
        expected += 1;
        assert_eq!(node.handle.metrics.malformed_count(Surface::Http), expected, "{method} {path}");
    }
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn faults_of_the_cluster_have_a_status_that_fits() {
    let node = FakeNode::start().await;
    for (key, status, reason, retry) in [
        ("timeout", 504, "TIMEOUT", false),
        ("lost", 503, "QUORUM_LOST", false),
        ("busy", 503, "BUSY", true),
        ("no-owner", 503, "NO_OWNER", false),
        ("under-way", 409, "UNDER_WAY", false),
    ] {
        let page = ask_with(&node, "PUT", &format!("{KEYS}/{key}"), "", b"v").await;
        assert_eq!(page.error(), (status, reason.into()));
        assert_eq!(page.headers.contains_key("retry-after"), retry, "{key}");
    }
    let page = ask_with(&node, "PUT", &format!("{KEYS}/lost"), "", b"v").await;
    let json: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
    assert_eq!(
        (&json["error"]["acks"], &json["error"]["needed"], &json["error"]["owners"]),
        (&1.into(), &2.into(), &3.into())
    );
}

#[tokio::test]
async fn an_oversized_body_is_refused_before_it_is_sent() {
    let node = FakeNode::start().await;
    let head = format!("PUT {KEYS}/k HTTP/1.1\r\nhost: n\r\ncontent-length: 99999999999\r\n\r\n");
    let page = parse(&raw(node.http, head.as_bytes()).await);
    assert_eq!(page.error(), (413, "TOO_LARGE".into()));

    // Nobody knows how long a chunked body will be; it is cut off at the limit.
    let chunk = [&b"100000\r\n"[..], &[0; 1 << 20], b"\r\n"].concat();
    let head = format!("PUT {KEYS}/k HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n");
    let bytes = [head.as_bytes(), &chunk.repeat(5)].concat();
    let mut stream = TcpStream::connect(node.http).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let (_, answer) = tokio::join!(writer.write_all(&bytes), async {
        let mut answer = vec![0; 4_096];
        let count = reader.read(&mut answer).await.unwrap();
        answer.truncate(count);
        answer
    });
    assert_eq!(parse(&answer).status, 413);
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn a_page_of_another_site_can_not_write() {
    let node = FakeNode::start().await;
    let foreign = "sec-fetch-site: cross-site\r\n";
    for (method, path) in
        [("GET", "/set?key=a&value=b"), ("POST", "/set?key=a&value=b"), ("PUT", "/v1/keyspaces/default/keys/a")]
    {
        assert_eq!(
            ask_with(&node, method, path, foreign, b"").await.error(),
            (403, "CROSS_SITE".into()),
            "{method} {path}"
        );
    }
    assert!(node.seen().is_empty());
    assert_eq!(ask_with(&node, "GET", "/set?key=a&value=b", "sec-fetch-site: none\r\n", b"").await.status, 200);
}

#[tokio::test]
async fn garbage_is_answered_or_cut_off_and_counted() {
    let node = FakeNode::start().await;
    let many_headers = format!("GET /health HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let long_header = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(1 << 20));
    let put = format!("PUT {KEYS}/k HTTP/1.1\r\nhost: n\r\n");
    let two_lengths = format!("{put}content-length: 1\r\ncontent-length: 2\r\n\r\nx");
    let bad_chunk = format!("{put}connection: close\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n");
    let inputs = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        many_headers.as_bytes(),
        long_header.as_bytes(),
        two_lengths.as_bytes(),
        bad_chunk.as_bytes(),
    ];
    for (i, input) in inputs.into_iter().enumerate() {
        let before = node.handle.metrics.malformed_count(Surface::Http);
        let answer = raw(node.http, input).await;
        let status = if answer.is_empty() { 0 } else { parse(&answer).status };
        assert!(status == 0 || (400..=505).contains(&status), "input {i}: {status}");
        until("it is counted", || node.handle.metrics.malformed_count(Surface::Http) > before).await;
    }
    assert!(node.seen().is_empty());
    assert_eq!(ask(&node, "GET", "/health").await.text(), "ok\n");
}

#[tokio::test]
async fn readiness_says_why_not() {
    let node = FakeNode::start_forming().await;
    let page = ask(&node, "GET", "/ready").await;
    assert_eq!(page.error(), (503, "NOT_READY".into()));
    assert!(page.text().contains("2 of 3"), "{}", page.text());
    assert_eq!(page.headers["retry-after"], "1");
    assert_eq!(ask(&node, "GET", "/health").await.status, 200, "a forming node is healthy");
    assert_eq!(ask(&node, "GET", "/set?key=a&value=b").await.error(), (503, "FORMING".into()));

    let node = FakeNode::start_opening().await;
    let page = ask(&node, "GET", "/ready").await;
    assert_eq!(page.error(), (503, "NOT_READY".into()));
    assert!(page.text().contains("7 of about 12"), "{}", page.text());
    let refused = ask(&node, "GET", "/get?key=a").await;
    assert_eq!(refused.error(), (503, "NOT_ADMITTED".into()), "at once: nobody would answer before it serves");

    let node = FakeNode::start().await;
    assert_eq!(ask(&node, "GET", "/ready").await.text(), "ready\n");
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads() {
    let node = FakeNode::start().await;
    ask(&node, "GET", "/nowhere").await;
    let page = ask(&node, "GET", "/metrics").await;
    assert!(page.headers["content-type"].starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(page.text().contains(r#"mks_malformed_inputs_total{surface="http"} 1"#), "{}", page.text());
    assert!(page.text().contains("mks_process_resident_bytes "), "{}", page.text());
}

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_node_stops() {
    let node = FakeNode::start().await;
    let head =
        format!("PUT {KEYS}/{} HTTP/1.1\r\nhost: n\r\ncontent-length: 1\r\n\r\nv", str::from_utf8(HELD).unwrap());
    let request = tokio::spawn({
        let address = node.http;
        async move { parse(&raw(address, head.as_bytes()).await).status }
    });
    until("it is under way", || node.held() == 1).await;
    node.stop();
    node.release();
    assert_eq!(request.await.unwrap(), 200);
    node.stopped().await;
}
