//! Plugins that were uploaded: which code there is, which members have it, and whether keyspaces may use it.
//!
//! A plugin is its code: everything here goes by the hash, names are for people. It is *announced* by the node that
//! took the upload, *held* by every member that has fetched, checked and compiled it, *armed* at the epoch in which the
//! last member said so, and *quarantined* when it failed too often: then its keyspaces keep all versions, on all nodes
//! alike, until somebody releases it or they get another resolver.

use super::parts::check_name;
use super::{Applied, Entry, Keyspace, Refusal, Standing, State};
use crate::id::{Epoch, NodeId};
use crate::port::{ResolverHash, Role};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Most plugins of one cluster: every member holds the code of each.
pub const PLUGINS_MAX: usize = 64;
/// Longest version of a plugin, bytes.
pub const VERSION_BYTES_MAX: usize = 32;
/// Longest reason of a quarantine, bytes.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Between a plugin's name and its version; names of resolvers that are part of every node have none.
const AT: char = '@';

/// Code that was uploaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plugin {
    /// What it calls itself.
    pub name: String,
    /// Its version: a name and a version are one code, for ever.
    pub version: String,
    /// Its size.
    pub bytes: u64,
    /// What it is.
    pub role: Role,
    /// Members that have it, checked and compiled.
    pub holders: BTreeSet<NodeId>,
    /// All members had it: keyspaces may use it from then on.
    pub armed: Option<Epoch>,
    /// It must not run.
    pub quarantine: Option<Quarantine>,
}

/// Why a plugin must not run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantine {
    /// Who said so.
    pub node: NodeId,
    /// What it saw.
    pub reason: String,
    /// Since when.
    pub since: Epoch,
}

impl Plugin {
    /// `name@version`: how keyspaces call it.
    #[must_use]
    pub fn full_name(&self) -> String {
        full_name(&self.name, &self.version)
    }
}

pub(super) fn full_name(name: &str, version: &str) -> String {
    format!("{name}{AT}{version}")
}

/// The name of a resolver: one that is part of every node, or `name@version`.
pub(super) fn check_resolver_name(name: &str) -> Result<(), Refusal> {
    match name.split_once(AT) {
        None => check_name("resolver", name),
        Some((name, version)) => check_name("plugin", name).and_then(|()| check_version(version)),
    }
}

fn check_version(version: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
    if version.is_empty() || version.len() > VERSION_BYTES_MAX || !version.bytes().all(allowed) {
        return Err(Refusal::Invalid(format!(
            "{version:?} is no version of a plugin: use 1 to {VERSION_BYTES_MAX} letters, digits, '.', '_', '-' and '+'"
        )));
    }
    Ok(())
}

