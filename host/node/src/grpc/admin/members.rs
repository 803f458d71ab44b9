//! Changes of the members: what they would move, how they are asked for, and what changed lately.

use super::{AdminService, ring, signed};
use crate::epoch_log::ProposeError;
use crate::fault::{Fault, Reason};
use mks_logic::cluster::{Entry, Plan, Refusal, Standing, State, Wish};
use mks_logic::id::{Epoch, NodeId};
use mks_logic::ring::RING_WIDTH_MAX;
use mks_proto::v1::{
    self, AcceptNode, ChangeMembersRequest, ChangePlan, EpochEvent, EpochsResponse, LeaveNode, PlaceNode,
    PlanChangeRequest, PlannedLoad, ReplaceNode, WeighNode,
};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::Request;

/// Wishes of one request at most.
const WISHES_MAX: usize = 64;
/// Plans that are made at the same time: each one solves a ring, which takes seconds for the largest clusters.
static PLANS: Semaphore = Semaphore::const_new(2);

impl AdminService {
    /// What the log says, which the pump may not have seen yet.
    fn agreed(&self) -> Arc<State> {
        Arc::clone(&self.handle.epoch_log.watch().borrow())
    }

    pub(super) async fn plan(&self, request: PlanChangeRequest) -> Result<ChangePlan, Fault> {
        let state = self.agreed();
        let wishes = self.wishes(&state, request.wishes, request.force)?;
        self.planned(&state, &wishes).await
    }

    async fn planned(&self, state: &Arc<State>, wishes: &[Wish]) -> Result<ChangePlan, Fault> {
        let _turn = PLANS.acquire().await;
        let (planned, asked) = (Arc::clone(state), wishes.to_vec());
        let plan =
            tokio::task::spawn_blocking(move || planned.plan(&asked)).await.map_err(|_| Fault::wrong_answer())?;
        Ok(self.shown(state, &plan.map_err(refused)?, wishes))
    }

    /// All wishes are planned together first, so that none is granted where one of them can't be.
    pub(super) async fn change(&self, request: Request<ChangeMembersRequest>) -> Result<ChangePlan, Fault> {
        let (sign, request) = signed(request);
        let state = self.agreed();
        let wishes = self.wishes(&state, request.wishes, request.force)?;
        let mut plan = self.planned(&state, &wishes).await?;
        let mut seen = request.planned_in.map(Epoch);
        for (granted, wish) in wishes.iter().enumerate() {
            // The first one may move the epoch itself.
            let entry = Entry::Change { wish: wish.clone(), seen: seen.take() };
            if let Err(error) = self.handle.epoch_log.propose(sign(entry)).await {
                let fault = match error {
                    ProposeError::Refused(refusal) => refused(refusal),
                    other => other.into(),
                };
                let message = match granted {
                    0 => fault.message,
                    _ => format!("{}; {granted} of {} wishes are granted already", fault.message, wishes.len()),
                };
                return Err(Fault { message, ..fault });
            }
        }
        plan.asked = Some(self.agreed().asked);
        Ok(plan)
    }

    fn shown(&self, state: &State, plan: &Plan, wishes: &[Wish]) -> ChangePlan {
        let owned = state.ring.as_ref().map_or(0, |ring| ring.owned_by(self.handle.node, RING_WIDTH_MAX));
        let bytes = |owned| self.handle.store_stats().disk_bytes / owned * u64::from(plan.moved);
        let load = |load: &mks_logic::cluster::Load| PlannedLoad {
            node: load.node.0,
            before: load.before,
            after: load.after,
            gains: load.gains,
            loses: load.loses,
        };
        ChangePlan {
            epoch: plan.epoch.0,
            copies: plan.copies.into(),
            partitions: plan.partitions,
            moved: plan.moved,
            slots: plan.slots,
            bytes: (owned > 0).then(|| bytes(owned as u64)),
            loads: plan.loads.iter().map(load).collect(),
            notes: self.notes(state, wishes),
            asked: None,
        }
    }

