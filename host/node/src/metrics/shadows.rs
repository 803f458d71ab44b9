//! Figures of candidates that shadow the resolvers of keyspaces.

use super::{Sample, SampleKind};
use crate::plugins::Shadows;
use mks_logic::cluster::State;
use mks_logic::shadow::Figures;

type Figure = (&'static str, &'static str, fn(&Figures) -> u64);

const FIGURES: [Figure; 4] = [
    ("shadow_conflicts", "Settled conflicts about which a candidate was asked too", |f| f.conflicts),
    ("shadow_differs", "Conflicts that the candidate would have settled otherwise", |f| f.differs),
    ("shadow_failures", "Conflicts to which the candidate had no answer", |f| f.failures),
    ("shadow_dropped", "Settled conflicts about which the candidate was not asked", |f| f.dropped),
];

/// One of each for each keyspace that is shadowed.
pub(crate) fn shadow_samples(shadows: &Shadows, state: &State) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (keyspace, shadow) in shadows.settings().iter() {
        let (Some(page), Some(named)) = (shadows.page(*keyspace), state.keyspaces.get(keyspace)) else { continue };
        let plugin =
            state.plugins.get(&shadow.candidate).map_or_else(String::new, mks_logic::cluster::Plugin::full_name);
        samples.extend(FIGURES.map(|(name, help, of)| Sample {
            name: name.into(),
            help: help.into(),
            kind: SampleKind::Counter,
            labels: vec![("keyspace", named.name.clone()), ("plugin", plugin.clone())],
            value: of(&page.figures) as f64,
        }));
    }
    samples
}
