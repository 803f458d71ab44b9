//! `status`, `ring`, `keyspace`: the cluster for people and scripts.

use super::client::{Client, DurabilityArg, Failure, Retry, durability, signed};
use super::node::{role, standing};
use super::output::{Output, table};
use super::scrub;
use super::seals;
use super::storage;
use super::units;
use bytes::Bytes;
use clap::{Args, Subcommand};
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::{
    AlterKeyspaceRequest, CreateKeyspaceRequest, Durability, Key, KeyspaceDefinition, KeyspaceResponse,
    ListKeyspacesRequest, MemberStatus, MembersRequest, RingRequest, RingResponse, StatusRequest, StatusResponse,
};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tonic::transport::Channel;

type Admin = AdminClient<Channel>;

pub(super) async fn status(client: &Client, output: &Output) -> Result<(), Failure> {
    let status =
        client.admin(Retry::Read, |mut admin: Admin| async move { admin.status(StatusRequest {}).await }).await?;
    let roster = client.admin(Retry::Read, |mut admin: Admin| async move { admin.members(MembersRequest {}).await });
    let members = roster.await?.members;
    output.result(&status_json(&status, &members), |_| status_text(&status, &members))
}

fn status_json(status: &StatusResponse, members: &[MemberStatus]) -> Value {
    let StatusResponse { store, log, .. } = status;
    json!({
        "node": status.node, "incarnation": status.incarnation, "cluster": status.cluster, "epoch": status.epoch,
        "version": status.version, "ready": status.ready, "not_ready": status.not_ready,
        "uptime_ms": status.uptime_ms, "operations": status.operations, "resident_bytes": status.resident_bytes,
        "warnings": status.warnings,
        "store": store.as_ref().map(|store| json!({
            "engine": store.engine, "adapter": store.adapter, "records_estimate": store.records_estimate,
            "disk_bytes": store.disk_bytes, "batches": store.batches, "fsyncs": store.fsyncs,
            "stall_us": store.stall_us, "shadow": store.shadow.as_ref().map(storage::shadow_json),
        })),
        "log": log.as_ref().map(|log| json!({
            "leader": if log.leader == 0 { None } else { Some(log.leader) }, "term": log.term,
            "applied": log.applied, "voters": log.voters, "learners": log.learners,
        })),
        "scrub": status.scrub.as_ref().map(scrub::status_json),
        "seals": status.seals.as_ref().map(seals::status_json),
        "members": members.iter().map(|member| json!({
            "node": member.node, "incarnation": member.incarnation, "client_address": member.client_address,
            "peer_address": member.peer_address, "http_address": member.http_address, "zone": member.zone,
            "weight": member.weight, "alive": member.alive, "linked": member.linked,
            "clock_offset_ms": member.clock_offset_ms, "leader": member.leader, "voter": member.voter,
            "partitions": member.partitions, "hints": member.hints, "hint_bytes": member.hint_bytes,
            "hints_since_ms": member.hints_since_ms, "hints_counted": member.hints_counted,
            "needs_sync": member.needs_sync, "standing": standing(member),
            "partitions_next": member.partitions_next,
        })).collect::<Vec<_>>(),
    })
}

fn status_text(status: &StatusResponse, members: &[MemberStatus]) -> String {
    let StatusResponse { node, cluster, epoch, version, .. } = status;
    let mut text = format!("node {node} of cluster {cluster}, epoch {epoch}, mks {version}\n");
    let ready = if status.ready { "serving".to_owned() } else { format!("NOT serving: {}", status.not_ready) };
    let (up, memory) = (units::span(status.uptime_ms), units::bytes(status.resident_bytes));
    // Writing to a String can't fail.
    let _ = writeln!(text, "{ready}; up {up}, {memory} resident, {} operations under way", status.operations);
    if let Some(store) = &status.store {
        let disk = units::bytes(store.disk_bytes);
        let _ = writeln!(
            text,
            "store: {} by adapter {}, about {} records, {disk} on disk, {} batches, {} fsyncs, held back {}",
            store.engine,
            store.adapter,
            store.records_estimate,
            store.batches,
            store.fsyncs,
            units::span(store.stall_us / 1_000),
        );
        if let Some(shadow) = &store.shadow {
            let _ = writeln!(text, "{}", storage::shadow_text(shadow));
        }
    }
    if let Some(log) = &status.log {
        let leader = if log.leader == 0 { "nobody".to_owned() } else { format!("node {}", log.leader) };
        let _ = writeln!(text, "epoch log: {leader} leads, term {}, entry {}", log.term, log.applied);
    }
    if let Some(scrub) = &status.scrub {
        let _ = writeln!(text, "{}", scrub::status_text(scrub));
    }
    if let Some(seals) = &status.seals {
        let _ = writeln!(text, "{}", seals::status_text(seals));
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "WARNING: {warning}");
    }
    text + &members_text(members)
}

