//! Several memberships, one queue of datagrams, one virtual clock.

use super::*;
use alloc::collections::BTreeMap;
use core::hash::{Hash, Hasher};
use proptest::prelude::*;
use std::hash::DefaultHasher;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

/// A dead node must be known by then with the default settings and a handful of nodes.
const NOTICED_WITHIN: u64 = 5 * SECOND / 2;

struct Net {
    now: MonoUs,
    nodes: BTreeMap<NodeId, Membership>,
    members: BTreeMap<NodeId, cluster::Member>,
    /// Not running: timers and datagrams wait.
    paused: BTreeSet<NodeId>,
    /// Gone: datagrams vanish.
    dead: BTreeSet<NodeId>,
    /// Datagrams between these two groups vanish: those in the set, and all others.
    cut: BTreeSet<NodeId>,
    wire: BTreeMap<(MonoUs, u64), (NodeId, Incarnation, NodeId, Bytes)>,
    sent: u64,
    loss_percent: u64,
    random: u64,
    trace: DefaultHasher,
}

impl Net {
    fn new(count: u64, seed: u64) -> Self {
        let mut net = Self {
            now: 77 * SECOND,
            nodes: BTreeMap::new(),
            members: BTreeMap::new(),
            paused: BTreeSet::new(),
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
            wire: BTreeMap::new(),
            sent: 0,
            loss_percent: 0,
            random: seed,
            trace: DefaultHasher::new(),
        };
        for id in 1..=count {
            net.open(NodeId(id));
        }
        net.publish();
        net
    }

    /// A new opening of the node's data directory, with the next incarnation.
    fn open(&mut self, id: NodeId) {
        let highest = self.members.values().map(|m| m.incarnation.0).max().unwrap_or(0);
        let incarnation = Incarnation(highest + 1);
        let member = cluster::Member {
            directory: u128::from(id.0),
            opening: u128::from(incarnation.0),
            incarnation,
            addresses: cluster::Addresses::default(),
            zone: String::new(),
            weight: 100,
            standing: cluster::Standing::Up,
            opened: 0,
        };
        self.members.insert(id, member);
        let seed = self.draw();
        self.nodes.insert(id, Membership::new(id, incarnation, seed, &GossipSettings::default()));
        self.dead.remove(&id);
    }

    /// Everybody who runs learns the present roster.
    fn publish(&mut self) {
        let ids: Vec<NodeId> = self.running();
        for id in ids {
            self.publish_to(id);
        }
    }

    fn publish_to(&mut self, id: NodeId) {
        let mut out = Vec::new();
        let now = self.clock();
        self.nodes.get_mut(&id).unwrap().roster(now, &self.members, &mut out);
        self.send(id, out);
    }

    fn running(&self) -> Vec<NodeId> {
        let idle = |id: &&NodeId| !self.paused.contains(*id) && !self.dead.contains(*id);
        self.nodes.keys().filter(idle).copied().collect()
    }

    fn clock(&self) -> Now {
        Now { mono_us: self.now, wall_ms: 0 }
    }

