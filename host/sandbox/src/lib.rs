//! Where WebAssembly components run: resolvers, which settle conflicts, data types, which clients change by operations,
//! and storage adapters, which configure engines and may see the values on their way to one.
//!
//! **What is absent:** stores, networks, async. `wasmtime` is named in this crate and nowhere else in the workspace.
//!
//! Rules that hold for every component, however it came here:
//! - It imports nothing, but for resolvers that read the values they are asked about. What asks for a clock, random
//!   numbers or files is refused when it is loaded.
//! - A call has a deadline, its memory, tables, stack and answer have a cap, and an instance that trapped or ran out of
//!   time is thrown away. A failure is an error for the caller and never decides anything.
//! - Native code is compiled here, never taken from elsewhere. It is cached by content and engine, and checked against
//!   a fingerprint before it is used again.
//!
//! [`Sandbox`] is the way in; it implements [`mks_logic::port::Resolve`] and [`mks_logic::port::DataTypes`], and a
//! [`ValueAdapter`] implements [`mks_logic::port::Adapt`]. [`check`] holds a component against the laws that make
//! replicas agree, and [`make`] turns a crate into a component.

mod adapter;
mod bindings;
mod builtin;
mod cache;
pub mod check;
mod components;
mod counters;
mod data_type;
mod engine;
mod error;
mod faults;
mod loader;
pub mod make;
mod options;
mod rehearsal;
mod resolver;
mod sandbox;
mod siblings;
mod toolchain;
mod value_adapter;

pub use adapter::{AdapterConfig, AdapterInfo, AdapterSource, Compression, OpenedAdapter, StoragePlan, Tuning};
pub use cache::CacheState;
pub use components::Components;
pub use counters::{ResolverCounters, SandboxCounters};
pub use data_type::{DataType, DataTypeCounters, DataTypeError, Effect, STATES_MAX};
pub use error::SandboxError;
pub use options::SandboxOptions;
pub use rehearsal::Rehearsal;
pub use resolver::{Moment, Outcome, Resolver};
pub use sandbox::{Plugin, Sandbox};
pub use siblings::Values;
pub use value_adapter::{ValueAdapter, ValueAdapterCounters};
