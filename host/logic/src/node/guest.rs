//! Requests in which the coordinator asks the code of the keyspace: operations on data types, questions to them, and
//! reads that a resolver merges. All begin with a read of R owners.
//!
//! An operation starts from what that read showed and from what our own disk holds: the one lets it see all that was
//! acknowledged before, so that who removes something removes it wherever it came from; the other lets it build on all
//! that this node did before. It is done by whoever alone changes our records ([`crate::replica`]). What is asked for a
//! reader is asked by [`Effect::Ask`]. Nothing of it happens here: such code may take its time.
//!
//! A resolver that fails a reader decides nothing: the reader gets the siblings.

use super::check::request_bytes;
use super::{JobFor, Kind, Node, Op, Step, Waiter};
use crate::cluster::Keyspace;
use crate::context::Context;
use crate::event::{AskJob, Effect, JobId, Question, Told};
use crate::message::Tag;
use crate::port::{Merged, Policy, ResolverHash, Role, TypeError};
use crate::replica;
use crate::request::{Answer, OpError, Operation, Reply, Request};
use crate::time::MonoUs;
use crate::version::{Version, value_digest};
use alloc::vec::Vec;
use bytes::Bytes;

/// See the module's own words.
#[derive(Debug)]
pub(super) struct GuestOp {
    request: Request,
    /// What was read is with the code.
    thinks: Option<Thinks>,
}

/// What the code is asked for.
#[derive(Debug)]
enum Thinks {
    /// An answer to a question.
    View,
    /// What to show in the place of these.
    Merge { versions: Vec<Version>, context: Option<Context> },
}

impl GuestOp {
    /// True when it waits for the code, and for nothing else.
    pub(super) const fn thinks(&self) -> bool {
        self.thinks.is_some()
    }
}

impl Node {
    /// Reads the key, for what is asked about it.
    pub(super) fn start_guest(
        &mut self,
        step: &mut Step<'_>,
        waiter: Waiter,
        deadline: MonoUs,
        request: Request,
    ) -> Result<(), OpError> {
        let Some(key) = request.operation.key().cloned() else { return Ok(()) };
        let keyspace = self.keyspace(key.keyspace)?;
        quarantine(keyspace)?;
        let quorum = if request.operation.reads() { (request.quorum, request.node_confirms) } else { (None, None) };
        let merges = matches!(request.operation, Operation::Get { .. });
        let read = self.read_op(key, quorum)?.began(step.now.mono_us).telling_deletes(merges);
        let (tag, bytes) = (self.tag(), request_bytes(&request));
        let kind = Kind::Guest(GuestOp { request, thinks: None });
        self.insert(tag, Op { waiter, deadline, bytes, kind });
        self.begin_read(step, Op { waiter: Waiter::Guest(tag), deadline, bytes: 0, kind: Kind::Read(read) });
        Ok(())
    }

    /// The key is read.
    pub(super) fn guest_read(&mut self, step: &mut Step<'_>, tag: Tag, reply: Reply) {
        let Some(Op { kind: Kind::Guest(op), .. }) = self.ops.get(&tag) else { return };
        // It may have failed too often meanwhile.
        let keyspace = op.request.operation.key().map(|key| self.keyspace(key.keyspace));
        let asked = keyspace.map_or(Ok(()), |keyspace| keyspace.and_then(quarantine));
        let (versions, context) = match asked.and(reply) {
            Ok(Answer::Found { versions, context }) => (versions, context),
            Ok(_) => return,
            Err(error) => return self.finish(step, tag, Err(error)),
        };
        match &op.request.operation {
            Operation::View { question, .. } => {
                let text = question.clone();
                self.view(step, tag, versions, text);
            }
            Operation::Get { .. } => self.merge(step, tag, versions, context),
            _ => {
                let Some(Op { waiter, deadline, kind: Kind::Guest(op), .. }) = self.remove(tag) else { return };
                let (GuestOp { request, .. }, seen) = (op, (versions, context.unwrap_or_default()));
                if let Err(error) = self.start_write(step, waiter, deadline, request, Some(seen)) {
                    self.reply(step, waiter, Err(error));
                }
            }
        }
    }

    /// How the keyspace of an operation is settled now.
    fn guest_policy(&self, tag: Tag) -> Option<Policy> {
        let Some(Op { kind: Kind::Guest(op), .. }) = self.ops.get(&tag) else { return None };
        let keyspace = op.request.operation.key().and_then(|key| self.state.keyspaces.get(&key.keyspace));
        keyspace.map(|keyspace| keyspace.policy())
    }

    /// Asks the data type.
    fn view(&mut self, step: &mut Step<'_>, tag: Tag, versions: Vec<Version>, text: Bytes) {
        let states: Vec<Bytes> = versions.into_iter().filter_map(|version| version.value).collect();
        let Some(policy) = self.guest_policy(tag).filter(|_| !states.is_empty()) else {
            return self.finish(step, tag, Ok(Answer::Viewed { answer: None }));
        };
        if self.disk_is_busy() {
            let operations = self.operations() as u64;
            return self.finish(step, tag, Err(OpError::Busy { operations }));
        }
        self.think(step, tag, (policy.resolver, Question::View { states, text }), Thinks::View);
    }

