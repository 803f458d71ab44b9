//! A store gets another engine by being opened with it: nothing is lost, whatever happens on the way.

#[cfg(target_os = "linux")]
use crate::power::unmount;
#[cfg(target_os = "linux")]
use crate::power_disk::PowerDisk;
use crate::{durable, history, small};
use mks_logic::port::{Durability, Store};
use mks_store::{Adapters, BUILT, Engine, OpenError, Options, Stack, Swapping, open, open_watched};
use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};
use std::sync::Arc;

const BATCHES: u64 = 400;

/// Each engine, and another one that takes over. Nothing in a binary with one engine, which the build says.
fn pairs() -> impl Iterator<Item = (Engine, Engine)> {
    durable().flat_map(|from| durable().filter(move |to| *to != from).map(move |to| (from, to)))
}

/// A closed store with a history.
fn fill(engine: Engine, directory: &Path) {
    let store = open(&small(engine, directory)).unwrap();
    for n in 1..=BATCHES {
        store.apply(history::batch(n), Durability::Os).unwrap();
    }
}

fn assert_whole(store: &dyn Store, to: Engine) {
    history::Model::default().check(store, BATCHES);
    assert_eq!((store.stats().engine, history::last(store)), (to.name(), BATCHES));
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn refused(opened: Result<Arc<dyn Store>, OpenError>) -> OpenError {
    opened.err().expect("it is refused")
}

#[test]
fn a_store_is_opened_with_another_engine_and_back_again_and_holds_the_same() {
    for (from, to) in pairs() {
        let directory = tempfile::tempdir().unwrap();
        fill(from, directory.path());
        let mut told = Vec::new();
        let mut watch = |swapping: Swapping| {
            told.push(swapping);
            true
        };
        let store = open_watched(&small(to, directory.path()), &Adapters::default(), &mut watch).unwrap();
        assert_whole(&*store, to);
        let last = told.last().expect("whoever waits is told");
        assert!(last.checking && (last.from.engine, last.to.engine) == (from, to), "{last:?}");
        store.apply(history::batch(BATCHES + 1), Durability::Sync).unwrap();
        drop(store);
        assert_eq!(names(directory.path()), ["live", "lock"], "the old engine's files are gone");
        // It is an ordinary store now, and the way back is the same.
        for engine in [to, from, from] {
            let store = open(&small(engine, directory.path())).unwrap();
            history::Model::default().check(&*store, BATCHES + 1);
            assert_eq!(store.stats().engine, engine.name());
        }
    }
}

#[test]
fn whoever_watches_may_stop_it_at_any_time_and_nothing_has_changed() {
    for (from, to) in pairs() {
        let directory = tempfile::tempdir().unwrap();
        fill(from, directory.path());
        let mut told = 0_u32;
        for go_on in 0.. {
            let mut left = go_on;
            let mut watch = |_: Swapping| {
                told = told.max(go_on - left + 1);
                left = left.saturating_sub(1);
                left > 0
            };
            match open_watched(&small(to, directory.path()), &Adapters::default(), &mut watch) {
                Err(error) => assert!(matches!(error, OpenError::SwapStopped { .. }), "{from} to {to}: {error}"),
                Ok(store) => {
                    assert_whole(&*store, to);
                    break;
                }
            }
            assert_eq!(names(directory.path()), ["live", "lock"], "what was copied is gone");
            assert_whole(&*open(&small(from, directory.path())).unwrap(), from);
        }
        assert!(told > 6, "{from} to {to}: it was stopped at {told} places only");
    }
}

/// What is in the directory of a store, by name, after a crash.
struct Crashed(tempfile::TempDir);

impl Crashed {
    fn of(stores: &[(&Path, &str)]) -> Self {
        let crashed = tempfile::tempdir().unwrap();
        for (store, name) in stores {
            crate::damage::copy(&store.join("live"), &crashed.path().join(name));
        }
        Self(crashed)
    }

    fn assert_opens(&self, engine: Engine, step: &str) {
        let store = open(&small(engine, self.0.path())).unwrap_or_else(|e| panic!("{engine}: {step}: {e}"));
        assert_whole(&*store, engine);
        drop(store);
        assert_eq!(names(self.0.path()), ["live", "lock"], "{engine}: {step}");
    }
}

#[test]
fn a_crash_between_any_two_steps_leaves_a_store_that_opens_with_either_engine() {
    for (from, to) in pairs() {
        let [old, new, half] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        fill(from, old.path());
        fill(from, new.path());
        drop(open(&small(to, new.path())).unwrap());
        fs::create_dir_all(half.path().join("live/engine")).unwrap();
        let (old, new, half) = (old.path(), new.path(), half.path());
        let steps: [(&[(&Path, &str)], &str); 6] = [
            (&[(old, "live"), (half, "building")], "the copy has begun"),
            (&[(old, "live"), (new, "building")], "the copy is whole, nothing was moved"),
            (&[(old, "replaced"), (new, "building")], "the old one has made room"),
            (&[(old, "replaced"), (new, "live")], "the new one is there, and has not opened"),
            (&[(new, "live"), (old, "building")], "the new one has opened, the old one goes"),
            (&[(new, "live"), (half, "building")], "half of the old one has gone"),
        ];
        for (stores, step) in steps {
            Crashed::of(stores).assert_opens(to, step);
            Crashed::of(stores).assert_opens(from, step);
        }
    }
}

#[test]
fn a_new_engine_that_does_not_open_leaves_the_old_one_whole() {
    for (from, to) in pairs() {
        let [old, new] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        fill(from, old.path());
        fill(from, new.path());
        drop(open(&small(to, new.path())).unwrap());
        fs::remove_dir_all(new.path().join("live/engine")).unwrap();
        fs::create_dir(new.path().join("live/engine")).unwrap();
        for (name, step) in [("building", "before it was moved"), ("live", "after it")] {
            let crashed = Crashed::of(&[(old.path(), "replaced"), (new.path(), name)]);
            for _ in 0..2 {
                let refused = refused(open(&small(to, crashed.0.path())));
                assert!(matches!(refused, OpenError::Corrupt { .. }), "{step}: {refused}");
            }
            crashed.assert_opens(from, step);
        }
    }
}

#[test]
fn without_room_for_a_copy_nothing_is_begun() {
    for (from, to) in pairs() {
        let directory = tempfile::tempdir().unwrap();
        fill(from, directory.path());
        let full = Options { reserve_bytes: u64::MAX >> 1, ..small(to, directory.path()) };
        let refused = refused(open(&full));
        assert!(matches!(refused, OpenError::NoRoomToSwap { needed: 1.., .. }), "{refused}");
        assert!(refused.to_string().contains(&format!("go back to the engine {from}")), "{refused}");
        assert_eq!(names(directory.path()), ["live", "lock"]);
        assert_whole(&*open(&small(from, directory.path())).unwrap(), from);
    }
}

#[test]
fn a_damaged_store_is_not_copied_as_if_it_were_whole() {
    for (from, to) in pairs() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&small(from, directory.path())).unwrap();
        store.apply(history::batch(1), Durability::Sync).unwrap();
        drop(store);
        let before = tempfile::tempdir().unwrap();
        crate::damage::copy(directory.path(), before.path());
        let store = open(&small(from, directory.path())).unwrap();
        store.apply(history::batch(2), Durability::Sync).unwrap();
        drop(store);
        // The disk goes back to an earlier time, but for the file that remembers what it had promised.
        let floor = fs::read(directory.path().join("live/floor")).unwrap();
        fs::write(before.path().join("live/floor"), floor).unwrap();
        let refused = refused(open(&small(to, before.path())));
        assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
        assert!(!before.path().join("replaced").exists() && before.path().join("live").exists());
    }
}