    /// What a request wants, as the log takes it.
    fn wishes(&self, state: &State, wishes: Vec<v1::Wish>, force: bool) -> Result<Vec<Wish>, Fault> {
        ring(state)?;
        if wishes.is_empty() || wishes.len() > WISHES_MAX {
            return Err(Fault::invalid(format!(
                "{} wishes in one request; it must be 1 to {WISHES_MAX}",
                wishes.len()
            )));
        }
        wishes.into_iter().map(|wish| self.wish(state, wish, force)).collect()
    }

    fn wish(&self, state: &State, wish: v1::Wish, force: bool) -> Result<Wish, Fault> {
        use v1::wish::Wish as Asked;
        let asked = wish.wish;
        let asked =
            asked.ok_or_else(|| Fault::invalid("a wish that this node does not know; is it of an older version?"))?;
        Ok(match asked {
            Asked::Accept(AcceptNode { node }) => Wish::Accept { node: NodeId(node) },
            Asked::Leave(LeaveNode { node, dead }) => {
                let node = NodeId(node);
                if dead && !force && self.seems_alive(state, node) {
                    return Err(alive(node));
                }
                Wish::Leave { node, dead }
            }
            Asked::Replace(ReplaceNode { gone, by }) => {
                let (gone, by) = (NodeId(gone), NodeId(by));
                if !force && self.seems_alive(state, gone) {
                    return Err(alive(gone));
                }
                Wish::Replace { gone, by, dead: true }
            }
            Asked::Weight(WeighNode { node, weight }) => Wish::Weight { node: NodeId(node), weight },
            Asked::Zone(PlaceNode { node, zone }) => Wish::Zone { node: NodeId(node), zone },
        })
    }

    /// Whether a member answers gossip, as this node sees it; one that it has not heard of yet does.
    fn seems_alive(&self, state: &State, node: NodeId) -> bool {
        let view = self.handle.view.load();
        let peer = view.peers.iter().find(|peer| peer.node == node);
        state.members.contains_key(&node) && peer.is_none_or(|peer| peer.alive)
    }

    /// What whoever asks should know.
    fn notes(&self, state: &State, wishes: &[Wish]) -> Vec<String> {
        let away = |node: &NodeId| state.members.contains_key(node) && !self.seems_alive(state, *node);
        let note = |wish: &Wish| match wish {
            Wish::Leave { node, dead: false } if away(node) => Some(format!(
                "{node} does not answer gossip: what it owns moves, but it leaves only when it is back and has handed \
                 over what only it holds. If it will never come back: mks node leave {} --dead",
                node.0
            )),
            Wish::Accept { node } | Wish::Replace { by: node, .. } if away(node) => {
                Some(format!("{node} does not answer gossip: the change waits until it does"))
            }
            _ => None,
        };
        wishes.iter().filter_map(note).collect()
    }

    pub(super) fn epochs(&self) -> EpochsResponse {
        let state = self.agreed();
        let event = |event: &mks_logic::cluster::Event| EpochEvent {
            epoch: event.epoch.0,
            at_ms: event.at_ms,
            who: event.who.clone(),
            what: event.what.clone(),
            times: event.times,
        };
        EpochsResponse { epoch: state.epoch.0, events: state.history.iter().map(event).collect() }
    }
}

fn alive(node: NodeId) -> Fault {
    let message = format!(
        "{node} answers gossip, so it is not dead; a living node leaves by `mks node leave {}`, which hands over what it \
         holds. If you know better, say so with --force",
        node.0
    );
    Fault::new(Reason::NodeAlive, message)
}

/// In a cluster that has its ring, what comes at the wrong moment is about a member's standing.
fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Order(message) => Fault::new(Reason::Standing, message),
        other => other.into(),
    }
}

pub(super) fn standing(standing: Standing) -> v1::Standing {
    match standing {
        Standing::Joining => v1::Standing::Joining,
        Standing::Up => v1::Standing::Up,
        Standing::Leaving => v1::Standing::Leaving,
        Standing::Dead => v1::Standing::Dead,
    }
}