impl State {
    /// A plugin by `name@version`, or by its name alone where there is just one of it.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<(ResolverHash, &Plugin)> {
        let fits = |plugin: &Plugin| plugin.name == name || plugin.full_name() == name;
        let mut all = self.plugins.iter().filter(|(_, plugin)| fits(plugin));
        let first = all.next()?;
        all.next().is_none().then_some((*first.0, first.1))
    }

    /// Members that a plugin waits for before it is armed, or that came later and do not have it yet.
    #[must_use]
    pub fn plugin_waits(&self, plugin: &Plugin) -> Vec<NodeId> {
        let members = self.members.iter().filter(|(_, member)| member.standing != Standing::Dead);
        members.map(|(node, _)| *node).filter(|node| !plugin.holders.contains(node)).collect()
    }

    /// Names of the keyspaces that a plugin settles.
    #[must_use]
    pub fn plugin_keyspaces(&self, plugin: ResolverHash) -> Vec<String> {
        let uses = self.keyspaces.values().filter(|keyspace| keyspace.resolver_hash == plugin);
        uses.map(|keyspace| keyspace.name.clone()).collect()
    }

    pub(super) fn install_plugin(
        &mut self,
        hash: ResolverHash,
        node: NodeId,
        (name, version, bytes, role): (&str, &str, u64, Role),
    ) -> Result<Applied, Refusal> {
        self.formed()?;
        check_name("plugin", name)?;
        check_version(version)?;
        if !self.members.contains_key(&node) {
            return Err(Refusal::NodeUnknown { node });
        }
        if hash == ResolverHash::NOBODY || bytes == 0 {
            return Err(Refusal::Invalid("a plugin without code".to_string()));
        }
        let builtin = |keyspace: &&Keyspace| keyspace.resolver_hash == hash && !keyspace.resolver.contains(AT);
        if let Some(keyspace) = self.keyspaces.values().find(builtin) {
            return Err(Refusal::Invalid(format!(
                "this code is part of every node already, as {:?}",
                keyspace.resolver
            )));
        }
        if let Some(known) = self.plugins.get_mut(&hash) {
            if (&known.name[..], &known.version[..], known.bytes, known.role) != (name, version, bytes, role) {
                let (known, said) = (known.full_name(), full_name(name, version));
                return Err(Refusal::Invalid(format!("the code {hash:?} is {known}, not {said}: it calls itself so")));
            }
            known.holders.insert(node);
            return Ok(Applied::Done);
        }
        if let Some((other, known)) = self.plugins.iter().find(|(_, p)| p.name == name && p.version == version) {
            return Err(Refusal::PluginExists { plugin: known.full_name(), hash: *other });
        }
        if self.plugins.len() >= PLUGINS_MAX {
            return Err(Refusal::Invalid(format!(
                "there are {PLUGINS_MAX} plugins, which is the most there can be; `plugin remove` what no keyspace uses"
            )));
        }
        let plugin = Plugin {
            name: name.to_string(),
            version: version.to_string(),
            bytes,
            role,
            holders: BTreeSet::from([node]),
            armed: None,
            quarantine: None,
        };
        self.plugins.insert(hash, plugin);
        self.advance();
        Ok(Applied::Done)
    }

    pub(super) fn hold_plugin(&mut self, hash: ResolverHash, node: NodeId) -> Result<Applied, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NodeUnknown { node });
        }
        self.known_plugin(hash)?.holders.insert(node);
        Ok(Applied::Done)
    }

    pub(super) fn remove_plugin(&mut self, hash: ResolverHash) -> Result<Applied, Refusal> {
        let plugin = self.known_plugin(hash)?.full_name();
        let keyspaces = self.plugin_keyspaces(hash);
        if !keyspaces.is_empty() {
            return Err(Refusal::PluginUsed { plugin, keyspaces });
        }
        self.plugins.remove(&hash);
        self.shadows.retain(|_, candidate| *candidate != hash);
        self.advance();
        Ok(Applied::Done)
    }

    pub(super) fn quarantine_plugin(
        &mut self,
        hash: ResolverHash,
        node: NodeId,
        reason: &str,
    ) -> Result<Applied, Refusal> {
        if reason.len() > REASON_BYTES_MAX || reason.chars().any(|c| c.is_control() && c != '\n') {
            return Err(Refusal::Invalid(format!(
                "the reason of a quarantine has up to {REASON_BYTES_MAX} bytes without control characters"
            )));
        }
        if !self.members.contains_key(&node) {
            return Err(Refusal::NodeUnknown { node });
        }
        let since = Epoch(self.epoch.0 + 1);
        let plugin = self.known_plugin(hash)?;
        // Whoever says so first is remembered; the others have seen the same.
        if plugin.quarantine.is_none() {
            plugin.quarantine = Some(Quarantine { node, reason: reason.to_string(), since });
            self.ask(hash, false);
            self.advance();
        }
        Ok(Applied::Done)
    }

    pub(super) fn release_plugin(&mut self, hash: ResolverHash) -> Result<Applied, Refusal> {
        if self.known_plugin(hash)?.quarantine.take().is_some() {
            self.ask(hash, true);
            self.advance();
        }
        Ok(Applied::Done)
    }

    /// Whether the keyspaces of a plugin ask it.
    fn ask(&mut self, hash: ResolverHash, asked: bool) {
        for keyspace in self.keyspaces.values_mut().filter(|keyspace| keyspace.resolver_hash == hash) {
            keyspace.quarantined = !asked;
        }
    }

    fn known_plugin(&mut self, hash: ResolverHash) -> Result<&mut Plugin, Refusal> {
        self.plugins.get_mut(&hash).ok_or_else(|| Refusal::PluginUnknown(format!("{hash:?}")))
    }

    /// Whether the resolver of a keyspace may settle its conflicts. `current`: what does so now.
    pub(super) fn check_resolver(&self, keyspace: &Keyspace, current: Option<ResolverHash>) -> Result<(), Refusal> {
        let (name, hash) = (&keyspace.resolver, keyspace.resolver_hash);
        let Some(plugin) = self.plugins.get(&hash) else {
            // What is part of every node needs no upload; what was removed meanwhile does.
            return if name.contains(AT) { Err(Refusal::PluginUnknown(name.clone())) } else { Ok(()) };
        };
        let full_name = plugin.full_name();
        if *name != full_name {
            return Err(Refusal::Invalid(format!("the code {hash:?} is {full_name}, not {name:?}")));
        }
        if keyspace.role != plugin.role {
            return Err(Refusal::Invalid(format!(
                "{full_name} is a {}, and keyspace {:?} asks for a {}",
                plugin.role.name(),
                keyspace.name,
                keyspace.role.name()
            )));
        }
        if keyspace.causal && plugin.role == Role::Resolver {
            return Err(Refusal::Invalid(format!(
                "{full_name} picks winners, and keyspace {:?} is causal: the two could drop all versions of a key",
                keyspace.name
            )));
        }
        if current == Some(hash) {
            return Ok(());
        }
        if let Some(Quarantine { reason, .. }) = &plugin.quarantine {
            return Err(Refusal::PluginQuarantined { plugin: full_name, reason: reason.clone() });
        }
        if plugin.armed.is_none() {
            return Err(Refusal::PluginNotArmed { plugin: full_name, waits: self.plugin_waits(plugin) });
        }
        Ok(())
    }

    /// The keyspace as it is stored: whether its resolver is quarantined is not for its author to say.
    pub(super) fn judged(&self, keyspace: &Keyspace) -> Keyspace {
        let plugin = self.plugins.get(&keyspace.resolver_hash);
        Keyspace { quarantined: plugin.is_some_and(|plugin| plugin.quarantine.is_some()), ..keyspace.clone() }
    }

    /// Arms what all members hold by now: somebody has said so, or somebody who did not has left. Gives their names.
    pub(super) fn arm_plugins(&mut self) -> Vec<String> {
        let gone = |plugin: &Plugin| plugin.holders.iter().any(|node| !self.members.contains_key(node));
        if self.plugins.values().any(gone) {
            let members = &self.members;
            self.plugins.values_mut().for_each(|plugin| plugin.holders.retain(|node| members.contains_key(node)));
        }
        let ready = |plugin: &Plugin| {
            plugin.armed.is_none() && plugin.quarantine.is_none() && self.plugin_waits(plugin).is_empty()
        };
        let ready: Vec<ResolverHash> = self.plugins.iter().filter(|(_, p)| ready(p)).map(|(hash, _)| *hash).collect();
        if ready.is_empty() {
            return Vec::new();
        }
        self.advance();
        let mut names = Vec::new();
        for hash in ready {
            if let Some(plugin) = self.plugins.get_mut(&hash) {
                plugin.armed = Some(self.epoch);
                names.push(plugin.full_name());
            }
        }
        names
    }

    /// What people shall read of an entry about plugins, asked before it is applied; `None` for other entries.
    pub(super) fn tells_of_plugin(&self, entry: &Entry) -> Option<String> {
        let named = |hash: &ResolverHash| self.plugins.get(hash).map(Plugin::full_name);
        Some(match entry {
            Entry::InstallPlugin { node, name, version, .. } => {
                format!("plugin {} was installed through {node}", full_name(name, version))
            }
            Entry::RemovePlugin { plugin } => format!("plugin {} was removed", named(plugin)?),
            Entry::QuarantinePlugin { plugin, node, reason } => {
                format!("plugin {} was quarantined by {node}: {reason}", named(plugin)?)
            }
            Entry::ReleasePlugin { plugin } => format!("plugin {} was released", named(plugin)?),
            Entry::ShadowPlugin { plugin, keyspace, on } => {
                let ends = if *on { "" } else { " no more" };
                format!("plugin {} shadows keyspace {keyspace:?}{ends}", named(plugin)?)
            }
            _ => return None,
        })
    }
}
