use crate::{durable, small};
use mks_logic::port::{Change, Durability, Table};
use mks_store::{BUILT, Engine, OpenError, Options, open};
use std::fs;

fn refusal(options: &Options) -> OpenError {
    match open(options) {
        Ok(_) => panic!("{} was opened", options.directory.display()),
        Err(e) => e,
    }
}

#[test]
fn a_directory_in_use_is_refused_and_names_the_process() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&small(engine, directory.path())).unwrap();
        let refused = refusal(&small(engine, directory.path()));
        let us = std::process::id();
        assert!(matches!(refused, OpenError::Locked { process: Some(id), .. } if id == us), "{refused}");
        assert!(refused.to_string().contains(&format!("in use by process {us}")), "{refused}");
        drop(store);
        open(&small(engine, directory.path())).expect("a closed directory is free");
    }
}

#[test]
fn a_directory_that_is_let_go_of_in_a_moment_is_waited_for() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&small(engine, directory.path())).unwrap();
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            drop(store);
        });
        open(&small(engine, directory.path())).expect("free in a moment");
        other.join().unwrap();
    }
}

#[test]
fn a_later_format_and_a_broken_marker_are_told_apart() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&small(engine, directory.path())).unwrap());
        let marker = directory.path().join("live/marker");
        fs::write(&marker, "format = 9\nwho knows\n").unwrap();
        let later = refusal(&small(engine, directory.path()));
        assert!(matches!(later, OpenError::FutureFormat { found: 9, .. }), "{later}");
        for broken in ["", "format = 1\n", "\u{0}\u{1}", "format = 1\nengine = leveldb\nmemtable_bytes = 1\n"] {
            fs::write(&marker, broken).unwrap();
            let damaged = refusal(&small(engine, directory.path()));
            assert!(matches!(damaged, OpenError::Corrupt { .. }), "{broken:?}: {damaged}");
        }
    }
}

#[test]
fn an_engine_that_was_not_built_says_how_to_get_it() {
    let directory = tempfile::tempdir().unwrap();
    for engine in [Engine::Fjall, Engine::RocksDb, Engine::Memory] {
        match open(&small(engine, directory.path())) {
            Err(OpenError::NotBuilt(refused)) => {
                assert!(!BUILT.contains(&engine));
                assert!(OpenError::NotBuilt(refused).to_string().contains("--features rocksdb"));
            }
            _ => assert!(BUILT.contains(&engine)),
        }
    }
}

#[test]
fn engine_names_are_read_back() {
    for engine in [Engine::Fjall, Engine::RocksDb, Engine::Memory] {
        assert_eq!(engine.name().parse(), Ok(engine));
    }
    assert!("lmdb".parse::<Engine>().unwrap_err().contains("lmdb"));
}

#[test]
fn a_directory_that_cannot_be_made_is_an_io_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = refusal(&small(Engine::Fjall, &file.join("store")));
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
}

#[test]
fn a_range_too_large_for_one_batch_is_refused_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&Options { directory: directory.path().into(), ..Options::default() }).unwrap();
    let put = |n: usize| Change::Put { table: Table::Log, key: format!("{n:08}").into(), value: "v".into() };
    for from in (0..=mks_store::RANGE_DELETE_KEYS_MAX).step_by(1_000) {
        store.apply((from..from + 1_000).map(put).collect(), Durability::Os).unwrap();
    }
    let range = Change::DeleteRange { table: Table::Log, start: "0".into(), end: "1".into() };
    let refused = store.apply(vec![put(0), range], Durability::Os).unwrap_err();
    assert!(refused.to_string().contains("in parts"), "{refused}");
    assert_eq!(store.get(Table::Log, b"00000000").unwrap().as_deref(), Some(&b"v"[..]));
    let half = Change::DeleteRange { table: Table::Log, start: "0".into(), end: "00050000".into() };
    store.apply(vec![half], Durability::Os).expect("a part fits");
    assert_eq!(store.get(Table::Log, b"00049999").unwrap(), None);
}
