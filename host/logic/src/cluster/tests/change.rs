//! How members and tables change, as entries alone: the machinery that moves data is tested where it is.

use super::*;

fn wish(wish: Wish) -> Entry {
    Entry::Change { wish, seen: None }
}

pub(super) fn accept(node: u64) -> Entry {
    wish(Wish::Accept { node: NodeId(node) })
}

pub(super) fn leave(node: u64, dead: bool) -> Entry {
    wish(Wish::Leave { node: NodeId(node), dead })
}

fn replace(gone: u64, by: u64, dead: bool) -> Entry {
    wish(Wish::Replace { gone: NodeId(gone), by: NodeId(by), dead })
}

pub(super) fn apply(state: &mut State, entries: &[Entry]) {
    for entry in entries {
        state.apply(entry).unwrap_or_else(|refusal| panic!("{entry:?}: {refusal}"));
        check_invariants(state);
    }
}

pub(super) fn begin(state: &mut State) {
    let entry = state.begin_entry().expect("a change is due");
    apply(state, &[entry]);
}

/// All who gain something say that they hold it.
pub(super) fn hold_all(state: &mut State) {
    while let Some(change) = state.change.clone().filter(|change| !change.waits.is_empty()) {
        let (partition, gainers) = change.waits.first_key_value().unwrap();
        let (change, node, partitions) = (change.id, gainers[0], vec![*partition]);
        apply(state, &[Entry::Hold { change, node, partitions }]);
    }
}

fn see_all(state: &mut State) {
    let members: Vec<NodeId> = state.members.keys().copied().collect();
    for node in members {
        if let Some(change) = state.change.as_ref().map(|change| change.id) {
            apply(state, &[Entry::Seen { change, node }]);
        }
    }
}

pub(super) fn complete(state: &mut State) {
    hold_all(state);
    see_all(state);
    assert_eq!(state.change, None);
}

/// Four members, all of which own something.
fn four() -> State {
    let mut state = formed();
    apply(&mut state, &[open(4, 41), accept(4)]);
    begin(&mut state);
    complete(&mut state);
    state
}

#[test]
fn a_joining_node_gets_its_share_when_it_is_accepted() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41)]);
    assert_eq!((state.members[&NodeId(4)].standing, state.begin_entry()), (Standing::Joining, None));
    apply(&mut state, &[accept(4)]);
    let old = state.ring.clone().unwrap();
    begin(&mut state);
    let change = state.change.clone().unwrap();
    assert_eq!(change.moving, 12, "n4 gains three quarters of 16 partitions, and nobody else anything");
    assert!(change.waits.values().all(|gainers| gainers == &[NodeId(4)]));
    assert_eq!(state.ring.as_ref(), Some(&old), "the old table is in force");
    complete(&mut state);
    let ring = state.ring.unwrap();
    assert_eq!((ring.width(), ring.owned_by(NodeId(4), 3)), (3, 12));
}

#[test]
fn writes_need_both_tables_and_reads_follow_the_cutover() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41), accept(4)]);
    begin(&mut state);
    let change = state.change.clone().unwrap();
    let (&moving, still) = (change.waits.keys().next().unwrap(), (0..16).map(PartitionId));
    let still = still.into_iter().find(|p| change.is_cut(*p)).unwrap();
    let tables = state.tables(moving, KeyspaceId(1));
    assert_eq!((tables.read, tables.next), (tables.old, Some(change.next.owners(moving, 3))));
    assert_eq!(tables.all().len(), 4);
    assert_eq!(state.tables(still, KeyspaceId(1)).next, None, "where nobody gains anything there is one table");
    assert!(state.holds(NodeId(4), moving, 3) && !state.holds(NodeId(4), still, 3));
    apply(&mut state, &[Entry::Hold { change: change.id, node: NodeId(4), partitions: vec![moving] }]);
    let tables = state.tables(moving, KeyspaceId(1));
    assert_eq!(Some(tables.read), tables.next, "cut over: reads use the next table, writes both");
    complete(&mut state);
    assert_eq!(state.tables(moving, KeyspaceId(1)).next, None);
}

