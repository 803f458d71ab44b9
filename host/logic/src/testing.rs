//! Doubles of the ports, and builders of what tests need again and again. Only compiled for tests.

use crate::cluster::{Addresses, Keyspace, Member, Standing, State};
use crate::context::Context;
use crate::digest::{DigestTable, HoldsDigests, recompute};
use crate::event::{HintId, JobId, WriteJob};
use crate::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId};
use crate::mint::Mints;
use crate::outline::{Outline, OutlineTable, Outlines};
use crate::port::{
    Batch, Change, Columns, DataTypes, Durability, Merged, NewState, Policy, Read, Resolve, ResolveError, ResolverHash,
    Role, Siblings, Store, StoreError, StoreStats, Table, TypeError, Verdict, Visit,
};
use crate::record::Record;
use crate::replica::Ports;
use crate::ring::{Candidate, Ring};
use crate::time::Hlc;
use crate::version::{Version, value_digest};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

/// Few partitions, so that a handful of keys shares some of them.
pub(crate) const PARTITION_BITS: u8 = 4;

/// A keyspace settled by last-write-wins.
pub(crate) const LWW: KeyspaceId = KeyspaceId(1);
/// A keyspace settled by first-write-wins.
pub(crate) const FIRST: KeyspaceId = KeyspaceId(2);

/// A causal keyspace that keeps siblings.
pub(crate) const CARTS: KeyspaceId = KeyspaceId(3);
/// A keyspace with one copy, as far as a disk is told.
pub(crate) const ALONE: KeyspaceId = KeyspaceId(4);
/// A keyspace whose values are [`Tallies`].
pub(crate) const TALLIES: KeyspaceId = KeyspaceId(5);
/// A causal keyspace whose siblings are merged for readers: all values, one after the other.
pub(crate) const UNIONS: KeyspaceId = KeyspaceId(6);

pub(crate) const LWW_CODE: ResolverHash = ResolverHash([1; 32]);
pub(crate) const FIRST_CODE: ResolverHash = ResolverHash([2; 32]);
const CARTS_CODE: ResolverHash = ResolverHash([3; 32]);
const TALLY_CODE: ResolverHash = ResolverHash([4; 32]);
pub(crate) const UNION_CODE: ResolverHash = ResolverHash([5; 32]);

/// A disk in memory that can lose power, fill up, and tell what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    platter: Mutex<Platter>,
    /// Gone with the process. Read from the platter when somebody asks.
    digests: Mutex<Option<DigestTable>>,
    mints: Mints,
}

#[derive(Debug, Default)]
struct Platter {
    now: BTreeMap<(Table, Bytes), Bytes>,
    synced: BTreeMap<(Table, Bytes), Bytes>,
    broken: Option<StoreError>,
    stats: StoreStats,
    /// Few slots, so that keys push each other out. Gone with the process.
    outlines: Option<OutlineTable>,
}

impl Outlines for Disk {
    fn get(&self, key: &[u8]) -> Option<Outline> {
        self.platter().outlines.as_ref().and_then(|table| table.get(key)).cloned()
    }

    fn put(&self, key: &[u8], outline: Outline) {
        self.platter().outlines.get_or_insert_with(|| OutlineTable::new(1)).put(key, outline);
    }

    fn forget(&self, key: &[u8]) {
        if let Some(table) = &mut self.platter().outlines {
            table.forget(key);
        }
    }

    fn forget_under(&self, prefix: &[u8]) {
        if let Some(table) = &mut self.platter().outlines {
            table.forget_under(prefix);
        }
    }
}

/// Copies of the records of all keyspaces, as far as a disk is told.
pub(crate) const COPIES: [(KeyspaceId, u8); 6] =
    [(LWW, 3), (FIRST, 2), (CARTS, 3), (ALONE, 1), (TALLIES, 3), (UNIONS, 3)];

impl HoldsDigests for Disk {
    fn with_digests<T>(&self, work: impl FnOnce(&mut DigestTable) -> T) -> T {
        self.digests(work)
    }
}

