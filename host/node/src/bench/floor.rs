//! The empty quorum: three processes that move the messages of an operation and do nothing else.
//!
//! A put goes from the client to one node, from there to both others on streams, and is answered at the first of two
//! acknowledgements (with its own that is two of three). A get is answered with the node's own value at the first of
//! two digests. No storage, no clocks, no checks: what a real node costs beyond this is its own doing.

use super::cpu::Process;
use super::session::frames;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use mks_proto::v1::kv_server::{Kv, KvServer};
use mks_proto::v1::peer_client::PeerClient;
use mks_proto::v1::peer_message::Body;
use mks_proto::v1::peer_server::{Peer, PeerServer};
use mks_proto::v1::session_operation::Operation;
use mks_proto::v1::session_result::Result as Answer;
use mks_proto::v1::{
    ApplyRequest, ApplyResponse, BatchRequest, BatchResponse, ComponentPiece, ComponentRequest, ControlRequest,
    ControlResponse, DeleteRequest, Found, Frame, GetRequest, GetResponse, Key, PeerKey, PeerMessage, PutRequest, Read,
    SessionRequest, SessionResponse, SessionResult, Version, ViewRequest, ViewResponse, Welcome, Write, WriteResponse,
    Written, found, written,
};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Messages that wait for a stream; many times what any sensible concurrency puts there.
const QUEUE_MESSAGES_MAX: usize = 65_536;
/// Nodes of an empty quorum.
const NODES: usize = 3;

/// `mks bench-floor-node`
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// Bytes of the value that every get returns
    #[arg(long)]
    value_size: u32,
}

/// Runs one node until stdin closes. It prints its port, reads those of the others, prints `ready`: no port is ever
/// guessed, and no node outlives the benchmark.
///
/// # Errors
/// When it can't listen or can't reach the others.
pub fn floor_node(args: &FloorArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let node = Arc::new(Node::new(args.value_size as usize));
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(Service(Arc::clone(&node))))
            .add_service(PeerServer::new(Service(Arc::clone(&node))))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let stdin = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let parent = async {
            for port in stdin.await??.split_whitespace() {
                let peer = link(&node, &format!("127.0.0.1:{port}")).await?;
                node.lock_peers().push(peer);
            }
            node.arm();
            println!("ready");
            tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())).await??;
            anyhow::Ok(())
        };
        tokio::select! {
            served = server => Ok(served?),
            done = parent => done,
        }
    });
    // The thread that waits for stdin may wait for ever.
    runtime.shutdown_background();
    result
}

/// A stream to a peer: what is sent goes out in frames, acknowledgements come back to the node.
async fn link(node: &Arc<Node>, address: &str) -> anyhow::Result<mpsc::Sender<PeerMessage>> {
    let channel = crate::cli::connect(address).await.map_err(anyhow::Error::msg)?;
    let (queue, queued) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let frames = frames(queued, node.value.len(), |messages| Frame { clock: 0, messages });
    let mut answers = PeerClient::new(channel).stream(frames).await?.into_inner();
    let node = Arc::clone(node);
    tokio::spawn(async move {
        while let Ok(Some(frame)) = answers.message().await {
            frame.messages.iter().for_each(|message| node.acknowledged(message.tag));
        }
    });
    Ok(queue)
}

/// Who waits for a quorum.
#[derive(Debug)]
enum Waiter {
    Call(oneshot::Sender<()>),
    Session { id: u64, get: bool, results: mpsc::Sender<SessionResult> },
}

#[derive(Debug)]
struct Pending {
    /// Acknowledgements to come; the first one answers, the last one frees the entry.
    left: usize,
    waiter: Option<Waiter>,
}

#[derive(Debug)]
struct Node {
    connecting: Mutex<Vec<mpsc::Sender<PeerMessage>>>,
    peers: OnceLock<Vec<mpsc::Sender<PeerMessage>>>,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
    value: Bytes,
}

