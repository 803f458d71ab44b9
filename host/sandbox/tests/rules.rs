//! The built-in resolvers, against the rules in `mks_logic`.

use crate::{conflicts, guests, sandbox};
use mks_logic::id::{Dot, Incarnation, NodeId};
use mks_logic::port::{Columns, Resolve, ResolverHash, Verdict};
use mks_logic::time::Hlc;
use mks_logic::version::Stamp;
use mks_sandbox::check::{self, Options};
use mks_sandbox::{Plugin, Sandbox};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

static SHARED: LazyLock<(TempDir, Arc<Sandbox>)> = LazyLock::new(sandbox);

fn hash_of(name: &str) -> ResolverHash {
    let builtin = Sandbox::builtin_resolvers();
    builtin.into_iter().find(|(builtin, _)| *builtin == name).expect("a built-in resolver").1
}

/// Clock, size, tombstone and digest of a version.
type Facts = (u64, u32, bool, u64);
/// Versions by node, incarnation and counter.
type Siblings = BTreeMap<(u64, u64, u64), Facts>;

/// What a version is beside its dot; small ranges, so that ties are common.
fn facts() -> impl Strategy<Value = Facts> {
    (0..4u64, 0..3u32, any::<bool>(), 0..3u64)
}

fn siblings() -> impl Strategy<Value = Siblings> {
    proptest::collection::btree_map((0..4u64, 1..3u64, 1..4u64), facts(), 1..6)
}

/// The columns, and by conflict each row's stamp and dot.
fn build(batch: &[Siblings]) -> (Columns, Vec<Vec<(Stamp, Dot)>>) {
    let mut columns = Columns::default();
    let mut rows = Vec::new();
    for siblings in batch {
        let mut conflict = Vec::new();
        for (&(node, incarnation, counter), &(written, size, tombstone, digest)) in siblings {
            let dot = Dot { node: NodeId(node), incarnation: Incarnation(incarnation), counter };
            columns.row(dot, written, size, tombstone, digest);
            conflict.push((Stamp { written: Hlc(written), node: dot.node, tombstone, digest }, dot));
        }
        columns.close();
        rows.push(conflict);
    }
    (columns, rows)
}

fn position(rows: &[(Stamp, Dot)], kept: &(Stamp, Dot)) -> Verdict {
    let index = rows.iter().position(|row| row == kept).expect("one of them");
    Verdict::Keep(u32::try_from(index).expect("few rows"))
}

proptest! {
    #[test]
    fn lww_keeps_the_greatest_stamp(batch in proptest::collection::vec(siblings(), 0..20)) {
        let (columns, rows) = build(&batch);
        let expected: Vec<_> = rows.iter().map(|rows| position(rows, rows.iter().max().expect("not empty"))).collect();
        prop_assert_eq!(SHARED.1.settle(hash_of("lww"), &columns), Ok(expected));
    }

    #[test]
    fn keep_siblings_keeps_all(batch in proptest::collection::vec(siblings(), 0..20)) {
        let (columns, rows) = build(&batch);
        prop_assert_eq!(SHARED.1.settle(hash_of("keep-siblings"), &columns), Ok(vec![Verdict::KeepAll; rows.len()]));
    }

    #[test]
    fn first_write_wins_keeps_the_least_stamp(batch in proptest::collection::vec(siblings(), 0..20)) {
        let (columns, rows) = build(&batch);
        let expected: Vec<_> = rows.iter().map(|rows| position(rows, rows.iter().min().expect("not empty"))).collect();
        prop_assert_eq!(SHARED.1.settle(hash_of("first-write-wins"), &columns), Ok(expected));
    }
}

#[test]
fn every_built_in_resolver_keeps_the_laws() {
    let (_home, sandbox) = sandbox();
    for (name, bytes) in [("lww", guests::LWW), ("longest", guests::LONGEST)] {
        let Ok(Plugin::Resolver(resolver)) = sandbox.inspect(name, bytes) else { panic!("{name} is a resolver") };
        let options = Options { cases: 300, ..Options::default() };
        let passed = check::resolver(&resolver, &options).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        assert_eq!(passed.cases, 300);
    }
}

#[test]
fn the_default_resolver_comes_first_and_hashes_never_repeat() {
    let builtin = Sandbox::builtin_resolvers();
    assert_eq!(builtin[0].0, "lww");
    let hashes: std::collections::BTreeSet<_> = builtin.iter().map(|(_, hash)| *hash).collect();
    assert_eq!(hashes.len(), builtin.len());
}

#[test]
fn a_built_in_resolver_serves_every_batch_from_one_warm_instance() {
    let (_home, sandbox) = sandbox();
    for size in [1, 64, 5_000, 2, 0] {
        let verdicts = sandbox.settle(hash_of("lww"), &conflicts(size)).expect("verdicts");
        assert_eq!(verdicts, vec![Verdict::Keep(1); size as usize]);
    }
    let lww = &sandbox.counters().resolvers[0];
    assert_eq!((lww.name.as_str(), lww.calls, lww.conflicts, lww.failures), ("lww", 5, 5_067, 0));
    assert_eq!(lww.instances, 1);
}

#[test]
fn threads_settle_at_the_same_time() {
    let (_home, sandbox) = sandbox();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let verdicts = sandbox.settle(hash_of("lww"), &conflicts(3)).expect("verdicts");
                    assert_eq!(verdicts, [Verdict::Keep(1); 3]);
                }
            });
        }
    });
    let lww = &sandbox.counters().resolvers[0];
    assert_eq!((lww.calls, lww.conflicts, lww.failures), (800, 2_400, 0));
    assert!(lww.instances <= 4, "{} instances for four threads", lww.instances);
}
