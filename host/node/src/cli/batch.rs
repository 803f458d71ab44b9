//! `batch`: many puts and deletes from JSON lines, sent as a few requests.

use super::client::{Client, Failure, Retry, detail_json};
use super::data::WriteArgs;
use super::output::{Output, progress};
use super::units;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use mks_proto::v1::batch_result::Result as ItemResult;
use mks_proto::v1::{BatchItem, BatchRequest, BatchResult, ErrorDetail, Key};
use serde::Deserialize;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of keys and values in one request, well under a node's default limit of 16 MiB.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Longest line that is read, in bytes: a value of 16 MiB as base64, and its key.
const LINE_BYTES_MAX: u64 = 32 << 20;
/// Failed items that are told one by one; the summary counts all of them.
const FAILURES_SHOWN_MAX: usize = 20;

const FORMAT: &str = r#"Each line is one JSON object, a put with a value or a delete without one:
  {"put": "user:1", "value": "text"}
  {"put": "user:2", "sort": "2024-05-01", "value_base64": "AAEC"}
  {"delete": "user:3"}
"sort" is the sort key. In causal keyspaces "context" is the token that `mks get --json` told. For keys that are no text: "put_base64", "delete_base64", "sort_base64".
Empty lines are skipped. Each item stands alone: there is no atomicity across keys. The exit code is 1 if any item
failed, 4 if all that failed did so for want of owners."#;

/// `mks batch`
#[derive(Clone, Debug, Args)]
#[command(after_help = FORMAT)]
pub(super) struct BatchArgs {
    /// File with JSON lines; `-` is stdin
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Keyspace
    #[arg(long, value_name = "NAME", default_value = "default")]
    keyspace: String,
    /// Lifetime of the values: 30s, 7d, or `never`
    #[arg(long, value_parser = units::time_to_live, value_name = "TIME")]
    ttl: Option<Duration>,
    /// Items in one request
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    items: u32,
    #[command(flatten)]
    write: WriteArgs,
}

/// One line as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Line {
    put: Option<String>,
    put_base64: Option<String>,
    delete: Option<String>,
    delete_base64: Option<String>,
    sort: Option<String>,
    sort_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    context: Option<String>,
}

/// Reads one line.
fn parse(text: &str, keyspace: &str) -> Result<BatchItem, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let put = either(line.put, line.put_base64, "put")?;
    let delete = either(line.delete, line.delete_base64, "delete")?;
    let value = either(line.value, line.value_base64, "value")?;
    let sort_key = either(line.sort, line.sort_base64, "sort")?.unwrap_or_default();
    let context = line.context.map(|text| units::context(&text)).transpose()?.unwrap_or_default();
    let (partition_key, value) = match (put, delete, value) {
        (Some(key), None, Some(value)) => (key, Some(value)),
        (Some(_), None, None) => return Err("a put needs \"value\" or \"value_base64\"".to_owned()),
        (None, Some(key), None) => (key, None),
        (None, Some(_), Some(_)) => return Err("a delete has no value".to_owned()),
        _ => return Err("needs either \"put\" or \"delete\" with a key".to_owned()),
    };
    Ok(BatchItem { key: Some(Key { keyspace: keyspace.to_owned(), partition_key, sort_key }), value, context })
}

fn either(text: Option<String>, base64: Option<String>, name: &str) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("\"{name}\" and \"{name}_base64\" exclude each other")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(code)) => {
            let bytes = STANDARD.decode(code).map_err(|error| format!("\"{name}_base64\" is no base64: {error}"))?;
            Ok(Some(bytes.into()))
        }
        (None, None) => Ok(None),
    }
}

/// The items of one request, with the line that each came from.
#[derive(Default)]
struct Chunk {
    items: Vec<BatchItem>,
    lines: Vec<u64>,
    bytes: usize,
}

/// Reads lines until the next request is full; an empty chunk is the end of the input.
struct Reader<R> {
    input: R,
    line: u64,
    keyspace: String,
    items_max: usize,
    /// Did not fit into the chunk before.
    held_back: Option<(u64, BatchItem, usize)>,
}

