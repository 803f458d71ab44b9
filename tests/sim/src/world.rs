//! The loop: timed inputs in order, nodes that take them, effects that are carried out.

use crate::clients::{Asked, Clients, parts, replies};
use crate::dice::Dice;
use crate::fault::Fault;
use crate::history::{History, Saw};
use crate::invariants::{self, Invariant, Replied, Verdict};
use crate::log::{self, KEYSPACE, Log};
use crate::machine::Machine;
use crate::mutation::Mutation;
use crate::network::{Frame, Network};
use crate::plan::{MS, Plan, part};
use crate::rules::{Rules, rehearse};
use crate::run::{Report, Violation};
use crate::site::{Phase, Site};
use crate::trace::{Keep, Trace};
use crate::trouble::End;
use bytes::Bytes;
use mks_logic::cluster::Entry;
use mks_logic::event::{Effect, Input, MoveJob, ReadJob, Ticket, WriteJob};
use mks_logic::id::{Incarnation, Key, NodeId};
use mks_logic::message::{Message, ReadOutcome, Refused, WriteOutcome};
use mks_logic::replica;
use mks_logic::request::{Reply, Request};
use mks_logic::sync;
use mks_logic::time::Hlc;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// What will happen.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive {
        from: NodeId,
        to: NodeId,
        connection: u32,
        /// The process that was there when it was sent.
        opening: u128,
        clock: Hlc,
        frame: Frame,
    },
    /// What was lost, for all that its sender knows.
    Late {
        from: NodeId,
        to: NodeId,
        opening: u128,
        clock: Hlc,
        message: Box<Message>,
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
    Local {
        node: NodeId,
        opening: u128,
        what: Local,
    },
    Deliver {
        node: NodeId,
        upto: usize,
    },
    Propose(Box<Entry>),
    Lead,
    Idle,
    Client(usize),
    Start {
        node: NodeId,
    },
    Fault(Fault),
    /// The epoch's time is over.
    Epoch,
    /// All clocks go on by so much, and nothing else does.
    Leap(u64),
    /// A machine is switched off for long.
    Away,
    Cut(NodeId, NodeId, u64, u64),
    End(End),
}

/// Something for one process, if it still is that one.
#[derive(Debug)]
pub(crate) enum Local {
    Commit,
    Read(Box<ReadJob>),
    Move(MoveJob),
    Die,
    Input(Box<Input>),
}

pub(crate) struct Timed {
    pub(crate) at: Reverse<(u64, u64)>,
    pub(crate) event: Event,
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
    pub(crate) dice: Dice,
    pub(crate) node_dice: Dice,
    pub(crate) heap: BinaryHeap<Timed>,
    scheduled: u64,
    invariants: Vec<Box<dyn Invariant>>,
    effects: Vec<Effect>,
}

