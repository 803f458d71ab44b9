//! `repair`: what a node holds is compared with the other owners now.

use super::client::{Client, Failure, Retry};
use super::follow::follow;
use super::output::Output;
use super::units;
use clap::Args;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::{RepairProgress, RepairRequest};
use serde_json::{Value, json};
use tonic::transport::Channel;

/// `mks repair`
#[derive(Clone, Debug, Args)]
pub(super) struct RepairArgs {
    /// Only this partition (see `mks ring`); left out: all that the node owns
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=65_535))]
    partition: Option<u32>,
}

pub(super) async fn repair(client: &Client, args: &RepairArgs, output: &Output) -> Result<(), Failure> {
    let partition = args.partition;
    let ask = |mut admin: AdminClient<Channel>| async move { admin.repair(RepairRequest { partition }).await };
    // Asking twice repairs twice, which changes nothing.
    let steps = client.admin(Retry::Read, ask).await?;
    let last = follow(steps, "comparing", "repair", |step: &RepairProgress| step.left).await?;
    output.result(&repair_json(&last), |_| repair_text(&last))
}

fn repair_json(done: &RepairProgress) -> Value {
    json!({
        "clean": done.clean, "mended": done.mended, "failed": done.failed, "plugin_drift": done.plugin_drift,
        "bytes": done.bytes, "records_sent": done.records_sent, "records_received": done.records_received,
    })
}

fn repair_text(done: &RepairProgress) -> String {
    let RepairProgress { clean, mended, failed, plugin_drift, records_sent, records_received, .. } = done;
    let mut text = format!(
        "{clean} comparisons found no difference, {mended} mended some: {records_sent} records sent, \
         {records_received} received, {} moved",
        units::bytes(done.bytes)
    );
    if *failed > 0 {
        text += &format!("\n{failed} did not end (an owner is away, busy or behind): the node tries again by itself");
    }
    if *plugin_drift > 0 {
        text += &format!("\nWARNING: {plugin_drift} found other resolver code on the other side, and moved nothing");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_repair_could_not_do_is_said() {
        let done = RepairProgress { clean: 5, mended: 1, records_sent: 70, ..RepairProgress::default() };
        let text = repair_text(&done);
        assert!(
            text.contains("70 records sent") && !text.contains("did not end") && !text.contains("WARNING"),
            "{text}"
        );
        let text = repair_text(&RepairProgress { failed: 3, plugin_drift: 2, ..done });
        assert!(text.contains("3 did not end") && text.contains("WARNING: 2"), "{text}");
        assert_eq!(repair_json(&done)["mended"], 1);
    }
}
