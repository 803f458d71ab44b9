//! Data types: values that clients change by operations, and that replicas merge.
//!
//! The author writes how an operation changes a state, as the *delta* that it adds, and how two states join. The SDK
//! does the rest: the new state is the join of the old one and the delta, so an update can only inflate, and owners may
//! be sent the delta alone.
//!
//! ```
//! use mks_guest_sdk::codec::{Malformed, Reader, Writer};
//! use mks_guest_sdk::data_type::{Change, Context, DataType, State};
//!
//! /// The longest text that was ever offered; of equally long ones the last in the alphabet.
//! #[derive(Clone, Default)]
//! struct Longest(String);
//!
//! impl State for Longest {
//!     fn join(&mut self, other: Self) {
//!         if (other.0.len(), &other.0) > (self.0.len(), &self.0) {
//!             *self = other;
//!         }
//!     }
//!     fn write(&self, out: &mut Writer) {
//!         out.bytes(self.0.as_bytes());
//!     }
//!     fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
//!         Ok(Self(reader.text()?.into()))
//!     }
//! }
//!
//! struct LongestText;
//!
//! impl DataType for LongestText {
//!     const NAME: &'static str = "longest-text";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     type State = Longest;
//!
//!     fn update(_: &Context, _: &Longest, op: &[u8]) -> Result<Change<Longest>, String> {
//!         let text = std::str::from_utf8(op).map_err(|_| "it must be text")?;
//!         Ok(Change::silent(Longest(text.into())))
//!     }
//!     fn query(state: &Longest, _: &[u8]) -> Result<Vec<u8>, String> {
//!         Ok(state.0.clone().into_bytes())
//!     }
//! }
//!
//! mks_guest_sdk::export_data_type!(LongestText);
//!
//! mks_guest_sdk::testing::assert_data_type::<LongestText>();
//! ```

use crate::bindings::datatype::exports::my_key_store::datatype::crdt;
use crate::bindings::datatype::my_key_store::common::types::Info;
use crate::bindings::summaries::exports::my_key_store::datatype::crdt_delta;
use crate::codec::{Malformed, Reader, Writer};
use core::marker::PhantomData;

/// Who updates, and when: the only entropy that an update gets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Context {
    /// Dot: the node that runs the update.
    pub node: u64,
    /// Dot: which opening of that node's data directory.
    pub incarnation: u64,
    /// Dot: grows from update to update of this node and incarnation, with gaps.
    pub counter: u64,
    /// Hybrid logical clock of the host.
    pub now: u64,
}

impl Context {
    /// Who updates: one (node, incarnation) updates a key one at a time, from a state that holds all its earlier
    /// updates.
    #[must_use]
    pub const fn actor(&self) -> Actor {
        (self.node, self.incarnation)
    }
}

/// Node and incarnation.
pub type Actor = (u64, u64);

/// A state that replicas hold, also one that says little: a delta. The default is that of a key that is not there.
pub trait State: Default + Clone {
    /// The least state that holds both: commutative, associative, and joining what is there already changes nothing.
    fn join(&mut self, other: Self);

    /// The bytes, in the one form that this state has: sorted, no hash map's order.
    fn write(&self, out: &mut Writer);

    /// # Errors
    /// When the bytes are no state.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// What an operation did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change<S> {
    /// What it adds to the state.
    pub delta: S,
    /// What the client is told.
    pub reply: Option<Vec<u8>>,
}

impl<S> Change<S> {
    /// A change that tells the client nothing.
    pub const fn silent(delta: S) -> Self {
        Self { delta, reply: None }
    }
}

/// A replicated data type.
pub trait DataType {
    /// 1 to 64 characters out of a-z, 0-9 and `-`.
    const NAME: &'static str;
    /// For people; `env!("CARGO_PKG_VERSION")` suits.
    const VERSION: &'static str;
    /// What replicas hold.
    type State: State;

    /// What `op` adds to `state`.
    ///
    /// # Errors
    /// About the operation, in words for the client that sent it.
    fn update(context: &Context, state: &Self::State, op: &[u8]) -> Result<Change<Self::State>, String>;

    /// Answers a question. The empty one asks for the whole value, as people would read it.
    ///
    /// # Errors
    /// About the question, in words for the client.
    fn query(state: &Self::State, question: &[u8]) -> Result<Vec<u8>, String>;

    /// An operation such as clients send, for the law checker; equal seeds must give equal operations.
    /// [`crate::Random`] helps. `None`: it makes its own, which [`Self::update`] may refuse.
    fn sample(seed: u64) -> Option<Vec<u8>> {
        let _ = seed;
        None
    }
}

/// A state that can be compared without being shipped.
pub trait Summary: State {
    /// What this state holds, in few bytes.
    fn summary(&self) -> Vec<u8>;

    /// What a peer with this summary lacks; `None` when it lacks nothing.
    ///
    /// # Errors
    /// When the bytes are no summary.
    fn diff(&self, summary: &[u8]) -> Result<Option<Self>, Malformed>;
}

/// An operation of the form `word` or `word rest`, as the standard data types take them.
///
/// # Errors
/// When it is no text.
pub fn command(op: &[u8]) -> Result<(&str, &str), String> {
    let text = core::str::from_utf8(op).map_err(|_| "operations and questions are text in UTF-8")?;
    Ok(text.split_once(' ').unwrap_or((text, "")))
}

