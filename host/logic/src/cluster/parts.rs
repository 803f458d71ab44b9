//! What the state is made of: members and keyspaces, and what must be true of each.

use super::plugins::check_resolver_name;
use super::{ADDRESS_BYTES_MAX, NAME_BYTES_MAX, Refusal, Standing, TTL_MS_MAX};
use crate::id::{Incarnation, NodeId};
use crate::port::{Durability, Policy, ResolverHash, Role};
use crate::ring::WEIGHT_MAX;
use alloc::format;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Where a member listens. Addresses are `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC for clients.
    pub client: String,
    /// gRPC for other nodes; gossip uses the same port on UDP.
    pub peer: String,
    /// HTTP.
    pub http: String,
}

/// One node of the roster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Random name of the data directory, made when it was: an id never moves to another directory.
    pub directory: u128,
    /// Random name of the process that opened the directory last.
    pub opening: u128,
    /// Granted to that opening; zero before the first.
    pub incarnation: Incarnation,
    /// Where it listens.
    pub addresses: Addresses,
    /// Owners of one partition lie in different zones where zones allow. Empty: a zone of its own.
    pub zone: String,
    /// Share of the data relative to others; 100 is usual.
    pub weight: u32,
    /// Where it is in its life.
    pub standing: Standing,
    /// How often its data directory says that it was opened; zero: it did not say. See [`Refusal::RolledBack`].
    pub opened: u64,
}

/// The resolver by stamps, which is part of every node.
const LAST_WRITE_WINS: &str = "lww";

/// What a keyspace is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keyspace {
    /// As clients name it.
    pub name: String,
    /// Owners of each key.
    pub n: u8,
    /// Owners that must answer a read.
    pub r: u8,
    /// Owners that must hold a write before it is acknowledged.
    pub w: u8,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// Lifetime of writes that name none, milliseconds. Zero: for ever.
    pub ttl_ms: u64,
    /// Name of the resolver, for people: of one that is part of every node, or `name@version` of a plugin.
    pub resolver: String,
    /// The code of the resolver, for machines.
    pub resolver_hash: ResolverHash,
    /// See [`Policy::causal`]. Fixed at creation: dots are named in another way then.
    pub causal: bool,
    /// The resolver failed too often: nobody asks it, and all versions are kept. The state machine alone says so.
    pub quarantined: bool,
    /// What that code is. Whether it is a data type is fixed at creation, as is which one.
    pub role: Role,
}

impl Keyspace {
    /// How its versions supersede one another.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        let resolver = if self.quarantined { ResolverHash::NOBODY } else { self.resolver_hash };
        Policy { resolver, causal: self.causal, role: self.role }
    }

    /// Values are states of a data type.
    #[must_use]
    pub const fn typed(&self) -> bool {
        self.policy().typed()
    }

    /// Whether its tombstones go once they are sealed: where the last write wins, one holds back nothing but what was
    /// stamped before it. A plugin's resolver has a version in its name.
    #[must_use]
    pub fn purges(&self) -> bool {
        self.resolver == LAST_WRITE_WINS && !self.causal && !self.typed()
    }

    /// Checks the definition against itself and a ring of `width` owners.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] with the offending value.
    pub fn check(&self, width: u8) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid(message));
        check_name("keyspace", &self.name)?;
        check_resolver_name(&self.resolver)?;
        let Self { n, r, w, ttl_ms, .. } = *self;
        if n == 0 || n > width {
            return invalid(format!("n = {n} owners per key; this cluster's ring allows 1 to {width}"));
        }
        if r == 0 || r > n {
            return invalid(format!("r = {r} owners must answer a read; it must be 1 to n = {n}"));
        }
        if w == 0 || w > n {
            return invalid(format!("w = {w} owners must hold a write; it must be 1 to n = {n}"));
        }
        if ttl_ms > TTL_MS_MAX {
            return invalid(format!("a lifetime of {ttl_ms} ms; the longest is {TTL_MS_MAX} ms, and 0 means for ever"));
        }
        // What expired on one owner could come back with a state that was built on it.
        if self.typed() && (!self.causal || ttl_ms != 0) {
            return invalid("a keyspace with a data type is causal, and its values live for ever".into());
        }
        // What a reader was shown in their place could not take it.
        if self.role == Role::Merger && !self.causal {
            return invalid(format!("{} merges siblings for readers, so its keyspaces are causal", self.resolver));
        }
        Ok(())
    }
}

impl Member {
    pub(super) fn check(&self, node: NodeId) -> Result<(), Refusal> {
        if self.directory == 0 || self.opening == 0 {
            return Err(Refusal::Invalid(format!("{node} names its directory or its opening zero, which means none")));
        }
        if self.weight == 0 || self.weight > WEIGHT_MAX {
            return Err(Refusal::Invalid(format!(
                "the weight of {node} is {}; it must be 1 to {WEIGHT_MAX} (100 is usual)",
                self.weight
            )));
        }
        check_zone(node, &self.zone)?;
        for (what, address) in self.addresses.all() {
            if !is_address(address) {
                return Err(Refusal::Invalid(format!(
                    "the {what} address of {node} is {address:?}; it must be host:port, up to {ADDRESS_BYTES_MAX} bytes"
                )));
            }
        }
        Ok(())
    }
}

impl Addresses {
    pub(super) fn all(&self) -> [(&'static str, &str); 3] {
        [("client", &self.client), ("peer", &self.peer), ("http", &self.http)]
    }

    /// An address that both listen on.
    pub(super) fn shared_with<'a>(&'a self, other: &Self) -> Option<&'a str> {
        let taken = other.all().map(|(_, address)| address);
        self.all().into_iter().map(|(_, address)| address).find(|address| taken.contains(address))
    }
}

/// The name of a keyspace's resolver or data type, without its version.
pub(super) fn plain_name(keyspace: &Keyspace) -> &str {
    keyspace.resolver.split('@').next().unwrap_or_default()
}

pub(super) fn check_zone(node: NodeId, zone: &str) -> Result<(), Refusal> {
    if zone.len() > NAME_BYTES_MAX || !zone.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::Invalid(format!(
            "the zone of {node} is {zone:?}; it must be empty or up to {NAME_BYTES_MAX} visible ASCII characters"
        )));
    }
    Ok(())
}

/// `host:port` with a port that can be connected to.
fn is_address(address: &str) -> bool {
    address.len() <= ADDRESS_BYTES_MAX
        && address.bytes().all(|b| b.is_ascii_graphic())
        && address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse().is_ok_and(|p: u16| p > 0))
}

/// Names are spoken, typed and put in paths: 1 to [`NAME_BYTES_MAX`] of `a-z 0-9 . _ -`, and no dot in front.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(Refusal::Invalid(format!(
            "{name:?} is no name for a {what}: use 1 to {NAME_BYTES_MAX} of a-z, 0-9, '.', '_' and '-', not a dot first"
        )));
    }
    Ok(())
}
