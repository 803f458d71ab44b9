//! Clients that ask one thing after the other and remember what they heard.

use crate::dice::Dice;
use crate::fault::Fault;
use crate::history::{Act, History, Saw};
use crate::machine::Machine;
use crate::mutation::Mutation;
use crate::plan::{Plan, part};
use crate::site::{Phase, Site};
use crate::workloads::{Invented, Kind, Known, Work};
use mks_logic::context::{Context, Span};
use mks_logic::event::Ticket;
use mks_logic::id::{Key, NodeId};
use mks_logic::port::Durability;
use mks_logic::request::{Answer, Operation, Reply, Request};
use std::collections::BTreeMap;

/// Deadlines that clients choose, milliseconds; `None` leaves it to the node.
const DEADLINES_MS: [Option<u64>; 4] = [Some(40), Some(150), Some(400), None];
/// The same where epochs are short: what is not over keeps them open.
const DEADLINES_SHORT_MS: [Option<u64>; 4] = [Some(20), Some(40), Some(40), Some(100)];

/// One request that waits for its reply.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `None`: asked by the run itself.
    pub client: Option<usize>,
    /// What.
    pub request: Request,
    /// Whom, and which of its processes.
    pub node: NodeId,
    /// See [`Asked::node`].
    pub opening: u128,
    /// When this attempt was sent, true time and that node's monotonic clock, microseconds.
    pub sent_us: u64,
    /// See [`Asked::sent_us`].
    pub sent_mono_us: u64,
    /// What it does to which key, as positions in the history.
    pub events: Vec<usize>,
    /// That node is the one that coordinates it, as far as it knows.
    pub coordinates: bool,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Clients {
    dice: Dice,
    /// Says which writes are sloppy.
    sloppy: Dice,
    /// What each client shall ask once more, because the outcome was unknown.
    again: Vec<Option<Asked>>,
    /// What each client knows of each key; the last one is the run itself.
    known: Vec<BTreeMap<usize, Known>>,
    open: BTreeMap<Ticket, Asked>,
    tickets: u64,
    serial: u64,
    /// Requests asked so far.
    pub asked: u64,
}

