//! Hostile and broken components: the caller gets an error, the next call works.

use crate::guests::{self, KEEP_FIRST, resolver, resolver_with};
use crate::{conflicts, sandbox};
use mks_logic::port::{Columns, Resolve, ResolveError, ResolverHash, Verdict};
use mks_sandbox::{Sandbox, SandboxError, SandboxOptions};
use std::sync::Arc;

const MEMORY: &str = "(memory (export \"memory\") 1)";

fn refusal(sandbox: &Sandbox, bytes: &[u8]) -> SandboxError {
    sandbox.install_resolver("evil.wasm", bytes).expect_err("must be refused")
}

/// Installs a resolver with this body and asks it to settle two conflicts.
fn ask(sandbox: &Sandbox, body: &str) -> Result<Vec<Verdict>, ResolveError> {
    let hash = sandbox.install_resolver("by-hand.wasm", &resolver(body)).expect("it is a resolver");
    sandbox.settle(hash, &conflicts(2))
}

fn assert_lives(sandbox: &Arc<Sandbox>) {
    assert_eq!(ask(sandbox, KEEP_FIRST), Ok(vec![Verdict::Keep(0); 2]));
    let lww = Sandbox::builtin_resolvers()[0].1;
    assert_eq!(sandbox.settle(lww, &conflicts(2)), Ok(vec![Verdict::Keep(1); 2]));
}

/// Asks for two conflicts, expects a failure that says `reason`, twice, and a sandbox that lives on.
fn assert_fails(body: &str, reason: &str) {
    let (_home, sandbox) = sandbox();
    for _ in 0..2 {
        let Err(ResolveError::Failed(said)) = ask(&sandbox, body) else { panic!("it must fail") };
        assert!(said.contains(reason), "`{said}` does not say `{reason}`");
    }
    assert_lives(&sandbox);
    let by_hand = &sandbox.counters().resolvers;
    assert!(by_hand.iter().any(|resolver| resolver.calls == 2 && resolver.failures == 2));
}

fn assert_nonsense(body: &str, reason: &str) {
    let (_home, sandbox) = sandbox();
    let Err(ResolveError::Nonsense(said)) = ask(&sandbox, body) else { panic!("it makes no sense") };
    assert!(said.contains(reason), "`{said}` does not say `{reason}`");
    assert_lives(&sandbox);
}

#[test]
fn an_endless_loop_runs_out_of_time() {
    assert_fails("(loop (br 0)) (unreachable)", "no answer within 20 ms");
}

#[test]
fn a_memory_hog_is_stopped_at_its_cap() {
    assert_fails("(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)", "memory");
}

#[test]
fn a_trap_is_an_error() {
    assert_fails("(unreachable)", "unreachable");
}

#[test]
fn endless_recursion_overflows_the_guests_stack_and_not_ours() {
    assert_fails("(call $deeper (local.get $conflicts))", "stack");
}

#[test]
fn memory_out_of_bounds_is_a_trap() {
    assert_fails("(i32.load (i32.const 0x7fffffff))", "out of bounds");
}

#[test]
fn an_answer_outside_of_the_guests_memory_is_refused() {
    let body =
        "(i32.store (i32.const 64) (i32.const 0x7ffffff0)) (i32.store (i32.const 68) (i32.const 2)) (i32.const 64)";
    assert_fails(body, "");
}

#[test]
fn an_answer_larger_than_the_cap_is_refused() {
    let body = "(drop (memory.grow (i32.const 64)))
        (i32.store (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 1000000)) (i32.const 64)";
    assert_fails(body, "");
}

#[test]
fn a_row_that_the_conflict_does_not_have_makes_no_sense() {
    assert_nonsense(&format!("(i32.store (i32.const 32772) (i32.const 2)) {KEEP_FIRST}"), "row 2 of conflict 1");
}

