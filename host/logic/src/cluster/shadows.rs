//! Which plugins shadow which keyspaces: they are asked about what the resolver of a keyspace has settled, and decide
//! nothing ([`crate::shadow`]).
//!
//! A setting goes when the keyspace gets the candidate for its resolver, or one beside which the candidate has no
//! place, and when the plugin is removed.

use super::{Applied, Keyspace, Quarantine, Refusal, State};
use crate::id::KeyspaceId;
use crate::port::{ResolverHash, Role};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A candidate beside the resolver of a keyspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shadow {
    /// What settles the keyspace.
    pub active: ResolverHash,
    /// What is asked as well.
    pub candidate: ResolverHash,
    /// False: nobody asks it, as one of the two is in quarantine.
    pub runs: bool,
}

impl Shadow {
    /// The same two.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.active, self.candidate) == (other.active, other.candidate)
    }
}

/// All candidates, by their keyspaces.
pub type Shadows = BTreeMap<KeyspaceId, Shadow>;

impl State {
    /// What shadows what.
    #[must_use]
    pub fn shadowed(&self) -> Shadows {
        let free = |hash: &ResolverHash| self.plugins.get(hash).is_none_or(|plugin| plugin.quarantine.is_none());
        let of = |(id, candidate): (&KeyspaceId, &ResolverHash)| {
            let active = self.keyspaces.get(id)?.resolver_hash;
            let runs = free(&active) && free(candidate);
            Some((*id, Shadow { active, candidate: *candidate, runs }))
        };
        self.shadows.iter().filter_map(of).collect()
    }

    /// Names of the keyspaces that a plugin shadows.
    #[must_use]
    pub fn plugin_shadows(&self, plugin: ResolverHash) -> Vec<String> {
        let shadows = self.shadows.iter().filter(|(_, candidate)| **candidate == plugin);
        shadows.filter_map(|(id, _)| self.keyspaces.get(id)).map(|keyspace| keyspace.name.clone()).collect()
    }

    pub(super) fn shadow_plugin(&mut self, hash: ResolverHash, name: &str, on: bool) -> Result<Applied, Refusal> {
        let plugin = self.plugins.get(&hash).ok_or_else(|| Refusal::PluginUnknown(format!("{hash:?}")))?;
        let full_name = plugin.full_name();
        let unknown = || Refusal::KeyspaceUnknown(name.into());
        let (id, keyspace) = self.keyspace(name).ok_or_else(unknown)?;
        let shadows = self.shadows.get(&id) == Some(&hash);
        if !on {
            if !shadows {
                return Err(Refusal::Invalid(format!("{full_name} does not shadow keyspace {name:?}")));
            }
            self.shadows.remove(&id);
            self.advance();
            return Ok(Applied::Done);
        }
        if let Some(Quarantine { reason, .. }) = &plugin.quarantine {
            return Err(Refusal::PluginQuarantined { plugin: full_name, reason: reason.clone() });
        }
        if plugin.armed.is_none() {
            return Err(Refusal::PluginNotArmed { plugin: full_name, waits: self.plugin_waits(plugin) });
        }
        check_shadow((hash, &full_name, plugin.role), keyspace).map_err(Refusal::Invalid)?;
        if !shadows {
            self.shadows.insert(id, hash);
            self.advance();
        }
        Ok(Applied::Done)
    }

    /// The keyspace was altered: a candidate that has no place beside its resolver goes.
    pub(super) fn fit_shadow(&mut self, id: KeyspaceId) {
        let (Some(hash), Some(keyspace)) = (self.shadows.get(&id), self.keyspaces.get(&id)) else { return };
        let fits = self.plugins.get(hash).is_some_and(|p| check_shadow((*hash, "", p.role), keyspace).is_ok());
        if !fits {
            self.shadows.remove(&id);
        }
    }
}

/// Why a candidate has no place beside the resolver of a keyspace.
fn check_shadow((hash, plugin, role): (ResolverHash, &str, Role), keyspace: &Keyspace) -> Result<(), String> {
    let Keyspace { name, resolver, .. } = keyspace;
    if keyspace.resolver_hash == hash {
        return Err(format!("{plugin} settles the conflicts of keyspace {name:?} already"));
    }
    match (role, keyspace.role) {
        (Role::DataType, _) => Err(format!("{plugin} is a data type, and shadows are resolvers")),
        (_, Role::DataType) => Err(format!(
            "keyspace {name:?} has the data type {resolver}: its versions are joined by the next operation, and no \
             resolver is asked beside it"
        )),
        (Role::Resolver, Role::Resolver) if !keyspace.causal => Ok(()),
        (Role::Merger, Role::Merger) => Ok(()),
        (Role::Resolver, _) => Err(format!(
            "{plugin} picks winners when versions meet, and owners of keyspace {name:?} keep them for readers: there is \
             nothing to compare it with"
        )),
        (Role::Merger, _) => Err(format!(
            "{plugin} merges for readers, and no reader of keyspace {name:?} is shown a merge by {resolver}: there is \
             nothing to compare it with"
        )),
    }
}
