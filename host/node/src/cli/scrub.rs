//! `scrub`: a node looks at what its own disk holds now.

use super::client::{Client, Failure, Retry};
use super::follow::follow;
use super::output::Output;
use super::units;
use clap::Args;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::{DiskFault, ScrubProgress, ScrubRequest, ScrubStatus};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tonic::transport::Channel;

/// `mks scrub`
#[derive(Clone, Debug, Args)]
pub(super) struct ScrubArgs {
    /// Only this partition (see `mks ring`); left out: all that the node owns
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=65_535))]
    partition: Option<u32>,
}

pub(super) async fn scrub(client: &Client, args: &ScrubArgs, output: &Output) -> Result<(), Failure> {
    let partition = args.partition;
    let ask = |mut admin: AdminClient<Channel>| async move { admin.scrub(ScrubRequest { partition }).await };
    // Asking twice looks twice, which changes nothing.
    let steps = client.admin(Retry::Read, ask).await?;
    let last = follow(steps, "looking", "scrub", |step: &ScrubProgress| step.left).await?;
    output.result(&progress_json(&last), |_| progress_text(&last))
}

fn faults_json(faults: &[DiskFault]) -> Value {
    let fault = |fault: &DiskFault| {
        json!({
            "kind": fault.kind, "partition": fault.partition, "bucket": fault.bucket,
            "key": if fault.key.is_empty() { None } else { Some(&fault.key) }, "found_ms": fault.found_ms,
            "mended_ms": Some(fault.mended_ms).filter(|ms| *ms != 0),
        })
    };
    faults.iter().map(fault).collect()
}

fn progress_json(done: &ScrubProgress) -> Value {
    json!({
        "records": done.records, "bytes": done.bytes, "damaged": done.damaged, "altered": done.altered,
        "unreadable": done.unreadable, "mended": done.mended, "waiting": done.waiting,
        "faults": faults_json(&done.faults),
    })
}

fn progress_text(done: &ScrubProgress) -> String {
    let mut text = format!("looked at {} records ({}): ", done.records, units::bytes(done.bytes));
    if done.damaged + done.altered + done.unreadable == 0 {
        return text + "all of them are what was written";
    }
    // Writing to a String can't fail.
    let _ = write!(
        text,
        "{} damaged, {} buckets with other records than were written, {} unreadable",
        done.damaged, done.altered, done.unreadable
    );
    if done.waiting > 0 {
        let _ = write!(
            text,
            "\n{} are not read here until all owners were asked what they hold: `mks status` tells when",
            done.waiting
        );
    }
    text + &faults_text(&done.faults)
}

/// One line for each, led by a line break.
fn faults_text(faults: &[DiskFault]) -> String {
    let mut text = String::new();
    for fault in faults {
        let key = if fault.key.is_empty() { String::new() } else { format!(", key {}", fault.key) };
        let mended = match fault.mended_ms {
            0 => "not mended yet".to_owned(),
            ms => format!("mended after {}", units::span(ms.saturating_sub(fault.found_ms))),
        };
        let DiskFault { kind, partition, bucket, .. } = fault;
        let _ = write!(text, "\n  {kind}: partition {partition}, bucket {bucket}{key}, {mended}");
    }
    text
}

pub(super) fn status_json(status: &ScrubStatus) -> Value {
    json!({
        "passes": status.passes, "partitions_done": status.partitions_done, "partitions": status.partitions,
        "records": status.records, "bytes": status.bytes, "damaged": status.damaged, "altered": status.altered,
        "unreadable": status.unreadable, "mended": status.mended, "waiting": status.waiting,
        "faults": faults_json(&status.faults),
    })
}

/// One line, and one more for each fault.
pub(super) fn status_text(status: &ScrubStatus) -> String {
    let ScrubStatus { passes, partitions_done, partitions, damaged, altered, unreadable, mended, .. } = status;
    format!(
        "scrub: {passes} passes, now {partitions_done} of {partitions} partitions, {} looked at; {damaged} damaged \
         records ({mended} mended), {altered} altered and {unreadable} unreadable buckets{}",
        units::bytes(status.bytes),
        faults_text(&status.faults)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_did_is_named() {
        let done = ScrubProgress { records: 7, bytes: 900, ..ScrubProgress::default() };
        assert_eq!(progress_text(&done), "looked at 7 records (900 B): all of them are what was written");
        let fault = DiskFault {
            kind: "damaged".into(),
            partition: 3,
            bucket: 17,
            key: "00ff".into(),
            found_ms: 1_000,
            mended_ms: 0,
        };
        let bad = ScrubProgress { damaged: 1, waiting: 1, faults: vec![fault.clone()], ..done };
        let text = progress_text(&bad);
        assert!(
            text.contains("partition 3, bucket 17, key 00ff, not mended yet") && text.contains("1 are not read"),
            "{text}"
        );
        assert_eq!(progress_json(&bad)["faults"][0]["mended_ms"], Value::Null);
        let mended = DiskFault { mended_ms: 3_000, ..fault };
        let text = status_text(&ScrubStatus { passes: 2, damaged: 1, faults: vec![mended], ..ScrubStatus::default() });
        assert!(text.starts_with("scrub: 2 passes") && text.contains("mended after 2.0 s"), "{text}");
    }
}
