//! From a history that breaks a law to the smallest one that can be found.

use crate::history::{Fate, History, Step};
use crate::law::{Breach, Broken};

/// Histories tried while shrinking.
const TRIES_MAX: usize = 4_000;

/// Drops steps and simplifies writes for as long as the same law breaks.
pub(crate) fn shrink<W: Clone + PartialEq>(
    found: (History<W>, Breach),
    seed: u64,
    simpler: impl Fn(&W) -> Vec<W>,
    show: impl Fn(&W) -> String,
    breach: impl Fn(&History<W>) -> Option<Breach>,
) -> Broken {
    let (mut history, mut broken) = found;
    let steps = history.steps.len();
    let mut tries = 0;
    'again: loop {
        for candidate in candidates(&history, &simpler) {
            tries += 1;
            if tries > TRIES_MAX {
                break 'again;
            }
            if let Some(smaller) = breach(&candidate).filter(|smaller| smaller.law == broken.law) {
                (history, broken) = (candidate, smaller);
                continue 'again;
            }
        }
        break;
    }
    let Breach { law, reason } = broken;
    Broken { law, seed, reason, history: history.show(show), dropped: steps - history.steps.len() }
}

/// Every history that is one step smaller, the boldest first.
fn candidates<W: Clone + PartialEq>(history: &History<W>, simpler: impl Fn(&W) -> Vec<W>) -> Vec<History<W>> {
    let mut smaller = Vec::new();
    let mut with = |steps: Vec<Step<W>>| smaller.push(History { replicas: history.replicas, steps });
    let steps = &history.steps;
    for half in [&steps[..steps.len() / 2], &steps[steps.len() / 2..]] {
        if half.len() < steps.len() {
            with(half.to_vec());
        }
    }
    for dropped in (0..steps.len()).rev() {
        let kept = steps.iter().enumerate().filter(|(i, _)| *i != dropped);
        with(kept.map(|(_, step)| step.clone()).collect());
    }
    for (changed, step) in steps.iter().enumerate() {
        for step in simpler_steps(step, &simpler) {
            let mut steps = steps.clone();
            steps[changed] = step;
            with(steps);
        }
    }
    if history.replicas > 1 {
        let replicas = history.replicas - 1;
        let names_only_others = |step: &&Step<W>| match step {
            Step::Write { at, .. } => *at < replicas,
            Step::Send { from, to, .. } => from.max(to) < &replicas,
            Step::Again { to, .. } => *to < replicas,
        };
        if steps.iter().all(|step| names_only_others(&step)) {
            smaller.push(History { replicas, steps: steps.clone() });
        }
    }
    smaller
}

fn simpler_steps<W: Clone>(step: &Step<W>, simpler: impl Fn(&W) -> Vec<W>) -> Vec<Step<W>> {
    match step {
        Step::Write { at, write } => {
            let mut steps: Vec<_> = simpler(write).into_iter().map(|write| Step::Write { at: *at, write }).collect();
            if *at > 0 {
                steps.push(Step::Write { at: at - 1, write: write.clone() });
            }
            steps
        }
        Step::Send { from, to, fate: Fate::Lost } => vec![Step::Send { from: *from, to: *to, fate: Fate::Arrives }],
        Step::Send { .. } | Step::Again { .. } => Vec::new(),
    }
}
