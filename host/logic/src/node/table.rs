//! Who is asked: the owners of a key as the tables have them now, which may be two while its partition moves. What is
//! under way goes on by the tables of now when they have changed, or when an owner says that it is further.

use super::{Kind, Node, Op, Step};
use crate::get::ReadOp;
use crate::id::{Key, NodeId};
use crate::message::Tag;
use crate::put::Seats;
use crate::request::OpError;
use crate::time::Hlc;
use alloc::vec::Vec;

impl Node {
    /// A read of those who are read from now.
    pub(super) fn read_op(&self, key: Key, (quorum, zones_min): (Option<u8>, Option<u8>)) -> Result<ReadOp, OpError> {
        let keyspace = self.keyspace(key.keyspace)?;
        let me = self.me;
        let tables = self.state.tables(key.place(self.state.partition_bits).partition, key.keyspace);
        let owners = tables.read;
        let needed = quorum.unwrap_or(tables.r).min(owners.len().max(1) as u8);
        // Ourselves first: the whole record from our own disk. Then whoever will answer; which of those takes turns.
        let mut others: Vec<NodeId> = owners.iter().copied().filter(|o| *o != me).collect();
        let turn = self.serial as usize % others.len().max(1);
        others.rotate_left(turn);
        others.sort_by_key(|o| (!self.is_linked(*o), !self.is_alive(*o)));
        if owners.contains(&me) {
            others.insert(0, me);
        }
        let (spread, _) = self.spread(&others, &[], zones_min)?;
        Ok(ReadOp::new(key, others, needed, keyspace.policy()).spread(spread).asked(quorum))
    }

    /// Asks again those who are read from now, under a new tag: answers to the question before no longer count.
    pub(super) fn reread(&mut self, step: &mut Step<'_>, tag: Tag) {
        let Some(Op { kind: Kind::Read(op), .. }) = self.ops.get(&tag) else { return };
        let ((quorum, zones_min), began_us, tells_deletes) = (op.wants(), op.began_us(), op.tells_deletes());
        match self.read_op(op.key.clone(), (quorum, Some(zones_min))) {
            Ok(op) => {
                let Some(Op { waiter, deadline, bytes, .. }) = self.remove(tag) else { return };
                let kind = Kind::Read(op.began(began_us).telling_deletes(tells_deletes));
                self.begin_read(step, Op { waiter, deadline, bytes, kind });
            }
            Err(error) => self.finish(step, tag, Err(error)),
        }
    }

    /// An owner has reached the epoch that these wait for, or this node has: they go on by the tables of now.
    pub(super) fn go_on(&mut self, step: &mut Step<'_>, tag: Tag) {
        match self.ops.get(&tag).map(|op| &op.kind) {
            Some(Kind::Write { .. }) => self.restamp(step, tag, Hlc::ZERO),
            Some(Kind::Read(_)) => self.reread(step, tag),
            _ => {}
        }
    }

    /// True when the owners of the key are others by now than those that were asked.
    pub(super) fn is_outdated(&self, tag: Tag) -> bool {
        let tables = |key: &Key| self.state.tables(key.place(self.state.partition_bits).partition, key.keyspace);
        match self.ops.get(&tag).map(|op| &op.kind) {
            Some(Kind::Write { op, .. }) => !op.is_for(&Seats::of(tables(&op.key), None)),
            Some(Kind::Read(op)) => !op.is_for(tables(&op.key).read),
            _ => false,
        }
    }

    /// Who shall take a write of `key` now, and who may stand in for them.
    pub(super) fn seats(
        &self,
        key: &Key,
        sloppy: bool,
        (quorum, zones_min): (Option<u8>, Option<u8>),
    ) -> Result<Seats, OpError> {
        self.keyspace(key.keyspace)?;
        let tables = self.state.tables(key.place(self.state.partition_bits).partition, key.keyspace);
        let seats = Seats::of(tables, quorum);
        let stand_ins = if sloppy { self.stand_ins(&seats.owners) } else { Vec::new() };
        let (spread, zones) = self.spread(&seats.owners, &stand_ins, zones_min)?;
        Ok(Seats { spread, stand_ins: stand_ins.into_iter().zip(zones).collect(), ..seats })
    }
}
