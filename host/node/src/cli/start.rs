//! `start` and `config`: from flags, environment and file to a running node.

use super::client::Failure;
use super::output::Output;
use crate::boot;
use crate::config::{Config, EXAMPLE, Flag, LogFormat, Sources};
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum as _};
use serde_json::json;
use std::path::PathBuf;

/// `mks start`. Everything that a file can say can be said here; flags win.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct StartArgs {
    /// Configuration file; `mks config example` prints one with every setting
    #[arg(long, env = "MKS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's number, from 1 up, unique in the cluster
    #[arg(long, value_name = "NUMBER")]
    id: Option<String>,
    /// Where this node keeps its data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Failure domain of this node
    #[arg(long)]
    zone: Option<String>,
    /// Share of the data relative to other nodes; 100 is usual
    #[arg(long, value_name = "NUMBER")]
    weight: Option<String>,
    /// Threads that serve requests
    #[arg(long, value_name = "COUNT")]
    workers: Option<String>,
    /// Where to listen for clients (gRPC)
    #[arg(long, value_name = "IP:PORT")]
    listen_client: Option<String>,
    /// Where to listen for other nodes (gRPC, and gossip on UDP)
    #[arg(long, value_name = "IP:PORT")]
    listen_peer: Option<String>,
    /// Where to listen for HTTP
    #[arg(long, value_name = "IP:PORT")]
    listen_http: Option<String>,
    /// Host name or IP under which others reach this node
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Found a new cluster if the data directory is empty
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Peer addresses of some nodes of the cluster to join
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    join: Vec<String>,
    /// How many nodes must have joined before keys are spread over them
    #[arg(long, value_name = "COUNT")]
    expect: Option<String>,
    /// File with the cluster's key
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// Storage adapter: fjall, rocksdb, memory, or a component file; several with commas, the last one names the engine
    #[arg(long, value_name = "NAME|FILE")]
    adapter: Option<String>,
    /// For whom log lines are
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or directives such as info,mks=debug
    #[arg(long)]
    log_level: Option<String>,
    /// Added to the wall clock, for tests of skewed clocks
    #[arg(long, hide = true, allow_hyphen_values = true, value_name = "MILLISECONDS")]
    test_clock_offset_ms: Option<String>,
    /// Any setting: limits.value_bytes_max=1000000
    #[arg(long, value_name = "SECTION.FIELD=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (field, value) = text.split_once('=').ok_or("use SECTION.FIELD=VALUE")?;
    Ok((field.trim().to_owned(), value.to_owned()))
}

/// `mks config`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a file with every setting, its default and what it is for
    Example,
    /// Check file, environment and flags as `start` would, and start nothing
    Check(Box<StartArgs>),
}

impl StartArgs {
    fn sources(&self) -> Sources {
        // A variable that is no UTF-8 can't be one of ours: all our names and values are text.
        let environment = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        Sources { file: self.config.clone(), environment: environment.collect(), flags: self.flags() }
    }

    fn flags(&self) -> Vec<Flag> {
        let flag = |name: &str, field: &str, value: String| Flag { name: name.into(), field: field.into(), value };
        let named = [
            ("--id", "node.id", &self.id),
            ("--data-dir", "node.data_dir", &self.data_dir),
            ("--zone", "node.zone", &self.zone),
            ("--weight", "node.weight", &self.weight),
            ("--workers", "node.workers", &self.workers),
            ("--listen-client", "listen.client", &self.listen_client),
            ("--listen-peer", "listen.peer", &self.listen_peer),
            ("--listen-http", "listen.http", &self.listen_http),
            ("--advertise", "listen.advertise", &self.advertise),
            ("--expect", "cluster.expect", &self.expect),
            ("--key-file", "cluster.key_file", &self.key_file),
            ("--adapter", "storage.adapter", &self.adapter),
            ("--log-level", "log.level", &self.log_level),
            ("--test-clock-offset-ms", "node.test_clock_offset_ms", &self.test_clock_offset_ms),
        ];
        let given = named.into_iter().filter_map(|(name, field, value)| Some((name, field, value.clone()?)));
        let mut flags: Vec<_> = given.map(|(name, field, value)| flag(name, field, value)).collect();
        if self.bootstrap {
            flags.push(flag("--bootstrap", "cluster.bootstrap", "true".to_owned()));
        }
        if !self.join.is_empty() {
            flags.push(flag("--join", "cluster.join", self.join.join(",")));
        }
        if let Some(format) = self.log_format.and_then(|format| format.to_possible_value()) {
            flags.push(flag("--log-format", "log.format", format.get_name().to_owned()));
        }
        flags.extend(self.set.iter().map(|(field, value)| flag("--set", field, value.clone())));
        flags
    }

