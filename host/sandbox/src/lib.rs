//! Where WebAssembly components run: resolvers, which settle conflicts, and storage adapters, which configure engines.
//!
//! **What is absent:** data, keys, networks, async. A component gets numbers and short texts and gives back numbers and
//! short texts. `wasmtime` is named in this crate and nowhere else in the workspace.
//!
//! Rules that hold for every component, however it came here:
//! - It imports nothing. What asks for a clock, random numbers or files is refused when it is loaded.
//! - A call has a deadline, its memory, tables, stack and answer have a cap, and an instance that trapped or ran out of
//!   time is thrown away. A failure is an error for the caller and never decides anything.
//! - Native code is compiled here, never taken from elsewhere. It is cached by content and engine, and checked against
//!   a fingerprint before it is used again.
//!
//! [`Sandbox`] is the way in; it implements [`mks_logic::port::Resolve`].

mod adapter;
mod bindings;
mod builtin;
mod cache;
mod counters;
mod engine;
mod error;
mod loader;
mod options;
mod resolver;
mod sandbox;

pub use adapter::{AdapterSource, Compression, StoragePlan, Tuning};
pub use cache::CacheState;
pub use counters::{ResolverCounters, SandboxCounters};
pub use error::SandboxError;
pub use options::SandboxOptions;
pub use sandbox::Sandbox;
