//! What a run is made of: drawn from its seed, and cut down by whoever looks for the smallest run that fails.

use crate::dice::Dice;
use crate::fault::{Fault, FaultSet};
use crate::mutation::Mutation;
use crate::workloads::Kind;
use mks_logic::limits::Limits;
use mks_logic::member::GossipSettings;
use mks_logic::port::Durability;

/// Microseconds of a millisecond.
pub const MS: u64 = 1_000;
/// Deadline of a request that names none, milliseconds: short, so that a run may end soon.
pub const DEADLINE_MS: u64 = 1_000;

/// Runs that are made for seals, percent.
const GRAVES_PERCENT: u64 = 8;
/// Those among them in which hints wait for long, percent.
const LATE_HINTS_PERCENT: u64 = 20;
/// Runs whose keyspace gets another number of copies, percent.
const COPIES_PERCENT: u64 = 15;
/// What may go wrong in those that are made for seals, with what is on its way, and with everything else.
const WAYS_OF_GRAVES: [Fault; 6] =
    [Fault::Late, Fault::Break, Fault::Cut, Fault::OneWay, Fault::Isolate, Fault::SlowLink];
/// See [`WAYS_OF_GRAVES`].
const FAULTS_OF_GRAVES: [Fault; 7] =
    [Fault::PowerCut, Fault::Pause, Fault::DiskSlow, Fault::DiskError, Fault::Skew, Fault::Jump, Fault::Away];

/// Which dice are whose.
pub(crate) mod part {
    pub(crate) const PLAN: u64 = 1;
    pub(crate) const NET: u64 = 2;
    pub(crate) const NODES: u64 = 3;
    pub(crate) const CLIENTS: u64 = 4;
    pub(crate) const CAUSAL: u64 = 5;
    pub(crate) const SLOPPY: u64 = 6;
    pub(crate) const MEMBERS: u64 = 8;
    pub(crate) const TYPED: u64 = 9;
    pub(crate) const SEALS: u64 = 10;
    pub(crate) const MERGED: u64 = 11;
    pub(crate) const QUARANTINE: u64 = 12;
    pub(crate) const MONTH: u64 = 14;
    pub(crate) const GRAVES: u64 = 19;
    pub(crate) const LATE_HINTS: u64 = 21;
    pub(crate) const COPIES: u64 = 20;
    /// And one part per class of faults from here on.
    pub(crate) const FAULTS: u64 = 100;
}

/// What to leave out of what a seed says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// At most so many nodes.
    pub nodes: Option<u64>,
    /// At most so many requests of clients.
    pub operations: Option<u64>,
    /// Not these faults.
    pub without: FaultSet,
}

/// See the module's own words.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all of it comes from.
    pub seed: u64,
    /// Nodes at the beginning, 3 to 7.
    pub nodes: u64,
    /// Machines that may join later.
    pub spares: u64,
    /// N, R and W: every two write quorums meet, and every read quorum meets every write quorum.
    pub quorums: (u8, u8, u8),
    /// What an ack of the keyspace promises.
    pub durability: Durability,
    /// Writes that ask for less, percent.
    pub weak_percent: u64,
    /// Writes that are sloppy, percent.
    pub sloppy_percent: u64,
    /// What may go wrong, and the mean time between two faults of one class, microseconds.
    pub faults: FaultSet,
    /// See [`Plan::faults`].
    pub every_us: u64,
    /// Longest fault, microseconds.
    pub lasting_us: u64,
    /// What clients do.
    pub workload: Kind,
    /// Keys are deleted once and not over and over, and through the first node.
    pub once: bool,
    /// Keys, clients, and requests of all clients together.
    pub keys: u64,
    /// See [`Plan::keys`].
    pub clients: usize,
    /// See [`Plan::keys`].
    pub operations: u64,
    /// Longest pause of a client, microseconds.
    pub think_us: u64,
    /// Longest time of load, microseconds.
    pub load_us: u64,
    /// Usual longest delay of a message, microseconds.
    pub delay_us: u64,
    /// Longest delay of an entry of the epoch log, microseconds.
    pub lag_us: u64,
    /// An epoch lasts about so long, microseconds.
    pub epoch_us: u64,
    /// The first node hears of entries of the epoch log later than others, by so much at most, microseconds.
    pub behind_us: u64,
    /// How often a frame is sent when there is nothing to say, microseconds.
    pub idle_us: u64,
    /// One machine is off for so long, microseconds; zero: none is.
    pub away_us: u64,
    /// How far clocks may be off, milliseconds.
    pub skew_ms: u64,
    /// The nodes' bounds.
    pub limits: Limits,
    /// The nodes' gossip.
    pub gossip: GossipSettings,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
}

