//! What an adapter costs a put of 1 KiB, alone and in groups, beside the same code compiled for this machine.
//!
//! Promise: at most 1.5 us per value beyond what the native code takes, in groups of 64.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mks_guest_sdk::value_adapter::{Opened, ValueAdapter};
use mks_logic::port::{Adapt, Rows};
use mks_plugin_compress::Compress;
use mks_plugin_encrypt::Encrypt;
use mks_sandbox::{AdapterConfig, AdapterSource, Sandbox, SandboxOptions};
use std::hint::black_box;

const VALUE_BYTES: usize = 1_024;
const SECRET: [u8; 32] = [7; 32];

/// Text of few words, as values often are: it gets about half as long.
fn rows(count: usize) -> Rows {
    const WORDS: [&str; 16] = [
        "name", "address", "street", "\": \"", "\", \"", "item", "price", "12.50", "city", "customer", "2026", "order",
        "status", "shipped", "quantity", "17",
    ];
    let mut state = 1_u64;
    let mut rows = Rows::default();
    for i in 0..count {
        let mut value = Vec::new();
        while value.len() < VALUE_BYTES {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            value.extend_from_slice(WORDS[(state >> 60) as usize].as_bytes());
            value.push((state >> 40) as u8 & 0x3f | 0x40);
        }
        value.truncate(VALUE_BYTES);
        rows.push(&[b"records", &[1], &i.to_be_bytes()], &value);
    }
    rows
}

fn native<A: ValueAdapter>(adapter: &Opened<A>, rows: &Rows) -> Vec<u8> {
    let random = vec![9; adapter.started().random_bytes as usize];
    let (mut name_start, mut all) = (0, Vec::with_capacity(rows.values.len() * 2));
    for (value, name_end) in rows.iter().zip(&rows.name_ends) {
        let name = &rows.names[name_start..*name_end as usize];
        name_start = *name_end as usize;
        all.extend_from_slice(&adapter.pack(name, value, &random));
    }
    all
}

fn pack<A: ValueAdapter>(c: &mut Criterion, sandbox: &Sandbox, name: &'static str, secrets: &[(&str, &[u8])]) {
    let owned = secrets.iter().map(|(name, secret)| ((*name).to_owned(), secret.to_vec())).collect();
    let config = AdapterConfig { secrets: owned, ..AdapterConfig::default() };
    let opened = sandbox.adapter(&AdapterSource::Builtin(name), &config).expect("it starts");
    let component = opened.values.expect("it sees values");
    let compiled = Opened::<A>::start(&[], secrets).expect("it starts");
    let mut group = c.benchmark_group(name);
    for count in [1, 8, 64] {
        let plain = rows(count);
        let mut packed = plain.clone();
        component.pack(&mut packed).expect("packed");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("pack, wasm", count), &plain, |b, plain| {
            b.iter(|| component.pack(&mut black_box(plain).clone()));
        });
        group.bench_with_input(BenchmarkId::new("pack, native", count), &plain, |b, plain| {
            b.iter(|| native(&compiled, black_box(plain)));
        });
        group.bench_with_input(BenchmarkId::new("unpack, wasm", count), &packed, |b, packed| {
            b.iter(|| component.unpack(&mut black_box(packed).clone()));
        });
    }
    group.finish();
}

fn adapters(c: &mut Criterion) {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    pack::<Compress>(c, &sandbox, "compress", &[]);
    pack::<Encrypt>(c, &sandbox, "encrypt", &[("key", &SECRET)]);
}

criterion_group!(benches, adapters);
criterion_main!(benches);
