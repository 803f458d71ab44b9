//! How often the code of keyspaces failed lately, and when that is too often.
//!
//! A failure never decides, so code that always fails loses nothing; but each endless loop costs its deadline.
//! After [`FAULTS_MAX`] failures within [`WINDOW`] a node stops asking by itself, until the cluster has decided what to
//! do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures within [`WINDOW`] after which it is not asked any more.
pub(crate) const FAULTS_MAX: usize = 5;
/// See [`FAULTS_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The same as whether there is a reason, for those who only want to know that.
    suspended: AtomicBool,
    lately: Mutex<Lately>,
}

#[derive(Debug, Default)]
struct Lately {
    times: VecDeque<Instant>,
    reason: Option<String>,
}

impl Faults {
    /// Another failure, at `now`.
    pub(crate) fn note(&self, now: Instant, reason: &str) {
        let mut lately = self.lately();
        lately.times.retain(|then| now.saturating_duration_since(*then) < WINDOW);
        lately.times.push_back(now);
        if lately.times.len() >= FAULTS_MAX && lately.reason.is_none() {
            lately.reason = Some(format!("{FAULTS_MAX} failures within a minute, the last one: {reason}"));
            self.suspended.store(true, Ordering::Release);
        }
    }

    /// It is not asked any more.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Why it is not asked any more.
    pub(crate) fn reason(&self) -> Option<String> {
        if self.is_suspended() { self.lately().reason.clone() } else { None }
    }

    /// It may be asked again, and starts anew.
    pub(crate) fn forgive(&self) {
        *self.lately() = Lately::default();
        self.suspended.store(false, Ordering::Release);
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_failures_in_a_short_time_are_too_many() {
        let (faults, begin) = (Faults::default(), Instant::now());
        for i in 0..20 {
            faults.note(begin + WINDOW * i / 4, "it trapped");
        }
        assert_eq!((faults.is_suspended(), faults.reason()), (false, None), "four within each minute");
        let later = begin + WINDOW * 10;
        for i in 0..FAULTS_MAX as u32 {
            assert!(!faults.is_suspended());
            faults.note(later + Duration::from_secs(u64::from(i)), &format!("trap {i}"));
        }
        assert!(faults.reason().expect("suspended").contains("5 failures within a minute, the last one: trap 4"));
        faults.note(later, "another");
        assert!(faults.reason().expect("suspended").contains("trap 4"), "the first reason stays");
        faults.forgive();
        faults.note(later, "another");
        assert!(!faults.is_suspended());
    }
}
