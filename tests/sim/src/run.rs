//! One run from beginning to end, and the search for the smallest one that fails.

use crate::fault::{Fault, FaultSet};
use crate::history::Event;
use crate::plan::{Cuts, DEADLINE_MS, MS, Plan};
use crate::site::{Phase, Site};
use crate::trace::Keep;
use crate::trouble::JUMP_MS;
use crate::workloads::Known;
use crate::world::World;
use bytes::Bytes;
use mks_logic::event::Input;
use mks_logic::id::NodeId;
use mks_logic::request::Request;

/// Most runs that one search for a smaller failing run may take.
const SHRINK_RUNS_MAX: usize = 200;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
    /// True time, microseconds.
    pub at_us: u64,
}

/// What happened in a run, or in many.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Simulated time, and that part of it in which clients were at work, microseconds.
    pub simulated_us: u64,
    /// See [`Report::simulated_us`].
    pub load_us: u64,
    /// Inputs that nodes took.
    pub steps: u64,
    /// Operations whose replies were good, and those whose were not.
    pub good: u64,
    /// See [`Report::good`].
    pub bad: u64,
    /// Operations that the history's invariants looked at.
    pub checked: u64,
    /// Faults by class.
    pub faults: [u64; Fault::ALL.len()],
}

impl Report {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.simulated_us += other.simulated_us;
        self.load_us += other.load_us;
        self.steps += other.steps;
        self.good += other.good;
        self.bad += other.bad;
        self.checked += other.checked;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The first violation, if any.
    pub violation: Option<Violation>,
    /// What happened.
    pub report: Report,
    /// See [`crate::trace::Trace`].
    pub hash: u64,
    /// The last lines of the trace, if they were kept.
    pub lines: Vec<String>,
    /// What clients did and saw.
    pub history: Vec<Event>,
}

/// Runs a plan from beginning to end, or to its first violation.
#[must_use]
pub fn run(plan: &Plan, keep: Keep) -> Outcome {
    let mut world = World::new(plan.clone(), keep);
    load(&mut world);
    if world.violation.is_none() {
        liveness(&mut world);
    }
    if world.violation.is_none() {
        sealing(&mut world);
    }
    world.end();
    world.report.runs = 1;
    world.report.simulated_us = world.site.now_us - world.site.leaped_us;
    world.report.checked = world.site.history.events.len() as u64;
    Outcome {
        violation: world.violation,
        report: world.report,
        hash: world.trace.hash(),
        lines: world.trace.lines.into(),
        history: world.site.history.events,
    }
}

/// How long changes of members may take that were asked for under faults, milliseconds.
const MOVES_MS_MAX: u64 = 60_000;

/// Clients at work, until they have asked what they may.
fn load(world: &mut World) {
    let ran_us = |world: &World| world.site.now_us - world.site.leaped_us;
    let end = world.site.plan.load_us;
    while ran_us(world) < end && world.violation.is_none() && !world.is_exhausted() {
        let step = (end - ran_us(world)).min(100 * MS);
        world.advance(step);
    }
    world.report.load_us = ran_us(world);
}

