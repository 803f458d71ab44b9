//! What changed, when, and by whom: the tail of the epoch log, for people.

use super::change::Wish;
use super::{Copies, Entry, NAME_BYTES_MAX, Refusal, State};
use crate::id::{Epoch, KeyspaceId};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use serde::{Deserialize, Serialize};

/// Events that are remembered, the latest ones.
pub const HISTORY_MAX: usize = 256;

/// Something that changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The epoch that it led to.
    pub epoch: Epoch,
    /// When whoever asked for it did, by the clock there, milliseconds since 1970; zero: not known.
    pub at_ms: u64,
    /// Who asked for it; empty: not known.
    pub who: String,
    /// What it was.
    pub what: String,
    /// How often in a row: epochs end by the clock again and again.
    pub times: u32,
}

/// An entry with the name of whoever asked for it.
pub(super) struct Signed<'a> {
    pub(super) who: &'a str,
    pub(super) at_ms: u64,
    pub(super) entry: &'a Entry,
}

impl<'a> Signed<'a> {
    /// # Errors
    /// [`Refusal::Invalid`] for a name that can't be shown, or an entry signed twice.
    pub(super) fn of(entry: &'a Entry) -> Result<Self, Refusal> {
        let Entry::Signed { who, at_ms, entry } = entry else { return Ok(Self { who: "", at_ms: 0, entry }) };
        if who.len() > NAME_BYTES_MAX || who.chars().any(char::is_control) {
            return Err(Refusal::Invalid(format!(
                "whoever asks has a name of up to {NAME_BYTES_MAX} bytes without control characters, not {who:?}"
            )));
        }
        match &**entry {
            Entry::Signed { .. } => Err(Refusal::Invalid("an entry is signed once".to_string())),
            entry => Ok(Self { who, at_ms: *at_ms, entry }),
        }
    }
}

impl Entry {
    /// The same entry, with the name of whoever asks for it and the time there, milliseconds since 1970.
    #[must_use]
    pub fn signed(self, who: impl Into<String>, at_ms: u64) -> Self {
        match self {
            Self::Signed { .. } => self,
            entry => Self::Signed { who: who.into(), at_ms, entry: Box::new(entry) },
        }
    }

    /// What people shall read of it; `None` for steps of the machinery, and for what changed nothing.
    fn tells(&self, before: Epoch, after: Epoch) -> Option<String> {
        Some(match self {
            Self::Found { partition_bits, .. } => format!("the cluster was founded with 2^{partition_bits} partitions"),
            Self::Open { node, .. } if before < after => format!("{node} joined the roster"),
            Self::Form { .. } => "the ring was formed".to_string(),
            Self::CreateKeyspace { keyspace } => format!("keyspace {:?} was made", keyspace.name),
            Self::AlterKeyspace { keyspace } => format!("keyspace {:?} was altered", keyspace.name),
            Self::Advance => "time passed".to_string(),
            Self::Change { wish, .. } => wish.to_string(),
            Self::Left { node } => format!("{node} has left"),
            Self::Open { .. }
            | Self::Begin { .. }
            | Self::BeginCopies { .. }
            | Self::Hold { .. }
            | Self::Seen { .. } => return None,
            Self::Drained { .. } | Self::Confirm { .. } | Self::Rid { .. } => return None,
            // Their names must be looked up first: `State::tells_of_plugin`.
            Self::InstallPlugin { .. }
            | Self::HoldPlugin { .. }
            | Self::RemovePlugin { .. }
            | Self::QuarantinePlugin { .. }
            | Self::ReleasePlugin { .. }
            | Self::ShadowPlugin { .. } => return None,
            Self::Signed { entry, .. } => return entry.tells(before, after),
        })
    }
}

impl core::fmt::Display for Wish {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Accept { node } => write!(f, "{node} shall own its share"),
            Self::Leave { node, dead: false } => write!(f, "{node} shall leave"),
            Self::Leave { node, dead: true } => write!(f, "{node} was declared dead"),
            Self::Replace { gone, by, .. } => write!(f, "{by} shall take the place of {gone}, which was declared dead"),
            Self::Weight { node, weight } => write!(f, "{node} shall have weight {weight}"),
            Self::Zone { node, zone } => write!(f, "{node} shall be in zone {zone:?}"),
        }
    }
}

impl State {
    /// Notes what an entry did.
    pub(super) fn note(&mut self, signed: &Signed<'_>, before: Epoch, change_before: Option<(u64, u32)>) {
        let mut tell = |what: String| remember(&mut self.history, self.epoch, signed, what);
        if let Some(what) = signed.entry.tells(before, self.epoch) {
            tell(what);
        }
        let now = self.change.as_ref().map(|change| (change.id, change.moving));
        let begins = matches!(signed.entry, Entry::Begin { .. } | Entry::BeginCopies { .. });
        if let Some((id, moving)) = now.filter(|_| begins) {
            let copies = self.change.iter().flat_map(|change| &change.copies);
            let of = |(id, copies): (&KeyspaceId, &Copies)| {
                let keyspace = self.keyspaces.get(id)?;
                Some(format!("; keyspace {:?} gets {} copies, and had {}", keyspace.name, copies.n, keyspace.n))
            };
            tell(format!("change {id} began: {moving} partitions move{}", copies.filter_map(of).collect::<String>()));
        }
        if let (Some((id, _)), None) = (change_before, now) {
            tell(format!("change {id} ended"));
        } else if now.is_none() && begins {
            tell(format!("change {} ended: nothing had to move", self.changes));
        }
    }
}

impl State {
    /// Notes what an entry did to plugins, and arms those that all members hold now.
    pub(super) fn note_plugins(&mut self, signed: &Signed<'_>, what: Option<String>) {
        if let Some(what) = what {
            remember(&mut self.history, self.epoch, signed, what);
        }
        for plugin in self.arm_plugins() {
            let what = format!("plugin {plugin} is armed: all members have it");
            remember(&mut self.history, self.epoch, signed, what);
        }
    }
}

fn remember(history: &mut VecDeque<Event>, epoch: Epoch, signed: &Signed<'_>, what: String) {
    let (at_ms, who) = (signed.at_ms, signed.who.to_string());
    match history.back_mut().filter(|last| last.what == what && last.who == who) {
        Some(last) => (last.epoch, last.at_ms, last.times) = (epoch, at_ms, last.times.saturating_add(1)),
        None => {
            if history.len() >= HISTORY_MAX {
                history.pop_front();
            }
            history.push_back(Event { epoch, at_ms, who, what, times: 1 });
        }
    }
}
