//! Who seems alive: SWIM (Das et al. 2002, with suspicion and refutation) by foca, fenced in by the epoch log.
//!
//! The epoch log says who is a *member*, this module only who *answers*. foca believes whatever it is told, so all of
//! its input passes a gate here: the seal names the sender, the roster must hold that sender at exactly that
//! incarnation, the whole datagram must make sense, and what it says about anybody else is passed on only for
//! members at their present incarnation. What is believed moves routing and hints, never ownership.

use crate::cluster;
use crate::id::{Incarnation, NodeId};
use crate::time::{MonoUs, Now};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;
use codec::{Datagram, Identity, RENEWALS_MAX, Wire};
use core::fmt;
use core::num::{NonZeroU8, NonZeroUsize};
use core::time::Duration;
use foca::{Foca, Message, NoCustomBroadcast, Notification, PeriodicParams, Timer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use timers::{Due, Timers};

mod codec;
mod timers;

#[cfg(test)]
mod tests;

/// Longest datagram before it is sealed, bytes: with the seal it fits an Ethernet frame without fragments.
pub const DATAGRAM_BYTES_MAX: usize = 1_300;

/// Members that seem dead and are knocked at in one round; the next round goes on with the others.
const ANNOUNCES_MAX: usize = 16;

/// How fast failures are noticed. The defaults suit one data centre: a dead node is known within about two seconds,
/// and a node that hangs for less than a second is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GossipSettings {
    /// How often one other member is probed, milliseconds.
    pub probe_period_ms: u64,
    /// How long to wait for the answer before others are asked to probe too, milliseconds. Less than the period.
    pub probe_timeout_ms: u64,
    /// How long a suspect has to say that it is alive, milliseconds. Not less than the period.
    pub suspicion_ms: u64,
    /// How often news are passed on beside the probes, milliseconds.
    pub gossip_period_ms: u64,
    /// How often members that seem dead are knocked at, milliseconds.
    pub announce_period_ms: u64,
    /// Members that are asked to probe for us, and that one round of news goes to.
    pub fanout: u8,
}

impl Default for GossipSettings {
    fn default() -> Self {
        Self {
            probe_period_ms: 300,
            probe_timeout_ms: 120,
            suspicion_ms: 900,
            gossip_period_ms: 100,
            announce_period_ms: 1_000,
            fanout: 3,
        }
    }
}

impl GossipSettings {
    /// The nearest settings that can work. The config refuses the others; here a zero would be an endless loop.
    fn possible(&self) -> Self {
        let probe_period_ms = self.probe_period_ms.max(2);
        Self {
            probe_period_ms,
            probe_timeout_ms: self.probe_timeout_ms.clamp(1, probe_period_ms - 1),
            suspicion_ms: self.suspicion_ms.max(1),
            gossip_period_ms: self.gossip_period_ms.max(1),
            announce_period_ms: self.announce_period_ms.max(1),
            fanout: self.fanout.max(1),
        }
    }

    fn foca(&self) -> foca::Config {
        let fanout = NonZeroUsize::new(usize::from(self.fanout)).unwrap_or(NonZeroUsize::MIN);
        let gossip = PeriodicParams { frequency: Duration::from_millis(self.gossip_period_ms), num_members: fanout };
        foca::Config {
            probe_period: Duration::from_millis(self.probe_period_ms),
            probe_rtt: Duration::from_millis(self.probe_timeout_ms),
            num_indirect_probes: fanout,
            max_transmissions: const { NonZeroU8::new(10).expect("10 is not 0") },
            suspect_to_down_after: Duration::from_millis(self.suspicion_ms),
            // The roster says whom to forget: see `Membership::roster`.
            remove_down_after: None,
            max_packet_size: const { NonZeroUsize::new(DATAGRAM_BYTES_MAX).expect("the limit is not 0") },
            notify_down_members: true,
            // Announcing is done here, because foca stops it when nobody seems alive, just when it is needed.
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(gossip),
        }
    }
}

/// Why a datagram was dropped. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum Dropped {
    /// The sender is not in the roster, or the datagram asks us to probe somebody who is not.
    #[error("it is from or about a node that is not a member")]
    Stranger,
    /// The sender's data directory was opened again since.
    #[error("its sender's incarnation is over")]
    Stale,
    /// The sender has an incarnation that our copy of the epoch log does not know yet.
    #[error("its sender's incarnation is not in our epoch log yet")]
    Ahead,
    /// It is for another node or for an earlier incarnation of this one: a replay, or a mistake of routing.
    #[error("it is not for this incarnation of this node")]
    Misdirected,
    /// The sender that it names is not the one that sealed it.
    #[error("it names another sender than its seal")]
    Mismatch,
    /// It is no datagram, or one that makes no sense.
    #[error("it can't be read")]
    Malformed,
}

