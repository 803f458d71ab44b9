//! The laws that every resolver and data type keeps, and a checker that looks for a history that breaks one.
//!
//! Owners of a key meet versions and states in different orders, some twice, some late. They agree in the end only if
//! the outcome does not depend on order, grouping or repetition, byte for byte. The checker makes up small histories
//! (three to five replicas, lost and repeated messages, groups that don't hear each other), runs the plugin through
//! them, and when a law breaks, looks for the smallest history that still breaks it. What it finds is proof; that it
//! finds nothing is evidence only.
//!
//! It knows no WebAssembly: the sandbox runs it against components, the guest SDK against native code, with the same
//! seeds and so the same histories.
//!
//! ```
//! use mks_laws::{DataType, Effect, Law, Life, Options, Update, check_data_type};
//!
//! /// Appends what clients send: not a join.
//! struct Text;
//!
//! impl DataType for Text {
//!     fn update(&self, _: Life, update: &Update<'_>) -> Result<Result<Effect, String>, String> {
//!         let state = [update.state.unwrap_or_default(), update.op].concat();
//!         Ok(Ok(Effect { state, delta: None, reply: None }))
//!     }
//!     fn merge(&self, _: Life, states: &[&[u8]]) -> Result<Result<Vec<u8>, String>, String> {
//!         Ok(Ok(states.concat()))
//!     }
//!     fn query(&self, _: Life, state: &[u8], _: &[u8]) -> Result<Result<Vec<u8>, String>, String> {
//!         Ok(Ok(state.to_vec()))
//!     }
//!     fn validate(&self, _: Life, _: &[u8]) -> Result<Result<(), String>, String> {
//!         Ok(Ok(()))
//!     }
//! }
//!
//! let broken = check_data_type(&Text, &Options::default()).expect_err("concatenation is no join");
//! assert_eq!(broken.law, Law::Repetition);
//! assert!(broken.history.lines().count() <= 2, "{}", broken.history);
//! ```

mod data_type;
mod history;
mod law;
mod random;
mod resolver;
mod shrink;

pub use data_type::{DataType, Effect, Update, check_data_type};
pub use law::{Broken, Law, Life, Options, Passed};
pub use random::Random;
pub use resolver::{Answer, Resolver, Version, check_resolver};
