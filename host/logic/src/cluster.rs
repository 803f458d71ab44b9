//! The state machine of the epoch log: an entry in, a new state out, the same on every node.
//!
//! Every entry is checked when it is applied, on every node, whatever its proposer believed: an entry that contradicts
//! the state is a [`Refusal`] and changes nothing. Nothing here depends on a clock, a random number or a hash order.

use crate::id::{Epoch, Incarnation, KeyspaceId, NodeId, PartitionId};
use crate::port::{Durability, ResolverHash, Role};
use crate::ring::{CANDIDATES_MAX, Candidate, RING_WIDTH_MAX, Ring};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

mod birth;
mod change;
mod copies;
mod history;
mod parts;
mod plain;
mod plan;
mod plugins;
mod refusal;
mod seals;
mod shadows;
#[cfg(test)]
mod tests;
mod voters;

pub use change::{Change, REMOVED_MAX, Removed, Standing, Tables, Wish};
pub use copies::Copies;
use history::Signed;
pub use history::{Event, HISTORY_MAX};
pub use parts::{Addresses, Keyspace, Member};
use parts::{check_zone, plain_name};
pub use plan::{Load, Plan};
pub use plugins::{PLUGINS_MAX, Plugin, Quarantine, REASON_BYTES_MAX, VERSION_BYTES_MAX};
pub use refusal::Refusal;
pub use seals::{Awaited, CONFIRM_MAX, Mark, Seals};
pub use shadows::{Shadow, Shadows};
pub use voters::VOTERS_MAX;

/// Most members of one cluster.
pub const MEMBERS_MAX: usize = CANDIDATES_MAX;
/// Most keyspaces of one cluster: each one costs every node a little, and all of them travel in every snapshot.
pub const KEYSPACES_MAX: usize = 256;
/// Longest name of a keyspace, a resolver or a zone, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest address of a member, bytes: a DNS name and a port.
pub const ADDRESS_BYTES_MAX: usize = 261;
/// Longest lifetime that a keyspace may give its writes, milliseconds: a hundred years.
pub const TTL_MS_MAX: u64 = 100 * 366 * 24 * 3_600_000;
/// Replaced openings remembered per member, so that an entry of theirs that comes late is known as late.
pub const SUPERSEDED_MAX: usize = 8;
/// The keyspace that every cluster has from the moment it is formed.
pub const DEFAULT_KEYSPACE: &str = "default";

/// Everything the epoch log says, after some entry. Cheap to share, never changed in place.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Random name of the cluster, made at its birth. Zero: not born yet.
    pub cluster: u128,
    /// Rises with every change that owners or coordinators must agree on.
    pub epoch: Epoch,
    /// Q = 2^bits partitions, fixed at birth.
    pub partition_bits: u8,
    /// Members that must have joined before the ring is made.
    pub expect: u32,
    /// The roster.
    pub members: BTreeMap<NodeId, Member>,
    /// Who owns what; `None` while the cluster forms.
    pub ring: Option<Ring>,
    /// What becomes of it.
    pub change: Option<Change>,
    /// Changes begun so far.
    pub changes: u64,
    /// Wishes taken so far, and those of them that the ring in force, or the change under way, follows.
    pub asked: u64,
    /// See [`Self::asked`].
    pub settled: u64,
    /// Nodes that left.
    pub removed: BTreeMap<NodeId, Removed>,
    /// What changed lately, the latest last: at most [`HISTORY_MAX`] events.
    pub history: VecDeque<Event>,
    /// All keyspaces.
    pub keyspaces: BTreeMap<KeyspaceId, Keyspace>,
    /// The next keyspace id; ids are never reused.
    pub keyspace_next: u32,
    /// The resolver of the keyspace that is made when the cluster is formed. Empty: not born yet.
    pub default_resolver: String,
    /// Its code.
    pub default_resolver_hash: Option<ResolverHash>,
    /// The latest [`SUPERSEDED_MAX`] openings of each member that a newer one replaced, oldest first.
    pub superseded: BTreeMap<NodeId, Vec<u128>>,
    /// Code that was uploaded.
    pub plugins: BTreeMap<ResolverHash, Plugin>,
    /// Up to where everything is over.
    pub seals: Seals,
    /// Plugins that are asked beside the resolver of a keyspace, and decide nothing: [`Self::shadowed`].
    pub shadows: BTreeMap<KeyspaceId, ResolverHash>,
    /// Copies that keyspaces shall have, where that takes a change that has not begun.
    pub wanted: BTreeMap<KeyspaceId, Copies>,
}