impl Disk {
    /// What the sums of this disk say now.
    pub(crate) fn digests<T>(&self, ask: impl FnOnce(&mut DigestTable) -> T) -> T {
        let mut digests = self.digests.lock().unwrap();
        ask(digests.get_or_insert_with(|| DigestTable::open(self, COPIES).unwrap()))
    }

    /// What they must say.
    pub(crate) fn recomputed(&self) -> DigestTable {
        recompute(self, COPIES.into()).unwrap()
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    /// The ports of an owner whose store and memory this is.
    pub(crate) fn ports<'a>(&'a self, resolve: &'a dyn Resolve) -> Ports<'a> {
        Ports {
            store: self,
            outlines: self,
            digests: self,
            mints: &self.mints,
            resolve,
            types: &Tallies,
            partition_bits: PARTITION_BITS,
        }
    }

    /// From now on every change fails with this error, until `None` mends the disk.
    pub(crate) fn fail(&self, error: Option<StoreError>) {
        self.platter().broken = error;
    }

    /// The process starts anew: what it remembered is gone.
    pub(crate) fn restart(&self) {
        self.platter().outlines = None;
        *self.digests.lock().unwrap() = None;
    }

    /// What was not synced is gone.
    pub(crate) fn lose_power(&self) {
        let mut platter = self.platter();
        platter.now = platter.synced.clone();
        platter.outlines = None;
        drop(platter);
        *self.digests.lock().unwrap() = None;
    }

    /// The record of `key`, also when the disk fails.
    pub(crate) fn record(&self, key: &Key) -> Record {
        self.decode(&self.platter().now, key)
    }

    /// The record of `key` that a power cut would leave.
    pub(crate) fn synced_record(&self, key: &Key) -> Record {
        self.decode(&self.platter().synced, key)
    }

    fn decode(&self, from: &BTreeMap<(Table, Bytes), Bytes>, key: &Key) -> Record {
        let bytes = from.get(&(Table::Records, key.engine_key(PARTITION_BITS).into()));
        Record::decode(&bytes.cloned().unwrap_or_default()).unwrap()
    }

    /// Names and bytes of the hints.
    pub(crate) fn hints(&self) -> Vec<(HintId, Bytes)> {
        let platter = self.platter();
        let hints = platter.now.iter().filter(|((table, _), _)| *table == Table::Hints);
        hints.map(|((_, key), value)| (HintId::from_engine_key(key).unwrap(), value.clone())).collect()
    }

    /// Overwrites the stored bytes of `key`, and nobody remembers what they were.
    pub(crate) fn damage(&self, key: &Key) {
        let at = (Table::Records, key.engine_key(PARTITION_BITS).into());
        let mut platter = self.platter();
        platter.now.insert(at, Bytes::from_static(b"\x01garbage"));
        platter.outlines = None;
    }
}

impl Read for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.platter().now.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        let from = (table, Bytes::copy_from_slice(start));
        let within = |key: &Bytes| end.is_none_or(|end| &key[..] < end);
        let of = |((t, key), value): (&(Table, Bytes), &Bytes)| {
            (*t == table && within(key)).then(|| (key.clone(), value.clone()))
        };
        // A visitor may ask the disk something.
        let found: Vec<_> = self.platter().now.range(from..).map_while(of).collect();
        for (key, value) in found {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Store for Disk {
    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut platter = self.platter();
        if let Some(error) = &platter.broken {
            return Err(error.clone());
        }
        platter.stats.batches += 1;
        for change in batch {
            match change {
                Change::Put { table, key, value } => drop(platter.now.insert((table, key), value)),
                Change::Delete { table, key } => drop(platter.now.remove(&(table, key))),
                Change::DeleteRange { table, start, end } => {
                    platter.now.retain(|(t, key), _| *t != table || *key < start || *key >= end);
                }
            }
        }
        if durability == Durability::Sync {
            platter.stats.fsyncs += 1;
            platter.synced = platter.now.clone();
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        let now = self.platter().now.clone();
        Box::new(Self { platter: Mutex::new(Platter { now, ..Platter::default() }), ..Self::default() })
    }

    fn stats(&self) -> StoreStats {
        self.platter().stats.clone()
    }
}

/// Native stand-ins for the resolver components.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rules {
    /// Settle as the keyspace asks.
    Work,
    /// Every call fails.
    Fail,
    /// Every answer names a row that is not there.
    Nonsense,
    /// One verdict too few.
    Short,
    /// This node has no code at all.
    Lack,
}

impl Resolve for Rules {
    fn settle(&self, resolver: ResolverHash, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        let settle = |i: usize| {
            let rows = conflicts.rows(i);
            let stamp = |row: &usize| {
                (conflicts.written[*row], conflicts.marks[*row], conflicts.nodes[*row], conflicts.digests[*row])
            };
            let kept = match resolver {
                LWW_CODE => rows.clone().max_by_key(stamp),
                FIRST_CODE => rows.clone().min_by_key(stamp),
                CARTS_CODE => return Ok(Verdict::KeepAll),
                _ => None,
            };
            kept.map(|row| Verdict::Keep((row - rows.start) as u32)).ok_or(ResolveError::Unknown(resolver))
        };
        match self {
            Self::Work => (0..conflicts.len()).map(settle).collect(),
            Self::Fail => Err(ResolveError::Failed("it was told to".into())),
            Self::Nonsense => Ok((0..conflicts.len()).map(|i| Verdict::Keep(conflicts.rows(i).len() as u32)).collect()),
            Self::Short => Ok((1..conflicts.len()).map(|_| Verdict::Keep(0)).collect()),
            Self::Lack => Err(ResolveError::Unknown(resolver)),
        }
    }

