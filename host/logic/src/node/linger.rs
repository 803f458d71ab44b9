//! What is left of an operation after its reply: the answers of late owners.
//!
//! It stays where it is, nobody waits for it, and it counts against bounds of its own. A write stays until all owners
//! answered, a read until all that were asked did, both for a short time at most.

use super::{Kind, Node, Op, Step, Waiter};
use crate::id::NodeId;
use crate::message::{ReadOutcome, Tag, WriteOutcome};
use crate::request::{OpError, Reply};

/// How an operation ended, as far as it matters afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// A good answer.
    Success,
    /// Late owners have had their time.
    Deadline,
    /// Any other error.
    Failure,
}

impl After {
    pub(super) fn of(reply: &Reply) -> Self {
        match reply {
            Ok(_) => Self::Success,
            Err(OpError::Timeout { .. }) => Self::Deadline,
            Err(_) => Self::Failure,
        }
    }
}

impl Node {
    /// The reply is out: ends the operation, or keeps it for the answers that may still come.
    pub(super) fn linger(&mut self, step: &mut Step<'_>, tag: Tag, after: After) {
        let Some(op) = self.ops.get(&tag) else { return };
        let (stays, stay_ms, bytes) = match &op.kind {
            Kind::Write { op, .. } => {
                // A link that comes up soon gets the write as well; without any, there is nothing to wait for.
                let late = |o: NodeId| o == self.me || self.is_linked(o);
                let stays = after != After::Deadline && op.holders() > 0 && op.unanswered().any(late);
                // What our own disk still names will be there, and its name must be known: for hints, and for a retry.
                let stays = stays || op.naming;
                (stays, self.limits.hint_after_ms, None)
            }
            Kind::Read(op) if after == After::Success => {
                let stays = op.unanswered().next().is_some();
                (stays, self.limits.repair_after_ms, stays.then(|| op.bytes()))
            }
            Kind::Read(_) | Kind::Batch(_) | Kind::Guest(_) | Kind::Forward { .. } => (false, 0, None),
        };
        let bytes = bytes.unwrap_or(op.bytes);
        let full = self.lingering >= self.limits.lingering_max
            || self.lingering_bytes + bytes > self.limits.lingering_bytes_max;
        // Forgotten, an operation that our own disk still does would be done again by a retry.
        let must = matches!(&op.kind, Kind::Write { op, .. } if op.naming && op.apply.is_some());
        self.repair(step, tag, after);
        if must || stays && !full {
            self.stay(tag, step.now.mono_us + stay_ms * 1_000, bytes);
        } else {
            self.lingered(step, tag, after);
        }
    }

    fn stay(&mut self, tag: Tag, until: u64, bytes: usize) {
        let Some(op) = self.ops.get_mut(&tag) else { return };
        self.deadlines.remove(&(op.deadline, tag));
        self.deadlines.insert((until, tag));
        self.awaiting_epoch.remove(&tag);
        self.ops_bytes -= op.bytes;
        self.lingering += 1;
        self.lingering_bytes += bytes;
        (op.deadline, op.bytes, op.waiter) = (until, bytes, Waiter::Nobody);
    }

    /// Nothing more is waited for. Owners that did not take a write are owed a hint.
    pub(super) fn lingered(&mut self, step: &mut Step<'_>, tag: Tag, after: After) {
        if let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag)
            && op.naming
        {
            self.remember_unknown(tag);
        }
        self.owe(step, tag, after);
        self.remove(tag);
    }

    /// A write whose outcome its client does not know: what a retry under its request id goes by.
    fn remember_unknown(&mut self, tag: Tag) {
        if let Some(Op { kind: Kind::Write { op, request: Some(request) }, .. }) = self.ops.get(&tag) {
            self.memory.end(*request, op.name(), &Err(op.timed_out()));
        }
    }

    /// A write that our own disk still names stays: the disk answers, or this process ends.
    pub(super) fn waits_for_name(&mut self, step: &Step<'_>, tag: Tag) -> bool {
        let until = step.now.mono_us + self.limits.hint_after_ms * 1_000;
        let Some(Op { kind: Kind::Write { op, .. }, deadline, .. }) = self.ops.get_mut(&tag) else { return false };
        if op.naming {
            self.deadlines.remove(&(*deadline, tag));
            self.deadlines.insert((until, tag));
            *deadline = until;
        }
        op.naming
    }

    /// An owner answered a write whose reply is out.
    pub(super) fn written_late(&mut self, step: &mut Step<'_>, tag: Tag, owner: NodeId, outcome: &WriteOutcome) {
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get_mut(&tag) else { return };
        if op.is_nameless() {
            // The client was told that nobody knows. If it has a name now, the other owners are owed it.
            op.late(owner, outcome);
            op.naming = false;
            self.remember_unknown(tag);
            self.lingered(step, tag, After::Deadline);
        } else if op.late(owner, outcome) {
            self.send_write(step, tag, Some(owner));
        } else if op.unanswered().next().is_none() {
            self.lingered(step, tag, After::Success);
        }
    }

    /// An owner answered a read whose reply is out.
    pub(super) fn found_late(&mut self, step: &mut Step<'_>, tag: Tag, owner: NodeId, outcome: ReadOutcome) {
        let Some(Op { kind: Kind::Read(op), .. }) = self.ops.get_mut(&tag) else { return };
        op.late(owner, outcome);
        let done = op.unanswered().next().is_none();
        self.repair(step, tag, After::Success);
        if done {
            self.lingered(step, tag, After::Success);
        }
    }
}
