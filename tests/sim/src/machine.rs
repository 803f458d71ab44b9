//! One process with its disk and its clock.

use crate::disk::Disk;
use crate::log;
use crate::mutation::Mutation;
use crate::plan::MS;
use crate::rules::Rules;
use crate::sums::Sums;
use crate::world::{Event, World};
use bytes::Bytes;
use mks_logic::cluster::State;
use mks_logic::event::WriteJob;
use mks_logic::id::{Epoch, NodeId};
use mks_logic::mint::Mints;
use mks_logic::node::Node;
use mks_logic::node::NodeOptions;
use mks_logic::replica::Ports;
use mks_logic::time::Now;
use std::sync::Arc;

/// Unix time at the start of every run, milliseconds.
pub const BIRTH_MS: u64 = 1_800_000_000_000;

/// See the module's own words.
#[derive(Debug)]
pub struct Machine {
    /// Who it is.
    pub id: NodeId,
    /// `None` while it is dead.
    pub node: Option<Node>,
    /// It was never switched on, or is off for good.
    pub gone: bool,
    /// The name of the process.
    pub opening: u128,
    /// Its disk.
    pub disk: Disk,
    /// The sums over its records, as the process holds them.
    pub sums: Sums,
    /// The names that the process gave to writes.
    pub mints: Mints,
    /// Its resolver.
    pub rules: Rules,
    /// What the epoch log says here, and how many entries that is.
    pub state: Arc<State>,
    /// See [`Machine::state`].
    pub applied: usize,
    /// What it was before, with the number of fsyncs when it became something else: the next fsync makes that last.
    pub unsynced: Vec<(u64, Arc<State>, usize)>,
    /// It does not hear of the epoch log before then.
    pub deaf_until: u64,
    /// Writes that the disk has not begun.
    pub waiting: Vec<WriteJob>,
    /// Operations on data types that its disk was asked for, for a deliberate bug.
    pub done: Vec<Bytes>,
    /// The closing up to which its disk has removed tombstones, for a deliberate bug.
    pub early: Epoch,
    /// The disk has a commit under way.
    pub committing: bool,
    /// It is about to die: nothing of it gets out any more.
    pub dying: bool,
    /// How many times longer the disk takes.
    pub slow: u64,
    /// It does not run before then.
    pub paused_until: u64,
    /// How far its wall clock is off, milliseconds.
    pub skew_ms: i64,
    /// How much faster its clocks run, millionths.
    pub drift: i64,
    /// That part of the time in which nothing happened, microseconds.
    pub leaped_us: u64,
    /// When its node wants a tick; `u64::MAX`: never.
    pub wake_us: u64,
}

impl Machine {
    /// A machine that is off.
    #[must_use]
    pub fn new(id: NodeId, state: Arc<State>, applied: usize) -> Self {
        Self {
            id,
            node: None,
            gone: false,
            opening: u128::from(id.0),
            disk: Disk::default(),
            sums: Sums::default(),
            mints: Mints::default(),
            rules: Rules::Work,
            state,
            applied,
            unsynced: Vec::new(),
            deaf_until: 0,
            waiting: Vec::new(),
            done: Vec::new(),
            early: Epoch(0),
            committing: false,
            dying: false,
            slow: 1,
            paused_until: 0,
            skew_ms: 0,
            drift: 0,
            leaped_us: 0,
            wake_us: u64::MAX,
        }
    }

    /// What its clocks say. Monotonic clocks of different nodes have nothing to do with each other.
    #[must_use]
    pub fn now(&self, true_us: u64) -> Now {
        let ran_us = true_us.saturating_sub(self.leaped_us);
        let own_us = true_us.saturating_add_signed(ran_us as i64 * self.drift / 1_000_000);
        let wall_ms = (BIRTH_MS + own_us / MS).saturating_add_signed(self.skew_ms);
        Now { mono_us: self.zero() + own_us, wall_ms }
    }

    /// The first moment at which its monotonic clock says so.
    #[must_use]
    pub fn when(&self, mono_us: u64) -> u64 {
        let own_us = mono_us.saturating_sub(self.zero()).saturating_sub(self.leaped_us);
        let rate = 1_000_000u64.saturating_add_signed(self.drift);
        let mut true_us = (self.leaped_us + own_us * 1_000_000 / rate.max(1)).saturating_sub(2);
        while self.now(true_us).mono_us < mono_us {
            true_us += 1;
        }
        true_us
    }

