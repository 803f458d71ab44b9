//! Strangers at the gRPC port: whatever they send, the node answers or hangs up, counts it, and lives on.

use super::fake::{FakeNode, HELD, key, until};
use super::http::raw;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mks::metrics::Surface;
use mks_proto::v1::{GetRequest, PutRequest, SessionResponse, WriteResponse};
use prost::Message;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

const PUT: &str = "/mks.v1.Kv/Put";

/// Another idea of what a request looks like: field 1 is a number here.
#[derive(Clone, PartialEq, Message)]
struct Stranger {
    #[prost(uint64, tag = "1")]
    number: u64,
}

/// Sends one HTTP/2 request as it is; returns the status of HTTP and of gRPC.
async fn send(node: &FakeNode, request: Request<Body>) -> Option<(u16, Option<Code>)> {
    let stream = TcpStream::connect(node.grpc).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.ok()?;
    let code = response.headers().get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    Some((response.status().as_u16(), code))
}

fn request(path: &str) -> hyper::http::request::Builder {
    let uri = format!("http://node{path}");
    Request::post(uri).header("te", "trailers")
}

fn framed(body: &'static [u8]) -> Body {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[0][..], &length, body].concat();
    Body::new(axum::body::Body::from(message))
}

fn unframed(body: &'static [u8]) -> Body {
    Body::new(axum::body::Body::from(body))
}

async fn lives(node: &FakeNode) {
    let put = PutRequest { key: key("still"), value: "here".into(), options: None };
    node.kv().await.put(put).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_http2_are_cut_off() {
    let node = FakeNode::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let inputs = [
        [0xFF; 64].to_vec(),
        b"short".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting in TLS".to_vec(),
        // A frame of 16 MiB, a frame of settings that is cut short, headers of no stream.
        [&preface[..], b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"].concat(),
        [&preface[..], b"\x00\x00\x05\x04\x00\x00\x00\x00\x00hello"].concat(),
        [&preface[..], b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x09x"].concat(),
    ];
    for (i, input) in inputs.iter().enumerate() {
        let before = node.handle.metrics.malformed_count(Surface::Grpc);
        let mut stream = TcpStream::connect(node.grpc).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, input).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
        let counted = || node.handle.metrics.malformed_count(Surface::Grpc) > before;
        until(&format!("input {i} is counted"), counted).await;
    }
    lives(&node).await;
}

#[tokio::test]
async fn whoever_speaks_http1_is_told_where_they_are() {
    let node = FakeNode::start().await;
    let answer = raw(node.grpc, b"GET /health HTTP/1.1\r\nhost: n\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_no_fault() {
    let node = FakeNode::start().await;
    drop(TcpStream::connect(node.grpc).await.unwrap());
    lives(&node).await;
    assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), 0);
}

#[tokio::test]
async fn messages_that_are_none_are_refused_and_counted() {
    let node = FakeNode::start().await;
    let grpc = "application/grpc";
    let huge = unframed(b"\0\xff\xff\xff\xffx");
    let inputs = [
        ("a web page", request(PUT).header("content-type", "text/html"), framed(b""), 415, None),
        ("no content type", request(PUT), framed(b""), 415, None),
        ("a length of 4 GiB", request(PUT).header("content-type", grpc), huge, 200, Some(Code::OutOfRange)),
        (
            "half a message",
            request(PUT).header("content-type", grpc),
            unframed(b"\0\0\0\0\x09abc"),
            200,
            Some(Code::Internal),
        ),
        ("no message", request(PUT).header("content-type", grpc), unframed(b""), 200, Some(Code::Internal)),
        ("garbage", request(PUT).header("content-type", grpc), framed(b"\xff\xff\xff\xff"), 200, Some(Code::Internal)),
        (
            "an unknown method",
            request("/mks.v1.Kv/Steal").header("content-type", grpc),
            framed(b""),
            200,
            Some(Code::Unimplemented),
        ),
        (
            "an unknown service",
            request("/mks.v1.Peer/Stream").header("content-type", grpc),
            framed(b""),
            200,
            Some(Code::Unimplemented),
        ),
        (
            "a gzip bomb",
            request(PUT).header("content-type", grpc).header("grpc-encoding", "gzip"),
            unframed(b"\x01\0\0\0\x04\x1f\x8b\x08\0"),
            200,
            Some(Code::Unimplemented),
        ),
    ];
    for (what, request, body, http, code) in inputs {
        let before = node.handle.metrics.malformed_count(Surface::Grpc);
        let answer = send(&node, request.body(body).unwrap()).await;
        assert_eq!(answer, Some((http, code)), "{what}");
        assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), before + 1, "{what}");
    }
    assert!(node.seen().is_empty());
    lives(&node).await;
}

