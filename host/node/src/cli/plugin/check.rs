//! `plugin check` and `plugin bench`.

use super::{progress, read, sandbox};
use crate::cli::client::Failure;
use crate::cli::output::Output;
use anyhow::{Context as _, anyhow};
use clap::Args;
use mks_logic::port::{Adapt as _, Rows, Unpacked};
use mks_sandbox::check::{self, Broken, Figure, Figures, Passed};
use mks_sandbox::{AdapterConfig, AdapterSource, Moment, Plugin, Sandbox, SandboxError};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Cases between two steps of the progress bar.
const STEP: u32 = 250;
/// How long `check` measures each call.
const QUICK: Duration = Duration::from_millis(100);
/// Memory that an adapter is asked to plan with, bytes.
const MEMORY_BUDGET: u64 = 256 << 20;

/// `mks plugin check`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// The component
    file: PathBuf,
    /// Made-up histories to try
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    cases: u32,
    /// Where to start; a counterexample names the seed that finds it again with --cases 1
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// `mks plugin bench`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    /// The component
    file: PathBuf,
    /// How long to measure each call, seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// What a component says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct About {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) hash: String,
}

impl About {
    pub(super) fn of(plugin: &Plugin, bytes: &[u8]) -> Self {
        let (kind, name, version) = match plugin {
            Plugin::Resolver(resolver) => ("resolver", resolver.name(), resolver.version()),
            Plugin::DataType(data_type) => ("data type", data_type.name(), data_type.version()),
            Plugin::Adapter(about) => ("storage adapter", about.name.as_str(), about.version.as_str()),
        };
        let hash = blake3::hash(bytes).to_hex().to_string();
        Self { kind, name: name.to_owned(), version: version.to_owned(), hash }
    }
}

pub(super) fn check(args: &CheckArgs, output: &Output) -> Result<(), Failure> {
    let (_home, sandbox) = sandbox()?;
    let (source, bytes) = read(&sandbox, &args.file)?;
    let begin = Instant::now();
    let plugin = sandbox.inspect(&source, &bytes).map_err(anyhow::Error::from)?;
    let compiled = begin.elapsed();
    let imports = sandbox.imports(&source, &bytes).map_err(anyhow::Error::from)?;
    let about = About::of(&plugin, &bytes);
    let begin = Instant::now();
    let laws = laws(&plugin, args, output)?;
    let took = begin.elapsed();
    let figures = match &laws {
        Some(Ok(_)) => Some(measure(&plugin, QUICK)?),
        Some(Err(_)) | None => None,
    };
    let facts = facts(&sandbox, &plugin, &args.file)?;
    let report = Report { about, bytes: bytes.len(), compiled, imports, facts, laws, took, figures };
    output.result(&report.json(), |_| report.text())?;
    match report.laws {
        Some(Err(broken)) => {
            let (file, seed) = (args.file.display(), broken.seed);
            let again = format!("mks plugin check {file} --seed {seed} --cases 1");
            Err(anyhow!("the law of {} is broken; this shows it again: {again}", broken.law).into())
        }
        Some(Ok(_)) | None => Ok(()),
    }
}

pub(super) fn bench(args: &BenchArgs, output: &Output) -> Result<(), Failure> {
    let (_home, sandbox) = sandbox()?;
    let (source, bytes) = read(&sandbox, &args.file)?;
    let plugin = sandbox.inspect(&source, &bytes).map_err(anyhow::Error::from)?;
    if matches!(plugin, Plugin::Adapter(_)) {
        let what = "a storage adapter is asked once, when a node starts: there is nothing to measure";
        return Err(Failure::Usage(what.to_owned()));
    }
    let about = About::of(&plugin, &bytes);
    let figures = measure(&plugin, Duration::from_secs(args.seconds))?;
    let mut result = figures_json(&figures);
    result["name"] = json!(about.name);
    result["version"] = json!(about.version);
    output.result(&result, |_| figures_text(&figures))
}

