//! Clients that put and get without pause, and remember what they were promised.

use crate::client::{Client, get_request, key, put_request};
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
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |worker: usize| {
            let client = clients[worker % clients.len()].clone();
            tokio::spawn(work(client, worker, durability, Arc::clone(&stop)))
        };
        let workers = (0..workers).map(spawn).collect();
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

async fn work(client: Client, worker: usize, durability: Durability, stop: Arc<AtomicBool>) -> Report {
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
        if let Err(failure) = client.put_with(put).await {
            report.failures.push((begun, format!("put {name}: {failure:?}")));
            pause().await;
            continue;
        }
        report.answered += 1;
        report.acknowledged.insert(name.clone(), value.clone());

        let begun = Instant::now();
        match client.get_with(get_request(key("", name.clone()))).await {
            Ok(found) => {
                assert_eq!(found.as_ref(), Some(&value), "a quorum read missed the acknowledged put of {name}");
                report.answered += 1;
            }
            Err(failure) => {
                report.failures.push((begun, format!("get {name}: {failure:?}")));
                pause().await;
            }
        }
    }
    report
}

/// A client that fails at once would otherwise spin.
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}
