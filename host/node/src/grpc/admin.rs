//! `mks.v1.Admin`: what the node and its cluster are, and how keyspaces change.

mod members;
mod moves;
mod plugins;
mod scrub;
mod shadows;
mod store;

use super::convert::{Checker, durability};
use crate::clock::wall_ms;
use crate::epoch_log::ProposeError;
use crate::fault::{Fault, Reason};
use crate::handle::Handle;
use crate::metrics::{Surface, resident_bytes};
use crate::status;
use futures_util::stream::{self, BoxStream, StreamExt};
use mks_logic::cluster::{Applied, Copies, Entry, Keyspace, Plugin, Refusal, State, Tables};
use mks_logic::event::HintCount;
use mks_logic::id::{KeyspaceId, NodeId, PartitionId};
use mks_logic::node::SyncFigures;
use mks_logic::port::{Durability, ResolverHash, Role};
use mks_logic::ring::{RING_WIDTH_MAX, Ring};
use mks_proto::v1::admin_server::Admin;
use mks_proto::v1::{
    self, AlterKeyspaceRequest, AlterPluginRequest, AlterPluginResponse, ChangeMembersRequest, ChangePlan,
    CreateKeyspaceRequest, EpochsRequest, EpochsResponse, InstallPluginProgress, InstallPluginRequest,
    KeyspaceDefinition, KeyspaceResponse, ListKeyspacesRequest, ListKeyspacesResponse, ListPluginsRequest,
    ListPluginsResponse, LogStatus, MemberStatus, MembersRequest, MembersResponse, MovesRequest, MovesResponse,
    PlanChangeRequest, RemovePluginRequest, RemovePluginResponse, RepairProgress, RepairRequest, RingRange,
    RingRequest, RingResponse, ScrubProgress, ScrubRequest, SealStatus, StatusRequest, StatusResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Owners of each key where nobody says otherwise and the ring is wide enough.
const N_DEFAULT: u8 = 3;
const RESOLVER_DEFAULT: &str = "lww";
/// The resolver that leaves siblings to readers.
const KEEP_SIBLINGS: &str = "keep-siblings";
/// How often a repair says how far it is: the pump says it as often.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// Metadata in which a client says who asks.
const WHO: &str = "mks-who";

/// The service on one node.
#[derive(Clone, Debug)]
pub(super) struct AdminService {
    handle: Handle,
}

impl AdminService {
    pub(super) const fn new(handle: Handle) -> Self {
        Self { handle }
    }

    fn state(&self) -> Arc<State> {
        self.handle.state.load_full()
    }

    /// Counts faults of the input on their way to the client.
    fn answer<T>(&self, result: Result<T, Fault>) -> Result<Response<T>, Status> {
        if let Err(fault) = &result
            && fault.reason.blames_input()
        {
            self.handle.metrics.malformed(Surface::Grpc);
        }
        Ok(Response::new(result?))
    }

    async fn propose(&self, entry: Entry) -> Result<Applied, Fault> {
        self.handle.epoch_log.propose(entry).await.map_err(Fault::from)
    }

    async fn create(&self, request: Request<CreateKeyspaceRequest>) -> Result<KeyspaceResponse, Fault> {
        let (sign, request) = signed(request);
        let keyspace = self.new_keyspace(named(request.keyspace)?)?;
        match self.propose(sign(Entry::CreateKeyspace { keyspace: keyspace.clone() })).await? {
            Applied::Keyspace(id) => Ok(self.keyspace_response(id, &keyspace, keyspace.copies())),
            Applied::Done | Applied::Opened(_) => Err(Fault::wrong_answer()),
        }
    }

    async fn alter(&self, request: Request<AlterKeyspaceRequest>) -> Result<KeyspaceResponse, Fault> {
        let (sign, request) = signed(request);
        let changes = named(request.keyspace)?;
        let state = self.state();
        let (id, current) =
            state.keyspace(&changes.name).ok_or_else(|| Fault::from(Refusal::KeyspaceUnknown(changes.name.clone())))?;
        let has = state.copies_wanted(id).unwrap_or(current.copies());
        let keyspace = self.changed_keyspace((current, has), changes)?;
        self.propose(sign(Entry::AlterKeyspace { keyspace: keyspace.clone() })).await?;
        let wanted = keyspace.copies();
        // Another number of copies is made by a change that begins now.
        let Copies { n, r, w } = if wanted.n == current.n { wanted } else { current.copies() };
        Ok(self.keyspace_response(id, &Keyspace { n, r, w, ..keyspace }, wanted))
    }

    /// Fills in what was left out.
    fn new_keyspace(&self, wanted: KeyspaceDefinition) -> Result<Keyspace, Fault> {
        let state = self.state();
        let width = ring(&state)?.width();
        let n = small("n", wanted.n)?.unwrap_or(N_DEFAULT.min(width));
        if n == 0 || n > width {
            let message = format!("n is {n}; it must be between 1 and {width}, the owners that each partition has");
            return Err(Fault::invalid(message));
        }
        let majority = n / 2 + 1;
        check_typed(&wanted)?;
        let (resolver, resolver_hash, role) = match &wanted.data_type {
            Some(name) => self.code(name, true)?,
            None => self.code(wanted.resolver.as_deref().unwrap_or(RESOLVER_DEFAULT), false)?,
        };
        let causal = wanted.causal.unwrap_or(keeps_siblings(&resolver, role));
        check_causal(&resolver, role, causal)?;
        Ok(Keyspace {
            name: wanted.name,
            n,
            r: small("r", wanted.r)?.unwrap_or(majority),
            w: small("w", wanted.w)?.unwrap_or(majority),
            durability: durability(wanted.durability)?.unwrap_or(Durability::Sync),
            ttl_ms: wanted.ttl_ms.unwrap_or(0),
            resolver,
            resolver_hash,
            causal,
            quarantined: false,
            role,
        })
    }

    /// Keeps what was left out; but with another number of copies, quorums that were left out become majorities of it.
    fn changed_keyspace(
        &self,
        (current, has): (&Keyspace, Copies),
        changes: KeyspaceDefinition,
    ) -> Result<Keyspace, Fault> {
        let n = small("n", changes.n)?.unwrap_or(has.n);
        let kept = if n == has.n { has } else { Copies::usual(n) };
        check_typed(&changes)?;
        let (resolver, resolver_hash, role) = match (&changes.data_type, &changes.resolver) {
            (Some(name), _) => self.code(name, true)?,
            (None, Some(name)) => self.code(name, false)?,
            (None, None) => (current.resolver.clone(), current.resolver_hash, current.role),
        };
        let causal = changes.causal.unwrap_or(current.causal);
        check_causal(&resolver, role, causal)?;
        Ok(Keyspace {
            name: changes.name,
            n,
            r: small("r", changes.r)?.unwrap_or(kept.r),
            w: small("w", changes.w)?.unwrap_or(kept.w),
            durability: durability(changes.durability)?.unwrap_or(current.durability),
            ttl_ms: changes.ttl_ms.unwrap_or(current.ttl_ms),
            resolver,
            resolver_hash,
            causal,
            quarantined: false,
            role,
        })
    }

    /// A data type, or else a resolver, by its name: one that is part of every node, or a plugin.
    fn code(&self, name: &str, typed: bool) -> Result<(String, ResolverHash, Role), Fault> {
        let fits = |role: Role| (role == Role::DataType) == typed;
        let builtin = || self.handle.builtin.iter().filter(|(.., role)| fits(*role));
        if let Some(code) = builtin().find(|(known, ..)| known == name) {
            return Ok(code.clone());
        }
        // The pump may hear of what was just armed a moment later.
        let state = self.handle.epoch_log.watch().borrow().clone();
        if let Some((hash, plugin)) = state.plugin(name).filter(|(_, plugin)| fits(plugin.role)) {
            return Ok((plugin.full_name(), hash, plugin.role));
        }
        let plugins = state.plugins.values().filter(|plugin| fits(plugin.role)).map(Plugin::full_name);
        let names = builtin().map(|(name, ..)| name.clone()).chain(plugins).collect::<Vec<_>>().join(", ");
        let what = if typed { "data type" } else { "resolver" };
        let message = format!("there is no {what} named {name:?}; this cluster has {names}");
        Err(Fault::new(Reason::UnknownResolver, message))
    }

    fn keyspace_response(&self, id: KeyspaceId, keyspace: &Keyspace, wanted: Copies) -> KeyspaceResponse {
        let epoch = self.handle.epoch_log.watch().borrow().epoch.0;
        keyspace_response(id, (keyspace, wanted), epoch)
    }

    fn log_status(&self) -> LogStatus {
        let log = self.handle.epoch_log.status();
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        LogStatus {
            leader: log.leader.map_or(0, |leader| leader.0),
            term: log.term,
            applied: log.applied,
            voters: ids(&log.voters),
            learners: ids(&log.learners),
        }
    }

    fn seals(&self, state: &State) -> SealStatus {
        let sealing = self.handle.view.load().sealing;
        SealStatus {
            closed: state.closed().epoch.0,
            sealed: state.partitions().map(|partition| state.sealed(partition).epoch.0).collect(),
            waits: status::seal_waits(&self.handle, state),
            purging: sealing.map_or(0, |sealing| sealing.purging),
            purged: sealing.map_or(0, |sealing| sealing.purged),
        }
    }

    fn members(&self) -> Vec<MemberStatus> {
        let (state, view, log) = (self.state(), self.handle.view.load(), self.handle.epoch_log.status());
        let member = |(node, member): (&NodeId, &mks_logic::cluster::Member)| {
            let ours = *node == self.handle.node;
            let peer = view.peers.iter().find(|peer| peer.node == *node);
            let owed = peer.map_or_else(HintCount::default, |peer| peer.owed);
            MemberStatus {
                node: node.0,
                incarnation: member.incarnation.0,
                client_address: member.addresses.client.clone(),
                peer_address: member.addresses.peer.clone(),
                http_address: member.addresses.http.clone(),
                zone: member.zone.clone(),
                weight: member.weight,
                alive: ours || peer.is_some_and(|peer| peer.alive),
                linked: ours || peer.is_some_and(|peer| peer.linked),
                clock_offset_ms: peer.map_or(0, |peer| peer.clock_offset_ms),
                leader: log.leader == Some(*node),
                voter: log.voters.contains(node),
                partitions: state.ring.as_ref().map_or(0, |ring| owned(ring, *node)),
                hints: owed.count,
                hint_bytes: owed.bytes,
                hints_since_ms: owed.oldest.ms(),
                hints_counted: owed.counted,
                needs_sync: peer.map_or(0, |peer| peer.needs_sync),
                standing: members::standing(member.standing).into(),
                partitions_next: state.change.as_ref().map(|change| owned(&change.next, *node)),
            }
        };
        state.members.iter().map(member).collect()
    }

    /// The partition that a request names.
    fn partition(&self, partition: Option<u32>) -> Result<Option<PartitionId>, Fault> {
        let partitions = ring(&self.state())?.partitions();
        let Some(partition) = partition else { return Ok(None) };
        let known = u16::try_from(partition).ok().filter(|partition| usize::from(*partition) < partitions);
        let none = || Fault::invalid(format!("there is no partition {partition}; they are 0 to {}", partitions - 1));
        known.map(PartitionId).map(Some).ok_or_else(none)
    }

    /// Starts it: the figures of before.
    async fn start_repair(&self, request: RepairRequest) -> Result<SyncFigures, Fault> {
        let partition = self.partition(request.partition)?;
        self.handle.repair(partition).await.ok_or_else(too_many)
    }

    fn ring(&self, request: RingRequest) -> Result<RingResponse, Fault> {
        let state = self.state();
        let ring = ring(&state)?;
        let (ranges, partition) = match request.key {
            None => (ranges(&state, ring), None),
            Some(key) => {
                let (key, _) = Checker::new(&self.handle.limits, &state, &self.handle.tokens).key(Some(key))?;
                let partition = key.place(state.partition_bits).partition;
                let number = u32::from(partition.0);
                (vec![range(partition, state.tables(partition, key.keyspace))], Some(number))
            }
        };
        let change = state.change.as_ref().map(|change| change.id);
        let (epoch, partitions, due) = (state.epoch.0, ring.partitions() as u32, state.is_unsettled());
        Ok(RingResponse { epoch, partitions, ranges, partition, change, due })
    }
}

/// Whether owners keep all versions, for readers to settle.
fn keeps_siblings(resolver: &str, role: Role) -> bool {
    role != Role::Resolver || resolver == KEEP_SIBLINGS
}

/// Settings that contradict each other in a way that would lose writes, or pile them up, without a word.
fn check_causal(resolver: &str, role: Role, causal: bool) -> Result<(), Fault> {
    match (keeps_siblings(resolver, role), causal) {
        (true, false) => Err(Fault::invalid(format!(
            "{resolver} needs a causal keyspace: without contexts nobody could settle the siblings; leave causal out, \
             or make a new keyspace"
        ))),
        (true, true) | (false, false) => Ok(()),
        (false, true) => Err(Fault::invalid(format!(
            "{resolver} picks a winner whatever writers have seen, and a causal keyspace keeps what nobody has seen: \
             the two could drop all versions of a key between them; choose keep-siblings or one that merges at read, \
             such as cart-merge, or leave causal out"
        ))),
    }
}

fn too_many() -> Fault {
    Fault::new(Reason::Busy, "too many operators ask for something, or the node is stopping; nothing began")
}

/// What happened since, again and again until nothing is left.
fn progress(handle: Handle, before: SyncFigures) -> BoxStream<'static, Result<RepairProgress, Status>> {
    let next = |going_on: Option<(Handle, SyncFigures)>| async move {
        let (handle, before) = going_on?;
        tokio::time::sleep(PROGRESS_PERIOD).await;
        let now = handle.view.load().sync;
        let progress = RepairProgress {
            left: now.demanded,
            clean: now.clean - before.clean,
            mended: now.mended - before.mended,
            failed: now.failed - before.failed,
            plugin_drift: now.plugin_drift - before.plugin_drift,
            bytes: now.bytes - before.bytes,
            records_sent: now.records_sent - before.records_sent,
            records_received: now.records_received - before.records_received,
        };
        Some((Ok(progress), (now.demanded > 0).then_some((handle, before))))
    };
    stream::unfold(Some((handle, before)), next).boxed()
}