    /// Splitmix: the network's own dice.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn send(&mut self, from: NodeId, out: Datagrams) {
        let incarnation = self.nodes[&from].incarnation;
        for (to, data) in out {
            assert_ne!(to, from);
            assert!(data.len() <= DATAGRAM_BYTES_MAX);
            (self.now, from, to, &data).hash(&mut self.trace);
            let (delay, dice) = (500 + self.draw() % 4_500, self.draw() % 100);
            if dice >= self.loss_percent {
                self.sent += 1;
                self.wire.insert((self.now + delay, self.sent), (from, incarnation, to, data));
            }
        }
    }

    fn deliver(&mut self, from: NodeId, incarnation: Incarnation, to: NodeId, data: &[u8]) {
        if self.dead.contains(&to) || self.dead.contains(&from) || self.cut.contains(&from) != self.cut.contains(&to) {
            return;
        }
        let (mut out, now) = (Vec::new(), self.clock());
        // Datagrams of before a restart are dropped with a reason, and that is as it should be.
        let _ = self.nodes.get_mut(&to).unwrap().datagram(now, from, incarnation, data, &mut out);
        self.send(to, out);
    }

    /// Lets time pass, event by event.
    fn run(&mut self, for_us: u64) {
        let end = self.now + for_us;
        loop {
            let wake = self.running().into_iter().filter_map(|id| Some((self.nodes[&id].next_wake()?, id))).min();
            let paused = &self.paused;
            let arrives = self.wire.iter().find(|(_, (_, _, to, _))| !paused.contains(to)).map(|(key, _)| *key);
            // Who was late does what is overdue before it reads what came meanwhile: the harder order.
            let wakes_first =
                |(at, _): &(MonoUs, NodeId)| *at <= self.now || arrives.is_none_or(|(then, _)| *at <= then);
            if let Some((at, id)) = wake.filter(wakes_first).filter(|(at, _)| *at <= end) {
                self.now = self.now.max(at);
                let (mut out, now) = (Vec::new(), self.clock());
                self.nodes.get_mut(&id).unwrap().tick(now, &mut out);
                self.send(id, out);
            } else if let Some(key) = arrives.filter(|(at, _)| *at <= end) {
                self.now = self.now.max(key.0);
                let (from, incarnation, to, data) = self.wire.remove(&key).unwrap();
                self.deliver(from, incarnation, to, &data);
            } else {
                self.now = end;
                return;
            }
        }
    }

    /// Runs until `done`, and says how long it took; fails after `within`.
    fn run_until(&mut self, within: u64, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now;
        while !done(self) {
            assert!(self.now - start < within, "not within {} ms: {what}", within / MS);
            self.run(10 * MS);
        }
        self.now - start
    }

    /// Every running node sees exactly the running nodes as alive.
    fn is_true_view(&self) -> bool {
        let running = self.running();
        running
            .iter()
            .all(|viewer| self.members.keys().all(|id| self.nodes[viewer].is_alive(*id) == running.contains(id)))
    }

    fn sees(&self, viewer: u64, other: u64) -> bool {
        self.nodes[&NodeId(viewer)].is_alive(NodeId(other))
    }

    /// A datagram of node 1 to node 2, still on the wire.
    fn caught(&mut self) -> Bytes {
        loop {
            let found = self.wire.values().find(|(from, _, to, _)| (from.0, to.0) == (1, 2));
            if let Some((_, _, _, data)) = found {
                return data.clone();
            }
            self.run(MS);
        }
    }
}

#[test]
fn all_see_all_alive_and_it_stays_so() {
    for count in [1, 2, 3, 5, 30] {
        let mut net = Net::new(count, count);
        assert!(net.is_true_view(), "members are presumed alive");
        for _ in 0..100 {
            net.run(SECOND / 5);
            assert!(net.is_true_view());
        }
    }
}

#[test]
fn a_dead_node_is_noticed_in_time() {
    for seed in 0..50 {
        let mut net = Net::new(3, seed);
        net.run(5 * SECOND + seed * 37 * MS);
        net.dead.insert(NodeId(2));
        net.run_until(NOTICED_WITHIN, "everybody knows that n2 is dead", Net::is_true_view);
        net.run(5 * SECOND);
        assert!(net.is_true_view());
    }
}

#[test]
fn a_member_that_was_never_there_is_noticed_in_time() {
    let mut net = Net::new(3, 9);
    net.dead.insert(NodeId(2));
    net.run_until(NOTICED_WITHIN, "everybody knows that n2 is not there", Net::is_true_view);
}

#[test]
fn a_node_that_hung_for_a_while_is_back_under_the_same_incarnation() {
    for seed in 0..20 {
        let mut net = Net::new(3, seed);
        net.run(5 * SECOND);
        net.paused.insert(NodeId(3));
        net.run_until(NOTICED_WITHIN, "n3 is taken for dead", |net| !net.sees(1, 3) && !net.sees(2, 3));
        net.run(20 * SECOND);
        net.paused.clear();
        net.run_until(3 * SECOND, "n3 is back", Net::is_true_view);
        assert!(net.nodes[&NodeId(3)].swim.identity().renewal > 0);
    }
}

#[test]
fn a_short_hang_is_refuted_and_nobody_is_taken_for_dead() {
    for seed in 0..20 {
        let mut net = Net::new(3, seed);
        net.run(5 * SECOND);
        net.paused.insert(NodeId(3));
        net.run(700 * MS);
        net.paused.clear();
        for _ in 0..100 {
            assert!(net.is_true_view());
            net.run(50 * MS);
        }
    }
}

/// What a node that slept holds of the others is old, not wrong: it must not wake up and declare them dead.
#[test]
fn who_slept_takes_nobody_for_dead() {
    for seed in 0..20 {
        let mut net = Net::new(3, seed);
        net.run(5 * SECOND + seed * 23 * MS);
        net.paused.insert(NodeId(3));
        net.run(10 * SECOND);
        net.paused.clear();
        for _ in 0..100 {
            net.run(20 * MS);
            assert!(net.sees(3, 1) && net.sees(3, 2));
        }
    }
}

