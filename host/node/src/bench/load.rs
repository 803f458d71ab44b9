//! Keeps a number of operations under way and records what becomes of each.

use super::args::{BenchArgs, Link};
use super::workload::{Kind, Op, Workload};
use super::{session, unary};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Latencies are kept in microseconds up to this one (10 minutes); more counts as this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// A fill asks for this many at once at least: nobody waits for its latency.
const FILL_CONCURRENCY_MIN: u32 = 256;

/// What operations are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Every key once, in order, puts only.
    Fill,
    /// As the arguments say, without end.
    Mixed,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing counts.
    Warmup,
    /// Everything counts.
    Measure,
    /// Nothing new is asked; late answers still count as latencies.
    Drain,
}

/// What a worker should do now.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made; a box would cost each operation")]
pub(super) enum Next {
    /// Send this; it was due at this moment.
    Send(Op, Instant),
    /// Nothing is due before this moment.
    Wait(Instant),
    /// Nothing will be due any more.
    Stop,
}

/// One run, shared by all workers of one thread. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Load(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    workload: RefCell<Workload>,
    recorder: RefCell<Recorder>,
    pace: RefCell<Pace>,
    phase: Cell<Phase>,
    asked: Cell<u64>,
    exhausted: Cell<bool>,
    under_way: Cell<u64>,
}

impl Load {
    pub(super) fn new(args: &BenchArgs, plan: Plan) -> Self {
        let rate = if plan == Plan::Fill { None } else { args.rate };
        Self(Rc::new(Shared {
            workload: RefCell::new(Workload::new(args, plan)),
            recorder: RefCell::new(Recorder::new()),
            pace: RefCell::new(Pace::new(rate, Instant::now())),
            phase: Cell::new(Phase::Warmup),
            asked: Cell::new(0),
            exhausted: Cell::new(false),
            under_way: Cell::new(0),
        }))
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        if phase == Phase::Measure {
            *self.recorder() = Recorder::new();
        }
        self.0.phase.set(phase);
    }

    pub(super) fn recorder(&self) -> RefMut<'_, Recorder> {
        self.0.recorder.borrow_mut()
    }

    /// Answers of the present phase.
    pub(super) fn completed(&self) -> u64 {
        self.0.recorder.borrow().completed()
    }

    /// Asked and not answered yet.
    pub(super) fn under_way(&self) -> u64 {
        self.0.under_way.get()
    }

    /// True when nothing new will be asked.
    pub(super) fn is_over(&self) -> bool {
        self.0.exhausted.get() || self.0.phase.get() == Phase::Drain
    }

    /// Bytes of each value.
    pub(super) fn value_size(&self) -> usize {
        self.0.workload.borrow().value_size()
    }

    /// The next operation for whichever worker has room for one. `idle_since`: the worker had room all the time since.
    pub(super) fn next(&self, idle_since: Option<Instant>) -> Next {
        let shared = &*self.0;
        if self.is_over() {
            return Next::Stop;
        }
        let due = match shared.pace.borrow_mut().take(Instant::now(), idle_since) {
            Ok(due) => due,
            Err(later) => return Next::Wait(later),
        };
        let Some(op) = shared.workload.borrow_mut().next(shared.asked.get()) else {
            shared.exhausted.set(true);
            return Next::Stop;
        };
        shared.asked.set(shared.asked.get() + 1);
        shared.under_way.set(shared.under_way.get() + 1);
        Next::Send(op, due)
    }

    /// An operation that [`Self::next`] gave is done.
    pub(super) fn done(&self, kind: Kind, due: Instant, outcome: Outcome) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
        self.recorder().add(kind, due.elapsed(), outcome);
    }
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It worked.
    Done,
    /// It worked: there is no such key.
    Absent,
    /// It did not, for this reason: a stable word.
    Failed(String),
}

