//! The side of a node that holds partitions: what peers may ask of it.

use super::{JobFor, Node, Step};
use crate::context::Context;
use crate::event::{Apply, Effect, ReadJob, WriteJob};
use crate::id::{Dot, Epoch, Key, NodeId};
use crate::message::{Message, ReadOutcome, Refused, Tag, Want, WriteOutcome};
use crate::port::{Durability, Policy};
use crate::version::Version;
use alloc::vec::Vec;

impl Node {
    /// A peer asks for a write or a read of a record of ours.
    pub(super) fn asked(&mut self, step: &mut Step<'_>, from: NodeId, message: Message) {
        let epoch = match &message {
            Message::Write { version, .. } | Message::Keep { version, .. } => version.epoch,
            Message::Read { epoch, .. } => *epoch,
            _ => return,
        };
        // It knows a configuration that we are about to hear of: the message waits for it.
        if epoch > self.state.epoch {
            self.early(step, from, message);
            return;
        }
        match message {
            Message::Write { tag, key, version, past, fresh, durability } => {
                let asked = WriteAsked::plain(key, version, past, fresh, durability);
                self.write_asked(step, from, tag, asked);
            }
            Message::Read { tag, key, want, .. } => {
                let admitted = self.admit(&key);
                let outcome = match admitted {
                    _ if !self.takes(epoch) => ReadOutcome::StaleEpoch { current: self.state.epoch },
                    Ok(_) if self.scrub.lacks(&key) => ReadOutcome::Refused(Refused::Busy),
                    Ok(_) => {
                        let job = self.job(JobFor::Peer { node: from, tag });
                        step.out.push(Effect::Read(ReadJob { job, key, want }));
                        return;
                    }
                    // It was an owner when this was sent: whoever asks looks at the table again.
                    Err(Refused::NotOwner) if epoch < self.state.epoch => {
                        ReadOutcome::StaleEpoch { current: self.state.epoch }
                    }
                    Err(refused) => ReadOutcome::Refused(refused),
                };
                self.send(step, from, Message::Found { tag, outcome });
            }
            Message::Keep { .. } => self.keep_asked(step, from, message),
            _ => {}
        }
    }

    fn early(&mut self, step: &mut Step<'_>, from: NodeId, message: Message) {
        if self.early.len() < self.limits.early_messages_max {
            self.early.push_back((from, message));
            return;
        }
        match message {
            Message::Write { tag, .. } | Message::Keep { tag, .. } => {
                let outcome = WriteOutcome::Refused(Refused::Busy);
                self.send(step, from, Message::Written { tag, outcome });
            }
            Message::Read { tag, .. } => {
                let outcome = ReadOutcome::Refused(Refused::Busy);
                self.send(step, from, Message::Found { tag, outcome });
            }
            _ => {}
        }
    }

    /// Whether a client's read or write of that epoch is still taken: a coordinator may be one step behind.
    pub(super) fn takes(&self, epoch: Epoch) -> bool {
        epoch.0.saturating_add(1) >= self.state.epoch.0
    }

    fn write_asked(&mut self, step: &mut Step<'_>, from: NodeId, tag: Tag, asked: WriteAsked) {
        let ahead_ms = asked.version.written.ms().saturating_sub(step.now.wall_ms);
        let late = self.late(&asked);
        let verdict = if asked.fresh && !self.takes(asked.version.epoch) {
            Err(WriteOutcome::StaleEpoch { current: self.state.epoch })
        } else if let Some(outcome) = late {
            Err(outcome)
        } else if ahead_ms > self.limits.clock_offset_max_ms {
            Err(WriteOutcome::Refused(Refused::StampFromFuture))
        } else {
            let current = self.state.epoch;
            self.admit(&asked.key).map_err(|refused| match refused {
                // It was an owner when this was sent: whoever asks looks at the table again.
                Refused::NotOwner if asked.fresh && asked.version.epoch < current => {
                    WriteOutcome::StaleEpoch { current }
                }
                refused => WriteOutcome::Refused(refused),
            })
        };
        match verdict {
            Ok(policy) => self.write_here(step, JobFor::Peer { node: from, tag }, asked, policy),
            Err(outcome) => self.send(step, from, Message::Written { tag, outcome }),
        }
    }