fn quorums(dice: &mut Dice, nodes: u64) -> (u8, u8, u8) {
    let n = if dice.chance(70) { 3 } else { dice.between(2, nodes.min(5) + 1) };
    let (few_w, few_r) = (dice.chance(70), dice.chance(70));
    let w = dice.between(n / 2 + 1, if few_w { n / 2 + 2 } else { n + 1 });
    let r = dice.between(n + 1 - w, if few_r { n + 2 - w } else { n + 1 });
    (n as u8, r as u8, w as u8)
}

/// Dice of its own decide whether it is a causal one: all else of a seed is as it was before there were any.
fn workload(seed: u64, dice: &mut Dice) -> Kind {
    let (plain, mut causal) = (dice.pick(Kind::PLAIN), Dice::new(seed, part::CAUSAL));
    let kind = if causal.chance(35) { causal.pick(Kind::CAUSAL) } else { plain };
    let mut typed = Dice::new(seed, part::TYPED);
    let kind = if typed.chance(25) { typed.pick(Kind::TYPED) } else { kind };
    if Dice::new(seed, part::MERGED).chance(10) { Kind::Unions } else { kind }
}

/// From dice of its own, so that seeds of before say what they said. Without other nodes nobody can stand in.
fn sloppy(seed: u64, nodes: u64) -> u64 {
    let share = Dice::new(seed, part::SLOPPY).pick(&[0, 0, 10, 30, 60, 60]);
    if nodes > 3 { share } else { 0 }
}

/// Comparisons are so frequent that a short run has some of them.
fn usual_limits() -> Limits {
    Limits {
        deadline_default_ms: DEADLINE_MS,
        deadline_max_ms: DEADLINE_MS,
        sync_period_ms: 4_000,
        seals: true,
        sync_quiet_ms: 200,
        sync_answer_ms: 500,
        scrub_period_ms: 1_500,
        move_retry_ms: 200,
        ..Limits::default()
    }
}

fn limits(dice: &mut Dice) -> Limits {
    let usual = usual_limits();
    if dice.chance(80) {
        return usual;
    }
    let (operations_max, disk_jobs_max) = (dice.between(2, 12) as usize, dice.between(2, 12) as usize);
    Limits { operations_max, disk_jobs_max, early_messages_max: 3, request_ids_max: 20, ..usual }
}

/// The logic's own settings in some seeds; slower ones, which cost less to simulate, in the others.
fn gossip(dice: &mut Dice) -> GossipSettings {
    let slow = GossipSettings {
        probe_period_ms: 1_000,
        probe_timeout_ms: 400,
        suspicion_ms: 2_000,
        gossip_period_ms: 1_000,
        announce_period_ms: 3_000,
        fanout: 2,
    };
    if dice.chance(15) { GossipSettings::default() } else { slow }
}

