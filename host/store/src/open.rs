//! Opens a directory: who holds it, what made it, and a birth that a crash can't leave half done.
//!
//! ```text
//! directory/
//! ├── lock        held while the store is open; names the process
//! ├── building/   a store that is being made, or one that has had its day; swept away at the next opening
//! ├── replaced/   the store of another engine, until the one that took its place has opened: see `swap`
//! ├── live/       renamed from `building` when all of it is on the disk
//! │   ├── marker      format and engine
//! │   ├── floor       see `floor`
//! │   └── engine/     the engine's own files
//! └── shadow/     a second store, laid out in the same way: see `shadow`
//! ```

use crate::chain::{Adapted, Chain};
use crate::engine::Engine as Native;
use crate::files::{self, Lock, Locking};
use crate::floor::Floor;
use crate::guard::{Disk, Guard};
use crate::memory::Memory;
use crate::options::{BUILT, Engine, Options};
use crate::room::Room;
use crate::shadow;
use crate::swap::{self, Migrated, Swapping};
use mks_logic::port::{Adapt, Store, StoreError};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the layout above and of what the tables' keys mean to the engines.
const FORMAT: u32 = 1;

/// The same of a store behind adapters, whose values make no sense to those who don't know of any.
const FORMAT_ADAPTED: u32 = 2;

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
    #[error("{} holds data of {found}, an engine that is not part of this binary, so that {asked} can't take it over; \
        start a binary that has both (`cargo build --release --features rocksdb`), or go back to {found}",
        directory.display())]
    WrongEngine {
        /// The directory.
        directory: PathBuf,
        /// What made it.
        found: Stack,
        /// What was asked for.
        asked: Stack,
    },
    /// The directory was written through an adapter, and none that was given reads the same.
    #[error("{} holds what {found} wrote, and nothing that reads `{form}` is configured, so that {asked} can't take it \
        over; name that adapter, with its secrets, in storage.earlier, and the next start copies the store, or set \
        storage.adapter back to what it was",
        directory.display())]
    NoReader {
        /// The directory.
        directory: PathBuf,
        /// What made it.
        found: Stack,
        /// What was asked for.
        asked: Stack,
        /// The form that nobody reads.
        form: String,
    },
    /// There is no room for the copy by which a store gets another engine.
    #[error("{} holds {needed} bytes of {found}, and to copy them to {asked} that much must be free beside the reserve \
        of {reserve} bytes, but {free} bytes are; make room, or go back to {found}",
        directory.display())]
    NoRoomToSwap {
        /// The directory.
        directory: PathBuf,
        /// What made it.
        found: Stack,
        /// What was asked for.
        asked: Stack,
        /// Bytes of the old engine.
        needed: u64,
        /// Bytes that stay free in any case.
        reserve: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Whoever watched the copy said stop.
    #[error("{} was being copied from {found} to {asked} when it was told to stop; {found} still has it all",
        directory.display())]
    SwapStopped {
        /// The directory.
        directory: PathBuf,
        /// What made it.
        found: Stack,
        /// What was asked for.
        asked: Stack,
    },
    /// The directory was made by a later release.
    #[error("{} has format {found}, this release knows up to {FORMAT_ADAPTED}; start the newer release again",
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
    /// There is no second engine whose store could be looked at.
    #[error("{} holds no shadow; name an engine in storage.shadow, start the node, and stop it when `mks status` says \
        that the shadow follows",
        directory.display())]
    NoShadow {
        /// The directory.
        directory: PathBuf,
    },
    /// The shadow lags behind the store, so that differences would say nothing.
    #[error("the shadow in {} did not hold all that the store held when that was closed: it was being filled, had ended, \
        or the node was killed; start the node with storage.shadow, and stop it when `mks status` says that the shadow \
        follows",
        directory.display())]
    ShadowNotEven {
        /// The directory.
        directory: PathBuf,
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

/// What stands between the values of a store and its engine.
#[derive(Clone, Default)]
pub struct Adapters {
    /// The one nearest to the node first. Empty: values lie in the engine as they are.
    pub chain: Vec<Arc<dyn Adapt>>,
    /// Others, to read what an earlier chain wrote.
    pub earlier: Vec<Arc<dyn Adapt>>,
}

impl Adapters {
    /// What a store of this engine is made of behind them.
    #[must_use]
    pub fn stack(&self, engine: Engine) -> Stack {
        Stack { engine, forms: self.chain.iter().map(|adapter| adapter.form().to_owned()).collect() }
    }
}

impl fmt::Debug for Adapters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forms = |adapters: &[Arc<dyn Adapt>]| adapters.iter().map(|a| a.form().to_owned()).collect::<Vec<_>>();
        f.debug_struct("Adapters").field("chain", &forms(&self.chain)).field("earlier", &forms(&self.earlier)).finish()
    }
}

