//! The threads that wait for the disk, so that nothing else does.
//!
//! One writer takes whatever jobs lie there, merges them ([`replica::absorb`]) and commits them as one batch with at
//! most one fsync: group commit without a timer. Because it is alone, one key never has two merges in flight. Readers
//! take what lies there as well. Results go back to the pump in groups.
//!
//! Code of keyspaces that may take its time runs here and not on the pump, which it would hold up: operations on data
//! types on the writer's thread, between the record that it reads and the one that it writes, and what is asked for
//! readers, questions to data types and siblings to be merged, on a thread of its own.

mod scrub;

use crate::metrics::Metrics;
use crate::plugins::Shadows;
use crate::pump::Event;
use mks_logic::digest::{DigestTable, Digests, HoldsDigests};
use mks_logic::event::{
    AskJob, HintJob, HintOutcome, HintWork, JobId, MoveJob, MoveOutcome, ReadJob, ScrubJob, SealJob, SealOutcome, Told,
    WriteJob,
};
use mks_logic::exchange;
use mks_logic::hint;
use mks_logic::id::KeyspaceId;
use mks_logic::message::{ReadOutcome, Refused, Want, WriteOutcome};
use mks_logic::mint::Mints;
use mks_logic::moves;
use mks_logic::outline::{Outline, OutlineTable, Outlines};
use mks_logic::port::{DataTypes, Resolve, Store, StoreError, Table};
use mks_logic::purge;
use mks_logic::replica::{self, Ports};
use mks_logic::sync;
use std::collections::VecDeque;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc;

/// What the writer does.
#[derive(Debug)]
enum Work {
    Write(WriteJob),
    Hint(HintJob),
    Scrub(ScrubJob),
    Move(MoveJob),
    Seal(SealJob),
}

impl Work {
    fn value_bytes(&self) -> usize {
        let version = match self {
            // What it becomes is about as large as what was read.
            Self::Write(WriteJob { apply: Some(apply), .. }) => {
                return apply.seen.iter().filter_map(|v| v.value.as_ref()).map(bytes::Bytes::len).sum();
            }
            Self::Write(job) => &job.version,
            Self::Hint(HintJob { work: HintWork::Keep(hint, _), .. }) => &hint.version,
            Self::Hint(_) | Self::Scrub(_) | Self::Move(_) | Self::Seal(_) => return 0,
        };
        version.value.as_ref().map_or(0, bytes::Bytes::len)
    }
}

/// Jobs that one commit takes at most.
const GROUP_JOBS_MAX: usize = 512;
/// Bytes of values after which a commit takes no further job.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Reads that one answer to the pump carries at most.
const GROUP_READS_MAX: usize = 64;
/// Reads that go to one reader together: few enough that the others get their share of a large turn.
const HANDED_READS_MAX: usize = 16;

/// What is read although no client asked for it.
#[derive(Debug)]
enum Look {
    /// What a comparison wants to know.
    Compare(JobId, exchange::Work),
    /// Whether the disk holds what was written.
    Scrub(ScrubJob),
}

/// What the threads work with.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "made of trait objects")]
pub struct DiskParts {
    /// The engine.
    pub store: Arc<dyn Store>,
    /// Settles conflicts.
    pub resolve: Arc<dyn Resolve>,
    /// Changes states of data types.
    pub types: Arc<dyn DataTypes>,
    /// Q = 2^bits.
    pub partition_bits: u8,
    /// Group sizes are counted here.
    pub metrics: Arc<Metrics>,
    /// What is remembered of the records.
    pub outlines: Arc<dyn Outlines>,
    /// Sums over the records.
    pub digests: Arc<dyn Digests>,
    /// Names for new writes of causal keyspaces.
    pub mints: Arc<Mints>,
    /// Who is asked about conflicts beside those who settle them, once they are settled.
    pub shadows: Arc<Shadows>,
    /// Bytes of what is found for one message of a comparison, about.
    pub sync_message_bytes_max: usize,
    /// Where results go.
    pub events: mpsc::Sender<Event>,
}

impl DiskParts {
    fn ports(&self) -> Ports<'_> {
        Ports {
            store: &*self.store,
            outlines: &*self.outlines,
            digests: &*self.digests,
            mints: &self.mints,
            resolve: &*self.resolve,
            types: &*self.types,
            partition_bits: self.partition_bits,
        }
    }
}