    fn has(&self, _resolver: ResolverHash) -> bool {
        !matches!(self, Self::Lack)
    }

    fn merge(&self, resolver: ResolverHash, siblings: &Siblings) -> Result<Merged, ResolveError> {
        assert_eq!((siblings.versions.len(), resolver), (1, UNION_CODE));
        match self {
            Self::Work => Ok(Merged::Value(siblings.values.concat().into())),
            Self::Fail => Err(ResolveError::Failed("it was told to".into())),
            Self::Nonsense => Ok(Merged::Kept(vec![siblings.values.len() as u32])),
            Self::Short => Ok(Merged::Kept(Vec::new())),
            Self::Lack => Err(ResolveError::Unknown(resolver)),
        }
    }
}

/// A data type of lines, one for each operation: who did it, and the operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tallies;

impl Tallies {
    fn lines(states: &[Bytes]) -> Result<BTreeSet<Vec<u8>>, TypeError> {
        let bad = |state: &Bytes| state.starts_with(b"no state");
        if states.iter().any(bad) {
            return Err(TypeError::Failed("that is no state".into()));
        }
        let lines = |state: &Bytes| state.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
        Ok(states.iter().flat_map(lines).collect())
    }

    fn bytes(lines: BTreeSet<Vec<u8>>) -> Bytes {
        lines.into_iter().collect::<Vec<_>>().join(&b'\n').into()
    }
}

impl DataTypes for Tallies {
    fn apply(
        &self,
        data_type: ResolverHash,
        (dot, _): (Dot, Hlc),
        states: &[Bytes],
        operation: &Bytes,
    ) -> Result<NewState, TypeError> {
        assert_eq!(data_type, TALLY_CODE);
        let mut lines = Self::lines(states)?;
        let text = String::from_utf8_lossy(operation);
        match &*text {
            "refuse" => return Err(TypeError::Refused("it was told to".into())),
            "trap" => return Err(TypeError::Failed("it was told to".into())),
            text => {
                assert!(lines.insert(format!("{}/{}/{} {text}", dot.node.0, dot.incarnation.0, dot.counter).into()))
            }
        }
        Ok(NewState { state: Self::bytes(lines), reply: Some("done".into()) })
    }