fn members_text(members: &[MemberStatus]) -> String {
    let mut rows = table(&[
        "node",
        "state",
        "zone",
        "weight",
        "partitions",
        "epoch log",
        "clients",
        "peers",
        "http",
        "clock",
        "owed to it",
    ]);
    for member in members {
        let state = match (member.alive, member.linked) {
            (true, true) => "alive",
            (true, false) => "alive, no stream",
            (false, _) => "DOWN",
        };
        rows.add_row([
            member.node.to_string(),
            state.to_owned(),
            member.zone.clone(),
            member.weight.to_string(),
            member.partitions.to_string(),
            role(member).to_owned(),
            member.client_address.clone(),
            member.peer_address.clone(),
            member.http_address.clone(),
            format!("{:+} ms", member.clock_offset_ms),
            owed_text(member),
        ]);
    }
    rows.to_string()
}

/// What the answering node owes to a member.
fn owed_text(member: &MemberStatus) -> String {
    let mut parts = Vec::new();
    if member.hints > 0 {
        parts.push(format!("{} ({})", member.hints, units::bytes(member.hint_bytes)));
    }
    if member.hints_counted > 0 {
        parts.push(format!("{} of them promised", member.hints_counted));
    }
    if member.needs_sync > 0 {
        parts.push(format!("{} partitions to compare", member.needs_sync));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// `mks ring`
#[derive(Clone, Debug, Args)]
pub(super) struct RingArgs {
    /// Show only the partition and the owners of this key
    key: Option<String>,
    /// Keyspace of the key
    #[arg(long, value_name = "NAME", default_value = "default", requires = "key")]
    keyspace: String,
}

pub(super) async fn ring(client: &Client, args: &RingArgs, output: &Output) -> Result<(), Failure> {
    let key = args.key.as_ref().map(|key| Key {
        keyspace: args.keyspace.clone(),
        partition_key: Bytes::copy_from_slice(key.as_bytes()),
        sort_key: Bytes::new(),
    });
    let ask = |mut admin: Admin| {
        let request = RingRequest { key: key.clone() };
        async move { admin.ring(request).await }
    };
    let ring = client.admin(Retry::Read, ask).await?;
    let ranges = ring.ranges.iter();
    let json = json!({
        "epoch": ring.epoch, "partitions": ring.partitions, "partition": ring.partition, "change": ring.change,
        "ranges": ranges.map(|r| json!({
            "first": r.first, "last": r.last, "owners": r.owners, "next": r.next, "cut_over": r.cut_over,
        })).collect::<Vec<_>>(),
    });
    output.result(&json, |_| ring_text(&ring, args.key.as_deref()))
}

fn ring_text(ring: &RingResponse, key: Option<&str>) -> String {
    let owners = |owners: &[u64]| owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let (Some(key), Some(partition)) = (key, ring.partition) {
        let range = ring.ranges.first().cloned().unwrap_or_default();
        let (of_key, epoch, partitions) = (owners(&range.owners), ring.epoch, ring.partitions);
        let next = match (range.next.is_empty(), range.cut_over) {
            (true, _) => String::new(),
            (false, false) => format!(", moving to {}", owners(&range.next)),
            (false, true) => format!(", moving to {}, which are read from already", owners(&range.next)),
        };
        return format!("{key}: partition {partition} of {partitions}, owners {of_key}{next} (epoch {epoch})");
    }
    if ring.ranges.is_empty() {
        return "the cluster is forming: no partition has an owner yet".to_owned();
    }
    let mut rows = table(if ring.change.is_some() {
        &["partitions", "owners", "next owners", "read from"][..]
    } else {
        &["partitions", "owners"]
    });
    for range in &ring.ranges {
        let partitions = if range.first == range.last {
            range.first.to_string()
        } else {
            format!("{} to {}", range.first, range.last)
        };
        let mut row = vec![partitions, owners(&range.owners)];
        if ring.change.is_some() {
            let read = if range.cut_over { "the next ones" } else { "the owners" };
            row.extend([owners(&range.next), read.to_owned()]);
        }
        rows.add_row(row);
    }
    let change = ring.change.map_or_else(String::new, |id| format!(", change {id} is under way"));
    format!("epoch {}, {} partitions{change}\n{rows}", ring.epoch, ring.partitions)
}

/// `mks keyspace`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum KeyspaceCommand {
    /// Make a keyspace
    Create {
        /// Its name
        name: String,
        /// Owners of each key; left out: 3, or as many as there are nodes if that is less
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
        n: Option<u32>,
        #[command(flatten)]
        definition: DefinitionArgs,
    },
    /// Show all keyspaces
    List,
    /// Change a keyspace; what is left out stays
    Alter {
        /// Its name
        name: String,
        /// Another number of owners of each key. They are made while clients read and write, as `mks moves` shows; r
        /// and w become majorities of it, unless they are named as well
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
        n: Option<u32>,
        #[command(flatten)]
        definition: DefinitionArgs,
    },
}

/// What can be chosen at creation and changed later.
#[derive(Clone, Debug, Args)]
pub(super) struct DefinitionArgs {
    /// Owners that must answer a read; left out at creation: a majority
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    r: Option<u32>,
    /// Owners that must hold a write; left out at creation: a majority
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    w: Option<u32>,
    /// What an acknowledgement promises; left out at creation: sync
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    /// Lifetime of writes that name none: 30s, 7d, or `never`
    #[arg(long, value_parser = units::time_to_live, value_name = "TIME")]
    ttl: Option<Duration>,
    /// Who settles conflicts; left out at creation: lww
    #[arg(long, value_name = "NAME")]
    resolver: Option<String>,
    /// In the place of a resolver: a data type whose operations change the values: g-counter, pn-counter, or-set,
    /// lww-map, max, hyperloglog, or NAME@VERSION of a plugin. It can become another version of itself later, and
    /// nothing else
    #[arg(long, value_name = "NAME", conflicts_with_all = ["resolver", "ttl"])]
    datatype: Option<String>,
}

impl DefinitionArgs {
    fn definition(&self, name: &str, n: Option<u32>) -> KeyspaceDefinition {
        KeyspaceDefinition {
            name: name.to_owned(),
            n,
            causal: None,
            r: self.r,
            w: self.w,
            durability: durability(self.durability).into(),
            ttl_ms: self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            resolver: self.resolver.clone(),
            data_type: self.datatype.clone(),
        }
    }
}

pub(super) async fn keyspace(client: &Client, command: &KeyspaceCommand, output: &Output) -> Result<(), Failure> {
    match command {
        KeyspaceCommand::Create { name, n, definition } => {
            let ask = |mut admin: Admin| {
                let request = signed(CreateKeyspaceRequest { keyspace: Some(definition.definition(name, *n)) });
                async move { admin.create_keyspace(request).await }
            };
            let made = client.admin(Retry::Write, ask).await?;
            output.result(&keyspace_json(&made), |_| keyspaces_text(std::slice::from_ref(&made)))
        }
        KeyspaceCommand::Alter { name, n, definition } => {
            let ask = |mut admin: Admin| {
                let request = signed(AlterKeyspaceRequest { keyspace: Some(definition.definition(name, *n)) });
                async move { admin.alter_keyspace(request).await }
            };
            let altered = client.admin(Retry::Write, ask).await?;
            output.result(&keyspace_json(&altered), |_| keyspaces_text(std::slice::from_ref(&altered)))
        }
        KeyspaceCommand::List => {
            let ask = |mut admin: Admin| async move { admin.list_keyspaces(ListKeyspacesRequest {}).await };
            let all = client.admin(Retry::Read, ask).await?.keyspaces;
            let json: Vec<_> = all.iter().map(keyspace_json).collect();
            output.result(&json, |_| keyspaces_text(&all))
        }
    }
}

fn durability_name(definition: &KeyspaceDefinition) -> &'static str {
    match definition.durability() {
        Durability::Unspecified => "",
        Durability::Os => "os",
        Durability::Sync => "sync",
    }
}

