//! The doors through which libFuzzer comes to the targets.

use mks_tests_fuzz::{Target, inputs, target, tell_input_on_panic, watched};
use std::path::PathBuf;
use std::sync::OnceLock;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// Chooses the target of this process. Writes what is known to be worth trying into `$MKS_FUZZ_INPUTS`, for libFuzzer
/// to start from.
///
/// # Panics
/// When there is no such target, or the directory can't be written.
pub fn open(name: &str) {
    let found = target(name).expect("the binaries are named after the targets");
    tell_input_on_panic();
    if let Some(directory) = std::env::var_os("MKS_FUZZ_INPUTS").map(PathBuf::from) {
        for (number, input) in inputs(found).iter().enumerate() {
            std::fs::write(directory.join(format!("known-{number}")), input).expect("the directory is writable");
        }
    }
    TARGET.get_or_init(|| found);
}

/// Runs it once.
///
/// # Panics
/// When the target does, or before [`open`].
pub fn run(input: &[u8]) {
    watched(TARGET.get().expect("libFuzzer initializes first"), input);
}