    /// What is said to a peer's write that comes too late: what it belongs to is closed.
    fn late(&self, asked: &WriteAsked) -> Option<WriteOutcome> {
        // As a process that has just started it may have forgotten what is closed.
        if !self.knows_purged() || !asked.fresh && self.incarnation.0 == 0 {
            return Some(WriteOutcome::Refused(Refused::Busy));
        }
        let partition = asked.key.place(self.state.partition_bits).partition;
        let causal = self.state.keyspaces.get(&asked.key.keyspace).is_some_and(|keyspace| keyspace.causal);
        let closed = self.is_closed(partition, &asked.version, causal);
        // A fresh one is of an epoch that is taken: its stamp is too low, and it is stamped again.
        closed.then(|| match asked.fresh {
            true => WriteOutcome::StaleStamp { latest: self.stamp_floor(partition) },
            false => WriteOutcome::Refused(Refused::Closed),
        })
    }

    /// Whether a record is ours to hold, and how its versions supersede one another.
    pub(super) fn admit(&mut self, key: &Key) -> Result<Policy, Refused> {
        if key.partition_key.len().max(key.sort_key.len()) > self.limits.key_bytes_max {
            self.figures.nonsense += 1;
            return Err(Refused::Damaged);
        }
        if self.disk_is_busy() {
            return Err(Refused::Busy);
        }
        let keyspace = self.state.keyspaces.get(&key.keyspace).ok_or(Refused::UnknownKeyspace)?;
        let partition = key.place(self.state.partition_bits).partition;
        let copies = self.state.copies_max(key.keyspace);
        if !self.state.holds(self.me, partition, copies) {
            return Err(Refused::NotOwner);
        }
        if self.moves.drops(partition, copies) { Err(Refused::Busy) } else { Ok(keyspace.policy()) }
    }

    /// Whether our own disk can't take anything of this key now.
    pub(super) fn is_closed_for(&self, key: &Key) -> bool {
        let copies = self.state.copies_max(key.keyspace);
        self.disk_is_busy() || self.moves.drops(key.place(self.state.partition_bits).partition, copies)
    }

    /// Whether as many jobs wait for our disk as may, whoever they are for.
    pub(super) fn disk_is_busy(&self) -> bool {
        self.jobs.len() - self.jobs_in_background >= self.limits.disk_jobs_max
    }

    pub(super) fn write_here(&mut self, step: &mut Step<'_>, whose: JobFor, asked: WriteAsked, policy: Policy) {
        let WriteAsked { key, version, past, fresh, durability, replaces, beside, apply } = asked;
        if fresh {
            self.sync_noted(step.now.mono_us, key.place(self.state.partition_bits).partition);
        }
        // Nobody but its coordinator has a version without a name. The clock moved for this write alone.
        let mint = (fresh && version.dot.counter == 0).then(|| self.clock.latest().0);
        let job = self.job(whose);
        let job = WriteJob { job, key, version, past, mint, fresh, durability, policy, replaces, beside, apply };
        step.out.push(Effect::Write(job));
    }

    pub(super) fn read_here(&mut self, step: &mut Step<'_>, tag: Tag, key: Key, want: Want) {
        let job = self.job(JobFor::Own(tag));
        step.out.push(Effect::Read(ReadJob { job, key, want }));
    }
}

/// The body of a [`Message::Write`].
pub(super) struct WriteAsked {
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) past: Context,
    pub(super) fresh: bool,
    pub(super) durability: Durability,
    /// See [`WriteJob::replaces`]; no peer can ask for it.
    pub(super) replaces: bool,
    /// See [`WriteJob::beside`]; no peer can ask for it.
    pub(super) beside: Vec<Dot>,
    /// See [`WriteJob::apply`]; no peer can ask for it.
    pub(super) apply: Option<Apply>,
}

impl WriteAsked {
    /// What a peer can ask for.
    pub(super) fn plain(key: Key, version: Version, past: Context, fresh: bool, durability: Durability) -> Self {
        Self { key, version, past, fresh, durability, replaces: false, beside: Vec::new(), apply: None }
    }
}
