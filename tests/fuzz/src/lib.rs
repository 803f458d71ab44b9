//! Whatever reads bytes that others wrote, tried with bytes that nobody would write.
//!
//! A [`Target`] is one such reader: a plain function that must not panic, whatever the bytes, and that checks what it
//! can of what was read. There are two ways to run them:
//!
//! - `./dev test` tries the kept inputs and, for a second each, mutations of them ([`short_run`]).
//! - `./dev fuzz TARGET` lets libFuzzer look for inputs that reach new code (`libfuzzer/`, a workspace of its own).
//!
//! Kept inputs are lines of `corpus/TARGET.txt`, escaped as in a byte string of Rust. A panic prints the line that
//! shows it: add it there together with the mending.

mod lines;
mod mutate;
mod run;
pub mod targets;

pub use lines::{escaped, unescaped};
pub use mutate::Mutator;
pub use run::{inputs, short_run, tell_input_on_panic, watched};

/// One reader of foreign bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As `./dev fuzz` calls it.
    pub name: &'static str,
    /// Reads, and panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Good inputs, as this version writes them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The kept inputs, one a line.
    pub corpus: &'static str,
}

macro_rules! targets {
    ($($(#[$only:meta])? $name:ident),* $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$($(#[$only])? Target {
            name: stringify!($name),
            run: targets::$name::run,
            seeds: targets::$name::seeds,
            corpus: include_str!(concat!("../corpus/", stringify!($name), ".txt")),
        }),*];
    };
}

targets! {
    member,
    context,
    record,
    stored,
    log,
    #[cfg(feature = "node")] seal,
    #[cfg(feature = "node")] token,
    #[cfg(feature = "node")] frame,
    #[cfg(feature = "node")] node,
    #[cfg(feature = "node")] request,
    #[cfg(feature = "node")] http,
    #[cfg(feature = "node")] config,
    #[cfg(feature = "node")] component,
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
