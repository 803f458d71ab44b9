//! Clients that ask one thing after the other, each write with a value of its own, and remember what they heard.

use super::check::{Act, Event};
use super::cluster::MS;
use super::dice::Dice;
use crate::cluster::State;
use crate::event::{Answer, Item, OpError, Operation, Reply, Request, Ticket};
use crate::id::{Key, NodeId};
use crate::testing::{key, owners, request};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

const CLIENTS: usize = 4;
const KEYS: [&str; 3] = ["a", "b", "c"];
/// Every deadline is one of these, milliseconds.
const DEADLINES_MS: [u64; 3] = [40, 150, 300];

/// One request that waits for its reply.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `None`: asked by hand.
    pub(super) client: Option<usize>,
    pub(super) request: Request,
    node: NodeId,
    sent: u64,
    /// What it did to which key, as positions in the history.
    events: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Clients {
    /// Clients know the ring.
    state: Arc<State>,
    /// What each client shall ask once more, because the outcome was unknown.
    again: Vec<Option<Asked>>,
    open: BTreeMap<Ticket, Asked>,
    by_hand: BTreeMap<Ticket, Reply>,
    history: Vec<Event>,
    serial: u64,
    stopped: bool,
}

impl Clients {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self {
            state,
            again: vec![None; CLIENTS],
            open: BTreeMap::new(),
            by_hand: BTreeMap::new(),
            history: Vec::new(),
            serial: 0,
            stopped: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        CLIENTS
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// What this client asks next, and whom.
    pub(super) fn next(
        &mut self,
        client: usize,
        dice: &mut Dice,
        alive: &[NodeId],
        now_us: u64,
    ) -> Option<(NodeId, Ticket, Request)> {
        if self.stopped || alive.is_empty() {
            return None;
        }
        // A retry goes to the node that knows the request id, or nowhere.
        let again = self.again[client].take().filter(|asked| alive.contains(&asked.node));
        let asked = again.unwrap_or_else(|| {
            let node = alive[dice.below(alive.len() as u64) as usize];
            let request = self.invent(dice);
            let events = self.remember(&request, now_us);
            Asked { client: Some(client), request, node, sent: now_us, events }
        });
        let ticket = self.ticket();
        let (node, request) = (asked.node, asked.request.clone());
        self.open.insert(ticket, Asked { sent: now_us, ..asked });
        Some((node, ticket, request))
    }

    fn ticket(&mut self) -> Ticket {
        self.serial += 1;
        Ticket(self.serial)
    }

    fn value(&mut self) -> Bytes {
        self.serial += 1;
        Bytes::copy_from_slice(&self.serial.to_be_bytes())
    }

    fn invent(&mut self, dice: &mut Dice) -> Request {
        let any = key(KEYS[dice.below(KEYS.len() as u64) as usize]);
        let operation = match dice.below(100) {
            0..40 => Operation::Get { key: any },
            40..85 => Operation::Put { key: any, value: self.value() },
            85..92 => Operation::Delete { key: any },
            _ => {
                let items = KEYS.iter().map(|name| {
                    let value = (!dice.chance(20)).then(|| self.value());
                    Item { key: key(name), value }
                });
                Operation::Batch { items: items.collect() }
            }
        };
        let deadline_ms = Some(DEADLINES_MS[dice.below(DEADLINES_MS.len() as u64) as usize]);
        let request_id = (!matches!(operation, Operation::Get { .. })).then(|| u128::from(self.serial) << 32);
        Request { deadline_ms, request_id, ..request(operation) }
    }

    /// Opens the events of a request.
    fn remember(&mut self, request: &Request, began: u64) -> Vec<usize> {
        let first = self.history.len();
        let events = parts(request).into_iter().map(|(key, act)| Event { key, act, began, ended: None });
        self.history.extend(events);
        (first..self.history.len()).collect()
    }

