use super::*;
use alloc::vec;
use proptest::prelude::*;

mod change;
mod copies;
mod plugins;
mod seals;

fn found() -> Entry {
    Entry::Found {
        cluster: 77,
        partition_bits: 4,
        expect: 3,
        resolver: "lww".into(),
        resolver_hash: ResolverHash([7; 32]),
    }
}

fn addresses(node: u64) -> Addresses {
    let at = |port: &str| format!("host{node}:{port}");
    Addresses { client: at("7001"), peer: at("7002"), http: at("7003") }
}

/// Node `node` with data directory `100 + node`.
fn open(node: u64, opening: u128) -> Entry {
    Entry::Open {
        node: NodeId(node),
        directory: 100 + u128::from(node),
        opening,
        addresses: addresses(node),
        zone: String::new(),
        weight: 100,
        opened: 0,
    }
}

fn with(entry: &Entry, change: impl FnOnce(&mut Addresses, &mut String, &mut u32)) -> Entry {
    let mut entry = entry.clone();
    if let Entry::Open { addresses, zone, weight, .. } = &mut entry {
        change(addresses, zone, weight);
    }
    entry
}

fn keyspace(name: &str, n: u8, r: u8, w: u8) -> Keyspace {
    Keyspace {
        name: name.into(),
        n,
        r,
        w,
        durability: Durability::Os,
        ttl_ms: 0,
        resolver: "lww".into(),
        resolver_hash: ResolverHash([7; 32]),
        causal: false,
        quarantined: false,
        role: Role::Resolver,
    }
}

fn create(name: &str, n: u8, r: u8, w: u8) -> Entry {
    Entry::CreateKeyspace { keyspace: keyspace(name, n, r, w) }
}

fn alter(name: &str, n: u8, r: u8, w: u8) -> Entry {
    Entry::AlterKeyspace { keyspace: keyspace(name, n, r, w) }
}

/// The state after entries that all must be accepted.
fn after(entries: &[Entry]) -> State {
    let mut state = State::default();
    for entry in entries {
        state.apply(entry).unwrap_or_else(|refusal| panic!("{entry:?}: {refusal}"));
    }
    state
}

fn joined() -> State {
    after(&[found(), open(1, 11), open(2, 21), open(3, 31)])
}

fn formed() -> State {
    let mut state = joined();
    let form = state.form_entry().unwrap();
    state.apply(&form).unwrap();
    state
}

