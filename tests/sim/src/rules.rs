//! Native stand-ins for the resolver components, and the ways in which a component may fail.

use crate::types;
use bytes::Bytes;
use mks_logic::id::Dot;
use mks_logic::port::{
    Columns, DataTypes, Merged, NewState, Resolve, ResolveError, ResolverHash, Siblings, TypeError, Verdict,
};
use mks_logic::shadow::{Findings, Trial};
use mks_logic::time::Hlc;

/// The code of last-write-wins.
pub const LWW_CODE: ResolverHash = ResolverHash([1; 32]);
/// The code that keeps all siblings.
pub const KEEP_CODE: ResolverHash = ResolverHash([2; 32]);

/// The code that merges for readers: a merged value is all values, one after the other.
pub const UNION_CODE: ResolverHash = ResolverHash([5; 32]);

/// The code that shadows the keyspace in runs where code is uploaded. It decides nothing, so it may do anything.
pub const RIVAL_CODE: ResolverHash = ResolverHash([9; 32]);

/// What the resolver of one node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rules {
    /// It settles.
    #[default]
    Work,
    /// Every call traps.
    Trap,
    /// Every call runs out of its budget.
    Budget,
    /// Every answer names a row that is not there.
    Nonsense,
    /// One verdict too few.
    Short,
    /// It keeps the first write instead of the last: only a mutation does this, and a rival.
    Wrong,
}

impl Rules {
    /// The ways to fail that a node must live with.
    pub const FAILURES: [Self; 4] = [Self::Trap, Self::Budget, Self::Nonsense, Self::Short];
}

/// Asks a rival about a conflict that was settled: it fails in any way, or settles otherwise.
pub fn rehearse(trial: &Trial) {
    let how = trial.bytes() % (1 + Rules::FAILURES.len());
    let rules = Rules::FAILURES.get(how).copied().unwrap_or(Rules::Wrong);
    let Findings { conflicts, differs, samples, failure } = trial.run(&rules);
    let fits = conflicts == trial.conflicts() && differs <= conflicts && samples.len() as u64 <= differs;
    assert!(fits && failure.is_some() == (rules != Rules::Wrong), "{rules:?}: {trial:?}");
}

impl Resolve for Rules {
    fn settle(&self, resolver: ResolverHash, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        if ![LWW_CODE, KEEP_CODE, RIVAL_CODE].contains(&resolver) {
            return Err(ResolveError::Unknown(resolver));
        }
        let keep = |i: usize| {
            let rows = conflicts.rows(i);
            let start = rows.start;
            let stamp = |row: &usize| {
                (conflicts.written[*row], conflicts.marks[*row], conflicts.nodes[*row], conflicts.digests[*row])
            };
            let kept = if *self == Self::Wrong { rows.min_by_key(stamp) } else { rows.max_by_key(stamp) };
            Verdict::Keep((kept.unwrap_or(start) - start) as u32)
        };
        let all = 0..conflicts.len();
        match self {
            Self::Work if resolver == KEEP_CODE => Ok(all.map(|_| Verdict::KeepAll).collect()),
            Self::Work | Self::Wrong => Ok(all.map(keep).collect()),
            Self::Trap => Err(ResolveError::Failed("it was told to trap".into())),
            Self::Budget => Err(ResolveError::Failed("out of budget".into())),
            Self::Nonsense => Ok(all.map(|i| Verdict::Keep(conflicts.rows(i).len() as u32)).collect()),
            Self::Short => Ok(all.skip(1).map(keep).collect()),
        }
    }

    fn has(&self, resolver: ResolverHash) -> bool {
        resolver == LWW_CODE || resolver == KEEP_CODE
    }

    fn merge(&self, resolver: ResolverHash, siblings: &Siblings) -> Result<Merged, ResolveError> {
        if resolver != UNION_CODE && resolver != RIVAL_CODE {
            return Err(ResolveError::Unknown(resolver));
        }
        match self {
            Self::Wrong if resolver == RIVAL_CODE => Ok(Merged::Kept(vec![0])),
            Self::Work | Self::Wrong => Ok(Merged::Value(siblings.values.concat().into())),
            Self::Trap => Err(ResolveError::Failed("it was told to trap".into())),
            Self::Budget => Err(ResolveError::Failed("out of budget".into())),
            Self::Nonsense => Ok(Merged::Kept(vec![siblings.values.len() as u32])),
            Self::Short => Ok(Merged::Kept(Vec::new())),
        }
    }
}

impl Rules {
    /// A data type fails as a resolver does; what is nonsense there is none here.
    fn fails(self) -> Result<(), TypeError> {
        let fails = matches!(self, Self::Trap | Self::Budget);
        if fails { Err(TypeError::Failed("it was told to".into())) } else { Ok(()) }
    }
}

impl DataTypes for Rules {
    fn apply(
        &self,
        data_type: ResolverHash,
        (dot, _): (Dot, Hlc),
        states: &[Bytes],
        operation: &Bytes,
    ) -> Result<NewState, TypeError> {
        self.fails()?;
        types::apply(data_type, dot, states, operation)
    }

    fn join(&self, data_type: ResolverHash, states: &[Bytes]) -> Result<Bytes, TypeError> {
        self.fails()?;
        types::join(data_type, states)
    }

    fn view(&self, data_type: ResolverHash, states: &[Bytes], _: &Bytes) -> Result<Bytes, TypeError> {
        self.fails()?;
        types::view(data_type, states)
    }
}
