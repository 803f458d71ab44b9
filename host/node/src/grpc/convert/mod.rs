//! Between the contract's messages and the requests of `logic`: everything is checked here, before the pump sees it.

mod check;
mod forward;
mod timeout;

pub use check::Checker;
pub(crate) use check::durability;
pub use forward::{Malformed, decode_reply, decode_request, encode_reply, encode_request};
pub use timeout::timeout_of;

use crate::fault::Fault;
use mks_logic::event::{Answer, Reply};
use mks_logic::time::Hlc;
use mks_logic::version;
use mks_proto::v1::{
    BatchResponse, BatchResult, GetResponse, SessionResult, Version, WriteResponse, batch_result, session_result,
};

/// The answer to a put or a delete.
///
/// # Errors
/// What the reply says.
pub fn written(reply: Reply) -> Result<WriteResponse, Fault> {
    match reply? {
        Answer::Written { written, acks } => Ok(write_response(written, acks)),
        Answer::Found { .. } | Answer::Batch { .. } => Err(Fault::wrong_answer()),
    }
}

/// The answer to a get; `None`: the key is absent.
///
/// # Errors
/// What the reply says.
pub fn found(reply: Reply) -> Result<Option<GetResponse>, Fault> {
    match reply? {
        Answer::Found { versions } => Ok(get_response(versions)),
        Answer::Written { .. } | Answer::Batch { .. } => Err(Fault::wrong_answer()),
    }
}

/// The answer to a batch: one result for each item, in order.
///
/// # Errors
/// What the reply says about the batch as a whole.
pub fn batch(reply: Reply) -> Result<BatchResponse, Fault> {
    match reply? {
        Answer::Batch { replies } => Ok(batch_response(replies)),
        Answer::Written { .. } | Answer::Found { .. } => Err(Fault::wrong_answer()),
    }
}

/// The answer to an operation of a session, under the client's number.
#[must_use]
pub fn session_result(id: u64, reply: Reply) -> SessionResult {
    use session_result::Result;
    let result = match reply {
        Ok(Answer::Written { written, acks }) => Result::Written(write_response(written, acks)),
        Ok(Answer::Found { versions }) => get_response(versions).map_or(Result::NotFound(true), Result::Found),
        Ok(Answer::Batch { replies }) => Result::Batch(batch_response(replies)),
        Err(error) => Result::Error(Fault::from(error).into()),
    };
    SessionResult { id, result: Some(result) }
}

/// The answer to an operation of a session that was refused before the pump saw it.
#[must_use]
pub fn session_fault(id: u64, fault: Fault) -> SessionResult {
    SessionResult { id, result: Some(session_result::Result::Error(fault.into())) }
}

fn write_response(written: Hlc, acks: u8) -> WriteResponse {
    WriteResponse { written: written.0, acks: acks.into() }
}

fn get_response(versions: Vec<version::Version>) -> Option<GetResponse> {
    let mut versions = versions.into_iter().map(|version| Version {
        value: version.value.unwrap_or_default(),
        written: version.written.0,
        expires_ms: version.expires_ms,
    });
    let version = versions.next()?;
    Some(GetResponse { version: Some(version), siblings: versions.collect() })
}

fn batch_response(replies: Vec<Reply>) -> BatchResponse {
    use batch_result::Result;
    let one = |reply| match written(reply) {
        Ok(response) => Result::Written(response),
        Err(fault) => Result::Error(fault.into()),
    };
    BatchResponse { results: replies.into_iter().map(|reply| BatchResult { result: Some(one(reply)) }).collect() }
}