impl Plan {
    /// What this seed says.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, part::PLAN);
        let nodes = dice.pick(&[3, 3, 3, 4, 5, 5, 6, 7]);
        let mut faults = FaultSet::default();
        // From calm to all at once.
        let share = dice.pick(&[0, 15, 30, 30, 50, 80]);
        for fault in Fault::ALL.iter().filter(|fault| !fault.is_apart()) {
            if dice.chance(share) {
                faults = faults.with(*fault);
            }
        }
        let think_us = dice.pick(&[2, 4, 10, 40]) * MS;
        let operations = dice.between(60, 260);
        let clients = dice.between(2, 6) as usize;
        let load_us = (operations * (think_us + 20 * MS) / clients as u64).clamp(500 * MS, 6_000 * MS);
        Self {
            seed,
            nodes,
            spares: 0,
            quorums: quorums(&mut dice, nodes),
            durability: if dice.chance(80) { Durability::Sync } else { Durability::Os },
            weak_percent: dice.pick(&[0, 0, 0, 20]),
            sloppy_percent: sloppy(seed, nodes),
            faults,
            every_us: dice.between(load_us / 30, load_us / 2),
            lasting_us: dice.between(20 * MS, load_us / 3),
            workload: workload(seed, &mut dice),
            once: false,
            keys: dice.between(1, 7),
            clients,
            operations,
            think_us,
            load_us,
            delay_us: dice.pick(&[1, 3, 10]) * MS,
            lag_us: dice.pick(&[1, 20, 200]) * MS,
            epoch_us: u64::MAX / 4,
            behind_us: 0,
            idle_us: 500 * MS,
            away_us: 0,
            skew_ms: dice.pick(&[20, 240, 240, 1_000]),
            limits: limits(&mut dice),
            gossip: gossip(&mut dice),
            mutation: None,
        }
        .members()
        .epochs()
        .graves()
        .copies()
        .quarantine()
        .possible()
    }

    /// Epochs end while clients are at work, so that much is sealed and purged under faults; not so fast that nobody
    /// hears of one before it is over. In some seeds a machine is off for days.
    fn epochs(mut self) -> Self {
        let mut dice = Dice::new(self.seed, part::SEALS);
        self.epoch_us = dice.between(self.load_us / 20, self.load_us / 3).max(2 * self.lag_us);
        if dice.chance(15) {
            self.faults = self.faults.with(Fault::Away);
        }
        self
    }

    /// In some seeds everything is made for seals: epochs are short, nodes that own nothing of a key coordinate its
    /// writes, deleted keys have time to be purged, and the few faults last for epochs, so that much comes late.
    fn graves(mut self) -> Self {
        let mut dice = Dice::new(self.seed, part::GRAVES);
        if !dice.chance(GRAVES_PERCENT) {
            return self;
        }
        let mut some = |of: &[Fault], percent| {
            let some = of.iter().copied().filter(|_| dice.chance(percent));
            some.fold(FaultSet::default(), FaultSet::with)
        };
        let ways = some(&WAYS_OF_GRAVES, 40);
        let ways = some(&[Fault::Members, Fault::Kill, Fault::LogLag], 30).iter().fold(ways, FaultSet::with);
        self.faults = some(&FAULTS_OF_GRAVES, 15).iter().fold(ways, FaultSet::with);
        if self.faults.has(Fault::Members) {
            // With more than that nothing would be sealed between two changes.
            let kills = self.faults.has(Fault::Kill);
            self.faults = FaultSet::default().with(Fault::Members);
            self.faults = if kills { self.faults.with(Fault::Kill) } else { self.faults };
        }
        self.nodes = dice.pick(&[4, 5, 5, 6]);
        self.spares = dice.below(2);
        self.quorums = (3, 2, 2);
        self.durability = dice.pick(&[Durability::Sync, Durability::Os]);
        self.workload = Kind::Graves;
        self.keys = dice.between(8, 20);
        self.clients = dice.between(3, 6) as usize;
        self.operations = dice.between(200, 350);
        self.think_us = dice.pick(&[5, 10]) * MS;
        self.load_us = 8_000 * MS;
        self.delay_us = dice.pick(&[1, 3]) * MS;
        self.epoch_us = dice.between(60, 160) * MS;
        // In many of these runs nodes are often an epoch apart.
        self.behind_us = dice.pick(&[0, self.epoch_us]);
        self.lag_us = dice.pick(&[MS, self.epoch_us / 8, self.epoch_us / 4]);
        self.every_us = dice.between(500, 1_500) * MS;
        self.lasting_us = dice.between(8, 16) * self.epoch_us;
        self.skew_ms = dice.pick(&[20, 100]);
        self.sloppy_percent = self.sloppy_percent.min(10);
        self.limits = Limits { move_retry_ms: 40, hint_retry_ms: 100, hint_after_ms: 50, ..usual_limits() };
        self.late_hints()
    }

    /// In some of those nodes are out of reach for a few epochs, and get as hints, many epochs later, what was written
    /// meanwhile. It was deleted by a node that was an epoch behind, once.
    fn late_hints(mut self) -> Self {
        let mut dice = Dice::new(self.seed, part::LATE_HINTS);
        if !dice.chance(LATE_HINTS_PERCENT) || self.faults.has(Fault::Members) {
            return self;
        }
        self.once = true;
        self.faults = FaultSet::default().with(Fault::Isolate);
        (self.behind_us, self.lag_us) = (self.epoch_us, self.epoch_us / 8);
        (self.lasting_us, self.every_us) = (3 * self.epoch_us, 1_000 * MS);
        (self.nodes, self.spares) = (4, 0);
        (self.keys, self.clients, self.operations) = (80, 6, 800);
        self.skew_ms = 20;
        self.limits.hint_retry_ms = 15 * self.epoch_us / MS;
        self
    }

    /// Code that goes into quarantine is code that was uploaded: a data type, or a resolver that merges for readers.
    fn quarantine(mut self) -> Self {
        if Dice::new(self.seed, part::QUARANTINE).chance(30) {
            self.faults = self.faults.with(Fault::Quarantine);
        }
        self
    }

    /// Nodes come and go in some seeds. In half of those little else goes wrong, clients ask fast and the log is fast:
    /// then many reads and writes fall into every step of a change.
    fn members(mut self) -> Self {
        let mut dice = Dice::new(self.seed, part::MEMBERS);
        if !dice.chance(40) {
            return self;
        }
        self.spares = dice.between(1, 4);
        if dice.chance(50) {
            // The plans of old seeds stay what they were before there were these.
            let known =
                Fault::ALL.iter().filter(|fault| !matches!(fault, Fault::Quarantine | Fault::Late | Fault::Copies));
            let rare = known.filter(|_| !dice.chance(10));
            self.faults = rare.fold(self.faults, |faults, fault| faults.without(FaultSet::default().with(*fault)));
            self.think_us = dice.pick(&[1, 2, 4]) * MS;
            self.operations *= 2;
            self.load_us = self.load_us.min(1_500 * MS);
            self.lasting_us = dice.between(20 * MS, self.load_us / 3);
            self.lag_us = dice.pick(&[1, 5, 20]) * MS;
            self.delay_us = dice.pick(&[1, 3]) * MS;
        }
        self.faults = self.faults.with(Fault::Members);
        if dice.chance(20) {
            self.faults = self.faults.with(Fault::LogStall);
        }
        self
    }

    /// In some seeds the keyspace gets another number of copies now and then. All else is as it is without that.
    fn copies(mut self) -> Self {
        if Dice::new(self.seed, part::COPIES).chance(COPIES_PERCENT) {
            self.faults = self.faults.with(Fault::Copies);
        }
        self
    }

    /// Whether changes of the table come, of either kind.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.faults.has(Fault::Members) || self.faults.has(Fault::Copies)
    }

    /// The figures' load: five nodes, four clients and 13 requests per second for a minute, as nodes die and links
    /// are cut both ways and one way.
    #[must_use]
    pub fn measured(seed: u64) -> Self {
        let faults = [Fault::Kill, Fault::Cut, Fault::OneWay].into_iter().fold(FaultSet::default(), FaultSet::with);
        Self {
            nodes: 5,
            spares: 0,
            quorums: (3, 2, 2),
            durability: Durability::Sync,
            weak_percent: 0,
            sloppy_percent: 0,
            faults,
            every_us: 2_000 * MS,
            lasting_us: 1_000 * MS,
            keys: 6,
            clients: 4,
            operations: 800,
            think_us: 600 * MS,
            load_us: 60_000 * MS,
            epoch_us: 900_000 * MS,
            limits: Limits {
                deadline_default_ms: DEADLINE_MS,
                deadline_max_ms: DEADLINE_MS,
                seals: true,
                ..Limits::default()
            },
            ..Self::draw(seed)
        }
    }

    /// Six weeks in which clients ask a few times a day, and for a month of which one machine is off. What nodes do by
    /// themselves they do so rarely that it costs little.
    #[must_use]
    pub fn month(seed: u64) -> Self {
        let (mut dice, hour_ms) = (Dice::new(seed, part::MONTH), 3_600_000);
        let hour_us = hour_ms * MS;
        let faults = [Fault::Kill, Fault::PowerCut, Fault::Cut, Fault::LogLag, Fault::Late];
        let faults = faults.iter().copied().filter(|_| dice.chance(50)).fold(FaultSet::default(), FaultSet::with);
        let gossip = GossipSettings {
            probe_period_ms: hour_ms,
            probe_timeout_ms: hour_ms / 10,
            suspicion_ms: hour_ms,
            gossip_period_ms: hour_ms,
            announce_period_ms: 2 * hour_ms,
            fanout: 2,
        };
        Self {
            nodes: dice.between(4, 6),
            spares: 0,
            quorums: (3, 2, 2),
            durability: Durability::Sync,
            weak_percent: 0,
            sloppy_percent: 0,
            // What a killed coordinator owed is owed no more.
            faults: faults.with(Fault::Kill),
            every_us: 240 * hour_us,
            lasting_us: 24 * hour_us,
            workload: Kind::Graves,
            once: false,
            keys: 12,
            clients: 3,
            operations: 500,
            think_us: 11 * hour_us,
            load_us: 42 * 24 * hour_us,
            lag_us: 2_000 * MS,
            behind_us: 0,
            epoch_us: 6 * hour_us,
            idle_us: hour_us,
            away_us: 30 * 24 * hour_us,
            limits: Limits {
                sync_period_ms: 24 * hour_ms,
                scrub_period_ms: 240 * hour_ms,
                move_retry_ms: hour_ms / 6,
                hint_retry_ms: hour_ms / 6,
                ..usual_limits()
            },
            gossip,
            ..Self::draw(seed)
        }
        .possible()
    }

    /// The same with less.
    #[must_use]
    pub fn cut(mut self, cuts: &Cuts) -> Self {
        self.nodes = self.nodes.min(cuts.nodes.unwrap_or(self.nodes)).max(u64::from(self.quorums.0));
        self.operations = self.operations.min(cuts.operations.unwrap_or(self.operations));
        self.faults = self.faults.without(cuts.without);
        self.possible()
    }

    /// The same with a deliberate bug.
    #[must_use]
    pub fn with(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        self
    }

    /// What is not synced may vanish here: then writes are synced unless they ask for less themselves.
    #[must_use]
    pub fn loses_power(&self) -> bool {
        self.faults.has(Fault::PowerCut) || self.faults.has(Fault::Blackout)
    }

    /// All machines.
    #[must_use]
    pub fn machines(&self) -> u64 {
        self.nodes + self.spares
    }

    fn possible(mut self) -> Self {
        if !self.faults.has(Fault::Members) {
            self.spares = 0;
        }
        if !self.workload.is_typed() && !self.workload.is_merged() {
            self.faults = self.faults.without(FaultSet::default().with(Fault::Quarantine));
        }
        if self.loses_power() {
            self.durability = Durability::Sync;
        }
        if self.workload.is_causal() {
            // A request id that is forgotten makes a sibling of its own.
            self.limits.request_ids_max = Limits::default().request_ids_max;
        }
        self
    }

    /// How to run this again.
    #[must_use]
    pub fn line(&self, cuts: &Cuts) -> String {
        let mut line = format!("mks-sim --seed {}", self.seed);
        if let Some(nodes) = cuts.nodes {
            line += &format!(" --nodes {nodes}");
        }
        if let Some(operations) = cuts.operations {
            line += &format!(" --operations {operations}");
        }
        if cuts.without != FaultSet::default() {
            line += &format!(" --without {}", cuts.without);
        }
        if let Some(mutation) = self.mutation {
            line += &format!(" --mutation {}", mutation.name());
        }
        line
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, r, w) = self.quorums;
        write!(
            f,
            "seed {}: {} nodes and {} spare ones, N={n} R={r} W={w} {:?}, {} x {} of {} requests on {} keys in {} ms, delays to {} ms, \
             faults every {} ms for {} ms: {}",
            self.seed,
            self.nodes,
            self.spares,
            self.durability,
            self.clients,
            self.workload.name(),
            self.operations,
            self.keys,
            self.load_us / MS,
            self.delay_us / MS,
            self.every_us / MS,
            self.lasting_us / MS,
            self.faults
        )
    }
}