/// The verdict on a suspect that fell due during the sleep must wait for the answers that came during the sleep.
#[test]
fn who_slept_over_a_suspicion_hears_the_suspect_first() {
    for seed in 0..20 {
        let mut net = Net::new(3, seed);
        net.run(5 * SECOND);
        net.paused.insert(NodeId(2));
        net.run_until(2 * SECOND, "n3 suspects n2", |net| {
            let known = net.nodes[&NodeId(3)].swim.iter_membership_state();
            known.into_iter().any(|m| m.id().node == NodeId(2) && m.state() == foca::State::Suspect)
        });
        net.paused = BTreeSet::from([NodeId(3)]);
        net.run(10 * SECOND);
        net.paused.clear();
        for _ in 0..100 {
            net.run(20 * MS);
            assert!(net.sees(3, 2));
        }
    }
}

#[test]
fn who_had_to_rejoin_goes_on_probing() {
    let mut net = Net::new(2, 1);
    net.run(2 * SECOND);
    let message = forged(&net, Message::TurnUndead, None);
    let one = net.members[&NodeId(1)].incarnation;
    net.deliver(NodeId(1), one, NodeId(2), &message);
    assert_eq!(net.nodes[&NodeId(2)].swim.identity().renewal, 1);
    net.dead.insert(NodeId(1));
    net.run_until(NOTICED_WITHIN, "n2 knows that n1 is dead", Net::is_true_view);
}

#[test]
fn a_restart_brings_a_higher_incarnation_and_silences_the_old_one() {
    let mut net = Net::new(3, 4);
    net.run(5 * SECOND);
    let old = net.nodes[&NodeId(2)].incarnation;
    net.dead.insert(NodeId(2));
    net.run_until(NOTICED_WITHIN, "n2 is taken for dead", Net::is_true_view);
    net.open(NodeId(2));
    // The log reaches the nodes one after the other.
    for id in [2, 1, 3] {
        net.publish_to(NodeId(id));
        net.run(200 * MS);
    }
    net.run_until(SECOND, "n2 is back", Net::is_true_view);
    let (mut out, now) = (Vec::new(), net.clock());
    let refused = net.nodes.get_mut(&NodeId(1)).unwrap().datagram(now, NodeId(2), old, b"", &mut out);
    assert_eq!((refused, out.len()), (Err(Dropped::Stale), 0));
}

#[test]
fn a_healed_partition_is_found_by_both_sides() {
    for seed in 0..20 {
        let mut net = Net::new(5, seed);
        net.run(5 * SECOND);
        net.cut.extend([NodeId(1), NodeId(2)]);
        net.run(10 * SECOND);
        assert!(net.sees(1, 2) && net.sees(4, 5) && !net.sees(1, 3) && !net.sees(5, 2));
        net.cut.clear();
        net.run_until(4 * SECOND, "both sides see each other", Net::is_true_view);
    }
}

#[test]
fn nodes_that_all_lost_each_other_meet_again() {
    let mut net = Net::new(2, 3);
    net.run(5 * SECOND);
    net.cut.insert(NodeId(1));
    net.run(30 * SECOND);
    assert!(!net.sees(1, 2) && !net.sees(2, 1));
    net.cut.clear();
    net.run_until(4 * SECOND, "both see each other", Net::is_true_view);
}

#[test]
fn loss_of_a_fifth_of_all_datagrams_rarely_flaps_and_leaves_no_trace() {
    let (mut samples, mut wrong) = (0, 0);
    for seed in 0..10 {
        let mut net = Net::new(3, seed);
        net.loss_percent = 20;
        for _ in 0..600 {
            net.run(100 * MS);
            samples += 1;
            wrong += usize::from(!net.is_true_view());
        }
        net.loss_percent = 0;
        net.run_until(4 * SECOND, "all is well without loss", Net::is_true_view);
    }
    assert!(wrong * 50 < samples, "the view was wrong in {wrong} of {samples} samples");
}

#[test]
fn who_left_the_roster_is_forgotten_and_not_heard() {
    let mut net = Net::new(3, 5);
    net.run(5 * SECOND);
    let gone = net.members.remove(&NodeId(3)).unwrap();
    net.publish();
    assert!(!net.sees(1, 3) && !net.sees(2, 3));
    assert!(!net.sees(3, 1), "who is no member speaks to nobody, and nobody answers it");
    assert_eq!(net.nodes[&NodeId(1)].swim.iter_membership_state().count(), 1);
    assert_eq!(net.nodes[&NodeId(3)].swim.iter_membership_state().count(), 0);
    let now = net.clock();
    let refused =
        net.nodes.get_mut(&NodeId(1)).unwrap().datagram(now, NodeId(3), gone.incarnation, b"", &mut Vec::new());
    assert_eq!(refused, Err(Dropped::Stranger));
    net.members.insert(NodeId(3), gone);
    net.publish();
    net.run_until(3 * SECOND, "n3 is taken in again", Net::is_true_view);
}

