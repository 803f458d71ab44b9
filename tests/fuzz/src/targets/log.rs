//! The epoch log: calls between its nodes, entries, and states as a snapshot brings them. An entry that is refused
//! changes nothing, and a state that was read can be asked anything.

use mks_logic::cluster::{Entry, Keyspace, State, Wish};
use mks_logic::id::{NodeId, PartitionId};
use mks_logic::port::{Durability, ResolverHash, Role};
use mks_logic::ring::RING_WIDTH_MAX;
use mks_tests_sim::log::{form, open};
use std::sync::LazyLock;

static FORMED: LazyLock<State> = LazyLock::new(|| form(3));

pub fn run(input: &[u8]) {
    let Some((&kind, body)) = input.split_first() else { return };
    match kind % 4 {
        0 => entries(State::default(), body),
        1 => entries(FORMED.clone(), body),
        2 => {
            if let Ok(state) = postcard::from_bytes::<State>(body) {
                ask(&state);
            }
        }
        _ => call(body),
    }
}

#[cfg(feature = "node")]
fn call(body: &[u8]) {
    let Some((&kind, body)) = body.split_first() else { return };
    if let Ok(kind) = mks::epoch_log::Kind::try_from(u32::from(kind)) {
        let _ = mks::epoch_log::wire::try_read(kind, body);
    }
}

#[cfg(not(feature = "node"))]
const fn call(_body: &[u8]) {}

fn entries(mut state: State, body: &[u8]) {
    let Ok(entries) = postcard::from_bytes::<Vec<Entry>>(body) else { return };
    for entry in entries {
        let before = state.clone();
        match state.apply(&entry) {
            Ok(_) => assert!(state.epoch >= before.epoch, "epochs never go back"),
            Err(_) => assert_eq!(state, before, "a refused entry changed something"),
        }
    }
    ask(&state);
    let bytes = postcard::to_stdvec(&state).expect("a state can be written");
    assert_eq!(postcard::from_bytes::<State>(&bytes).as_ref(), Ok(&state));
}

fn ask(state: &State) {
    for partition in [0, 1, u16::MAX] {
        for n in [0, 1, RING_WIDTH_MAX, u8::MAX] {
            let owners = state.owners(PartitionId(partition), n);
            assert!(owners.len() <= usize::from(n), "more owners than were asked for");
        }
    }
    let _ = (state.keyspace("default"), state.forming(), state.ring_width(), state.candidates().len());
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let resolver_hash = ResolverHash([1; 32]);
    let born = Entry::Found { cluster: 1, partition_bits: 2, expect: 1, resolver: "lww".into(), resolver_hash };
    let mut state = State::default();
    let mut life = vec![born, open(NodeId(1), 5)];
    for entry in &life {
        state.apply(entry).expect("a cluster is born");
    }
    life.push(state.form_entry().expect("all have joined"));
    let keyspace = seats(("lww", resolver_hash));
    life.push(Entry::CreateKeyspace { keyspace: keyspace.clone() });
    life.push(Entry::AlterKeyspace { keyspace: Keyspace { ttl_ms: 9, ..keyspace } });
    life.push(Entry::Advance);
    for entry in &life[2..] {
        state.apply(entry).expect("the entries are good");
    }
    let bytes = |kind: u8, body: Vec<u8>| [vec![kind], body].concat();
    let write = |entries: &[Entry]| postcard::to_stdvec(entries).expect("entries can be written");
    vec![
        bytes(0, write(&life)),
        bytes(1, write(&life[3..])),
        bytes(2, postcard::to_stdvec(&state).expect("a state can be written")),
        bytes(1, write(&growth())),
        bytes(1, write(&plugin())),
        bytes(1, write(&copies())),
        bytes(0, nested(SIGNED_DEEP)),
        b"\x03\x05\x01\x00\x01\x05\x01\x04\x61\x3a\x31\x31\x04\x61\x3a\x31\x32\x04\x61\x3a\x31\x33\x00\x64\x00"
            .to_vec(),
        b"\x03\x02\x01\x01\x01\x02\x00\x01\x01\x01\x02\x05".to_vec(),
    ]
}