/// Once the trouble is over, everything works within a bounded time.
fn liveness(world: &mut World) {
    world.heal();
    // Detectors of failures, streams and deadlines need a moment; stamps from clocks that were ahead need to be past.
    let jumped = world.site.plan.faults.has(Fault::Jump);
    let gossip = &world.site.plan.gossip;
    let settle_ms = DEADLINE_MS + gossip.announce_period_ms + if jumped { JUMP_MS } else { world.site.plan.skew_ms };
    world.advance((settle_ms + 500) * MS);
    let moves = world.site.plan.moves();
    if world.site.plan.faults.has(Fault::BitFlip) {
        // A look at every record; what that finds is served again when all owners were asked, and asked again.
        world.advance(world.site.plan.limits.scrub_period_ms * MS);
    }
    let mends = |site: &Site| {
        site.present().filter_map(|machine| machine.node.as_ref()).any(|node| node.scrub_figures().waiting > 0)
    };
    let waits = |site: &Site| (moves && site.settled().is_err()) || mends(site);
    let until = world.site.now_us + MOVES_MS_MAX * MS;
    while waits(&world.site) && world.violation.is_none() && world.site.now_us < until {
        world.advance(200 * MS);
    }
    world.settled();
    world.site.phase = Phase::Liveness;
    let (keys, workload) = (world.site.keys.clone(), world.site.plan.workload);
    let nodes: Vec<NodeId> = world.site.present().map(|machine| machine.id).collect();
    for (i, key) in keys.iter().enumerate() {
        let mine = |node: &&NodeId| i == 0 || node.0 % keys.len() as u64 == i as u64;
        for node in nodes.iter().filter(mine).copied() {
            if world.violation.is_some() {
                return;
            }
            // What mends owners in the background takes its place at disks whose queues are as short as some plans make
            // them.
            world.advance(20 * MS);
            let value = Bytes::copy_from_slice(&world.clients.value().to_be_bytes());
            world.ask(node, (Request::new(workload.look(key.clone())), Vec::new()));
            world.advance(20 * MS);
            // In a causal keyspace, with what the run itself has just seen.
            let Known { context, saw } = world.clients.known(i);
            let put = Request { context, ..Request::new(workload.write(key.clone(), value)) };
            let saw = if workload.is_typed() { Vec::new() } else { vec![saw] };
            world.ask(node, (put, saw));
            world.advance(20 * MS);
            world.ask(node, (Request::new(workload.look(key.clone())), Vec::new()));
        }
    }
    world.advance((DEADLINE_MS + 200) * MS);
    if moves || workload.is_merged() {
        // What nobody acknowledged is owed to nobody who owns its key only since then.
        for round in 0..2 * nodes.len() {
            world.step(nodes[round % nodes.len()], Input::Repair { partition: None });
            world.advance(500 * MS);
        }
    }
    if workload.is_merged() {
        world.site.last_looks_us = world.site.now_us;
        for (key, node) in keys.iter().flat_map(|key| nodes.iter().map(move |node| (key, *node))) {
            if world.violation.is_none() {
                world.ask(node, (Request::new(workload.look(key.clone())), Vec::new()));
            }
        }
        world.advance((DEADLINE_MS + 200) * MS);
    }
}

/// How long the last seal may take, milliseconds, from the second epoch after it.
const SEALS_MS_MAX: u64 = 30_000;

/// What is there is sealed, and purged, within a bounded time once two more epochs have begun.
fn sealing(world: &mut World) {
    let goal = world.site.log.state.epoch;
    while world.site.log.state.epoch.0 < goal.0 + 2 && world.violation.is_none() {
        world.advance(100 * MS);
    }
    world.site.seal_goal = Some(goal);
    // Where nodes are slow to try anything again, so is this.
    let seals_ms_max = SEALS_MS_MAX.max(50 * world.site.plan.limits.move_retry_ms);
    let until = world.site.now_us + seals_ms_max * MS;
    while world.site.unsealed().is_some() && world.violation.is_none() && world.site.now_us < until {
        world.advance(100 * MS);
    }
}

/// Looks for the smallest run that fails: fewer nodes, fewer classes of faults, fewer operations.
#[must_use]
pub fn shrink(plan: &Plan, begin: &Cuts) -> Cuts {
    let mut best = begin.clone();
    let mut left = SHRINK_RUNS_MAX;
    let mut fails = |cuts: &Cuts| {
        left = left.saturating_sub(1);
        left > 0 && run(&plan.clone().cut(cuts), Keep::Nothing).violation.is_some()
    };
    loop {
        let before = best.clone();
        for candidate in smaller(&plan.clone().cut(&best), &best) {
            if fails(&candidate) {
                best = candidate;
                break;
            }
        }
        if best == before {
            return best;
        }
    }
}

/// Cuts that leave a little less of this plan.
fn smaller(plan: &Plan, cuts: &Cuts) -> Vec<Cuts> {
    let mut all = Vec::new();
    let without = |faults: FaultSet| Cuts { without: faults, ..cuts.clone() };
    if plan.faults != FaultSet::default() {
        all.push(without(Fault::ALL.iter().fold(cuts.without, |set, fault| set.with(*fault))));
    }
    all.extend(plan.faults.iter().map(|fault| without(cuts.without.with(fault))));
    for part in [2, 4] {
        let operations = plan.operations - plan.operations.div_ceil(part);
        if operations > 0 && operations < plan.operations {
            all.push(Cuts { operations: Some(operations), ..cuts.clone() });
        }
    }
    if plan.nodes > u64::from(plan.quorums.0).max(3) {
        all.push(Cuts { nodes: Some(plan.nodes - 1), ..cuts.clone() });
    }
    all
}
