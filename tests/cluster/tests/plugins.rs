//! A plugin author with nothing but the binary: from an empty folder to a checked component.

use mks_tests_cluster::{Output, mks, mks_patiently, skipped};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A folder that keeps what a compiler or npm has put there from run to run, and nothing else.
pub(crate) fn folder(name: &str, kept: &str) -> (PathBuf, impl Fn()) {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let (folder, aside) = (place.join(name), place.join(format!("{name}.{kept}")));
    std::fs::create_dir_all(&place).unwrap();
    if folder.join(kept).is_dir() {
        std::fs::rename(folder.join(kept), &aside).unwrap();
    }
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let back = folder.join(kept);
    (folder, move || {
        if aside.is_dir() {
            std::fs::rename(&aside, &back).unwrap();
        }
    })
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Builds the plugin in a folder; `Err` when this machine lacks what that needs.
pub(crate) fn build(folder: &str) -> Result<Value, String> {
    let built = mks_patiently(&["plugin", "build", folder, "--json"]);
    let lacks = ["there is none. Do one of these", "failed to download", "can't run", "npm install", "network"];
    if built.status != 0 && lacks.iter().any(|words| built.stderr.contains(words)) {
        return Err(built.stderr.trim().lines().last().unwrap_or("it said nothing").to_owned());
    }
    assert_eq!(built.status, 0, "{built:?}");
    Ok(json(&built))
}

/// Builds a plugin under a name and a version, of this source.
pub(crate) fn build_as(
    folder: &Path,
    file: &str,
    (name, version): (&str, &str),
    source: &str,
) -> Result<PathBuf, String> {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let (before, after) = manifest.split_once("version = \"").unwrap();
    let (_, after) = after.split_once('"').unwrap();
    std::fs::write(folder.join("Cargo.toml"), format!("{before}version = \"{version}\"{after}")).unwrap();
    std::fs::write(folder.join("src/lib.rs"), source).unwrap();
    let built = build(&folder.to_string_lossy())?;
    assert_eq!((built["name"].as_str(), built["version"].as_str()), (Some(name), Some(version)));
    let component = folder.join(file);
    std::fs::rename(built["file"].as_str().unwrap(), &component).unwrap();
    Ok(component)
}

#[test]
fn a_resolver_in_rust_goes_from_an_empty_folder_to_a_checked_component_and_a_broken_law_is_shown() {
    let (folder, keep) = folder("biggest", "target");
    let place = folder.to_string_lossy();
    let made = mks(&["plugin", "new", "biggest", "--directory", &place]);
    assert_eq!(made.status, 0, "{made:?}");
    assert!(made.text().contains("mks plugin build"), "{made:?}");
    keep();
    let built = match build(&place) {
        Ok(built) => built,
        Err(reason) => return skipped("a_resolver_in_rust_goes_from_an_empty_folder_to_a_checked_component", &reason),
    };
    assert_eq!((&built["kind"], &built["name"]), (&"resolver".into(), &"biggest".into()));
    let component = built["file"].as_str().unwrap();
    let checked = mks(&["plugin", "check", component, "--cases", "500", "--json"]);
    assert_eq!(checked.status, 0, "{checked:?}");
    let report = json(&checked);
    assert_eq!((&report["laws"]["kept"], &report["laws"]["cases"]), (&true.into(), &500.into()), "{report}");
    assert_eq!(report["hash"], built["hash"]);
    assert!(report["figures"]["calls"][0]["median_ns"].as_u64().unwrap() > 0, "{report}");

    let source = folder.join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    let rule = "conflict.keep_max_by_key(|version| (version.size, version.written, version.digest))";
    assert!(text.contains(rule));
    std::fs::write(&source, text.replace(rule, "Verdict::Keep(conflict.len() / 2)")).unwrap();
    build(&place).unwrap();
    let broken = mks(&["plugin", "check", component, "--json"]);
    assert_eq!(broken.status, 1, "{broken:?}");
    let report = json(&broken);
    let (law, seed) = (&report["laws"]["law"], report["laws"]["seed"].to_string());
    assert!(broken.stderr.contains(&format!("--seed {seed} --cases 1")), "{broken:?}");
    let again = mks(&["plugin", "check", component, "--json", "--seed", &seed, "--cases", "1"]);
    assert_eq!((again.status, &json(&again)["laws"]["law"]), (1, law), "the seed shows it again: {again:?}");
}

#[test]
fn a_resolver_in_javascript_is_built_and_checked_too() {
    let (folder, keep) = folder("biggest-js", "node_modules");
    let place = folder.to_string_lossy();
    let made = mks(&["plugin", "new", "biggest-js", "--lang", "js", "--directory", &place]);
    assert_eq!(made.status, 0, "{made:?}");
    keep();
    let built = match build(&place) {
        Ok(built) => built,
        Err(reason) => return skipped("a_resolver_in_javascript_is_built_and_checked_too", &reason),
    };
    let checked = mks(&["plugin", "check", built["file"].as_str().unwrap(), "--cases", "20", "--json"]);
    let report = json(&checked);
    assert_eq!((checked.status, &report["laws"]["kept"]), (0, &true.into()), "{report}");
    let imports = report["imports"].as_array().unwrap();
    assert!(imports.iter().all(|import| import.as_str().unwrap().starts_with("my-key-store:")), "{imports:?}");
}

#[test]
fn a_resolver_in_c_is_built_and_checked_too_and_the_same_source_is_the_same_component() {
    let home = tempfile::tempdir().unwrap();
    let mut hashes = Vec::new();
    for directory in ["first", "second"] {
        let place = home.path().join(directory).to_string_lossy().into_owned();
        let made = mks(&["plugin", "new", "biggest-c", "--lang", "c", "--directory", &place]);
        assert_eq!(made.status, 0, "{made:?}");
        match build(&place) {
            Ok(built) => hashes.push(built["hash"].clone()),
            Err(reason) => return skipped("a_resolver_in_c_is_built_and_checked_too", &reason),
        }
    }
    assert_eq!(hashes[0], hashes[1]);

    let folder = home.path().join("first");
    let component = folder.join("biggest-c.wasm").to_string_lossy().into_owned();
    let checked = mks(&["plugin", "check", &component, "--cases", "500", "--json"]);
    let report = json(&checked);
    assert_eq!((checked.status, &report["laws"]["kept"]), (0, &true.into()), "{report}");
    let imports = report["imports"].as_array().unwrap();
    assert!(imports.iter().all(|import| import.as_str().unwrap().starts_with("my-key-store:common/")), "{imports:?}");

    let source = folder.join("plugin.c");
    let text = std::fs::read_to_string(&source).unwrap();
    for (good, bad, said) in [
        ("size_t start = 0;", "size_t start = 0; puts(\"hi\");", "'puts'"),
        ("void exports_resolve_describe(", "void described(", "undefined symbol: exports_resolve_describe"),
        ("#include \"resolver.h\"", "#include \"cart.h\"", "#include \"value_resolver.h\""),
    ] {
        assert!(text.contains(good));
        std::fs::write(&source, text.replace(good, bad)).unwrap();
        let refused = mks_patiently(&["plugin", "build", &folder.to_string_lossy()]);
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
}

#[test]
fn what_is_no_component_and_what_is_there_already_are_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    std::fs::write(home.path().join("text.wasm"), "no component").unwrap();
    let refusals: [(&[&str], i32, &str); 7] = [
        (&["plugin", "check", &path("text.wasm")], 1, "no valid WebAssembly component"),
        (&["plugin", "check", &path("nothing.wasm")], 1, "can't be read"),
        (&["plugin", "new", "Big_One"], 2, "use 1 to 64 of a-z"),
        (&["plugin", "new", "big", "--directory", &path("")], 1, "choose another name"),
        (&["plugin", "new", "big", "--lang", "python"], 2, "--lang c"),
        (&["plugin", "new", "big", "--lang", "c", "--world", "datatype"], 2, "--world resolver only"),
        (&["plugin", "build", &path("")], 1, "mks plugin new"),
    ];
    for (arguments, status, said) in refusals {
        let refused = mks(arguments);
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
}
