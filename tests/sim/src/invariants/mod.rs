//! What must hold, whatever happens: an invariant is one file.

mod acks;
mod bounds;
mod convergence;
mod data_types;
mod dots;
mod epochs;
mod handover;
mod leftovers;
mod liveness;
mod merging;
mod moves;
mod outlines;
mod phantoms;
mod replies;
mod scrub;
mod seals;
pub mod siblings;
mod stamps;
mod sums;
pub mod visibility;

use crate::clients::{Asked, replies};
use crate::site::Site;
use mks_logic::event::{Effect, WriteJob};
use mks_logic::id::{Key, NodeId};
use mks_logic::message::Message;
use mks_logic::request::Reply;
use mks_logic::time::Hlc;
use mks_logic::version::Version;

/// `Err`: what was seen that must not be.
pub type Verdict = Result<(), String>;

/// A reply that a client gets.
#[derive(Debug)]
pub struct Replied<'a> {
    /// From which node.
    pub node: NodeId,
    /// To what; `None`: nobody waits for it.
    pub asked: Option<&'a Asked>,
    /// The reply.
    pub reply: &'a Reply,
    /// Its parts: position of the event in the history, position of the key, what was said.
    pub parts: Vec<(usize, usize, Reply)>,
}

impl<'a> Replied<'a> {
    /// Takes a reply apart.
    #[must_use]
    pub fn new(node: NodeId, asked: Option<&'a Asked>, reply: &'a Reply, site: &Site) -> Self {
        let part = |(at, reply): (&usize, Reply)| (*at, site.history.events[*at].key, reply);
        let parts = |asked: &Asked| asked.events.iter().zip(replies(&asked.request, reply)).map(part).collect();
        Self { node, asked, reply, parts: asked.map(parts).unwrap_or_default() }
    }
}

/// One thing that must hold; it looks where it needs to.
pub trait Invariant {
    /// As people write it.
    fn name(&self) -> &'static str;

    /// A node took an input and wants these effects.
    fn stepped(&mut self, _site: &Site, _node: NodeId, _effects: &[Effect]) -> Verdict {
        Ok(())
    }

    /// A node's disk did these jobs, or failed to.
    fn committed(&mut self, _site: &Site, _node: NodeId, _group: &[WriteJob]) -> Verdict {
        Ok(())
    }

    /// A node's disk removed a tombstone of this stamp, of the key at that position.
    fn purged(&mut self, _site: &Site, _node: NodeId, _key: usize, _stamp: Hlc) -> Verdict {
        Ok(())
    }

    /// A node applied an entry of the epoch log, or started with what it had.
    fn learned(&mut self, _site: &Site, _node: NodeId) -> Verdict {
        Ok(())
    }

    /// A client gets a reply.
    fn replied(&mut self, _site: &Site, _replied: &Replied<'_>) -> Verdict {
        Ok(())
    }

    /// Faults are over, and everybody has had time; nothing was asked since.
    fn settled(&mut self, _site: &Site) -> Verdict {
        Ok(())
    }

    /// The run is over, and nothing was wrong before.
    fn ended(&mut self, _site: &Site) -> Verdict {
        Ok(())
    }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<acks::Acks>::default(),
        Box::<bounds::Bounds>::default(),
        Box::<convergence::Convergence>::default(),
        Box::<data_types::DataTypes>::default(),
        Box::<dots::Dots>::default(),
        Box::<epochs::Epochs>::default(),
        Box::<handover::Handover>::default(),
        Box::<leftovers::Leftovers>::default(),
        Box::<liveness::Liveness>::default(),
        Box::<merging::Merging>::default(),
        Box::<moves::Moves>::default(),
        Box::<outlines::Outlines>::default(),
        Box::<phantoms::Phantoms>::default(),
        Box::<replies::Replies>::default(),
        Box::<scrub::Scrub>::default(),
        Box::<seals::Seals>::default(),
        Box::<siblings::Siblings>::default(),
        Box::<stamps::Stamps>::default(),
        Box::<sums::Sums>::default(),
        Box::<visibility::Visibility>::default(),
    ]
}

/// The version that an effect carries to an owner, of which key, and whether it is of this moment.
pub(crate) fn carried(effect: &Effect) -> Option<(&Key, &Version, bool)> {
    match effect {
        Effect::Send { message: Message::Write { key, version, fresh, .. }, .. } => Some((key, version, *fresh)),
        Effect::Write(job) => Some((&job.key, &job.version, job.fresh)),
        _ => None,
    }
}