/// What a store is made of: an engine, and the forms in which adapters leave values before they come to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stack {
    /// The engine.
    pub engine: Engine,
    /// See [`Adapt::form`]; the one nearest to the node first.
    pub forms: Vec<String>,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the engine {}", self.engine)?;
        if self.forms.is_empty() { Ok(()) } else { write!(f, " behind {}", self.forms.join(", ")) }
    }
}

/// What is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) options: &'a Options,
    pub(crate) adapters: &'a Adapters,
}

impl Asked<'_> {
    pub(crate) fn stack(&self) -> Stack {
        self.adapters.stack(self.options.engine)
    }

    pub(crate) fn chain(&self) -> Chain {
        Chain::new(self.adapters.chain.clone())
    }
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
    open_watched(options, &Adapters::default(), &mut |_| true)
}

/// As [`open`](open()), behind adapters, and for stores that may need a copy: because another engine made them, or
/// because the chain of adapters is another one. `watch` hears now and then how far it is, and says whether to go on.
///
/// # Errors
/// See [`OpenError`].
pub fn open_watched(
    options: &Options,
    adapters: &Adapters,
    watch: &mut dyn FnMut(Swapping) -> bool,
) -> Result<Arc<dyn Store>, OpenError> {
    let second = options.shadow.as_ref().map(|shadow| shadow.engine.engine);
    if let Some(lacking) = [Some(options.engine), second].into_iter().flatten().find(|asked| !BUILT.contains(asked)) {
        return Err(OpenError::NotBuilt(lacking));
    }
    let asked = Asked { options, adapters };
    if options.engine == Engine::Memory {
        return Ok(adapted(Guard::new(Arc::new(Memory::default()), None, None), asked.chain()));
    }
    let home = Home { directory: &options.directory };
    files::make_directories(home.directory).map_err(|e| home.io(&e))?;
    let lock = home.lock()?;
    let Ready { engine, floor, .. } = ready(&home, asked, watch)?;
    let second = shadow::prepare(&home, asked, &floor)?;
    let room = Room::new(home.live(), options.reserve_bytes);
    Ok(adapted(Guard::new(engine.into(), Some(Disk { floor, room, _lock: lock }), second), asked.chain()))
}

/// Makes the copy that [`open_watched`] would make, and nothing else. None where what is there is what is asked for.
///
/// # Errors
/// See [`OpenError`].
pub fn migrate(
    options: &Options,
    adapters: &Adapters,
    watch: &mut dyn FnMut(Swapping) -> bool,
) -> Result<Option<Migrated>, OpenError> {
    if !BUILT.contains(&options.engine) {
        return Err(OpenError::NotBuilt(options.engine));
    }
    let home = Home { directory: &options.directory };
    let _lock = home.lock()?;
    ready(&home, Asked { options, adapters }, watch).map(|ready| ready.migrated)
}

/// A store whose engine runs.
struct Ready {
    engine: Box<dyn Native>,
    floor: Floor,
    migrated: Option<Migrated>,
}

/// From whatever a crash has left, or nothing, to the store that is asked for.
fn ready(home: &Home<'_>, asked: Asked<'_>, watch: &mut dyn FnMut(Swapping) -> bool) -> Result<Ready, OpenError> {
    swap::resume(home, &asked.stack())?;
    let live = home.live();
    if !home.has(&live)? {
        home.build(asked, |_| Ok(()))?;
        home.rename(&home.building(), &live)?;
    }
    let mut made = Marker::read(home, &live)?;
    let mut migrated = None;
    if made.stack != asked.stack() {
        shadow::take_mark(home)?;
        migrated = Some(swap::swap(home, &made, asked, watch)?);
        made = Marker::read(home, &live)?;
    }
    let (engine, floor) = home.start(&live, &made, asked.options).inspect_err(|_| swap::tell_of_old(home))?;
    swap::clear(home)?;
    Ok(Ready { engine, floor, migrated })
}

