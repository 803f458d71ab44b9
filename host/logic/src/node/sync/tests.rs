//! Owners become equal, by the schedule and on demand, whatever is cut meanwhile.

use super::*;
use crate::event::{Input, Operation, Request, Ticket};
use crate::id::Epoch;
use crate::limits::Limits;
use crate::node::town::Town;
use crate::testing::{LWW, PARTITION_BITS, Rules, formed, key, owners};
use crate::time::Hlc;
use alloc::sync::Arc;

/// What must be gone when nothing is under way.
fn left_over(town: &Town) -> usize {
    let of = |node: &Node| node.jobs.len() + node.sync.running.len() + node.sync.served.len();
    town.nodes.values().map(|(node, _)| of(node)).sum()
}

fn differing(limits: &Limits) -> Town {
    let mut town = Town::new(limits);
    for i in 0..120 {
        town.write(1 + i % 3, &format!("key {i}"), 10 + i);
        town.write(1 + (i + 1) % 3, &format!("key {}", i / 2), 500 + i);
    }
    assert!(!town.are_equal());
    town
}

#[test]
fn owners_become_equal_by_the_schedule_alone() {
    let mut town = differing(&Limits::default());
    town.pass(3 * 60_000);
    assert!(town.are_equal());
    assert_eq!(left_over(&town), 0);
    let read = town.records_read;
    town.pass(2 * 60_000);
    assert_eq!(town.records_read, read, "equal owners read no record");
    assert!(town.figures(1).clean > 0);
    assert_eq!(town.figures(1).failed, 0);
}

#[test]
fn a_repair_on_demand_does_not_wait_for_the_schedule() {
    let mut town = differing(&Limits { sync_period_ms: 1 << 40, ..Limits::default() });
    for id in [1, 2] {
        town.repair(id);
        town.pass(1_000);
    }
    assert!(town.are_equal());
    let figures = town.figures(1);
    assert_eq!((figures.demanded, figures.running, figures.failed), (0, 0, 0));
    assert!(figures.mended > 0 && figures.records_sent > 0 && figures.records_received > 0);
    assert_eq!(left_over(&town), 0);
}

impl Town {
    fn third(&mut self, up: bool) {
        for (id, peer) in [(1, 3), (3, 1), (2, 3), (3, 2)] {
            self.feed(NodeId(id), Input::Link { peer: NodeId(peer), up });
        }
    }

    /// Partitions that the first node must compare with the third.
    fn needs(&self) -> u32 {
        self.nodes[&NodeId(1)].0.needs_comparison().get(&NodeId(3)).copied().unwrap_or_default()
    }
}

/// The third was away, and nobody keeps hints.
fn behind() -> Town {
    let mut town =
        Town::new(&Limits { sync_period_ms: 1 << 40, sync_answer_ms: 1_000, hint_bytes_max: 0, ..Limits::default() });
    town.third(false);
    let put = |i: u64| Request::new(Operation::Put { key: key(&format!("key {i}")), value: "v".into() });
    for i in 0..20 {
        town.feed(NodeId(1), Input::Client { ticket: Ticket(i), request: put(i) });
        town.wire.retain(|(_, to, _)| *to != NodeId(3));
        town.deliver();
    }
    town.pass(2_000);
    assert!(!town.are_equal());
    town
}

#[test]
fn what_no_hint_stands_for_is_compared_when_its_owner_is_back() {
    let mut town = behind();
    assert_eq!(town.figures(1), SyncFigures::default(), "its owner is away");
    assert!(town.needs() > 1, "and it shows");
    town.third(true);
    town.pass(1_000);
    assert!(town.are_equal());
    assert_eq!((left_over(&town), town.needs()), (0, 0));
    assert!(town.nodes[&NodeId(1)].0.figures().repairs[Cause::Sync as usize] >= 20);
}

#[test]
fn what_needs_a_comparison_is_marked_until_one_has_ended_well() {
    for cut_after in 0..12 {
        let mut town = behind();
        town.cut_after = town.delivered + cut_after;
        town.third(true);
        town.pass(1_500);
        assert!(town.needs() > 0, "cut after {cut_after}");
        town.cut_after = usize::MAX;
        town.pass(10_000);
        assert!(town.are_equal() && town.needs() == 0, "cut after {cut_after}");
    }
}

#[test]
fn what_needs_a_comparison_goes_before_what_an_operator_wants_to_see() {
    let mut town = behind();
    town.third(true);
    town.feed(NodeId(1), Input::Repair { partition: None });
    let first = town.wire.iter().filter(|(_, _, message)| matches!(message, Message::Sync { .. }));
    let to: Vec<NodeId> = first.map(|(_, to, _)| *to).collect();
    assert_eq!(to, [NodeId(3); 4], "as many as may run at once");
}

#[test]
fn the_open_epoch_is_left_alone_while_clients_write() {
    let mut town = differing(&Limits { sync_period_ms: 4_000, ..Limits::default() });
    for _ in 0..100 {
        town.now.mono_us += 100_000;
        for id in [1, 2, 3].map(NodeId) {
            for partition in 0..1 << PARTITION_BITS {
                let now = town.now.mono_us;
                town.nodes.get_mut(&id).unwrap().0.sync_noted(now, PartitionId(partition));
            }
            town.feed(id, Input::Tick);
        }
        town.deliver();
    }
    assert_eq!(town.figures(1).mended, 0, "all of it was written in the open epoch");
    town.pass(20_000);
    assert!(town.are_equal());
}