impl World {
    /// A formed cluster whose processes have just started.
    #[must_use]
    pub fn new(plan: Plan, keep: Keep) -> Self {
        let birth = log::begin(&plan);
        let seed = plan.seed;
        let machine = |id| Machine { gone: id > plan.nodes, ..Machine::new(NodeId(id), Arc::clone(&birth), 0) };
        let machines = (1..=plan.machines()).map(machine).collect();
        let key = |i: u64| Key {
            keyspace: KEYSPACE,
            partition_key: format!("key {}", i / 2).into(),
            sort_key: if i.is_multiple_of(2) { Bytes::new() } else { Bytes::from_static(b"sorted") },
        };
        let site = Site {
            now_us: 0,
            phase: Phase::Safety,
            machines,
            log: Log { state: Arc::clone(&birth), ..Log::default() },
            birth,
            keys: (0..plan.keys).map(key).collect(),
            history: History::default(),
            waiting: 0,
            buried: false,
            w_least: plan.quorums.2,
            leaped_us: 0,
            purged: BTreeMap::new(),
            seal_goal: None,
            healed_us: u64::MAX,
            last_looks_us: u64::MAX,
            plan,
        };
        let plan = &site.plan;
        let mut world = Self {
            clients: Clients::new(plan),
            report: Report::default(),
            trace: Trace::new(keep),
            violation: None,
            net: Network::new(plan.machines() as usize),
            fault_dice: (0..Fault::ALL.len() as u64).map(|i| Dice::new(seed, part::FAULTS + i)).collect(),
            dice: Dice::new(seed, part::NET),
            node_dice: Dice::new(seed, part::NODES),
            heap: BinaryHeap::new(),
            scheduled: 0,
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
            self.open_sums(id);
            self.open(id);
        }
        for client in 0..plan.clients {
            self.schedule(50 * MS, Event::Client(client));
        }
        self.schedule(0, Event::Idle);
        self.schedule(plan.epoch_us, Event::Epoch);
        if plan.away_us > 0 {
            self.schedule((plan.load_us - plan.away_us) / 2, Event::Away);
        }
        for fault in plan.faults.iter() {
            let first = self.fault_dice[fault as usize].between(30 * MS, plan.every_us + 60 * MS);
            let rate = matches!(fault, Fault::Datagrams | Fault::Skew | Fault::Drift | Fault::Late);
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
                    self.site.now_us = self.site.now_us.max(end);
                    return;
                }
            }
        }
    }

    /// Asks one node and waits for the reply. With the request goes what the writer of each of its parts has seen.
    pub fn ask(&mut self, node: NodeId, (request, saw): (Request, Vec<Saw>)) {
        let ticket = self.clients.ask(None, node, (request.clone(), saw), &mut self.site);
        self.step(node, Input::Client { ticket, request });
        let end = self.site.now_us + 2 * crate::plan::DEADLINE_MS * MS;
        self.advance_while(end, |world| world.clients.waits(ticket));
    }

    /// Everybody has had time to hand over what they keep for others; nothing new was asked.
    pub fn settled(&mut self) {
        if self.violation.is_none() {
            self.check(|invariant, site| invariant.settled(site));
        }
    }

    /// The last look.
    pub fn end(&mut self) {
        self.site.waiting = self.clients.waiting();
        if self.violation.is_some() {
            return;
        }
        self.check(|invariant, site| invariant.ended(site));
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.site.now_us, line);
    }

    pub(crate) fn check(&mut self, look: impl Fn(&mut dyn Invariant, &Site) -> Verdict) {
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

    pub(crate) fn local(&mut self, node: NodeId, after_us: u64, what: Local) {
        let opening = self.machine(node).opening;
        self.schedule(after_us, Event::Local { node, opening, what });
    }

    fn happen(&mut self, event: Event) {
        let whose = match &event {
            Event::Arrive { to, .. } | Event::Datagram { to, .. } | Event::Late { to, .. } => Some(*to),
            Event::Broken { from, .. } | Event::Connect { from, .. } => Some(*from),
            Event::Local { node, .. } | Event::Deliver { node, .. } => Some(*node),
            _ => None,
        };
        if let Some(until) = whose.map(|id| self.machine(id).paused_until).filter(|until| *until > self.site.now_us) {
            self.schedule(until - self.site.now_us, event);
            return;
        }
        match event {
            Event::Arrive { from, to, connection, opening, clock, frame } => {
                self.arrive((from, to), (connection, opening), clock, frame);
            }
            Event::Late { from, to, opening, clock, message } => {
                if self.machine(to).opening == opening {
                    self.hear(from, to, clock, *message);
                }
            }
            Event::Broken { from, to, opening } => {
                if self.machine(from).opening == opening && self.machine(from).node.is_some() {
                    self.net.stream(from, to).breaking = false;
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
                        Local::Move(job) => self.moves(node, &job),
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
            Event::Lead => self.led(),
            Event::Idle => {
                for (from, to) in self.net.pairs() {
                    self.send(from, to, Frame::Clock);
                }
                self.schedule(self.site.plan.idle_us, Event::Idle);
            }
            Event::Client(client) => self.client(client),
            Event::Start { node } => self.start(node),
            Event::Fault(fault) => self.fault(fault),
            Event::Epoch => self.epoch(),
            Event::Leap(by_us) => self.leap(by_us),
            Event::Away => self.away(),
            Event::Cut(from, to, lasts, number) if self.site.phase == Phase::Safety => {
                self.cut(from, to, lasts, number);
            }
            Event::Cut(..) => {}
            Event::End(end) => self.over(end),
        }
    }

    /// One node takes one input.
    pub(crate) fn step(&mut self, id: NodeId, input: Input) {
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
                self.twist(id, &mut job);
                self.machine(id).waiting.push(job);
                self.commit_soon(id);
            }
            Effect::Ask(job) => self.ask_code(id, job),
            Effect::Read(job) => {
                let delay = self.dice.between(20, MS) * self.machine(id).slow;
                if self.dice.chance(50) {
                    self.read(id, &job, delay);
                } else {
                    self.local(id, delay, Local::Read(Box::new(job)));
                }
            }
            Effect::Hint(job) => self.hint(id, job),
            Effect::Compare { job, work } => {
                let bytes_max = self.site.plan.limits.sync_message_bytes_max;
                let found = sync::found(self.machine(id).ports(), &work, bytes_max);

                let delay = self.dice.between(20, MS) * self.machine(id).slow;
                self.local(id, delay, Local::Input(Box::new(Input::Compared { job, found })));
            }
            Effect::Scrub(job) => self.scrub(id, &job),
            Effect::Move(job) => self.moves_soon(id, job),
            Effect::Seal(job) => self.seals(id, job),
            Effect::Propose { entry } => self.asked_for(entry),
            Effect::Reply { ticket, reply } => {
                self.replied(id, ticket, &reply);
                if mutation == Some(Mutation::ReplyTwice) {
                    self.replied(id, ticket, &reply);
                }
            }
        }
    }

    /// The pump ends the process once it hears of it; the answers before that may still get out.
    pub(crate) fn die_soon(&mut self, id: NodeId, delay: u64) {
        let after = self.dice.between(delay, delay + 5 * MS);
        self.local(id, after, Local::Die);
    }

    fn read(&mut self, id: NodeId, job: &ReadJob, delay: u64) {
        let outcome = replica::find(self.machine(id).ports(), &job.key, job.want);
        if outcome == ReadOutcome::Refused(Refused::DamagedRecord) {
            self.local(id, delay, Local::Input(Box::new(Input::Damaged { key: job.key.clone() })));
        }
        self.local(id, delay, Local::Input(Box::new(Input::Found { job: job.job, outcome })));
    }

    /// A node wants an entry in the epoch log. Some get lost on their way to the leader.
    fn asked_for(&mut self, entry: Entry) {
        if self.dice.chance(10) {
            return;
        }
        self.propose(entry);
    }

    pub(crate) fn commit_soon(&mut self, id: NodeId) {
        let delay = self.dice.between(50, 3 * MS);
        let machine = self.machine(id);
        if !machine.committing && !machine.waiting.is_empty() {
            machine.committing = true;
            let delay = delay * machine.slow;
            self.local(id, delay, Local::Commit);
        }
    }

    fn commit(&mut self, id: NodeId) {
        let mutation = self.site.plan.mutation;
        let machine = self.machine(id);
        let group: Vec<WriteJob> = std::mem::take(&mut machine.waiting);
        machine.committing = false;
        let shadows = machine.state.shadowed();
        let (outcomes, _, trials) = replica::absorb_shadowed(machine.ports(), &group, &shadows);
        trials.iter().for_each(rehearse);
        let (stopped, slow) = (machine.disk.is_stopped(), machine.slow);
        self.check(|invariant, site| invariant.committed(site, id, &group));
        let delay = self.dice.between(10, MS) * slow;
        if mutation != Some(Mutation::AckBeforeCommit) {
            for (job, mut outcome) in group.iter().zip(outcomes) {
                if let (Some(Mutation::OldName), WriteOutcome::Minted { counter }) = (mutation, &mut outcome) {
                    *counter -= 1;
                }
                if outcome == WriteOutcome::Refused(Refused::DamagedRecord) {
                    self.local(id, delay, Local::Input(Box::new(Input::Damaged { key: job.key.clone() })));
                }
                let job = job.job;
                self.local(id, delay, Local::Input(Box::new(Input::Written { job, outcome })));
            }
        }
        if stopped {
            self.die_soon(id, delay);
        }
        self.commit_soon(id);
    }

    fn client(&mut self, client: usize) {
        match self.clients.next(client, &mut self.site) {
            Some((node, ticket, mut request)) => {
                let writes = !request.operation.reads();
                request.sloppy |= writes && self.site.plan.mutation == Some(Mutation::HintsCount);
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
