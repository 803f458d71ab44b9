//! `plugin`: make, build, check and measure plugins on this machine, and install them on a running cluster.

mod check;
mod live;
mod new;
mod shadow;

pub(super) use live::live;

use super::client::Failure;
use super::output::{Output, progress};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use mks_sandbox::{Sandbox, SandboxOptions, make};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

/// `mks plugin`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum PluginCommand {
    #[command(flatten)]
    Local(LocalCommand),
    #[command(flatten)]
    Live(live::LiveCommand),
}

/// The part of `mks plugin` that asks no node.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum LocalCommand {
    /// Make the crate of a new plugin: it builds, and its tests pass
    New(new::NewArgs),
    /// Compile a plugin's crate and make a component of it
    Build(BuildArgs),
    /// Check a component as a cluster would: imports, limits, laws, cost
    Check(check::CheckArgs),
    /// Measure a component's calls
    Bench(check::BenchArgs),
}

/// `mks plugin build`
#[derive(Clone, Debug, Args)]
pub(super) struct BuildArgs {
    /// The crate's directory
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Where to write the component [default: NAME.wasm in the crate's directory]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn local(command: &LocalCommand, output: &Output) -> Result<(), Failure> {
    match command {
        LocalCommand::New(args) => new::new(args, output),
        LocalCommand::Build(args) => build(args, output),
        LocalCommand::Check(args) => check::check(args, output),
        LocalCommand::Bench(args) => check::bench(args, output),
    }
}

fn build(args: &BuildArgs, output: &Output) -> Result<(), Failure> {
    let begin = Instant::now();
    let bytes = make::component(&args.directory)?;
    let (_home, sandbox) = sandbox()?;
    // What is built must be what a node would take: better to hear it now.
    let plugin = sandbox.inspect("this plugin", &bytes).map_err(anyhow::Error::from)?;
    let about = check::About::of(&plugin, &bytes);
    let file = args.output.clone().unwrap_or_else(|| args.directory.join(format!("{}.wasm", about.name)));
    std::fs::write(&file, &bytes).with_context(|| format!("can't write {}", file.display()))?;
    let took = begin.elapsed();
    let result = json!({
        "file": file, "kind": about.kind, "name": about.name, "version": about.version, "hash": about.hash,
        "bytes": bytes.len(), "ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    output.result(&result, |_| {
        format!(
            "{}: {} {} {}, {} bytes, in {:.1} s\nnext: mks plugin check {}",
            file.display(),
            about.kind,
            about.name,
            about.version,
            bytes.len(),
            took.as_secs_f64(),
            file.display()
        )
    })
}

/// A sandbox with a node's own limits, in a directory that goes with it.
fn sandbox() -> Result<(TempDir, Arc<Sandbox>), Failure> {
    let home = tempfile::tempdir().context("can't make a temporary directory")?;
    let options = SandboxOptions { directory: home.path().join("plugins"), ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).map_err(anyhow::Error::from)?;
    Ok((home, sandbox))
}

/// The component's bytes, and how errors call it.
fn read(sandbox: &Sandbox, file: &Path) -> Result<(String, Vec<u8>), Failure> {
    let bytes = sandbox.read(file).map_err(anyhow::Error::from)?;
    Ok((file.display().to_string(), bytes))
}
