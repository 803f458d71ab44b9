//! The one loop that runs the node's logic: everything that can happen comes in here, in batches, and every effect goes
//! out from here. Nothing in this loop waits for a disk, a socket or a lock.

use crate::disk::{Disk, SharedDigests};
use crate::gossip::{GossipReceiver, GossipSender};
use crate::handle::{Call, ChangeView, OperatorCall, PeerView, PumpView, RepairCall, ScrubCall, ScrubView, Waiter};
use crate::metrics::{Kind, Metrics};
use crate::peer::{Link, LinkParts};
use crate::plugins::Shadows;
use arc_swap::ArcSwap;
use mks_logic::cluster::{Entry, State};
use mks_logic::event::{
    Effect, HintCount, HintOutcome, Input, JobId, MoveOutcome, Reply, ScrubOutcome, SealOutcome, Ticket, Told,
};
use mks_logic::exchange::Found;
use mks_logic::id::{Key, NodeId};
use mks_logic::message::{Message, ReadOutcome, WriteOutcome};
use mks_logic::node::{Figures, Node, ScrubFigures, SyncFigures};
use mks_logic::port::Resolve;
use mks_logic::time::Hlc;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval, sleep_until};

/// Events taken in one turn at most, so that no source starves another.
const EVENTS_PER_TURN: usize = 64;
/// Calls taken in one turn at most.
const CALLS_PER_TURN: usize = 256;
/// How often the pump says how it is.
const VIEW_PERIOD: Duration = Duration::from_millis(250);

/// What reaches the pump from the node's own threads and tasks.
#[derive(Debug)]
pub enum Event {
    /// A peer's frame.
    Frame { from: NodeId, clock: Hlc, messages: Vec<Message> },
    /// Our stream to a peer came up or broke.
    Link { peer: NodeId, up: bool },
    /// A peer opened its stream to us.
    Arrived { peer: NodeId },
    /// The writer committed a group.
    Written(Vec<(JobId, WriteOutcome)>),
    /// The writer worked on the hints.
    Hinted(Vec<(JobId, HintOutcome)>),
    /// A reader read.
    Found(Vec<(JobId, ReadOutcome)>),
    /// What was read for a comparison.
    Compared(JobId, Found),
    /// A part of a scrub is done.
    Scrubbed(JobId, ScrubOutcome),
    /// Work for partitions that move is done.
    Moved(JobId, MoveOutcome),
    /// Work for seals is done.
    Sealed(JobId, SealOutcome),
    /// The code of a keyspace answered a question.
    Told(JobId, Told),
    /// Reads or writes met damaged records.
    Damaged(Vec<Key>),
    /// The store gave up for good: the node has to stop.
    StoreBroken(String),
}

/// Why the pump ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It was told to.
    #[error("stopped")]
    Stopped,
    /// See [`Event::StoreBroken`].
    #[error("{0}")]
    StoreBroken(String),
    /// A later opening of the same node id was granted an incarnation.
    #[error(
        "another process has opened node id {0} since: this one stops, so that there are never two; \
         give each node an id and a data directory of its own"
    )]
    Fenced(NodeId),
}

/// What the pump is made of.
#[expect(missing_debug_implementations, reason = "made of trait objects and queues")]
pub struct PumpParts {
    /// The logic.
    pub node: Node,
    /// This node.
    pub me: NodeId,
    /// Settles conflicts of reads.
    pub resolve: Arc<dyn Resolve>,
    /// The disk's threads.
    pub disk: Disk,
    /// Sums over the records: they are told of new keyspaces.
    pub digests: Arc<SharedDigests>,
    /// Candidates that shadow others: they are told whom.
    pub shadows: Arc<Shadows>,
    /// What links to peers share.
    pub links: LinkParts,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Clients.
    pub calls: mpsc::Receiver<Call>,
    /// Operators who want something now.
    pub operators: mpsc::Receiver<OperatorCall>,
    /// The node's own threads and tasks.
    pub events: mpsc::Receiver<Event>,
    /// The epoch log.
    pub states: watch::Receiver<Arc<State>>,
    /// What the logic wants in the epoch log.
    pub proposals: mpsc::Sender<Entry>,
    /// Sealed datagrams out.
    pub gossip: GossipSender,
    /// Opened datagrams in.
    pub datagrams: GossipReceiver,
    /// Where surfaces look at the state.
    pub state: Arc<ArcSwap<State>>,
    /// Where surfaces look at the pump.
    pub view: Arc<ArcSwap<PumpView>>,
}

