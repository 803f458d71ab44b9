//! Resolvers that look at values: what they may read, what they may answer, and the contracts that were spoken before.

use crate::modules::{self, ANSWERS, RESOLVER, RESOLVER_0_1_0, value_resolver, value_resolver_with};
use crate::{conflicts, sandbox};
use mks_logic::id::Dot;
use mks_logic::port::{Columns, Merged, Resolve, ResolveError, ResolverHash, Role, Siblings, Verdict};
use mks_sandbox::check::{self, Law, Options};
use mks_sandbox::{Moment, Outcome, Plugin, Sandbox, SandboxError, Values};

const CART: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cart-merge.wasm"));

/// `verdict` at 64: the case, then two words.
fn verdict(case: u32, first: &str, second: u32) -> String {
    format!(
        "(i32.store8 (i32.const 64) (i32.const {case})) (i32.store (i32.const 68) {first})
         (i32.store (i32.const 72) (i32.const {second})) (i32.const 64)"
    )
}

fn values(values: &[&str]) -> Values {
    let values = values.iter().map(|value| bytes::Bytes::copy_from_slice(value.as_bytes())).collect();
    Values { key: bytes::Bytes::from_static(b"key"), values }
}

/// Settles one conflict of the values "one" and "two".
fn settle(sandbox: &Sandbox, body: &str) -> Result<Outcome, ResolveError> {
    let hash = sandbox.install_resolver("by-hand.wasm", &value_resolver(body)).expect("it is a resolver");
    sandbox.settle_by_value(hash, &conflicts(1), values(&["one", "two"]))
}

#[test]
fn a_component_of_the_first_contract_still_loads_and_settles() {
    let (_home, sandbox) = sandbox();
    let old = modules::resolver(RESOLVER_0_1_0, "0.1.0", ANSWERS);
    let hash = sandbox.install_resolver("old.wasm", &old).expect("built against 0.1.0");
    assert_eq!(sandbox.settle(hash, &conflicts(2)), Ok(vec![Verdict::Keep(0); 2]));
    assert_eq!(sandbox.resolver_moment(hash), Some(Moment::AtWrite));
}

#[test]
fn a_component_of_another_version_is_refused_with_both_versions_and_the_way_out() {
    let (_home, sandbox) = sandbox();
    let contract = RESOLVER.replace("resolver@0.1.1", "resolver@0.2.0");
    let later = modules::resolver(&contract, "0.2.0", ANSWERS);
    let error = sandbox.install_resolver("later.wasm", &later).expect_err("another version");
    assert!(matches!(error, SandboxError::OtherVersion { .. }), "{error}");
    let text = error.to_string();
    for part in ["later.wasm", "resolve@0.2.0", "resolve@0.1.1", "build it again"] {
        assert!(text.contains(part), "`{text}` does not say `{part}`");
    }
}

#[test]
fn verdicts_by_value_come_back_as_they_were_given() {
    let (_home, sandbox) = sandbox();
    assert_eq!(settle(&sandbox, &verdict(0, "(i32.const 1)", 0)), Ok(Outcome::Keep(1)));
    assert_eq!(settle(&sandbox, &verdict(2, "(i32.const 0)", 0)), Ok(Outcome::KeepAll));
    let both = format!("(i32.store (i32.const 84) (i32.const 1)) {}", verdict(1, "(i32.const 80)", 2));
    assert_eq!(settle(&sandbox, &both), Ok(Outcome::KeepSome(vec![0, 1])));
}

#[test]
fn values_and_the_key_can_be_read_whole_and_in_pieces() {
    let (_home, sandbox) = sandbox();
    // The list that an import returns lies at 80: where, and how long.
    let merged = verdict(3, "(i32.load (i32.const 80))", 3);
    for (read, expected) in [
        ("(call $value (i32.const 1) (i32.const 80))", "two"),
        ("(call $key (i32.const 80))", "key"),
        ("(call $read (i32.const 0) (i32.const 0) (i32.const 99) (i32.const 80))", "one"),
    ] {
        let outcome = settle(&sandbox, &format!("{read} {merged}"));
        assert_eq!(outcome, Ok(Outcome::Merged(expected.into())), "{read}");
    }
    let end = "(call $read (i32.const 0) (i32.const 2) (i32.const -1) (i32.const 80))";
    let outcome = settle(&sandbox, &format!("{end} {}", verdict(3, "(i32.load (i32.const 80))", 1)));
    assert_eq!(outcome, Ok(Outcome::Merged(b"e".to_vec())));
}