/// What a refusal must say.
#[derive(Clone, Copy)]
enum Why {
    Order(&'static str),
    Invalid(&'static str),
    IdTaken,
    Superseded,
    Exists,
    Unknown,
    NodeUnknown,
    Stale,
}

fn check_refusal(claim: &str, state: &State, entry: &Entry, why: Why) {
    let mut changed = state.clone();
    let refusal = changed.apply(entry).expect_err(claim);
    assert_eq!(&changed, state, "{claim}: the state changed");
    let fits = match (&refusal, why) {
        (Refusal::Order(text), Why::Order(part)) | (Refusal::Invalid(text), Why::Invalid(part)) => text.contains(part),
        (Refusal::IdTaken { .. }, Why::IdTaken)
        | (Refusal::Superseded { .. }, Why::Superseded)
        | (Refusal::KeyspaceExists(_), Why::Exists)
        | (Refusal::KeyspaceUnknown(_), Why::Unknown)
        | (Refusal::NodeUnknown { .. }, Why::NodeUnknown)
        | (Refusal::Stale { .. }, Why::Stale) => true,
        _ => false,
    };
    assert!(fits, "{claim}: {refusal:?}");
}

#[test]
fn refused_entries_say_why_and_change_nothing() {
    let unborn = State::default();
    let born = after(&[found()]);
    let (joined, formed) = (joined(), formed());
    let form = joined.form_entry().unwrap();
    let lone = |zone: &str, weight| with(&open(4, 41), |_, z, w| (*z, *w) = (zone.into(), weight));
    let at = |client: &str| with(&open(4, 41), |a, _, _| a.client = client.into());
    let founded = |cluster, partition_bits, expect, resolver: &str| Entry::Found {
        cluster,
        partition_bits,
        expect,
        resolver: resolver.into(),
        resolver_hash: ResolverHash([7; 32]),
    };
    let stolen = |directory, opening| Entry::Open {
        node: NodeId(1),
        directory,
        opening,
        addresses: addresses(1),
        zone: String::new(),
        weight: 100,
        opened: 0,
    };
    let claims: &[(&str, &State, Entry, Why)] = &[
        ("nobody joins an unborn cluster", &unborn, open(1, 11), Why::Order("not founded")),
        ("an unborn cluster has no time", &unborn, Entry::Advance, Why::Order("not founded")),
        ("a cluster is founded once", &born, found(), Why::Order("already")),
        ("zero is no cluster", &unborn, founded(0, 8, 3, "lww"), Why::Invalid("zero")),
        ("one partition is no ring", &unborn, founded(1, 0, 3, "lww"), Why::Invalid("partitions")),
        ("too many partitions", &unborn, founded(1, 15, 3, "lww"), Why::Invalid("2^15")),
        ("a cluster expects somebody", &unborn, founded(1, 8, 0, "lww"), Why::Invalid("not 0")),
        ("a cluster expects what it can hold", &unborn, founded(1, 8, 1025, "lww"), Why::Invalid("1025")),
        ("a resolver has a name", &unborn, founded(1, 8, 3, ""), Why::Invalid("resolver")),
        ("an id stays with its directory", &joined, stolen(999, 12), Why::IdTaken),
        ("a directory has a name", &joined, stolen(0, 12), Why::Invalid("directory")),
        ("an opening has a name", &joined, stolen(101, 0), Why::Invalid("opening")),
        ("a weight is not zero", &joined, lone("", 0), Why::Invalid("is 0")),
        ("a weight is bounded", &joined, lone("", 10_001), Why::Invalid("10001")),
        ("a zone is a word", &joined, lone("a b", 100), Why::Invalid("\"a b\"")),
        ("a zone is short", &joined, lone(&"z".repeat(65), 100), Why::Invalid("64")),
        ("an address is not empty", &joined, at(""), Why::Invalid("host:port")),
        ("an address has a host", &joined, at(":80"), Why::Invalid("host:port")),
        ("an address has a port", &joined, at("host"), Why::Invalid("host:port")),
        ("port 0 can't be called", &joined, at("host:0"), Why::Invalid("host:port")),
        ("an address has no spaces", &joined, at("ho st:1"), Why::Invalid("host:port")),
        ("an address is short", &joined, at(&format!("{}:1", "h".repeat(300))), Why::Invalid("host:port")),
        ("an address belongs to one node", &joined, at("host2:7003"), Why::Invalid("so does n2")),
        ("the ring waits for the expected", &born, form.clone(), Why::Order("0 of 3")),
        ("the ring is made once", &formed, form, Why::Order("formed already")),
        ("a ring is verified", &joined, Entry::Form { ring: Ring::default() }, Why::Invalid("owners wide")),
        ("a forming cluster has no keyspaces", &joined, create("a", 3, 2, 2), Why::Order("3 of 3")),
        ("a forming cluster has no time", &joined, Entry::Advance, Why::Order("forming")),
    ];
    for (claim, state, entry, why) in claims {
        check_refusal(claim, state, entry, *why);
    }
}

#[test]
fn refused_keyspaces_say_why_and_change_nothing() {
    let formed = formed();
    let claims: &[(&str, Entry, Why)] = &[
        ("a keyspace has a name", create("", 3, 2, 2), Why::Invalid("keyspace")),
        ("a name is lower case", create("Users", 3, 2, 2), Why::Invalid("\"Users\"")),
        ("a name is no path", create("../x", 3, 2, 2), Why::Invalid("name")),
        ("a name is short", create(&"k".repeat(65), 3, 2, 2), Why::Invalid("64")),
        ("somebody owns each key", create("a", 0, 1, 1), Why::Invalid("n = 0")),
        ("n fits the ring", create("a", 4, 2, 2), Why::Invalid("1 to 3")),
        ("r is not zero", create("a", 3, 0, 2), Why::Invalid("r = 0")),
        ("r fits n", create("a", 2, 3, 2), Why::Invalid("r = 3")),
        ("w is not zero", create("a", 3, 2, 0), Why::Invalid("w = 0")),
        ("w fits n", create("a", 2, 2, 3), Why::Invalid("w = 3")),
        ("a name is taken once", create("default", 3, 2, 2), Why::Exists),
        ("only what exists is altered", alter("a", 3, 2, 2), Why::Unknown),
        ("there are owners for each copy", alter("default", 4, 3, 3), Why::Invalid("n = 4")),
        ("a ring has five places at most", alter("default", 6, 4, 4), Why::Invalid("1 to 5")),
        (
            "whether it is causal stays",
            Entry::AlterKeyspace { keyspace: Keyspace { causal: true, ..keyspace("default", 3, 2, 2) } },
            Why::Invalid("not causal"),
        ),
    ];
    for (claim, entry, why) in claims {
        check_refusal(claim, &formed, entry, *why);
    }
}

#[test]
fn a_formed_cluster_has_a_ring_and_the_default_keyspace() {
    let state = formed();
    let (id, keyspace) = state.keyspace(DEFAULT_KEYSPACE).unwrap();
    assert_eq!((id, keyspace.n, keyspace.r, keyspace.w), (KeyspaceId(1), 3, 2, 2));
    assert_eq!((keyspace.resolver.as_str(), keyspace.resolver_hash), ("lww", ResolverHash([7; 32])));
    assert_eq!(keyspace.durability, Durability::Sync);
    assert_eq!((state.forming(), state.ring_width(), state.owners(PartitionId(5), 3).len()), (None, 3, 3));
    assert_eq!(state.form_entry(), None);
}

#[test]
fn a_cluster_of_one_is_a_cluster() {
    let mut state = State::default();
    let mut first = found();
    if let Entry::Found { expect, .. } = &mut first {
        *expect = 1;
    }
    state.apply(&first).unwrap();
    state.apply(&open(1, 11)).unwrap();
    state.apply(&state.form_entry().unwrap()).unwrap();
    let (_, keyspace) = state.keyspace(DEFAULT_KEYSPACE).unwrap();
    assert_eq!((keyspace.n, keyspace.r, keyspace.w), (1, 1, 1));
}

#[test]
fn more_nodes_than_expected_may_join_before_the_ring_is_made() {
    let mut state = joined();
    for node in 4..=9 {
        state.apply(&open(node, 41)).unwrap();
    }
    state.apply(&state.form_entry().unwrap()).unwrap();
    assert_eq!(state.ring_width(), RING_WIDTH_MAX);
    assert_eq!(state.keyspace(DEFAULT_KEYSPACE).unwrap().1.n, 3);
}

#[test]
fn a_node_that_joins_a_formed_cluster_owns_nothing() {
    let mut state = formed();
    let ring = state.ring.clone();
    assert_eq!(state.apply(&open(4, 41)), Ok(Applied::Opened(Incarnation(1))));
    assert_eq!(state.ring, ring);
    assert_eq!(state.ring.unwrap().owned_by(NodeId(4), RING_WIDTH_MAX), 0);
}

#[test]
fn each_opening_of_a_directory_has_its_own_incarnation() {
    let mut state = formed();
    assert_eq!(state.apply(&open(1, 11)), Ok(Applied::Opened(Incarnation(1))), "asking again changes nothing");
    assert_eq!(state.apply(&open(1, 12)), Ok(Applied::Opened(Incarnation(2))));
    assert_eq!(state.apply(&open(1, 12)), Ok(Applied::Opened(Incarnation(2))));
    check_refusal("an entry that comes late fences nobody", &state, &open(1, 11), Why::Superseded);
    for opening in 13..40 {
        state.apply(&open(1, opening)).unwrap();
    }
    assert_eq!(state.superseded[&NodeId(1)].len(), SUPERSEDED_MAX);
    assert_eq!(state.members[&NodeId(1)].incarnation, Incarnation(29));
}

#[test]
fn a_node_may_come_back_at_another_address() {
    let mut state = formed();
    let moved = with(&open(1, 12), |addresses, _, _| addresses.peer = "elsewhere:1".into());
    state.apply(&moved).unwrap();
    assert_eq!(state.members[&NodeId(1)].addresses.peer, "elsewhere:1");
}

#[test]
fn the_epoch_rises_with_what_owners_must_agree_on() {
    let mut state = State::default();
    let mut epochs = vec![];
    let entries = [found(), open(1, 11), open(2, 21), open(1, 12), open(3, 31)];
    for entry in entries {
        state.apply(&entry).unwrap();
        epochs.push(state.epoch.0);
    }
    assert_eq!(epochs, [1, 2, 3, 3, 4], "a node that comes back changes nothing for the others");
    for entry in [state.form_entry().unwrap(), create("a", 3, 2, 2), alter("a", 3, 1, 3), Entry::Advance] {
        let before = state.epoch;
        state.apply(&entry).unwrap();
        assert_eq!(state.epoch.0, before.0 + 1, "{entry:?}");
    }
}

#[test]
fn the_number_of_keyspaces_is_bounded() {
    let mut state = formed();
    for i in 1..KEYSPACES_MAX {
        state.apply(&create(&format!("k{i}"), 3, 2, 2)).unwrap();
    }
    check_refusal("one too many", &state, &create("more", 3, 2, 2), Why::Invalid("256"));
}

#[test]
fn the_number_of_members_is_bounded() {
    let mut state = formed();
    for node in 4..=MEMBERS_MAX as u64 {
        state.apply(&open(node, 41)).unwrap();
    }
    check_refusal("one too many", &state, &open(5000, 41), Why::Invalid("1024"));
    state.apply(&open(7, 42)).expect("who is in may come back");
}

fn wishes() -> impl Strategy<Value = Wish> {
    let node = || (1u64..7).prop_map(NodeId);
    prop_oneof![
        node().prop_map(|node| Wish::Accept { node }),
        (node(), any::<bool>()).prop_map(|(node, dead)| Wish::Leave { node, dead }),
        (node(), node(), any::<bool>()).prop_map(|(gone, by, dead)| Wish::Replace { gone, by, dead }),
        (node(), 0u32..3).prop_map(|(node, weight)| Wish::Weight { node, weight: weight * 100 }),
        (node(), 0u8..3).prop_map(|(node, zone)| Wish::Zone { node, zone: "z".repeat(zone.into()) }),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let opens = (0u64..6, 0u128..4, 0u128..6, 0u32..3, 0u64..7).prop_map(|(node, directory, opening, weight, host)| {
        let (addresses, weight) = (addresses(host), weight * 100);
        Entry::Open { node: NodeId(node), directory, opening, addresses, zone: String::new(), weight, opened: 0 }
    });
    let honest = (1u64..6, 1u128..6).prop_map(|(node, opening)| open(node, opening));
    let names = prop_oneof![Just("a"), Just("b"), Just("default"), Just("NO")];
    let keyspaces = (names, 0u8..5, 0u8..5, 0u8..5);
    let entry = prop_oneof![
        1 => Just(found()),
        3 => opens,
        3 => honest,
        1 => Just(Entry::Form { ring: Ring::default() }),
        2 => Just(Entry::Form { ring: joined().form_entry().map_or(Ring::default(), |e| match e {
            Entry::Form { ring } => ring,
            _ => Ring::default(),
        }) }),
        2 => keyspaces.clone().prop_map(|(name, n, r, w)| create(name, n, r, w)),
        2 => keyspaces.prop_map(|(name, n, r, w)| alter(name, n, r, w)),
        1 => Just(Entry::Advance),
        4 => wishes().prop_map(|wish| Entry::Change { wish, seen: None }),
        2 => (0u64..3, 1u64..6, 0u16..16).prop_map(|(change, node, p)| {
            Entry::Hold { change, node: NodeId(node), partitions: (p..16).map(PartitionId).collect() }
        }),
        2 => (0u64..3, 1u64..6).prop_map(|(change, node)| Entry::Seen { change, node: NodeId(node) }),
        1 => (1u64..6).prop_map(|node| Entry::Left { node: NodeId(node) }),
        6 => plugins::entries(),
    ];
    prop::collection::vec(entry, 0..60)
}

/// What holds in every state that entries can lead to.
fn check_invariants(state: &State) {
    if state.cluster == 0 {
        assert_eq!(state, &State::default());
        return;
    }
    let mut addresses: Vec<&str> = state.members.values().flat_map(|m| m.addresses.all().map(|(_, a)| a)).collect();
    addresses.sort_unstable();
    assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]), "two members share an address");
    assert!(state.members.values().all(|m| m.incarnation.0 > 0 && m.directory != 0 && m.opening != 0));
    assert!(state.members.iter().all(|(id, m)| !state.superseded.get(id).is_some_and(|s| s.contains(&m.opening))));
    assert!(state.keyspaces.keys().all(|id| id.0 < state.keyspace_next));
    match &state.ring {
        None => assert!(state.keyspaces.is_empty()),
        Some(ring) => {
            assert!(ring.iter().all(|(_, owners)| owners.iter().all(|owner| state.members.contains_key(owner))));
            let next = state.change.as_ref().map(|change| &change.next);
            for ring in [ring].into_iter().chain(next) {
                assert!(state.keyspaces.values().all(|keyspace| keyspace.check(ring.width()).is_ok()));
            }
            let copies = state.change.as_ref().is_some_and(|change| !change.copies.is_empty());
            let may = |standing| standing == Standing::Up || copies && standing == Standing::Leaving;
            let gainers = state.change.iter().filter(|c| c.closing.is_none()).flat_map(|change| change.waits.values());
            assert!(gainers.flatten().all(|node| may(state.members[node].standing)), "a move that can't end");
            let mut names: Vec<&str> = state.keyspaces.values().map(|keyspace| keyspace.name.as_str()).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]) && names.contains(&DEFAULT_KEYSPACE));
        }
    }
    plugins::check_invariants(state);
}

