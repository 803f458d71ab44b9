//! The epoch log as Raft promises it: the same entries in the same order on every node, after any delay.

use crate::fault::Fault;
use crate::mutation::Mutation;
use crate::plan::{MS, Plan};
use crate::rules::{KEEP_CODE, LWW_CODE, RIVAL_CODE, UNION_CODE};
use crate::site::Phase;
use crate::types::{COUNTER_CODE, SET_CODE};
use crate::workloads::Kind;
use crate::world::{Event, World};
use mks_logic::cluster::{Addresses, Entry, Keyspace, State, Wish};
use mks_logic::event::Input;
use mks_logic::id::Incarnation;
use mks_logic::id::{KeyspaceId, NodeId};
use mks_logic::node::Node;
use mks_logic::port::{ResolverHash, Role};
use std::sync::{Arc, Mutex, PoisonError};

/// Few partitions, so that a handful of keys shares some of them.
pub const PARTITION_BITS: u8 = 4;
/// The keyspace of every run.
pub const KEYSPACE: KeyspaceId = KeyspaceId(2);

/// Its name.
const KEYSPACE_NAME: &str = "sim";

/// All entries since the cluster was formed.
#[derive(Debug, Default)]
pub struct Log {
    /// In order.
    pub entries: Vec<Entry>,
    /// What they amount to.
    pub state: Arc<State>,
    /// There is no majority before then.
    pub stalled_until: u64,
    /// The leader is about to propose what is due.
    pub leads: bool,
}

impl Log {
    /// The code of the run's keyspace.
    #[must_use]
    pub fn code(&self) -> ResolverHash {
        self.state.keyspaces.get(&KEYSPACE).map_or(ResolverHash::NOBODY, |keyspace| keyspace.resolver_hash)
    }
}

/// The entry by which a process joins or comes back.
#[must_use]
pub fn open(node: NodeId, opening: u128) -> Entry {
    let at = |port: u64| format!("node-{}.test:{port}", node.0);
    let addresses = Addresses { client: at(1), peer: at(2), http: at(3) };
    Entry::Open { node, directory: u128::from(node.0), opening, addresses, zone: String::new(), weight: 100, opened: 0 }
}

/// The entry by which the rival shadows the keyspace of the run, or does so no more.
#[must_use]
pub fn shadow(on: bool) -> Entry {
    Entry::ShadowPlugin { plugin: RIVAL_CODE, keyspace: KEYSPACE_NAME.into(), on }
}

/// Formed clusters by their number of nodes: solving a ring takes longer than many a run.
static FORMED: Mutex<[Option<State>; 8]> = Mutex::new([const { None }; 8]);

/// What the log says when a cluster of so many nodes is formed.
///
/// # Panics
/// When there can be no such cluster.
#[must_use]
pub fn form(nodes: u64) -> State {
    let mut state = State::default();
    let mut apply = |entry: &Entry| state.apply(entry).map(drop).expect("a cluster can be formed");
    let resolver = "lww".to_string();
    let expect = nodes as u32;
    apply(&Entry::Found { cluster: 1, partition_bits: PARTITION_BITS, expect, resolver, resolver_hash: LWW_CODE });
    for node in 1..=nodes {
        apply(&open(NodeId(node), u128::from(node)));
    }
    let entry = state.form_entry().expect("all have joined");
    state.apply(&entry).map(drop).expect("the ring is right");
    state
}

/// The state in which a run begins: all nodes have joined, and there is a keyspace as the plan wants it.
#[must_use]
pub fn begin(plan: &Plan) -> Arc<State> {
    let mut formed = FORMED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut state = formed[plan.nodes as usize % 8].get_or_insert_with(|| form(plan.nodes)).clone();
    drop(formed);
    let (n, r, w) = plan.quorums;
    let causal = plan.workload.is_causal();
    let (resolver, resolver_hash) = match plan.workload {
        Kind::Counts => ("counter", COUNTER_CODE),
        Kind::Additions => ("set", SET_CODE),
        Kind::Unions => ("union", UNION_CODE),
        _ if causal => ("keep-siblings", KEEP_CODE),
        _ => ("lww", LWW_CODE),
    };
    let role = match plan.workload {
        kind if kind.is_typed() => Role::DataType,
        kind if kind.is_merged() => Role::Merger,
        _ => Role::Resolver,
    };
    let (name, version, bytes) = (resolver.to_string(), "1".to_string(), 1);
    let uploaded = plan.faults.has(Fault::Quarantine);
    let resolver = if uploaded { format!("{name}@{version}") } else { name.clone() };
    if uploaded {
        for (plugin, name) in [(resolver_hash, name), (RIVAL_CODE, "rival".to_string())] {
            let (node, version) = (NodeId(1), version.clone());
            let install = Entry::InstallPlugin { plugin, node, name, version, bytes, role };
            let holds = (2..=plan.nodes).map(|node| Entry::HoldPlugin { plugin, node: NodeId(node) });
            for entry in std::iter::once(install).chain(holds) {
                state.apply(&entry).map(drop).expect("all members have the code");
            }
        }
    }
    let keyspace = Keyspace {
        name: KEYSPACE_NAME.into(),
        n,
        r,
        w,
        durability: plan.durability,
        ttl_ms: 0,
        resolver,
        resolver_hash,
        causal,
        quarantined: false,
        role,
    };
    state.apply(&Entry::CreateKeyspace { keyspace }).map(drop).expect("the keyspace fits the ring");
    // Not every keyspace takes one.
    let _ = state.apply(&shadow(true));
    Arc::new(state)
}