fn adapted(store: Guard, chain: Chain) -> Arc<dyn Store> {
    if chain.is_empty() { Arc::new(store) } else { Arc::new(Adapted::new(store, chain)) }
}

/// What made the store in a directory; none where there is no store yet.
///
/// # Errors
/// When the directory can't be read, or makes no sense.
pub fn stack_of(directory: &Path) -> Result<Option<Stack>, OpenError> {
    let home = Home { directory };
    // After a crash in the middle of a swap only the one that was replaced is certain to be whole.
    for store in [home.live(), home.replaced()] {
        if home.has(&store)? {
            return Marker::read(&home, &store).map(|marker| Some(marker.stack));
        }
    }
    Ok(None)
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

    pub(crate) fn shadow(&self) -> PathBuf {
        self.directory.join("shadow")
    }

    pub(crate) fn replaced(&self) -> PathBuf {
        self.directory.join("replaced")
    }

    pub(crate) fn lock(&self) -> Result<Lock, OpenError> {
        match Lock::take(&self.directory.join("lock")).map_err(|e| self.io(&e))? {
            Locking::Ours(lock) => Ok(lock),
            Locking::Theirs(process) => Err(OpenError::Locked { directory: self.directory.to_owned(), process }),
        }
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
        let tuned = Options { engine: made.stack.engine, memtable_bytes: made.memtable_bytes, ..options.clone() };
        let engine = start(&tuned, &store.join("engine"), Birth::Old).map_err(|e| self.store(e))?;
        let floor = Floor::open(&store.join(Floor::FILE)).map_err(|e| self.io(&e))?;
        floor.check(&*engine).map_err(|e| self.store(e))?;
        Ok((engine, floor))
    }

    /// Makes a store next to where it will live, with whatever `fill` puts into it, all of it on the disk. An engine
    /// that is killed while it makes its files may never open them again; here the half-made ones are swept away.
    pub(crate) fn build<T>(
        &self,
        asked: Asked<'_>,
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
        let marker = Marker { stack: asked.stack(), memtable_bytes: asked.options.memtable() };
        marker.write(&building).map_err(|e| self.io(&e))?;
        let engine = start(asked.options, &building.join("engine"), Birth::New).map_err(|e| self.store(e))?;
        let filled = fill(&*engine)?;
        drop(engine);
        files::sync_tree(&building).map_err(|e| self.io(&e))?;
        Ok(filled)
    }
}

/// The file that says what made the directory: `name = value` lines.
#[derive(Debug)]
pub(crate) struct Marker {
    pub(crate) stack: Stack,
    memtable_bytes: u64,
}

impl Marker {
    const FILE: &str = "marker";

    fn write(&self, directory: &Path) -> io::Result<()> {
        let mut file = File::create_new(directory.join(Self::FILE))?;
        let Self { stack: Stack { engine, forms }, memtable_bytes } = self;
        let format = if forms.is_empty() { FORMAT } else { FORMAT_ADAPTED };
        let mut text = format!("format = {format}\nengine = {engine}\nmemtable_bytes = {memtable_bytes}\n");
        for (i, form) in forms.iter().enumerate() {
            text += &format!("adapter_{} = {form}\n", i + 1);
        }
        file.write_all(text.as_bytes())
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
        if found > FORMAT_ADAPTED {
            return Err(OpenError::FutureFormat { directory: home.directory.to_owned(), found });
        }
        let form = |i| lines.get(format!("adapter_{i}").as_str()).map(|form| (*form).to_owned());
        let forms: Vec<String> = (1..).map_while(form).collect();
        match (lines.get("engine"), number("memtable_bytes")) {
            (Some(engine), Some(memtable_bytes)) if (found == FORMAT_ADAPTED) != forms.is_empty() && found > 0 => {
                // `memory` makes no directories.
                let known = engine.parse::<Engine>().ok().filter(|engine| *engine != Engine::Memory);
                let strange = || home.corrupt(format!("its marker file names an engine {engine:?}"));
                Ok(Self { stack: Stack { engine: known.ok_or_else(strange)?, forms }, memtable_bytes })
            }
            _ => Err(unreadable()),
        }
    }
}
