//! A history that two processes agree on: batch `n` is the same wherever it is computed, so that whoever finds a store
//! can tell whether it holds exactly the first `m` batches for some `m`.

use bytes::Bytes;
use mks_logic::port::{Batch, Change, Durability, Store, Table};
use mks_store::conformance::{self, Contents};
use mks_store::{Engine, Options};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Keys that the history writes over and over.
const KEYS: u64 = 300;

const LAST: &[u8] = b"last";

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (n ^ (n >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

fn key(n: u64) -> Bytes {
    format!("key-{:04}", n % KEYS).into()
}

/// Batch `n`, counted from 1: some puts, large ones among them, deletes, sometimes a range, and its own number.
pub(crate) fn batch(n: u64) -> Batch {
    let table = Table::Records;
    let mut batch = Vec::new();
    for part in 0..4 {
        let random = mix(n * 8 + part);
        let length = if random.is_multiple_of(11) { 9_000 } else { random % 500 };
        batch.push(Change::Put { table, key: key(random), value: vec![n as u8; length as usize].into() });
    }
    batch.push(Change::Delete { table, key: key(mix(n * 8 + 5)) });
    if n.is_multiple_of(13) {
        let start = mix(n) % KEYS;
        batch.push(Change::DeleteRange { table, start: key(start), end: key((start + 20).min(KEYS - 1)) });
    }
    let entry = n.to_be_bytes();
    batch.push(Change::Put { table: Table::Log, key: Bytes::copy_from_slice(&entry), value: vec![7; 200].into() });
    if n.is_multiple_of(50) {
        batch.push(Change::DeleteRange {
            table: Table::Log,
            start: vec![0].into(),
            end: Bytes::copy_from_slice(&entry),
        });
    }
    batch.push(Change::Put { table: Table::Meta, key: LAST.into(), value: Bytes::copy_from_slice(&n.to_le_bytes()) });
    batch
}

/// The number of the last batch that the store holds.
pub(crate) fn last(store: &dyn Store) -> u64 {
    let value = store.get(Table::Meta, LAST).expect("the store can be read");
    value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()))
}

/// The map after a number of batches. Only goes forward.
#[derive(Default)]
pub(crate) struct Model {
    batches: u64,
    contents: Contents,
}

impl Model {
    /// Asserts that `store` holds the first `m` batches and nothing else, where `m` is at least `acked`.
    pub(crate) fn check(&mut self, store: &dyn Store, acked: u64) {
        let last = last(store);
        assert!(last >= acked, "batch {acked} was acknowledged, the store ends at {last}");
        while self.batches < last {
            self.batches += 1;
            conformance::play(&mut self.contents, &batch(self.batches));
        }
        let found = conformance::contents(store);
        if found != self.contents {
            let differs = found.iter().find(|(key, value)| self.contents.get(*key) != Some(*value));
            let missing = self.contents.keys().find(|key| !found.contains_key(*key));
            let (engine, differs) = (store.stats().engine, differs.map(|(key, _)| key));
            panic!("{engine}: not the first {last} batches: {differs:?} differs, {missing:?} is missing");
        }
    }
}

/// A process that goes on with the history in a directory and says which batches were acknowledged.
pub(crate) struct Writer {
    child: Child,
    acks: Receiver<u64>,
    acked: u64,
}

impl Writer {
    pub(crate) fn start(engine: Engine, directory: &Path, durability: Durability) -> Self {
        Self::start_shadowed(engine, None, directory, durability)
    }

    /// The same with a second engine that gets the same batches.
    pub(crate) fn start_shadowed(
        engine: Engine,
        shadow: Option<Engine>,
        directory: &Path,
        durability: Durability,
    ) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "history::child_writes", "--nocapture"])
            .env("MKS_STORE_TEST_ENGINE", engine.name())
            .env("MKS_STORE_TEST_SHADOW", shadow.map_or("", Engine::name))
            .env("MKS_STORE_TEST_DIRECTORY", directory)
            .env("MKS_STORE_TEST_DURABILITY", if durability == Durability::Sync { "sync" } else { "os" })
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, acks) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness prints the test's name in front of the first line.
                if let Some(n) = line.split("ack ").nth(1).and_then(|n| n.parse().ok()) {
                    let _ = send.send(n);
                }
            }
        });
        Self { child, acks, acked: 0 }
    }

    /// Waits until a batch was acknowledged; false when the process ended before.
    pub(crate) fn wait_for_ack(&mut self) -> bool {
        match self.acks.recv_timeout(Duration::from_secs(60)) {
            Ok(n) => {
                self.acked = n;
                true
            }
            Err(_) => false,
        }
    }

    /// Kills it with SIGKILL and returns the last acknowledged batch, 0 if none.
    pub(crate) fn kill(mut self) -> u64 {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.acks.iter().fold(self.acked, |acked, n| acked.max(n))
    }
}

#[test]
#[ignore = "runs in a process of its own, started by other tests"]
fn child_writes() {
    let var = |name: &str| std::env::var(name).unwrap();
    let engine: Engine = var("MKS_STORE_TEST_ENGINE").parse().unwrap();
    let durability = if var("MKS_STORE_TEST_DURABILITY") == "sync" { Durability::Sync } else { Durability::Os };
    let directory = var("MKS_STORE_TEST_DIRECTORY");
    let options: Options = match var("MKS_STORE_TEST_SHADOW").parse() {
        Ok(shadow) => crate::shadow::shadowed((engine, shadow), Path::new(&directory)),
        Err(_) => crate::small(engine, Path::new(&directory)),
    };
    let store = mks_store::open(&options).unwrap();
    let mut n = last(&*store);
    loop {
        n += 1;
        store.apply(batch(n), durability).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "ack {n}").and_then(|()| out.flush()).unwrap();
    }
}
