//! What it costs a put that sums over the records are kept: the same writes with and without them, in turns, on the
//! durable engines of the binary.
//!
//! `cargo bench -p mks-store --bench sums`

use bytes::Bytes;
use mks_logic::context::Context;
use mks_logic::digest::{Buckets, Contributions, Delta, DigestTable, Digests, HoldsDigests, Range, Sums};
use mks_logic::event::{JobId, WriteJob};
use mks_logic::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId, PartitionId};
use mks_logic::message::WriteOutcome;
use mks_logic::mint::Mints;
use mks_logic::outline::{Outline, OutlineTable, Outlines};
use mks_logic::port::{
    Batch, Columns, DataTypes, Durability, Merged, NewState, Policy, Resolve, ResolveError, ResolverHash, Role,
    Siblings, Store, TypeError, Verdict,
};
use mks_logic::replica::{Ports, absorb};
use mks_logic::time::Hlc;
use mks_logic::version::{Version, value_digest};
use mks_store::{BUILT, Engine, Options, open};
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

const KEYSPACE: KeyspaceId = KeyspaceId(1);
const PARTITION_BITS: u8 = 8;
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 1024;
/// Writes of one commit: what a writer finds waiting while 64 clients are busy.
const GROUP: u64 = 32;
const ROUNDS: usize = 12;
const GROUPS_PER_ROUND: u64 = 600;
/// Ticks of the times in /proc/self/stat.
const TICKS_PER_SECOND: f64 = 100.0;

/// Nothing is kept.
struct Nothing;

impl Digests for Nothing {
    fn copies(&self, _: KeyspaceId) -> Option<u8> {
        Some(3)
    }

    fn stage(&self, _: Vec<Delta>) -> Batch {
        Batch::new()
    }

    fn settle(&self, _: bool) {}

    fn sums(&self, _: Range) -> Option<Sums> {
        None
    }

    fn correct(&self, _: PartitionId, _: u16, _: &BTreeMap<(KeyspaceId, Epoch), u128>) -> Vec<Delta> {
        Vec::new()
    }

    fn held(&self) -> Vec<(PartitionId, u8)> {
        Vec::new()
    }

    fn differing(&self, _: PartitionId, _: Buckets, _: &Contributions) -> Vec<u16> {
        Vec::new()
    }
}

/// What a node keeps.
struct Kept(Mutex<DigestTable>);

