//! What no file may hold, and what to write in its place.

use crate::{crates, product_code, read, root, rust_files};
use std::path::{Path, PathBuf};

/// Longest line, columns. Beyond it only a string that rustfmt can't break.
const LINE_COLUMNS_MAX: usize = 120;

/// Where, what, except in which files below there, and what to do instead. An empty place is everywhere.
struct Banned {
    below: &'static str,
    name: &'static str,
    except: &'static [&'static str],
    instead: &'static str,
}

/// Names that must not stand in code; comments and tests may speak of them.
const NAMES: [Banned; 9] = [
    Banned {
        below: "",
        name: ".unwrap()",
        except: &["tests/"],
        instead: "return an error, or `expect` with the proof",
    },
    Banned { below: "", name: "dbg!(", except: &[], instead: "log it, or remove it" },
    Banned { below: "", name: "todo!(", except: &[], instead: "do it, or leave it out" },
    Banned { below: "", name: "unimplemented!(", except: &[], instead: "do it, or leave it out" },
    Banned { below: "host/logic/", name: "Instant::now", except: &[], instead: "take `Now` as an argument" },
    Banned { below: "host/logic/", name: "SystemTime", except: &[], instead: "take `Now` as an argument" },
    Banned { below: "host/logic/", name: "extern crate std", except: &[], instead: "the logic is no_std" },
    Banned {
        below: "host/node/src/",
        name: "SystemTime::now",
        except: &["host/node/src/clock.rs"],
        instead: "ask `clock`: it is the node's only source of time",
    },
    Banned {
        below: "host/node/src/",
        name: "openraft::",
        except: &["host/node/src/epoch_log/"],
        instead: "use the trait `EpochLog`",
    },
];

/// Marks of unfinished work, split so that this file does not hold them itself.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Kinds of files that people wrote.
const WRITTEN: [&str; 10] = ["rs", "toml", "md", "proto", "wit", "py", "js", "sh", "c", "h"];

fn is_one_of(path: &Path, kinds: &[&str]) -> bool {
    path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known))
}

/// Files that people wrote, below `directory`.
fn written(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            let foreign = name.starts_with('.') || name == "target";
            if !foreign {
                written(&path, into);
            }
        } else if is_one_of(&path, &WRITTEN) || name == "dev" {
            into.push(path);
        }
    }
}

/// The path relative to the root, with forward slashes.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

fn breaches(path: &str, code: &str) -> Vec<String> {
    let applies = |banned: &&Banned| {
        path.starts_with(banned.below) && !banned.except.iter().any(|except| path.starts_with(except))
    };
    let mut found = Vec::new();
    for banned in NAMES.iter().filter(applies) {
        for (number, _) in code.lines().enumerate().filter(|(_, line)| line.contains(banned.name)) {
            found.push(format!("{path}:{}: {}: {}", number + 1, banned.name, banned.instead));
        }
    }
    found
}

#[test]
fn what_is_banned_has_a_replacement_and_is_not_there() {
    let mut found = Vec::new();
    for room in crates() {
        let mut files = Vec::new();
        rust_files(&root().join(room), &mut files);
        for file in files {
            let path = shown(&file);
            let test = ["/tests.rs", "/testing.rs"].iter().any(|end| path.ends_with(end)) || path.contains("/tests/");
            let test = test || path.starts_with("tests/arch/");
            if !test {
                found.extend(breaches(&path, &product_code(&read(&file))));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_banned_name_is_seen_in_code_and_not_in_comments_or_tests() {
    let code = "// a.unwrap()\nfn f() { a.unwrap(); }\n#[cfg(test)]\nmod tests {\n    fn g() { b.unwrap(); }\n}\n";
    assert_eq!(breaches("host/store/src/x.rs", &product_code(code)).len(), 1);
    assert_eq!(breaches("tests/cluster/src/x.rs", &product_code(code)).len(), 0);
    assert_eq!(breaches("host/node/src/clock.rs", "SystemTime::now()").len(), 0);
    assert_eq!(breaches("host/node/src/pump.rs", "SystemTime::now()").len(), 1);
}

#[test]
fn no_work_is_left_for_later() {
    let mut files = Vec::new();
    written(&root(), &mut files);
    assert!(files.len() > 50, "the files were not found");
    for file in files {
        for (number, line) in read(&file).lines().enumerate() {
            let mark = MARKS.iter().find(|mark| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == **mark));
            assert!(mark.is_none(), "{}:{}: do it, or leave it out", shown(&file), number + 1);
        }
    }
}

#[test]
fn lines_fit_a_screen() {
    let mut files = Vec::new();
    written(&root(), &mut files);
    let mut found = Vec::new();
    for file in files.iter().filter(|file| is_one_of(file, &["rs", "proto", "wit", "c", "h"])) {
        for (number, line) in read(file).lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX && !line.contains('"') {
                found.push(format!("{}:{}", shown(file), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "more than {LINE_COLUMNS_MAX} columns: {found:#?}");
}

#[test]
fn every_contract_lies_in_proto() {
    let mut files = Vec::new();
    written(&root(), &mut files);
    let contracts = files.iter().filter(|file| is_one_of(file, &["proto", "wit"])).map(|file| shown(file));
    let (inside, outside): (Vec<_>, Vec<_>) = contracts.partition(|path| path.starts_with("proto/"));
    assert!(outside.is_empty(), "belongs into proto/: {outside:?}");
    assert!(inside.iter().any(|path| path.ends_with(".proto")) && inside.iter().any(|path| path.ends_with(".wit")));
}
