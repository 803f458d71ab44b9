//! Components of core modules that are written by hand, wrapped by wit-component as a contract's text says.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const COMMON: &str = include_str!("../../../proto/plugin/common.wit");
/// The contracts of today.
pub(crate) const RESOLVER: &str = include_str!("../../../proto/plugin/resolver.wit");
pub(crate) const DATATYPE: &str = include_str!("../../../proto/plugin/datatype.wit");
/// The contracts that the first nodes spoke: what was built against them must load for ever.
pub(crate) const RESOLVER_0_1_0: &str = include_str!("../../../proto/past/resolver-0.1.0.wit");

pub(crate) const STORAGE_ADAPTER: &str = include_str!("../../../proto/plugin/storage-adapter.wit");
pub(crate) const STORAGE_ADAPTER_0_1_0: &str = include_str!("../../../proto/past/storage-adapter-0.1.0.wit");

/// Hands out memory front to back, from 65536 on.
const REALLOC: &str = r#"
    (global $next (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and
            (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get $align))))
        (global.set $next (i32.add (local.get $at) (local.get $size)))
        (local.get $at))"#;
/// Name, at 128, and version, at 120; the record of both at 16.
const ABOUT: &str = r#"
    (data (i32.const 16) "\80\00\00\00\07\00\00\00\78\00\00\00\01\00\00\00")
    (data (i32.const 120) "1")
    (data (i32.const 128) "by-hand")"#;