/// A client that waits.
struct Waiting {
    waiter: Waiter,
    kind: Kind,
    since: Instant,
}

struct Pump {
    parts: PumpParts,
    effects: Vec<Effect>,
    /// Reads that needed no disk.
    found: VecDeque<(JobId, ReadOutcome)>,
    tickets: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    links: BTreeMap<NodeId, Link>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    resolved: mpsc::UnboundedReceiver<(NodeId, SocketAddr)>,
    resolver: mpsc::UnboundedSender<(NodeId, SocketAddr)>,
    counted: Figures,
    counted_sync: SyncFigures,
    counted_scrub: ScrubFigures,
    change: Option<ChangeView>,
    broken: Option<Ended>,
}

/// Runs until `stop` says so, or until the node must not go on. Blocks nobody; finishes the disk's queues at the end.
pub async fn run(parts: PumpParts, mut stop: watch::Receiver<bool>) -> Ended {
    let (resolver, resolved) = mpsc::unbounded_channel();
    let mut pump = Pump {
        effects: Vec::new(),
        found: VecDeque::new(),
        tickets: 0,
        waiting: BTreeMap::new(),
        links: BTreeMap::new(),
        addresses: BTreeMap::new(),
        resolved,
        resolver,
        counted: Figures::default(),
        counted_sync: SyncFigures::default(),
        counted_scrub: ScrubFigures::default(),
        change: None,
        broken: None,
        parts,
    };
    let first = pump.parts.states.borrow_and_update().clone();
    pump.cluster(first);
    let ended = pump.turn_until(&mut stop).await;
    let Pump { parts, .. } = pump;
    drop(parts.events);
    // The threads finish what is queued; that may take an fsync, so not on this one.
    drop(tokio::task::spawn_blocking(move || parts.disk.stop()).await);
    ended
}

