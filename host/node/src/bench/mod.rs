//! `mks bench`: a closed-loop load generator, and the limits that its figures are held against.
//!
//! One thread, so that the client takes as little as possible from nodes on the same machine. The measure that holds
//! on a noisy machine is the CPU that the nodes spend per operation; throughput and latency stand beside it.

mod args;
mod cpu;
mod engine;
mod floor;
mod limits;
mod load;
mod report;
mod session;
mod unary;
mod workload;

pub use args::BenchArgs;
pub use floor::{FloorArgs, floor_node};

use crate::cli::{Client, Failure, Output, progress};
use args::ServerPids;
use cpu::Process;
use load::{Load, Phase, Plan};
use report::Report;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// How long operations that were under way at the end may take to be answered.
const DRAIN: Duration = Duration::from_secs(10);

/// How often progress is looked at and shown.
const GLANCE: Duration = Duration::from_millis(250);
/// A fill that gets nothing done for this long is given up.
const STUCK: Duration = Duration::from_secs(30);
/// Owners that write each put, in a keyspace with the usual n.
const OWNERS: u64 = 3;

/// Runs the benchmark and prints its report.
///
/// # Errors
/// When no node can be reached, or nothing was done at all.
pub async fn bench(client: &Client, args: &BenchArgs, output: &Output) -> Result<(), Failure> {
    args.check().map_err(Failure::Usage)?;
    let addresses = reachable(client, output).await?;
    if args.fill {
        fill(&addresses, args, output).await?;
    }
    let servers = match &args.pids {
        ServerPids::None => Vec::new(),
        ServerPids::These(pids) => pids.iter().map(|pid| Process { pid: *pid, address: String::new() }).collect(),
        ServerPids::Auto => cpu::listeners(&addresses),
    };
    let mut report = measure(&addresses, &servers, args, "measuring").await?;
    if args.limits {
        report.limits = Some(limits::measure(&report, args, output).await?);
    }
    output.result(&report, Report::text)?;
    if report.operations == 0 {
        let errors = report.errors.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(anyhow::anyhow!("no operation succeeded ({errors})").into());
    }
    Ok(())
}

/// The nodes that accept connections now. A benchmark goes on with those; it says so, because the figures differ.
async fn reachable(client: &Client, output: &Output) -> Result<Vec<String>, Failure> {
    let (mut reached, mut tries) = (Vec::new(), Vec::new());
    for address in client.addresses() {
        match crate::cli::connect(address).await {
            Ok(_) => reached.push(address.clone()),
            Err(reason) => tries.push((address.clone(), reason)),
        }
    }
    if reached.is_empty() {
        return Err(Failure::Unreachable(tries));
    }
    for (address, reason) in tries {
        output.remark(&format!("note: going on without {address}: {reason}"));
    }
    Ok(reached)
}

/// Puts every key once.
async fn fill(addresses: &[String], args: &BenchArgs, output: &Output) -> Result<(), Failure> {
    let load = Load::new(args, Plan::Fill);
    load.set_phase(Phase::Measure);
    let bar = progress("filling", Some(args.keys));
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut workers = load::spawn(&load, addresses, args);
            let mut progressed = Instant::now();
            while !matches!(tokio::time::timeout(GLANCE, workers.join_next()).await, Ok(None)) {
                if load.completed() > bar.position() {
                    progressed = Instant::now();
                }
                if progressed.elapsed() > STUCK {
                    return Err(anyhow::anyhow!(
                        "filling stopped at {} keys: {:?}",
                        load.completed(),
                        load.recorder().errors
                    ));
                }
                bar.set_position(load.completed());
            }
            Ok(())
        })
        .await?;
    bar.finish_and_clear();
    let failed: u64 = load.recorder().errors.values().sum();
    if failed > 0 {
        output.remark(&format!(
            "note: {failed} of {} keys could not be filled: {:?}",
            args.keys,
            load.recorder().errors
        ));
    }
    Ok(())
}

/// One warm-up, one measured window, one drain.
async fn measure(addresses: &[String], servers: &[Process], args: &BenchArgs, what: &str) -> Result<Report, Failure> {
    let load = Load::new(args, Plan::Mixed);
    let bar = progress(what, None);
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut workers = load::spawn(&load, addresses, args);
            watch(&load, &bar, args.warmup).await;
            let engines_before = report::engines(addresses).await;
            load.set_phase(Phase::Measure);
            let (started, before) = (Instant::now(), cpu::Sample::take(servers));
            watch(&load, &bar, args.duration).await;
            let (elapsed, after) = (started.elapsed(), cpu::Sample::take(servers));
            let (in_window, puts) = (load.completed(), load.recorder().puts.len());
            load.set_phase(Phase::Drain);
            let engines_after = report::engines(addresses).await;
            let drained = tokio::time::timeout(DRAIN, async { while workers.join_next().await.is_some() {} }).await;
            workers.abort_all();
            if drained.is_err() {
                load.recorder().unanswered(load.under_way());
            }
            let spent = after.since(&before, elapsed);
            let engines = engines_after.since(&engines_before, puts * OWNERS);
            Report::new(args, &load.recorder(), in_window, elapsed, servers, &spent, engines)
        })
        .await
        .inspect(|_| bar.finish_and_clear())
}

async fn watch(load: &Load, bar: &indicatif::ProgressBar, duration: Duration) {
    let end = tokio::time::Instant::now() + duration;
    while tokio::time::Instant::now() < end {
        let step = tokio::time::Instant::now() + GLANCE;
        tokio::time::sleep_until(step.min(end)).await;
        bar.set_position(load.completed());
    }
}
