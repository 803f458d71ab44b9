//! The thread of a shadow: fills it, applies what the store has applied, and compares.
//!
//! It is filled page by page from what the store holds *now*, between the batches, and never from a view that would
//! keep the store's old versions alive for hours. A page may thus hold what batches have done that still wait in the
//! queue. That is no harm: changes are absolute, so what is applied once more comes to the same, and when the queue
//! has been applied up to where it was behind the last page, both hold the same.
//!
//! They are compared at a point where both have applied the same batches: a view of the store is taken together with
//! the number of batches handed over, while the line of writers stands still for that moment, and the shadow's when
//! it has applied as many. So no difference is ever a lag.

use super::{Next, Second, Shared, leave_mark};
use crate::compare::{self, Place, Side, page};
use crate::engine::{Engine, KEYS_END, wait_for};
use crate::files;
use crate::floor::Floor;
use crate::guard::{Line, lock};
use crate::open::{Asked, Home, Marker, OpenError};
use crate::room::Room;
use bytes::Bytes;
use mks_logic::port::{Batch, Change, ShadowState, StoreError};
use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What is copied at once when a shadow is filled, and compared at once, bytes.
const PAGE_BYTES: u64 = 1 << 20;

/// Follows `store` until that is closed, or something goes wrong.
pub(super) fn run(second: &Second, store: &dyn Engine, line: &Mutex<Line>, shared: &Shared) {
    let room = Room::new(second.directory.clone(), second.reserve_bytes);
    let follow = || Follower::open(second, (store, line), shared, &room)?.follow();
    // An engine on trial may do anything.
    let followed = catch_unwind(AssertUnwindSafe(follow)).unwrap_or_else(|panic| Err(panicked(&*panic)));
    if let Err(reason) = followed {
        shared.end(ShadowState::Failed, &reason);
    }
    let mut queue = lock(&shared.queue);
    (queue.bytes, queue.batches) = Default::default();
    drop(queue);
    let has_ended = lock(&shared.stats).state.has_ended();
    // What it took is needed by others now. Otherwise its files stay, for whoever wants to know what has happened.
    if has_ended && room.is_short() {
        let live = Home { directory: &second.directory }.live();
        drop(fs::remove_dir_all(live).inspect_err(|e| tracing::error!("the shadow's files can't be removed: {e}")));
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let why = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", why.unwrap_or("no reason given"))
}

/// Errors of a store speak to those who rely on it; nobody relies on a shadow.
fn plain(e: StoreError) -> String {
    match e {
        StoreError::Full(why) => format!("the disk is full: {why}"),
        StoreError::Corrupt(why) => format!("it is damaged: {why}"),
        StoreError::Fatal(why) | StoreError::Io(why) => why,
    }
}

fn plain_open(e: OpenError) -> String {
    match e {
        OpenError::Corrupt { why, .. } => format!("it is damaged: {why}"),
        OpenError::Io { why, .. } => why,
        other => other.to_string(),
    }
}

fn of_store(e: &StoreError) -> String {
    format!("the store itself could not be read: {e}")
}

struct Follower<'a> {
    second: &'a Second,
    store: &'a dyn Engine,
    line: &'a Mutex<Line>,
    shared: &'a Shared,
    room: &'a Room,
    engine: Box<dyn Engine>,
    floor: Floor,
    /// How far it is filled; none when it is.
    filling: Option<Place>,
    /// How far it was compared.
    place: Place,
    /// When the next page is filled or compared.
    due: Instant,
    applied: u64,
}

impl<'a> Follower<'a> {
    fn open(
        second: &'a Second,
        (store, line): (&'a dyn Engine, &'a Mutex<Line>),
        shared: &'a Shared,
        room: &'a Room,
    ) -> Result<Self, String> {
        let home = Home { directory: &second.directory };
        let asked = Asked { options: &second.options.engine, adapters: &second.adapters };
        if !second.even {
            make_anew(&home, asked, store, (room, second.reserve_bytes))?;
        }
        let made = Marker::read(&home, &home.live()).map_err(plain_open)?;
        let (engine, floor) = home.start(&home.live(), &made, asked.options).map_err(plain_open)?;
        let (filling, state) = match second.even {
            true => (None, ShadowState::Following),
            false => (Some(Place::default()), ShadowState::Filling),
        };
        shared.reached(state);
        let (place, due) = (Place::default(), Instant::now());
        Ok(Self { second, store, line, shared, room, engine, floor, filling, place, due, applied: 0 })
    }

