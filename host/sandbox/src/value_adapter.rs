//! Adapters that see values: every group of values on its way to the engine is one call, and so is every page on its
//! way back.
//!
//! What an adapter answers is checked for its shape alone: as many rows as it was given, none of them longer than the
//! contract allows. That a value comes back as it went in is for whoever reads it to see.

use crate::adapter::{AdapterConfig, AdapterInfo};
use crate::bindings::storage_adapter::values as wit;
use crate::builtin;
use crate::engine::{Deadline, Guest, SharedEngine, shorten};
use crate::error::SandboxError;
use crate::loader::{Interface, Loaded, Loader};
use crossbeam_queue::ArrayQueue;
use mks_logic::port::{Adapt, AdaptError, Rows, Unpacked};
use rand::TryRng as _;
use rand::rngs::SysRng;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::Store;
use wasmtime::component::InstancePre;

/// The interface of adapters that see values.
const INTERFACE: Interface = Interface("my-key-store:storage-adapter/values@0.1.1");
/// Longest form by which an adapter names what it makes of values, characters.
const FORM_CHARS_MAX: usize = 128;
/// Random bytes that a row may get.
const RANDOM_BYTES_MAX: u32 = 64;
/// Settings that are handed to each call, bytes.
const SETTINGS_BYTES_MAX: usize = 4 << 10;
/// What a packed row may have beyond its value, bytes.
const OVERHEAD_BYTES_MAX: usize = 1_024;
/// Bytes that one answer may take: more than a call's values by what several adapters may add to them.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Idle instances that one built-in adapter keeps: one for the writer and one for each thread that reads.
const WARM_MAX: usize = 8;

/// What adapters are opened with.
#[derive(Clone, Copy)]
pub(crate) struct Adapters<'a> {
    pub(crate) engine: &'a SharedEngine,
    pub(crate) loader: &'a Loader,
    pub(crate) deadline: Deadline,
    pub(crate) values_deadline: Deadline,
}

/// Calls of an adapter since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ValueAdapterCounters {
    /// Calls, of either way.
    pub calls: u64,
    /// Values that were packed.
    pub packed: u64,
    /// Values that were unpacked.
    pub unpacked: u64,
    /// Of those, not what had been packed.
    pub damaged: u64,
    /// Of those, as if packed under another key or in another form. Not among the damaged.
    pub foreign: u64,
    /// Calls without an answer, or with one that makes no sense. Writes were refused, reads were not answered.
    pub failures: u64,
}

/// An adapter that has read its options and secrets, and sees values from now on.
pub struct ValueAdapter {
    name: String,
    form: String,
    /// May hold a key; shown nowhere.
    settings: Vec<u8>,
    random_bytes: usize,
    sees_keys: bool,
    engine: SharedEngine,
    component: InstancePre<Guest>,
    values: wit::GuestIndices,
    deadline: Deadline,
    /// Of the built-in ones, which are stateless by our own word. The others get a fresh instance for every call.
    warm: Option<ArrayQueue<Instance>>,
    calls: AtomicU64,
    packed: AtomicU64,
    unpacked: AtomicU64,
    damaged: AtomicU64,
    foreign: AtomicU64,
    failures: AtomicU64,
}

struct Instance {
    store: Store<Guest>,
    values: wit::Guest,
}

impl fmt::Debug for ValueAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueAdapter").field("form", &self.form).finish_non_exhaustive()
    }
}

