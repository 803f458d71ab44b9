//! One node: composes the operations, the owner's side and the membership into one state machine.
//!
//! [`Node::step`] takes one [`Input`] and appends [`Effect`]s. Equal inputs at equal times from an equal seed give
//! equal effects. `coordinate` is the side that serves clients, `check` what it refuses at once, `linger` what is left
//! to do after the reply, `repair` what reads mend, `hints` what owners are owed, `sloppy` who stands in for them,
//! `table` whom both ask, `forward` what is handed to an owner, `guest` what code of keyspaces is asked, `own` the side
//! that holds partitions, `moves` how those come and go.

mod budget;
mod check;
mod coordinate;
mod figures;
mod forward;
mod guest;
mod hints;
mod linger;
mod moves;
mod own;
mod repair;
mod scrub;
mod seals;
mod sloppy;
mod sync;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod town;

use crate::batch::BatchOp;
use crate::cluster::{Member, Standing, State};
use crate::event::{Effect, Input, JobId, Ticket};
use crate::get::ReadOp;
use crate::id::{Dot, Incarnation, NodeId};
use crate::latency::Latencies;
use crate::limits::Limits;
use crate::member::{GossipSettings, Membership};
use crate::message::{Message, Refused, Tag};
use crate::port::Resolve;
use crate::put::WriteOp;
use crate::request::{OpError, Request};
use crate::retry::{Handed, Memory, RequestId};
use crate::time::{Clock, Hlc, MonoUs, Now};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
pub use figures::{Figures, Load};
use guest::GuestOp;
use hints::Hints;
pub use hints::{HintDropped, NeedsSync};
pub use repair::Cause;
use repair::Repairs;
pub use scrub::{DiskFault, FaultKind, ScrubFigures};
pub use seals::{Sealing, Undrained};
pub use sync::SyncFigures;

/// What a node is made of, besides what the world tells it later.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Who it is.
    pub me: NodeId,
    /// The random name of this opening of the data directory: the epoch log grants the incarnation to it.
    pub opening: u128,
    /// Its bounds.
    pub limits: Limits,
    /// Gossip's settings.
    pub gossip: GossipSettings,
    /// Seed of all randomness.
    pub seed: u64,
}

/// Who waits for an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waiter {
    /// A client of this node.
    Client(Ticket),
    /// Another node, whose client asked there.
    Peer { node: NodeId, tag: Tag },
    /// A batch of this node.
    Item { batch: Tag, item: u32 },
    /// An operation of this node that asks the keyspace's code, whose read it is.
    Guest(Tag),
    /// Everybody has a reply; the operation stays for the answers of late owners.
    Nobody,
}

/// An operation that this node coordinates.
#[derive(Debug)]
struct Op {
    waiter: Waiter,
    deadline: MonoUs,
    bytes: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Write {
        op: Box<WriteOp>,
        request: Option<RequestId>,
    },
    Read(ReadOp),
    Batch(BatchOp),
    /// For the keyspace's code, while its read is under way or the code thinks.
    Guest(GuestOp),
    /// Handed to an owner; a read may be handed to another one if the link breaks.
    Forward {
        to: NodeId,
        request: Request,
        tried: BTreeSet<NodeId>,
        /// That owner was asked for it before, and knows what became of it.
        again: bool,
    },
}

/// Whose job the disk does.
#[derive(Clone, Copy, Debug)]
enum JobFor {
    Own(Tag),
    Peer {
        node: NodeId,
        tag: Tag,
    },
    /// A comparison with another owner, of our own or of a peer's.
    Sync(Tag),
    /// A look at what the disk really holds.
    Scrub,
    /// Work for partitions that move.
    Move,
    /// Work for seals.
    Seal,
}

impl JobFor {
    /// True when no client waits for it.
    const fn is_background(self) -> bool {
        matches!(self, Self::Sync(_) | Self::Scrub | Self::Move | Self::Seal)
    }
}

/// What a node knows of a peer from its frames.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    linked: bool,
    /// Its clock minus ours when its last frame came, milliseconds.
    clock_offset_ms: i64,
    /// Our clock minus our monotonic one at that moment, milliseconds; `None`: no frame came yet.
    heard: Option<i64>,
}