    fn join(&self, _: ResolverHash, states: &[Bytes]) -> Result<Bytes, TypeError> {
        Self::lines(states).map(Self::bytes)
    }

    fn view(&self, data_type: ResolverHash, states: &[Bytes], _: &Bytes) -> Result<Bytes, TypeError> {
        self.join(data_type, states)
    }
}

/// A key of the last-write-wins keyspace.
pub(crate) fn key(name: &str) -> Key {
    Key { keyspace: LWW, partition_key: Bytes::copy_from_slice(name.as_bytes()), sort_key: Bytes::new() }
}

/// The `counter`th write of `node`.
pub(crate) fn version(node: u64, counter: u64, written: Hlc, value: Option<&str>) -> Version {
    Version {
        dot: Dot { node: NodeId(node), incarnation: Incarnation(node), counter },
        written,
        epoch: Epoch(1),
        expires_ms: 0,
        digest: value_digest(value.map(str::as_bytes)),
        value: value.map(|v| Bytes::copy_from_slice(v.as_bytes())),
    }
}

/// A fresh, synced write of the last-write-wins keyspace.
pub(crate) fn job(key: &Key, version: Version) -> WriteJob {
    let job = JobId(version.dot.counter);
    let policy = Policy { resolver: LWW_CODE, causal: false, role: Role::Resolver };
    let (key, past, durability) = (key.clone(), Context::default(), Durability::Sync);
    WriteJob {
        job,
        key,
        version,
        past,
        mint: None,
        fresh: true,
        durability,
        policy,
        replaces: false,
        beside: Vec::new(),
        apply: None,
    }
}

/// A formed cluster of the nodes 1 to `nodes`, with all keyspaces, `n` copies and quorums of `r` and `w`.
///
/// Node `i` is in its opening `i`, which has incarnation `i`.
pub(crate) fn formed(nodes: u64, (n, r, w): (u8, u8, u8)) -> State {
    let member = |i: u64| Member {
        directory: u128::from(i),
        opening: u128::from(i),
        incarnation: Incarnation(i),
        addresses: Addresses::default(),
        zone: String::new(),
        weight: 100,
        standing: Standing::Up,
        opened: 0,
    };
    let keyspace = |name: &str, resolver_hash, causal| Keyspace {
        name: name.into(),
        n,
        r,
        w,
        durability: Durability::Sync,
        ttl_ms: 0,
        resolver: name.into(),
        resolver_hash,
        causal,
        quarantined: false,
        role: match resolver_hash {
            TALLY_CODE => Role::DataType,
            UNION_CODE => Role::Merger,
            _ => Role::Resolver,
        },
    };
    let candidates: Vec<_> = (1..=nodes).map(|i| Candidate { node: NodeId(i), zone: "", weight: 100 }).collect();
    State {
        cluster: 1,
        epoch: Epoch(1),
        partition_bits: PARTITION_BITS,
        expect: nodes as u32,
        members: (1..=nodes).map(|i| (NodeId(i), member(i))).collect(),
        ring: Some(Ring::solve(PARTITION_BITS, n, &candidates, None).unwrap()),
        keyspaces: [
            (LWW, keyspace("lww", LWW_CODE, false)),
            (FIRST, keyspace("first", FIRST_CODE, false)),
            (CARTS, keyspace("carts", CARTS_CODE, true)),
            (TALLIES, keyspace("tally", TALLY_CODE, true)),
            (UNIONS, keyspace("unions", UNION_CODE, true)),
        ]
        .into(),
        keyspace_next: 7,
        ..State::default()
    }
}

/// Who owns `key` there.
pub(crate) fn owners(state: &State, key: &Key) -> Vec<NodeId> {
    let keyspace = &state.keyspaces[&key.keyspace];
    state.owners(key.place(state.partition_bits).partition, keyspace.n).to_vec()
}

/// A node that does not own `key` there.
pub(crate) fn stranger(state: &State, key: &Key) -> NodeId {
    let owners = owners(state, key);
    *state.members.keys().find(|id| !owners.contains(id)).unwrap()
}
