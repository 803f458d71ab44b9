//! The simulator as a test: kept seeds, fresh seeds, and the proofs that it is deterministic and that it bites.

use mks_tests_sim::mutation::Mutation;
use mks_tests_sim::plan::{Cuts, Plan};
use mks_tests_sim::run::{Report, run, shrink};
use mks_tests_sim::trace::Keep;

/// Fresh seeds of a usual test run; `SIM_SEEDS` asks for more.
const FRESH: u64 = 2_000;
/// A mutation that so many seeds do not show is not caught.
const MUTANT_SEEDS_MAX: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text:?}: {error}")))
}

/// Runs a plan; a violation is shrunk and ends the test.
fn must_hold(plan: &Plan, cuts: &Cuts) -> Report {
    let outcome = run(&plan.clone().cut(cuts), Keep::Nothing);
    let Some(violation) = outcome.violation else { return outcome.report };
    let small = shrink(plan, cuts);
    let again = run(&plan.clone().cut(&small), Keep::Lines(60));
    panic!("{violation:#?}\n{}\nagain: {}", again.lines.join("\n"), plan.line(&small));
}

/// A line of seeds.txt.
fn kept(line: &str) -> (Plan, Cuts) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
    let number = |name: &str| value(name).map(|text| text.parse().unwrap_or_else(|error| panic!("{line}: {error}")));
    let without = value("--without").unwrap_or_default().parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    let cuts = Cuts { nodes: number("--nodes"), operations: number("--operations"), without };
    (Plan::draw(number("--seed").expect("a kept line names its seed")), cuts)
}

#[test]
fn kept_seeds_stay_mended() {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    for (plan, cuts) in lines.map(kept) {
        must_hold(&plan, &cuts);
    }
}

/// `SEED=7 cargo test -p mks-tests-sim` runs that seed alone and shows what happened.
#[test]
fn fresh_seeds_hold() {
    if let Some(seed) = number("SEED") {
        let plan = Plan::draw(seed);
        run(&plan, Keep::Lines(usize::MAX)).lines.iter().for_each(|line| println!("{line}"));
        must_hold(&plan, &Cuts::default());
        return;
    }
    let from = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() << 24;
    let mut total = Report::default();
    for seed in from..from + number("SIM_SEEDS").unwrap_or(FRESH) {
        total.add(&must_hold(&Plan::draw(seed), &Cuts::default()));
    }
    println!("{} seeds from {from}: {} operations, {} good replies", total.runs, total.checked, total.good);
    assert!(total.good > 50 * total.runs, "only {} good replies: too much trouble to see anything", total.good);
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    let hash = |seed| run(&Plan::draw(seed), Keep::Hash).hash;
    for seed in 0..20 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
    assert_ne!(hash(0), hash(1));
}

#[test]
fn every_deliberate_bug_is_caught() {
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let caught = (0..MUTANT_SEEDS_MAX).find_map(|seed| {
            let violation = run(&Plan::draw(seed).with(*mutation), Keep::Nothing).violation?;
            Some((seed, violation.invariant))
        });
        println!("{}: {caught:?}", mutation.name());
        missed.extend(caught.is_none().then(|| mutation.name()));
    }
    assert!(missed.is_empty(), "not caught in {MUTANT_SEEDS_MAX} seeds: {missed:?}");
}

#[test]
fn a_failing_run_is_cut_down() {
    let plan = Plan::draw(1).with(Mutation::ReplyTwice);
    let cuts = shrink(&plan, &Cuts::default());
    let small = plan.clone().cut(&cuts);
    assert!(run(&small, Keep::Nothing).violation.is_some());
    assert!(small.operations <= 4 && small.faults.iter().next().is_none(), "{}", plan.line(&cuts));
}

/// Runs in which one machine is off for a month.
const MONTHS: u64 = 6;

#[test]
fn a_node_that_was_away_for_a_month_brings_nothing_back() {
    for seed in 0..MONTHS {
        must_hold(&Plan::month(seed), &Cuts::default());
    }
}
