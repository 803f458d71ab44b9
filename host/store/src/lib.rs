//! Native storage engines behind one trait, [`mks_logic::port::Store`]: fjall, rocksdb, memory.
//!
//! **What is absent:** keys with a meaning, versions, quorums, networks, async. Bytes in, bytes out, on the thread of
//! the caller. An engine's crate is named in that engine's file and nowhere else in the workspace.
//!
//! [`open`](open()) is the only way in, or [`open_watched`] where a start may take long. What it returns is an engine
//! (`fjall`, `rocks`, `memory`) inside a guard that gives all of them the same manners: a failed fsync is the end, a
//! full disk is noticed before the engine does, waiting writers share one fsync, and writers are slowed down smoothly
//! before the engine would stop them.
//!
//! Between the guard and the caller there may be adapters, which see the values on their way: see [`Adapters`]. Beside
//! the engine there may be a second one that gets the same batches and is compared: see [`ShadowOptions`].
//!
//! Rules for callers, the same for every engine:
//! - A key has 1 to [`KEY_BYTES_MAX`] bytes and sorts before [`KEYS_END`]; a value has up to [`VALUE_BYTES_MAX`] bytes.
//! - On fjall, one `DeleteRange` covers up to [`RANGE_DELETE_KEYS_MAX`] stored keys: it has no range tombstones, so
//!   each key gets its own. A larger range is refused as a whole; delete it in parts.

mod chain;
mod compare;
mod effects;
mod engine;
mod files;
mod fjall;
mod floor;
mod guard;
mod memory;
mod open;
mod options;
#[cfg(feature = "rocksdb")]
mod rocks;
mod room;
mod shadow;
mod swap;
mod throttle;
mod verify;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use compare::{Difference, How};
pub use effects::RANGE_DELETE_KEYS_MAX;
pub use engine::{KEY_BYTES_MAX, KEYS_END, VALUE_BYTES_MAX};
pub use open::{Adapters, OpenError, Stack, migrate, open, open_watched, stack_of};
pub use options::{BUILT, Engine, Options, ShadowOptions};
pub use swap::{Migrated, Swapping, TableSum};
pub use verify::{TableCompared, Verified, promote, verify};
