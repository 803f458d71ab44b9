//! `storage migrate`: a stopped node's data, copied to another engine or behind other adapters. `storage verify` and
//! `promote`: a stopped node's data, compared with their shadow on a second engine, and exchanged for it.
//!
//! A node copies by itself when its config names another chain. This is for operators who want to see it done, and its
//! outcome, before the node starts.

use super::client::Failure;
use super::output::{Output, progress, table};
use super::units;
use crate::adapters::{self, Chosen};
use crate::boot;
use crate::config::{Config, Flag, Sources};
use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar};
use mks_proto::v1::StoreShadow;
use mks_sandbox::{Sandbox, SandboxOptions};
use mks_store::{Difference, Engine, Migrated, Options, Stack, Swapping, TableCompared, TableSum, Verified};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// `mks storage`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum StorageCommand {
    /// Copy a stopped node's data to another engine, or behind other adapters
    Migrate(MigrateArgs),
    /// Compare a stopped node's data with their shadow on the engine of storage.shadow: all tables, every entry
    Verify(Place),
    /// Compare, and if nothing differs, let the shadow take the place of the data
    ///
    /// The node must name its engine in storage.adapter from then on. Until it has started, the data that were there
    /// before lie beside it: a config that names their engine gets them back.
    Promote(Place),
}

/// Where a stopped node keeps its data.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// The node's configuration file
    #[arg(long, env = "MKS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps its data, if no file says so
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

/// `mks storage migrate`
///
/// Chains are written as in the config: a name, names with commas, or a TOML list with options and secrets. The copy is
/// read back and compared before it takes the place of what was there; a kill on the way leaves the data as they were.
#[derive(Clone, Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    place: Place,
    /// What wrote the data; refused if that is not so. Needed where secrets are [default: what the directory says]
    #[arg(long, value_name = "CHAIN")]
    from: Option<String>,
    /// What is to have them [default: storage.adapter of the configuration]
    #[arg(long, value_name = "CHAIN")]
    to: Option<String>,
}

pub(super) fn storage(command: &StorageCommand, output: &Output) -> Result<(), Failure> {
    match command {
        StorageCommand::Migrate(args) => migrate(args, output),
        StorageCommand::Verify(place) => verify(place, false, output),
        StorageCommand::Promote(place) => verify(place, true, output),
    }
}

