//! The manners that all engines share: see the crate's page.

use crate::engine::{Engine, KEYS_END, weigh};
use crate::files::Lock;
use crate::floor::{BEACON_EVERY, Floor};
use crate::room::Room;
use crate::shadow::{Second, Shadow};
use crate::throttle::Throttle;
use bytes::Bytes;
use mks_logic::port::{Batch, Change, Durability, Read, Store, StoreError, StoreStats, Table, Visit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A write of the engine that takes longer than this was held back by it; the rest of its time counts as a stall.
const WRITE_SLOW: Duration = Duration::from_millis(2);

/// How long a writer waits for an engine that flushes nothing before it gets an error.
const HALT_MAX: Duration = Duration::from_secs(30);

/// How often such a writer looks again.
const HALT_LOOK: Duration = Duration::from_millis(2);

/// What surrounds an engine that keeps its data on a disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) floor: Floor,
    pub(crate) room: Room,
    /// Held for as long as the engine lives.
    pub(crate) _lock: Lock,
}

/// An engine with manners.
pub(crate) struct Guard {
    // The engine goes first: the lock inside `disk` is given back after it has closed its files.
    engine: Arc<dyn Engine>,
    disk: Option<Disk>,
    /// Ended in [`Guard::drop`], and with it the only other use of the engine and of the line.
    shadow: Option<Shadow>,
    fate: Fate,
    line: Arc<Mutex<Line>>,
    /// Batches applied. Moves only under `line`.
    written: AtomicU64,
    /// Of those, how many an fsync covered. Held across the fsync, so that whoever waits for it finds himself covered.
    synced: Mutex<u64>,
    fsyncs: AtomicU64,
    stall_us: AtomicU64,
}

/// What the one writer at the head of the line needs.
#[derive(Debug)]
pub(crate) struct Line {
    throttle: Throttle,
    beacon: Instant,
}

/// Why the store ended, once it did.
#[derive(Debug, Default)]
struct Fate(OnceLock<String>);

impl Fate {
    fn check(&self) -> Result<(), StoreError> {
        self.0.get().map_or(Ok(()), |why| Err(StoreError::Fatal(why.clone())))
    }

