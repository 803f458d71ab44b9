//! `put`, `get`, `del`: one key each.

use super::client::{Client, DurabilityArg, Failure, Retry, durability};
use super::output::Output;
use super::units;
use crate::token;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use mks_proto::v1::{
    DeleteRequest, GetRequest, GetResponse, Key, PutRequest, ReadOptions, Version, WriteOptions, WriteResponse,
};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::Duration;

/// Largest value that is read from a file or stdin; a node's own limit is usually far lower.
const INPUT_BYTES_MAX: u64 = 1 << 30;

/// Which key.
#[derive(Clone, Debug, Args)]
pub(super) struct KeyArgs {
    /// The key (its partition key, where a sort key is used)
    key: String,
    /// Sort key: items that share a partition key are ordered by it
    #[arg(long, value_name = "KEY", default_value = "")]
    sort: String,
    /// Keyspace
    #[arg(long, value_name = "NAME", default_value = "default")]
    keyspace: String,
}

impl KeyArgs {
    pub(super) fn key(&self) -> Key {
        Key {
            keyspace: self.keyspace.clone(),
            partition_key: Bytes::copy_from_slice(self.key.as_bytes()),
            sort_key: Bytes::copy_from_slice(self.sort.as_bytes()),
        }
    }
}

/// What a write may choose; what is left out is the keyspace's or the node's.
#[derive(Clone, Debug, Args)]
pub(super) struct WriteArgs {
    /// Owners that must hold the write before it counts
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    w: Option<u32>,
    /// What the acknowledgement promises
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    /// How long to wait: 250ms, 2s
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    deadline: Option<Duration>,
    /// 32 hex digits or a UUID: sent again to the same node, the write is not applied again
    #[arg(long, value_parser = units::request_id, value_name = "ID")]
    request_id: Option<[u8; 16]>,
    /// Let other nodes stand in for owners that are away: they count, and until they have handed the write over a
    /// quorum read may miss it
    #[arg(long)]
    sloppy: bool,
    /// Distinct zones that must hold the write; a node without a zone is one by itself
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255), value_name = "ZONES")]
    node_confirms: Option<u32>,
}

/// For a write of one key.
#[derive(Clone, Debug, Args)]
pub(super) struct ContextArgs {
    /// In a causal keyspace: the context that `mks get` told. The write supersedes what that get showed, and nothing
    /// else
    #[arg(long, value_parser = units::context, value_name = "TOKEN")]
    context: Option<Bytes>,
}

impl WriteArgs {
    pub(super) fn options(&self, ttl: Option<Duration>, context: Option<&Bytes>) -> WriteOptions {
        WriteOptions {
            context: context.cloned().unwrap_or_default(),
            w: self.w,
            durability: durability(self.durability).into(),
            deadline_ms: self.deadline.map(millis),
            ttl_ms: ttl.map(millis),
            request_id: self.request_id.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
            sloppy: self.sloppy,
            node_confirms: self.node_confirms.unwrap_or_default(),
        }
    }

    pub(super) const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    pub(super) const fn has_request_id(&self) -> bool {
        self.request_id.is_some()
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `mks put`
#[derive(Clone, Debug, Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// The value; `-` reads it from stdin
    #[arg(required_unless_present = "file", allow_negative_numbers = true)]
    value: Option<String>,
    /// Read the value from a file
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Lifetime of the value: 30s, 7d, or `never`
    #[arg(long, value_parser = units::time_to_live, value_name = "TIME")]
    ttl: Option<Duration>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    write: WriteArgs,
}

impl PutArgs {
    fn value(&self) -> anyhow::Result<Bytes> {
        let mut bytes = Vec::new();
        match (&self.file, self.value.as_deref()) {
            (Some(path), _) => {
                let file = std::fs::File::open(path).with_context(|| format!("can't read {}", path.display()))?;
                file.take(INPUT_BYTES_MAX).read_to_end(&mut bytes)?;
            }
            (None, Some("-")) => drop(std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut bytes)?),
            (None, value) => bytes.extend_from_slice(value.unwrap_or_default().as_bytes()),
        }
        anyhow::ensure!((bytes.len() as u64) < INPUT_BYTES_MAX, "the value is 1 GiB or more; no node takes that");
        Ok(bytes.into())
    }
}

pub(super) async fn put(client: &Client, args: &PutArgs, output: &Output) -> Result<(), Failure> {
    let options = Some(args.write.options(args.ttl, args.context.context.as_ref()));
    let request = PutRequest { key: Some(args.key.key()), value: args.value()?, options };
    let ask = |mut kv: super::client::Kv| {
        let request = request.clone();
        async move { kv.put(request).await }
    };
    report_write(&client.kv(Retry::Write, args.write.deadline(), ask).await?, output)
}

/// `mks del`
#[derive(Clone, Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub(super) async fn delete(client: &Client, args: &DeleteArgs, output: &Output) -> Result<(), Failure> {
    let options = args.write.options(None, args.context.context.as_ref());
    let request = DeleteRequest { key: Some(args.key.key()), options: Some(options) };
    let ask = |mut kv: super::client::Kv| {
        let request = request.clone();
        async move { kv.delete(request).await }
    };
    report_write(&client.kv(Retry::Write, args.write.deadline(), ask).await?, output)
}

fn report_write(written: &WriteResponse, output: &Output) -> Result<(), Failure> {
    remark_context(&written.context, output);
    output.result(&write_json(written), |_| {
        let WriteResponse { acks, hints, .. } = written;
        let owners = format!("OK, on {acks} owner{} at least", if *acks == 1 { "" } else { "s" });
        match hints {
            0 => owners,
            1 => format!("{owners}, and 1 other node keeps it for an owner that is away"),
            hints => format!("{owners}, and {hints} other nodes keep it for owners that are away"),
        }
    })
}

