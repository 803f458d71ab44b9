//! One node, fed by hand.

use crate::cluster::State;
use crate::event::{Effect, Input, JobId, Reply, Request, SealJob, SealOutcome, SealWork, Ticket};
use crate::id::{Key, NodeId};
use crate::limits::Limits;
use crate::member::GossipSettings;
use crate::message::{Message, ReadOutcome, Tag, WriteOutcome};
use crate::node::{Node, NodeOptions};
use crate::testing::Rules;
use crate::time::{Hlc, Now};
use crate::version::Version;
use std::sync::Arc;

/// Unix time when a test begins, milliseconds.
pub(super) const BIRTH_MS: u64 = 1_800_000_000_000;

/// A stamp `ms` after the birth.
pub(super) fn stamp(ms: u64) -> Hlc {
    Hlc::from_ms(BIRTH_MS + ms)
}

pub(super) struct Solo {
    pub(super) node: Node,
    pub(super) now: Now,
    pub(super) rules: Rules,
}

impl Solo {
    /// Opening `me` of node `me`, which knows nothing yet.
    pub(super) fn new(me: u64, limits: Limits) -> Self {
        let (opening, gossip) = (u128::from(me), GossipSettings::default());
        let node = Node::new(NodeOptions { me: NodeId(me), opening, limits, gossip, seed: 1 });
        Self { node, now: Now { mono_us: 0, wall_ms: BIRTH_MS }, rules: Rules::Work }
    }

    /// A member of a formed cluster, with streams to all others, whose clocks agree with its own.
    pub(super) fn member(me: u64, state: &State) -> Self {
        Self::bounded(me, state, Limits::default())
    }

    /// The same with bounds of its own.
    pub(super) fn bounded(me: u64, state: &State, limits: Limits) -> Self {
        let mut solo = Self::new(me, limits);
        solo.learn(state);
        for peer in state.members.keys().copied().filter(|id| id.0 != me) {
            solo.link(peer, true);
            solo.feed(Input::Clock { from: peer, clock: stamp(0) });
        }
        solo
    }

    /// Takes one input. Gossip among the effects is left out: it has tests of its own.
    pub(super) fn feed(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.node.step(self.now, input, &self.rules, &mut out);
        // A disk that was never purged says so at once.
        let marks = |effect: &Effect| match effect {
            Effect::Seal(SealJob { job, work: SealWork::Marks }) => Some(*job),
            _ => None,
        };
        for job in out.iter().filter_map(marks).collect::<Vec<_>>() {
            let outcome = SealOutcome::Marks(Vec::new());
            self.node.step(self.now, Input::Sealed { job, outcome }, &self.rules, &mut out);
        }
        out.retain(|effect| !matches!(effect, Effect::Datagram { .. } | Effect::Seal(_)));
        out
    }

    pub(super) fn learn(&mut self, state: &State) -> Vec<Effect> {
        self.feed(Input::Cluster(Arc::new(state.clone())))
    }

    pub(super) fn ask(&mut self, request: Request) -> Vec<Effect> {
        self.feed(Input::Client { ticket: Ticket(1), request })
    }

    /// Asks something that is answered at once.
    pub(super) fn refusal(&mut self, request: Request) -> Reply {
        let out = self.ask(request);
        assert_eq!(out.len(), 1, "{out:?}");
        reply(&out).expect("an answer at once")
    }

    pub(super) fn hear(&mut self, from: NodeId, message: Message) -> Vec<Effect> {
        let clock = Hlc::from_ms(self.now.wall_ms);
        self.feed(Input::Peer { from, clock, message })
    }

    pub(super) fn written(&mut self, from: NodeId, tag: Tag, outcome: WriteOutcome) -> Vec<Effect> {
        self.hear(from, Message::Written { tag, outcome })
    }

    pub(super) fn found(&mut self, from: NodeId, tag: Tag, outcome: ReadOutcome) -> Vec<Effect> {
        self.hear(from, Message::Found { tag, outcome })
    }

    pub(super) fn link(&mut self, peer: NodeId, up: bool) -> Vec<Effect> {
        self.feed(Input::Link { peer, up })
    }

    /// Lets time pass.
    pub(super) fn after(&mut self, ms: u64) -> Vec<Effect> {
        self.now.mono_us += ms * 1_000;
        self.now.wall_ms += ms;
        self.feed(Input::Tick)
    }

    /// Our own disk did what a write asked it.
    pub(super) fn held_here(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let job = own_write(effects).0;
        self.feed(Input::Written { job, outcome: WriteOutcome::Held })
    }

    /// Nothing is left of any operation.
    pub(super) fn is_idle(&self) -> bool {
        let node = &self.node;
        let empty = node.operations() == 0 && node.deadlines.len() == node.lingering && node.awaiting_epoch.is_empty();
        empty && node.early.is_empty() && node.ops_bytes == 0
    }

    /// Not even late owners are waited for.
    pub(super) fn is_still(&self) -> bool {
        let node = &self.node;
        self.is_idle() && node.ops.is_empty() && node.lingering_bytes == 0 && node.repairs.len() == 0
    }
}

/// The reply to the client, if there is one.
pub(super) fn reply(effects: &[Effect]) -> Option<Reply> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply, .. } => Some(reply.clone()),
        _ => None,
    })
}

/// What goes to peers.
pub(super) fn sends(effects: &[Effect]) -> Vec<(NodeId, Message)> {
    let send = |effect: &Effect| match effect {
        Effect::Send { to, message } => Some((*to, message.clone())),
        _ => None,
    };
    effects.iter().filter_map(send).collect()
}

/// The write job for our own disk, and its version.
pub(super) fn own_write(effects: &[Effect]) -> (JobId, Version) {
    let job = effects.iter().find_map(|effect| match effect {
        Effect::Write(job) => Some((job.job, job.version.clone())),
        _ => None,
    });
    job.expect("a write job")
}

/// The read job for our own disk.
pub(super) fn own_read(effects: &[Effect]) -> JobId {
    let job = effects.iter().find_map(|effect| match effect {
        Effect::Read(job) => Some(job.job),
        _ => None,
    });
    job.expect("a read job")
}

/// The tag of the first question among the effects.
pub(super) fn tag(effects: &[Effect]) -> Tag {
    let tag = sends(effects).into_iter().find_map(|(_, message)| match message {
        Message::Write { tag, .. } | Message::Read { tag, .. } | Message::Forward { tag, .. } => Some(tag),
        _ => None,
    });
    tag.expect("a question to a peer")
}

/// A write as a peer sends it.
pub(super) fn write_of(key: &Key, version: Version, fresh: bool) -> Message {
    let (past, durability) = (crate::context::Context::default(), crate::port::Durability::Sync);
    Message::Write { tag: Tag(77), key: key.clone(), version, past, fresh, durability }
}
