//! Counters and histograms for Prometheus.
//!
//! **What is absent:** locks on the way of an operation. Every label is known when the process starts, so that
//! counting is one relaxed addition; figures that live elsewhere are asked for when somebody scrapes.

mod histogram;
mod labels;
mod mending;
mod scrape;
mod scrub;
mod seals;
mod shadows;
mod sync;

pub use labels::{Kind, Outcome, Surface};
pub use scrape::{Sample, SampleKind, resident_bytes};
pub(crate) use scrub::disk_faults;
pub(crate) use shadows::shadow_samples;

use crate::gossip::DropReason;
use histogram::Histogram;
use labels::{Labels, each};
use mks_logic::cluster::State;
use mks_logic::event::Reply;
use mks_logic::member::Dropped;
use mks_logic::node::{Figures, ScrubFigures, Sealing, SyncFigures};
use mks_logic::port::Store;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use scrape::{Scrape, Scraper, process_samples, store_samples};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Everything that this process counts. Shared by all of it; every method may be called from any thread.
pub struct Metrics {
    started: Instant,
    operations: [[Counter; Outcome::ALL.len()]; Kind::ALL.len()],
    latency: [Histogram; Kind::ALL.len()],
    malformed: [Counter; Surface::ALL.len()],
    gossip_dropped: [Counter; DropReason::ALL.len()],
    gossip_disbelieved: [Counter; Dropped::ALL.len()],
    gossip_sent: Counter,
    gossip_received: Counter,
    peer_frames_sent: Counter,
    peer_frames_received: Counter,
    peer_messages_sent: Counter,
    peer_messages_received: Counter,
    restamps: Counter,
    forwards: Counter,
    records_fetched: Counter,
    hedges: Counter,
    mending: mending::Counters,
    sync: sync::Counters,
    scrub: scrub::Counters,
    seals: seals::Counters,
    peer_messages_dropped: Counter,
    commits: Histogram,
    connections: [Gauge<u64, AtomicU64>; Surface::ALL.len()],
    connections_refused: [Counter; Surface::ALL.len()],
    sessions: Gauge<u64, AtomicU64>,
    registry: Mutex<Registry>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut registry = registry();
        let r = &mut registry;
        Arc::new(Self {
            started: Instant::now(),
            operations: operations(r),
            latency: latency(r),
            malformed: family(
                r,
                "malformed_inputs",
                "Inputs that were refused because they made no sense",
                Surface::ALL,
                |s| s.labels(),
            ),
            gossip_dropped: family(r, "gossip_dropped", "Datagrams that were dropped", DropReason::ALL, |d| {
                [("reason", d.name())]
            }),
            gossip_disbelieved: family(
                r,
                "gossip_disbelieved",
                "Datagrams whose seal was right and whose sender or content does not fit the roster",
                Dropped::ALL,
                |d| [("reason", d.name())],
            ),
            gossip_sent: counter(r, "gossip_sent", "Datagrams sent"),
            gossip_received: counter(r, "gossip_received", "Datagrams received and opened"),
            peer_frames_sent: counter(r, "peer_frames_sent", "Frames sent to other nodes"),
            peer_frames_received: counter(r, "peer_frames_received", "Frames received from other nodes"),
            peer_messages_sent: counter(r, "peer_messages_sent", "Messages in frames sent to other nodes"),
            peer_messages_received: counter(
                r,
                "peer_messages_received",
                "Messages in frames received from other nodes",
            ),
            restamps: counter(r, "restamps", "Writes sent again above a later stamp of their key"),
            forwards: counter(r, "forwards", "Requests handed to a node that owns their key"),
            records_fetched: counter(
                r,
                "records_fetched",
                "Whole records fetched from other owners because digests differed",
            ),
            hedges: counter(r, "hedges", "Reads that asked all owners because the answers were late"),
            mending: mending::Counters::new(r),
            sync: sync::Counters::new(r),
            scrub: scrub::Counters::new(r),
            seals: seals::Counters::new(r),
            peer_messages_dropped: counter(
                r,
                "peer_messages_dropped",
                "Messages dropped because too many wait for their peer",
            ),
            commits: commits(r),
            connections: family(r, "connections", "Connections that are open", Surface::ALL, |s| s.labels()),
            connections_refused: family(
                r,
                "connections_refused",
                "Connections closed because too many were open",
                Surface::ALL,
                |s| s.labels(),
            ),
            sessions: gauge(r, "sessions", "Kv.Session streams that are open"),
            registry: Mutex::new(registry),
        })
    }

    /// Time since the process began to count.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// An operation that this node coordinated is answered.
    pub fn operation(&self, kind: Kind, outcome: Outcome, latency_us: u64) {
        self.operations[kind as usize][outcome as usize].inc();
        self.latency[kind as usize].observe(latency_us);
    }

    /// Like [`Self::operation`], with the outcome that `reply` shows.
    pub fn reply(&self, kind: Kind, reply: &Reply, latency_us: u64) {
        self.operation(kind, Outcome::of(reply), latency_us);
    }

    /// A surface refused input that made no sense. Nothing else changed.
    pub fn malformed(&self, surface: Surface) {
        self.malformed[surface as usize].inc();
    }

    /// How often [`Self::malformed`] was called.
    #[must_use]
    pub fn malformed_count(&self, surface: Surface) -> u64 {
        self.malformed[surface as usize].get()
    }

    /// A frame with this many messages went to a peer.
    pub fn peer_sent(&self, messages: u64) {
        self.peer_frames_sent.inc();
        self.peer_messages_sent.inc_by(messages);
    }

    /// A frame with this many messages came from a peer.
    pub fn peer_received(&self, messages: u64) {
        self.peer_frames_received.inc();
        self.peer_messages_received.inc_by(messages);
    }

    /// A datagram went out.
    pub fn gossip_sent(&self) {
        self.gossip_sent.inc();
    }

    /// A datagram came in and was opened.
    pub fn gossip_received(&self) {
        self.gossip_received.inc();
    }

    /// A datagram was dropped.
    pub fn gossip_dropped(&self, reason: DropReason) {
        self.gossip_dropped[reason as usize].inc();
        if matches!(reason, DropReason::TooShort | DropReason::TooLong | DropReason::Version | DropReason::Forged) {
            self.malformed(Surface::Gossip);
        }
    }

    /// How often [`Self::gossip_dropped`] was called for this reason.
    #[must_use]
    pub fn gossip_dropped_count(&self, reason: DropReason) -> u64 {
        self.gossip_dropped[reason as usize].get()
    }

    /// Takes over what the logic counted since the last time.
    pub fn logic(&self, before: Figures, now: Figures) {
        self.restamps.inc_by(now.restamps - before.restamps);
        self.forwards.inc_by(now.forwards - before.forwards);
        self.records_fetched.inc_by(now.records_fetched - before.records_fetched);
        self.hedges.inc_by(now.hedges - before.hedges);
        self.malformed[Surface::Peer as usize].inc_by(now.nonsense - before.nonsense);
        raise(&self.gossip_disbelieved, before.gossip_dropped, now.gossip_dropped);
        self.mending.add(before, now);
    }

    /// The same of comparisons with other owners.
    pub fn sync(&self, before: SyncFigures, now: SyncFigures) {
        self.sync.add(before, now);
    }

    /// The same of looks at this node's own disk.
    pub fn scrub(&self, before: ScrubFigures, now: ScrubFigures) {
        self.scrub.add(before, now);
    }

    /// How far seals are, as the epoch log and this node have it now.
    pub fn seals(&self, state: &State, sealing: &Sealing) {
        self.seals.set(state, sealing);
    }

    /// A message was dropped because too many wait for its peer.
    pub fn peer_dropped(&self) {
        self.peer_messages_dropped.inc();
    }

    /// One commit of the store carried this many operations.
    pub fn commit(&self, operations: u64) {
        self.commits.observe(operations);
    }

    /// A connection opened; it is closed when the guard is dropped.
    pub(crate) fn connection(&self, surface: Surface) -> Open {
        Open::new(&self.connections[surface as usize])
    }

    /// A connection was closed at once because too many were open.
    pub(crate) fn connection_refused(&self, surface: Surface) {
        self.connections_refused[surface as usize].inc();
    }

    /// A session opened; it is closed when the guard is dropped.
    pub(crate) fn session(&self) -> Open {
        Open::new(&self.sessions)
    }

    /// Sessions that are open.
    #[must_use]
    pub fn sessions_open(&self) -> u64 {
        self.sessions.get()
    }

    /// Asks `scrape` for more figures whenever somebody scrapes: call counters of the sandbox, for one.
    pub fn register(&self, scrape: Scrape) {
        self.registry().register_collector(Box::new(Scraper::new(scrape)));
    }

    /// Shows the figures of the store.
    pub fn register_store(&self, store: Arc<dyn Store>) {
        self.register(Box::new(move || store_samples(&store.stats())));
    }

    /// All figures in the OpenMetrics text format, which Prometheus reads: [`Self::CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        // Writing to a String can't fail; an encoder that does leaves what came before it.
        if text::encode(&mut out, &self.registry()).is_err() {
            tracing::error!("a metric could not be encoded; the rest of the page is missing");
        }
        out
    }

    /// What [`Self::encode`] makes.
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is open now: see [`Metrics::connection`].
#[derive(Debug)]
pub(crate) struct Open(Gauge<u64, AtomicU64>);