/// Hands an adapter the operator's options and secrets.
pub(crate) fn start(
    adapters: Adapters<'_>,
    info: &AdapterInfo,
    loaded: &Loaded,
    component: InstancePre<Guest>,
    sees_keys: bool,
    config: &AdapterConfig,
) -> Result<ValueAdapter, SandboxError> {
    let Adapters { engine, loader, deadline, values_deadline } = adapters;
    let adapter = || info.name.clone();
    if !loader.exports(&loaded.component).iter().any(|export| INTERFACE.names(export)) {
        let sees = if sees_keys { "the keys and values" } else { "the values" };
        return Err(SandboxError::Interception { adapter: adapter(), sees, expected: INTERFACE.0 });
    }
    let values = wit::GuestIndices::new(&component);
    let values = values.map_err(|error| loader.wrong_world(&info.name, &loaded.component, INTERFACE, &error))?;
    let is_builtin = builtin::ADAPTERS.iter().any(|builtin| blake3::hash(builtin.bytes) == loaded.hash);
    let mut started = ValueAdapter {
        name: adapter(),
        form: String::new(),
        settings: Vec::new(),
        random_bytes: 0,
        sees_keys,
        engine: SharedEngine::clone(engine),
        component,
        values,
        deadline: values_deadline,
        warm: is_builtin.then(|| ArrayQueue::new(WARM_MAX)),
        calls: AtomicU64::new(0),
        packed: AtomicU64::new(0),
        unpacked: AtomicU64::new(0),
        damaged: AtomicU64::new(0),
        foreign: AtomicU64::new(0),
        failures: AtomicU64::new(0),
    };
    let failed = |reason| SandboxError::Failed { component: adapter(), reason };
    let mut instance = started.instantiate(deadline).map_err(failed)?;
    let options: Vec<_> = config.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let secrets: Vec<_> = config.secrets.iter().map(|(name, secret)| (name.as_str(), &secret[..])).collect();
    let asked = wit::Config { options: &options, secrets: &secrets };
    let answer = instance.values.call_start(&mut instance.store, asked);
    let answer = answer.map_err(|error| failed(deadline.explain(&error)))?;
    let refused = |reason| SandboxError::Refused { adapter: adapter(), reason: shorten(reason) };
    let wit::Started { settings, form, random_bytes } = answer.map_err(refused)?;
    let is_form = (1..=FORM_CHARS_MAX).contains(&form.len()) && form.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !is_form || random_bytes > RANDOM_BYTES_MAX || settings.len() > SETTINGS_BYTES_MAX {
        let (form, kept) = (shorten(form), settings.len());
        return Err(failed(format!(
            "it leaves values in the form `{form}`, with {random_bytes} random bytes each and {kept} bytes of settings: \
             a form is 1 to {FORM_CHARS_MAX} printable characters, and {RANDOM_BYTES_MAX} random bytes and \
             {SETTINGS_BYTES_MAX} bytes of settings are the most"
        )));
    }
    started.form = format!("{} {form}", info.name);
    (started.settings, started.random_bytes) = (settings, random_bytes as usize);
    Ok(started)
}

