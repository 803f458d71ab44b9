//! Claims about what reads mend after their reply.

use super::solo::{Solo, own_read, own_write, reply, sends, stamp, tag};
use crate::event::{Effect, Input, Operation, Request};
use crate::id::NodeId;
use crate::limits::Limits;
use crate::message::{Message, ReadOutcome, Tag, Want, WriteOutcome};
use crate::node::Figures;
use crate::port::Durability;
use crate::record::Record;
use crate::testing::{formed, key, version};
use crate::version::Version;

const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

fn get() -> Request {
    Request::new(Operation::Get { key: key("k") })
}

fn solo() -> Solo {
    Solo::member(1, &formed(3, (3, 2, 2)))
}

fn old() -> Version {
    version(2, 1, stamp(1), Some("old"))
}

fn new() -> Version {
    version(3, 1, stamp(2), Some("new"))
}

fn record(version: Version) -> ReadOutcome {
    ReadOutcome::Record(Record::of(version))
}

fn digest(version: Version) -> ReadOutcome {
    ReadOutcome::Digest(Record::of(version).digest())
}

/// The repairs among the effects: to whom, under which tag, with what.
fn repairs(effects: &[Effect]) -> Vec<(NodeId, Tag, Version)> {
    let repair = |(to, message)| match message {
        Message::Write { tag, version, fresh: false, durability: Durability::Os, .. } => Some((to, tag, version)),
        _ => None,
    };
    sends(effects).into_iter().filter_map(repair).collect()
}

/// A read that finds node 1 with `mine` and a peer with `theirs`; the peer, and what the last answer led to.
fn differing(solo: &mut Solo, mine: ReadOutcome, theirs: Version) -> (NodeId, Vec<Effect>) {
    let out = solo.ask(get());
    let [(peer, _)] = sends(&out)[..] else { panic!("{out:?}") };
    solo.feed(Input::Found { job: own_read(&out), outcome: mine });
    solo.found(peer, tag(&out), digest(theirs.clone()));
    (peer, solo.found(peer, tag(&out), record(theirs)))
}

#[test]
fn a_stale_peer_is_mended_after_the_reply() {
    let mut solo = solo();
    let (peer, out) = differing(&mut solo, record(new()), old());
    assert!(matches!(out[0], Effect::Reply { .. }), "the client does not wait for it: {out:?}");
    let [(to, tag, version)] = &repairs(&out)[..] else { panic!("{out:?}") };
    assert_eq!((*to, version), (peer, &new()), "the version as it is, under its own name");
    assert_eq!(solo.node.figures(), Figures { repairs: [1, 0, 0, 0, 0], records_fetched: 1, ..Figures::default() });
    assert!(!solo.is_still());
    solo.written(peer, *tag, WriteOutcome::Held);
    assert!(solo.is_still());
}

#[test]
fn an_absent_peer_is_mended() {
    let mut solo = solo();
    let out = solo.ask(get());
    let [(peer, _)] = sends(&out)[..] else { panic!("{out:?}") };
    solo.feed(Input::Found { job: own_read(&out), outcome: record(new()) });
    solo.found(peer, tag(&out), digest(old()));
    let out = solo.found(peer, tag(&out), ReadOutcome::Record(Record::default()));
    assert_eq!(repairs(&out).len(), 1);
    assert_eq!(solo.node.figures().repairs, [0, 1, 0, 0, 0]);
}

#[test]
fn our_own_disk_is_mended() {
    let mut solo = solo();
    let (_, out) = differing(&mut solo, record(old()), new());
    assert_eq!(repairs(&out), []);
    let Some(Effect::Write(job)) = out.iter().find(|e| matches!(e, Effect::Write(_))) else { panic!("{out:?}") };
    assert_eq!((&job.version, job.fresh, job.durability), (&new(), false, Durability::Os));
    assert_eq!(solo.node.figures().repairs, [0, 0, 1, 0, 0]);
    solo.feed(Input::Written { job: own_write(&out).0, outcome: WriteOutcome::Held });
    assert!(solo.is_still());
}

#[test]
fn an_answer_that_comes_after_the_reply_is_mended_too() {
    let mut solo = solo();
    let first = solo.ask(get());
    let question = tag(&first);
    let [(peer, _)] = sends(&first)[..] else { panic!("{first:?}") };
    let hedge = solo.after(Limits::default().hedge_after_ms);
    let [(late, Message::Read { want: Want::Record, .. })] = sends(&hedge)[..] else { panic!("{hedge:?}") };
    solo.feed(Input::Found { job: own_read(&first), outcome: record(new()) });
    let out = solo.found(peer, question, digest(new()));
    assert!(reply(&out).is_some() && repairs(&out).is_empty());
    assert!(solo.is_idle() && !solo.is_still());
    let out = solo.found(late, question, record(old()));
    let [(to, _, version)] = &repairs(&out)[..] else { panic!("{out:?}") };
    assert_eq!((*to, version), (late, &new()));
    assert_eq!(solo.found(late, question, record(old())), [], "the read is over");
}

#[test]
fn a_read_waits_for_late_owners_only_so_long() {
    let mut solo = solo();
    let first = solo.ask(get());
    let [(peer, _)] = sends(&first)[..] else { panic!("{first:?}") };
    solo.after(Limits::default().hedge_after_ms);
    solo.feed(Input::Found { job: own_read(&first), outcome: record(new()) });
    solo.found(peer, tag(&first), digest(new()));
    solo.after(Limits::default().repair_after_ms - 1);
    assert!(!solo.is_still());
    solo.after(1);
    assert!(solo.is_still());
}

#[test]
fn reads_that_linger_are_bounded() {
    let limits = Limits { lingering_max: 1, operations_max: 1, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    for _ in 0..3 {
        let first = solo.ask(get());
        let [(peer, _)] = sends(&first)[..] else { panic!("{first:?}") };
        solo.after(Limits::default().hedge_after_ms);
        solo.feed(Input::Found { job: own_read(&first), outcome: record(new()) });
        assert!(reply(&solo.found(peer, tag(&first), digest(new()))).is_some(), "and take no place of others");
    }
    assert_eq!((solo.node.ops.len(), solo.node.lingering), (1, 1));
}

#[test]
fn repairs_under_way_are_bounded_and_forgotten_without_an_answer() {
    let limits = Limits { repairs_max: 1, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    assert_eq!(repairs(&differing(&mut solo, record(new()), old()).1).len(), 1);
    assert_eq!(repairs(&differing(&mut solo, record(new()), old()).1).len(), 0);
    assert_eq!((solo.node.figures().repairs, solo.node.figures().repairs_dropped), ([1, 0, 0, 0, 0], 1));
    solo.after(Limits::default().repair_after_ms);
    assert_eq!(repairs(&differing(&mut solo, record(new()), old()).1).len(), 1);
}

#[test]
fn who_is_not_linked_is_not_mended() {
    let mut solo = solo();
    let out = solo.ask(Request { quorum: Some(3), ..get() });
    solo.feed(Input::Found { job: own_read(&out), outcome: record(new()) });
    solo.found(N2, tag(&out), digest(new()));
    solo.found(N3, tag(&out), digest(old()));
    solo.link(N3, false);
    let out = solo.found(N3, tag(&out), record(old()));
    assert_eq!((repairs(&out).len(), solo.node.figures().repairs_dropped), (0, 1));
}
