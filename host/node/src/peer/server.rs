//! The peer port: takes frames from other nodes to the pump, and control calls to the epoch log.

use super::{FRAME_BYTES_LIMIT, Trust, convert};
use crate::grpc::{CallLimits, serve_routes};
use crate::metrics::{Metrics, Surface};
use crate::net::Stopping;
use crate::pump::Event;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use mks_logic::id::NodeId;
use mks_logic::port::ResolverHash;
use mks_logic::time::Hlc;
use mks_proto::v1::peer_server::{Peer, PeerServer};
use mks_proto::v1::{ComponentPiece, ComponentRequest, ControlRequest, ControlResponse, Frame};
use mks_sandbox::Components;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Answers control calls: the epoch log behind a seam, so that this module knows nothing of Raft.
pub trait ControlPlane: Send + Sync + 'static {
    /// Answers one call of a node that knows the cluster key.
    fn control(&self, from: NodeId, kind: u32, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// One piece of a component.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// A control call that takes longer is of no use to its caller.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

struct PeerService {
    trust: Trust,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<Event>,
    control: Arc<dyn ControlPlane>,
    components: Arc<Components>,
    stopping: Stopping,
}

/// Serves the peer port until the node stops.
pub async fn serve(
    listener: TcpListener,
    trust: Trust,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<Event>,
    (control, components): (Arc<dyn ControlPlane>, Arc<Components>),
    stopping: Stopping,
) {
    let (shared, stop) = (Arc::clone(&metrics), stopping.clone());
    let service = PeerService { trust, metrics: shared, events, control, components, stopping: stop };
    let service = PeerServer::new(service)
        .max_decoding_message_size(FRAME_BYTES_LIMIT)
        .max_encoding_message_size(FRAME_BYTES_LIMIT);
    let limits = CallLimits { message_bytes_max: FRAME_BYTES_LIMIT, answer_timeout: ANSWER_TIMEOUT };
    serve_routes(listener, Routes::new(service), limits, Surface::Peer, metrics, stopping).await;
}

#[tonic::async_trait]
impl Peer for PeerService {
    type StreamStream = BoxStream<'static, Result<Frame, Status>>;

    async fn stream(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::StreamStream>, Status> {
        let from = self.trust.check(request.metadata()).inspect_err(|_| self.metrics.malformed(Surface::Peer))?;
        let (metrics, events, stopping) = (Arc::clone(&self.metrics), self.events.clone(), self.stopping.clone());
        let mut frames = request.into_inner();
        // The caller sees the end of this stream when we stop reading its own.
        let ended = stream::once(async move {
            let taken = tokio::select! {
                () = stopping.wait() => Ok(()),
                taken = take_frames(from, &mut frames, &metrics, &events) => taken,
            };
            taken.err()
        });
        Ok(Response::new(ended.filter_map(|end| async { end.map(Err) }).boxed()))
    }

    async fn control(&self, request: Request<ControlRequest>) -> Result<Response<ControlResponse>, Status> {
        let from = self.trust.check(request.metadata()).inspect_err(|_| self.metrics.malformed(Surface::Peer))?;
        let ControlRequest { kind, body } = request.into_inner();
        let body = self.control.control(from, kind, body).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(ControlResponse { body }))
    }

    async fn component(&self, request: Request<ComponentRequest>) -> Result<Response<ComponentPiece>, Status> {
        self.trust.check(request.metadata()).inspect_err(|_| self.metrics.malformed(Surface::Peer))?;
        let ComponentRequest { hash, offset } = request.into_inner();
        let hash = <[u8; 32]>::try_from(&hash[..]).map(ResolverHash).map_err(|_| {
            self.metrics.malformed(Surface::Peer);
            Status::invalid_argument("a hash has 32 bytes")
        })?;
        let components = Arc::clone(&self.components);
        let piece = tokio::task::spawn_blocking(move || components.piece(hash, offset, PIECE_BYTES_MAX));
        let piece = piece.await.map_err(|_| Status::internal("the read died"))?;
        let piece = piece.map_err(|error| Status::unavailable(format!("it can't read its disk: {error}")))?;
        let (total, piece) = piece.ok_or_else(|| Status::not_found("it does not have it"))?;
        Ok(Response::new(ComponentPiece { total, piece: piece.into() }))
    }
}

async fn take_frames(
    from: NodeId,
    frames: &mut Streaming<Frame>,
    metrics: &Metrics,
    events: &mpsc::Sender<Event>,
) -> Result<(), Status> {
    if events.send(Event::Arrived { peer: from }).await.is_err() {
        return Ok(());
    }
    while let Some(Frame { clock, messages }) = frames.message().await? {
        metrics.peer_received(messages.len() as u64);
        let mut good = Vec::with_capacity(messages.len());
        for message in messages {
            match convert::from_wire(message) {
                Ok(message) => good.push(message),
                Err(error) => {
                    metrics.malformed(Surface::Peer);
                    tracing::warn!(%from, %error, "dropped a message");
                }
            }
        }
        let frame = Event::Frame { from, clock: Hlc(clock), messages: good };
        if events.send(frame).await.is_err() {
            break;
        }
    }
    Ok(())
}
