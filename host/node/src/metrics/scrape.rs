//! Figures that live elsewhere and are asked for at each scrape.

use mks_logic::port::{ShadowState, ShadowStats, StoreStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Gives the figures of now.
pub(super) type Scrape = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Without the prefix `mks_`, and for counters without the suffix `_total`. Samples of one name are one metric.
    pub name: Cow<'static, str>,
    /// For people.
    pub help: Cow<'static, str>,
    /// How to read the value.
    pub kind: SampleKind,
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The figure.
    pub value: f64,
}

/// How the value of a [`Sample`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// It only rises while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Shows what a [`Scrape`] gives.
pub(super) struct Scraper(Scrape);

impl Scraper {
    pub(super) fn new(scrape: Scrape) -> Self {
        Self(scrape)
    }
}

impl std::fmt::Debug for Scraper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scraper")
    }
}

impl Collector for Scraper {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut metrics: BTreeMap<_, Vec<Sample>> = BTreeMap::new();
        for sample in (self.0)() {
            metrics.entry(sample.name.clone()).or_default().push(sample);
        }
        for (name, samples) in &metrics {
            let [first, ..] = &samples[..] else { continue };
            let metric_type = match first.kind {
                SampleKind::Counter => MetricType::Counter,
                SampleKind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(name, &first.help, None, metric_type)?;
            for sample in samples {
                let mut one = metric.encode_family(&sample.labels)?;
                match first.kind {
                    SampleKind::Counter => one.encode_counter::<NoLabelSet, _, f64>(&sample.value, None)?,
                    SampleKind::Gauge => one.encode_gauge(&sample.value)?,
                }
            }
        }
        Ok(())
    }
}

fn plain(name: &'static str, help: &'static str, kind: SampleKind, value: u64) -> Sample {
    Sample { name: name.into(), help: help.into(), kind, labels: Vec::new(), value: value as f64 }
}

pub(super) fn process_samples() -> Vec<Sample> {
    vec![plain("process_resident_bytes", "Memory of this process", SampleKind::Gauge, resident_bytes())]
}

pub(super) fn store_samples(stats: &StoreStats) -> Vec<Sample> {
    use SampleKind::{Counter, Gauge};
    let mut samples = vec![
        plain("store_records_estimate", "Keys in the store, estimated", Gauge, stats.records_estimate),
        plain("store_disk_bytes", "Bytes on disk", Gauge, stats.disk_bytes),
        plain("store_batches", "Batches applied", Counter, stats.batches),
        plain("store_fsyncs", "Fsyncs that the store asked for", Counter, stats.fsyncs),
        plain("store_stall_microseconds", "Time that the engine held writers back", Counter, stats.stall_us),
    ];
    for sample in &mut samples {
        sample.labels.push(("engine", stats.engine.to_owned()));
    }
    samples.extend(stats.shadow.as_ref().into_iter().flat_map(|shadow| shadow_samples(stats.engine, shadow)));
    samples
}

/// A second engine that takes the same batches. Its speed shows beside that of the store's own, in the same batches.
fn shadow_samples(store_engine: &str, stats: &ShadowStats) -> Vec<Sample> {
    use SampleKind::{Counter, Gauge};
    let mut samples = vec![
        plain("storage_shadow_batches", "Batches that the shadow has applied", Counter, stats.batches),
        plain("storage_shadow_lag_batches", "Batches that the store has applied, and not the shadow", Gauge, stats.lag),
        plain("storage_shadow_queue_bytes", "Bytes of batches that wait for the shadow", Gauge, stats.queue_bytes),
        plain("storage_shadow_filled", "Entries of the store that the shadow was filled with", Counter, stats.filled),
        plain("storage_shadow_compared", "Entries that were read from both and compared", Counter, stats.compared),
        plain("storage_shadow_differing", "Compared entries that were not the same", Counter, stats.differing),
        plain(
            "storage_shadow_failed",
            "Whether the shadow has ended: by an error, or because it was too slow",
            Counter,
            stats.state.has_ended().into(),
        ),
        plain("storage_shadow_disk_bytes", "Bytes of the shadow on disk", Gauge, stats.disk_bytes),
    ];
    for sample in &mut samples {
        sample.labels.push(("engine", stats.engine.to_owned()));
    }
    for (side, engine, ns) in [("store", store_engine, stats.store_write_ns), ("shadow", stats.engine, stats.write_ns)]
    {
        let help = "Time in writing the batches that go to both engines, without fsyncs";
        let mut seconds = plain("storage_shadow_write_seconds", help, Counter, 0);
        seconds.value = ns as f64 / 1e9;
        seconds.labels.extend([("side", side.to_owned()), ("engine", engine.to_owned())]);
        samples.push(seconds);
    }
    for state in ShadowState::ALL {
        let is = u64::from(state == stats.state);
        let mut one = plain("storage_shadow_state", "1 for what the shadow is about, 0 for all else", Gauge, is);
        one.labels.extend([("state", state.name().to_owned()), ("engine", stats.engine.to_owned())]);
        samples.push(one);
    }
    samples
}

/// Memory of this process that is in RAM, bytes. Zero where the system does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
