//! A second engine that gets the same batches as the store's own, and is compared with it: how an operator sees what an
//! engine makes of his load before he relies on it.
//!
//! It stands below the adapters, so that both engines get the same bytes. Nobody reads from it and nobody waits for it:
//! the store hands it each batch that it has written, in a queue that is bounded in bytes, and a thread of its own does
//! the rest (`follow`). A writer that waited, however shortly, would let a slow shadow set the pace of the node; so the
//! batch that does not fit ends the shadow, as does any error of it: a copy that misses a batch is no comparison. It is
//! filled anew at the next start.
//!
//! Whether both hold the same at a start is said by a mark, a file beside the shadow's store with the number of the
//! store's last beacon: left when the store was closed and the shadow had all of it on the disk, and taken away before
//! anything is written. A process that is killed leaves none, and then the shadow is filled anew: its last batches may
//! have been in the queue, and nobody can tell such a lag from a fault of the engine.

mod follow;

use crate::compare::Compared;
use crate::engine::Engine;
use crate::files;
use crate::floor::Floor;
use crate::guard::{Line, lock};
use crate::open::{Adapters, Asked, Home, Marker, OpenError};
use crate::options::ShadowOptions;
use mks_logic::port::{Batch, ShadowState, ShadowStats};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The mark's name in the shadow's directory.
const MARK: &str = "even";

/// How long a store that closes waits for the shadow to take what is in the queue.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long the thread sleeps on an empty queue before it asks to be woken: a writer that has to wake somebody pays for
/// it, and so pays only now and then.
const NAP: Duration = Duration::from_millis(2);

/// Differences that are shown; the others are only counted.
const SAMPLES_MAX: usize = 5;

/// What a shadow begins with.
pub(crate) struct Second {
    directory: PathBuf,
    options: ShadowOptions,
    adapters: Adapters,
    /// Bytes that it leaves free on the disk: the store is told `Full` well after the shadow has gone.
    reserve_bytes: u64,
    /// Whether it holds what the store holds.
    even: bool,
}

/// Looks at what there is of a shadow before the store takes its first batch. Without one in the options, what an
/// earlier one has left is of no use any more and goes.
pub(crate) fn prepare(home: &Home<'_>, asked: Asked<'_>, floor: &Floor) -> Result<Option<Second>, OpenError> {
    let mark = take_mark(home)?;
    let directory = home.shadow();
    let Some(options) = asked.options.shadow.as_deref() else {
        if home.has(&directory)? {
            tracing::info!("{} is followed no more and is removed", directory.display());
            if let Err(e) = fs::remove_dir_all(&directory) {
                tracing::warn!("{} is of no use any more and can't be removed: {e}", directory.display());
            }
        }
        return Ok(None);
    };
    let second = Home { directory: &directory };
    let stack = asked.adapters.stack(options.engine.engine);
    let even = mark == Some(floor.covered_by_sync())
        && Marker::read(&second, &second.live()).is_ok_and(|made| made.stack == stack);
    Ok(Some(Second {
        options: options.clone(),
        adapters: asked.adapters.clone(),
        reserve_bytes: asked.options.reserve_bytes.saturating_mul(2),
        even,
        directory,
    }))
}

