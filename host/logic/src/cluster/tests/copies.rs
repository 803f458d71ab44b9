//! Another number of copies, as entries alone: the machinery that moves data is tested where it is.

use super::change::{accept, apply, begin, complete, hold_all, leave};
use super::*;

const ID: KeyspaceId = KeyspaceId(1);

fn alter(n: u8, r: u8, w: u8) -> Entry {
    Entry::AlterKeyspace { keyspace: Keyspace { durability: Durability::Sync, ..keyspace(DEFAULT_KEYSPACE, n, r, w) } }
}

/// The leader begins what is due: it must be a change of copies.
fn begin_copies(state: &mut State) {
    let entry = state.due().expect("a change is due");
    assert!(matches!(entry, Entry::BeginCopies { .. }), "{entry:?}");
    apply(state, &[entry]);
}

fn has(state: &State) -> (u8, u8, u8) {
    let Copies { n, r, w } = state.keyspaces[&ID].copies();
    (n, r, w)
}

/// Three members, with two copies.
fn two_of_three() -> State {
    let mut state = formed();
    apply(&mut state, &[alter(2, 2, 2)]);
    begin_copies(&mut state);
    complete(&mut state);
    assert_eq!(has(&state), (2, 2, 2));
    state
}

#[test]
fn fewer_copies_need_nothing_fetched_where_quorums_meet() {
    let mut state = formed();
    apply(&mut state, &[alter(2, 2, 1)]);
    assert_eq!(
        (has(&state), state.copies_wanted(ID)),
        ((3, 2, 2), Some(Copies { n: 2, r: 2, w: 1 })),
        "it is a wish so far"
    );
    let before = state.epoch;
    begin_copies(&mut state);
    let p = PartitionId(0);
    let change = state.change.clone().unwrap();
    assert_eq!((change.moving, change.closing), (0, Some(state.epoch)));
    assert_eq!(state.epoch.0, before.0 + 4, "nobody takes what was sent under one table, nor reads as before");
    let (all, two) = (state.owners(p, 3), state.owners(p, 2));
    let tables = state.tables(p, ID);
    assert_eq!((tables.old, tables.next, tables.read), (all, Some(two), two));
    assert_eq!((tables.r, tables.w, state.copies_max(ID)), (2, [2, 1], 3));
    assert!(state.is_moving(p), "it is not sealed meanwhile");
    complete(&mut state);
    let tables = state.tables(p, ID);
    assert_eq!((tables.read, tables.next, has(&state)), (state.owners(p, 2), None, (2, 2, 1)));
    assert_eq!(state.leftovers(p).count(), 3, "all of them may be left with something");
    assert!(state.wanted.is_empty() && state.due().is_none());
}

#[test]
fn one_more_copy_is_fetched_before_it_is_read() {
    let mut state = two_of_three();
    apply(&mut state, &[alter(3, 2, 2)]);
    begin_copies(&mut state);
    let p = PartitionId(5);
    let change = state.change.clone().unwrap();
    let third = state.owners(p, 3)[2];
    assert_eq!((change.moving, &change.waits[&p]), (16, &vec![third]));
    assert!(state.gains(third, p, ID) && !state.gains(state.owners(p, 1)[0], p, ID));
    let tables = state.tables(p, ID);
    assert_eq!((tables.read, tables.r, tables.w), (state.owners(p, 2), 2, [2, 2]));
    assert!(state.holds(third, p, state.copies_max(ID)), "it takes writes");
    apply(&mut state, &[Entry::Hold { change: change.id, node: third, partitions: vec![p] }]);
    assert_eq!(state.tables(p, ID).read, state.owners(p, 3));
    complete(&mut state);
    assert_eq!(has(&state), (3, 2, 2));
}

#[test]
fn where_quorums_of_before_and_after_need_not_meet_all_owners_fetch() {
    let mut state = formed();
    apply(&mut state, &[alter(1, 1, 1)]);
    begin_copies(&mut state);
    let change = state.change.clone().unwrap();
    for (partition, gainers) in &change.waits {
        assert_eq!(gainers[..], *state.owners(*partition, 1), "the two others may have acknowledged what it lacks");
    }
    assert_eq!(change.waits.len(), 16);
    complete(&mut state);
    assert_eq!(has(&state), (1, 1, 1));
}

