use crate::history::{Model, Writer};
use crate::{durable, small};
use mks_logic::port::Durability;
use mks_store::{Engine, open};
use std::thread::sleep;
use std::time::Duration;

/// RocksDB without optimisation takes its time to start.
fn rounds(engine: Engine, of_fjall: u32) -> u32 {
    if engine == Engine::Fjall { of_fjall } else { of_fjall / 3 }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    for engine in durable() {
        for durability in [Durability::Sync, Durability::Os] {
            let directory = tempfile::tempdir().unwrap();
            let mut model = Model::default();
            for round in 0..rounds(engine, 6) {
                let mut writer = Writer::start(engine, directory.path(), durability);
                assert!(writer.wait_for_ack(), "{engine}: the writer starts in round {round}");
                sleep(Duration::from_millis(u64::from(40 + round * 37 % 200)));
                let acked = writer.kill();
                model.check(&*open(&small(engine, directory.path())).unwrap(), acked);
            }
        }
    }
}

#[test]
fn a_kill_at_birth_leaves_a_directory_that_opens() {
    for engine in durable() {
        let mut unborn = 0;
        for round in 0..rounds(engine, 30) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("store");
            let writer = Writer::start(engine, &path, Durability::Sync);
            // From before the first file to after the first batches, counted from the first sign of life.
            while !path.join("building").exists() && !path.join("live").exists() {
                sleep(Duration::from_micros(100));
            }
            sleep(Duration::from_micros(u64::from(round) * 700));
            let acked = writer.kill();
            unborn += u32::from(!path.join("live").exists());
            let store = open(&small(engine, &path)).unwrap();
            Model::default().check(&*store, acked);
        }
        println!("{engine}: {unborn} of {} kills came before the store was born", rounds(engine, 30));
    }
}
