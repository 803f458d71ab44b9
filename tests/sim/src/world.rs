//! The loop: timed inputs in order, nodes that take them, effects that are carried out.

use crate::clients::{Asked, Clients, parts, replies};
use crate::dice::Dice;
use crate::fault::Fault;
use crate::history::History;
use crate::invariants::{self, Invariant, Replied, Verdict};
use crate::log::{self, KEYSPACE, Log};
use crate::machine::Machine;
use crate::mutation::Mutation;
use crate::network::{Frame, Network};
use crate::plan::{MS, Plan, part};
use crate::rules::Rules;
use crate::run::{Report, Violation};
use crate::trace::{Keep, Trace};
use crate::trouble::End;
use bytes::Bytes;
use mks_logic::cluster::{Entry, State};
use mks_logic::event::{Effect, Input, ReadJob, Ticket, WriteJob};
use mks_logic::id::{Incarnation, Key, NodeId};
use mks_logic::message::{Message, WriteOutcome};
use mks_logic::node::{Node, NodeOptions};
use mks_logic::replica;
use mks_logic::request::{Reply, Request};
use mks_logic::time::Hlc;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// How often a frame is sent when there is nothing to say, microseconds.
const IDLE_US: u64 = 500 * MS;
/// How long a connection is tried again after, microseconds.
const RECONNECT_US: u64 = 20 * MS;

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Load under faults.
    Safety,
    /// Faults are over.
    Settling,
    /// Everything must work.
    Liveness,
}

/// Everything that invariants may look at.
#[derive(Debug)]
pub struct Site {
    /// True time, microseconds.
    pub now_us: u64,
    /// What the run is made of.
    pub plan: Plan,
    /// Where it is.
    pub phase: Phase,
    /// By node id, from 1.
    pub machines: Vec<Machine>,
    /// The epoch log.
    pub log: Log,
    /// The state in which the run began; the ring is as it was.
    pub birth: Arc<State>,
    /// All keys of the run.
    pub keys: Vec<Key>,
    /// What clients did and saw.
    pub history: History,
    /// Requests without a reply.
    pub waiting: usize,
    /// When faults were over; `u64::MAX` before.
    pub healed_us: u64,
}

impl Site {
    /// Who owns a key.
    #[must_use]
    pub fn owners(&self, key: &Key) -> &[NodeId] {
        self.birth.owners(key.place(self.birth.partition_bits).partition, self.plan.quorums.0)
    }

    /// One machine.
    #[must_use]
    pub fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[id.0 as usize - 1]
    }
}

/// What will happen.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive { from: NodeId, to: NodeId, connection: u32, clock: Hlc, frame: Frame },
    Broken { from: NodeId, to: NodeId, opening: u128 },
    Connect { from: NodeId, to: NodeId },
    Datagram { from: NodeId, incarnation: Incarnation, to: NodeId, data: Bytes },
    Local { node: NodeId, opening: u128, what: Local },
    Deliver { node: NodeId, upto: usize },
    Propose(Box<Entry>),
    Idle,
    Client(usize),
    Start { node: NodeId },
    Fault(Fault),
    Cut(NodeId, NodeId, u64, u64),
    End(End),
}

/// Something for one process, if it still is that one.
#[derive(Debug)]
pub(crate) enum Local {
    Commit,
    Read(Box<ReadJob>),
    Die,
    Input(Box<Input>),
}

