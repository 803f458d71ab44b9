//! Every file of a closed store, damaged in every way: never a panic, never other data than was written.

use crate::{durable, history, small};
use mks_logic::port::{Durability, StoreError};
use mks_store::conformance::{self, Contents};
use mks_store::{Engine, OpenError, open};
use std::fs;
use std::path::{Path, PathBuf};

const BATCHES: u64 = 400;

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn damages(path: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let whole = fs::read(path).unwrap();
    // A journal is laid out in advance: what is damaged has to lie before its zeros.
    let used = whole.len() - whole.iter().rev().take_while(|&&byte| byte == 0).count();
    let mut damages = vec![("gone".to_owned(), None), ("emptied".to_owned(), Some(Vec::new()))];
    if used > 1 {
        damages.push(("cut in half".to_owned(), Some(whole[..used / 2].to_vec())));
    }
    for at in [0, used / 3, used * 2 / 3, used.saturating_sub(1)] {
        if let Some(byte) = whole.get(at) {
            let mut flipped = whole.clone();
            flipped[at] = byte ^ 0x10;
            damages.push((format!("flipped at {at} of {used}"), Some(flipped)));
        }
    }
    damages
}

/// What the damaged store answers: the contents, or why not.
fn look(engine: Engine, directory: &Path) -> Result<Contents, String> {
    let store = open(&small(engine, directory)).map_err(|e| {
        let typed =
            matches!(e, OpenError::Corrupt { .. } | OpenError::FutureFormat { .. } | OpenError::WrongEngine { .. });
        assert!(typed, "damage is called damage, not: {e:?}");
        e.to_string()
    })?;
    conformance::read_all(&*store).map_err(|e| {
        assert!(matches!(e, StoreError::Corrupt(_)), "damage is called damage, not: {e:?}");
        e.to_string()
    })
}

#[test]
fn a_damaged_file_is_a_typed_error_or_harmless() {
    for engine in durable() {
        let origin = tempfile::tempdir().unwrap();
        let store = open(&small(engine, origin.path())).unwrap();
        for n in 1..=BATCHES {
            store.apply(history::batch(n), Durability::Os).unwrap();
        }
        let whole = conformance::contents(&*store);
        drop(store);
        let (mut noticed, mut harmless) = (0, 0);
        for file in files(origin.path()) {
            let name = file.strip_prefix(origin.path()).unwrap();
            for (what, bytes) in damages(&file) {
                let victim = tempfile::tempdir().unwrap();
                copy(origin.path(), victim.path());
                match bytes {
                    Some(bytes) => fs::write(victim.path().join(name), bytes).unwrap(),
                    None => fs::remove_file(victim.path().join(name)).unwrap(),
                }
                match look(engine, victim.path()) {
                    Ok(found) if found == whole => harmless += 1,
                    Ok(_) => panic!("{engine}: {} {what}: other data, and nobody noticed", name.display()),
                    Err(_) => noticed += 1,
                }
            }
        }
        println!("{engine}: {noticed} damages noticed, {harmless} without effect");
        assert!(noticed > harmless, "{engine}: {noticed} damages noticed, {harmless} without effect");
    }
}
