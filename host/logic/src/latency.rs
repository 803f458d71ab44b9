//! How long recent operations took, in a few hundred bytes: a histogram whose past fades.

/// Four for each doubling, up to 2^33 microseconds.
const BUCKETS: usize = 128;
/// Notes after which all that was noted counts half as much.
const FADES_AT: u32 = 2_048;
/// Fewer notes than this say nothing.
const NOTES_MIN: u32 = 200;
/// The figure is worked out again after so many notes.
const REFRESH_EVERY: u32 = 32;

/// See the module's own words.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: [u16; BUCKETS],
    total: u32,
    fresh: u32,
    p99_us: Option<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0, fresh: 0, p99_us: None }
    }
}

/// The bucket of a time: its highest bit and the two bits after it.
fn bucket(us: u64) -> usize {
    let us = us.max(4);
    let high = us.ilog2() as usize;
    (4 * (high - 2) + (us >> (high - 2)) as usize - 4).min(BUCKETS - 1)
}

/// The first time that is in a later bucket.
fn end(bucket: usize) -> u64 {
    (5 + bucket as u64 % 4) << (bucket / 4)
}

impl Latencies {
    /// Something took so long, microseconds.
    pub fn note(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.total += 1;
        self.fresh += 1;
        if self.total >= FADES_AT {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
        if self.fresh >= REFRESH_EVERY && self.total >= NOTES_MIN {
            self.fresh = 0;
            self.p99_us = Some(self.quantile());
        }
    }

    /// What 99 of 100 did not exceed lately, microseconds, at most a quarter too much. `None` before enough was noted.
    #[must_use]
    pub fn p99_us(&self) -> Option<u64> {
        self.p99_us
    }

    fn quantile(&self) -> u64 {
        let mut left = u64::from(self.total).div_ceil(100);
        // From the slow end: the first bucket that holds more than one of a hundred of them together with those above.
        for (i, count) in self.counts.iter().enumerate().rev() {
            let count = u64::from(*count);
            if count >= left {
                return end(i);
            }
            left -= count;
        }
        end(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_before_the_end_of_its_bucket_and_no_further_than_a_quarter(us in 4u64..1 << 33) {
            let end = end(bucket(us));
            prop_assert!(us < end && end <= us + us / 4 + 1, "{us} {end}");
        }

        /// Against a sorted list.
        #[test]
        fn the_figure_is_the_naive_one_up_to_a_quarter(mut times in prop::collection::vec(4u64..1 << 30, 256..1_024)) {
            let mut latencies = Latencies::default();
            times.truncate(times.len() / 32 * 32);
            times.iter().for_each(|us| latencies.note(*us));
            times.sort_unstable();
            let exact = times[times.len() - times.len().div_ceil(100)];
            let said = latencies.p99_us().unwrap();
            prop_assert!(exact < said && said <= exact + exact / 4 + 1, "{exact} {said}");
        }
    }

    #[test]
    fn the_past_fades_and_nothing_is_said_before_there_is_one() {
        let mut latencies = Latencies::default();
        (1..NOTES_MIN).for_each(|_| latencies.note(900));
        assert_eq!(latencies.p99_us(), None);
        (0..10_000).for_each(|_| latencies.note(9_000));
        assert!(latencies.p99_us().unwrap() > 9_000);
        (0..40_000).for_each(|_| latencies.note(900));
        assert!(latencies.p99_us().unwrap() < 1_200, "{latencies:?}");
    }
}
