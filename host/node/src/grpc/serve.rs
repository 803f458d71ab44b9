//! HTTP/2 for gRPC, with every bound that a stranger at the port makes necessary.

use crate::metrics::{Metrics, Surface};
use crate::net::{self, Rewound, Stopping};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mks_logic::limits::Limits;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A client that has not sent the preface by then is not one.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection.
const STREAMS_MAX: u32 = 1_024;
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Bytes that a connection may send before the node has taken them in.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// A connection that is quiet for so long is asked whether it lives ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// ... and cut when it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Beyond the longest deadline, for the answer to be made and for slow bodies to arrive.
const CALL_GRACE: Duration = Duration::from_secs(5);
/// What one item of a batch may cost on the wire beyond its key and value.
const ITEM_OVERHEAD_BYTES: usize = 64;
const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;

/// Bounds of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Longest message, bytes. Longer ones are refused before they are read.
    pub message_bytes_max: usize,
    /// From the headers of a call to the headers of its answer; a stream may go on for ever after that.
    pub answer_timeout: Duration,
}

impl CallLimits {
    /// Wide enough for every request that `limits` allow.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let one = limits.value_bytes_max + 2 * limits.key_bytes_max;
        let batch = limits.batch_bytes_max + limits.batch_items_max * ITEM_OVERHEAD_BYTES;
        Self {
            message_bytes_max: one.max(batch) + MESSAGE_OVERHEAD_BYTES,
            answer_timeout: Duration::from_millis(limits.deadline_max_ms) + CALL_GRACE,
        }
    }
}

/// Serves gRPC `routes` to everybody who connects, until `stopping`; then open calls get a bounded time to finish.
///
/// Whatever is no gRPC is refused and counted under `surface`. Message sizes are the business of the services in
/// `routes`: give each of them [`CallLimits::message_bytes_max`].
pub async fn serve_routes(
    listener: TcpListener,
    routes: Routes,
    limits: CallLimits,
    surface: Surface,
    metrics: Arc<Metrics>,
    stopping: Stopping,
) {
    let door = Door { routes: routes.prepare(), limits, surface, metrics: metrics.clone(), stopping: stopping.clone() };
    net::accept(listener, surface, metrics, stopping, move |stream| door.clone().connection(stream)).await;
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    routes: Routes,
    limits: CallLimits,
    surface: Surface,
    metrics: Arc<Metrics>,
    stopping: Stopping,
}

impl Door {
    async fn connection(self, mut stream: TcpStream) {
        let mut head = [0; PREFACE.len()];
        match tokio::time::timeout(PREFACE_TIMEOUT, stream.read_exact(&mut head)).await {
            Ok(Ok(_)) if head == PREFACE => {}
            // Nobody spoke: a port check, or a client that went away again.
            Ok(Err(_)) if head == [0; PREFACE.len()] => return,
            Ok(Ok(_) | Err(_)) | Err(_) => {
                self.metrics.malformed(self.surface);
                return refuse(stream, &head).await;
            }
        }
        let (surface, metrics, stopping) = (self.surface, self.metrics.clone(), self.stopping.clone());
        let door = Arc::new(self);
        let service = service_fn(move |request| {
            let door = door.clone();
            async move { Ok::<_, Infallible>(door.call(request).await) }
        });
        let io = TokioIo::new(Rewound::new(head, stream));
        let connection = protocol().serve_connection(io, service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopping.wait() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended
            && is_nonsense(&error)
        {
            metrics.malformed(surface);
            tracing::debug!(surface = surface.word(), %error, "a connection was cut: it did not speak HTTP/2");
        }
    }

    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        if !request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            self.metrics.malformed(self.surface);
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let answer = TowerToHyperService::new(self.routes.clone()).call(request);
        let Ok(answer) = tokio::time::timeout(self.limits.answer_timeout, answer).await else {
            return Status::deadline_exceeded("the request did not arrive in time; send it faster").into_http();
        };
        let response = answer.unwrap_or_else(|error| Status::internal(error.to_string()).into_http());
        if refused_undecoded(&response) {
            self.metrics.malformed(self.surface);
        }
        response
    }
}

fn protocol() -> http2::Builder<TokioExecutor> {
    let mut protocol = http2::Builder::new(TokioExecutor::new());
    protocol
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    protocol
}

/// True when the library refused a message before a service of ours saw it: undecodable, too long, compressed, or to
/// a method that does not exist.
fn refused_undecoded(response: &Response<Body>) -> bool {
    let code = response.headers().get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()));
    matches!(code, Some(Code::Internal | Code::OutOfRange | Code::Unimplemented))
}

/// True for bytes that are no HTTP/2, false for connections that merely broke.
fn is_nonsense(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    !error.is_timeout() && !error.is_canceled() && !error.is_closed() && io.is_none()
}

/// Tells those who came with HTTP/1 where they are; others would not understand anything.
async fn refuse(mut stream: TcpStream, head: &[u8]) {
    const METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "];
    const ANSWER: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\n\
        content-type: text/plain\r\ncontent-length: 64\r\n\r\n\
        this port speaks gRPC only; the HTTP address is in `mks status`\n";
    if METHODS.iter().any(|method| head.starts_with(method)) {
        // Whoever does not read it has not missed much.
        drop(tokio::time::timeout(PREFACE_TIMEOUT, stream.write_all(ANSWER)).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_legal_requests_fit_into_a_message() {
        let limits = Limits::default();
        let max = CallLimits::new(&limits).message_bytes_max;
        assert!(max > limits.batch_bytes_max + limits.batch_items_max * ITEM_OVERHEAD_BYTES);
        assert!(max < limits.batch_bytes_max * 2, "{max} bytes per message invite trouble");
    }
}
