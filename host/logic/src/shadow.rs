//! What a candidate would have made of conflicts that the resolver of a keyspace has settled. Nothing depends on it.
//!
//! What was settled becomes a [`Trial`] once it is committed, or its reader answered. Whoever has time for it asks the
//! candidate ([`Trial::run`]) and writes down where the two differ ([`Book`]); where nobody has time, that is written
//! down as well. A candidate that fails has differed from nobody: its failures are counted apart.
//!
//! Each owner looks at the conflicts that it meets itself, so that N owners count a write N times.

use crate::cluster::{Shadow, Shadows};
use crate::id::{Dot, Key, KeyspaceId};
use crate::port::{Columns, Merged, Resolve, ResolveError, ResolverHash, Siblings, Verdict};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;

/// Conflicts that one keyspace's book remembers, the newest.
pub const SAMPLES_MAX: usize = 16;
/// And all of them together.
pub const SAMPLES_OF_ALL_MAX: usize = 64;
/// Versions that are shown of a conflict.
pub const SAMPLE_VERSIONS_MAX: usize = 16;
/// Bytes that are shown of a value that a merge has made.
pub const SAMPLE_BYTES_MAX: usize = 64;

/// Conflicts of one keyspace, settled, and whom to ask about them as well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// Whose.
    pub keyspace: KeyspaceId,
    /// Who settled, and who is asked.
    pub shadow: Shadow,
    settled: Settled,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Settled {
    /// By an owner, from what is known about versions.
    AtWrite { keys: Vec<Key>, conflicts: Columns, verdicts: Vec<Verdict> },
    /// For a reader.
    AtRead { key: Key, siblings: Siblings, merged: Merged },
}

/// What came of a [`Trial`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Conflicts that the candidate was asked about.
    pub conflicts: u64,
    /// Of those, the ones that it would have settled otherwise.
    pub differs: u64,
    /// The last of these.
    pub samples: Vec<Sample>,
    /// It had no answer, to none of the conflicts, and this is why.
    pub failure: Option<ResolveError>,
}

/// A conflict that two resolvers settle in two ways.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Its key.
    pub key: Key,
    /// What met: at most [`SAMPLE_VERSIONS_MAX`], those first about which the two differ.
    pub versions: Vec<SampleVersion>,
    /// How many met.
    pub versions_all: usize,
    /// A new value, where the resolver made one.
    pub active: Option<SampleValue>,
    /// Where the candidate did.
    pub candidate: Option<SampleValue>,
    /// When it was written down, milliseconds since 1970.
    pub at_ms: u64,
}

/// What is known about a version, and what becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SampleVersion {
    /// Its name.
    pub dot: Dot,
    /// Its clock.
    pub written: u64,
    /// Bytes of its value.
    pub size: u32,
    /// It is a delete.
    pub tombstone: bool,
    /// Hash of its value.
    pub digest: u64,
    /// The resolver keeps it.
    pub active: bool,
    /// The candidate would.
    pub candidate: bool,
}

/// A value that a merge has made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SampleValue {
    /// So many.
    pub bytes: usize,
    /// How it begins: at most [`SAMPLE_BYTES_MAX`].
    pub head: Bytes,
}

/// Who shall be asked about what `active` has settled.
fn beside(shadows: &Shadows, keyspace: KeyspaceId, active: ResolverHash) -> Option<Shadow> {
    shadows.get(&keyspace).copied().filter(|shadow| shadow.runs && shadow.active == active)
}

/// Gathers the conflicts of one commit.
#[derive(Debug)]
pub(crate) struct Gathering<'a> {
    shadows: &'a Shadows,
    trials: BTreeMap<KeyspaceId, Trial>,
}

impl<'a> Gathering<'a> {
    pub(crate) const fn new(shadows: &'a Shadows) -> Self {
        Self { shadows, trials: BTreeMap::new() }
    }

    /// A conflict that `active` has settled, if somebody shall be asked about it too.
    pub(crate) fn settled(
        &mut self,
        key: &Key,
        active: ResolverHash,
        verdict: Verdict,
        describe: impl FnOnce(&mut Columns),
    ) {
        let keyspace = key.keyspace;
        let Some(shadow) = beside(self.shadows, keyspace, active) else { return };
        let none = || Settled::AtWrite { keys: Vec::new(), conflicts: Columns::default(), verdicts: Vec::new() };
        let trial = self.trials.entry(keyspace).or_insert_with(|| Trial { keyspace, shadow, settled: none() });
        if let Settled::AtWrite { keys, conflicts, verdicts } = &mut trial.settled {
            describe(conflicts);
            keys.push(key.clone());
            verdicts.push(verdict);
        }
    }

    pub(crate) fn trials(self) -> Vec<Trial> {
        self.trials.into_values().collect()
    }
}

