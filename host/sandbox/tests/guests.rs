//! Components written by hand, to do what no compiler of ours would make them do.

/// The built-in components, as they are embedded.
pub(crate) const LWW: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lww.wasm"));
pub(crate) const LONGEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/longest.wasm"));
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
    component(&text, "my-key-store:resolver/resolve@0.1.0", RESOLVE)
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
    component(&text, "my-key-store:storage-adapter/adapter@0.1.0", ADAPTER)
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

/// The types and functions of an interface, and how its functions are lifted from the core instance `$i`.
struct Interface {
    /// Types in order: name and definition. `{}` stands for nothing; names refer to those before.
    types: &'static [(&'static str, &'static str)],
    /// Functions: name, parameters and result.
    functions: &'static [(&'static str, &'static str)],
}

const INFO: (&str, &str) = ("info", "(record (field \"name\" string) (field \"version\" string))");

const RESOLVE: &Interface = &Interface {
    types: &[
        INFO,
        (
            "columns",
            "(record (field \"ends\" (list u32)) (field \"nodes\" (list u64)) (field \"incarnations\" (list u64))
             (field \"counters\" (list u64)) (field \"written\" (list u64)) (field \"sizes\" (list u32))
             (field \"marks\" (list u8)) (field \"digests\" (list u64)))",
        ),
    ],
    functions: &[("describe", "(result $info)"), ("by-metadata", "(param \"batch\" $columns) (result (list u32))")],
};

const ADAPTER: &Interface = &Interface {
    types: &[
        INFO,
        ("option-doc", "(record (field \"name\" string) (field \"help\" string))"),
        ("description", "(record (field \"info\" $info) (field \"options\" (list $option-doc)))"),
        ("config", "(record (field \"options\" (list (tuple string string))) (field \"memory-budget\" u64))"),
        ("sees", "(enum \"none\" \"values\" \"keys-and-values\")"),
        ("compression", "(enum \"none\" \"lz4\")"),
        (
            "tuning",
            "(record (field \"cache-bytes\" u64) (field \"memtable-bytes\" u64)
             (field \"separate-values-from\" (option u32)) (field \"compression\" $compression)
             (field \"workers\" u32))",
        ),
        ("plan", "(record (field \"engine\" string) (field \"sees\" $sees) (field \"tuning\" $tuning))"),
        ("bad-value", "(record (field \"name\" string) (field \"value\" string) (field \"expected\" string))"),
        (
            "refusal",
            "(variant (case \"unknown-option\" string) (case \"bad-value\" $bad-value)
             (case \"budget-too-small\" u64) (case \"other\" string))",
        ),
    ],
    functions: &[
        ("describe", "(result $description)"),
        ("open", "(param \"config\" $config) (result (result $plan (error $refusal)))"),
    ],
};

/// Wraps a core module whose exports are named `<interface>#<function>`.
///
/// A component may only export functions whose types have exported names. So an inner component takes the lifted
/// functions in and exports them again beside the types, under the names that it gives them.
fn component(module: &str, name: &str, interface: &Interface) -> Vec<u8> {
    let each = |list: &[(&str, &str)], write: &dyn Fn(&str, &str) -> String| -> String {
        list.iter().map(|(name, what)| write(name, what)).collect()
    };
    let Interface { types, functions } = *interface;
    let named = |suffix: &str, text: &str| {
        types.iter().fold(text.to_owned(), |text, (name, _)| rename(&text, name, &format!("{name}{suffix}")))
    };
    let outer_types = each(types, &|name, what| format!("(type ${name} {what})\n"));
    let lifted = each(functions, &|function, signature| {
        format!(
            "(func $lifted-{function} {signature} (canon lift (core func $i \"{name}#{function}\")
             (memory $i \"memory\") (realloc (func $i \"cabi_realloc\"))))\n"
        )
    });
    let imports = each(types, &|name, what| {
        let what = named("-in", what);
        format!("(type ${name}-def {what}) (import \"import-type-{name}\" (type ${name}-in (eq ${name}-def)))\n")
    });
    let import_functions = each(functions, &|function, signature| {
        let signature = named("-in", signature);
        format!("(import \"import-func-{function}\" (func $in-{function} {signature}))\n")
    });
    let exports = each(types, &|name, what| {
        let what = named("-out", what);
        format!("(type ${name}-again {what}) (export ${name}-out \"{name}\" (type ${name}-again))\n")
    });
    let export_functions = each(functions, &|function, signature| {
        let signature = named("-out", signature);
        format!("(export \"{function}\" (func $in-{function}) (func {signature}))\n")
    });
    let with_types = each(types, &|name, _| format!("(with \"import-type-{name}\" (type ${name}))\n"));
    let with_functions =
        each(functions, &|function, _| format!("(with \"import-func-{function}\" (func $lifted-{function}))\n"));
    let text = format!(
        "(component
            (core {module_body}
            (core instance $i (instantiate $m))
            {outer_types} {lifted}
            (component $shim {imports} {import_functions} {exports} {export_functions})
            (instance $whole (instantiate $shim {with_types} {with_functions}))
            (export \"{name}\" (instance $whole)))",
        module_body = module.replacen("(module", "module $m", 1),
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Replaces `$name` where it stands alone.
fn rename(text: &str, name: &str, new: &str) -> String {
    text.replace(&format!("${name})"), &format!("${new})")).replace(&format!("${name} "), &format!("${new} "))
}
