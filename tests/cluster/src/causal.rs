//! What clients of a causal keyspace did and saw, and what must be true of it.
//!
//! A written value stays until a write that has seen it takes its place, and then that one stays in turn: so whatever
//! is not shown must be *accounted for*, by a chain of writes each of which has seen the one before, up to one that is
//! shown or to a delete. The rules are of the outside, like those of [`crate::history`]: unique values, times, and what
//! a writer had been shown. They know nothing of dots.

use crate::client::{Client, Failure, get_request, key, put_request};
use crate::cluster::Cluster;
use bytes::Bytes;
use mks_proto::v1::{DeleteRequest, GetRequest, ReadOptions, WriteOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A request must be answered by then, one way or the other.
const DEADLINE_MS: u64 = 1_000;
/// Bound of one worker's requests.
const OPERATIONS_MAX: usize = 100_000;
/// A client that was shown so many siblings writes with their context: a key may have 64 of them.
const SIBLINGS_ENOUGH: usize = 8;

/// One write: when it was under way, what it wrote (`None`: a delete), and the values that its context had been shown.
/// Where it was not acknowledged, nobody knows whether it happened, or will.
#[derive(Clone, Debug)]
pub struct CausalWrite {
    /// When it began.
    pub begun: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// What it wrote; no two writes write the same.
    pub value: Option<String>,
    /// What its writer had seen, and takes the place of.
    pub seen: BTreeSet<String>,
    /// Whether it was answered OK.
    pub acknowledged: bool,
}

/// One answered read.
#[derive(Clone, Debug)]
pub struct CausalRead {
    /// When it began.
    pub begun: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// All siblings, in the order of the answer.
    pub shown: Vec<String>,
}

/// All that happened to one key.
#[derive(Clone, Debug, Default)]
pub struct CausalStory {
    /// In no order.
    pub writes: Vec<CausalWrite>,
    /// In no order.
    pub reads: Vec<CausalRead>,
}

/// What clients did, key by key.
#[derive(Clone, Debug, Default)]
pub struct CausalHistory {
    /// By key.
    pub stories: BTreeMap<String, CausalStory>,
    /// Failed requests: when they began, through which of the clients, and why.
    pub failures: Vec<(Instant, usize, String)>,
}

/// The siblings that one owner holds, by key; a key without any is left out.
pub type Siblings = BTreeMap<String, BTreeSet<String>>;

impl CausalStory {
    /// The values that are shown, or whose place was taken by what is shown or by a delete, among writes that began
    /// before `by`.
    fn accounted<'a>(&'a self, shown: &BTreeSet<&'a str>, by: Option<Instant>) -> BTreeSet<&'a str> {
        let began = |write: &&CausalWrite| by.is_none_or(|by| write.begun < by);
        let mut accounted = shown.clone();
        let stands = |write: &CausalWrite, accounted: &BTreeSet<&str>| match &write.value {
            Some(value) => accounted.contains(value.as_str()),
            None => true,
        };
        let (mut left, mut before): (Vec<_>, usize) = (self.writes.iter().filter(began).collect(), usize::MAX);
        while left.len() < before {
            before = left.len();
            left.retain(|write| {
                let stands = stands(write, &accounted);
                if stands {
                    accounted.extend(write.seen.iter().map(String::as_str));
                }
                !stands
            });
        }
        accounted
    }

    /// Whether exactly `shown` may be there. All of `certain` happened before; what began `by` then may have happened
    /// too.
    fn allows(&self, shown: &[String], certain: &[&CausalWrite], by: Option<Instant>) -> Result<(), String> {
        let distinct: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
        if distinct.len() < shown.len() {
            return Err("a value is there twice".to_owned());
        }
        for value in &distinct {
            match self.writes.iter().find(|write| write.value.as_deref() == Some(value)) {
                None => return Err(format!("{value:?} was never written")),
                Some(write) if by.is_some_and(|by| write.begun > by) => {
                    return Err(format!("{write:?} is there before it was asked for"));
                }
                Some(_) => {}
            }
            if let Some(write) = certain.iter().find(|write| write.seen.contains(*value)) {
                return Err(format!("{value:?} is back: {write:?} took its place"));
            }
        }
        let accounted = self.accounted(&distinct, by);
        let is_lost = |write: &&&CausalWrite| write.value.as_ref().is_some_and(|v| !accounted.contains(v.as_str()));
        match certain.iter().find(is_lost) {
            Some(write) => Err(format!("{write:?} is gone, and nothing that saw it is there")),
            None => Ok(()),
        }
    }

    /// A quorum read shows what was acknowledged before it began, or what took its place.
    fn check(&self) -> Result<(), String> {
        for read in &self.reads {
            let over = |write: &&CausalWrite| write.acknowledged && write.ended < read.begun;
            let certain: Vec<_> = self.writes.iter().filter(over).collect();
            self.allows(&read.shown, &certain, Some(read.ended)).map_err(|why| format!("{read:?}: {why}"))?;
        }
        Ok(())
    }

    /// In the end whatever was acknowledged, or shown to anybody, has happened.
    fn check_end(&self, shown: &BTreeSet<String>) -> Result<(), String> {
        let read = self.reads.iter().flat_map(|read| &read.shown);
        // Also what was shown to a writer, in whatever way.
        let known: BTreeSet<&String> =
            read.chain(self.writes.iter().flat_map(|write| &write.seen)).chain(shown).collect();
        let happened = |write: &&CausalWrite| {
            write.acknowledged || write.value.as_ref().is_some_and(|value| known.contains(value))
        };
        let certain: Vec<_> = self.writes.iter().filter(happened).collect();
        let shown: Vec<String> = shown.iter().cloned().collect();
        self.allows(&shown, &certain, None).map_err(|why| format!("at the end {shown:?}: {why}"))
    }
}

impl CausalHistory {
    /// Checks every read made with R + W > N.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn check(&self) -> Result<(), String> {
        self.stories.iter().try_for_each(|(name, story)| story.check().map_err(|why| format!("{name}: {why}")))
    }

    /// Checks what every owner holds at the end: the same, every write or what took its place, and nothing whose place
    /// was taken.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn check_end(&self, owners: &[Siblings]) -> Result<(), String> {
        let nothing = BTreeSet::new();
        for (name, story) in &self.stories {
            let held: Vec<_> = owners.iter().map(|owner| owner.get(name).unwrap_or(&nothing)).collect();
            if held.iter().any(|other| *other != held[0]) {
                return Err(format!("{name}: owners hold {held:?}"));
            }
            story.check_end(held[0]).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
    }

    /// Acknowledged writes that began in a span of time.
    #[must_use]
    pub fn acknowledged_between(&self, from: Instant, to: Instant) -> usize {
        let writes = self.stories.values().flat_map(|story| &story.writes);
        writes.filter(|write| write.acknowledged && (from..to).contains(&write.begun)).count()
    }

    fn merge(&mut self, other: Self) {
        for (name, story) in other.stories {
            let own = self.stories.entry(name).or_default();
            own.writes.extend(story.writes);
            own.reads.extend(story.reads);
        }
        self.failures.extend(other.failures);
    }

    /// Waits until the nodes behind `clients`, which own every key, hold the same, and checks that and all before it.
    ///
    /// # Panics
    /// When they never do, or hold what must not be.
    pub async fn assert_settled(&self, cluster: &Cluster, clients: &[Client], keyspace: &str) {
        self.check().unwrap_or_else(|why| panic!("{why}"));
        let all = async || {
            let mut held = Vec::new();
            for client in clients {
                held.push(siblings(client, keyspace, self.stories.keys()).await?);
            }
            Ok::<_, Failure>(held)
        };
        cluster
            .eventually("all owners hold the same siblings", async |_| {
                all().await.is_ok_and(|held| held.iter().all(|other| *other == held[0]))
            })
            .await;
        let held = all().await.unwrap_or_else(|failure| panic!("{failure:?}"));
        self.check_end(&held).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// What a node's own disk holds of these keys.
async fn siblings(
    client: &Client,
    keyspace: &str,
    names: impl IntoIterator<Item = &String>,
) -> Result<Siblings, Failure> {
    let mut held = Siblings::new();
    for name in names {
        let options = ReadOptions { r: Some(1), deadline_ms: Some(5_000), ..ReadOptions::default() };
        let request = GetRequest { options: Some(options), ..get_request(key(keyspace, name.clone())) };
        let (shown, _) = client.get_siblings(request).await?;
        if !shown.is_empty() {
            held.insert(name.clone(), shown.into_iter().collect());
        }
    }
    Ok(held)
}

/// Clients that read, write and delete the same few keys of a causal keyspace at the same time: with the context of
/// what they saw last, which may be long ago, or sometimes without any.
#[derive(Debug)]
pub struct Carts {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<CausalHistory>>,
}

impl Carts {
    /// Starts `workers` for each client, on `keys` keys. Needs a runtime with more than one thread.
    #[must_use]
    pub fn start(clients: &[Client], keyspace: &str, workers: usize, keys: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let spawn = |number: usize| {
            let at = number % clients.len();
            let worker = Worker {
                client: clients[at].clone(),
                at,
                keyspace: keyspace.to_owned(),
                number: number as u64,
                count: Arc::clone(&count),
                known: BTreeMap::new(),
                history: CausalHistory::default(),
            };
            tokio::spawn(worker.work(keys, Arc::clone(&stop)))
        };
        let workers = (0..workers * clients.len()).map(spawn).collect();
        Self { stop, workers }
    }

    /// Lets requests under way end, and sums up.
    ///
    /// # Panics
    /// When a worker did.
    pub async fn stop(self) -> CausalHistory {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = CausalHistory::default();
        for worker in self.workers {
            history.merge(worker.await.expect("a worker only remembers"));
        }
        history
    }
}

/// What a worker knows of a key: the values that it was shown, and the context that stands for them.
#[derive(Clone, Debug, Default)]
struct Known {
    seen: BTreeSet<String>,
    context: Bytes,
}

struct Worker {
    client: Client,
    at: usize,
    keyspace: String,
    number: u64,
    count: Arc<AtomicU64>,
    known: BTreeMap<String, Known>,
    history: CausalHistory,
}

impl Worker {
    async fn work(mut self, keys: u64, stop: Arc<AtomicBool>) -> CausalHistory {
        let mut dice = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for _ in 0..OPERATIONS_MAX {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let name = format!("cart-{}", (dice >> 32) % keys);
            let known = self.known.get(&name).cloned().unwrap_or_default();
            let begun = Instant::now();
            let done = match dice % 20 {
                // Who has not looked yet has nothing to delete.
                0..9 => self.read(name, begun).await,
                9..12 if !known.context.is_empty() => self.write(name, known, false, begun).await,
                12..14 if known.seen.len() < SIBLINGS_ENOUGH => self.write(name, Known::default(), true, begun).await,
                _ => self.write(name, known, true, begun).await,
            };
            if let Err(failure) = done {
                self.history.failures.push((begun, self.at, format!("{failure:?}")));
                // A client that fails at once would otherwise spin.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.history
    }

    async fn read(&mut self, name: String, begun: Instant) -> Result<(), Failure> {
        let options = ReadOptions { deadline_ms: Some(DEADLINE_MS), ..ReadOptions::default() };
        let request = GetRequest { options: Some(options), ..get_request(key(&self.keyspace, name.clone())) };
        let (shown, context) = self.client.get_siblings(request).await?;
        self.known.insert(name.clone(), Known { seen: shown.iter().cloned().collect(), context });
        let read = CausalRead { begun, ended: Instant::now(), shown };
        self.history.stories.entry(name).or_default().reads.push(read);
        Ok(())
    }

    /// Puts a new value, or deletes, in the place of what is `known`.
    async fn write(&mut self, name: String, known: Known, puts: bool, begun: Instant) -> Result<(), Failure> {
        let value = puts.then(|| format!("{}-{}", self.number, self.count.fetch_add(1, Ordering::Relaxed)));
        let Known { mut seen, context } = known;
        let options = WriteOptions { deadline_ms: Some(DEADLINE_MS), context, ..WriteOptions::default() };
        let key = key(&self.keyspace, name.clone());
        let done = match value.clone() {
            Some(value) => {
                let mut request = put_request(key, value);
                request.options = Some(options);
                self.client.put_with(request).await
            }
            None => {
                let request = DeleteRequest { key: Some(key), options: Some(options) };
                let done = self.client.kv.clone().delete(request).await;
                done.map(tonic::Response::into_inner).map_err(Failure::from)
            }
        };
        let (ended, acknowledged) = (Instant::now(), done.is_ok());
        let write = CausalWrite { begun, ended, value: value.clone(), seen: seen.clone(), acknowledged };
        self.history.stories.entry(name.clone()).or_default().writes.push(write);
        let context = done?.context;
        seen.extend(value);
        self.known.insert(name, Known { seen, context });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments a second apart.
    fn at(second: u64) -> Instant {
        static ZERO: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *ZERO + Duration::from_secs(second)
    }

    fn write(begun: u64, ended: u64, value: Option<&str>, seen: &[&str], acknowledged: bool) -> CausalWrite {
        let (value, seen) = (value.map(ToOwned::to_owned), seen.iter().map(|value| (*value).to_owned()).collect());
        CausalWrite { begun: at(begun), ended: at(ended), value, seen, acknowledged }
    }

    fn put(second: u64, value: &str, seen: &[&str]) -> CausalWrite {
        write(second, second + 1, Some(value), seen, true)
    }

    fn delete(second: u64, seen: &[&str]) -> CausalWrite {
        write(second, second + 1, None, seen, true)
    }

    fn unheard(mut write: CausalWrite) -> CausalWrite {
        write.acknowledged = false;
        write
    }

    fn read(begun: u64, ended: u64, shown: &[&str]) -> CausalRead {
        let shown = shown.iter().map(|value| (*value).to_owned()).collect();
        CausalRead { begun: at(begun), ended: at(ended), shown }
    }

    fn history(writes: &[CausalWrite], reads: &[CausalRead]) -> CausalHistory {
        let story = CausalStory { writes: writes.to_vec(), reads: reads.to_vec() };
        CausalHistory { stories: [("k".to_owned(), story)].into(), failures: Vec::new() }
    }

    fn holds(shown: &[&str]) -> Siblings {
        [("k".to_owned(), shown.iter().map(|value| (*value).to_owned()).collect())].into()
    }

    fn ends(writes: &[CausalWrite], shown: &[&str]) -> bool {
        history(writes, &[]).check_end(&[holds(shown), holds(shown)]).is_ok()
    }

    fn reads(writes: &[CausalWrite], begun: u64, ended: u64, shown: &[&str]) -> bool {
        history(writes, &[read(begun, ended, shown)]).check().is_ok()
    }

    #[test]
    fn siblings_stay_until_somebody_who_saw_them_takes_their_place() {
        let writes = [put(0, "a", &[]), put(0, "b", &[]), put(4, "c", &["a"]), delete(8, &["b"])];
        assert!(reads(&writes, 2, 3, &["a", "b"]) && reads(&writes, 6, 7, &["c", "b"]) && ends(&writes, &["c"]));
        assert!(reads(&writes, 4, 5, &["a", "b"]) && reads(&writes, 4, 5, &["b", "c"]), "while the third is under way");
        assert!(reads(&writes, 0, 1, &[]) && reads(&writes, 0, 1, &["b"]), "while the first two are under way");
    }

    #[test]
    fn a_lost_write_is_seen() {
        let writes = [put(0, "a", &[]), put(0, "b", &[]), put(4, "c", &["a"])];
        assert!(!ends(&writes, &["c"]) && !ends(&writes, &["b"]) && !ends(&writes, &[]));
        assert!(!reads(&writes, 2, 3, &["a"]) && !reads(&writes, 6, 7, &["b"]) && !reads(&writes, 6, 7, &[]));
    }

    #[test]
    fn a_write_that_was_taken_the_place_of_by_one_that_is_nowhere_is_lost() {
        let unheard = unheard(put(4, "c", &["a"]));
        let writes = [put(0, "a", &[]), unheard.clone(), put(8, "d", &["c"])];
        assert!(ends(&writes[..2], &["a"]) && ends(&writes[..2], &["c"]), "nobody knows whether it happened");
        assert!(!ends(&writes[..2], &[]) && !reads(&writes[..2], 6, 7, &[]));
        assert!(ends(&writes, &["d"]), "it happened, as somebody saw it");
        assert!(!ends(&writes, &["a", "d"]));
        let seen = history(&writes[..2], &[read(6, 7, &["c"])]);
        assert!(seen.check_end(&[holds(&["a"])]).is_err(), "it was shown, and is gone");
    }

    #[test]
    fn what_a_delete_had_seen_and_returns_is_seen() {
        let writes = [put(0, "a", &[]), put(0, "b", &[]), delete(4, &["a"])];
        assert!(ends(&writes, &["b"]) && !ends(&writes, &["a", "b"]));
        assert!(reads(&writes, 6, 7, &["b"]) && !reads(&writes, 6, 7, &["a", "b"]));
        let perhaps = [put(0, "a", &[]), unheard(delete(4, &["a"]))];
        assert!(ends(&perhaps, &["a"]) && ends(&perhaps, &[]), "nobody knows whether it happened");
    }

    #[test]
    fn what_nobody_wrote_the_future_and_doubles_are_seen() {
        let writes = [put(4, "a", &[])];
        assert!(!ends(&writes, &["a", "x"]) && !reads(&writes, 1, 2, &["a"]) && !reads(&writes, 6, 7, &["a", "a"]));
    }

    #[test]
    fn owners_that_differ_are_seen() {
        let history = history(&[put(0, "a", &[]), put(0, "b", &["a"])], &[]);
        assert!(history.check_end(&[holds(&["b"]), holds(&["b"])]).is_ok());
        assert!(history.check_end(&[holds(&["b"]), holds(&["a"])]).is_err());
        assert!(history.check_end(&[holds(&["b"]), Siblings::new()]).is_err());
    }
}
