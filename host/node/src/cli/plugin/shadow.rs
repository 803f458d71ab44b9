//! `plugin shadow`: what a plugin would have made of conflicts that another one settled.

use super::live::{name, plugin_json};
use crate::cli::client::{Client, Failure, Retry, signed};
use crate::cli::output::Output;
use crate::cli::units;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::alter_plugin_request::Change;
use mks_proto::v1::{AlterPluginRequest, PluginShadow, ShadowSample, ShadowValue, ShadowVersion};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tonic::transport::Channel;

/// `mks plugin shadow`
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct ShadowArgs {
    /// name@version, its name if there is one version of it, or the first digits of its hash
    plugin: String,
    /// The keyspace whose conflicts it is asked about
    #[arg(long, value_name = "NAME")]
    keyspace: String,
    /// It is asked no more
    #[arg(long)]
    off: bool,
}

pub(super) async fn shadow(client: &Client, args: &ShadowArgs, output: &Output) -> Result<(), Failure> {
    let ShadowArgs { plugin, keyspace, off } = args;
    let change = if *off { Change::ShadowOff(keyspace.clone()) } else { Change::Shadow(keyspace.clone()) };
    let ask = |mut admin: AdminClient<Channel>| {
        let request = signed(AlterPluginRequest { plugin: plugin.clone(), change: Some(change.clone()) });
        async move { admin.alter_plugin(request).await }
    };
    let altered = client.admin(Retry::Write, ask).await?;
    let (plugin, epoch) = (altered.plugin.unwrap_or_default(), altered.epoch);
    output.result(&plugin_json(&plugin), |_| {
        let name = name(&plugin);
        if *off {
            return format!("{name} shadows keyspace {keyspace} no more (epoch {epoch})");
        }
        format!(
            "{name} shadows keyspace {keyspace} (epoch {epoch}): it is asked about each conflict after it was settled, and \
             decides nothing\nnext: mks plugin show {name}"
        )
    })
}

pub(super) fn json(shadow: &PluginShadow) -> Value {
    json!({
        "keyspace": shadow.keyspace, "beside": shadow.beside, "runs": shadow.runs,
        "conflicts": shadow.conflicts, "differs": shadow.differs, "failures": shadow.failures,
        "dropped": shadow.dropped,
        "failure": if shadow.failure.is_empty() { None } else { Some(&shadow.failure) },
        "samples": shadow.samples.iter().map(sample_json).collect::<Vec<_>>(),
    })
}

fn sample_json(sample: &ShadowSample) -> Value {
    let value = |value: &ShadowValue| {
        json!({
            "bytes": value.bytes, "head": std::str::from_utf8(&value.head).ok(),
            "head_base64": STANDARD.encode(&value.head),
        })
    };
    let version = |v: &ShadowVersion| {
        json!({
            "node": v.node, "incarnation": v.incarnation, "counter": v.counter, "written": v.written, "size": v.size,
            "tombstone": v.tombstone, "digest": format!("{:016x}", v.digest), "kept": v.kept,
            "shadow_keeps": v.shadow_keeps,
        })
    };
    json!({
        "at_ms": sample.at_ms,
        "key": std::str::from_utf8(&sample.partition_key).ok(), "key_base64": STANDARD.encode(&sample.partition_key),
        "sort": std::str::from_utf8(&sample.sort_key).ok(), "sort_base64": STANDARD.encode(&sample.sort_key),
        "versions": sample.versions.iter().map(version).collect::<Vec<_>>(), "versions_all": sample.versions_all,
        "value": sample.value.as_ref().map(value), "shadow_value": sample.shadow_value.as_ref().map(value),
    })
}

