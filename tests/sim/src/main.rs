//! `mks-sim`: many seeds, or one of them closely. `./dev sim` builds and runs it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mks_tests_sim::fault::Fault;
use mks_tests_sim::mutation::Mutation;
use mks_tests_sim::plan::{Cuts, Plan};
use mks_tests_sim::run::{Report, Violation, run, shrink};
use mks_tests_sim::trace::Keep;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: mks-sim [--seeds N] [--from SEED] [--minutes M] [--jobs J]     fresh seeds (default: 2000, from the clock)
       mks-sim --seed SEED [--nodes N] [--operations N] [--without FAULT,...] [--trace]
       mks-sim --measure [--seeds N]                                      figures of speed, on one thread
       mks-sim --month [--seeds N] [--seed SEED]                          a machine that is off for 30 days
       either may have a deliberate bug: [--mutation NAME]; many seeds may be those of one workload: [--workload NAME]";

/// Lines of the trace that a failing seed shows.
const LINES_SHOWN: usize = 60;

#[derive(Default)]
struct Options {
    seeds: Option<u64>,
    from: Option<u64>,
    seed: Option<u64>,
    minutes: Option<f64>,
    jobs: Option<usize>,
    cuts: Cuts,
    mutation: Option<Mutation>,
    workload: Option<String>,
    trace: bool,
    measure: bool,
    month: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let switch = match word.as_str() {
            "--trace" => Some(&mut options.trace),
            "--measure" => Some(&mut options.measure),
            "--month" => Some(&mut options.month),
            _ => None,
        };
        if let Some(switch) = switch {
            *switch = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value, or is unknown"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value:?}: {error}"));
        match word.as_str() {
            "--seeds" => options.seeds = Some(number()?),
            "--from" => options.from = Some(number()?),
            "--seed" => options.seed = Some(number()?),
            "--jobs" => options.jobs = Some(number()?.max(1) as usize),
            "--minutes" => options.minutes = Some(value.parse().map_err(|error| format!("{word} {value:?}: {error}"))?),
            "--nodes" => options.cuts.nodes = Some(number()?),
            "--operations" => options.cuts.operations = Some(number()?),
            "--without" => options.cuts.without = value.parse()?,
            "--workload" => options.workload = Some(value),
            "--mutation" => {
                let known = Mutation::ALL.iter().find(|mutation| mutation.name() == value);
                options.mutation = Some(*known.ok_or_else(|| format!("there is no mutation {value:?}"))?);
            }
            _ => return Err(format!("{word} is unknown")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|word| matches!(word.as_str(), "--help" | "-h")) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(std::env::args().skip(1)) {
        Ok(options) if options.seed.is_some() => one(&options),
        Ok(options) => many(&options),
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn plan(seed: u64, options: &Options) -> Plan {
    Plan { mutation: options.mutation, ..whole(seed, options).cut(&options.cuts) }
}

fn whole(seed: u64, options: &Options) -> Plan {
    match (options.measure, options.month) {
        (true, _) => Plan::measured(seed),
        (_, true) => Plan::month(seed),
        _ => Plan::draw(seed),
    }
}

/// One seed, closely.
fn one(options: &Options) -> ExitCode {
    let plan = plan(options.seed.unwrap_or_default(), options);
    println!("{plan}");
    let kept = if options.trace { usize::MAX } else { LINES_SHOWN };
    let outcome = run(&plan, Keep::Lines(kept));
    if options.trace || outcome.violation.is_some() {
        outcome.lines.iter().for_each(|line| println!("{line}"));
    }
    summary(&outcome.report, Duration::ZERO);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("VIOLATION {} at {} us: {}", violation.invariant, violation.at_us, violation.text);
            ExitCode::FAILURE
        }
    }
}

