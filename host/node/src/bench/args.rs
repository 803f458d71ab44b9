//! What a benchmark can be told.

use super::workload::Distribution;
use crate::cli::{DurabilityArg, duration};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::Duration;

const NOTES: &str = "\
Every operation is put or get of one key. The latency of an operation is the time from when it was due until its answer
is here: with --rate it counts from the moment the plan says, so that a stalled node can't hide behind a waiting client.
--limits measures, in the same run, what moving the messages costs without storage (three processes of this binary)
and what the raw engine costs, and compares: limit = messages + 3 engine writes per put, + 2 engine reads per get.";

/// `mks bench`
#[derive(Clone, Debug, Args)]
#[command(after_help = NOTES)]
pub struct BenchArgs {
    /// Operations under way at the same time, over all nodes
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536), value_name = "COUNT")]
    pub(super) concurrency: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 1_024, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1 << 26))]
    pub(super) value_size: u32,
    /// Number of different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub(super) keys: u64,
    /// Share of reads, 0 to 1
    #[arg(long, default_value_t = 0.5, value_parser = share, value_name = "SHARE")]
    pub(super) reads: f64,
    /// Which keys
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(super) distribution: Distribution,
    /// How skewed zipfian is
    #[arg(long, default_value_t = 0.99, value_name = "EXPONENT")]
    pub(super) skew: f64,
    /// Time before figures count
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub(super) warmup: Duration,
    /// Time that counts
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(super) duration: Duration,
    /// What acknowledgements promise; left out: what the keyspace says
    #[arg(long, value_enum)]
    pub(super) durability: Option<DurabilityArg>,
    /// How to talk to the nodes
    #[arg(long, value_enum, default_value_t = Link::Session)]
    pub(super) client: Link,
    /// Operations per second to offer; left out: as many as are answered
    #[arg(long, value_name = "OPS", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// How long the nodes may take for one operation
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(super) deadline: Option<Duration>,
    /// Put every key once before the warm-up
    #[arg(long)]
    pub(super) fill: bool,
    /// Processes whose CPU counts: `auto` finds nodes on this machine by their ports, `none`, or ids with commas
    #[arg(long, default_value = "auto", value_parser = server_pids, value_name = "PIDS")]
    pub(super) pids: ServerPids,
    /// Measure the limits as well, and compare
    #[arg(long)]
    pub(super) limits: bool,
    /// Where --limits tries the engine; left out: the directory for temporary files
    #[arg(long, value_name = "DIR", requires = "limits")]
    pub(super) engine_dir: Option<std::path::PathBuf>,
    /// Keyspace
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(super) keyspace: String,
    /// Same seed, same keys in the same order
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

impl BenchArgs {
    /// What clap can't see: each is fine, together they are not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.duration < Duration::from_millis(100) {
            return Err("--duration is less than 100ms; nothing can be measured in that".to_owned());
        }
        if self.distribution == Distribution::Zipfian && !(self.skew > 0.0 && self.skew <= 10.0) {
            return Err(format!("--skew is {}, but must be above 0 and at most 10", self.skew));
        }
        Ok(())
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1".to_owned()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.1..=1e8).contains(&rate) { Ok(rate) } else { Err("must be from 0.1 to 100,000,000".to_owned()) }
}

fn server_pids(text: &str) -> Result<ServerPids, String> {
    match text {
        "auto" => Ok(ServerPids::Auto),
        "none" => Ok(ServerPids::None),
        ids => {
            let ids: Result<_, _> = ids.split(',').map(|id| id.trim().parse::<u32>()).collect();
            ids.map(ServerPids::These)
                .map_err(|_| format!("{text:?} is neither auto, none nor process ids with commas"))
        }
    }
}

/// Whose CPU is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerPids {
    /// Whoever listens on the addresses, if it is on this machine.
    Auto,
    /// Nobody's.
    None,
    /// Theirs.
    These(Vec<u32>),
}

/// How the generator talks to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Link {
    /// One stream per node, pipelined
    Session,
    /// One gRPC call per operation
    Unary,
}