#[test]
fn verdicts_that_name_no_row_or_grow_without_bound_make_no_sense() {
    let (_home, sandbox) = sandbox();
    let descending = format!("(i32.store (i32.const 80) (i32.const 1)) {}", verdict(1, "(i32.const 80)", 2));
    for body in [
        verdict(0, "(i32.const 2)", 0),
        verdict(1, "(i32.const 80)", 0),
        verdict(1, "(i32.const 32768)", 2),
        descending,
        verdict(3, "(i32.const 0)", 6 + (64 << 10) + 1),
    ] {
        let outcome = settle(&sandbox, &body);
        assert!(matches!(outcome, Err(ResolveError::Nonsense(_))), "{body}: {outcome:?}");
    }
    assert!(matches!(settle(&sandbox, &verdict(3, "(i32.const 0)", 6 + (64 << 10))), Ok(Outcome::Merged(_))));
}

#[test]
fn what_goes_wrong_by_value_is_an_error_that_says_what() {
    let (_home, sandbox) = sandbox();
    let long = "x".repeat(10_000);
    for (body, said) in [
        ("(unreachable)", "unreachable"),
        ("(loop (br 0)) (unreachable)", "no answer within 20 ms"),
        ("(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)", "memory"),
        ("(call $deeper (local.get $rows))", "stack"),
        ("(call $value (i32.const 2) (i32.const 80)) (unreachable)", "row 2 of a conflict with 2 versions"),
        ("(loop (call $value (i32.const 0) (i32.const 80)) (br 0)) (unreachable)", ""),
        ("(i32.const 0x7ffffff0)", ""),
    ] {
        let Err(ResolveError::Failed(reason)) = settle(&sandbox, body) else { panic!("{body} must fail") };
        assert!(reason.contains(said), "`{reason}` does not say `{said}`");
    }
    // Reads are metered: the same memory over and over would otherwise copy for as long as the deadline allows.
    let reads = "(loop (call $read (i32.const 0) (i32.const 0) (i32.const 2000) (i32.const 80))
        (global.set $next (i32.const 65536)) (br 0)) (unreachable)";
    let hash = sandbox.install_resolver("reader.wasm", &value_resolver(reads)).expect("a resolver");
    let outcome = sandbox.settle_by_value(hash, &conflicts(1), values(&[&long, &long]));
    assert!(matches!(&outcome, Err(ResolveError::Failed(said)) if said.contains("145536 bytes")), "{outcome:?}");
    assert_eq!(settle(&sandbox, &verdict(2, "(i32.const 0)", 0)), Ok(Outcome::KeepAll));
}

#[test]
fn values_are_out_of_reach_outside_of_by_value() {
    let (_home, sandbox) = sandbox();
    let peeks = format!("(call $key (i32.const 80)) {ANSWERS}");
    let component = value_resolver_with(&peeks, &verdict(2, "(i32.const 0)", 0));
    let hash = sandbox.install_resolver("peeks.wasm", &component).expect("a resolver");
    let settled = sandbox.settle(hash, &conflicts(1));
    assert!(matches!(&settled, Err(ResolveError::Failed(said)) if said.contains("outside of by-value")), "{settled:?}");
}

#[test]
fn where_only_metadata_is_at_hand_a_question_for_values_keeps_all_versions() {
    let (_home, sandbox) = sandbox();
    let hash = sandbox.install_resolver("cart-merge", CART).expect("a resolver");
    assert_eq!(sandbox.settle(hash, &conflicts(3)), Ok(vec![Verdict::KeepAll; 3]));
    let mismatch = sandbox.settle_by_value(hash, &conflicts(1), values(&["1 milk"]));
    assert!(matches!(mismatch, Err(ResolveError::Failed(_))));
    let lww = Sandbox::builtin_resolvers()[0].1;
    assert!(matches!(sandbox.settle_by_value(lww, &conflicts(1), values(&["a", "b"])), Err(ResolveError::Failed(_))));
}