#[test]
fn nobody_takes_what_was_sent_under_another_pair_of_tables() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41), accept(4)]);
    let before = state.epoch;
    begin(&mut state);
    assert_eq!(state.epoch.0, before.0 + 2, "an owner takes its own epoch and the one before");
    let moving = state.epoch;
    hold_all(&mut state);
    assert_eq!(state.change.as_ref().unwrap().closing, Some(state.epoch));
    assert_eq!(state.epoch.0, moving.0 + 2);
    let id = state.change.as_ref().unwrap().id;
    apply(&mut state, &[Entry::Seen { change: id, node: NodeId(1) }]);
    assert!(state.change.is_some(), "two old owners could still answer a read of the old table");
    apply(&mut state, &[Entry::Seen { change: id, node: NodeId(2) }]);
    assert_eq!(state.change, None);
}

#[test]
fn a_leaving_node_hands_over_before_it_goes() {
    let mut state = four();
    apply(&mut state, &[leave(4, false)]);
    check_refusal("it still owns", &state, &Entry::Left { node: NodeId(4) }, Why::Order("still owns"));
    begin(&mut state);
    check_refusal("it still owns", &state, &Entry::Left { node: NodeId(4) }, Why::Order("still owns"));
    complete(&mut state);
    assert_eq!(state.members[&NodeId(4)].standing, Standing::Leaving);
    assert_eq!(state.ring.as_ref().unwrap().owned_by(NodeId(4), RING_WIDTH_MAX), 0);
    apply(&mut state, &[Entry::Left { node: NodeId(4) }]);
    assert!(!state.members.contains_key(&NodeId(4)) && state.removed.contains_key(&NodeId(4)));
    check_removed(&state);
}

fn check_removed(state: &State) {
    let mut changed = state.clone();
    let refusal = changed.apply(&open(4, 42)).unwrap_err();
    assert_eq!(refusal, Refusal::Removed { node: NodeId(4) });
    assert_eq!(changed.apply(&accept(4)).unwrap_err(), Refusal::Removed { node: NodeId(4) });
}

#[test]
fn a_dead_nodes_place_goes_to_a_new_one() {
    let mut state = four();
    apply(&mut state, &[open(5, 51), replace(4, 5, true)]);
    let owned = state.ring.as_ref().unwrap().owned_by(NodeId(4), 3);
    begin(&mut state);
    let change = state.change.clone().unwrap();
    assert_eq!(change.moving as usize, owned, "what it owned moves, and nothing else");
    assert!(change.waits.values().all(|gainers| gainers == &[NodeId(5)]));
    complete(&mut state);
    check_removed(&state);
}

/// The one that was declared dead may live, and serve reads by the old table together with another one that lags.
#[test]
fn whoever_is_declared_dead_during_a_change_has_seen_nothing_unless_nobody_else_is_left() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41), accept(4)]);
    begin(&mut state);
    hold_all(&mut state);
    let change = state.change.clone().unwrap();
    assert!(change.closing.is_some());
    apply(&mut state, &[leave(1, true), Entry::Seen { change: change.id, node: NodeId(2) }]);
    assert!(state.change.is_some(), "1 and 3 could still answer a read");
    let mut alone = state.clone();
    apply(&mut state, &[Entry::Seen { change: change.id, node: NodeId(3) }]);
    assert_eq!(state.change, None);
    // Should it be that nobody can say it any more, the operator's word must do.
    alone.members.get_mut(&NodeId(3)).unwrap().standing = Standing::Dead;
    apply(&mut alone, &[Entry::Seen { change: change.id, node: NodeId(4) }]);
    assert_eq!(alone.change, None);
}

