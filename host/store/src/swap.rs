//! A store gets another engine, or other adapters in front of it: everything is copied, read back, and only then takes
//! the old one's place.
//!
//! A node keeps more in its store than data that other owners have as well: its place in the cluster, its votes in the
//! epoch log, writes that it holds for others. So nothing less than a copy of all tables will do.
//!
//! What a crash may leave, and what the next opening makes of it:
//!
//! ```text
//! live = old                       the copy begins anew, or the config has thought better of it
//! live = old, building = new       the same: nobody knows whether the copy is whole
//! replaced = old, building = new   it is: the one that the config names goes to its place
//! replaced = old, live = new       the same: the new one has not been written to since
//! live = new, building = old       the new one has opened: the old one goes
//! live = new
//! ```

use crate::chain::Chain;
use crate::engine::{Engine as Native, KEYS_END, wait_for};
use crate::files;
use crate::floor::Floor;
use crate::open::{Asked, Home, Marker, OpenError, Stack};
use crate::options::BUILT;
use crate::room::Room;
use bytes::Bytes;
use mks_logic::port::{Batch, Change, Read, StoreError, Table, Visit};
use std::fs;
use std::ops::ControlFlow;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is written at once, bytes. Whoever watches is told as often.
const BATCH_BYTES: usize = 1 << 20;

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapping {
    /// What has the data.
    pub from: Stack,
    /// What gets it.
    pub to: Stack,
    /// Whether the copy is being read back; that is the second half.
    pub checking: bool,
    /// Entries of all tables that were copied, or read back.
    pub entries: u64,
    /// About how many it will be: the old engine's guess.
    pub about: u64,
}

/// A copy that was made, and read back the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// What had the data.
    pub from: Stack,
    /// What has them now.
    pub to: Stack,
    /// What was copied.
    pub tables: Vec<TableSum>,
    /// Bytes on the disk that the data took before.
    pub bytes_before: u64,
    /// Bytes that they take now.
    pub bytes_after: u64,
}

/// What a table holds, in order, and as whoever wrote it reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSum {
    /// Which one.
    pub table: Table,
    /// Keys, one of the store's own among them.
    pub entries: u64,
    /// A hash over all keys and values.
    pub digest: u64,
}

/// Settles which of two stores lives where a crash left both, by names alone: the one that is `asked` for.
pub(crate) fn resume(home: &Home<'_>, asked: &Stack) -> Result<(), OpenError> {
    let replaced = home.replaced();
    if !home.has(&replaced)? {
        return Ok(());
    }
    let back = Marker::read(home, &replaced)?.stack == *asked;
    let lives = home.has(&home.live())?;
    if back && lives {
        home.rename(&home.live(), &home.building())?;
    }
    match (back, lives) {
        (true, _) => home.rename(&replaced, &home.live()),
        (false, false) => home.rename(&home.building(), &home.live()),
        (false, true) => Ok(()),
    }
}

/// What lives does not open. Says so if what it took the place of is still there.
pub(crate) fn tell_of_old(home: &Home<'_>) {
    if let Ok(Marker { stack, .. }) = Marker::read(home, &home.replaced()) {
        tracing::error!("the store of {stack} is still there, and whole: set storage.adapter back to that");
    }
}

/// What lives has opened: whatever lies beside it goes.
pub(crate) fn clear(home: &Home<'_>) -> Result<(), OpenError> {
    if home.has(&home.replaced())? {
        // In one step, so that what is called `replaced` is always whole.
        home.rename(&home.replaced(), &home.building())?;
    }
    sweep(home)
}

fn sweep(home: &Home<'_>) -> Result<(), OpenError> {
    let building = home.building();
    if !home.has(&building)? {
        return Ok(());
    }
    fs::remove_dir_all(&building).and_then(|()| files::sync_directory(home.directory)).map_err(|e| {
        let why = format!("{} is of no use any more and can't be removed: {e}", building.display());
        OpenError::Io { directory: home.directory.to_owned(), why }
    })
}

