//! One deletion from its epoch to its purge, in a town of a few nodes. Under faults: `tests/sim`.

use super::*;
use crate::context::Context;
use crate::event::{HintWork, Input, Operation, Request, Ticket, WriteJob};
use crate::hint;
use crate::limits::Limits;
use crate::message::{Message, Refused, Tag, WriteOutcome};
use crate::node::town::Town;
use crate::port::Durability;
use crate::replica::absorb;
use crate::testing::{PARTITION_BITS, Rules, job, key, version};

fn limits() -> Limits {
    Limits { sync_period_ms: 1 << 40, scrub_period_ms: 1 << 40, seals: true, ..Limits::default() }
}

/// Epochs end, and time passes for what follows.
fn epochs(town: &mut Town, count: u64) {
    for _ in 0..count {
        town.apply(&Entry::Advance);
        town.pass(1_000);
    }
}

/// Three nodes that have left the epochs behind in which nobody could speak of them.
fn town() -> Town {
    let mut town = Town::new(&limits());
    epochs(&mut town, 4);
    town
}

fn delete(town: &mut Town, name: &str) {
    let request = Request::new(Operation::Delete { key: key(name) });
    town.feed(NodeId(1), Input::Client { ticket: Ticket(1), request });
    town.deliver();
    assert!(town.replies.pop().is_some_and(|(_, reply)| reply.is_ok()), "{name}");
    town.pass(1_000);
}

/// Who holds a record of that key.
fn holders(town: &Town, name: &str) -> Vec<u64> {
    let ids = town.nodes.keys().map(|id| id.0);
    ids.filter(|id| !town.disk(*id).record(&key(name)).is_empty()).collect()
}

#[test]
fn what_is_deleted_in_one_epoch_is_gone_soon_after_the_second_one_after_it_has_begun() {
    let mut town = town();
    delete(&mut town, "k");
    epochs(&mut town, 1);
    assert_eq!(holders(&town, "k"), [1, 2, 3]);
    let epoch = Epoch(town.state.epoch.0 - 1);
    town.apply(&Entry::Advance);
    town.pass(5_000);
    assert_eq!(holders(&town, "k"), []);
    let partition = key("k").place(PARTITION_BITS).partition;
    assert!(town.state.sealed(partition).epoch >= epoch);
    let sealing = |id| town.nodes[&NodeId(id)].0.sealing();
    assert_eq!((sealing(1).undrained, sealing(1).confirming, sealing(1).purging), (None, 0, 0));
    assert_eq!([1, 2, 3].map(|id| sealing(id).purged), [1, 1, 1]);
    assert!(town.are_equal());
}

#[test]
fn a_tombstone_that_one_owner_lacks_reaches_it_before_the_partition_is_sealed() {
    let mut town = town();
    let (epoch, stamp) = (town.state.epoch, Hlc::from_ms(town.now.wall_ms));
    let jobs = |stamp, value: Option<&str>| {
        let version = Version { epoch, ..version(1, 1 + stamp % 2, Hlc(stamp), value) };
        [WriteJob { fresh: false, ..job(&key("k"), version) }]
    };
    for id in 1..=3 {
        assert!(absorb(town.disk(id).ports(&Rules::Work), &jobs(stamp.0, Some("old"))).0[0].is_held());
    }
    assert!(absorb(town.disk(2).ports(&Rules::Work), &jobs(stamp.0 + 1, None)).0[0].is_held());
    // Clocks that stood still as nobody said anything have passed that stamp one epoch later.
    epochs(&mut town, 4);
    town.pass(5_000);
    assert_eq!(holders(&town, "k"), []);
}