#[test]
fn a_member_that_was_never_admitted_is_not_alive() {
    let mut net = Net::new(2, 6);
    let mut waiting = net.members[&NodeId(1)].clone();
    waiting.incarnation = Incarnation(0);
    net.members.insert(NodeId(9), waiting);
    net.publish();
    assert!(!net.sees(1, 9));
}

#[test]
fn changes_are_told_once() {
    let mut net = Net::new(3, 7);
    let take = |net: &mut Net| net.nodes.get_mut(&NodeId(1)).unwrap().take_changes();
    assert_eq!(take(&mut net), [(NodeId(2), true), (NodeId(3), true)]);
    net.run(5 * SECOND);
    assert_eq!(take(&mut net), []);
    net.dead.insert(NodeId(2));
    net.run(NOTICED_WITHIN);
    assert_eq!(take(&mut net), [(NodeId(2), false)]);
    assert_eq!(take(&mut net), []);
}

#[test]
fn the_same_seed_and_inputs_give_the_same_datagrams() {
    let trace = |seed| {
        let mut net = Net::new(5, seed);
        net.loss_percent = 10;
        net.run(3 * SECOND);
        net.dead.insert(NodeId(2));
        net.run(5 * SECOND);
        net.open(NodeId(2));
        net.publish();
        net.run(5 * SECOND);
        net.trace.finish()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn tables_and_timers_stay_bounded_by_the_roster() {
    let mut net = Net::new(4, 8);
    net.loss_percent = 60;
    net.run(120 * SECOND);
    for node in net.nodes.values() {
        assert!(node.swim.iter_membership_state().count() <= 3);
        assert!(node.timers.len() <= 4 + 3);
    }
}

#[test]
fn each_reason_to_drop_has_its_case() {
    let mut net = Net::new(3, 2);
    net.run(2 * SECOND);
    let data = net.caught();
    let now = net.clock();
    let one = net.members[&NodeId(1)].incarnation;
    let mut try_at = |to: u64, from: u64, incarnation: Incarnation, data: &[u8]| {
        let mut out = Vec::new();
        let dropped = net.nodes.get_mut(&NodeId(to)).unwrap().datagram(now, NodeId(from), incarnation, data, &mut out);
        assert!(dropped.is_ok() || out.is_empty(), "what is dropped is not answered");
        dropped
    };
    assert_eq!(try_at(2, 8, one, &data), Err(Dropped::Stranger));
    assert_eq!(try_at(2, 2, Incarnation(2), &data), Err(Dropped::Stranger));
    assert_eq!(try_at(2, 1, Incarnation(0), &data), Err(Dropped::Stale));
    assert_eq!(try_at(2, 1, Incarnation(u64::MAX), &data), Err(Dropped::Ahead));
    assert_eq!(try_at(2, 3, Incarnation(3), &data), Err(Dropped::Mismatch));
    assert_eq!(try_at(3, 1, one, &data), Err(Dropped::Misdirected));
    assert_eq!(try_at(2, 1, one, b""), Err(Dropped::Malformed));
    assert_eq!(try_at(2, 1, one, &[0; DATAGRAM_BYTES_MAX + 1]), Err(Dropped::Malformed));
    assert_eq!(try_at(2, 1, one, &[&data[..], &[0]].concat()), Err(Dropped::Malformed));
    assert_eq!(try_at(2, 1, one, &data), Ok(()));
}

/// A datagram that node 1 might send to node 2, with news of our choice.
fn forged(net: &Net, message: Message<Identity>, updates: Option<Vec<foca::Member<Identity>>>) -> Vec<u8> {
    let id = |node: u64| *net.nodes[&NodeId(node)].swim.identity();
    let header = foca::Header { src: id(1), src_incarnation: 0, dst: id(2), message };
    let mut data = Vec::new();
    Datagram { header, updates }.write(&mut data).unwrap();
    data
}

#[test]
fn news_about_strangers_and_other_incarnations_are_not_believed() {
    let mut net = Net::new(3, 2);
    net.run(2 * SECOND);
    let at = |node, incarnation| Identity::new(NodeId(node), Incarnation(incarnation));
    let updates = vec![
        foca::Member::alive(at(7, 1)),
        foca::Member::alive(at(3, 99)),
        foca::Member::down(at(3, 2)),
        foca::Member::down(Identity { renewal: u32::MAX, ..at(3, 3) }),
    ];
    let data = forged(&net, Message::Gossip, Some(updates));
    let (now, one) = (net.clock(), net.members[&NodeId(1)].incarnation);
    let node = net.nodes.get_mut(&NodeId(2)).unwrap();
    assert_eq!(node.datagram(now, NodeId(1), one, &data, &mut Vec::new()), Ok(()));
    let known: BTreeSet<Identity> = node.swim.iter_membership_state().map(|m| *m.id()).collect();
    assert_eq!(known, BTreeSet::from([at(1, 1), at(3, 3)]));
    assert!(node.is_alive(NodeId(3)));
    let stranger = forged(&net, Message::PingReq { target: at(7, 1), probe_number: 1 }, None);
    let node = net.nodes.get_mut(&NodeId(2)).unwrap();
    assert_eq!(node.datagram(now, NodeId(1), one, &stranger, &mut Vec::new()), Err(Dropped::Stranger));
}

/// However wrong one member is about another, the other's word must count again in the end.
#[test]
fn a_renewal_that_never_was_does_not_shut_a_node_out() {
    for renewal in [1, 1_000, RENEWALS_MAX - 1] {
        let mut net = Net::new(3, 2);
        net.run(2 * SECOND);
        let id = Identity { renewal, ..Identity::new(NodeId(3), Incarnation(3)) };
        let data = forged(&net, Message::Gossip, Some(vec![foca::Member::down(id)]));
        let one = net.members[&NodeId(1)].incarnation;
        net.deliver(NodeId(1), one, NodeId(2), &data);
        assert!(!net.sees(2, 3));
        net.run_until(4 * SECOND, "n3 is heard again", Net::is_true_view);
    }
}

#[test]
fn settings_that_cannot_work_do_no_harm() {
    let zero = GossipSettings {
        probe_period_ms: 0,
        probe_timeout_ms: 0,
        suspicion_ms: 0,
        gossip_period_ms: 0,
        announce_period_ms: 0,
        fanout: 0,
    };
    let late = GossipSettings { probe_timeout_ms: 900, ..GossipSettings::default() };
    for settings in [zero, late] {
        let mut net = Net::new(2, 1);
        let node = net.nodes.get_mut(&NodeId(1)).unwrap();
        *node = Membership::new(NodeId(1), node.incarnation, 1, &settings);
        net.publish_to(NodeId(1));
        net.run(SECOND / 10);
        net.run_until(SECOND, "n1 sees n2", |net| net.sees(1, 2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes from a member that lost its mind: no panic, and once it is sane again all is well again.
    #[test]
    fn garbage_from_a_member_does_no_lasting_harm(
        seed in 0u64..8,
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let mut net = Net::new(3, seed);
        net.run(2 * SECOND);
        let one = net.members[&NodeId(1)].incarnation;
        for data in &garbage {
            net.deliver(NodeId(1), one, NodeId(2), data);
        }
        for (at, value) in flips {
            let mut data = net.caught().to_vec();
            let at = at.index(data.len());
            data[at] ^= value;
            net.deliver(NodeId(1), one, NodeId(2), &data);
            net.run(20 * MS);
        }
        net.run_until(10 * SECOND, "all is well again", Net::is_true_view);
    }

    /// Two forged datagrams are enough to make foca alone declare a whole cluster dead.
    #[test]
    fn no_stranger_changes_anything(node in 4u64.., incarnation: u64, renewal: u32) {
        let mut net = Net::new(3, 1);
        net.run(SECOND);
        let downs = (1..=3).map(|id| foca::Member::down(*net.nodes[&NodeId(id)].swim.identity())).collect();
        let mut data = forged(&net, Message::Gossip, Some(downs));
        let (now, before) = (net.clock(), format!("{:?}", net.nodes[&NodeId(2)]));
        let target = net.nodes.get_mut(&NodeId(2)).unwrap();
        let mut out = Vec::new();
        // As a stranger, under any name ...
        let dropped = target.datagram(now, NodeId(node), Incarnation(incarnation), &data, &mut out);
        prop_assert_eq!(dropped, Err(Dropped::Stranger));
        // ... and inside, too.
        let id = Identity { node: NodeId(node), incarnation: Incarnation(incarnation), renewal };
        let mut datagram = Datagram::read(&data).unwrap();
        datagram.header.src = id;
        datagram.write(&mut data).unwrap();
        prop_assert_eq!(target.datagram(now, NodeId(1), Incarnation(1), &data, &mut out), Err(Dropped::Mismatch));
        prop_assert!(out.is_empty());
        prop_assert_eq!(format!("{target:?}"), before);
    }
}
