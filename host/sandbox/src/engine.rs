//! The wasmtime engine: how guests are compiled, what bounds them, and the clock that interrupts them.

use crate::error::SandboxError;
use crate::options::SandboxOptions;
use crate::siblings::Siblings;
use cpu_time::ThreadTime;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};
use wasmtime::{ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder, Trap, UpdateDeadline};

/// Time between two ticks of the interrupting clock. Shorter means finer deadlines and more wake-ups of an idle node.
const TICK: Duration = Duration::from_millis(5);
/// Stack of a guest's own calls, bytes. Threads of the host have 2 MiB.
const STACK_BYTES_MAX: usize = 256 << 10;
/// Unmapped bytes after each memory, so that small out-of-bounds offsets fault and need no check.
const GUARD_BYTES: u64 = 64 << 10;
/// Core modules within one component. Components made from JavaScript have 13.
const CORE_INSTANCES_MAX: u32 = 64;
/// Memories, and as many tables, within one component.
const MEMORIES_MAX: u32 = 4;
/// Entries of one table: function pointers of the guest.
const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Of an instance's memory, what stays mapped for the next one, bytes. More is returned to the system.
const KEEP_BYTES: usize = 1 << 20;
/// Of an instance's table, the same.
const KEEP_TABLE_BYTES: usize = 64 << 10;
/// Resource handles of one instance. Our worlds have no resources.
const HANDLES_MAX: usize = 16;
/// Longest reason that is passed on, characters.
const REASON_CHARS_MAX: usize = 300;

/// A call whose thread gets no processor is waited for this many times longer than its deadline, at most.
const PATIENCE: u32 = 50;

/// What a store of ours carries.
pub(crate) struct Guest {
    limits: StoreLimits,
    /// The bounds of the call that runs.
    overtime: Overtime,
    /// Memory that the instance has, bytes; it never shrinks.
    memory_bytes: usize,
    /// What a resolver may read while it settles one conflict by its values.
    pub(crate) siblings: Option<Siblings>,
}

impl Guest {
    /// Memory that the instance has taken, bytes.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let may = self.limits.memory_growing(current, desired, maximum)?;
        if may {
            self.memory_bytes += desired.saturating_sub(current);
        }
        Ok(may)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}

/// The engine, and the bounds of its guests.
pub(crate) struct Engine {
    engine: wasmtime::Engine,
    answer_bytes_max: usize,
    instance_bytes_max: usize,
}

impl Engine {
    /// Sets the engine up and starts its clock, which stops with the engine.
    pub(crate) fn new(options: &SandboxOptions) -> Result<Self, SandboxError> {
        let broken = |error: wasmtime::Error| SandboxError::Engine(format!("{error:#}"));
        let engine = wasmtime::Engine::new(&config(options)).map_err(broken)?;
        start_clock(&engine).map_err(|error| SandboxError::Engine(error.to_string()))?;
        let SandboxOptions { answer_bytes_max, instance_bytes_max, .. } = *options;
        Ok(Self { engine, answer_bytes_max, instance_bytes_max })
    }

    /// For everything that wants wasmtime's own.
    pub(crate) fn inner(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// Names the compiler, its settings and this machine: native code made under another name can't be used.
    pub(crate) fn code_tag(&self) -> String {
        let mut hasher = TagHasher(blake3::Hasher::new());
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.0.finalize().to_hex()[..16].to_owned()
    }

    /// A store for one instance, with `deadline` running.
    pub(crate) fn store(&self, deadline: Deadline) -> Store<Guest> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.instance_bytes_max)
            .table_elements(TABLE_ELEMENTS_MAX)
            .trap_on_grow_failure(true)
            .build();
        let overtime = Overtime::of(deadline);
        let mut store = Store::new(&self.engine, Guest { limits, overtime, memory_bytes: 0, siblings: None });
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(self.answer_bytes_max);
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().overtime.look(ThreadTime::now().as_duration())));
        deadline.start(&mut store);
        store
    }
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    ticks: u64,
    ms: u64,
}

impl Deadline {
    /// For what a component is asked when it is loaded. No client waits for that, and a machine that is busy with
    /// something else must not be a reason to refuse the component.
    pub(crate) const LOADING: Self = Self::new(2_000);

    /// At least `ms`, at most two ticks more.
    pub(crate) const fn new(ms: u64) -> Self {
        // The running tick may be about to end, so it does not count.
        let ticks = ms.div_ceil(TICK.as_millis() as u64);
        Self { ticks: if ticks == 0 { 2 } else { ticks + 1 }, ms }
    }

