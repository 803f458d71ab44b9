//! Streams go one way, as they do between processes: what is sent on one arrives in order, a break loses what is on its
//! way, and only the sender hears of it. A cut link holds what is sent until it heals or the stream is given up.

use crate::fault::Fault;
use crate::log::KEYSPACE;
use crate::mutation::Mutation;
use crate::plan::MS;
use crate::site::{Phase, Site};
use crate::workloads::Kind;
use crate::world::{Event, Local, World};
use bytes::Bytes;
use mks_logic::context::Context;
use mks_logic::digest::Age;
use mks_logic::event::Input;
use mks_logic::exchange::{SyncAnswer, SyncAsk};
use mks_logic::id::{Epoch, Incarnation, NodeId};
use mks_logic::message::Message;
use mks_logic::message::WriteOutcome;
use mks_logic::node::Node;
use mks_logic::time::Hlc;

/// A connection is tried again after such a part of the time after which an idle node says something.
const RECONNECT_PART: u64 = 25;

/// Streams that break at a write, where such writes come late, percent of all writes.
const LATE_PERCENT: u64 = 2;

/// Processes that die at a write, where they do, percent of its copies.
const DIES_PERCENT: u64 = 1;

/// What a stream carries.
#[derive(Clone, Debug)]
pub enum Frame {
    /// It begins.
    Opened,
    /// Nothing to say.
    Clock,
    /// Something to say.
    Message(Box<Message>),
}

/// The way from one node to another.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Frames arrive.
    pub connected: bool,
    /// It broke, and the sender has not heard of it: before that it does not connect again.
    pub breaking: bool,
    /// Counts connections: what was sent on an earlier one never arrives.
    pub connection: u32,
    /// Nothing arrives before this.
    pub last_arrival: u64,
    /// Faults that stop it now.
    pub cuts: u32,
    /// Further delay, microseconds.
    pub slow_us: u64,
    /// Sent while it was cut.
    pub held: Vec<(Hlc, Frame)>,
}

/// All streams.
#[derive(Clone, Debug)]
pub struct Network {
    nodes: usize,
    streams: Vec<Stream>,
}

impl Network {
    /// Nobody is connected.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { nodes, streams: vec![Stream::default(); nodes * nodes] }
    }

    fn at(&self, from: NodeId, to: NodeId) -> usize {
        (from.0 as usize - 1) * self.nodes + to.0 as usize - 1
    }

    /// The stream from one node to another.
    pub fn stream(&mut self, from: NodeId, to: NodeId) -> &mut Stream {
        let at = self.at(from, to);
        &mut self.streams[at]
    }

    /// All pairs of different nodes.
    #[must_use]
    pub fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        let ids = 1..=self.nodes as u64;
        ids.clone().flat_map(|a| ids.clone().map(move |b| (NodeId(a), NodeId(b)))).filter(|(a, b)| a != b).collect()
    }
}

/// Whether it is a write that may come long after its stream broke.
fn late(site: &Site, frame: &Frame) -> bool {
    let Frame::Message(message) = frame else { return false };
    let write = matches!(**message, Message::Write { .. } | Message::Keep { .. });
    write && site.phase == Phase::Safety && site.plan.faults.has(Fault::Late)
}

impl World {
    pub(crate) fn datagram(&mut self, id: NodeId, to: NodeId, data: &Bytes) {
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

    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        let now_us = self.site.now_us;
        let machine = self.site.machine(from);
        let Some(node) = machine.node.as_ref().filter(|_| !machine.dying) else { return };
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
        if self.breaks_at(from, to, &frame) {
            let opening = self.machine(to).opening;
            self.lost((from, to), opening, clock, frame);
            self.break_stream(from, to);
            return;
        }
        let delay = self.dice.between(100, longest);
        self.may_die_at(from, &frame);
        let opening = self.machine(to).opening;
        let stream = self.net.stream(from, to);
        if stream.connected {
            stream.last_arrival = stream.last_arrival.max(now_us + delay + stream.slow_us);
            let (after, connection) = (stream.last_arrival - now_us, stream.connection);
            self.schedule(after, Event::Arrive { from, to, connection, opening, clock, frame });
        }
    }

    pub(crate) fn arrive(
        &mut self,
        (from, to): (NodeId, NodeId),
        (connection, opening): (u32, u128),
        clock: Hlc,
        frame: Frame,
    ) {
        let stream = self.net.stream(from, to);
        if !stream.connected || stream.connection != connection {
            self.lost((from, to), opening, clock, frame);
            return;
        }
        match frame {
            Frame::Opened => self.step(to, Input::Arrived { peer: from }),
            Frame::Clock => self.step(to, Input::Clock { from, clock }),
            Frame::Message(message) => self.hear(from, to, clock, *message),
        }
    }

    /// Whether the stream breaks while this is on its way.
    fn breaks_at(&mut self, from: NodeId, to: NodeId, frame: &Frame) -> bool {
        let connected = self.net.stream(from, to).connected;
        let dice = &mut self.fault_dice[Fault::Late as usize];
        connected && late(&self.site, frame) && dice.chance(LATE_PERCENT)
    }

    /// Where deletes are the point, some processes die between two copies of a write: then nobody keeps hints for the
    /// owners that never hear of it.
    fn may_die_at(&mut self, from: NodeId, frame: &Frame) {
        let plan = &self.site.plan;
        let dies = plan.workload == Kind::Graves && plan.faults.has(Fault::Kill) && self.site.phase == Phase::Safety;
        let Frame::Message(message) = frame else { return };
        let fresh = matches!(**message, Message::Write { fresh: true, .. });
        if dies && fresh && self.fault_dice[Fault::Kill as usize].chance(DIES_PERCENT) {
            self.machine(from).dying = true;
            self.local(from, 0, Local::Die);
        }
    }

