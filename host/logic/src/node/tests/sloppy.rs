//! Claims about writes for which other nodes stand in for owners.

use super::solo::{Solo, own_read, reply, sends, tag};
use crate::cluster::{Standing, State};
use crate::context::Context;
use crate::event::{Answer, Effect, HintJob, HintOutcome, HintWork, Input, OpError, Operation, Reply, Request};
use crate::id::{Key, NodeId};
use crate::limits::Limits;
use crate::message::{Message, ReadOutcome, Refused, Tag, WriteOutcome};
use crate::port::Durability;
use crate::record::Record;
use crate::ring::{Candidate, Ring};
use crate::testing::{PARTITION_BITS, formed, key, owners};
use crate::version::Version;
use bytes::Bytes;

const HELD: WriteOutcome = WriteOutcome::Held;

fn put() -> Request {
    let operation = Operation::Put { key: key("k"), value: Bytes::from_static(b"v") };
    Request { sloppy: true, ..Request::new(operation) }
}

/// Five nodes, N = 3, W = 2: the owners of the key, and the others.
fn five() -> (State, [NodeId; 3], [NodeId; 2]) {
    let state = formed(5, (3, 2, 2));
    let owners: Vec<NodeId> = state.owners(key("k").place(PARTITION_BITS).partition, 3).to_vec();
    let others: Vec<NodeId> = (1..=5).map(NodeId).filter(|node| !owners.contains(node)).collect();
    (state, owners.try_into().unwrap(), others.try_into().unwrap())
}

/// Nodes that are asked to stand in, and for whom.
fn kept(effects: &[Effect]) -> Vec<(NodeId, NodeId, Tag)> {
    let keep = |(to, message)| match message {
        Message::Keep { tag, owner, .. } => Some((to, owner, tag)),
        _ => None,
    };
    sends(effects).into_iter().filter_map(keep).collect()
}

fn acks(effects: &[Effect]) -> (u8, u8) {
    match reply(effects) {
        Some(Ok(Answer::Written { acks, hints, .. })) => (acks, hints),
        other => panic!("{other:?}"),
    }
}

fn hint_job(effects: &[Effect]) -> HintJob {
    let job = |effect: &Effect| if let Effect::Hint(job) = effect { Some(job.clone()) } else { None };
    effects.iter().find_map(job).expect("work on the hints")
}

/// An owner of five nodes, of whom these are away.
fn owner_without(away: &[NodeId], request: Request) -> (Solo, Vec<Effect>) {
    let (state, owners, _) = five();
    let mut solo = Solo::member(owners[0].0, &state);
    for node in away {
        solo.link(*node, false);
    }
    let out = solo.ask(request);
    (solo, out)
}

#[test]
fn a_stand_in_counts_towards_w_and_the_answer_says_so() {
    let (_, [_, b, c], [x, y]) = five();
    let (mut solo, out) = owner_without(&[b, c], put());
    let asked = kept(&out);
    let [(stand_in, owner, tag)] = asked[..] else { panic!("one is enough: {out:?}") };
    assert!([x, y].contains(&stand_in) && [b, c].contains(&owner));
    assert_eq!(reply(&solo.held_here(&out)), None);
    assert_eq!(acks(&solo.written(stand_in, tag, HELD)), (1, 1));
    // Whoever nobody stands in for is owed a hint as ever, and that one does not count.
    let owed: Vec<NodeId> = solo.node.hints().map(|(owner, _)| owner).collect();
    assert_eq!(owed, [b, c].into_iter().filter(|o| *o != owner).collect::<Vec<_>>());
}

#[test]
fn without_being_asked_for_nobody_stands_in() {
    let (_, [_, b, c], _) = five();
    let (mut solo, out) = owner_without(&[b, c], Request { sloppy: false, deadline_ms: Some(500), ..put() });
    assert_eq!((kept(&out), reply(&solo.held_here(&out))), (Vec::new(), None));
    let after = solo.after(500);
    assert!(kept(&after).is_empty());
    assert!(matches!(reply(&after), Some(Err(OpError::Timeout { acks: 1, hints: 0, .. }))), "{after:?}");
}

#[test]
fn a_cluster_without_other_nodes_has_no_stand_ins_and_our_own_hints_are_no_second_node() {
    let mut solo = Solo::member(1, &formed(3, (3, 2, 2)));
    for node in [2, 3] {
        solo.link(NodeId(node), false);
    }
    let out = solo.ask(Request { deadline_ms: Some(500), ..put() });
    assert_eq!(reply(&solo.held_here(&out)), None);
    assert!(matches!(reply(&solo.after(500)), Some(Err(OpError::Timeout { acks: 1, hints: 0, .. }))));
}

