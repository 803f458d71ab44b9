//! Faults as they happen: each class has dice and a rhythm of its own.

use crate::disk::Trouble;
use crate::fault::Fault;
use crate::log::{KEYSPACE, shadow};
use crate::machine::Machine;
use crate::plan::MS;
use crate::rules::Rules;
use crate::site::Phase;
use crate::workloads::Kind;
use crate::world::{Event, World};
use mks_logic::cluster::{Copies, Entry, Keyspace, Standing, State, Wish};
use mks_logic::id::NodeId;
use mks_logic::port::StoreError;
use std::sync::Arc;

/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// This way is open again.
    Uncut(NodeId, NodeId),
    /// And as fast as before.
    Unslow(NodeId, NodeId),
    /// The disk works.
    Mend(NodeId),
    /// And as fast as before.
    Hurry(NodeId),
    /// The resolver works.
    Settle(NodeId),
    /// The code of the keyspace may run.
    Release,
}

/// A day, microseconds.
const DAY_US: u64 = 86_400_000 * MS;
/// Longest time that a machine is off, days.
const AWAY_DAYS_MAX: u64 = 30;
/// Farthest jump of a clock, milliseconds.
pub const JUMP_MS: u64 = 10_000;

impl World {
    /// The next fault of this class.
    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.site.phase != Phase::Safety {
            return;
        }
        let (every, lasting) = (self.site.plan.every_us, self.site.plan.lasting_us);
        let dice = &mut self.fault_dice[fault as usize];
        let pause = dice.between(every / 4, every * 2);
        let (a, b, lasts) = {
            let nodes = self.site.plan.machines();
            let a = 1 + dice.below(nodes);
            let b = 1 + (a + dice.below(nodes - 1)) % nodes;
            (NodeId(a), NodeId(b), dice.between(5 * MS, lasting))
        };
        let number = dice.draw();
        let load_us = self.site.plan.load_us;
        let pause = match (fault, self.site.plan.workload) {
            // Between two changes something should be sealed.
            (Fault::Members | Fault::Copies, Kind::Graves) => load_us / 10 + number % (load_us / 3),
            (Fault::Members | Fault::Copies, _) => load_us / 40 + number % (load_us / 10),
            _ => pause,
        };
        self.schedule(pause, Event::Fault(fault));
        self.report.faults[fault as usize] += 1;
        self.note(|| format!("FAULT {} {a} {b} for {} ms", fault.name(), lasts / MS));
        self.happens(fault, (a, b), lasts, number);
    }

    fn happens(&mut self, fault: Fault, (a, b): (NodeId, NodeId), lasts: u64, number: u64) {
        let now_us = self.site.now_us;
        match fault {
            Fault::Break => self.break_stream(a, b),
            Fault::Cut => [(a, b), (b, a)].into_iter().for_each(|(x, y)| self.cut(x, y, lasts, number)),
            Fault::OneWay => self.cut(a, b, lasts, number),
            Fault::Isolate => {
                for (x, y) in self.net.pairs().into_iter().filter(|(x, y)| *x == a || *y == a) {
                    self.cut(x, y, lasts, number);
                }
            }
            Fault::Swizzle => self.swizzle(lasts),
            Fault::SlowLink => {
                self.net.stream(a, b).slow_us = lasts / 4;
                self.schedule(lasts, Event::End(End::Unslow(a, b)));
            }
            Fault::Kill => self.crash(a, false, lasts),
            Fault::PowerCut => self.crash(a, true, lasts),
            Fault::Blackout => {
                for id in 1..=self.site.plan.machines() {
                    self.crash(NodeId(id), true, lasts / 2 + number % (lasts / 2 + 1));
                }
            }
            Fault::Pause => self.machine(a).paused_until = now_us + lasts,
            Fault::DiskFull | Fault::DiskError => {
                let trouble = match (fault, number % 2) {
                    (Fault::DiskFull, _) => Trouble::Changes(StoreError::Full("no room".into())),
                    (_, 0) => Trouble::Changes(StoreError::Io("it was told to".into())),
                    _ => Trouble::Everything(StoreError::Io("it was told to".into())),
                };
                self.machine(a).disk.trouble(trouble);
                self.schedule(lasts, Event::End(End::Mend(a)));
            }
            Fault::DiskSlow => {
                self.machine(a).slow = 2 + number % 60;
                self.schedule(lasts, Event::End(End::Hurry(a)));
            }
            Fault::DiskSync => self.machine(a).disk.trouble(Trouble::Sync(number.is_multiple_of(2))),
            // One at a time: what W disks lost is lost.
            Fault::BitFlip if self.site.machines.iter().any(|machine| machine.disk.is_flipped()) => {}
            Fault::BitFlip => drop(self.machine(a).disk.flip(number)),
            Fault::Jump => {
                let reach = if number.is_multiple_of(3) { JUMP_MS } else { 2 * self.site.plan.skew_ms };
                let skew_ms = self.fault_dice[fault as usize].around(reach);
                self.machine(a).skew_ms = skew_ms;
            }
            Fault::LogLag => self.machine(a).deaf_until = now_us + lasts,
            Fault::Epoch => self.propose(Entry::Advance),
            Fault::Resolver => {
                self.machine(a).rules = Rules::FAILURES[number as usize % Rules::FAILURES.len()];
                self.schedule(lasts, Event::End(End::Settle(a)));
            }
            Fault::Members => self.members(number),
            Fault::Away => {
                self.crash(a, self.site.plan.loses_power(), lasts);
                self.schedule(lasts / 2, Event::Leap((1 + number % AWAY_DAYS_MAX) * DAY_US));
            }
            Fault::Copies => self.recopy(number),
            Fault::LogStall => self.site.log.stalled_until = now_us + lasts,
            Fault::Quarantine => {
                let (plugin, reason) = (self.site.log.code(), "it was told to".into());
                self.propose(Entry::QuarantinePlugin { plugin, node: a, reason });
                self.propose(shadow(number.is_multiple_of(2)));
                self.schedule(lasts, Event::End(End::Release));
            }
            // Rates: they are there from the beginning.
            Fault::Datagrams | Fault::Skew | Fault::Drift | Fault::Late => {}
        }
    }

    /// An operator wants something of the members, or somebody who may join is switched on.
    fn members(&mut self, number: u64) {
        let state = Arc::clone(&self.site.log.state);
        let of = |standing| {
            let members = state.members.iter().filter(move |(_, member)| member.standing == standing);
            members.map(|(node, _)| *node).collect::<Vec<NodeId>>()
        };
        let (up, joining) = (of(Standing::Up), of(Standing::Joining));
        let pick = |from: &[NodeId]| (!from.is_empty()).then(|| from[(number >> 8) as usize % from.len()]);
        let off = |machine: &&Machine| machine.gone && !state.members.contains_key(&machine.id);
        let off = |machine: &Machine| off(&machine) && !state.removed.contains_key(&machine.id);
        let spare = self.site.machines.iter().find(|machine| off(machine)).map(|machine| machine.id);
        let wish = match number % 16 {
            0..8 if !joining.is_empty() => pick(&joining).map(|node| Wish::Accept { node }),
            0..8 => {
                if let Some(spare) = spare {
                    self.machine(spare).gone = false;
                    self.start(spare);
                }
                None
            }
            8..11 => pick(&up).map(|node| Wish::Leave { node, dead: false }),
            11..13 => pick(&up).map(|node| Wish::Weight { node, weight: 50 + (number >> 16) as u32 % 150 }),
            13 => pick(&up).map(|node| Wish::Zone { node, zone: format!("z{}", (number >> 16) % 3) }),
            _ => self.declare_dead(pick(&up), joining.first().copied()),
        };
        if let Some(wish) = wish {
            self.propose(Entry::Change { wish, seen: None });
        }
    }

    /// An operator wants another number of copies, with the usual quorums. A single one is lost with its disk.
    fn recopy(&mut self, number: u64) {
        let (state, faults) = (&self.site.log.state, self.site.plan.faults);
        let Some(keyspace) = state.keyspaces.get(&KEYSPACE) else { return };
        let least = if faults.has(Fault::Members) || faults.has(Fault::BitFlip) { 2 } else { 1 };
        let usual = Copies::usual((least + number % (6 - least)) as u8);
        // Other quorums of the same copies are in force as soon as a node hears of them, one before the other.
        let Copies { n, r, w } = if usual.n == keyspace.n { keyspace.copies() } else { usual };
        let keyspace = Keyspace { n, r, w, ..keyspace.clone() };
        self.propose(Entry::AlterKeyspace { keyspace });
    }

    /// A machine is lost for good, or taken for that: what its disk held counts as lost. Once in a run, and not where
    /// another disk loses something as well: what as many disks as W lose is lost.
    fn declare_dead(&mut self, gone: Option<NodeId>, by: Option<NodeId>) -> Option<Wish> {
        let faults = self.site.plan.faults;
        let node = gone.filter(|_| !self.site.buried && !faults.has(Fault::BitFlip))?;
        let wish = match by {
            Some(by) => Wish::Replace { gone: node, by, dead: true },
            None => Wish::Leave { node, dead: true },
        };
        let entry = Entry::Change { wish: wish.clone(), seen: None };
        if State::clone(&self.site.log.state).apply(&entry).is_err() {
            return None;
        }
        self.site.buried = true;
        Some(wish)
    }

    /// A machine is off for as long as the plan says. In half of the runs its node is declared dead meanwhile.
    pub(crate) fn away(&mut self) {
        let away_us = self.site.plan.away_us;
        let number = self.fault_dice[Fault::Away as usize].draw();
        let node = NodeId(1 + number % self.site.plan.nodes);
        self.report.faults[Fault::Away as usize] += 1;
        let starts = self.machine(node).node.is_some();
        self.crash(node, self.site.plan.loses_power(), away_us);
        if starts && number >> 32 & 1 == 1 {
            self.site.buried = true;
            let entry = Entry::Change { wish: Wish::Leave { node, dead: true }, seen: None };
            self.schedule(away_us / 4, Event::Propose(Box::new(entry)));
        }
    }

    /// All links stop one by one, and come back one by one in another order.
    fn swizzle(&mut self, lasts: u64) {
        for (x, y) in self.net.pairs() {
            let dice = &mut self.fault_dice[Fault::Swizzle as usize];
            if dice.chance(70) {
                let (begin, number) = (dice.below(lasts / 2), dice.draw());
                let lasts = dice.between(lasts / 2, lasts);
                self.schedule(begin, Event::Cut(x, y, lasts, number));
            }
        }
    }

    /// Nothing passes this way for a while. Some streams break at once, the others only hold what is sent.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId, lasts: u64, number: u64) {
        self.net.stream(from, to).cuts += 1;
        if number.is_multiple_of(2) {
            self.break_stream(from, to);
        }
        self.schedule(lasts, Event::End(End::Uncut(from, to)));
    }

    /// A fault is over.
    pub(crate) fn over(&mut self, end: End) {
        match end {
            End::Uncut(from, to) => {
                let stream = self.net.stream(from, to);
                stream.cuts = stream.cuts.saturating_sub(1);
                if stream.cuts == 0 {
                    for (clock, frame) in std::mem::take(&mut stream.held) {
                        self.transmit(from, to, clock, frame);
                    }
                }
            }
            End::Unslow(from, to) => self.net.stream(from, to).slow_us = 0,
            End::Mend(node) => self.machine(node).disk.trouble(Trouble::None),
            End::Hurry(node) => self.machine(node).slow = 1,
            End::Settle(node) => self.machine(node).rules = self.healthy(node),
            End::Release => self.propose(Entry::ReleasePlugin { plugin: self.site.log.code() }),
        }
    }

    /// Ends all trouble: nodes run, ways are open, disks are whole, clocks nearly right.
    pub(crate) fn heal(&mut self) {
        self.site.phase = Phase::Settling;
        self.site.healed_us = self.site.now_us;
        self.site.log.stalled_until = self.site.log.stalled_until.min(self.site.now_us);
        self.note(|| "HEAL".into());
        for id in (1..=self.site.plan.machines()).map(NodeId) {
            let (now_us, rules) = (self.site.now_us, self.healthy(id));
            let machine = self.machine(id);
            machine.disk.mend();
            machine.rules = rules;
            machine.slow = 1;
            machine.paused_until = machine.paused_until.min(now_us);
            machine.deaf_until = 0;
            machine.skew_ms = machine.skew_ms.clamp(-100, 100);
            self.schedule(0, Event::Start { node: id });
        }
        for (from, to) in self.net.pairs() {
            self.net.stream(from, to).slow_us = 0;
            self.net.stream(from, to).cuts = 0;
            self.over(End::Uncut(from, to));
        }
        if self.site.plan.faults.has(Fault::Quarantine) {
            self.over(End::Release);
        }
    }
}
