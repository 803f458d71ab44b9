//! The laws by name, what a check is told, and what it says.

use std::fmt;

/// How much to look for, and from where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The first case's seed; case `i` has the seed `seed + i`, so that one case can be run again alone.
    pub seed: u64,
    /// Histories to try.
    pub cases: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, cases: 1_000 }
    }
}

/// Which instance of a component answers. Native code has one life and ignores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// A new one, as nodes use them.
    Fresh,
    /// One that has answered before.
    Warm,
}

/// A check that found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Histories that were tried.
    pub cases: u32,
    /// Operations that the data type refused, out of those that were tried.
    pub refused: u64,
    /// Operations and writes that were tried.
    pub writes: u64,
}

/// What is promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Law {
    /// Every call gets an answer, and the answer is one.
    Answer,
    /// Equal questions, equal answers.
    Function,
    /// What was asked before does not show.
    Memory,
    /// The answer about one conflict does not depend on the others of its batch.
    Batch,
    /// `by-metadata` and `by-value` agree.
    Agreement,
    /// `merge(a, b) = merge(b, a)`.
    Order,
    /// `merge(merge(a, b), c) = merge(a, merge(b, c))`; which versions met first does not show.
    Grouping,
    /// `merge(a, a) = a`; what comes twice counts once.
    Repetition,
    /// `merge(old, new) = new` after an update.
    Inflation,
    /// `merge(old, delta) = new` after an update.
    Delta,
    /// Results are not longer than their inputs by more than a bound.
    Growth,
    /// `validate` accepts what the type itself made, and what `validate` accepts can be merged.
    Validity,
    /// `diff` of a summary completes the peer, and is none where nothing is lacking.
    Summary,
    /// When all replicas have heard of everything, they hold the same bytes.
    Convergence,
}

impl Law {
    /// One word for scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Function => "function",
            Self::Memory => "memory",
            Self::Batch => "batch",
            Self::Agreement => "agreement",
            Self::Order => "order",
            Self::Grouping => "grouping",
            Self::Repetition => "repetition",
            Self::Inflation => "inflation",
            Self::Delta => "delta",
            Self::Growth => "growth",
            Self::Validity => "validity",
            Self::Summary => "summary",
            Self::Convergence => "convergence",
        }
    }

    /// What the law says.
    #[must_use]
    pub const fn says(self) -> &'static str {
        match self {
            Self::Answer => "every question gets an answer that the contract allows",
            Self::Function => "equal questions get equal answers",
            Self::Memory => "an answer does not depend on what the instance was asked before",
            Self::Batch => "the answer about a conflict does not depend on the others in its batch",
            Self::Agreement => "by-metadata and by-value give the same answer about the same versions",
            Self::Order => "merge(a, b) = merge(b, a)",
            Self::Grouping => "it does not show which versions or states were merged first",
            Self::Repetition => "merge(a, a) = a, and what is merged again changes nothing",
            Self::Inflation => "merge(old, new) = new after every update",
            Self::Delta => "merge(old, delta) = new after every update",
            Self::Growth => "results are not longer than their inputs by more than a bound",
            Self::Validity => "validate accepts what the type made, and merge takes what validate accepts",
            Self::Summary => "diff(a, summary(b)) completes b, and is none when b lacks nothing",
            Self::Convergence => "replicas that have heard of everything hold the same bytes",
        }
    }

    /// What usually breaks it, and what to write in its place.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Answer => "answer every input; return an error for bad operations and never panic",
            Self::Function | Self::Memory => {
                "keep nothing between calls, and iterate over a BTreeMap or a sorted list, never over a HashMap"
            }
            Self::Batch => "look at each conflict alone, and keep nothing between them",
            Self::Agreement => "answer by metadata only where the values could not change the outcome",
            Self::Order | Self::Grouping | Self::Convergence => {
                "choose by a strict total order over the versions, or merge like a set union or a maximum: \
                 concatenation, averages, majorities and 'keep mine' are no joins"
            }
            Self::Repetition => "merge must recognise what it has already: adding up counts the same thing twice",
            Self::Inflation => "record what an update removes (a tombstone, a higher entry) instead of removing it",
            Self::Delta => "send all that the update changed, tombstones included, or no delta at all",
            Self::Growth => "merge duplicates away and bound what is remembered",
            Self::Validity => "validate must accept exactly what decodes and encodes to the same bytes",
            Self::Summary => "the summary must tell apart all states that differ, and diff must send what is missing",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A counterexample.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// What was broken.
    pub law: Law,
    /// With this seed and one case the same counterexample is found again.
    pub seed: u64,
    /// How the two sides differ.
    pub reason: String,
    /// The smallest history that was found, one step a line.
    pub history: String,
    /// Steps that were dropped from the history that was found first.
    pub dropped: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { law, seed, reason, history, .. } = self;
        writeln!(f, "the law of {law} is broken: {}", law.says())?;
        for line in history.lines() {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "  => {reason}")?;
        writeln!(f, "hint: {}", law.advice())?;
        write!(f, "again: seed {seed}, 1 case")
    }
}

impl std::error::Error for Broken {}

/// A law that one history breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Breach {
    pub(crate) law: Law,
    pub(crate) reason: String,
}

/// `Err` with the law unless it holds.
pub(crate) fn ensure(holds: bool, law: Law, reason: impl FnOnce() -> String) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err(Breach { law, reason: reason() }) }
}

/// Bytes for people: text where it is text, else hex; cut where it gets long.
pub(crate) fn show(bytes: &[u8]) -> String {
    const BYTES_MAX: usize = 48;
    let cut = &bytes[..bytes.len().min(BYTES_MAX)];
    let more = if bytes.len() > BYTES_MAX { format!(".. ({} bytes)", bytes.len()) } else { String::new() };
    match std::str::from_utf8(cut) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c == '\n') => format!("{text:?}{more}"),
        _ => format!("x'{}'{more}", cut.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}
