//! Tests of the repository itself: ARCHITECTURE.md is true, and the walls between the rooms stand.
//!
//! **What is absent:** anything that runs a node. These tests read files.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod order;
mod words;

/// Longest source file; beyond it there are two ideas in it.
const FILE_LINES_MAX: usize = 600;
/// Rooms and ours that each may depend on, as the map says.
const EDGES: [(&str, &[&str]); 7] = [
    ("host/logic", &[]),
    ("host/store", &["mks-logic"]),
    ("host/sandbox", &["mks-logic", "mks-laws"]),
    ("proto", &[]),
    ("host/node", &["mks-logic", "mks-store", "mks-sandbox", "mks-proto"]),
    ("guest-sdk", &["mks-laws"]),
    ("guest-sdk/laws", &[]),
];
/// What plugins may use beside the SDK: code that computes, and asks nobody for anything.
const PLUGIN_CRATES: [&str; 3] = ["blake3", "chacha20poly1305", "lz4_flex"];
/// Crates that are heavy or hard to replace, and the only rooms that may name them.
const DOORS: [(&str, &[&str]); 7] = [
    ("wasmtime", &["host/sandbox"]),
    ("fjall", &["host/store"]),
    ("rocksdb", &["host/store"]),
    ("tonic", &["host/node", "proto", "tests/cluster"]),
    ("openraft", &["host/node"]),
    ("axum", &["host/node"]),
    ("foca", &["host/logic"]),
];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two directories deep").to_path_buf()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Directories with a Cargo.toml, relative to the root.
fn crates() -> Vec<String> {
    let mut found = vec!["guest-sdk".to_owned(), "guest-sdk/laws".to_owned(), "proto".to_owned()];
    for parent in ["host", "plugins", "tests"] {
        for entry in std::fs::read_dir(root().join(parent)).expect("the room exists").flatten() {
            if entry.path().join("Cargo.toml").is_file() {
                found.push(format!("{parent}/{}", entry.file_name().display()));
            }
        }
    }
    found.sort();
    found
}

/// All Rust files below a directory.
fn rust_files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// What of a Rust file is compiled into the product: without comments, and without the tests at its end. Lines keep
/// their numbers.
fn product_code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let begins = |next: &&str| next.contains("mod tests {");
        if line.trim_start().starts_with("#[cfg(test)]") && lines.peek().is_some_and(begins) {
            break;
        }
        code.push_str(without_comment(line));
        code.push('\n');
    }
    code
}

/// Cuts a line comment off, unless its slashes stand right behind a colon, as in an address.
fn without_comment(line: &str) -> &str {
    let start = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
    start.map_or(line, |at| &line[..at])
}

/// Names on the left side of a crate's dependency tables. Development dependencies are no walls of the product.
fn dependencies(room: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in read(&root().join(room).join("Cargo.toml")).lines() {
        if line.starts_with('[') {
            let table = line.trim_matches(['[', ']']);
            inside = table.ends_with("dependencies") && !table.ends_with("dev-dependencies");
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(['=', '.'])
        {
            names.insert(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn rooms_depend_only_on_rooms_below_them() {
    for (room, allowed) in EDGES {
        let ours: BTreeSet<String> = dependencies(room).into_iter().filter(|name| name.starts_with("mks")).collect();
        let allowed: BTreeSet<String> = allowed.iter().map(ToString::to_string).collect();
        assert!(ours.is_subset(&allowed), "{room} depends on {ours:?}, but may only on {allowed:?}");
    }
    for plugin in crates().iter().filter(|name| name.starts_with("plugins/")) {
        let all = dependencies(plugin);
        let allowed = |name: &String| name == "mks-guest-sdk" || PLUGIN_CRATES.contains(&name.as_str());
        assert!(all.iter().all(allowed), "{plugin} depends on {all:?}");
    }
}

#[test]
fn a_heavy_crate_has_one_door() {
    for room in crates() {
        let names = dependencies(&room);
        for (heavy, doors) in DOORS {
            let family = |name: &String| name == heavy || name.starts_with(&format!("{heavy}-"));
            assert!(doors.contains(&room.as_str()) || !names.iter().any(family), "{room} depends on {heavy}");
        }
    }
}

#[test]
fn the_logic_can_not_reach_the_world() {
    let text = read(&root().join("host/logic/src/lib.rs"));
    assert!(text.contains("no_std"), "without the standard library there is no clock, socket, disk or thread");
    let mut files = Vec::new();
    rust_files(&root().join("host/logic/src"), &mut files);
    for file in files {
        for (number, line) in read(&file).lines().enumerate() {
            let code = without_comment(line);
            let hash = code.contains("HashMap") || code.contains("HashSet");
            assert!(!hash, "{}:{}: iterates in random order", file.display(), number + 1);
        }
    }
}

#[test]
fn no_file_grows_beyond_one_idea() {
    let mut files = ["dev", "dev-machine.sh"].map(|name| root().join(name)).to_vec();
    for room in crates() {
        rust_files(&root().join(room), &mut files);
    }
    for file in files {
        let lines = read(&file).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines, the most is {FILE_LINES_MAX}", file.display());
    }
}

/// Words in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_map_names_every_crate_and_every_module() {
    let map = read(&root().join("ARCHITECTURE.md"));
    let names: BTreeSet<&str> = quoted(&map).collect();
    let mut missing = Vec::new();
    for room in crates() {
        if !names.iter().any(|name| name.trim_end_matches('/') == room) {
            missing.push(room.clone());
        }
        if !room.starts_with("host/") {
            continue;
        }
        for entry in std::fs::read_dir(root().join(&room).join("src")).expect("a room has sources").flatten() {
            let module = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
            let empty =
                entry.path().is_dir() && std::fs::read_dir(entry.path()).is_ok_and(|mut dir| dir.next().is_none());
            if !matches!(module.as_str(), "lib" | "main" | "testing") && !empty && !names.contains(module.as_str()) {
                missing.push(format!("{room}: {module}"));
            }
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name: {missing:#?}");
}

#[test]
fn the_tables_of_modules_name_no_ghosts() {
    let map = read(&root().join("ARCHITECTURE.md"));
    for section in map.split("\n### `").skip(1) {
        let room = section.split('`').next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        for module in rows.filter_map(|row| row.split('|').nth(1)).flat_map(quoted) {
            let place = root().join(room).join("src").join(module);
            assert!(place.is_dir() || place.with_extension("rs").is_file(), "{room} has no module {module}");
        }
    }
}

#[test]
fn the_map_and_the_readme_name_no_ghosts() {
    for page in ["ARCHITECTURE.md", "README.md"] {
        let text = read(&root().join(page));
        let code = quoted(&text).filter(|name| !name.contains(char::is_whitespace));
        let links =
            text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://"));
        let rooms = ["host/", "proto/", "guest-sdk/", "plugins/", "tests/", "docs/"];
        let paths = code.filter(|name| rooms.iter().any(|room| name.starts_with(room))).chain(links);
        for path in paths {
            let path = path.split('#').next().unwrap_or_default();
            // A wildcard stands for all files that fit.
            let fixed = path.split('*').next().unwrap_or_default();
            assert!(root().join(fixed).exists(), "{page} names {path}, and there is no such thing");
        }
    }
}