    fn seal(&self, why: &StoreError) -> StoreError {
        let why = match why {
            StoreError::Fatal(why) => why.clone(),
            other => other.to_string(),
        };
        if self.0.set(why.clone()).is_ok() {
            tracing::error!("the store ends here: {why}");
        }
        StoreError::Fatal(self.0.get().cloned().unwrap_or(why))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks protect is valid at every step, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_stored_key(key: &[u8]) -> bool {
    !key.is_empty() && key < KEYS_END
}

impl Guard {
    pub(crate) fn new(engine: Arc<dyn Engine>, disk: Option<Disk>, second: Option<Second>) -> Self {
        let line = Arc::new(Mutex::new(Line { throttle: Throttle::default(), beacon: Instant::now() }));
        Self {
            shadow: second.map(|second| Shadow::start(second, Arc::clone(&engine), Arc::clone(&line))),
            engine,
            disk,
            fate: Fate::default(),
            line,
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            fsyncs: AtomicU64::new(0),
            stall_us: AtomicU64::new(0),
        }
    }

    /// Applies one batch and returns how many were applied up to it.
    fn write(&self, mut batch: Batch, bytes: u64) -> Result<u64, StoreError> {
        let mut line = lock(&self.line);
        self.fate.check()?;
        self.hold_back(&mut line.throttle, bytes)?;
        let began = Instant::now();
        let beacon = self.disk.as_ref().filter(|_| began.duration_since(line.beacon) >= BEACON_EVERY).map(|disk| {
            let (number, changes) = disk.floor.next();
            batch.extend(changes);
            line.beacon = began;
            (disk, number)
        });
        self.write_both(batch, bytes).map_err(|e| match e {
            StoreError::Fatal(_) => self.fate.seal(&e),
            refused => refused,
        })?;
        if let Some((disk, number)) = beacon {
            disk.floor.placed(number);
        }
        self.stalled(began.elapsed().saturating_sub(WRITE_SLOW));
        Ok(self.written.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Writes a batch, and hands it to the shadow when it is written. The caller holds the line: what the shadow gets
    /// is in the order of the store.
    fn write_both(&self, batch: Batch, bytes: u64) -> Result<(), StoreError> {
        let Some(shadow) = self.shadow.as_ref().filter(|shadow| shadow.takes()) else {
            return self.engine.write(batch);
        };
        let (copy, began) = (batch.clone(), Instant::now());
        self.engine.write(batch)?;
        shadow.offer(copy, bytes, began.elapsed());
        Ok(())
    }

    fn hold_back(&self, throttle: &mut Throttle, bytes: u64) -> Result<(), StoreError> {
        let mut pressure = self.engine.pressure();
        let pause = throttle.charge(bytes, pressure);
        if !pause.is_zero() {
            sleep(pause);
            self.stalled(pause);
            pressure = self.engine.pressure();
        }
        let halted = Instant::now();
        while pressure >= 1.0 {
            if halted.elapsed() > HALT_MAX {
                // Either its threads died, and the sync says so, or the disk is that slow.
                self.engine.sync().map_err(|e| self.fate.seal(&e))?;
                return Err(StoreError::Io(format!("the engine flushed nothing for {HALT_MAX:?}")));
            }
            sleep(HALT_LOOK);
            self.stalled(HALT_LOOK);
            pressure = self.engine.pressure();
        }
        Ok(())
    }

    fn stalled(&self, time: Duration) {
        if !time.is_zero() {
            self.stall_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// Returns when an fsync has covered the first `batches` batches: an own one, or that of somebody else.
    fn sync(&self, batches: u64) -> Result<(), StoreError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut synced = lock(&self.synced);
        self.fate.check()?;
        if *synced >= batches {
            return Ok(());
        }
        let written = self.written.load(Ordering::Acquire);
        let beacon = disk.floor.covered_by_sync();
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.engine.sync().map_err(|e| self.fate.seal(&e))?;
        *synced = written;
        disk.floor.raise(beacon);
        Ok(())
    }

    /// Leaves everything on the disk, and the floor at its end.
    fn close(&self) -> Result<(), StoreError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let batches = self.written.load(Ordering::Acquire);
        if batches == 0 {
            return Ok(());
        }
        self.fate.check()?;
        let (number, changes) = disk.floor.next();
        {
            let _line = lock(&self.line);
            self.write_both(changes.collect(), 0)?;
        }
        disk.floor.placed(number);
        self.sync(batches + 1)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let closed = self.close().inspect_err(|e| tracing::warn!("the store did not close in good order: {e}"));
        if let Some(shadow) = self.shadow.take() {
            let beacon = self.disk.as_ref().map(|disk| disk.floor.covered_by_sync());
            shadow.close(beacon.filter(|_| closed.and(self.fate.check()).is_ok()));
        }
    }
}

impl Read for Guard {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.fate.check()?;
        if is_stored_key(key) { self.engine.get(table, key) } else { Ok(None) }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.fate.check()?;
        self.engine.scan(table, start, end, visit)
    }
}

impl Store for Guard {
    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        self.fate.check()?;
        let bytes = weigh(&batch)?;
        let batches = if batch.is_empty() {
            self.written.load(Ordering::Acquire)
        } else {
            if let Some(disk) = &self.disk {
                disk.room.ask(bytes, !batch.iter().any(|change| matches!(change, Change::Put { .. })))?;
            }
            self.write(batch, bytes)?
        };
        match durability {
            Durability::Os => Ok(()),
            Durability::Sync => self.sync(batches),
        }
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(View { fate: &self.fate, view: self.engine.view() })
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            engine: self.engine.name(),
            records_estimate: self.engine.records_estimate(),
            disk_bytes: self.engine.disk_bytes(),
            batches: self.written.load(Ordering::Relaxed),
            fsyncs: self.fsyncs.load(Ordering::Relaxed),
            stall_us: self.stall_us.load(Ordering::Relaxed),
            shadow: self.shadow.as_ref().map(Shadow::stats),
        }
    }
}

/// A frozen view that ends with its store.
struct View<'a> {
    fate: &'a Fate,
    view: Box<dyn Read + Send + 'a>,
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.fate.check()?;
        if is_stored_key(key) { self.view.get(table, key) } else { Ok(None) }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.fate.check()?;
        self.view.scan(table, start, end, visit)
    }
}
