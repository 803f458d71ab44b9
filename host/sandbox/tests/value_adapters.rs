//! Adapters that see values: the built-in ones, and components that answer what can't be.

use crate::guests::FJALL;
use crate::modules::{STORAGE_ADAPTER, STORAGE_ADAPTER_0_1_0, storage_adapter, value_adapter};
use crate::{sandbox, sandbox_in};
use mks_logic::port::{Adapt, Rows, Unpacked};
use mks_sandbox::{AdapterConfig, AdapterSource, OpenedAdapter, Sandbox, SandboxError, ValueAdapter};
use proptest::prelude::*;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const COMPRESS: AdapterSource = AdapterSource::Builtin("compress");
const ENCRYPT: AdapterSource = AdapterSource::Builtin("encrypt");

fn with_key(byte: u8) -> AdapterConfig {
    AdapterConfig { secrets: vec![("key".into(), vec![byte; 32])], ..AdapterConfig::default() }
}

fn opened(sandbox: &Sandbox, source: &AdapterSource, config: &AdapterConfig) -> Arc<ValueAdapter> {
    sandbox.adapter(source, config).expect("it starts").values.expect("it sees values")
}

/// A component in a file.
fn source(home: &TempDir, bytes: &[u8]) -> AdapterSource {
    let path = home.path().join("adapter.wasm");
    fs::write(&path, bytes).expect("writable");
    AdapterSource::Path(path)
}

fn by_hand(pack: &str, unpack: &str) -> Result<(TempDir, Arc<Sandbox>, OpenedAdapter), SandboxError> {
    let home = tempfile::tempdir().expect("a directory");
    let sandbox = sandbox_in(&home);
    let adapter = sandbox.adapter(&source(&home, &value_adapter(pack, unpack)), &AdapterConfig::default())?;
    Ok((home, sandbox, adapter))
}

fn rows(values: &[(&str, &[u8])]) -> Rows {
    let mut rows = Rows::default();
    values.iter().for_each(|(name, value)| rows.push(&[name.as_bytes()], value));
    rows
}

#[test]
fn the_built_in_adapters_give_back_what_they_were_given() {
    let (_home, sandbox) = sandbox();
    let long = vec![9; 1 << 20];
    let plain = rows(&[("a", b""), ("b", b"value"), ("c", &[7; 3_000]), ("d", &long)]);
    for (source, config) in [(COMPRESS, AdapterConfig::default()), (ENCRYPT, with_key(1))] {
        let adapter = opened(&sandbox, &source, &config);
        let mut packed = plain.clone();
        adapter.pack(&mut packed).expect("packed");
        assert!(packed.iter().zip(plain.iter()).all(|(packed, plain)| packed != plain));
        assert_eq!(adapter.unpack(&mut packed), Ok(vec![Unpacked::Whole; 4]));
        assert_eq!(packed, plain);
        let counters = adapter.counters();
        assert_eq!((counters.packed, counters.unpacked, counters.damaged, counters.failures), (4, 4, 0, 0));
        assert!(adapter.pack(&mut Rows::default()).is_ok(), "nothing is no error");
    }
}

#[test]
fn what_the_component_packs_the_native_code_unpacks_and_the_other_way_round() {
    use mks_guest_sdk::value_adapter::Opened;
    let (_home, sandbox) = sandbox();
    let compress = opened(&sandbox, &COMPRESS, &AdapterConfig::default());
    let native = Opened::<mks_plugin_compress::Compress>::start(&[], &[]).expect("good options");
    assert_eq!(compress.form(), format!("compress {}", native.started().form));
    let value = [1; 500];
    let mut one = rows(&[("name", &value)]);
    compress.pack(&mut one).expect("packed");
    assert_eq!(one.values, native.pack(b"name", &value, &[]));

    let encrypt = opened(&sandbox, &ENCRYPT, &with_key(5));
    let native = Opened::<mks_plugin_encrypt::Encrypt>::start(&[], &[("key", &[5; 32])]).expect("a good key");
    let mut one = rows(&[("name", &value)]);
    encrypt.pack(&mut one).expect("packed");
    assert_eq!(native.unpack(b"name", &one.values), Ok(value.to_vec()));
    let mut one = rows(&[("name", &native.pack(b"name", &value, &[3; 24]))]);
    assert_eq!(encrypt.unpack(&mut one), Ok(vec![Unpacked::Whole]));
    assert_eq!(one.values, value);
}