/// Sets of owners are bits, by their places.
fn sets(of: u32, at_least: u8) -> impl Iterator<Item = u32> + Clone {
    (0u32..32).filter(move |set| set & !of == 0 && set.count_ones() >= u32::from(at_least))
}

#[test]
fn every_write_of_before_is_met_by_every_read_of_after() {
    let copies = (1u8..=5).flat_map(|n| (1..=n).flat_map(move |r| (1..=n).map(move |w| Copies { n, r, w })));
    let nodes: Vec<NodeId> = (0..5).map(NodeId).collect();
    for now in copies.clone().filter(|now| now.is_strict()) {
        for then in copies.clone().filter(|then| then.n != now.n) {
            let (old, next) = (&nodes[..usize::from(now.n)], &nodes[..usize::from(then.n)]);
            let gained = State::gainers((now, then), (old, next)).fold(0u32, |set, node| set | 1 << node.0);
            let bits = |n: u8| (1u32 << n) - 1;
            for wrote in sets(bits(now.n), now.w) {
                let holds = wrote | gained;
                assert!(sets(bits(then.n), then.r).all(|reads| reads & holds != 0), "{now:?} to {then:?}: {wrote:b}");
                // The next change counts on that.
                let holders = (holds & bits(then.n)).count_ones();
                assert!(holders >= u32::from(then.w), "{now:?} to {then:?}: {wrote:b}");
            }
        }
    }
}

#[test]
fn what_is_asked_for_meanwhile_follows() {
    let mut state = two_of_three();
    apply(&mut state, &[open(4, 41), accept(4)]);
    begin(&mut state);
    apply(&mut state, &[alter(3, 2, 2)]);
    assert_eq!(state.due(), None, "the ring changes");
    complete(&mut state);
    begin_copies(&mut state);
    apply(&mut state, &[alter(1, 1, 1)]);
    assert_eq!(state.copies(ID), Some((Copies::usual(2), Copies::usual(3))), "what has begun goes on");
    let refused = Entry::BeginCopies { changes: state.changes };
    check_refusal("one change at a time", &state, &refused, Why::Order("follows it"));
    complete(&mut state);
    assert_eq!((has(&state), state.copies_wanted(ID)), ((3, 2, 2), Some(Copies::usual(1))));
    apply(&mut state, &[alter(3, 2, 3)]);
    assert_eq!((has(&state), state.due()), ((3, 2, 3), None), "back to what it has: nothing needs to be done");
    let late = Entry::BeginCopies { changes: state.changes };
    check_refusal("nothing is wanted", &state, &late, Why::Order("no keyspace waits"));
}

#[test]
fn other_quorums_of_the_copies_that_are_being_made_come_with_the_end() {
    let mut state = two_of_three();
    apply(&mut state, &[alter(3, 2, 2)]);
    begin_copies(&mut state);
    apply(&mut state, &[alter(3, 1, 3)]);
    assert_eq!(state.copies(ID).map(|(_, next)| next), Some(Copies::usual(3)));
    complete(&mut state);
    assert_eq!((has(&state), state.due()), ((3, 1, 3), None));
}

#[test]
fn several_keyspaces_change_at_once_and_others_stay() {
    let mut state = two_of_three();
    let (a, b) = (keyspace("a", 2, 2, 2), keyspace("b", 2, 2, 2));
    apply(&mut state, &[a.clone(), b.clone()].map(|keyspace| Entry::CreateKeyspace { keyspace }));
    let (a, b_id) = (Keyspace { n: 3, ..a }, state.keyspace("b").unwrap().0);
    apply(&mut state, &[alter(3, 2, 2), Entry::AlterKeyspace { keyspace: a }]);
    begin_copies(&mut state);
    assert_eq!(state.change.as_ref().unwrap().copies.len(), 2);
    assert_eq!(state.tables(PartitionId(0), b_id).next, None, "nothing changes for the third");
    complete(&mut state);
    let has = |name| state.keyspace(name).unwrap().1.n;
    assert_eq!((has("default"), has("a"), has("b")), (3, 3, 2));
}

