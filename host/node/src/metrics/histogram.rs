//! A histogram of integers without a lock: fixed bounds, one relaxed addition per observation and one for the sum.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Clones share the figures.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Inclusive upper bounds, rising.
    bounds: Vec<u64>,
    /// One for each bound, and one for everything above.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
    /// Observed units per shown unit.
    scale: f64,
}

/// Latencies from 32 us, two bounds per doubling: finer tells nobody more, coarser hides a doubled median.
const LATENCY_OCTAVES: std::ops::Range<u32> = 5..23;
const COMMIT_OCTAVES: std::ops::Range<u32> = 0..13;

impl Histogram {
    fn new(bounds: Vec<u64>, scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner { bounds, counts, sum: AtomicU64::new(0), scale }))
    }

    /// Takes microseconds, shows seconds: 32 us to 6 s.
    pub(super) fn latency() -> Self {
        let bounds = LATENCY_OCTAVES.flat_map(|octave| [1 << octave, 3 << (octave - 1)]).collect();
        Self::new(bounds, 1e6)
    }

    /// Takes and shows counts: 1, 2, 4 ... 4,096.
    pub(super) fn powers_of_two() -> Self {
        Self::new(COMMIT_OCTAVES.map(|octave| 1 << octave).collect(), 1.0)
    }

    pub(super) fn observe(&self, value: u64) {
        let Inner { bounds, counts, sum, .. } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(value, Ordering::Relaxed);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Inner { bounds, counts, sum, scale } = &*self.0;
        let shown = bounds.iter().map(|bound| *bound as f64 / scale).chain([f64::INFINITY]);
        let buckets: Vec<_> = shown.zip(counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        // Counted from the buckets, so that count and +Inf agree although observations go on.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = sum.load(Ordering::Relaxed) as f64 / scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    fn page(histogram: &Histogram) -> String {
        let mut registry = Registry::default();
        registry.register("h", "help", histogram.clone());
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::powers_of_two();
        for value in [1, 2, 3, 4, 5_000] {
            histogram.observe(value);
        }
        let page = page(&histogram);
        for line in [
            r#"h_bucket{le="1.0"} 1"#,
            r#"h_bucket{le="2.0"} 2"#,
            r#"h_bucket{le="4.0"} 4"#,
            r#"h_bucket{le="4096.0"} 4"#,
            r#"h_bucket{le="+Inf"} 5"#,
            "h_sum 5010.0",
            "h_count 5",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn latency_is_shown_in_seconds() {
        let histogram = Histogram::latency();
        histogram.observe(250);
        let page = page(&histogram);
        assert!(page.contains(r#"h_bucket{le="0.000192"} 0"#), "{page}");
        assert!(page.contains(r#"h_bucket{le="0.000256"} 1"#), "{page}");
        assert!(page.contains("h_sum 0.00025"), "{page}");
    }
}
