//! Candidates that shadow the resolvers of keyspaces, on this node: asked on a thread of their own, behind a queue that
//! nobody waits for.
//!
//! The thread is there while anything shadows. It takes half of a core at most, and asks a candidate that has failed
//! only once a second: an endless loop must not take the time of clients.

use crate::clock::wall_ms;
use arc_swap::ArcSwap;
use mks_logic::cluster::{Shadows as Settings, State};
use mks_logic::event::{AskJob, Question, Told};
use mks_logic::id::KeyspaceId;
use mks_logic::port::{Resolve, ResolverHash};
use mks_logic::shadow::{Book, Page, Trial};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Trials that wait at most; each is of one commit, or of one read.
const TRIALS_MAX: usize = 16;
/// Bytes that they hold at most: a read may have shown megabytes.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// A candidate that has failed is left alone for so long.
const REST: Duration = Duration::from_secs(1);

/// See the [module](self).
#[expect(missing_debug_implementations, reason = "made of what runs")]
pub struct Shadows {
    resolve: Arc<dyn Resolve>,
    settings: ArcSwap<Settings>,
    /// `None`: nothing shadows.
    queue: Mutex<Option<SyncSender<Trial>>>,
    desk: Arc<Desk>,
}

/// What the thread shares.
#[derive(Default)]
struct Desk {
    book: Mutex<Book>,
    waiting_bytes: AtomicUsize,
}

impl Desk {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shadows {
    /// `resolve` asks candidates, and holds nothing against them.
    #[must_use]
    pub fn new(resolve: Arc<dyn Resolve>) -> Self {
        Self { resolve, settings: ArcSwap::default(), queue: Mutex::default(), desk: Arc::default() }
    }

    /// What shadows what from now on.
    pub fn learn(&self, state: &State) {
        let settings = state.shadowed();
        if settings == **self.settings.load() {
            return;
        }
        self.desk.book().turn(&settings);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        *queue = match (queue.take(), settings.is_empty()) {
            (_, true) => None,
            (Some(queue), false) => Some(queue),
            (None, false) => self.start(),
        };
        drop(queue);
        self.settings.store(Arc::new(settings));
    }

    /// What shadows what.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Queues trials, or writes down that there was no time for them.
    pub fn offer(&self, trials: Vec<Trial>) {
        for trial in trials {
            if let Some(trial) = self.refused(trial) {
                self.desk.book().pass_over(&trial);
            }
        }
    }

    /// Queues what a reader was shown, if somebody shall be asked about it too.
    pub fn offer_read(&self, job: &AskJob, told: &Told) {
        let settings = self.settings.load();
        if let (Question::Merge(siblings), Told::Merge(Ok(merged))) = (&job.question, told)
            && let Some(trial) = Trial::at_read(&settings, job.code, &job.key, siblings, merged)
        {
            self.offer(vec![trial]);
        }
    }

    /// What is known of the candidate of one keyspace.
    #[must_use]
    pub fn page(&self, keyspace: KeyspaceId) -> Option<Page> {
        self.desk.book().of(keyspace).cloned()
    }

    /// Gives back what does not fit.
    fn refused(&self, trial: Trial) -> Option<Trial> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(queue), bytes) = (&*queue, trial.bytes()) else { return Some(trial) };
        if self.desk.waiting_bytes.load(Relaxed) + bytes > WAITING_BYTES_MAX {
            return Some(trial);
        }
        self.desk.waiting_bytes.fetch_add(bytes, Relaxed);
        let refused = queue.try_send(trial).err()?;
        self.desk.waiting_bytes.fetch_sub(bytes, Relaxed);
        Some(match refused {
            std::sync::mpsc::TrySendError::Full(trial) | std::sync::mpsc::TrySendError::Disconnected(trial) => trial,
        })
    }

    fn start(&self) -> Option<SyncSender<Trial>> {
        let (sender, queue) = sync_channel(TRIALS_MAX);
        let (resolve, desk) = (Arc::clone(&self.resolve), Arc::clone(&self.desk));
        let thread = thread::Builder::new().name("mks-shadow".into()).spawn(move || run(&*resolve, &desk, &queue));
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for shadow runs: none is asked"));
        thread.ok().map(|_| sender)
    }
}

