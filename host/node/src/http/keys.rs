//! Keys and values: raw bodies under `/v1`, and `/get` and `/set` for a first try with a browser or `curl`.

use super::BODY_TIMEOUT;
use super::answer::{CONTEXT, Refusal, put_context};
use super::params::{Params, keyspace_and_key};
use crate::fault::{Fault, Reason};
use crate::grpc::convert::{self, Checker};
use crate::handle::Handle;
use crate::token;
use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use mks_logic::event::{self, OpError};
use mks_proto::v1::{DeleteRequest, GetRequest, GetResponse, Key, PutRequest, Version, WriteResponse};
use serde_json::json;

/// Hybrid logical clock of a version, as [`mks_proto::v1::Version::written`] has it.
const WRITTEN: HeaderName = HeaderName::from_static("mks-written");
/// Unix milliseconds; absent: never.
const EXPIRES_MS: HeaderName = HeaderName::from_static("mks-expires-ms");
/// How many other versions no resolver settled; absent: none.
const SIBLINGS: HeaderName = HeaderName::from_static("mks-siblings");
/// Browsers must not take a stored value for a page of ours.
const NO_SNIFFING: (HeaderName, HeaderValue) = (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// What every write may choose.
const WRITE_PARAMS: [&str; 6] = ["w", "durability", "sloppy", "node_confirms", "deadline_ms", "request_id"];

/// `GET /v1/keyspaces/{keyspace}/keys/{key}?sort=&r=&node_confirms=&deadline_ms=`
pub(super) async fn get(State(handle): State<Handle>, uri: Uri) -> Response {
    let found = async {
        let mut params = Params::parse(query(&uri), &["sort", "r", "node_confirms", "deadline_ms"])?;
        let key = key_of(&uri, &mut params)?;
        read(&handle, GetRequest { key: Some(key), options: Some(params.read_options()?) }).await
    };
    answer(&handle, found.await.map(|found| raw(found, "application/octet-stream")))
}

/// `PUT /v1/keyspaces/{keyspace}/keys/{key}?sort=&ttl_ms=` and [`WRITE_PARAMS`], the value as body.
pub(super) async fn put(State(handle): State<Handle>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let written = async {
        same_site(&headers)?;
        let known = [&["sort", "ttl_ms"][..], &WRITE_PARAMS].concat();
        let mut params = Params::parse(query(&uri), &known)?;
        let (key, options) = (key_of(&uri, &mut params)?, params.write_options(context_of(&headers)?)?);
        let request = |value| PutRequest { key: Some(key.clone()), value, options: Some(options.clone()) };
        // Whatever is wrong with the rest is said before the body is read.
        check(&handle, |checker| checker.put(request(Bytes::new())))?;
        let value = read_body(body, handle.limits.value_bytes_max).await?;
        write(&handle, |checker| checker.put(request(value))).await
    };
    answer(&handle, written.await.map(written_json))
}

/// `DELETE /v1/keyspaces/{keyspace}/keys/{key}?sort=` and [`WRITE_PARAMS`]
pub(super) async fn delete(State(handle): State<Handle>, uri: Uri, headers: HeaderMap) -> Response {
    let written = async {
        same_site(&headers)?;
        let mut params = Params::parse(query(&uri), &[&["sort"][..], &WRITE_PARAMS].concat())?;
        let (key, options) = (key_of(&uri, &mut params)?, params.write_options(context_of(&headers)?)?);
        let request = DeleteRequest { key: Some(key), options: Some(options) };
        write(&handle, |checker| checker.delete(request)).await
    };
    answer(&handle, written.await.map(written_json))
}

/// `GET /get?key=`: the value as text.
pub(super) async fn get_text(State(handle): State<Handle>, uri: Uri) -> Response {
    let found = async {
        let key = text_key(Params::parse(query(&uri), &["key"])?.take("key"))?;
        read(&handle, GetRequest { key: Some(key), options: None }).await
    };
    answer(&handle, found.await.map(|found| raw(found, "text/plain; charset=utf-8")))
}

/// `GET|POST /set?key=&value=`. A POST may have the value, or a form with both, as its body.
pub(super) async fn set_text(
    State(handle): State<Handle>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let written = async {
        same_site(&headers)?;
        let mut params = Params::parse(query(&uri), &["key", "value"])?;
        let (mut key, mut value) = (params.take("key"), params.take("value"));
        if method == Method::POST && value.is_none() {
            // Every byte of a form may take three.
            let max = 3 * (handle.limits.value_bytes_max + handle.limits.key_bytes_max);
            let body = read_body(body, max).await?;
            if is_form(&headers) && key.is_none() {
                let mut form = Params::parse(&body, &["key", "value"])?;
                (key, value) = (form.take("key"), form.take("value"));
            } else {
                value = Some(body);
            }
        }
        let key = text_key(key)?;
        let value = value.ok_or_else(|| Fault::invalid("there is no value; ask for /set?key=KEY&value=VALUE"))?;
        write(&handle, |checker| checker.put(PutRequest { key: Some(key), value, options: None })).await
    };
    answer(&handle, written.await.map(|_| "ok\n".into_response()))
}

async fn read(handle: &Handle, request: GetRequest) -> Result<GetResponse, Refusal> {
    let request = check(handle, |checker| checker.get(request))?;
    let seals = handle.seals(&request);
    Ok(convert::found(handle.call(request).await, &seals)?)
}

async fn write(
    handle: &Handle,
    make: impl FnOnce(Checker<'_>) -> Result<event::Request, Fault>,
) -> Result<WriteResponse, Refusal> {
    let request = check(handle, make)?;
    let seals = handle.seals(&request);
    Ok(convert::written(handle.call(request).await, &seals)?)
}

fn check<T>(handle: &Handle, make: impl FnOnce(Checker<'_>) -> Result<T, Fault>) -> Result<T, Refusal> {
    let state = handle.state.load();
    Ok(make(Checker::new(&handle.limits, &state, &handle.tokens))?)
}

/// The whole body, refused as soon as it is known to be too long: where its length is announced, before any of it.
async fn read_body(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let too_large = |bytes: u64| Fault::from(OpError::TooLarge { what: "the value", bytes, max: max as u64 });
    let announced = body.size_hint().lower();
    if announced > max as u64 {
        return Err(too_large(announced).into());
    }
    let collect = async {
        let mut chunks = body.into_data_stream();
        let mut all = BytesMut::new();
        let mut first = Bytes::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Fault::invalid(format!("the body is broken: {error}")))?;
            if first.is_empty() && all.is_empty() {
                // A body of one chunk is not copied.
                first = chunk;
            } else {
                if all.is_empty() {
                    all.reserve(usize::try_from(announced).unwrap_or(max).max(first.len()));
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&chunk);
            }
            let read = all.len().max(first.len());
            if read > max {
                return Err(Refusal::from(too_large(read as u64)));
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    };
    tokio::time::timeout(BODY_TIMEOUT, collect).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s; send it faster", BODY_TIMEOUT.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "SLOW_BODY", message))
    })
}

/// A page of somebody else must not write through the browser of whoever looks at it.
fn same_site(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        let message = "a web page of another site asked for this write; it was refused";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "CROSS_SITE", message));
    }
    Ok(())
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/x-www-form-urlencoded")
}