impl HoldsDigests for Kept {
    fn with_digests<T>(&self, work: impl FnOnce(&mut DigestTable) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// As large as a node's.
struct Remembered(Mutex<OutlineTable>);

impl Remembered {
    fn table<T>(&self, ask: impl FnOnce(&mut OutlineTable) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outlines for Remembered {
    fn get(&self, key: &[u8]) -> Option<Outline> {
        self.table(|table| table.get(key).cloned())
    }

    fn put(&self, key: &[u8], outline: Outline) {
        self.table(|table| table.put(key, outline));
    }

    fn forget(&self, key: &[u8]) {
        self.table(|table| table.forget(key));
    }

    fn forget_under(&self, prefix: &[u8]) {
        self.table(|table| table.forget_under(prefix));
    }
}

/// The last row wins: writes come in the order of their stamps.
struct Last;

impl Resolve for Last {
    fn settle(&self, _: ResolverHash, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        Ok((0..conflicts.len()).map(|i| Verdict::Keep(conflicts.rows(i).len() as u32 - 1)).collect())
    }

    fn has(&self, _: ResolverHash) -> bool {
        true
    }

    fn merge(&self, resolver: ResolverHash, _: &Siblings) -> Result<Merged, ResolveError> {
        Err(ResolveError::Unknown(resolver))
    }
}

impl DataTypes for Last {
    fn apply(&self, _: ResolverHash, _: (Dot, Hlc), _: &[Bytes], _: &Bytes) -> Result<NewState, TypeError> {
        Err(TypeError::Failed("there are none".into()))
    }

    fn join(&self, _: ResolverHash, _: &[Bytes]) -> Result<Bytes, TypeError> {
        Err(TypeError::Failed("there are none".into()))
    }

    fn view(&self, _: ResolverHash, _: &[Bytes], _: &Bytes) -> Result<Bytes, TypeError> {
        Err(TypeError::Failed("there are none".into()))
    }
}

/// Spreads counters over the keys without a pattern that an engine could like.
fn mix(n: u64) -> u64 {
    (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn write(n: u64) -> WriteJob {
    let words = (0..VALUE_BYTES as u64 / 8).flat_map(|part| mix(n * 131 + part).wrapping_mul(n | 1).to_le_bytes());
    let value: Bytes = words.collect::<Vec<u8>>().into();
    let partition_key = format!("{:016}", mix(n) % KEYS).into();
    let version = Version {
        dot: Dot { node: NodeId(1), incarnation: Incarnation(1), counter: n },
        written: Hlc(n),
        epoch: Epoch(2),
        expires_ms: 0,
        digest: value_digest(Some(&value)),
        value: Some(value),
    };
    let key = Key { keyspace: KEYSPACE, partition_key, sort_key: Bytes::new() };
    let policy = Policy { resolver: ResolverHash([1; 32]), causal: false, role: Role::Resolver };
    let (past, durability) = (Context::default(), Durability::Os);
    WriteJob {
        job: JobId(n),
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

/// One of the two that are compared.
struct Side {
    store: Arc<dyn Store>,
    digests: Box<dyn Digests>,
    outlines: Remembered,
    /// Seconds of wall time and of CPU per round, engine threads included.
    rounds: Vec<(f64, f64)>,
    _directory: tempfile::TempDir,
}

impl Side {
    fn new(engine: Engine, keeps: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = Options { directory: directory.path().to_owned(), engine, ..Options::default() };
        let store = open(&options).expect("a fresh directory opens");
        let digests: Box<dyn Digests> = if keeps {
            Box::new(Kept(Mutex::new(DigestTable::open(&*store, [(KEYSPACE, 3)]).expect("a fresh store reads"))))
        } else {
            Box::new(Nothing)
        };
        let outlines = Remembered(Mutex::new(OutlineTable::new(17)));
        Self { store, digests, outlines, rounds: Vec::new(), _directory: directory }
    }

    fn round(&mut self, from: u64) {
        let groups: Vec<Vec<WriteJob>> =
            (0..GROUPS_PER_ROUND).map(|g| (0..GROUP).map(|i| write(from + g * GROUP + i)).collect()).collect();
        let (store, digests, outlines) = (&*self.store, &*self.digests, &self.outlines);
        let mints = Mints::default();
        let (resolve, partition_bits) = (&Last, PARTITION_BITS);
        let ports = Ports { store, outlines, digests, mints: &mints, resolve, types: &Last, partition_bits };
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        for group in &groups {
            let (outcomes, _) = absorb(ports, group);
            assert!(
                outcomes.iter().all(|outcome| *outcome == WriteOutcome::Held),
                "each write is above the one before"
            );
        }
        self.rounds.push((wall.elapsed().as_secs_f64(), cpu_seconds() - cpu));
    }

    /// Microseconds per put: the median of the wall times, and the mean of the CPU times.
    fn per_put(&self) -> (f64, f64) {
        let puts = (GROUPS_PER_ROUND * GROUP) as f64;
        let mut wall: Vec<f64> = self.rounds.iter().map(|(wall, _)| wall / puts * 1e6).collect();
        wall.sort_by(f64::total_cmp);
        let cpu: f64 = self.rounds.iter().map(|(_, cpu)| cpu).sum::<f64>() / self.rounds.len() as f64;
        (wall[wall.len() / 2], cpu / puts * 1e6)
    }
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux tells what a process used");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

fn main() {
    for &engine in BUILT.iter().filter(|engine| **engine != Engine::Memory) {
        let mut sides = [Side::new(engine, false), Side::new(engine, true)];
        for round in 0..ROUNDS {
            // Whoever comes first in one round comes second in the next one.
            sides.reverse();
            for side in &mut sides {
                side.round(1 + round as u64 * GROUPS_PER_ROUND * GROUP);
            }
        }
        if ROUNDS % 2 == 1 {
            sides.reverse();
        }
        let [(bare_wall, bare_cpu), (wall, cpu)] = sides.each_ref().map(Side::per_put);
        println!(
            "{engine}: {bare_wall:.2} us per put ({bare_cpu:.2} us CPU) without sums, {wall:.2} us ({cpu:.2} us CPU) with: \
             {:+.1} % time, {:+.1} % CPU",
            (wall / bare_wall - 1.0) * 100.0,
            (cpu / bare_cpu - 1.0) * 100.0,
        );
    }
}