impl Dropped {
    /// All reasons, for those who count them.
    pub const ALL: [Self; 6] =
        [Self::Stranger, Self::Stale, Self::Ahead, Self::Misdirected, Self::Mismatch, Self::Malformed];

    /// A short stable name, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Misdirected => "misdirected",
            Self::Mismatch => "mismatch",
            Self::Malformed => "malformed",
        }
    }
}

type Swim = Foca<Identity, Wire, ChaCha8Rng, NoCustomBroadcast>;

/// Datagrams to send: to whom, and the bytes to seal.
pub type Datagrams = Vec<(NodeId, Bytes)>;

/// Who seems alive. One per incarnation of the node: a new incarnation needs a new one.
pub struct Membership {
    me: NodeId,
    incarnation: Incarnation,
    swim: Swim,
    timers: Timers,
    /// Admitted members, ourselves included while we are one.
    roster: BTreeMap<NodeId, Incarnation>,
    /// Other members that seem alive.
    alive: BTreeSet<NodeId>,
    /// What `alive` was when [`Membership::take_changes`] was last called.
    reported: BTreeSet<NodeId>,
    /// Where the next round of announces begins.
    announced: NodeId,
    announce_us: u64,
    /// Being later than this for a timer means that this process did not run.
    pause_us: u64,
    /// How long this process did not run, all in all: time that is not held against the others.
    slept_us: u64,
    scratch: Vec<u8>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("identity", self.swim.identity())
            .field("roster", &self.roster)
            .field("alive", &self.alive)
            .finish_non_exhaustive()
    }
}

impl Membership {
    /// Nobody is known before the first [`Membership::roster`]. `incarnation` is the one that the epoch log granted to
    /// this opening; equal seeds and inputs give equal outputs.
    #[must_use]
    pub fn new(me: NodeId, incarnation: Incarnation, seed: u64, settings: &GossipSettings) -> Self {
        let (rng, settings) = (ChaCha8Rng::seed_from_u64(seed), settings.possible());
        Self {
            me,
            incarnation,
            swim: Foca::new(Identity::new(me, incarnation), settings.foca(), rng, Wire),
            timers: Timers::default(),
            roster: BTreeMap::new(),
            alive: BTreeSet::new(),
            reported: BTreeSet::new(),
            announced: me,
            announce_us: settings.announce_period_ms.saturating_mul(1_000),
            pause_us: settings.probe_period_ms.saturating_mul(1_000),
            slept_us: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes the members from the epoch log; call it whenever they may have changed. Only they are spoken to and
    /// believed. A new member, or one with a new incarnation, is presumed alive, told about us, and probed: if it is
    /// not there, that is noticed as fast as any other failure. One that left the roster is forgotten.
    pub fn roster(&mut self, now: Now, members: &BTreeMap<NodeId, cluster::Member>, out: &mut Datagrams) {
        let mut roster = BTreeMap::new();
        // Who is not a member itself speaks to nobody.
        if members.contains_key(&self.me) {
            // Zero: in the roster, but never admitted.
            roster.extend(members.iter().map(|(id, m)| (*id, m.incarnation)).filter(|(_, i)| *i > Incarnation(0)));
            roster.insert(self.me, self.incarnation);
        }
        if roster == self.roster {
            return;
        }
        let before = core::mem::replace(&mut self.roster, roster);
        let now = self.awake(now);
        for id in before.keys().filter(|id| !self.roster.contains_key(id)).copied().collect::<Vec<_>>() {
            self.forget(now, id, out);
        }
        let fresh: Vec<Identity> = self
            .roster
            .iter()
            .filter(|(id, incarnation)| **id != self.me && before.get(id) != Some(incarnation))
            .map(|(id, incarnation)| Identity::new(*id, *incarnation))
            .collect();
        for id in fresh {
            let presumed = core::iter::once(foca::Member::alive(id));
            self.drive(now, out, |swim, turn| swim.apply_many(presumed, false, &mut *turn));
            self.drive(now, out, |swim, turn| swim.announce(id, &mut *turn));
        }
        self.timers.set(now.saturating_add(self.announce_us), Due::Announce);
        self.settle(now, out);
    }

    /// Takes a datagram whose seal proved that `from` sent it in `incarnation`.
    ///
    /// # Errors
    /// [`Dropped`], and nothing changed.
    pub fn datagram(
        &mut self,
        now: Now,
        from: NodeId,
        incarnation: Incarnation,
        data: &[u8],
        out: &mut Datagrams,
    ) -> Result<(), Dropped> {
        let mut datagram = self.admit(from, incarnation, data)?;
        let now = self.awake(now);
        let renewal = self.renewal_heard(&datagram);
        if renewal > self.swim.identity().renewal {
            self.renew_above(now, renewal, out);
        }
        if let Some(updates) = &mut datagram.updates {
            let (me, roster) = (*self.swim.identity(), &self.roster);
            updates.retain(|member| {
                let id = member.id();
                if id.node == me.node { *id == me } else { is_believed(roster, id) }
            });
        }
        // foca reads what was written here, not what came in: exactly what was checked is what is believed.
        let mut checked = core::mem::take(&mut self.scratch);
        let written = datagram.write(&mut checked).is_ok();
        let taken = written && self.drive(now, out, |swim, turn| swim.handle_data(&checked, &mut *turn)).is_some();
        self.scratch = checked;
        self.settle(now, out);
        if taken { Ok(()) } else { Err(Dropped::Malformed) }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now, out: &mut Datagrams) {
        let now = self.awake(now);
        // Ends: no period is zero, so every kind of timer is set again for later than `now`, and each has one slot.
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Announce => self.announce(now, out),
                Due::Swim(timer) => {
                    let done = self.drive(now, out, |swim, turn| swim.handle_timer(timer, &mut *turn));
                    debug_assert!(done.is_some(), "foca got a timer out of order");
                }
            }
        }
        self.settle(now, out);
    }