/// What can't be done now, but will be soon, is tried again after this part of a usual pause: because another node is
/// busy, say, or in another epoch.
const SOON: u64 = 8;

impl Peer {
    /// Its clock minus ours now, milliseconds, were it to go on as it did: a leap of ours shows at once.
    fn clock_offset_now(&self, now: Now) -> Option<i64> {
        self.heard.map(|ours| self.clock_offset_ms - (leap(now) - ours))
    }
}

/// Our clock minus our monotonic one, milliseconds: it changes when our clock is set.
const fn leap(now: Now) -> i64 {
    now.wall_ms as i64 - (now.mono_us / 1_000) as i64
}

/// See the module's own words.
#[derive(Debug)]
pub struct Node {
    me: NodeId,
    opening: u128,
    limits: Limits,
    gossip: GossipSettings,
    seed: u64,
    state: Arc<State>,
    incarnation: Incarnation,
    clock: Clock,
    dots: u64,
    serial: u64,
    ops: BTreeMap<Tag, Op>,
    ops_bytes: usize,
    /// Operations in `ops` that wait for late owners only, and the bytes of those: not part of `ops_bytes`.
    lingering: usize,
    lingering_bytes: usize,
    deadlines: BTreeSet<(MonoUs, Tag)>,
    /// When reads ask everybody, and sloppy writes take silent owners for absent. Finished ones stay until their time.
    hedges: BTreeSet<(MonoUs, Tag)>,
    /// How long recent reads took.
    latencies: Latencies,
    jobs: BTreeMap<JobId, JobFor>,
    /// Those of `jobs` that are for comparisons and scrubbing: they take no client's place, and have bounds of their
    /// own.
    jobs_in_background: usize,
    peers: BTreeMap<NodeId, Peer>,
    membership: Option<Membership>,
    memory: Memory,
    /// Owners to whom operations on data types were handed: sent again, they go there again.
    handed: Handed,
    /// Writes that wait for an epoch that other owners have reached already.
    awaiting_epoch: BTreeSet<Tag>,
    /// Messages from an epoch that this node has not reached yet.
    early: VecDeque<(NodeId, Message)>,
    repairs: Repairs,
    hints: Hints,
    figures: Figures,
    sync: sync::Comparing,
    scrub: scrub::Scrubbing,
    moves: moves::Moves,
    seals: seals::Seals,
}

/// What a step needs besides its input: bundled so that helpers stay readable.
struct Step<'a> {
    now: Now,
    resolve: &'a dyn Resolve,
    out: &'a mut Vec<Effect>,
}

impl Node {
    /// A node that knows nothing yet. It serves once [`Input::Cluster`] brings a ring, and coordinates writes once the
    /// epoch log has granted its incarnation.
    #[must_use]
    pub fn new(options: NodeOptions) -> Self {
        let memory = Memory::new(options.limits.request_ids_max);
        let handed = Handed::new(options.limits.request_ids_max);
        Self {
            me: options.me,
            opening: options.opening,
            limits: options.limits,
            gossip: options.gossip,
            seed: options.seed,
            state: Arc::default(),
            incarnation: Incarnation(0),
            clock: Clock::default(),
            dots: 0,
            // Every opening counts from a place of its own: an owner may still answer what the process before asked.
            serial: (options.opening as u64) >> 1,
            ops: BTreeMap::new(),
            ops_bytes: 0,
            lingering: 0,
            lingering_bytes: 0,
            deadlines: BTreeSet::new(),
            hedges: BTreeSet::new(),
            latencies: Latencies::default(),
            jobs: BTreeMap::new(),
            jobs_in_background: 0,
            peers: BTreeMap::new(),
            membership: None,
            memory,
            handed,
            awaiting_epoch: BTreeSet::new(),
            early: VecDeque::new(),
            repairs: Repairs::default(),
            hints: Hints::default(),
            figures: Figures::default(),
            sync: sync::Comparing::default(),
            scrub: scrub::Scrubbing::default(),
            moves: moves::Moves::default(),
            seals: seals::Seals::default(),
        }
    }