    /// Takes in a reply: it must be the only one, and in time.
    pub(super) fn replied(&mut self, ticket: Ticket, now_us: u64, reply: &Reply, dice: &mut Dice) -> Asked {
        let asked = self.open.remove(&ticket).expect("a request is answered once");
        if let Some(deadline_ms) = asked.request.deadline_ms {
            let late_us = now_us.saturating_sub(asked.sent + deadline_ms * MS);
            assert_eq!(late_us, 0, "late: {reply:?} to {:?}", asked.request);
        }
        let mut all_good = true;
        for (at, reply) in asked.events.iter().zip(replies(&asked.request, reply)) {
            let event = &mut self.history[*at];
            match reply {
                Ok(Answer::Found { versions }) => {
                    assert!(versions.len() <= 1, "a working resolver leaves one version");
                    let value = versions.first().and_then(|v| v.value.clone());
                    event.act = Act::Read(value.map(|v| number(&v)));
                    event.ended = Some(now_us);
                }
                Ok(_) => event.ended = Some(now_us),
                Err(_) => all_good = false,
            }
        }
        let retry = !all_good && self.may_retry(&asked) && !self.stopped && dice.chance(60);
        if let Some(client) = asked.client.filter(|_| retry) {
            self.again[client] = Some(asked.clone());
        }
        if asked.client.is_none() {
            self.by_hand.insert(ticket, reply.clone());
        }
        asked
    }

    /// A request id is known to the owner that coordinates. A client that asked another node can't be sure that its
    /// retry meets the same owner, and what was acknowledged in a batch would be written again by a restarted one.
    fn may_retry(&self, asked: &Asked) -> bool {
        match &asked.request.operation {
            Operation::Put { key, .. } | Operation::Delete { key } => owners(&self.state, key).contains(&asked.node),
            Operation::Get { .. } | Operation::Batch { .. } => false,
        }
    }

    /// A node died: its clients hear nothing. Returns those who may go on.
    pub(super) fn lost(&mut self, node: NodeId) -> Vec<usize> {
        let lost: Vec<Ticket> = self.open.iter().filter(|(_, a)| a.node == node).map(|(t, _)| *t).collect();
        lost.iter().filter_map(|ticket| self.open.remove(ticket)?.client).collect()
    }

    /// Remembers a request that a test sends itself.
    pub(super) fn by_hand(&mut self, node: NodeId, request: Request, now_us: u64) -> Ticket {
        let ticket = self.ticket();
        let events = self.remember(&request, now_us);
        self.open.insert(ticket, Asked { client: None, request, node, sent: now_us, events });
        ticket
    }

    pub(super) fn reply_of(&self, ticket: Ticket) -> Option<&Reply> {
        self.by_hand.get(&ticket)
    }

    /// Requests that wait for a reply.
    pub(super) fn waiting(&self) -> usize {
        self.open.len()
    }

    pub(super) fn history(&self) -> &[Event] {
        &self.history
    }
}

pub(super) fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().unwrap())
}

/// What a request does to which key.
fn parts(request: &Request) -> Vec<(Key, Act)> {
    let write = |key: &Key, value: Option<&Bytes>| (key.clone(), Act::Write(value.map(|v| number(v))));
    match &request.operation {
        Operation::Get { key } => vec![(key.clone(), Act::Read(None))],
        Operation::Put { key, value } => vec![write(key, Some(value))],
        Operation::Delete { key } => vec![write(key, None)],
        Operation::Batch { items } => items.iter().map(|i| write(&i.key, i.value.as_ref())).collect(),
    }
}

/// The reply to each part of a request.
pub(super) fn replies(request: &Request, reply: &Reply) -> Vec<Reply> {
    match reply {
        Ok(Answer::Batch { replies }) => replies.clone(),
        Ok(_) => vec![reply.clone()],
        Err(error) => {
            let error: OpError = error.clone();
            parts(request).iter().map(|_| Err(error.clone())).collect()
        }
    }
}

/// The keys of a request, in order.
pub(super) fn keys(request: &Request) -> Vec<Key> {
    parts(request).into_iter().map(|(key, _)| key).collect()
}