    /// Ticks until the first look at a call.
    const fn first(self) -> u64 {
        self.ticks / 2
    }

    /// Lets it run from now on, for the next call in this store.
    pub(crate) fn start(self, store: &mut Store<Guest>) {
        store.data_mut().overtime = Overtime::of(self);
        store.set_epoch_deadline(self.first());
    }

    /// Says in one line how a call ended that gave no answer.
    pub(crate) fn explain(self, error: &wasmtime::Error) -> String {
        let reason = match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => format!("no answer within {} ms of work", self.ms),
            Some(trap) => trap.to_string(),
            None => format!("{error:#}"),
        };
        shorten(reason)
    }
}

/// Tells a guest that runs too long from one whose thread was given no processor.
///
/// What a busy machine keeps waiting has done nothing wrong, and a node would put its plugin into quarantine. So a call
/// is looked at after half of its deadline, and is interrupted at its end only if its thread has worked meanwhile.
#[derive(Clone, Copy, Debug)]
struct Overtime {
    deadline: Deadline,
    /// CPU time of the thread at the first look.
    since: Option<Duration>,
    looks: u32,
}

impl Overtime {
    const fn of(deadline: Deadline) -> Self {
        Self { deadline, since: None, looks: 0 }
    }

    /// What becomes of a call whose thread has worked for `worked` in all.
    fn look(&mut self, worked: Duration) -> UpdateDeadline {
        let rest = self.deadline.ticks - self.deadline.first();
        let since = *self.since.get_or_insert(worked);
        // Half of the time that is left: ticks are coarse, and the clock of a busy machine is late as well.
        let busy = self.looks > 0 && worked.saturating_sub(since) * 2 >= TICK * rest as u32;
        if busy || self.looks > PATIENCE {
            return UpdateDeadline::Interrupt;
        }
        self.looks += 1;
        UpdateDeadline::Continue(rest)
    }
}

/// Texts of a guest or about it end up in logs and answers: one line, not too long.
pub(crate) fn shorten(text: String) -> String {
    text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn config(options: &SandboxOptions) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .wasm_backtrace_max_frames(None)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .memory_reservation(options.instance_bytes_max as u64)
        .memory_may_move(false)
        .memory_guard_size(GUARD_BYTES)
        // Replicas on different processors must compute the same.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        // Our components compile in milliseconds: no thread pool that would lie idle ever after.
        .parallel_compilation(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options)));
    config
}

fn pool(options: &SandboxOptions) -> PoolingAllocationConfig {
    let instances = options.instances_max;
    // Where the kernel can't tell which pages were touched, keeping memory would mean clearing all of it every time.
    let (keep, keep_table) = match PoolingAllocationConfig::is_pagemap_scan_available() {
        true => (KEEP_BYTES, KEEP_TABLE_BYTES),
        false => (0, 0),
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(2))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(MEMORIES_MAX)
        .max_memory_size(options.instance_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(keep_table)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// One thread that ticks for as long as the engine lives.
fn start_clock(engine: &wasmtime::Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("plugin-clock".into()).stack_size(64 << 10).spawn(tick).map(drop)
}

/// Lets BLAKE3 hash what only implements [`Hash`]: the standard library's hasher promises nothing across versions.
struct TagHasher(blake3::Hasher);

impl Hasher for TagHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
    }
}

/// Shared by everything that makes instances.
pub(crate) type SharedEngine = Arc<Engine>;

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(work_between: Duration) -> Vec<bool> {
        let mut overtime = Overtime::of(Deadline::new(20));
        let mut goes_on = Vec::new();
        for i in 0..1_000 {
            goes_on.push(matches!(overtime.look(work_between * i), UpdateDeadline::Continue(_)));
            if goes_on.last() == Some(&false) {
                break;
            }
        }
        goes_on
    }

    #[test]
    fn a_guest_that_works_all_the_time_ends_with_its_deadline() {
        assert_eq!(looks(Duration::from_millis(15)), [true, false]);
        assert_eq!(looks(Duration::from_millis(8)), [true, false]);
    }

    #[test]
    fn a_guest_that_gets_no_processor_is_waited_for_but_not_for_ever() {
        assert_eq!(looks(Duration::from_millis(1)).len(), 9, "interrupted after 8 ms of work");
        assert_eq!(looks(Duration::ZERO).len(), PATIENCE as usize + 2);
    }

    #[test]
    fn the_time_of_a_thread_is_what_it_worked_and_not_what_it_slept() {
        let before = ThreadTime::now();
        std::thread::sleep(Duration::from_millis(30));
        assert!(before.elapsed() < Duration::from_millis(20));
    }
}