impl Clients {
    /// Clients of this run.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let dice = Dice::new(plan.seed, part::CLIENTS);
        let (again, known) = (vec![None; plan.clients], vec![BTreeMap::new(); plan.clients + 1]);
        let sloppy = Dice::new(plan.seed, part::SLOPPY + 1);
        Self { dice, sloppy, again, known, open: BTreeMap::new(), tickets: 0, serial: 0, asked: 0 }
    }

    /// How long a client waits before it asks again, microseconds.
    pub fn pause(&mut self, plan: &Plan) -> u64 {
        // Now and then until what was deleted may be purged.
        let rests = plan.workload == Kind::Graves && self.dice.chance(10);
        self.dice.between(100, if rests { 12 * plan.epoch_us } else { plan.think_us })
    }

    /// All clocks went on by so much, and nothing else.
    pub(crate) fn leaped(&mut self, by_us: u64) {
        self.open.values_mut().for_each(|asked| asked.sent_mono_us += by_us);
    }

    /// What this client asks next, and whom. `None`: nobody is there, or enough was asked.
    pub fn next(&mut self, client: usize, site: &mut Site) -> Option<(NodeId, Ticket, Request)> {
        let alive: Vec<NodeId> = site.machines.iter().filter(|m| m.node.is_some()).map(|m| m.id).collect();
        if site.phase != Phase::Safety || alive.is_empty() || self.asked >= site.plan.operations {
            return None;
        }
        self.asked += 1;
        // A retry goes to the node that knows the request id, or nowhere. Where writes are siblings, it goes to the
        // process that knows it: another one would write it once more.
        let knows = |asked: &Asked| {
            let same = site.machines[asked.node.0 as usize - 1].opening == asked.opening;
            let owns = coordinates(&asked.request, &site.machines[asked.node.0 as usize - 1]);
            alive.contains(&asked.node) && owns && (same || !site.plan.workload.is_causal())
        };
        if let Some(again) = self.again[client].take().filter(knows) {
            let node = again.node;
            let (sent_us, sent_mono_us) = sent(&site.machines[node.0 as usize - 1], site.now_us);
            let request = again.request.clone();
            let ticket = self.put(Asked { sent_us, sent_mono_us, ..again });
            return Some((node, ticket, request));
        }
        let node = self.dice.pick(&alive);
        let known = &self.known[client];
        let once = site.plan.once;
        let mut work = Work { dice: &mut self.dice, keys: &site.keys, serial: &mut self.serial, known, once };
        let Invented { operation, context, saw } = site.plan.workload.invent(&mut work);
        let (writes, hasty) = (!operation.reads(), site.plan.workload == Kind::Graves);
        // Node 1 may be an epoch behind.
        let node = if once && matches!(operation, Operation::Delete { .. }) { NodeId(1) } else { node };
        let request = Request {
            operation,
            quorum: self.quorum(&site.plan, writes),
            durability: (writes && self.dice.chance(site.plan.weak_percent)).then_some(Durability::Os),
            deadline_ms: self.dice.pick(if hasty { &DEADLINES_SHORT_MS } else { &DEADLINES_MS }),
            ttl_ms: None,
            request_id: writes.then(|| u128::from(self.dice.draw())),
            context: context.map(|context| carried(context, &site.plan)),
            sloppy: writes && self.sloppy.chance(site.plan.sloppy_percent),
            node_confirms: None,
        };
        let ticket = self.ask(Some(client), node, (request.clone(), saw), site);
        Some((node, ticket, request))
    }

    /// More than the keyspace asks for is always allowed.
    fn quorum(&mut self, plan: &Plan, writes: bool) -> Option<u8> {
        let (n, r, w) = plan.quorums;
        let least = if writes { w } else { r };
        let asked = self.dice.chance(10).then(|| self.dice.between(u64::from(least), u64::from(n) + 1) as u8);
        match plan.mutation {
            Some(Mutation::ReadQuorumShort) if !writes => Some(asked.unwrap_or(least).max(2) - 1),
            Some(Mutation::WriteQuorumShort) if writes => Some(asked.unwrap_or(least).max(2) - 1),
            // What is more than enough now may be too few, or more than there are, in a moment.
            _ if plan.faults.has(Fault::Copies) => None,
            _ => asked,
        }
    }

    /// Remembers a request that is about to be sent, and which values the writer of each part has seen.
    pub fn ask(
        &mut self,
        client: Option<usize>,
        node: NodeId,
        (request, saw): (Request, Vec<Saw>),
        site: &mut Site,
    ) -> Ticket {
        let parts = parts(&request);
        let at = |key: &Key| site.keys.iter().position(|known| known == key).unwrap_or_default();
        let parts: Vec<_> = parts.into_iter().map(|(key, act)| (at(key), act)).collect();
        let saw = saw.into_iter().chain(std::iter::repeat_with(Saw::new));
        let begin = |((key, act), saw)| site.history.begin(key, act, site.now_us, saw);
        let events = parts.into_iter().zip(saw).map(begin).collect();
        let machine = &site.machines[node.0 as usize - 1];
        let (opening, (sent_us, sent_mono_us)) = (machine.opening, sent(machine, site.now_us));
        let coordinates = coordinates(&request, machine);
        self.put(Asked { client, request, node, opening, sent_us, sent_mono_us, events, coordinates })
    }

    /// What the run itself knows of a key.
    #[must_use]
    pub fn known(&self, at: usize) -> Known {
        self.known.last().and_then(|known| known.get(&at)).cloned().unwrap_or_default()
    }

    /// A client hears what it has seen, or wrote.
    fn learn(&mut self, client: usize, event: &crate::history::Event, reply: &Reply, kind: Kind) {
        let known = match (&event.act, reply) {
            (Act::Read(shown), Ok(Answer::Found { context: Some(context), .. })) => {
                Known { context: Some(context.clone()), saw: shown.iter().filter_map(|value| *value).collect() }
            }
            // Elements to remove.
            (Act::Read(shown), Ok(Answer::Viewed { .. })) => {
                Known { context: None, saw: shown.iter().filter_map(|value| *value).collect() }
            }
            (Act::Write(Some(value)), Ok(Answer::Applied { .. })) => {
                let mut known = self.known[client].get(&event.key).cloned().unwrap_or_default();
                known.saw.insert(*value);
                known
            }
            (Act::Write(value), Ok(Answer::Written { context: Some(context), .. })) if kind == Kind::Sets => {
                let saw = event.saw.iter().copied().chain(*value).collect();
                Known { context: Some(context.clone()), saw }
            }
            _ => return,
        };
        self.known[client].insert(event.key, known);
    }

    fn put(&mut self, asked: Asked) -> Ticket {
        self.tickets += 1;
        self.open.insert(Ticket(self.tickets), asked);
        Ticket(self.tickets)
    }

    /// A value for a write of the run itself.
    pub fn value(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Takes in a reply. `None`: nobody waits for it.
    pub fn replied(&mut self, ticket: Ticket, reply: &Reply, site: &mut Site) -> Option<Asked> {
        let asked = self.open.remove(&ticket)?;
        let mut all_good = true;
        for (at, reply) in asked.events.iter().zip(replies(&asked.request, reply)) {
            all_good &= reply.is_ok();
            heard(&mut site.history, *at, &reply, site.now_us, counts(&asked.request, &site.plan));
            let client = asked.client.unwrap_or(self.known.len() - 1);
            self.learn(client, &site.history.events[*at], &reply, site.plan.workload);
        }
        let retry = !all_good && asked.coordinates && self.dice.chance(60);
        if let Some(client) = asked.client.filter(|_| retry) {
            self.again[client] = Some(asked.clone());
        }
        Some(asked)
    }

    /// A node died: its clients hear nothing. Returns those who may go on.
    pub fn lost(&mut self, node: NodeId) -> Vec<usize> {
        let lost: Vec<Ticket> = self.open.iter().filter(|(_, a)| a.node == node).map(|(t, _)| *t).collect();
        lost.iter().filter_map(|ticket| self.open.remove(ticket)?.client).collect()
    }

    /// True when this one was not answered.
    #[must_use]
    pub fn waits(&self, ticket: Ticket) -> bool {
        self.open.contains_key(&ticket)
    }

    /// Requests that wait for a reply.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.open.len()
    }
}

