//! What the raw engine costs per operation, in this process, with its background work.

use super::args::BenchArgs;
use super::cpu::Sample;
use super::workload::{Picker, key_of};
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use indicatif::ProgressBar;
use mks_logic::id::{Key, KeyspaceId};
use mks_logic::port::{Change, Durability, Store, Table};
use mks_store::{Engine, Options};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Bytes of a stored record beyond its value.
const RECORD_OVERHEAD: usize = 45;
/// How long each kind of operation is repeated: `/proc` counts in hundredths of a second.
const PHASE: Duration = Duration::from_secs(4);
/// How often the clock is looked at, in operations.
const CHECK_EVERY: u64 = 64;
/// As many as a cluster has by default.
const PARTITION_BITS: u8 = 8;

/// CPU per operation, microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct EngineCost {
    /// Which engine.
    pub(super) engine: String,
    /// One record in one batch, handed to the operating system.
    pub(super) put_us: f64,
    /// One record that is there.
    pub(super) get_us: f64,
}

/// Loads the keys, overwrites them, reads them. Blocks the caller: nothing else should run meanwhile.
pub(super) fn measure(name: &str, args: &BenchArgs, bar: &ProgressBar) -> anyhow::Result<EngineCost> {
    let engine: Engine = name.parse().map_err(|error: String| anyhow!(error))?;
    let parent = args.engine_dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("mks-bench-").tempdir_in(&parent).with_context(|| {
        format!("can't make a directory in {}; name another one with --engine-dir", parent.display())
    })?;
    let options = Options { directory: scratch.path().join("store"), engine, ..Options::default() };
    let store = mks_store::open(&options).context("can't open a store to measure its engine")?;
    let mut bench = Bench::new(&*store, args);
    bar.set_message("loading the engine");
    for number in 0..args.keys {
        bench.put(number)?;
        if number % CHECK_EVERY == 0 {
            bar.set_position(number);
        }
    }
    bar.set_message("engine puts");
    let put_us = bench.repeat(bar, Bench::put)?;
    bar.set_message("engine gets");
    let get_us = bench.repeat(bar, Bench::get)?;
    Ok(EngineCost { engine: name.to_owned(), put_us, get_us })
}

struct Bench<'a> {
    store: &'a dyn Store,
    rng: ChaCha8Rng,
    picker: Picker,
    pool: Bytes,
    record_size: usize,
}

impl<'a> Bench<'a> {
    fn new(store: &'a dyn Store, args: &BenchArgs) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        let record_size = args.value_size as usize + RECORD_OVERHEAD;
        let mut pool = vec![0; record_size + 4_096];
        rng.fill_bytes(&mut pool);
        let picker = Picker::new(args.keys, args.distribution, args.skew);
        Self { store, rng, picker, pool: pool.into(), record_size }
    }

    fn put(&mut self, number: u64) -> anyhow::Result<()> {
        let start = self.rng.random_range(0..self.pool.len() - self.record_size);
        let value = self.pool.slice(start..start + self.record_size);
        let change = Change::Put { table: Table::Records, key: engine_key(number).into(), value };
        Ok(self.store.apply(vec![change], Durability::Os)?)
    }

    fn get(&mut self, number: u64) -> anyhow::Result<()> {
        let found = self.store.get(Table::Records, &engine_key(number))?;
        found.map(drop).ok_or_else(|| anyhow!("the engine lost key {number} during the benchmark"))
    }

    /// CPU of the whole process per operation, so that the threads which flush and compact count.
    fn repeat(
        &mut self,
        bar: &ProgressBar,
        operation: impl Fn(&mut Self, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<f64> {
        let (started, before, mut count) = (Instant::now(), Sample::take(&[]), 0u64);
        while count % CHECK_EVERY != 0 || started.elapsed() < PHASE {
            let number = self.picker.pick(&mut self.rng);
            operation(self, number)?;
            count += 1;
            if count % (CHECK_EVERY * CHECK_EVERY) == 0 {
                bar.set_position(count);
            }
        }
        let spent = Sample::take(&[]).since(&before, started.elapsed());
        Ok(spent.client as f64 / count as f64)
    }
}

fn engine_key(number: u64) -> Vec<u8> {
    let key = Key { keyspace: KeyspaceId(1), partition_key: key_of(number), sort_key: Bytes::new() };
    key.engine_key(PARTITION_BITS)
}
