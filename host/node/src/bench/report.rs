//! The figures of a run, for people and as JSON.

use super::args::{BenchArgs, Link};
use super::cpu::{Process, ServerCpu, Spent, resident_bytes};
use super::limits::Limits;
use super::load::Recorder;
use super::workload::Distribution;
use crate::cli::{Failure, connect, table};
use hdrhistogram::Histogram;
use mks_proto::v1::StatusRequest;
use mks_proto::v1::admin_client::AdminClient;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Above this many busy cores that are neither nodes nor client, the figures say more about the neighbours.
const FOREIGN_CORES_MAX: f64 = 0.2;

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) mean_us: f64,
    pub(super) p50_us: u64,
    pub(super) p90_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean_us: histogram.mean(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max(),
        }
    }
}

/// What was asked for, so that a stored report explains itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Settings {
    client: Link,
    concurrency: u32,
    value_size: u32,
    keys: u64,
    reads: f64,
    distribution: Distribution,
    durability: &'static str,
    rate: Option<f64>,
    seed: u64,
}

/// What the engines of the nodes did in the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct EngineWork {
    /// Batches applied, all nodes together.
    pub(super) batches: u64,
    /// Fsyncs, all nodes together.
    pub(super) fsyncs: u64,
    /// Owners' writes per fsync: what group commit is good for. Null without fsyncs.
    pub(super) writes_per_fsync: Option<f64>,
    /// Time that engines held writers back, microseconds.
    pub(super) stall_us: u64,
}

/// The result of `mks bench`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) settings: Settings,
    pub(super) seconds: f64,
    /// That worked within the window; the latencies also hold those that were answered after it.
    pub(super) operations: u64,
    pub(super) ops_per_s: f64,
    pub(super) put: Latency,
    pub(super) get: Latency,
    pub(super) all: Latency,
    /// Gets of keys that are not there.
    pub(super) absent: u64,
    pub(super) errors: BTreeMap<String, u64>,
    /// All nodes together; null where it can't be read.
    pub(super) server_cpu_us_per_op: Option<f64>,
    pub(super) client_cpu_us_per_op: f64,
    pub(super) foreign_cores: f64,
    pub(super) servers: Vec<ServerCpu>,
    /// What the nodes say they run, if they agree.
    pub(super) engine: Option<String>,
    pub(super) engine_work: Option<EngineWork>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limits: Option<Limits>,
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        recorder: &Recorder,
        operations: u64,
        elapsed: Duration,
        servers: &[Process],
        spent: &Spent,
        engines: Engines,
    ) -> Result<Self, Failure> {
        let mut all = recorder.puts.clone();
        all.add(&recorder.gets).map_err(anyhow::Error::from)?;
        let seconds = elapsed.as_secs_f64();
        let per_op = |us: u64| us as f64 / operations.max(1) as f64;
        let servers = servers.iter().zip(&spent.servers).map(|(process, cpu)| ServerCpu {
            pid: process.pid,
            address: process.address.clone(),
            cpu_us_per_op: cpu.map(per_op),
            resident_bytes: resident_bytes(process.pid),
        });
        Ok(Self {
            settings: Settings::new(args),
            seconds,
            operations,
            ops_per_s: operations as f64 / seconds,
            put: Latency::from(&recorder.puts),
            get: Latency::from(&recorder.gets),
            all: Latency::from(&all),
            absent: recorder.absent,
            errors: recorder.errors.clone(),
            server_cpu_us_per_op: spent.all_servers().map(per_op),
            client_cpu_us_per_op: per_op(spent.client),
            foreign_cores: spent.foreign_cores,
            servers: servers.collect(),
            engine: engines.name,
            engine_work: engines.work,
            limits: None,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut rows = table(&["", "count", "mean ms", "p50", "p90", "p99", "p99.9", "max"]);
        for (name, latency) in [("put", &self.put), ("get", &self.get), ("all", &self.all)] {
            if latency.count > 0 {
                rows.add_row(latency_row(name, latency));
            }
        }
        let mut text = format!("{rows}\n");
        // Writing to a String can't fail.
        let _ =
            writeln!(text, "{:.0} operations per second, {} in {:.1} s", self.ops_per_s, self.operations, self.seconds);
        if self.absent > 0 {
            let _ = writeln!(text, "{} gets found nothing (--fill puts every key first)", self.absent);
        }
        for (reason, count) in &self.errors {
            let _ = writeln!(text, "ERRORS: {count} x {reason}");
        }
        self.cpu_text(&mut text);
        if let Some(work) = &self.engine_work {
            let per_fsync =
                work.writes_per_fsync.map_or_else(String::new, |ratio| format!(" ({ratio:.1} writes each)"));
            let stall = work.stall_us as f64 / 1e3;
            let _ = writeln!(
                text,
                "engines: {} batches, {} fsyncs{per_fsync}, held back {stall:.1} ms",
                work.batches, work.fsyncs
            );
        }
        if let Some(limits) = &self.limits {
            limits_text(limits, &mut text);
        }
        text
    }

    fn cpu_text(&self, text: &mut String) {
        // Writing to a String can't fail, here and below.
        if self.operations == 0 {
            let _ = writeln!(text, "no operation worked, so there is no CPU per operation");
            return;
        }
        let client = self.client_cpu_us_per_op;
        let nodes = self.servers.len();
        let servers = match self.server_cpu_us_per_op {
            Some(servers) => format!("{servers:.1} us on {nodes} nodes together"),
            None if self.servers.is_empty() => "unknown on the nodes (name them with --pids)".to_owned(),
            None => "unknown on the nodes, as one of them is gone".to_owned(),
        };
        let _ = writeln!(text, "CPU per operation: {servers}, {client:.1} us in the client");
        for server in &self.servers {
            let cpu = server.cpu_us_per_op.map_or("unknown".to_owned(), |us| format!("{us:.1} us"));
            let memory = server
                .resident_bytes
                .map_or_else(|| "gone at the end".to_owned(), |bytes| format!("{} MiB resident", bytes >> 20));
            let _ = writeln!(text, "  process {} {}: {cpu}, {memory}", server.pid, server.address);
        }
        if self.foreign_cores > FOREIGN_CORES_MAX {
            let _ = writeln!(text, "NOISY: {:.1} cores were busy with something else", self.foreign_cores);
        }
    }
}

fn latency_row(name: &str, latency: &Latency) -> [String; 8] {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1e3);
    [
        name.to_owned(),
        latency.count.to_string(),
        format!("{:.2}", latency.mean_us / 1e3),
        ms(latency.p50_us),
        ms(latency.p90_us),
        ms(latency.p99_us),
        ms(latency.p999_us),
        ms(latency.max_us),
    ]
}

