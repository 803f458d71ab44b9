//! Seals in `mks status`.

use mks_proto::v1::SealStatus;
use serde_json::{Value, json};

pub(super) fn status_json(status: &SealStatus) -> Value {
    json!({
        "closed": status.closed, "sealed": status.sealed, "waits": status.waits, "purging": status.purging,
        "purged": status.purged,
    })
}

/// One line, and one more for each thing that is waited for.
pub(super) fn status_text(status: &SealStatus) -> String {
    let SealStatus { closed, sealed, waits, purging, purged } = status;
    let (least, most) = (sealed.iter().min().copied().unwrap_or(0), sealed.iter().max().copied().unwrap_or(0));
    let upto = if least == most { format!("epoch {least}") } else { format!("epochs {least} to {most}") };
    let rest = if *purging == 0 { String::new() } else { format!(", {purging} partitions are being purged") };
    let mut text = format!(
        "seals: partitions are sealed up to {upto}, epoch {closed} is closed; {purged} tombstones removed since the \
         start{rest}"
    );
    for wait in waits {
        text += &format!("\n  the next seal waits: {wait}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_and_what_the_next_seal_waits_for_is_said() {
        let status =
            SealStatus { closed: 9, sealed: vec![7, 9], waits: vec!["for n3".into()], ..SealStatus::default() };
        let text = status_text(&status);
        assert!(text.contains("epochs 7 to 9") && text.contains("epoch 9 is closed"), "{text}");
        assert!(text.ends_with("the next seal waits: for n3") && !text.contains("being purged"), "{text}");
        let even = SealStatus { sealed: vec![9, 9], purging: 2, ..status };
        assert!(status_text(&even).contains("up to epoch 9, ") && status_text(&even).contains("2 partitions"));
    }
}