#[test]
fn no_two_values_are_encrypted_alike_and_only_the_same_key_and_name_opens_them() {
    let (_home, sandbox) = sandbox();
    let encrypt = opened(&sandbox, &ENCRYPT, &with_key(1));
    let mut packed = rows(&[("a", b"same"), ("a", b"same"), ("b", b"same")]);
    encrypt.pack(&mut packed).expect("packed");
    let each: Vec<Vec<u8>> = packed.iter().map(<[u8]>::to_vec).collect();
    assert_ne!(each[0], each[1]);
    let mut swapped = rows(&[("a", &each[0]), ("a", &each[2]), ("b", b"rubbish"), ("b", &each[2])]);
    let (whole, damaged) = (Unpacked::Whole, Unpacked::Damaged);
    assert_eq!(encrypt.unpack(&mut swapped), Ok(vec![whole, damaged, damaged, whole]));
    assert_eq!(swapped.iter().collect::<Vec<_>>(), [&b"same"[..], b"", b"", b"same"]);
    let other = opened(&sandbox, &ENCRYPT, &with_key(2));
    assert_eq!(other.unpack(&mut rows(&[("a", &each[0])])), Ok(vec![Unpacked::Foreign]));
    let counted = |adapter: &ValueAdapter| (adapter.counters().damaged, adapter.counters().foreign);
    assert_eq!((counted(&encrypt), counted(&other)), ((2, 0), (0, 1)));
    assert_ne!(other.form(), encrypt.form());
}

#[test]
fn options_and_secrets_that_can_not_be_used_are_refused_in_words() {
    let (_home, sandbox) = sandbox();
    let refused = |source: &AdapterSource, config: &AdapterConfig| {
        sandbox.adapter(source, config).expect_err("it is refused").to_string()
    };
    let options = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let bad = AdapterConfig { options: options("from", "lots"), ..AdapterConfig::default() };
    assert!(refused(&COMPRESS, &bad).contains("from = \"lots\""));
    let unknown = AdapterConfig { options: options("level", "9"), ..AdapterConfig::default() };
    assert!(refused(&COMPRESS, &unknown).contains("no option `level`; it knows from"));
    assert!(refused(&COMPRESS, &with_key(1)).contains("takes no secret"));
    assert!(
        refused(&AdapterSource::Builtin("fjall"), &AdapterConfig { memory_budget: 64 << 20, ..with_key(1) })
            .contains("takes no secrets")
    );
    assert!(refused(&ENCRYPT, &AdapterConfig::default()).contains("mks keygen"));
    let short = AdapterConfig { secrets: vec![("key".into(), vec![1; 31])], ..AdapterConfig::default() };
    assert!(refused(&ENCRYPT, &short).contains("31 bytes"));
    assert!(!format!("{:?} {:?}", with_key(1), opened(&sandbox, &ENCRYPT, &with_key(1))).contains("[1, 1"));
}

#[test]
fn an_adapter_that_names_no_engine_gives_no_plan() {
    let (_home, sandbox) = sandbox();
    let error = sandbox.plan(&COMPRESS, &[], 64 << 20).expect_err("no engine");
    assert!(error.to_string().contains("names no engine"), "{error}");
}

/// Leaves every value as it is: the columns that were given are the answer.
const AS_IT_IS: &str = "
    (i32.store (i32.const 64) (local.get $values)) (i32.store (i32.const 68) (local.get $values_bytes))
    (i32.store (i32.const 72) (local.get $ends)) (i32.store (i32.const 76) (local.get $rows))
    (i32.store (i32.const 80) (i32.const 32768)) (i32.store (i32.const 84) (local.get $rows))
    (i32.const 64)";

#[test]
fn a_component_of_somebody_else_sees_values_too() {
    let (_home, _sandbox, opened) = by_hand(AS_IT_IS, AS_IT_IS).expect("an adapter");
    let adapter = opened.values.expect("it sees values");
    assert_eq!((adapter.form(), opened.plan.is_some()), ("by-hand as-is/1", false));
    let mut some = rows(&[("a", b"one"), ("b", b"two")]);
    adapter.pack(&mut some).expect("packed");
    assert_eq!(adapter.unpack(&mut some), Ok(vec![Unpacked::Whole; 2]));
    assert_eq!(some, rows(&[("a", b"one"), ("b", b"two")]));
}