/// The bytes of a state.
pub fn encode<S: State>(state: &S) -> Vec<u8> {
    let mut writer = Writer::default();
    state.write(&mut writer);
    writer.finish()
}

/// The state of bytes, which must be in the one form that it has.
///
/// # Errors
/// When they are no state, or another form of it.
pub fn decode<S: State>(bytes: &[u8]) -> Result<S, Malformed> {
    let mut reader = Reader::new(bytes);
    let state = S::read(&mut reader)?;
    reader.end()?;
    if encode(&state) == bytes { Ok(state) } else { Err(Malformed("not the form in which this state is written")) }
}

/// What every world of data types asks for, in plain types.
pub(crate) struct Plain<D>(PhantomData<D>);

pub(crate) struct PlainEffect {
    pub(crate) state: Vec<u8>,
    pub(crate) delta: Option<Vec<u8>>,
    pub(crate) reply: Option<Vec<u8>>,
}

impl<D: DataType> Plain<D> {
    pub(crate) fn update(context: &Context, state: Option<&[u8]>, op: &[u8]) -> Result<PlainEffect, String> {
        let mut new = state.map(decode::<D::State>).transpose()?.unwrap_or_default();
        let Change { delta, reply } = D::update(context, &new, op)?;
        let bytes = encode(&delta);
        new.join(delta);
        let state = encode(&new);
        let delta = (bytes.len() < state.len()).then_some(bytes);
        Ok(PlainEffect { state, delta, reply })
    }

    pub(crate) fn merge<B: AsRef<[u8]>>(states: &[B]) -> Result<Vec<u8>, String> {
        let mut merged = D::State::default();
        for state in states {
            merged.join(decode(state.as_ref())?);
        }
        Ok(encode(&merged))
    }

    pub(crate) fn query(state: &[u8], question: &[u8]) -> Result<Vec<u8>, String> {
        D::query(&decode(state)?, question)
    }

    pub(crate) fn validate(state: &[u8]) -> Result<(), String> {
        Ok(decode::<D::State>(state).map(drop)?)
    }
}

/// Fits a [`DataType`] to the generated traits.
#[doc(hidden)]
#[derive(Debug)]
pub struct Exported<D>(PhantomData<D>);

impl<D: DataType> crdt::Guest for Exported<D> {
    fn describe() -> Info {
        Info { name: D::NAME.into(), version: D::VERSION.into() }
    }

    fn update(context: crdt::Context, state: Option<Vec<u8>>, op: Vec<u8>) -> Result<crdt::Effect, String> {
        let crdt::Dot { node, incarnation, counter } = context.dot;
        let context = Context { node, incarnation, counter, now: context.now };
        let PlainEffect { state, delta, reply } = Plain::<D>::update(&context, state.as_deref(), &op)?;
        Ok(crdt::Effect { state, delta, reply })
    }

    fn merge(states: Vec<Vec<u8>>) -> Result<Vec<u8>, String> {
        Plain::<D>::merge(&states)
    }

    fn query(state: Vec<u8>, question: Vec<u8>) -> Result<Vec<u8>, String> {
        Plain::<D>::query(&state, &question)
    }

    fn validate(state: Vec<u8>) -> Result<(), String> {
        Plain::<D>::validate(&state)
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        D::sample(seed)
    }
}

impl<D: DataType<State: Summary>> crdt_delta::Guest for Exported<D> {
    fn summary(state: Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(decode::<D::State>(&state)?.summary())
    }

    fn diff(state: Vec<u8>, peer_summary: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
        Ok(decode::<D::State>(&state)?.diff(&peer_summary)?.as_ref().map(encode))
    }
}

/// Exports a type that implements [`data_type::DataType`](crate::data_type::DataType) as a component's data type.
///
/// Once per crate. Outside of WebAssembly it only checks that the type fits.
#[macro_export]
macro_rules! export_data_type {
    ($data_type:ty) => {
        const _: () = {
            const fn fits<D: $crate::data_type::DataType>() {}
            fits::<$data_type>();
        };
        #[cfg(target_arch = "wasm32")]
        mod __mks_export {
            use super::*;
            #[global_allocator]
            static ARENA: $crate::arena::Arena = $crate::arena::Arena::new();
            type Exported = $crate::data_type::Exported<$data_type>;
            $crate::bindings::datatype::export!(Exported with_types_in $crate::bindings::datatype);
        }
    };
}

/// The same for a data type whose state is a [`data_type::Summary`](crate::data_type::Summary).
#[macro_export]
macro_rules! export_delta_data_type {
    ($data_type:ty) => {
        const _: () = {
            const fn fits<D: $crate::data_type::DataType<State: $crate::data_type::Summary>>() {}
            fits::<$data_type>();
        };
        #[cfg(target_arch = "wasm32")]
        mod __mks_export {
            use super::*;
            #[global_allocator]
            static ARENA: $crate::arena::Arena = $crate::arena::Arena::new();
            type Exported = $crate::data_type::Exported<$data_type>;
            $crate::bindings::datatype::export!(Exported with_types_in $crate::bindings::datatype);
            $crate::bindings::summaries::export!(Exported with_types_in $crate::bindings::summaries);
        }
    };
}
