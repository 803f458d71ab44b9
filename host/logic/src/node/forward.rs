//! Requests that are handed to an owner, because this node is none.

use super::check::request_bytes;
use super::{Kind, Node, Op, Step, Waiter};
use crate::id::{Incarnation, NodeId};
use crate::message::{Message, Tag};
use crate::request::{OpError, Operation, Reply, Request};
use crate::time::MonoUs;
use alloc::collections::BTreeSet;

/// Most owners that one read is handed to, one after the other, when links break.
const FORWARD_ATTEMPTS_MAX: usize = 3;

impl Node {
    /// Hands a request to an owner, the likeliest to answer first.
    pub(super) fn forward(
        &mut self,
        step: &mut Step<'_>,
        waiter: Waiter,
        deadline: MonoUs,
        request: Request,
        mut tried: BTreeSet<NodeId>,
    ) -> Result<(), OpError> {
        let Some(key) = request.operation.key() else { return Ok(()) };
        self.keyspace(key.keyspace)?;
        let owners = self.state.tables(key.place(self.state.partition_bits).partition, key.keyspace).read;
        // Spread over the owners; but a request that has an id goes where it went before, and where it is known.
        let turn = request.request_id.unwrap_or(u128::from(self.serial)) % owners.len().max(1) as u128;
        let turn = turn as usize;
        let (before, after) = owners.split_at(turn);
        let fit = |o: &&NodeId| self.is_linked(**o) && !tried.contains(o);
        let to = after.iter().chain(before).filter(fit).max_by_key(|o| self.is_alive(**o)).copied();
        let typed = matches!(request.operation, Operation::Apply { .. });
        let id = request.request_id.filter(|_| typed);
        let before = id.and_then(|id| self.handed.to(id));
        let (to, incarnation, again) = match (before, to) {
            (Some((node, incarnation)), _) if self.is_linked(node) => (node, incarnation, true),
            (Some(_), _) => return Err(self.forward_unknown(&request)),
            (None, to) => {
                let to = to.ok_or(OpError::NoOwner)?;
                let incarnation = self.state.members.get(&to).filter(|_| id.is_some()).map(|member| member.incarnation);
                (to, incarnation.unwrap_or(Incarnation(0)), false)
            }
        };
        id.into_iter().for_each(|id| self.handed.hand(id, (to, incarnation)));
        tried.insert(to);
        self.figures.forwards += 1;
        let tag = self.tag();
        let remaining_ms = (deadline.saturating_sub(step.now.mono_us) / 1_000).max(1);
        let message = Message::Forward { tag, request: request.clone(), remaining_ms, incarnation };
        let bytes = request_bytes(&request);
        self.insert(tag, Op { waiter, deadline, bytes, kind: Kind::Forward { to, request, tried, again } });
        self.send(step, to, message);
        Ok(())
    }

    pub(super) fn forwarded(&mut self, step: &mut Step<'_>, tag: Tag, from: NodeId, reply: Reply) {
        let Some(Op { kind: Kind::Forward { to, again, request, .. }, .. }) = self.ops.get(&tag) else { return };
        let unknown = again.then(|| self.forward_unknown(request));
        match reply {
            _ if *to != from => {}
            // This time nothing was written.
            Err(OpError::NotNamed { .. } | OpError::NoOwner) if unknown.is_some() => {
                self.finish(step, tag, unknown.map_or(Err(OpError::NoOwner), Err));
            }
            // Nothing was written, and another owner may do better.
            Err(error @ (OpError::NotNamed { .. } | OpError::NoOwner)) => {
                request.request_id.into_iter().for_each(|id| self.handed.forget(id));
                self.forward_on(step, tag, true, error);
            }
            reply => self.finish(step, tag, reply),
        }
    }

    pub(super) fn forward_lost(&mut self, step: &mut Step<'_>, tag: Tag) {
        let Some(Op { kind: Kind::Forward { request, .. }, .. }) = self.ops.get(&tag) else { return };
        let (reads, unknown) = (request.operation.reads(), self.forward_unknown(request));
        self.forward_on(step, tag, reads, unknown);
    }

    /// Hands the request to the next owner, if it may be asked twice; otherwise it ends with this error.
    fn forward_on(&mut self, step: &mut Step<'_>, tag: Tag, may: bool, error: OpError) {
        let Some(Op { waiter, deadline, kind: Kind::Forward { request, tried, .. }, .. }) = self.remove(tag) else {
            return;
        };
        let again = may && tried.len() < FORWARD_ATTEMPTS_MAX;
        let outcome = if again { self.forward(step, waiter, deadline, request, tried) } else { Err(error) };
        if let Err(error) = outcome {
            self.reply(step, waiter, Err(error));
        }
    }

    /// What to say when the node that coordinated for us does not answer.
    pub(super) fn forward_unknown(&self, request: &Request) -> OpError {
        let Some(key) = request.operation.key() else { return OpError::NoOwner };
        let write = !request.operation.reads();
        let (n, r, w) = self.keyspace(key.keyspace).map_or((0, 0, 0), |k| (k.n, k.r, k.w));
        let needed = request.quorum.unwrap_or(if write { w } else { r });
        OpError::Timeout { write, acks: 0, needed, owners: n, hints: 0 }
    }
}