#[test]
fn the_cart_is_merged_for_readers_and_keeps_the_laws() {
    let (_home, sandbox) = sandbox();
    let hash = sandbox.install_resolver("cart-merge", CART).expect("a resolver");
    assert_eq!(sandbox.resolver_moment(hash), Some(Moment::AtRead));
    let merged = sandbox.settle_by_value(hash, &conflicts(1), values(&["1 milk\n2 tea", "3 milk"]));
    assert_eq!(merged, Ok(Outcome::Merged(b"3 milk\n2 tea\n".to_vec())));
    let Ok(Plugin::Resolver(resolver)) = sandbox.inspect("cart-merge", CART) else { panic!("a resolver") };
    let passed = check::resolver(&resolver, &Options { cases: 300, ..Options::default() });
    passed.unwrap_or_else(|broken| panic!("{broken}"));
}

/// What readers get in the place of siblings with these values.
fn merge(sandbox: &Sandbox, hash: ResolverHash, all: &[&str]) -> Result<Merged, ResolveError> {
    let Values { key, values } = values(all);
    let mut versions = Columns::default();
    for (counter, value) in (1..).zip(&values) {
        let dot = Dot { counter, ..Dot::default() };
        versions.row(dot, 1, value.len() as u32, false, counter);
    }
    versions.close();
    sandbox.merge(hash, &Siblings { key, versions, values })
}

#[test]
fn readers_get_what_the_built_in_cart_makes_of_siblings() {
    let (_home, sandbox) = sandbox();
    let all = Sandbox::builtin_code();
    let (_, hash, role) = all.iter().find(|(name, ..)| *name == "cart-merge").expect("it is part of every node");
    assert_eq!((role, sandbox.has(*hash)), (&Role::Merger, true));
    let cart = merge(&sandbox, *hash, &["1 milk", "2 tea", "3 milk"]);
    assert_eq!(cart, Ok(Merged::Value("3 milk\n2 tea\n".into())));
    assert_eq!(merge(&sandbox, *hash, &["1 milk", "no cart"]), Ok(Merged::Kept(vec![0, 1])));
}

#[test]
fn a_resolver_that_fails_readers_is_suspended_and_large_siblings_are_no_failure_of_it() {
    let (_home, sandbox) = sandbox();
    let hash = sandbox.install_resolver("traps.wasm", &value_resolver("(unreachable)")).expect("a resolver");
    let large = "x".repeat(3 << 20);
    for _ in 0..9 {
        let refused = merge(&sandbox, hash, &[&large, &large]);
        assert!(matches!(&refused, Err(ResolveError::Failed(said)) if said.contains("6291456 bytes")), "{refused:?}");
    }
    assert!(sandbox.suspended().is_empty());
    for _ in 0..5 {
        assert!(matches!(merge(&sandbox, hash, &["one", "two"]), Err(ResolveError::Failed(_))));
    }
    assert_eq!(sandbox.suspended().len(), 1);
}

/// Checks a resolver by metadata that is written by hand.
fn broken_law(body: &str) -> Law {
    let (_home, sandbox) = sandbox();
    let component = modules::resolver(RESOLVER, "0.1.1", body);
    let Ok(Plugin::Resolver(resolver)) = sandbox.inspect("by-hand", &component) else { panic!("a resolver") };
    let broken = check::resolver(&resolver, &Options::default()).expect_err("it breaks a law");
    let again = check::resolver(&resolver, &Options { seed: broken.seed, cases: 1 });
    assert!(again.is_err(), "the seed finds it again");
    broken.law
}

#[test]
fn law_breakers_are_caught_through_the_wall() {
    let counts = format!(
        "(i32.store (i32.const 32768) (i32.rem_u (global.get $calls) (i32.const 2)))
         (global.set $calls (i32.add (global.get $calls) (i32.const 1))) {ANSWERS}"
    );
    assert_eq!(broken_law(&counts), Law::Memory);
    let middle =
        format!("(i32.store (i32.const 32768) (i32.div_u (i32.load (local.get $ends)) (i32.const 2))) {ANSWERS}");
    assert!(matches!(broken_law(&middle), Law::Batch | Law::Grouping | Law::Convergence));
    assert_eq!(broken_law("(unreachable)"), Law::Answer);
}
