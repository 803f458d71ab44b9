//! Each reader of foreign bytes survives the kept inputs and a second of their mutations.

use mks_tests_fuzz::{inputs, short_run, target};
use std::time::Duration;

/// More are for `./dev fuzz`.
const ROUNDS_MAX: u64 = 20_000;
const TIME: Duration = Duration::from_secs(1);

/// `MKS_FUZZ_SECONDS` lets mutations go on for longer.
fn bounds() -> (u64, Duration) {
    let seconds = std::env::var("MKS_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("MKS_FUZZ_SECONDS is a number"));
    seconds.map_or((ROUNDS_MAX, TIME), |seconds| (u64::MAX, Duration::from_secs(seconds)))
}

fn survives(name: &str) {
    let target = target(name).expect("the target exists");
    assert!(!(target.seeds)().is_empty(), "without good inputs mutations reach nothing");
    let (rounds_max, time) = bounds();
    let rounds = short_run(target, rounds_max, time);
    println!("{name}: {} kept inputs, {rounds} mutations", inputs(target).len());
}

macro_rules! survive {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { survives($name); })*

        #[test]
        fn no_target_is_left_out() {
            let tested = [$($name),*];
            let all: Vec<_> = mks_tests_fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tested[..], all[..]);
        }
    };
}

survive! {
    no_datagram_of_a_member_confuses_the_membership: "member",
    a_causal_context_has_one_form: "context",
    bytes_of_a_record_are_that_record_or_an_error: "record",
    hints_and_sums_on_disk_read_or_are_found_damaged: "stored",
    entries_and_states_of_the_epoch_log_apply_or_are_refused: "log",
    a_sealed_datagram_is_what_was_sealed_or_nothing: "seal",
    a_context_token_is_what_was_given_or_nothing: "token",
    a_message_of_a_peer_reads_back_or_is_refused: "frame",
    no_frame_of_a_peer_stops_a_node: "node",
    a_request_of_a_client_is_within_limits_or_refused: "request",
    paths_and_queries_read_or_are_refused: "http",
    a_config_is_sound_or_refused_with_a_reason: "config",
    bytes_of_a_component_run_or_are_refused: "component",
}

#[test]
fn every_target_has_its_door_to_libfuzzer() {
    let doors = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = std::fs::read_to_string(doors.join("Cargo.toml")).expect("the manifest is there");
    for target in mks_tests_fuzz::TARGETS {
        let name = target.name;
        assert!(doors.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name} has no fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no binary of libfuzzer/Cargo.toml");
    }
}
