//! The modules of `logic` form a list, not a web: each imports only what stands above it.

use crate::{product_code, read, root, rust_files};
use std::collections::BTreeSet;
use std::path::Path;

const LOGIC: &str = "host/logic/src";

/// The modules of a crate, in the order in which its lib.rs declares them.
fn declared(lib: &str) -> Vec<&str> {
    lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect()
}

/// The modules that `code` names after `crate::`, alone or in a group.
fn imported(code: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(heads(group)),
            None => drop(names.insert(word(rest))),
        }
    }
    names
}

/// The first name of each path in a group of imports whose brace is open.
fn heads(group: &str) -> Vec<&str> {
    let (mut depth, mut names) = (0, vec![word(group)]);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len())]
}

/// Imports of `module` that do not stand above it.
fn upward<'a>(order: &[&str], module: &str, code: &'a str) -> Vec<&'a str> {
    let place = |name: &str| order.iter().position(|listed| *listed == name);
    imported(code).into_iter().filter(|name| place(name) > place(module)).collect()
}

#[test]
fn each_module_of_the_logic_imports_only_modules_above_it() {
    let lib = read(&root().join(LOGIC).join("lib.rs"));
    let order = declared(&lib);
    assert!(order.len() > 10, "the list of modules was not found");
    let mut wrong = Vec::new();
    for module in &order {
        let directory = root().join(LOGIC).join(module);
        let mut files = vec![directory.with_extension("rs")];
        files.retain(|file| file.is_file());
        rust_files(&directory, &mut files);
        assert!(!files.is_empty(), "{module} is declared, but has no file");
        for file in files.iter().filter(|file| !is_test(file)) {
            let text = read(file);
            let code = product_code(&text);
            assert!(!code.contains("super::super::"), "{}: write crate:: so that the order shows", file.display());
            wrong.extend(upward(&order, module, &code).into_iter().map(|name| format!("{module} imports {name}")));
        }
    }
    assert!(wrong.is_empty(), "in {LOGIC}/lib.rs's order: {wrong:#?}");
}

/// Tests may look at everything.
fn is_test(file: &Path) -> bool {
    file.file_stem().is_some_and(|stem| stem == "tests") || file.components().any(|part| part.as_os_str() == "tests")
}

#[test]
fn an_import_from_below_is_seen_in_every_form() {
    let order = ["low", "middle", "high"];
    assert_eq!(upward(&order, "middle", "use crate::low::A;\nuse crate::middle::b::C;"), [""; 0]);
    assert_eq!(upward(&order, "middle", "use crate::high::A;"), ["high"]);
    assert_eq!(upward(&order, "middle", "fn f() { crate::high() }"), ["high"]);
    assert_eq!(upward(&order, "middle", "use crate::{low::{A, high}, other, high::B};"), ["high"]);
    assert_eq!(upward(&order, "low", "pub(crate) use crate::{\n    middle,\n    high,\n};"), ["high", "middle"]);
}
