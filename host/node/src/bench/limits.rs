//! What a quorum operation costs at least: moving its messages, plus the engine operations that it can't avoid.

use super::args::BenchArgs;
use super::engine::{self, EngineCost};
use super::floor::Floor;
use super::report::{Latency, Report};
use crate::cli::{Failure, Output, progress};
use serde::Serialize;
use std::time::Duration;

/// Engine operations of a put: every one of three owners writes.
const WRITES_PER_PUT: f64 = 3.0;
/// Engine operations of a get: two owners read.
const READS_PER_GET: f64 = 2.0;
/// The floor has no state to warm up and nothing that drifts, so a long benchmark need not wait as long again.
const FLOOR_DURATION_MAX: Duration = Duration::from_secs(10);

/// Floor and engine, measured beside the cluster in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Limits {
    /// Throughput of the empty quorum.
    pub(super) floor_ops_per_s: f64,
    /// CPU of its three nodes per operation, microseconds.
    pub(super) floor_cpu_us_per_op: f64,
    /// Latencies of all its operations.
    pub(super) floor: Latency,
    /// Cores that were busy with something else meanwhile.
    pub(super) floor_foreign_cores: f64,
    /// The raw engine.
    pub(super) engine: EngineCost,
    /// Floor plus 3 engine writes per put and 2 engine reads per get, microseconds.
    pub(super) limit_cpu_us_per_op: f64,
    /// Measured CPU of the nodes over the limit; null where the nodes' CPU is unknown.
    pub(super) measured_over_limit: Option<f64>,
    /// Measured p99 over the floor's.
    pub(super) p99_over_floor: f64,
}

/// Measures the floor with the client, mix and concurrency of `args`, then the engine that the nodes run.
pub(super) async fn measure(report: &Report, args: &BenchArgs, output: &Output) -> Result<Limits, Failure> {
    let floor_args = BenchArgs { duration: args.duration.min(FLOOR_DURATION_MAX), rate: None, ..args.clone() };
    let nodes = Floor::start(args.value_size)?;
    let floor = super::measure(&nodes.addresses, &nodes.processes, &floor_args, "the empty quorum").await?;
    drop(nodes);
    let name = report.engine.as_deref().unwrap_or_else(|| {
        output.remark("note: the nodes do not say which engine they run; measuring fjall");
        "fjall"
    });
    let bar = progress("engine", None);
    let engine = engine::measure(name, args, &bar)?;
    bar.finish_and_clear();
    combine(report, &floor, engine)
}

fn combine(report: &Report, floor: &Report, engine: EngineCost) -> Result<Limits, Failure> {
    let floor_cpu =
        floor.server_cpu_us_per_op.ok_or_else(|| anyhow::anyhow!("the CPU of the floor nodes can't be read"))?;
    let puts = report.put.count as f64 / (report.put.count + report.get.count).max(1) as f64;
    let engine_cpu = puts * WRITES_PER_PUT * engine.put_us + (1.0 - puts) * READS_PER_GET * engine.get_us;
    let limit = floor_cpu + engine_cpu;
    Ok(Limits {
        floor_ops_per_s: floor.ops_per_s,
        floor_cpu_us_per_op: floor_cpu,
        floor: floor.all.clone(),
        floor_foreign_cores: floor.foreign_cores,
        engine,
        limit_cpu_us_per_op: limit,
        measured_over_limit: report.server_cpu_us_per_op.map(|measured| measured / limit),
        p99_over_floor: report.all.p99_us as f64 / floor.all.p99_us.max(1) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample;

    #[test]
    fn the_limit_is_the_floor_and_the_engine_work_of_the_mix() {
        let (mut report, mut floor) = (sample(), sample());
        report.server_cpu_us_per_op = Some(60.0);
        (report.put.count, report.get.count) = (300, 100);
        (report.all.p99_us, floor.all.p99_us) = (3_000, 1_500);
        floor.server_cpu_us_per_op = Some(10.0);
        let engine = EngineCost { engine: "fjall".into(), put_us: 8.0, get_us: 4.0 };
        let limits = combine(&report, &floor, engine.clone()).unwrap();
        assert_eq!(limits.limit_cpu_us_per_op, 10.0 + 0.75 * 3.0 * 8.0 + 0.25 * 2.0 * 4.0);
        assert_eq!(limits.measured_over_limit, Some(2.0));
        assert_eq!(limits.p99_over_floor, 2.0);
        report.server_cpu_us_per_op = None;
        assert_eq!(combine(&report, &floor, engine).unwrap().measured_over_limit, None);
    }
}
