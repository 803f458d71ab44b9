use crate::{durable, small};
use mks_logic::port::Store;
use mks_store::{BUILT, conformance, open};
use std::cell::RefCell;
use std::sync::Arc;

#[test]
fn every_engine_behaves() {
    for &engine in BUILT {
        let directories = RefCell::new(Vec::new());
        let empty = || -> Arc<dyn Store> {
            let directory = tempfile::tempdir().unwrap();
            let store = open(&small(engine, directory.path())).unwrap();
            directories.borrow_mut().push(directory);
            store
        };
        conformance::behaves(&empty);
    }
}

#[test]
fn every_durable_engine_survives_reopening() {
    for engine in durable() {
        let directory = tempfile::tempdir().unwrap();
        conformance::survives_reopening(&|| open(&small(engine, directory.path())).unwrap());
    }
}
