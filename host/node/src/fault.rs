//! Why a client gets no good answer, in the one form that gRPC and HTTP share.

use bytes::Bytes;
use mks_logic::event::OpError;
use mks_logic::port::TypeError;
use mks_proto::v1::ErrorDetail;
use tonic::{Code, Status};

/// A closed set of reasons; the words are documented in `kv.proto`, programs depend on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The key is absent: an answer, not a fault.
    NotFound,
    /// The request contradicts itself or the keyspace.
    Invalid,
    /// Beyond a limit of size.
    TooLarge,
    /// No keyspace of that name.
    UnknownKeyspace,
    /// Not enough owners answered in time.
    Timeout,
    /// So many owners refused that the quorum can't be reached.
    QuorumLost,
    /// No owner of the key can be reached.
    NoOwner,
    /// The node is full, or stopping.
    Busy,
    /// The cluster has no ring yet.
    Forming,
    /// This node may not write yet.
    NotAdmitted,
    /// A request with this id is under way.
    UnderWay,
    /// This node's clock is off.
    ClockOff,
    /// The context was not given for this key.
    BadContext,
    /// The write must say what its writer has seen.
    ContextNeeded,
    /// The key has as many siblings as it may.
    TooManySiblings,
    /// The owner that coordinates can't take the write.
    OwnerRefused,
    /// The keyspace's data type refuses the operation or the question.
    OperationRefused,
    /// The keyspace's data type failed, or is not here.
    DataTypeFailed,
    /// A keyspace of that name exists.
    Exists,
    /// No resolver of that name.
    UnknownResolver,
    /// No majority of voters.
    NoLeader,
    /// The change was not confirmed in time and may still happen.
    Unconfirmed,
    /// No member of that id.
    UnknownNode,
    /// Something has changed since the plan was made.
    StalePlan,
    /// What is asked does not fit where the node is in its life.
    Standing,
    /// A node that shall count as dead answers gossip.
    NodeAlive,
    /// No plugin of that name.
    UnknownPlugin,
    /// What was uploaded is no plugin that nodes take.
    BadPlugin,
    /// It breaks a law.
    Lawless,
    /// A keyspace uses the plugin.
    PluginUsed,
    /// Not all members have the plugin.
    NotArmed,
    /// The plugin must not run.
    Quarantined,
    /// A bug, here or in another node.
    Internal,
}

impl Reason {
    /// The stable word for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotFound => "NOT_FOUND",
            Self::Invalid => "INVALID",
            Self::TooLarge => "TOO_LARGE",
            Self::UnknownKeyspace => "UNKNOWN_KEYSPACE",
            Self::Timeout => "TIMEOUT",
            Self::QuorumLost => "QUORUM_LOST",
            Self::NoOwner => "NO_OWNER",
            Self::Busy => "BUSY",
            Self::Forming => "FORMING",
            Self::NotAdmitted => "NOT_ADMITTED",
            Self::UnderWay => "UNDER_WAY",
            Self::ClockOff => "CLOCK_OFF",
            Self::BadContext => "BAD_CONTEXT",
            Self::ContextNeeded => "CONTEXT_NEEDED",
            Self::TooManySiblings => "TOO_MANY_SIBLINGS",
            Self::OwnerRefused => "OWNER_REFUSED",
            Self::OperationRefused => "OPERATION_REFUSED",
            Self::DataTypeFailed => "DATA_TYPE_FAILED",
            Self::Exists => "EXISTS",
            Self::UnknownResolver => "UNKNOWN_RESOLVER",
            Self::NoLeader => "NO_LEADER",
            Self::Unconfirmed => "UNCONFIRMED",
            Self::UnknownNode => "UNKNOWN_NODE",
            Self::StalePlan => "STALE_PLAN",
            Self::Standing => "STANDING",
            Self::NodeAlive => "NODE_ALIVE",
            Self::UnknownPlugin => "UNKNOWN_PLUGIN",
            Self::BadPlugin => "BAD_PLUGIN",
            Self::Lawless => "LAWLESS",
            Self::PluginUsed => "PLUGIN_USED",
            Self::NotArmed => "NOT_ARMED",
            Self::Quarantined => "QUARANTINED",
            Self::Internal => "INTERNAL",
        }
    }

    /// The canonical gRPC code.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::NotFound | Self::UnknownNode | Self::UnknownPlugin => Code::NotFound,
            Self::Invalid | Self::BadContext | Self::BadPlugin | Self::Lawless | Self::OperationRefused => {
                Code::InvalidArgument
            }
            // Not NOT_FOUND: a mistyped keyspace must never look like an absent key.
            Self::UnknownKeyspace
            | Self::UnknownResolver
            | Self::ContextNeeded
            | Self::Standing
            | Self::NodeAlive
            | Self::PluginUsed
            | Self::NotArmed
            | Self::Quarantined => Code::FailedPrecondition,
            Self::TooLarge | Self::Busy | Self::TooManySiblings => Code::ResourceExhausted,
            Self::Timeout | Self::Unconfirmed => Code::DeadlineExceeded,
            Self::QuorumLost
            | Self::NoOwner
            | Self::Forming
            | Self::NotAdmitted
            | Self::NoLeader
            | Self::ClockOff
            | Self::OwnerRefused => Code::Unavailable,
            Self::UnderWay | Self::StalePlan => Code::Aborted,
            Self::Exists => Code::AlreadyExists,
            Self::Internal | Self::DataTypeFailed => Code::Internal,
        }
    }

    /// True when the client's input is at fault, so that a counter goes up.
    #[must_use]
    pub const fn blames_input(self) -> bool {
        matches!(
            self,
            Self::Invalid
                | Self::TooLarge
                | Self::UnknownKeyspace
                | Self::UnknownResolver
                | Self::UnknownNode
                | Self::BadContext
                | Self::UnknownPlugin
                | Self::BadPlugin
                | Self::Lawless
                | Self::OperationRefused
        )
    }

    /// True when the same request may succeed a moment later.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Busy | Self::Forming | Self::NotAdmitted | Self::NoLeader | Self::OwnerRefused)
    }
}