#[test]
fn an_answer_of_the_wrong_length_makes_no_sense() {
    for length in [0, 1, 3] {
        let body = format!(
            "(i32.store (i32.const 64) (i32.const 32768)) (i32.store (i32.const 68) (i32.const {length})) (i32.const 64)"
        );
        assert_nonsense(&body, &format!("{length} answers to 2 conflicts"));
    }
}

#[test]
fn an_installed_resolver_remembers_nothing() {
    let (_home, sandbox) = sandbox();
    let body = format!(
        "(i32.store (i32.const 32768) (global.get $calls))
         (global.set $calls (i32.add (global.get $calls) (i32.const 1))) {KEEP_FIRST}"
    );
    let hash = sandbox.install_resolver("by-hand.wasm", &resolver(&body)).expect("it is a resolver");
    for _ in 0..3 {
        assert_eq!(sandbox.settle(hash, &conflicts(2)), Ok(vec![Verdict::Keep(0); 2]));
    }
}

#[test]
fn a_resolver_that_is_not_here_is_named() {
    let (_home, sandbox) = sandbox();
    let hash = ResolverHash([7; 32]);
    assert_eq!(sandbox.settle(hash, &conflicts(1)), Err(ResolveError::Unknown(hash)));
}

#[test]
fn imports_are_refused_by_name() {
    let (_home, sandbox) = sandbox();
    let cases = [
        (
            r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64))))))"#,
            "wasi:clocks/wall-clock@0.2.0 (for one, `now`)",
        ),
        (r#"(component (import "random-u64" (func (result u64))))"#, "random-u64"),
        (r#"(component (import "my-key-store:debug/log@0.1.0" (instance (export "log" (func)))))"#, "`log`"),
        (
            r#"(component (import "my-key-store:common/types@0.1.0" (instance (export "r" (type (sub resource))))))"#,
            "`r`",
        ),
        (r#"(component (import "wasi:io/types@0.2.0" (instance)))"#, "wasi:io/types@0.2.0"),
        (r#"(component (import "code" (core module)))"#, "code"),
    ];
    for (text, named) in cases {
        let error = refusal(&sandbox, &wat::parse_str(text).expect("a component"));
        let SandboxError::Import { component, import, .. } = &error else { panic!("{named}: {error}") };
        assert!(component == "evil.wasm" && import.contains(named), "{import} does not name {named}");
    }
    assert_lives(&sandbox);
}

#[test]
fn a_component_of_another_kind_is_refused_with_what_it_is() {
    let (_home, sandbox) = sandbox();
    let SandboxError::WrongWorld { expected, found, .. } = refusal(&sandbox, guests::FJALL) else {
        panic!("no adapter")
    };
    assert_eq!(expected, "my-key-store:resolver/resolve@0.1.1");
    assert_eq!(found, "my-key-store:storage-adapter/adapter@0.1.1");
    let empty = wat::parse_str("(component)").expect("a component");
    assert!(matches!(refusal(&sandbox, &empty), SandboxError::WrongWorld { found, .. } if found == "nothing"));
    let other_types =
        wat::parse_str(r#"(component (instance $i) (export "my-key-store:resolver/resolve@0.1.0" (instance $i)))"#);
    let other_types = refusal(&sandbox, &other_types.expect("a component"));
    assert!(
        matches!(&other_types, SandboxError::WrongWorld { found, .. } if found.contains("not as this node knows it"))
    );
}

#[test]
fn what_is_no_component_is_refused() {
    let (_home, sandbox) = sandbox();
    let core = wat::parse_str("(module)").expect("a module");
    assert!(refusal(&sandbox, &core).to_string().contains("core module"));
    for bytes in [&b""[..], b"\0asm", b"hello", &[0xFF; 64]] {
        assert!(matches!(refusal(&sandbox, bytes), SandboxError::Malformed { .. }), "{bytes:?}");
    }
    // Native code is never taken from outside, not even our own.
    let native = std::fs::read_dir(_home.path().join("plugins/native")).expect("there").next().expect("one");
    let native = std::fs::read(native.expect("readable").path()).expect("readable");
    assert!(matches!(refusal(&sandbox, &native), SandboxError::Malformed { .. }));
}

#[test]
fn a_truncated_component_is_refused() {
    let (_home, sandbox) = sandbox();
    for length in (0..guests::LWW.len()).step_by(guests::LWW.len() / 40) {
        let error = refusal(&sandbox, &guests::LWW[..length]);
        assert!(matches!(error, SandboxError::Malformed { .. } | SandboxError::WrongWorld { .. }), "{length}: {error}");
    }
    assert_lives(&sandbox);
}

#[test]
fn a_flipped_bit_is_an_error_or_a_verdict_and_never_the_end() {
    let (_home, sandbox) = sandbox();
    for i in 0..24 {
        let mut bytes = guests::LWW.to_vec();
        let at = bytes.len() * i / 24 + i;
        bytes[at] ^= 1 << (i % 8);
        if let Ok(hash) = sandbox.install_resolver("flipped.wasm", &bytes) {
            drop(sandbox.settle(hash, &conflicts(2)));
        }
    }
    assert_lives(&sandbox);
}

#[test]
fn a_component_beyond_the_size_limit_is_refused_unread() {
    // More than any built-in one has.
    const LIMIT: usize = 1 << 20;
    let home = tempfile::tempdir().expect("a directory");
    let options =
        SandboxOptions { directory: home.path().into(), component_bytes_max: LIMIT, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let bytes = vec![0; LIMIT + 1];
    assert!(matches!(refusal(&sandbox, &bytes), SandboxError::TooLarge { .. }));
}

#[test]
fn a_file_of_200_mib_is_refused_by_its_size_alone() {
    let (home, sandbox) = sandbox();
    let path = home.path().join("huge.wasm");
    std::fs::File::create(&path).and_then(|file| file.set_len(200 << 20)).expect("a sparse file");
    let begin = std::time::Instant::now();
    let error = sandbox.read(&path).expect_err("too large");
    assert!(matches!(error, SandboxError::TooLarge { bytes: 209_715_200, .. }), "{error}");
    assert!(error.to_string().contains("raise the limit"), "{error}");
    assert!(begin.elapsed().as_millis() < 1_000, "it was read");
}

#[test]
fn an_import_is_refused_with_what_to_change() {
    let (_home, sandbox) = sandbox();
    let wasi = r#"(component (import "wasi:cli/stdout@0.2.0" (instance (export "get" (func (result u64))))))"#;
    let siblings =
        r#"(component (import "my-key-store:resolver/other@0.1.1" (instance (export "f" (func (result u64))))))"#;
    for (text, fix) in [(wasi, "wasm32-unknown-unknown"), (siblings, "this kind of plugin may not use it")] {
        let error = refusal(&sandbox, &wat::parse_str(text).expect("a component")).to_string();
        assert!(error.contains(fix), "{error}");
    }
    // What resolvers may read values by is no import for other kinds.
    let text = r#"(component (import "my-key-store:resolver/siblings@0.1.1"
        (instance (export "key" (func (result (list u8)))))))"#;
    let bytes = wat::parse_str(text).expect("a component");
    let error = sandbox.install_data_type("evil.wasm", &bytes).expect_err("no data type reads values");
    assert!(matches!(error, SandboxError::Import { .. }), "{error}");
}

#[test]
fn a_memory_that_starts_beyond_the_cap_is_refused() {
    let (_home, sandbox) = sandbox();
    let bytes = resolver_with("by-hand", "(memory (export \"memory\") 1000)", "(i32.const 16)", KEEP_FIRST);
    let error = refusal(&sandbox, &bytes).to_string();
    assert!(error.contains("memory"), "{error}");
    assert_lives(&sandbox);
}

#[test]
fn who_can_not_say_who_he_is_is_not_installed() {
    let (_home, sandbox) = sandbox();
    for describe in ["(unreachable)", "(loop (br 0)) (unreachable)", "(i32.const 0x7fffffff)"] {
        let bytes = resolver_with("by-hand", MEMORY, describe, KEEP_FIRST);
        assert!(matches!(refusal(&sandbox, &bytes), SandboxError::Failed { .. }), "{describe}");
    }
    for name in ["", "Evil", "a b", "x\n", "lww\"}", "\u{fc}", &"x".repeat(65)] {
        let bytes = resolver_with(name, MEMORY, "(i32.const 16)", KEEP_FIRST);
        assert!(matches!(refusal(&sandbox, &bytes), SandboxError::Failed { .. }), "{name:?}");
    }
}

#[test]
fn resolvers_are_installed_up_to_a_limit_and_each_once() {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), resolvers_max: 1, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let first = sandbox.install_resolver("a", &resolver(KEEP_FIRST)).expect("room for one");
    assert_eq!(sandbox.install_resolver("a", &resolver(KEEP_FIRST)), Ok(first));
    assert_eq!(sandbox.install_resolver("lww", guests::LWW), Ok(Sandbox::builtin_resolvers()[0].1));
    let second = sandbox.install_resolver("b", &resolver("(unreachable)"));
    assert_eq!(second, Err(SandboxError::TooManyResolvers(1)));
}

#[test]
fn a_batch_beyond_the_limit_is_refused_before_the_guest_sees_it() {
    let home = tempfile::tempdir().expect("a directory");
    let options = SandboxOptions { directory: home.path().into(), batch_rows_max: 10, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("a sandbox");
    let lww = Sandbox::builtin_resolvers()[0].1;
    assert!(sandbox.settle(lww, &conflicts(5)).is_ok());
    assert!(matches!(sandbox.settle(lww, &conflicts(6)), Err(ResolveError::Failed(_))));
}

#[test]
fn columns_that_contradict_each_other_are_an_error() {
    let (_home, sandbox) = sandbox();
    let lww = Sandbox::builtin_resolvers()[0].1;
    let mut beyond = conflicts(2);
    beyond.ends[1] = 100;
    let mut backwards = conflicts(2);
    backwards.ends[0] = 3;
    backwards.ends[1] = 1;
    let mut short = conflicts(2);
    short.digests.pop();
    for columns in [beyond, backwards, short] {
        let columns: Columns = columns;
        assert!(sandbox.settle(lww, &columns).is_err(), "{columns:?}");
    }
    assert_lives(&sandbox);
    let failures = sandbox.counters().resolvers[0].failures;
    assert_eq!(failures, 3);
}

#[test]
fn after_five_failures_within_a_minute_a_resolver_is_not_asked_any_more_until_it_may_again() {
    let (_home, sandbox) = sandbox();
    let hash = sandbox.install_resolver("by-hand.wasm", &resolver("(unreachable)")).expect("it is a resolver");
    for _ in 0..5 {
        assert!(sandbox.has(hash) && sandbox.suspended().is_empty());
        assert!(sandbox.settle(hash, &conflicts(1)).is_err());
    }
    let calls = |sandbox: &Sandbox| sandbox.counters().resolvers.iter().find(|r| r.hash == hash).map(|r| r.calls);
    let Err(ResolveError::Failed(said)) = sandbox.settle(hash, &conflicts(1)) else { panic!("it is suspended") };
    assert!(said.contains("not asked any more") && said.contains("unreachable"), "{said}");
    assert_eq!(calls(&sandbox), Some(5));
    let suspended = sandbox.suspended();
    assert!(matches!(&suspended[..], [(h, reason)] if *h == hash && reason.contains("5 failures")), "{suspended:?}");
    assert!(!sandbox.has(hash));

    sandbox.resume(hash);
    assert!(sandbox.has(hash) && sandbox.settle(hash, &conflicts(1)).is_err());
    assert_eq!(calls(&sandbox), Some(6));
    sandbox.uninstall(hash);
    assert!(!sandbox.has(hash) && sandbox.installed_resolvers().is_empty());
    assert_eq!(sandbox.settle(hash, &conflicts(1)), Err(ResolveError::Unknown(hash)));
    assert_lives(&sandbox);
}
