//! A whole cluster on one thread and from one seed: real nodes, and doubles of everything around them.
//!
//! Streams go one way, as they do between processes: what is sent on one arrives in order, a break loses what is on its
//! way, and only the sender hears of it. Disks take what waits as one group. Clocks are as wrong as the plan says.

mod away;

use super::clients::{Clients, keys, replies};
use super::dice::Dice;
use crate::cluster::State;
use crate::event::{Answer, Effect, Input, OpError, Reply, Request, Ticket, WriteJob};
use crate::hint;
use crate::id::{Incarnation, Key, NodeId};
use crate::limits::Limits;
use crate::member::GossipSettings;
use crate::message::Message;
use crate::node::{JobFor, Node, NodeOptions};
use crate::port::StoreError;
use crate::replica;
use crate::sync;
use crate::testing::{Disk, Rules, formed, owners};
use crate::time::{Hlc, Now};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

pub(super) const MS: u64 = 1_000;
/// How often a frame is sent when there is nothing to say.
const IDLE_MS: u64 = 500;
/// Unix time at the start of every run, milliseconds.
const BIRTH_MS: u64 = 1_800_000_000_000;

/// What a run is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: u64,
    /// N, R and W.
    pub(super) quorums: (u8, u8, u8),
    /// How far the nodes' clocks may be off the true time, milliseconds.
    pub(super) skew_ms: u64,
    /// Clocks jump while the cluster runs.
    pub(super) jumps: bool,
    /// Streams break, nodes die, disks fill up, epochs pass.
    pub(super) faults: bool,
    /// How long the clients are at work, milliseconds.
    pub(super) load_ms: u64,
    /// False takes the mark off every write that says that it is of this moment: nobody restamps then.
    pub(super) fresh: bool,
    /// Hash everything that happens.
    pub(super) traced: bool,
    /// Of every node.
    pub(super) limits: Limits,
}

impl Default for Plan {
    fn default() -> Self {
        let (quorums, limits) = ((3, 2, 2), Limits::default());
        let (skew_ms, jumps, faults, load_ms, fresh, traced) = (0, false, false, 600, true, false);
        Self { nodes: 3, quorums, skew_ms, jumps, faults, load_ms, fresh, traced, limits }
    }
}

/// One process and its disk.
struct Machine {
    /// `None` while it is dead.
    node: Option<Node>,
    opening: u128,
    disk: Disk,
    waiting: Vec<WriteJob>,
    committing: bool,
    skew_ms: i64,
}

/// The way from one node to another.
#[derive(Clone, Copy, Default)]
struct Stream {
    connected: bool,
    connection: u64,
    last_arrival: u64,
    cut: bool,
}

enum Event {
    Arrive {
        from: NodeId,
        to: NodeId,
        connection: u64,
        clock: Hlc,
        message: Option<Message>,
    },
    Broken {
        from: NodeId,
        to: NodeId,
        opening: u128,
    },
    Connect {
        from: NodeId,
        to: NodeId,
    },
    Datagram {
        from: NodeId,
        incarnation: Incarnation,
        to: NodeId,
        data: Bytes,
    },
    /// Something for one process, if it still is that one.
    Local {
        node: NodeId,
        opening: u128,
        what: Local,
    },
    /// Frames without messages.
    Idle,
    Trouble,
    Client {
        client: usize,
    },
    Publish {
        node: NodeId,
        state: Arc<State>,
    },
    Start {
        node: NodeId,
    },
    Mend {
        node: NodeId,
    },
    Heal {
        a: NodeId,
        b: NodeId,
    },
}

enum Local {
    Commit,
    Input(Box<Input>),
}

/// See the module's own words.
pub(super) struct Cluster {
    pub(super) plan: Plan,
    pub(super) now_us: u64,
    pub(super) dice: Dice,
    pub(super) state: Arc<State>,
    pub(super) clients: Clients,
    /// Good and bad replies, for tests that ask whether anything happened at all.
    pub(super) good: u64,
    pub(super) bad: Vec<OpError>,
    machines: BTreeMap<NodeId, Machine>,
    streams: BTreeMap<(NodeId, NodeId), Stream>,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    troubled: bool,
    openings: u128,
    trace: DefaultHasher,
}