    /// Takes one input; effects are appended to `out` in the order in which they must happen.
    pub fn step(&mut self, now: Now, input: Input, resolve: &dyn Resolve, out: &mut Vec<Effect>) {
        let mut step = Step { now, resolve, out };
        match input {
            Input::Client { ticket, request } => self.ask(&mut step, Waiter::Client(ticket), request),
            Input::Peer { from, clock, message } => self.heard(&mut step, from, clock, message),
            Input::Clock { from, clock } => self.clock_of(now, from, clock),
            Input::Link { peer, up } => self.link(&mut step, peer, up),
            Input::Arrived { peer } => self.resend(&mut step, peer),
            Input::Datagram { from, incarnation, data } => self.gossiped(&mut step, from, incarnation, &data),
            Input::Written { job, outcome } => match self.take_job(job) {
                Some(JobFor::Own(tag)) => self.written(&mut step, tag, self.me, &outcome),
                Some(JobFor::Peer { node, tag }) => self.send(&mut step, node, Message::Written { tag, outcome }),
                Some(JobFor::Sync(tag)) => self.sync_written(&mut step, tag, &outcome),
                Some(JobFor::Scrub | JobFor::Move | JobFor::Seal) | None => {}
            },
            Input::Found { job, outcome } => match self.take_job(job) {
                Some(JobFor::Own(tag)) => self.found(&mut step, tag, self.me, outcome),
                Some(JobFor::Peer { node, tag }) => self.send(&mut step, node, Message::Found { tag, outcome }),
                Some(JobFor::Sync(_) | JobFor::Scrub | JobFor::Move | JobFor::Seal) | None => {}
            },
            Input::Hinted { job, outcome } => self.hinted(&mut step, job, outcome),
            Input::Cluster(state) => self.cluster(&mut step, state),
            Input::Tick => self.tick(&mut step),
            Input::Compared { job, found } => {
                if let Some(JobFor::Sync(tag)) = self.take_job(job) {
                    self.compared(&mut step, tag, found);
                }
            }
            Input::Repair { partition } => self.sync_demanded(&mut step, partition),
            Input::Scrubbed { job, outcome } => {
                if self.take_job(job).is_some() {
                    self.scrubbed(&mut step, job, outcome);
                }
            }
            Input::Scrub { partition } => self.scrub_demanded(&mut step, partition),
            Input::Damaged { key } => self.scrub_met(&mut step, &key),
            Input::Moved { job, outcome } => match self.take_job(job) {
                Some(JobFor::Sync(tag)) => self.serve_flushed(&mut step, tag, &outcome),
                Some(JobFor::Move) => self.moved(&mut step, job, outcome),
                _ => {}
            },
            Input::Sealed { job, outcome } => {
                if self.take_job(job).is_some() {
                    self.sealed(&mut step, job, &outcome);
                }
            }
            Input::Told { job, told } => self.told(&mut step, job, told),
        }
    }

