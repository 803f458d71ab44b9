//! The task that makes what this node holds follow what the epoch log says.
//!
//! What the log names is fetched, checked, compiled, and then said to be held; what it does not name any more is
//! removed. Code that fails too often here is put into quarantine for everybody.

use super::fetch::{Source, fetch};
use super::shelf::{Local, PluginError, Plugins, Progress};
use crate::clock::wall_ms;
use crate::epoch_log::EpochLog;
use mks_logic::cluster::{Entry, Plugin, REASON_BYTES_MAX, Standing, State};
use mks_logic::id::NodeId;
use mks_logic::port::ResolverHash;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// How often it looks whether something failed too often.
const PERIOD: Duration = Duration::from_millis(250);
/// What could not be got is tried again after this, and then after twice as long, and so on.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often it looks whether the files are still there.
const LOOK: Duration = Duration::from_secs(5);
/// Files that the log has not named for so long since the start are nobody's: an upload may be in the log before this
/// node hears of it.
const LEFTOVERS_AFTER: Duration = Duration::from_secs(600);

/// Runs until the log ends.
pub async fn keep(plugins: Arc<Plugins>, me: NodeId, log: Arc<dyn EpochLog>, source: Arc<dyn Source>) {
    let mut states = log.watch();
    let now = Instant::now();
    let mut keeper = Keeper {
        plugins,
        me,
        log,
        source,
        known: BTreeSet::new(),
        quarantined: BTreeSet::new(),
        retries: BTreeMap::new(),
        looked: now,
        leftovers_at: Some(now + LEFTOVERS_AFTER),
    };
    loop {
        let state = states.borrow_and_update().clone();
        keeper.round(&state).await;
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = keeper.plugins.nudge.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

struct Keeper {
    plugins: Arc<Plugins>,
    me: NodeId,
    log: Arc<dyn EpochLog>,
    source: Arc<dyn Source>,
    /// What the log named last time.
    known: BTreeSet<ResolverHash>,
    /// What was in quarantine last time.
    quarantined: BTreeSet<ResolverHash>,
    /// When to try again what failed, and how long to wait after that.
    retries: BTreeMap<ResolverHash, (Instant, Duration)>,
    looked: Instant,
    leftovers_at: Option<Instant>,
}

impl Keeper {
    async fn round(&mut self, state: &State) {
        if !state.members.contains_key(&self.me) {
            return;
        }
        self.clear_away(state);
        self.quarantine(state).await;
        if self.looked.elapsed() > LOOK {
            self.looked = Instant::now();
            for hash in self.plugins.without_file() {
                self.plugins.note(hash, Local::Missing("its file is gone".into()));
            }
        }
        for (hash, plugin) in &state.plugins {
            let ready = self.plugins.is_ready(*hash);
            // Nobody asks for what is in quarantine, and what breaks a law here would do so again and again.
            if !self.is_due(*hash) || (!ready && plugin.quarantine.is_some()) {
                continue;
            }
            if !ready && !self.get(state, *hash, plugin).await {
                self.again(*hash);
                continue;
            }
            let holds = Entry::HoldPlugin { plugin: *hash, node: self.me };
            if !plugin.holders.contains(&self.me) && !self.propose(holds).await {
                self.again(*hash);
                continue;
            }
            self.retries.remove(hash);
        }
    }

    fn clear_away(&mut self, state: &State) {
        let now: BTreeSet<ResolverHash> = state.plugins.keys().copied().collect();
        self.known.difference(&now).for_each(|gone| self.plugins.discard(*gone));
        self.retries.retain(|hash, _| now.contains(hash));
        self.known = now;
        if self.leftovers_at.is_some_and(|at| at <= Instant::now()) {
            self.leftovers_at = None;
            self.plugins.leftovers(state).into_iter().for_each(|hash| self.plugins.discard(hash));
        }
    }

    /// What fails too often here is quarantined everywhere; what was released may fail anew.
    async fn quarantine(&mut self, state: &State) {
        for (hash, reason) in self.plugins.suspended() {
            let Some(plugin) = state.plugins.get(&hash) else { continue };
            if plugin.quarantine.is_some() {
                continue;
            }
            if self.quarantined.remove(&hash) {
                self.plugins.resume(hash);
            } else if self.is_due(hash) && !self.say_quarantine(hash, plugin, &reason).await {
                self.again(hash);
            }
        }
        let quarantined = state.plugins.iter().filter(|(_, plugin)| plugin.quarantine.is_some());
        self.quarantined = quarantined.map(|(hash, _)| *hash).collect();
    }

    async fn say_quarantine(&self, hash: ResolverHash, plugin: &Plugin, reason: &str) -> bool {
        tracing::warn!(plugin = plugin.full_name(), reason, "a plugin is put into quarantine");
        let reason = shown(reason);
        self.propose(Entry::QuarantinePlugin { plugin: hash, node: self.me, reason }).await
    }

    /// From the disk, or from another member. False when it is not here and must be tried for again.
    async fn get(&mut self, state: &State, hash: ResolverHash, plugin: &Plugin) -> bool {
        if self.on_disk(hash, plugin).await {
            self.plugins.note(hash, Local::Ready);
            return true;
        }
        let addresses = addresses(state, self.me, plugin);
        let progress = |done| {
            self.plugins.note(hash, Local::Fetching(Progress { done, total: plugin.bytes }));
        };
        let fetched = fetch(&*self.source, &addresses, hash, plugin.bytes, progress).await;
        let taken = match fetched {
            Ok(bytes) => {
                self.plugins.bytes_fetched.fetch_add(bytes.len() as u64, Relaxed);
                self.taken(plugin, bytes).await.map_err(|error| (error.to_string(), error))
            }
            Err(reason) => {
                self.plugins.fetches_failed.fetch_add(1, Relaxed);
                self.plugins.note(hash, Local::Missing(format!("it can't be fetched: {reason}")));
                return false;
            }
        };
        match taken {
            Ok(()) => {
                tracing::info!(plugin = plugin.full_name(), bytes = plugin.bytes, "fetched, checked and compiled");
                self.plugins.note(hash, Local::Ready);
                true
            }
            Err((said, error)) => {
                tracing::warn!(plugin = plugin.full_name(), %error, "a plugin that was fetched can't be taken");
                if matches!(error, PluginError::Lawless { .. }) && plugin.quarantine.is_none() {
                    self.say_quarantine(hash, plugin, &said).await;
                }
                self.plugins.note(hash, Local::Missing(said));
                false
            }
        }
    }

    async fn on_disk(&self, hash: ResolverHash, plugin: &Plugin) -> bool {
        let (plugins, plugin) = (Arc::clone(&self.plugins), plugin.clone());
        let read = tokio::task::spawn_blocking(move || plugins.shelved(hash, &plugin));
        matches!(read.await, Ok(Ok(true)))
    }

    async fn taken(&self, plugin: &Plugin, bytes: Vec<u8>) -> Result<(), PluginError> {
        // Each member tries histories of its own.
        let (plugins, plugin, seed) = (Arc::clone(&self.plugins), plugin.clone(), self.me.0 << 32);
        let taken = tokio::task::spawn_blocking(move || plugins.take(&plugin, &bytes, seed));
        taken.await.map_err(|_| PluginError::Died)?
    }

    async fn propose(&self, entry: Entry) -> bool {
        let proposed = self.log.propose(entry.signed(self.me.to_string(), wall_ms())).await;
        proposed.inspect_err(|error| tracing::debug!(%error, "the epoch log did not take it")).is_ok()
    }

    fn is_due(&self, hash: ResolverHash) -> bool {
        self.retries.get(&hash).is_none_or(|(at, _)| *at <= Instant::now())
    }

    fn again(&mut self, hash: ResolverHash) {
        let pause = self.retries.get(&hash).map_or(RETRY_FIRST, |(_, pause)| (*pause * 2).min(RETRY_MAX));
        self.retries.insert(hash, (Instant::now() + pause, pause));
    }
}

/// Where to ask for it: those who have said that they hold it, then everybody else.
fn addresses(state: &State, me: NodeId, plugin: &Plugin) -> Vec<String> {
    let alive = state.members.iter().filter(|(node, member)| **node != me && member.standing != Standing::Dead);
    let mut members: Vec<_> = alive.collect();
    members.sort_by_key(|(node, _)| !plugin.holders.contains(node));
    members.into_iter().map(|(_, member)| member.addresses.peer.clone()).collect()
}

/// A reason as the log takes it.
fn shown(reason: &str) -> String {
    let mut shown: String = reason.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    let end = (0..=REASON_BYTES_MAX.min(shown.len())).rev().find(|at| shown.is_char_boundary(*at));
    shown.truncate(end.unwrap_or(0));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_cut_where_a_character_ends_and_hold_nothing_that_moves_a_cursor() {
        assert_eq!(shown("it\u{7}trapped\nhere"), "it trapped\nhere");
        let long = shown(&"\u{e4}".repeat(REASON_BYTES_MAX));
        assert!(long.len() <= REASON_BYTES_MAX && long.chars().all(|c| c == '\u{e4}'));
    }
}