    /// The stream broke on which it was sent. Where that does not keep a write from arriving, it comes when everybody
    /// has long forgotten it, to the same process.
    fn lost(&mut self, (from, to): (NodeId, NodeId), opening: u128, clock: Hlc, frame: Frame) {
        if !late(&self.site, &frame) {
            return;
        }
        if let Frame::Message(message) = frame {
            let lasting = self.site.plan.lasting_us;
            let delay = self.fault_dice[Fault::Late as usize].between(0, 2 * lasting);
            self.schedule(delay, Event::Late { from, to, opening, clock, message });
        }
    }

    /// A message arrives; mutations make another one of it.
    pub(crate) fn hear(&mut self, from: NodeId, to: NodeId, clock: Hlc, mut message: Message) {
        let mut twice = None;
        match (self.site.plan.mutation, &mut message) {
            (Some(Mutation::RefusalAsAck), Message::Written { outcome, .. }) => {
                if matches!(outcome, WriteOutcome::Refused(_)) {
                    *outcome = WriteOutcome::Held;
                }
            }
            (Some(Mutation::AckTwice), Message::Written { outcome: WriteOutcome::Held, .. }) => {
                let other = (1..=self.site.plan.machines())
                    .map(NodeId)
                    .filter(|id| *id != from && *id != to)
                    .collect::<Vec<_>>();
                twice = Some((self.dice.pick(&other), message.clone()));
            }
            (Some(Mutation::AnyEpoch), Message::Write { version, .. }) => {
                version.epoch = version.epoch.max(self.site.machine(to).state.epoch);
            }
            (Some(Mutation::UnionQuorum), Message::Written { outcome: WriteOutcome::Held, .. }) => {
                // Whoever is an owner in one table only counts for one of the other as well.
                twice = self.alone_in_the_other(to, from).map(|other| (other, message.clone()));
            }
            (Some(Mutation::CutoverBeforeSync), Message::Sync { tag, ask: SyncAsk::Root { range, .. } })
                if range.age == Age::Any =>
            {
                let same = Message::Synced { tag: *tag, answer: SyncAnswer::Same };
                self.send(to, from, Frame::Message(Box::new(same)));
                return;
            }
            (Some(Mutation::ConfirmUnseen), Message::Sync { tag, ask: SyncAsk::Root { range, .. } })
                if range.closed > Epoch(0) =>
            {
                let same = Message::Synced { tag: *tag, answer: SyncAnswer::Same };
                self.send(to, from, Frame::Message(Box::new(same)));
                return;
            }
            (Some(Mutation::DeadSession), Message::Sync { ask, .. }) => {
                let epoch = self.site.machine(to).state.epoch;
                let (SyncAsk::Root { range, .. }
                | SyncAsk::Sketches { range, .. }
                | SyncAsk::Mend { range, .. }
                | SyncAsk::Pull { range, .. }) = ask;
                if range.age == Age::Any {
                    range.epoch = epoch;
                }
            }
            (Some(Mutation::WriteWithoutPast), Message::Write { past, .. }) => *past = Context::default(),
            _ => {}
        }
        self.take_closed(to, &message);
        self.step(to, Input::Peer { from, clock, message });
        if let Some((other, message)) = twice {
            self.step(to, Input::Peer { from: other, clock, message });
        }
    }

    /// An owner of any partition that moves, of the table that `one` is not in, as the coordinator knows them.
    fn alone_in_the_other(&self, coordinator: NodeId, one: NodeId) -> Option<NodeId> {
        let state = &self.site.machine(coordinator).state;
        let moving = state.change.iter().flat_map(|change| change.next.iter().map(|(partition, _)| partition));
        moving
            .filter_map(|partition| {
                let tables = state.tables(partition, KEYSPACE);
                let next = tables.next?;
                let only = |a: &[NodeId], b: &[NodeId]| a.iter().find(|node| !b.contains(node)).copied();
                match (tables.old.contains(&one), next.contains(&one)) {
                    (true, false) => only(next, tables.old),
                    (false, true) => only(tables.old, next),
                    _ => None,
                }
            })
            .next()
    }

    pub(crate) fn connect(&mut self, from: NodeId, to: NodeId) {
        let there = self.machine(to).node.is_some() && self.machine(to).paused_until <= self.site.now_us;
        if self.machine(from).node.is_none() || self.net.stream(from, to).connected {
            return;
        }
        // A handshake needs both ways.
        let open = !self.net.stream(from, to).breaking
            && self.net.stream(from, to).cuts == 0
            && self.net.stream(to, from).cuts == 0;
        if there && open {
            let stream = self.net.stream(from, to);
            stream.connected = true;
            stream.connection += 1;
            self.send(from, to, Frame::Opened);
            self.step(from, Input::Link { peer: to, up: true });
        } else {
            self.schedule(self.site.plan.idle_us / RECONNECT_PART, Event::Connect { from, to });
        }
    }

    pub(crate) fn break_stream(&mut self, from: NodeId, to: NodeId) {
        let stream = self.net.stream(from, to);
        if stream.connected {
            stream.connected = false;
            stream.breaking = true;
            let held = std::mem::take(&mut stream.held);
            let (opening, delay) = (self.machine(from).opening, self.dice.below(20 * MS));
            self.schedule(delay, Event::Broken { from, to, opening });
            let opening = self.machine(to).opening;
            for (clock, frame) in held {
                self.lost((from, to), opening, clock, frame);
            }
        }
    }
}
