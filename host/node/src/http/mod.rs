//! The HTTP surface: keys and values for `curl`, and the pages that machines look at (`/health`, `/ready`, `/metrics`).
//!
//! It builds the same messages as a gRPC client and hands them to the same checks, so that both surfaces refuse alike.

mod answer;
mod keys;
pub mod params;

use crate::handle::Handle;
use crate::metrics::{Metrics, Surface};
use crate::net::{self, Stopping};
use crate::status;
use answer::Refusal;
use axum::Router;
use axum::extract::State;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long a connection may take to send the headers of a request, and be quiet between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 64;
/// Request line and headers together; keys of 4 KiB fit, percent-encoded.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Serves HTTP until `shutdown`, then lets what is under way finish for a bounded time.
///
/// # Errors
/// None yet: whatever goes wrong concerns one connection only.
pub async fn serve(listener: TcpListener, handle: Handle, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (stop, receiver) = watch::channel(false);
    let stopping = Stopping::new(receiver);
    let (metrics, router) = (handle.metrics.clone(), router(handle));
    let door = stopping.clone();
    let serving = net::accept(listener, Surface::Http, metrics.clone(), stopping, move |stream| {
        connection(stream, router.clone(), metrics.clone(), door.clone())
    });
    let life = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(serving, life);
    Ok(())
}

async fn connection(stream: TcpStream, router: Router, metrics: std::sync::Arc<Metrics>, stopping: Stopping) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if ended.is_err_and(|error| error.is_parse()) {
        metrics.malformed(Surface::Http);
    }
}

fn router(handle: Handle) -> Router {
    Router::new()
        .route("/get", get(keys::get_text))
        .route("/set", get(keys::set_text).post(keys::set_text))
        .route("/v1/keyspaces/{keyspace}/keys/{key}", get(keys::get).put(keys::put).delete(keys::delete))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(wrong_path)
        .with_state(handle)
}

/// The process lives; that is all.
async fn health() -> &'static str {
    "ok\n"
}

/// Whether clients are served, and if not why.
async fn ready(State(handle): State<Handle>) -> Response {
    match status::not_ready(&handle) {
        None => "ready\n".into_response(),
        Some(why) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_READY", why).passing().into_response(),
    }
}

async fn metrics(State(handle): State<Handle>) -> Response {
    ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], handle.metrics.encode()).into_response()
}

async fn wrong_path(State(handle): State<Handle>, uri: Uri) -> Response {
    let message = format!("there is nothing at {}; keys are at /v1/keyspaces/KEYSPACE/keys/KEY", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "NO_SUCH_PATH", message).counted(&handle)
}

async fn wrong_method(State(handle): State<Handle>, method: Method, uri: Uri) -> Response {
    let allowed = match uri.path() {
        "/set" => "GET, HEAD, POST",
        path if path.starts_with("/v1/") => "GET, HEAD, PUT, DELETE",
        _ => "GET, HEAD",
    };
    let message = format!("{} does not take {method}; it takes {allowed}", uri.path());
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "WRONG_METHOD", message);
    ([(ALLOW, allowed)], refusal.counted(&handle)).into_response()
}