#[tonic::async_trait]
impl Admin for AdminService {
    type RepairStream = BoxStream<'static, Result<RepairProgress, Status>>;
    type ScrubStream = BoxStream<'static, Result<ScrubProgress, Status>>;
    type InstallPluginStream = BoxStream<'static, Result<InstallPluginProgress, Status>>;

    async fn repair(&self, request: Request<RepairRequest>) -> Result<Response<Self::RepairStream>, Status> {
        let before = self.answer(self.start_repair(request.into_inner()).await)?.into_inner();
        Ok(Response::new(progress(self.handle.clone(), before)))
    }

    async fn scrub(&self, request: Request<ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        let started = match self.partition(request.into_inner().partition) {
            Ok(partition) => self.handle.scrub(partition).await.ok_or_else(too_many),
            Err(fault) => Err(fault),
        };
        let before = self.answer(started)?.into_inner();
        Ok(Response::new(scrub::progress(self.handle.clone(), before)))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let handle = &self.handle;
        let (state, view) = (self.state(), handle.view.load_full());
        let not_ready = status::not_ready(handle);
        Ok(Response::new(StatusResponse {
            node: handle.node.0,
            incarnation: view.incarnation.0,
            cluster: format!("{:032x}", state.cluster),
            epoch: state.epoch.0,
            version: env!("CARGO_PKG_VERSION").into(),
            ready: not_ready.is_none(),
            not_ready: not_ready.unwrap_or_default(),
            uptime_ms: u64::try_from(handle.metrics.uptime().as_millis()).unwrap_or(u64::MAX),
            store: Some(store::status(self.handle.store_stats(), &self.handle.adapter)),
            log: Some(self.log_status()),
            operations: view.operations,
            warnings: status::warnings(handle),
            resident_bytes: resident_bytes(),
            scrub: Some(scrub::status(&view.scrub)),
            seals: Some(self.seals(&state)),
        }))
    }

    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        Ok(Response::new(MembersResponse { members: self.members() }))
    }

    async fn ring(&self, request: Request<RingRequest>) -> Result<Response<RingResponse>, Status> {
        self.answer(self.ring(request.into_inner()))
    }

    async fn plan_change(&self, request: Request<PlanChangeRequest>) -> Result<Response<ChangePlan>, Status> {
        self.answer(self.plan(request.into_inner()).await)
    }

    async fn change_members(&self, request: Request<ChangeMembersRequest>) -> Result<Response<ChangePlan>, Status> {
        self.answer(self.change(request).await)
    }

    async fn moves(&self, _: Request<MovesRequest>) -> Result<Response<MovesResponse>, Status> {
        Ok(Response::new(self.moves()))
    }

    async fn epochs(&self, _: Request<EpochsRequest>) -> Result<Response<EpochsResponse>, Status> {
        Ok(Response::new(self.epochs()))
    }

    async fn create_keyspace(
        &self,
        request: Request<CreateKeyspaceRequest>,
    ) -> Result<Response<KeyspaceResponse>, Status> {
        self.answer(self.create(request).await)
    }

    async fn list_keyspaces(
        &self,
        _: Request<ListKeyspacesRequest>,
    ) -> Result<Response<ListKeyspacesResponse>, Status> {
        let state = self.state();
        let response = |(id, keyspace): (&KeyspaceId, &Keyspace)| {
            let wanted = state.copies_wanted(*id).unwrap_or(keyspace.copies());
            keyspace_response(*id, (keyspace, wanted), state.epoch.0)
        };
        Ok(Response::new(ListKeyspacesResponse { keyspaces: state.keyspaces.iter().map(response).collect() }))
    }

    async fn alter_keyspace(
        &self,
        request: Request<AlterKeyspaceRequest>,
    ) -> Result<Response<KeyspaceResponse>, Status> {
        self.answer(self.alter(request).await)
    }

    async fn install_plugin(
        &self,
        request: Request<Streaming<InstallPluginRequest>>,
    ) -> Result<Response<Self::InstallPluginStream>, Status> {
        let (sign, pieces) = signed(request);
        let hash = self.answer(self.install(pieces, sign).await)?.into_inner();
        Ok(Response::new(plugins::progress(self.handle.clone(), hash)))
    }

    async fn list_plugins(&self, _: Request<ListPluginsRequest>) -> Result<Response<ListPluginsResponse>, Status> {
        Ok(Response::new(self.list_of_plugins()))
    }

    async fn remove_plugin(
        &self,
        request: Request<RemovePluginRequest>,
    ) -> Result<Response<RemovePluginResponse>, Status> {
        let (sign, request) = signed(request);
        self.answer(self.remove(request, sign).await)
    }

    async fn alter_plugin(
        &self,
        request: Request<AlterPluginRequest>,
    ) -> Result<Response<AlterPluginResponse>, Status> {
        let (sign, request) = signed(request);
        self.answer(self.alter_plugin_entry(request, sign).await)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let reason = match &refusal {
            Refusal::Order(_) => Reason::Forming,
            Refusal::IdTaken { .. } | Refusal::Superseded { .. } | Refusal::RolledBack { .. } | Refusal::Invalid(_) => {
                Reason::Invalid
            }
            Refusal::NodeUnknown { .. } | Refusal::Removed { .. } => Reason::UnknownNode,
            Refusal::Stale { .. } => Reason::StalePlan,
            Refusal::KeyspaceExists(_) => Reason::Exists,
            Refusal::KeyspaceUnknown(_) => Reason::UnknownKeyspace,
            Refusal::PluginUnknown(_) => Reason::UnknownPlugin,
            Refusal::PluginExists { .. } => Reason::Exists,
            Refusal::PluginUsed { .. } => Reason::PluginUsed,
            Refusal::PluginNotArmed { .. } => Reason::NotArmed,
            Refusal::PluginQuarantined { .. } => Reason::Quarantined,
        };
        Self::new(reason, refusal.to_string())
    }
}

