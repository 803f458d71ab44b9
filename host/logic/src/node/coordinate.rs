//! The side of a node that serves clients: checks a request, starts its operation, sees it through.

use super::guest::Before;
use super::linger::After;
use super::own::WriteAsked;
use super::{JobFor, Kind, Node, Op, Step, Waiter};
use crate::batch::BatchOp;
use crate::cluster::Keyspace;
use crate::context::Context;
use crate::event::{Apply, Deed, Effect};
use crate::get;
use crate::id::{Dot, Key, KeyspaceId, NodeId};
use crate::message::{Message, ReadOutcome, Refused, Tag, Want, WriteOutcome};
use crate::port::{Policy, Role};
use crate::put::{self, WriteOp};
use crate::request::{Item, OpError, Operation, Reply, Request};
use crate::retry::{Name, Seen, fingerprint, item_id};
use crate::time::{Hlc, MonoUs};
use crate::version::{Version, value_digest};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;
use bytes::Bytes;

impl Node {
    /// A client, or a node that has one, asks.
    pub(super) fn ask(&mut self, step: &mut Step<'_>, waiter: Waiter, request: Request) {
        if let Err(error) = self.check(&request).and_then(|()| self.start(step, waiter, request)) {
            self.reply(step, waiter, Err(error));
        }
    }

    pub(super) fn keyspace(&self, id: KeyspaceId) -> Result<&Keyspace, OpError> {
        self.state.keyspaces.get(&id).ok_or(OpError::UnknownKeyspace(id))
    }

    fn start(&mut self, step: &mut Step<'_>, waiter: Waiter, request: Request) -> Result<(), OpError> {
        let deadline_ms = request.deadline_ms.unwrap_or(self.limits.deadline_default_ms);
        let deadline = step.now.mono_us + deadline_ms.min(self.limits.deadline_max_ms) * 1_000;
        let reads = request.operation.reads();
        let Some(key) = request.operation.key() else {
            self.start_batch(step, waiter, deadline, request);
            return Ok(());
        };
        let keyspace = self.keyspace(key.keyspace)?;
        let (policy, id, quorum) = (keyspace.policy(), key.keyspace, request.quorum);
        let partition = key.place(self.state.partition_bits).partition;
        let handed_on = matches!(waiter, Waiter::Peer { .. });
        let is_owner = self.state.holds(self.me, partition, self.state.copies_max(id));
        match self.done_before(&request, is_owner) {
            Some(Before::Handed) if !handed_on => {
                return self.forward(step, waiter, deadline, request, BTreeSet::new());
            }
            Some(_) => return Err(self.forward_unknown(&request)),
            None => {}
        }
        // Handed on once already: the two nodes are in different steps of a change, and a third hop would not mend
        // that. In a causal keyspace an owner names each write; the node that handed it on asks another one.
        let anyway = handed_on && (reads || !policy.causal);
        // Where no owner is in reach, others may take a sloppy write; this node coordinates it.
        let without = request.sloppy && !reads && !handed_on && !policy.causal;
        let all = || self.state.tables(partition, id).all();
        if is_owner || anyway || without && !all().iter().any(|owner| self.is_there(*owner)) {
            match request.operation {
                Operation::Get { key } if policy.role != Role::Merger => {
                    self.start_read(step, waiter, deadline, key, (quorum, request.node_confirms))
                }
                Operation::Get { .. } | Operation::Apply { .. } | Operation::View { .. } => {
                    self.start_guest(step, waiter, deadline, request)
                }
                _ => self.start_write(step, waiter, deadline, request, None),
            }
        } else if handed_on {
            Err(OpError::NoOwner)
        } else {
            self.forward(step, waiter, deadline, request, BTreeSet::new())
        }
    }

