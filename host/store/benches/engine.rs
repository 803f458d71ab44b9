//! What each engine of the binary costs alone: the floor under every quorum operation.
//!
//! `cargo bench -p mks-store --features rocksdb`

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mks_logic::port::{Batch, Change, Durability, Store, Table};
use mks_store::{BUILT, Engine, Options, ShadowOptions, open};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 1024;
const BATCH: u64 = 100;

/// Spreads counters over the keys without a pattern that an engine could like.
fn mix(n: u64) -> u64 {
    (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn key(n: u64) -> Vec<u8> {
    format!("{:016}", n % KEYS).into_bytes()
}

/// Not compressible, as values that clients compressed.
fn value(n: u64) -> Vec<u8> {
    (0..VALUE_BYTES as u64 / 8).flat_map(|part| mix(n * 131 + part).wrapping_mul(n | 1).to_le_bytes()).collect()
}

fn put(n: u64) -> Change {
    Change::Put { table: Table::Records, key: key(mix(n)).into(), value: value(n).into() }
}

fn filled(store: &Arc<dyn Store>) {
    for from in (0..KEYS).step_by(BATCH as usize) {
        let batch: Batch = (from..from + BATCH)
            .map(|n| Change::Put { table: Table::Records, key: key(n).into(), value: value(n).into() })
            .collect();
        store.apply(batch, Durability::Os).expect("the disk has room for 100 MB");
    }
}

fn engines(c: &mut Criterion) {
    for &engine in BUILT {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = Options { directory: directory.path().to_owned(), engine, ..Options::default() };
        let store = open(&options).expect("a fresh directory opens");
        filled(&store);
        let mut n = 0;
        let mut next = move || {
            n += 1;
            n
        };
        let mut group = c.benchmark_group(engine.name());
        group.throughput(Throughput::Elements(1));
        for (name, durability) in [("os", Durability::Os), ("sync", Durability::Sync)] {
            group.bench_function(BenchmarkId::new("put", name), |b| {
                b.iter_batched(
                    || vec![put(next())],
                    |batch| store.apply(batch, durability).expect("a put works"),
                    BatchSize::SmallInput,
                );
            });
        }
        group.bench_function("get", |b| {
            b.iter_batched(
                || key(mix(next())),
                |key| black_box(store.get(Table::Records, &key).expect("a get works").expect("every key is there")),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("get/missing", |b| {
            b.iter_batched(
                || format!("{:016}x", mix(next()) % KEYS).into_bytes(),
                |key| assert_eq!(store.get(Table::Records, &key).expect("a get works"), None),
                BatchSize::SmallInput,
            );
        });
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(BenchmarkId::new("batch", BATCH), |b| {
            b.iter_batched(
                || (0..BATCH).map(|_| put(next())).collect::<Batch>(),
                |batch| store.apply(batch, Durability::Os).expect("a batch works"),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("scan", BATCH), |b| {
            b.iter(|| {
                let mut left = BATCH;
                let mut visit = |_: &[u8], value: &[u8]| {
                    left -= 1;
                    black_box(value.len());
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                store.scan(Table::Records, &key(mix(next()) % (KEYS / 2)), None, &mut visit).expect("a scan works");
            });
        });
        group.finish();
    }
}

/// What a second engine that gets the same batches costs a put: the same puts without it and with it.
fn shadows(c: &mut Criterion) {
    let durable = || BUILT.iter().copied().filter(|engine| *engine != Engine::Memory);
    for (engine, second) in durable().flat_map(|engine| durable().map(move |second| (engine, second))) {
        let mut group = c.benchmark_group(format!("{engine} with a shadow on {second}"));
        group.throughput(Throughput::Elements(1));
        for (name, second) in [("alone", None), ("with", Some(second))] {
            let directory = tempfile::tempdir().expect("a temporary directory");
            // A load without pauses is more than any second engine can take: it may wait for as long as it needs.
            let shadow = second.map(|engine| ShadowOptions {
                engine: Options { engine, ..Options::default() },
                queue_bytes_max: u64::MAX,
                ..ShadowOptions::default()
            });
            let directory = directory.path().to_owned();
            let options = Options { directory, engine, shadow: shadow.map(Box::new), ..Options::default() };
            let store = open(&options).expect("a fresh directory opens");
            filled(&store);
            let mut n = 0;
            let mut next = || {
                n += 1;
                n
            };
            // Back to back the two share cores and a disk; with pauses only what the writer itself does more is left.
            for (load, pause) in [("put", Duration::ZERO), ("put with pauses", Duration::from_micros(200))] {
                group.bench_function(BenchmarkId::new(load, name), |b| {
                    b.iter_batched(
                        || {
                            sleep(pause);
                            vec![put(next())]
                        },
                        |batch| store.apply(batch, Durability::Os).expect("a put works"),
                        BatchSize::PerIteration,
                    );
                });
                println!("{:?}", store.stats().shadow);
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = engines, shadows
}
criterion_main!(benches);
