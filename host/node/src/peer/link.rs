//! Our stream to one peer: connects, and connects again, for as long as the peer is a member.

use super::{FRAME_BYTES_LIMIT, Trust, convert};
use crate::clock::NodeClock;
use crate::metrics::Metrics;
use crate::pump::Event;
use futures_util::stream::{self, Stream};
use mks_logic::id::NodeId;
use mks_logic::message::Message;
use mks_proto::v1::peer_client::PeerClient;
use mks_proto::v1::{Frame, PeerMessage};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// Messages of one frame at most.
const FRAME_MESSAGES_MAX: usize = 256;
/// Bytes after which a frame takes no further message.
const FRAME_BYTES: usize = 1 << 20;
/// Messages that wait for one peer at most; what is beyond is dropped, like anything on a network.
const OUTBOX_MESSAGES_MAX: usize = 65_536;
/// Bytes of values that wait for one peer at most.
const OUTBOX_BYTES_MAX: usize = 128 << 20;
/// How often a frame is sent when there is nothing to say: it carries the clock, and shows that the peer is there.
const IDLE_PERIOD: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// What every link of a node shares.
#[derive(Clone, Debug)]
pub struct LinkParts {
    /// Signs our calls.
    pub trust: Trust,
    /// Frames are counted here.
    pub metrics: Arc<Metrics>,
    /// Where it is said that a link is up or down.
    pub events: mpsc::Sender<Event>,
    /// Stamps our frames.
    pub clock: Arc<NodeClock>,
}

/// The outbox of one peer, and the task that empties it. Dropping it ends the stream.
#[derive(Debug)]
pub struct Link {
    address: String,
    outbox: mpsc::UnboundedSender<Message>,
    load: Arc<Load>,
    task: JoinHandle<()>,
}

/// What lies in an outbox; the queue itself has no bound of its own.
#[derive(Debug, Default)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts connecting to `peer` at `address`.
    #[must_use]
    pub fn start(peer: NodeId, address: String, parts: LinkParts) -> Self {
        let (outbox, queue) = mpsc::unbounded_channel();
        let load = Arc::new(Load::default());
        let task = tokio::spawn(keep(peer, address.clone(), parts, queue, Arc::clone(&load)));
        Self { address, outbox, load, task }
    }

    /// Where the peer was when the link was started.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts a message into the outbox. False when it is full: the message is dropped.
    #[must_use]
    pub fn send(&self, message: Message) -> bool {
        let bytes = weight(&message);
        let full = self.load.messages.load(Ordering::Relaxed) >= OUTBOX_MESSAGES_MAX
            || self.load.bytes.load(Ordering::Relaxed) + bytes > OUTBOX_BYTES_MAX;
        if full {
            return false;
        }
        self.load.messages.fetch_add(1, Ordering::Relaxed);
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.outbox.send(message).is_ok()
    }
}

impl Load {
    fn took(&self, message: &Message) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(weight(message), Ordering::Relaxed);
    }
}

fn weight(message: &Message) -> usize {
    use mks_logic::event::{Answer, Operation};
    use mks_logic::message::ReadOutcome;
    let value = |version: &mks_logic::version::Version| version.value.as_ref().map_or(0, bytes::Bytes::len);
    64 + match message {
        Message::Write { version, past, .. } | Message::Keep { version, past, .. } => value(version) + past.bytes(),
        Message::Found { outcome: ReadOutcome::Record(record), .. } => record.versions().iter().map(value).sum(),
        Message::Forward { request, .. } => match &request.operation {
            Operation::Put { value, .. } => value.len(),
            Operation::Apply { operation: text, .. } | Operation::View { question: text, .. } => text.len(),
            Operation::Get { .. } | Operation::Delete { .. } | Operation::Batch { .. } => 0,
        },
        Message::Sync { ask, .. } => ask.bytes(),
        Message::Synced { answer, .. } => answer.bytes(),
        Message::Forwarded { reply: Ok(Answer::Found { versions, .. }), .. } => versions.iter().map(value).sum(),
        Message::Forwarded { reply: Ok(Answer::Viewed { answer: Some(answer) }), .. } => answer.len(),
        Message::Written { .. } | Message::Read { .. } | Message::Found { .. } | Message::Forwarded { .. } => 0,
    }
}

/// Connects, serves, and starts over, with a pause that doubles while nobody answers.
async fn keep(
    peer: NodeId,
    address: String,
    parts: LinkParts,
    queue: mpsc::UnboundedReceiver<Message>,
    load: Arc<Load>,
) {
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true),
        Err(error) => {
            tracing::error!(%peer, address, %error, "the member's peer address is no address; it can't be reached");
            return;
        }
    };
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let mut pause = RETRY_FIRST;
    loop {
        let began = Instant::now();
        match timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
            Ok(Ok(channel)) => {
                if let Err(status) = serve(peer, channel, &parts, &queue, &load).await {
                    tracing::debug!(%peer, %status, "the stream to a peer ended");
                }
            }
            Ok(Err(error)) => tracing::debug!(%peer, address, %error, "a peer can't be reached"),
            Err(_) => tracing::debug!(%peer, address, "a peer does not answer"),
        }
        pause = if began.elapsed() > RETRY_LAST { RETRY_FIRST } else { (pause * 2).min(RETRY_LAST) };
        sleep(pause).await;
    }
}

/// One connection, from the first frame to the break.
async fn serve(
    peer: NodeId,
    channel: Channel,
    parts: &LinkParts,
    queue: &Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Message>>>,
    load: &Arc<Load>,
) -> Result<(), tonic::Status> {
    let mut client = PeerClient::new(channel).max_decoding_message_size(FRAME_BYTES_LIMIT);
    let mut queue = Arc::clone(queue).lock_owned().await;
    // What waited for the last connection is not wanted any more: whoever still waits asks again when the link is up.
    while let Ok(message) = queue.try_recv() {
        load.took(&message);
    }
    let frames = frames(queue, Arc::clone(load), Arc::clone(&parts.metrics), Arc::clone(&parts.clock));
    let mut request = tonic::Request::new(frames);
    parts.trust.sign(request.metadata_mut());
    let mut inbound = client.stream(request).await?.into_inner();
    tracing::info!(%peer, "the stream to a peer is up");
    if parts.events.send(Event::Link { peer, up: true }).await.is_err() {
        return Ok(());
    }
    let ended = inbound.message().await;
    tracing::info!(%peer, "the stream to a peer broke");
    drop(parts.events.send(Event::Link { peer, up: false }).await);
    ended.map(drop)
}

/// Frames of whatever lies in the queue; an empty one when nothing did for a while.
fn frames(
    mut queue: tokio::sync::OwnedMutexGuard<mpsc::UnboundedReceiver<Message>>,
    load: Arc<Load>,
    metrics: Arc<Metrics>,
    clock: Arc<NodeClock>,
) -> impl Stream<Item = Frame> + Send + 'static {
    let mut idle: Interval = interval(IDLE_PERIOD);
    idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::poll_fn(move |cx| {
        let mut messages: Vec<PeerMessage> = Vec::new();
        let mut bytes = 0;
        while messages.len() < FRAME_MESSAGES_MAX && bytes < FRAME_BYTES {
            match queue.poll_recv(cx) {
                Poll::Ready(Some(message)) => {
                    load.took(&message);
                    bytes += weight(&message);
                    messages.push(convert::to_wire(message));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        if messages.is_empty() && idle.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        metrics.peer_sent(messages.len() as u64);
        Poll::Ready(Some(Frame { clock: clock.frame().0, messages }))
    })
}