struct Timed {
    at: Reverse<(u64, u64)>,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// See the module's own words.
#[expect(missing_debug_implementations, reason = "it holds invariants of all kinds")]
pub struct World {
    /// What is there.
    pub site: Site,
    /// Who asks.
    pub clients: Clients,
    /// What happened, in figures.
    pub report: Report,
    /// What happened, in lines.
    pub trace: Trace,
    /// The first violation: the run ends with it.
    pub violation: Option<Violation>,
    pub(crate) net: Network,
    pub(crate) fault_dice: Vec<Dice>,
    dice: Dice,
    node_dice: Dice,
    heap: BinaryHeap<Timed>,
    scheduled: u64,
    openings: u128,
    invariants: Vec<Box<dyn Invariant>>,
    effects: Vec<Effect>,
}

impl World {
    /// A formed cluster whose processes have just started.
    #[must_use]
    pub fn new(plan: Plan, keep: Keep) -> Self {
        let birth = log::begin(&plan);
        let seed = plan.seed;
        let machines = (1..=plan.nodes).map(|id| Machine::new(NodeId(id), Arc::clone(&birth), 0)).collect();
        let key = |i: u64| Key {
            keyspace: KEYSPACE,
            partition_key: format!("key {}", i / 2).into(),
            sort_key: if i.is_multiple_of(2) { Bytes::new() } else { Bytes::from_static(b"sorted") },
        };
        let site = Site {
            now_us: 0,
            phase: Phase::Safety,
            machines,
            log: Log::default(),
            birth,
            keys: (0..plan.keys).map(key).collect(),
            history: History::default(),
            waiting: 0,
            healed_us: u64::MAX,
            plan,
        };
        let plan = &site.plan;
        let mut world = Self {
            clients: Clients::new(plan),
            report: Report::default(),
            trace: Trace::new(keep),
            violation: None,
            net: Network::new(plan.nodes as usize),
            fault_dice: (0..Fault::ALL.len() as u64).map(|i| Dice::new(seed, part::FAULTS + i)).collect(),
            dice: Dice::new(seed, part::NET),
            node_dice: Dice::new(seed, part::NODES),
            heap: BinaryHeap::new(),
            scheduled: 0,
            openings: u128::from(plan.nodes),
            invariants: invariants::all(),
            effects: Vec::new(),
            site,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let plan = self.site.plan.clone();
        self.note(|| plan.to_string());
        for id in (1..=plan.nodes).map(NodeId) {
            let (rules, mut dice) = (self.healthy(id), Dice::new(plan.seed, part::NODES + (id.0 << 8)));
            let machine = self.machine(id);
            machine.rules = rules;
            if plan.faults.has(Fault::Skew) {
                machine.skew_ms = dice.around(plan.skew_ms);
            }
            if plan.faults.has(Fault::Drift) {
                machine.drift = dice.around(1_000);
            }
            if plan.mutation == Some(Mutation::NoSync) {
                machine.disk.lie();
            }
            self.open(id);
        }
        for client in 0..plan.clients {
            self.schedule(50 * MS, Event::Client(client));
        }
        self.schedule(0, Event::Idle);
        for fault in plan.faults.iter() {
            let first = self.fault_dice[fault as usize].between(30 * MS, plan.every_us + 60 * MS);
            let rate = matches!(fault, Fault::Datagrams | Fault::Skew | Fault::Drift);
            if rate {
                self.report.faults[fault as usize] += 1;
            } else {
                self.schedule(first, Event::Fault(fault));
            }
        }
    }

    /// The resolver of a node that nothing is wrong with.
    pub(crate) fn healthy(&self, id: NodeId) -> Rules {
        let wrong = self.site.plan.mutation == Some(Mutation::WrongWinner) && id == NodeId(1);
        if wrong { Rules::Wrong } else { Rules::Work }
    }

    /// Clients may ask nothing more, and have all their answers.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.clients.asked >= self.site.plan.operations && self.clients.waiting() == 0
    }

    /// Lets time pass, up to the first violation.
    pub fn advance(&mut self, for_us: u64) {
        let end = self.site.now_us + for_us;
        self.advance_while(end, |_| true);
    }

    fn advance_while(&mut self, end: u64, goes_on: impl Fn(&Self) -> bool) {
        while self.violation.is_none() && goes_on(self) {
            let wake = |m: &Machine| (m.wake_us.max(m.paused_until), m.id);
            let wake = self.site.machines.iter().filter(|m| m.wake_us < u64::MAX).map(wake).min();
            let next = self.heap.peek().map_or(u64::MAX, |timed| timed.at.0.0);
            match wake {
                Some((at, id)) if at <= end && at < next => {
                    self.site.now_us = self.site.now_us.max(at);
                    self.step(id, Input::Tick);
                }
                _ if next <= end => {
                    let Some(Timed { at, event }) = self.heap.pop() else { return };
                    self.site.now_us = at.0.0;
                    self.happen(event);
                }
                _ => {
                    self.site.now_us = end;
                    return;
                }
            }
        }
    }

    /// Asks one node and waits for the reply.
    pub fn ask(&mut self, node: NodeId, request: Request) {
        let ticket = self.clients.ask(None, node, request.clone(), &mut self.site);
        self.step(node, Input::Client { ticket, request });
        let end = self.site.now_us + 2 * crate::plan::DEADLINE_MS * MS;
        self.advance_while(end, |world| world.clients.waits(ticket));
    }

