//! Generated from the contracts in `proto/plugin`. Plugin authors use the traits and macros instead.
#![allow(missing_debug_implementations)]

/// World `resolver`.
pub mod resolver {
    wit_bindgen::generate!({
        path: ["../proto/plugin/common.wit", "../proto/plugin/resolver.wit"],
        world: "my-key-store:resolver/resolver@0.1.1",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

/// World `settling`: beside `resolver` it makes a `value-resolver`.
pub mod settling {
    wit_bindgen::generate!({
        path: ["../proto/plugin/common.wit", "../proto/plugin/resolver.wit"],
        world: "my-key-store:resolver/settling@0.1.1",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

/// World `datatype`.
pub mod datatype {
    wit_bindgen::generate!({
        path: ["../proto/plugin/common.wit", "../proto/plugin/datatype.wit"],
        world: "my-key-store:datatype/datatype@0.1.0",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

/// World `summaries`: beside `datatype` it makes a `delta-datatype`.
pub mod summaries {
    wit_bindgen::generate!({
        path: ["../proto/plugin/common.wit", "../proto/plugin/datatype.wit"],
        world: "my-key-store:datatype/summaries@0.1.0",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

/// World `storage-adapter`.
pub mod storage_adapter {
    wit_bindgen::generate!({
        path: ["../proto/plugin/common.wit", "../proto/plugin/storage-adapter.wit"],
        world: "my-key-store:storage-adapter/storage-adapter@0.1.1",
        additional_derives: [PartialEq, Eq],
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

/// World `seeing`: beside `storage_adapter` it makes a `value-adapter`.
pub mod seeing {
    wit_bindgen::generate!({
        path: ["../proto/plugin/common.wit", "../proto/plugin/storage-adapter.wit"],
        world: "my-key-store:storage-adapter/seeing@0.1.1",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
    });
}