/// The queues in front of the threads. The pump bounds what it puts in: see `disk_jobs_max`.
///
/// Jobs gather until [`Disk::hand_over`]: a thread that is woken for each one costs more than the job.
#[expect(missing_debug_implementations, reason = "made of trait objects")]
pub struct Disk {
    outlines: Arc<dyn Outlines>,
    partition_bits: u8,
    gathered: Vec<Work>,
    gathered_reads: Vec<ReadJob>,
    writes: Option<Sender<Vec<Work>>>,
    reads: Option<Sender<Vec<ReadJob>>>,
    looks: Option<Sender<Look>>,
    asks: Option<Sender<AskJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl Disk {
    /// Starts one writer, `readers` readers, one more reader for comparisons with other owners and for scrubbing, and a
    /// thread that asks code for readers.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(parts: &DiskParts, readers: usize) -> std::io::Result<Self> {
        let (writes, write_queue) = channel();
        let (reads, read_queue) = channel();
        let mut threads = Vec::new();
        let writer = parts.clone();
        threads
            .push(thread::Builder::new().name("mks-writer".into()).spawn(move || write_jobs(&writer, &write_queue))?);
        let read_queue = Arc::new(Mutex::new(read_queue));
        for i in 0..readers.max(1) {
            let (parts, queue) = (parts.clone(), Arc::clone(&read_queue));
            let name = format!("mks-reader-{i}");
            threads.push(thread::Builder::new().name(name).spawn(move || read_jobs(&parts, &queue))?);
        }
        let (looks, look_queue) = channel();
        let looker = parts.clone();
        let look = move || look_jobs(&looker, &look_queue);
        threads.push(thread::Builder::new().name("mks-comparer".into()).spawn(look)?);
        let (asks, ask_queue) = channel();
        let asker = parts.clone();
        let ask = move || ask_jobs(&asker, &ask_queue);
        threads.push(thread::Builder::new().name("mks-asker".into()).spawn(ask)?);
        let (outlines, partition_bits) = (Arc::clone(&parts.outlines), parts.partition_bits);
        let (writes, reads, looks, asks) = (Some(writes), Some(reads), Some(looks), Some(asks));
        let (gathered, gathered_reads) = (Vec::new(), Vec::new());
        Ok(Self { outlines, partition_bits, gathered, gathered_reads, writes, reads, looks, asks, threads })
    }

    /// Gathers a write.
    pub fn write(&mut self, job: WriteJob) {
        self.gathered.push(Work::Write(job));
    }

    /// Gathers work on the hints. It is done in the order in which it is given.
    pub fn hint(&mut self, job: HintJob) {
        self.gathered.push(Work::Hint(job));
    }

    /// Gives what has gathered to the threads.
    pub fn hand_over(&mut self) {
        // A send fails only when the thread is gone, at the end of the process.
        if let Some(queue) = self.writes.as_ref().filter(|_| !self.gathered.is_empty()) {
            drop(queue.send(mem::take(&mut self.gathered)));
        }
        while let Some(queue) = self.reads.as_ref().filter(|_| !self.gathered_reads.is_empty()) {
            let rest = self.gathered_reads.split_off(self.gathered_reads.len().min(HANDED_READS_MAX));
            drop(queue.send(mem::replace(&mut self.gathered_reads, rest)));
        }
    }

    /// Gathers a read, or answers it at once where it takes no disk: two threads need not wake up for a digest that is
    /// remembered.
    #[must_use]
    pub fn read(&mut self, job: ReadJob) -> Option<(JobId, ReadOutcome)> {
        if job.want == Want::Digest
            && let Some(outcome) = replica::remembered(&*self.outlines, &job.key, self.partition_bits)
        {
            return Some((job.job, outcome));
        }
        self.gathered_reads.push(job);
        None
    }

    /// Queues a look for a comparison. Clients' reads never wait for it.
    pub fn compare(&self, job: JobId, work: exchange::Work) {
        self.look(Look::Compare(job, work));
    }

    /// Queues a part of a scrub: a look waits for nobody and nobody for it, what it suspects is the writer's.
    pub fn scrub(&mut self, job: ScrubJob) {
        if job.work.is_for_the_writer() {
            self.gathered.push(Work::Scrub(job));
        } else {
            self.look(Look::Scrub(job));
        }
    }

    /// Queues a question to the code of a keyspace.
    pub fn ask(&self, job: AskJob) {
        if let Some(queue) = &self.asks {
            drop(queue.send(job));
        }
    }

    /// Gathers work for partitions that move. Nothing that it removes is written meanwhile.
    pub fn moves(&mut self, job: MoveJob) {
        self.gathered.push(Work::Move(job));
    }

