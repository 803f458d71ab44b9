//! The one ordered queue of everything that is due later.
//!
//! foca must get its timers in order, also when the process was late: timers that run as tasks of their own break its
//! probe cycle under load. Each kind of timer has one slot, so the queue is bounded by the roster.

use super::codec::Identity;
use crate::id::NodeId;
use crate::time::MonoUs;
use alloc::collections::BTreeMap;
use foca::Timer;

/// What is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// foca asked for it.
    Swim(Timer<Identity>),
    /// Knock at the doors of those who seem dead.
    Announce,
}

/// One per kind of timer; at equal times the order of this list is the order of delivery, as foca wants it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Slot {
    Indirect,
    Probe,
    Suspicion(NodeId),
    SwimAnnounce,
    SwimGossip,
    Forget(NodeId),
    SwimAnnounceDown,
    Announce,
}

impl Due {
    const fn slot(&self) -> Slot {
        match self {
            Self::Announce => Slot::Announce,
            Self::Swim(timer) => match timer {
                Timer::SendIndirectProbe { .. } => Slot::Indirect,
                Timer::ProbeRandomMember(_) => Slot::Probe,
                Timer::ChangeSuspectToDown { member_id, .. } => Slot::Suspicion(member_id.node),
                Timer::PeriodicAnnounce(_) => Slot::SwimAnnounce,
                Timer::PeriodicGossip(_) => Slot::SwimGossip,
                Timer::RemoveDown(id) => Slot::Forget(id.node),
                Timer::PeriodicAnnounceDown(_) => Slot::SwimAnnounceDown,
            },
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<(MonoUs, Slot), Due>,
    at: BTreeMap<Slot, MonoUs>,
}

impl Timers {
    /// Adds `due` at the moment `at`, in place of what its slot held: foca repeats a kind only when the earlier
    /// timer has become void. The exception is the very same suspicion raised twice: there the earlier date stands,
    /// else every further failed probe would put off the verdict.
    pub(super) fn set(&mut self, at: MonoUs, due: Due) {
        let slot = due.slot();
        if let Some(&earlier) = self.at.get(&slot) {
            if self.queue.get(&(earlier, slot)) == Some(&due) && earlier <= at {
                return;
            }
            self.queue.remove(&(earlier, slot));
        }
        self.at.insert(slot, at);
        self.queue.insert((at, slot), due);
    }

    /// Takes the earliest timer that is due at `now`.
    pub(super) fn pop(&mut self, now: MonoUs) -> Option<Due> {
        let first = self.queue.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let ((_, slot), due) = first.remove_entry();
        self.at.remove(&slot);
        Some(due)
    }

    /// When the earliest timer is due.
    pub(super) fn next(&self) -> Option<MonoUs> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Drops what was due about a node that is no member any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        for slot in [Slot::Suspicion(node), Slot::Forget(node)] {
            if let Some(at) = self.at.remove(&slot) {
                self.queue.remove(&(at, slot));
            }
        }
    }

    /// How many timers wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.queue.len(), self.at.len());
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn id(node: u64) -> Identity {
        Identity::new(NodeId(node), Incarnation(1))
    }

    fn suspicion(node: u64, incarnation: u16) -> Due {
        Due::Swim(Timer::ChangeSuspectToDown { member_id: id(node), incarnation, token: 0 })
    }

    fn any_due() -> impl Strategy<Value = Due> {
        prop_oneof![
            any::<u8>().prop_map(|token| Due::Swim(Timer::ProbeRandomMember(token))),
            any::<u8>().prop_map(|token| Due::Swim(Timer::SendIndirectProbe { probed_id: id(1), token })),
            any::<u8>().prop_map(|token| Due::Swim(Timer::PeriodicGossip(token))),
            (1u64..4, 0u16..3).prop_map(|(node, incarnation)| suspicion(node, incarnation)),
            Just(Due::Announce),
        ]
    }

    proptest! {
        #[test]
        fn timers_come_in_order_and_the_queue_stays_bounded(
            set in prop::collection::vec((0u64..1_000, any_due()), 0..300)
        ) {
            let mut timers = Timers::default();
            for (at, due) in set {
                timers.set(at, due);
                prop_assert!(timers.len() <= 4 + 3, "one slot per kind and one per suspect");
            }
            let mut last = 0;
            while let Some(at) = timers.next() {
                prop_assert!(at >= last);
                prop_assert!(at == 0 || timers.pop(at - 1).is_none(), "nothing comes early");
                prop_assert!(timers.pop(at).is_some());
                last = at;
            }
            prop_assert_eq!(timers.len(), 0);
        }
    }

    #[test]
    fn at_the_same_moment_the_indirect_probe_comes_before_the_next_probe() {
        let mut timers = Timers::default();
        let probe = Due::Swim(Timer::ProbeRandomMember(0));
        let indirect = Due::Swim(Timer::SendIndirectProbe { probed_id: id(1), token: 0 });
        timers.set(5, probe.clone());
        timers.set(5, indirect.clone());
        let order: Vec<_> = core::iter::from_fn(|| timers.pop(5)).collect();
        assert_eq!(order, [indirect, probe]);
    }

    #[test]
    fn a_repeated_suspicion_is_not_put_off() {
        let mut timers = Timers::default();
        timers.set(10, suspicion(1, 0));
        timers.set(20, suspicion(1, 0));
        assert_eq!(timers.next(), Some(10));
    }

    #[test]
    fn a_new_suspicion_after_a_refutation_gets_its_full_time() {
        let mut timers = Timers::default();
        timers.set(10, suspicion(1, 0));
        timers.set(20, suspicion(1, 1));
        assert_eq!((timers.next(), timers.len()), (Some(20), 1));
    }
}