/// Copies what lives in `home` to the engine and behind the adapters that are asked for, and puts the copy in its
/// place. The old one stays beside it until [`clear`].
pub(crate) fn swap(
    home: &Home<'_>,
    made: &Marker,
    asked: Asked<'_>,
    watch: &mut dyn FnMut(Swapping) -> bool,
) -> Result<Migrated, OpenError> {
    let (found, to, options) = (made.stack.clone(), asked.stack(), asked.options);
    if !BUILT.contains(&found.engine) {
        return Err(OpenError::WrongEngine { directory: home.directory.to_owned(), found, asked: to });
    }
    let chain = chain_of(home, &found, asked)?;
    // What an earlier try left would only take room.
    sweep(home)?;
    let (engine, _) = home.start(&home.live(), made, options)?;
    let room = Room::new(home.directory.to_owned(), options.reserve_bytes);
    let (needed, reserve) = (engine.disk_bytes(), options.reserve_bytes);
    let free = room.free().map_err(|e| home.store(e))?;
    if free < needed.saturating_add(reserve) {
        let directory = home.directory.to_owned();
        return Err(OpenError::NoRoomToSwap { directory, found, asked: to, needed, reserve, free });
    }
    tracing::info!(from = %found, %to, bytes = needed, "the store is copied, all of it");
    let about = engine.records_estimate();
    let told = Swapping { from: found.clone(), to: to.clone(), checking: false, entries: 0, about };
    let old = Side { engine: &*engine, chain };
    let built = build(home, &old, asked, &room, &mut Watch { told, watch }).inspect_err(|_| {
        if let Err(error) = sweep(home) {
            tracing::warn!(%error, "what was copied so far can't be removed; the next start does it");
        }
    });
    let (tables, bytes_after) = built?;
    drop(engine);
    home.rename(&home.live(), &home.replaced())?;
    home.rename(&home.building(), &home.live())?;
    tracing::info!(from = %found, %to, "the copy has taken the place of the store");
    Ok(Migrated { from: found, to, tables, bytes_before: needed, bytes_after })
}

/// The adapters that read what a store holds.
fn chain_of(home: &Home<'_>, found: &Stack, asked: Asked<'_>) -> Result<Chain, OpenError> {
    let known = || asked.adapters.chain.iter().chain(&asked.adapters.earlier);
    let reader = |form: &String| {
        known().find(|adapter| adapter.form() == form).cloned().ok_or_else(|| OpenError::NoReader {
            directory: home.directory.to_owned(),
            found: found.clone(),
            asked: asked.stack(),
            form: form.clone(),
        })
    };
    found.forms.iter().map(reader).collect::<Result<_, _>>().map(Chain::new)
}

/// An engine and the adapters in front of it.
struct Side<'a> {
    engine: &'a dyn Native,
    chain: Chain,
}

impl Read for Side<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.chain.get(self.engine, table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.chain.scan(self.engine, table, start, end, visit)
    }
}

/// Makes a copy of `old` that holds the same when it is opened, all of it on the disk. Returns what it holds, and how
/// many bytes it takes.
fn build(
    home: &Home<'_>,
    old: &Side<'_>,
    asked: Asked<'_>,
    room: &Room,
    watch: &mut Watch<'_>,
) -> Result<(Vec<TableSum>, u64), OpenError> {
    let copied = home.build(asked, |engine| {
        let new = Side { engine, chain: asked.chain() };
        copy(home, old, &new, room, watch)
    })?;
    let building = home.building();
    fs::copy(home.live().join(Floor::FILE), building.join(Floor::FILE)).map_err(|e| home.io(&e))?;
    let (new, _) = home.start(&building, &Marker::read(home, &building)?, asked.options)?;
    check(home, &Side { engine: &*new, chain: asked.chain() }, &copied, watch)?;
    let bytes = new.disk_bytes();
    drop(new);
    files::sync_tree(&building).map_err(|e| home.io(&e))?;
    Ok((copied, bytes))
}

