//! `plugin install`, `list`, `show`, `alter`, `remove`: plugins of a running cluster.

use super::shadow;
use crate::cli::client::{Client, Failure, Retry, signed};
use crate::cli::output::{Output, progress, table};
use crate::cli::units;
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures_util::stream;
use mks_logic::port::Role;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::alter_plugin_request::Change;
use mks_proto::v1::{
    AlterPluginRequest, InstallPluginProgress, InstallPluginRequest, ListPluginsRequest, ListPluginsResponse, Plugin,
    PluginHere, PluginQuarantine, RemovePluginRequest,
};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::Channel;

type Admin = AdminClient<Channel>;

/// One piece of an upload.
const PIECE_BYTES: usize = 256 << 10;
/// No component is larger, whatever a node takes: such a file is not even read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Digits of a hash that name a plugin, at least.
const DIGITS_MIN: usize = 8;
/// Digits of a hash that tables show.
const DIGITS_SHOWN: usize = 12;

/// The part of `mks plugin` that asks a node.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum LiveCommand {
    /// Upload a component to the cluster, and wait until every node has it
    Install(InstallArgs),
    /// Show the plugins of the cluster
    List,
    /// Show what is known about a plugin
    Show {
        /// name@version, its name, or the first digits of its hash
        plugin: String,
    },
    /// Put a plugin into quarantine, or let it out
    Alter(AlterArgs),
    /// Ask a resolver about the conflicts of a keyspace after another one has settled them, or no more: it decides
    /// nothing, and `show` tells where the two differ
    Shadow(shadow::ShadowArgs),
    /// Remove a plugin that no keyspace uses
    Remove {
        /// name@version, its name if there is one version of it, or the first digits of its hash
        plugin: String,
    },
}

/// `mks plugin install`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct InstallArgs {
    /// The component, as `mks plugin build` made it
    file: PathBuf,
    /// How long to wait for nodes that do not have it yet; it goes on without us
    #[arg(long, value_parser = units::duration, value_name = "TIME", default_value = "30s")]
    wait: Duration,
}

/// `mks plugin alter`
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true))]
pub(in crate::cli) struct AlterArgs {
    /// name@version, its name if there is one version of it, or the first digits of its hash
    plugin: String,
    /// Nobody asks it any more, for this reason; its keyspaces keep all versions
    #[arg(long, value_name = "REASON", group = "change")]
    quarantine: Option<String>,
    /// It may run again
    #[arg(long, group = "change")]
    release: bool,
}

pub(in crate::cli) async fn live(client: &Client, command: &LiveCommand, output: &Output) -> Result<(), Failure> {
    match command {
        LiveCommand::Install(args) => install(client, args, output).await,
        LiveCommand::List => {
            let all = listed(client).await?;
            output.result(&list_json(&all), |_| list_text(&all))
        }
        LiveCommand::Show { plugin } => show(client, plugin, output).await,
        LiveCommand::Alter(args) => alter(client, args, output).await,
        LiveCommand::Shadow(args) => shadow::shadow(client, args, output).await,
        LiveCommand::Remove { plugin } => {
            let ask = |mut admin: Admin| {
                let request = signed(RemovePluginRequest { plugin: plugin.clone() });
                async move { admin.remove_plugin(request).await }
            };
            let removed = client.admin(Retry::Write, ask).await?;
            let json = json!({ "plugin": removed.plugin, "epoch": removed.epoch });
            output.result(&json, |_| format!("{} is removed (epoch {})", removed.plugin, removed.epoch))
        }
    }
}