    fn start_batch(&mut self, step: &mut Step<'_>, waiter: Waiter, deadline: MonoUs, request: Request) {
        let remaining_ms = (deadline - step.now.mono_us) / 1_000;
        let Operation::Batch { items } = request.operation else { return };
        let tag = self.tag();
        self.insert(tag, Op { waiter, deadline, bytes: 0, kind: Kind::Batch(BatchOp::new(items.len())) });
        for (i, Item { key, value, context }) in items.into_iter().enumerate() {
            let item = Waiter::Item { batch: tag, item: i as u32 };
            let operation = match value {
                Some(value) => Operation::Put { key, value },
                None => Operation::Delete { key },
            };
            // Each item is the same request under an id of its own, so that a batch sent again finds its items.
            let request_id = request.request_id.map(|id| item_id(id, i as u32));
            let deadline_ms = Some(remaining_ms.max(1));
            let request = Request { operation, deadline_ms, request_id, context, ..request };
            if let Err(error) = self.start(step, item, request) {
                self.reply(step, item, Err(error));
            }
        }
    }

    fn start_read(
        &mut self,
        step: &mut Step<'_>,
        waiter: Waiter,
        deadline: MonoUs,
        key: Key,
        quorum: (Option<u8>, Option<u8>),
    ) -> Result<(), OpError> {
        let op = self.read_op(key, quorum)?.began(step.now.mono_us);
        self.begin_read(step, Op { waiter, deadline, bytes: 0, kind: Kind::Read(op) });
        Ok(())
    }

    pub(super) fn begin_read(&mut self, step: &mut Step<'_>, op: Op) {
        let Kind::Read(read) = &op.kind else { return };
        let (key, asks): (Key, Vec<_>) = (read.key.clone(), read.unanswered().collect());
        let tag = self.tag();
        self.insert(tag, op);
        self.hedges.insert((step.now.mono_us + self.hedge_after_us(), tag));
        for (owner, want) in asks {
            self.read_from(step, tag, owner, key.clone(), want);
        }
    }

    /// How long a read waits before it asks everybody, microseconds: what 99 of 100 recent ones took, within bounds.
    ///
    /// Reads that asked everybody count as long as they took, so an owner that never answers in time moves the figure
    /// up to its bound, and no further.
    #[must_use]
    pub fn hedge_after_us(&self) -> u64 {
        let (least, most) = (self.limits.hedge_after_min_ms * 1_000, self.limits.hedge_after_ms * 1_000);
        self.latencies.p99_us().map_or(most, |p99| p99.max(least).min(most))
    }

    fn read_from(&mut self, step: &mut Step<'_>, tag: Tag, owner: NodeId, key: Key, want: Want) {
        // One that was declared dead may have been taken for an owner that holds everything, so that others can go on.
        let dead = !self.state.has_living(self.me);
        if owner == self.me && (dead || self.is_closed_for(&key) || self.scrub.lacks(&key)) {
            self.found(step, tag, owner, ReadOutcome::Refused(Refused::Busy));
        } else if owner == self.me {
            self.read_here(step, tag, key, want);
        } else {
            let epoch = self.state.epoch;
            self.send(step, owner, Message::Read { tag, key, epoch, want });
        }
    }