impl From<ProposeError> for Fault {
    fn from(error: ProposeError) -> Self {
        let reason = match error {
            ProposeError::Refused(refusal) => return refusal.into(),
            ProposeError::NoLeader { .. } => Reason::NoLeader,
            ProposeError::Timeout => Reason::Unconfirmed,
        };
        Self::new(reason, error.to_string())
    }
}

/// What a request says, and how an entry is signed with whoever asks.
fn signed<T>(request: Request<T>) -> (impl Fn(Entry) -> Entry, T) {
    let who = request.metadata().get(WHO).and_then(|who| who.to_str().ok()).unwrap_or_default().to_owned();
    (move |entry: Entry| entry.signed(who.clone(), wall_ms()), request.into_inner())
}

fn named(definition: Option<KeyspaceDefinition>) -> Result<KeyspaceDefinition, Fault> {
    definition
        .filter(|definition| !definition.name.is_empty())
        .ok_or_else(|| Fault::invalid("the keyspace has no name; give it one"))
}

fn ring(state: &State) -> Result<&Ring, Fault> {
    state.ring.as_ref().ok_or_else(|| {
        let (joined, expected) = (state.members.len() as u32, state.expect);
        mks_logic::event::OpError::Forming { joined, expected }.into()
    })
}

/// A data type takes the place of a resolver.
fn check_typed(definition: &KeyspaceDefinition) -> Result<(), Fault> {
    match (&definition.data_type, &definition.resolver) {
        (Some(data_type), Some(resolver)) => Err(Fault::invalid(format!(
            "both a data type ({data_type:?}) and a resolver ({resolver:?}) are named, and a keyspace has one of them"
        ))),
        _ => Ok(()),
    }
}

