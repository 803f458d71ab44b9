//! Opens a directory: who holds it, what made it, and a birth that a crash can't leave half done.
//!
//! ```text
//! directory/
//! ├── lock        held while the store is open; names the process
//! ├── building/   a store that is being made, or one that has had its day; swept away at the next opening
//! ├── replaced/   the store of another engine, until the one that took its place has opened: see `swap`
//! └── live/       renamed from `building` when all of it is on the disk
//!     ├── marker      format and engine
//!     ├── floor       see `floor`
//!     └── engine/     the engine's own files
//! ```

use crate::engine::Engine as Native;
use crate::files::{self, Lock, Locking};
use crate::floor::Floor;
use crate::guard::{Disk, Guard};
use crate::memory::Memory;
use crate::options::{BUILT, Engine, Options};
use crate::room::Room;
use crate::swap::{self, Swapping};
use mks_logic::port::{Store, StoreError};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the layout above and of what the tables' keys mean to the engines.
const FORMAT: u32 = 1;

/// Why a store can't be opened. What it held is there as before; a birth, or a move to another engine, begins anew
/// next time.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This binary does not have the engine.
    #[error(
        "the engine {0} is not part of this binary (it has: {built}); build it in with `cargo build --release \
         --features {0}`, or choose another engine",
        built = BUILT.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", ")
    )]
    NotBuilt(Engine),
    /// Another process has the directory open, or this one has twice.
    #[error("{} is in use{}; stop it, or give this node a directory of its own", directory.display(),
        process.map_or(String::new(), |id| format!(" by process {id}")))]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// Who holds it, if it said so.
        process: Option<u32>,
    },
    /// The directory was made by another engine, which this binary does not have: nobody can read it here.
    #[error("{} holds data of the engine {found}, which is not part of this binary, so that {asked} can't take it over; \
        start a binary that has both (`cargo build --release --features rocksdb`), or set the engine back to {found}",
        directory.display())]
    WrongEngine {
        /// The directory.
        directory: PathBuf,
        /// The engine that made it.
        found: Engine,
        /// The engine that was asked for.
        asked: Engine,
    },
    /// There is no room for the copy by which a store gets another engine.
    #[error("{} holds {needed} bytes of the engine {found}, and to copy them to {asked} that much must be free beside \
        the reserve of {reserve} bytes, but {free} bytes are; make room, or set the engine back to {found}",
        directory.display())]
    NoRoomToSwap {
        /// The directory.
        directory: PathBuf,
        /// The engine that made it.
        found: Engine,
        /// The engine that was asked for.
        asked: Engine,
        /// Bytes of the old engine.
        needed: u64,
        /// Bytes that stay free in any case.
        reserve: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Whoever watched the copy to another engine said stop.
    #[error("{} was being copied from the engine {found} to {asked} when it was told to stop; {found} still has it all",
        directory.display())]
    SwapStopped {
        /// The directory.
        directory: PathBuf,
        /// The engine that made it.
        found: Engine,
        /// The engine that was asked for.
        asked: Engine,
    },
    /// The directory was made by a later release.
    #[error("{} has format {found}, this release knows up to {FORMAT}; start the newer release again",
        directory.display())]
    FutureFormat {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Files are missing, cut short, or not what was written.
    #[error("{} is damaged: {why}; move it away and let the other owners fill an empty one", directory.display())]
    Corrupt {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused.
    #[error("{} can't be opened: {why}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What it said.
        why: String,
    },
}

/// Opens the store in `options.directory`, and makes it when there is none. One that another engine made is copied to
/// `options.engine` first.
///
/// A crash at any instant, also while it is made or copied, leaves a directory that opens again. Dropping the last
/// handle closes the store and gives the directory back.
///
/// # Errors
/// See [`OpenError`].
pub fn open(options: &Options) -> Result<Arc<dyn Store>, OpenError> {
    open_watched(options, &mut |_| true)
}

/// As [`open`](open()), for stores that may need a copy: `watch` hears now and then how far it is, and says whether
/// to go on.
///
/// # Errors
/// See [`OpenError`].
pub fn open_watched(options: &Options, watch: &mut dyn FnMut(Swapping) -> bool) -> Result<Arc<dyn Store>, OpenError> {
    if !BUILT.contains(&options.engine) {
        return Err(OpenError::NotBuilt(options.engine));
    }
    if options.engine == Engine::Memory {
        return Ok(Arc::new(Guard::new(Box::new(Memory::default()), None)));
    }
    let home = Home { directory: &options.directory };
    files::make_directories(home.directory).map_err(|e| home.io(&e))?;
    let lock = match Lock::take(&home.directory.join("lock")).map_err(|e| home.io(&e))? {
        Locking::Ours(lock) => lock,
        Locking::Theirs(process) => return Err(OpenError::Locked { directory: home.directory.to_owned(), process }),
    };
    swap::resume(&home, options.engine)?;
    let live = home.live();
    if !home.has(&live)? {
        home.build(options, |_| Ok(()))?;
        home.rename(&home.building(), &live)?;
    }
    let mut made = Marker::read(&home, &live)?;
    if made.engine != options.engine {
        swap::swap(&home, &made, options, watch)?;
        made = Marker::read(&home, &live)?;
    }
    let (engine, floor) = home.start(&live, &made, options).inspect_err(|_| swap::tell_of_old(&home))?;
    swap::clear(&home)?;
    let room = Room::new(live, options.reserve_bytes);
    Ok(Arc::new(Guard::new(engine, Some(Disk { floor, room, _lock: lock }))))
}

