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

/// The first one is the default.
pub(crate) const RESOLVERS: [Builtin; 3] = [builtin!("lww"), builtin!("first-write-wins"), builtin!("keep-siblings")];

/// The first one is the default.
pub(crate) const ADAPTERS: [Builtin; 2] = [builtin!("fjall"), builtin!("rocksdb")];
