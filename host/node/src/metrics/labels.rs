//! The closed sets of labels: a figure for each exists from the start, so that absence never means zero.

use mks_logic::event::{Answer, OpError, Operation, Reply, Request};
use mks_logic::port::TypeError;

/// Names and values.
pub(super) type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Maps an array in order.
pub(super) fn each<T: Copy, M, const N: usize>(all: [T; N], make: impl FnMut(T) -> M) -> [M; N] {
    all.map(make)
}

macro_rules! label {
    (
        $(#[$doc:meta])* $name:ident, $label:literal, $count:literal,
        { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: [Self; $count] = [$(Self::$variant,)*];

            /// The value of the label.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            pub(super) const fn labels(self) -> Labels<1> {
                [($label, self.word())]
            }
        }
    };
}

label!(
    /// What a client asked for.
    Kind, "kind", 6, {
        /// A put.
        Put = "put",
        /// A get.
        Get = "get",
        /// A delete.
        Delete = "delete",
        /// A batch, counted once.
        Batch = "batch",
        /// An operation on a data type.
        Apply = "apply",
        /// A question to a data type.
        View = "view",
    }
);

label!(
    /// How an operation ended.
    Outcome, "outcome", 11, {
        /// As asked.
        Ok = "ok",
        /// A get of an absent key.
        NotFound = "not_found",
        /// The request made no sense, or the data type refused it.
        Invalid = "invalid",
        /// Beyond a limit of size.
        TooLarge = "too_large",
        /// The node was full.
        Busy = "busy",
        /// Not enough owners answered in time.
        Timeout = "timeout",
        /// Too many owners refused.
        QuorumLost = "quorum_lost",
        /// No ring, no owner in reach, or the node may not write yet.
        Unavailable = "unavailable",
        /// The same request id is still under way.
        UnderWay = "under_way",
        /// The key has as many siblings as it may.
        TooManySiblings = "too_many_siblings",
        /// The data type failed.
        TypeFailed = "type_failed",
    }
);

label!(
    /// Where input comes in.
    Surface, "surface", 4, {
        /// Clients.
        Grpc = "grpc",
        /// Clients.
        Http = "http",
        /// Other nodes, TCP.
        Peer = "peer",
        /// Other nodes, UDP.
        Gossip = "gossip",
    }
);

impl Kind {
    /// What `request` asks for.
    #[must_use]
    pub const fn of(request: &Request) -> Self {
        match request.operation {
            Operation::Put { .. } => Self::Put,
            Operation::Get { .. } => Self::Get,
            Operation::Delete { .. } => Self::Delete,
            Operation::Batch { .. } => Self::Batch,
            Operation::Apply { .. } => Self::Apply,
            Operation::View { .. } => Self::View,
        }
    }
}

impl Outcome {
    /// How the operation behind `reply` ended.
    #[must_use]
    pub fn of(reply: &Reply) -> Self {
        match reply {
            Ok(Answer::Found { versions, .. }) if versions.is_empty() => Self::NotFound,
            Ok(Answer::Viewed { answer: None }) => Self::NotFound,
            Ok(_) => Self::Ok,
            Err(OpError::Invalid(_) | OpError::UnknownKeyspace(_) | OpError::ContextNeeded) => Self::Invalid,
            Err(OpError::TooLarge { .. }) => Self::TooLarge,
            Err(OpError::Busy { .. }) => Self::Busy,
            Err(OpError::Timeout { .. }) => Self::Timeout,
            Err(OpError::QuorumLost { .. }) => Self::QuorumLost,
            Err(
                OpError::Forming { .. }
                | OpError::NotAdmitted
                | OpError::NoOwner
                | OpError::ClockOff { .. }
                | OpError::NotNamed { .. },
            ) => Self::Unavailable,
            Err(OpError::UnderWay) => Self::UnderWay,
            Err(OpError::Type { error: TypeError::Refused(_) }) => Self::Invalid,
            Err(OpError::Type { .. }) => Self::TypeFailed,
            Err(OpError::TooManySiblings { .. }) => Self::TooManySiblings,
        }
    }
}
