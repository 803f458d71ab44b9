//! Claims about the side that serves clients.

use super::solo::{Solo, own_read, own_write, reply, sends, stamp, tag, write_of};
use crate::cluster::Standing;
use crate::event::{Answer, Effect, Input, Item, OpError, Operation, Reply, Request};
use crate::id::{Epoch, Incarnation, Key, KeyspaceId, NodeId};
use crate::limits::Limits;
use crate::message::{Message, ReadOutcome, Refused, Want, WriteOutcome};
use crate::record::Record;
use crate::testing::{Rules, formed, key, owners, stranger, version};
use crate::time::Hlc;
use bytes::Bytes;

const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

fn put(value: &str) -> Request {
    Request::new(Operation::Put { key: key("k"), value: Bytes::copy_from_slice(value.as_bytes()) })
}

fn get() -> Request {
    Request::new(Operation::Get { key: key("k") })
}

/// Node 1 of three, all of them owners, majorities needed.
fn solo() -> Solo {
    Solo::member(1, &formed(3, (3, 2, 2)))
}

fn acks(reply: Option<Reply>) -> u8 {
    match reply {
        Some(Ok(Answer::Written { acks, .. })) => acks,
        other => panic!("{other:?}"),
    }
}

fn values(reply: Option<Reply>) -> Vec<Option<Bytes>> {
    match reply {
        Some(Ok(Answer::Found { versions, .. })) => versions.into_iter().map(|v| v.value).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_that_reaches_too_few_owners_says_at_its_deadline_how_many_hold_it() {
    let mut solo = solo();
    let out = solo.ask(Request { quorum: Some(3), deadline_ms: Some(100), ..put("v") });
    assert_eq!(solo.held_here(&out), []);
    assert_eq!(solo.written(N2, tag(&out), WriteOutcome::Held), []);
    assert_eq!(reply(&solo.after(99)), None);
    let timeout = OpError::Timeout { write: true, acks: 2, needed: 3, owners: 3, hints: 0 };
    assert_eq!(reply(&solo.after(1)), Some(Err(timeout)));
    assert!(solo.is_idle());
    assert_eq!(solo.written(N3, tag(&out), WriteOutcome::Held), [], "too late, and nobody minds");
}

#[test]
fn with_w_1_and_r_1_our_own_disk_is_enough() {
    let mut solo = solo();
    let out = solo.ask(Request { quorum: Some(1), ..put("v") });
    assert_eq!(acks(reply(&solo.held_here(&out))), 1);
    let out = solo.ask(Request { quorum: Some(1), ..get() });
    assert_eq!(sends(&out), [], "nobody else is asked");
    let record = Record::of(version(1, 1, stamp(0), Some("v")));
    let out = solo.feed(Input::Found { job: own_read(&out), outcome: ReadOutcome::Record(record) });
    assert_eq!(values(reply(&out)), [Some(Bytes::from_static(b"v"))]);
}

#[test]
fn a_missing_key_is_an_answer() {
    let mut solo = solo();
    let out = solo.ask(get());
    solo.feed(Input::Found { job: own_read(&out), outcome: ReadOutcome::Record(Record::default()) });
    let out = solo.found(N3, tag(&out), ReadOutcome::Digest(Record::default().digest()));
    assert_eq!(values(reply(&out)), []);
}

#[test]
fn a_request_is_handed_on_once() {
    let state = formed(4, (3, 2, 2));
    let stranger = stranger(&state, &key("k"));
    let mut solo = Solo::member(stranger.0, &state);
    let out = solo.ask(put("v"));
    let [(owner, Message::Forward { tag, request, remaining_ms, .. })] = &sends(&out)[..] else { panic!("{out:?}") };
    assert!(owners(&state, &key("k")).contains(owner));
    assert_eq!(*remaining_ms, Limits::default().deadline_default_ms);

    // The owner does the work and answers whoever handed it on.
    let mut owner = Solo::member(owner.0, &state);
    let handed =
        Message::Forward { tag: *tag, request: request.clone(), remaining_ms: 50, incarnation: Incarnation(0) };
    let out = owner.hear(stranger, handed.clone());
    owner.held_here(&out);
    let helper = sends(&out)[0].0;
    let question = super::solo::tag(&out);
    let out = owner.written(helper, question, WriteOutcome::Held);
    let [(to, Message::Forwarded { reply: said, .. })] = &sends(&out)[..] else { panic!("{out:?}") };
    assert_eq!((*to, said.is_ok()), (stranger, true));
    let out = solo.hear(NodeId(owner.node.me.0), Message::Forwarded { tag: *tag, reply: said.clone() });
    assert_eq!(reply(&out), Some(said.clone()));

    // A second stranger does not hand it on again: it asks the owners itself, in whatever step of a change the first
    // one is.
    let mut lost = Solo::member(stranger.0, &state);
    let out = lost.hear(owner.node.me, handed);
    let asked: Vec<NodeId> = sends(&out).into_iter().map(|(to, _)| to).collect();
    assert_eq!(asked, owners(&state, &key("k")));
    assert!(sends(&out).iter().all(|(_, message)| matches!(message, Message::Write { fresh: true, .. })), "{out:?}");
    assert!(solo.is_idle());
}

#[test]
fn a_lost_link_sends_a_read_to_another_owner_and_leaves_a_write_unknown() {
    let state = formed(4, (3, 2, 2));
    let mut solo = Solo::member(stranger(&state, &key("k")).0, &state);
    let first = sends(&solo.ask(get()))[0].0;
    let out = solo.link(first, false);
    let [(second, Message::Forward { .. })] = &sends(&out)[..] else { panic!("{out:?}") };
    assert_ne!(first, *second);
    let out = solo.link(*second, false);
    let [(third, Message::Forward { .. })] = &sends(&out)[..] else { panic!("{out:?}") };
    assert_eq!(
        reply(&solo.link(*third, false)),
        Some(Err(OpError::Timeout { write: false, acks: 0, needed: 2, owners: 3, hints: 0 }))
    );
    assert_eq!(solo.refusal(put("v")), Err(OpError::NoOwner), "nobody is left to ask");

    solo.link(first, true);
    let [(to, Message::Forward { .. })] = &sends(&solo.ask(put("v")))[..] else { panic!() };
    let unknown = OpError::Timeout { write: true, acks: 0, needed: 2, owners: 3, hints: 0 };
    assert_eq!(reply(&solo.link(*to, false)), Some(Err(unknown)));
    assert!(solo.is_idle());
}

#[test]
fn a_later_stamp_makes_a_new_version_above_it() {
    let mut solo = solo();
    let out = solo.ask(put("v"));
    let (_, before) = own_write(&out);
    let latest = Hlc(before.written.0 + 1_000);
    let again = solo.written(N2, tag(&out), WriteOutcome::StaleStamp { latest });
    let (_, after) = own_write(&again);
    assert!(after.written > latest && after.dot != before.dot && after.value == before.value);
    assert_eq!(sends(&again).len(), 2, "every owner gets the new version");
    // Answers to the first attempt count for nothing.
    assert_eq!(solo.held_here(&out), []);
    assert_eq!(solo.written(N2, tag(&out), WriteOutcome::Held), []);
    solo.held_here(&again);
    assert_eq!(acks(reply(&solo.written(N3, tag(&again), WriteOutcome::Held))), 2);
    assert_eq!(solo.node.figures().restamps, 1);
    assert!(solo.is_idle());
}

#[test]
fn one_owner_with_a_stamp_out_of_the_future_stops_nobody() {
    let mut solo = solo();
    let out = solo.ask(put("v"));
    solo.held_here(&out);
    let latest = stamp(10_000);
    assert_eq!(reply(&solo.written(N2, tag(&out), WriteOutcome::StaleStamp { latest })), None);
    assert_eq!(acks(reply(&solo.written(N3, tag(&out), WriteOutcome::Held))), 2);
    // Two of them may have acknowledged it: nothing is written below.
    let out = solo.ask(put("v"));
    solo.held_here(&out);
    solo.written(N2, tag(&out), WriteOutcome::StaleStamp { latest });
    let lost = reply(&solo.written(N3, tag(&out), WriteOutcome::StaleStamp { latest }));
    assert!(matches!(lost, Some(Err(OpError::QuorumLost { acks: 1, .. }))), "{lost:?}");
}

#[test]
fn a_write_of_an_old_epoch_is_written_again_in_the_new_one() {
    let mut state = formed(3, (3, 2, 2));
    let mut solo = Solo::member(1, &state);
    let out = solo.ask(put("v"));
    let stale = WriteOutcome::StaleEpoch { current: Epoch(3) };
    assert_eq!(solo.written(N2, tag(&out), stale), [], "this node is not there yet");
    state.epoch = Epoch(3);
    let again = solo.learn(&state);
    let (_, version) = own_write(&again);
    assert_eq!(version.epoch, Epoch(3));
    solo.held_here(&again);
    assert_eq!(acks(reply(&solo.written(N2, tag(&again), WriteOutcome::Held))), 2);
    assert!(solo.is_idle());
}

#[test]
fn what_a_broken_link_lost_is_asked_again() {
    let mut solo = solo();
    let write = solo.ask(put("v"));
    let read = solo.ask(get());
    let [(peer, _)] = sends(&read)[..] else { panic!("{read:?}") };
    let other = sends(&solo.link(peer, false));
    assert!(
        matches!(other[..], [(to, Message::Read { .. })] if to != peer),
        "somebody else is asked meanwhile: {other:?}"
    );
    let again = sends(&solo.link(peer, true));
    assert_eq!(again, [&write, &read].map(|out| sends(out).into_iter().find(|(to, _)| *to == peer).unwrap()));
}

#[test]
fn a_node_whose_clock_is_off_coordinates_no_writes() {
    let mut solo = solo();
    solo.feed(Input::Clock { from: N2, clock: stamp(900) });
    assert_eq!(sends(&solo.ask(put("v"))).len(), 2, "one peer may be the one that is wrong");
    solo.feed(Input::Clock { from: N3, clock: stamp(800) });
    assert_eq!(solo.refusal(put("v")), Err(OpError::ClockOff { offset_ms: -900 }));
    assert_eq!(sends(&solo.ask(get())).len(), 1, "reads need no stamp");
    for peer in [N2, N3] {
        solo.feed(Input::Clock { from: peer, clock: stamp(0) });
    }
    assert_eq!(sends(&solo.ask(put("v"))).len(), 2, "the clock was mended");
}

#[test]
fn a_leap_of_the_own_clock_shows_before_the_next_frame() {
    let mut solo = solo();
    solo.now.mono_us += 2_000_000;
    solo.now.wall_ms += 2_000;
    assert_eq!(sends(&solo.ask(put("v"))).len(), 2);
    solo.now.wall_ms += 10_000;
    assert_eq!(solo.refusal(put("v")), Err(OpError::ClockOff { offset_ms: 10_000 }));
    // Nor does a node that was cut off forget what it heard.
    for peer in [N2, N3] {
        solo.link(peer, false);
    }
    assert_eq!(solo.refusal(put("v")), Err(OpError::ClockOff { offset_ms: 10_000 }));
    solo.now.wall_ms -= 10_000;
    own_write(&solo.ask(put("v")));
}

#[test]
fn a_node_that_has_heard_no_clock_coordinates_no_writes() {
    let state = formed(3, (3, 2, 2));
    let mut solo = Solo::new(1, Limits::default());
    solo.learn(&state);
    for peer in [N2, N3] {
        solo.link(peer, true);
    }
    assert_eq!(solo.refusal(put("v")), Err(OpError::NotAdmitted), "its stamp would be on its own disk already");
    assert_eq!(sends(&solo.ask(get())).len(), 1);
    solo.feed(Input::Clock { from: N3, clock: stamp(0) });
    assert_eq!(sends(&solo.ask(put("v"))).len(), 2);
    // Where there is nobody else there is nothing to wait for.
    let mut alone = state.clone();
    alone.members.retain(|node, _| node.0 == 1);
    let mut solo = Solo::new(1, Limits::default());
    solo.learn(&alone);
    assert!(solo.node.hears_clocks());
}

#[test]
fn a_done_write_is_not_applied_twice() {
    let mut solo = solo();
    let put = |value| Request { request_id: Some(5), ..put(value) };
    let out = solo.ask(put("v"));
    assert_eq!(solo.refusal(put("v")), Err(OpError::UnderWay));
    solo.held_here(&out);
    let said = reply(&solo.written(N2, tag(&out), WriteOutcome::Held));
    assert_eq!(said, Some(solo.refusal(put("v"))));
    assert!(matches!(solo.refusal(put("other")), Err(OpError::Invalid(_))));
    assert!(solo.is_idle());
}

#[test]
fn the_items_of_a_batch_take_no_id_that_a_counting_client_uses_next() {
    let mut solo = solo();
    let items = vec![Item { key: key("k"), value: None, context: None }; 3];
    solo.ask(Request { request_id: Some(5), ..Request::new(Operation::Batch { items }) });
    for id in 4..9 {
        let out = solo.ask(Request { request_id: Some(id), ..put("v") });
        assert_eq!(reply(&out), None, "id {id} is new");
    }
}

#[test]
fn a_write_of_unknown_outcome_is_sent_again_under_its_old_name() {
    let mut solo = solo();
    let put = || Request { request_id: Some(5), deadline_ms: Some(100), ttl_ms: Some(60_000), ..put("v") };
    let (_, first) = own_write(&solo.ask(put()));
    assert!(matches!(reply(&solo.after(100)), Some(Err(OpError::Timeout { acks: 0, .. }))));
    let out = solo.ask(put());
    assert_eq!(own_write(&out).1, first, "the same version in every part, or two owners would never agree");
    solo.held_here(&out);
    assert_eq!(acks(reply(&solo.written(N3, tag(&out), WriteOutcome::Held))), 2);
}

#[test]
fn a_write_of_unknown_outcome_from_an_old_epoch_is_a_new_write() {
    let mut state = formed(3, (3, 2, 2));
    let mut solo = Solo::member(1, &state);
    let put = || Request { request_id: Some(5), deadline_ms: Some(100), ..put("v") };
    let (_, first) = own_write(&solo.ask(put()));
    solo.after(100);
    state.epoch = Epoch(3);
    solo.learn(&state);
    let (_, second) = own_write(&solo.ask(put()));
    assert!(second.dot != first.dot && second.epoch == Epoch(3));
}

#[test]
fn owners_that_differ_are_asked_for_their_records_and_merged() {
    let mut solo = solo();
    let (old, new) = (version(2, 1, stamp(1), Some("old")), version(3, 1, stamp(2), Some("new")));
    let out = solo.ask(get());
    let [(peer, Message::Read { want: Want::Digest, .. })] = sends(&out)[..] else { panic!("{out:?}") };
    solo.feed(Input::Found { job: own_read(&out), outcome: ReadOutcome::Record(Record::of(old)) });
    let fetch = solo.found(peer, tag(&out), ReadOutcome::Digest(Record::of(new.clone()).digest()));
    let [(to, Message::Read { want: Want::Record, tag, .. })] = &sends(&fetch)[..] else { panic!("{fetch:?}") };
    assert_eq!(*to, peer);
    let out = solo.found(peer, *tag, ReadOutcome::Record(Record::of(new)));
    assert_eq!(values(reply(&out)), [Some(Bytes::from_static(b"new"))]);
    assert_eq!(solo.node.figures().records_fetched, 1);
}

#[test]
fn a_failing_resolver_shows_all_siblings_until_it_works_again() {
    let mut solo = solo();
    let ask = |solo: &mut Solo| {
        let (old, new) = (version(2, 1, stamp(1), Some("old")), version(3, 1, stamp(2), Some("new")));
        let out = solo.ask(get());
        solo.feed(Input::Found { job: own_read(&out), outcome: ReadOutcome::Record(Record::of(old)) });
        values(reply(&solo.found(N3, tag(&out), ReadOutcome::Record(Record::of(new)))))
    };
    for broken in [Rules::Fail, Rules::Nonsense, Rules::Short] {
        solo.rules = broken;
        assert_eq!(ask(&mut solo), [Some(Bytes::from_static(b"old")), Some(Bytes::from_static(b"new"))]);
    }
    solo.rules = Rules::Work;
    assert_eq!(ask(&mut solo), [Some(Bytes::from_static(b"new"))]);
}

#[test]
fn a_read_survives_a_disk_that_fails_here() {
    let mut solo = solo();
    let out = solo.ask(get());
    let [(peer, _)] = sends(&out)[..] else { panic!("{out:?}") };
    let question = tag(&out);
    let digest = Record::default().digest();
    assert_eq!(solo.found(peer, question, ReadOutcome::Digest(digest)), []);
    let failed = ReadOutcome::Refused(Refused::Store);
    let fetch = sends(&solo.feed(Input::Found { job: own_read(&out), outcome: failed }));
    let [(first, Message::Read { want: Want::Record, .. }), (other, Message::Read { want: Want::Digest, .. })] =
        fetch[..]
    else {
        panic!("a record from the one that answered, a digest from the other: {fetch:?}")
    };
    assert!(first == peer && other != peer);
    solo.found(peer, question, ReadOutcome::Record(Record::default()));
    let out = solo.found(other, question, ReadOutcome::Digest(digest));
    assert_eq!(values(reply(&out)), []);
    assert!(solo.is_idle());
}

#[test]
fn a_batch_is_answered_in_order_whatever_each_item_met() {
    let mut solo = solo();
    let item =
        |name, value: Option<&'static str>| Item { key: key(name), value: value.map(Bytes::from), context: None };
    let items = vec![item("good", Some("v")), item("full", Some("v")), item("slow", None)];
    let out = solo.ask(Request { deadline_ms: Some(100), ..Request::new(Operation::Batch { items }) });
    let jobs: Vec<_> =
        out.iter().filter_map(|e| if let Effect::Write(job) = e { Some(job.job) } else { None }).collect();
    let to_n2 = sends(&out).into_iter().filter(|(to, _)| *to == N2);
    let tags: Vec<_> =
        to_n2.filter_map(|(_, m)| if let Message::Write { tag, .. } = m { Some(tag) } else { None }).collect();
    solo.feed(Input::Written { job: jobs[2], outcome: WriteOutcome::Held });
    for peer in [N2, N3] {
        solo.written(peer, tags[1], WriteOutcome::Refused(Refused::DiskFull));
    }
    solo.written(N2, tags[0], WriteOutcome::Held);
    assert_eq!(reply(&solo.feed(Input::Written { job: jobs[0], outcome: WriteOutcome::Held })), None);
    let Some(Ok(Answer::Batch { replies })) = reply(&solo.after(100)) else { panic!("no reply at the deadline") };
    assert!(matches!(replies[0], Ok(Answer::Written { acks: 2, .. })));
    assert!(matches!(&replies[1], Err(OpError::QuorumLost { acks: 0, refused, .. }) if refused == "its disk is full"));
    assert!(matches!(replies[2], Err(OpError::Timeout { acks: 1, .. })));
    assert!(solo.is_idle());
}

#[test]
fn whatever_is_too_large_is_refused_before_anything_is_done() {
    let limits =
        Limits { key_bytes_max: 8, value_bytes_max: 16, batch_items_max: 3, batch_bytes_max: 40, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    let long = Key { partition_key: vec![b'k'; 9].into(), ..key("") };
    let long_sort = Key { sort_key: vec![b's'; 9].into(), ..key("k") };
    let value = |n| Bytes::from(vec![0; n]);
    let batch = |items, bytes| {
        let item = Item { key: key("k"), value: Some(value(bytes)), context: None };
        Operation::Batch { items: vec![item; items] }
    };
    for (operation, bytes, max) in [
        (Operation::Put { key: long.clone(), value: value(1) }, 9, 8),
        (Operation::Get { key: long }, 9, 8),
        (Operation::Delete { key: long_sort }, 9, 8),
        (Operation::Put { key: key("k"), value: value(17) }, 17, 16),
        (batch(4, 1), 4, 3),
        (batch(3, 15), 48, 40),
        (batch(2, 17), 17, 16),
    ] {
        match solo.refusal(Request::new(operation.clone())) {
            Err(OpError::TooLarge { bytes: b, max: m, .. }) => assert_eq!((b, m), (bytes, max), "{operation:?}"),
            other => panic!("{operation:?}: {other:?}"),
        }
    }
    assert_eq!(sends(&solo.ask(Request::new(batch(2, 16)))).len(), 4, "at the limit is within it");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut solo = solo();
    let nowhere = Key { keyspace: KeyspaceId(9), ..key("k") };
    assert_eq!(
        solo.refusal(Request::new(Operation::Get { key: nowhere })),
        Err(OpError::UnknownKeyspace(KeyspaceId(9)))
    );
    for wrong in [
        Request { quorum: Some(4), ..put("v") },
        Request { quorum: Some(0), ..get() },
        Request { deadline_ms: Some(0), ..put("v") },
        Request::new(Operation::Get { key: key("") }),
        Request::new(Operation::Batch { items: Vec::new() }),
    ] {
        assert!(matches!(solo.refusal(wrong.clone()), Err(OpError::Invalid(_))), "{wrong:?}");
    }
    assert!(solo.is_idle());
}

#[test]
fn beyond_its_bounds_a_node_is_busy_until_something_ends() {
    let limits = Limits { operations_max: 2, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    let first = solo.ask(put("v"));
    solo.ask(get());
    assert_eq!(solo.refusal(get()), Err(OpError::Busy { operations: 2 }));
    solo.held_here(&first);
    solo.written(N2, tag(&first), WriteOutcome::Held);
    let batch = Operation::Batch { items: vec![Item { key: key("k"), value: None, context: None }; 2] };
    assert_eq!(solo.refusal(Request::new(batch)), Err(OpError::Busy { operations: 1 }), "a batch counts its items");
    assert_eq!(sends(&solo.ask(get())).len(), 1);
}

#[test]
fn values_under_way_are_bounded_in_bytes() {
    let limits = Limits { operations_bytes_max: 10, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    let first = solo.ask(put("123456789012"));
    assert_eq!(sends(&first).len(), 2, "one alone may be larger, or it could never be written");
    assert_eq!(solo.refusal(put("v")), Err(OpError::Busy { operations: 1 }));
    solo.held_here(&first);
    solo.written(N2, tag(&first), WriteOutcome::Held);
    assert_eq!(sends(&solo.ask(put("v"))).len(), 2);
}

#[test]
fn before_the_ring_there_is_nobody_to_ask() {
    let mut state = formed(3, (3, 2, 2));
    state.members.pop_last();
    state.ring = None;
    let mut solo = Solo::new(1, Limits::default());
    assert_eq!(solo.refusal(get()), Err(OpError::Forming { joined: 0, expected: 0 }));
    solo.learn(&state);
    assert_eq!(solo.refusal(put("v")), Err(OpError::Forming { joined: 2, expected: 3 }));
}

#[test]
fn before_its_incarnation_a_node_reads_and_does_not_write() {
    let mut state = formed(3, (3, 2, 2));
    state.members.get_mut(&NodeId(1)).unwrap().opening = 99;
    let mut solo = Solo::member(1, &state);
    assert_eq!(solo.refusal(put("v")), Err(OpError::NotAdmitted));
    assert_eq!(sends(&solo.ask(get())).len(), 1);
    assert!(!solo.node.is_fenced(), "the log still speaks of the process before this one");
    state.members.get_mut(&NodeId(1)).unwrap().opening = 1;
    solo.learn(&state);
    assert_eq!(solo.node.incarnation(), Incarnation(1));
    assert_eq!(own_write(&solo.ask(put("v"))).1.dot.incarnation, Incarnation(1));
}

#[test]
fn a_later_opening_fences_this_one() {
    let mut state = formed(3, (3, 2, 2));
    let mut solo = Solo::member(1, &state);
    assert!(!solo.node.is_fenced());
    let member = state.members.get_mut(&NodeId(1)).unwrap();
    (member.opening, member.incarnation) = (99, Incarnation(9));
    solo.learn(&state);
    assert!(solo.node.is_fenced());
    assert_eq!(solo.node.incarnation(), Incarnation(1), "it does not take the other's name");
    state.members.remove(&NodeId(1));
    solo.learn(&state);
    assert!(solo.node.is_fenced(), "removed from the roster");
}

#[test]
fn an_answer_to_the_process_before_this_one_counts_for_nothing() {
    let mut before = solo();
    let asked = before.ask(put("v"));
    // The same node starts again: its owners may still answer what the dead process asked.
    let mut state = formed(3, (3, 2, 2));
    state.members.get_mut(&NodeId(1)).unwrap().opening = 0x5EED_0000_0000_0000_0000_0004;
    let mut after = Solo::member(1, &formed(3, (3, 2, 2)));
    after.node = crate::node::Node::new(crate::node::NodeOptions {
        me: NodeId(1),
        opening: 0x5EED_0000_0000_0000_0000_0004,
        limits: Limits::default(),
        gossip: crate::member::GossipSettings::default(),
        seed: 1,
    });
    after.learn(&state);
    for peer in [N2, N3] {
        after.link(peer, true);
        after.feed(Input::Clock { from: peer, clock: stamp(0) });
    }
    let mut out = after.ask(put("another"));
    for peer in [N2, N3] {
        out.extend(after.written(peer, tag(&asked), WriteOutcome::Held));
    }
    assert_eq!(reply(&out), None, "nobody has stored this write yet");
}

/// It may live and lag: a read that counted its answer would miss what was written by a table without it.
#[test]
fn a_member_that_was_declared_dead_is_not_heard() {
    let mut state = formed(3, (3, 2, 2));
    state.members.get_mut(&N2).unwrap().standing = Standing::Dead;
    let mut solo = Solo::member(1, &state);
    let asked = solo.ask(put("v"));
    assert_eq!(reply(&solo.held_here(&asked)), None);
    assert_eq!(solo.written(N2, tag(&asked), WriteOutcome::Held), []);
    assert_eq!(acks(reply(&solo.written(N3, tag(&asked), WriteOutcome::Held))), 2);
    assert_eq!(solo.hear(N2, write_of(&key("k"), version(2, 1, stamp(0), Some("v")), true)), []);
}