/// `None` for what has no laws.
fn laws(plugin: &Plugin, args: &CheckArgs, output: &Output) -> Result<Option<Result<Passed, Box<Broken>>>, Failure> {
    let bar = progress("checking the laws", Some(args.cases.into()));
    let mut all = Passed::default();
    while all.cases < args.cases {
        let cases = STEP.min(args.cases - all.cases);
        let options = check::Options { seed: args.seed.wrapping_add(all.cases.into()), cases };
        let passed = match plugin {
            Plugin::Resolver(resolver) => check::resolver(resolver, &options),
            Plugin::DataType(data_type) => check::data_type(data_type, &options),
            Plugin::Adapter(_) => return Ok(None),
        };
        let Passed { cases, refused, writes } = match passed {
            Ok(passed) => passed,
            Err(broken) => {
                bar.finish_and_clear();
                return Ok(Some(Err(broken)));
            }
        };
        (all.cases, all.refused, all.writes) = (all.cases + cases, all.refused + refused, all.writes + writes);
        bar.inc(cases.into());
    }
    bar.finish_and_clear();
    if all.writes > 0 && all.refused == all.writes {
        return Err(
            anyhow!("it refuses every operation that was tried, so nothing was checked: export a `sample`").into()
        );
    }
    if all.refused * 2 > all.writes {
        output.remark("more than half of the operations were refused; a better `sample` makes the check sharper");
    }
    Ok(Some(Ok(all)))
}

fn measure(plugin: &Plugin, each: Duration) -> Result<Figures, Failure> {
    let figures = match plugin {
        Plugin::Resolver(resolver) => check::measure_resolver(resolver, each),
        Plugin::DataType(data_type) => check::measure_data_type(data_type, each),
        Plugin::Adapter(_) => Err("a storage adapter has nothing to measure".to_owned()),
    };
    figures.map_err(|reason| anyhow!("it failed while it was measured: {reason}").into())
}

/// What is worth knowing about each kind.
fn facts(sandbox: &Sandbox, plugin: &Plugin, file: &Path) -> Result<Vec<String>, Failure> {
    Ok(match plugin {
        Plugin::Resolver(resolver) => {
            let sees = if resolver.sees_values() { "values, where it asks for them" } else { "metadata only" };
            let when = match resolver.moment() {
                Moment::AtWrite => "at write, on every owner",
                Moment::AtRead => "at read; the store keeps siblings",
            };
            vec![format!("sees {sees}"), format!("settles {when}")]
        }
        Plugin::DataType(data_type) if data_type.has_summaries() => vec!["states are compared by summaries".to_owned()],
        Plugin::DataType(_) => Vec::new(),
        Plugin::Adapter(_) => adapter_facts(sandbox, file)?,
    })
}

/// What an adapter wants when the operator says nothing, and whether it gives back the values that it sees.
fn adapter_facts(sandbox: &Sandbox, file: &Path) -> Result<Vec<String>, Failure> {
    let config = AdapterConfig { memory_budget: MEMORY_BUDGET, ..AdapterConfig::default() };
    let opened = match sandbox.adapter(&AdapterSource::Path(file.to_owned()), &config) {
        Err(refused @ SandboxError::Refused { .. }) => return Ok(vec![format!("without options, {refused}")]),
        opened => opened.map_err(anyhow::Error::from).context("without options and with 256 MiB of memory")?,
    };
    let mut facts = Vec::new();
    if let Some(plan) = &opened.plan {
        facts.push(format!("without options it plans the engine {} with {:?}", plan.engine, plan.tuning));
    }
    if let Some(adapter) = &opened.values {
        let mut rows = Rows::default();
        let values = [0, 1, 100, 1_024, 1 << 20].map(|bytes: usize| (0..bytes).map(|i| (i * i / 7) as u8).collect());
        values.iter().for_each(|value: &Vec<u8>| rows.push(&[b"name of ", &value.len().to_be_bytes()], value));
        let given = rows.clone();
        adapter.pack(&mut rows).map_err(anyhow::Error::from)?;
        let packed = rows.values.len();
        let outcomes = adapter.unpack(&mut rows).map_err(anyhow::Error::from)?;
        if rows != given || outcomes.iter().any(|outcome| *outcome != Unpacked::Whole) {
            return Err(anyhow!("it does not give back the values that it was given: a node would lose them").into());
        }
        let form = adapter.form();
        facts.push(format!(
            "sees values, leaves {} bytes of them as {packed}, in the form `{form}`",
            given.values.len()
        ));
    }
    Ok(facts)
}

