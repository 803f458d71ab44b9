//! From a plugin's sources to a component, as `mks plugin build` does it.

mod c;

pub use c::bindings as c_bindings;

use crate::toolchain;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wit_component::ComponentEncoder;

/// What of jco's options makes a component that asks the node for nothing.
const JCO: [&str; 5] = ["--backend", "quickjs", "--backend-qjs-stub-wasi", "--backend-qjs-disable-async", "--out"];

/// Makes a component of the plugin in `directory`: a library crate in Rust, JavaScript beside a package.json, or C
/// beside its contracts. What the tools say goes to stderr.
///
/// # Errors
/// When tools are missing, the plugin does not compile, or what it exports is no world of ours.
pub fn component(directory: &Path) -> Result<Vec<u8>> {
    let shown = directory.display();
    let is_there = |file: &str| directory.join(file).is_file();
    let canonical = || directory.canonicalize().with_context(|| format!("can't use {shown}"));
    if is_there("package.json") && is_there("plugin.js") {
        javascript(&canonical()?)
    } else if is_there("Cargo.toml") {
        let module = module(&canonical()?)?;
        let bytes = std::fs::read(&module).with_context(|| format!("can't read {}", module.display()))?;
        encode(&bytes)
    } else if is_there("plugin.c") {
        encode(&c::module(&canonical()?)?)
    } else {
        bail!("{shown} has no Cargo.toml, package.json or plugin.c: name a plugin's directory, or `mks plugin new` one")
    }
}

/// A component with the QuickJS engine in it, by jco, which npm installs into the plugin's directory the first time.
fn javascript(directory: &Path) -> Result<Vec<u8>> {
    let manifest = std::fs::read_to_string(directory.join("package.json")).context("can't read package.json")?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).context("package.json is no JSON")?;
    let world = manifest.pointer("/config/world").and_then(serde_json::Value::as_str);
    let world = world.context("package.json names no world: add \"config\": { \"world\": \"resolver\" }")?;
    if !directory.join("node_modules/@bytecodealliance/jco").is_dir() {
        run(directory, "npm", &["install", "--no-fund", "--no-audit"])?;
    }
    let output = tempfile::NamedTempFile::new().context("can't make a temporary file")?;
    let file = output.path().to_str().context("the temporary directory's name is no text")?;
    let mut arguments = vec!["--no-install", "jco", "componentize", "plugin.js", "--wit", "wit", "--world-name", world];
    arguments.extend(JCO);
    arguments.push(file);
    run(directory, "npx", &arguments)?;
    std::fs::read(output.path()).context("can't read what jco has written")
}

/// Runs a tool of Node.js; its words go to stderr, so that stdout stays ours.
fn run(directory: &Path, tool: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(tool).args(arguments).current_dir(directory).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("can't run {tool}: plugins in JavaScript need Node.js 20 or later"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        bail!("{tool} {} failed ({}): {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(())
}

/// Makes a component of a core module that carries the types of its world, as the guest SDK puts them there.
///
/// # Errors
/// When it is no module, or exports no world.
pub fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(ComponentEncoder::encode)
        .context("can't make a component of the compiled module: does the crate use an export macro of the SDK?")
}

/// Compiles and gives the module's file.
fn module(directory: &Path) -> Result<PathBuf> {
    let toolchain = toolchain::find().map_err(anyhow::Error::msg)?;
    let mut cargo = toolchain.cargo_build(directory, &directory.join("target/plugin"));
    cargo.args(["--lib", "--message-format=json-render-diagnostics"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = cargo.output().context("can't run cargo")?;
    if !output.status.success() {
        bail!("the plugin does not compile ({}); the compiler's words are above", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    // The crate itself is compiled last.
    let modules = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let files = message.get("filenames")?.as_array()?.clone();
        files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    });
    modules.context("the crate makes no module: its Cargo.toml needs `[lib] crate-type = [\"cdylib\", \"rlib\"]`")
}