impl<R: BufRead> Reader<R> {
    fn next_chunk(&mut self) -> anyhow::Result<Chunk> {
        let mut chunk = Chunk::default();
        while chunk.items.len() < self.items_max {
            let Some((line, item, bytes)) =
                self.held_back.take().map_or_else(|| self.next_item(), |held| Ok(Some(held)))?
            else {
                break;
            };
            if !chunk.items.is_empty() && chunk.bytes + bytes > REQUEST_BYTES_MAX {
                self.held_back = Some((line, item, bytes));
                break;
            }
            chunk.items.push(item);
            chunk.lines.push(line);
            chunk.bytes += bytes;
        }
        Ok(chunk)
    }

    fn next_item(&mut self) -> anyhow::Result<Option<(u64, BatchItem, usize)>> {
        let mut text = String::new();
        loop {
            text.clear();
            self.line += 1;
            let line = self.line;
            let read = std::io::Read::take(&mut self.input, LINE_BYTES_MAX)
                .read_line(&mut text)
                .with_context(|| format!("line {line}: can't be read"))?;
            anyhow::ensure!((read as u64) < LINE_BYTES_MAX, "line {line}: is longer than {LINE_BYTES_MAX} bytes");
            if read == 0 {
                return Ok(None);
            }
            if text.trim().is_empty() {
                continue;
            }
            let item = parse(text.trim(), &self.keyspace).map_err(|reason| anyhow::anyhow!("line {line}: {reason}"))?;
            let key = item.key.as_ref().map_or(0, |key| key.partition_key.len() + key.sort_key.len());
            let bytes = key + item.value.as_ref().map_or(0, Bytes::len);
            return Ok(Some((line, item, bytes)));
        }
    }
}

/// What came of all items so far.
#[derive(Default)]
struct Tally {
    written: u64,
    failed: u64,
    /// Of those, for want of owners.
    missed: u64,
    shown: Vec<(u64, ErrorDetail)>,
}

impl Tally {
    fn add(&mut self, lines: &[u64], results: Vec<BatchResult>) {
        for (line, BatchResult { result }) in lines.iter().zip(results) {
            let detail = match result {
                Some(ItemResult::Written(_)) => {
                    self.written += 1;
                    continue;
                }
                Some(ItemResult::Error(detail)) => detail,
                None => ErrorDetail { message: "the node gave no result".to_owned(), ..ErrorDetail::default() },
            };
            self.failed += 1;
            self.missed += u64::from(Failure::Refused(Box::new(detail.clone())).exit_code() == 4);
            if self.shown.len() < FAILURES_SHOWN_MAX {
                self.shown.push((*line, detail));
            }
        }
    }
}

pub(super) async fn batch(client: &Client, args: &BatchArgs, output: &Output) -> Result<(), Failure> {
    let input: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let path = &args.file;
        Box::new(BufReader::new(std::fs::File::open(path).with_context(|| format!("can't read {}", path.display()))?))
    };
    let mut reader =
        Reader { input, line: 0, keyspace: args.keyspace.clone(), items_max: args.items as usize, held_back: None };
    let options = args.write.options(args.ttl, None);
    if !options.request_id.is_empty() {
        return Err(Failure::Usage("--request-id names one request, a batch is many; leave it out".to_owned()));
    }
    let mut tally = Tally::default();
    let bar = progress("items", None);
    loop {
        let chunk = reader.next_chunk().with_context(|| format!("{} items were written before", tally.written))?;
        if chunk.items.is_empty() {
            break;
        }
        let request = BatchRequest { items: chunk.items, options: Some(options.clone()) };
        let ask = |mut kv: super::client::Kv| {
            let request = request.clone();
            async move { kv.batch(request).await }
        };
        let response = client.kv(Retry::Write, args.write.deadline(), ask).await.inspect_err(|_| {
            output.remark(&format!("stopped at line {}; {} items were written before", chunk.lines[0], tally.written));
        })?;
        bar.inc(chunk.lines.len() as u64);
        tally.add(&chunk.lines, response.results);
    }
    bar.finish_and_clear();
    report(&tally, output)
}