    /// When [`Input::Tick`] is due, if ever. Early ticks do no harm.
    #[must_use]
    pub fn next_wake(&self) -> Option<MonoUs> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let gossip = self.membership.as_ref().and_then(Membership::next_wake);
        let hedge = self.hedges.first().map(|(at, _)| *at);
        let hints = self.hints_wake();
        let wakes = deadline.into_iter().chain(gossip).chain(hedge).chain(self.repairs.next_wake()).chain(hints);
        wakes.chain(self.sync_wake()).chain(self.scrub_wake()).chain(self.moves_wake()).chain(self.seals_wake()).min()
    }

    /// This node's hybrid clock: it rides on every frame.
    #[must_use]
    pub fn clock(&self) -> Hlc {
        self.clock.latest()
    }

    /// Granted by the epoch log to this opening; zero before.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// True when the epoch log granted this node's place to a later opening: this process must stop.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        let member = self.state.members.get(&self.me);
        self.incarnation.0 != 0 && member.is_none_or(|m| m.opening != self.opening)
    }

    /// Operations that this node coordinates now and that somebody waits for.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.ops.len() - self.lingering
    }

    /// What it holds of work under way.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            operations: self.operations(),
            lingering: self.lingering,
            operations_bytes: self.ops_bytes,
            deadlines: self.deadlines.len(),
            jobs: self.jobs.len() - self.jobs_in_background,
            early: self.early.len(),
            awaiting_epoch: self.awaiting_epoch.len(),
            hedges: self.hedges.len(),
            repairs: self.repairs.len(),
            hint_jobs: self.hints.jobs(),
        }
    }

    /// Figures since the start.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The other members: alive by gossip, linked by stream, and how far their clock is from ours in milliseconds.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, bool, bool, i64)> + '_ {
        self.state.members.keys().filter(|id| **id != self.me).map(|id| {
            let peer = self.peers.get(id).copied().unwrap_or_default();
            (*id, self.is_alive(*id), peer.linked, peer.clock_offset_ms)
        })
    }

    /// Members that seem dead now and did not when this was last asked, or the other way round: `true` means alive.
    pub fn take_liveness_changes(&mut self) -> Vec<(NodeId, bool)> {
        self.membership.as_mut().map(Membership::take_changes).unwrap_or_default()
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.membership.as_ref().is_some_and(|m| m.is_alive(node))
    }

    fn is_linked(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.linked)
    }

    fn tag(&mut self) -> Tag {
        self.serial += 1;
        Tag(self.serial)
    }

    fn job(&mut self, whose: JobFor) -> JobId {
        self.serial += 1;
        let job = JobId(self.serial);
        self.jobs_in_background += usize::from(whose.is_background());
        self.jobs.insert(job, whose);
        job
    }

    fn take_job(&mut self, job: JobId) -> Option<JobFor> {
        let whose = self.jobs.remove(&job)?;
        self.jobs_in_background -= usize::from(whose.is_background());
        Some(whose)
    }

    fn dot(&mut self) -> Dot {
        self.dots += 1;
        Dot { node: self.me, incarnation: self.incarnation, counter: self.dots }
    }

    /// Sends where there is a link; what can't be sent is sent when the link comes up, as long as somebody waits. An
    /// answer goes out in any case: whoever asks saw our stream arrive, perhaps before we heard that it is up.
    fn send(&self, step: &mut Step<'_>, to: NodeId, message: Message) {
        if self.is_linked(to) || message.is_answer() {
            step.out.push(Effect::Send { to, message });
        }
    }

    fn heard(&mut self, step: &mut Step<'_>, from: NodeId, clock: Hlc, message: Message) {
        // One that was declared dead may live, and know nothing of tables without it: what it holds counts for nothing.
        if !self.state.has_living(from) {
            self.figures.nonsense += 1;
            return;
        }
        self.clock_of(step.now, from, clock);
        match message {
            Message::Write { .. } | Message::Keep { .. } | Message::Read { .. } => self.asked(step, from, message),
            Message::Written { tag, outcome } => self.written(step, tag, from, &outcome),
            Message::Found { tag, outcome } => {
                if let Some(outcome) = self.scrub_found(step, tag, from, outcome) {
                    self.found(step, tag, from, outcome);
                }
            }
            Message::Forward { tag, incarnation, .. } if incarnation.0 != 0 && incarnation != self.incarnation => {
                let refused = Refused::NotOwner.to_string();
                self.send(step, from, Message::Forwarded { tag, reply: Err(OpError::NotNamed { refused }) });
            }
            Message::Forward { tag, request, remaining_ms, .. } => {
                let deadline_ms = Some(request.deadline_ms.map_or(remaining_ms, |own| own.min(remaining_ms)));
                let request = Request { deadline_ms, ..request };
                self.ask(step, Waiter::Peer { node: from, tag }, request);
            }
            Message::Forwarded { tag, reply } => self.forwarded(step, tag, from, reply),
            Message::Sync { tag, ask } => self.sync_asked(step, from, tag, ask),
            Message::Synced { tag, answer } => self.sync_answered(step, from, tag, answer),
        }
    }

    /// Takes in a peer's clock. One that is too far ahead is not followed, only noted.
    fn clock_of(&mut self, now: Now, from: NodeId, clock: Hlc) {
        let peer = self.peers.entry(from).or_default();
        peer.clock_offset_ms = clock.ms() as i64 - now.wall_ms as i64;
        peer.heard = Some(leap(now));
        // Refused where it is too far ahead; the offset noted above is what people get to see.
        let _ = self.clock.observe(clock, now, self.limits.clock_offset_max_ms);
    }

    /// How far our clock is from those of the peers, where more than half of them say that it is too far.
    fn clock_off(&self, now: Now) -> Option<i64> {
        let max = self.limits.clock_offset_max_ms as i64;
        let of = |linked: bool| {
            let peers = self.peers.values().filter(move |peer| peer.linked || !linked);
            peers.filter_map(|peer| peer.clock_offset_now(now)).collect::<Vec<i64>>()
        };
        // One that was cut off goes by what it heard last.
        let known = Some(of(true)).filter(|known| !known.is_empty()).unwrap_or_else(|| of(false));
        let off = known.iter().filter(|o| o.abs() > max).count();
        let worst = known.iter().copied().max_by_key(|o| o.abs())?;
        (off * 2 > known.len()).then_some(-worst)
    }

    /// Whether another member's clock was heard, if there is another one. Until then nobody can tell whether ours is
    /// right, and a stamp far ahead would win over all writes until that time has come.
    #[must_use]
    pub fn hears_clocks(&self) -> bool {
        let others = |(node, member): (&NodeId, &Member)| *node != self.me && member.standing == Standing::Up;
        !self.state.members.iter().any(others) || self.peers.values().any(|peer| peer.heard.is_some())
    }

    fn link(&mut self, step: &mut Step<'_>, peer: NodeId, up: bool) {
        self.peers.entry(peer).or_default().linked = up;
        if up {
            self.resend(step, peer);
        } else {
            self.link_lost(step, peer);
            self.sync_lost(step, peer);
        }
        self.hints_link(step, peer, up);
    }

    fn gossiped(&mut self, step: &mut Step<'_>, from: NodeId, incarnation: Incarnation, data: &[u8]) {
        let Some(membership) = &mut self.membership else { return };
        let mut datagrams = Vec::new();
        if let Err(dropped) = membership.datagram(step.now, from, incarnation, data, &mut datagrams) {
            self.figures.gossip_dropped[dropped as usize] += 1;
        }
        step.datagrams(datagrams);
    }

    fn cluster(&mut self, step: &mut Step<'_>, state: Arc<State>) {
        self.state = state;
        let granted = self.state.members.get(&self.me).filter(|m| m.opening == self.opening).map(|m| m.incarnation);
        if let Some(incarnation) = granted.filter(|i| *i != self.incarnation) {
            self.incarnation = incarnation;
            self.membership = Some(Membership::new(self.me, incarnation, self.seed, &self.gossip));
        }
        if let Some(membership) = &mut self.membership {
            let mut datagrams = Vec::new();
            membership.roster(step.now, &self.state.members, &mut datagrams);
            step.datagrams(datagrams);
        }
        self.sync_cluster(step);
        self.scrub_cluster(step);
        self.moves_cluster(step);
        self.seals_cluster(step);
        for (from, message) in core::mem::take(&mut self.early) {
            self.asked(step, from, message);
        }
        for tag in core::mem::take(&mut self.awaiting_epoch) {
            self.go_on(step, tag);
        }
        self.hints_of_members(step);
        self.moves_tick(step);
        self.seals_tick(step);
    }

    fn tick(&mut self, step: &mut Step<'_>) {
        if let Some(membership) = &mut self.membership {
            let mut datagrams = Vec::new();
            membership.tick(step.now, &mut datagrams);
            step.datagrams(datagrams);
        }
        self.hedge(step);
        self.repairs.expire(step.now.mono_us);
        self.hints_tick(step);
        self.scrub_tick(step);
        self.sync_tick(step);
        self.moves_tick(step);
        self.seals_tick(step);
        while let Some((at, tag)) = self.deadlines.first().copied() {
            if at > step.now.mono_us {
                break;
            }
            self.timed_out(step, at, tag);
        }
    }
}

impl Step<'_> {
    fn datagrams(&mut self, datagrams: Vec<(NodeId, bytes::Bytes)>) {
        self.out.extend(datagrams.into_iter().map(|(to, data)| Effect::Datagram { to, data }));
    }
}
