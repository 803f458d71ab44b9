//! `Kv.Session`: pipelined operations with the client's own numbers, answered out of order.
//!
//! A session is one stream that is polled, and nothing else: no task and no channel per operation. What the pump
//! answers gathers in one queue; whenever the connection has room for a response, everything that lies there goes into
//! it. Flow control is HTTP/2's own: the session does not read while its window is full, and is not even polled while
//! the client does not read.

use super::convert::{self, Checker};
use crate::fault::{Fault, Reason};
use crate::handle::{Handle, Waiter};
use crate::metrics::{Open, Surface};
use crate::net::Stopping;
use crate::token::Seals;
use mks_logic::event::Reply;
use mks_proto::v1::{SessionOperation, SessionRequest, SessionResponse, SessionResult, Welcome, session_result};
use prost::Message;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};

/// Operations that one session lets be under way at once.
pub const SESSION_WINDOW: usize = 1_024;
/// Results of one response at most.
const RESULTS_MAX: usize = 256;
/// A response is closed once it is as long as this; many clients refuse messages above 4 MiB.
const RESPONSE_BYTES: usize = 1 << 20;
/// Bytes of results that may lie in a session whose client reads slowly, as far as the last ones foretell the next.
const RESULT_BYTES_MAX: usize = 64 << 20;
/// Frames read in one go before other sessions get their turn.
const FRAMES_PER_TURN: usize = 64;

/// Where requests come from.
type Inbound = Streaming<SessionRequest>;

/// One open session: the stream of its responses. Dropping it drops what is under way.
pub(super) struct Session<I = Inbound> {
    handle: Handle,
    /// `None` once the client has said all it will say, or the node stops.
    inbound: Option<I>,
    stopping: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    welcomed: bool,
    /// Operations of the last frame for which the window had no room yet.
    waiting: std::vec::IntoIter<SessionOperation>,
    /// Operations that the pump has and has not answered.
    under_way: usize,
    sender: mpsc::UnboundedSender<(u64, Seals, Reply)>,
    replies: mpsc::UnboundedReceiver<(u64, Seals, Reply)>,
    /// Only there so that its memory is used again.
    taken: Vec<(u64, Seals, Reply)>,
    /// Results on their way to the client.
    ready: VecDeque<SessionResult>,
    /// Size of the largest results of late, bytes.
    result_bytes: usize,
    _open: Open,
}

impl<I> Session<I> {
    pub(super) fn new(handle: Handle, inbound: I, stopping: Stopping) -> Self {
        let (sender, replies) = mpsc::unbounded_channel();
        let open = handle.metrics.session();
        Self {
            handle,
            inbound: Some(inbound),
            stopping: Some(Box::pin(stopping.wait())),
            welcomed: false,
            waiting: Vec::new().into_iter(),
            under_way: 0,
            sender,
            replies,
            taken: Vec::new(),
            ready: VecDeque::new(),
            result_bytes: 1,
            _open: open,
        }
    }

    /// True while another operation may start: fewer than the window are under way or unread by the client, and
    /// fewer still where results are large.
    fn has_room(&self) -> bool {
        let room = (RESULT_BYTES_MAX / self.result_bytes).clamp(1, SESSION_WINDOW);
        self.under_way + self.ready.len() < room
    }

    /// Takes what the pump has answered.
    fn take_replies(&mut self, cx: &mut Context<'_>) {
        let limit = RESULTS_MAX.saturating_sub(self.ready.len());
        if limit == 0 {
            return;
        }
        if let Poll::Ready(count) = self.replies.poll_recv_many(cx, &mut self.taken, limit) {
            self.under_way -= count;
            for (id, seals, reply) in self.taken.drain(..) {
                self.ready.push_back(convert::session_result(id, &seals, reply));
            }
        }
    }

