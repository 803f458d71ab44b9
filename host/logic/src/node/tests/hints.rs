//! Claims about writes kept for owners that did not take them.

use super::solo::{Solo, reply, sends, stamp, tag};
use crate::event::{Effect, HintWork, Input, Operation, Request};
use crate::hint;
use crate::id::{Epoch, NodeId};
use crate::limits::Limits;
use crate::message::{Message, Refused, Tag, WriteOutcome};
use crate::node::HintDropped;
use crate::port::{Change, Durability, Store, StoreError, Table};
use crate::testing::{Disk, PARTITION_BITS, formed, key};
use crate::version::Version;
use bytes::Bytes;

const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const HELD: WriteOutcome = WriteOutcome::Held;
const BUSY: WriteOutcome = WriteOutcome::Refused(Refused::Busy);

fn put(value: &str) -> Request {
    Request::new(Operation::Put { key: key("k"), value: Bytes::copy_from_slice(value.as_bytes()) })
}

/// Node 1 of three, and its disk.
struct Keeper {
    solo: Solo,
    disk: Disk,
}

impl Keeper {
    fn new(limits: Limits) -> Self {
        Self { solo: Solo::bounded(1, &formed(3, (3, 2, 2)), limits), disk: Disk::default() }
    }

    /// Does what the effects ask of the hints, and returns everything else.
    fn work(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut others = Vec::new();
        for effect in effects {
            let Effect::Hint(job) = effect else {
                others.push(effect);
                continue;
            };
            let outcome = hint::work(&self.disk, std::slice::from_ref(&job)).remove(0);
            let out = self.solo.feed(Input::Hinted { job: job.job, outcome });
            others.extend(self.work(out));
        }
        others
    }

    /// A put that this node and the second hold.
    fn put(&mut self, value: &str) -> (Tag, Vec<Effect>) {
        let out = self.solo.ask(put(value));
        self.solo.held_here(&out);
        let won = self.solo.written(N2, tag(&out), HELD);
        assert!(reply(&won).is_some());
        (tag(&out), self.work(won))
    }

    /// Puts while the third is away.
    fn owing(limits: Limits, values: &[&str]) -> Self {
        let mut keeper = Self::new(limits);
        keeper.solo.link(N3, false);
        values.iter().for_each(|value| drop(keeper.put(value)));
        keeper
    }

    fn link(&mut self, up: bool) -> Vec<(Tag, Version)> {
        let out = self.solo.link(N3, up);
        hinted(&self.work(out))
    }

    fn answer(&mut self, tag: Tag, outcome: WriteOutcome) -> Vec<(Tag, Version)> {
        let out = self.solo.written(N3, tag, outcome);
        hinted(&self.work(out))
    }

    fn after(&mut self, ms: u64) -> Vec<(Tag, Version)> {
        let out = self.solo.after(ms);
        hinted(&self.work(out))
    }

    fn owed(&self) -> u64 {
        self.solo.node.hints().map(|(owner, owed)| if owner == N3 { owed.count } else { panic!("{owner}") }).sum()
    }

    fn dropped(&self, why: HintDropped) -> u64 {
        self.solo.node.figures().hints_dropped[why as usize]
    }
}

/// Hints on their way to the third.
fn hinted(effects: &[Effect]) -> Vec<(Tag, Version)> {
    let hint = |(to, message)| match message {
        Message::Write { tag, version, fresh, durability, .. } => {
            assert_eq!((to, fresh, durability), (N3, false, Durability::Sync));
            (tag, version)
        }
        other => panic!("{other:?}"),
    };
    sends(effects).into_iter().map(hint).collect()
}

fn values(hints: &[(Tag, Version)]) -> Vec<&[u8]> {
    hints.iter().map(|(_, version)| version.value.as_deref().unwrap()).collect()
}

