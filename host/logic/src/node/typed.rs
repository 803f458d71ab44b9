//! What clients ask of data types: both an operation and a question begin with a read of R owners.
//!
//! An operation starts from what that read showed and from what our own disk holds: the one lets it see all that was
//! acknowledged before, so that who removes something removes it wherever it came from; the other lets it build on all
//! that this node did before. It is done by whoever alone changes our records ([`crate::replica`]), never here: a data
//! type may take its time.

use super::check::request_bytes;
use super::{JobFor, Kind, Node, Op, Step, Waiter};
use crate::event::{Effect, JobId, ViewJob};
use crate::message::Tag;
use crate::port::TypeError;
use crate::request::{Answer, OpError, Operation, Reply, Request};
use crate::time::MonoUs;
use crate::version::Version;
use alloc::vec::Vec;
use bytes::Bytes;

/// See the module's own words.
#[derive(Debug)]
pub(super) struct TypedOp {
    request: Request,
    needed: u8,
    /// What was read is with the data type.
    thinks: bool,
}

impl TypedOp {
    /// True when it waits for the data type, and for nothing else.
    pub(super) const fn thinks(&self) -> bool {
        self.thinks
    }

    /// What to say when that took too long.
    pub(super) fn timed_out() -> OpError {
        OpError::Type { error: TypeError::Failed("it did not answer before the deadline".into()) }
    }
}

impl Node {
    /// Reads the key for an operation or a question.
    pub(super) fn start_typed(
        &mut self,
        step: &mut Step<'_>,
        waiter: Waiter,
        deadline: MonoUs,
        request: Request,
        needed: u8,
    ) -> Result<(), OpError> {
        let Some(key) = request.operation.key().cloned() else { return Ok(()) };
        let keyspace = self.keyspace(key.keyspace)?;
        if keyspace.quarantined {
            let text = alloc::format!("{} is quarantined: it failed too often", keyspace.resolver);
            return Err(OpError::Type { error: TypeError::Failed(text) });
        }
        let quorum = if request.operation.reads() { (needed, request.node_confirms) } else { (keyspace.r, None) };
        let read = self.read_op(key, quorum)?.began(step.now.mono_us);
        let (tag, bytes) = (self.tag(), request_bytes(&request));
        let kind = Kind::Typed(TypedOp { request, needed, thinks: false });
        self.insert(tag, Op { waiter, deadline, bytes, kind });
        self.begin_read(step, Op { waiter: Waiter::Typed(tag), deadline, bytes: 0, kind: Kind::Read(read) });
        Ok(())
    }

    /// The key is read.
    pub(super) fn typed_read(&mut self, step: &mut Step<'_>, tag: Tag, reply: Reply) {
        let Some(Op { kind: Kind::Typed(op), .. }) = self.ops.get(&tag) else { return };
        let (versions, context) = match reply {
            Ok(Answer::Found { versions, context }) => (versions, context.unwrap_or_default()),
            Ok(_) => return,
            Err(error) => return self.finish(step, tag, Err(error)),
        };
        if let Operation::View { question, .. } = &op.request.operation {
            let question = question.clone();
            return self.think(step, tag, versions, question);
        }
        let Some(Op { waiter, deadline, kind: Kind::Typed(op), .. }) = self.remove(tag) else { return };
        let TypedOp { request, needed, .. } = op;
        if let Err(error) = self.start_write(step, waiter, deadline, request, (needed, Some((versions, context)))) {
            self.reply(step, waiter, Err(error));
        }
    }

    /// Asks the data type.
    fn think(&mut self, step: &mut Step<'_>, tag: Tag, versions: Vec<Version>, question: Bytes) {
        let Some(Op { kind: Kind::Typed(op), .. }) = self.ops.get_mut(&tag) else { return };
        op.thinks = true;
        let states: Vec<Bytes> = versions.into_iter().filter_map(|version| version.value).collect();
        let key = op.request.operation.key();
        let keyspace = key.and_then(|key| self.state.keyspaces.get(&key.keyspace));
        let Some(policy) = keyspace.map(|keyspace| keyspace.policy()).filter(|_| !states.is_empty()) else {
            return self.finish(step, tag, Ok(Answer::Viewed { answer: None }));
        };
        if self.disk_is_busy() {
            let operations = self.operations() as u64;
            return self.finish(step, tag, Err(OpError::Busy { operations }));
        }
        let job = self.job(JobFor::Own(tag));
        step.out.push(Effect::View(ViewJob { job, data_type: policy.resolver, states, question }));
    }

    /// It has answered.
    pub(super) fn viewed(&mut self, step: &mut Step<'_>, job: JobId, outcome: Result<Bytes, TypeError>) {
        let Some(JobFor::Own(tag)) = self.take_job(job) else { return };
        if let Some(Op { kind: Kind::Typed(_), .. }) = self.ops.get(&tag) {
            let reply = outcome.map(|answer| Answer::Viewed { answer: Some(answer) });
            self.finish(step, tag, reply.map_err(|error| OpError::Type { error }));
        }
    }

    /// Whether an operation came before, and this node can't say what became of it.
    pub(super) fn done_before(&self, request: &Request, is_owner: bool) -> Option<Before> {
        let id = request.request_id.filter(|_| matches!(request.operation, Operation::Apply { .. }))?;
        let handed = self.handed.to(id).map(|_| Before::Handed);
        handed.or_else(|| (!is_owner && self.memory.knows(id)).then_some(Before::Here))
    }
}

/// Where an operation was done before.
pub(super) enum Before {
    /// By an owner that it was handed to.
    Handed,
    /// By this node when it was an owner.
    Here,
}