    /// The last look.
    pub fn end(&mut self) {
        self.site.waiting = self.clients.waiting();
        self.check(|invariant, site| invariant.ended(site));
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.site.now_us, line);
    }

    fn check(&mut self, look: impl Fn(&mut dyn Invariant, &Site) -> Verdict) {
        for invariant in &mut self.invariants {
            if let Err(text) = look(invariant.as_mut(), &self.site) {
                let violation = Violation { invariant: invariant.name(), text, at_us: self.site.now_us };
                self.trace.line(self.site.now_us, || format!("VIOLATION {}: {}", violation.invariant, violation.text));
                self.violation.get_or_insert(violation);
            }
        }
    }

    pub(crate) fn schedule(&mut self, after_us: u64, event: Event) {
        self.scheduled += 1;
        self.heap.push(Timed { at: Reverse((self.site.now_us + after_us, self.scheduled)), event });
    }

    pub(crate) fn machine(&mut self, id: NodeId) -> &mut Machine {
        &mut self.site.machines[id.0 as usize - 1]
    }

    fn local(&mut self, node: NodeId, after_us: u64, what: Local) {
        let opening = self.machine(node).opening;
        self.schedule(after_us, Event::Local { node, opening, what });
    }

    fn happen(&mut self, event: Event) {
        let whose = match &event {
            Event::Arrive { to, .. } | Event::Datagram { to, .. } => Some(*to),
            Event::Broken { from, .. } | Event::Connect { from, .. } => Some(*from),
            Event::Local { node, .. } | Event::Deliver { node, .. } => Some(*node),
            _ => None,
        };
        if let Some(until) = whose.map(|id| self.machine(id).paused_until).filter(|until| *until > self.site.now_us) {
            self.schedule(until - self.site.now_us, event);
            return;
        }
        match event {
            Event::Arrive { from, to, connection, clock, frame } => self.arrive((from, to), connection, clock, frame),
            Event::Broken { from, to, opening } => {
                if self.machine(from).opening == opening && self.machine(from).node.is_some() {
                    self.step(from, Input::Link { peer: to, up: false });
                    let pause = self.dice.between(2 * MS, 60 * MS);
                    self.schedule(pause, Event::Connect { from, to });
                }
            }
            Event::Connect { from, to } => self.connect(from, to),
            Event::Datagram { from, incarnation, to, data } => {
                if self.net.stream(from, to).cuts == 0 {
                    self.step(to, Input::Datagram { from, incarnation, data });
                }
            }
            Event::Local { node, opening, what } => {
                if self.machine(node).opening == opening && self.machine(node).node.is_some() {
                    match what {
                        Local::Commit => self.commit(node),
                        Local::Read(job) => self.read(node, &job, 0),
                        Local::Die => {
                            let lasts = self.dice.between(5 * MS, 100 * MS);
                            self.crash(node, self.site.plan.loses_power(), lasts);
                        }
                        Local::Input(input) => self.step(node, *input),
                    }
                }
            }
            Event::Deliver { node, upto } => self.deliver(node, upto),
            Event::Propose(entry) => self.append(*entry),
            Event::Idle => {
                for (from, to) in self.net.pairs() {
                    self.send(from, to, Frame::Clock);
                }
                self.schedule(IDLE_US, Event::Idle);
            }
            Event::Client(client) => self.client(client),
            Event::Start { node } => self.start(node),
            Event::Fault(fault) => self.fault(fault),
            Event::Cut(from, to, lasts, number) if self.site.phase == Phase::Safety => {
                self.cut(from, to, lasts, number);
            }
            Event::Cut(..) => {}
            Event::End(end) => self.over(end),
        }
    }