impl Open {
    fn new(gauge: &Gauge<u64, AtomicU64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A page that says what runs and how large the process is.
fn registry() -> Registry {
    let mut registry = Registry::with_prefix("mks");
    registry.register("build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(Scraper::new(Box::new(process_samples))));
    registry
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge<u64, AtomicU64> {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// One metric per value of an enum, in its order.
fn family<T: Copy, M, const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: [T; N],
    labels: impl Fn(T) -> Labels<1>,
) -> [M; N]
where
    M: prometheus_client::encoding::EncodeMetric
        + prometheus_client::metrics::TypedMetric
        + Clone
        + Default
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let family = Family::<Labels<1>, M>::default();
    registry.register(name, help, family.clone());
    each(all, |value| family.get_or_create_owned(&labels(value)))
}

fn operations(registry: &mut Registry) -> [[Counter; Outcome::ALL.len()]; Kind::ALL.len()] {
    let family = Family::<Labels<2>, Counter>::default();
    registry.register("operations", "Operations that this node coordinated, by how they ended", family.clone());
    each(Kind::ALL, |kind| {
        each(Outcome::ALL, |outcome| {
            let ([kind], [outcome]) = (kind.labels(), outcome.labels());
            family.get_or_create_owned(&[kind, outcome])
        })
    })
}

fn latency(registry: &mut Registry) -> [Histogram; Kind::ALL.len()] {
    let family = Family::<Labels<1>, Histogram, fn() -> Histogram>::new_with_constructor(Histogram::latency);
    registry.register("operation_seconds", "From the request at the pump to its reply", family.clone());
    each(Kind::ALL, |kind| family.get_or_create_owned(&kind.labels()))
}

fn commits(registry: &mut Registry) -> Histogram {
    let histogram = Histogram::powers_of_two();
    registry.register("commit_operations", "Operations that one commit of the store carried", histogram.clone());
    histogram
}

/// Raises each counter by what its figure has grown.
fn raise<const N: usize>(counters: &[Counter; N], before: [u64; N], now: [u64; N]) {
    for (counter, (now, before)) in counters.iter().zip(now.into_iter().zip(before)) {
        counter.inc_by(now - before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::event::{Answer, OpError};
    use mks_logic::time::Hlc;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.reply(Kind::Put, &Ok(Answer::Written { written: Hlc::ZERO, acks: 2, hints: 0, context: None }), 150);
        metrics.reply(Kind::Get, &Ok(Answer::Found { versions: Vec::new(), context: None }), 90);
        metrics.reply(Kind::Get, &Err(OpError::NoOwner), 90);
        metrics.peer_sent(5);
        metrics.commit(3);
        metrics.gossip_dropped(DropReason::Replayed);
        metrics.gossip_dropped(DropReason::Forged);
        let page = metrics.encode();
        for line in [
            r#"mks_operations_total{kind="put",outcome="ok"} 1"#,
            r#"mks_operations_total{kind="get",outcome="not_found"} 1"#,
            r#"mks_operations_total{kind="get",outcome="unavailable"} 1"#,
            r#"mks_malformed_inputs_total{surface="gossip"} 1"#,
            r#"mks_malformed_inputs_total{surface="grpc"} 0"#,
            r#"mks_gossip_dropped_total{reason="replayed"} 1"#,
            "mks_peer_messages_sent_total 5",
            "mks_commit_operations_sum 3.0",
            r#"mks_operation_seconds_count{kind="get"} 2"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(page.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn registered_scrapes_are_asked_each_time() {
        let metrics = Metrics::new();
        let calls = Arc::new(AtomicU64::new(0));
        let seen = calls.clone();
        metrics.register(Box::new(move || {
            let value = seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            let sample = |name: &str| Sample {
                name: "resolver_calls".into(),
                help: "Calls into resolvers".into(),
                kind: SampleKind::Counter,
                labels: vec![("resolver", name.to_owned())],
                value: value as f64,
            };
            vec![sample("lww"), sample("say \"hi\"")]
        }));
        let _ = metrics.encode();
        let page = metrics.encode();
        assert!(page.contains("mks_resolver_calls_total{resolver=\"lww\"} 2"), "{page}");
        assert!(page.contains(r#"mks_resolver_calls_total{resolver="say \"hi\""} 2"#), "{page}");
        assert_eq!(page.matches("# TYPE mks_resolver_calls counter").count(), 1, "{page}");
    }

    #[test]
    fn an_open_thing_is_closed_when_its_guard_goes() {
        let metrics = Metrics::new();
        let (first, second) = (metrics.session(), metrics.session());
        assert_eq!(metrics.sessions_open(), 2);
        drop(first);
        drop(second);
        assert_eq!(metrics.sessions_open(), 0);
    }

    #[test]
    fn the_process_knows_its_own_size() {
        let bytes = resident_bytes();
        assert!(bytes > 1 << 20, "a process of {bytes} bytes");
    }
}