/// What went wrong and what was left behind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// For programs.
    pub reason: Reason,
    /// For people: what was wrong, with the value, and what to do next.
    pub message: String,
    /// Owners that certainly did it ...
    pub acks: u8,
    /// ... of those that were needed ...
    pub needed: u8,
    /// ... of all.
    pub owners: u8,
    /// The context token of an absent key; empty otherwise.
    pub context: Bytes,
    /// Other nodes that certainly keep it for an owner.
    pub hints: u8,
}

impl Fault {
    /// A fault that left nothing behind.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), acks: 0, needed: 0, owners: 0, hints: 0, context: Bytes::new() }
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, message)
    }

    /// The answer to a question that was not asked: only a bug makes it.
    #[must_use]
    pub fn wrong_answer() -> Self {
        Self::new(Reason::Internal, "the answer is of another kind than the request; this is a bug of my-key-store")
    }
}

impl From<&OpError> for Fault {
    fn from(error: &OpError) -> Self {
        let reason = match error {
            OpError::Forming { .. } => Reason::Forming,
            OpError::NotAdmitted => Reason::NotAdmitted,
            OpError::UnknownKeyspace(_) => Reason::UnknownKeyspace,
            OpError::Invalid(_) => Reason::Invalid,
            OpError::TooLarge { .. } => Reason::TooLarge,
            OpError::Busy { .. } => Reason::Busy,
            OpError::Timeout { .. } => Reason::Timeout,
            OpError::QuorumLost { .. } => Reason::QuorumLost,
            OpError::NoOwner => Reason::NoOwner,
            OpError::UnderWay => Reason::UnderWay,
            OpError::ClockOff { .. } => Reason::ClockOff,
            OpError::ContextNeeded => Reason::ContextNeeded,
            OpError::TooManySiblings { .. } => Reason::TooManySiblings,
            OpError::NotNamed { .. } => Reason::OwnerRefused,
            OpError::Type { error: TypeError::Refused(_) } => Reason::OperationRefused,
            OpError::Type { error: TypeError::Quarantined(_) } => Reason::Quarantined,
            OpError::Type { .. } => Reason::DataTypeFailed,
        };
        let mut fault = Self::new(reason, error.to_string());
        if let OpError::Timeout { hints, .. } | OpError::QuorumLost { hints, .. } = error {
            fault.hints = *hints;
        }
        if let OpError::Timeout { acks, needed, owners, .. }
        | OpError::QuorumLost { acks, needed, owners, .. }
        | OpError::TooManySiblings { acks, needed, owners, .. } = error
        {
            (fault.acks, fault.needed, fault.owners) = (*acks, *needed, *owners);
        }
        fault
    }
}

impl From<OpError> for Fault {
    fn from(error: OpError) -> Self {
        Self::from(&error)
    }
}

impl From<Fault> for ErrorDetail {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.reason.code() as u32,
            reason: fault.reason.word().into(),
            message: fault.message,
            acks: fault.acks.into(),
            needed: fault.needed.into(),
            owners: fault.owners.into(),
            context: fault.context,
            hints: fault.hints.into(),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        mks_proto::status_of(&fault.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_quorum_says_who_holds_the_version() {
        let refused = "2 disks are full".to_owned();
        let error = OpError::QuorumLost { write: true, acks: 1, needed: 2, owners: 3, hints: 1, refused };
        let status = Status::from(Fault::from(&error));
        assert_eq!(status.code(), Code::Unavailable);
        let detail = mks_proto::detail_of(&status).unwrap();
        assert_eq!((detail.acks, detail.needed, detail.owners, detail.hints), (1, 2, 3, 1));
        assert_eq!(detail.reason, "QUORUM_LOST");
        assert_eq!(detail.message, error.to_string());
    }
}