    /// When [`Membership::tick`] is due; `None` before the first roster.
    #[must_use]
    pub fn next_wake(&self) -> Option<MonoUs> {
        self.timers.next().map(|at| at.saturating_add(self.slept_us))
    }

    /// Whether `node` is a member that seems alive. A member is presumed alive until probes went unanswered, because
    /// trying a dead one costs a hint, and shunning a live one may cost the quorum. We are alive ourselves; who is not
    /// in the roster or was never admitted is not.
    #[must_use]
    pub fn is_alive(&self, node: NodeId) -> bool {
        node == self.me || self.alive.contains(&node)
    }

    /// Other members whose state differs from what the last call said, in order of their ids: `true` means alive.
    pub fn take_changes(&mut self) -> Vec<(NodeId, bool)> {
        if self.alive == self.reported {
            return Vec::new();
        }
        let changes = self.alive.symmetric_difference(&self.reported).map(|id| (*id, self.alive.contains(id)));
        let changes = changes.collect();
        self.reported.clone_from(&self.alive);
        changes
    }

    /// The gate: what passes is complete, from a member, for us, and about members.
    fn admit(&self, from: NodeId, incarnation: Incarnation, data: &[u8]) -> Result<Datagram, Dropped> {
        let known = self.roster.get(&from).filter(|_| from != self.me).ok_or(Dropped::Stranger)?;
        if incarnation != *known {
            return Err(if incarnation < *known { Dropped::Stale } else { Dropped::Ahead });
        }
        if data.len() > DATAGRAM_BYTES_MAX {
            return Err(Dropped::Malformed);
        }
        let datagram = Datagram::read(data).map_err(|_| Dropped::Malformed)?;
        let header = &datagram.header;
        if (header.src.node, header.src.incarnation) != (from, incarnation) {
            return Err(Dropped::Mismatch);
        }
        if (header.dst.node, header.dst.incarnation) != (self.me, self.incarnation) {
            return Err(Dropped::Misdirected);
        }
        if header.src.renewal > RENEWALS_MAX || header.dst.renewal > RENEWALS_MAX {
            return Err(Dropped::Malformed);
        }
        let carries_updates = !matches!(header.message, Message::Announce | Message::TurnUndead);
        if datagram.updates.is_some() && !carries_updates {
            return Err(Dropped::Malformed);
        }
        match &header.message {
            Message::PingReq { target: id, .. }
            | Message::IndirectPing { origin: id, .. }
            | Message::IndirectAck { target: id, .. }
            | Message::ForwardedAck { origin: id, .. } => {
                if id.node == self.me {
                    return Err(Dropped::Malformed);
                }
                if !is_believed(&self.roster, id) {
                    return Err(Dropped::Stranger);
                }
            }
            _ => {}
        }
        Ok(datagram)
    }

    /// The highest renewal of ourselves, in this incarnation, that a datagram speaks of.
    fn renewal_heard(&self, datagram: &Datagram) -> u32 {
        let about = datagram.updates.iter().flatten().map(foca::Member::id);
        about
            .chain(core::iter::once(&datagram.header.dst))
            .filter(|id| (id.node, id.incarnation) == (self.me, self.incarnation) && id.renewal <= RENEWALS_MAX)
            .map(|id| id.renewal)
            .max()
            .unwrap_or(0)
    }