    /// One node takes one input.
    fn step(&mut self, id: NodeId, input: Input) {
        let now_us = self.site.now_us;
        let machine = &mut self.site.machines[id.0 as usize - 1];
        let now = machine.now(now_us);
        let Some(node) = &mut machine.node else { return };
        self.report.steps += 1;
        self.trace.line(now_us, || format!("{id} <- {input:?}"));
        let mut effects = std::mem::take(&mut self.effects);
        node.step(now, input, &machine.rules, &mut effects);
        let late = if self.site.plan.mutation == Some(Mutation::LateTick) { 30 * MS } else { 0 };
        let next = node.next_wake();
        // A wake that is due already comes next: time never stands still for it.
        machine.wake_us = next.map_or(u64::MAX, |mono| (machine.when(mono) + late).max(now_us));
        self.check(|invariant, site| invariant.stepped(site, id, &effects));
        for effect in effects.drain(..) {
            self.trace.line(now_us, || format!("   {id} -> {effect:?}"));
            self.carry_out(id, effect);
        }
        self.effects = effects;
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        let mutation = self.site.plan.mutation;
        match effect {
            Effect::Send { to, mut message } => {
                if let Message::Write { fresh, .. } = &mut message {
                    *fresh &= mutation != Some(Mutation::NoFreshMark);
                }
                self.send(id, to, Frame::Message(Box::new(message)));
            }
            Effect::Datagram { to, data } => self.datagram(id, to, &data),
            Effect::Write(mut job) => {
                job.fresh &= mutation != Some(Mutation::NoFreshMark);
                if mutation == Some(Mutation::AckBeforeCommit) {
                    let input = Input::Written { job: job.job, outcome: WriteOutcome::Held };
                    self.local(id, 0, Local::Input(Box::new(input)));
                }
                self.machine(id).waiting.push(job);
                self.commit_soon(id);
            }
            Effect::Read(job) => {
                let delay = self.dice.between(20, MS) * self.machine(id).slow;
                if self.dice.chance(50) {
                    self.read(id, &job, delay);
                } else {
                    self.local(id, delay, Local::Read(Box::new(job)));
                }
            }
            Effect::Reply { ticket, reply } => {
                self.replied(id, ticket, &reply);
                if mutation == Some(Mutation::ReplyTwice) {
                    self.replied(id, ticket, &reply);
                }
            }
        }
    }