fn seats((resolver, resolver_hash): (&str, ResolverHash)) -> Keyspace {
    Keyspace {
        name: "seats".into(),
        n: 1,
        r: 1,
        w: 1,
        durability: Durability::Os,
        ttl_ms: 0,
        resolver: resolver.into(),
        resolver_hash,
        causal: false,
        quarantined: false,
        role: Role::Resolver,
    }
}

/// A keyspace gets two copies in the place of one.
fn copies() -> Vec<Entry> {
    let one = seats(("lww", ResolverHash([1; 32])));
    let two = Keyspace { n: 2, r: 2, w: 2, ..one.clone() };
    let entries = vec![
        Entry::CreateKeyspace { keyspace: one },
        Entry::AlterKeyspace { keyspace: two },
        Entry::BeginCopies { changes: 0 },
    ];
    let mut state = FORMED.clone();
    for entry in &entries {
        state.apply(entry).expect("the entries are good");
    }
    entries
}

/// A plugin is installed, held by all, used, quarantined, released, and removed.
fn plugin() -> Vec<Entry> {
    let (plugin, node) = (ResolverHash([9; 32]), NodeId(1));
    let (name, version) = ("biggest".into(), "1.0.0".into());
    let mut entries = vec![Entry::InstallPlugin { plugin, node, name, version, bytes: 9, role: Role::Resolver }];
    let (rival, name, version) = (ResolverHash([10; 32]), "smallest".into(), "1.0.0".into());
    entries.push(Entry::InstallPlugin { plugin: rival, node, name, version, bytes: 9, role: Role::Resolver });
    let holds = |plugin| FORMED.members.keys().map(move |node| Entry::HoldPlugin { plugin, node: *node });
    entries.extend(holds(plugin).chain(holds(rival)));
    entries.extend([
        Entry::CreateKeyspace { keyspace: seats(("biggest@1.0.0", plugin)) },
        Entry::ShadowPlugin { plugin: rival, keyspace: "seats".into(), on: true },
        Entry::QuarantinePlugin { plugin, node, reason: "it trapped".into() },
        Entry::ReleasePlugin { plugin },
        Entry::AlterKeyspace { keyspace: seats(("lww", ResolverHash([1; 32]))) },
        Entry::RemovePlugin { plugin },
    ]);
    let mut state = FORMED.clone();
    for entry in &entries {
        state.apply(entry).expect("the entries are good");
    }
    entries
}

/// A fourth member comes, and the table changes for it.
fn growth() -> Vec<Entry> {
    let mut state = FORMED.clone();
    let wish = Wish::Accept { node: NodeId(4) };
    let mut entries = vec![open(NodeId(4), 4), Entry::Change { wish, seen: None }];
    for entry in &entries {
        state.apply(entry).expect("a member may come");
    }
    let begin = state.begin_entry().expect("a change is due");
    state.apply(&begin).expect("the table is right");
    entries.push(begin);
    if let Some(change) = &state.change {
        let partitions = change.waits.keys().copied().collect();
        entries.push(Entry::Hold { change: change.id, node: NodeId(4), partitions });
        entries.push(Entry::Seen { change: change.id, node: NodeId(1) });
    }
    entries
}

/// Enough to end any stack that is eaten by each.
const SIGNED_DEEP: usize = 20_000;

/// One entry that is signed, and signed, and signed.
fn nested(depth: usize) -> Vec<u8> {
    let signed = Entry::Signed { who: String::new(), at_ms: 0, entry: Box::new(Entry::Advance) };
    let bytes = postcard::to_stdvec(&[signed][..]).expect("an entry can be written");
    let [count, signed @ .., inner] = &bytes[..] else { unreachable!("a count, an entry, and one within it") };
    [&[*count], &signed.repeat(depth)[..], &[*inner]].concat()
}
