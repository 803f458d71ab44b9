//! Claims about what is closed and sealed.

use super::*;
use crate::time::Hlc;

const P0: PartitionId = PartitionId(0);
const N3: NodeId = NodeId(3);

/// Three nodes in epoch 20, each with all partitions.
fn formed() -> State {
    let mut state = joined();
    let form = state.form_entry().expect("all have joined");
    state.apply(&form).map(drop).expect("the ring is right");
    while state.epoch < Epoch(20) {
        state.apply(&Entry::Advance).map(drop).expect("time passes");
    }
    state
}

fn drained(node: u64, epoch: u64, clock: u64) -> Entry {
    let mark = Mark { epoch: Epoch(epoch), clock: Hlc(clock) };
    Entry::Drained { node: NodeId(node), incarnation: Incarnation(1), mark }
}

fn confirm(state: &State, node: u64, closed: u64) -> Entry {
    let (closed, changes) = (Epoch(closed), state.changes);
    Entry::Confirm { node: NodeId(node), closed, changes, partitions: vec![P0] }
}

fn must(state: &mut State, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        state.apply(&entry).unwrap_or_else(|refusal| panic!("{entry:?}: {refusal}"));
    }
}

fn refused(state: &mut State, entry: &Entry) {
    let before = state.clone();
    assert!(state.apply(entry).is_err(), "{entry:?}");
    assert_eq!(*state, before);
}

fn mark(epoch: u64, clock: u64) -> Mark {
    Mark { epoch: Epoch(epoch), clock: Hlc(clock) }
}

#[test]
fn an_epoch_is_closed_when_every_member_has_left_it_at_the_least_of_their_clocks() {
    let mut state = formed();
    must(&mut state, [drained(1, 10, 100), drained(2, 10, 90)]);
    assert_eq!((state.closed(), state.undrained().collect::<Vec<_>>()), (Mark::default(), vec![N3]));
    must(&mut state, [drained(3, 10, 95)]);
    assert_eq!(state.closed(), mark(10, 90));
}

#[test]
fn a_clock_that_was_said_of_a_later_epoch_says_nothing_of_an_earlier_one() {
    let mut state = formed();
    must(&mut state, [drained(1, 12, 300), drained(2, 10, 90), drained(3, 10, 95)]);
    // The first may stamp in epochs 11 and 12 below 300.
    assert_eq!(state.closed(), mark(10, 0));
    must(&mut state, [drained(2, 12, 280), drained(3, 13, 400)]);
    assert_eq!(state.closed(), mark(12, 95), "of the third, its word of epoch 10 counts");
}

#[test]
fn a_member_says_it_once_of_epochs_that_it_can_have_left_and_as_the_process_that_it_is() {
    let mut state = formed();
    must(&mut state, [drained(1, 10, 100)]);
    refused(&mut state, &drained(1, 10, 100));
    refused(&mut state, &drained(1, 9, 200));
    refused(&mut state, &drained(1, 19, 200));
    refused(&mut state, &drained(7, 10, 200));
    must(&mut state, [open(1, 12)]);
    refused(&mut state, &drained(1, 11, 200));
    assert_eq!(state.drained(NodeId(1)), mark(10, 100), "what it said as the process before still holds");
}

#[test]
fn nobody_waits_for_a_dead_member_but_for_every_new_one() {
    let mut state = formed();
    must(&mut state, [open(4, 41), drained(1, 10, 100), drained(2, 10, 90), drained(3, 10, 95)]);
    assert_eq!(state.closed(), Mark::default(), "the fourth may coordinate writes as well");
    let wish = Wish::Leave { node: NodeId(4), dead: true };
    must(&mut state, [Entry::Change { wish, seen: None }]);
    assert_eq!(state.closed(), mark(10, 90));
}

/// The same, with epoch 10 closed.
fn closed() -> State {
    let mut state = formed();
    must(&mut state, [drained(1, 10, 100), drained(2, 10, 90), drained(3, 10, 95)]);
    state
}

#[test]
fn a_partition_is_sealed_when_all_its_owners_have_confirmed_it() {
    let mut state = closed();
    let early = confirm(&state, 1, 11);
    refused(&mut state, &early);
    let entries = [confirm(&state, 1, 10), confirm(&state, 2, 10)];
    must(&mut state, entries.clone());
    refused(&mut state, &entries[0]);
    assert_eq!((state.sealed(P0), state.awaits(P0)), (mark(0, 0), Awaited::Owners(vec![N3])));
    let last = confirm(&state, 3, 10);
    must(&mut state, [last]);
    assert_eq!((state.sealed(P0), state.sealed(PartitionId(1))), (mark(10, 90), mark(0, 0)));
    assert!(matches!(state.awaits(P0), Awaited::Drained(nodes) if nodes.len() == 3));
}