    fn zero(&self) -> u64 {
        self.id.0 * 1_000_000_007
    }

    /// What its node works with as an owner.
    #[must_use]
    pub fn ports(&self) -> Ports<'_> {
        let partition_bits = self.state.partition_bits;
        Ports {
            store: &self.disk,
            outlines: &self.disk,
            digests: &self.sums,
            mints: &self.mints,
            resolve: &self.rules,
            types: &self.rules,
            partition_bits,
        }
    }
}

impl World {
    /// A process ends, and comes back a while later.
    pub(crate) fn crash(&mut self, id: NodeId, power: bool, lasts: u64) {
        self.note(|| format!("{id} dies{}", if power { " without power" } else { "" }));
        let remembers = self.site.plan.mutation == Some(Mutation::StaleOutline);
        let machine = self.machine(id);
        machine.dying = false;
        if machine.node.take().is_none() {
            return;
        }
        machine.waiting.clear();
        machine.committing = false;
        machine.wake_us = u64::MAX;
        machine.paused_until = 0;
        if power {
            machine.disk.lose_power();
            let fsyncs = machine.disk.fsyncs();
            // It comes back with the log as it was when it last synced anything.
            if let Some((_, state, applied)) = machine.unsynced.iter().find(|(at, ..)| *at == fsyncs) {
                (machine.state, machine.applied) = (Arc::clone(state), *applied);
            }
            machine.unsynced.clear();
        }
        machine.disk.open();
        machine.mints = Mints::default();
        if !remembers {
            machine.disk.forget();
        }
        for other in (1..=self.site.plan.machines()).map(NodeId).filter(|other| *other != id) {
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

    /// A process ends for good: its node left the cluster, or its machine is lost.
    pub(crate) fn retire(&mut self, id: NodeId) {
        self.note(|| format!("{id} is gone"));
        self.machine(id).gone = true;
        self.crash(id, false, MS);
    }

    pub(crate) fn start(&mut self, id: NodeId) {
        if self.machine(id).node.is_some() || self.machine(id).gone {
            return;
        }
        if !self.open_sums(id) {
            // A process that can't read its disk ends, and is started again.
            self.schedule(20 * MS, Event::Start { node: id });
            return;
        }
        // Random, as the logic asks for: it counts its tags from there, and answers to the process before still come.
        let opening = u128::from(self.node_dice.draw()) << 64 | u128::from(self.node_dice.draw());
        self.machine(id).opening = opening;
        self.open(id);
        // It starts from the log that it has, hears the rest, and is granted its incarnation.
        let upto = self.site.log.entries.len();
        let delay = self.node_dice.between(100, self.site.plan.lag_us);
        self.schedule(delay, Event::Deliver { node: id, upto });
        self.propose(log::open(id, opening));
    }

    /// False when the disk can't read or write.
    pub(crate) fn open_sums(&mut self, id: NodeId) -> bool {
        let keyspaces = self.site.copies_known(&self.site.machine(id).state);
        let machine = self.machine(id);
        match Sums::open(&machine.disk, keyspaces) {
            Ok(sums) => {
                machine.sums = sums;
                true
            }
            Err(error) => {
                self.note(|| format!("{id} does not start: {error}"));
                false
            }
        }
    }

    pub(crate) fn open(&mut self, id: NodeId) {
        let (limits, gossip) = (self.site.plan.limits.clone(), self.site.plan.gossip);
        let seed = self.node_dice.draw();
        let machine = self.machine(id);
        let opening = machine.opening;
        machine.node = Some(Node::new(NodeOptions { me: id, opening, limits, gossip, seed }));
        self.note(|| format!("{id} starts as {opening}"));
        self.learn(id);
        for to in (1..=self.site.plan.machines()).map(NodeId).filter(|other| *other != id) {
            self.net.stream(id, to).breaking = false;
            let delay = self.node_dice.between(MS, 10 * MS);
            self.schedule(delay, Event::Connect { from: id, to });
        }
    }
}
