//! What is asked of which key, from a seed.

use super::args::BenchArgs;
use super::load::Plan;
use crate::cli::durability;
use bytes::Bytes;
use clap::ValueEnum;
use mks_proto::v1::{GetRequest, Key, PutRequest, ReadOptions, WriteOptions};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Zipf};
use serde::Serialize;

/// Values are cut from a pool of random bytes at this many places, so that no engine can compress them away.
const VALUE_PLACES: usize = 4_096;

/// Which keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Distribution {
    /// All equally often
    Uniform,
    /// Few very often, as people do
    Zipfian,
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(PutRequest),
    Get(GetRequest),
}

impl Op {
    /// What the recorder files it under.
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Put(_) => Kind::Put,
            Self::Get(_) => Kind::Get,
        }
    }
}

/// Put or get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Get,
}

/// Makes operations.
#[derive(Debug)]
pub(super) struct Workload {
    rng: ChaCha8Rng,
    plan: Plan,
    picker: Picker,
    reads: f64,
    keyspace: String,
    write: WriteOptions,
    read: ReadOptions,
    pool: Bytes,
    value_size: usize,
}

impl Workload {
    pub(super) fn new(args: &BenchArgs, plan: Plan) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        let value_size = args.value_size as usize;
        let mut pool = vec![0; value_size + VALUE_PLACES];
        rng.fill_bytes(&mut pool);
        let deadline_ms = args.deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        let durability = durability(args.durability).into();
        // The name of the default keyspace need not travel with every request.
        let keyspace = if args.keyspace == "default" { String::new() } else { args.keyspace.clone() };
        Self {
            rng,
            plan,
            picker: Picker::new(args.keys, args.distribution, args.skew),
            reads: args.reads,
            keyspace,
            write: WriteOptions { durability, deadline_ms, ..WriteOptions::default() },
            read: ReadOptions { deadline_ms, ..ReadOptions::default() },
            pool: pool.into(),
            value_size,
        }
    }

    /// Bytes of each value.
    pub(super) const fn value_size(&self) -> usize {
        self.value_size
    }

    /// True for a fill.
    pub(super) fn is_fill(&self) -> bool {
        self.plan == Plan::Fill
    }

    /// The next operation; `None` when a fill is complete. `index` counts operations from 0.
    pub(super) fn next(&mut self, index: u64) -> Option<Op> {
        let (number, is_read) = match self.plan {
            Plan::Fill if index >= self.picker.keys => return None,
            Plan::Fill => (index, false),
            Plan::Mixed => (self.picker.pick(&mut self.rng), self.rng.random_bool(self.reads)),
        };
        let key = Some(Key { keyspace: self.keyspace.clone(), partition_key: key_of(number), sort_key: Bytes::new() });
        if is_read {
            return Some(Op::Get(GetRequest { key, options: Some(self.read) }));
        }
        let start = self.rng.random_range(0..VALUE_PLACES);
        let value = self.pool.slice(start..start + self.value_size);
        Some(Op::Put(PutRequest { key, value, options: Some(self.write.clone()) }))
    }
}

/// The key with this number: 16 bytes, so that runs with any number of keys compare.
pub(super) fn key_of(number: u64) -> Bytes {
    format!("key-{number:012}").into()
}

/// Draws numbers below `keys`.
#[derive(Debug)]
pub(super) struct Picker {
    keys: u64,
    zipf: Option<Zipf<f64>>,
}

impl Picker {
    pub(super) fn new(keys: u64, distribution: Distribution, skew: f64) -> Self {
        let zipf = match distribution {
            Distribution::Uniform => None,
            // Refused skews were caught when the arguments were checked.
            Distribution::Zipfian => Zipf::new(keys as f64, skew).ok(),
        };
        Self { keys, zipf }
    }

    /// Under zipfian, number 0 is the most popular. Where it lies on the ring is the hash's business.
    pub(super) fn pick(&self, rng: &mut ChaCha8Rng) -> u64 {
        match &self.zipf {
            None => rng.random_range(0..self.keys),
            Some(zipf) => (zipf.sample(rng) as u64).clamp(1, self.keys) - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(line: &str) -> BenchArgs {
        Line::try_parse_from(line.split(' ')).unwrap().args
    }

    fn counts(distribution: Distribution) -> Vec<u32> {
        let picker = Picker::new(1_000, distribution, 0.99);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = vec![0; 1_000];
        for _ in 0..100_000 {
            counts[usize::try_from(picker.pick(&mut rng)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn uniform_asks_for_all_keys_about_equally_often() {
        let counts = counts(Distribution::Uniform);
        // 100 expected each, standard deviation 10: six of them on either side.
        assert!(counts.iter().all(|count| (40..160).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipfian_follows_the_law() {
        let counts = counts(Distribution::Zipfian);
        let harmonic: f64 = (1..=1_000).map(|rank| f64::from(rank).powf(-0.99)).sum();
        for rank in [1, 2, 3, 10, 30] {
            let expected = 100_000.0 * f64::from(rank).powf(-0.99) / harmonic;
            let seen = f64::from(counts[rank as usize - 1]);
            // Six standard deviations of a count.
            assert!((seen - expected).abs() < 6.0 * expected.sqrt(), "rank {rank}: {seen} instead of {expected}");
        }
    }

    #[test]
    fn a_fill_puts_every_key_once_and_ends() {
        let mut workload = Workload::new(&args("bench --keys 3 --value-size 10"), Plan::Fill);
        for number in 0..3 {
            let Some(Op::Put(put)) = workload.next(number) else { panic!("a put was due") };
            assert_eq!(put.key.unwrap().partition_key, key_of(number));
            assert_eq!(put.value.len(), 10);
        }
        assert!(workload.next(3).is_none());
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        let run = |seed: u32| {
            let mut workload = Workload::new(&args(&format!("bench --reads 0.3 --seed {seed}")), Plan::Mixed);
            (0..50).map(|index| format!("{:?}", workload.next(index))).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_share_of_reads_is_kept() {
        let mut workload = Workload::new(&args("bench --reads 0.25"), Plan::Mixed);
        let reads = (0..10_000).filter(|index| matches!(workload.next(*index), Some(Op::Get(_)))).count();
        assert!((2_200..2_800).contains(&reads), "{reads}");
    }
}
