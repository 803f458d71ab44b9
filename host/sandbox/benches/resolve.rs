//! What a conflict costs in the sandbox, beside the same rule in native code.
//!
//! Promise: at most 150 ns per conflict in a batch of 64, at most 1 us alone.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mks_logic::id::{Dot, Incarnation, NodeId};
use mks_logic::port::{Columns, Resolve, Verdict};
use mks_sandbox::{Sandbox, SandboxOptions};
use std::hint::black_box;

/// `count` conflicts of two versions each.
fn conflicts(count: u64) -> Columns {
    let mut columns = Columns::default();
    for i in 0..count {
        for node in 1..=2 {
            let dot = Dot { node: NodeId(node), incarnation: Incarnation(1), counter: i + 1 };
            columns.row(dot, 1_000 + (i ^ node), 8, false, node);
        }
        columns.close();
    }
    columns
}

/// Last write wins over the same columns.
fn native(conflicts: &Columns) -> Vec<Verdict> {
    let settle = |i: usize| {
        let rows = conflicts.rows(i);
        let key =
            |&row: &usize| (conflicts.written[row], conflicts.marks[row], conflicts.nodes[row], conflicts.digests[row]);
        let start = rows.start;
        rows.max_by_key(key).map_or(Verdict::KeepAll, |row| Verdict::Keep((row - start) as u32))
    };
    (0..conflicts.len()).map(settle).collect()
}

fn settle(c: &mut Criterion) {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let lww = Sandbox::builtin_resolvers()[0].1;
    let mut group = c.benchmark_group("lww");
    for count in [1, 8, 64, 256] {
        let conflicts = conflicts(count);
        assert_eq!(sandbox.settle(lww, &conflicts), Ok(native(&conflicts)), "both must decide the same");
        group.throughput(Throughput::Elements(count));
        group.bench_with_input(BenchmarkId::new("wasm", count), &conflicts, |b, conflicts| {
            b.iter(|| sandbox.settle(lww, black_box(conflicts)));
        });
        group.bench_with_input(BenchmarkId::new("native", count), &conflicts, |b, conflicts| {
            b.iter(|| native(black_box(conflicts)));
        });
    }
    group.finish();
}

criterion_group!(benches, settle);
criterion_main!(benches);