/// What the writer says that it has seen.
fn context_of(headers: &HeaderMap) -> Result<Bytes, Fault> {
    let token = headers.get(CONTEXT).map(|value| token::from_text(value.as_bytes())).transpose();
    Ok(token
        .map_err(|error| Fault::new(Reason::BadContext, format!("the header {CONTEXT}: {error}")))?
        .unwrap_or_default())
}

fn query(uri: &Uri) -> &[u8] {
    uri.query().unwrap_or_default().as_bytes()
}

fn key_of(uri: &Uri, params: &mut Params) -> Result<Key, Fault> {
    let (keyspace, partition_key) = keyspace_and_key(uri.path())?;
    Ok(Key { keyspace, partition_key, sort_key: params.take("sort").unwrap_or_default() })
}

fn text_key(key: Option<Bytes>) -> Result<Key, Fault> {
    let partition_key = key.ok_or_else(|| Fault::invalid("there is no key; give it as ?key=KEY"))?;
    Ok(Key { partition_key, ..Key::default() })
}

fn answer(handle: &Handle, result: Result<Response, Refusal>) -> Response {
    result.unwrap_or_else(|refusal| refusal.counted(handle))
}

/// One value as it is. Of several nobody can say which is meant: then all of them as JSON, under the status that says
/// so.
fn raw(found: GetResponse, kind: &'static str) -> Response {
    if !found.siblings.is_empty() {
        return siblings(found);
    }
    let version = found.version.unwrap_or_default();
    let mut response = ([(CONTENT_TYPE, HeaderValue::from_static(kind)), NO_SNIFFING], version.value).into_response();
    let headers = response.headers_mut();
    headers.insert(WRITTEN, version.written.into());
    if version.expires_ms > 0 {
        headers.insert(EXPIRES_MS, version.expires_ms.into());
    }
    put_context(headers, &found.context);
    response
}

fn siblings(found: GetResponse) -> Response {
    let others = found.siblings.len();
    // Clocks are strings: JSON numbers of many readers end at 2^53.
    let sibling = |version: Version| {
        json!({
            "value": std::str::from_utf8(&version.value).ok(),
            "value_base64": STANDARD.encode(&version.value),
            "written": version.written.to_string(),
            "expires_ms": if version.expires_ms == 0 { None } else { Some(version.expires_ms) },
        })
    };
    let all: Vec<_> = found.version.into_iter().chain(found.siblings).map(sibling).collect();
    let mut response = (StatusCode::MULTIPLE_CHOICES, Json(json!({ "siblings": all }))).into_response();
    response.headers_mut().insert(SIBLINGS, others.into());
    put_context(response.headers_mut(), &found.context);
    response
}

/// The clock is a string: JSON numbers of many readers end at 2^53.
fn written_json(written: WriteResponse) -> Response {
    let stamp = written.written.to_string();
    let json = json!({ "written": stamp, "acks": written.acks, "hints": written.hints });
    let mut response = Json(json).into_response();
    put_context(response.headers_mut(), &written.context);
    response
}
