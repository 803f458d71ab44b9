//! Running a target and saying what broke it.

use crate::{Mutator, Target, escaped, unescaped};
use std::cell::RefCell;
use std::panic;
use std::sync::Once;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

thread_local! {
    static CURRENT: RefCell<Option<(&'static str, Vec<u8>)>> = const { RefCell::new(None) };
}

/// From now on a panic within [`watched`] prints the line that shows it.
pub fn tell_input_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let current = CURRENT.with_borrow_mut(Option::take);
            if let Some((name, input)) = current {
                eprintln!("this line of tests/fuzz/corpus/{name}.txt shows it:\n{}", escaped(&input));
            }
            before(info);
        }));
    });
}

/// Runs a target once.
pub fn watched(target: &Target, input: &[u8]) {
    CURRENT.set(Some((target.name, input.to_vec())));
    (target.run)(input);
    CURRENT.set(None);
}

/// What is known to be worth trying: what this version writes, and what was kept.
///
/// # Panics
/// When a line of the corpus does not read.
#[must_use]
pub fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let read =
        |line| unescaped(line).unwrap_or_else(|| panic!("{}.txt has a line that does not read: {line}", target.name));
    let kept = target.corpus.lines().filter(|line| !line.starts_with('#')).map(read);
    (target.seeds)().into_iter().chain(kept).chain([Vec::new()]).collect()
}

/// Tries all [`inputs`], then mutations of them: `rounds_max`, or as many as fit into `time`. Returns how many.
///
/// # Panics
/// When the target does.
pub fn short_run(target: &Target, rounds_max: u64, time: Duration) -> u64 {
    tell_input_on_panic();
    let inputs = inputs(target);
    for input in &inputs {
        watched(target, input);
    }
    let mut mutator = Mutator::new(xxh3_64(target.name.as_bytes()));
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds < rounds_max && begin.elapsed() < time {
        watched(target, &mutator.mutate(&inputs));
        rounds += 1;
    }
    rounds
}