/// The hybrid clock as it is, and the Unix milliseconds in its upper 48 bits.
fn write_json(written: &WriteResponse) -> Value {
    json!({
        "written": written.written, "written_ms": written.written >> 16, "acks": written.acks,
        "hints": written.hints, "context": context_json(&written.context),
    })
}

/// Null outside of causal keyspaces.
fn context_json(context: &Bytes) -> Value {
    if context.is_empty() { Value::Null } else { token::to_text(context).into() }
}

/// Beside the answer, not in it: a pipe gets the value and nothing else.
fn remark_context(context: &Bytes, output: &Output) {
    if !context.is_empty() && !output.is_json() {
        output.remark(&format!("context: {}", token::to_text(context)));
    }
}

/// What a read may choose; what is left out is the keyspace's or the node's.
#[derive(Clone, Debug, Args)]
pub(super) struct ReadArgs {
    /// Owners that must answer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    r: Option<u32>,
    /// Distinct zones that must answer; a node without a zone is one by itself
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255), value_name = "ZONES")]
    node_confirms: Option<u32>,
    /// How long to wait: 250ms, 2s
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    deadline: Option<Duration>,
}

impl ReadArgs {
    pub(super) fn options(&self) -> ReadOptions {
        let node_confirms = self.node_confirms.unwrap_or_default();
        ReadOptions { r: self.r, deadline_ms: self.deadline.map(millis), node_confirms }
    }

    pub(super) const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
}

/// `mks get`
#[derive(Clone, Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn get(client: &Client, args: &GetArgs, output: &Output) -> Result<(), Failure> {
    let request = GetRequest { key: Some(args.key.key()), options: Some(args.read.options()) };
    let ask = |mut kv: super::client::Kv| {
        let request = request.clone();
        async move { kv.get(request).await }
    };
    let GetResponse { version, siblings, context } = match client.kv(Retry::Read, args.read.deadline(), ask).await {
        Err(Failure::Refused(detail)) if is_not_found(&detail) => {
            remark_context(&detail.context, output);
            return Err(Failure::NotFound);
        }
        answer => answer?,
    };
    let version = version.ok_or(Failure::NotFound)?;
    if output.is_json() {
        let siblings: Vec<_> = siblings.iter().map(version_json).collect();
        let mut found = version_json(&version);
        found["siblings"] = siblings.into();
        found["context"] = context_json(&context);
        return output.result(&found, |_| String::new());
    }
    remark_context(&context, output);
    if !siblings.is_empty() {
        let all = siblings.len() + 1;
        output
            .remark(&format!("note: {all} siblings, one after the other; --json tells them apart{}", settle(&context)));
    }
    output.raw(&version.value)?;
    for sibling in &siblings {
        output.raw(b"\n")?;
        output.raw(&sibling.value)?;
    }
    // A person's prompt starts on a line of its own; a pipe gets the bytes and nothing else.
    let unfinished = !siblings.last().unwrap_or(&version).value.ends_with(b"\n") && std::io::stdout().is_terminal();
    if unfinished { output.raw(b"\n") } else { Ok(()) }
}

/// How siblings become one.
fn settle(context: &Bytes) -> &'static str {
    if context.is_empty() { "" } else { ". `mks put KEY VALUE --context ...` with the context above makes one of them" }
}

/// A keyspace that does not exist has the same gRPC code, but is no answer about a key.
pub(super) fn is_not_found(detail: &mks_proto::v1::ErrorDetail) -> bool {
    detail.code == tonic::Code::NotFound as u32 && detail.reason != "UNKNOWN_KEYSPACE"
}

/// Both forms of the value, because JSON strings are not bytes: `value` is null where it is no UTF-8.
fn version_json(version: &Version) -> Value {
    json!({
        "value": std::str::from_utf8(&version.value).ok(),
        "value_base64": STANDARD.encode(&version.value),
        "written": version.written,
        "written_ms": version.written >> 16,
        "expires_ms": if version.expires_ms == 0 { None } else { Some(version.expires_ms) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_shows_bytes_that_are_no_text_as_base64_alone() {
        let text = version_json(&Version { value: "grüße".into(), written: 3 << 16 | 1, expires_ms: 9 });
        assert_eq!(text["value"], "grüße");
        assert_eq!(text["written_ms"], 3);
        assert_eq!(text["expires_ms"], 9);
        let binary = version_json(&Version { value: Bytes::from_static(&[0xff, 0]), ..Version::default() });
        assert_eq!(binary["value"], Value::Null);
        assert_eq!(binary["value_base64"], "/wA=");
        assert_eq!(binary["expires_ms"], Value::Null);
    }

    #[test]
    fn what_is_left_out_is_left_to_the_node() {
        let args = WriteArgs {
            w: None,
            durability: None,
            deadline: None,
            request_id: None,
            sloppy: false,
            node_confirms: None,
        };
        assert_eq!(args.options(None, None), WriteOptions::default());
        let args = WriteArgs { w: Some(2), deadline: Some(Duration::from_millis(7)), ..args };
        let options = args.options(Some(Duration::ZERO), Some(&Bytes::from_static(b"token")));
        assert_eq!((options.w, options.deadline_ms, options.ttl_ms), (Some(2), Some(7), Some(0)));
        assert_eq!(options.context, "token");
    }
}
