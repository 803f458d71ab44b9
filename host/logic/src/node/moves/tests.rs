//! One partition comes, another one goes: step by step, in a town of a few nodes. Under faults: `tests/sim`.

use super::*;
use crate::cluster::{Copies, Keyspace, Wish};
use crate::context::Context;
use crate::event::{Input, Operation, Request, Ticket};
use crate::id::Key;
use crate::limits::Limits;
use crate::message::{Message, ReadOutcome, Refused, Tag, Want};
use crate::node::town::Town;
use crate::port::{Durability, StoreError};
use crate::request::Answer;
use crate::testing::{LWW, PARTITION_BITS, Rules, key, version};
use crate::time::Hlc;
use crate::version::Version;
use bytes::Bytes;

fn limits() -> Limits {
    Limits { sync_period_ms: 1 << 40, scrub_period_ms: 1 << 40, ..Limits::default() }
}

const KEYS: u64 = 60;

fn name(i: u64) -> String {
    format!("key {i}")
}

/// Three nodes that hold the same, and a fourth one that shall own its share.
fn growing() -> Town {
    let mut town = Town::new(&limits());
    for i in 0..KEYS {
        (1..=3).for_each(|id| town.write(id, &name(i), 10 + i));
    }
    town.join(4, &limits());
    town
}

fn owners(town: &Town, key: &Key) -> Vec<NodeId> {
    town.state.tables(key.place(PARTITION_BITS).partition, key.keyspace).all()
}

/// Who holds a record of `key`.
fn holders(town: &Town, key: &Key) -> Vec<NodeId> {
    town.nodes.keys().copied().filter(|id| !town.disk(id.0).record(key).is_empty()).collect()
}

fn check_everything_is_where_it_belongs(town: &Town) {
    for i in 0..KEYS {
        let (key, mut owners) = (key(&name(i)), owners(town, &key(&name(i))));
        owners.sort();
        assert_eq!(holders(town, &key), owners, "{key:?}");
    }
    for (id, (node, disk)) in &town.nodes {
        assert_eq!(node.moves(), [], "{id}");
        let (said, is) = (disk.digests(|digests| digests.held()), disk.recomputed().held());
        assert_eq!(said, is, "{id}: sums of what is not there");
    }
}

#[test]
fn a_node_that_joins_fetches_its_share_and_the_others_drop_what_they_lost() {
    let mut town = growing();
    town.lead();
    town.pass(10_000);
    assert_eq!(town.state.change, None);
    assert_eq!(town.state.ring.as_ref().map(|ring| ring.owned_by(NodeId(4), 3)), Some(12));
    check_everything_is_where_it_belongs(&town);
}

#[test]
fn a_node_that_leaves_hands_over_what_only_it_holds_and_says_so_last() {
    let mut town = growing();
    town.lead();
    town.pass(10_000);
    let lonely = (0..KEYS).map(|i| key(&name(i))).find(|key| owners(&town, key).contains(&NodeId(4))).unwrap();
    let text = String::from_utf8(lonely.partition_key.to_vec()).unwrap();
    town.write(4, &text, 9_000);
    town.apply(&Entry::Change { wish: Wish::Leave { node: NodeId(4), dead: false }, seen: None });
    town.lead();
    town.pass(20_000);
    assert!(town.state.removed.contains_key(&NodeId(4)), "{:?}", town.state.change);
    let latest = |id: &NodeId| town.disk(id.0).record(&lonely).latest().map(|written| written.0);
    let know = owners(&town, &lonely).iter().filter(|id| latest(id) == Some(9_000)).count();
    assert!(know >= 2, "W owners at least hold what one alone had written");
    assert!(!holders(&town, &lonely).contains(&NodeId(4)));
}

#[test]
fn a_node_that_was_never_accepted_hands_over_what_it_keeps_for_others_before_it_goes() {
    let mut town = growing();
    town.state.members.get_mut(&NodeId(4)).unwrap().standing = Standing::Joining;
    town.tell();
    let key = key("kept");
    let owner = owners(&town, &key)[0];
    let links = |town: &mut Town, up| {
        for (a, b) in [(NodeId(4), owner), (owner, NodeId(4))] {
            town.feed(a, Input::Link { peer: b, up });
        }
    };
    links(&mut town, false);
    let asker = NodeId(if owner.0 == 1 { 2 } else { 1 });
    let version = Version { epoch: town.state.epoch, ..version(asker.0, 900, Hlc(900), Some("kept")) };
    let (past, durability) = (Context::default(), Durability::Sync);
    let keep = Message::Keep { tag: Tag(1), owner, key: key.clone(), version, past, durability };
    let clock = Hlc::from_ms(town.now.wall_ms);
    town.feed(NodeId(4), Input::Peer { from: asker, clock, message: keep });
    town.apply(&Entry::Change { wish: Wish::Leave { node: NodeId(4), dead: false }, seen: None });
    town.lead();
    town.pass(10_000);
    assert!(town.state.members.contains_key(&NodeId(4)), "an acknowledged write is on its disk alone");
    assert!(!holders(&town, &key).contains(&owner));
    links(&mut town, true);
    town.pass(10_000);
    assert!(town.state.removed.contains_key(&NodeId(4)));
    assert!(holders(&town, &key).contains(&owner));
}

