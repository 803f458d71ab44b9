//! Admin, health and reflection.

use super::fake::{FakeNode, PARTITION_BITS, key};
use mks::epoch_log::EpochLog;
use mks_logic::cluster::{Addresses, Entry, Member, Standing};
use mks_logic::id::{Incarnation, NodeId, PartitionId};
use mks_logic::moves::{MoveError, Moving, Phase, Way};
use mks_proto::detail_of;
use mks_proto::v1::{
    AcceptNode, AlterKeyspaceRequest, ChangeMembersRequest, CreateKeyspaceRequest, Durability, EpochsRequest, Key,
    KeyspaceDefinition, LeaveNode, ListKeyspacesRequest, MembersRequest, MoveWay, MovesRequest, PlanChangeRequest,
    RepairRequest, ReplaceNode, RingRequest, ScrubRequest, StatusRequest, WeighNode, Wish, wish::Wish as Asked,
};
use std::sync::Arc;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha;

fn named(name: &str) -> KeyspaceDefinition {
    KeyspaceDefinition { name: name.into(), ..KeyspaceDefinition::default() }
}

fn create(keyspace: KeyspaceDefinition) -> CreateKeyspaceRequest {
    CreateKeyspaceRequest { keyspace: Some(keyspace) }
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), detail_of(status).unwrap().reason)
}

#[tokio::test]
async fn a_new_keyspace_gets_what_was_left_out() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let created = admin.create_keyspace(create(named("orders"))).await.unwrap().into_inner();
    let keyspace = created.keyspace.unwrap();
    assert_eq!((keyspace.n, keyspace.r, keyspace.w), (Some(3), Some(2), Some(2)));
    assert_eq!(keyspace.durability(), Durability::Sync);
    assert_eq!((keyspace.ttl_ms, keyspace.resolver.as_deref()), (Some(0), Some("lww")));
    assert_eq!(created.resolver_hash, "01".repeat(32));
    assert_eq!((created.id, created.epoch), (4, 5));
}

#[tokio::test]
async fn an_altered_keyspace_keeps_what_was_left_out() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let change = KeyspaceDefinition {
        w: Some(3),
        durability: Durability::Sync.into(),
        resolver: Some("first-write-wins".into()),
        ..named("default")
    };
    let alter = |keyspace| AlterKeyspaceRequest { keyspace: Some(keyspace) };
    let altered = admin.alter_keyspace(alter(change)).await.unwrap().into_inner();
    let keyspace = altered.keyspace.unwrap();
    assert_eq!((keyspace.n, keyspace.r, keyspace.w), (Some(3), Some(2), Some(3)));
    assert_eq!(keyspace.durability(), Durability::Sync);
    assert_eq!((altered.id, altered.resolver_hash), (1, "02".repeat(32)));

    let too_many = KeyspaceDefinition { n: Some(4), ..named("default") };
    let status = admin.alter_keyspace(alter(too_many)).await.unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID".into()));
    let fewer = KeyspaceDefinition { n: Some(2), ..named("default") };
    let altered = admin.alter_keyspace(alter(fewer)).await.unwrap().into_inner();
    let (now, next) = (altered.keyspace.unwrap(), altered.next.unwrap());
    assert_eq!((now.n, now.w), (Some(3), Some(3)), "until a change has made them");
    assert_eq!((next.n, next.r, next.w), (2, 2, 2), "majorities, where nothing else was named");
    let status = admin.alter_keyspace(alter(named("nowhere"))).await.unwrap_err();
    assert_eq!(reason(&status), (Code::FailedPrecondition, "UNKNOWN_KEYSPACE".into()));
}