async fn install(client: &Client, args: &InstallArgs, output: &Output) -> Result<(), Failure> {
    let bytes = component(&args.file)?;
    let pieces: Vec<Bytes> = bytes.chunks(PIECE_BYTES).map(Bytes::copy_from_slice).collect();
    let (begin, total_bytes) = (Instant::now(), bytes.len() as u64);
    let bar = progress("uploading and checking", None);
    bar.enable_steady_tick(Duration::from_millis(200));
    let ask = |mut admin: Admin| {
        let uploads = pieces.clone().into_iter().map(move |piece| InstallPluginRequest { total_bytes, piece });
        let request = signed(stream::iter(uploads));
        async move { admin.install_plugin(request).await }
    };
    // The same code again changes nothing, so that another node may be asked.
    let asked = client.admin(Retry::Read, ask).await;
    bar.finish_and_clear();
    let Some(plugin) = armed(asked?, begin + args.wait).await? else {
        return Err(Failure::Local(anyhow!("the node stopped telling how far it is; see `mks plugin list`")));
    };
    let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut result = plugin_json(&plugin);
    result["ms"] = json!(took_ms);
    output.result(&result, |_| installed_text(&plugin, took_ms))?;
    if let Some(PluginQuarantine { node, reason, .. }) = &plugin.quarantine {
        return Err(Failure::Local(anyhow!("{} is in quarantine, as node {node} said: {reason}", name(&plugin))));
    }
    if plugin.armed.is_none() {
        return Err(Failure::Unfinished(format!(
            "{0} is installed, and no keyspace can use it yet: node {1} does not have it. Each node fetches it by itself as \
             soon as it can; see `mks plugin show {0}`",
            name(&plugin),
            numbers(&plugin.waits),
        )));
    }
    Ok(())
}

fn component(file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = || format!("{} can't be read", file.display());
    let bytes = std::fs::metadata(file).with_context(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        let large = units::bytes(bytes);
        return Err(Failure::Usage(format!(
            "{} has {large}: no component is that large; name the file that `mks plugin build` wrote",
            file.display()
        )));
    }
    Ok(std::fs::read(file).with_context(unreadable)?)
}