#[test]
fn a_usual_put_leaves_no_hint_and_nothing_behind() {
    let mut keeper = Keeper::new(Limits::default());
    let out = keeper.solo.ask(put("v"));
    let mut after = keeper.solo.held_here(&out);
    after.extend(keeper.solo.written(N2, tag(&out), HELD));
    after.extend(keeper.solo.written(N3, tag(&out), HELD));
    assert!(matches!(after[..], [Effect::Reply { .. }]), "{after:?}");
    assert!(keeper.solo.is_still() && keeper.disk.stats().batches == 0);
}

#[test]
fn an_owner_that_is_away_gets_its_writes_in_order_when_it_is_back() {
    let mut keeper = Keeper::owing(Limits::default(), &["1", "2", "3"]);
    assert_eq!((keeper.owed(), keeper.disk.hints().len(), keeper.disk.stats().fsyncs), (3, 3, 0));
    assert!(keeper.solo.is_still(), "nobody lingers for it");
    let sent = keeper.link(true);
    assert_eq!(values(&sent), [b"1", b"2", b"3"]);
    for (tag, _) in &sent {
        assert_eq!((keeper.owed(), keeper.disk.hints().len()), (3, 3), "kept until the owner said that it holds them");
        assert_eq!(keeper.answer(*tag, HELD), []);
    }
    assert!(keeper.disk.hints().is_empty() && keeper.owed() == 0);
    let figures = keeper.solo.node.figures();
    assert_eq!((figures.hints_kept, figures.hints_replayed, figures.hints_dropped), (3, 3, [0; 5]));
}

#[test]
fn a_late_owner_is_owed_a_hint_after_the_bound() {
    let mut keeper = Keeper::new(Limits::default());
    let (first, _) = keeper.put("late");
    let (second, _) = keeper.put("in time");
    assert_eq!(keeper.after(Limits::default().hint_after_ms - 1), []);
    keeper.solo.written(N3, second, HELD);
    keeper.after(1);
    assert_eq!((keeper.owed(), keeper.solo.is_still()), (1, true));
    assert_eq!(keeper.solo.written(N3, first, HELD), [], "too late: it gets it twice, which does no harm");
    assert_eq!(values(&keeper.after(Limits::default().hint_retry_ms)), [b"late"]);
}

#[test]
fn writes_that_linger_are_bounded_and_hinted_at_once_beyond() {
    let mut keeper = Keeper::new(Limits { lingering_max: 1, ..Limits::default() });
    keeper.put("lingers");
    assert_eq!(keeper.owed(), 0);
    keeper.put("does not");
    assert_eq!(keeper.owed(), 1);
}

#[test]
fn what_passes_is_hinted_and_what_does_not_is_not() {
    for (refused, owed) in [(Refused::Busy, 1), (Refused::DiskFull, 1), (Refused::Store, 1), (Refused::NotOwner, 0)] {
        let mut keeper = Keeper::new(Limits::default());
        let (tag, _) = keeper.put("v");
        keeper.answer(tag, WriteOutcome::Refused(refused));
        assert_eq!((keeper.owed(), keeper.solo.is_still()), (owed, true), "{refused}");
    }
}

#[test]
fn after_the_reply_a_later_stamp_is_no_reason_to_stay_without_the_write() {
    for refusal in [WriteOutcome::StaleStamp { latest: stamp(9) }, WriteOutcome::StaleEpoch { current: Epoch(9) }] {
        let mut keeper = Keeper::new(Limits::default());
        let (tag, _) = keeper.put("v");
        let out = keeper.solo.written(N3, tag, refusal);
        let [(N3, Message::Write { fresh: false, tag: again, .. })] = sends(&out)[..] else { panic!("{out:?}") };
        keeper.answer(again, HELD);
        assert_eq!((keeper.owed(), keeper.solo.is_still()), (0, true));
    }
}