#[test]
fn a_link_lost_at_any_message_leaves_nothing_behind() {
    let limits = Limits { sync_period_ms: 1 << 40, sync_answer_ms: 1_000, ..Limits::default() };
    for cut_after in (0..400).step_by(7) {
        let mut town = differing(&limits);
        town.cut_after = cut_after;
        town.repair(1);
        if cut_after % 2 == 0 {
            town.feed(NodeId(1), Input::Link { peer: NodeId(2), up: false });
            town.feed(NodeId(2), Input::Link { peer: NodeId(1), up: false });
        }
        town.pass(400_000);
        assert_eq!(left_over(&town), 0, "cut after {cut_after}");
        town.cut_after = usize::MAX;
        for peer in [(1, 2), (2, 1)] {
            town.feed(NodeId(peer.0), Input::Link { peer: NodeId(peer.1), up: true });
        }
        for id in [1, 2] {
            town.repair(id);
            town.pass(1_000);
        }
        assert!(town.are_equal(), "cut after {cut_after}");
    }
}

#[test]
fn other_resolver_code_is_drift_and_not_data_to_repair() {
    let mut town = differing(&Limits { sync_period_ms: 1 << 40, ..Limits::default() });
    let mut other = town.state.clone();
    other.keyspaces.get_mut(&LWW).unwrap().resolver_hash.0[0] ^= 1;
    for id in [2, 3].map(NodeId) {
        town.feed(id, Input::Cluster(Arc::new(other.clone())));
    }
    town.repair(1);
    town.pass(1_000);
    let figures = town.figures(1);
    assert_eq!(figures.plugin_drift, 2 << PARTITION_BITS);
    assert_eq!((figures.records_sent, figures.records_received), (0, 0));
}

#[test]
fn owners_in_different_epochs_wait_for_each_other() {
    let mut town = differing(&Limits { sync_period_ms: 1 << 40, ..Limits::default() });
    let mut next = town.state.clone();
    next.epoch = Epoch(next.epoch.0 + 1);
    town.feed(NodeId(1), Input::Cluster(Arc::new(next.clone())));
    town.repair(1);
    town.pass(1_000);
    assert!(town.figures(1).failed > 0 && town.figures(1).records_sent == 0);
    for id in [2, 3].map(NodeId) {
        town.feed(id, Input::Cluster(Arc::new(next.clone())));
    }
    town.state = next;
    for id in [1, 2] {
        town.repair(id);
        town.pass(1_000);
    }
    assert!(town.are_equal());
}

#[test]
fn a_stranger_s_questions_are_refused() {
    let mut town = differing(&Limits::default());
    let state = formed(3, (2, 1, 1));
    let owned = owners(&state, &key("a"));
    town.state = state;
    let asked = owned[0];
    town.feed(asked, Input::Cluster(Arc::new(town.state.clone())));
    let stranger = *town.state.members.keys().find(|id| !owned.contains(id)).unwrap();
    town.feed(asked, Input::Link { peer: stranger, up: true });
    let partition = key("a").place(PARTITION_BITS).partition;
    let range = Range { partition, copies_min: 1, epoch: Epoch(1), age: Age::Open, purged: Epoch(0), closed: Epoch(0) };
    let ask = SyncAsk::Root { range, code: 0, root: 0 };
    town.wire.clear();
    let clock = Hlc::from_ms(town.now.wall_ms);
    town.feed(asked, Input::Peer { from: stranger, clock, message: Message::Sync { tag: Tag(5), ask } });
    let answer = SyncAnswer::Refused(SyncRefused::NotOwner);
    assert!(town.wire.contains(&(asked, stranger, Message::Synced { tag: Tag(5), answer })));
}

#[test]
fn a_small_budget_slows_comparisons_and_does_not_stop_them() {
    let slow = Limits { sync_period_ms: 1 << 40, sync_bytes_per_second: 20_000, ..Limits::default() };
    let mut town = differing(&slow);
    town.repair(1);
    town.pass(1_000);
    let early = town.figures(1);
    assert!(early.demanded + early.running > 0 && early.bytes < 80_000, "{early:?}");
    town.pass(60_000);
    town.repair(2);
    town.pass(60_000);
    assert!(town.are_equal());
    assert!(town.figures(1).bytes < 20_000 * 63);
}

#[test]
fn a_node_without_the_code_keeps_all_versions_moves_nothing_and_catches_up_when_it_has_it() {
    let mut town = Town::new(&Limits { sync_period_ms: 1 << 40, ..Limits::default() });
    let third = NodeId(3);
    town.rules.insert(third, Rules::Lack);
    for id in 1..=3 {
        town.write(id, "contested", 10);
        town.write(id, "contested", 20);
    }
    assert_eq!(town.disk(1).record(&key("contested")).versions().len(), 1);
    assert_eq!(town.disk(3).record(&key("contested")).versions().len(), 2, "a node without code decides nothing");
    town.repair(1);
    town.pass(1_000);
    assert_eq!(town.disk(3).record(&key("contested")).versions().len(), 2);
    let figures = town.figures(1);
    assert!(figures.plugin_drift > 0, "{figures:?}");
    town.repair(3);
    town.pass(1_000);
    let figures = town.figures(3);
    assert_eq!((figures.clean, figures.mended, figures.records_sent), (0, 0, 0), "{figures:?}");

    town.rules.remove(&third);
    town.repair(3);
    town.pass(1_000);
    assert!(town.are_equal(), "whoever has the code again settles what it kept");
}