    /// Starts a write; one that operates on a data type with the versions and the context that were read for it.
    pub(super) fn start_write(
        &mut self,
        step: &mut Step<'_>,
        waiter: Waiter,
        deadline: MonoUs,
        request: Request,
        seen: Option<(Vec<Version>, Context)>,
    ) -> Result<(), OpError> {
        if self.incarnation.0 == 0 || !self.hears_clocks() {
            return Err(OpError::NotAdmitted);
        }
        if let Some(offset_ms) = self.clock_off(step.now) {
            return Err(OpError::ClockOff { offset_ms });
        }
        self.rise(step, Hlc::ZERO)?;
        let unknown = self.forward_unknown(&request);
        let (key, value, operation) = match request.operation {
            Operation::Put { key, value } => (key, Some(value), None),
            Operation::Delete { key } => (key, None, None),
            Operation::Apply { key, operation } => (key, None, Some(operation)),
            Operation::Get { .. } | Operation::View { .. } | Operation::Batch { .. } => return Ok(()),
        };
        let keyspace = self.keyspace(key.keyspace)?;
        let (policy, durability) = (keyspace.policy(), request.durability.unwrap_or(keyspace.durability));
        let ttl_ms = if value.is_some() { request.ttl_ms.unwrap_or(keyspace.ttl_ms) } else { 0 };
        let (remembered, mut past) = (request.request_id, request.context.unwrap_or_default());
        let mut apply = None;
        if let (Some(operation), Some((seen, context))) = (operation, seen) {
            (past, apply) = (context, Some(Apply { seen, deed: Deed::Operate(operation) }));
        }
        // Whatever is refused is refused before its id is remembered: nobody would ever end it.
        let seats = self.seats(&key, request.sloppy, (request.quorum, request.node_confirms))?;
        if apply.is_some() && !seats.owners.contains(&self.me) {
            // The partition went while the key was read.
            let known = remembered.is_some_and(|id| self.memory.knows(id));
            return Err(if known { unknown } else { OpError::NotNamed { refused: Refused::NotOwner.to_string() } });
        }
        let mut version = self.version(step, value, ttl_ms, policy);
        if let Some(remembered) = remembered {
            let asked = match &apply {
                Some(Apply { deed: Deed::Operate(operation), .. }) => Some(operation),
                _ => version.value.as_ref(),
            };
            match self.memory.begin(remembered, fingerprint(&key, asked)) {
                Seen::New => {}
                Seen::Again(name) if policy.typed() => {
                    if let Some(apply) = apply.as_mut().filter(|_| name.dot.counter != 0) {
                        apply.deed = Deed::Again(name.dot);
                    }
                }
                Seen::Again(Name { dot, written, epoch, expires_ms }) if self.takes(epoch) => {
                    version = Version { dot, written, epoch, expires_ms, ..version };
                }
                // It is the same write under another stamp.
                Seen::Again(name) if policy.causal => version.dot = name.dot,
                Seen::Again(_) => {}
                Seen::Done(reply) => {
                    self.reply(step, waiter, reply);
                    return Ok(());
                }
                Seen::UnderWay => return Err(OpError::UnderWay),
                Seen::Different => {
                    let text = "this request id was used for another key or value; choose a new one for each write";
                    return Err(OpError::Invalid(text.into()));
                }
            }
        }
        let value_bytes = version.value.as_ref().map_or(0, Bytes::len);
        let seen_bytes = |apply: &Apply| apply.seen.iter().filter_map(|v| v.value.as_ref()).map(Bytes::len).sum();
        let value_bytes = apply.as_ref().map_or(value_bytes, seen_bytes);
        let bytes = key.partition_key.len() + key.sort_key.len() + value_bytes + past.bytes();
        let mut op = Box::new(WriteOp::new(key, (version, past), seats, durability, policy));
        (op.sloppy, op.quorum, op.apply) = (request.sloppy, request.quorum, apply);
        let tag = self.tag();
        self.insert(tag, Op { waiter, deadline, bytes, kind: Kind::Write { op, request: remembered } });
        self.begin_write(step, tag);
        Ok(())
    }

    /// Sends a write out, or out again under a new tag.
    fn begin_write(&mut self, step: &mut Step<'_>, tag: Tag) {
        if matches!(&self.ops[&tag].kind, Kind::Write { op, .. } if op.is_sloppy()) {
            self.hedges.insert((step.now.mono_us + self.limits.stand_in_after_ms * 1_000, tag));
        }
        self.send_write(step, tag, None);
        self.call_stand_ins(step, tag);
    }

    /// A new version of this moment. In a causal keyspace its dot has no counter yet: our own disk will say.
    fn version(&mut self, step: &Step<'_>, value: Option<Bytes>, ttl_ms: u64, policy: Policy) -> Version {
        let written = self.clock.tick(step.now);
        let expires_ms = if ttl_ms == 0 { 0 } else { written.ms().saturating_add(ttl_ms) };
        let digest = value_digest(value.as_deref());
        let nameless = Dot { node: self.me, incarnation: self.incarnation, counter: 0 };
        let dot = if policy.causal { nameless } else { self.dot() };
        Version { dot, written, epoch: self.state.epoch, expires_ms, digest, value }
    }