/// The beacon of the store when its shadow held the same; none where nothing says that it did.
pub(crate) fn mark(home: &Home<'_>) -> Result<Option<u64>, OpenError> {
    match fs::read_to_string(home.shadow().join(MARK)) {
        Ok(text) => Ok(text.parse().ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(home.io(&e)),
    }
}

/// The same, and takes the mark away, durably: from now on the two may differ.
pub(crate) fn take_mark(home: &Home<'_>) -> Result<Option<u64>, OpenError> {
    let mark = mark(home)?;
    let taken = match fs::remove_file(home.shadow().join(MARK)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(mark),
        taken => taken.and_then(|()| files::sync_directory(&home.shadow())),
    };
    taken.map_err(|e| home.io(&e))?;
    Ok(mark)
}

fn leave_mark(directory: &Path, beacon: u64) -> io::Result<()> {
    let mut file = File::create(directory.join(MARK))?;
    write!(file, "{beacon}")?;
    file.sync_all()?;
    files::sync_directory(directory)
}

/// The store's hold on its shadow.
pub(crate) struct Shadow {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shadow {
    /// Begins to follow `store`. Both views and batches are in the order of `line`.
    pub(crate) fn start(second: Second, store: Arc<dyn Engine>, line: Arc<Mutex<Line>>) -> Self {
        let shared = Arc::new(Shared::new(second.options.engine.engine.name(), second.options.queue_bytes_max));
        let thread = thread::Builder::new().name("shadow".into()).spawn({
            let shared = Arc::clone(&shared);
            move || follow::run(&second, &*store, &line, &shared)
        });
        let thread = thread.inspect_err(|e| shared.end(ShadowState::Failed, &format!("no thread could be made: {e}")));
        Self { shared, thread: thread.ok() }
    }

    /// Whether it has any use for more batches.
    pub(crate) fn takes(&self) -> bool {
        self.shared.takes.load(Ordering::Relaxed)
    }

    /// The store has written a batch, in this time. The caller holds the line.
    pub(crate) fn offer(&self, batch: Batch, bytes: u64, wrote: Duration) {
        let shared = &*self.shared;
        let mut queue = lock(&shared.queue);
        if !queue.batches.is_empty() && queue.bytes + bytes > shared.queue_bytes_max {
            drop(queue);
            let max = shared.queue_bytes_max;
            shared.end(ShadowState::Behind, &format!("it is slower than the load, {max} bytes of batches wait for it"));
            return;
        }
        queue.offered += 1;
        queue.bytes += bytes;
        queue.store_write_ns += wrote.as_nanos() as u64;
        queue.batches.push_back((batch, bytes));
        let wakes = mem::take(&mut queue.asks_to_be_woken);
        drop(queue);
        if wakes {
            shared.more.notify_one();
        }
    }

    /// The store is closed. With a `beacon` it closed in good order, and a shadow that has all of it says so for the
    /// next start.
    pub(crate) fn close(self, beacon: Option<u64>) {
        lock(&self.shared.queue).closing = Some(Closing { beacon, until: Instant::now() + DRAIN_MAX });
        self.shared.more.notify_one();
        if self.thread.map(JoinHandle::join).is_some_and(|ended| ended.is_err()) {
            tracing::error!("the thread of the shadow died");
        }
    }

    pub(crate) fn stats(&self) -> ShadowStats {
        let mut stats = lock(&self.shared.stats).clone();
        let queue = lock(&self.shared.queue);
        stats.lag = queue.offered.saturating_sub(stats.batches);
        stats.queue_bytes = queue.bytes;
        stats.store_write_ns = queue.store_write_ns;
        stats
    }
}

/// What waits for the shadow.
#[derive(Default)]
struct Queue {
    batches: VecDeque<(Batch, u64)>,
    bytes: u64,
    offered: u64,
    store_write_ns: u64,
    asks_to_be_woken: bool,
    closing: Option<Closing>,
}

/// The store is closed.
#[derive(Clone, Copy)]
struct Closing {
    beacon: Option<u64>,
    until: Instant,
}

/// What the writers of the store and the thread of the shadow have in common. No lock is held while an engine works.
struct Shared {
    queue_bytes_max: u64,
    queue: Mutex<Queue>,
    more: Condvar,
    takes: AtomicBool,
    stats: Mutex<ShadowStats>,
}

/// What the shadow's thread does next.
enum Next {
    Apply(Batch, u64),
    /// Nothing waits, and the time has come.
    Due,
    /// The store is closed, and nothing waits.
    Close(Option<u64>),
    Ended,
}

impl Shared {
    fn new(engine: &'static str, queue_bytes_max: u64) -> Self {
        Self {
            queue_bytes_max,
            queue: Mutex::default(),
            more: Condvar::new(),
            takes: AtomicBool::new(true),
            stats: Mutex::new(ShadowStats { engine, ..ShadowStats::default() }),
        }
    }

    /// The shadow is of no use any more, until the next start.
    fn end(&self, state: ShadowState, reason: &str) {
        if !self.takes.swap(false, Ordering::Relaxed) {
            return;
        }
        {
            let mut stats = lock(&self.stats);
            tracing::error!(
                "the shadow of the store, on {}, ends here: {reason}; the store itself goes on, and the next start \
                 fills a new one",
                stats.engine
            );
            (stats.state, stats.reason) = (state, reason.to_owned());
        }
        self.more.notify_one();
    }

    fn next(&self, due: Instant) -> Next {
        let mut queue = lock(&self.queue);
        let mut napped = false;
        loop {
            if !self.takes.load(Ordering::Relaxed) {
                return Next::Ended;
            }
            let now = Instant::now();
            if queue.closing.is_some_and(|closing| now > closing.until) {
                drop(queue);
                self.end(ShadowState::Behind, "the store was closed and did not wait for it any longer");
                return Next::Ended;
            }
            if let Some((batch, bytes)) = queue.batches.pop_front() {
                queue.bytes -= bytes;
                return Next::Apply(batch, bytes);
            }
            match queue.closing {
                Some(Closing { beacon, .. }) => return Next::Close(beacon),
                None if now >= due => return Next::Due,
                None => {}
            }
            let left = due.saturating_duration_since(now);
            if !napped {
                napped = true;
                drop(queue);
                thread::sleep(NAP.min(left));
                queue = lock(&self.queue);
                continue;
            }
            queue.asks_to_be_woken = true;
            let waited = self.more.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_closing(&self) -> bool {
        lock(&self.queue).closing.is_some()
    }

    /// Whether so much waits that nothing else should be done.
    fn is_pressed(&self) -> bool {
        lock(&self.queue).bytes > self.queue_bytes_max / 4
    }

    /// What the shadow is about, unless a writer has just ended it.
    fn reached(&self, state: ShadowState) {
        let mut stats = lock(&self.stats);
        if !stats.state.has_ended() {
            stats.state = state;
        }
    }

    fn note(&self, note: impl FnOnce(&mut ShadowStats)) {
        note(&mut lock(&self.stats));
    }

    fn compared(&self, compared: Compared) {
        let mut stats = lock(&self.stats);
        if let Some(first) = compared.differing.first().filter(|_| stats.differing == 0) {
            tracing::error!("the shadow of the store, on {}, differs from it: {first}", stats.engine);
        }
        stats.compared += compared.entries;
        stats.differing += compared.differing.len() as u64;
        for sample in compared.differing.iter().map(ToString::to_string) {
            // The same comes round again.
            if stats.samples.len() < SAMPLES_MAX && !stats.samples.contains(&sample) {
                stats.samples.push(sample);
            }
        }
    }
}
