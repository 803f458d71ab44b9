//! Data types: the standard ones keep their laws as components, and hostile ones get no further than an error.

use crate::modules::data_type;
use crate::{guests, sandbox};
use mks_logic::id::{Dot, Incarnation, NodeId};
use mks_logic::port::{DataTypes, Role, TypeError};
use mks_logic::time::Hlc;
use mks_sandbox::check::{self, Options};
use mks_sandbox::{DataTypeError, Plugin, STATES_MAX, Sandbox, SandboxError, SandboxOptions};

macro_rules! standard {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")).as_slice())),*]
    };
}

const STANDARD: [(&str, &[u8]); 6] = standard!["g-counter", "pn-counter", "or-set", "lww-map", "max", "hyperloglog"];

fn dot(counter: u64) -> Dot {
    Dot { node: NodeId(1), incarnation: Incarnation(1), counter }
}

#[test]
fn the_standard_data_types_keep_the_laws() {
    let (_home, sandbox) = sandbox();
    for (name, bytes) in STANDARD {
        let Ok(Plugin::DataType(data_type)) = sandbox.inspect(name, bytes) else { panic!("{name} is a data type") };
        assert_eq!((data_type.name(), data_type.has_summaries()), (name, name == "lww-map"));
        let options = Options { cases: 100, ..Options::default() };
        let passed = check::data_type(&data_type, &options).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        assert!(passed.refused * 2 < passed.writes, "{name}: {passed:?}");
        let figures = check::measure_data_type(&data_type, std::time::Duration::from_millis(1));
        assert!(figures.is_ok_and(|figures| figures.memory_bytes > 0));
    }
}

#[test]
fn operations_change_a_state_and_questions_are_answered() {
    let (_home, sandbox) = sandbox();
    let counter = sandbox.install_data_type("g-counter", STANDARD[0].1).expect("a data type");
    let first = counter.update(dot(7), Hlc(1), None, b"add 3").expect("added");
    let second = counter.update(dot(8), Hlc(2), Some(&first.state), b"add 4").expect("added");
    let merged = counter.merge(&[&second.state, &first.state, &first.state]).expect("merged");
    assert_eq!(counter.query(&merged, b""), Ok(b"7".to_vec()));
    assert_eq!(counter.validate(&merged), Ok(()));
    let refused = counter.update(dot(9), Hlc(3), Some(&merged), b"halve");
    assert!(matches!(&refused, Err(DataTypeError::Refused(said)) if said.contains("`add N`")), "{refused:?}");
    assert!(matches!(counter.validate(b"\xFF"), Err(DataTypeError::Refused(_))));
    assert!(counter.summary(&merged).is_none() && counter.diff(&merged, b"").is_none());
    assert_eq!((counter.counters().calls, counter.counters().failures), (7, 0));
}

#[test]
fn summaries_find_what_a_peer_lacks() {
    let (_home, sandbox) = sandbox();
    let map = sandbox.install_data_type("lww-map", STANDARD[3].1).expect("a data type");
    let old = map.update(dot(1), Hlc(1), None, b"set a 1").expect("set").state;
    let new = map.update(dot(2), Hlc(2), Some(&old), b"set b 2").expect("set").state;
    let summary = map.summary(&old).expect("it has summaries").expect("a summary");
    let diff = map.diff(&new, &summary).expect("it has summaries").expect("compared").expect("something is missing");
    assert_eq!(map.merge(&[&old, &diff]), Ok(new.clone()));
    let summary = map.summary(&new).expect("it has summaries").expect("a summary");
    assert_eq!(map.diff(&old, &summary), Some(Ok(None)));
}

#[test]
fn an_installed_data_type_is_found_by_its_hash_and_installed_once() {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), data_types_max: 1, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let counter = sandbox.install_data_type("g-counter", STANDARD[0].1).expect("room for one");
    assert_eq!(sandbox.install_data_type("again", STANDARD[0].1).expect("known").hash(), counter.hash());
    assert!(sandbox.data_type(counter.hash()).is_some_and(|found| found.name() == "g-counter"));
    let second = sandbox.install_data_type("max", STANDARD[4].1);
    assert!(matches!(second, Err(SandboxError::TooManyDataTypes(1))));
}

#[test]
fn a_resolver_is_no_data_type_and_the_other_way_round() {
    let (_home, sandbox) = sandbox();
    let error = sandbox.install_data_type("lww", guests::LWW).expect_err("a resolver");
    assert!(matches!(error, SandboxError::WrongWorld { .. }), "{error}");
    let error = sandbox.install_resolver("max", STANDARD[4].1).expect_err("a data type");
    assert!(matches!(error, SandboxError::WrongWorld { .. }), "{error}");
}

