//! Writes of causal keyspaces, from their own disk to the other owners.

use super::solo::{Solo, own_write, reply, sends, tag};
use crate::context::Context;
use crate::event::{Effect, HintJob, HintWork, Input};
use crate::id::{Dot, Epoch, Incarnation, Key, NodeId};
use crate::message::{Message, Refused, WriteOutcome};
use crate::request::{Answer, Item, OpError, Operation, Reply, Request};
use crate::testing::{CARTS, formed, key, owners, stranger};
use crate::time::Hlc;
use bytes::Bytes;

const ME: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

fn cart() -> Key {
    Key { keyspace: CARTS, ..key("cart") }
}

fn put(value: &'static str) -> Request {
    Request::new(Operation::Put { key: cart(), value: Bytes::from(value) })
}

fn seen() -> Context {
    [7, 8].map(|counter| Dot { node: N2, incarnation: Incarnation(2), counter }).into_iter().collect()
}

/// One of three owners.
fn solo() -> Solo {
    Solo::member(1, &formed(3, (3, 2, 2)))
}

fn minted(solo: &mut Solo, effects: &[Effect], counter: u64) -> Vec<Effect> {
    let job = own_write(effects).0;
    solo.feed(Input::Written { job, outcome: WriteOutcome::Minted { counter } })
}

fn refused_here(solo: &mut Solo, effects: &[Effect], refused: Refused) -> Vec<Effect> {
    let job = own_write(effects).0;
    solo.feed(Input::Written { job, outcome: WriteOutcome::Refused(refused) })
}

/// Dots and pasts of writes that go to peers.
fn writes(effects: &[Effect]) -> Vec<(NodeId, u64, Context)> {
    let write = |(to, message)| match message {
        Message::Write { version, past, .. } => Some((to, version.dot.counter, past)),
        _ => None,
    };
    sends(effects).into_iter().filter_map(write).collect()
}

#[test]
fn nobody_hears_of_a_write_before_our_own_disk_has_named_it() {
    let mut solo = solo();
    let out = solo.ask(Request { context: Some(seen()), ..put("v") });
    assert!(sends(&out).is_empty(), "{out:?}");
    assert!(matches!(&out[0], Effect::Write(job) if job.mint.is_some() && job.past == seen()));
    let out = minted(&mut solo, &out, 40);
    assert_eq!(writes(&out), [(N2, 40, seen()), (N3, 40, seen())]);
    let out = solo.written(N3, tag(&out), WriteOutcome::Held);
    let mut knows = seen();
    knows.add(Dot { node: ME, incarnation: Incarnation(1), counter: 40 });
    let Some(Ok(Answer::Written { acks: 2, context, .. })) = reply(&out) else { panic!("{out:?}") };
    assert_eq!(context, Some(knows), "what it had seen, and itself");
}

#[test]
fn with_w_1_the_other_owners_get_it_all_the_same() {
    let mut solo = solo();
    let out = solo.ask(Request { quorum: Some(1), ..put("v") });
    let out = minted(&mut solo, &out, 40);
    assert!(matches!(reply(&out), Some(Ok(Answer::Written { acks: 1, .. }))), "{out:?}");
    assert_eq!(writes(&out).len(), 2);
}

