//! `epoch`: what changed in the configuration lately, when, and by whom.

use super::client::{Client, Failure, Retry};
use super::output::{Output, table};
use super::units;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::{EpochEvent, EpochsRequest, EpochsResponse};
use serde_json::{Value, json};
use tonic::transport::Channel;

pub(super) async fn epoch(client: &Client, output: &Output) -> Result<(), Failure> {
    let ask = |mut admin: AdminClient<Channel>| async move { admin.epochs(EpochsRequest {}).await };
    let epochs = client.admin(Retry::Read, ask).await?;
    output.result(&epochs_json(&epochs), |_| epochs_text(&epochs))
}

fn epochs_json(epochs: &EpochsResponse) -> Value {
    json!({
        "epoch": epochs.epoch,
        "events": epochs.events.iter().map(|event| json!({
            "epoch": event.epoch, "at_ms": event.at_ms, "who": event.who, "what": event.what, "times": event.times,
        })).collect::<Vec<_>>(),
    })
}

fn epochs_text(epochs: &EpochsResponse) -> String {
    let mut rows = table(&["epoch", "when (UTC)", "who", "what"]);
    for EpochEvent { epoch, at_ms, who, what, times } in &epochs.events {
        let when = if *at_ms == 0 { String::new() } else { units::moment(*at_ms) };
        let what = if *times > 1 { format!("{what} ({times} times)") } else { what.clone() };
        rows.add_row([epoch.to_string(), when, who.clone(), what]);
    }
    format!("epoch {}\n{rows}", epochs.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_when_who_and_what() {
        let event =
            EpochEvent { epoch: 9, at_ms: 1_000, who: "ann@desk".into(), what: "n4 shall leave".into(), times: 2 };
        let text = epochs_text(&EpochsResponse { epoch: 11, events: vec![event] });
        for part in ["epoch 11", "1970-01-01 00:00:01", "ann@desk", "n4 shall leave (2 times)"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
