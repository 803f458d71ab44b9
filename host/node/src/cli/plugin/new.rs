//! `plugin new`: a crate that builds and whose tests pass, from an empty folder.
//!
//! The SDK and the contracts come with this binary and are laid beside the crate, so that nobody needs a checkout of
//! my-key-store, and the plugin is built against exactly what a node of this version speaks.

use crate::cli::client::Failure;
use crate::cli::output::Output;
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use mks_sandbox::make;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `mks plugin new`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct NewArgs {
    /// Its name: 1 to 64 of a-z, 0-9 and `-`, a letter first
    name: String,
    /// What it is
    #[arg(long, value_enum, default_value_t = World::Resolver)]
    world: World,
    /// The language
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    /// Where to make it [default: a directory of that name]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Kinds of plugins that have a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum World {
    /// Settles conflicts by what is known about versions
    Resolver,
    /// Settles conflicts by their values
    ValueResolver,
    /// A value that clients change by operations
    Datatype,
    /// Configures a storage engine
    StorageAdapter,
    /// Sees values on their way to a storage engine
    ValueAdapter,
}

/// Languages that have a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Lang {
    /// All worlds; small and fast
    Rust,
    /// The world `resolver`; 1.6 MB, for the engine comes along
    Js,
    /// The world `resolver`; 4 KB, and no C library
    C,
    /// None: its components are too large for a node, and it says by how much
    Python,
}

/// A file of the repository, at the same place below `sdk` in a new crate.
macro_rules! sdk {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../../", $path)))),*]
    };
}

/// Everything that the guest SDK is made of. A test compares this with what is there.
const SDK: &[(&str, &str)] = sdk![
    "guest-sdk/Cargo.toml",
    "guest-sdk/src/adapter.rs",
    "guest-sdk/src/arena.rs",
    "guest-sdk/src/bindings.rs",
    "guest-sdk/src/codec.rs",
    "guest-sdk/src/data_type.rs",
    "guest-sdk/src/lib.rs",
    "guest-sdk/src/resolver.rs",
    "guest-sdk/src/testing.rs",
    "guest-sdk/src/value_adapter.rs",
    "guest-sdk/src/values.rs",
    "guest-sdk/laws/Cargo.toml",
    "guest-sdk/laws/src/data_type.rs",
    "guest-sdk/laws/src/history.rs",
    "guest-sdk/laws/src/law.rs",
    "guest-sdk/laws/src/lib.rs",
    "guest-sdk/laws/src/random.rs",
    "guest-sdk/laws/src/resolver.rs",
    "guest-sdk/laws/src/shrink.rs",
    "proto/plugin/common.wit",
    "proto/plugin/datatype.wit",
    "proto/plugin/resolver.wit",
    "proto/plugin/storage-adapter.wit",
];
/// The workspace that the SDK's crates inherit from.
const WORKSPACE: &str = include_str!("../../../../../Cargo.toml");
/// What of the workspace's `[workspace.dependencies]` the SDK uses.
const DEPENDENCY: &str = "wit-bindgen";

/// Why there is no template for Python; measured with componentize-py 0.25 and its `--stub-wasi`.
const NO_PYTHON: &str = "plugins in Python are too large for a node: componentize-py makes 18 MB of a small resolver, as \
    the interpreter comes along (6 MB of code, 11 MB of its memory), and a node takes 4 MiB. Use --lang c, js or rust";

const MANIFEST: &str = include_str!("../../../templates/Cargo.toml.txt");
const IGNORED: &str = "/target\n/sdk/target\n*.wasm\n";