#[test]
fn answers_of_the_wrong_shape_and_failures_are_errors_and_the_next_call_works() {
    let with = |change: &str| AS_IT_IS.replacen("\n    (i32.const 64)", &format!("\n    {change} (i32.const 64)"), 1);
    let fewer = with("(i32.store (i32.const 76) (i32.const 1))");
    let more = with("(i32.store (i32.const 72) (i32.const 40000)) (i32.store (i32.const 76) (i32.const 9))");
    let overlap = with("(i32.store (local.get $ends) (i32.const 7))");
    let short = with("(i32.store (i32.const 68) (i32.const 2))");
    let grown = with(
        "(i32.store (i32.const 68) (i32.const 5000)) (i32.store (i32.const 64) (i32.const 70000))
         (i32.store offset=4 (local.get $ends) (i32.const 5000))",
    );
    let endless = "(loop $again (br $again)) (i32.const 64)";
    let beyond = "(i32.store (i32.const 64) (i32.const -1)) (i32.store (i32.const 68) (i32.const -1)) (i32.const 64)";
    let bodies = [
        (fewer.as_str(), "1 rows to 2"),
        (&more, "9 rows to 2"),
        (&overlap, "overlap"),
        (&short, "overlap"),
        (&grown, "4997 bytes of a value of 3"),
        ("unreachable", "unreachable"),
        (endless, "no answer within"),
        (beyond, ""),
    ];
    for (body, words) in bodies {
        let (_home, _sandbox, opened) = by_hand(body, AS_IT_IS).expect("an adapter");
        let adapter = opened.values.expect("it sees values");
        let some = rows(&[("a", b"one"), ("b", b"two")]);
        let began = Instant::now();
        let error = adapter.pack(&mut some.clone()).expect_err("no answer");
        assert!(error.reason.contains(words) && error.adapter == "by-hand", "{words}: {error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{words}");
        let mut again = some.clone();
        assert_eq!(adapter.unpack(&mut again), Ok(vec![Unpacked::Whole; 2]), "the next call works");
        assert_eq!(adapter.counters().failures, 1);
    }
    let outcomes = with("(i32.store (i32.const 84) (i32.const 3))");
    let (_home, _sandbox, opened) = by_hand(AS_IT_IS, &outcomes).expect("an adapter");
    let adapter = opened.values.expect("it sees values");
    let error = adapter.unpack(&mut rows(&[("a", b"one"), ("b", b"two")])).expect_err("no answer");
    assert!(error.reason.contains("3 outcomes of 2 rows"), "{error}");
}

#[test]
fn an_adapter_of_the_first_contract_still_plans_an_engine() {
    let (home, sandbox) = sandbox();
    let old = source(&home, &storage_adapter(STORAGE_ADAPTER_0_1_0, "0.1.0"));
    let plan = sandbox.plan(&old, &[], 64 << 20).expect("built against 0.1.0");
    assert_eq!((plan.engine.as_str(), plan.adapter.as_str()), ("fjall", "by-hand"));
    assert_eq!(sandbox.plan(&source(&home, FJALL), &[], 64 << 20).expect("of today").engine, "fjall");
}

#[test]
fn an_adapter_of_another_version_is_refused_with_both_versions() {
    let (home, sandbox) = sandbox();
    let contract = STORAGE_ADAPTER.replace("storage-adapter@0.1.1", "storage-adapter@0.2.0");
    let later = source(&home, &storage_adapter(&contract, "0.2.0"));
    let error = sandbox.plan(&later, &[], 64 << 20).expect_err("another version");
    assert!(matches!(error, SandboxError::OtherVersion { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_chain_of_both_gives_back_any_values(
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..40),
    ) {
        thread_local!(static SHARED: (TempDir, Arc<Sandbox>) = sandbox());
        SHARED.with(|(_, sandbox)| {
            let chain =
                [opened(sandbox, &COMPRESS, &AdapterConfig::default()), opened(sandbox, &ENCRYPT, &with_key(1))];
            let mut rows = Rows::default();
            values.iter().enumerate().for_each(|(i, value)| rows.push(&[&i.to_be_bytes()], value));
            let plain = rows.clone();
            chain.iter().try_for_each(|adapter| adapter.pack(&mut rows)).expect("packed");
            for adapter in chain.iter().rev() {
                prop_assert_eq!(adapter.unpack(&mut rows), Ok(vec![Unpacked::Whole; values.len()]));
            }
            prop_assert_eq!(rows, plain);
            Ok(())
        })?;
    }
}