/// Whether an engine finds its files or makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Birth {
    /// It makes them: the directory does not exist.
    New,
    /// It finds them: anything missing is damage.
    Old,
}

fn start(options: &Options, directory: &Path, birth: Birth) -> Result<Box<dyn Native>, StoreError> {
    match options.engine {
        Engine::Fjall => Ok(Box::new(crate::fjall::Fjall::open(options, directory, birth)?)),
        #[cfg(feature = "rocksdb")]
        Engine::RocksDb => Ok(Box::new(crate::rocks::Rocks::open(options, directory, birth)?)),
        _ => Ok(Box::new(Memory::default())),
    }
}

/// The directory that is being opened.
pub(crate) struct Home<'a> {
    pub(crate) directory: &'a Path,
}

impl Home<'_> {
    pub(crate) fn live(&self) -> PathBuf {
        self.directory.join("live")
    }

    pub(crate) fn building(&self) -> PathBuf {
        self.directory.join("building")
    }

    pub(crate) fn replaced(&self) -> PathBuf {
        self.directory.join("replaced")
    }

    pub(crate) fn has(&self, path: &Path) -> Result<bool, OpenError> {
        path.try_exists().map_err(|e| self.io(&e))
    }

    /// Gives a store in this directory another name, durably.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), OpenError> {
        fs::rename(from, to).and_then(|()| files::sync_directory(self.directory)).map_err(|e| self.io(&e))
    }

    pub(crate) fn io(&self, e: &io::Error) -> OpenError {
        OpenError::Io { directory: self.directory.to_owned(), why: e.to_string() }
    }

    fn corrupt(&self, why: impl Into<String>) -> OpenError {
        OpenError::Corrupt { directory: self.directory.to_owned(), why: why.into() }
    }

    pub(crate) fn store(&self, e: StoreError) -> OpenError {
        let directory = self.directory.to_owned();
        match e {
            StoreError::Corrupt(why) => OpenError::Corrupt { directory, why },
            StoreError::Full(why) => OpenError::Io { directory, why: format!("the disk is full: {why}") },
            StoreError::Fatal(why) | StoreError::Io(why) => OpenError::Io { directory, why },
        }
    }

    /// Starts the engine that made `store`, if it holds all that the disk had promised to keep.
    pub(crate) fn start(
        &self,
        store: &Path,
        made: &Marker,
        options: &Options,
    ) -> Result<(Box<dyn Native>, Floor), OpenError> {
        let tuned = Options { engine: made.engine, memtable_bytes: made.memtable_bytes, ..options.clone() };
        let engine = start(&tuned, &store.join("engine"), Birth::Old).map_err(|e| self.store(e))?;
        let floor = Floor::open(&store.join(Floor::FILE)).map_err(|e| self.io(&e))?;
        floor.check(&*engine).map_err(|e| self.store(e))?;
        Ok((engine, floor))
    }

    /// Makes a store next to where it will live, with whatever `fill` puts into it, all of it on the disk. An engine
    /// that is killed while it makes its files may never open them again; here the half-made ones are swept away.
    pub(crate) fn build<T>(
        &self,
        options: &Options,
        fill: impl FnOnce(&dyn Native) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        let building = self.building();
        let fresh = || -> io::Result<()> {
            if building.try_exists()? {
                fs::remove_dir_all(&building)?;
            }
            fs::create_dir(&building)
        };
        fresh().map_err(|e| self.io(&e))?;
        let marker = Marker { engine: options.engine, memtable_bytes: options.memtable() };
        marker.write(&building).map_err(|e| self.io(&e))?;
        let engine = start(options, &building.join("engine"), Birth::New).map_err(|e| self.store(e))?;
        let filled = fill(&*engine)?;
        drop(engine);
        files::sync_tree(&building).map_err(|e| self.io(&e))?;
        Ok(filled)
    }
}

/// The file that says what made the directory: `name = value` lines.
#[derive(Debug)]
pub(crate) struct Marker {
    pub(crate) engine: Engine,
    memtable_bytes: u64,
}

impl Marker {
    const FILE: &str = "marker";

    fn write(&self, directory: &Path) -> io::Result<()> {
        let mut file = File::create_new(directory.join(Self::FILE))?;
        let Self { engine, memtable_bytes } = self;
        write!(file, "format = {FORMAT}\nengine = {engine}\nmemtable_bytes = {memtable_bytes}\n")
    }

    pub(crate) fn read(home: &Home<'_>, store: &Path) -> Result<Self, OpenError> {
        let text = match fs::read(store.join(Self::FILE)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(home.corrupt("its marker file is missing")),
            Err(e) => return Err(home.io(&e)),
        };
        let text = String::from_utf8_lossy(&text);
        let lines: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once(" = ")).collect();
        let number = |name| lines.get(name).and_then(|value| value.parse::<u64>().ok());
        let unreadable = || home.corrupt(format!("its marker file makes no sense: {text:?}"));
        let found = number("format").and_then(|format| u32::try_from(format).ok()).ok_or_else(unreadable)?;
        if found > FORMAT {
            return Err(OpenError::FutureFormat { directory: home.directory.to_owned(), found });
        }
        match (lines.get("engine"), number("memtable_bytes")) {
            (Some(engine), Some(memtable_bytes)) if found == FORMAT => {
                // `memory` makes no directories.
                let known = engine.parse::<Engine>().ok().filter(|engine| *engine != Engine::Memory);
                let strange = || home.corrupt(format!("its marker file names an engine {engine:?}"));
                Ok(Self { engine: known.ok_or_else(strange)?, memtable_bytes })
            }
            _ => Err(unreadable()),
        }
    }
}
