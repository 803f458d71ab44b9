//! Generated from the contracts in `proto/plugin`.
#![allow(unsafe_code, missing_debug_implementations, unreachable_pub, clippy::all)]

/// World `resolver`.
pub(crate) mod resolver {
    wasmtime::component::bindgen!({
        path: ["../../proto/plugin/common.wit", "../../proto/plugin/resolver.wit"],
        world: "my-key-store:resolver/resolver@0.1.0",
        ownership: Borrowing { duplicate_if_necessary: false },
    });

    pub(crate) use exports::my_key_store::resolver::resolve::{Columns, Guest};
}

/// World `storage-adapter`.
pub(crate) mod storage_adapter {
    wasmtime::component::bindgen!({
        path: ["../../proto/plugin/common.wit", "../../proto/plugin/storage-adapter.wit"],
        world: "my-key-store:storage-adapter/storage-adapter@0.1.0",
        ownership: Borrowing { duplicate_if_necessary: false },
    });

    pub(crate) use exports::my_key_store::storage_adapter::adapter::{
        Compression, Config, Description, Guest, Plan, Refusal, Sees,
    };
}
