//! Plugins on this node: the code that was uploaded anywhere, on its way to where it runs.
//!
//! The epoch log says which plugins there are, who holds them and who may use them; the sandbox runs them; what is
//! between the two is here. [`shelf`] has the code, on the disk and in the sandbox, and looks at it before anybody
//! relies on it; [`fetch`] gets it from other members, piece by piece; [`keeper`] is the task that makes what this node
//! holds follow what the log says; [`shadows`] asks candidates what they would have made of what others have settled.
//!
//! What is absent: decisions about who uses what, and native code on the network.

mod fetch;
mod keeper;
mod shadows;
mod shelf;

pub use fetch::Source;
pub use keeper::keep;
pub use shadows::Shadows;
pub use shelf::{About, Local, PluginError, Plugins, Progress, Upload};

use mks_logic::port::ResolverHash;

/// How people and programs write a hash: 64 hex digits.
#[must_use]
pub fn hex(hash: ResolverHash) -> String {
    blake3::Hash::from(hash.0).to_hex().to_string()
}
