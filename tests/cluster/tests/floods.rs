//! Too much of everything, from people who mean harm: others are served meanwhile, and the node is as before.

use mks_proto::v1::PutRequest;
use mks_tests_cluster::{Client, Cluster, Failure, Node, metric, put_request};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use tonic::Code;

/// How long a request of an honest client may take while others do harm; deadlines are longer.
const PATIENT: Duration = Duration::from_secs(3);
/// A node may grow by this much under attack, bytes.
const GROWTH_MAX: f64 = (96 << 20) as f64;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn resident(node: &Node) -> f64 {
    metric(&node.metrics(), "mks_process_resident_bytes", &[])
}

async fn assert_served(client: &Client, what: &str) {
    let begun = Instant::now();
    client.put("honest", what).await.unwrap();
    assert_eq!(client.get("honest").await.unwrap().as_deref(), Some(what));
    let took = begun.elapsed();
    assert!(took < PATIENT, "{what}: an honest client waited {took:?}");
}

/// A frame of HTTP/2: its kind, its flags, its stream, its payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a put: method, scheme, path and content type, uncompressed.
fn put_headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &str, value: &str| {
        block.extend([&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat());
    };
    literal(":path", "/mks.v1.Kv/Put");
    literal(":authority", "node");
    literal("te", "trailers");
    literal("content-type", "application/grpc");
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_as_fast_as_they_are_made_stop_nobody() {
    let mut cluster = Cluster::of(1);
    let client = cluster.node(1).client();
    assert_served(&client, "before").await;
    let (address, before) = (cluster.node(1).client_address(), resident(cluster.node(1)));
    let flood = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut sent = 0;
        if stream.write_all(&[PREFACE, SETTINGS].concat()).is_err() {
            return sent;
        }
        // HEADERS and RST_STREAM, a hundred pairs at a time.
        for stream_id in (1..40_000_u32).step_by(200) {
            let pairs = (0..100).flat_map(|i| {
                let id = stream_id + 2 * i;
                [frame(1, 4, id, &put_headers()), frame(3, 0, id, &8_u32.to_be_bytes())].concat()
            });
            // The node may hang up: that is the right answer.
            if stream.write_all(&pairs.collect::<Vec<u8>>()).is_err() {
                break;
            }
            sent += 100;
        }
        sent
    };
    let floods: Vec<_> = (0..4).map(|_| std::thread::spawn(flood)).collect();
    while floods.iter().any(|flood| !flood.is_finished()) {
        assert_served(&client, "during").await;
    }
    let sent: u32 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    assert!(sent >= 400, "only {sent} calls were sent: that is no flood");
    assert_served(&client, "after").await;
    let grown = resident(cluster.node(1)) - before;
    assert!(grown < GROWTH_MAX, "the node grew by {grown} bytes");
    assert!(cluster.node_mut(1).running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_connections_that_never_finish_a_sentence_stop_nobody() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    let node = cluster.node(1);
    let beginnings: [(SocketAddr, &[u8]); 5] = [
        (node.http_address(), b"GET /get?key=a HTTP/1.1\r\nhost: n\r\nx: "),
        (node.http_address(), b"PUT /v1/keyspaces/default/keys/k HTTP/1.1\r\nhost: n\r\ncontent-length: 1000\r\n\r\nx"),
        (node.client_address(), b"PRI * HT"),
        (node.client_address(), PREFACE),
        (node.peer_address(), PREFACE),
    ];
    let mut open = Vec::new();
    for _ in 0..60 {
        for (address, beginning) in beginnings {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(beginning).unwrap();
            open.push(stream);
        }
    }
    for round in 0..10 {
        // A byte now and then, so that nobody is merely idle.
        open.iter_mut().step_by(5).for_each(|stream| drop(stream.write_all(b"x")));
        assert_served(&client, &format!("round {round}")).await;
    }
    assert!(cluster.node(1).is_ready(), "HTTP answers others");
    let members = client.members().await.unwrap();
    assert!(members.iter().all(|member| member.alive), "peers get through: {members:?}");
    drop(open);
    assert!(cluster.node_mut(1).running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_datagrams_declares_nobody_dead() {
    let mut cluster = Cluster::of(3);
    let client = cluster.node(1).client();
    let targets: Vec<SocketAddr> = (1..=3).map(|id| cluster.node(id).peer_address()).collect();
    let flood = std::thread::spawn(move || {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let (begun, mut sent) = (Instant::now(), 0_u64);
        let mut datagram = [1_u8; 1_200];
        while begun.elapsed() < Duration::from_secs(4) {
            for target in &targets {
                datagram[9..17].copy_from_slice(&sent.to_be_bytes());
                // A full buffer loses some, theirs and ours alike.
                drop(socket.send_to(&datagram, target));
                sent += 1;
            }
            // Some 20,000 a second: more would only starve a small machine of its processors.
            if sent % 60 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        sent
    });
    while !flood.is_finished() {
        assert_served(&client, "during").await;
    }
    let sent = flood.join().unwrap();
    assert!(sent > 2_000, "only {sent} datagrams: that is no flood");
    cluster
        .eventually("everybody is seen alive", async |cluster| {
            let members = cluster.node(1).client().members().await;
            members.is_ok_and(|members| members.len() == 3 && members.iter().all(|member| member.alive))
        })
        .await;
    assert!(cluster.nodes().all(Node::running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_that_comes_back_with_another_body_writes_nothing_new() {
    let cluster = Cluster::of(1);
    let client = cluster.node(1).client();
    let request = |value: &str| {
        let mut request: PutRequest = put_request(mks_tests_cluster::key("", "once"), value.to_owned());
        request.options.get_or_insert_default().request_id = vec![9; 16].into();
        request
    };
    client.put_with(request("first")).await.unwrap();
    let again: Result<_, Failure> = client.put_with(request("second")).await;
    assert!(again.as_ref().map_or_else(|failure| failure.code == Code::InvalidArgument, |_| true), "{again:?}");
    assert_eq!(client.get("once").await.unwrap().as_deref(), Some("first"), "the first body is the one that counts");
}