#[test]
fn the_owner_that_is_furthest_behind_decides_how_far_a_partition_is_sealed() {
    let mut state = closed();
    let first = [confirm(&state, 1, 10), confirm(&state, 2, 10)];
    must(&mut state, first);
    must(&mut state, [drained(1, 11, 200), drained(2, 11, 210), drained(3, 11, 205)]);
    let late = [confirm(&state, 3, 11)];
    must(&mut state, late);
    assert_eq!(state.sealed(P0), mark(10, 90));
    let others = [confirm(&state, 2, 11), confirm(&state, 1, 11)];
    must(&mut state, others);
    assert_eq!(state.sealed(P0), mark(11, 200));
}

/// The same with a fourth member that is to own its share, and a partition that moves.
fn moving() -> (State, PartitionId, Vec<NodeId>) {
    let mut state = closed();
    must(&mut state, [open(4, 41)]);
    must(&mut state, [Entry::Change { wish: Wish::Accept { node: NodeId(4) }, seen: None }]);
    let moves = (0..16).map(PartitionId).find(|p| {
        let next = state.solve().expect("there is a next ring");
        next.owners(*p, 3).contains(&NodeId(4))
    });
    let partition = moves.expect("something moves");
    let confirm = Entry::Confirm { node: NodeId(1), closed: Epoch(10), changes: 0, partitions: vec![partition] };
    must(&mut state, [confirm]);
    let begin = state.due().expect("a change is due");
    must(&mut state, [begin]);
    let next = state.change.as_ref().expect("it is under way").next.owners(partition, 3);
    let mut all: Vec<NodeId> = state.owners(partition, 3).iter().chain(next).copied().collect();
    all.sort_unstable();
    all.dedup();
    (state, partition, all)
}

#[test]
fn what_was_confirmed_before_a_change_counts_for_nothing() {
    let (mut state, partition, all) = moving();
    assert_eq!((state.awaits(partition), state.confirmed(partition, NodeId(1))), (Awaited::Change, Epoch(0)));
    let confirm = |changes| Entry::Confirm { node: NodeId(1), closed: Epoch(10), changes, partitions: vec![partition] };
    refused(&mut state, &confirm(0));
    refused(&mut state, &confirm(1));
    assert_eq!(state.leftovers(partition).collect::<Vec<_>>(), all);
}

#[test]
fn after_a_change_all_who_had_to_do_with_a_partition_must_be_rid_of_what_is_not_theirs() {
    let (mut state, partition, all) = moving();
    let rid = |node: NodeId, changes| Entry::Rid { node, changes };
    refused(&mut state, &rid(all[0], 1));
    let waits: Vec<PartitionId> = state.change.as_ref().unwrap().waits.keys().copied().collect();
    must(&mut state, [Entry::Hold { change: 1, node: NodeId(4), partitions: waits }]);
    for node in 1..=4 {
        if state.change.is_some() {
            must(&mut state, [Entry::Seen { change: 1, node: NodeId(node) }]);
        }
    }
    assert!(state.change.is_none());
    refused(&mut state, &rid(all[0], 0));
    let confirm = Entry::Confirm { node: NodeId(4), closed: Epoch(10), changes: 1, partitions: vec![partition] };
    refused(&mut state, &confirm);
    must(&mut state, all.iter().map(|node| rid(*node, 1)));
    assert!(matches!(state.awaits(partition), Awaited::Owners(_)));
    must(&mut state, [confirm]);
}

#[test]
fn clocks_of_closings_are_remembered_as_long_as_a_seal_goes_by_them() {
    let mut state = closed();
    let all = [1, 2, 3].map(|node| confirm(&state, node, 10));
    must(&mut state, all);
    for epoch in 11..200 {
        while state.epoch.0 < epoch + 2 {
            must(&mut state, [Entry::Advance]);
        }
        must(&mut state, [1, 2, 3].map(|node| drained(node, epoch, 100 * epoch)));
    }
    assert_eq!((state.sealed(P0), state.closed()), (mark(10, 90), mark(199, 19_900)));
    let forgotten = confirm(&state, 1, 20);
    refused(&mut state, &forgotten);
}