impl Cluster {
    pub(super) fn new(plan: Plan, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let state = Arc::new(formed(plan.nodes, plan.quorums));
        let ids: Vec<NodeId> = state.members.keys().copied().collect();
        let mut machines = BTreeMap::new();
        for id in &ids {
            let skew_ms = dice.below(2 * plan.skew_ms + 1) as i64 - plan.skew_ms as i64;
            let opening = u128::from(id.0);
            let (disk, waiting) = (Disk::default(), Vec::new());
            machines.insert(*id, Machine { node: None, opening, disk, waiting, committing: false, skew_ms });
        }
        let pairs = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
        let streams = pairs.map(|pair| (pair, Stream::default())).collect();
        let mut cluster = Self {
            now_us: 0,
            dice,
            clients: Clients::new(Arc::clone(&state)),
            state,
            good: 0,
            bad: Vec::new(),
            machines,
            streams,
            events: BTreeMap::new(),
            scheduled: 0,
            troubled: plan.faults || plan.jumps,
            openings: u128::from(plan.nodes),
            trace: DefaultHasher::new(),
            plan,
        };
        for id in ids {
            cluster.open(id);
            cluster.schedule(0, Event::Publish { node: id, state: Arc::clone(&cluster.state) });
        }
        for client in 0..cluster.clients.len() {
            cluster.schedule(50 * MS, Event::Client { client });
        }
        cluster.schedule(0, Event::Idle);
        cluster.schedule(60 * MS, Event::Trouble);
        cluster
    }

    /// Load with trouble, then a while without, so that everything under way comes to an end.
    pub(super) fn run(&mut self) -> &mut Self {
        self.advance(self.plan.load_ms * MS);
        self.clients.stop();
        self.calm();
        self.advance(1_500 * MS);
        self
    }

    /// Ends all trouble: nodes start, streams connect, disks have room; clocks that jumped are right again.
    fn calm(&mut self) {
        self.troubled = false;
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        for id in ids {
            self.machine(id).disk.fail(None);
            if self.plan.jumps {
                self.machine(id).skew_ms = 0;
            }
            self.schedule(0, Event::Start { node: id });
        }
        for stream in self.streams.values_mut() {
            stream.cut = false;
        }
    }

    pub(super) fn advance(&mut self, for_us: u64) {
        let end = self.now_us + for_us;
        loop {
            let wake = self.machines.iter().filter_map(|(id, m)| Some((m.node.as_ref()?.next_wake()?, *id)));
            let wake = wake.map(|(mono, id)| (mono.saturating_sub(mono_zero(id)), id)).min();
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            if let Some((at, id)) = wake.filter(|(at, _)| *at <= end && next.is_none_or(|next| *at < next)) {
                self.now_us = self.now_us.max(at);
                self.step(id, Input::Tick);
            } else if let Some(((at, _), event)) = next.filter(|at| *at <= end).and_then(|_| self.events.pop_first()) {
                self.now_us = at;
                self.happen(event);
            } else {
                self.now_us = end;
                return;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, connection, clock, message } => {
                let stream = self.streams[&(from, to)];
                if stream.connected && stream.connection == connection {
                    let input = match message {
                        Some(message) => Input::Peer { from, clock, message },
                        None => Input::Clock { from, clock },
                    };
                    self.step(to, input);
                }
            }
            Event::Broken { from, to, opening } => {
                if self.machine(from).opening == opening && self.machine(from).node.is_some() {
                    self.step(from, Input::Link { peer: to, up: false });
                    let pause = self.dice.between(2 * MS, 60 * MS);
                    self.schedule(pause, Event::Connect { from, to });
                }
            }
            Event::Connect { from, to } => self.connect(from, to),
            Event::Datagram { from, incarnation, to, data } => {
                if !self.streams[&(from, to)].cut {
                    self.step(to, Input::Datagram { from, incarnation, data });
                }
            }
            Event::Local { node, opening, what } => {
                if self.machine(node).opening == opening {
                    match what {
                        Local::Commit => self.commit(node),
                        Local::Input(input) => self.step(node, *input),
                    }
                }
            }
            Event::Idle => self.idle(),
            Event::Trouble => self.trouble(),
            Event::Client { client } => self.client(client),
            Event::Publish { node, state } => self.step(node, Input::Cluster(state)),
            Event::Start { node } => self.start(node),
            Event::Mend { node } => self.machine(node).disk.fail(None),
            Event::Heal { a, b } => self.cut(a, b, false),
        }
    }