    fn load(&self) -> Result<Config, Failure> {
        Config::load(&self.sources()).map_err(|error| Failure::Usage(error.to_string()))
    }
}

pub(super) fn start(args: &StartArgs) -> Result<(), Failure> {
    let config = args.load()?;
    start_log(&config)?;
    let runtime = runtime(config.node.workers).context("can't start the runtime")?;
    Ok(runtime.block_on(boot::run(config))?)
}

pub(super) fn config(command: &ConfigCommand, output: &Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Example => output.raw(EXAMPLE.as_bytes()),
        ConfigCommand::Check(args) => {
            let config = args.load()?;
            let node = config.node.id.0;
            output.result(&json!({ "ok": true, "node": node }), |_| format!("the configuration of node {node} is fine"))
        }
    }
}

/// One worker means one thread for everything: several nodes that share few cores lose a third of their throughput
/// to two (docs/benchmarks.md).
fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    if workers == 1 {
        return tokio::runtime::Builder::new_current_thread().enable_all().build();
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name("mks-worker").enable_all().build()
}

/// A plain level is about this program; the libraries below it speak up only when something is wrong.
fn directives(level: &str) -> String {
    if level.contains([',', '=']) {
        return level.to_owned();
    }
    format!("warn,openraft=error,mks={level},mks_store={level},mks_sandbox={level}")
}

/// Log lines go to stderr: stdout stays free for whoever pipes it.
fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(directives(&config.log.level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::People => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start the log: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StartArgs,
    }

    fn load(line: &str) -> Config {
        let args = Line::try_parse_from(line.split(' ')).unwrap().args;
        Config::load(&Sources { file: None, environment: Vec::new(), flags: args.flags() }).unwrap()
    }

    #[test]
    fn a_single_node_needs_three_flags() {
        let config = load("mks --id 1 --data-dir d --bootstrap");
        assert!(config.cluster.bootstrap);
        assert_eq!((config.node.id.0, config.cluster.expect), (1, 1));
        assert!(config.listen.client.ip().is_loopback());
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let config = load(
            "mks --id 2 --data-dir d --zone z --weight 50 --workers 2 --listen-client 127.0.0.1:1 --listen-peer \
             127.0.0.1:2 --listen-http 127.0.0.1:3 --advertise h --join a:1,b:2 --join c:3 --expect 3 --key-file k \
             --adapter memory --log-format json --log-level debug --set limits.disk_jobs_max=99 --set \
             storage.options.level=3",
        );
        assert_eq!((config.node.zone.as_str(), config.node.weight, config.node.workers), ("z", 50, 2));
        assert_eq!([config.listen.client, config.listen.peer, config.listen.http].map(|a| a.port()), [1, 2, 3]);
        assert_eq!(config.listen.advertise.as_deref(), Some("h"));
        assert_eq!(config.cluster.join, ["a:1", "b:2", "c:3"]);
        assert_eq!((config.cluster.expect, config.cluster.key_file), (3, Some("k".into())));
        assert_eq!(config.storage.adapter.to_string(), "memory");
        assert_eq!(config.storage.options["level"], "3");
        assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "debug"));
        assert_eq!(config.limits.disk_jobs_max, 99);
    }

    #[test]
    fn several_adapters_are_one_flag() {
        let config = load("mks --id 1 --data-dir d --bootstrap --adapter compress,fjall");
        assert_eq!(config.storage.adapter.to_string(), "compress, fjall");
    }
}