/// Until the queue is gone.
fn run(resolve: &dyn Resolve, desk: &Desk, queue: &Receiver<Trial>) {
    let mut resting: BTreeMap<ResolverHash, Instant> = BTreeMap::new();
    while let Ok(trial) = queue.recv() {
        desk.waiting_bytes.fetch_sub(trial.bytes(), Relaxed);
        let (candidate, begin) = (trial.shadow.candidate, Instant::now());
        resting.retain(|_, until| *until > begin);
        if resting.contains_key(&candidate) || !resolve.has(candidate) {
            desk.book().pass_over(&trial);
            continue;
        }
        let findings = trial.run(resolve);
        let took = begin.elapsed();
        if let Some(error) = &findings.failure {
            tracing::debug!(?candidate, %error, "a candidate failed; nothing depends on it");
            resting.insert(candidate, Instant::now() + REST);
        }
        desk.book().note(&trial, findings, wall_ms());
        thread::sleep(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::cluster::Shadow;
    use mks_logic::event::JobId;
    use mks_logic::id::{Dot, Incarnation, Key, NodeId};
    use mks_logic::port::{Columns, Merged, ResolveError, Siblings, Verdict};
    use std::sync::atomic::{AtomicBool, AtomicU64};

    const KEYSPACE: KeyspaceId = KeyspaceId(1);
    const ACTIVE: ResolverHash = ResolverHash([1; 32]);
    const CANDIDATE: ResolverHash = ResolverHash([2; 32]);

    /// A candidate that waits until it may go on, and then keeps the first version or fails.
    #[derive(Default)]
    struct Candidate {
        may_answer: AtomicBool,
        fails: AtomicBool,
        asked: AtomicU64,
    }

    impl Resolve for Candidate {
        fn settle(&self, _: ResolverHash, _: &Columns) -> Result<Vec<Verdict>, ResolveError> {
            Err(ResolveError::Failed("nobody asks that here".into()))
        }

        fn has(&self, _: ResolverHash) -> bool {
            true
        }

        fn merge(&self, hash: ResolverHash, _: &Siblings) -> Result<Merged, ResolveError> {
            assert_eq!(hash, CANDIDATE);
            self.asked.fetch_add(1, Relaxed);
            while !self.may_answer.load(Relaxed) {
                thread::yield_now();
            }
            let fails = self.fails.load(Relaxed);
            if fails { Err(ResolveError::Failed("it was told to".into())) } else { Ok(Merged::Kept(vec![0])) }
        }
    }

    fn shadows(candidate: &Arc<Candidate>) -> Shadows {
        let shadows = Shadows::new(Arc::clone(candidate) as _);
        let settings = Settings::from([(KEYSPACE, Shadow { active: ACTIVE, candidate: CANDIDATE, runs: true })]);
        shadows.desk.book().turn(&settings);
        *shadows.queue.lock().unwrap() = shadows.start();
        shadows.settings.store(Arc::new(settings));
        shadows
    }

    fn read(shadows: &Shadows, code: ResolverHash, merged: Merged) {
        let mut versions = Columns::default();
        (0..2).for_each(|n| {
            versions.row(Dot { node: NodeId(n), incarnation: Incarnation(1), counter: 1 }, n, 1, false, n)
        });
        versions.close();
        let siblings = Siblings { key: "k".into(), versions, values: vec!["a".into(), "b".into()] };
        let key = Key { keyspace: KEYSPACE, partition_key: "k".into(), sort_key: "".into() };
        let job = AskJob { job: JobId(1), key, code, question: Question::Merge(siblings) };
        shadows.offer_read(&job, &Told::Merge(Ok(merged)));
    }

    fn figures(shadows: &Shadows) -> mks_logic::shadow::Figures {
        shadows.page(KEYSPACE).unwrap().figures
    }

    fn until(what: impl Fn() -> bool) {
        let begin = Instant::now();
        while !what() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it does not happen");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn nobody_waits_for_a_candidate_and_what_does_not_fit_is_counted() {
        let candidate = Arc::new(Candidate::default());
        let shadows = shadows(&candidate);
        read(&shadows, CANDIDATE, Merged::Kept(vec![1]));
        assert_eq!(figures(&shadows), mks_logic::shadow::Figures::default(), "the resolver has changed");
        read(&shadows, ACTIVE, Merged::Kept(vec![1]));
        until(|| candidate.asked.load(Relaxed) == 1);
        (0..TRIALS_MAX + 3).for_each(|_| read(&shadows, ACTIVE, Merged::Kept(vec![0])));
        assert_eq!(figures(&shadows).dropped, 3);
        candidate.may_answer.store(true, Relaxed);
        until(|| figures(&shadows).conflicts == 1 + TRIALS_MAX as u64);
        assert_eq!((figures(&shadows).differs, figures(&shadows).failures), (1, 0));
        assert_eq!(shadows.desk.waiting_bytes.load(Relaxed), 0);
        read(&shadows, ACTIVE, Merged::Value(vec![0; WAITING_BYTES_MAX].into()));
        assert_eq!(figures(&shadows).dropped, 4, "nor what is too large");
    }

    #[test]
    fn a_candidate_that_fails_is_left_alone_for_a_while() {
        let candidate = Arc::new(Candidate::default());
        candidate.fails.store(true, Relaxed);
        candidate.may_answer.store(true, Relaxed);
        let shadows = shadows(&candidate);
        for _ in 0..10 {
            read(&shadows, ACTIVE, Merged::Kept(vec![1]));
        }
        until(|| figures(&shadows).conflicts + figures(&shadows).dropped == 10);
        let now = figures(&shadows);
        assert!(now.failures == now.conflicts && now.conflicts <= 2 && now.differs == 0, "{now:?}");
        assert!(shadows.page(KEYSPACE).unwrap().failure.unwrap().contains("it was told to"));
    }

    #[test]
    fn the_thread_goes_with_the_last_shadow() {
        let candidate = Arc::new(Candidate::default());
        let shadows = shadows(&candidate);
        assert_eq!(Arc::strong_count(&candidate), 3, "the thread has one");
        shadows.learn(&State::default());
        until(|| Arc::strong_count(&candidate) == 2);
        read(&shadows, ACTIVE, Merged::Kept(vec![1]));
        assert!(shadows.page(KEYSPACE).is_none() && shadows.settings().is_empty());
    }
}