/// Follows an installation until it is armed, in quarantine, or the time is up: what was told last.
async fn armed(mut steps: Streaming<InstallPluginProgress>, deadline: Instant) -> Result<Option<Plugin>, Failure> {
    let bar = progress("nodes that have it", Some(0));
    let mut last = None;
    while let Ok(step) = tokio::time::timeout_at(deadline, steps.message()).await {
        match step {
            Ok(Some(InstallPluginProgress { plugin: Some(plugin) })) => {
                bar.set_length((plugin.holders.len() + plugin.waits.len()) as u64);
                bar.set_position(plugin.holders.len() as u64);
                last = Some(plugin);
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(status) if mks_proto::detail_of(&status).is_some() => {
                return Err(Failure::Local(anyhow!("{}", status.message())));
            }
            // The node may be restarting: what was told last is still so.
            Err(_) => break,
        }
    }
    bar.finish_and_clear();
    Ok(last)
}

async fn listed(client: &Client) -> Result<ListPluginsResponse, Failure> {
    let ask = |mut admin: Admin| async move { admin.list_plugins(ListPluginsRequest {}).await };
    client.admin(Retry::Read, ask).await
}

async fn show(client: &Client, wanted: &str, output: &Output) -> Result<(), Failure> {
    let all = listed(client).await?;
    let fits = |plugin: &&Plugin| {
        plugin.name == wanted
            || name(plugin) == wanted
            || (wanted.len() >= DIGITS_MIN && plugin.hash.starts_with(wanted))
    };
    let shown: Vec<&Plugin> = all.plugins.iter().filter(fits).collect();
    if shown.is_empty() {
        let known: Vec<String> = all.plugins.iter().map(name).collect();
        let known = if known.is_empty() { "no plugin at all".to_owned() } else { known.join(", ") };
        return Err(Failure::Local(anyhow!("there is no plugin {wanted:?}; the cluster has {known}")));
    }
    let json: Vec<Value> = shown.iter().map(|plugin| plugin_json(plugin)).collect();
    output.result(&json, |_| {
        let texts: Vec<String> = shown.iter().map(|plugin| show_text(plugin, all.node)).collect();
        texts.join("\n")
    })
}

async fn alter(client: &Client, args: &AlterArgs, output: &Output) -> Result<(), Failure> {
    let change = match &args.quarantine {
        Some(reason) => Change::Quarantine(reason.clone()),
        None => Change::Release(args.release),
    };
    let ask = |mut admin: Admin| {
        let request = signed(AlterPluginRequest { plugin: args.plugin.clone(), change: Some(change.clone()) });
        async move { admin.alter_plugin(request).await }
    };
    let altered = client.admin(Retry::Write, ask).await?;
    let plugin = altered.plugin.unwrap_or_default();
    output.result(&plugin_json(&plugin), |_| format!("{}: {} (epoch {})", name(&plugin), state(&plugin), altered.epoch))
}

/// As nodes call the role of a data type.
const DATA_TYPE: &str = Role::DataType.name();

/// `name@version`
pub(super) fn name(plugin: &Plugin) -> String {
    format!("{}@{}", plugin.name, plugin.version)
}

fn numbers(nodes: &[u64]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn state(plugin: &Plugin) -> String {
    match (&plugin.quarantine, plugin.armed) {
        (Some(_), _) => "QUARANTINE".to_owned(),
        (None, Some(_)) if plugin.waits.is_empty() => "armed".to_owned(),
        (None, Some(_)) => format!("armed, node {} fetches it", numbers(&plugin.waits)),
        (None, None) => format!("waits for node {}", numbers(&plugin.waits)),
    }
}

pub(super) fn plugin_json(plugin: &Plugin) -> Value {
    let here = plugin.here.clone().unwrap_or_default();
    json!({
        "plugin": name(plugin), "name": plugin.name, "version": plugin.version, "hash": plugin.hash,
        "role": plugin.role, "bytes": plugin.bytes, "holders": plugin.holders, "waits": plugin.waits, "armed": plugin.armed,
        "quarantine": plugin.quarantine.as_ref().map(|quarantine| json!({
            "node": quarantine.node, "reason": quarantine.reason, "since_epoch": quarantine.since_epoch,
        })),
        "keyspaces": plugin.keyspaces, "shadows": plugin.shadows.iter().map(shadow::json).collect::<Vec<_>>(),
        "here": {
            "ready": here.ready, "fetched_bytes": here.fetched_bytes,
            "missing": if here.missing.is_empty() { None } else { Some(here.missing) },
            "calls": here.calls, "conflicts": here.conflicts, "failures": here.failures,
        },
    })
}

fn list_json(all: &ListPluginsResponse) -> Value {
    json!({
        "node": all.node, "fingerprint": all.fingerprint,
        "plugins": all.plugins.iter().map(plugin_json).collect::<Vec<_>>(),
    })
}

/// The keyspaces that it settles, and those that it shadows.
fn used(plugin: &Plugin) -> String {
    let shadows = plugin.shadows.iter().map(|shadow| format!("{} (shadow)", shadow.keyspace));
    plugin.keyspaces.iter().cloned().chain(shadows).collect::<Vec<_>>().join(", ")
}

fn list_text(all: &ListPluginsResponse) -> String {
    let ListPluginsResponse { plugins, fingerprint, node } = all;
    if plugins.is_empty() {
        return "no plugins: keyspaces use what is part of every node; `mks plugin install FILE` adds one".to_owned();
    }
    let mut rows = table(&["plugin", "state", "nodes", "keyspaces", "size", "hash"]);
    for plugin in plugins {
        rows.add_row([
            name(plugin),
            state(plugin),
            numbers(&plugin.holders),
            used(plugin),
            units::bytes(plugin.bytes),
            plugin.hash.chars().take(DIGITS_SHOWN).collect(),
        ]);
    }
    let mut text = format!("{rows}\n");
    for plugin in plugins {
        if let Some(PluginQuarantine { node, reason, .. }) = &plugin.quarantine {
            let _ = writeln!(text, "{} is in quarantine, as node {node} said: {reason}", name(plugin));
        }
    }
    text + &format!("fingerprint of node {node}'s plugin directory: {fingerprint}")
}

fn show_text(plugin: &Plugin, node: u64) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let mut line = |what: &str, said: &str| {
        let _ = writeln!(text, "{what:<10} {said}");
    };
    line("plugin", &name(plugin));
    line("hash", &plugin.hash);
    line("role", &plugin.role);
    line("size", &units::bytes(plugin.bytes));
    line("state", &state(plugin));
    if let Some(PluginQuarantine { node, reason, since_epoch }) = &plugin.quarantine {
        line("", &format!("since epoch {since_epoch}, as node {node} said: {reason}"));
    }
    if let Some(epoch) = plugin.armed {
        line("", &format!("keyspaces may use it since epoch {epoch}"));
    }
    line("nodes", &numbers(&plugin.holders));
    line("keyspaces", if plugin.keyspaces.is_empty() { "none" } else { "" });
    plugin.keyspaces.iter().for_each(|keyspace| line("", keyspace));
    let PluginHere { ready, fetched_bytes, missing, calls, conflicts, failures } =
        plugin.here.clone().unwrap_or_default();
    let here = if ready && plugin.role == DATA_TYPE {
        format!("ready; {calls} calls since the start, {failures} of them failed")
    } else if ready {
        format!("ready; {conflicts} conflicts settled in {calls} calls since the start, {failures} calls failed")
    } else if missing.is_empty() {
        format!("on its way, {} so far", units::bytes(fetched_bytes))
    } else {
        format!("NOT here: {missing}")
    };
    line(&format!("on node {node}"), &here);
    let shadows = plugin.shadows.iter().map(|shadow| shadow::lines(shadow, &name(plugin), node));
    for lines in shadows {
        for (i, said) in lines.iter().enumerate() {
            line(if i == 0 { "shadows" } else { "" }, said);
        }
    }
    text
}

fn installed_text(plugin: &Plugin, took_ms: u64) -> String {
    let (name, took) = (name(plugin), took_ms as f64 / 1_000.0);
    let size = units::bytes(plugin.bytes);
    let mut text = format!("{name}: {size}, {}, in {took:.1} s\nBLAKE3 {}", state(plugin), plugin.hash);
    if plugin.armed.is_some() && plugin.quarantine.is_none() {
        let option = if plugin.role == DATA_TYPE { "--datatype" } else { "--resolver" };
        let _ = write!(
            text,
            "\nnext: mks keyspace create NAME {option} {name}\n  or: mks keyspace alter NAME {option} {name}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin() -> Plugin {
        Plugin {
            hash: "ab".repeat(32),
            name: "biggest".into(),
            version: "1.2.0".into(),
            bytes: 2_048,
            holders: vec![1, 2],
            waits: vec![3],
            ..Plugin::default()
        }
    }

    #[test]
    fn a_plugin_says_who_it_waits_for_and_what_comes_next() {
        let waiting = installed_text(&plugin(), 1_234);
        assert!(waiting.contains("biggest@1.2.0: 2.0 KiB, waits for node 3, in 1.2 s"), "{waiting}");
        assert!(!waiting.contains("next:"), "{waiting}");
        let armed = Plugin { holders: vec![1, 2, 3], waits: vec![], armed: Some(9), ..plugin() };
        let text = installed_text(&armed, 900);
        assert!(text.contains("--resolver biggest@1.2.0"), "{text}");
        let typed = installed_text(&Plugin { role: DATA_TYPE.into(), ..armed.clone() }, 900);
        assert!(typed.contains("create NAME --datatype biggest@1.2.0"), "{typed}");
        let json = plugin_json(&armed);
        assert_eq!((&json["armed"], &json["quarantine"]), (&json!(9), &Value::Null));
    }

    #[test]
    fn a_quarantine_is_seen_wherever_one_looks() {
        let quarantine = PluginQuarantine { node: 2, reason: "it trapped".into(), since_epoch: 12 };
        let bad = Plugin { quarantine: Some(quarantine), armed: Some(9), keyspaces: vec!["seats".into()], ..plugin() };
        let all = ListPluginsResponse { plugins: vec![bad.clone()], fingerprint: "f0".into(), node: 1 };
        for text in [list_text(&all), show_text(&bad, 1)] {
            assert!(text.contains("QUARANTINE") && text.contains("node 2 said: it trapped"), "{text}");
            assert!(text.contains("seats"), "{text}");
        }
        assert!(!installed_text(&bad, 1).contains("next:"));
        assert!(list_text(&ListPluginsResponse::default()).contains("mks plugin install"));
    }

    #[test]
    fn what_a_node_lacks_is_said() {
        let lacks = |here| show_text(&Plugin { here: Some(here), ..plugin() }, 3);
        let missing = lacks(PluginHere { missing: "its file is gone".into(), ..PluginHere::default() });
        assert!(missing.contains("NOT here: its file is gone"), "{missing}");
        let coming = lacks(PluginHere { fetched_bytes: 1_024, ..PluginHere::default() });
        assert!(coming.contains("1.0 KiB so far"), "{coming}");
    }
}
