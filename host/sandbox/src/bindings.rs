//! Generated from the contracts in `proto/plugin`.
// Of some worlds only the interfaces are used, because components may have a part of them.
#![allow(dead_code, unsafe_code, missing_debug_implementations, unreachable_pub, clippy::all)]

/// World `value-resolver`, of which a plain resolver has a part.
pub(crate) mod resolver {
    wasmtime::component::bindgen!({
        path: ["../../proto/plugin/common.wit", "../../proto/plugin/resolver.wit"],
        world: "my-key-store:resolver/value-resolver@0.1.1",
        ownership: Borrowing { duplicate_if_necessary: false },
        imports: { default: trappable },
    });

    pub(crate) use exports::my_key_store::resolver::{resolve, settle};
    pub(crate) use my_key_store::resolver::siblings;
}

/// World `delta-datatype`, of which a plain data type has a part.
pub(crate) mod datatype {
    wasmtime::component::bindgen!({
        path: ["../../proto/plugin/common.wit", "../../proto/plugin/datatype.wit"],
        world: "my-key-store:datatype/delta-datatype@0.1.0",
        ownership: Borrowing { duplicate_if_necessary: false },
    });

    pub(crate) use exports::my_key_store::datatype::{crdt, crdt_delta};
}

/// World `value-adapter`, of which a plain storage adapter has a part.
pub(crate) mod storage_adapter {
    wasmtime::component::bindgen!({
        path: ["../../proto/plugin/common.wit", "../../proto/plugin/storage-adapter.wit"],
        world: "my-key-store:storage-adapter/value-adapter@0.1.1",
        ownership: Borrowing { duplicate_if_necessary: false },
    });

    pub(crate) use exports::my_key_store::storage_adapter::{adapter, values};
}
