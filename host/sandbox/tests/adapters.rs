//! Storage adapters: plans, refusals, and components that plan what can't be.

use crate::guests::{self, adapter, plan};
use crate::sandbox;
use mks_logic::port::ResolverHash;
use mks_sandbox::{AdapterSource, Compression, Sandbox, SandboxError, StoragePlan};
use std::fs;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const FJALL: AdapterSource = AdapterSource::Builtin("fjall");

fn options(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_file(sandbox: &Sandbox, home: &TempDir, bytes: &[u8]) -> Result<StoragePlan, SandboxError> {
    let path = home.path().join("adapter.wasm");
    fs::write(&path, bytes).expect("writable");
    sandbox.plan(&AdapterSource::Path(path), &[], 64 * MIB)
}

#[test]
fn the_built_in_adapters_plan_their_engines() {
    let (_home, sandbox) = sandbox();
    for engine in ["fjall", "rocksdb"] {
        let plan = sandbox.plan(&AdapterSource::Builtin(engine), &[], 64 * MIB).expect("a plan");
        assert_eq!((plan.engine.as_str(), plan.adapter.as_str()), (engine, engine));
        assert_eq!((plan.tuning.cache_bytes, plan.tuning.memtable_bytes), (32 * MIB, 4 * MIB));
        assert_eq!(plan.tuning.separate_values_from, Some(4096));
        assert_eq!(plan.version, env!("CARGO_PKG_VERSION"));
    }
    sandbox.plan(&FJALL, &[], 64 * MIB).expect("a plan");
    assert_eq!(sandbox.counters().adapter_calls, [("fjall".to_owned(), 2), ("rocksdb".to_owned(), 1)]);
}

#[test]
fn options_reach_the_plan() {
    let (_home, sandbox) = sandbox();
    let given = options(&[
        ("cache", "8 MiB"),
        ("memtable", "1048576"),
        ("separate_values_from", "never"),
        ("compression", "none"),
        ("workers", "3"),
    ]);
    let tuning = sandbox.plan(&FJALL, &given, 64 * MIB).expect("a plan").tuning;
    assert_eq!((tuning.cache_bytes, tuning.memtable_bytes), (8 * MIB, MIB));
    assert_eq!((tuning.separate_values_from, tuning.compression, tuning.workers), (None, Compression::None, 3));
}

#[test]
fn an_unknown_option_is_refused_with_the_known_ones() {
    let (_home, sandbox) = sandbox();
    let error = sandbox.plan(&FJALL, &options(&[("cash", "8 MiB")]), 64 * MIB).expect_err("no such option");
    let text = error.to_string();
    assert!(text.contains("no option `cash`") && text.contains("cache, memtable"), "{text}");
    assert_eq!(sandbox.counters().adapter_calls, []);
}

#[test]
fn a_bad_value_is_refused_with_what_would_be_right() {
    let (_home, sandbox) = sandbox();
    let error = sandbox.plan(&FJALL, &options(&[("workers", "many")]), 64 * MIB).expect_err("no number");
    let text = error.to_string();
    assert!(text.contains("workers = \"many\"") && text.contains("from 2 to 64"), "{text}");
    let error = sandbox.plan(&FJALL, &options(&[("cache", "1 GiB")]), 64 * MIB).expect_err("too much");
    assert!(error.to_string().contains("64 MiB"), "{error}");
    let error = sandbox.plan(&FJALL, &[], 1000).expect_err("too little");
    assert!(error.to_string().contains("at least"), "{error}");
}

#[test]
fn an_adapter_that_is_not_built_in_is_refused_with_those_that_are() {
    let (_home, sandbox) = sandbox();
    let error = sandbox.plan(&AdapterSource::Builtin("leveldb"), &[], 64 * MIB).expect_err("no such adapter");
    assert!(error.to_string().contains("fjall or rocksdb"), "{error}");
}

#[test]
fn an_adapter_can_be_a_file() {
    let (home, sandbox) = sandbox();
    let plan = from_file(&sandbox, &home, guests::FJALL).expect("a plan");
    assert_eq!(plan.hash, ResolverHash(*blake3_of(guests::FJALL).as_bytes()));
    assert_eq!(plan, sandbox.plan(&FJALL, &[], 64 * MIB).expect("a plan"));
}

fn blake3_of(bytes: &[u8]) -> blake3::Hash {
    blake3::hash(bytes)
}

#[test]
fn a_file_that_is_missing_or_no_file_is_named() {
    let (home, sandbox) = sandbox();
    for path in [home.path().join("nothing.wasm"), home.path().to_owned()] {
        let error = sandbox.plan(&AdapterSource::Path(path.clone()), &[], 64 * MIB).expect_err("nothing to load");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_resolver_is_no_adapter() {
    let (home, sandbox) = sandbox();
    let error = from_file(&sandbox, &home, guests::LWW).expect_err("a resolver");
    assert!(matches!(error, SandboxError::WrongWorld { found, .. } if found == "my-key-store:resolver/resolve@0.1.1"));
}

#[test]
fn a_plan_made_by_hand_is_followed_when_it_can_be() {
    let (home, sandbox) = sandbox();
    let plan = from_file(&sandbox, &home, &adapter(&plan(0, 8 * MIB, 8 * MIB, 2))).expect("a plan");
    assert_eq!((plan.engine.as_str(), plan.adapter.as_str()), ("fjall", "by-hand"));
}

#[test]
fn who_asks_to_see_values_and_exports_no_way_to_is_refused() {
    let (home, sandbox) = sandbox();
    for (sees, words) in [(1, "the values"), (2, "the keys and values")] {
        let error = from_file(&sandbox, &home, &adapter(&plan(sees, MIB, MIB, 2))).expect_err("it could see nothing");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("storage-adapter/values@0.1.1"), "{text}");
    }
}

#[test]
fn a_plan_beyond_the_budget_or_the_possible_is_refused() {
    let (home, sandbox) = sandbox();
    for (cache, memtable, workers) in
        [(65 * MIB, 0, 2), (0, 10 * MIB, 2), (u64::MAX, u64::MAX, 2), (0, 0, 1), (0, 0, 65)]
    {
        let error = from_file(&sandbox, &home, &adapter(&plan(0, cache, memtable, workers))).expect_err("impossible");
        assert!(matches!(error, SandboxError::BadPlan { .. }), "{error}");
    }
}

#[test]
fn an_answer_that_breaks_the_contract_is_an_error() {
    let (home, sandbox) = sandbox();
    let mut texts_beyond_memory = plan(0, MIB, MIB, 2);
    texts_beyond_memory[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let no_such_variant = plan(9, MIB, MIB, 2);
    let no_such_refusal = [&[1, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 47]].concat();
    for answer in [texts_beyond_memory, no_such_variant, no_such_refusal] {
        let error = from_file(&sandbox, &home, &adapter(&answer)).expect_err("no plan");
        assert!(matches!(error, SandboxError::Failed { .. }), "{error}");
    }
    assert!(sandbox.plan(&FJALL, &[], 64 * MIB).is_ok(), "the next call works");
}