#[test]
fn nothing_is_held_before_enough_old_owners_were_compared_with() {
    let mut town = growing();
    for (a, b) in [(4, 2), (4, 3)] {
        town.feed(NodeId(a), Input::Link { peer: NodeId(b), up: false });
    }
    town.lead();
    town.pass(10_000);
    assert!(town.state.change.as_ref().is_some_and(|change| change.waits.len() == 12), "one old owner is too few");
    let moves = town.nodes[&NodeId(4)].0.moves();
    assert_eq!(moves.len(), 12);
    assert!(moves.iter().all(|one| (one.way, one.compared, one.needed) == (Way::In, 1, 2)), "{moves:?}");
    let waits = |error: &Option<MoveError>| matches!(error, Some(MoveError::Unreachable(NodeId(2 | 3))));
    assert!(moves.iter().all(|one| waits(&one.error)), "it says for whom it waits");
    town.feed(NodeId(4), Input::Link { peer: NodeId(2), up: true });
    town.pass(10_000);
    assert_eq!(town.state.change, None);
    check_everything_is_where_it_belongs(&town);
}

#[test]
fn a_disk_that_takes_nothing_holds_nothing() {
    let mut town = growing();
    town.disk(4).fail(Some(StoreError::Full("no room".into())));
    town.lead();
    town.pass(10_000);
    assert!(town.state.change.as_ref().is_some_and(|change| change.waits.len() == 12));
    let moves = town.nodes[&NodeId(4)].0.moves();
    assert!(moves.iter().any(|one| matches!(one.error, Some(MoveError::Partial(_) | MoveError::Store))), "{moves:?}");
    town.disk(4).fail(None);
    town.pass(10_000);
    check_everything_is_where_it_belongs(&town);
}

/// A partition that moves from some node to 4: a key in it, and who loses it.
fn moving(town: &Town) -> (Key, NodeId) {
    let change = town.state.change.as_ref().expect("a change is under way");
    let of = |i| {
        let key = key(&name(i));
        let tables = town.state.tables(key.place(PARTITION_BITS).partition, key.keyspace);
        let loses = tables
            .old
            .iter()
            .copied()
            .find(|node| !change.next.owners(key.place(PARTITION_BITS).partition, 3).contains(node));
        loses.map(|loses| (key, loses))
    };
    (0..KEYS).find_map(of).expect("a key that moves")
}

#[test]
fn an_owner_that_lost_a_partition_sends_whoever_asks_as_before_to_the_table_of_now() {
    let mut town = growing();
    town.lead();
    let (key, loser) = moving(&town);
    let before = town.state.epoch;
    town.pass(10_000);
    let current = town.state.epoch;
    let mut ask = |epoch| {
        let message = Message::Read { tag: Tag(99), key: key.clone(), epoch, want: Want::Digest };
        let (clock, mut out) = (Hlc(1), Vec::new());
        let (node, _) = town.nodes.get_mut(&loser).unwrap();
        node.step(town.now, Input::Peer { from: NodeId(4), clock, message }, &Rules::Work, &mut out);
        out.into_iter().find_map(|effect| match effect {
            Effect::Send { message: Message::Found { outcome, .. }, .. } => Some(outcome),
            _ => None,
        })
    };
    let stale = Some(ReadOutcome::StaleEpoch { current });
    assert_eq!((ask(before), ask(Epoch(current.0 - 1))), (stale.clone(), stale));
    assert_eq!(ask(current), Some(ReadOutcome::Refused(Refused::NotOwner)));
}

#[test]
fn a_write_under_way_when_the_table_changes_is_written_to_both_tables() {
    let mut town = growing();
    let value = Bytes::from_static(b"new");
    let ticket = Ticket(7);
    let (key, coordinator) = {
        let mut then = town.state.clone();
        then.apply(&then.due().unwrap()).unwrap();
        let moves = |key: &Key| then.tables(key.place(PARTITION_BITS).partition, key.keyspace).next.is_some();
        let key = (0..KEYS).map(|i| key(&name(i))).find(moves).unwrap();
        let owner = owners(&town, &key)[0];
        (key, owner)
    };
    let put = Request::new(Operation::Put { key: key.clone(), value });
    town.feed(coordinator, Input::Client { ticket, request: put });
    // What it sent as before is answered by owners that know of the change.
    town.lead();
    let written = town.replies.iter().find_map(|(to, reply)| match reply {
        Ok(Answer::Written { written, .. }) if *to == ticket => Some(*written),
        _ => None,
    });
    let written = written.expect("it is acknowledged");
    let tables = town.state.tables(key.place(PARTITION_BITS).partition, key.keyspace);
    let holds = |id: &&NodeId| town.disk(id.0).record(&key).latest() == Some(written);
    assert!(tables.old.iter().filter(holds).count() >= 2);
    assert!(tables.next.unwrap().iter().filter(holds).count() >= 2);
}

#[test]
fn fewer_copies_are_dropped_where_they_are_too_many_and_fetched_again_when_there_shall_be_more() {
    let mut town = Town::new(&limits());
    for i in 0..KEYS {
        (1..=3).for_each(|id| town.write(id, &name(i), 10 + i));
    }
    // Disks hear what they are told from now on.
    town.tell();
    for n in [2, 3, 1, 3] {
        let Copies { n, r, w } = Copies::usual(n);
        let keyspace = Keyspace { n, r, w, ..town.state.keyspaces[&LWW].clone() };
        town.apply(&Entry::AlterKeyspace { keyspace });
        town.lead();
        town.pass(20_000);
        assert_eq!((town.state.change.as_ref(), town.state.keyspaces[&LWW].copies()), (None, Copies { n, r, w }));
        for key in (0..KEYS).map(|i| key(&name(i))) {
            let (mut owners, holders) = (owners(&town, &key), holders(&town, &key));
            owners.sort();
            assert_eq!((holders, owners.len()), (owners, usize::from(n)), "{n} copies of {key:?}");
        }
        for (node, _) in town.nodes.values() {
            assert_eq!(node.moves(), []);
        }
    }
}