#[test]
fn a_node_that_is_away_holds_up_the_seal_and_says_its_word_when_it_is_back() {
    let mut town = town();
    let away = town.nodes.remove(&NodeId(3)).unwrap();
    for id in [1, 2].map(NodeId) {
        town.feed(id, Input::Link { peer: NodeId(3), up: false });
    }
    delete(&mut town, "k");
    epochs(&mut town, 5);
    assert_eq!(town.state.undrained().collect::<Vec<_>>(), [NodeId(3)]);
    let why = town.nodes[&NodeId(1)].0.sealing().undrained;
    assert!(matches!(why, Some((_, Undrained::Hints(NodeId(3))))), "{why:?}");
    assert_eq!(holders(&town, "k"), [1, 2]);
    town.nodes.insert(NodeId(3), away);
    town.tell();
    for (id, peer) in [(1, 3), (2, 3), (3, 1), (3, 2)].map(|(id, peer)| (NodeId(id), NodeId(peer))) {
        town.feed(id, Input::Link { peer, up: true });
    }
    epochs(&mut town, 3);
    town.pass(10_000);
    assert_eq!(holders(&town, "k"), []);
}

#[test]
fn late_copies_of_what_is_closed_are_refused_and_fresh_writes_are_stamped_above_it() {
    let mut town = town();
    epochs(&mut town, 2);
    let closed = town.state.closed();
    assert!(closed.epoch > Epoch(0) && closed.clock > Hlc::ZERO);
    let mut say = |version: Version, fresh| {
        let (key, past, durability) = (key("k"), Context::default(), Durability::Os);
        let message = Message::Write { tag: Tag(7), key, version, past, fresh, durability };
        town.feed(NodeId(1), Input::Peer { from: NodeId(2), clock: closed.clock, message });
        let answers = core::mem::take(&mut town.wire).into_iter();
        let outcome = |(_, _, message)| match message {
            Message::Written { tag: Tag(7), outcome } => Some(outcome),
            _ => None,
        };
        answers.filter_map(outcome).next_back().expect("it is answered")
    };
    let of = |epoch, stamp| Version { epoch, ..version(2, 9, stamp, Some("late")) };
    let refused = WriteOutcome::Refused(Refused::Closed);
    let (now, above) = (Epoch(closed.epoch.0 + 2), closed.clock.next());
    assert_eq!(say(of(closed.epoch, above), false), refused, "of a closed epoch");
    assert_eq!(say(of(now, closed.clock), false), refused, "of a clock that was set back");
    assert_eq!(say(of(now, closed.clock), true), WriteOutcome::StaleStamp { latest: closed.clock });
    assert_eq!(say(of(now, above), true), WriteOutcome::Held);
}

#[test]
fn a_hint_of_an_epoch_keeps_its_keeper_from_being_drained_of_it() {
    let mut town = town();
    let (epoch, stamp) = (town.state.epoch, Hlc::from_ms(town.now.wall_ms));
    let version = Version { epoch, ..version(1, 9, stamp, Some("owed")) };
    let Version { dot, written, .. } = version;
    let partition = key("k").place(PARTITION_BITS).partition;
    // Nobody can be reached under that id, so it stays.
    let id = crate::event::HintId { owner: NodeId(9), partition, epoch, written, dot };
    let kept = crate::event::Hint { id, key: key("k"), version, past: Context::default(), counted: true };
    let work = |work| [crate::event::HintJob { job: JobId(1), work }];
    hint::work(town.disk(1), &work(HintWork::Keep(kept, Durability::Sync)));
    epochs(&mut town, 3);
    assert!(town.state.closed().epoch < epoch);
    assert_eq!(town.state.undrained().collect::<Vec<_>>(), [NodeId(1)]);
    hint::work(town.disk(1), &work(HintWork::Drop([id].into())));
    town.pass(3_000);
    assert!(town.state.closed().epoch >= epoch);
}

#[test]
fn a_partition_that_moved_is_sealed_when_whoever_had_it_is_rid_of_it() {
    let mut town = town();
    delete(&mut town, "k");
    town.join(4, &limits());
    town.apply(&Entry::Change { wish: crate::cluster::Wish::Weight { node: NodeId(4), weight: 300 }, seen: None });
    town.lead();
    town.pass(20_000);
    assert!(town.state.change.is_none());
    assert!(!(1..=4).any(|id| town.state.is_leftover(NodeId(id))));
    epochs(&mut town, 4);
    town.pass(10_000);
    assert_eq!(holders(&town, "k"), []);
    let closed = town.state.closed().epoch;
    assert!((0..1 << PARTITION_BITS).all(|p| town.state.sealed(PartitionId(p)).epoch == closed));
}
