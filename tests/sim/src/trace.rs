//! What happened, for people and for those who compare two runs.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Keep {
    /// Nothing: fast.
    #[default]
    Nothing,
    /// A hash of every line.
    Hash,
    /// The last lines, and the hash.
    Lines(usize),
}

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Trace {
    keep: Keep,
    hash: DefaultHasher,
    /// The last lines, oldest first.
    pub lines: VecDeque<String>,
}

impl Trace {
    /// A trace that keeps so much.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        Self { keep, ..Self::default() }
    }

    /// Adds a line, which is only made where it is kept.
    pub fn line(&mut self, at_us: u64, line: impl FnOnce() -> String) {
        if self.keep == Keep::Nothing {
            return;
        }
        let line = format!("{:>9}.{:03} {}", at_us / 1_000, at_us % 1_000, short(&line()));
        line.hash(&mut self.hash);
        if let Keep::Lines(max) = self.keep {
            if self.lines.len() >= max {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    /// Equal for equal runs.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }
}

/// What is the same on every line is left out.
fn short(line: &str) -> String {
    const NOISE: [(&str, &str); 11] = [
        ("Key { keyspace: k2, partition_key: b", ""),
        (", sort_key: b\"\" }", ""),
        (", sort_key: b\"sorted\" }", "/sorted"),
        (", quorum: None", ""),
        (", durability: None", ""),
        (", deadline_ms: None", ""),
        (", ttl_ms: None", ""),
        (", request_id: None", ""),
        (", sloppy: false", ""),
        (", node_confirms: None", ""),
        (", expires_ms: 0", ""),
    ];
    without_zeros(&NOISE.iter().fold(line.to_owned(), |line, (long, short)| line.replace(long, short)))
}

/// Sums of a thousand buckets, of which a short run fills a few.
fn without_zeros(line: &str) -> String {
    const ZERO: &str = "0, ";
    let mut short = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(&ZERO.repeat(8)) {
        short.push_str(&rest[..at]);
        let zeros = (rest.len() - at) - rest[at..].trim_start_matches(ZERO).len();
        short.push_str(&format!("{} zeros, ", zeros / ZERO.len()));
        rest = &rest[at + zeros..];
    }
    short + rest
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_rows_of_zeros_are_counted() {
        let line = format!("Sums([7, {}5, {}0])", "0, ".repeat(9), "0, ".repeat(3));
        assert_eq!(super::without_zeros(&line), "Sums([7, 9 zeros, 5, 0, 0, 0, 0])");
    }
}
