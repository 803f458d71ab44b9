//! Resolvers that are asked to see what they would say, where nothing depends on it.

use crate::sandbox::Sandbox;
use mks_logic::port::{Columns, Merged, Resolve, ResolveError, ResolverHash, Siblings, Verdict};
use std::sync::Arc;

/// The resolvers of a sandbox under the same bounds; but nothing is counted, and a failure is held against nobody: what
/// fails here may go on where it does not.
#[derive(Clone, Debug)]
pub struct Rehearsal(Arc<Sandbox>);

impl Rehearsal {
    /// Of the resolvers of this one.
    #[must_use]
    pub const fn new(sandbox: Arc<Sandbox>) -> Self {
        Self(sandbox)
    }
}

impl Resolve for Rehearsal {
    fn settle(&self, hash: ResolverHash, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError> {
        self.0.with_resolver(hash, |resolver| resolver.rehearse(conflicts)).ok_or(ResolveError::Unknown(hash))?
    }

    fn has(&self, hash: ResolverHash) -> bool {
        self.0.with_resolver(hash, |_| ()).is_some()
    }

    fn merge(&self, hash: ResolverHash, siblings: &Siblings) -> Result<Merged, ResolveError> {
        self.0.merged(hash, siblings, |resolver, versions, values| resolver.rehearse_by_value(versions, values))
    }
}
