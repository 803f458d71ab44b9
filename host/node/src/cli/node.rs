//! `node`: the members, and changes of them.

use super::client::{Client, Failure, Retry, signed};
use super::moves;
use super::output::{Output, table};
use super::units;
use clap::{Args, Subcommand};
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::wish::Wish as Asked;
use mks_proto::v1::{
    AcceptNode, ChangeMembersRequest, ChangePlan, LeaveNode, MemberStatus, MembersRequest, PlaceNode,
    PlanChangeRequest, PlannedLoad, ReplaceNode, Standing, WeighNode, Wish,
};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tonic::transport::Channel;

type Admin = AdminClient<Channel>;

/// `mks node`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Show all members
    List,
    /// Give nodes that have joined their share of the data; takes back a leave that has not ended
    Accept {
        /// Their numbers
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<u64>,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Let nodes hand over what they hold, and leave
    Leave {
        /// Their numbers
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<u64>,
        /// They are dead for good: nobody waits for what only they hold, and they are never let in again
        #[arg(long)]
        dead: bool,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Give a dead node's place to a node that has joined and was not accepted yet
    Replace {
        /// The dead one
        #[arg(value_name = "NODE")]
        gone: u64,
        /// The one that takes its place
        #[arg(long, value_name = "NODE")]
        by: u64,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Give a node another share of the data
    Weight {
        /// Its number
        node: u64,
        /// Relative to the other nodes, 1 to 10,000; 100 is usual
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        weight: u32,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Put a node into another failure domain
    Zone {
        /// Its number
        node: u64,
        /// The name of the zone; "" is a zone of its own
        zone: String,
        #[command(flatten)]
        how: HowArgs,
    },
}

/// What a change is asked for.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct HowArgs {
    /// Only show what would move
    #[arg(long)]
    plan: bool,
    /// Return when all partitions have moved. They move without it as well
    #[arg(long, conflicts_with = "plan")]
    wait: bool,
    /// The epoch of the plan that you looked at: refused when anything has changed since
    #[arg(long, value_name = "EPOCH", conflicts_with = "plan")]
    planned_in: Option<u64>,
    /// You have made sure that a node is dead, whatever gossip says
    #[arg(long)]
    force: bool,
}

impl NodeCommand {
    /// What it asks for; `None` for [`NodeCommand::List`].
    fn wishes(&self) -> Option<(Vec<Asked>, HowArgs)> {
        Some(match self {
            Self::List => return None,
            Self::Accept { nodes, how } => {
                (nodes.iter().map(|&node| Asked::Accept(AcceptNode { node })).collect(), *how)
            }
            Self::Leave { nodes, dead, how } => {
                let leave = |&node| Asked::Leave(LeaveNode { node, dead: *dead });
                (nodes.iter().map(leave).collect(), *how)
            }
            Self::Replace { gone, by, how } => (vec![Asked::Replace(ReplaceNode { gone: *gone, by: *by })], *how),
            Self::Weight { node, weight, how } => {
                (vec![Asked::Weight(WeighNode { node: *node, weight: *weight })], *how)
            }
            Self::Zone { node, zone, how } => (vec![Asked::Zone(PlaceNode { node: *node, zone: zone.clone() })], *how),
        })
    }

    /// Whom it asks to leave.
    fn leaving(&self) -> &[u64] {
        if let Self::Leave { nodes, .. } = self { nodes } else { &[] }
    }
}

pub(super) async fn node(client: &Client, command: &NodeCommand, output: &Output) -> Result<(), Failure> {
    let Some((wishes, how)) = command.wishes() else { return list(client, output).await };
    let wishes = wishes.into_iter().map(|wish| Wish { wish: Some(wish) }).collect();
    if how.plan {
        let request = PlanChangeRequest { wishes, force: how.force };
        let ask = |mut admin: Admin| {
            let request = request.clone();
            async move { admin.plan_change(request).await }
        };
        let plan = client.admin(Retry::Read, ask).await?;
        let end = format!("Nothing is asked for; with --planned-in {} it is, if nothing changes before", plan.epoch);
        return output.result(&plan_json(&plan), |_| plan_text(&plan, &end));
    }
    let request = ChangeMembersRequest { wishes, force: how.force, planned_in: how.planned_in };
    let ask = |mut admin: Admin| {
        let request = signed(request.clone());
        async move { admin.change_members(request).await }
    };
    let plan = client.admin(Retry::Write, ask).await?;
    if how.wait {
        moves::wait(client, plan.asked.unwrap_or(0), command.leaving(), output).await?;
    }
    let end = if how.wait { "All of it has moved" } else { "It is asked for; `mks moves --watch` shows how far it is" };
    output.result(&plan_json(&plan), |_| plan_text(&plan, end))
}

fn plan_json(plan: &ChangePlan) -> Value {
    json!({
        "epoch": plan.epoch, "copies": plan.copies, "partitions": plan.partitions, "moved": plan.moved,
        "slots": plan.slots, "bytes": plan.bytes, "notes": plan.notes, "asked": plan.asked,
        "loads": plan.loads.iter().map(|load| json!({
            "node": load.node, "before": load.before, "after": load.after, "gains": load.gains, "loses": load.loses,
        })).collect::<Vec<_>>(),
    })
}

fn plan_text(plan: &ChangePlan, end: &str) -> String {
    let ChangePlan { epoch, copies, partitions, moved, slots, bytes, loads, notes, asked: _ } = plan;
    if loads.is_empty() {
        return format!("Nothing moves. {end}");
    }
    let share = f64::from(*moved) * 100.0 / f64::from((*slots).max(1));
    let about = bytes.map_or_else(String::new, |bytes| format!(", about {}", units::bytes(bytes)));
    let mut text = format!(
        "{moved} of {slots} copies ({share:.1} %{about}) are made anew, of {partitions} partitions with {copies} \
         owners each\n"
    );
    let mut rows = table(&["node", "owns now", "will own", "fetches", "hands over"]);
    for PlannedLoad { node, before, after, gains, loses } in loads {
        rows.add_row([node.to_string(), before.to_string(), after.to_string(), gains.to_string(), loses.to_string()]);
    }
    // Writing to a String can't fail.
    let _ = writeln!(text, "{rows}");
    for note in notes {
        let _ = writeln!(text, "NOTE: {note}");
    }
    text + &format!("Planned in epoch {epoch}. {end}")
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let ask = |mut admin: Admin| async move { admin.members(MembersRequest {}).await };
    let members = client.admin(Retry::Read, ask).await?.members;
    let json: Vec<_> = members.iter().map(member_json).collect();
    output.result(&json, |_| list_text(&members))
}

pub(super) fn standing(member: &MemberStatus) -> &'static str {
    match member.standing() {
        Standing::Unspecified => "unknown",
        Standing::Joining => "joining",
        Standing::Up => "up",
        Standing::Leaving => "leaving",
        Standing::Dead => "dead",
    }
}

/// What a member is in the epoch log.
pub(super) fn role(member: &MemberStatus) -> &'static str {
    match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

fn member_json(member: &MemberStatus) -> Value {
    json!({
        "node": member.node, "standing": standing(member), "alive": member.alive, "zone": member.zone,
        "weight": member.weight, "partitions": member.partitions, "partitions_next": member.partitions_next,
        "voter": member.voter, "leader": member.leader, "incarnation": member.incarnation,
        "client_address": member.client_address, "peer_address": member.peer_address,
        "http_address": member.http_address,
    })
}

fn list_text(members: &[MemberStatus]) -> String {
    let mut rows = table(&["node", "standing", "gossip", "zone", "weight", "partitions", "epoch log", "clients"]);
    for member in members {
        let partitions = match member.partitions_next.filter(|next| *next != member.partitions) {
            Some(next) => format!("{} -> {next}", member.partitions),
            None => member.partitions.to_string(),
        };
        rows.add_row([
            member.node.to_string(),
            standing(member).to_owned(),
            if member.alive { "alive".to_owned() } else { "DOWN".to_owned() },
            member.zone.clone(),
            member.weight.to_string(),
            partitions,
            role(member).to_owned(),
            member.client_address.clone(),
        ]);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_moves_and_how_to_do_it() {
        let load = PlannedLoad { node: 4, before: 0, after: 192, gains: 192, loses: 0 };
        let plan = ChangePlan {
            epoch: 17,
            copies: 3,
            partitions: 192,
            moved: 192,
            slots: 768,
            bytes: Some(3 << 20),
            loads: vec![load],
            notes: vec!["n4 does not answer gossip".into()],
            asked: None,
        };
        let text = plan_text(&plan, "This was a plan");
        for part in ["192 of 768", "25.0 %", "3.0 MiB", "epoch 17. This was a plan", "NOTE: n4"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(plan_json(&plan)["loads"][0]["after"], 192);
        assert_eq!(plan_text(&ChangePlan::default(), "Done"), "Nothing moves. Done");
    }

    #[test]
    fn members_show_their_standing_and_where_they_are_going() {
        let member = MemberStatus {
            node: 4,
            partitions: 0,
            partitions_next: Some(192),
            standing: Standing::Up.into(),
            ..MemberStatus::default()
        };
        let text = list_text(std::slice::from_ref(&member));
        assert!(text.contains("0 -> 192") && text.contains("up") && text.contains("DOWN"), "{text}");
        assert_eq!(member_json(&member)["standing"], "up");
    }
}
