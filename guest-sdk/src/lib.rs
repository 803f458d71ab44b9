//! What a plugin of my-key-store is written with: one trait and one export macro per kind of plugin.
//!
//! A plugin is a small library crate (`crate-type = ["cdylib", "rlib"]`) that implements a trait, exports it with one
//! macro, and is tested with plain `cargo test`, without any WebAssembly:
//!
//! ```
//! use mks_guest_sdk::resolver::{Conflict, Resolver, Verdict};
//!
//! /// Keeps the biggest value; between equally big ones the newer, then the one with the higher hash.
//! struct Biggest;
//!
//! impl Resolver for Biggest {
//!     const NAME: &'static str = "biggest";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!
//!     fn settle(conflict: Conflict<'_>) -> Verdict {
//!         conflict.keep_max_by_key(|version| (version.size, version.written, version.digest))
//!     }
//! }
//!
//! mks_guest_sdk::export_resolver!(Biggest);
//! ```
//!
//! | kind | trait | macro | contract in `proto/plugin` |
//! |---|---|---|---|
//! | settles conflicts | [`resolver::Resolver`] | [`export_resolver!`] | `resolver.wit` |
//! | configures an engine | [`adapter::StorageAdapter`] | [`export_storage_adapter!`] | `storage-adapter.wit` |
//!
//! The target is `wasm32-unknown-unknown`, whose standard library asks the host for nothing: a node refuses a plugin
//! that imports a clock, random numbers or files. The export macros also install [an allocator](arena) that suits
//! short calls, and do nothing outside of WebAssembly.

pub mod adapter;
pub mod arena;
pub mod resolver;

#[doc(hidden)]
pub mod bindings;
