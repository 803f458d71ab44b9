//! What clients did and saw, and what must be true of it under last-write-wins.
//!
//! The rules are of the outside: values, times and the stamps that nodes answered with. They know nothing of how a node
//! comes to them, and nothing here is shared with the simulator, so that the two do not err together.

use crate::client::{Client, Failure, get_request, key, put_request};
use crate::cluster::Cluster;
use mks_proto::v1::{DeleteRequest, GetRequest, ReadOptions, WriteOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A request must be answered by then, one way or the other.
const DEADLINE_MS: u64 = 1_000;
/// Bound of one worker's requests.
const OPERATIONS_MAX: usize = 100_000;

/// One write: when it was under way, what it wrote (`None`: a delete), and the stamp it was acknowledged with. Without
/// one nobody knows whether it happened, or will.
#[derive(Clone, Debug)]
pub struct Write {
    /// When it began.
    pub begun: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// What it wrote; no two writes write the same.
    pub value: Option<String>,
    /// Its stamp.
    pub stamp: Option<u64>,
}

/// One answered read: value and stamp, or that the key is absent.
#[derive(Clone, Debug)]
pub struct Read {
    /// When it began.
    pub begun: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// What was there.
    pub found: Option<(String, u64)>,
}

/// All that happened to one key.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// In no order.
    pub writes: Vec<Write>,
    /// In no order.
    pub reads: Vec<Read>,
}

/// What clients did, key by key.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By key.
    pub stories: BTreeMap<String, Story>,
    /// Failed requests: when they began, through which of the clients, and why.
    pub failures: Vec<(Instant, usize, String)>,
}

impl Story {
    /// The latest acknowledged write among those that ended before `moment`.
    fn latest(&self, moment: Option<Instant>) -> Option<&Write> {
        let over = |write: &&Write| moment.is_none_or(|moment| write.ended < moment);
        self.writes.iter().filter(|write| write.stamp.is_some()).filter(over).max_by_key(|write| write.stamp)
    }

    /// Acknowledged writes are stamped in the order in which they happened.
    fn order(&self) -> Result<(), String> {
        let mut by_begin: Vec<&Write> = self.writes.iter().filter(|write| write.stamp.is_some()).collect();
        let mut by_end = by_begin.clone();
        by_begin.sort_by_key(|write| write.begun);
        by_end.sort_by_key(|write| write.ended);
        let (mut over, mut highest) = (by_end.into_iter().peekable(), None);
        for write in by_begin {
            while let Some(earlier) = over.next_if(|earlier| earlier.ended < write.begun) {
                highest = highest.max(earlier.stamp);
            }
            if highest >= write.stamp {
                return Err(format!("{write:?} began after a write with stamp {highest:?} was acknowledged"));
            }
        }
        Ok(())
    }

    /// Whether `found` may be what is there once every write that ended before `moment` was over; `None`: all were.
    fn allows(&self, found: Option<(&str, u64)>, moment: Option<Instant>) -> Result<(), String> {
        let latest = self.latest(moment);
        match found {
            Some((value, stamp)) => {
                let Some(write) = self.writes.iter().find(|write| write.value.as_deref() == Some(value)) else {
                    return Err(format!("{value:?} was never written"));
                };
                // An earlier attempt of the same write may be there for a while, with an earlier stamp.
                if write.stamp.is_some_and(|own| own < stamp) {
                    return Err(format!("{write:?} is there with stamp {stamp}"));
                }
                match latest {
                    Some(latest) if latest.stamp > Some(stamp) => Err(format!("{latest:?} is lost to {write:?}")),
                    _ => Ok(()),
                }
            }
            // Absent: never written, or deleted, perhaps by a delete that nobody heard of again.
            None => match latest {
                Some(Write { value: Some(_), .. }) if !self.might_be_deleted(latest) => {
                    Err(format!("{latest:?} is gone, and nobody deleted it"))
                }
                _ => Ok(()),
            },
        }
    }

    /// Whether there is a delete that may come after this write.
    fn might_be_deleted(&self, write: Option<&Write>) -> bool {
        let stamp = write.and_then(|write| write.stamp);
        self.writes.iter().any(|other| other.value.is_none() && other.stamp.is_none_or(|own| Some(own) > stamp))
    }
}