#[test]
fn what_is_asked_during_a_change_waits_and_is_merged() {
    let mut state = four();
    apply(&mut state, &[open(5, 51), accept(5)]);
    begin(&mut state);
    apply(&mut state, &[open(6, 61), accept(6), wish(Wish::Weight { node: NodeId(1), weight: 200 }), leave(2, false)]);
    assert_eq!(state.begin_entry(), None, "one change at a time");
    let late = Entry::Begin { asked: state.asked, ring: state.ring.clone().unwrap() };
    check_refusal("one change at a time", &state, &late, Why::Order("is under way"));
    complete(&mut state);
    assert!(state.is_unsettled());
    begin(&mut state);
    complete(&mut state);
    assert!(!state.is_unsettled());
    let ring = state.ring.as_ref().unwrap();
    let owned = |node| ring.owned_by(NodeId(node), 3);
    assert_eq!((owned(2), owned(5) > 0, owned(6) > 0), (0, true, true));
    assert!(owned(1) > owned(5), "{} and {}", owned(1), owned(5));
}

#[test]
fn a_gainer_that_will_not_come_ends_the_change_where_it_is() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41), accept(4)]);
    begin(&mut state);
    let change = state.change.clone().unwrap();
    let old = state.ring.clone().unwrap();
    let (&cut, _) = change.waits.first_key_value().unwrap();
    apply(&mut state, &[Entry::Hold { change: change.id, node: NodeId(4), partitions: vec![cut] }, leave(4, true)]);
    let closing = state.change.clone().unwrap();
    assert!(closing.closing.is_some() && closing.waits.len() == 11);
    let late = Entry::Hold { change: change.id, node: NodeId(4), partitions: change.waits.keys().copied().collect() };
    check_refusal("nothing more is cut over", &state, &late, Why::Order("closing"));
    see_all(&mut state);
    let ring = state.ring.clone().unwrap();
    for (p, _) in ring.iter() {
        let expected = if p == cut { change.next.owners(p, 3) } else { old.owners(p, 3) };
        assert_eq!(ring.owners(p, 3), expected);
    }
    assert!(state.members.contains_key(&NodeId(4)), "it owns what was cut over to it");
    begin(&mut state);
    complete(&mut state);
    check_removed(&state);
    assert_eq!(state.ring.as_ref().unwrap().diff_of(&old, 3).count(), 0, "and the three own everything again");
}

#[test]
fn a_node_that_never_owned_anything_says_itself_when_it_goes() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41), leave(4, false)]);
    assert_eq!(state.members[&NodeId(4)].standing, Standing::Leaving, "it may keep writes for owners that are away");
    let mut dead = state.clone();
    apply(&mut dead, &[leave(4, true)]);
    check_removed(&dead);
    apply(&mut state, &[Entry::Left { node: NodeId(4) }]);
    check_removed(&state);
    assert!(state.begin_entry().is_some_and(|entry| matches!(entry, Entry::Begin { .. })));
    begin(&mut state);
    assert_eq!((state.change.as_ref(), state.is_unsettled()), (None, false), "nothing had to move");
}

#[test]
fn a_leave_can_be_taken_back() {
    let mut state = four();
    let ring = state.ring.clone();
    apply(&mut state, &[leave(4, false), accept(4)]);
    begin(&mut state);
    assert_eq!((state.change.as_ref(), &state.ring), (None, &ring));
}