/// Whoever asked for the copy.
struct Watch<'a> {
    told: Swapping,
    watch: &'a mut dyn FnMut(Swapping) -> bool,
}

impl Watch<'_> {
    /// Tells that so many more entries are done.
    fn tell(&mut self, home: &Home<'_>, entries: usize) -> Result<(), OpenError> {
        self.told.entries += entries as u64;
        if (self.watch)(self.told.clone()) {
            return Ok(());
        }
        let Swapping { from: found, to: asked, .. } = self.told.clone();
        Err(OpenError::SwapStopped { directory: home.directory.to_owned(), found, asked })
    }
}

impl TableSum {
    fn of(table: Table) -> Self {
        Self { table, entries: 0, digest: 0 }
    }

    fn add(&mut self, batch: &[(Bytes, Bytes)]) {
        for (key, value) in batch {
            self.entries += 1;
            self.digest = xxh3_64_with_seed(value, xxh3_64_with_seed(key, self.digest));
        }
    }
}

/// Puts everything that `old` holds into `new`; the sums of the tables.
fn copy(
    home: &Home<'_>,
    old: &Side<'_>,
    new: &Side<'_>,
    room: &Room,
    watch: &mut Watch<'_>,
) -> Result<Vec<TableSum>, OpenError> {
    let mut sums = Vec::new();
    for table in Table::ALL {
        let mut sum = TableSum::of(table);
        in_batches(home, old, table, |batch, bytes| {
            sum.add(&batch);
            let entries = batch.len();
            let put = |(key, value)| Change::Put { table, key, value };
            let batch = batch.into_iter().map(put).collect();
            room.ask(bytes, false).and_then(|()| write(new, batch)).map_err(|e| home.store(e))?;
            watch.tell(home, entries)
        })?;
        sums.push(sum);
    }
    new.engine.sync().map_err(|e| home.store(e))?;
    Ok(sums)
}

/// The old one goes when this is done: what the new one gives back has to be the same, byte by byte.
fn check(home: &Home<'_>, new: &Side<'_>, copied: &[TableSum], watch: &mut Watch<'_>) -> Result<(), OpenError> {
    (watch.told.checking, watch.told.entries) = (true, 0);
    for copied in copied {
        let mut found = TableSum::of(copied.table);
        in_batches(home, new, copied.table, |batch, _| {
            found.add(&batch);
            watch.tell(home, batch.len())
        })?;
        if found != *copied {
            let (name, put, got) = (copied.table.name(), copied.entries, found.entries);
            let why = format!("{put} entries of table {name} were copied, and {got} came back that are not the same");
            return Err(OpenError::Io { directory: home.directory.to_owned(), why });
        }
    }
    Ok(())
}

/// All entries of a table, and the store's own one at its end, in batches and with their bytes.
fn in_batches(
    home: &Home<'_>,
    from: &dyn Read,
    table: Table,
    mut take: impl FnMut(Vec<(Bytes, Bytes)>, u64) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let (mut batch, mut bytes, mut failed) = (Vec::new(), 0, None);
    from.scan(table, &[], None, &mut |key, value| {
        batch.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        bytes += key.len() + value.len();
        if bytes < BATCH_BYTES {
            return ControlFlow::Continue(());
        }
        match take(std::mem::take(&mut batch), std::mem::take(&mut bytes) as u64) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })
    .map_err(|e| home.store(e))?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(beacon) = from.get(table, KEYS_END).map_err(|e| home.store(e))? {
        batch.push((Bytes::from_static(KEYS_END), beacon));
    }
    if batch.is_empty() { Ok(()) } else { take(batch, bytes as u64) }
}

fn write(new: &Side<'_>, batch: Batch) -> Result<(), StoreError> {
    wait_for(new.engine)?;
    new.engine.write(new.chain.pack(batch)?)
}