pub(super) fn new(args: &NewArgs, output: &Output) -> Result<(), Failure> {
    if !is_name(&args.name) {
        let what = format!("`{}` is no name of a plugin: use 1 to 64 of a-z, 0-9 and `-`, a letter first", args.name);
        return Err(Failure::Usage(what));
    }
    let directory = args.directory.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let files = match (args.lang, args.world) {
        (Lang::Rust, world) => files(&args.name, world),
        (Lang::Js, World::Resolver) => javascript(&args.name),
        (Lang::C, World::Resolver) => c(&args.name),
        (Lang::Python, _) => return Err(Failure::Usage(NO_PYTHON.to_owned())),
        (Lang::Js | Lang::C, _) => {
            let what = "that language has a template for --world resolver only; the contracts of the other worlds are in \
                        the sdk/proto/plugin of a plugin in Rust";
            return Err(Failure::Usage(what.to_owned()));
        }
    };
    write(&directory, &files)?;
    if matches!(args.lang, Lang::C) {
        // An editor wants the headers before the first build.
        make::c_bindings(&directory)?;
    }
    let shown = directory.display().to_string();
    let result = json!({ "directory": directory, "files": files.iter().map(|(path, _)| path).collect::<Vec<_>>() });
    output.result(&result, |_| {
        let name = &args.name;
        let test = if matches!(args.lang, Lang::Rust) { "\n  cargo test" } else { "" };
        format!("{shown} is there. Next:\n  cd {shown}{test}\n  mks plugin build\n  mks plugin check {name}.wasm")
    })
}

fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&name.len())
        && name.bytes().all(known)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
}

/// All files of a new crate, by their paths in it.
fn files(name: &str, world: World) -> Vec<(String, String)> {
    let library = match world {
        World::Resolver => include_str!("../../../templates/resolver.rs.txt"),
        World::ValueResolver => include_str!("../../../templates/value-resolver.rs.txt"),
        World::Datatype => include_str!("../../../templates/datatype.rs.txt"),
        World::StorageAdapter => include_str!("../../../templates/storage-adapter.rs.txt"),
        World::ValueAdapter => include_str!("../../../templates/value-adapter.rs.txt"),
    };
    let mut files = vec![
        ("Cargo.toml".to_owned(), MANIFEST.replace("{name}", name)),
        ("src/lib.rs".to_owned(), library.replace("{name}", name)),
        (".gitignore".to_owned(), IGNORED.to_owned()),
        ("sdk/Cargo.toml".to_owned(), workspace()),
    ];
    files.extend(SDK.iter().map(|(path, text)| (format!("sdk/{path}"), (*text).to_owned())));
    files
}

/// The same for JavaScript: the source, what npm installs, and the contracts.
fn javascript(name: &str) -> Vec<(String, String)> {
    let mut files = vec![
        ("plugin.js".to_owned(), include_str!("../../../templates/resolver.js.txt").replace("{name}", name)),
        ("package.json".to_owned(), include_str!("../../../templates/package.json.txt").replace("{name}", name)),
        (".gitignore".to_owned(), "/node_modules\n*.wasm\n".to_owned()),
    ];
    files.extend(contracts());
    files
}

/// The same for C: the source and the contracts, of which bindings are made.
fn c(name: &str) -> Vec<(String, String)> {
    let mut files = vec![
        ("plugin.c".to_owned(), include_str!("../../../templates/resolver.c.txt").replace("{name}", name)),
        (".gitignore".to_owned(), "/gen\n*.wasm\n".to_owned()),
    ];
    files.extend(contracts());
    files
}

/// The contracts of resolvers, as tools of other languages look for them.
fn contracts() -> impl Iterator<Item = (String, String)> {
    let contract = |file: &str| SDK.iter().find(|(path, _)| path.ends_with(file)).map(|(_, text)| (*text).to_owned());
    let contracts = [("wit/resolver.wit", "/resolver.wit"), ("wit/deps/common/common.wit", "/common.wit")];
    contracts.into_iter().filter_map(move |(path, file)| Some((path.to_owned(), contract(file)?)))
}