/// Starts the workers that keep `concurrency` operations under way, spread evenly over the nodes.
pub(super) fn spawn(load: &Load, addresses: &[String], args: &BenchArgs) -> JoinSet<()> {
    let filling = load.0.workload.borrow().is_fill();
    let concurrency = if filling { args.concurrency.max(FILL_CONCURRENCY_MIN) } else { args.concurrency };
    let nodes = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let mut workers = JoinSet::new();
    for (index, address) in (0..nodes).zip(addresses) {
        let slots = concurrency / nodes + u32::from(index < concurrency % nodes);
        if slots == 0 {
            continue;
        }
        let (load, address) = (load.clone(), address.clone());
        match args.client {
            Link::Session => drop(workers.spawn_local(session::run(load, address, slots))),
            Link::Unary => drop(workers.spawn_local(unary::run(load, address, slots))),
        }
    }
    workers
}

/// When operations are due: at once, or at even distances.
#[derive(Debug)]
struct Pace {
    interval: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<f64>, now: Instant) -> Self {
        Self { interval: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)), next: now }
    }

    /// When the next operation was due, or when it will be. One that was due while its worker had room is late only
    /// because timers are coarse (1 ms): that is not the node's fault, so it counts from now.
    fn take(&mut self, now: Instant, idle_since: Option<Instant>) -> Result<Instant, Instant> {
        let Some(interval) = self.interval else { return Ok(now) };
        let due = self.next;
        if due > now {
            return Err(due);
        }
        self.next += interval;
        Ok(if idle_since.is_some_and(|since| since <= due) { now } else { due })
    }
}

/// Latencies and errors of one phase.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Of puts that worked, microseconds.
    pub(super) puts: Histogram<u64>,
    /// Of gets that worked, microseconds.
    pub(super) gets: Histogram<u64>,
    /// Gets of keys that are not there; they are among `gets`.
    pub(super) absent: u64,
    /// Operations that failed, by reason.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("1 to 600,000,000 at 3 digits is a valid histogram")
        };
        Self { puts: histogram(), gets: histogram(), absent: 0, errors: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, kind: Kind, latency: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Failed(reason) => return self.fail(&reason),
            Outcome::Absent => self.absent += 1,
            Outcome::Done => {}
        }
        let histogram = match kind {
            Kind::Put => &mut self.puts,
            Kind::Get => &mut self.gets,
        };
        histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Something went wrong for this reason, a stable word.
    pub(super) fn fail(&mut self, reason: &str) {
        match self.errors.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(reason.to_owned(), 1);
            }
        }
    }

    /// Operations that nobody answered in all the time they had.
    pub(super) fn unanswered(&mut self, count: u64) {
        if count > 0 {
            *self.errors.entry("UNANSWERED".to_owned()).or_default() += count;
        }
    }

    fn completed(&self) -> u64 {
        self.puts.len() + self.gets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_operation_counts_from_when_it_was_due() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1_000.0), start);
        let ms = Duration::from_millis;
        assert_eq!(pace.take(start, None), Ok(start));
        assert_eq!(pace.take(start, None), Err(start + ms(1)));
        // After a stall the operations that were due meanwhile keep their moments ...
        assert_eq!(pace.take(start + ms(50), None), Ok(start + ms(1)));
        assert_eq!(pace.take(start + ms(50), Some(start + ms(3))), Ok(start + ms(2)));
        // ... unless only the timer was late.
        assert_eq!(pace.take(start + ms(50), Some(start + ms(3))), Ok(start + ms(50)));
        assert_eq!(Pace::new(None, start).take(start + ms(9), None), Ok(start + ms(9)));
    }

    #[test]
    fn failures_are_counted_by_reason_and_are_no_latencies() {
        let mut recorder = Recorder::new();
        let ms = Duration::from_millis;
        recorder.add(Kind::Put, ms(2), Outcome::Done);
        recorder.add(Kind::Get, ms(1), Outcome::Absent);
        recorder.add(Kind::Get, ms(9), Outcome::Failed("TIMEOUT".to_owned()));
        recorder.unanswered(3);
        recorder.unanswered(0);
        assert_eq!((recorder.completed(), recorder.absent), (2, 1));
        assert_eq!(recorder.errors, BTreeMap::from([("TIMEOUT".to_owned(), 1), ("UNANSWERED".to_owned(), 3)]));
        assert_eq!(recorder.gets.max(), 1_000);
        recorder.add(Kind::Put, Duration::MAX, Outcome::Done);
        assert!(recorder.puts.max() >= LATENCY_US_MAX, "an endless operation is not lost");
    }
}
