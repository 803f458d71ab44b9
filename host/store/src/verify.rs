//! A closed store and its shadow: compared whole, and exchanged.

use crate::compare::{Difference, Place, Side, compare};
use crate::engine::Engine as Native;
use crate::files;
use crate::open::{Home, Marker, OpenError, Stack};
use crate::options::{BUILT, Options};
use crate::{shadow, swap};
use mks_logic::port::Table;
use std::fs;

/// What is read at once of each side, bytes. Whoever watches is told as often.
const PAGE_BYTES: u64 = 1 << 20;

/// Differences that are kept; the others are only counted.
const SAMPLES_MAX: usize = 20;

/// A store and its shadow, compared: whole, or as far as it is while it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What the store is made of.
    pub store: Stack,
    /// What the shadow is made of.
    pub shadow: Stack,
    /// What was compared.
    pub tables: Vec<TableCompared>,
    /// The first differences.
    pub samples: Vec<Difference>,
    /// About how many records there are: the store's guess.
    pub about: u64,
    /// Bytes that the store takes on the disk.
    pub store_bytes: u64,
    /// Bytes that the shadow takes.
    pub shadow_bytes: u64,
}

/// A table of two stores, compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCompared {
    /// Which one.
    pub table: Table,
    /// Entries that one of the two has, or both.
    pub entries: u64,
    /// Those of them that are not the same in both.
    pub differing: u64,
}

impl Verified {
    /// Entries of all tables.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.tables.iter().map(|table| table.entries).sum()
    }

    /// Those of them that are not the same in both.
    #[must_use]
    pub fn differing(&self) -> u64 {
        self.tables.iter().map(|table| table.differing).sum()
    }
}

/// Compares all that the closed store in `options.directory` holds with its shadow. Changes nothing. `watch` hears now
/// and then how far it is. Of the other options, those of a cache count.
///
/// # Errors
/// [`OpenError::NoShadow`] and [`OpenError::ShadowNotEven`] where there is nothing to compare, others where one of the
/// two can't be opened or read. Differences are no error.
pub fn verify(options: &Options, watch: &mut dyn FnMut(&Verified)) -> Result<Verified, OpenError> {
    let home = Home { directory: &options.directory };
    let _lock = home.lock()?;
    compare_all(&home, options, watch)
}

/// The same, and where nothing differs the shadow takes the place of the store. That stays beside it until the next
/// opening, which gets the one that it asks for and removes the other. The shadow is not followed any more.
///
/// # Errors
/// As [`verify`]. A crash on the way leaves the one or the other in its place, and whole.
pub fn promote(options: &Options, watch: &mut dyn FnMut(&Verified)) -> Result<Verified, OpenError> {
    let home = Home { directory: &options.directory };
    let _lock = home.lock()?;
    let verified = compare_all(&home, options, watch)?;
    if verified.differing() > 0 {
        return Ok(verified);
    }
    let directory = home.shadow();
    let second = Home { directory: &directory };
    shadow::take_mark(&home)?;
    // From here on as after a copy: see `swap`.
    swap::clear(&home)?;
    home.rename(&second.live(), &home.building())?;
    files::sync_directory(&directory).map_err(|e| home.io(&e))?;
    home.rename(&home.live(), &home.replaced())?;
    home.rename(&home.building(), &home.live())?;
    fs::remove_dir_all(&directory).map_err(|e| home.io(&e))?;
    Ok(verified)
}

/// The engine that made what lives in `home`, and its last beacon.
fn start(home: &Home<'_>, options: &Options) -> Result<(Box<dyn Native>, Stack, u64), OpenError> {
    let made = Marker::read(home, &home.live())?;
    if !BUILT.contains(&made.stack.engine) {
        return Err(OpenError::NotBuilt(made.stack.engine));
    }
    let (engine, floor) = home.start(&home.live(), &made, options)?;
    Ok((engine, made.stack, floor.covered_by_sync()))
}

fn compare_all(home: &Home<'_>, options: &Options, watch: &mut dyn FnMut(&Verified)) -> Result<Verified, OpenError> {
    let directory = home.shadow();
    let second = Home { directory: &directory };
    if !home.has(&second.live())? {
        return Err(OpenError::NoShadow { directory: home.directory.to_owned() });
    }
    let (store, store_stack, beacon) = start(home, options)?;
    if shadow::mark(home)? != Some(beacon) {
        return Err(OpenError::ShadowNotEven { directory });
    }
    let (shadow, shadow_stack, _) = start(&second, options)?;
    let mut verified = Verified {
        store: store_stack,
        shadow: shadow_stack,
        tables: Vec::new(),
        samples: Vec::new(),
        about: store.records_estimate(),
        store_bytes: store.disk_bytes(),
        shadow_bytes: shadow.disk_bytes(),
    };
    let mut place = Place::default();
    while let Some(table) = place.table() {
        let compared = compare(&*store, &*shadow, &mut place, PAGE_BYTES).map_err(|(side, e)| match side {
            Side::Store => home.store(e),
            Side::Shadow => second.store(e),
        })?;
        if verified.tables.last().is_none_or(|last| last.table != table) {
            verified.tables.push(TableCompared { table, entries: 0, differing: 0 });
        }
        if let Some(last) = verified.tables.last_mut() {
            last.entries += compared.entries;
            last.differing += compared.differing.len() as u64;
        }
        let room = SAMPLES_MAX.saturating_sub(verified.samples.len());
        verified.samples.extend(compared.differing.into_iter().take(room));
        watch(&verified);
    }
    Ok(verified)
}
