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
//! Whether a plugin keeps the laws that make replicas agree is checked natively as well, over made-up histories, by the
//! module [`testing`]: `mks_guest_sdk::testing::assert_resolver::<Biggest>()`.
//!
//! | kind | trait | macro | contract in `proto/plugin` |
//! |---|---|---|---|
//! | settles conflicts by metadata | [`resolver::Resolver`] | [`export_resolver!`] | `resolver.wit` |
//! | settles conflicts by values | [`values::ValueResolver`] | [`export_value_resolver!`] | `resolver.wit` |
//! | is changed by operations | [`data_type::DataType`] | [`export_data_type!`] | `datatype.wit` |
//! | the same, compared by summaries | [`data_type::Summary`] | [`export_delta_data_type!`] | `datatype.wit` |
//! | configures an engine | [`adapter::StorageAdapter`] | [`export_storage_adapter!`] | `storage-adapter.wit` |
//! | sees values on their way to an engine | [`value_adapter::ValueAdapter`] | [`export_value_adapter!`] | the same |
//!
//! The target is `wasm32-unknown-unknown`, whose standard library asks the host for nothing: a node refuses a plugin
//! that imports a clock, random numbers or files. The export macros also install [an allocator](arena) that suits
//! short calls, and do nothing outside of WebAssembly.

pub mod adapter;
pub mod arena;
pub mod codec;
pub mod data_type;
pub mod resolver;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod value_adapter;
pub mod values;

pub use mks_laws::Random;

#[doc(hidden)]
pub mod bindings;
