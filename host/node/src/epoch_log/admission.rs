//! Bringing a node in: for the first time, or again after a restart, which asks for a new incarnation.

use super::raft_log::{Core, Fence, WriteError, changed};
use super::wire::{Join, Joined, Kind, Refused, WireError};
use crate::clock::wall_ms;
use mks_logic::cluster::{Applied, Entry, State};
use openraft::BasicNode;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// How long one node may take to answer a request to join.
const ANSWER_WAIT: Duration = Duration::from_secs(8);
/// Pause after a round in which nobody let us in: it doubles up to the longer one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Between two lines in the log that say why we still wait.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How long the log may take to bring us the entry that let us in, before we ask again.
const ARRIVAL_WAIT: Duration = Duration::from_secs(10);
/// How long a change of Raft's membership may take before the steward takes over.
const LEARNER_WAIT: Duration = Duration::from_secs(3);

/// Asks until this opening has its incarnation in the state, or is refused for good.
pub(super) async fn join(core: Arc<Core>) {
    let started = Instant::now();
    let mut reported = started - REPORT_EVERY;
    let mut pause = PAUSE_FIRST;
    let mut state = core.state.clone();
    while !is_granted(&core, &state.borrow_and_update()) {
        match ask_around(&core).await {
            Ok(()) => {
                let deadline = Instant::now() + ARRIVAL_WAIT;
                while Instant::now() < deadline && !is_granted(&core, &state.borrow_and_update()) {
                    changed(&mut state, deadline).await;
                }
                continue;
            }
            Err(Answer::Refused(refused)) => return core.fence(Fence::MustStop(refused.to_string())),
            Err(Answer::Broken(reason)) => return core.fence(Fence::MustStop(reason)),
            Err(Answer::Later(reason)) => {
                if reported.elapsed() >= REPORT_EVERY {
                    reported = Instant::now();
                    let waited_s = started.elapsed().as_secs();
                    info!(waited_s, "waiting for the cluster to let this node in: {reason}");
                }
            }
        }
        changed(&mut state, Instant::now() + pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    let member = state.borrow().members.get(&core.options.node).map(|member| member.incarnation);
    info!(incarnation = member.map_or(0, |incarnation| incarnation.0), "the cluster has let this node in");
}

fn is_granted(core: &Core, state: &State) -> bool {
    state.members.get(&core.options.node).is_some_and(|member| member.opening == core.opening)
}

/// Why a round brought nothing.
enum Answer {
    Refused(Refused),
    /// Our own store failed.
    Broken(String),
    Later(String),
}

/// One round: this node if it leads, then the leader, then all members and seeds it knows, until one lets us in.
async fn ask_around(core: &Arc<Core>) -> Result<(), Answer> {
    let options = &core.options;
    let join = Join {
        cluster: *core.cluster.borrow(),
        node: options.node,
        directory: core.identity().directory,
        opening: core.opening,
        addresses: options.addresses.clone(),
        zone: options.zone.clone(),
        weight: options.weight,
        handed_on: false,
        opened: core.opened,
    };
    let mut reason = "no other node is known yet".to_owned();
    if core.is_leader() {
        match accept(core, take_in(core, &join).await).await {
            Err(Answer::Later(why)) => reason = why,
            done => return done,
        }
    }
    let mut asked = BTreeSet::from([options.addresses.peer.clone()]);
    let members: Vec<String> = core.state.borrow().members.values().map(|m| m.addresses.peer.clone()).collect();
    for address in core.leader_address().into_iter().chain(members).chain(options.join.iter().cloned()) {
        if !asked.insert(address.clone()) {
            continue;
        }
        let answer = match core.call(&address, Kind::Join, &join, ANSWER_WAIT).await {
            Ok(joined) => accept(core, joined).await,
            Err(error @ WireError::Unreachable { .. }) => Err(Answer::Later(error.to_string())),
            Err(error) => Err(Answer::Later(format!("{address}: {error}"))),
        };
        match answer {
            Err(Answer::Later(why)) => reason = why,
            done => return done,
        }
    }
    Err(Answer::Later(reason))
}

/// What an answer means to the node that asked.
async fn accept(core: &Arc<Core>, joined: Joined) -> Result<(), Answer> {
    match joined {
        Joined::In { cluster, .. } if *core.cluster.borrow() == 0 => {
            core.adopt(cluster).await.map_err(|error| Answer::Broken(error.to_string()))
        }
        Joined::In { .. } => Ok(()),
        Joined::Refused(refused) => Err(Answer::Refused(refused)),
        Joined::Later(reason) => Err(Answer::Later(reason)),
    }
}

/// Answers a node that wants in: as the leader, or by asking the leader.
pub(super) async fn receive(core: &Arc<Core>, join: Join) -> Joined {
    let me = core.options.node;
    if core.is_leader() {
        return take_in(core, &join).await;
    }
    let Some(leader) = core.leader_address() else {
        return Joined::Later(format!("{me} knows no leader yet"));
    };
    if join.handed_on {
        return Joined::Later(format!("{me} does not lead any more"));
    }
    let handed_on = Join { handed_on: true, ..join };
    match core.call(&leader, Kind::Join, &handed_on, ANSWER_WAIT).await {
        Ok(joined) => joined,
        Err(error) => Joined::Later(format!("{me} asked the leader at {leader}: {error}")),
    }
}

/// The leader's part: one node at a time gets an entry in the log and a place among Raft's learners.
async fn take_in(core: &Arc<Core>, join: &Join) -> Joined {
    let Ok(_one_at_a_time) = timeout(ANSWER_WAIT, core.admissions.lock()).await else {
        return Joined::Later("many nodes are joining".to_owned());
    };
    let ours = core.state.borrow().cluster;
    if ours == 0 {
        return Joined::Later("the cluster is being founded".to_owned());
    }
    if join.cluster != 0 && join.cluster != ours {
        return Joined::Refused(Refused::OtherCluster { ours, theirs: join.cluster });
    }
    let entry = Entry::Open {
        node: join.node,
        directory: join.directory,
        opening: join.opening,
        addresses: join.addresses.clone(),
        zone: join.zone.clone(),
        weight: join.weight,
        opened: join.opened,
    };
    match core.write(entry.signed(join.node.to_string(), wall_ms())).await {
        Ok((Ok(Applied::Opened(incarnation)), _)) => {
            add_learner(core, join.node.0, &join.addresses.peer).await;
            Joined::In { cluster: ours, incarnation }
        }
        Ok((Ok(other), _)) => Joined::Later(format!("the log answered {other:?} to an opening")),
        Ok((Err(refusal), _)) => Joined::Refused(refusal.into()),
        Err(WriteError::NotNow) => Joined::Later("the leader has no majority".to_owned()),
        Err(WriteError::Unconfirmed) => Joined::Later("the leader could not confirm it in time".to_owned()),
    }
}

/// Lets a member follow the log. Should it fail, the steward tries again.
pub(super) async fn add_learner(core: &Core, node: u64, address: &str) {
    if core.metrics().membership_config.membership().get_node(&node).is_some() {
        return;
    }
    let learner = BasicNode::new(address);
    match timeout(LEARNER_WAIT, core.raft.add_learner(node, learner, false)).await {
        Ok(Ok(_)) => info!(node, "follows the epoch log"),
        Ok(Err(error)) => warn!(node, %error, "can't follow the epoch log yet"),
        Err(_) => warn!(node, "can't follow the epoch log yet: no majority confirmed it in time"),
    }
}