/// The workspace of the SDK alone: the package's table, and what its crates depend on.
fn workspace() -> String {
    let tables = ["[workspace.package]", "[workspace.lints.rust]"];
    let mut text =
        "# The guest SDK of my-key-store, as it was when this plugin was made.\n[workspace]\nresolver = \"3\"\n\
                    members = [\"guest-sdk\", \"guest-sdk/laws\"]\n"
            .to_owned();
    let mut copies = false;
    for line in WORKSPACE.lines() {
        if line.starts_with('[') {
            copies = tables.contains(&line);
            text.push_str(if copies { "\n" } else { "" });
        }
        if copies && !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    let version = WORKSPACE.lines().find(|line| line.starts_with(DEPENDENCY)).unwrap_or_default();
    text.push_str("\n[workspace.dependencies]\nmks-laws = { path = \"guest-sdk/laws\" }\n");
    text.push_str(version);
    text.push('\n');
    text
}

/// Writes into a directory that is empty or not there.
fn write(directory: &Path, files: &[(String, String)]) -> anyhow::Result<()> {
    let shown = directory.display();
    let taken = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if taken || directory.is_file() {
        bail!("{shown} is there and not empty, and is left as it is: choose another name, or --directory");
    }
    for (path, text) in files {
        let file = directory.join(path);
        let parent = file.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn files_below(root: &Path, directory: &str, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(root.join(directory)).expect("there").flatten() {
            let path = format!("{directory}/{}", entry.file_name().display());
            match entry.path().is_dir() {
                true => files_below(root, &path, into),
                false => drop(into.insert(path)),
            }
        }
    }

    #[test]
    fn the_whole_sdk_comes_with_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels below the root");
        let mut there = BTreeSet::from(["guest-sdk/Cargo.toml".to_owned(), "guest-sdk/laws/Cargo.toml".to_owned()]);
        ["guest-sdk/src", "guest-sdk/laws/src", "proto/plugin"]
            .iter()
            .for_each(|room| files_below(root, room, &mut there));
        let embedded: BTreeSet<String> = SDK.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(embedded, there);
    }

    #[test]
    fn the_sdks_workspace_says_all_that_its_crates_inherit() {
        let parsed: toml::Table = workspace().parse().expect("TOML");
        let workspace = &parsed["workspace"];
        let bindgen = &workspace["dependencies"]["wit-bindgen"];
        assert!(bindgen.get("version").is_some(), "{bindgen}");
        for (path, text) in SDK.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
            let crate_: toml::Table = text.parse().expect("TOML");
            for (key, value) in crate_["package"].as_table().expect("a table") {
                let inherits = value.get("workspace").is_some();
                assert!(!inherits || workspace["package"].get(key).is_some(), "{path} inherits {key}");
            }
            for (name, _) in crate_.get("dependencies").and_then(toml::Value::as_table).into_iter().flatten() {
                assert!(workspace["dependencies"].get(name).is_some(), "{path} depends on {name}");
            }
        }
    }

    #[test]
    fn a_javascript_plugin_has_its_source_and_the_contracts() {
        let files = javascript("biggest");
        let text =
            |path: &str| files.iter().find(|(file, _)| file == path).map(|(_, text)| text.as_str()).expect("there");
        assert!(text("plugin.js").contains("name: \"biggest\""));
        assert!(text("wit/resolver.wit").contains("world resolver"));
        assert!(text("wit/deps/common/common.wit").contains("package my-key-store:common"));
        let manifest: serde_json::Value = serde_json::from_str(text("package.json")).expect("JSON");
        assert_eq!((&manifest["name"], &manifest["config"]["world"]), (&json!("biggest"), &json!("resolver")));
    }

    #[test]
    fn a_plugin_in_c_has_its_source_and_headers_of_its_world() {
        let home = tempfile::tempdir().expect("a directory");
        write(home.path(), &c("biggest")).expect("a new one");
        make::c_bindings(home.path()).expect("bindings");
        let text = |path: &str| std::fs::read_to_string(home.path().join(path)).expect("there");
        assert!(text("plugin.c").contains("resolver_string_dup(&info->name, \"biggest\")"));
        let header = text("gen/resolver.h");
        for function in ["void exports_resolve_describe(", "void exports_resolve_by_metadata("] {
            assert!(header.contains(function) && text("plugin.c").contains(function), "{function}: {header}");
        }
        assert!(text("gen/stdlib.h").contains("malloc") && home.path().join("gen/resolver_component_type.o").is_file());
    }

    #[test]
    fn names_are_those_that_a_node_takes_and_cargo_too() {
        for name in ["a", "longest", "cart-2", "x1"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "A", "1a", "-a", "a-", "a--b", "a_b", "a b", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_directory_that_holds_something_is_left_alone() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("mine"), "mine").expect("writable");
        let error = write(home.path(), &files("x", World::Resolver)).expect_err("not empty");
        assert!(error.to_string().contains("left as it is"), "{error}");
        write(&home.path().join("new"), &files("x", World::Datatype)).expect("a new one");
        assert!(home.path().join("new/sdk/guest-sdk/src/lib.rs").is_file());
    }
}