fn limits_text(limits: &Limits, text: &mut String) {
    let Limits { engine, floor, .. } = limits;
    let mut rows = table(&["limit", "us CPU per operation", "ops/s", "p50 ms", "p99 ms"]);
    rows.add_row([
        "messages alone".to_owned(),
        format!("{:.1}", limits.floor_cpu_us_per_op),
        format!("{:.0}", limits.floor_ops_per_s),
        format!("{:.2}", floor.p50_us as f64 / 1e3),
        format!("{:.2}", floor.p99_us as f64 / 1e3),
    ]);
    rows.add_row([format!("{}: one write", engine.engine), format!("{:.1}", engine.put_us)]);
    rows.add_row([format!("{}: one read", engine.engine), format!("{:.1}", engine.get_us)]);
    rows.add_row(["messages + engine".to_owned(), format!("{:.1}", limits.limit_cpu_us_per_op)]);
    let _ = writeln!(text, "{rows}");
    if let Some(ratio) = limits.measured_over_limit {
        let _ = writeln!(
            text,
            "the nodes spend {ratio:.2} x the limit; p99 is {:.2} x that of the messages alone",
            limits.p99_over_floor
        );
    }
    if limits.floor_foreign_cores > FOREIGN_CORES_MAX {
        let _ =
            writeln!(text, "NOISY: {:.1} cores were busy with something else at the floor", limits.floor_foreign_cores);
    }
}

impl Settings {
    fn new(args: &BenchArgs) -> Self {
        use crate::cli::DurabilityArg;
        Self {
            client: args.client,
            concurrency: args.concurrency,
            value_size: args.value_size,
            keys: args.keys,
            reads: args.reads,
            distribution: args.distribution,
            durability: match args.durability {
                None => "keyspace",
                Some(DurabilityArg::Os) => "os",
                Some(DurabilityArg::Sync) => "sync",
            },
            rate: args.rate,
            seed: args.seed,
        }
    }
}

/// What the nodes say about their engines; floor nodes say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Engines {
    name: Option<String>,
    work: Option<EngineWork>,
}

/// Asks every node. One that does not answer makes the sums unknown.
pub(super) async fn engines(addresses: &[String]) -> Engines {
    let mut sum = EngineWork::default();
    let mut names = Vec::new();
    for address in addresses {
        let Ok(channel) = connect(address).await else { return Engines::default() };
        let Ok(status) = AdminClient::new(channel).status(StatusRequest {}).await else { return Engines::default() };
        let Some(store) = status.into_inner().store else { return Engines::default() };
        sum.batches += store.batches;
        sum.fsyncs += store.fsyncs;
        sum.stall_us += store.stall_us;
        names.push(store.engine);
    }
    names.dedup();
    let name = if names.len() == 1 { names.pop() } else { None };
    Engines { name, work: Some(sum) }
}

