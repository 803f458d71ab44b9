//! `moves`: what moves from node to node, how fast, and what it waits for; and following a change to its end.

use super::client::{Client, Failure, Retry, connect};
use super::output::{Output, progress, table};
use super::units;
use clap::Args;
use futures_util::future::join_all;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::{MemberStatus, MembersRequest, MoveWay, MovesRequest, MovesResponse, PartitionMove, Standing};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// Between two looks: rates are those of this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one node may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Partitions that people are shown, those that are under way first.
const SHOWN_MAX: usize = 40;
/// A change that does not go on for so long says why.
const STALLED: Duration = Duration::from_secs(10);

type Admin = AdminClient<Channel>;

/// `mks moves`
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct MovesArgs {
    /// Show it again every second until nothing moves
    #[arg(long)]
    watch: bool,
    /// Wait, with a progress bar, until all that was asked for so far has moved
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
}

pub(super) async fn moves(client: &Client, args: &MovesArgs, output: &Output) -> Result<(), Failure> {
    if args.wait {
        let ask = |mut admin: Admin| async move { admin.moves(MovesRequest {}).await };
        let MovesResponse { asked, leaving, .. } = client.admin(Retry::Read, ask).await?;
        wait(client, asked, &leaving, output).await?;
        return output.result(&json!({ "asked": asked, "done": true }), |_| "done: everything has moved".to_owned());
    }
    let mut before = look(client).await?;
    // A rate needs two looks; where nothing moves, one says it all.
    if before.is_over() {
        return output.result(&before.json(None), |_| before.text(None));
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look(client).await?;
        let clear = args.watch && !output.is_json() && std::io::stdout().is_terminal();
        output.result(&now.json(Some(&before)), |_| {
            let text = now.text(Some(&before));
            if clear { format!("\x1b[H\x1b[2J{text}") } else { text }
        })?;
        if !args.watch || now.is_over() {
            return Ok(());
        }
        before = now;
    }
}

/// What all nodes say at about one moment.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// What the node says that knows most.
    latest: MovesResponse,
    /// Each node's own part.
    moves: Vec<(u64, PartitionMove)>,
    /// Who can't be asked, and why.
    silent: Vec<(u64, String)>,
}

/// # Errors
/// When no node answers; those that don't while others do are part of the look.
async fn look(client: &Client) -> Result<Look, Failure> {
    let members = members(client).await?;
    let alive = members.iter().filter(|member| member.standing() != Standing::Dead);
    let answers = join_all(alive.map(async |member| (member.node, ask(&member.client_address).await))).await;
    let ask_any = |mut admin: Admin| async move { admin.moves(MovesRequest {}).await };
    let mut latest = client.admin(Retry::Read, ask_any).await?;
    let (mut moves, mut silent) = (Vec::new(), Vec::new());
    for (node, answer) in answers {
        match answer {
            Ok(mut answer) => {
                moves.extend(std::mem::take(&mut answer.moves).into_iter().map(|one| (node, one)));
                if answer.epoch > latest.epoch {
                    latest = answer;
                }
            }
            Err(reason) => silent.push((node, reason)),
        }
    }
    Ok(Look { at: Instant::now(), latest, moves, silent })
}

async fn members(client: &Client) -> Result<Vec<MemberStatus>, Failure> {
    let ask = |mut admin: Admin| async move { admin.members(MembersRequest {}).await };
    Ok(client.admin(Retry::Read, ask).await?.members)
}