impl Pump {
    async fn turn_until(&mut self, stop: &mut watch::Receiver<bool>) -> Ended {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let mut calls = Vec::with_capacity(CALLS_PER_TURN);
        let mut view = interval(VIEW_PERIOD);
        view.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wake = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            self.parts.disk.hand_over();
            self.arm(wake.as_mut());
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
                n = self.parts.events.recv_many(&mut events, EVENTS_PER_TURN) => {
                    if n == 0 { return Ended::Stopped; }
                    events.drain(..).for_each(|event| self.event(event));
                }
                n = self.parts.calls.recv_many(&mut calls, CALLS_PER_TURN) => {
                    if n == 0 { return Ended::Stopped; }
                    let since = Instant::now();
                    calls.drain(..).for_each(|call| self.call(call, since));
                }
                Some(call) = self.parts.operators.recv() => match call {
                    OperatorCall::Repair(call) => self.repair(call),
                    OperatorCall::Scrub(call) => self.scrub(call),
                },
                (from, incarnation, data) = self.parts.datagrams.recv() => {
                    self.parts.metrics.gossip_received();
                    self.step(Input::Datagram { from, incarnation, data });
                }
                Ok(()) = self.parts.states.changed() => {
                    let state = self.parts.states.borrow_and_update().clone();
                    self.cluster(state);
                }
                Some((node, address)) = self.resolved.recv() => { self.addresses.insert(node, address); }
                () = wake.as_mut() => self.step(Input::Tick),
                _ = view.tick() => self.publish(),
            }
            if let Some(ended) = self.broken.take() {
                return ended;
            }
        }
    }

    /// Sleeps until the logic wants to be woken. An early tick does no harm, so a later wish is not worth moving the
    /// timer for.
    fn arm(&self, mut wake: std::pin::Pin<&mut Sleep>) {
        let wish = self.parts.node.next_wake().map(|at_us| self.parts.links.clock.moment(at_us));
        let wish = wish.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        if wake.is_elapsed() || wish < wake.deadline() {
            wake.as_mut().reset(wish);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Frame { from, clock, messages } if messages.is_empty() => self.step(Input::Clock { from, clock }),
            Event::Frame { from, clock, messages } => {
                for message in messages {
                    self.step(Input::Peer { from, clock, message });
                }
            }
            Event::Link { peer, up } => self.step(Input::Link { peer, up }),
            Event::Arrived { peer } => self.step(Input::Arrived { peer }),
            Event::Written(done) => {
                for (job, outcome) in done {
                    self.step(Input::Written { job, outcome });
                }
            }
            Event::Hinted(done) => {
                for (job, outcome) in done {
                    self.step(Input::Hinted { job, outcome });
                }
            }
            Event::Found(done) => {
                for (job, outcome) in done {
                    self.step(Input::Found { job, outcome });
                }
            }
            Event::Compared(job, found) => self.step(Input::Compared { job, found }),
            Event::Scrubbed(job, outcome) => self.step(Input::Scrubbed { job, outcome }),
            Event::Moved(job, outcome) => self.step(Input::Moved { job, outcome }),
            Event::Sealed(job, outcome) => self.step(Input::Sealed { job, outcome }),
            Event::Told(job, told) => self.step(Input::Told { job, told }),
            Event::Damaged(keys) => keys.into_iter().for_each(|key| self.step(Input::Damaged { key })),
            Event::StoreBroken(reason) => self.broken = Some(Ended::StoreBroken(reason)),
        }
    }

    fn call(&mut self, Call { request, waiter }: Call, since: Instant) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, Waiting { waiter, kind: Kind::of(&request), since });
        self.step(Input::Client { ticket, request });
    }

    /// Starts it, and says what was counted before it and how much it has to do.
    fn repair(&mut self, RepairCall { partition, started }: RepairCall) {
        let before = self.parts.node.sync_figures();
        self.step(Input::Repair { partition });
        let demanded = self.parts.node.sync_figures().demanded;
        self.publish();
        // Whoever asked may have gone; it goes on all the same.
        let _ = started.send(SyncFigures { demanded, ..before });
    }

    /// The same for a look at this node's own disk.
    fn scrub(&mut self, ScrubCall { partition, started }: ScrubCall) {
        let before = self.parts.node.scrub_figures();
        self.step(Input::Scrub { partition });
        let demanded = self.parts.node.scrub_figures().demanded;
        self.publish();
        let _ = started.send(ScrubFigures { demanded, ..before });
    }

    fn step(&mut self, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        let mut next = Some(input);
        while let Some(input) = next {
            self.parts.node.step(self.parts.links.clock.now(), input, &*self.parts.resolve, &mut effects);
            self.parts.links.clock.note(self.parts.node.clock());
            for effect in effects.drain(..) {
                self.act(effect);
            }
            next = self.found.pop_front().map(|(job, outcome)| Input::Found { job, outcome });
        }
        self.effects = effects;
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                if self.links.get(&to).is_some_and(|link| !link.send(message)) {
                    self.parts.metrics.peer_dropped();
                }
            }
            Effect::Datagram { to, data } => {
                if let Some(address) = self.addresses.get(&to) {
                    self.parts.metrics.gossip_sent();
                    self.parts.gossip.try_send(*address, self.parts.node.incarnation(), &data);
                }
            }
            Effect::Write(job) => self.parts.disk.write(job),
            Effect::Read(job) => self.found.extend(self.parts.disk.read(job)),
            Effect::Hint(job) => self.parts.disk.hint(job),
            Effect::Compare { job, work } => self.parts.disk.compare(job, work),
            Effect::Scrub(job) => self.parts.disk.scrub(job),
            Effect::Move(job) => self.parts.disk.moves(job),
            Effect::Seal(job) => self.parts.disk.seals(job),
            Effect::Ask(job) => self.parts.disk.ask(job),
            // One that waits is enough: whatever is dropped here is asked for again.
            Effect::Propose { entry } => drop(self.parts.proposals.try_send(entry)),
            Effect::Reply { ticket, reply } => self.reply(ticket, reply),
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(Waiting { waiter, kind, since }) = self.waiting.remove(&ticket) {
            self.parts.metrics.reply(kind, &reply, since.elapsed().as_micros() as u64);
            waiter.answer(reply);
        }
    }

    /// The roster moved: links and addresses follow it.
    fn cluster(&mut self, state: Arc<State>) {
        let me = self.parts.me;
        self.links.retain(|node, _| state.members.contains_key(node));
        self.addresses.retain(|node, _| state.members.contains_key(node));
        for (node, member) in state.members.iter().filter(|(node, _)| **node != me) {
            let address = &member.addresses.peer;
            if self.links.get(node).is_none_or(|link| link.address() != address) {
                if self.links.remove(node).is_some() {
                    self.step(Input::Link { peer: *node, up: false });
                }
                self.resolve(*node, address.clone());
                self.links.insert(*node, Link::start(*node, address.clone(), self.parts.links.clone()));
            }
        }
        self.parts.digests.learn(state.all_copies_max());
        self.parts.shadows.learn(&state);
        self.change = state.change.as_ref().map(|change| match self.change {
            Some(known) if known.id == change.id => known,
            _ => ChangeView { id: change.id, since: Instant::now(), left_then: change.waits.len() as u32 },
        });
        self.parts.state.store(Arc::clone(&state));
        self.step(Input::Cluster(state));
        // Whoever is no member any more hears from the epoch log why.
        if self.parts.node.is_fenced() && self.parts.state.load().members.contains_key(&me) {
            self.broken = Some(Ended::Fenced(me));
        }
        self.publish();
    }

    /// Looks a member's address up, away from the pump, until it is found.
    fn resolve(&self, node: NodeId, address: String) {
        let found = self.resolver.clone();
        tokio::spawn(async move {
            while !found.is_closed() {
                if let Some(address) = tokio::net::lookup_host(&address).await.ok().and_then(|mut all| all.next()) {
                    let _ = found.send((node, address));
                    return;
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
    }

    /// Says how it is, for surfaces and metrics.
    fn publish(&mut self) {
        for (node, alive) in self.parts.node.take_liveness_changes() {
            if alive {
                tracing::info!(%node, "answers gossip again");
            } else {
                tracing::warn!(%node, "does not answer gossip; requests go to the other owners");
            }
        }
        let node = &self.parts.node;
        let owed: BTreeMap<NodeId, HintCount> = node.hints().collect();
        let needs_sync = node.needs_comparison();
        let peer = |(node, alive, linked, clock_offset_ms)| {
            let owed = owed.get(&node).copied().unwrap_or_default();
            let needs_sync = needs_sync.get(&node).copied().unwrap_or_default();
            PeerView { node, alive, linked, clock_offset_ms, owed, needs_sync }
        };
        self.parts.view.store(Arc::new(PumpView {
            incarnation: node.incarnation(),
            hears_clocks: node.hears_clocks(),
            peers: node.peers().map(peer).collect(),
            operations: node.operations() as u64,
            sync: node.sync_figures(),
            scrub: ScrubView { figures: node.scrub_figures(), faults: node.disk_faults().copied().collect() },
            moves: node.moves(),
            sealing: Some(node.sealing()),
            change: self.change,
        }));
        let figures = self.parts.node.figures();
        self.parts.metrics.logic(self.counted, figures);
        self.counted = figures;
        let sync = self.parts.node.sync_figures();
        self.parts.metrics.sync(self.counted_sync, sync);
        self.counted_sync = sync;
        let scrub = self.parts.node.scrub_figures();
        self.parts.metrics.scrub(self.counted_scrub, scrub);
        self.counted_scrub = scrub;
        self.parts.metrics.seals(&self.parts.state.load(), &self.parts.node.sealing());
    }
}
