//! What the leader does unasked: found, form, let members follow and vote, accept them where the config says so, begin
//! the change of the ring, or of a number of copies, that is asked for, let those go that left, and end each epoch when
//! its time is over.
//!
//! Every step looks at the state as it is and does the one thing that is missing, so a new leader goes on where the
//! old one stopped, and nothing is done twice: an entry that came too late is refused by the state.

use super::admission::add_learner;
use super::raft_log::{Core, changed};
use crate::clock::wall_ms;
use mks_logic::cluster::{Entry, Standing, State, Wish};
use mks_logic::id::{Epoch, NodeId};
use openraft::{BasicNode, ChangeMembers, Membership, RaftMetrics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a change of Raft's membership may take before it is looked at again.
const CHANGE_WAIT: Duration = Duration::from_secs(5);
/// A learner this many entries behind may become a voter: it takes part in the next majority at once.
const VOTER_LAG_MAX: u64 = 64;
/// The ring is made when the log is on all disks that it shall be on; so long is waited for one that does not follow.
const SPREAD_WAIT: Duration = Duration::from_secs(15);
/// Wishes that come so soon after each other are fulfilled by one change: each one moves data.
const WISHES_SETTLE: Duration = Duration::from_millis(500);
/// A node that left gets this long to hear it, at least and at most, before the log forgets it.
const GOODBYE_MIN: Duration = Duration::from_secs(2);
const GOODBYE_MAX: Duration = Duration::from_secs(30);

/// Runs for ever; works only while this node leads.
pub(super) async fn run(core: Arc<Core>) {
    let mut state = core.state.clone();
    let begin = Instant::now();
    let mut seen = Seen { epoch: (Epoch(0), begin), asked: (0, begin), complete: None, departed: BTreeMap::new() };
    loop {
        let now = Arc::clone(&state.borrow_and_update());
        seen.note(&now);
        if core.is_leader() {
            if let Some(entry) = next_entry(&core, &now, &seen).await {
                propose(&core, entry).await;
            }
            tend_members(&core, &now, &mut seen).await;
        }
        changed(&mut state, Instant::now() + LOOK_EVERY).await;
    }
}

/// What there is, and since when this node has seen it so.
struct Seen {
    epoch: (Epoch, Instant),
    /// [`State::asked`].
    asked: (u64, Instant),
    /// Since when all have joined that the ring waits for.
    complete: Option<Instant>,
    /// Nodes that left and that Raft still knows.
    departed: BTreeMap<u64, Instant>,
}

impl Seen {
    fn note(&mut self, state: &State) {
        if self.epoch.0 != state.epoch {
            self.epoch = (state.epoch, Instant::now());
        }
        if self.asked.0 != state.asked {
            self.asked = (state.asked, Instant::now());
        }
        let complete = state.forming().is_some_and(|(joined, expected)| state.cluster != 0 && joined >= expected);
        self.complete = complete.then(|| self.complete.unwrap_or_else(Instant::now));
    }
}

/// The entry that is due, if any.
async fn next_entry(core: &Core, state: &Arc<State>, seen: &Seen) -> Option<Entry> {
    let options = &core.options;
    if state.cluster == 0 {
        let (resolver, resolver_hash) = options.resolver.clone();
        let (partition_bits, expect) = (options.partition_bits, options.expect);
        return Some(Entry::Found { cluster: *core.cluster.borrow(), partition_bits, expect, resolver, resolver_hash });
    }
    if state.ring.is_none() {
        // Whoever is told that the cluster serves may count on it that one lost node does not take the log along.
        let complete = seen.complete?;
        if !is_spread(core.metrics().membership_config.membership(), state) && complete.elapsed() < SPREAD_WAIT {
            return None;
        }
        let state = Arc::clone(state);
        return tokio::task::spawn_blocking(move || state.form_entry()).await.ok()?;
    }
    let joining = state.members.iter().find(|(_, member)| member.standing == Standing::Joining);
    if let Some((&node, _)) = joining.filter(|_| options.auto_accept) {
        return Some(Entry::Change { wish: Wish::Accept { node }, seen: None });
    }
    if state.has_due() && seen.asked.1.elapsed() >= WISHES_SETTLE {
        let state = Arc::clone(state);
        return tokio::task::spawn_blocking(move || state.due()).await.ok()?;
    }
    (seen.epoch.1.elapsed() >= options.epoch_period).then_some(Entry::Advance)
}

async fn propose(core: &Core, entry: Entry) {
    let what = match &entry {
        Entry::Found { .. } => "founding the cluster",
        Entry::Form { .. } => "forming the ring",
        Entry::Change { .. } => "accepting a node that has joined",
        Entry::Begin { .. } => "beginning a change of the ring",
        Entry::BeginCopies { .. } => "beginning to change the number of copies",
        _ => "advancing the epoch",
    };
    match core.write(entry.signed(core.options.node.to_string(), wall_ms())).await {
        Ok((Ok(_), _)) => info!(epoch = core.state.borrow().epoch.0, "{what}: done"),
        Ok((Err(refusal), _)) => warn!("{what}: refused: {refusal}"),
        Err(_) => warn!("{what}: not confirmed, will look again"),
    }
}

/// Lets every member follow the log, the right ones vote, and those go that left.
async fn tend_members(core: &Core, state: &State, seen: &mut Seen) {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    for (node, member) in &state.members {
        if membership.get_node(&node.0).is_none() {
            add_learner(core, node.0, &member.addresses.peer).await;
        }
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let close = |node: &u64| matched(&metrics, *node).is_some_and(|matched| matched + VOTER_LAG_MAX >= last);
    if let Some(voters) = next_voters(membership, state, close) {
        let what = format!("the voters of the epoch log become {voters:?}");
        change_membership(core, ChangeMembers::ReplaceAllVoters(voters), &what).await;
        return;
    }
    let gone = departed(&metrics, state, seen);
    if !gone.is_empty() {
        let what = format!("nodes that left follow the epoch log no more: {gone:?}");
        change_membership(core, ChangeMembers::RemoveNodes(gone), &what).await;
    }
}

async fn change_membership(core: &Core, change: ChangeMembers<u64, BasicNode>, what: &str) {
    match timeout(CHANGE_WAIT, core.raft.change_membership(change, true)).await {
        Ok(Ok(_)) => info!("{what}"),
        Ok(Err(error)) => warn!(%error, "not yet: {what}"),
        Err(_) => warn!("not confirmed in time: {what}"),
    }
}

/// The last entry that a node is known to have.
fn matched(metrics: &RaftMetrics<u64, BasicNode>, node: u64) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node).copied().flatten().map(|matched| matched.index)
}