    fn follow(mut self) -> Result<(), String> {
        loop {
            match self.shared.next(self.due) {
                Next::Apply(batch, bytes) => self.apply(batch, bytes)?,
                Next::Due => {}
                Next::Close(beacon) => return self.close(beacon),
                Next::Ended => return Ok(()),
            }
            if self.filling.is_some() && self.shared.is_closing() {
                return Ok(());
            }
            if Instant::now() < self.due || self.shared.is_pressed() {
                continue;
            }
            let pause = match self.filling.take() {
                Some(place) => self.fill(place)?,
                None => self.compare()?,
            };
            let disk_bytes = self.engine.disk_bytes();
            self.shared.note(|stats| stats.disk_bytes = disk_bytes);
            self.due = Instant::now() + pause;
        }
    }

    fn apply(&mut self, batch: Batch, bytes: u64) -> Result<(), String> {
        let took = self.write(batch, bytes)?;
        self.applied += 1;
        self.shared.note(|stats| {
            stats.batches = self.applied;
            stats.write_ns += took.as_nanos() as u64;
        });
        Ok(())
    }

    fn write(&self, batch: Batch, bytes: u64) -> Result<Duration, String> {
        self.room.ask(bytes, false).map_err(plain)?;
        wait_for(&*self.engine).map_err(plain)?;
        let began = Instant::now();
        self.engine.write(batch).map_err(plain)?;
        Ok(began.elapsed())
    }

    /// Copies a page of the store, and returns how long to wait before the next one.
    fn fill(&mut self, mut place: Place) -> Result<Duration, String> {
        let Some(table) = place.table() else {
            self.shared.reached(ShadowState::Following);
            tracing::info!("the shadow of the store, on {}, is filled and follows", self.engine.name());
            return Ok(Duration::ZERO);
        };
        let copied = page(self.store, table, place.start(), PAGE_BYTES).map_err(|e| of_store(&e))?;
        let (bytes, entries) = (copied.bytes, copied.entries.len() as u64);
        let mut batch: Batch =
            copied.entries.into_iter().map(|(key, value)| Change::Put { table, key, value }).collect();
        if copied.last.is_none()
            && let Some(value) = self.store.get(table, KEYS_END).map_err(|e| of_store(&e))?
        {
            batch.push(Change::Put { table, key: Bytes::from_static(KEYS_END), value });
        }
        self.write(batch, bytes)?;
        self.shared.note(|stats| stats.filled += entries);
        place.go_behind(copied.last.as_deref());
        self.filling = Some(place);
        Ok(Duration::from_secs_f64(bytes as f64 / self.second.options.fill_bytes_per_second.max(1) as f64))
    }

    /// Compares a page, and returns how long to wait before the next one.
    fn compare(&mut self) -> Result<Duration, String> {
        let (view, offered) = {
            let _line = lock(self.line);
            (self.store.view(), lock(&self.shared.queue).offered)
        };
        while self.applied < offered {
            let Next::Apply(batch, bytes) = self.shared.next(Instant::now()) else { return Ok(Duration::ZERO) };
            self.apply(batch, bytes)?;
        }
        if self.place.table().is_none() {
            self.place = Place::default();
        }
        let compared = compare::compare(&*view, &*self.engine.view(), &mut self.place, PAGE_BYTES);
        self.shared.compared(compared.map_err(|(side, e)| match side {
            Side::Store => of_store(&e),
            Side::Shadow => plain(e),
        })?);
        Ok(self.second.options.compare_every)
    }

    /// The store is closed; says for the next start that this holds the same, if so it is.
    fn close(self, beacon: Option<u64>) -> Result<(), String> {
        let (Some(beacon), None) = (beacon, &self.filling) else { return Ok(()) };
        self.engine.sync().map_err(plain)?;
        self.floor.raise(beacon);
        drop(self.engine);
        // The mark speaks for all files, so they are on the disk before it.
        let live = Home { directory: &self.second.directory }.live();
        files::sync_tree(&live).and_then(|()| leave_mark(&self.second.directory, beacon)).map_err(|e| e.to_string())
    }
}

/// An empty store in the place of what was there.
fn make_anew(
    home: &Home<'_>,
    asked: Asked<'_>,
    store: &dyn Engine,
    (room, reserve): (&Room, u64),
) -> Result<(), String> {
    let live = home.live();
    files::make_directories(home.directory).map_err(|e| e.to_string())?;
    if home.has(&live).map_err(plain_open)? {
        fs::remove_dir_all(&live).map_err(|e| e.to_string())?;
    }
    let (needed, free) = (store.disk_bytes(), room.free().map_err(plain)?);
    if free < needed.saturating_add(reserve) {
        return Err(format!(
            "to copy {needed} bytes of the store, that much must be free beside twice its reserve, {reserve} bytes, but \
             {free} bytes are"
        ));
    }
    home.build(asked, |_| Ok(())).and_then(|()| home.rename(&home.building(), &live)).map_err(plain_open)
}
