//! The components that are part of every node, as built by `build.rs`.

/// A component in this binary.
#[derive(Clone, Copy)]
pub(crate) struct Builtin {
    /// What configs call it; the component describes itself by the same name.
    pub(crate) name: &'static str,
    /// The component.
    pub(crate) bytes: &'static [u8],
}

macro_rules! builtin {
    ($name:literal) => {
        Builtin { name: $name, bytes: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")) }
    };
}

// `RESOLVERS` and `ADAPTERS`, the default first, `MERGERS` and `DATA_TYPES`: `build.rs` writes what it has built.
include!(concat!(env!("OUT_DIR"), "/builtin.rs"));