#[test]
fn an_owner_that_is_late_is_stood_in_for_and_one_that_answers_in_time_is_not() {
    let (_, [_, b, c], _) = five();
    let (mut solo, out) = owner_without(&[], put());
    solo.held_here(&out);
    assert_eq!(kept(&solo.after(Limits::default().stand_in_after_ms - 1)), []);
    let asked = kept(&solo.after(1));
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(acks(&solo.written(c, tag(&out), HELD)), (2, 0), "it may still answer first");
    let (mut solo, out) = owner_without(&[], put());
    solo.held_here(&out);
    assert_eq!(acks(&solo.written(b, tag(&out), HELD)), (2, 0));
    assert_eq!(kept(&solo.after(Limits::default().stand_in_after_ms)), []);
}

#[test]
fn where_a_stand_in_refuses_or_its_link_breaks_another_one_is_asked() {
    let (_, [_, b, c], _) = five();
    let (mut solo, out) = owner_without(&[b, c], put());
    let (first, _, tag) = kept(&out)[0];
    let out = solo.written(first, tag, WriteOutcome::Refused(Refused::HintsFull));
    let (second, _, _) = kept(&out)[0];
    assert_ne!(first, second);
    let (mut solo, out) = owner_without(&[b, c], put());
    let (first, _, _) = kept(&out)[0];
    let out = solo.link(first, false);
    let (second, _, _) = kept(&out)[0];
    assert_ne!(first, second);
}

#[test]
fn a_node_that_owns_nothing_coordinates_a_sloppy_write_when_no_owner_is_in_reach() {
    let (state, owners, [x, y]) = five();
    let mut solo = Solo::member(x.0, &state);
    for owner in owners {
        solo.link(owner, false);
    }
    let strict = solo.ask(Request { sloppy: false, ..put() });
    assert_eq!(reply(&strict), Some(Err(OpError::NoOwner)));
    let out = solo.ask(put());
    let HintJob { job, work: HintWork::Keep(hint, Durability::Sync) } = hint_job(&out) else { panic!("{out:?}") };
    assert!(hint.counted && owners.contains(&hint.id.owner));
    let [(to, owner, tag)] = kept(&out)[..] else { panic!("{out:?}") };
    assert!(to == y && owner != hint.id.owner, "two nodes for two owners");
    assert_eq!(reply(&solo.feed(Input::Hinted { job, outcome: HintOutcome::Done })), None);
    assert_eq!(acks(&solo.written(y, tag, HELD)), (0, 2));
}

/// A node that is asked to keep a write of node 2 for `owner`.
fn asked_to_keep(limits: Limits, me: NodeId, owner: NodeId, key: Key, version: Version) -> (Solo, Vec<Effect>) {
    let mut solo = Solo::bounded(me.0, &five().0, limits);
    let from = NodeId(if me.0 == 1 { 2 } else { 1 });
    let out = solo.hear(
        from,
        Message::Keep { tag: Tag(7), owner, key, version, past: Context::default(), durability: Durability::Sync },
    );
    (solo, out)
}

fn version() -> Version {
    crate::testing::version(2, 1, super::solo::stamp(0), Some("v"))
}

#[test]
fn a_stand_in_answers_when_its_disk_holds_the_hint_and_hands_it_over() {
    let (_, [a, _, _], [x, _]) = five();
    let (mut solo, out) = asked_to_keep(Limits::default(), x, a, key("k"), version());
    let HintJob { job, work: HintWork::Keep(hint, Durability::Sync) } = hint_job(&out) else { panic!("{out:?}") };
    assert!(hint.counted && sends(&out).is_empty(), "no answer before the disk's");
    let out = solo.feed(Input::Hinted { job, outcome: HintOutcome::Done });
    assert!(matches!(sends(&out)[..], [(_, Message::Written { tag: Tag(7), outcome: HELD })]), "{out:?}");
    assert_eq!(solo.node.hints().map(|(o, owed)| (o, owed.counted)).collect::<Vec<_>>(), [(a, 1)]);

    let load = solo.after(Limits::default().hint_retry_ms);
    let HintJob { job, work: HintWork::Load { .. } } = hint_job(&load) else { panic!("{load:?}") };
    let out = solo.feed(Input::Hinted { job, outcome: HintOutcome::Loaded { hints: vec![hint], damaged: vec![] } });
    let (to, tag) = match &sends(&out)[..] {
        [(to, Message::Write { tag, fresh: false, durability: Durability::Sync, .. })] => (*to, *tag),
        other => panic!("{other:?}"),
    };
    assert_eq!(to, a);
    // Whatever the owner says, what was promised stays until it holds it.
    solo.written(a, tag, WriteOutcome::Refused(Refused::TooManySiblings));
    assert_eq!(solo.node.hints().count(), 1);
}

