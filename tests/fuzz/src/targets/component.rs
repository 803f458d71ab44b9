//! Bytes that call themselves a component: they run within their bounds, or are refused before they run.

use mks_logic::id::{Dot, Incarnation, NodeId};
use mks_logic::port::{Columns, Resolve, Verdict};
use mks_sandbox::{AdapterSource, Sandbox, SandboxOptions};
use std::sync::Arc;
use tempfile::TempDir;

thread_local! {
    /// The sandbox and its directory, for all inputs of this thread: with it they go.
    static SANDBOX: (TempDir, Arc<Sandbox>) = {
        let home = tempfile::tempdir().expect("there is a writable temporary directory");
        let directory = home.path().join("plugins");
        let options = SandboxOptions { directory, resolvers_max: 1 << 20, ..SandboxOptions::default() };
        let sandbox = Sandbox::new(options).expect("a sandbox can be opened here");
        (home, sandbox)
    };
}

pub fn run(input: &[u8]) {
    let Some((&kind, component)) = input.split_first() else { return };
    SANDBOX.with(|(home, sandbox)| load(home, sandbox, kind, component));
}

fn load(home: &TempDir, sandbox: &Sandbox, kind: u8, component: &[u8]) {
    if kind.is_ascii_uppercase() {
        let path = home.path().join("adapter.wasm");
        std::fs::write(&path, component).expect("the directory is writable");
        match sandbox.plan(&AdapterSource::Path(path), &[], 64 << 20) {
            Ok(plan) => assert!(!plan.engine.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        return;
    }
    match sandbox.install_resolver("input", component) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(hash) => {
            let conflicts = conflicts();
            let Ok(verdicts) = sandbox.settle(hash, &conflicts) else { return };
            assert_eq!(verdicts.len(), conflicts.len());
            for (i, verdict) in verdicts.into_iter().enumerate() {
                let rows = conflicts.rows(i).len();
                assert!(matches!(verdict, Verdict::Keep(row) if (row as usize) < rows) || verdict == Verdict::KeepAll);
            }
        }
    }
}

fn conflicts() -> Columns {
    let mut columns = Columns::default();
    for counter in 1..=3 {
        for node in 1..=2 {
            let dot = Dot { node: NodeId(node), incarnation: Incarnation(1), counter };
            columns.row(dot, 1_000 + node, 8, false, node);
        }
        columns.close();
    }
    columns
}

/// Empty shells: what our own compilers make is too long to change anything of interest in it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![b"r\0asm\x0d\0\x01\0".to_vec(), b"R\0asm\x0d\0\x01\0".to_vec(), b"r\0asm\x01\0\0\0".to_vec()]
}