#[tokio::test]
async fn whether_a_keyspace_is_causal_fits_its_resolver_and_stays() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let of = |resolver: &str, causal| KeyspaceDefinition { resolver: Some(resolver.into()), causal, ..named("x") };
    let mut causal = Vec::new();
    for (name, definition) in [
        ("a", of("keep-siblings", None)),
        ("b", of("first-write-wins", None)),
        ("c", of("keep-siblings", Some(true))),
        ("d", of("lww", Some(false))),
        ("e", of("cart-merge", None)),
    ] {
        let made = admin.create_keyspace(create(KeyspaceDefinition { name: name.into(), ..definition })).await.unwrap();
        causal.push(made.into_inner().keyspace.unwrap().causal());
    }
    assert_eq!(causal, [true, false, true, false, true]);
    let keeps = [of("keep-siblings", Some(false)), of("cart-merge", Some(false))];
    for contradiction in keeps.into_iter().chain([of("lww", Some(true)), of("first-write-wins", Some(true))]) {
        let status = admin.create_keyspace(create(contradiction)).await.unwrap_err();
        assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID".into()));
    }
    let alter = |keyspace| AlterKeyspaceRequest { keyspace: Some(keyspace) };
    for (name, change) in [("a", of("lww", None)), ("b", of("keep-siblings", None))] {
        let status = admin.alter_keyspace(alter(KeyspaceDefinition { name: name.into(), ..change })).await.unwrap_err();
        assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID".into()), "{name}");
    }
    for resolver in ["cart-merge", "keep-siblings"] {
        let change = KeyspaceDefinition { name: "a".into(), ..of(resolver, None) };
        let altered = admin.alter_keyspace(alter(change)).await.unwrap().into_inner().keyspace.unwrap();
        assert_eq!((altered.resolver(), altered.causal()), (resolver, true), "owners keep the same either way");
    }
}

#[tokio::test]
async fn a_definition_that_makes_no_sense_is_refused() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let resolver = KeyspaceDefinition { resolver: Some("longest".into()), ..named("x") };
    let status = admin.create_keyspace(create(resolver)).await.unwrap_err();
    assert_eq!(reason(&status), (Code::FailedPrecondition, "UNKNOWN_RESOLVER".into()));
    assert!(
        status.message().contains("first-write-wins, keep-siblings, lww"),
        "it lists what exists: {}",
        status.message()
    );
    for (what, definition) in [
        ("no name", named("")),
        ("n = 0", KeyspaceDefinition { n: Some(0), ..named("x") }),
        ("n beyond the ring", KeyspaceDefinition { n: Some(4), ..named("x") }),
        ("n = 257", KeyspaceDefinition { n: Some(257), ..named("x") }),
        ("r = 1000", KeyspaceDefinition { r: Some(1_000), ..named("x") }),
        ("an unknown durability", KeyspaceDefinition { durability: 3, ..named("x") }),
    ] {
        let status = admin.create_keyspace(create(definition)).await.unwrap_err();
        assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID".into()), "{what}");
    }
    let status = admin.create_keyspace(CreateKeyspaceRequest { keyspace: None }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = admin.create_keyspace(create(named("default"))).await.unwrap_err();
    assert_eq!(reason(&status), (Code::AlreadyExists, "EXISTS".into()));
}

#[tokio::test]
async fn configuration_waits_for_a_leader_and_says_so() {
    let node = FakeNode::start().await;
    *node.log.leader.lock().unwrap() = None;
    let mut admin = node.admin().await;
    let status = admin.create_keyspace(create(named("x"))).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Unavailable, "NO_LEADER".into()));
    let warnings = admin.status(StatusRequest {}).await.unwrap().into_inner().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("no leader")), "{warnings:?}");
}

#[tokio::test]
async fn keyspaces_are_listed_with_their_definitions() {
    let node = FakeNode::start().await;
    let listed = node.admin().await.list_keyspaces(ListKeyspacesRequest {}).await.unwrap().into_inner().keyspaces;
    let names: Vec<_> = listed.iter().map(|k| (k.id, k.keyspace.as_ref().unwrap().name.as_str())).collect();
    assert_eq!(names, [(1, "default"), (2, "single"), (3, "carts")]);
}

