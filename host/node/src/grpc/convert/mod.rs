//! Between the contract's messages and the requests of `logic`: everything is checked here, before the pump sees it.

mod check;
mod forward;
mod timeout;

pub use check::Checker;
pub(crate) use check::durability;
pub use forward::{Malformed, decode_reply, decode_request, encode_reply, encode_request};
pub use timeout::timeout_of;

use crate::fault::{Fault, Reason};
use crate::token::Seals;
use bytes::Bytes;
use mks_logic::event::{Answer, Reply};
use mks_logic::time::Hlc;
use mks_logic::version;
use mks_proto::v1::{
    ApplyResponse, BatchResponse, BatchResult, GetResponse, SessionResult, Version, ViewResponse, WriteResponse,
    batch_result, session_result,
};

/// The answer to a put or a delete.
///
/// # Errors
/// What the reply says.
pub fn written(reply: Reply, seals: &Seals) -> Result<WriteResponse, Fault> {
    written_part(reply, seals, 0)
}

fn written_part(reply: Reply, seals: &Seals, part: usize) -> Result<WriteResponse, Fault> {
    match reply? {
        Answer::Written { written, acks, hints, context } => {
            Ok(write_response(written, (acks, hints), seals.seal(part, context.as_ref())))
        }
        _ => Err(Fault::wrong_answer()),
    }
}

/// The answer to a get.
///
/// # Errors
/// What the reply says; [`Reason::NotFound`] when the key is absent.
pub fn found(reply: Reply, seals: &Seals) -> Result<GetResponse, Fault> {
    match reply? {
        Answer::Found { versions, context } => {
            let token = seals.seal(0, context.as_ref());
            let absent = |context| Fault { context, ..Fault::new(Reason::NotFound, "the key is absent") };
            get_response(versions, token).map_err(absent)
        }
        _ => Err(Fault::wrong_answer()),
    }
}

/// The answer to a batch: one result for each item, in order.
///
/// # Errors
/// What the reply says about the batch as a whole.
pub fn batch(reply: Reply, seals: &Seals) -> Result<BatchResponse, Fault> {
    match reply? {
        Answer::Batch { replies } => Ok(batch_response(replies, seals)),
        _ => Err(Fault::wrong_answer()),
    }
}

/// The answer to an operation on a data type.
///
/// # Errors
/// What the reply says.
pub fn applied(reply: Reply) -> Result<ApplyResponse, Fault> {
    match reply? {
        Answer::Applied { written, acks, hints, reply } => Ok(apply_response(written, (acks, hints), reply)),
        _ => Err(Fault::wrong_answer()),
    }
}

/// The answer to a question to a data type.
///
/// # Errors
/// What the reply says; [`Reason::NotFound`] when the key is absent.
pub fn viewed(reply: Reply) -> Result<ViewResponse, Fault> {
    match reply? {
        Answer::Viewed { answer: Some(answer) } => Ok(ViewResponse { answer }),
        Answer::Viewed { answer: None } => Err(Fault::new(Reason::NotFound, "the key is absent")),
        _ => Err(Fault::wrong_answer()),
    }
}

fn apply_response(written: Hlc, (acks, hints): (u8, u8), reply: Option<Bytes>) -> ApplyResponse {
    ApplyResponse { written: written.0, acks: acks.into(), hints: hints.into(), reply }
}

/// The answer to an operation of a session, under the client's number.
#[must_use]
pub fn session_result(id: u64, seals: &Seals, reply: Reply) -> SessionResult {
    use session_result::Result;
    let mut absent = Bytes::new();
    let result = match reply {
        Ok(Answer::Written { written, acks, hints, context }) => {
            Result::Written(write_response(written, (acks, hints), seals.seal(0, context.as_ref())))
        }
        Ok(Answer::Found { versions, context }) => match get_response(versions, seals.seal(0, context.as_ref())) {
            Ok(found) => Result::Found(found),
            Err(context) => {
                absent = context;
                Result::NotFound(true)
            }
        },
        Ok(Answer::Applied { written, acks, hints, reply }) => {
            Result::Applied(apply_response(written, (acks, hints), reply))
        }
        Ok(Answer::Viewed { answer: Some(answer) }) => Result::Viewed(ViewResponse { answer }),
        Ok(Answer::Viewed { answer: None }) => Result::NotFound(true),
        Ok(Answer::Batch { replies }) => Result::Batch(batch_response(replies, seals)),
        Err(error) => Result::Error(Fault::from(error).into()),
    };
    SessionResult { id, context: absent, result: Some(result) }
}

/// The answer to an operation of a session that was refused before the pump saw it.
#[must_use]
pub fn session_fault(id: u64, fault: Fault) -> SessionResult {
    SessionResult { id, context: Bytes::new(), result: Some(session_result::Result::Error(fault.into())) }
}

fn write_response(written: Hlc, (acks, hints): (u8, u8), context: Bytes) -> WriteResponse {
    WriteResponse { written: written.0, acks: acks.into(), hints: hints.into(), context }
}

/// `Err`: there is no version; the context as it was.
fn get_response(versions: Vec<version::Version>, context: Bytes) -> Result<GetResponse, Bytes> {
    let mut versions = versions.into_iter().map(|version| Version {
        value: version.value.unwrap_or_default(),
        written: version.written.0,
        expires_ms: version.expires_ms,
    });
    match versions.next() {
        Some(version) => Ok(GetResponse { version: Some(version), siblings: versions.collect(), context }),
        None => Err(context),
    }
}

fn batch_response(replies: Vec<Reply>, seals: &Seals) -> BatchResponse {
    use batch_result::Result;
    let one = |(part, reply)| match written_part(reply, seals, part) {
        Ok(response) => Result::Written(response),
        Err(fault) => Result::Error(fault.into()),
    };
    let results = replies.into_iter().enumerate().map(|reply| BatchResult { result: Some(one(reply)) });
    BatchResponse { results: results.collect() }
}