/// `imports` come first in a module; `functions` are the rest.
pub(crate) fn component(contract: &str, world: &str, imports: &str, functions: &str) -> Vec<u8> {
    let memory = r#"(memory (export "memory") 3)"#;
    let text = format!("(module {imports} {memory} {ABOUT} {REALLOC} {functions})");
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    resolve.push_source("common.wit", COMMON).expect("a contract");
    let package = resolve.push_source("contract.wit", contract).expect("a contract");
    let world = resolve.select_world(&[package], Some(world)).expect("a world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("a world's types");
    let encoded = ComponentEncoder::default().validate(true).module(&module).and_then(ComponentEncoder::encode);
    encoded.unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

/// A resolver of metadata, whose `by-metadata` is `body`; `$conflicts` is how many, `$ends` where their ends are.
pub(crate) fn resolver(contract: &str, version: &str, body: &str) -> Vec<u8> {
    component(contract, "resolver", "", &resolve(version, body))
}

fn resolve(version: &str, body: &str) -> String {
    let columns = "(param i32)".repeat(14);
    format!(
        r#"(global $calls (mut i32) (i32.const 0))
        (func (export "my-key-store:resolver/resolve@{version}#describe") (result i32) (i32.const 16))
        (func (export "my-key-store:resolver/resolve@{version}#by-metadata")
            (param $ends i32) (param $conflicts i32) {columns} (result i32) {body})"#
    )
}

/// Answers with the words at 32768.
pub(crate) const ANSWERS: &str = "
    (i32.store (i32.const 64) (i32.const 32768))
    (i32.store (i32.const 68) (local.get $conflicts))
    (i32.const 64)";

/// A resolver that always asks by value, and whose `by-value` is `body`. `$value`, `$read` and `$key` are its imports.
pub(crate) fn value_resolver(body: &str) -> Vec<u8> {
    value_resolver_with(ANSWERS, body)
}

/// The same with a `by-metadata` of its own.
pub(crate) fn value_resolver_with(by_metadata: &str, body: &str) -> Vec<u8> {
    let imports = r#"
        (import "my-key-store:resolver/siblings@0.1.1" "key" (func $key (param i32)))
        (import "my-key-store:resolver/siblings@0.1.1" "value" (func $value (param i32 i32)))
        (import "my-key-store:resolver/siblings@0.1.1" "read" (func $read (param i32 i32 i32 i32)))"#;
    let functions = format!(
        r#"(data (i32.const 32768) "{ask}")
        {resolve}
        (func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))
        (func (export "my-key-store:resolver/settle@0.1.1#when") (result i32) (i32.const 0))
        (func (export "my-key-store:resolver/settle@0.1.1#by-value") (param i32 $rows i32) (result i32) {body})
        (func (export "my-key-store:resolver/settle@0.1.1#sample") (param i64) (result i32) (i32.const 512))"#,
        ask = "\\ff".repeat(64),
        resolve = resolve("0.1.1", by_metadata),
        body = body,
    );
    // A parameter needs a group of its own to have a name.
    component(
        RESOLVER,
        "value-resolver",
        imports,
        &functions.replace("(param i32 $rows i32)", "(param i32) (param $rows i32)"),
    )
}

/// A data type whose `update` and `merge` are `body`, and which accepts everything else. Zeroes at 256 are `ok` of
/// nothing.
pub(crate) fn data_type(body: &str) -> Vec<u8> {
    let functions = format!(
        r#"(func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))
        (func $body (result i32) {body})
        (func (export "my-key-store:datatype/crdt@0.1.0#describe") (result i32) (i32.const 16))
        (func (export "my-key-store:datatype/crdt@0.1.0#update")
            (param i64 i64 i64 i64 i32 i32 i32 i32 i32) (result i32) (call $body))
        (func (export "my-key-store:datatype/crdt@0.1.0#merge") (param i32 i32) (result i32) (call $body))
        (func (export "my-key-store:datatype/crdt@0.1.0#query") (param i32 i32 i32 i32) (result i32) (i32.const 256))
        (func (export "my-key-store:datatype/crdt@0.1.0#validate") (param i32 i32) (result i32) (i32.const 256))
        (func (export "my-key-store:datatype/crdt@0.1.0#sample") (param i64) (result i32) (i32.const 256))"#
    );
    component(DATATYPE, "datatype", "", &functions)
}

/// A storage adapter that plans the engine fjall and sees nothing.
pub(crate) fn storage_adapter(contract: &str, version: &str) -> Vec<u8> {
    component(contract, "storage-adapter", "", &plan(version, 0, 5))
}

/// The exports of a storage adapter. Its plan lies at 256, and its engine's name are the first bytes of `fjall`.
fn plan(version: &str, sees: u8, engine_bytes: u8) -> String {
    // Two workers, and nothing for cache and memtables.
    format!(
        r#"(data (i32.const 256) "\00\00\00\00\00\00\00\00\00\02\00\00\{engine_bytes:02x}\00\00\00\{sees:02x}")
        (data (i32.const 308) "\02")
        (data (i32.const 512) "fjall")
        (func (export "my-key-store:storage-adapter/adapter@{version}#describe") (result i32) (i32.const 16))
        (func (export "my-key-store:storage-adapter/adapter@{version}#open") (param i32 i32 i64) (result i32)
            (i32.const 256))"#
    )
}

/// An adapter that sees values and whose `pack` and `unpack` are bodies with `$values`, `$ends` and how many there are.
pub(crate) fn value_adapter(pack: &str, unpack: &str) -> Vec<u8> {
    let params = "(param i32 i32) (param i32 i32 i32 i32) (param $values i32) (param $values_bytes i32)
        (param $ends i32) (param $rows i32) (param i32 i32) (result i32)";
    // The answer of `start`, at 600: fine, no settings, the form at 640, no random bytes.
    let functions = format!(
        r#"{plan}
        (data (i32.const 600) "\00\00\00\00\00\00\00\00\00\00\00\00\80\02\00\00\07\00\00\00\00\00\00\00")
        (data (i32.const 640) "as-is/1")
        (func (export "my-key-store:storage-adapter/values@0.1.1#start") (param i32 i32 i32 i32) (result i32)
            (i32.const 600))
        (func (export "my-key-store:storage-adapter/values@0.1.1#pack") {params} {pack})
        (func (export "my-key-store:storage-adapter/values@0.1.1#unpack") {params} {unpack})"#,
        plan = plan("0.1.1", 1, 0),
    );
    component(STORAGE_ADAPTER, "value-adapter", "", &functions)
}