fn keyspace_json(response: &KeyspaceResponse) -> Value {
    let KeyspaceResponse { id, keyspace, resolver_hash, epoch, next } = response;
    let definition = keyspace.clone().unwrap_or_default();
    json!({
        "id": id, "name": definition.name, "n": definition.n, "r": definition.r, "w": definition.w,
        "durability": durability_name(&definition), "ttl_ms": definition.ttl_ms.filter(|ttl| *ttl != 0),
        "resolver": definition.resolver, "data_type": definition.data_type, "causal": definition.causal, "resolver_hash": resolver_hash, "epoch": epoch,
        "next": next.as_ref().map(|next| json!({ "n": next.n, "r": next.r, "w": next.w })),
    })
}

fn keyspaces_text(keyspaces: &[KeyspaceResponse]) -> String {
    let mut rows =
        table(&["keyspace", "id", "n", "r", "w", "durability", "ttl", "resolver or type", "causal", "resolver hash"]);
    for KeyspaceResponse { id, keyspace, resolver_hash, next, .. } in keyspaces {
        let definition = keyspace.clone().unwrap_or_default();
        let number = |now: Option<u32>, next: Option<u32>| match (now, next.filter(|next| now != Some(*next))) {
            (Some(now), Some(next)) => format!("{now}, will be {next}"),
            (now, _) => now.map_or_else(String::new, |now| now.to_string()),
        };
        rows.add_row([
            definition.name.clone(),
            id.to_string(),
            number(definition.n, next.map(|next| next.n)),
            number(definition.r, next.map(|next| next.r)),
            number(definition.w, next.map(|next| next.w)),
            durability_name(&definition).to_owned(),
            definition.ttl_ms.filter(|ttl| *ttl != 0).map_or_else(|| "never".to_owned(), units::span),
            definition.data_type.clone().or(definition.resolver.clone()).unwrap_or_default(),
            if definition.causal() { "yes" } else { "no" }.to_owned(),
            resolver_hash.chars().take(12).collect(),
        ]);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_proto::v1::RingRange;

    #[test]
    fn a_member_that_is_down_stands_out() {
        let owed = MemberStatus { hints: 71, hints_counted: 4, needs_sync: 9, ..MemberStatus::default() };
        let member = MemberStatus { node: 2, voter: true, clock_offset_ms: -3, ..owed };
        let text = members_text(&[member]);
        let parts = ["DOWN", "voter", "-3 ms", "71 (", "4 of them promised", "9 partitions to compare"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn status_says_why_a_node_does_not_serve_and_every_warning() {
        let status = StatusResponse {
            not_ready: "forming: 1 of 3".into(),
            warnings: vec!["node 4 owns nothing".into()],
            ..StatusResponse::default()
        };
        let text = status_text(&status, &[]);
        assert!(
            text.contains("NOT serving: forming: 1 of 3") && text.contains("WARNING: node 4 owns nothing"),
            "{text}"
        );
        assert_eq!(status_json(&status, &[])["store"], Value::Null);
    }

    #[test]
    fn a_ring_reads_by_ranges_and_by_key() {
        let range = RingRange { first: 3, last: 5, owners: vec![1, 2], ..RingRange::default() };
        let ring = RingResponse { epoch: 7, partitions: 256, ranges: vec![range], ..RingResponse::default() };
        assert!(ring_text(&ring, None).contains("3 to 5"));
        let mut of_key = RingResponse { partition: Some(4), ..ring };
        assert_eq!(ring_text(&of_key, Some("k")), "k: partition 4 of 256, owners 1, 2 (epoch 7)");
        (of_key.change, of_key.ranges[0].next) = (Some(3), vec![2, 4]);
        assert!(ring_text(&of_key, Some("k")).contains("owners 1, 2, moving to 2, 4 (epoch 7)"));
        let text = ring_text(&of_key, None);
        assert!(text.contains("change 3") && text.contains("2, 4") && text.contains("the owners"), "{text}");
        assert!(ring_text(&RingResponse::default(), None).contains("forming"));
    }

    #[test]
    fn a_definition_leaves_out_what_was_not_said() {
        let args = DefinitionArgs { r: None, w: Some(3), durability: None, ttl: None, resolver: None, datatype: None };
        let expected = KeyspaceDefinition { name: "a".into(), w: Some(3), ..KeyspaceDefinition::default() };
        assert_eq!(args.definition("a", None), expected);
    }
}