impl ValueAdapter {
    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls since it was started.
    #[must_use]
    pub fn counters(&self) -> ValueAdapterCounters {
        ValueAdapterCounters {
            calls: self.calls.load(Relaxed),
            packed: self.packed.load(Relaxed),
            unpacked: self.unpacked.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }

    fn instantiate(&self, deadline: Deadline) -> Result<Instance, String> {
        let explain = |error: wasmtime::Error| deadline.explain(&error);
        let mut store = self.engine.store(deadline);
        let exports = self.component.instantiate(&mut store).map_err(explain)?;
        let values = self.values.load(&mut store, &exports).map_err(explain)?;
        Ok(Instance { store, values })
    }

    /// A call, counted. An instance whose call failed is dropped: its memory may be in any state.
    fn call<T>(
        &self,
        call: impl FnOnce(&mut Instance) -> wasmtime::Result<T>,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Result<T, AdaptError> {
        self.calls.fetch_add(1, Relaxed);
        let answer = self.ask(call).and_then(|answer| check(&answer).map(|()| answer));
        answer.map_err(|reason| self.failed(reason))
    }

    fn ask<T>(&self, call: impl FnOnce(&mut Instance) -> wasmtime::Result<T>) -> Result<T, String> {
        let mut instance = match self.warm.as_ref().and_then(ArrayQueue::pop) {
            Some(instance) => instance,
            None => self.instantiate(self.deadline)?,
        };
        self.deadline.start(&mut instance.store);
        instance.store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        let answer = call(&mut instance).map_err(|error| self.deadline.explain(&error))?;
        if let Some(warm) = &self.warm {
            // More than there is room for are not needed.
            drop(warm.push(instance));
        }
        Ok(answer)
    }

    fn failed(&self, reason: String) -> AdaptError {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        // Now and then: every operation of the node may fail here.
        if failures.is_power_of_two() {
            tracing::error!(adapter = self.name, failures, reason, "a storage adapter failed; nothing was written");
        }
        AdaptError { adapter: self.name.clone(), reason }
    }

    /// One is a bit that turned where the key is named; many are an adapter whose form does not say what it reads.
    fn found_foreign(&self, values: u64) {
        let before = self.foreign.fetch_add(values, Relaxed);
        let foreign = before + values;
        // Now and then: scrubs and reads meet the same value again until it is mended.
        if foreign.checked_ilog2() > before.checked_ilog2() {
            tracing::warn!(adapter = self.name, foreign, "values name another key or form; they count as damaged");
        }
    }

    fn batch<'a>(&self, rows: &'a Rows, random: &'a [u8]) -> wit::Rows<'a> {
        let (names, name_ends) =
            if self.sees_keys { (&rows.names[..], &rows.name_ends[..]) } else { (&[][..], &[][..]) };
        wit::Rows { names, name_ends, values: &rows.values, ends: &rows.ends, random }
    }
}

impl Adapt for ValueAdapter {
    fn form(&self) -> &str {
        &self.form
    }

    fn pack(&self, rows: &mut Rows) -> Result<(), AdaptError> {
        let mut random = vec![0; self.random_bytes * rows.len()];
        if !random.is_empty() {
            let none = |error| self.failed(format!("the system gives no random bytes: {error}"));
            SysRng.try_fill_bytes(&mut random).map_err(none)?;
        }
        let batch = self.batch(rows, &random);
        let packed = self.call(
            |Instance { store, values }| values.call_pack(store, &self.settings, batch),
            |packed| {
                check_shape(&packed.values, &packed.ends, rows.len())?;
                let grown = lengths(&packed.ends).zip(lengths(&rows.ends));
                match grown.clone().find(|(packed, value)| *packed > value + OVERHEAD_BYTES_MAX) {
                    Some((packed, value)) => Err(format!("it made {packed} bytes of a value of {value}")),
                    None => Ok(()),
                }
            },
        )?;
        self.packed.fetch_add(rows.len() as u64, Relaxed);
        (rows.values, rows.ends) = (packed.values, packed.ends);
        Ok(())
    }

    fn unpack(&self, rows: &mut Rows) -> Result<Vec<Unpacked>, AdaptError> {
        let batch = self.batch(rows, &[]);
        let unpacked = self.call(
            |Instance { store, values }| values.call_unpack(store, &self.settings, batch),
            |unpacked| {
                check_shape(&unpacked.values, &unpacked.ends, rows.len())?;
                let outcomes = unpacked.outcomes.len();
                if outcomes == rows.len() { Ok(()) } else { Err(format!("{outcomes} outcomes of {} rows", rows.len())) }
            },
        )?;
        let outcomes: Vec<Unpacked> = unpacked.outcomes.into_iter().map(outcome).collect();
        let count = |of: Unpacked| outcomes.iter().filter(|outcome| **outcome == of).count() as u64;
        self.unpacked.fetch_add(rows.len() as u64, Relaxed);
        self.damaged.fetch_add(count(Unpacked::Damaged), Relaxed);
        self.found_foreign(count(Unpacked::Foreign));
        (rows.values, rows.ends) = (unpacked.values, unpacked.ends);
        Ok(outcomes)
    }
}

fn outcome(outcome: wit::Outcome) -> Unpacked {
    match outcome {
        wit::Outcome::Whole => Unpacked::Whole,
        wit::Outcome::Damaged => Unpacked::Damaged,
        wit::Outcome::Foreign => Unpacked::Foreign,
    }
}

fn lengths(ends: &[u32]) -> impl Iterator<Item = usize> + Clone {
    let starts = std::iter::once(&0).chain(ends);
    ends.iter().zip(starts).map(|(end, start)| (*end as usize).saturating_sub(*start as usize))
}

/// Whether these are the columns of so many rows.
fn check_shape(values: &[u8], ends: &[u32], rows: usize) -> Result<(), String> {
    if ends.len() != rows {
        return Err(format!("it answered with {} rows to {rows}", ends.len()));
    }
    let last = ends.last().map_or(0, |end| *end as usize);
    if !ends.is_sorted() || last != values.len() {
        return Err(format!("its rows end at {last} of {} bytes, or overlap", values.len()));
    }
    Ok(())
}