/// Which step of which change it is.
fn step(state: &State) -> (u64, bool, bool) {
    let closing = state.change.as_ref().is_some_and(|change| change.closing.is_some());
    (state.changes, state.change.is_some(), closing)
}

impl World {
    pub(crate) fn propose(&mut self, entry: Entry) {
        let delay = self.node_dice.between(100, self.site.plan.lag_us);
        self.schedule(delay, Event::Propose(Box::new(entry)));
    }

    /// A change has come to its next step, or a partition to its own: in many runs some nodes, owners and coordinators
    /// alike, hear of it late.
    fn deafen(&mut self) {
        if self.site.phase != Phase::Safety {
            return;
        }
        let (machines, lasting) = (self.site.plan.machines(), self.site.plan.lasting_us);
        let dice = &mut self.fault_dice[Fault::Members as usize];
        if !dice.chance(60) {
            return;
        }
        let (lasts, who) = (dice.between(lasting / 4, 2 * lasting), dice.draw());
        let until = self.site.now_us + lasts;
        for id in (1..=machines).filter(|id| who >> id & 1 == 1).map(NodeId) {
            let machine = self.machine(id);
            machine.deaf_until = machine.deaf_until.max(until);
        }
    }

    /// The leader does what is due, a while after it has become so.
    fn lead(&mut self) {
        let state = &self.site.log.state;
        if !self.site.log.leads && state.has_due() {
            self.site.log.leads = true;
            let delay = self.node_dice.between(100, self.site.plan.lag_us);
            self.schedule(delay, Event::Lead);
        }
    }

    pub(crate) fn led(&mut self) {
        self.site.log.leads = false;
        if let Some(entry) = self.site.log.state.due() {
            self.propose(entry);
        }
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        if matches!(entry, Entry::QuarantinePlugin { .. }) && self.site.phase != Phase::Safety {
            return;
        }
        let wait = self.site.log.stalled_until.saturating_sub(self.site.now_us);
        if wait > 0 {
            self.schedule(wait, Event::Propose(Box::new(entry)));
            return;
        }
        // A process that waited for a majority in vain, and died, does not ask any more.
        if let (true, Entry::Open { node, opening, .. }) = (self.site.log.stalled_until > 0, &entry)
            && self.machine(*node).opening != *opening
        {
            return;
        }
        self.note(|| format!("LOG {entry:?}"));
        let was = step(&self.site.log.state);
        let accepted = Arc::make_mut(&mut self.site.log.state).apply(&entry).is_ok();
        let now = self.site.log.state.copies(KEYSPACE).into_iter().flat_map(|(now, next)| [now.w, next.w]);
        self.site.w_least = now.chain([self.site.w_least]).min().unwrap_or_default();
        let wish = if let Entry::Change { wish, .. } = &entry { Some(wish) } else { None };
        if let Some(Wish::Leave { node, dead: true } | Wish::Replace { gone: node, .. }) = wish {
            self.site.buried &= accepted;
            // Some are declared dead that are not.
            if accepted && self.site.plan.away_us == 0 && self.node_dice.chance(70) {
                self.retire(*node);
            }
        }
        self.site.log.entries.push(entry);
        self.lead();
        let holds = matches!(self.site.log.entries.last(), Some(Entry::Hold { .. }));
        if was != step(&self.site.log.state) || accepted && holds {
            self.deafen();
        }
        let upto = self.site.log.entries.len();
        for node in (1..=self.site.plan.machines()).map(NodeId) {
            let behind_us = self.site.plan.behind_us;
            let behind =
                if node == NodeId(1) && behind_us > 0 { self.node_dice.between(behind_us / 2, behind_us) } else { 0 };
            let delay = self.node_dice.between(100, self.site.plan.lag_us) + behind;
            self.schedule(delay, Event::Deliver { node, upto });
        }
    }

    /// A node hears of the epoch log up to some entry.
    pub(crate) fn deliver(&mut self, id: NodeId, upto: usize) {
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
            let fsyncs = machine.disk.fsyncs();
            machine.unsynced.retain(|(then, ..)| *then == fsyncs);
            machine.unsynced.push((fsyncs, Arc::clone(&machine.state), machine.applied));
            if !gap {
                // A refused entry changes nothing, on every node.
                let _ = Arc::make_mut(&mut machine.state).apply(&entry);
            }
            machine.applied = at + 1;
            self.learn(id);
        }
    }

    pub(crate) fn learn(&mut self, id: NodeId) {
        self.check(|invariant, site| invariant.learned(site, id));
        let machine = self.site.machine(id);
        let mut state = Arc::clone(&machine.state);
        self.copy_at_once(&mut state);
        if self.site.plan.mutation == Some(Mutation::SameIncarnation)
            && state.members.get(&id).is_some_and(|m| m.opening == machine.opening)
            && let Some(member) = Arc::make_mut(&mut state).members.get_mut(&id)
        {
            member.incarnation = Incarnation(1);
        }
        machine.sums.learn(self.site.copies_known(&state));
        self.step(id, Input::Cluster(state));
        self.purge_early(id);
        self.rid_early(id);
        let machine = self.site.machine(id);
        let fenced = machine.node.as_ref().is_some_and(Node::is_fenced) && machine.state.members.contains_key(&id);
        if fenced {
            // The word of a process before it came late. It ends, and is started again.
            self.crash(id, false, 20 * MS);
        }
        if self.machine(id).state.removed.contains_key(&id) {
            self.retire(id);
        }
    }
}