/// Lines about it, and about each sample, the newest first.
pub(super) fn lines(shadow: &PluginShadow, plugin: &str, node: u64) -> Vec<String> {
    let PluginShadow { keyspace, beside, conflicts, differs, failures, dropped, .. } = shadow;
    let rests = if shadow.runs { "" } else { "; one of the two is in quarantine, so it is not asked" };
    let mut lines = vec![
        format!("{keyspace}, beside {beside}{rests}"),
        format!(
            "  on node {node}: asked about {conflicts} conflicts, settles {differs} otherwise, no answer to {failures}, \
             {dropped} passed over"
        ),
    ];
    if !shadow.failure.is_empty() {
        lines.push(format!("  its last failure: {}", shadow.failure));
    }
    for sample in shadow.samples.iter().rev() {
        let mut key = format!("{:?}", String::from_utf8_lossy(&sample.partition_key));
        if !sample.sort_key.is_empty() {
            let _ = write!(key, " {:?}", String::from_utf8_lossy(&sample.sort_key));
        }
        let (all, shown) = (sample.versions_all, sample.versions.len());
        let more = if shown < all as usize { format!(", {shown} of them here") } else { String::new() };
        lines.push(format!("  {} {key}: {all} versions{more}", units::moment(sample.at_ms)));
        lines.extend(sample.versions.iter().map(|version| format!("    {}", version_line(version, beside, plugin))));
        for (who, value) in [(beside.as_str(), &sample.value), (plugin, &sample.shadow_value)] {
            if let Some(ShadowValue { bytes, head }) = value {
                let more = if (head.len() as u64) < *bytes { " ..." } else { "" };
                let head = String::from_utf8_lossy(head);
                lines.push(format!("    {who} makes {bytes} bytes of them: {head:?}{more}"));
            }
        }
    }
    lines
}

fn version_line(version: &ShadowVersion, beside: &str, plugin: &str) -> String {
    let ShadowVersion { node, incarnation, counter, written, size, digest, .. } = version;
    let what = if version.tombstone { "delete".to_owned() } else { format!("{size} bytes, hash {digest:016x}") };
    // The low 16 bits of a hybrid clock count within a millisecond.
    let when = units::moment(written >> 16);
    let kept = match (version.kept, version.shadow_keeps) {
        (true, true) => format!("kept by {beside} and {plugin}"),
        (true, false) => format!("kept by {beside}"),
        (false, true) => format!("kept by {plugin}"),
        (false, false) => "kept by neither".to_owned(),
    };
    format!("n{node}.{incarnation}.{counter} of {when}, {what}: {kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_who_keeps_what() {
        let version = |node, size, kept| ShadowVersion { node, size, kept, shadow_keeps: !kept, ..Default::default() };
        let sample = ShadowSample {
            at_ms: 1_000,
            partition_key: "note".into(),
            versions: vec![version(1, 12, false), version(2, 5, true)],
            versions_all: 3,
            shadow_value: Some(ShadowValue { bytes: 90, head: "a, b".into() }),
            ..ShadowSample::default()
        };
        let shadow = PluginShadow {
            keyspace: "drafts".into(),
            beside: "lww".into(),
            conflicts: 7,
            differs: 1,
            failure: "it trapped".into(),
            samples: vec![sample],
            ..PluginShadow::default()
        };
        let text = lines(&shadow, "biggest@0.1.0", 3).join("\n");
        for part in [
            "drafts, beside lww; one of the two is in quarantine",
            "on node 3: asked about 7 conflicts, settles 1 otherwise",
            "1970-01-01 00:00:01 \"note\": 3 versions, 2 of them here",
            "n1.0.0 of 1970-01-01 00:00:00, 12 bytes, hash 0000000000000000: kept by biggest@0.1.0",
            "5 bytes, hash 0000000000000000: kept by lww",
            "biggest@0.1.0 makes 90 bytes of them: \"a, b\" ...",
            "it trapped",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = json(&shadow);
        assert_eq!((&json["samples"][0]["key"], &json["failure"]), (&"note".into(), &"it trapped".into()));
        assert_eq!(json["samples"][0]["versions"][1]["kept"], true);
    }
}