    fn datagram(&mut self, id: NodeId, to: NodeId, data: &Bytes) {
        let incarnation = self.machine(id).node.as_ref().map_or(Incarnation(0), Node::incarnation);
        let rough = self.site.plan.faults.has(Fault::Datagrams);
        let copies = match self.dice.below(100) {
            0..15 if rough => 0,
            15..25 if rough => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = self.dice.between(100, self.site.plan.delay_us * if rough { 5 } else { 1 });
            let event = Event::Datagram { from: id, incarnation, to, data: data.clone() };
            self.schedule(delay, event);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        let now_us = self.site.now_us;
        let machine = self.site.machine(from);
        let Some(node) = &machine.node else { return };
        let clock = node.clock().max(Hlc::from_ms(machine.now(now_us).wall_ms));
        let stream = self.net.stream(from, to);
        if stream.connected && stream.cuts > 0 {
            stream.held.push((clock, frame));
        } else {
            self.transmit(from, to, clock, frame);
        }
    }

    pub(crate) fn transmit(&mut self, from: NodeId, to: NodeId, clock: Hlc, frame: Frame) {
        let now_us = self.site.now_us;
        let usual = self.site.plan.delay_us;
        let longest = if self.dice.chance(8) { 5 * usual } else { usual };
        let delay = self.dice.between(100, longest);
        let stream = self.net.stream(from, to);
        if stream.connected {
            stream.last_arrival = stream.last_arrival.max(now_us + delay + stream.slow_us);
            let (after, connection) = (stream.last_arrival - now_us, stream.connection);
            self.schedule(after, Event::Arrive { from, to, connection, clock, frame });
        }
    }

    fn arrive(&mut self, (from, to): (NodeId, NodeId), connection: u32, clock: Hlc, frame: Frame) {
        let stream = self.net.stream(from, to);
        if !stream.connected || stream.connection != connection {
            return;
        }
        match frame {
            Frame::Opened => self.step(to, Input::Arrived { peer: from }),
            Frame::Clock => self.step(to, Input::Clock { from, clock }),
            Frame::Message(message) => self.hear(from, to, clock, *message),
        }
    }

    /// A message arrives; mutations make another one of it.
    fn hear(&mut self, from: NodeId, to: NodeId, clock: Hlc, mut message: Message) {
        let mut twice = None;
        match (self.site.plan.mutation, &mut message) {
            (Some(Mutation::RefusalAsAck), Message::Written { outcome, .. }) => {
                if matches!(outcome, WriteOutcome::Refused(_)) {
                    *outcome = WriteOutcome::Held;
                }
            }
            (Some(Mutation::AckTwice), Message::Written { outcome: WriteOutcome::Held, .. }) => {
                let other =
                    (1..=self.site.plan.nodes).map(NodeId).filter(|id| *id != from && *id != to).collect::<Vec<_>>();
                twice = Some((self.dice.pick(&other), message.clone()));
            }
            (Some(Mutation::AnyEpoch), Message::Write { version, .. }) => {
                version.epoch = version.epoch.max(self.site.machine(to).state.epoch);
            }
            _ => {}
        }
        self.step(to, Input::Peer { from, clock, message });
        if let Some((other, message)) = twice {
            self.step(to, Input::Peer { from: other, clock, message });
        }
    }

    fn connect(&mut self, from: NodeId, to: NodeId) {
        let there = self.machine(to).node.is_some() && self.machine(to).paused_until <= self.site.now_us;
        if self.machine(from).node.is_none() || self.net.stream(from, to).connected {
            return;
        }
        // A handshake needs both ways.
        let open = self.net.stream(from, to).cuts == 0 && self.net.stream(to, from).cuts == 0;
        if there && open {
            let stream = self.net.stream(from, to);
            stream.connected = true;
            stream.connection += 1;
            self.send(from, to, Frame::Opened);
            self.step(from, Input::Link { peer: to, up: true });
        } else {
            self.schedule(RECONNECT_US, Event::Connect { from, to });
        }
    }

    pub(crate) fn break_stream(&mut self, from: NodeId, to: NodeId) {
        let stream = self.net.stream(from, to);
        if stream.connected {
            stream.connected = false;
            stream.held.clear();
            let (opening, delay) = (self.machine(from).opening, self.dice.below(20 * MS));
            self.schedule(delay, Event::Broken { from, to, opening });
        }
    }

    fn read(&mut self, id: NodeId, job: &ReadJob, delay: u64) {
        let outcome = replica::find(self.machine(id).ports(), &job.key, job.want);
        self.local(id, delay, Local::Input(Box::new(Input::Found { job: job.job, outcome })));
    }

    fn commit_soon(&mut self, id: NodeId) {
        let delay = self.dice.between(50, 3 * MS);
        let machine = self.machine(id);
        if !machine.committing && !machine.waiting.is_empty() {
            machine.committing = true;
            let delay = delay * machine.slow;
            self.local(id, delay, Local::Commit);
        }
    }

    fn commit(&mut self, id: NodeId) {
        let machine = self.machine(id);
        let group: Vec<WriteJob> = std::mem::take(&mut machine.waiting);
        machine.committing = false;
        let (outcomes, _) = replica::absorb(machine.ports(), &group);
        let (stopped, slow) = (machine.disk.is_stopped(), machine.slow);
        self.check(|invariant, site| invariant.committed(site, id, &group));
        let delay = self.dice.between(10, MS) * slow;
        if self.site.plan.mutation != Some(Mutation::AckBeforeCommit) {
            for (job, outcome) in group.iter().map(|job| job.job).zip(outcomes) {
                self.local(id, delay, Local::Input(Box::new(Input::Written { job, outcome })));
            }
        }
        if stopped {
            // The pump ends the process once it hears of it; the answers before that may still get out.
            let after = self.dice.between(delay, delay + 5 * MS);
            self.local(id, after, Local::Die);
        }
        self.commit_soon(id);
    }

    pub(crate) fn propose(&mut self, entry: Entry) {
        let delay = self.node_dice.between(100, self.site.plan.lag_us);
        self.schedule(delay, Event::Propose(Box::new(entry)));
    }

    fn append(&mut self, entry: Entry) {
        self.note(|| format!("LOG {entry:?}"));
        self.site.log.entries.push(entry);
        let upto = self.site.log.entries.len();
        for node in (1..=self.site.plan.nodes).map(NodeId) {
            let delay = self.node_dice.between(100, self.site.plan.lag_us);
            self.schedule(delay, Event::Deliver { node, upto });
        }
    }

    /// A node hears of the epoch log up to some entry.
    fn deliver(&mut self, id: NodeId, upto: usize) {
        let (now_us, mutation) = (self.site.now_us, self.site.plan.mutation);
        let machine = self.machine(id);
        if machine.node.is_none() {
            return;
        }
        if machine.deaf_until > now_us {
            let after = machine.deaf_until - now_us;
            self.schedule(after, Event::Deliver { node: id, upto });
            return;
        }
        for at in machine.applied..upto {
            let entry = self.site.log.entries[at].clone();
            let gap = mutation == Some(Mutation::LogGap) && id == NodeId(1) && at % 3 == 1;
            let machine = self.machine(id);
            if !gap {
                // A refused entry changes nothing, on every node.
                let _ = Arc::make_mut(&mut machine.state).apply(&entry);
            }
            machine.applied = at + 1;
            self.learn(id);
        }
    }

    fn learn(&mut self, id: NodeId) {
        self.check(|invariant, site| invariant.learned(site, id));
        let machine = self.site.machine(id);
        let mut state = Arc::clone(&machine.state);
        if self.site.plan.mutation == Some(Mutation::SameIncarnation)
            && state.members.get(&id).is_some_and(|m| m.opening == machine.opening)
            && let Some(member) = Arc::make_mut(&mut state).members.get_mut(&id)
        {
            member.incarnation = Incarnation(1);
        }
        self.step(id, Input::Cluster(state));
    }

    /// A process ends, and comes back a while later.
    pub(crate) fn crash(&mut self, id: NodeId, power: bool, lasts: u64) {
        self.note(|| format!("{id} dies{}", if power { " without power" } else { "" }));
        let remembers = self.site.plan.mutation == Some(Mutation::StaleOutline);
        let machine = self.machine(id);
        if machine.node.take().is_none() {
            return;
        }
        machine.waiting.clear();
        machine.committing = false;
        machine.wake_us = u64::MAX;
        machine.paused_until = 0;
        if power {
            machine.disk.lose_power();
        }
        machine.disk.open();
        if !remembers {
            machine.disk.forget();
        }
        for other in (1..=self.site.plan.nodes).map(NodeId).filter(|other| *other != id) {
            let stream = self.net.stream(id, other);
            stream.connected = false;
            stream.held.clear();
            self.break_stream(other, id);
        }
        for client in self.clients.lost(id) {
            self.schedule(MS, Event::Client(client));
        }
        self.schedule(lasts, Event::Start { node: id });
    }

    fn start(&mut self, id: NodeId) {
        if self.machine(id).node.is_some() {
            return;
        }
        self.openings += 1;
        let opening = self.openings;
        self.machine(id).opening = opening;
        self.open(id);
        // It starts from the log that it has, hears the rest, and is granted its incarnation.
        let upto = self.site.log.entries.len();
        let delay = self.node_dice.between(100, self.site.plan.lag_us);
        self.schedule(delay, Event::Deliver { node: id, upto });
        self.propose(log::open(id, opening));
    }

    fn open(&mut self, id: NodeId) {
        let (limits, gossip) = (self.site.plan.limits.clone(), self.site.plan.gossip);
        let seed = self.node_dice.draw();
        let machine = self.machine(id);
        let opening = machine.opening;
        machine.node = Some(Node::new(NodeOptions { me: id, opening, limits, gossip, seed }));
        self.note(|| format!("{id} starts as {opening}"));
        self.learn(id);
        for to in (1..=self.site.plan.nodes).map(NodeId).filter(|other| *other != id) {
            let delay = self.node_dice.between(MS, 10 * MS);
            self.schedule(delay, Event::Connect { from: id, to });
        }
    }

    fn client(&mut self, client: usize) {
        match self.clients.next(client, &mut self.site) {
            Some((node, ticket, request)) => {
                let until = self.machine(node).paused_until.saturating_sub(self.site.now_us);
                let input = Input::Client { ticket, request };
                if until > 0 {
                    self.local(node, until, Local::Input(Box::new(input)));
                } else {
                    self.step(node, input);
                }
            }
            None => self.schedule(10 * MS, Event::Client(client)),
        }
    }

    fn replied(&mut self, id: NodeId, ticket: Ticket, reply: &Reply) {
        let asked = self.clients.replied(ticket, reply, &mut self.site);
        let replied = Replied::new(id, asked.as_ref(), reply, &self.site);
        self.check(|invariant, site| invariant.replied(site, &replied));
        let Some(Asked { client, request, .. }) = &asked else { return };
        let replies = replies(request, reply);
        let good = replies.iter().filter(|reply| reply.is_ok()).count() as u64;
        self.report.good += good;
        self.report.bad += parts(request).len() as u64 - good;
        if let Some(client) = *client {
            let pause = self.clients.pause(&self.site.plan);
            self.schedule(pause, Event::Client(client));
        }
    }
}