/// As many seeds as were asked for, or as fit into the time.
fn many(options: &Options) -> ExitCode {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() << 24);
    let from = options.from.unwrap_or_else(clock);
    let usual = if options.measure { 100 } else { 2_000 };
    let seeds = options.seeds.unwrap_or(if options.minutes.is_some() { u64::MAX } else { usual });
    let end = options.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or_else(|| if options.measure { 1 } else { cores() });
    let (next, total, failed) = (AtomicU64::new(0), Mutex::new(Report::default()), Mutex::new(Vec::new()));
    let (begin, bar) = (Instant::now(), bar(options, seeds));
    println!("seeds from {from}, {jobs} at a time");
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while end.is_none_or(|end| Instant::now() < end) && failed.lock().is_ok_and(|f| f.is_empty()) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds {
                        break;
                    }
                    let plan = plan(from.wrapping_add(at), options);
                    if options.workload.as_ref().is_some_and(|wanted| wanted != plan.workload.name()) {
                        continue;
                    }
                    let outcome = run(&plan, Keep::Nothing);
                    if let Ok(mut total) = total.lock() {
                        total.add(&outcome.report);
                        progress(&bar, &total, begin, end, options.minutes);
                    }
                    if let (Some(violation), Ok(mut failed)) = (outcome.violation, failed.lock()) {
                        failed.push((plan, violation));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let total = total.into_inner().unwrap_or_default();
    let elapsed = begin.elapsed();
    summary(&total, elapsed * jobs as u32);
    let failed = failed.into_inner().unwrap_or_default();
    failed.iter().for_each(|(plan, violation)| explain(plan, violation, options));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A bar on a terminal; nothing but lines elsewhere.
fn bar(options: &Options, seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = options.minutes.map_or(seeds, |minutes| (minutes * 60.0) as u64);
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let template = "{bar:40} {percent:>3} % {msg}, {eta} left";
    ProgressStyle::with_template(template).map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

/// Plain lines, where there is no bar, come every so many seeds.
const LINE_EVERY: u64 = 1_000;

fn progress(bar: &ProgressBar, total: &Report, begin: Instant, end: Option<Instant>, minutes: Option<f64>) {
    let text = || format!("{} seeds, {} operations, no violation", total.runs, total.checked);
    if bar.is_hidden() {
        if total.runs.is_multiple_of(LINE_EVERY) {
            println!("{}", text());
        }
        return;
    }
    bar.set_message(text());
    let spent = begin.elapsed().as_secs();
    bar.set_position(if end.is_some() && minutes.is_some() { spent } else { total.runs });
}

fn summary(total: &Report, cpu: Duration) {
    let seconds = |us: u64| us as f64 / 1e6;
    println!(
        "{} runs, {} operations checked ({} good replies, {} bad), {} steps, {:.0} simulated seconds ({:.0} under load)",
        total.runs,
        total.checked,
        total.good,
        total.bad,
        total.steps,
        seconds(total.simulated_us),
        seconds(total.load_us)
    );
    let cpu = cpu.as_secs_f64();
    if cpu > 0.0 {
        println!(
            "{cpu:.1} s of threads' time: {:.0} simulated seconds, {:.0} operations and {:.0} steps in each",
            seconds(total.simulated_us) / cpu,
            total.checked as f64 / cpu,
            total.steps as f64 / cpu
        );
    }
    let faults: Vec<_> = Fault::ALL.iter().map(|f| format!("{} {}", total.faults[*f as usize], f.name())).collect();
    println!("faults: {}", faults.join(", "));
}

/// What failed, as small as it gets, and how to see it again.
fn explain(plan: &Plan, violation: &Violation, options: &Options) {
    println!("VIOLATION of {} by {plan}\n  {}", violation.invariant, violation.text);
    let whole = Plan { mutation: plan.mutation, ..whole(plan.seed, options) };
    let cuts = shrink(&whole, &options.cuts);
    let small = whole.clone().cut(&cuts);
    let outcome = run(&small, Keep::Lines(LINES_SHOWN));
    println!("smallest: {small}");
    outcome.lines.iter().for_each(|line| println!("  {line}"));
    println!("again: {}", small.line(&cuts));
    println!("keep it: add that line to tests/sim/seeds.txt");
}