#[tokio::test]
async fn the_ring_covers_every_partition_once() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let ring = admin.ring(RingRequest { key: None }).await.unwrap().into_inner();
    assert_eq!((ring.partitions, ring.epoch), (1 << PARTITION_BITS, 4));
    let mut next = 0;
    for range in &ring.ranges {
        assert_eq!(range.first, next);
        assert_eq!(range.owners.len(), 3);
        next = range.last + 1;
    }
    assert_eq!(next, ring.partitions);

    let one = admin.ring(RingRequest { key: key("k") }).await.unwrap().into_inner();
    let partition = one.partition.unwrap();
    assert_eq!((one.ranges.len(), one.ranges[0].first, one.ranges[0].last), (1, partition, partition));
    let single = Key { keyspace: "single".into(), ..key("k").unwrap() };
    let one = admin.ring(RingRequest { key: Some(single) }).await.unwrap().into_inner();
    assert_eq!(one.ranges[0].owners.len(), 1, "a keyspace of n = 1 has one owner");
    let status = admin.ring(RingRequest { key: key("") }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn members_are_shown_as_this_node_knows_them() {
    let node = FakeNode::start().await;
    let members = node.admin().await.members(MembersRequest {}).await.unwrap().into_inner().members;
    let seen: Vec<_> = members.iter().map(|m| (m.node, m.alive, m.linked, m.leader, m.voter)).collect();
    assert_eq!(seen, [(1, true, true, false, true), (2, true, true, true, true), (3, false, false, false, true)]);
    assert!(members.iter().all(|member| member.partitions == 1 << PARTITION_BITS));
    assert_eq!(members[2].clock_offset_ms, 900);
    assert_eq!(members[1].client_address, "10.0.0.2:7600");
}

#[tokio::test]
async fn status_warns_of_what_an_operator_should_know() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node, status.incarnation, status.epoch), (1, 1, 4));
    assert!(status.ready && status.not_ready.is_empty());
    assert_eq!(status.cluster, format!("{:032x}", 0xC0FFEE));
    let store = status.store.unwrap();
    assert_eq!((store.engine.as_str(), store.adapter.as_str(), store.fsyncs), ("memory", "fjall", 6));
    let shadow = store.shadow.unwrap();
    assert_eq!((&shadow.engine[..], &shadow.state[..], &shadow.reason[..]), ("rocksdb", "failed", "it is damaged"));
    assert!(warned(&status.warnings, "on rocksdb, has failed: it is damaged"), "{:?}", status.warnings);
    assert!(status.resident_bytes > 0);
    assert!(warned(&status.warnings, "900 ms"), "{:?}", status.warnings);
    assert!(!warned(&status.warnings, "owns nothing"), "{:?}", status.warnings);

    let mut state = (**node.handle.state.load()).clone();
    let newcomer = Member { standing: Standing::Joining, ..state.members[&NodeId(3)].clone() };
    state.members.insert(NodeId(4), newcomer);
    node.handle.state.store(Arc::new(state));
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(
        warned(&status.warnings, "n4 owns nothing until it is accepted: mks node accept 4"),
        "{:?}",
        status.warnings
    );
}