/// Learners that left the cluster, and have heard so or had their time to.
fn departed(metrics: &RaftMetrics<u64, BasicNode>, state: &State, seen: &mut Seen) -> BTreeSet<u64> {
    let membership = metrics.membership_config.membership();
    let left = |node: &u64| state.removed.contains_key(&NodeId(*node));
    let left: BTreeSet<u64> = membership.learner_ids().filter(left).collect();
    seen.departed.retain(|node, _| left.contains(node));
    let heard = |node: u64| matched(metrics, node) >= metrics.last_log_index;
    let ripe = |node: &u64| {
        let since = seen.departed.entry(*node).or_insert_with(Instant::now).elapsed();
        since >= GOODBYE_MAX || (since >= GOODBYE_MIN && heard(*node))
    };
    left.into_iter().filter(ripe).collect()
}

/// Whether all vote that shall, were all of them ready.
fn is_spread(membership: &Membership<u64, BasicNode>, state: &State) -> bool {
    let [voting] = &membership.get_joint_config()[..] else { return false };
    let voting = voting.iter().copied().map(NodeId).collect();
    state.voters(&voting, |_| true) == voting
}

/// The voters as they shall be ([`State::voters`]), if that differs from what they are. A change that another leader
/// left half done is finished first.
fn next_voters(
    membership: &Membership<u64, BasicNode>,
    state: &State,
    close: impl Fn(&u64) -> bool,
) -> Option<BTreeSet<u64>> {
    let configs = membership.get_joint_config();
    let present = configs.last()?;
    if configs.len() > 1 {
        return Some(present.clone());
    }
    let voting = present.iter().copied().map(NodeId).collect();
    let ready = |node: NodeId| membership.get_node(&node.0).is_some() && close(&node.0);
    let voters = state.voters(&voting, ready).into_iter().map(|node| node.0).collect();
    (voters != *present).then_some(voters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::cluster::Member;

    fn state(zones: &[&str]) -> State {
        let member = |zone: &&str| Member {
            directory: 1,
            opening: 1,
            incarnation: mks_logic::id::Incarnation(1),
            addresses: mks_logic::cluster::Addresses::default(),
            zone: (*zone).to_owned(),
            weight: 100,
            standing: mks_logic::cluster::Standing::Up,
            opened: 0,
        };
        let members = zones.iter().zip(1..).map(|(zone, id)| (NodeId(id), member(zone))).collect();
        State { members, ..State::default() }
    }

    fn membership(configs: &[&[u64]], all: u64) -> Membership<u64, BasicNode> {
        let configs = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        Membership::new(configs, (1..=all).map(|id| (id, BasicNode::new(""))).collect::<BTreeMap<_, _>>())
    }

    fn next(configs: &[&[u64]], zones: &[&str], close: &[u64]) -> Option<Vec<u64>> {
        let membership = membership(configs, zones.len() as u64);
        next_voters(&membership, &state(zones), |node| close.contains(node)).map(|voters| voters.into_iter().collect())
    }

    #[test]
    fn the_right_members_vote() {
        assert_eq!(next(&[&[1]], &[""], &[]), None, "alone");
        assert_eq!(next(&[&[1]], &["", ""], &[2]), Some(vec![1, 2]), "two of two");
        assert_eq!(next(&[&[1]], &["", "", ""], &[2]), Some(vec![1, 2]), "one of them is not ready");
        assert_eq!(next(&[&[1, 2]], &["", "", ""], &[3]), Some(vec![1, 2, 3]), "three of three");
        assert_eq!(next(&[&[1, 2, 3]], &["", "", "", ""], &[4]), None, "three of four");
        assert_eq!(next(&[&[1, 2, 3]], &[""; 5], &[4, 5]), Some(vec![1, 2, 3, 4, 5]), "five of five");
        assert_eq!(next(&[&[1, 2, 3]], &[""; 9], &[4]), None, "the fifth is not ready");
        assert_eq!(next(&[&[1, 2, 3, 4, 5]], &[""; 9], &[6, 7, 8, 9]), None, "five are enough");
    }

    #[test]
    fn the_founder_votes_alone_until_all_are_there_and_the_ring_waits_until_they_vote() {
        let mut state = state(&["", ""]);
        state.expect = 3;
        assert_eq!(next_voters(&membership(&[&[1]], 2), &state, |_| true), None, "the third has not joined");
        let third = state.members[&NodeId(2)].clone();
        state.members.insert(NodeId(3), third);
        let voters = next_voters(&membership(&[&[1]], 3), &state, |_| true);
        assert_eq!(voters, Some(BTreeSet::from([1, 2, 3])), "never two, of which both are needed");
        for (configs, spread) in
            [(&[&[1][..]][..], false), (&[&[1, 2]], false), (&[&[1], &[1, 2, 3]], false), (&[&[1, 2, 3]], true)]
        {
            assert_eq!(is_spread(&membership(configs, 3), &state), spread, "{configs:?}");
        }
    }

    #[test]
    fn voters_are_spread_over_zones() {
        assert_eq!(next(&[&[1]], &["a", "a", "a", "b", "c"], &[2, 3, 4]), Some(vec![1, 2, 4]));
        assert_eq!(next(&[&[1]], &["a", "a", "a", "b", "c"], &[2, 3, 4, 5]), Some(vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn who_shall_leave_votes_no_more() {
        let mut state = state(&[""; 4]);
        state.ring = mks_logic::ring::Ring::solve(4, 3, &state.candidates(), None).ok();
        state.members.get_mut(&NodeId(2)).unwrap().standing = mks_logic::cluster::Standing::Leaving;
        let membership = membership(&[&[1, 2, 3]], 4);
        assert_eq!(next_voters(&membership, &state, |node| *node == 4), Some(BTreeSet::from([1, 3, 4])));
        assert_eq!(
            next_voters(&membership, &state, |_| false),
            Some(BTreeSet::from([1, 3])),
            "also without a successor"
        );
    }

    #[test]
    fn a_change_left_half_done_is_finished() {
        assert_eq!(next(&[&[1, 2], &[1, 2, 3]], &["", "", ""], &[]), Some(vec![1, 2, 3]));
    }
}
