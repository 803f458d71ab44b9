//! A disk that lies is found by the schedule, by an operator and by clients, and the other owners mend it.

use super::*;
use crate::event::{Input, Operation, Request, Ticket, WriteJob};
use crate::limits::Limits;
use crate::message::WriteOutcome;
use crate::node::town::Town;
use crate::port::{Change, Durability, Store, Table};
use crate::replica::absorb;
use crate::request::{Answer, Reply};
use crate::testing::{PARTITION_BITS, Rules, job, key, version};
use crate::time::Hlc;
use crate::version::Version;

const KEYS: u64 = 60;

/// Nothing but a scrub can mend anything here before long.
fn limits() -> Limits {
    Limits { sync_period_ms: 1 << 40, scrub_period_ms: 1 << 40, ..Limits::default() }
}

/// Three owners that hold the same.
fn equal(limits: &Limits) -> Town {
    let town = Town::new(limits);
    for i in 0..KEYS {
        let version = Version { epoch: town.state.epoch, ..version(1, 1 + i, Hlc(10 + i), Some("v")) };
        for id in 1..=3 {
            let jobs = [WriteJob { fresh: false, ..job(&key(&format!("key {i}")), version.clone()) }];
            assert_eq!(absorb(town.disk(id).ports(&Rules::Work), &jobs).0, [WriteOutcome::Held]);
        }
    }
    assert!(town.are_equal());
    town
}

fn figures(town: &Town, id: u64) -> ScrubFigures {
    town.nodes[&NodeId(id)].0.scrub_figures()
}

fn faults(town: &Town, id: u64) -> Vec<DiskFault> {
    town.nodes[&NodeId(id)].0.disk_faults().copied().collect()
}

fn scrub(town: &mut Town, id: u64) {
    town.feed(NodeId(id), Input::Scrub { partition: None });
    town.deliver();
}

fn holds_all(town: &Town, id: u64) -> bool {
    (0..KEYS).all(|i| {
        let key = key(&format!("key {i}"));
        town.disk(id).record(&key) == town.disk(1).record(&key)
    })
}

#[test]
fn the_schedule_looks_at_every_record_once_in_a_period() {
    let mut town = equal(&Limits { scrub_period_ms: 60_000, ..limits() });
    town.pass(61_000);
    let seen = figures(&town, 2);
    assert!(seen.passes >= 1 && seen.records >= KEYS, "{seen:?}");
    assert_eq!((seen.damaged, seen.altered, seen.unreadable, seen.waiting), (0, 0, 0, 0));
    town.pass(600_000);
    let later = figures(&town, 2);
    assert!((9..=11).contains(&(later.passes - seen.passes)), "{later:?}");
}

#[test]
fn a_pass_reads_no_faster_than_it_may() {
    let mut town = equal(&Limits { scrub_bytes_per_second: 4 << 10, ..limits() });
    town.nodes.get_mut(&NodeId(2)).unwrap().0.scrub.due = 0;
    town.pass(8_000);
    // Each partition costs 4 KiB at least, and one second's worth is free.
    let done = figures(&town, 2).partitions_done;
    assert!((7..=10).contains(&done), "{done} partitions");
    town.pass(10_000);
    assert_eq!((figures(&town, 2).passes, figures(&town, 2).records), (1, KEYS));
    // Without a rate it looks only when it is asked to.
    let mut town = equal(&Limits { scrub_bytes_per_second: 0, scrub_period_ms: 1_000, ..limits() });
    town.pass(10_000);
    assert_eq!(figures(&town, 2).records, 0);
    scrub(&mut town, 2);
    assert_eq!((figures(&town, 2).records, figures(&town, 2).demanded), (KEYS, 0));
}

#[test]
fn a_damaged_record_is_named_and_fetched_from_the_other_owners() {
    let mut town = equal(&limits());
    town.disk(2).damage(&key("key 7"));
    town.disk(2).restart();
    scrub(&mut town, 2);
    town.pass(1_000);
    assert!(holds_all(&town, 2) && town.are_equal());
    let seen = figures(&town, 2);
    assert_eq!((seen.damaged, seen.mended, seen.waiting, seen.demanded), (1, 1, 1, 0));
    let [fault] = faults(&town, 2)[..] else { panic!("{:?}", faults(&town, 2)) };
    assert_eq!(fault.place, key("key 7").place(PARTITION_BITS));
    assert_eq!(fault.key, Some(key_hash(&key("key 7").engine_key(PARTITION_BITS))));
    assert_eq!(fault.kind, FaultKind::Damaged);
    assert!(fault.mended_ms.is_some());
    town.pass(120_000);
    assert_eq!(figures(&town, 2).waiting, 0);
}

#[test]
fn it_waits_until_every_other_owner_can_tell() {
    let mut town = equal(&limits());
    town.disk(2).damage(&key("key 7"));
    town.disk(2).restart();
    town.feed(NodeId(2), Input::Link { peer: NodeId(3), up: false });
    scrub(&mut town, 2);
    town.pass(120_000);
    let seen = figures(&town, 2);
    assert_eq!((seen.damaged, seen.mended, seen.waiting), (1, 0, 1), "node 3 may hold what node 1 does not");
    town.feed(NodeId(2), Input::Link { peer: NodeId(3), up: true });
    town.pass(180_000);
    assert_eq!((figures(&town, 2).mended, figures(&town, 2).waiting), (1, 0));
    assert!(holds_all(&town, 2) && town.are_equal());
}