/// One entry of the epoch log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// The cluster is born.
    Found {
        /// Its random name, not zero.
        cluster: u128,
        /// Q = 2^bits partitions.
        partition_bits: u8,
        /// Members that must have joined before the ring is made.
        expect: u32,
        /// The resolver of the first keyspace.
        resolver: String,
        /// Its code.
        resolver_hash: ResolverHash,
    },
    /// A node joins the roster, or comes back with other addresses; `opening` gets the next incarnation.
    ///
    /// Asking again with the same opening gives the same incarnation, so a proposer that heard no answer may.
    Open {
        /// Who.
        node: NodeId,
        /// The name of its data directory.
        directory: u128,
        /// The name of the process that opened it.
        opening: u128,
        /// Where it listens.
        addresses: Addresses,
        /// See [`Member::zone`].
        zone: String,
        /// See [`Member::weight`].
        weight: u32,
        /// See [`Member::opened`]: one more than at the opening before, stored before this is said.
        opened: u64,
    },
    /// The first ring, computed by the leader, verified by everybody.
    Form {
        /// As wide as [`State::ring_width`] says.
        ring: Ring,
    },
    /// A new keyspace.
    CreateKeyspace {
        /// Its definition.
        keyspace: Keyspace,
    },
    /// Another definition for an existing one; its name stays, and its n until a change has made so many copies.
    AlterKeyspace {
        /// Its definition.
        keyspace: Keyspace,
    },
    /// Time passes: the next slice of writes.
    Advance,
    /// An operator wants something of the members: see [`Wish`].
    Change {
        /// What.
        wish: Wish,
        /// The epoch of the plan that was shown, if one was: refused when anything has changed since.
        seen: Option<Epoch>,
    },
    /// The next table, computed by the leader ([`State::begin_entry`]), verified by everybody.
    Begin {
        /// [`State::asked`] as it was when the table was made.
        asked: u64,
        /// The table.
        ring: Ring,
    },
    /// A gaining owner holds everything of these partitions. Those that all their gainers hold are cut over.
    Hold {
        /// See [`Change::id`].
        change: u64,
        /// Who.
        node: NodeId,
        /// Of which partitions.
        partitions: Vec<PartitionId>,
    },
    /// A member has heard that the change is closing.
    Seen {
        /// See [`Change::id`].
        change: u64,
        /// Who.
        node: NodeId,
    },
    /// A member that shall leave, and owns nothing any more, has handed over everything that it held.
    Left {
        /// Who.
        node: NodeId,
    },
    /// An entry with the name of whoever asked for it.
    Signed {
        /// Up to [`NAME_BYTES_MAX`] bytes.
        who: String,
        /// By the clock there, milliseconds since 1970.
        at_ms: u64,
        /// Not itself signed.
        #[serde(deserialize_with = "plain::entry")]
        entry: Box<Entry>,
    },
    /// A member has taken an upload and checked it: all others shall fetch it.
    InstallPlugin {
        /// Its code.
        plugin: ResolverHash,
        /// Who has it.
        node: NodeId,
        /// What it calls itself.
        name: String,
        /// And its version.
        version: String,
        /// Its size.
        bytes: u64,
        /// What it is.
        role: Role,
    },
    /// A member has fetched, checked and compiled it.
    HoldPlugin {
        /// Its code.
        plugin: ResolverHash,
        /// Who.
        node: NodeId,
    },
    /// Nobody needs it any more.
    RemovePlugin {
        /// Its code.
        plugin: ResolverHash,
    },
    /// It failed too often, or breaks a law: nobody asks it any more.
    QuarantinePlugin {
        /// Its code.
        plugin: ResolverHash,
        /// Who saw it.
        node: NodeId,
        /// What was seen, up to [`REASON_BYTES_MAX`] bytes.
        reason: String,
    },
    /// It may run again.
    ReleasePlugin {
        /// Its code.
        plugin: ResolverHash,
    },
    /// A member neither coordinates nor keeps any write of an epoch or of those before, and never will again.
    Drained {
        /// Who.
        node: NodeId,
        /// As which opening.
        incarnation: Incarnation,
        /// The epoch, and a clock below all that it stamps, or keeps, of later ones.
        mark: Mark,
    },
    /// An owner holds what each other owner of these partitions held when the epoch was closed.
    Confirm {
        /// Who.
        node: NodeId,
        /// Which closing it had heard of.
        closed: Epoch,
        /// [`State::changes`] as it was when it looked.
        changes: u64,
        /// Which partitions, up to [`CONFIRM_MAX`].
        partitions: Vec<PartitionId>,
    },
    /// A node holds nothing any more of partitions that it does not own.
    Rid {
        /// Who.
        node: NodeId,
        /// [`State::changes`] as it was when it looked.
        changes: u64,
    },
    /// A plugin is asked beside the resolver of a keyspace, and decides nothing; or it is not any more. The one before
    /// it goes.
    ShadowPlugin {
        /// Its code.
        plugin: ResolverHash,
        /// The keyspace, by its name.
        keyspace: String,
        /// False: no more.
        on: bool,
    },
    /// What keyspaces shall have of copies ([`State::wanted`]) is made from now on. The leader proposes it.
    BeginCopies {
        /// [`State::changes`] as it was when that was due.
        changes: u64,
    },
}