#[test]
fn a_stand_in_that_has_no_room_or_can_never_hand_it_over_refuses() {
    let (_, [a, _, _], [x, y]) = five();
    let none = Limits { hint_bytes_per_owner_max: 10, ..Limits::default() };
    let damaged = Version { digest: 1, ..version() };
    let unknown = Key { keyspace: crate::id::KeyspaceId(99), ..key("k") };
    for (limits, owner, key, version, why) in [
        (none, a, key("k"), version(), Refused::HintsFull),
        (Limits::default(), y, key("k"), version(), Refused::NotOwner),
        (Limits::default(), a, unknown, version(), Refused::UnknownKeyspace),
        (Limits::default(), a, key("k"), damaged, Refused::Damaged),
    ] {
        let (solo, out) = asked_to_keep(limits, x, owner, key, version);
        let refused = WriteOutcome::Refused(why);
        assert!(matches!(&sends(&out)[..], [(_, Message::Written { outcome, .. })] if *outcome == refused), "{out:?}");
        assert_eq!(solo.node.hints().count(), 0);
    }
}

#[test]
fn who_shall_leave_stands_in_for_nobody() {
    let (mut state, [a, b, c], [x, y]) = five();
    state.members.get_mut(&x).unwrap().standing = Standing::Leaving;
    for _ in 0..4 {
        let mut solo = Solo::member(a.0, &state);
        solo.link(b, false);
        solo.link(c, false);
        let out = solo.ask(put());
        let [(stand_in, _, _)] = kept(&out)[..] else { panic!("{out:?}") };
        assert_eq!(stand_in, y);
    }
    let mut leaving = Solo::member(x.0, &state);
    let (tag, past, durability) = (Tag(7), Context::default(), Durability::Sync);
    let keep = Message::Keep { tag, owner: a, key: key("k"), version: version(), past, durability };
    let out = leaving.hear(y, keep);
    let refused = WriteOutcome::Refused(Refused::NotOwner);
    assert!(matches!(&sends(&out)[..], [(_, Message::Written { outcome, .. })] if *outcome == refused), "{out:?}");
    for owner in [a, b, c] {
        leaving.link(owner, false);
    }
    let out = leaving.ask(put());
    assert!(
        kept(&out).iter().all(|(node, _, _)| *node == y) && leaving.node.hints().all(|(_, owed)| owed.counted == 0)
    );
}

#[test]
fn what_a_stand_in_could_not_keep_is_refused_and_not_dropped() {
    let (_, [a, _, _], [x, _]) = five();
    let (mut solo, out) = asked_to_keep(Limits::default(), x, a, key("k"), version());
    let job = hint_job(&out).job;
    let out = solo.feed(Input::Hinted { job, outcome: HintOutcome::Refused(Refused::DiskFull) });
    let refused = WriteOutcome::Refused(Refused::DiskFull);
    assert!(matches!(&sends(&out)[..], [(_, Message::Written { outcome, .. })] if *outcome == refused), "{out:?}");
    assert_eq!((solo.node.hints().count(), solo.node.figures().hints_dropped), (0, [0; 5]));
}

#[test]
fn hints_that_counted_go_to_the_owners_that_there_are_when_theirs_has_left() {
    let (mut state, [a, _, _], [x, _]) = five();
    let (mut solo, out) = asked_to_keep(Limits::default(), x, a, key("k"), version());
    let HintJob { job, work: HintWork::Keep(hint, _) } = hint_job(&out) else { panic!("{out:?}") };
    solo.feed(Input::Hinted { job, outcome: HintOutcome::Done });
    state.members.remove(&a);
    let left: Vec<Candidate<'_>> =
        state.members.keys().map(|node| Candidate { node: *node, zone: "", weight: 100 }).collect();
    let ring = Ring::solve(PARTITION_BITS, 3, &left, state.ring.as_ref()).unwrap();
    state.ring = Some(ring);
    solo.learn(&state);
    assert_eq!(solo.node.hints().count(), 1, "it stays: it was promised");
    let load = solo.after(Limits::default().hint_retry_ms);
    let HintJob { job, .. } = hint_job(&load);
    let out = solo.feed(Input::Hinted { job, outcome: HintOutcome::Loaded { hints: vec![hint], damaged: vec![] } });
    let to = sends(&out)[0].0;
    assert!(owners(&state, &key("k")).contains(&to), "{out:?}");
    let Message::Write { tag, .. } = sends(&out)[0].1 else { panic!("{out:?}") };
    let out = solo.written(to, tag, HELD);
    assert!(matches!(hint_job(&out).work, HintWork::Drop(_)));
}