#[test]
fn two_owners_that_damaged_the_same_record_get_it_from_the_third() {
    let mut town = equal(&limits());
    for id in [2, 3] {
        town.disk(id).damage(&key("key 7"));
        town.disk(id).restart();
        scrub(&mut town, id);
    }
    // The one that is mended first tells the other nothing until it can be sure of what it holds.
    town.pass(180_000);
    assert!([2, 3].iter().all(|id| holds_all(&town, *id)) && town.are_equal());
}

#[test]
fn a_client_that_meets_a_damaged_record_gets_its_answer_and_has_it_mended() {
    let mut town = equal(&limits());
    town.disk(2).damage(&key("key 7"));
    town.disk(2).restart();
    let get = Request::new(Operation::Get { key: key("key 7") });
    town.feed(NodeId(2), Input::Client { ticket: Ticket(1), request: get });
    town.deliver();
    let [(Ticket(1), Reply::Ok(Answer::Found { versions, .. }))] = &town.replies[..] else {
        panic!("{:?}", town.replies)
    };
    assert_eq!(versions[0].value.as_deref(), Some(&b"v"[..]));
    town.pass(1_000);
    assert!(holds_all(&town, 2) && town.are_equal());
    assert_eq!(figures(&town, 2).mended, 1);
}

#[test]
fn a_mended_record_is_read_only_when_no_write_that_had_counted_can_be_missing() {
    let mut town = equal(&limits());
    // A write that node 2 had counted is still on its way to the others when the damage is found and mended.
    town.write(2, "key 7", 500);
    town.disk(2).damage(&key("key 7"));
    town.disk(2).restart();
    scrub(&mut town, 2);
    town.pass(1_000);
    assert_eq!(figures(&town, 2).mended, 1);
    town.write(1, "key 7", 500);
    assert!(!holds_all(&town, 2), "nobody could tell");
    let ask = |town: &mut Town| {
        let (clock, epoch) = (Hlc::from_ms(town.now.wall_ms), town.state.epoch);
        let message = Message::Read { tag: Tag(9), key: key("key 7"), epoch, want: Want::Record };
        town.feed(NodeId(2), Input::Peer { from: NodeId(3), clock, message });
        let Some((_, _, Message::Found { outcome, .. })) = town.wire.pop_back() else { panic!("no answer") };
        outcome
    };
    assert_eq!(ask(&mut town), ReadOutcome::Refused(Refused::Busy), "it would not be in a quorum's answer");
    town.pass(55_000);
    assert_eq!(ask(&mut town), ReadOutcome::Refused(Refused::Busy), "that write may still be answered");
    town.pass(60_000);
    assert!(holds_all(&town, 2));
    assert_eq!(ask(&mut town), ReadOutcome::Record(town.disk(1).record(&key("key 7"))));
}

#[test]
fn a_record_that_the_disk_exchanged_for_another_one_is_replaced() {
    let mut town = equal(&limits());
    // Whole and readable, and not what was written: the dot's value is another one.
    let name = key("key 7");
    let right = town.disk(2).record(&name).versions()[0].clone();
    let value = bytes::Bytes::from_static(b"lie");
    let wrong = Version { digest: crate::version::value_digest(Some(&value)), value: Some(value), ..right };
    let put = Change::Put {
        table: Table::Records,
        key: name.engine_key(PARTITION_BITS).into(),
        value: Record::of(wrong).encode(),
    };
    town.disk(2).apply(vec![put], Durability::Sync).unwrap();
    town.disk(2).restart();
    assert!(!holds_all(&town, 2) && town.are_equal(), "the sums know nothing of it");
    scrub(&mut town, 2);
    town.pass(1_000);
    assert!(holds_all(&town, 2) && town.are_equal());
    let [fault] = faults(&town, 2)[..] else { panic!("{:?}", faults(&town, 2)) };
    assert_eq!((fault.place, fault.key, fault.kind), (name.place(PARTITION_BITS), None, FaultKind::Altered));
    assert!(fault.mended_ms.is_some() && town.nodes[&NodeId(2)].0.scrub.distrusted.is_empty());
    // And the others never believed it.
    assert!([1, 3].iter().all(|id| holds_all(&town, *id) && faults(&town, *id).is_empty()));
}

#[test]
fn what_the_disk_lost_comes_back_when_its_owners_can_be_reached() {
    let mut town = equal(&limits());
    for i in 0..20 {
        let key = key(&format!("key {i}")).engine_key(PARTITION_BITS).into();
        town.disk(2).apply(vec![Change::Delete { table: Table::Records, key }], Durability::Sync).unwrap();
    }
    for peer in [1, 3].map(NodeId) {
        town.feed(NodeId(2), Input::Link { peer, up: false });
    }
    scrub(&mut town, 2);
    town.pass(90_000);
    assert!(figures(&town, 2).altered > 10 && !town.are_equal());
    for peer in [1, 3].map(NodeId) {
        town.feed(NodeId(2), Input::Link { peer, up: true });
    }
    town.pass(60_000);
    assert!(holds_all(&town, 2) && town.are_equal());
    assert!(faults(&town, 2).iter().all(|fault| fault.mended_ms.is_some()));
}