    /// Starts operations that wait while there is room.
    fn start_waiting(&mut self) {
        if self.waiting.len() == 0 {
            return;
        }
        let state = self.handle.state.load_full();
        while self.has_room() {
            let Some(SessionOperation { id, operation }) = self.waiting.next() else { break };
            match Checker::new(&self.handle.limits, &state, &self.handle.tokens).session(operation) {
                Ok(request) => {
                    self.under_way += 1;
                    let seals = Seals::of(&self.handle.tokens, &state, &request);
                    self.handle.submit(request, Waiter::Session { id, seals, replies: self.sender.clone() });
                }
                Err(fault) => {
                    if fault.reason.blames_input() {
                        self.handle.metrics.malformed(Surface::Grpc);
                    }
                    self.ready.push_back(convert::session_fault(id, fault));
                }
            }
        }
    }

    /// The node stops: what has not started never will, and its client hears so.
    fn stop(&mut self) {
        self.inbound = None;
        for SessionOperation { id, .. } in std::mem::take(&mut self.waiting) {
            let fault = Fault::new(Reason::Busy, "this node is stopping; nothing was started, ask another node");
            self.ready.push_back(convert::session_fault(id, fault));
        }
    }

    /// What lies ready, as far as it fits into one response.
    fn response(&mut self) -> SessionResponse {
        let mut bytes = 0;
        let mut results = Vec::with_capacity(self.ready.len().min(RESULTS_MAX));
        while bytes < RESPONSE_BYTES && results.len() < RESULTS_MAX {
            let Some(result) = self.ready.pop_front() else { break };
            let size = result_bytes(&result);
            // It forgets a large result within some hundred small ones.
            self.result_bytes = size.max(self.result_bytes - self.result_bytes / 128).max(1);
            bytes += size;
            results.push(result);
        }
        SessionResponse { welcome: None, results }
    }
}

/// Without walking through what is small anyway.
fn result_bytes(result: &SessionResult) -> usize {
    match &result.result {
        Some(session_result::Result::Found(_) | session_result::Result::Batch(_)) => result.encoded_len(),
        Some(session_result::Result::Applied(_) | session_result::Result::Viewed(_)) => result.encoded_len(),
        _ => 64,
    }
}

impl<I: Stream<Item = Result<SessionRequest, Status>> + Unpin> Session<I> {
    /// Reads frames while there is room and starts what they ask for. Returns when there is nothing more to do now.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        for _ in 0..FRAMES_PER_TURN {
            self.start_waiting();
            if self.waiting.len() > 0 || self.ready.len() >= RESULTS_MAX || !self.has_room() {
                return Ok(());
            }
            let Some(inbound) = &mut self.inbound else { return Ok(()) };
            match Pin::new(inbound).poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => self.waiting = frame.operations.into_iter(),
                Poll::Ready(Some(Err(status))) => {
                    self.inbound = None;
                    if matches!(status.code(), Code::Internal | Code::OutOfRange | Code::Unimplemented) {
                        self.handle.metrics.malformed(Surface::Grpc);
                    }
                    return Err(status);
                }
                Poll::Ready(None) => self.inbound = None,
                Poll::Pending => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl<I: Stream<Item = Result<SessionRequest, Status>> + Unpin> Stream for Session<I> {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.welcomed {
            self.welcomed = true;
            let welcome = Welcome { node: self.handle.node.0, window: SESSION_WINDOW as u32 };
            return Poll::Ready(Some(Ok(SessionResponse { welcome: Some(welcome), results: Vec::new() })));
        }
        let stops = self.stopping.as_mut().is_some_and(|stopping| stopping.as_mut().poll(cx).is_ready());
        if stops {
            self.stopping = None;
            self.stop();
        }
        self.take_replies(cx);
        if let Err(status) = self.read(cx) {
            return Poll::Ready(Some(Err(status)));
        }
        if !self.ready.is_empty() {
            return Poll::Ready(Some(Ok(self.response())));
        }
        if self.inbound.is_some() || self.under_way > 0 {
            return Poll::Pending;
        }
        let stopped = self.stopping.is_none();
        Poll::Ready(stopped.then(|| Err(Status::unavailable("this node is stopping; ask another node"))))
    }
}