#[test]
fn more_copies_than_places_make_the_ring_wider_first() {
    let mut state = formed();
    check_refusal("a fourth owner", &state, &alter(4, 3, 3), Why::Invalid("3 members that own data"));
    apply(&mut state, &[open(4, 41), accept(4)]);
    begin(&mut state);
    complete(&mut state);
    assert_eq!(state.ring.as_ref().unwrap().width(), 3, "it does not widen with the cluster");
    apply(&mut state, &[alter(4, 3, 3)]);
    check_refusal("too few are left", &state, &leave(4, false), Why::Invalid("n = 4"));
    let created = Entry::CreateKeyspace { keyspace: keyspace("new", 4, 3, 3) };
    check_refusal("there are no places yet", &state, &created, Why::Invalid("1 to 3"));
    begin(&mut state);
    assert_eq!(state.change, None, "places that no keyspace has are nowhere fetched");
    assert_eq!((state.ring.as_ref().unwrap().width(), has(&state)), (4, (3, 2, 2)));
    begin_copies(&mut state);
    complete(&mut state);
    assert_eq!(has(&state), (4, 3, 3));
    check_refusal("more than any ring has", &state, &alter(6, 4, 4), Why::Invalid("1 to 5"));
}

#[test]
fn an_owner_that_is_dead_is_not_waited_for_and_others_are_also_when_they_shall_leave() {
    let mut state = two_of_three();
    apply(&mut state, &[open(4, 41), accept(4), open(5, 51), accept(5)]);
    begin(&mut state);
    complete(&mut state);
    apply(&mut state, &[alter(3, 2, 2)]);
    begin_copies(&mut state);
    let waits = |state: &State, node| {
        state.change.as_ref().is_some_and(|change| change.waits.values().flatten().any(|n| *n == NodeId(node)))
    };
    assert!(waits(&state, 3) && waits(&state, 4));
    apply(&mut state, &[leave(3, true), leave(4, false)]);
    assert!(!waits(&state, 3) && waits(&state, 4));
    complete(&mut state);
    assert_eq!(has(&state), (3, 2, 2));
    begin(&mut state);
    hold_all(&mut state);
    for node in [1, 2, 4, 5].map(NodeId) {
        if let Some(change) = state.change.as_ref().map(|change| change.id) {
            apply(&mut state, &[Entry::Seen { change, node }]);
        }
    }
    assert_eq!(state.change, None);
    assert!(state.ring.as_ref().unwrap().iter().all(|(_, owners)| !owners.contains(&NodeId(3))));
}

#[test]
fn the_history_says_what_became_of_copies() {
    let mut state = two_of_three();
    apply(&mut state, &[alter(3, 2, 2).signed("ada", 1)]);
    begin_copies(&mut state);
    complete(&mut state);
    let told: Vec<_> = state.history.iter().map(|event| event.what.as_str()).collect();
    let tail = [
        "keyspace \"default\" was altered",
        "change 2 began: 16 partitions move; keyspace \"default\" gets 3 copies, and had 2",
        "change 2 ended",
    ];
    assert!(told.ends_with(&tail), "{told:?}");
}

proptest! {
    /// Whatever is wished and whenever: when nothing is due any more, keyspaces have what was wished last.
    #[test]
    fn nothing_wished_is_lost(wishes in prop::collection::vec((1u8..=4, 0u8..4), 1..20)) {
        let mut state = formed();
        apply(&mut state, &[open(4, 41), accept(4)]);
        let mut last = 3;
        for (n, step) in wishes {
            last = n;
            let Copies { n, r, w } = Copies::usual(n);
            apply(&mut state, &[alter(n, r, w)]);
            match step {
                0 => {}
                1 => if let Some(due) = state.due() { apply(&mut state, &[due]) },
                2 => hold_all(&mut state),
                _ => if state.change.is_some() { complete(&mut state) },
            }
        }
        for _ in 0..4 {
            if state.change.is_some() { complete(&mut state) }
            if let Some(due) = state.due() { apply(&mut state, &[due]) }
        }
        prop_assert_eq!((has(&state).0, state.due(), state.change.is_none()), (last, None, true));
    }
}