fn migrate(args: &MigrateArgs, output: &Output) -> Result<(), Failure> {
    let to = args.place.load("--to", args.to.as_deref(), &[])?;
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
        let from = args.place.load("--from", Some(chain), &[("storage.options", "{}")])?;
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

/// Compares a store with its shadow, and exchanges the two if they are the same and `promotes` says so.
fn verify(place: &Place, promotes: bool, output: &Output) -> Result<(), Failure> {
    let config = place.load("", None, &[])?;
    ensure_there(&config)?;
    let _lock = boot::lock(&config.node.data_dir)?;
    let options = Options { directory: adapters::store_directory(&config), ..Options::default() };
    let (began, bar) = (Instant::now(), progress("comparing", Some(0)));
    let mut watch = |verified: &Verified| {
        bar.set_length(verified.about.max(verified.entries()));
        bar.set_position(verified.entries());
    };
    let work = if promotes { mks_store::promote } else { mks_store::verify };
    let verified = work(&options, &mut watch);
    bar.finish_and_clear();
    let verified = verified.map_err(anyhow::Error::from)?;
    let same = verified.differing() == 0;
    let (seconds, promoted) = (began.elapsed().as_secs_f64(), promotes && same);
    output.result(&verified_json(&verified, promoted, seconds), |_| verified_text(&verified, promoted, seconds))?;
    if same {
        return Ok(());
    }
    let (differing, entries) = (verified.differing(), verified.entries());
    let unchanged = if promotes { "; nothing was exchanged" } else { "" };
    Err(anyhow!("the store and its shadow DIFFER in {differing} of {entries} entries{unchanged}").into())
}

impl Place {
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

fn stack_json(stack: &Stack) -> Value {
    json!({ "engine": stack.engine.name(), "adapters": stack.forms })
}

fn report(migrated: Option<&Migrated>, asked: &Stack, seconds: f64) -> Value {
    let Some(Migrated { from, to, tables, bytes_before, bytes_after }) = migrated else {
        return json!({ "copied": false, "to": stack_json(asked) });
    };
    let table = |sum: &TableSum| {
        let TableSum { table, entries, digest } = sum;
        json!({ "table": table.name(), "entries": entries, "digest": format!("{digest:016x}") })
    };
    json!({
        "copied": true, "from": stack_json(from), "to": stack_json(to), "tables": tables.iter().map(table).collect::<Vec<_>>(),
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

fn verified_json(verified: &Verified, promoted: bool, seconds: f64) -> Value {
    let table = |compared: &TableCompared| {
        let TableCompared { table, entries, differing } = compared;
        json!({ "table": table.name(), "entries": entries, "differing": differing })
    };
    let sample = |Difference { table, key, how }: &Difference| json!({ "table": table.name(), "key": key.escape_ascii().to_string(), "how": how.name() });
    json!({
        "same": verified.differing() == 0, "promoted": promoted, "entries": verified.entries(),
        "differing": verified.differing(), "store": stack_json(&verified.store), "shadow": stack_json(&verified.shadow),
        "tables": verified.tables.iter().map(table).collect::<Vec<_>>(),
        "samples": verified.samples.iter().map(sample).collect::<Vec<_>>(),
        "store_bytes": verified.store_bytes, "shadow_bytes": verified.shadow_bytes, "seconds": seconds,
    })
}

fn verified_text(verified: &Verified, promoted: bool, seconds: f64) -> String {
    let mut rows = table(&["table", "entries", "differing"]);
    for TableCompared { table, entries, differing } in &verified.tables {
        rows.add_row([table.name().to_owned(), entries.to_string(), differing.to_string()]);
    }
    let (store, shadow) = (&verified.store, &verified.shadow);
    let (store_bytes, shadow_bytes) = (HumanBytes(verified.store_bytes), HumanBytes(verified.shadow_bytes));
    let mut text = format!("store  {store}, {store_bytes} on the disk\nshadow {shadow}, {shadow_bytes}\n{rows}\n");
    for sample in &verified.samples {
        text += &format!("DIFFERS: {sample}\n");
    }
    let entries = verified.entries();
    if verified.differing() == 0 {
        text += &format!("the two are the same: {entries} entries compared in {seconds:.1} s");
    }
    if promoted {
        let engine = shadow.engine;
        text += &format!(
            ". The shadow has taken the place of the store: the node's storage.adapter must name {engine} when it starts, \
             and storage.shadow something else or nothing. Until then, to name {} brings the store back that was there.",
            store.engine
        );
    }
    text
}

/// The shadow of a running node's store, for scripts.
pub(super) fn shadow_json(shadow: &StoreShadow) -> Value {
    json!({
        "engine": shadow.engine, "state": shadow.state, "reason": shadow.reason, "batches": shadow.batches,
        "lag": shadow.lag, "queue_bytes": shadow.queue_bytes, "filled": shadow.filled, "compared": shadow.compared,
        "differing": shadow.differing, "samples": shadow.samples, "store_write_us": shadow.store_write_us,
        "write_us": shadow.write_us, "disk_bytes": shadow.disk_bytes,
    })
}

/// The same in one line.
pub(super) fn shadow_text(shadow: &StoreShadow) -> String {
    let StoreShadow { engine, state, reason, batches, lag, filled, compared, differing, .. } = shadow;
    let state = match state.as_str() {
        "filling" => format!("is being filled, {filled} entries so far"),
        "behind" => format!("HAS ENDED, it was too slow: {reason}"),
        "failed" => format!("HAS FAILED: {reason}"),
        state => format!("is {state}"),
    };
    // What it has not written yet, the store has.
    let of_store = shadow.store_write_us as f64 / (batches + lag) as f64;
    let speed = match shadow.write_us as f64 / *batches as f64 / of_store {
        times if times.is_finite() => format!(", a batch takes it {times:.1} times as long as the store"),
        _ => String::new(),
    };
    let disk = units::bytes(shadow.disk_bytes);
    format!(
        "shadow: {engine} {state}; {lag} batches behind, {compared} entries compared, {differing} differ{speed}, {disk} on \
         disk"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_is_one_line_that_says_how_it_does() {
        let following = StoreShadow {
            engine: "rocksdb".into(),
            state: "following".into(),
            batches: 90,
            lag: 10,
            compared: 5,
            store_write_us: 1_000,
            write_us: 1_800,
            ..StoreShadow::default()
        };
        let text = shadow_text(&following);
        assert!(
            text.starts_with("shadow: rocksdb is following; 10 batches behind, 5 entries compared, 0 differ"),
            "{text}"
        );
        assert!(text.contains("2.0 times as long") && !text.contains('\n'), "{text}");
        let failed =
            StoreShadow { state: "failed".into(), reason: "the disk is full".into(), ..StoreShadow::default() };
        let text = shadow_text(&failed);
        assert!(text.contains("HAS FAILED: the disk is full") && !text.contains("times"), "{text}");
        assert_eq!(shadow_json(&failed)["reason"], "the disk is full");
    }
}
