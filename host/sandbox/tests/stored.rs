//! A store behind the built-in adapters, which are real components here: every engine does all that it does without
//! them.

use crate::sandbox;
use mks_logic::port::{Adapt, Change, Durability, Store, Table, UNREADABLE};
use mks_sandbox::{AdapterConfig, AdapterSource, Sandbox};
use mks_store::{Adapters, BUILT, Engine, Options, conformance, open, open_watched};
use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn opened(sandbox: &Sandbox, name: &'static str) -> Arc<dyn Adapt> {
    let mut config = AdapterConfig::default();
    if name == "encrypt" {
        config.secrets.push(("key".into(), vec![7; 32]));
    }
    sandbox.adapter(&AdapterSource::Builtin(name), &config).expect("it starts").values.expect("it sees values")
}

/// Each of the adapters, and all of them in the order that makes sense.
fn chains(sandbox: &Sandbox) -> Vec<Adapters> {
    let chains: [&[&str]; 3] = [&["compress"], &["encrypt"], &["compress", "encrypt"]];
    let adapters = |names: &[&'static str]| names.iter().map(|name| opened(sandbox, name)).collect();
    chains.map(|names| Adapters { chain: adapters(names), earlier: Vec::new() }).into()
}

fn options(engine: Engine, directory: &Path) -> Options {
    // Small, so that flushes and compactions come.
    let (cache_bytes, memtable_bytes, reserve_bytes) = (1 << 20, 128 << 10, 0);
    Options { directory: directory.into(), engine, cache_bytes, memtable_bytes, reserve_bytes, ..Options::default() }
}

fn store(engine: Engine, directory: &Path, adapters: &Adapters) -> Arc<dyn Store> {
    open_watched(&options(engine, directory), adapters, &mut |_| true).expect("it opens")
}

#[test]
fn every_engine_behaves_behind_each_adapter_and_survives_reopening() {
    let (_home, sandbox) = sandbox();
    for adapters in chains(&sandbox) {
        for &engine in BUILT {
            let directories = RefCell::new(Vec::new());
            conformance::behaves(&|| {
                let directory = tempfile::tempdir().expect("a directory");
                let store = store(engine, directory.path(), &adapters);
                directories.borrow_mut().push(directory);
                store
            });
            if engine != Engine::Memory {
                let directory = tempfile::tempdir().expect("a directory");
                conformance::survives_reopening(&|| store(engine, directory.path(), &adapters));
            }
        }
    }
}

/// All bytes of all files below a directory.
fn bytes_of(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        all.extend(if path.is_dir() { bytes_of(&path) } else { fs::read(&path).expect("readable") });
    }
    all
}

#[test]
fn no_file_shows_what_was_encrypted() {
    const SHOWN: &[u8] = b"a value that anybody would find";
    let (_home, sandbox) = sandbox();
    for (names, shows) in [(&[][..], true), (&["encrypt"][..], false), (&["compress", "encrypt"][..], false)] {
        let directory = tempfile::tempdir().expect("a directory");
        let chain = names.iter().map(|name| opened(&sandbox, name)).collect();
        let store = store(Engine::Fjall, directory.path(), &Adapters { chain, earlier: Vec::new() });
        let put = |table| Change::Put { table, key: "key".into(), value: SHOWN.into() };
        store.apply(vec![put(Table::Records), put(Table::Hints)], Durability::Sync).expect("it is applied");
        assert_eq!(store.get(Table::Hints, b"key").expect("it is read").as_deref(), Some(SHOWN));
        drop(store);
        let bytes = bytes_of(directory.path());
        assert_eq!(bytes.windows(SHOWN.len()).any(|window| window == SHOWN), shows, "{names:?}");
        assert!(!bytes.windows(16).any(|window| window == [7; 16]), "the secret is on no disk");
    }
}

#[test]
fn a_value_in_another_ones_place_is_no_value() {
    let (_home, sandbox) = sandbox();
    let directory = tempfile::tempdir().expect("a directory");
    let adapters = Adapters { chain: vec![opened(&sandbox, "encrypt")], earlier: Vec::new() };
    let put = |key: &'static str, value: &'static str| Change::Put {
        table: Table::Records,
        key: key.into(),
        value: value.into(),
    };
    let store = store(Engine::Fjall, directory.path(), &adapters);
    store.apply(vec![put("a", "poor"), put("b", "rich")], Durability::Sync).expect("it is applied");
    drop(store);
    // Whoever has the disk and no key.
    let marker = directory.path().join("live/marker");
    let text = fs::read_to_string(&marker).expect("readable");
    let plain: Vec<&str> = text.lines().filter(|line| !line.starts_with("adapter_")).collect();
    fs::write(&marker, plain.join("\n").replace("format = 2", "format = 1")).expect("writable");
    let naked = open(&options(Engine::Fjall, directory.path())).expect("it opens");
    let rich = naked.get(Table::Records, b"b").expect("it is read").expect("it is there");
    naked
        .apply(vec![Change::Put { table: Table::Records, key: "a".into(), value: rich }], Durability::Sync)
        .expect("done");
    drop(naked);
    fs::write(&marker, text).expect("writable");
    let store = open_watched(&options(Engine::Fjall, directory.path()), &adapters, &mut |_| true).expect("it opens");
    let value = |key: &[u8]| store.get(Table::Records, key).expect("it is read").expect("it is there");
    assert_eq!((value(b"a")[0], &value(b"b")[..]), (UNREADABLE, &b"rich"[..]));
}