#[test]
fn wrong_wishes_are_refused_with_the_reason() {
    let mut four = four();
    apply(&mut four, &[open(5, 51)]);
    let formed = formed();
    let stale = Entry::Change { wish: Wish::Accept { node: NodeId(5) }, seen: Some(Epoch(1)) };
    let (zone, weight) = (
        |zone: &str| wish(Wish::Zone { node: NodeId(1), zone: zone.into() }),
        |weight| wish(Wish::Weight { node: NodeId(1), weight }),
    );
    let claims: &[(&str, &State, Entry, Why)] = &[
        ("three copies need three nodes", &formed, leave(3, false), Why::Invalid("n = 3 copies")),
        ("dead or not", &formed, leave(3, true), Why::Invalid("n = 3 copies")),
        ("nobody knows n9", &four, leave(9, false), Why::NodeUnknown),
        ("nobody knows n9", &four, accept(9), Why::NodeUnknown),
        ("nobody knows n9", &four, replace(9, 5, true), Why::NodeUnknown),
        ("a living node is not replaced", &four, replace(4, 5, false), Why::Invalid("--force")),
        ("a member has a place already", &four, replace(4, 3, true), Why::Invalid("n3 is up")),
        ("a joining node has no place", &four, replace(5, 5, true), Why::Invalid("its own place")),
        ("a member is accepted once", &four, accept(4), Why::Order("full member")),
        ("the plan is old", &four, stale, Why::Stale),
        ("a weight is not zero", &four, weight(0), Why::Invalid("weight of 0")),
        ("a zone is a word", &four, zone("a b"), Why::Invalid("\"a b\"")),
        ("nothing is held in no change", &four, hold(7, 5), Why::Order("is over")),
        ("nothing is seen in no change", &four, Entry::Seen { change: 1, node: NodeId(1) }, Why::Order("is over")),
        ("who stays has not left", &four, Entry::Left { node: NodeId(1) }, Why::Order("not asked to leave")),
    ];
    for (claim, state, entry, why) in claims {
        check_refusal(claim, state, entry, *why);
    }
    assert!(four.apply(&Entry::Change { wish: Wish::Accept { node: NodeId(5) }, seen: Some(four.epoch) }).is_ok());
}

fn hold(change: u64, node: u64) -> Entry {
    Entry::Hold { change, node: NodeId(node), partitions: vec![PartitionId(0)] }
}

#[test]
fn a_begin_is_for_what_is_asked_now_and_is_verified() {
    let mut state = four();
    apply(&mut state, &[open(5, 51), accept(5)]);
    let early = state.begin_entry().unwrap();
    apply(&mut state, &[wish(Wish::Weight { node: NodeId(5), weight: 50 })]);
    check_refusal("a table for other members", &state, &early, Why::Order("asked for"));
    let wrong = Entry::Begin { asked: state.asked, ring: state.ring.clone().unwrap() };
    check_refusal("the table as it was", &state, &wrong, Why::Invalid("its weight allows"));
    let solve = |width| Ring::solve(4, width, &state.candidates(), None).unwrap();
    let (wide, right) = (solve(4), solve(3));
    check_refusal("too wide", &state, &Entry::Begin { asked: state.asked, ring: wide }, Why::Invalid("4 owners wide"));
    assert!(state.apply(&Entry::Begin { asked: state.asked, ring: right }).is_ok(), "any right table will do");
}

#[test]
fn an_old_copy_of_a_data_directory_is_refused() {
    let mut state = formed();
    let opened = |opening, opened| {
        let mut entry = open(1, opening);
        if let Entry::Open { opened: count, .. } = &mut entry {
            *count = opened;
        }
        entry
    };
    apply(&mut state, &[opened(12, 2), opened(13, 3), opened(15, 5)]);
    for (opening, count) in [(16, 5), (17, 3), (18, 1)] {
        let refusal = state.clone().apply(&opened(opening, count)).unwrap_err();
        assert_eq!(refusal, Refusal::RolledBack { node: NodeId(1), opened: count, known: 5 });
    }
    apply(&mut state, &[opened(15, 5), opened(19, 6)]);
}

#[test]
fn zone_and_weight_are_agreed_on_and_not_one_configs_matter() {
    let mut state = four();
    let other = with(&open(1, 12), |_, zone, weight| (*zone, *weight) = ("z".into(), 7));
    apply(&mut state, &[other]);
    assert_eq!((state.members[&NodeId(1)].zone.as_str(), state.members[&NodeId(1)].weight), ("", 100));
}