#[test]
fn a_write_that_may_be_somewhere_is_hinted_and_one_that_is_nowhere_is_not() {
    let mut keeper = Keeper::new(Limits::default());
    let out = keeper.solo.ask(Request { quorum: Some(3), deadline_ms: Some(100), ..put("v") });
    keeper.solo.held_here(&out);
    keeper.solo.written(N2, tag(&out), HELD);
    keeper.after(100);
    assert_eq!(keeper.owed(), 1);
    let mut keeper = Keeper::new(Limits::default());
    let out = keeper.solo.ask(put("v"));
    keeper.solo.written(N2, tag(&out), BUSY);
    let out = keeper.solo.written(N3, tag(&out), BUSY);
    assert!(matches!(out[..], [Effect::Reply { .. }]), "{out:?}");
}

#[test]
fn hints_are_bounded_in_bytes_and_what_is_dropped_needs_sync() {
    let all = Keeper::owing(Limits::default(), &["1"]).solo.node.hints().next().unwrap().1.bytes;
    for limits in [
        Limits { hint_bytes_per_owner_max: 2 * all, ..Limits::default() },
        Limits { hint_bytes_max: 2 * all, ..Limits::default() },
    ] {
        let mut keeper = Keeper::owing(limits, &["1", "2", "3", "4"]);
        assert_eq!((keeper.owed(), keeper.disk.hints().len(), keeper.dropped(HintDropped::NoRoom)), (2, 2, 2));
        let needs_sync = keeper.solo.node.take_needs_sync();
        let place = (N3, key("k").place(PARTITION_BITS).partition, Epoch(1));
        assert_eq!((needs_sync.places.into_iter().collect::<Vec<_>>(), needs_sync.everything), (vec![place], false));
        assert!(keeper.solo.node.take_needs_sync().places.is_empty(), "told once");
    }
    let limits = Limits { hint_bytes_max: 0, needs_sync_max: 0, ..Limits::default() };
    assert!(Keeper::owing(limits, &["1"]).solo.node.take_needs_sync().everything);
}

#[test]
fn a_window_is_all_that_is_on_its_way_and_a_busy_owner_gets_a_pause() {
    let limits = Limits { hint_window_max: 2, ..Limits::default() };
    let mut keeper = Keeper::owing(limits, &["1", "2", "3"]);
    let sent = keeper.link(true);
    assert_eq!(values(&sent), [b"1", b"2"]);
    assert_eq!(keeper.answer(sent[0].0, BUSY), []);
    assert_eq!(keeper.answer(sent[1].0, HELD), [], "it is busy");
    let soon = Limits::default().hint_retry_ms / 8;
    assert_eq!(keeper.after(soon - 1), []);
    let sent = keeper.after(1);
    assert_eq!(values(&sent), [b"1", b"3"], "soon, as it took one: from the start, without that one");
    keeper.answer(sent[0].0, HELD);
    keeper.answer(sent[1].0, HELD);
    assert_eq!(keeper.owed(), 0);
}

#[test]
fn a_window_that_is_not_answered_goes_out_again() {
    let mut keeper = Keeper::owing(Limits::default(), &["1"]);
    let lost = keeper.link(true);
    assert_eq!(keeper.after(Limits::default().hint_retry_ms), [], "a pause follows");
    assert_eq!(values(&keeper.after(Limits::default().hint_retry_ms)), [b"1"]);
    assert_eq!(keeper.link(false), []);
    let sent = keeper.link(true);
    assert_eq!(values(&sent), [b"1"], "a new link is a new beginning");
    keeper.answer(lost[0].0, HELD);
    assert_eq!(keeper.owed(), 1, "nobody asks under that tag any more");
    keeper.answer(sent[0].0, HELD);
    assert_eq!(keeper.owed(), 0);
}

#[test]
fn what_was_owed_before_a_restart_is_still_owed() {
    let before = Keeper::owing(Limits::default(), &["1", "2"]);
    let mut keeper = Keeper { solo: Solo::new(1, Limits::default()), disk: before.disk };
    let out = keeper.solo.learn(&formed(3, (3, 2, 2)));
    keeper.work(out);
    assert_eq!(keeper.owed(), 2);
    let sent = keeper.link(true);
    assert_eq!(values(&sent), [b"1", b"2"]);
    sent.iter().for_each(|(tag, _)| drop(keeper.answer(*tag, HELD)));
    assert!(keeper.solo.node.owes_nothing() && keeper.disk.hints().is_empty());
}