    /// Asks the resolver, if there is something to merge, and somebody to ask.
    fn merge(&mut self, step: &mut Step<'_>, tag: Tag, versions: Vec<Version>, context: Option<Context>) {
        let policy = self.guest_policy(tag).filter(|policy| policy.role == Role::Merger);
        let resolver = policy.map_or(ResolverHash::NOBODY, |policy| policy.resolver);
        let has_values = versions.iter().any(|version| !version.is_tombstone());
        let asks = versions.len() > 1 && has_values && resolver != ResolverHash::NOBODY && !self.disk_is_busy();
        let Some(Op { kind: Kind::Guest(op), .. }) = self.ops.get(&tag) else { return };
        let Some(key) = op.request.operation.key().filter(|_| asks) else {
            return self.finish(step, tag, Ok(shown(versions, context)));
        };
        let question = Question::Merge(replica::siblings(key, &versions));
        self.think(step, tag, (resolver, question), Thinks::Merge { versions, context });
    }

    fn think(&mut self, step: &mut Step<'_>, tag: Tag, (code, question): (ResolverHash, Question), thinks: Thinks) {
        let Some(Op { kind: Kind::Guest(op), .. }) = self.ops.get_mut(&tag) else { return };
        let Some(key) = op.request.operation.key().cloned() else { return };
        op.thinks = Some(thinks);
        let job = self.job(JobFor::Own(tag));
        step.out.push(Effect::Ask(AskJob { job, key, code, question }));
    }

    /// It has answered.
    pub(super) fn told(&mut self, step: &mut Step<'_>, job: JobId, told: Told) {
        let Some(JobFor::Own(tag)) = self.take_job(job) else { return };
        let Some(Op { kind: Kind::Guest(op), .. }) = self.ops.get_mut(&tag) else { return };
        let reply = match (op.thinks.take(), told) {
            (Some(Thinks::View), Told::View(Ok(answer))) => Ok(Answer::Viewed { answer: Some(answer) }),
            (Some(Thinks::View), Told::View(Err(error))) => Err(OpError::Type { error }),
            (Some(Thinks::Merge { versions, context }), Told::Merge(Ok(merged))) => {
                Ok(shown(settled(versions, merged), context))
            }
            (Some(Thinks::Merge { versions, context }), _) => Ok(shown(versions, context)),
            _ => return,
        };
        self.finish(step, tag, reply);
    }

    /// It has not answered before the deadline.
    pub(super) fn thought_too_long(&mut self, step: &mut Step<'_>, tag: Tag) {
        let Some(Op { kind: Kind::Guest(op), .. }) = self.ops.get_mut(&tag) else { return };
        let reply = match op.thinks.take() {
            Some(Thinks::Merge { versions, context }) => Ok(shown(versions, context)),
            _ => Err(OpError::Type { error: TypeError::Failed("it did not answer before the deadline".into()) }),
        };
        self.finish(step, tag, reply);
    }

    /// Whether an operation came before, and this node can't say what became of it.
    pub(super) fn done_before(&self, request: &Request, is_owner: bool) -> Option<Before> {
        let id = request.request_id.filter(|_| matches!(request.operation, Operation::Apply { .. }))?;
        let handed = self.handed.to(id).map(|_| Before::Handed);
        handed.or_else(|| (!is_owner && self.memory.knows(id)).then_some(Before::Here))
    }
}

/// Refuses what a data type in quarantine would be asked.
fn quarantine(keyspace: &Keyspace) -> Result<(), OpError> {
    let asked = !keyspace.typed() || !keyspace.quarantined;
    let error = || OpError::Type { error: TypeError::Quarantined(keyspace.resolver.clone()) };
    if asked { Ok(()) } else { Err(error()) }
}

/// What a reader gets to see of these.
fn shown(versions: Vec<Version>, context: Option<Context>) -> Answer {
    Answer::Found { versions: versions.into_iter().filter(|version| !version.is_tombstone()).collect(), context }
}

/// What a resolver leaves of these. A new value is as late as the latest of them, and lives as long as all of them do.
/// An answer that makes no sense is none.
fn settled(versions: Vec<Version>, merged: Merged) -> Vec<Version> {
    match merged {
        Merged::Value(value) => {
            let latest = versions.iter().max_by_key(|version| version.stamp()).cloned();
            let ends = versions.iter().map(|version| version.expires_ms).filter(|ends| *ends > 0).min();
            let digest = value_digest(Some(&value));
            let merge = |latest| Version { value: Some(value), digest, expires_ms: ends.unwrap_or(0), ..latest };
            latest.map(merge).into_iter().collect()
        }
        Merged::Kept(rows) => {
            let kept: Option<Vec<Version>> = rows.iter().map(|row| versions.get(*row as usize).cloned()).collect();
            kept.filter(|kept| !kept.is_empty()).unwrap_or(versions)
        }
    }
}

/// Where an operation was done before.
pub(super) enum Before {
    /// By an owner that it was handed to.
    Handed,
    /// By this node when it was an owner.
    Here,
}
