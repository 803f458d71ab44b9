//! A disk in memory, mounted through FUSE, that forgets what was not synced when its power is cut.
//!
//! It is as strict as POSIX allows: an fsync of a file keeps that file's bytes and not its name, an fsync of a
//! directory keeps its names. [`PowerDisk::like_linux`] is as kind as ext4, XFS, Btrfs and F2FS are, and no kinder:
//! there the fsync of a new file keeps the name that it was made under as well (renames and removals wait for the
//! directory). A torn cut also keeps some pages that were not synced, in any order, and all names, as file systems with
//! ordered metadata do.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PAGE: usize = 4096;
const ROOT: u64 = 1;

/// Nothing is remembered by the kernel: it would survive the cut.
const TTL: Duration = Duration::ZERO;

/// Bytes of a file, holes left out.
#[derive(Clone, Default)]
struct Content {
    pages: HashMap<u64, Arc<[u8; PAGE]>>,
    length: u64,
}

#[derive(Clone, Default)]
struct File {
    live: Content,
    kept: Content,
    /// Pages of `live` that `kept` does not have yet.
    dirty: BTreeSet<u64>,
}

#[derive(Clone, Default)]
struct Directory {
    live: BTreeMap<OsString, u64>,
    kept: BTreeMap<OsString, u64>,
}

#[derive(Clone)]
enum Node {
    File(File),
    Directory(Directory),
}

/// See [`PowerDisk::cut_at_rename`].
struct Plan {
    renames: u32,
    after: bool,
    torn: bool,
}

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    power: bool,
    plan: Option<Plan>,
    syncs_fail: bool,
    /// Who waits for an fsync while they are held.
    held: Option<Vec<ReplyEmpty>>,
    /// See [`PowerDisk::like_linux`].
    keeps_new_names: bool,
    random: u64,
}

type Answer<T> = Result<T, Errno>;

impl File {
    fn read(&self, offset: u64, size: u32) -> Vec<u8> {
        let end = (offset + u64::from(size)).min(self.live.length);
        let mut bytes = Vec::with_capacity(size as usize);
        let mut at = offset;
        while at < end {
            let within = (at % PAGE as u64) as usize;
            let count = (PAGE - within).min((end - at) as usize);
            match self.live.pages.get(&(at / PAGE as u64)) {
                Some(page) => bytes.extend_from_slice(&page[within..within + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
            at += count as u64;
        }
        bytes
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let count = (PAGE - within).min(rest.len());
            let number = at / PAGE as u64;
            let page = self.live.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + count].copy_from_slice(&rest[..count]);
            self.dirty.insert(number);
            at += count as u64;
            rest = &rest[count..];
        }
        self.live.length = self.live.length.max(at);
    }

    fn resize(&mut self, length: u64) {
        let (last, within) = (length / PAGE as u64, (length % PAGE as u64) as usize);
        let gone: Vec<_> = self.live.pages.keys().copied().filter(|&page| page >= last).collect();
        for page in gone {
            if page == last && within > 0 {
                Arc::make_mut(self.live.pages.get_mut(&page).expect("it was listed"))[within..].fill(0);
            } else {
                self.live.pages.remove(&page);
            }
            self.dirty.insert(page);
        }
        self.live.length = length;
    }

    fn keep_page(&mut self, number: u64) {
        match self.live.pages.get(&number) {
            Some(page) => self.kept.pages.insert(number, page.clone()),
            None => self.kept.pages.remove(&number),
        };
    }

    fn sync(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            self.keep_page(number);
        }
        self.kept.length = self.live.length;
    }

    fn tear(&mut self, coin: &mut impl FnMut() -> bool) {
        for number in std::mem::take(&mut self.dirty) {
            if coin() {
                self.keep_page(number);
            }
        }
        if coin() {
            self.kept.length = self.live.length;
        }
        let pages = self.kept.length.div_ceil(PAGE as u64);
        self.kept.pages.retain(|&number, _| number < pages);
    }
}