#[tokio::test]
async fn metadata_has_a_limit() {
    let node = FakeNode::start().await;
    let request = request(PUT).header("content-type", "application/grpc").header("x", "x".repeat(100 << 10));
    let answer = send(&node, request.body(framed(b"")).unwrap()).await;
    assert!(matches!(answer, None | Some((431, _))), "{answer:?}");
    assert!(node.seen().is_empty());
    lives(&node).await;
}

#[tokio::test]
async fn nesting_is_no_way_in() {
    let node = FakeNode::start().await;
    // Field 1 within field 1, a thousand times.
    let mut nested = Vec::new();
    for _ in 0..1_000 {
        let mut outer = vec![0x0A];
        prost::encoding::encode_varint(nested.len() as u64, &mut outer);
        outer.extend_from_slice(&nested);
        nested = outer;
    }
    let request = request(PUT).header("content-type", "application/grpc");
    let answer = send(&node, request.body(framed(nested.leak())).unwrap()).await.unwrap();
    assert!(matches!(answer, (200, Some(Code::Internal | Code::InvalidArgument))), "{answer:?}");
    lives(&node).await;
}

#[tokio::test]
async fn a_session_in_another_language_ends_with_an_error() {
    let node = FakeNode::start().await;
    let mut client = Grpc::new(node.channel().await);
    client.ready().await.unwrap();
    let codec = ProstCodec::<Stranger, SessionResponse>::default();
    let path = PathAndQuery::from_static("/mks.v1.Kv/Session");
    let requests = tokio_stream::iter([Stranger { number: 7 }]);
    let mut responses = client.streaming(tonic::Request::new(requests), path, codec).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().welcome.is_some());
    assert_eq!(responses.message().await.unwrap_err().code(), Code::Internal);
    assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), 1);
    until("the session is closed", || node.handle.metrics.sessions_open() == 0).await;

    let codec = ProstCodec::<Stranger, WriteResponse>::default();
    client.ready().await.unwrap();
    let unary = client.unary(tonic::Request::new(Stranger { number: 7 }), PathAndQuery::from_static(PUT), codec).await;
    assert_eq!(unary.unwrap_err().code(), Code::Internal);
    lives(&node).await;
}

/// Fields of a newer client are none of an older node's business.
#[tokio::test]
async fn fields_that_are_unknown_are_skipped() {
    let node = FakeNode::start().await;
    let mut bytes = PutRequest { key: key("k"), value: "v".into(), options: None }.encode_to_vec();
    // Field 99, a string.
    bytes.extend_from_slice(&[0x9A, 0x06, 3, b'n', b'e', b'w']);
    let request = request(PUT).header("content-type", "application/grpc");
    let answer = send(&node, request.body(framed(bytes.leak())).unwrap()).await;
    assert_eq!(answer, Some((200, None)), "no status in the headers means that the answer is a message");
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let node = FakeNode::start().await;
    let stream = TcpStream::connect(node.grpc).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let bytes = PutRequest { key: key(HELD), value: "v".into(), options: None }.encode_to_vec().leak();
    for round in 1..=200 {
        let request = request(PUT).header("content-type", "application/grpc").body(framed(bytes)).unwrap();
        if sender.ready().await.is_err() {
            // The node hung up: that is an answer to a flood, too.
            break;
        }
        let call = tokio::spawn(sender.send_request(request));
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        call.abort();
    }
    lives(&node).await;
    node.release();
    lives(&node).await;
}

#[tokio::test]
async fn more_calls_than_a_connection_may_have_wait_their_turn() {
    let node = FakeNode::start().await;
    let kv = node.kv().await;
    let total = 1_500;
    let calls: Vec<_> = (0..total)
        .map(|_| {
            let mut kv = kv.clone();
            tokio::spawn(async move { kv.get(GetRequest { key: key(HELD), options: None }).await })
        })
        .collect();
    until("the connection is full", || node.held() == 1_024).await;
    tokio::task::yield_now().await;
    assert_eq!(node.held(), 1_024);
    node.release();
    until("the rest follows", || node.held() == total - 1_024).await;
    node.release();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::NotFound);
    }
}
