//! Components written by hand, to do what no compiler of ours would make them do.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The built-in components, as they are embedded.
pub(crate) const LWW: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lww.wasm"));
pub(crate) const FJALL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fjall.wasm"));

/// Answers "row 0" for every conflict: the list at 32768 is all zeroes.
pub(crate) const KEEP_FIRST: &str = "
    (i32.store (i32.const 64) (i32.const 32768))
    (i32.store (i32.const 68) (local.get $conflicts))
    (i32.const 64)";

/// What `describe` of a guest returns: the name.
const NAME: &str = "by-hand";

/// A resolver whose `by-metadata` is `body`; `$conflicts` holds the number of conflicts.
pub(crate) fn resolver(body: &str) -> Vec<u8> {
    resolver_with(NAME, "(memory (export \"memory\") 1)", "(i32.const 16)", body)
}

/// The same with a name, a memory and a body of `describe` of its own.
pub(crate) fn resolver_with(name: &str, memory: &str, describe: &str, body: &str) -> Vec<u8> {
    let interface = "my-key-store:resolver/resolve@0.1.0";
    let columns = "(param i32)".repeat(14);
    let text = format!(
        r#"(module
            {memory}
            {about}
            (global $calls (mut i32) (i32.const 0))
            {realloc}
            (func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))
            (func (export "{interface}#describe") (result i32) {describe})
            (func (export "{interface}#by-metadata")
                (param i32) (param $conflicts i32) {columns} (result i32) {body}))"#,
        about = about(name),
        realloc = REALLOC,
    );
    component(&text, "resolver.wit", "my-key-store:resolver/resolver@0.1.0")
}

/// A storage adapter whose `open` answers with these bytes, whatever it is asked.
pub(crate) fn adapter(answer: &[u8]) -> Vec<u8> {
    let interface = "my-key-store:storage-adapter/adapter@0.1.0";
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            {about}
            (data (i32.const 256) "{answer}")
            (data (i32.const 512) "fjall")
            {realloc}
            (func (export "{interface}#describe") (result i32) (i32.const 16))
            (func (export "{interface}#open") (param i32 i32 i64) (result i32) (i32.const 256)))"#,
        about = about(NAME),
        answer = escaped(answer),
        realloc = REALLOC,
    );
    component(&text, "storage-adapter.wit", "my-key-store:storage-adapter/storage-adapter@0.1.0")
}

/// The canonical form of `ok(plan)` for the engine `fjall`.
pub(crate) fn plan(sees: u8, cache_bytes: u64, memtable_bytes: u64, workers: u32) -> Vec<u8> {
    let mut bytes = vec![0; 56];
    bytes[8..12].copy_from_slice(&512u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&5u32.to_le_bytes());
    bytes[16] = sees;
    bytes[24..32].copy_from_slice(&cache_bytes.to_le_bytes());
    bytes[32..40].copy_from_slice(&memtable_bytes.to_le_bytes());
    bytes[52..56].copy_from_slice(&workers.to_le_bytes());
    bytes
}

/// Hands out memory front to back, from 4096.
const REALLOC: &str = r#"
    (global $next (mut i32) (i32.const 4096))
    (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and
            (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get $align))))
        (global.set $next (i32.add (local.get $at) (local.get $size)))
        (local.get $at))"#;

/// At 16 the answer of `describe`: name, version, and no options.
fn about(name: &str) -> String {
    let mut record = Vec::new();
    for word in [128, name.len(), 120, 1, 0, 0] {
        record.extend_from_slice(&u32::try_from(word).expect("a short name").to_le_bytes());
    }
    let (record, name) = (escaped(&record), escaped(name.as_bytes()));
    format!(r#"(data (i32.const 16) "{record}") (data (i32.const 120) "1") (data (i32.const 128) "{name}")"#)
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

fn component(text: &str, file: &str, world: &str) -> Vec<u8> {
    let contracts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/plugin");
    let mut resolve = Resolve::default();
    resolve.push_path(format!("{contracts}/common.wit")).expect("the shared types");
    let (package, _) = resolve.push_path(format!("{contracts}/{file}")).expect("the contract");
    let world = resolve.select_world(&[package], Some(world)).expect("the world");
    let mut module = wat::parse_str(text).expect("a module");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    let encoder = ComponentEncoder::default().module(&module).expect("a fitting module");
    encoder.validate(true).encode().expect("a component")
}