impl Node {
    fn new(value_size: usize) -> Self {
        Self {
            connecting: Mutex::default(),
            peers: OnceLock::new(),
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            value: vec![7; value_size].into(),
        }
    }

    fn lock_peers(&self) -> MutexGuard<'_, Vec<mpsc::Sender<PeerMessage>>> {
        self.connecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the peers are read without a lock.
    fn arm(&self) {
        drop(self.peers.set(std::mem::take(&mut *self.lock_peers())));
    }

    /// Sends one message to both peers.
    fn fan_out(&self, body: &Body, waiter: Waiter) -> Result<(), Status> {
        let peers = self.peers.get().ok_or_else(|| Status::unavailable("the floor node is not ready"))?;
        let tag = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock_pending().insert(tag, Pending { left: peers.len(), waiter: Some(waiter) });
        for peer in peers {
            let message = PeerMessage { tag, body: Some(body.clone()) };
            peer.try_send(message).map_err(|_| Status::resource_exhausted("the floor node's queue is full"))?;
        }
        Ok(())
    }

    async fn quorum(&self, body: &Body) -> Result<(), Status> {
        let (sender, receiver) = oneshot::channel();
        self.fan_out(body, Waiter::Call(sender))?;
        receiver.await.map_err(|_| Status::unavailable("a floor node went away"))
    }

    fn acknowledged(&self, tag: u64) {
        let mut pending = self.lock_pending();
        let Some(entry) = pending.get_mut(&tag) else { return };
        entry.left -= 1;
        let waiter = entry.waiter.take();
        if entry.left == 0 {
            pending.remove(&tag);
        }
        drop(pending);
        match waiter {
            // A caller that went away is no error, here and below.
            Some(Waiter::Call(sender)) => {
                let _ = sender.send(());
            }
            Some(Waiter::Session { id, get, results }) => {
                let answer = if get { Answer::Found(self.found()) } else { Answer::Written(done()) };
                drop(results.try_send(SessionResult { id, result: Some(answer), ..SessionResult::default() }));
            }
            None => {}
        }
    }

    fn found(&self) -> GetResponse {
        let version = Version { value: self.value.clone(), written: 1, expires_ms: 0 };
        GetResponse { version: Some(version), ..GetResponse::default() }
    }
}

fn done() -> WriteResponse {
    WriteResponse { written: 1, acks: 2, ..WriteResponse::default() }
}

fn peer_key(key: Option<Key>) -> Option<PeerKey> {
    key.map(|key| PeerKey { keyspace: 1, partition_key: key.partition_key, sort_key: key.sort_key })
}

fn write_of(put: PutRequest) -> Body {
    Body::Write(Write { key: peer_key(put.key), record: put.value, fresh: true, sync: false })
}

fn read_of(get: GetRequest) -> Body {
    Body::Read(Read { key: peer_key(get.key), epoch: 1, record: false })
}

/// What a peer answers.
fn acknowledgement(message: PeerMessage) -> PeerMessage {
    let body = match message.body {
        Some(Body::Read(_)) => Body::Found(Found { outcome: Some(found::Outcome::Digest(1)) }),
        _ => Body::Written(Written { outcome: Some(written::Outcome::Held(true)) }),
    };
    PeerMessage { tag: message.tag, body: Some(body) }
}

/// The node as tonic sees it: the task of a session holds it too.
#[derive(Debug)]
struct Service(Arc<Node>);