#[test]
fn hints_of_a_removed_member_are_removed_and_no_more_are_kept() {
    let mut keeper = Keeper::owing(Limits::default(), &["1", "2"]);
    let mut state = formed(3, (3, 2, 2));
    state.members.remove(&N3);
    let out = keeper.solo.learn(&state);
    keeper.work(out);
    assert_eq!((keeper.owed(), keeper.disk.hints().len(), keeper.dropped(HintDropped::Removed)), (0, 0, 2));
    // A write that began when it was an owner.
    keeper.put("3");
    assert_eq!((keeper.owed(), keeper.disk.hints().len()), (0, 0));
}

#[test]
fn a_damaged_hint_is_dropped_and_the_others_arrive() {
    let mut keeper = Keeper::owing(Limits::default(), &["1", "2"]);
    let (id, value) = keeper.disk.hints().remove(0);
    let change = Change::Put { table: Table::Hints, key: id.engine_key(), value: value.slice(1..) };
    keeper.disk.apply(vec![change], Durability::Os).unwrap();
    let sent = keeper.link(true);
    assert_eq!(values(&sent), [b"2"]);
    keeper.answer(sent[0].0, HELD);
    assert_eq!((keeper.owed(), keeper.disk.hints().len(), keeper.dropped(HintDropped::Damaged)), (0, 0, 1));
    assert_eq!(keeper.solo.node.take_needs_sync().places.len(), 1);
}

#[test]
fn a_hint_that_our_disk_refuses_is_dropped() {
    let mut keeper = Keeper::new(Limits::default());
    keeper.solo.link(N3, false);
    keeper.disk.fail(Some(StoreError::Full("no room".into())));
    keeper.put("v");
    assert_eq!((keeper.owed(), keeper.dropped(HintDropped::Store)), (0, 1));
    assert_eq!(keeper.solo.node.take_needs_sync().places.len(), 1);
}

#[test]
fn a_hint_that_can_never_be_paid_is_dropped() {
    for refused in [Refused::NotOwner, Refused::Damaged] {
        let mut keeper = Keeper::owing(Limits::default(), &["1"]);
        let sent = keeper.link(true);
        keeper.answer(sent[0].0, WriteOutcome::Refused(refused));
        assert_eq!((keeper.owed(), keeper.dropped(HintDropped::Refused)), (0, 1));
        assert!(keeper.disk.hints().is_empty());
    }
}

#[test]
fn hints_are_counted_once_and_before_anything_else() {
    let mut solo = Solo::new(1, Limits::default());
    let out = solo.learn(&formed(3, (3, 2, 2)));
    assert!(matches!(&out[..], [Effect::Hint(job), Effect::Move(_)] if job.work == HintWork::Count), "{out:?}");
    assert_eq!(solo.learn(&formed(3, (3, 2, 2))), []);
}

#[test]
fn an_owner_with_little_room_gets_about_as_many_at_once_as_it_takes_and_soon_the_next() {
    let values: Vec<String> = (0..60).map(|i| i.to_string()).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let mut keeper = Keeper::owing(Limits::default(), &values);
    let (mut out, mut sizes, mut waited_ms) = (keeper.link(true), Vec::new(), 0);
    while keeper.owed() > 0 && waited_ms < 60_000 {
        sizes.push(out.len());
        for (i, (tag, _)) in std::mem::take(&mut out).into_iter().enumerate() {
            out.extend(keeper.answer(tag, if i < 4 { HELD } else { BUSY }));
        }
        if out.is_empty() {
            out = keeper.after(125);
            waited_ms += 125;
        }
    }
    assert_eq!((sizes[0], sizes[1]), (60, 8), "{sizes:?}");
    assert!(waited_ms < 3_000, "with the usual pause after each window it were 15 s: {waited_ms} ms, {sizes:?}");
}