#[tokio::test]
async fn health_follows_readiness() {
    let node = FakeNode::start_forming().await;
    let mut health = HealthClient::new(node.channel().await);
    for service in ["", "mks.v1.Kv", "mks.v1.Admin"] {
        let response = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::NotServing, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "mks.v1.Nothing".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let request = HealthCheckRequest { service: "mks.v1.Kv".into() };
    let mut changes = health.watch(request).await.unwrap().into_inner();
    assert_eq!(changes.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let ready = FakeNode::start().await;
    node.handle.state.store(ready.handle.state.load_full());
    let mut view = (**node.handle.view.load()).clone();
    view.incarnation = Incarnation(1);
    node.handle.view.store(Arc::new(view));
    assert_eq!(changes.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    node.stop();
    assert_eq!(changes.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_shows_what_clients_may_call_and_no_more() {
    let node = FakeNode::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(node.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("a list was asked for");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["mks.v1.Kv", "mks.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(!names.contains(&"mks.v1.Peer"), "{names:?}");

    // Older tools ask the older version.
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "mks.v1.Kv.Session".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(node.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(file)
            if !file.file_descriptor_proto.is_empty()
    ));
}

#[tokio::test]
async fn a_node_that_stops_closes_its_doors() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    admin.status(StatusRequest {}).await.unwrap();
    let (grpc, http) = (node.grpc, node.http);
    node.stopped().await;
    assert!(std::net::TcpStream::connect(grpc).is_err());
    assert!(std::net::TcpStream::connect(http).is_err());
}

#[tokio::test]
async fn a_repair_tells_what_it_did_until_nothing_is_left() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let mut steps = admin.repair(RepairRequest { partition: None }).await.unwrap().into_inner();
    let step = steps.message().await.unwrap().unwrap();
    assert_eq!((step.left, step.mended, step.clean, step.records_sent), (0, 2, 2, 3), "since the request only");
    assert_eq!(steps.message().await.unwrap(), None);
    let of_one = RepairRequest { partition: Some(3) };
    let mut steps = admin.repair(of_one).await.unwrap().into_inner();
    assert_eq!(steps.message().await.unwrap().unwrap().mended, 1);
    let strange = RepairRequest { partition: Some(1 << PARTITION_BITS) };
    assert_eq!(reason(&admin.repair(strange).await.unwrap_err()), (Code::InvalidArgument, "INVALID".into()));
    let forming = FakeNode::start_forming().await;
    let refused = forming.admin().await.repair(RepairRequest { partition: None }).await.unwrap_err();
    assert_eq!(reason(&refused).1, "FORMING");
}

#[tokio::test]
async fn a_scrub_names_what_it_found_and_status_remembers_it() {
    let node = FakeNode::start().await;
    let mut admin = node.admin().await;
    let mut steps = admin.scrub(ScrubRequest { partition: None }).await.unwrap().into_inner();
    let step = steps.message().await.unwrap().unwrap();
    assert_eq!((step.left, step.records, step.damaged, step.mended, step.waiting), (0, 30, 1, 0, 1));
    let [fault] = &step.faults[..] else { panic!("only what was found since the request: {:?}", step.faults) };
    assert_eq!(
        (fault.kind.as_str(), fault.partition, fault.bucket, fault.key.as_str()),
        ("damaged", 15, 7, "000000000000000b")
    );
    assert_eq!((fault.found_ms, fault.mended_ms), (1_000, 0));
    assert_eq!(steps.message().await.unwrap(), None);
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.scrub.map(|scrub| (scrub.damaged, scrub.faults.len())), Some((2, 2)));
    assert!(status.warnings.iter().any(|warning| warning.contains("2 damaged records (1 mended, 1 wait")));
    let strange = ScrubRequest { partition: Some(1 << PARTITION_BITS) };
    assert_eq!(reason(&admin.scrub(strange).await.unwrap_err()), (Code::InvalidArgument, "INVALID".into()));
}

fn change(wishes: &[Asked]) -> PlanChangeRequest {
    let wishes = wishes.iter().map(|wish| Wish { wish: Some(wish.clone()) }).collect();
    PlanChangeRequest { wishes, ..PlanChangeRequest::default() }
}

fn accept(node: u64) -> Asked {
    Asked::Accept(AcceptNode { node })
}

fn leave(node: u64, dead: bool) -> Asked {
    Asked::Leave(LeaveNode { node, dead })
}

fn weigh(node: u64, weight: u32) -> Asked {
    Asked::Weight(WeighNode { node, weight })
}

fn warned(said: &[String], word: &str) -> bool {
    said.iter().any(|line| line.contains(word))
}

/// A node in which a fourth one has joined. Gossip hears node 2, and not node 3.
async fn with_a_newcomer() -> FakeNode {
    let node = FakeNode::start().await;
    let at = |port: u64| format!("10.0.0.4:{port}");
    let entry = Entry::Open {
        node: NodeId(4),
        directory: 4,
        opening: 4,
        addresses: Addresses { client: at(7600), peer: at(7601), http: at(7602) },
        zone: String::new(),
        weight: 100,
        opened: 1,
    };
    node.log.propose(entry.signed("n4", 1_000)).await.unwrap();
    node
}

#[tokio::test]
async fn a_change_is_planned_and_what_changed_is_told() {
    let node = with_a_newcomer().await;
    let mut admin = node.admin().await;
    let plan = admin.plan_change(change(&[accept(4)])).await.unwrap().into_inner();
    assert_eq!((plan.epoch, plan.copies, plan.moved, plan.partitions, plan.slots), (5, 3, 12, 12, 48));
    let load = plan.loads.iter().find(|load| load.node == 4).unwrap();
    assert_eq!((load.before, load.after, load.gains, load.loses), (0, 12, 12, 0));
    assert!(plan.bytes.is_some());

    let epochs = admin.epochs(EpochsRequest {}).await.unwrap().into_inner();
    let seen: Vec<_> = epochs.events.iter().map(|e| (e.epoch, e.at_ms, e.who.as_str(), e.what.as_str())).collect();
    assert_eq!((epochs.epoch, seen), (5, vec![(5, 1_000, "n4", "n4 joined the roster")]));
    let mut named = tonic::Request::new(create(named("orders")));
    named.metadata_mut().insert("mks-who", "ann@desk".parse().unwrap());
    admin.create_keyspace(named).await.unwrap();
    let epochs = admin.epochs(EpochsRequest {}).await.unwrap().into_inner();
    assert_eq!(epochs.events[1].who, "ann@desk");

    let asked =
        |planned_in| ChangeMembersRequest { wishes: vec![Wish { wish: Some(accept(4)) }], force: false, planned_in };
    let stale = admin.change_members(asked(Some(plan.epoch))).await.unwrap_err();
    assert_eq!(reason(&stale).1, "STALE_PLAN", "{stale:?}");
    assert_eq!(node.log.watch().borrow().members[&NodeId(4)].standing, Standing::Joining);
    admin.change_members(asked(None)).await.unwrap();
    assert_eq!(node.log.watch().borrow().members[&NodeId(4)].standing, Standing::Up);
}

#[tokio::test]
async fn the_ring_shows_both_tables_while_one_becomes_the_other() {
    let node = with_a_newcomer().await;
    let mut admin = node.admin().await;
    let accept = Entry::Change { wish: mks_logic::cluster::Wish::Accept { node: NodeId(4) }, seen: None };
    node.log.propose(accept).await.unwrap();
    let begin = node.log.watch().borrow().begin_entry().unwrap();
    node.log.propose(begin).await.unwrap();
    node.handle.state.store(node.log.watch().borrow().clone());
    let ring = admin.ring(RingRequest { key: None }).await.unwrap().into_inner();
    assert_eq!(ring.change, Some(1));
    assert!(ring.ranges.iter().any(|range| range.next.contains(&4) && !range.cut_over));
    let members = admin.members(MembersRequest {}).await.unwrap().into_inner().members;
    assert_eq!((members[3].partitions, members[3].partitions_next), (0, Some(12)));
}

#[tokio::test]
async fn a_change_that_makes_no_sense_is_refused_with_the_reason() {
    let node = with_a_newcomer().await;
    let mut admin = node.admin().await;
    let before = node.log.watch().borrow().clone();
    let replace = |gone, by| Asked::Replace(ReplaceNode { gone, by });
    for (what, wishes, code, word) in [
        ("an unknown node", vec![leave(9, false)], Code::NotFound, "UNKNOWN_NODE"),
        ("a second acceptance", vec![accept(2)], Code::FailedPrecondition, "STANDING"),
        ("death of one that lives", vec![leave(2, true)], Code::FailedPrecondition, "NODE_ALIVE"),
        ("death of the node itself", vec![leave(1, true)], Code::FailedPrecondition, "NODE_ALIVE"),
        ("the place of one that lives", vec![replace(2, 4)], Code::FailedPrecondition, "NODE_ALIVE"),
        ("a place for one that has one", vec![replace(3, 2)], Code::InvalidArgument, "INVALID"),
        ("less members than copies", vec![leave(1, false)], Code::InvalidArgument, "INVALID"),
        ("a weight of zero", vec![weigh(2, 0)], Code::InvalidArgument, "INVALID"),
        ("nothing", vec![], Code::InvalidArgument, "INVALID"),
        ("more than a request may", vec![accept(4); 65], Code::InvalidArgument, "INVALID"),
        ("all or nothing", vec![accept(4), leave(9, false)], Code::NotFound, "UNKNOWN_NODE"),
    ] {
        let status = admin.plan_change(change(&wishes)).await.unwrap_err();
        assert_eq!(reason(&status), (code, word.into()), "{what}: {}", status.message());
        let asked = ChangeMembersRequest { wishes: change(&wishes).wishes, ..ChangeMembersRequest::default() };
        let status = admin.change_members(asked).await.unwrap_err();
        assert_eq!(reason(&status), (code, word.into()), "{what}, asked for: {}", status.message());
    }
    let unknown = PlanChangeRequest { wishes: vec![Wish { wish: None }], ..PlanChangeRequest::default() };
    assert_eq!(reason(&admin.plan_change(unknown).await.unwrap_err()).1, "INVALID");
    assert_eq!(*node.log.watch().borrow(), before, "nothing of it was asked for");

    let forced = PlanChangeRequest { force: true, ..change(&[replace(2, 4)]) };
    let plan = admin.plan_change(forced).await.unwrap().into_inner();
    assert_eq!(plan.moved, 16, "all that node 2 has");
    let slow = admin.plan_change(change(&[accept(4), leave(3, false)])).await.unwrap().into_inner();
    assert!(slow.notes[0].contains("mks node leave 3 --dead"), "{:?}", slow.notes);
    let forming = FakeNode::start_forming().await;
    let refused = forming.admin().await.plan_change(change(&[accept(2)])).await.unwrap_err();
    assert_eq!(reason(&refused).1, "FORMING");
}

#[tokio::test]
async fn a_change_is_asked_for_in_somebodys_name_and_what_it_waits_for_is_told() {
    let node = with_a_newcomer().await;
    let mut admin = node.admin().await;
    let waits = admin.moves(MovesRequest {}).await.unwrap().into_inner().waits;
    assert!(warned(&waits, "mks node accept 4"), "{waits:?}");

    let plan = admin.plan_change(change(&[accept(4)])).await.unwrap().into_inner();
    let wishes = change(&[accept(4), weigh(4, 200)]).wishes;
    let mut asked = tonic::Request::new(ChangeMembersRequest { wishes, planned_in: Some(plan.epoch), force: false });
    asked.metadata_mut().insert("mks-who", "ann@desk".parse().unwrap());
    let taken = admin.change_members(asked).await.unwrap().into_inner();
    assert_eq!((plan.asked, taken.epoch, taken.asked), (None, plan.epoch, Some(2)));
    let state = node.log.watch().borrow().clone();
    assert_eq!((state.members[&NodeId(4)].standing, state.members[&NodeId(4)].weight), (Standing::Up, 200));
    let events = admin.epochs(EpochsRequest {}).await.unwrap().into_inner().events;
    assert_eq!((events[1].who.as_str(), events[1].what.as_str()), ("ann@desk", "n4 shall own its share"));
    let moves = admin.moves(MovesRequest {}).await.unwrap().into_inner();
    assert_eq!((moves.asked, moves.settled, &moves.change), (2, 0, &None));
    assert!(warned(&moves.waits, "has not begun") && warned(&moves.waits, "n4 owns nothing yet"), "{:?}", moves.waits);

    node.log.propose(state.begin_entry().unwrap()).await.unwrap();
    let moves = admin.moves(MovesRequest {}).await.unwrap().into_inner();
    let under_way = moves.change.unwrap();
    assert_eq!((under_way.id, under_way.closing, moves.settled), (1, false, 2));
    assert!(under_way.left > 0 && under_way.left == under_way.partitions, "{under_way:?}");
    assert!(warned(&moves.waits, "still move") && warned(&moves.waits, "change 1 brings"), "{:?}", moves.waits);
    let warnings = admin.status(StatusRequest {}).await.unwrap().into_inner().warnings;
    assert!(warned(&warnings, "still move"), "an operator sees it in the status too: {warnings:?}");
}

#[tokio::test]
async fn a_partition_that_does_not_move_names_the_node_it_waits_for() {
    let node = FakeNode::start().await;
    let stuck = Moving {
        partition: PartitionId(7),
        way: Way::In,
        phase: Phase::Waiting,
        compared: 1,
        needed: 2,
        records: 3,
        bytes: 4_096,
        error: Some(MoveError::Unreachable(NodeId(3))),
    };
    let compared =
        Moving { partition: PartitionId(9), phase: Phase::Comparing(NodeId(2)), error: None, ..stuck.clone() };
    let mut view = (**node.handle.view.load()).clone();
    view.moves = vec![stuck, compared];
    node.handle.view.store(Arc::new(view));
    let told = node.admin().await.moves(MovesRequest {}).await.unwrap().into_inner();
    assert_eq!((told.moves[0].compared, told.moves[0].needed, told.moves[0].way()), (1, 2, MoveWay::In));
    assert!(told.moves[0].error.contains("n3 can't be reached"), "{:?}", told.moves[0]);
    assert_eq!((told.moves[1].state.as_str(), told.moves[1].peer), ("comparing", 2));
    assert!(warned(&told.waits, "partition 7 is not fetched") && warned(&told.waits, "n3"), "{:?}", told.waits);
    assert!(!warned(&told.waits, "partition 9"), "it goes on: {:?}", told.waits);
}

#[tokio::test]
async fn a_change_without_a_leader_says_that_nothing_was_asked_for() {
    let node = with_a_newcomer().await;
    *node.log.leader.lock().unwrap() = None;
    let asked = ChangeMembersRequest { wishes: change(&[accept(4)]).wishes, ..ChangeMembersRequest::default() };
    let status = node.admin().await.change_members(asked).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Unavailable, "NO_LEADER".into()));
    assert_eq!(node.log.watch().borrow().asked, 0);
}