impl Trial {
    /// Of what a reader was shown, if somebody shall be asked about it too.
    #[must_use]
    pub fn at_read(
        shadows: &Shadows,
        active: ResolverHash,
        key: &Key,
        siblings: &Siblings,
        merged: &Merged,
    ) -> Option<Self> {
        let keyspace = key.keyspace;
        let shadow = beside(shadows, keyspace, active)?;
        let settled = Settled::AtRead { key: key.clone(), siblings: siblings.clone(), merged: merged.clone() };
        Some(Self { keyspace, shadow, settled })
    }

    /// How many conflicts there are.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        match &self.settled {
            Settled::AtWrite { verdicts, .. } => verdicts.len() as u64,
            Settled::AtRead { .. } => 1,
        }
    }

    /// Bytes that it holds while it waits, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_key = |key: &Key| size_of::<Key>() + key.partition_key.len() + key.sort_key.len();
        match &self.settled {
            // A row of all columns has 45 bytes.
            Settled::AtWrite { keys, conflicts, .. } => {
                keys.iter().map(of_key).sum::<usize>() + conflicts.nodes.len() * 45
            }
            Settled::AtRead { key, siblings, merged } => {
                let merged = if let Merged::Value(value) = merged { value.len() } else { 0 };
                of_key(key) + siblings.values.iter().map(Bytes::len).sum::<usize>() + merged
            }
        }
    }

    /// Asks the candidate.
    #[must_use]
    pub fn run(&self, resolve: &dyn Resolve) -> Findings {
        let found = match &self.settled {
            Settled::AtWrite { keys, conflicts, verdicts } => self.run_at_write(resolve, keys, conflicts, verdicts),
            Settled::AtRead { key, siblings, merged } => self.run_at_read(resolve, key, siblings, merged),
        };
        let mut findings = found.unwrap_or_else(|error| Findings { failure: Some(error), ..Findings::default() });
        findings.conflicts = self.conflicts();
        findings
    }

    fn run_at_write(
        &self,
        resolve: &dyn Resolve,
        keys: &[Key],
        conflicts: &Columns,
        verdicts: &[Verdict],
    ) -> Result<Findings, ResolveError> {
        let theirs = resolve.settle(self.shadow.candidate, conflicts)?;
        if !conflicts.fits(&theirs) {
            return Err(ResolveError::Nonsense("it names versions that are not there".to_string()));
        }
        let both = verdicts.iter().copied().zip(theirs).enumerate();
        let differing: Vec<(usize, (Verdict, Verdict))> = both.filter(|(_, (ours, theirs))| ours != theirs).collect();
        let newest = &differing[differing.len().saturating_sub(SAMPLES_MAX)..];
        let sample = |&(i, (ours, theirs)): &(usize, (Verdict, Verdict))| {
            let keeps = |verdict: Verdict, row: usize| match verdict {
                Verdict::Keep(kept) => kept as usize == row,
                Verdict::KeepAll => true,
            };
            let key = keys.get(i)?;
            Some(Sample::new(key, conflicts, i, |row| (keeps(ours, row), keeps(theirs, row))))
        };
        let samples = newest.iter().filter_map(sample).collect();
        Ok(Findings { differs: differing.len() as u64, samples, ..Findings::default() })
    }

    fn run_at_read(
        &self,
        resolve: &dyn Resolve,
        key: &Key,
        siblings: &Siblings,
        merged: &Merged,
    ) -> Result<Findings, ResolveError> {
        let theirs = resolve.merge(self.shadow.candidate, siblings)?;
        let there = |row: &u32| (*row as usize) < siblings.values.len();
        if let Merged::Kept(rows) = &theirs
            && (rows.is_empty() || !rows.iter().all(there))
        {
            return Err(ResolveError::Nonsense("it names versions that are not there".to_string()));
        }
        if shown(siblings, merged) == shown(siblings, &theirs) {
            return Ok(Findings::default());
        }
        let keeps = |merged: &Merged, row: usize| match merged {
            Merged::Kept(rows) => rows.iter().any(|kept| *kept as usize == row),
            Merged::Value(_) => false,
        };
        let value = |merged: &Merged| match merged {
            Merged::Kept(_) => None,
            Merged::Value(value) => Some(SampleValue::new(value)),
        };
        let sample = Sample::new(key, &siblings.versions, 0, |row| (keeps(merged, row), keeps(&theirs, row)));
        let sample = Sample { active: value(merged), candidate: value(&theirs), ..sample };
        Ok(Findings { differs: 1, samples: alloc::vec![sample], ..Findings::default() })
    }
}

/// The values that a reader gets to see.
fn shown<'a>(siblings: &'a Siblings, merged: &'a Merged) -> Vec<&'a Bytes> {
    match merged {
        Merged::Value(value) => alloc::vec![value],
        Merged::Kept(rows) => {
            let lives = |row: &usize| siblings.versions.marks.get(*row).is_some_and(|m| m & Columns::TOMBSTONE == 0);
            rows.iter().map(|row| *row as usize).filter(lives).filter_map(|row| siblings.values.get(row)).collect()
        }
    }
}

