//! The promises of a store, kept by each engine of this binary.
#![allow(clippy::unwrap_used, reason = "helpers of tests may end the test")]

mod adapters;
mod conformance;
mod crash;
mod damage;
mod full;
mod history;
mod opening;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod power_disk;
mod shadow;
mod swap;

use mks_store::{BUILT, Engine, Options};
use std::path::Path;

/// The engines of this binary that keep something.
fn durable() -> impl Iterator<Item = Engine> {
    BUILT.iter().copied().filter(|engine| *engine != Engine::Memory)
}

/// Small enough that a test's data passes through flushes, compactions and value files.
fn small(engine: Engine, directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        engine,
        cache_bytes: 1 << 20,
        memtable_bytes: 128 << 10,
        reserve_bytes: 0,
        ..Options::default()
    }
}