struct Report {
    about: About,
    bytes: usize,
    compiled: Duration,
    imports: Vec<String>,
    facts: Vec<String>,
    laws: Option<Result<Passed, Box<Broken>>>,
    took: Duration,
    figures: Option<Figures>,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    fn json(&self) -> Value {
        let Self { about, bytes, compiled, imports, facts, laws, took, figures } = self;
        let laws = match laws {
            None => Value::Null,
            Some(Ok(Passed { cases, refused, writes })) => json!({
                "kept": true, "cases": cases, "writes": writes, "refused": refused, "ms": ms(*took),
            }),
            Some(Err(broken)) => json!({
                "kept": false, "law": broken.law.name(), "says": broken.law.says(), "seed": broken.seed,
                "history": broken.history.lines().collect::<Vec<_>>(), "reason": broken.reason,
                "advice": broken.law.advice(),
            }),
        };
        json!({
            "kind": about.kind, "name": about.name, "version": about.version, "hash": about.hash, "bytes": bytes,
            "compile_ms": ms(*compiled), "imports": imports, "facts": facts, "laws": laws,
            "figures": figures.as_ref().map(figures_json),
        })
    }

    fn text(&self) -> String {
        let Self { about, bytes, compiled, imports, facts, laws, took, figures } = self;
        let mut text = String::new();
        // Writing to a string can't fail.
        let mut line = |what: &str, said: &str| {
            let _ = writeln!(text, "{what:<9} {said}");
        };
        line(about.kind, &format!("{} {}", about.name, about.version));
        line("hash", &about.hash);
        line("size", &format!("{bytes} bytes, compiled here in {} ms", ms(*compiled)));
        let named = if imports.is_empty() { "nothing".to_owned() } else { format!("{} (allowed)", imports.join(", ")) };
        line("imports", &named);
        facts.iter().for_each(|fact| line("", fact));
        match laws {
            None => line("laws", "a storage adapter has none"),
            Some(Ok(Passed { cases, writes, refused })) => {
                let rate = f64::from(*cases) / took.as_secs_f64().max(0.001);
                let said =
                    format!("kept in {cases} histories ({rate:.0} a second) with {writes} writes, {refused} refused");
                line("laws", &said);
                line("", "(evidence, not proof)");
            }
            Some(Err(broken)) => line("laws", &format!("BROKEN\n{broken}")),
        }
        if let Some(figures) = figures {
            text.push_str(&figures_text(figures));
        }
        text
    }
}

fn figures_json(figures: &Figures) -> Value {
    let figure = |Figure { call, median_ns }: &Figure| json!({ "call": call, "median_ns": median_ns, "per_second": per_second(*median_ns) });
    let calls: Vec<Value> = figures.calls.iter().map(figure).collect();
    json!({ "calls": calls, "memory_bytes": figures.memory_bytes })
}

fn figures_text(figures: &Figures) -> String {
    let mut text = String::new();
    for figure in &figures.calls {
        let us = figure.median_ns as f64 / 1_000.0;
        let _ = writeln!(text, "{:<34} {us:>10.2} us  {:>10} a second", figure.call, per_second(figure.median_ns));
    }
    let _ = writeln!(text, "{:<34} {:>10} KiB", "memory of an instance", figures.memory_bytes / 1024);
    text
}

fn per_second(ns: u64) -> u64 {
    1_000_000_000 / ns.max(1)
}
