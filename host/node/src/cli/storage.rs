//! `storage migrate`: a stopped node's data, copied to another engine or behind other adapters.
//!
//! A node does the same by itself when its config names another chain. This is for operators who want to see it done,
//! and its outcome, before the node starts.

use super::client::Failure;
use super::output::{Output, progress, table};
use crate::adapters::{self, Chosen};
use crate::boot;
use crate::config::{Config, Flag, Sources};
use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar};
use mks_sandbox::{Sandbox, SandboxOptions};
use mks_store::{Engine, Migrated, Stack, Swapping, TableSum};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// `mks storage`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum StorageCommand {
    /// Copy a stopped node's data to another engine, or behind other adapters
    Migrate(MigrateArgs),
}

/// `mks storage migrate`
///
/// Chains are written as in the config: a name, names with commas, or a TOML list with options and secrets. The copy is
/// read back and compared before it takes the place of what was there; a kill on the way leaves the data as they were.
#[derive(Clone, Debug, Args)]
pub(super) struct MigrateArgs {
    /// The node's configuration file
    #[arg(long, env = "MKS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps its data, if no file says so
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What wrote the data; refused if that is not so. Needed where secrets are [default: what the directory says]
    #[arg(long, value_name = "CHAIN")]
    from: Option<String>,
    /// What is to have them [default: storage.adapter of the configuration]
    #[arg(long, value_name = "CHAIN")]
    to: Option<String>,
}

pub(super) fn storage(command: &StorageCommand, output: &Output) -> Result<(), Failure> {
    let StorageCommand::Migrate(args) = command;
    migrate(args, output)
}

fn migrate(args: &MigrateArgs, output: &Output) -> Result<(), Failure> {
    let to = args.load("--to", args.to.as_deref(), &[])?;
    let data_dir = &to.node.data_dir;
    ensure_there(&to)?;
    let _lock = boot::lock(data_dir)?;
    let directory = data_dir.join("plugins");
    let sandbox = Sandbox::new(SandboxOptions { directory, ..SandboxOptions::default() });
    let sandbox = sandbox.context("can't start the plugin sandbox")?;
    let found = mks_store::stack_of(&adapters::store_directory(&to)).map_err(anyhow::Error::from)?;
    let found = found.with_context(|| format!("{} holds no store", data_dir.display()))?;
    let Chosen { options, mut adapters, .. } = adapters::choose(&to, &sandbox)?;
    if let Some(chain) = &args.from {
        // The engine's options are those of the new one.
        let from = args.load("--from", Some(chain), &[("storage.options", "{}")])?;
        let from = adapters::choose(&from, &sandbox)?;
        check_from(&from.adapters.stack(from.options.engine), &found)?;
        adapters.earlier.extend(from.adapters.chain);
    }
    let asked = adapters.stack(options.engine);
    let (began, bar) = (Instant::now(), progress("copying", Some(0)));
    let migrated = mks_store::migrate(&options, &adapters, &mut |swapping| show(&bar, &swapping));
    bar.finish_and_clear();
    let migrated = migrated.map_err(anyhow::Error::from)?;
    let seconds = began.elapsed().as_secs_f64();
    output.result(&report(migrated.as_ref(), &asked, seconds), |_| match &migrated {
        None => format!("{} is {asked} already; nothing was copied", data_dir.display()),
        Some(migrated) => text(migrated, seconds),
    })
}

/// A copy in memory would be gone at once, and what is not there is no data of a node.
fn ensure_there(config: &Config) -> anyhow::Result<()> {
    let data_dir = &config.node.data_dir;
    ensure!(data_dir.is_dir(), "there is no data directory {}", data_dir.display());
    let engine = config.storage.adapter.0.last().map(|link| link.adapter.to_string());
    ensure!(engine.as_deref() != Some(Engine::Memory.name()), "the engine memory keeps nothing: name another one");
    Ok(())
}

fn check_from(said: &Stack, found: &Stack) -> anyhow::Result<()> {
    if said == found { Ok(()) } else { Err(anyhow!("the data are of {found}, and not of {said}: nothing was changed")) }
}

impl MigrateArgs {
    /// The configuration with this chain.
    fn load(&self, name: &str, chain: Option<&str>, more: &[(&str, &str)]) -> Result<Config, Failure> {
        let flag = |name: &str, field: &str, value: &str| Flag {
            name: name.to_owned(),
            field: field.to_owned(),
            value: value.to_owned(),
        };
        let mut flags: Vec<Flag> = more.iter().map(|(field, value)| flag(name, field, value)).collect();
        if self.config.is_none() {
            // The data know whose they are; nothing here asks.
            flags.push(flag("--data-dir", "node.id", "1"));
        }
        flags.extend(self.data_dir.as_deref().map(|directory| flag("--data-dir", "node.data_dir", directory)));
        flags.extend(chain.map(|chain| flag(name, "storage.adapter", chain)));
        let environment = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        let sources = Sources { file: self.config.clone(), environment: environment.collect(), flags };
        Config::load(&sources).map_err(|error| Failure::Usage(error.to_string()))
    }
}

/// Copying is the first half, reading it back the second.
fn show(bar: &ProgressBar, swapping: &Swapping) -> bool {
    let half = swapping.about.max(swapping.entries);
    bar.set_length(2 * half);
    bar.set_message(if swapping.checking { "comparing" } else { "copying" });
    bar.set_position(swapping.entries + if swapping.checking { half } else { 0 });
    true
}

fn report(migrated: Option<&Migrated>, asked: &Stack, seconds: f64) -> Value {
    let stack = |stack: &Stack| json!({ "engine": stack.engine.name(), "adapters": stack.forms });
    let Some(Migrated { from, to, tables, bytes_before, bytes_after }) = migrated else {
        return json!({ "copied": false, "to": stack(asked) });
    };
    let table = |sum: &TableSum| {
        let TableSum { table, entries, digest } = sum;
        json!({ "table": table.name(), "entries": entries, "digest": format!("{digest:016x}") })
    };
    json!({
        "copied": true, "from": stack(from), "to": stack(to), "tables": tables.iter().map(table).collect::<Vec<_>>(),
        "bytes_before": bytes_before, "bytes_after": bytes_after, "seconds": seconds,
    })
}

fn text(Migrated { from, to, tables, bytes_before, bytes_after }: &Migrated, seconds: f64) -> String {
    let mut rows = table(&["table", "entries", "digest"]);
    for TableSum { table, entries, digest } in tables {
        rows.add_row([table.name().to_owned(), entries.to_string(), format!("{digest:016x}")]);
    }
    let (before, after) = (HumanBytes(*bytes_before), HumanBytes(*bytes_after));
    format!(
        "from {from}\nto   {to}\n{rows}\ncopied and compared in {seconds:.1} s; {before} on the disk before, {after} now. \
         The node's storage.adapter must say the same when it starts."
    )
}