impl Service {
    /// Takes operations off a session's stream; answers come from [`Node::acknowledged`].
    async fn serve(node: Arc<Node>, mut asked: Streaming<SessionRequest>, results: mpsc::Sender<SessionResult>) {
        while let Ok(Some(request)) = asked.message().await {
            for operation in request.operations {
                let (body, get) = match operation.operation {
                    Some(Operation::Put(put)) => (write_of(put), false),
                    Some(Operation::Get(get)) => (read_of(get), true),
                    _ => return,
                };
                let waiter = Waiter::Session { id: operation.id, get, results: results.clone() };
                if node.fan_out(&body, waiter).is_err() {
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        self.0.quorum(&write_of(request.into_inner())).await?;
        Ok(Response::new(done()))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.0.quorum(&read_of(request.into_inner())).await?;
        Ok(Response::new(self.0.found()))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(Status::unimplemented("a floor node only puts and gets"))
    }

    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        Err(Status::unimplemented("a floor node only puts and gets"))
    }

    async fn apply(&self, _: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        Err(Status::unimplemented("a floor node only puts and gets"))
    }

    async fn view(&self, _: Request<ViewRequest>) -> Result<Response<ViewResponse>, Status> {
        Err(Status::unimplemented("a floor node only puts and gets"))
    }

    type SessionStream = BoxStream<'static, Result<SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (results, queued) = mpsc::channel(QUEUE_MESSAGES_MAX);
        tokio::spawn(Self::serve(Arc::clone(&self.0), request.into_inner(), results));
        let welcome = Welcome { node: 0, window: u32::try_from(QUEUE_MESSAGES_MAX).unwrap_or(u32::MAX) };
        let first = SessionResponse { welcome: Some(welcome), results: Vec::new() };
        let answers = frames(queued, self.0.value.len(), |results| Ok(SessionResponse { welcome: None, results }));
        Ok(Response::new(stream::iter([Ok(first)]).chain(answers).boxed()))
    }
}

#[tonic::async_trait]
impl Peer for Service {
    type StreamStream = BoxStream<'static, Result<Frame, Status>>;

    async fn stream(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut asked = request.into_inner();
        let (queue, queued) = mpsc::channel(QUEUE_MESSAGES_MAX);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = asked.message().await {
                for message in frame.messages {
                    if queue.send(acknowledgement(message)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(frames(queued, 0, |messages| Ok(Frame { clock: 0, messages })).boxed()))
    }

    async fn control(&self, _: Request<ControlRequest>) -> Result<Response<ControlResponse>, Status> {
        Err(Status::unimplemented("a floor node has nothing to control"))
    }

    async fn component(&self, _: Request<ComponentRequest>) -> Result<Response<ComponentPiece>, Status> {
        Err(Status::unimplemented("a floor node has no plugins"))
    }
}

/// Three floor nodes as children of this process; they end with it.
#[derive(Debug)]
pub(super) struct Floor {
    children: Vec<Child>,
    /// Where clients reach them.
    pub(super) addresses: Vec<String>,
    /// Whose CPU to look at.
    pub(super) processes: Vec<Process>,
}

impl Floor {
    /// Starts them and waits until they are connected.
    pub(super) fn start(value_size: u32) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("can't find this binary, which also serves as floor node")?;
        let mut floor = Self { children: Vec::new(), addresses: Vec::new(), processes: Vec::new() };
        let mut answers = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..NODES {
            let mut child = Command::new(&binary)
                .args(["bench-floor-node", "--value-size", &value_size.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("can't start a floor node")?;
            let mut lines = BufReader::new(child.stdout.take().context("a floor node has no stdout")?).lines();
            floor.children.push(child);
            let line = lines.next().context("a floor node ended at once")??;
            ports.push(line.parse::<u16>().with_context(|| format!("a floor node said {line:?} instead of a port"))?);
            answers.push(lines);
        }
        for (own, child) in floor.children.iter_mut().enumerate() {
            let others = ports.iter().enumerate().filter(|(index, _)| *index != own);
            let line = others.map(|(_, port)| port.to_string()).collect::<Vec<_>>().join(" ");
            writeln!(child.stdin.as_mut().context("a floor node has no stdin")?, "{line}")?;
            let address = format!("127.0.0.1:{}", ports[own]);
            floor.processes.push(Process { pid: child.id(), address: address.clone() });
            floor.addresses.push(address);
        }
        for lines in &mut answers {
            let line = lines.next().context("a floor node ended before it was ready")??;
            ensure!(line == "ready", "a floor node said {line:?} instead of ready");
        }
        Ok(floor)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that ended already needs no killing.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