#[test]
fn a_disk_that_can_not_name_it_leaves_nothing_and_says_so() {
    let mut solo = solo();
    for refused in [Refused::DiskFull, Refused::TooManySiblings, Refused::Store] {
        let out = solo.ask(put("v"));
        let out = refused_here(&mut solo, &out, refused);
        match (refused, reply(&out)) {
            (Refused::DiskFull, Some(Err(OpError::NotNamed { refused }))) => assert!(refused.contains("disk is full")),
            (Refused::TooManySiblings, Some(Err(OpError::TooManySiblings { max: 64, acks: 0, .. }))) => {}
            // Perhaps it is there after all: nobody else may try.
            (Refused::Store, Some(Err(OpError::QuorumLost { acks: 0, .. }))) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(out.len(), 1, "no message, no hint: {out:?}");
        assert!(solo.is_still());
    }
}

#[test]
fn a_stranger_asks_the_next_owner_when_one_can_not_name_it() {
    let state = formed(5, (3, 2, 2));
    let mut solo = Solo::member(stranger(&state, &cart()).0, &state);
    let mut out = solo.ask(put("v"));
    let mut asked = Vec::new();
    for _ in 0..3 {
        let (to, message) = sends(&out).remove(0);
        assert!(matches!(message, Message::Forward { .. }), "{message:?}");
        asked.push(to);
        let reply: Reply = Err(OpError::NotNamed { refused: "its disk is full".into() });
        out = solo.hear(to, Message::Forwarded { tag: tag(&out), reply });
    }
    asked.sort_unstable();
    let mut all = owners(&state, &cart());
    all.sort_unstable();
    assert_eq!(asked, all);
    assert!(matches!(reply(&out), Some(Err(OpError::NotNamed { .. }))), "{out:?}");
    assert!(solo.is_still());
}

#[test]
fn a_write_that_is_stamped_anew_keeps_its_dot() {
    let mut solo = solo();
    let out = solo.ask(put("v"));
    let out = minted(&mut solo, &out, 40);
    let latest = Hlc(super::solo::stamp(50).0 + 1);
    let out = solo.written(N2, tag(&out), WriteOutcome::StaleStamp { latest });
    assert_eq!(writes(&out).iter().map(|(to, counter, _)| (*to, *counter)).collect::<Vec<_>>(), [(N2, 40), (N3, 40)]);
    let again = own_write(&out).1;
    assert!(again.dot.counter == 40 && again.written > latest);
    solo.written(N2, tag(&out), WriteOutcome::Held);
    let out = solo.written(N3, tag(&out), WriteOutcome::Held);
    assert!(matches!(reply(&out), Some(Ok(Answer::Written { acks: 2, .. }))));
}

#[test]
fn a_stamp_that_our_own_disk_finds_too_old_is_none_that_anybody_saw() {
    let mut solo = solo();
    let out = solo.ask(put("v"));
    let job = own_write(&out).0;
    let latest = super::solo::stamp(70);
    let out = solo.feed(Input::Written { job, outcome: WriteOutcome::StaleStamp { latest } });
    let (_, again) = own_write(&out);
    assert!(sends(&out).is_empty() && again.dot.counter == 0 && again.written > latest);
}

#[test]
fn another_epoch_between_the_name_and_the_sending_changes_the_stamp_alone() {
    let mut solo = solo();
    let out = solo.ask(put("v"));
    let out = minted(&mut solo, &out, 40);
    let later = crate::cluster::State { epoch: Epoch(3), ..formed(3, (3, 2, 2)) };
    solo.written(N2, tag(&out), WriteOutcome::StaleEpoch { current: Epoch(3) });
    let out = solo.learn(&later);
    let (_, again) = own_write(&out);
    assert_eq!((again.dot.counter, again.epoch), (40, Epoch(3)));
}

#[test]
fn a_disk_that_names_it_after_the_deadline_owes_it_to_the_others() {
    let mut solo = solo();
    let asked = Request { request_id: Some(9), deadline_ms: Some(100), ..put("v") };
    let sent = solo.ask(asked.clone());
    let out = solo.after(101);
    assert!(matches!(reply(&out), Some(Err(OpError::Timeout { acks: 0, .. }))), "{out:?}");
    solo.after(2_000);
    assert!(solo.is_idle() && !solo.is_still(), "it waits for the name");
    assert_eq!(solo.refusal(asked.clone()), Err(OpError::UnderWay));
    let out = minted(&mut solo, &sent, 40);
    let kept = |effect: &Effect| {
        let Effect::Hint(HintJob { work: HintWork::Keep(hint, _), .. }) = effect else { return false };
        hint.id.dot.counter == 40
    };
    assert_eq!(out.iter().filter(|effect| kept(effect)).count(), 2, "{out:?}");
    assert!(solo.is_still());
    // And a retry is the same write.
    let out = solo.ask(asked);
    assert_eq!(writes(&out).iter().map(|(_, counter, _)| *counter).collect::<Vec<_>>(), [40, 40]);
    assert_eq!(own_write(&out).1.dot.counter, 40);
}

#[test]
fn a_delete_must_say_what_it_has_seen() {
    let mut solo = solo();
    let delete = || Request::new(Operation::Delete { key: cart() });
    assert_eq!(solo.refusal(delete()), Err(OpError::ContextNeeded));
    let items = vec![Item { key: cart(), value: None, context: None }];
    assert_eq!(solo.refusal(Request::new(Operation::Batch { items })), Err(OpError::ContextNeeded));
    let out = solo.ask(Request { context: Some(Context::default()), ..delete() });
    assert!(own_write(&out).1.is_tombstone(), "one who saw that there is nothing may");
}

#[test]
fn contexts_belong_to_causal_keyspaces() {
    let mut solo = solo();
    let plain = Request::new(Operation::Put { key: key("k"), value: Bytes::new() });
    assert!(matches!(solo.refusal(Request { context: Some(seen()), ..plain }), Err(OpError::Invalid(_))));
}

#[test]
fn each_item_of_a_batch_has_its_own_context() {
    let mut solo = solo();
    let item = |name: &'static str, context| Item {
        key: Key { partition_key: Bytes::from(name), ..cart() },
        value: Some(Bytes::new()),
        context,
    };
    let items = vec![item("a", Some(seen())), item("b", None)];
    let out = solo.ask(Request::new(Operation::Batch { items }));
    let job = |effect: &Effect| match effect {
        Effect::Write(job) => Some((job.past.clone(), job.mint)),
        _ => None,
    };
    let jobs: Vec<_> = out.iter().filter_map(job).collect();
    assert_eq!((&jobs[0].0, &jobs[1].0), (&seen(), &Context::default()));
    assert!(jobs[0].1 < jobs[1].1, "a clock of its own for each");
}