/// What an entry did, for whoever proposed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Applied {
    /// Done; nothing more to say.
    Done,
    /// The opening has this incarnation.
    Opened(Incarnation),
    /// The keyspace has this id.
    Keyspace(KeyspaceId),
}

impl State {
    /// All partitions; none while the cluster forms.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.ring.as_ref().map_or(0, Ring::partitions)).map(|partition| PartitionId(partition as u16))
    }

    /// The owners of `partition` for a keyspace with `n` of them; empty while the cluster forms.
    #[must_use]
    pub fn owners(&self, partition: PartitionId, n: u8) -> &[NodeId] {
        self.ring.as_ref().map_or(&[], |ring| ring.owners(partition, n))
    }

    /// A keyspace by its name.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Option<(KeyspaceId, &Keyspace)> {
        self.keyspaces.iter().find(|(_, k)| k.name == name).map(|(id, k)| (*id, k))
    }

    /// How many have joined, and how many are expected, while the cluster forms; `None` once it has.
    #[must_use]
    pub fn forming(&self) -> Option<(u32, u32)> {
        self.ring.is_none().then(|| (u32::try_from(self.members.len()).unwrap_or(u32::MAX), self.expect))
    }

    /// How wide the ring is, or will be when it is formed of the present members.
    #[must_use]
    pub fn ring_width(&self) -> u8 {
        self.ring.as_ref().map_or_else(
            || u8::try_from(self.members.len()).map_or(RING_WIDTH_MAX, |members| members.min(RING_WIDTH_MAX)),
            Ring::width,
        )
    }

    /// The members that shall own something, as the solver of the ring wants them.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate<'_>> {
        let shall = |m: &Member| self.ring.is_none() || m.standing == Standing::Up;
        let members = self.members.iter().filter(|(_, m)| shall(m));
        members.map(|(&node, m)| Candidate { node, zone: &m.zone, weight: m.weight }).collect()
    }

    /// The entry that forms the cluster, once all expected members are there. The leader proposes it.
    #[must_use]
    pub fn form_entry(&self) -> Option<Entry> {
        let (joined, expected) = self.forming()?;
        if self.cluster == 0 || joined < expected {
            return None;
        }
        let ring = Ring::solve(self.partition_bits, self.ring_width(), &self.candidates(), None).ok()?;
        Some(Entry::Form { ring })
    }

    /// Applies one entry. Pure: equal states and entries give equal results on every node.
    ///
    /// # Errors
    /// [`Refusal`], and the state is unchanged.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Refusal> {
        let signed = Signed::of(entry)?;
        let before = self.epoch;
        let change = self.change.as_ref().map(|change| (change.id, change.moving));
        let of_plugin = self.tells_of_plugin(signed.entry);
        let applied = self.take(signed.entry)?;
        self.close();
        self.note(&signed, before, change);
        let of_plugin = of_plugin.filter(|_| before < self.epoch);
        self.note_plugins(&signed, of_plugin);
        Ok(applied)
    }

    fn take(&mut self, entry: &Entry) -> Result<Applied, Refusal> {
        if self.cluster == 0 && !matches!(entry, Entry::Found { .. }) {
            return Err(Refusal::Order("the cluster is not founded yet; start one node with --bootstrap".to_string()));
        }
        match entry {
            Entry::Found { cluster, partition_bits, expect, resolver, resolver_hash } => {
                self.found(*cluster, *partition_bits, *expect, resolver, *resolver_hash)
            }
            Entry::Open { node, directory, opening, addresses, zone, weight, opened } => {
                let member = Member {
                    directory: *directory,
                    opening: *opening,
                    incarnation: Incarnation(0),
                    addresses: addresses.clone(),
                    zone: zone.clone(),
                    weight: *weight,
                    standing: Standing::Joining,
                    opened: *opened,
                };
                self.open(*node, member)
            }
            Entry::Form { ring } => self.form(ring),
            Entry::CreateKeyspace { keyspace } => self.create_keyspace(keyspace),
            Entry::AlterKeyspace { keyspace } => self.alter_keyspace(keyspace),
            Entry::Advance => {
                self.formed()?;
                self.advance();
                Ok(Applied::Done)
            }
            Entry::Change { wish, seen } => self.wish(wish, *seen).map(|()| Applied::Done),
            Entry::Begin { asked, ring } => self.begin(*asked, ring).map(|()| Applied::Done),
            Entry::Hold { change, node, partitions } => self.hold(*change, *node, partitions).map(|()| Applied::Done),
            Entry::Seen { change, node } => self.seen(*change, *node).map(|()| Applied::Done),
            Entry::Left { node } => self.left(*node).map(|()| Applied::Done),
            Entry::InstallPlugin { plugin, node, name, version, bytes, role } => {
                self.install_plugin(*plugin, *node, (name, version, *bytes, *role))
            }
            Entry::HoldPlugin { plugin, node } => self.hold_plugin(*plugin, *node),
            Entry::RemovePlugin { plugin } => self.remove_plugin(*plugin),
            Entry::QuarantinePlugin { plugin, node, reason } => self.quarantine_plugin(*plugin, *node, reason),
            Entry::ReleasePlugin { plugin } => self.release_plugin(*plugin),
            Entry::Drained { node, incarnation, mark } => {
                self.drain(*node, *incarnation, *mark).map(|()| Applied::Done)
            }
            Entry::Confirm { node, closed, changes, partitions } => {
                self.confirm(*node, *closed, *changes, partitions).map(|()| Applied::Done)
            }
            Entry::ShadowPlugin { plugin, keyspace, on } => self.shadow_plugin(*plugin, keyspace, *on),
            Entry::BeginCopies { changes } => self.begin_copies(*changes).map(|()| Applied::Done),
            Entry::Rid { node, changes } => self.rid(*node, *changes).map(|()| Applied::Done),
            // Taken apart before, and never one in another.
            Entry::Signed { .. } => Err(Refusal::Invalid("an entry is signed once".to_string())),
        }
    }

    fn form(&mut self, ring: &Ring) -> Result<Applied, Refusal> {
        let Some((joined, expected)) = self.forming() else {
            return Err(Refusal::Order("the cluster is formed already".to_string()));
        };
        if joined < expected {
            return Err(Refusal::Order(format!(
                "{joined} of {expected} nodes have joined; the ring waits for the rest"
            )));
        }
        if ring.width() != self.ring_width() {
            return Err(Refusal::Invalid(format!(
                "the ring is {} owners wide; for {joined} members it must be {}",
                ring.width(),
                self.ring_width()
            )));
        }
        ring.verify(self.partition_bits, &self.candidates()).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let Some(resolver_hash) = self.default_resolver_hash else {
            return Err(Refusal::Order("the cluster was founded without a resolver".to_string()));
        };
        let Copies { n, r, w } = Copies::usual(ring.width().min(3));
        let keyspace = Keyspace {
            name: DEFAULT_KEYSPACE.to_string(),
            n,
            r,
            w,
            durability: Durability::Sync,
            ttl_ms: 0,
            resolver: self.default_resolver.clone(),
            resolver_hash,
            causal: false,
            quarantined: false,
            role: Role::Resolver,
        };
        self.ring = Some(ring.clone());
        for member in self.members.values_mut() {
            member.standing = Standing::Up;
        }
        self.keyspaces.insert(KeyspaceId(self.keyspace_next), keyspace);
        self.keyspace_next += 1;
        self.advance();
        Ok(Applied::Done)
    }

    fn create_keyspace(&mut self, keyspace: &Keyspace) -> Result<Applied, Refusal> {
        keyspace.check(self.owners_max(self.formed()?))?;
        if self.keyspace(&keyspace.name).is_some() {
            return Err(Refusal::KeyspaceExists(keyspace.name.clone()));
        }
        if self.keyspaces.len() >= KEYSPACES_MAX {
            return Err(Refusal::Invalid(format!(
                "there are {KEYSPACES_MAX} keyspaces, which is the most there can be"
            )));
        }
        self.check_resolver(keyspace, None)?;
        let id = KeyspaceId(self.keyspace_next);
        let Some(next) = self.keyspace_next.checked_add(1) else {
            return Err(Refusal::Invalid("all keyspace ids are used up".to_string()));
        };
        self.keyspace_next = next;
        self.keyspaces.insert(id, self.judged(keyspace));
        self.advance();
        Ok(Applied::Keyspace(id))
    }

    fn alter_keyspace(&mut self, keyspace: &Keyspace) -> Result<Applied, Refusal> {
        self.formed()?;
        keyspace.check(RING_WIDTH_MAX)?;
        let Some((id, known)) = self.keyspace(&keyspace.name) else {
            return Err(Refusal::KeyspaceUnknown(keyspace.name.clone()));
        };
        if self.copies_wanted(id).is_some_and(|wanted| wanted.n != keyspace.n) {
            self.check_copies(keyspace)?;
        }
        if known.causal != keyspace.causal {
            return Err(Refusal::Invalid(format!(
                "keyspace {:?} is {}, which can't change; make a new keyspace and copy",
                known.name,
                if known.causal { "causal" } else { "not causal" }
            )));
        }
        let same_type =
            known.typed() == keyspace.typed() && (!known.typed() || plain_name(known) == plain_name(keyspace));
        if !same_type {
            let is =
                |k: &Keyspace| if k.typed() { format!("the data type {}", k.resolver) } else { "no data type".into() };
            return Err(Refusal::Invalid(format!(
                "keyspace {:?} has {}, which can't become {}; make a new keyspace",
                known.name,
                is(known),
                is(keyspace)
            )));
        }
        self.check_resolver(keyspace, Some(known.resolver_hash))?;
        let (has, wanted) = (known.copies(), keyspace.copies());
        let mut keyspace = self.judged(keyspace);
        keyspace.set_copies(has);
        self.keyspaces.insert(id, keyspace);
        self.want(id, wanted);
        // A wider ring comes first.
        self.asked += u64::from(self.ring.as_ref().is_some_and(|ring| ring.width() < wanted.n));
        self.fit_shadow(id);
        self.advance();
        Ok(Applied::Keyspace(id))
    }

    fn formed(&self) -> Result<&Ring, Refusal> {
        self.ring.as_ref().ok_or_else(|| {
            Refusal::Order(format!(
                "the cluster is forming: {} of {} nodes have joined; try again when all have",
                self.members.len(),
                self.expect
            ))
        })
    }

    fn advance(&mut self) {
        self.epoch.0 += 1;
    }
}