impl History {
    /// Checks the order of stamps, and every read made with R + W > N.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn check(&self) -> Result<(), String> {
        for (name, story) in &self.stories {
            story.order().map_err(|why| format!("{name}: {why}"))?;
            for read in &story.reads {
                let found = read.found.as_ref().map(|(value, stamp)| (value.as_str(), *stamp));
                story.allows(found, Some(read.begun)).map_err(|why| format!("{name}: {read:?}: {why}"))?;
                let unborn = |write: &&Write| write.begun > read.ended && write.value.as_deref() == found.map(|f| f.0);
                if let (Some(_), Some(write)) = (found, story.writes.iter().find(unborn)) {
                    return Err(format!("{name}: {read:?} saw {write:?} before it was asked for"));
                }
            }
        }
        Ok(())
    }

    /// Checks what every owner holds at the end, by key: the same, every acknowledged write or a later one, and nothing
    /// that was deleted.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn check_end(&self, owners: &[Holdings]) -> Result<(), String> {
        for (name, story) in &self.stories {
            let held: Vec<_> = owners.iter().map(|owner| owner.get(name)).collect();
            if held.iter().any(|other| *other != held[0]) {
                return Err(format!("{name}: owners hold {held:?}"));
            }
            let found = held[0].map(|(value, stamp)| (value.as_str(), *stamp));
            story.allows(found, None).map_err(|why| format!("{name}: at the end {found:?}: {why}"))?;
        }
        Ok(())
    }

    /// Writes that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.stories.values().flat_map(|story| &story.writes).filter(|write| write.stamp.is_some()).count()
    }

    /// Acknowledged writes that began in a span of time.
    #[must_use]
    pub fn acknowledged_between(&self, from: Instant, to: Instant) -> usize {
        let writes = self.stories.values().flat_map(|story| &story.writes);
        writes.filter(|write| write.stamp.is_some() && (from..to).contains(&write.begun)).count()
    }

    fn merge(&mut self, other: Self) {
        for (name, story) in other.stories {
            let own = self.stories.entry(name).or_default();
            own.writes.extend(story.writes);
            own.reads.extend(story.reads);
        }
        self.failures.extend(other.failures);
    }
}

