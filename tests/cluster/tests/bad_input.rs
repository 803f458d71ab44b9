//! Bad input on every port: a typed error or a counted drop, nothing lost, node alive.

use bytes::Bytes;
use mks_proto::v1::batch_result::Result as ItemResult;
use mks_proto::v1::peer_client::PeerClient;
use mks_proto::v1::{BatchItem, BatchRequest, ControlRequest, Frame, GetRequest, PutRequest};
use mks_tests_cluster::{Client, Cluster, Failure, Node, get_request, key, metric_sum, put_request};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use tonic::Code;

/// Reproducible noise (an xorshift generator).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let next = |_| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 32) as u8
        };
        (0..count).map(next).collect()
    }
}

/// Every node lives, serves, and still has the value.
async fn assert_unharmed(cluster: &mut Cluster) {
    for node in cluster.nodes() {
        assert!(node.running() && node.is_ready(), "node {} serves", node.id());
    }
    for id in 1..=3 {
        let client = cluster.node(id).client();
        assert_eq!(client.get("kept").await.unwrap().as_deref(), Some("through noise"), "node {id}");
        client.put(&format!("new-{id}"), "value").await.unwrap();
    }
    cluster
        .eventually("everybody is seen alive", async |cluster| {
            let members = cluster.node(1).client().members().await;
            members.is_ok_and(|members| members.len() == 3 && members.iter().all(|member| member.alive))
        })
        .await;
}

async fn cluster_with_data() -> Cluster {
    let cluster = Cluster::of(3);
    cluster.node(1).client().put("kept", "through noise").await.unwrap();
    cluster
}

fn dropped(node: &Node) -> f64 {
    metric_sum(&node.metrics(), "mks_gossip_dropped_total", &[])
}

