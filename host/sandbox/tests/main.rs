//! What the sandbox promises: the built-in components say what the native rules say, and no component, however hostile,
//! gets more than an error for its caller.

mod adapters;
mod cache;
mod data_types;
mod guests;
mod hostile;
mod modules;
mod rules;
mod stored;
mod value_adapters;
mod values;

use mks_logic::id::{Dot, Incarnation, NodeId};
use mks_logic::port::Columns;
use mks_sandbox::{Sandbox, SandboxOptions};
use std::sync::Arc;
use tempfile::TempDir;

/// A sandbox in a directory of its own, which lives as long as the pair does.
fn sandbox() -> (TempDir, Arc<Sandbox>) {
    let home = tempfile::tempdir().expect("a directory");
    let sandbox = sandbox_in(&home);
    (home, sandbox)
}

fn sandbox_in(home: &TempDir) -> Arc<Sandbox> {
    let options = SandboxOptions { directory: home.path().join("plugins"), ..SandboxOptions::default() };
    Sandbox::new(options).expect("a sandbox")
}

/// `count` conflicts of two versions, of which the second is the newer.
fn conflicts(count: u64) -> Columns {
    let mut columns = Columns::default();
    for i in 0..count {
        for node in 1..=2 {
            let dot = Dot { node: NodeId(node), incarnation: Incarnation(1), counter: i + 1 };
            columns.row(dot, 1_000 + node, 8, false, node);
        }
        columns.close();
    }
    columns
}
