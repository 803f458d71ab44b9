//! What the leader does unasked: found, form, let members follow and vote, and end each epoch when its time is over.
//!
//! Every step looks at the state as it is and does the one thing that is missing, so a new leader goes on where the
//! old one stopped, and nothing is done twice: an entry that came too late is refused by the state.

use super::admission::add_learner;
use super::raft_log::{Core, VOTERS_MAX, changed};
use mks_logic::cluster::{Entry, State};
use mks_logic::id::{Epoch, NodeId};
use openraft::{ChangeMembers, Membership};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a change of voters may take before it is looked at again.
const CHANGE_WAIT: Duration = Duration::from_secs(5);
/// A learner this many entries behind may become a voter: it takes part in the next majority at once.
const VOTER_LAG_MAX: u64 = 64;

/// Runs for ever; works only while this node leads.
pub(super) async fn run(core: Arc<Core>) {
    let mut state = core.state.clone();
    let mut slice = (Epoch(0), Instant::now());
    loop {
        let now = Arc::clone(&state.borrow_and_update());
        if slice.0 != now.epoch {
            slice = (now.epoch, Instant::now());
        }
        if core.is_leader() {
            if let Some(entry) = next_entry(&core, &now, slice.1).await {
                propose(&core, entry).await;
            }
            tend_members(&core, &now).await;
        }
        changed(&mut state, Instant::now() + LOOK_EVERY).await;
    }
}

/// The entry that is due, if any.
async fn next_entry(core: &Core, state: &Arc<State>, epoch_since: Instant) -> Option<Entry> {
    let options = &core.options;
    if state.cluster == 0 {
        let (resolver, resolver_hash) = options.resolver.clone();
        let (partition_bits, expect) = (options.partition_bits, options.expect);
        return Some(Entry::Found { cluster: *core.cluster.borrow(), partition_bits, expect, resolver, resolver_hash });
    }
    if state.ring.is_none() {
        let (joined, expected) = state.forming()?;
        if joined < expected {
            return None;
        }
        let state = Arc::clone(state);
        return tokio::task::spawn_blocking(move || state.form_entry()).await.ok()?;
    }
    (epoch_since.elapsed() >= options.epoch_period).then_some(Entry::Advance)
}

async fn propose(core: &Core, entry: Entry) {
    let what = match &entry {
        Entry::Found { .. } => "founding the cluster",
        Entry::Form { .. } => "forming the ring",
        _ => "advancing the epoch",
    };
    match core.write(entry).await {
        Ok((Ok(_), _)) => info!(epoch = core.state.borrow().epoch.0, "{what}: done"),
        Ok((Err(refusal), _)) => warn!("{what}: refused: {refusal}"),
        Err(_) => warn!("{what}: not confirmed, will look again"),
    }
}

/// Lets every member follow the log, and the right number of them vote.
async fn tend_members(core: &Core, state: &State) {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    for (node, member) in &state.members {
        if membership.get_node(&node.0).is_none() {
            add_learner(core, node.0, &member.addresses.peer).await;
        }
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let close = |node: &u64| {
        let matched = metrics.replication.as_ref().and_then(|all| all.get(node).copied().flatten());
        matched.is_some_and(|matched| matched.index + VOTER_LAG_MAX >= last)
    };
    let Some(voters) = next_voters(membership, state, close) else { return };
    let change = ChangeMembers::ReplaceAllVoters(voters.clone());
    match timeout(CHANGE_WAIT, core.raft.change_membership(change, true)).await {
        Ok(Ok(_)) => info!(?voters, "the voters of the epoch log have changed"),
        Ok(Err(error)) => warn!(?voters, %error, "the voters of the epoch log did not change"),
        Err(_) => warn!(?voters, "the voters of the epoch log did not change in time"),
    }
}

/// The voters as they shall be, if that differs from what they are.
///
/// Two members vote both: the log is then on two disks. From three on the number is odd, because a fourth voter adds
/// no lost node that could be borne. They are spread over zones. Voters never lose their vote here, and a change that
/// another leader left half done is finished.
fn next_voters(
    membership: &Membership<u64, openraft::BasicNode>,
    state: &State,
    close: impl Fn(&u64) -> bool,
) -> Option<BTreeSet<u64>> {
    let configs = membership.get_joint_config();
    let present = configs.last()?;
    if configs.len() > 1 {
        return Some(present.clone());
    }
    let mut ready: Vec<u64> = membership.learner_ids().filter(close).collect();
    let wanted = voter_count(present.len() + ready.len()).max(present.len());
    let mut voters = present.clone();
    let zone = |node: &u64| state.members.get(&NodeId(*node)).map_or("", |member| member.zone.as_str());
    while voters.len() < wanted {
        let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
        for voter in voters.iter().filter(|voter| !zone(voter).is_empty()) {
            *crowd.entry(zone(voter)).or_default() += 1;
        }
        let best = ready.iter().copied().min_by_key(|node| (crowd.get(zone(node)).copied().unwrap_or(0), *node))?;
        ready.retain(|node| *node != best);
        voters.insert(best);
    }
    (voters != *present).then_some(voters)
}

/// How many of `members` shall vote.
fn voter_count(members: usize) -> usize {
    match members.min(VOTERS_MAX) {
        few @ 0..=2 => few,
        odd if odd % 2 == 1 => odd,
        even => even - 1,
    }
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
            owned: true,
            opened: 0,
        };
        let members = zones.iter().zip(1..).map(|(zone, id)| (NodeId(id), member(zone))).collect();
        State { members, ..State::default() }
    }

    fn membership(configs: &[&[u64]], all: u64) -> Membership<u64, openraft::BasicNode> {
        let configs = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        Membership::new(configs, (1..=all).map(|id| (id, openraft::BasicNode::new(""))).collect::<BTreeMap<_, _>>())
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
    fn voters_are_spread_over_zones() {
        assert_eq!(next(&[&[1]], &["a", "a", "a", "b", "c"], &[2, 3, 4]), Some(vec![1, 2, 4]));
        assert_eq!(next(&[&[1]], &["a", "a", "a", "b", "c"], &[2, 3, 4, 5]), Some(vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn a_change_left_half_done_is_finished() {
        assert_eq!(next(&[&[1, 2], &[1, 2, 3]], &["", "", ""], &[]), Some(vec![1, 2, 3]));
    }
}