impl History {
    /// Waits until the nodes behind `clients`, which own every key, hold the same, and checks that and all before it.
    ///
    /// # Panics
    /// When they never do, or hold what must not be.
    pub async fn assert_settled(&self, cluster: &Cluster, clients: &[Client]) {
        self.check().unwrap_or_else(|why| panic!("{why}"));
        let all = async || {
            let mut held = Vec::new();
            for client in clients {
                held.push(holdings(client, self.stories.keys()).await?);
            }
            Ok::<_, Failure>(held)
        };
        cluster
            .eventually("all owners hold the same", async |_| {
                all().await.is_ok_and(|held| held.iter().all(|other| *other == held[0]))
            })
            .await;
        let held = all().await.unwrap_or_else(|failure| panic!("{failure:?}"));
        self.check_end(&held).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// What one owner holds: values and their stamps, by key.
pub type Holdings = BTreeMap<String, (String, u64)>;

/// What a node's own disk holds of these keys.
async fn holdings(client: &Client, names: impl IntoIterator<Item = &String>) -> Result<Holdings, Failure> {
    let mut held = Holdings::new();
    for name in names {
        let options = ReadOptions { r: Some(1), deadline_ms: Some(5_000), ..ReadOptions::default() };
        let request = GetRequest { options: Some(options), ..get_request(key("", name.clone())) };
        if let Some(found) = client.get_stamped(request).await? {
            held.insert(name.clone(), found);
        }
    }
    Ok(held)
}

/// Clients that put, delete and get the same few keys at the same time, all of them through all nodes.
#[derive(Debug)]
pub struct Contest {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<History>>,
}

impl Contest {
    /// Starts `workers` for each client, on `keys` keys. Needs a runtime with more than one thread.
    #[must_use]
    pub fn start(clients: &[Client], workers: usize, keys: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let spawn = |worker: usize| {
            let at = worker % clients.len();
            tokio::spawn(work(clients[at].clone(), at, worker as u64, keys, Arc::clone(&count), Arc::clone(&stop)))
        };
        let workers = (0..workers * clients.len()).map(spawn).collect();
        Self { stop, workers }
    }

    /// Lets requests under way end, and sums up.
    ///
    /// # Panics
    /// When a worker did.
    pub async fn stop(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for worker in self.workers {
            history.merge(worker.await.expect("a worker only remembers"));
        }
        history
    }
}

async fn work(
    client: Client,
    at: usize,
    worker: u64,
    keys: u64,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> History {
    let mut history = History::default();
    let mut dice = worker.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..OPERATIONS_MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let name = format!("contested-{}", (dice >> 32) % keys);
        let story = history.stories.entry(name.clone()).or_default();
        let begun = Instant::now();
        let failure = if dice % 10 < 4 {
            let request = get_request(key("", name));
            let options = ReadOptions { deadline_ms: Some(DEADLINE_MS), ..ReadOptions::default() };
            match client.get_stamped(GetRequest { options: Some(options), ..request }).await {
                Ok(found) => {
                    story.reads.push(Read { begun, ended: Instant::now(), found });
                    None
                }
                Err(failure) => Some(failure),
            }
        } else {
            let value = (dice % 10 > 5).then(|| format!("{worker}-{}", count.fetch_add(1, Ordering::Relaxed)));
            let written = write(&client, &name, value.clone()).await;
            let stamp = written.as_ref().ok().copied();
            story.writes.push(Write { begun, ended: Instant::now(), value, stamp });
            written.err()
        };
        if let Some(failure) = failure {
            history.failures.push((begun, at, format!("{failure:?}")));
            // A client that fails at once would otherwise spin.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    history
}

/// Puts or deletes; returns the stamp.
async fn write(client: &Client, name: &str, value: Option<String>) -> Result<u64, Failure> {
    let options = WriteOptions { deadline_ms: Some(DEADLINE_MS), ..WriteOptions::default() };
    let key = key("", name.to_owned());
    match value {
        Some(value) => {
            let mut request = put_request(key, value);
            request.options = Some(options);
            Ok(client.put_with(request).await?.written)
        }
        None => {
            let request = DeleteRequest { key: Some(key), options: Some(options) };
            Ok(client.kv.clone().delete(request).await.map_err(Failure::from)?.into_inner().written)
        }
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

    fn write(begun: u64, ended: u64, value: Option<&str>, stamp: Option<u64>) -> Write {
        Write { begun: at(begun), ended: at(ended), value: value.map(ToOwned::to_owned), stamp }
    }

    fn history(writes: Vec<Write>, reads: Vec<Read>) -> History {
        History { stories: [("k".to_owned(), Story { writes, reads })].into(), failures: Vec::new() }
    }

    fn read(begun: u64, ended: u64, found: Option<(&str, u64)>) -> Read {
        Read { begun: at(begun), ended: at(ended), found: found.map(|(value, stamp)| (value.to_owned(), stamp)) }
    }

    fn end(history: &History, found: Option<(&str, u64)>) -> Result<(), String> {
        let held: Holdings =
            found.map(|(value, stamp)| ("k".to_owned(), (value.to_owned(), stamp))).into_iter().collect();
        history.check_end(&[held.clone(), held])
    }

    #[test]
    fn what_last_write_wins_may_do_is_allowed() {
        let unheard = write(2, 9, Some("unheard"), None);
        let story = vec![write(0, 1, Some("a"), Some(1)), write(2, 3, Some("b"), Some(5)), unheard];
        let reads = vec![
            read(0, 1, None),
            read(1, 2, Some(("a", 1))),
            read(2, 3, Some(("b", 5))),
            read(4, 5, Some(("unheard", 6))),
        ];
        let history = history(story, reads);
        assert_eq!(history.check(), Ok(()));
        assert_eq!(end(&history, Some(("b", 5))), Ok(()));
        assert_eq!(end(&history, Some(("unheard", 7))), Ok(()));
    }

    #[test]
    fn an_acknowledged_write_that_is_lost_is_seen() {
        let writes = || vec![write(0, 1, Some("a"), Some(1)), write(2, 3, Some("b"), Some(5))];
        let lost = history(writes(), vec![read(4, 5, Some(("a", 1)))]);
        assert!(lost.check().is_err(), "a read went back");
        assert!(
            end(&lost, Some(("a", 1))).is_err() && end(&lost, None).is_err() && end(&lost, Some(("c", 9))).is_err()
        );
        assert!(history(writes(), vec![read(0, 1, Some(("b", 5)))]).check().is_err(), "a read saw the future");
        assert!(end(&lost, Some(("b", 6))).is_err(), "another stamp than was acknowledged");
    }

    #[test]
    fn a_deleted_value_that_returns_is_seen() {
        let writes = vec![write(0, 1, Some("a"), Some(1)), write(2, 3, None, Some(5))];
        let history = history(writes, vec![]);
        assert_eq!(end(&history, None), Ok(()));
        assert!(end(&history, Some(("a", 1))).is_err());
    }

    #[test]
    fn stamps_out_of_order_and_owners_that_differ_are_seen() {
        let early = history(vec![write(0, 1, Some("a"), Some(5)), write(2, 3, Some("b"), Some(4))], vec![]);
        assert!(early.check().is_err());
        let fine = history(vec![write(0, 2, Some("a"), Some(5)), write(1, 3, Some("b"), Some(4))], vec![]);
        assert_eq!(fine.check(), Ok(()), "they were under way at the same time");
        let held: Holdings = [("k".to_owned(), ("a".to_owned(), 5))].into();
        assert!(fine.check_end(&[held, Holdings::new()]).is_err());
    }
}