/// The context as the client sends it.
fn carried(context: Context, plan: &Plan) -> Context {
    if plan.mutation != Some(Mutation::PlainMaximum) {
        return context;
    }
    context.spans().iter().map(|span| Span { first: 1, ..*span }).collect()
}

fn sent(machine: &Machine, now_us: u64) -> (u64, u64) {
    (now_us, machine.now(now_us).mono_us)
}

/// Whether an ack of this request promises that the write stays, whatever the run does.
fn counts(request: &Request, plan: &Plan) -> bool {
    !plan.loses_power() || request.durability != Some(Durability::Os)
}

fn heard(history: &mut History, at: usize, reply: &Reply, now_us: u64, counts: bool) {
    let event = &mut history.events[at];
    match reply {
        Ok(Answer::Found { versions, .. }) => {
            let seen = versions.iter().filter_map(|v| v.value.as_ref()).flat_map(|value| numbers(value));
            event.act = Act::Read(if versions.is_empty() { vec![None] } else { seen.map(Some).collect() });
            event.ended = Some(now_us);
        }
        // Until its hints are delivered a quorum read may miss it, and its stamp may be below or above others'.
        Ok(Answer::Written { hints: 1.., .. } | Answer::Applied { hints: 1.., .. }) => {}
        Ok(Answer::Viewed { answer }) => {
            event.act = Act::Read(numbers(answer.as_deref().unwrap_or_default()).map(Some).collect());
            event.ended = Some(now_us);
        }
        Ok(_) if counts => event.ended = Some(now_us),
        Ok(_) | Err(_) => {}
    }
}

/// A request id is known to the owner that coordinates. A client that asked another node can't be sure that its retry
/// meets the same owner, and what was acknowledged in a batch would be written again by a restarted one.
fn coordinates(request: &Request, machine: &Machine) -> bool {
    let state = &machine.state;
    match &request.operation {
        Operation::Put { key, .. } | Operation::Delete { key } => {
            state.holds(machine.id, key.place(state.partition_bits).partition, state.copies_max(key.keyspace))
        }
        // Whoever is no owner hands it to the one that knows it.
        Operation::Apply { .. } => true,
        Operation::Get { .. } | Operation::View { .. } | Operation::Batch { .. } => false,
    }
}

/// The number in a value; zero, which nobody writes, where there is none.
#[must_use]
pub fn number(value: &[u8]) -> u64 {
    value.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// The numbers in a value that was made of several.
pub fn numbers(value: &[u8]) -> impl Iterator<Item = u64> + '_ {
    value.chunks(8).map(number)
}

/// What an operation on a data type adds; `None`: it removes.
fn added(operation: &[u8]) -> Option<u64> {
    match operation.split_first() {
        Some((b'-', rest)) if rest.len() == 8 => None,
        Some((b'+', rest)) if rest.len() == 8 => Some(number(rest)),
        _ => Some(number(operation)),
    }
}

/// What a request does to which key.
#[must_use]
pub fn parts(request: &Request) -> Vec<(&Key, Act)> {
    match &request.operation {
        Operation::Get { key } | Operation::View { key, .. } => vec![(key, Act::Read(Vec::new()))],
        Operation::Apply { key, operation } => vec![(key, Act::Write(added(operation)))],
        Operation::Put { key, value } => vec![(key, Act::Write(Some(number(value))))],
        Operation::Delete { key } => vec![(key, Act::Write(None))],
        Operation::Batch { items } => {
            items.iter().map(|i| (&i.key, Act::Write(i.value.as_ref().map(|v| number(v))))).collect()
        }
    }
}

/// The reply to each part of a request.
#[must_use]
pub fn replies(request: &Request, reply: &Reply) -> Vec<Reply> {
    match reply {
        Ok(Answer::Batch { replies }) => replies.clone(),
        Ok(_) => vec![reply.clone()],
        Err(error) => parts(request).iter().map(|_| Err(error.clone())).collect(),
    }
}