fn confirmed(zones: [&str; 3], node_confirms: u8) -> (Solo, [NodeId; 3], Vec<Effect>) {
    let (mut state, owners, _) = five();
    for (owner, zone) in owners.iter().zip(zones) {
        state.members.get_mut(owner).unwrap().zone = zone.into();
    }
    let mut solo = Solo::member(owners[0].0, &state);
    let out = solo.ask(Request { sloppy: false, node_confirms: Some(node_confirms), ..put() });
    (solo, owners, out)
}

#[test]
fn nodes_of_one_zone_confirm_as_one() {
    let (mut solo, [_, b, c], out) = confirmed(["a", "a", "b"], 2);
    assert_eq!(reply(&solo.held_here(&out)), None);
    assert_eq!(reply(&solo.written(b, tag(&out), HELD)), None, "W is there, but in one zone");
    assert_eq!(acks(&solo.written(c, tag(&out), HELD)), (3, 0));
    let (mut solo, [_, b, _], out) = confirmed(["", "", ""], 2);
    solo.held_here(&out);
    assert_eq!(acks(&solo.written(b, tag(&out), HELD)), (2, 0), "without zones every node is one");
}

#[test]
fn more_zones_than_there_are_is_an_error_that_says_so() {
    let says = |out: &[Effect]| match reply(out) {
        Some(Err(OpError::Invalid(text))) => text,
        other => panic!("{other:?}"),
    };
    let text = says(&confirmed(["a", "a", "b"], 3).2);
    assert!(text.contains("node_confirms is 3") && text.contains("2 zones"), "{text}");
    assert!(says(&confirmed(["a", "a", "b"], 4).2).contains("1 to 3"));
    assert!(says(&confirmed(["a", "a", "b"], 0).2).contains("1 to 3"));
}

#[test]
fn a_write_that_was_refused_may_be_sent_again_under_its_id() {
    let (mut state, owners, _) = five();
    state.members.get_mut(&owners[0]).unwrap().zone = "a".into();
    state.members.get_mut(&owners[1]).unwrap().zone = "a".into();
    let mut solo = Solo::member(owners[0].0, &state);
    let asked = |confirms| Request { sloppy: false, request_id: Some(5), node_confirms: Some(confirms), ..put() };
    assert!(matches!(reply(&solo.ask(asked(3))), Some(Err(OpError::Invalid(_)))));
    let out = solo.ask(asked(2));
    assert_eq!((reply(&out), sends(&out).len()), (None, 2), "it is new");
}

#[test]
fn a_read_asks_owners_until_they_lie_far_enough_apart() {
    let (mut state, owners, _) = five();
    for (owner, zone) in owners.iter().zip(["a", "a", "b"]) {
        state.members.get_mut(owner).unwrap().zone = zone.into();
    }
    let mut solo = Solo::member(owners[0].0, &state);
    let get = Request { node_confirms: Some(2), quorum: Some(1), ..Request::new(Operation::Get { key: key("k") }) };
    let out = solo.ask(get);
    let to: Vec<NodeId> = sends(&out).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [owners[2]], "the one in the other zone");
    let answer: Option<Reply> = reply(&out);
    assert_eq!(answer, None);
}

#[test]
fn late_reads_are_hedged_after_what_recent_ones_took() {
    let mut solo = Solo::member(1, &formed(3, (3, 1, 2)));
    let most = Limits::default().hedge_after_ms * 1_000;
    assert_eq!(solo.node.hedge_after_us(), most);
    for _ in 0..400 {
        let out = solo.ask(Request::new(Operation::Get { key: key("k") }));
        solo.now.mono_us += 3_000;
        let (job, outcome) = (own_read(&out), ReadOutcome::Record(Record::default()));
        solo.feed(Input::Found { job, outcome });
    }
    let after = solo.node.hedge_after_us();
    assert!((3_000..4_000).contains(&after), "{after}");
    let out = solo.ask(Request::new(Operation::Get { key: key("k") }));
    assert_eq!(sends(&out).len(), 0, "R = 1: our own disk is enough");
    assert_eq!(sends(&solo.after(5)).len(), 2, "and it is late");
}