fn report(tally: &Tally, output: &Output) -> Result<(), Failure> {
    let failures: Vec<_> = tally
        .shown
        .iter()
        .map(|(line, detail)| {
            let mut failure = detail_json(detail);
            failure["line"] = (*line).into();
            failure
        })
        .collect();
    let summary = json!({ "written": tally.written, "failed": tally.failed, "failures": failures });
    output.result(&summary, |_| format!("{} written, {} failed", tally.written, tally.failed))?;
    if tally.failed == 0 {
        return Ok(());
    }
    if !output.is_json() {
        for (line, detail) in &tally.shown {
            output.remark(&format!("line {line}: {}", Failure::Refused(Box::new(detail.clone()))));
        }
    }
    let reason = if tally.missed == tally.failed { "TIMEOUT" } else { "BATCH_FAILED" };
    let message = format!(
        "{} items failed; sending all lines again is safe where the values are meant to be the last",
        tally.failed
    );
    Err(Failure::Refused(Box::new(ErrorDetail { reason: reason.to_owned(), message, ..ErrorDetail::default() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &str, items_max: usize) -> Reader<&[u8]> {
        Reader { input: text.as_bytes(), line: 0, keyspace: "k".to_owned(), items_max, held_back: None }
    }

    #[test]
    fn a_line_is_a_put_or_a_delete() {
        let item = parse(r#"{"put": "a", "sort": "s", "value": "1"}"#, "k").unwrap();
        let key = item.key.unwrap();
        assert_eq!((key.keyspace.as_str(), &key.partition_key[..], &key.sort_key[..]), ("k", &b"a"[..], &b"s"[..]));
        assert_eq!(item.value.as_deref(), Some(&b"1"[..]));
        let item = parse(r#"{"delete_base64": "/wA="}"#, "k").unwrap();
        assert_eq!((&item.key.unwrap().partition_key[..], item.value), (&[0xff, 0][..], None));
        assert_eq!(parse(r#"{"put": "a", "value": ""}"#, "k").unwrap().value.as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_line_that_is_neither_is_refused_with_the_reason() {
        for (line, piece) in [
            ("{}", "either \"put\" or \"delete\""),
            (r#"{"put": "a"}"#, "a put needs \"value\""),
            (r#"{"delete": "a", "value": "1"}"#, "a delete has no value"),
            (r#"{"put": "a", "delete": "a"}"#, "either"),
            (r#"{"put": "a", "put_base64": "YQ==", "value": ""}"#, "exclude each other"),
            (r#"{"put": "a", "value_base64": "?"}"#, "no base64"),
            (r#"{"put": "a", "value": 1}"#, "invalid type"),
            (r#"{"put": "a", "valeu": "1"}"#, "unknown field `valeu`"),
            ("put a 1", "expected"),
        ] {
            let error = parse(line, "k").unwrap_err();
            assert!(error.contains(piece), "{line}: {error}");
        }
    }

    #[test]
    fn requests_are_cut_by_count_and_by_bytes_and_lose_nothing() {
        let mut reader = reader("{\"delete\":\"a\"}\n\n{\"delete\":\"b\"}\n{\"delete\":\"c\"}", 2);
        assert_eq!(reader.next_chunk().unwrap().lines, [1, 3]);
        assert_eq!(reader.next_chunk().unwrap().lines, [4]);
        assert!(reader.next_chunk().unwrap().items.is_empty());

        let big = format!("{{\"put\":\"a\",\"value\":\"{}\"}}\n", "x".repeat(REQUEST_BYTES_MAX / 2));
        let text = big.repeat(3);
        let mut reader = self::reader(&text, 100);
        assert_eq!(reader.next_chunk().unwrap().lines, [1]);
        assert_eq!(reader.next_chunk().unwrap().lines, [2]);
        assert_eq!(reader.next_chunk().unwrap().lines, [3]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let mut reader = reader("{\"delete\":\"a\"}\nnonsense\n", 10);
        assert!(reader.next_chunk().map(drop).unwrap_err().to_string().starts_with("line 2: "));
    }

    #[test]
    fn every_item_is_counted_with_its_line() {
        let mut tally = Tally::default();
        let written = BatchResult { result: Some(ItemResult::Written(Default::default())) };
        let late = ErrorDetail { reason: "TIMEOUT".into(), ..ErrorDetail::default() };
        let late = BatchResult { result: Some(ItemResult::Error(late)) };
        tally.add(&[1, 5, 9], vec![written, late, BatchResult { result: None }]);
        assert_eq!((tally.written, tally.failed, tally.missed), (1, 2, 1));
        assert_eq!(tally.shown.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [5, 9]);
    }
}