impl Sample {
    /// `kept`: whether the resolver and the candidate keep a row of the conflict.
    fn new(key: &Key, columns: &Columns, conflict: usize, kept: impl Fn(usize) -> (bool, bool)) -> Self {
        let rows = columns.rows(conflict);
        let version = |(i, row): (usize, usize)| {
            let (active, candidate) = kept(i);
            let tombstone = columns.marks[row] & Columns::TOMBSTONE != 0;
            let (written, size, digest) = (columns.written[row], columns.sizes[row], columns.digests[row]);
            SampleVersion { dot: columns.dot(row), written, size, tombstone, digest, active, candidate }
        };
        let mut versions: Vec<SampleVersion> = rows.clone().enumerate().map(version).collect();
        if versions.len() > SAMPLE_VERSIONS_MAX {
            versions.sort_by_key(|version| version.active == version.candidate);
            versions.truncate(SAMPLE_VERSIONS_MAX);
        }
        // A piece of a message would keep all of it.
        let copied = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let (partition_key, sort_key) = (copied(&key.partition_key), copied(&key.sort_key));
        let key = Key { keyspace: key.keyspace, partition_key, sort_key };
        Self { key, versions, versions_all: rows.len(), active: None, candidate: None, at_ms: 0 }
    }
}

impl SampleValue {
    fn new(value: &Bytes) -> Self {
        Self { bytes: value.len(), head: Bytes::copy_from_slice(&value[..value.len().min(SAMPLE_BYTES_MAX)]) }
    }
}

/// What came of all trials of this process, by keyspace.
#[derive(Clone, Debug, Default)]
pub struct Book(BTreeMap<KeyspaceId, Page>);

/// What is known of a candidate beside the resolver of one keyspace.
#[derive(Clone, Debug)]
pub struct Page {
    /// Who is compared with whom.
    pub shadow: Shadow,
    /// How often.
    pub figures: Figures,
    /// Why it failed the last time it did.
    pub failure: Option<String>,
    /// Where they differ, the newest last.
    pub samples: VecDeque<Sample>,
}

/// Conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// The candidate was asked about these.
    pub conflicts: u64,
    /// It settles these otherwise.
    pub differs: u64,
    /// It had no answer to these, or was asked together with one to which it had none.
    pub failures: u64,
    /// It was not asked about these: too many waited, it had just failed, or its code is not here.
    pub dropped: u64,
}

impl Page {
    /// An empty one.
    #[must_use]
    pub fn new(shadow: Shadow) -> Self {
        Self { shadow, figures: Figures::default(), failure: None, samples: VecDeque::new() }
    }
}

impl Book {
    /// Begins a page for each pair of a resolver and a candidate that is new, and tears out those that are no more.
    pub fn turn(&mut self, shadows: &Shadows) {
        self.0.retain(|keyspace, page| shadows.get(keyspace).is_some_and(|shadow| page.shadow.is_like(shadow)));
        for (&keyspace, &shadow) in shadows {
            self.0.entry(keyspace).or_insert_with(|| Page::new(shadow)).shadow = shadow;
        }
    }

    /// Writes down what came of a trial, unless its page is gone.
    pub fn note(&mut self, trial: &Trial, findings: Findings, now_ms: u64) {
        let Some(page) = self.page(trial) else { return };
        page.figures.conflicts += findings.conflicts;
        page.figures.differs += findings.differs;
        if let Some(error) = findings.failure {
            page.figures.failures += findings.conflicts;
            page.failure = Some(error.to_string());
        }
        page.samples.extend(findings.samples.into_iter().map(|sample| Sample { at_ms: now_ms, ..sample }));
        let too_many = page.samples.len().saturating_sub(SAMPLES_MAX);
        page.samples.drain(..too_many);
        self.bound();
    }

    /// Nobody had time for a trial.
    pub fn pass_over(&mut self, trial: &Trial) {
        if let Some(page) = self.page(trial) {
            page.figures.dropped += trial.conflicts();
        }
    }

    /// Of one keyspace.
    #[must_use]
    pub fn of(&self, keyspace: KeyspaceId) -> Option<&Page> {
        self.0.get(&keyspace)
    }

    /// All of them.
    pub fn pages(&self) -> impl Iterator<Item = (KeyspaceId, &Page)> {
        self.0.iter().map(|(keyspace, page)| (*keyspace, page))
    }

    fn page(&mut self, trial: &Trial) -> Option<&mut Page> {
        self.0.get_mut(&trial.keyspace).filter(|page| page.shadow.is_like(&trial.shadow))
    }

    /// Whoever has most gives first, so that a keyspace where all differs does not push out the others.
    fn bound(&mut self) {
        while self.0.values().map(|page| page.samples.len()).sum::<usize>() > SAMPLES_OF_ALL_MAX {
            let Some(page) = self.0.values_mut().max_by_key(|page| page.samples.len()) else { return };
            page.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