impl State {
    fn node(&mut self, ino: INodeNo) -> Answer<&mut Node> {
        if !self.power {
            return Err(Errno::EIO);
        }
        self.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)
    }

    fn file(&mut self, ino: INodeNo) -> Answer<&mut File> {
        match self.node(ino)? {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn directory(&mut self, ino: INodeNo) -> Answer<&mut Directory> {
        match self.node(ino)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn attributes(&mut self, ino: INodeNo) -> Answer<FileAttr> {
        let (kind, size, pages) = match self.node(ino)? {
            Node::File(file) => (FileType::RegularFile, file.live.length, file.live.pages.len()),
            Node::Directory(_) => (FileType::Directory, 0, 0),
        };
        Ok(FileAttr {
            ino,
            size,
            blocks: (pages * PAGE / 512) as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    fn look_up(&mut self, parent: INodeNo, name: &OsStr) -> Answer<INodeNo> {
        self.directory(parent)?.live.get(name).map(|&ino| INodeNo(ino)).ok_or(Errno::ENOENT)
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Answer<FileAttr> {
        let ino = self.next;
        let names = &mut self.directory(parent)?.live;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), ino);
        self.next += 1;
        self.nodes.insert(ino, node);
        self.attributes(INodeNo(ino))
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Answer<()> {
        let ino = self.look_up(parent, name)?;
        if matches!(self.node(ino)?, Node::Directory(directory) if !directory.live.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.directory(parent)?.live.remove(name);
        Ok(())
    }

    fn rename(&mut self, parent: INodeNo, name: &OsStr, to: INodeNo, as_name: &OsStr) -> Answer<()> {
        let ino = self.look_up(parent, name)?;
        let planned = self.take_plan(ino);
        if let Some(Plan { after: false, torn, .. }) = planned {
            self.cut(torn);
        }
        self.directory(to)?;
        self.directory(parent)?.live.remove(name);
        self.directory(to)?.live.insert(as_name.to_owned(), ino.0);
        if let Some(Plan { after: true, torn, .. }) = planned {
            self.cut(torn);
        }
        Ok(())
    }

    /// The plan, when the rename of `ino` is the one that it means.
    fn take_plan(&mut self, ino: INodeNo) -> Option<Plan> {
        if matches!(self.nodes.get(&ino.0), Some(Node::Directory(_)))
            && let Some(plan) = &mut self.plan
        {
            plan.renames -= 1;
        }
        self.plan.take_if(|plan| plan.renames == 0)
    }

    fn cut(&mut self, torn: bool) {
        self.power = false;
        self.held.take().into_iter().flatten().for_each(|reply| reply.error(Errno::EIO));
        if torn {
            let Self { nodes, random, .. } = self;
            // In a fixed order, so that a seed decides.
            let mut all: Vec<_> = nodes.iter_mut().collect();
            all.sort_unstable_by_key(|(ino, _)| **ino);
            for (_, node) in all {
                match node {
                    Node::File(file) => file.tear(&mut || Self::coin(random)),
                    Node::Directory(directory) => directory.kept = directory.live.clone(),
                }
            }
        }
    }

    fn list(&mut self, ino: INodeNo) -> Answer<Vec<(INodeNo, FileType, OsString)>> {
        let names = self.directory(ino)?.live.clone();
        Ok(names
            .into_iter()
            .map(|(name, ino)| {
                let directory = matches!(self.nodes[&ino], Node::Directory(_));
                (INodeNo(ino), if directory { FileType::Directory } else { FileType::RegularFile }, name)
            })
            .collect())
    }

    fn sync(&mut self, ino: INodeNo) -> Answer<()> {
        self.may_sync()?;
        self.file(ino)?.sync();
        if self.keeps_new_names {
            self.keep_new_name(ino.0);
        }
        Ok(())
    }

    /// Keeps the name of a file that has none yet on the disk.
    fn keep_new_name(&mut self, ino: u64) {
        let mut named = None;
        for (&parent, node) in &self.nodes {
            let Node::Directory(directory) = node else { continue };
            if directory.kept.values().any(|&kept| kept == ino) {
                return;
            }
            let name = directory.live.iter().find(|(_, live)| **live == ino).map(|(name, _)| name.clone());
            named = name.map(|name| (parent, name)).or(named);
        }
        if let Some((parent, name)) = named
            && let Ok(directory) = self.directory(INodeNo(parent))
        {
            directory.kept.insert(name, ino);
        }
    }

    fn may_sync(&self) -> Answer<()> {
        if self.syncs_fail { Err(Errno::EIO) } else { Ok(()) }
    }

    fn coin(random: &mut u64) -> bool {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random & (1 << 20) != 0
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct PowerDisk(Arc<Mutex<State>>);

impl PowerDisk {
    /// An empty disk whose torn cuts are decided by `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let nodes = HashMap::from([(ROOT, Node::Directory(Directory::default()))]);
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (power, plan, syncs_fail, held, keeps_new_names) = (true, None, false, None, false);
        let next = ROOT + 1;
        Self(Arc::new(Mutex::new(State { nodes, next, power, plan, syncs_fail, held, keeps_new_names, random })))
    }

    /// The same, but the fsync of a new file keeps its name, too.
    pub(crate) fn like_linux(self) -> Self {
        self.state().keeps_new_names = true;
        self
    }

    /// Mounts it; it goes when the session is dropped. `None`, with a line that says so, where that is not possible.
    pub(crate) fn mount(&self, at: &Path) -> Option<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power-disk".into()), MountOption::RW];
        match fuser::spawn_mount(self.clone(), at, &config) {
            Ok(session) => Some(session),
            Err(e) => {
                println!("SKIPPED: a power cut can't be tested here, FUSE does not mount: {e}");
                None
            }
        }
    }

    /// From now on everything fails, and what was not synced is forgotten; `torn`: some of it.
    pub(crate) fn cut(&self, torn: bool) {
        self.state().cut(torn);
    }

    /// As [`Self::cut`], at the `renames`th renaming of a directory from now on: right before it, or right `after` it.
    pub(crate) fn cut_at_rename(&self, renames: u32, after: bool, torn: bool) {
        self.state().plan = Some(Plan { renames, after, torn });
    }

    /// As [`Self::cut`], but everything was on the disk in time, except for what was not synced of the file `lost`.
    pub(crate) fn cut_without(&self, lost: &OsStr) {
        let mut state = self.state();
        let is_lost = |node: &Node| matches!(node, Node::Directory(directory) if directory.live.contains_key(lost));
        let Some(Node::Directory(directory)) = state.nodes.values().find(|node| is_lost(node)) else {
            panic!("there is no {lost:?}");
        };
        let lost = directory.live[lost];
        for (_, node) in state.nodes.iter_mut().filter(|(ino, _)| **ino != lost) {
            match node {
                Node::File(file) => file.sync(),
                Node::Directory(directory) => directory.kept = directory.live.clone(),
            }
        }
        state.cut(false);
    }

    /// From now on no fsync comes to an end, until the power is cut.
    pub(crate) fn hold_syncs(&self) {
        self.state().held = Some(Vec::new());
    }

    /// Whether it has power.
    pub(crate) fn has_power(&self) -> bool {
        self.state().power
    }

    /// The power is back: the disk has what was kept. Mount it again.
    pub(crate) fn restore(&self) {
        let mut state = self.state();
        let mut reachable = HashMap::new();
        let mut rest = vec![ROOT];
        while let Some(ino) = rest.pop() {
            let node = match state.nodes.get(&ino).cloned() {
                Some(Node::File(file)) => {
                    Node::File(File { live: file.kept.clone(), kept: file.kept, dirty: BTreeSet::new() })
                }
                Some(Node::Directory(directory)) => {
                    rest.extend(directory.kept.values());
                    Node::Directory(Directory { live: directory.kept.clone(), kept: directory.kept })
                }
                None => continue,
            };
            reachable.insert(ino, node);
        }
        state.nodes = reachable;
        state.plan = None;
        state.power = true;
    }

    /// Whether every fsync fails from now on.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.state().syncs_fail = fail;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn entry(&self, found: Answer<FileAttr>, reply: ReplyEntry) {
        match found {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn done(&self, outcome: Answer<()>, reply: ReplyEmpty) {
        match outcome {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }
}

impl Filesystem for PowerDisk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        let found = state.look_up(parent, name).and_then(|ino| state.attributes(ino));
        self.entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(ino) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let Some(size) = size
            && let Err(e) = state.file(ino).map(|file| file.resize(size))
        {
            return reply.error(e);
        }
        match state.attributes(ino) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(e) => reply.error(e),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.state().make(parent, name, Node::Directory(Directory::default()));
        self.entry(made, reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.state().make(parent, name, Node::File(File::default())) {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.state().file(ino) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().file(ino) {
            Ok(file) => reply.data(&file.read(offset, size)),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().file(ino) {
            Ok(file) => {
                file.write(offset, data);
                reply.written(data.len() as u32);
            }
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if let Some(held) = &mut state.held {
            return held.push(reply);
        }
        let outcome = state.sync(ino);
        self.done(outcome, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        let outcome = state.may_sync().and_then(|()| state.directory(ino));
        let outcome = outcome.map(|directory| directory.kept = directory.live.clone());
        self.done(outcome, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let outcome = self.state().remove(parent, name);
        self.done(outcome, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let outcome = self.state().remove(parent, name);
        self.done(outcome, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        as_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let outcome =
            if flags.is_empty() { self.state().rename(parent, name, to, as_name) } else { Err(Errno::EINVAL) };
        self.done(outcome, reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.state().list(ino) {
            Ok(entries) => {
                for (next, (ino, kind, name)) in (1..).zip(entries).skip(offset as usize) {
                    if reply.add(ino, next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 28;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, PAGE as u32, 255, PAGE as u32);
    }
}
