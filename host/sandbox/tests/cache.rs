//! Native code is compiled once, and never used when it is not what was written.

use crate::guests::{KEEP_FIRST, resolver};
use crate::{conflicts, sandbox_in};
use mks_logic::port::{Resolve, Role, Verdict};
use mks_sandbox::{CacheState, Sandbox};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

fn native_files(home: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path().join("plugins/native")).expect("there");
    entries.map(|entry| entry.expect("readable").path()).collect()
}

/// Resolvers that are part of every binary.
fn builtin() -> u64 {
    Sandbox::builtin_code().iter().filter(|(.., role)| *role != Role::DataType).count() as u64
}

fn work(sandbox: &Sandbox) -> (u64, u64) {
    for (_, hash) in Sandbox::builtin_resolvers() {
        assert!(sandbox.settle(hash, &conflicts(1)).is_ok());
    }
    let counters = sandbox.counters();
    (counters.compiled, counters.cache_hits)
}

#[test]
fn a_second_start_compiles_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let first = sandbox_in(&home);
    let all = builtin();
    assert_eq!((first.cache_state(), work(&first)), (&CacheState::Intact, (all, 0)));
    let second = sandbox_in(&home);
    assert_eq!((second.cache_state(), work(&second)), (&CacheState::Intact, (0, all)));
}

#[test]
fn the_same_component_is_compiled_once_within_a_run() {
    let home = tempfile::tempdir().expect("a directory");
    let sandbox = sandbox_in(&home);
    for _ in 0..3 {
        sandbox.install_resolver("by-hand", &resolver(KEEP_FIRST)).expect("a resolver");
    }
    let counters = sandbox.counters();
    assert_eq!((counters.compiled, counters.cache_hits), (builtin() + 1, 2));
}

#[test]
fn native_code_that_changed_on_disk_is_compiled_again() {
    let home = tempfile::tempdir().expect("a directory");
    drop(sandbox_in(&home));
    let damaged = native_files(&home).swap_remove(0);
    let mut code = fs::read(&damaged).expect("readable");
    let middle = code.len() / 2;
    code[middle] ^= 0x40;
    fs::write(&damaged, code).expect("writable");

    let sandbox = sandbox_in(&home);
    let name = damaged.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(sandbox.cache_state(), &CacheState::Repaired { removed: vec![name] });
    assert_eq!(work(&sandbox), (1, builtin() - 1));
    assert_eq!(sandbox_in(&home).cache_state(), &CacheState::Intact);
}

#[test]
fn a_cache_of_garbage_is_replaced() {
    let home = tempfile::tempdir().expect("a directory");
    drop(sandbox_in(&home));
    for file in native_files(&home) {
        fs::write(file, b"\x7fELF and so on").expect("writable");
    }
    fs::write(home.path().join("plugins/fingerprint"), b"what fingerprint?").expect("writable");
    let sandbox = sandbox_in(&home);
    assert!(matches!(sandbox.cache_state(), CacheState::Repaired { removed } if removed.len() as u64 == builtin()));
    assert_eq!(work(&sandbox), (builtin(), 0));
}

#[test]
fn native_code_under_another_components_name_is_not_used() {
    let home = tempfile::tempdir().expect("a directory");
    drop(sandbox_in(&home));
    let files = native_files(&home);
    let (one, two) = (fs::read(&files[0]).expect("readable"), fs::read(&files[1]).expect("readable"));
    fs::write(&files[0], &two).expect("writable");
    fs::write(&files[1], &one).expect("writable");
    let sandbox = sandbox_in(&home);
    assert!(matches!(sandbox.cache_state(), CacheState::Repaired { removed } if removed.len() == 2));
    let lww = Sandbox::builtin_resolvers()[0].1;
    assert_eq!(sandbox.settle(lww, &conflicts(1)), Ok(vec![Verdict::Keep(1)]));
}

#[test]
fn a_directory_that_is_none_is_refused_with_its_path() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("plugins");
    fs::write(&file, b"in the way").expect("writable");
    let options = mks_sandbox::SandboxOptions { directory: file.clone(), ..Default::default() };
    let error = Sandbox::new(options).expect_err("it can't work").to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
}