proptest! {
    #[test]
    fn no_sequence_of_entries_breaks_an_invariant(mut entries in entries(), founded: bool) {
        if founded {
            entries.insert(0, found());
        }
        let (mut state, mut twin) = (State::default(), State::default());
        for entry in &entries {
            let before = state.clone();
            // What a leader does unasked comes in between.
            let entry = &state.form_entry().or_else(|| state.begin_entry()).unwrap_or_else(|| entry.clone());
            let outcome = state.apply(entry);
            prop_assert_eq!(&outcome, &twin.apply(entry), "two nodes disagree");
            prop_assert!(state.epoch >= before.epoch, "time went back");
            for (id, member) in &before.members {
                if state.removed.contains_key(id) {
                    continue;
                }
                prop_assert!(state.members[id].incarnation >= member.incarnation, "an incarnation went back");
                prop_assert_eq!(state.members[id].directory, member.directory);
            }
            if outcome.is_err() {
                prop_assert_eq!(&state, &before, "a refusal changed the state");
            }
            check_invariants(&state);
        }
        prop_assert_eq!(&state, &twin);
    }

    #[test]
    fn a_state_survives_the_wire(entries in entries()) {
        let mut state = State::default();
        for entry in [found()].iter().chain(&entries) {
            let _ = state.apply(entry);
            let bytes = postcard::to_allocvec(entry).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Entry>(&bytes).unwrap(), entry);
        }
        let bytes = postcard::to_allocvec(&state).unwrap();
        prop_assert_eq!(postcard::from_bytes::<State>(&bytes).unwrap(), state);
    }
}