    /// Sends a write's version to the owners that have not answered it, or to one of them. One without a name goes to
    /// our own disk, once, and nowhere else.
    pub(super) fn send_write(&mut self, step: &mut Step<'_>, tag: Tag, only: Option<NodeId>) {
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag) else { return };
        let (me, busy) = (self.me, self.is_closed_for(&op.key));
        let Some(Op { kind: Kind::Write { op, .. }, waiter, .. }) = self.ops.get_mut(&tag) else { return };
        let only = if op.is_nameless() {
            if only.is_some() {
                return;
            }
            op.naming = !busy;
            Some(me)
        } else {
            only
        };
        let (durability, policy) = (op.durability, op.policy);
        // Above everything acknowledged it is by now: an owner that holds something later merges it.
        let fresh = *waiter != Waiter::Nobody;
        let asked = || {
            let plain = WriteAsked::plain(op.key.clone(), op.version.clone(), op.past.clone(), fresh, durability);
            WriteAsked { apply: op.apply.clone(), ..plain }
        };
        let wanted = |o: &NodeId| only.is_none_or(|only| only == *o);
        let jobs: Vec<_> = op.unanswered().filter(wanted).map(|owner| (owner, asked())).collect();
        let mut refused = false;
        for (owner, asked) in jobs {
            if owner == self.me && self.is_closed_for(&asked.key) {
                refused = true;
            } else if owner == self.me {
                self.write_here(step, JobFor::Own(tag), asked, policy);
            } else {
                let WriteAsked { key, version, past, fresh, durability, .. } = asked;
                self.send(step, owner, Message::Write { tag, key, version, past, fresh, durability });
            }
        }
        // Last: it may be the end of the operation.
        if refused {
            self.written(step, tag, self.me, &WriteOutcome::Refused(Refused::Busy));
        }
    }

    /// An owner answered a write.
    pub(super) fn written(&mut self, step: &mut Step<'_>, tag: Tag, owner: NodeId, outcome: &WriteOutcome) {
        let Some(Op { kind: Kind::Write { op, .. }, waiter, .. }) = self.ops.get_mut(&tag) else {
            if !self.hint_answered(step, tag, owner, outcome) {
                self.mended(tag);
            }
            return;
        };
        if *waiter == Waiter::Nobody {
            self.written_late(step, tag, owner, outcome);
            return;
        }
        // A stamp out of the future is one owner's trouble, and none that was acknowledged as long as clocks are right:
        // this owner does not take the write. Had it been acknowledged, a whole write quorum would say so.
        let ahead_ms = |latest: Hlc| latest.ms().saturating_sub(step.now.wall_ms);
        let refused = WriteOutcome::Refused(Refused::StampFromFuture);
        let outcome = match outcome {
            WriteOutcome::StaleStamp { latest } if ahead_ms(*latest) > self.limits.clock_offset_max_ms => &refused,
            outcome => outcome,
        };
        op.naming &= owner != self.me;
        let next = op.answered(owner, outcome);
        if let WriteOutcome::Minted { .. } | WriteOutcome::Applied { .. } = outcome {
            // Now that it has a name, the other owners get it.
            self.send_write(step, tag, None);
        }
        match next {
            put::Next::Wait => self.call_stand_ins(step, tag),
            put::Next::Restamp { above } => self.restamp(step, tag, above),
            put::Next::AwaitEpoch { epoch } if epoch > self.state.epoch => {
                self.awaiting_epoch.insert(tag);
            }
            put::Next::AwaitEpoch { .. } => self.restamp(step, tag, Hlc::ZERO),
            // The table changed while it was asked.
            put::Next::Done(_) if self.is_outdated(tag) => self.restamp(step, tag, Hlc::ZERO),
            put::Next::Done(reply) => self.finish(step, tag, reply),
        }
    }

    /// Writes again, above `above` and in the current epoch, under a new tag, so that answers to the one before are not
    /// taken for answers to this one. The version has a new dot, which supersedes the first one's by its stamp. Not so
    /// in a causal keyspace, where somebody may have seen the first one and written over it: the dot stays, so that it
    /// is past under any stamp.
    pub(super) fn restamp(&mut self, step: &mut Step<'_>, tag: Tag, above: Hlc) {
        if let Err(off) = self.rise(step, above) {
            self.finish(step, tag, Err(off));
            return;
        }
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag) else { return };
        let seats = match self.seats(&op.key, op.sloppy, (op.quorum, Some(op.zones_min()))) {
            // Nobody but an owner names it, and nothing was written.
            Ok(seats) if op.is_nameless() && !seats.owners.contains(&self.me) && op.is_again() => Err(op.timed_out()),
            Ok(seats) if op.is_nameless() && !seats.owners.contains(&self.me) => {
                Err(OpError::NotNamed { refused: Refused::NotOwner.to_string() })
            }
            seats => seats,
        };
        let seats = match seats {
            Ok(seats) => seats,
            Err(error) => return self.finish(step, tag, Err(error)),
        };
        let Some(mut taken) = self.remove(tag) else { return };
        let Kind::Write { op, .. } = &mut taken.kind else { return };
        let lifetime_ms = match op.version.expires_ms {
            0 => 0,
            expires_ms => expires_ms.saturating_sub(op.version.written.ms()),
        };
        let mut version = self.version(step, op.version.value.clone(), lifetime_ms, op.policy);
        if op.policy.causal {
            version.dot = op.version.dot;
        }
        op.again(version, seats);
        self.figures.restamps += 1;
        let tag = self.tag();
        self.insert(tag, taken);
        self.begin_write(step, tag);
    }

    /// An owner answered a read.
    pub(super) fn found(&mut self, step: &mut Step<'_>, tag: Tag, owner: NodeId, outcome: ReadOutcome) {
        let Some(Op { kind: Kind::Read(op), waiter, .. }) = self.ops.get_mut(&tag) else { return };
        if *waiter == Waiter::Nobody {
            self.found_late(step, tag, owner, outcome);
            return;
        }
        if let ReadOutcome::StaleEpoch { current } = outcome {
            // Others may still make the quorum, in the epoch that they and we are in.
            if current > self.state.epoch {
                self.awaiting_epoch.insert(tag);
            } else {
                self.reread(step, tag);
            }
            return;
        }
        let next = op.answered(owner, outcome, step.resolve, step.now.wall_ms);
        self.read_on(step, tag, next);
    }

    fn read_on(&mut self, step: &mut Step<'_>, tag: Tag, next: get::Next) {
        match next {
            get::Next::Wait => {}
            // The table changed while it was asked.
            get::Next::Done(_) if self.is_outdated(tag) => self.reread(step, tag),
            get::Next::Done(reply) => {
                if let (true, Some(Op { kind: Kind::Read(op), .. })) = (reply.is_ok(), self.ops.get(&tag)) {
                    self.latencies.note(step.now.mono_us.saturating_sub(op.began_us()));
                }
                self.finish(step, tag, reply);
            }
            get::Next::Ask(asks) => {
                let Some(Op { kind: Kind::Read(op), .. }) = self.ops.get(&tag) else { return };
                let key = op.key.clone();
                for (owner, want) in asks {
                    self.figures.records_fetched += u64::from(want == Want::Record);
                    self.read_from(step, tag, owner, key.clone(), want);
                }
            }
        }
    }

    /// A link is up (again): whatever is still wanted from this peer is asked again. Writes are known by their dots, so
    /// a second copy does nothing.
    pub(super) fn resend(&mut self, step: &mut Step<'_>, peer: NodeId) {
        let tags: Vec<Tag> = self.ops.keys().copied().collect();
        for tag in tags {
            match self.ops.get(&tag).map(|op| &op.kind) {
                Some(Kind::Write { .. }) => {
                    self.send_write(step, tag, Some(peer));
                    self.ask_stand_ins_again(step, tag, peer);
                }
                Some(Kind::Read(op)) => {
                    let ask = op.unanswered().find(|(owner, _)| *owner == peer).map(|(_, want)| (op.key.clone(), want));
                    if let Some((key, want)) = ask {
                        self.read_from(step, tag, peer, key, want);
                    }
                }
                Some(Kind::Forward { .. } | Kind::Batch(_) | Kind::Guest(_)) | None => {}
            }
        }
    }

    /// The link broke: answers under way are lost. Reads and sloppy writes look elsewhere; a forwarded write may or may
    /// not have happened.
    pub(super) fn link_lost(&mut self, step: &mut Step<'_>, peer: NodeId) {
        let tags: Vec<Tag> = self.ops.keys().copied().collect();
        for tag in tags {
            match self.ops.get_mut(&tag).filter(|op| op.waiter != Waiter::Nobody).map(|op| &mut op.kind) {
                Some(Kind::Read(op)) => {
                    let next = op.lost(peer);
                    self.read_on(step, tag, next);
                }
                Some(Kind::Write { .. }) => self.call_stand_ins(step, tag),
                Some(Kind::Forward { to, .. }) if *to == peer => self.forward_lost(step, tag),
                _ => {}
            }
        }
    }

    pub(super) fn timed_out(&mut self, step: &mut Step<'_>, at: MonoUs, tag: Tag) {
        if self.ops.get(&tag).is_some_and(|op| op.waiter == Waiter::Nobody) {
            if !self.waits_for_name(step, tag) {
                self.lingered(step, tag, After::Success);
            }
            return;
        }
        let error = match self.ops.get(&tag).map(|op| &op.kind) {
            Some(Kind::Write { op, .. }) => op.timed_out(),
            Some(Kind::Read(op)) => op.timed_out(),
            Some(Kind::Forward { request, .. }) => self.forward_unknown(request),
            Some(Kind::Guest(op)) if op.thinks() => return self.thought_too_long(step, tag),
            // Its items, or its read, have the same deadline and end it; nothing is left to do here.
            Some(Kind::Batch(_) | Kind::Guest(_)) | None => {
                self.deadlines.remove(&(at, tag));
                return;
            }
        };
        self.finish(step, tag, Err(error));
    }

    /// Reads whose answers are late ask everybody; sloppy writes take whoever is late for absent.
    pub(super) fn hedge(&mut self, step: &mut Step<'_>) {
        while let Some((at, tag)) = self.hedges.first().copied().filter(|(at, _)| *at <= step.now.mono_us) {
            self.hedges.remove(&(at, tag));
            let waited_for = self.ops.get_mut(&tag).filter(|op| op.waiter != Waiter::Nobody);
            match waited_for.map(|op| &mut op.kind) {
                Some(Kind::Read(op)) => {
                    let next = op.hedge();
                    self.figures.hedges += 1;
                    self.read_on(step, tag, next);
                }
                Some(Kind::Write { op, .. }) => {
                    op.is_late();
                    self.call_stand_ins(step, tag);
                }
                _ => {}
            }
        }
    }

    pub(super) fn insert(&mut self, tag: Tag, op: Op) {
        self.deadlines.insert((op.deadline, tag));
        self.ops_bytes += op.bytes;
        self.ops.insert(tag, op);
    }

    pub(super) fn remove(&mut self, tag: Tag) -> Option<Op> {
        let op = self.ops.remove(&tag)?;
        self.deadlines.remove(&(op.deadline, tag));
        if op.waiter == Waiter::Nobody {
            self.lingering -= 1;
            self.lingering_bytes -= op.bytes;
        } else {
            self.ops_bytes -= op.bytes;
        }
        self.awaiting_epoch.remove(&tag);
        Some(op)
    }

    pub(super) fn finish(&mut self, step: &mut Step<'_>, tag: Tag, reply: Reply) {
        let Some(op) = self.ops.get(&tag) else { return };
        if let Kind::Write { op: write, request: Some(request) } = &op.kind
            && !write.naming
        {
            self.memory.end(*request, write.name(), &reply);
        }
        let after = After::of(&reply);
        self.reply(step, op.waiter, reply);
        self.linger(step, tag, after);
    }

    pub(super) fn reply(&mut self, step: &mut Step<'_>, waiter: Waiter, reply: Reply) {
        match waiter {
            Waiter::Client(ticket) => step.out.push(Effect::Reply { ticket, reply }),
            Waiter::Peer { node, tag } => self.send(step, node, Message::Forwarded { tag, reply }),
            Waiter::Item { batch, item } => {
                let Some(Op { kind: Kind::Batch(op), .. }) = self.ops.get_mut(&batch) else { return };
                if let Some(reply) = op.replied(item, reply) {
                    self.finish(step, batch, reply);
                }
            }
            Waiter::Guest(tag) => self.guest_read(step, tag, reply),
            Waiter::Nobody => {}
        }
    }
}