    /// Gathers work for seals. It is done after what was gathered before it.
    pub fn seals(&mut self, job: SealJob) {
        self.gathered.push(Work::Seal(job));
    }

    fn look(&self, look: Look) {
        if let Some(queue) = &self.looks {
            drop(queue.send(look));
        }
    }

    /// Lets the threads finish what is queued, and waits for them. Blocks.
    pub fn stop(mut self) {
        self.hand_over();
        self.writes = None;
        self.reads = None;
        self.looks = None;
        self.asks = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn write_jobs(parts: &DiskParts, queue: &Receiver<Vec<Work>>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(handed) = queue.recv() else { return };
            waiting.extend(handed);
        }
        waiting.extend(queue.try_iter().flatten());
        let (mut jobs, mut bytes) = (0, 0);
        let (mut writes, mut hints, mut scrubs) = (Vec::new(), Vec::new(), Vec::new());
        let (mut moves, mut seals) = (Vec::new(), Vec::new());
        while jobs < GROUP_JOBS_MAX && bytes < GROUP_BYTES_MAX {
            let Some(work) = waiting.pop_front() else { break };
            jobs += 1;
            bytes += work.value_bytes();
            match work {
                Work::Write(job) => writes.push(job),
                Work::Hint(job) => hints.push(job),
                Work::Scrub(job) => scrubs.push(job),
                Work::Move(job) => moves.push(job),
                Work::Seal(job) => seals.push(job),
            }
        }
        // Somebody waits for the writes; for hints only where a sloppy write counts on them; for the rest nobody.
        let scrub = |parts: &DiskParts| scrubs.into_iter().all(|job| scrub::job(parts, job));
        // Last, so that a flush covers all of them.
        let moves = |parts: &DiskParts| moves.into_iter().all(|job| move_job(parts, job));
        let seals = |parts: &DiskParts| seals.into_iter().all(|job| seal_job(parts, job));
        if !(commit(parts, &writes) && settle_hints(parts, &hints) && scrub(parts) && moves(parts) && seals(parts)) {
            return;
        }
    }
}

/// Commits a group of writes and says what came of it. False when there is nobody to tell, or nothing to go on with.
fn commit(parts: &DiskParts, group: &[WriteJob]) -> bool {
    if group.is_empty() {
        return true;
    }
    let (outcomes, figures, trials) = replica::absorb_shadowed(parts.ports(), group, &parts.shadows.settings());
    parts.metrics.commit(group.len() as u64);
    if figures.unsettled > 0 {
        tracing::warn!(
            siblings_kept = figures.unsettled,
            "a resolver gave no verdict; every version was kept, reads show them as siblings"
        );
    }
    let damaged = |outcome: &WriteOutcome| *outcome == WriteOutcome::Refused(Refused::DamagedRecord);
    if !scrub::met(parts, group.iter().zip(&outcomes).filter(|(_, o)| damaged(o)).map(|(job, _)| &job.key)) {
        return false;
    }
    let failed = outcomes.contains(&WriteOutcome::Refused(Refused::Store));
    let told = tell(parts, Event::Written(group.iter().map(|job| job.job).zip(outcomes).collect()), failed);
    parts.shadows.offer(trials);
    told
}

/// Says what came of work, and where the store `failed` in it, whether it has given up for good. False when there is
/// nobody to tell, or nothing to go on with.
fn tell(parts: &DiskParts, event: Event, failed: bool) -> bool {
    let broken = failed.then(|| fatal(&*parts.store)).flatten();
    if parts.events.blocking_send(event).is_err() {
        return false;
    }
    broken.is_none_or(|reason| {
        // Nobody reads the queue any more once this is said: the node stops.
        drop(parts.events.blocking_send(Event::StoreBroken(reason)));
        false
    })
}

/// The same for work on the hints. What the store can't do is the logic's business, unless it can't go on.
fn settle_hints(parts: &DiskParts, jobs: &[HintJob]) -> bool {
    if jobs.is_empty() {
        return true;
    }
    let outcomes = hint::work(&*parts.store, jobs);
    let failed = outcomes.contains(&HintOutcome::Refused(Refused::Store));
    tell(parts, Event::Hinted(jobs.iter().map(|job| job.job).zip(outcomes).collect()), failed)
}

/// The same for partitions that move.
fn move_job(parts: &DiskParts, MoveJob { job, work }: MoveJob) -> bool {
    let outcome = moves::work(parts.ports(), &work);
    let failed = outcome == MoveOutcome::Failed;
    tell(parts, Event::Moved(job, outcome), failed)
}