#[test]
fn an_engine_that_this_binary_lacks_can_not_be_read() {
    let directory = tempfile::tempdir().unwrap();
    fill(Engine::Fjall, directory.path());
    let marker = directory.path().join("live/marker");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("fjall", "rocksdb")).unwrap();
    let refused = refused(open(&small(Engine::Fjall, directory.path())));
    if BUILT.contains(&Engine::RocksDb) {
        // The marker lies: no files of RocksDB are there.
        assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    } else {
        let of_rocksdb = |found: &Stack| found.engine == Engine::RocksDb;
        assert!(matches!(&refused, OpenError::WrongEngine { found, .. } if of_rocksdb(found)), "{refused}");
        assert!(refused.to_string().contains("--features rocksdb"), "{refused}");
    }
    fs::write(&marker, text).unwrap();
    assert_whole(&*open(&small(Engine::Fjall, directory.path())).unwrap(), Engine::Fjall);
}

#[test]
#[ignore = "runs in a process of its own, started by other tests"]
fn child_swaps() {
    let var = |name: &str| std::env::var(name).unwrap();
    let engine: Engine = var("MKS_STORE_TEST_ENGINE").parse().unwrap();
    drop(open(&small(engine, Path::new(&var("MKS_STORE_TEST_DIRECTORY")))).unwrap());
}

/// Each renaming is one step of the exchange. Right after it nothing has made it durable; what did is there right
/// before the next one.
#[cfg(target_os = "linux")]
#[test]
fn a_power_cut_at_any_step_loses_nothing() {
    const RENAMES: u32 = 3;
    for (from, to) in pairs() {
        let mountpoint = tempfile::tempdir().unwrap();
        let directory = mountpoint.path().join("store");
        let cuts = (1..=RENAMES).flat_map(|rename| [(rename, false), (rename, true)]);
        let cuts = cuts.chain([(RENAMES + 1, false)]).flat_map(|cut| [(cut, false), (cut, true)]);
        for ((rename, after), torn) in cuts {
            // What fjall needs beyond POSIX: see the tests of power cuts.
            let disk = PowerDisk::new(u64::from(rename)).like_linux();
            let Some(session) = disk.mount(mountpoint.path()) else { return };
            fill(from, &directory);
            disk.cut_at_rename(rename, after, torn);
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "swap::child_swaps"])
                .env("MKS_STORE_TEST_ENGINE", to.name())
                .env("MKS_STORE_TEST_DIRECTORY", &directory)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            let cut = format!("{from} to {to}, cut at renaming {rename}, after it: {after}, torn: {torn}");
            assert_eq!(disk.has_power(), rename > RENAMES, "{cut}");
            assert_eq!(status.unwrap().success(), rename > RENAMES, "{cut}");
            if rename > RENAMES {
                // All is done, and stays so.
                disk.cut(torn);
            }
            unmount(session);
            disk.restore();
            let engine = if torn { to } else { from };
            let session = disk.mount(mountpoint.path()).expect("it mounted before");
            let store = open(&small(engine, &directory)).unwrap_or_else(|e| panic!("{cut}: {e}"));
            assert_whole(&*store, engine);
            drop(store);
            unmount(session);
        }
    }
}