#[test]
fn an_installed_data_type_that_fails_too_often_is_not_asked_until_it_is_resumed() {
    let (_home, sandbox) = sandbox();
    let hostile = sandbox.install_data_type("by-hand.wasm", &data_type("(unreachable)")).expect("it is a data type");
    let apply = || sandbox.apply(hostile.hash(), (dot(1), Hlc(1)), &[], &"x".into()).expect_err("it traps");
    for _ in 0..5 {
        assert!(sandbox.runs(hostile.hash()) && sandbox.suspended().is_empty());
        assert!(matches!(apply(), TypeError::Failed(said) if said.contains("unreachable")));
    }
    assert!(!sandbox.runs(hostile.hash()) && sandbox.suspended()[0].0 == hostile.hash());
    assert!(matches!(apply(), TypeError::Failed(said) if said.contains("not asked any more")));
    assert_eq!(hostile.counters().calls, 5);
    sandbox.resume(hostile.hash());
    assert!(matches!(apply(), TypeError::Failed(said) if said.contains("unreachable")));
    sandbox.uninstall(hostile.hash());
    assert_eq!((sandbox.runs(hostile.hash()), apply()), (false, TypeError::Unknown(hostile.hash())));
}

#[test]
fn what_is_part_of_every_node_needs_no_room_and_is_never_suspended() {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), data_types_max: 1, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let builtin = Sandbox::builtin_code().into_iter().filter(|(.., role)| *role == Role::DataType);
    for (name, hash, _) in builtin {
        for _ in 0..7 {
            // No state of theirs.
            let viewed = sandbox.view(hash, &["\u{ff}\u{ff}".into(), "\u{fe}".into()], &"".into());
            assert!(viewed.is_err(), "{name}");
        }
    }
    assert!(sandbox.suspended().is_empty());
    sandbox.install_data_type("by-hand.wasm", &data_type("(unreachable)")).expect("there is room for one");
}

/// Updates and merges with this body both fail and say why, and the sandbox lives on.
fn assert_fails(body: &str, said: &str) {
    let (_home, sandbox) = sandbox();
    let hostile = sandbox.install_data_type("by-hand.wasm", &data_type(body)).expect("it is a data type");
    for error in [hostile.update(dot(1), Hlc(1), None, b"x").err(), hostile.merge(&[b"a", b"b"]).err()] {
        let Some(DataTypeError::Failed(reason)) = &error else { panic!("{body}: {error:?}") };
        assert!(reason.contains(said), "`{reason}` does not say `{said}`");
    }
    assert_eq!(hostile.counters().failures, 2);
    let counter = sandbox.install_data_type("g-counter", STANDARD[0].1).expect("a data type");
    assert!(counter.update(dot(1), Hlc(1), None, b"add 1").is_ok());
}

#[test]
fn hostile_data_types_are_contained() {
    assert_fails("(loop (br 0)) (unreachable)", "no answer within 50 ms");
    assert_fails("(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)", "memory");
    assert_fails("(call $deeper (i32.const 0))", "stack");
    assert_fails("(unreachable)", "unreachable");
    assert_fails("(i32.load (i32.const 0x7fffffff))", "out of bounds");
    assert_fails("(i32.const 0x7ffffff0)", "");
    // A list that ends beyond the memory.
    assert_fails(
        "(i32.store (i32.const 260) (i32.const 1)) (i32.store (i32.const 264) (i32.const -2)) (i32.const 256)",
        "",
    );
}

#[test]
fn states_operations_and_lists_beyond_their_bounds_are_refused_unseen() {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), state_bytes_max: 1_000, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let big = [0; 1_001];
    let large = "(i32.store (i32.const 264) (i32.const 1001)) (i32.const 256)";
    let by_hand = sandbox.install_data_type("by-hand.wasm", &data_type(large)).expect("it is a data type");
    let beyond = [
        by_hand.update(dot(1), Hlc(1), Some(&big), b"").map(drop),
        by_hand.update(dot(1), Hlc(1), None, &big).map(drop),
        by_hand.merge(&[&big]).map(drop),
        by_hand.merge(&[&b"x"[..]; STATES_MAX + 1]).map(drop),
        by_hand.query(&big, b"").map(drop),
        by_hand.validate(&big),
        // What it answers is too long.
        by_hand.merge(&[b"a"]).map(drop),
    ];
    for error in beyond {
        assert!(matches!(error, Err(DataTypeError::TooLarge { .. })), "{error:?}");
    }
    assert!(by_hand.validate(&big[..1_000]).is_ok());
}