    /// Somebody knows us by a renewal that we never had. Whatever led to that, our own word would lose against it for
    /// ever, so we go above it.
    fn renew_above(&mut self, now: MonoUs, renewal: u32, out: &mut Datagrams) {
        let heard = Identity { renewal, ..*self.swim.identity() };
        if let Some(next) = foca::Identity::renew(&heard) {
            self.drive(now, out, |swim, turn| swim.change_identity(next, &mut *turn));
        }
    }

    /// Knocks at members that seem dead, so that two sides of a healed partition find each other again.
    fn announce(&mut self, now: MonoUs, out: &mut Datagrams) {
        let after = self.roster.range((core::ops::Bound::Excluded(self.announced), core::ops::Bound::Unbounded));
        let targets: Vec<Identity> = after
            .chain(self.roster.range(..=self.announced))
            .filter(|(id, _)| **id != self.me && !self.alive.contains(id))
            .take(ANNOUNCES_MAX)
            .map(|(id, incarnation)| self.known_as(*id, *incarnation))
            .collect();
        for id in targets {
            self.announced = id.node;
            self.drive(now, out, |swim, turn| swim.announce(id, &mut *turn));
        }
        self.timers.set(now.saturating_add(self.announce_us), Due::Announce);
    }

    /// The name under which foca has a member: by hearing it, the member learns what we believe about it.
    fn known_as(&self, node: NodeId, incarnation: Incarnation) -> Identity {
        let known = self.swim.iter_membership_state().map(foca::Member::id).find(|id| id.node == node);
        known.filter(|id| id.incarnation == incarnation).copied().unwrap_or(Identity::new(node, incarnation))
    }

    fn forget(&mut self, now: MonoUs, node: NodeId, out: &mut Datagrams) {
        let known = self.swim.iter_membership_state().map(foca::Member::id).find(|id| id.node == node).copied();
        if let Some(id) = known.filter(|id| id.node != self.me) {
            let down = core::iter::once(foca::Member::down(id));
            self.drive(now, out, |swim, turn| swim.apply_many(down, false, &mut *turn));
            self.drive(now, out, |swim, turn| swim.handle_timer(Timer::RemoveDown(id), &mut *turn));
        }
        self.timers.forget(node);
        self.alive.remove(&node);
    }

    /// foca leaves itself disconnected after it took a new identity, and would probe nobody until somebody speaks to
    /// it; looking at an empty list of news makes it notice that it knows members.
    fn settle(&mut self, now: MonoUs, out: &mut Datagrams) {
        self.drive(now, out, |swim, turn| swim.apply_many(core::iter::empty(), false, &mut *turn));
    }

    /// Our time: real time without the spans in which this process did not run. After a pause the answers of the others
    /// lie unread in the socket, so to judge them by the real clock would declare all of them dead.
    fn awake(&mut self, now: Now) -> MonoUs {
        let seen = now.mono_us.saturating_sub(self.slept_us);
        match self.timers.next() {
            Some(due) if seen.saturating_sub(due) > self.pause_us => {
                self.slept_us += seen - due;
                due
            }
            _ => seen,
        }
    }

    /// Runs one call of foca and carries out what it wants. `None`: foca refused.
    fn drive(
        &mut self,
        now: MonoUs,
        out: &mut Datagrams,
        call: impl FnOnce(&mut Swim, &mut Turn<'_>) -> Result<(), foca::Error>,
    ) -> Option<()> {
        let mut turn = Turn { now, roster: &self.roster, timers: &mut self.timers, alive: &mut self.alive, out };
        call(&mut self.swim, &mut turn).ok()
    }
}

/// True for a name that an honest member may have now.
fn is_believed(roster: &BTreeMap<NodeId, Incarnation>, id: &Identity) -> bool {
    id.renewal <= RENEWALS_MAX && roster.get(&id.node) == Some(&id.incarnation)
}

/// Where foca's wishes go during one call.
struct Turn<'a> {
    now: MonoUs,
    roster: &'a BTreeMap<NodeId, Incarnation>,
    timers: &'a mut Timers,
    alive: &'a mut BTreeSet<NodeId>,
    out: &'a mut Datagrams,
}

impl foca::Runtime<Identity> for Turn<'_> {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(id) => drop(self.alive.insert(id.node)),
            Notification::MemberDown(id) => drop(self.alive.remove(&id.node)),
            // Another name of the same node; whether it is alive comes as one of the two above.
            Notification::Rename(..)
            // About ourselves: we go on under the next renewal, and on.
            | Notification::Active | Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        if is_believed(self.roster, &to) {
            self.out.push((to.node, Bytes::copy_from_slice(data)));
        }
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.timers.set(self.now.saturating_add(after_us), Due::Swim(timer));
    }
}
