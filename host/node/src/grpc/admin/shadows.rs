//! What is known on this node of a plugin that shadows others.

use crate::plugins::Shadows;
use mks_logic::cluster::State;
use mks_logic::port::ResolverHash;
use mks_logic::shadow::{Page, Sample, SampleValue, SampleVersion};
use mks_proto::v1::{PluginShadow, ShadowSample, ShadowValue, ShadowVersion};

/// The keyspaces that a plugin shadows, and where it differs.
pub(super) fn shown(shadows: &Shadows, state: &State, plugin: ResolverHash) -> Vec<PluginShadow> {
    let settings = state.shadowed().into_iter().filter(|(_, shadow)| shadow.candidate == plugin);
    let of = |(id, shadow): (_, mks_logic::cluster::Shadow)| {
        let keyspace = state.keyspaces.get(&id)?;
        // This node may hear of it a moment later.
        let page = shadows.page(id).filter(|page| page.shadow.is_like(&shadow));
        let Page { figures, failure, samples, .. } = page.unwrap_or_else(|| Page::new(shadow));
        Some(PluginShadow {
            keyspace: keyspace.name.clone(),
            beside: keyspace.resolver.clone(),
            runs: shadow.runs,
            conflicts: figures.conflicts,
            differs: figures.differs,
            failures: figures.failures,
            dropped: figures.dropped,
            failure: failure.unwrap_or_default(),
            samples: samples.into_iter().map(sample).collect(),
        })
    };
    settings.filter_map(of).collect()
}

fn sample(sample: Sample) -> ShadowSample {
    let Sample { key, versions, versions_all, active, candidate, at_ms } = sample;
    ShadowSample {
        at_ms,
        partition_key: key.partition_key,
        sort_key: key.sort_key,
        versions: versions.into_iter().map(version).collect(),
        versions_all: u32::try_from(versions_all).unwrap_or(u32::MAX),
        value: active.map(value),
        shadow_value: candidate.map(value),
    }
}

fn version(version: SampleVersion) -> ShadowVersion {
    ShadowVersion {
        node: version.dot.node.0,
        incarnation: version.dot.incarnation.0,
        counter: version.dot.counter,
        written: version.written,
        size: version.size,
        tombstone: version.tombstone,
        digest: version.digest,
        kept: version.active,
        shadow_keeps: version.candidate,
    }
}

fn value(SampleValue { bytes, head }: SampleValue) -> ShadowValue {
    ShadowValue { bytes: bytes as u64, head }
}