async fn ask(address: &str) -> Result<MovesResponse, String> {
    let answer = async {
        let channel = connect(address).await?;
        let answer = AdminClient::new(channel).moves(MovesRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let silence = || format!("{address} did not answer within {} s", ANSWER_WAIT.as_secs());
    tokio::time::timeout(ANSWER_WAIT, answer).await.unwrap_or_else(|_| Err(silence()))
}

impl Look {
    fn is_over(&self) -> bool {
        let MovesResponse { asked, settled, change, leaving, keyspaces, .. } = &self.latest;
        settled >= asked && change.is_none() && leaving.is_empty() && keyspaces.is_empty() && self.moves.is_empty()
    }

    /// Milliseconds until the last partition is cut over, if it goes on as it did.
    fn eta_ms(&self) -> Option<u64> {
        let change = self.latest.change.as_ref()?;
        let done = u64::from(change.left_then.checked_sub(change.left).filter(|done| *done > 0)?);
        Some(change.known_ms.saturating_mul(u64::from(change.left)) / done)
    }

    /// Bytes per second of each move that was there before.
    fn rates(&self, before: Option<&Self>) -> BTreeMap<(u64, u32, i32), u64> {
        let Some(before) = before else { return BTreeMap::new() };
        let key = |node: u64, one: &PartitionMove| (node, one.partition, one.way);
        let known: BTreeMap<_, _> = before.moves.iter().map(|(node, one)| (key(*node, one), one.bytes)).collect();
        let ms = u64::try_from((self.at - before.at).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |(node, one): &(u64, PartitionMove)| {
            let moved = one.bytes.saturating_sub(*known.get(&key(*node, one))?);
            Some((key(*node, one), moved.saturating_mul(1_000) / ms))
        };
        self.moves.iter().filter_map(rate).collect()
    }

    fn json(&self, before: Option<&Self>) -> Value {
        let rates = self.rates(before);
        let MovesResponse { epoch, asked, settled, change, leaving, waits, keyspaces, .. } = &self.latest;
        json!({
            "epoch": epoch, "asked": asked, "settled": settled, "leaving": leaving, "waits": waits,
            "keyspaces": keyspaces,
            "over": self.is_over(),
            "change": change.as_ref().map(|change| json!({
                "id": change.id, "began": change.began, "partitions": change.partitions, "left": change.left,
                "closing": change.closing, "eta_ms": self.eta_ms(),
            })),
            "bytes_per_second": rates.values().sum::<u64>(),
            "moves": self.moves.iter().map(|(node, one)| json!({
                "node": node, "partition": one.partition, "way": way(one), "state": one.state,
                "peer": (one.peer != 0).then_some(one.peer), "compared": one.compared, "needed": one.needed,
                "records": one.records, "bytes": one.bytes,
                "bytes_per_second": rates.get(&(*node, one.partition, one.way)),
                "error": (!one.error.is_empty()).then_some(&one.error),
            })).collect::<Vec<_>>(),
            "silent": self.silent.iter().map(|(node, why)| json!({ "node": node, "why": why })).collect::<Vec<_>>(),
        })
    }

    fn text(&self, before: Option<&Self>) -> String {
        // Writing to a String can't fail.
        let mut text = String::new();
        let rates = self.rates(before);
        match &self.latest.change {
            Some(change) => {
                let eta = self.eta_ms().map_or_else(String::new, |ms| format!(", about {} left", units::span(ms)));
                let rate = units::bytes(rates.values().sum());
                let (id, done, all) = (change.id, change.partitions - change.left, change.partitions);
                let _ = writeln!(text, "change {id}: {done} of {all} partitions are moved, {rate}/s{eta}");
            }
            None if self.is_over() => text += "nothing moves",
            None => text += "no change of the table is under way\n",
        }
        for wait in &self.latest.waits {
            let _ = writeln!(text, "- {wait}");
        }
        for (node, why) in &self.silent {
            let _ = writeln!(text, "- node {node} can't be asked: {why}");
        }
        if self.moves.is_empty() {
            return text;
        }
        let mut shown: Vec<_> = self.moves.iter().collect();
        shown.sort_by_key(|(node, one)| (one.state == "waiting" && one.error.is_empty(), *node, one.partition));
        let header = ["node", "partition", "way", "state", "owners", "records", "bytes", "per second", "last error"];
        let mut rows = table(&header);
        for (node, one) in shown.iter().take(SHOWN_MAX) {
            let rate = rates.get(&(*node, one.partition, one.way));
            let peer = if one.peer == 0 { String::new() } else { format!(" with node {}", one.peer) };
            rows.add_row([
                node.to_string(),
                one.partition.to_string(),
                way(one).to_owned(),
                format!("{}{peer}", one.state),
                format!("{} of {}", one.compared, one.needed),
                one.records.to_string(),
                units::bytes(one.bytes),
                rate.map_or_else(String::new, |rate| units::bytes(*rate)),
                one.error.clone(),
            ]);
        }
        let _ = write!(text, "{rows}");
        if shown.len() > SHOWN_MAX {
            let _ = write!(text, "\nand {} more, which --json shows", shown.len() - SHOWN_MAX);
        }
        text
    }
}

fn way(one: &PartitionMove) -> &'static str {
    match one.way() {
        MoveWay::In => "in",
        MoveWay::Out => "out",
        MoveWay::Unspecified => "unknown",
    }
}

/// Waits, with a progress bar, until the first `asked` wishes are fulfilled and `leaving` have left.
///
/// # Errors
/// When no node answers any more; what was asked for goes on.
pub(super) async fn wait(client: &Client, asked: u64, leaving: &[u64], output: &Output) -> Result<(), Failure> {
    // The node that was asked may be the one that leaves.
    let others = members(client).await?.into_iter().filter(|member| !leaving.contains(&member.node));
    let mut addresses = client.addresses().to_vec();
    addresses.extend(others.map(|member| member.client_address));
    let mut known = BTreeSet::new();
    addresses.retain(|address| known.insert(address.clone()));
    let client = Client::new(&addresses)?;
    let bar = progress("moving", Some(0));
    let mut last = (Instant::now(), None);
    let mut said: Vec<String> = Vec::new();
    loop {
        let ask = |mut admin: Admin| async move { admin.moves(MovesRequest {}).await };
        let now = client.admin(Retry::Read, ask).await?;
        if is_fulfilled(&now, asked, leaving) {
            bar.finish_and_clear();
            return Ok(());
        }
        if let Some(change) = &now.change {
            bar.set_length(change.partitions.into());
            bar.set_position((change.partitions - change.left).into());
        }
        let step = now.change.as_ref().map(|change| (change.id, change.left, change.closing));
        if last.1 != Some(step) {
            last = (Instant::now(), Some(step));
        } else if last.0.elapsed() >= STALLED && said != now.waits {
            bar.suspend(|| now.waits.iter().for_each(|wait| output.remark(wait)));
            said = now.waits;
        }
        tokio::time::sleep(LOOK_EVERY / 4).await;
    }
}

/// A node that lags behind has not even heard of the wishes.
fn is_fulfilled(now: &MovesResponse, asked: u64, leaving: &[u64]) -> bool {
    now.settled >= asked && now.change.is_none() && !now.leaving.iter().any(|node| leaving.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_proto::v1::TableChange;

    fn one(partition: u32, state: &str, bytes: u64, error: &str) -> (u64, PartitionMove) {
        let way = MoveWay::In.into();
        let (state, error) = (state.to_owned(), error.to_owned());
        (4, PartitionMove { partition, way, state, bytes, error, needed: 2, ..PartitionMove::default() })
    }

    fn seen(at: Instant, left: u32, moves: Vec<(u64, PartitionMove)>) -> Look {
        let change =
            TableChange { id: 3, partitions: 192, left, left_then: 192, known_ms: 10_000, ..Default::default() };
        let waits = vec!["change 3: still to be fetched by n4".to_owned()];
        let latest = MovesResponse { asked: 1, settled: 1, change: Some(change), waits, ..Default::default() };
        Look { at, latest, moves, silent: vec![(2, "connection refused".to_owned())] }
    }

    #[test]
    fn moves_show_rate_rest_and_last_error() {
        let begin = Instant::now();
        let before = seen(begin, 192, vec![one(7, "comparing", 1 << 20, "")]);
        let moves = vec![one(7, "comparing", 5 << 20, "n2 can't be reached"), one(8, "waiting", 0, "")];
        let now = seen(begin + Duration::from_secs(2), 96, moves);
        let json = now.json(Some(&before));
        assert_eq!((&json["bytes_per_second"], &json["change"]["eta_ms"]), (&json!(2 << 20), &json!(10_000)));
        assert_eq!(json["moves"][1]["bytes_per_second"], Value::Null, "it was not there before");
        let text = now.text(Some(&before));
        for part in ["96 of 192", "2.0 MiB/s", "10.0 s left", "n2 can't be reached", "fetched by n4", "node 2 can't be"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!now.is_over());
    }

    #[test]
    fn many_partitions_that_only_wait_for_their_turn_are_counted() {
        let mut moves: Vec<_> = (0..60).map(|partition| one(partition, "waiting", 0, "")).collect();
        moves.push(one(99, "flushing", 1, ""));
        let text = seen(Instant::now(), 61, moves).text(None);
        assert!(text.contains("flushing") && text.contains("and 21 more"), "{text}");
    }

    #[test]
    fn a_wish_is_fulfilled_when_its_change_has_ended_and_who_leaves_has_left() {
        let mut now = seen(Instant::now(), 0, Vec::new()).latest;
        assert!(!is_fulfilled(&now, 1, &[]), "a change is under way");
        now.change = None;
        assert!(is_fulfilled(&now, 1, &[]));
        assert!(!is_fulfilled(&now, 2, &[]), "this node has not heard of it");
        now.leaving = vec![5];
        assert!(!is_fulfilled(&now, 1, &[5]) && is_fulfilled(&now, 1, &[4]));
    }
}