impl Engines {
    /// What was done between two answers, given how many puts were answered meanwhile.
    pub(super) fn since(self, earlier: &Self, owner_writes: u64) -> Self {
        let work = self.work.zip(earlier.work.as_ref()).map(|(now, then)| {
            let fsyncs = now.fsyncs.saturating_sub(then.fsyncs);
            EngineWork {
                batches: now.batches.saturating_sub(then.batches),
                fsyncs,
                writes_per_fsync: (fsyncs > 0).then(|| owner_writes as f64 / fsyncs as f64),
                stall_us: now.stall_us.saturating_sub(then.stall_us),
            }
        });
        Self { name: self.name, work }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::load::Outcome;
    use crate::bench::workload::Kind;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    pub(in crate::bench) fn sample() -> Report {
        let mut recorder = Recorder::new();
        for ms in 1..=100 {
            recorder.add(Kind::Put, Duration::from_millis(ms), Outcome::Done);
        }
        recorder.add(Kind::Get, Duration::from_millis(500), Outcome::Absent);
        recorder.add(Kind::Get, Duration::ZERO, Outcome::Failed("BUSY".to_owned()));
        report(&recorder, 101, std::process::id(), Some(2_020))
    }

    /// A report of two seconds with one node, and what that spent.
    fn report(recorder: &Recorder, operations: u64, pid: u32, cpu_us: Option<u64>) -> Report {
        let spent = Spent { servers: vec![cpu_us], client: 101, foreign_cores: 0.5 };
        let servers = [Process { pid, address: "a:1".to_owned() }];
        let args = Line::parse_from(["bench"]).args;
        Report::new(&args, recorder, operations, Duration::from_secs(2), &servers, &spent, Engines::default()).unwrap()
    }

    #[test]
    fn a_node_that_is_gone_has_no_figures() {
        // No process has this id: they end at 2^22.
        let text = report(&Recorder::new(), 7, u32::MAX, None).text();
        assert!(text.contains("process 4294967295 a:1: unknown, gone at the end"), "{text}");
        assert!(text.contains("unknown on the nodes, as one of them is gone"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn without_operations_nothing_is_said_per_operation() {
        let report = report(&Recorder::new(), 0, std::process::id(), Some(2_020));
        let text = report.text();
        assert!(text.contains("no operation worked"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("CPU per operation:"), "{text}");
        assert!(serde_json::to_value(report).unwrap()["all"]["mean_us"].is_number());
    }

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let report = sample();
        let near = |seen: u64, expected: u64| seen.abs_diff(expected) * 1_000 <= expected;
        assert!(near(report.put.p50_us, 50_000), "{}", report.put.p50_us);
        assert!(near(report.put.p90_us, 90_000), "{}", report.put.p90_us);
        assert!(near(report.put.p99_us, 99_000), "{}", report.put.p99_us);
        assert!(near(report.put.max_us, 100_000), "{}", report.put.max_us);
        assert!(near(report.all.max_us, 500_000), "{}", report.all.max_us);
        assert_eq!((report.put.count, report.get.count, report.all.count), (100, 1, 101));
    }

    #[test]
    fn the_json_has_what_scripts_look_at() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["operations"], 101);
        assert_eq!(json["ops_per_s"], 50.5);
        assert_eq!(json["server_cpu_us_per_op"], 20.0);
        assert_eq!(json["client_cpu_us_per_op"], 1.0);
        assert_eq!(json["errors"]["BUSY"], 1);
        assert_eq!(json["settings"]["client"], "session");
        assert_eq!(json["settings"]["distribution"], "uniform");
        for field in ["count", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"] {
            assert!(json["put"][field].is_number(), "{field}");
        }
        assert!(json.get("limits").is_none());
    }

    #[test]
    fn the_text_says_what_went_wrong_and_when_not_to_trust_it() {
        let text = sample().text();
        assert!(text.contains("ERRORS: 1 x BUSY"), "{text}");
        assert!(text.contains("1 gets found nothing"), "{text}");
        assert!(text.contains("NOISY: 0.5 cores"), "{text}");
        assert!(text.contains("20.0 us on 1 nodes together"), "{text}");
    }

    #[test]
    fn writes_per_fsync_need_fsyncs() {
        let at = |fsyncs| Engines { name: None, work: Some(EngineWork { fsyncs, ..EngineWork::default() }) };
        assert_eq!(at(7).since(&at(7), 100).work.unwrap().writes_per_fsync, None);
        assert_eq!(at(17).since(&at(7), 100).work.unwrap().writes_per_fsync, Some(10.0));
        assert_eq!(at(7).since(&Engines::default(), 100).work, None);
    }
}
