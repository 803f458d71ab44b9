//! The pipelined client: one stream per node, many operations under way, answered out of order.

use super::load::{Load, Next, Outcome};
use super::workload::{Kind, Op};
use crate::cli::{connect, kv_client};
use futures_util::stream::{self, Stream};
use mks_proto::v1::session_operation::Operation;
use mks_proto::v1::session_result::Result as Answer;
use mks_proto::v1::{SessionOperation, SessionRequest, SessionResult};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Most messages of one frame, and about how many bytes of values: receivers refuse frames of more than a few MiB.
const FRAME_MESSAGES_MAX: usize = 256;
const FRAME_BYTES_MAX: usize = 1 << 20;
/// How long to wait before a node that is gone is tried again.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Frames of whatever is queued when the wire is free; never waits for more. No message is much larger than
/// `value_size`.
pub(super) fn frames<T, F>(
    mut queue: mpsc::Receiver<T>,
    value_size: usize,
    frame: impl Fn(Vec<T>) -> F,
) -> impl Stream<Item = F> {
    let messages_max = (FRAME_BYTES_MAX / value_size.max(1)).clamp(1, FRAME_MESSAGES_MAX);
    stream::poll_fn(move |context| {
        let mut messages = Vec::with_capacity(16);
        match queue.poll_recv_many(context, &mut messages, messages_max) {
            Poll::Ready(0) => Poll::Ready(None),
            Poll::Ready(_) => Poll::Ready(Some(frame(messages))),
            Poll::Pending => Poll::Pending,
        }
    })
}

/// Keeps `slots` operations under way at one node until the load is over; comes back when the node does.
pub(super) async fn run(load: Load, address: String, slots: u32) {
    while !load.is_over() {
        match drive(&load, &address, slots).await {
            Ok(()) => return,
            Err(reason) => {
                load.recorder().fail(&reason);
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

/// The operations under way; an id is a place in `slots`.
struct Slots {
    taken: Vec<Option<(Kind, Instant)>>,
    free: Vec<usize>,
    idle_since: Option<Instant>,
}

impl Slots {
    fn new(count: u32) -> Self {
        let count = count as usize;
        Self { taken: vec![None; count], free: (0..count).collect(), idle_since: None }
    }

    /// Queues as much as there is room for and is due. `Ok(None)`: nothing will be due any more.
    fn fill(&mut self, load: &Load, queue: &mpsc::Sender<SessionOperation>) -> Result<Option<Wake>, ()> {
        while let Some(slot) = self.free.last().copied() {
            let (op, due) = match load.next(self.idle_since) {
                Next::Send(op, due) => (op, due),
                Next::Wait(until) => {
                    self.idle_since.get_or_insert_with(Instant::now);
                    return Ok(Some(Wake::At(until)));
                }
                Next::Stop => return Ok(None),
            };
            self.free.pop();
            self.taken[slot] = Some((op.kind(), due));
            let operation = match op {
                Op::Put(put) => Operation::Put(put),
                Op::Get(get) => Operation::Get(get),
            };
            // The queue has a place for every slot, so it is never full.
            queue.try_send(SessionOperation { id: slot as u64, operation: Some(operation) }).map_err(drop)?;
        }
        self.idle_since = None;
        Ok(Some(Wake::Never))
    }

    fn take(&mut self, id: u64) -> Option<(Kind, Instant)> {
        let slot = usize::try_from(id).ok()?;
        let taken = self.taken.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(taken)
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.taken.len()
    }

    /// What was under way when the stream broke.
    fn abandon(&mut self, load: &Load, reason: &str) {
        for (kind, due) in self.taken.iter_mut().filter_map(Option::take) {
            load.done(kind, due, Outcome::Failed(reason.to_owned()));
        }
    }
}

/// When the worker has something to do besides taking answers.
enum Wake {
    At(Instant),
    Never,
}

async fn drive(load: &Load, address: &str, slots: u32) -> Result<(), String> {
    let channel = connect(address).await.map_err(|_| "UNREACHABLE".to_owned())?;
    let (queue, queued) = mpsc::channel(slots as usize);
    let requests = frames(queued, load.value_size(), |operations| SessionRequest { operations });
    let opened = kv_client(channel).session(requests).await;
    let mut answers = opened.map_err(|status| reason_of(&status))?.into_inner();
    let mut slots = Slots::new(slots);
    loop {
        let wake = match slots.fill(load, &queue) {
            Ok(None) if slots.is_idle() => return Ok(()),
            Ok(None) => Wake::Never,
            Ok(Some(wake)) => wake,
            Err(()) => Wake::Never,
        };
        let timer = async {
            match wake {
                Wake::At(until) => tokio::time::sleep_until(until.into()).await,
                Wake::Never => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(response)) => settle(load, &mut slots, response.results),
                Ok(None) => {
                    slots.abandon(load, "CONNECTION_LOST");
                    return Err("CONNECTION_LOST".to_owned());
                }
                Err(status) => {
                    let reason = reason_of(&status);
                    slots.abandon(load, &reason);
                    return Err(reason);
                }
            },
            () = timer => {}
        }
    }
}

fn settle(load: &Load, slots: &mut Slots, results: Vec<SessionResult>) {
    for SessionResult { id, result, .. } in results {
        let Some((kind, due)) = slots.take(id) else {
            load.recorder().fail("ANSWER_WITHOUT_QUESTION");
            continue;
        };
        let outcome = match result {
            Some(Answer::Written(_) | Answer::Found(_)) => Outcome::Done,
            Some(Answer::NotFound(_)) => Outcome::Absent,
            Some(Answer::Error(detail)) => Outcome::Failed(detail.reason),
            Some(Answer::Batch(_) | Answer::Applied(_) | Answer::Viewed(_)) | None => {
                Outcome::Failed("NONSENSE".to_owned())
            }
        };
        load.done(kind, due, outcome);
    }
}

/// The stable word of a failure: the node's, else the gRPC code.
pub(super) fn reason_of(status: &tonic::Status) -> String {
    mks_proto::detail_of(status).map_or_else(|| format!("{:?}", status.code()), |detail| detail.reason)
}
