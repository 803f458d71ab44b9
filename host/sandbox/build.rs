//! Builds the plugins that are part of every node for `wasm32-unknown-unknown` and turns them into components.
//!
//! A nested cargo does it, with a target directory of its own, so that it neither waits for the outer one nor shares
//! its flags. The components land in `OUT_DIR`, from where the library embeds them; no binary is kept in the
//! repository.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs};
use wit_component::ComponentEncoder;

#[path = "src/toolchain.rs"]
mod toolchain;

/// The built-in resolvers: directories below `plugins`, and what they call themselves. The first one is the default.
const RESOLVERS: [(&str, &str); 4] = [
    ("lww", "lww"),
    ("first-write-wins", "first-write-wins"),
    ("longest", "longest"),
    ("keep-siblings", "keep-siblings"),
];
/// The built-in storage adapters, the same way.
const ADAPTERS: [(&str, &str); 4] =
    [("fjall-adapter", "fjall"), ("rocksdb-adapter", "rocksdb"), ("compress", "compress"), ("encrypt", "encrypt")];
/// The built-in data types, the same way.
const DATA_TYPES: [(&str, &str); 6] = [
    ("g-counter", "g-counter"),
    ("hyperloglog", "hyperloglog"),
    ("lww-map", "lww-map"),
    ("max", "max"),
    ("or-set", "or-set"),
    ("pn-counter", "pn-counter"),
];
/// The built-in resolvers that merge siblings for readers, the same way.
const MERGERS: [(&str, &str); 1] = [("cart-merge", "cart-merge")];
/// What else of the repository the components are made from.
const SOURCES: [&str; 3] = ["Cargo.lock", "guest-sdk", "proto/plugin"];

fn main() -> Result<()> {
    let room = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?);
    let root = room.ancestors().nth(2).context("host/sandbox lies two levels below the root")?.to_path_buf();
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    for (directory, _) in plugins() {
        println!("cargo::rerun-if-changed={}", root.join("plugins").join(directory).display());
    }
    for script in ["build.rs", "src/toolchain.rs"] {
        println!("cargo::rerun-if-changed={}", room.join(script).display());
    }
    println!("cargo::rerun-if-env-changed=RUSTUP_AUTO_INSTALL");

    let target_dir = guests_dir(&out, &root);
    build(&root, &target_dir)?;
    for (directory, name) in plugins() {
        let module = format!("mks_plugin_{}.wasm", directory.replace('-', "_"));
        let module = target_dir.join(toolchain::TARGET).join("release").join(module);
        encode(&module, &out.join(format!("{name}.wasm")))
            .with_context(|| format!("cannot make the component `{name}`"))?;
    }
    let mut tables = String::new();
    for (table, plugins) in [
        ("RESOLVERS", &RESOLVERS[..]),
        ("MERGERS", &MERGERS[..]),
        ("ADAPTERS", &ADAPTERS[..]),
        ("DATA_TYPES", &DATA_TYPES[..]),
    ] {
        let rows: Vec<String> = plugins.iter().map(|(_, name)| format!("builtin!({name:?})")).collect();
        writeln!(tables, "pub(crate) const {table}: &[Builtin] = &[{}];", rows.join(", "))?;
    }
    fs::write(out.join("builtin.rs"), tables).context("cannot write the tables of what is built in")
}

/// Directory and name of all that is built.
fn plugins() -> impl Iterator<Item = (&'static str, &'static str)> {
    RESOLVERS.into_iter().chain(MERGERS).chain(ADAPTERS).chain(DATA_TYPES)
}

/// Shared by all profiles of the outer build: the guests are the same for all of them. Not shared by two checkouts that
/// have one target directory: the modules carry no hash in their names, one would embed what the other has built.
fn guests_dir(out: &Path, root: &Path) -> PathBuf {
    let mut checkout = DefaultHasher::new();
    root.hash(&mut checkout);
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    out.ancestors().nth(4).unwrap_or(out).join("guests").join(format!("{:016x}", checkout.finish()))
}

fn build(root: &Path, target_dir: &Path) -> Result<()> {
    let toolchain = toolchain::find().map_err(anyhow::Error::msg)?;
    let mut cargo = toolchain.cargo_build(root, target_dir);
    cargo.arg("--locked");
    for (directory, _) in plugins() {
        cargo.arg(format!("--package=mks-plugin-{directory}"));
    }
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "building the plugins failed ({status}); the compiler's words are above");
    Ok(())
}

fn encode(module: &Path, component: &Path) -> Result<()> {
    let module = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let bytes = ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    fs::write(component, bytes).with_context(|| format!("cannot write {}", component.display()))
}