fn small(what: &str, number: Option<u32>) -> Result<Option<u8>, Fault> {
    let Some(number) = number else { return Ok(None) };
    let small =
        u8::try_from(number).map_err(|_| Fault::invalid(format!("{what} is {number}; it counts owners of a key")));
    small.map(Some)
}

fn keyspace_response(id: KeyspaceId, (keyspace, wanted): (&Keyspace, Copies), epoch: u64) -> KeyspaceResponse {
    let durability = match keyspace.durability {
        Durability::Os => v1::Durability::Os,
        Durability::Sync => v1::Durability::Sync,
    };
    KeyspaceResponse {
        id: id.0,
        keyspace: Some(KeyspaceDefinition {
            name: keyspace.name.clone(),
            n: Some(keyspace.n.into()),
            r: Some(keyspace.r.into()),
            w: Some(keyspace.w.into()),
            durability: durability.into(),
            ttl_ms: Some(keyspace.ttl_ms),
            resolver: (!keyspace.typed()).then(|| keyspace.resolver.clone()),
            causal: Some(keyspace.causal),
            data_type: keyspace.typed().then(|| keyspace.resolver.clone()),
        }),
        resolver_hash: keyspace.resolver_hash.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        epoch,
        next: (keyspace.copies() != wanted).then(|| v1::Copies {
            n: wanted.n.into(),
            r: wanted.r.into(),
            w: wanted.w.into(),
        }),
    }
}

fn owned(ring: &Ring, node: NodeId) -> u32 {
    ring.owned_by(node, RING_WIDTH_MAX) as u32
}

fn range(partition: PartitionId, tables: Tables<'_>) -> RingRange {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let number = u32::from(partition.0);
    RingRange {
        first: number,
        last: number,
        owners: ids(tables.old),
        next: tables.next.map_or_else(Vec::new, ids),
        cut_over: tables.next.is_some_and(|next| next == tables.read),
    }
}

/// The whole table, neighbours with the same owners together.
fn ranges(state: &State, ring: &Ring) -> Vec<RingRange> {
    let mut ranges: Vec<RingRange> = Vec::new();
    for (partition, _) in ring.iter() {
        let all = Copies { n: RING_WIDTH_MAX, ..Copies::default() };
        let next = range(partition, state.tables_of(partition, (all, all)));
        let same =
            |last: &RingRange| (&last.owners, &last.next, last.cut_over) == (&next.owners, &next.next, next.cut_over);
        match ranges.last_mut() {
            Some(last) if same(last) => last.last = next.last,
            _ => ranges.push(next),
        }
    }
    ranges
}