/// Sends bytes and reads until the other side has had enough.
fn talk(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    // The node may hang up at any point; whether it does is its business.
    drop(stream.write_all(bytes));
    drop(stream.read(&mut [0; 4_096]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_bytes_on_every_tcp_port_harm_nothing() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut cluster = cluster_with_data().await;
    let mut noise = Noise(7);
    for id in 1..=3 {
        let node = cluster.node(id);
        for address in [node.client_address(), node.peer_address(), node.http_address()] {
            for size in [0, 1, 9, 500, 100_000] {
                talk(address, &noise.bytes(size));
            }
            // Far enough into the protocol to reach the framing behind it.
            talk(address, &[PREFACE, &noise.bytes(2_000)].concat());
            // A settings frame, then a frame that claims 16 MiB.
            talk(address, &[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0xff; 64]].concat());
            talk(address, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nTransfer-Encoding: nonsense\r\n\r\n");
            talk(address, &[b"GET /get?key=", "%".repeat(100_000).as_bytes(), b" HTTP/1.1\r\n\r\n"].concat());
        }
    }
    assert_unharmed(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_datagrams_are_dropped_and_counted() {
    let mut cluster = cluster_with_data().await;
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let mut noise = Noise(11);
    let before = dropped(cluster.node(2));
    for size in [0, 1, 10, 28, 29, 60, 200, 1_400, 9_000, 65_000] {
        for _ in 0..20 {
            socket.send_to(&noise.bytes(size), cluster.node(2).peer_address()).unwrap();
        }
    }
    cluster.eventually("drops are counted", async |cluster| dropped(cluster.node(2)) > before + 50.0).await;
    assert_unharmed(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn true_datagrams_that_are_truncated_changed_or_replayed_are_dropped_and_counted() {
    let mut cluster = cluster_with_data().await;
    // In a dead node's place, the test hears what its peers really say.
    let place = cluster.node(3).peer_address();
    cluster.node_mut(3).kill();
    let ear = UdpSocket::bind(place).unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut heard = Vec::new();
    let mut buffer = [0; 65_536];
    while heard.len() < 5 {
        let length = ear.recv(&mut buffer).expect("the others probe the dead node");
        heard.push(buffer[..length].to_vec());
    }

    let before = dropped(cluster.node(1)) + dropped(cluster.node(2));
    let mut sent = 0.0;
    for original in &heard {
        for cut in 0..original.len() {
            let mut changed = original.clone();
            changed[cut] ^= 1 << (cut % 8);
            for target in [cluster.node(1).peer_address(), cluster.node(2).peer_address()] {
                ear.send_to(&original[..cut], target).unwrap();
                ear.send_to(&changed, target).unwrap();
                ear.send_to(original, target).unwrap();
                sent += 3.0;
            }
            // Faster than a node reads, the kernel would drop them and prove nothing.
            if cut % 8 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    cluster
        .eventually("most of them arrived and were dropped", async |cluster| {
            dropped(cluster.node(1)) + dropped(cluster.node(2)) > before + sent / 2.0
        })
        .await;
    drop(ear);
    cluster.node_mut(3).start();
    cluster.wait_ready();
    assert_unharmed(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_without_the_key_gets_nothing_from_the_peer_port() {
    let mut cluster = cluster_with_data().await;
    let address = format!("http://{}", cluster.node(1).peer_address());
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut peer = PeerClient::new(channel);
    let frames = tokio_stream::iter(vec![Frame::default(); 10]);
    let outcome = match peer.stream(frames).await {
        // The refusal may come after the response has begun.
        Ok(response) => response.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    let status = outcome.expect_err("a stream without proof of the key is refused");
    assert!(matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied), "{status:?}");
    let status =
        peer.control(ControlRequest::default()).await.expect_err("control without proof of the key is refused");
    assert!(matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied), "{status:?}");
    assert_unharmed(&mut cluster).await;
}

async fn refused(client: &Client, request: PutRequest) -> Failure {
    client.put_with(request).await.expect_err("a request that makes no sense is refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_beyond_a_limit_are_refused_and_sizes_at_it_are_not() {
    let mut cluster = cluster_with_data().await;
    let client = cluster.node(1).client();
    for (key_bytes, value_bytes) in [(4 << 10, 1), (1, 4 << 20), (4 << 10, 4 << 20)] {
        let put = put_request(key("", vec![b'k'; key_bytes]), vec![b'v'; value_bytes]);
        client.put_with(put).await.expect("what is as large as allowed is taken");
    }
    for (key_bytes, value_bytes) in [((4 << 10) + 1, 1), (1, (4 << 20) + 1), (1, 40 << 20)] {
        let failure = refused(&client, put_request(key("", vec![b'k'; key_bytes]), vec![b'v'; value_bytes])).await;
        let typed = matches!(failure.code, Code::ResourceExhausted | Code::OutOfRange | Code::InvalidArgument);
        assert!(typed, "key of {key_bytes}, value of {value_bytes}: {failure:?}");
    }
    let failure = refused(&client, put_request(key("", vec![b'k'; 5_000]), "v")).await;
    assert_eq!(failure.reason(), "TOO_LARGE", "{failure:?}");
    assert!(failure.message.contains("5000") && failure.message.contains("4096"), "{}", failure.message);

    let item = |size: usize, i: usize| BatchItem {
        key: Some(key("", format!("item-{i}"))),
        value: Some(Bytes::from(vec![b'v'; size])),
        ..BatchItem::default()
    };
    for (count, size, fine) in [(1_000, 10, true), (1_001, 10, false), (10, 2 << 20, false)] {
        let request = BatchRequest { items: (0..count).map(|i| item(size, i)).collect(), options: None };
        let outcome = client.kv.clone().batch(request).await.map_err(Failure::from);
        match outcome {
            Ok(response) => {
                let results = response.into_inner().results;
                assert!(fine, "{count} items of {size} bytes were taken");
                let good = |r: &&_| matches!(r, mks_proto::v1::BatchResult { result: Some(ItemResult::Written(_)) });
                assert_eq!(results.iter().filter(good).count(), count, "{:?}", results.first());
            }
            Err(failure) => {
                assert!(!fine, "{count} items of {size} bytes: {failure:?}");
                // A message beyond what any request may be is not even read.
                let typed = matches!(failure.code, Code::ResourceExhausted | Code::OutOfRange);
                assert!(typed, "{count} items of {size} bytes: {failure:?}");
            }
        }
    }
    assert_unharmed(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_contradict_themselves_are_refused() {
    let mut cluster = cluster_with_data().await;
    let client = cluster.node(1).client();
    let with = |change: &dyn Fn(&mut PutRequest)| {
        let mut request = put_request(key("", "k"), "v");
        change(&mut request);
        request
    };
    let wrong: [(&str, PutRequest); 6] = [
        ("no key", with(&|r| r.key = None)),
        ("an empty key", with(&|r| r.key = Some(key("", "")))),
        ("a deadline of zero", with(&|r| r.options.as_mut().unwrap().deadline_ms = Some(0))),
        ("a deadline of a thousand years", with(&|r| r.options.as_mut().unwrap().deadline_ms = Some(1 << 45))),
        ("half a request id", with(&|r| r.options.as_mut().unwrap().request_id = Bytes::from_static(&[1; 8]))),
        ("a durability that does not exist", with(&|r| r.options.as_mut().unwrap().durability = 77)),
    ];
    for (what, request) in wrong {
        let failure = refused(&client, request).await;
        assert_eq!((failure.code, failure.reason()), (Code::InvalidArgument, "INVALID"), "{what}: {failure:?}");
        assert!(!failure.message.is_empty(), "{what}: people are told");
    }
    let failure = client.get_with(GetRequest { key: None, options: None }).await.unwrap_err();
    assert_eq!(failure.reason(), "INVALID", "{failure:?}");
    // A gRPC deadline that is over when the request arrives.
    let mut late = tonic::Request::new(get_request(key("", "kept")));
    late.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let status = client.kv.clone().get(late).await.expect_err("no time, no answer");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");

    let counted = metric_sum(&cluster.node(1).metrics(), "mks_malformed_inputs_total", &["surface=\"grpc\""]);
    assert!(counted >= 6.0, "malformed input is counted: {counted}");
    assert_unharmed(&mut cluster).await;
}
