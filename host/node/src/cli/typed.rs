//! `apply`, `view`, and in everyday words `counter` and `set`: values of keyspaces with a data type.

use super::client::{Client, Failure, Retry};
use super::data::{KeyArgs, ReadArgs, WriteArgs, is_not_found};
use super::output::Output;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, Subcommand};
use mks_proto::v1::{ApplyRequest, ApplyResponse, ViewRequest, ViewResponse};
use serde_json::{Value, json};
use std::io::IsTerminal as _;

/// `mks apply`
#[derive(Clone, Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// The operation, as the data type takes it: `add 3`
    #[arg(required = true, allow_negative_numbers = true)]
    operation: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// `mks view`
#[derive(Clone, Debug, Args)]
pub(super) struct ViewArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// The question, as the data type takes it: `contains milk`; left out: the whole value
    question: Vec<String>,
    #[command(flatten)]
    read: ReadArgs,
}

/// `mks counter`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum CounterCommand {
    /// Count up, or down with a number below zero
    Add {
        #[command(flatten)]
        key: KeyArgs,
        /// How much
        #[arg(default_value = "1", allow_negative_numbers = true)]
        amount: i128,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Show what it has come to; what nobody counted is 0
    Get {
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        read: ReadArgs,
    },
}

/// `mks set`
#[derive(Clone, Debug, Subcommand)]
pub(super) enum SetCommand {
    /// Add items, one operation each
    Add(ItemsArgs),
    /// Remove items, wherever they were added, one operation each
    Rm(ItemsArgs),
    /// Show all items, one on each line
    Members {
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        read: ReadArgs,
    },
}

#[derive(Clone, Debug, Args)]
pub(super) struct ItemsArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Texts
    #[arg(required = true, allow_negative_numbers = true)]
    items: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub(super) async fn apply(client: &Client, args: &ApplyArgs, output: &Output) -> Result<(), Failure> {
    let operation = args.operation.join(" ");
    report(&operate(client, &args.key, &args.write, operation).await?, output)
}

pub(super) async fn view(client: &Client, args: &ViewArgs, output: &Output) -> Result<(), Failure> {
    let answer = ask(client, &args.key, &args.read, args.question.join(" ")).await?.ok_or(Failure::NotFound)?;
    if output.is_json() {
        let text = std::str::from_utf8(&answer).ok();
        let shown = json!({ "answer": text, "answer_base64": STANDARD.encode(&answer) });
        return output.result(&shown, |_| String::new());
    }
    output.raw(&answer)?;
    let unfinished = !answer.ends_with(b"\n") && std::io::stdout().is_terminal();
    if unfinished { output.raw(b"\n") } else { Ok(()) }
}

pub(super) async fn counter(client: &Client, command: &CounterCommand, output: &Output) -> Result<(), Failure> {
    match command {
        CounterCommand::Add { key, amount, write } => {
            let word = if *amount < 0 { "sub" } else { "add" };
            let operation = format!("{word} {}", amount.unsigned_abs());
            report(&operate(client, key, write, operation).await?, output)
        }
        CounterCommand::Get { key, read } => {
            let answer = ask(client, key, read, String::new()).await?;
            let text = answer.as_ref().map_or("0".into(), |answer| String::from_utf8_lossy(answer));
            let number = text.parse::<i64>().map_or_else(|_| Value::from(&*text), Value::from);
            output.result(&json!({ "value": number, "found": answer.is_some() }), |_| text.clone().into_owned())
        }
    }
}

pub(super) async fn set(client: &Client, command: &SetCommand, output: &Output) -> Result<(), Failure> {
    let (word, args) = match command {
        SetCommand::Add(args) => ("add", args),
        SetCommand::Rm(args) => ("remove", args),
        SetCommand::Members { key, read } => {
            let answer = ask(client, key, read, String::new()).await?.unwrap_or_else(|| Bytes::from_static(b"[]"));
            let members: Vec<String> = serde_json::from_slice(&answer).map_err(|_| {
                let text = String::from_utf8_lossy(&answer);
                anyhow::anyhow!("that is no set: its data type says {text:?}; `mks view` shows any value")
            })?;
            return output.result(&json!({ "members": members }), |_| members.join("\n"));
        }
    };
    if args.items.len() > 1 && args.write.has_request_id() {
        return Err(Failure::Usage("a request id is for one item: name one, or leave the id out".into()));
    }
    let mut done = Vec::with_capacity(args.items.len());
    for item in &args.items {
        done.push(operate(client, &args.key, &args.write, format!("{word} {item}")).await?);
    }
    if let [only] = &done[..] {
        return report(only, output);
    }
    let acks = done.iter().map(|applied| applied.acks).min().unwrap_or_default();
    let all: Vec<Value> = done.iter().map(applied_json).collect();
    output.result(&all, |_| format!("OK, {} items, each on {acks} owners at least", done.len()))
}

async fn operate(
    client: &Client,
    key: &KeyArgs,
    write: &WriteArgs,
    operation: String,
) -> Result<ApplyResponse, Failure> {
    let options = Some(write.options(None, None));
    let request = ApplyRequest { key: Some(key.key()), operation: operation.into(), options };
    let ask = |mut kv: super::client::Kv| {
        let request = request.clone();
        async move { kv.apply(request).await }
    };
    client.kv(Retry::Write, write.deadline(), ask).await
}

/// `None`: the key is absent.
async fn ask(client: &Client, key: &KeyArgs, read: &ReadArgs, question: String) -> Result<Option<Bytes>, Failure> {
    let request = ViewRequest { key: Some(key.key()), question: question.into(), options: Some(read.options()) };
    let ask = |mut kv: super::client::Kv| {
        let request = request.clone();
        async move { kv.view(request).await }
    };
    match client.kv(Retry::Read, read.deadline(), ask).await {
        Ok(ViewResponse { answer }) => Ok(Some(answer)),
        Err(Failure::Refused(detail)) if is_not_found(&detail) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn report(applied: &ApplyResponse, output: &Output) -> Result<(), Failure> {
    output.result(&applied_json(applied), |_| {
        let ApplyResponse { acks, reply, .. } = applied;
        let owners = format!("OK, on {acks} owner{} at least", if *acks == 1 { "" } else { "s" });
        match reply {
            Some(reply) => format!("{owners}: {}", String::from_utf8_lossy(reply)),
            None => owners,
        }
    })
}

fn applied_json(applied: &ApplyResponse) -> Value {
    let ApplyResponse { written, acks, hints, reply } = applied;
    json!({
        "written": written, "written_ms": written >> 16, "acks": acks, "hints": hints,
        "reply": reply.as_ref().map(|reply| String::from_utf8_lossy(reply)),
    })
}