    fn schedule(&mut self, after_us: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now_us + after_us, self.scheduled), event);
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).unwrap()
    }

    fn local(&mut self, node: NodeId, after_us: u64, what: Local) {
        let opening = self.machine(node).opening;
        self.schedule(after_us, Event::Local { node, opening, what });
    }

    fn clock(&self, id: NodeId) -> Now {
        let wall_ms = (BIRTH_MS + self.now_us / MS).saturating_add_signed(self.machines[&id].skew_ms);
        Now { mono_us: mono_zero(id) + self.now_us, wall_ms }
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let now = self.clock(id);
        let Some(node) = &mut self.machine(id).node else { return };
        let mut out = Vec::new();
        let said = format!("{input:?}");
        node.step(now, input, &Rules::Work, &mut out);
        if self.plan.traced {
            (self.now_us, id, said, format!("{out:?}")).hash(&mut self.trace);
        }
        for effect in out {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, mut message } => {
                if let Message::Write { fresh, .. } = &mut message {
                    *fresh &= self.plan.fresh;
                }
                self.send(id, to, Some(message));
            }
            Effect::Datagram { to, data } => {
                let incarnation = self.machine(id).node.as_ref().unwrap().incarnation();
                if !self.dice.chance(1) {
                    let delay = self.dice.between(200, 4 * MS);
                    self.schedule(delay, Event::Datagram { from: id, incarnation, to, data });
                }
            }
            Effect::Write(mut job) => {
                job.fresh &= self.plan.fresh;
                self.machine(id).waiting.push(job);
                self.commit_soon(id);
            }
            Effect::Read(job) => {
                let outcome = replica::find(self.machine(id).disk.ports(&Rules::Work), &job.key, job.want);
                let delay = self.dice.between(20, MS);
                self.local(id, delay, Local::Input(Box::new(Input::Found { job: job.job, outcome })));
            }
            Effect::Hint(job) => {
                let outcome = hint::work(&self.machine(id).disk, std::slice::from_ref(&job)).remove(0);
                let delay = self.dice.between(20, MS);
                self.local(id, delay, Local::Input(Box::new(Input::Hinted { job: job.job, outcome })));
            }
            Effect::Reply { ticket, reply } => self.replied(ticket, reply),
            Effect::Compare { job, work } => {
                let found = sync::found(self.machine(id).disk.ports(&Rules::Work), &work, 64 << 10);
                let delay = self.dice.between(20, MS);
                self.local(id, delay, Local::Input(Box::new(Input::Compared { job, found })));
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Option<Message>) {
        let slow = self.dice.chance(10);
        let delay = self.dice.between(100, if slow { 10 * MS } else { 2 * MS });
        let arrival = self.now_us + delay;
        let stream = self.streams.get_mut(&(from, to)).unwrap();
        if stream.connected {
            stream.last_arrival = stream.last_arrival.max(arrival);
            let (after, connection) = (stream.last_arrival - self.now_us, stream.connection);
            let now = self.clock(from);
            let seen = self.machines[&from].node.as_ref().unwrap().clock();
            let clock = seen.max(Hlc::from_ms(now.wall_ms));
            self.schedule(after, Event::Arrive { from, to, connection, clock, message });
        }
    }

    fn idle(&mut self) {
        let pairs: Vec<_> = self.streams.iter().filter(|(_, s)| s.connected).map(|(pair, _)| *pair).collect();
        for (from, to) in pairs {
            self.send(from, to, None);
        }
        self.schedule(IDLE_MS * MS, Event::Idle);
    }

    fn connect(&mut self, from: NodeId, to: NodeId) {
        let alive = self.machine(to).node.is_some();
        if self.machine(from).node.is_none() || self.streams[&(from, to)].connected {
            return;
        }
        let stream = self.streams.get_mut(&(from, to)).unwrap();
        if alive && !stream.cut {
            stream.connected = true;
            stream.connection += 1;
            self.step(from, Input::Link { peer: to, up: true });
        } else {
            self.schedule(20 * MS, Event::Connect { from, to });
        }
    }

    fn break_stream(&mut self, from: NodeId, to: NodeId) {
        let stream = self.streams.get_mut(&(from, to)).unwrap();
        if stream.connected {
            stream.connected = false;
            let (opening, delay) = (self.machine(from).opening, self.dice.below(20 * MS));
            self.schedule(delay, Event::Broken { from, to, opening });
        }
    }

    fn cut(&mut self, a: NodeId, b: NodeId, cut: bool) {
        for pair in [(a, b), (b, a)] {
            self.streams.get_mut(&pair).unwrap().cut = cut;
            if cut {
                self.break_stream(pair.0, pair.1);
            }
        }
    }

    fn commit_soon(&mut self, id: NodeId) {
        let delay = self.dice.between(50, 3 * MS);
        let machine = self.machine(id);
        if !machine.committing && !machine.waiting.is_empty() {
            machine.committing = true;
            self.local(id, delay, Local::Commit);
        }
    }

    fn commit(&mut self, id: NodeId) {
        let delay = self.dice.between(10, MS);
        let machine = self.machine(id);
        let group = std::mem::take(&mut machine.waiting);
        machine.committing = false;
        let (outcomes, _) = replica::absorb(machine.disk.ports(&Rules::Work), &group);
        for (job, outcome) in group.iter().map(|job| job.job).zip(outcomes) {
            self.local(id, delay, Local::Input(Box::new(Input::Written { job, outcome })));
        }
        self.commit_soon(id);
    }

    /// One piece of trouble now and then.
    fn trouble(&mut self) {
        if !self.troubled {
            return;
        }
        let count = self.plan.nodes;
        let a = NodeId(1 + self.dice.below(count));
        let b = NodeId(1 + (a.0 + self.dice.below(count - 1)) % count);
        match self.dice.below(if self.plan.faults { 8 } else { 1 }) {
            0 if self.plan.jumps => {
                let (far, near) = (self.dice.chance(30), 2 * self.plan.skew_ms + 1);
                let reach = if far { 20_000 } else { near };
                self.machine(a).skew_ms = self.dice.below(reach) as i64 - (reach / 2) as i64;
            }
            0..=2 => self.break_stream(a, b),
            3 => {
                self.cut(a, b, true);
                let after = self.dice.between(20 * MS, 200 * MS);
                self.schedule(after, Event::Heal { a, b });
            }
            4 => self.crash(a),
            5 => {
                self.machine(a).disk.fail(Some(StoreError::Full("no room".into())));
                self.schedule(50 * MS, Event::Mend { node: a });
            }
            _ => self.change(|state| state.epoch.0 += 1),
        }
        let pause = self.dice.between(MS, 40 * MS);
        self.schedule(pause, Event::Trouble);
    }

    /// A new state of the cluster reaches every node at another moment.
    fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(Arc::make_mut(&mut self.state));
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        for node in ids {
            let delay = self.dice.below(40 * MS);
            let state = Arc::clone(&self.state);
            // The log has an order: nobody sees an older state after a newer one.
            let newer = |e: &Event| matches!(e, Event::Publish { node: n, .. } if *n == node);
            let last = self.events.iter().filter(|(_, e)| newer(e)).map(|((at, _), _)| *at).max();
            let after = last.map_or(delay, |last| delay.max(last - self.now_us));
            self.schedule(after, Event::Publish { node, state });
        }
    }

    fn crash(&mut self, id: NodeId) {
        let machine = self.machine(id);
        machine.node = None;
        machine.waiting.clear();
        machine.committing = false;
        machine.disk.lose_power();
        let ids: Vec<NodeId> = self.machines.keys().copied().filter(|other| *other != id).collect();
        for other in ids {
            self.streams.get_mut(&(id, other)).unwrap().connected = false;
            self.break_stream(other, id);
        }
        for client in self.clients.lost(id) {
            self.schedule(MS, Event::Client { client });
        }
        let after = self.dice.between(5 * MS, 150 * MS);
        self.schedule(after, Event::Start { node: id });
    }

    fn start(&mut self, id: NodeId) {
        if self.machine(id).node.is_some() {
            return;
        }
        self.openings += 1;
        let opening = self.openings;
        self.machine(id).opening = opening;
        self.open(id);
        // It starts from the log that it has, and is granted its incarnation a little later.
        let known = Arc::clone(&self.state);
        self.step(id, Input::Cluster(known));
        self.change(|state| {
            let member = state.members.get_mut(&id).unwrap();
            (member.opening, member.incarnation) = (opening, Incarnation(opening as u64));
            state.epoch.0 += 1;
        });
    }

    fn open(&mut self, id: NodeId) {
        let opening = self.machine(id).opening;
        let (limits, gossip) = (self.plan.limits.clone(), GossipSettings::default());
        let seed = self.dice.below(u64::MAX);
        self.machine(id).node = Some(Node::new(NodeOptions { me: id, opening, limits, gossip, seed }));
        let ids: Vec<NodeId> = self.machines.keys().copied().filter(|other| *other != id).collect();
        for to in ids {
            let delay = self.dice.between(MS, 10 * MS);
            self.schedule(delay, Event::Connect { from: id, to });
        }
    }

    fn client(&mut self, client: usize) {
        let alive: Vec<NodeId> = self.machines.iter().filter(|(_, m)| m.node.is_some()).map(|(id, _)| *id).collect();
        match self.clients.next(client, &mut self.dice, &alive, self.now_us) {
            Some((node, ticket, request)) => self.step(node, Input::Client { ticket, request }),
            None => self.schedule(10 * MS, Event::Client { client }),
        }
    }

    fn replied(&mut self, ticket: Ticket, reply: Reply) {
        let asked = self.clients.replied(ticket, self.now_us, &reply, &mut self.dice);
        for (key, reply) in keys(&asked.request).iter().zip(replies(&asked.request, &reply)) {
            self.audit(key, asked.request.quorum, reply);
        }
        if let Some(client) = asked.client {
            let pause = self.dice.between(100, 4 * MS);
            self.schedule(pause, Event::Client { client });
        }
    }

    /// An acknowledgement is true at the moment it is given: the version, or one above it, is on that many disks.
    fn audit(&mut self, key: &Key, quorum: Option<u8>, reply: Reply) {
        match reply {
            Ok(Answer::Written { written, acks }) => {
                self.good += 1;
                let latest = |o: &NodeId| self.machines[o].disk.synced_record(key).latest();
                let holders = owners(&self.state, key).iter().filter(|o| latest(o) >= Some(written)).count();
                assert!(holders >= usize::from(acks), "{acks} acks, {holders} holders of {written:?}");
                assert!(acks >= quorum.unwrap_or(self.plan.quorums.2), "an ack below W");
            }
            Ok(_) => self.good += 1,
            Err(error) => self.bad.push(error),
        }
    }

    /// One line per node with what it still holds of operations that are over; empty when there is nothing.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let left = |(id, machine): (&NodeId, &Machine)| {
            let node = machine.node.as_ref()?;
            // Comparisons go on for ever.
            let jobs = node.jobs.values().filter(|whose| !matches!(whose, JobFor::Sync(_))).count();
            let counts = [node.ops.len(), node.deadlines.len(), jobs, node.early.len()];
            let counts = (counts, node.ops_bytes, node.awaiting_epoch.len(), machine.waiting.len(), node.repairs.len());
            (counts != ([0; 4], 0, 0, 0, 0)).then(|| format!("{id}: {counts:?}"))
        };
        self.machines.iter().filter_map(left).collect()
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Asks one node directly and waits for the reply.
    pub(super) fn ask(&mut self, node: NodeId, request: Request) -> Reply {
        let ticket = self.clients.by_hand(node, request.clone(), self.now_us);
        self.step(node, Input::Client { ticket, request });
        self.advance(400 * MS);
        self.clients.reply_of(ticket).expect("a reply by the deadline").clone()
    }
}

/// Monotonic clocks of different nodes have nothing to do with each other.
fn mono_zero(id: NodeId) -> u64 {
    id.0 * 1_000_000_007
}
