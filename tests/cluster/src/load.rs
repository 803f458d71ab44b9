//! Clients that put and get without pause, and remember what they were promised.

use crate::client::{Client, Failure, get_request, key, put_request};
use mks_proto::v1::Durability;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::task::JoinHandle;

/// Bound of one worker's keys.
const KEYS_PER_WORKER_MAX: usize = 50_000;
/// A request must be answered by then, one way or the other.
const DEADLINE_MS: u64 = 3_000;
/// Requests that a stubborn worker makes of one.
const TRIES: usize = 10;

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Every put that was answered OK: key and value.
    pub acknowledged: BTreeMap<String, String>,
    /// Every request that failed: when it began, and why.
    pub failures: Vec<(Instant, String)>,
    /// Requests that were answered well.
    pub answered: usize,
}

impl Report {
    /// Failures of requests that began after `moment`.
    #[must_use]
    pub fn failures_since(&self, moment: Instant) -> Vec<&str> {
        let late = self.failures.iter().filter(|(begun, _)| *begun >= moment);
        late.map(|(_, why)| why.as_str()).collect()
    }
}

/// Workers under way. Each one puts a key of its own, then gets it, and again.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts `workers`, spread over `clients`. Needs a runtime with more than one thread: the test itself blocks.
    #[must_use]
    pub fn start(clients: &[Client], workers: usize, durability: Durability) -> Self {
        let asker = |worker: usize| Asker { clients: vec![clients[worker % clients.len()].clone()], tries: 1 };
        Self::of((0..workers).map(asker), durability)
    }

    /// The same with workers that ask the next node when one fails, as a client does that knows several.
    #[must_use]
    pub fn start_stubborn(clients: &[Client], workers: usize, durability: Durability) -> Self {
        let asker = |worker: usize| {
            let first = worker % clients.len();
            Asker { clients: [&clients[first..], &clients[..first]].concat(), tries: TRIES }
        };
        Self::of((0..workers).map(asker), durability)
    }

    fn of(askers: impl Iterator<Item = Asker>, durability: Durability) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |(worker, asker)| tokio::spawn(work(asker, worker, durability, Arc::clone(&stop)));
        let workers = askers.enumerate().map(spawn).collect();
        Self { stop, workers }
    }

    /// Lets requests under way end, and sums up.
    ///
    /// # Panics
    /// When a worker read something else than it wrote.
    pub async fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for worker in self.workers {
            let report = worker.await.expect("a worker fails only by a wrong answer, which it has shown");
            sum.acknowledged.extend(report.acknowledged);
            sum.failures.extend(report.failures);
            sum.answered += report.answered;
        }
        sum
    }
}

/// Whom a worker asks.
#[derive(Debug)]
struct Asker {
    clients: Vec<Client>,
    /// How often it asks the same, of one node after the other.
    tries: usize,
}

impl Asker {
    async fn ask<T, F: Future<Output = Result<T, Failure>>>(&self, ask: impl Fn(Client) -> F) -> Result<T, Failure> {
        let mut last = None;
        for client in self.clients.iter().cycle().take(self.tries) {
            match ask(client.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => last = Some(failure),
            }
            pause().await;
        }
        Err(last.expect("it is asked once at least"))
    }
}

async fn work(asker: Asker, worker: usize, durability: Durability, stop: Arc<AtomicBool>) -> Report {
    let mut report = Report::default();
    for number in 0..KEYS_PER_WORKER_MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("load-{worker}-{number}");
        let value = format!("value {number} of worker {worker}");
        let begun = Instant::now();
        let mut put = put_request(key("", name.clone()), value.clone());
        let options = put.options.get_or_insert_default();
        options.deadline_ms = Some(DEADLINE_MS);
        options.set_durability(durability);
        // Asked again, it is the same request.
        options.request_id = format!("{:16}", format!("{worker}-{number}")).into();
        let ask = |client: Client| {
            let put = put.clone();
            async move { client.put_with(put).await }
        };
        if let Err(failure) = asker.ask(ask).await {
            report.failures.push((begun, format!("put {name}: {failure:?}")));
            continue;
        }
        report.answered += 1;
        report.acknowledged.insert(name.clone(), value.clone());

        let begun = Instant::now();
        let get = get_request(key("", name.clone()));
        let ask = |client: Client| {
            let get = get.clone();
            async move { client.get_with(get).await }
        };
        match asker.ask(ask).await {
            Ok(found) => {
                assert_eq!(found.as_ref(), Some(&value), "a quorum read missed the acknowledged put of {name}");
                report.answered += 1;
            }
            Err(failure) => report.failures.push((begun, format!("get {name}: {failure:?}"))),
        }
    }
    report
}

/// A client that fails at once would otherwise spin.
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}
