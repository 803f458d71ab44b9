//! What a node says about itself: whether it serves, and what its operator should know.

mod seals;
mod waits;

use crate::handle::{Handle, ScrubView};
use crate::plugins::Local;
use mks_logic::cluster::Quarantine;
use mks_logic::port::{Role, ShadowState, ShadowStats};

pub use seals::seal_waits;
pub use waits::waits;

/// Why clients are not served yet; `None` when they are.
#[must_use]
pub fn not_ready(handle: &Handle) -> Option<String> {
    let state = handle.state.load();
    if state.cluster == 0 {
        return Some("this node belongs to no cluster yet; it waits for one of its seeds".into());
    }
    if state.ring.is_none() {
        let (joined, expected) = (state.members.len(), state.expect);
        return Some(format!("the cluster is forming: {joined} of {expected} nodes have joined"));
    }
    if !handle.opening.is_done() {
        let (records, about) = (handle.opening.records(), handle.store_stats().records_estimate);
        return Some(format!(
            "this node opens the sums over its records; where there are none, it reads every record once: {records} of \
             about {about} so far"
        ));
    }
    let view = handle.view.load();
    if view.incarnation.0 == 0 {
        return Some("this node waits for its incarnation from the epoch log".into());
    }
    if !view.hears_clocks {
        return Some(
            "this node waits for the clock of another node: until then it can't tell whether its own is right".into(),
        );
    }
    None
}

/// Things that an operator should know, for people; most urgent first.
#[must_use]
pub fn warnings(handle: &Handle) -> Vec<String> {
    let (state, view) = (handle.state.load(), handle.view.load());
    let mut warnings: Vec<String> = not_ready(handle).into_iter().collect();
    if handle.epoch_log.status().leader.is_none() {
        warnings.push(
            "the epoch log has no leader: data is served, but the configuration can't change until a majority of the \
             voters is up"
                .into(),
        );
    }
    let limit_ms = handle.limits.clock_offset_max_ms;
    for peer in &view.peers {
        if peer.clock_offset_ms.unsigned_abs() > limit_ms {
            warnings.push(format!(
                "the clock of {} is {} ms off ours, the limit is {limit_ms} ms: check NTP on both, its writes are refused",
                peer.node, peer.clock_offset_ms
            ));
        }
        if !peer.alive {
            warnings.push(format!("{} does not answer gossip; its share of the writes waits for it", peer.node));
        }
    }
    warnings.extend(plugins(handle));
    if view.sync.plugin_drift > 0 {
        warnings.push(format!(
            "PLUGIN_DRIFT: {} comparisons since the start found that another owner settles conflicts with other \
             resolver code: they moved nothing; give all nodes the same version",
            view.sync.plugin_drift
        ));
    }
    warnings.extend(disk_lies(&view.scrub));
    warnings.extend(handle.store_stats().shadow.as_ref().and_then(shadow));
    warnings.extend(waits(handle, &state));
    warnings
}

/// Plugins that keyspaces can't rely on.
fn plugins(handle: &Handle) -> Vec<String> {
    let state = handle.state.load();
    let mut warnings = Vec::new();
    for (hash, plugin) in &state.plugins {
        let (name, keyspaces) = (plugin.full_name(), state.plugin_keyspaces(*hash).join(", "));
        if let Some(Quarantine { node, reason, .. }) = &plugin.quarantine {
            let meanwhile = match keyspaces.as_str() {
                "" => "no keyspace uses it".to_owned(),
                keyspaces => match plugin.role {
                    Role::Resolver => format!("keyspaces that keep all versions meanwhile: {keyspaces}"),
                    Role::Merger => format!("readers get all siblings meanwhile in keyspaces {keyspaces}"),
                    Role::DataType => format!(
                        "keyspaces that keep what they hold, and take no operations and no questions meanwhile: \
                         {keyspaces}"
                    ),
                },
            };
            warnings.push(format!(
                "plugin {name} is in quarantine, as {node} said: {reason}; {meanwhile}. Alter them to another one, or \
                 `mks plugin alter {name} --release`"
            ));
        } else if let Local::Missing(why) = handle.plugins.local(*hash) {
            warnings.push(lacking((&name, plugin.role), &keyspaces, &why, handle.plugins.runs(*hash)));
        }
    }
    warnings
}

/// This node does not have the code of a plugin, for this reason.
fn lacking((name, role): (&str, Role), keyspaces: &str, why: &str, runs: bool) -> String {
    let meanwhile = match (keyspaces, runs) {
        (_, true) => "what was loaded before still runs, until the node stops".to_owned(),
        ("", false) => "no keyspace uses it".to_owned(),
        (keyspaces, false) => match role {
            Role::Resolver => format!(
                "PLUGIN_DRIFT: it keeps all versions of keyspaces {keyspaces}, and compares with no other owner, until \
                 it has it"
            ),
            Role::Merger => format!(
                "PLUGIN_DRIFT: whoever reads keyspaces {keyspaces} through it gets all siblings, until it has it"
            ),
            Role::DataType => format!(
                "PLUGIN_DRIFT: operations and questions to keyspaces {keyspaces} fail through it, until it has it"
            ),
        },
    };
    format!("this node does not have the code of plugin {name}: {why}; {meanwhile}; it tries again")
}

/// A second engine that is not what its operator hopes for. The node itself does not depend on it.
fn shadow(stats: &ShadowStats) -> Option<String> {
    let ShadowStats { engine, state, reason, differing, .. } = stats;
    if *differing > 0 {
        return Some(format!(
            "the shadow of the store, on {engine}, differs from it in {differing} of {} entries that were compared, first: {}",
            stats.compared,
            stats.samples.join("; ")
        ));
    }
    let what = match state {
        ShadowState::Behind => "is behind and compares nothing any more",
        ShadowState::Failed => "has failed",
        _ => return None,
    };
    Some(format!("the shadow of the store, on {engine}, {what}: {reason}; the next start fills a new one"))
}

/// What the disk did since the start; it stays until the disk was looked at and the node started again.
fn disk_lies(scrub: &ScrubView) -> Option<String> {
    let figures = scrub.figures;
    let lies = figures.damaged + figures.altered + figures.unreadable;
    let waiting = match figures.waiting {
        0 => String::new(),
        waiting => format!(", {waiting} wait for another owner"),
    };
    (lies > 0).then(|| {
        format!(
            "the disk of this node does not hold what was written: {} damaged records ({} mended{waiting}), {} altered and \
             {} unreadable buckets since the start; check the disk",
            figures.damaged, figures.mended, figures.altered, figures.unreadable
        )
    })
}