/// The same for seals.
fn seal_job(parts: &DiskParts, SealJob { job, work }: SealJob) -> bool {
    let outcome = purge::work(parts.ports(), &work);
    let failed = outcome == SealOutcome::Failed;
    tell(parts, Event::Sealed(job, outcome), failed)
}

/// The reason, if the store has given up for good.
fn fatal(store: &dyn Store) -> Option<String> {
    match store.get(Table::Meta, b"alive") {
        Err(error @ StoreError::Fatal(_)) => Some(error.to_string()),
        _ => None,
    }
}

fn read_jobs(parts: &DiskParts, queue: &Mutex<Receiver<Vec<ReadJob>>>) {
    let mut group = Vec::new();
    loop {
        {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(handed) = queue.recv() else { return };
            group.extend(handed);
            while group.len() + HANDED_READS_MAX <= GROUP_READS_MAX {
                let Ok(handed) = queue.try_recv() else { break };
                group.extend(handed);
            }
        }
        let done: Vec<(JobId, ReadOutcome)> =
            group.iter().map(|job| (job.job, replica::find(parts.ports(), &job.key, job.want))).collect();
        let refused = |refused: Refused| {
            let all = group.iter().zip(&done);
            all.filter(move |(_, (_, outcome))| *outcome == ReadOutcome::Refused(refused)).map(|(job, _)| &job.key)
        };
        let failed = refused(Refused::Store).count();
        if failed > 0 {
            tracing::error!(failed, "records could not be read; they are not served from this node");
        }
        if !scrub::met(parts, refused(Refused::DamagedRecord)) {
            return;
        }
        group.clear();
        if parts.events.blocking_send(Event::Found(done)).is_err() {
            return;
        }
    }
}

fn ask_jobs(parts: &DiskParts, queue: &Receiver<AskJob>) {
    while let Ok(job) = queue.recv() {
        let told = job.ask(&*parts.types, &*parts.resolve);
        if let Told::Merge(Err(error)) = &told {
            tracing::debug!(code = ?job.code, %error, "siblings were not merged; their reader gets all of them");
        }
        let shown = parts.shadows.settings().contains_key(&job.key.keyspace).then(|| told.clone());
        if parts.events.blocking_send(Event::Told(job.job, told)).is_err() {
            return;
        }
        if let Some(shown) = shown {
            parts.shadows.offer_read(&job, &shown);
        }
    }
}

fn look_jobs(parts: &DiskParts, queue: &Receiver<Look>) {
    while let Ok(look) = queue.recv() {
        let goes_on = match look {
            Look::Compare(job, work) => {
                let found = sync::found(parts.ports(), &work, parts.sync_message_bytes_max);
                parts.events.blocking_send(Event::Compared(job, found)).is_ok()
            }
            Look::Scrub(job) => scrub::job(parts, job),
        };
        if !goes_on {
            return;
        }
    }
}

/// [`OutlineTable`], shared between the threads. The lock is never held across a disk access.
#[derive(Debug)]
pub struct SharedOutlines(Mutex<OutlineTable>);

impl SharedOutlines {
    /// Room for 2^bits outlines.
    #[must_use]
    pub fn new(bits: u8) -> Self {
        Self(Mutex::new(OutlineTable::new(bits)))
    }

    fn table(&self) -> MutexGuard<'_, OutlineTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlines for SharedOutlines {
    fn get(&self, key: &[u8]) -> Option<Outline> {
        self.table().get(key).cloned()
    }

    fn put(&self, key: &[u8], outline: Outline) {
        self.table().put(key, outline);
    }

    fn forget(&self, key: &[u8]) {
        self.table().forget(key);
    }

    fn forget_under(&self, prefix: &[u8]) {
        self.table().forget_under(prefix);
    }
}

/// [`DigestTable`], shared between the threads. The lock is never held across a disk access.
#[derive(Debug)]
pub struct SharedDigests(Mutex<DigestTable>);

impl SharedDigests {
    /// Shares `table`.
    #[must_use]
    pub const fn new(table: DigestTable) -> Self {
        Self(Mutex::new(table))
    }

    /// See [`DigestTable::learn`].
    pub fn learn(&self, keyspaces: impl IntoIterator<Item = (KeyspaceId, u8)>) {
        self.with_digests(|table| table.learn(keyspaces));
    }
}

impl HoldsDigests for SharedDigests {
    fn with_digests<T>(&self, work: impl FnOnce(&mut DigestTable) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