#[test]
fn a_plan_shows_what_moves_and_changes_nothing() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41)]);
    let before = state.clone();
    let plan = state.plan(&[Wish::Accept { node: NodeId(4) }]).unwrap();
    assert_eq!(state, before);
    assert_eq!((plan.epoch, plan.copies, plan.partitions, plan.moved, plan.slots), (state.epoch, 3, 12, 12, 48));
    let newcomer = plan.loads.iter().find(|load| load.node == NodeId(4)).unwrap();
    assert_eq!(*newcomer, Load { node: NodeId(4), before: 0, after: 12, gains: 12, loses: 0 });
    assert_eq!(plan.loads.iter().map(|load| load.loses).sum::<u32>(), 12);
    assert_eq!(
        state.plan(&[Wish::Leave { node: NodeId(9), dead: false }]),
        Err(Refusal::NodeUnknown { node: NodeId(9) })
    );
}

#[test]
fn the_history_says_what_changed_and_by_whom() {
    let mut state = formed();
    apply(&mut state, &[open(4, 41).signed("n4", 1_000), accept(4).signed("ada", 2_000)]);
    begin(&mut state);
    complete(&mut state);
    apply(&mut state, &[Entry::Advance.signed("n1", 3_000), Entry::Advance.signed("n1", 4_000)]);
    let told: Vec<_> = state.history.iter().map(|e| (e.who.as_str(), e.what.as_str(), e.times)).collect();
    let tail = [
        ("n4", "n4 joined the roster", 1),
        ("ada", "n4 shall own its share", 1),
        ("", "change 1 began: 12 partitions move", 1),
        ("", "change 1 ended", 1),
        ("n1", "time passed", 2),
    ];
    assert!(told.ends_with(&tail), "{told:?}");
    for i in 0..2 * HISTORY_MAX as u64 {
        let (node, weight) = (NodeId(1), 1 + i as u32 % 7);
        apply(&mut state, &[wish(Wish::Weight { node, weight })]);
    }
    assert_eq!(state.history.len(), HISTORY_MAX);
    let twice = accept(4).signed("a", 1);
    let twice = Entry::Signed { who: "b".into(), at_ms: 2, entry: Box::new(twice) };
    check_refusal("signed once", &state, &twice, Why::Invalid("once"));
    check_refusal("a name", &state, &accept(4).signed("a\nb", 1), Why::Invalid("control"));
}

#[test]
fn voters_are_few_odd_spread_and_stay_where_they_can() {
    let mut state = formed();
    let set = |nodes: &[u64]| nodes.iter().map(|n| NodeId(*n)).collect::<alloc::collections::BTreeSet<_>>();
    assert_eq!(state.voters(&set(&[1]), |node| node.0 == 2), set(&[1, 2]), "two of two, while the third is not ready");
    assert_eq!(state.voters(&set(&[1, 2]), |_| true), set(&[1, 2, 3]));
    for node in 4..=9 {
        apply(&mut state, &[open(node, 41)]);
        assert_eq!(state.voters(&set(&[1, 2, 3]), |_| true), set(&[1, 2, 3]), "who joins does not vote");
    }
    apply(&mut state, &(4..=9).map(accept).collect::<Vec<_>>());
    assert_eq!(state.voters(&set(&[1, 2, 3]), |_| true), set(&[1, 2, 3, 4, 5]));
    assert_eq!(state.voters(&set(&[5, 6, 7, 8, 9]), |_| true), set(&[5, 6, 7, 8, 9]), "nobody is demoted without need");
    apply(&mut state, &[leave(7, false), leave(8, true)]);
    assert_eq!(state.voters(&set(&[5, 6, 7, 8, 9]), |_| true), set(&[1, 2, 5, 6, 9]), "who leaves does not vote");
    for (node, zone) in [(1, "a"), (2, "a"), (3, "a"), (5, "b"), (6, "c")] {
        apply(&mut state, &[wish(Wish::Zone { node: NodeId(node), zone: zone.into() })]);
    }
    let voters = state.voters(&set(&[1, 2, 3]), |node| node.0 != 4 && node.0 != 9);
    assert_eq!(voters, set(&[1, 2, 3, 5, 6]), "five of five");
    let voters = state.voters(&set(&[1, 2, 3]), |node| node.0 == 5);
    assert_eq!(voters, set(&[1, 2, 5]), "another zone before a second of the same");
}
