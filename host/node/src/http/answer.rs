//! Errors as JSON: `{"error": {"code": 504, "reason": "TIMEOUT", "message": "...", ...}}`.

use crate::fault::{Fault, Reason};
use crate::handle::Handle;
use crate::metrics::Surface;
use crate::token;
use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

/// Seconds after which trying again makes sense when the reason passes.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// What a reader of a causal keyspace has seen, and what a writer there says that it has seen: a token, as base64url.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("mks-context");

/// Why there is no good answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
    /// Owners that certainly did it, that were needed, of all, and hints; where owners were asked.
    tally: Option<[u8; 4]>,
    passes: bool,
    blames_input: bool,
    /// Of an absent key.
    context: Bytes,
}

impl Refusal {
    /// A refusal of something that no client should have sent.
    pub(super) fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
            tally: None,
            passes: false,
            blames_input: true,
            context: Bytes::new(),
        }
    }

    /// The same request may succeed a moment later; the client is not to blame.
    pub(super) fn passing(self) -> Self {
        Self { passes: true, blames_input: false, ..self }
    }

    /// The response, after the counter for nonsense went up if it is.
    pub(super) fn counted(self, handle: &Handle) -> Response {
        if self.blames_input {
            handle.metrics.malformed(Surface::Http);
        }
        self.into_response()
    }
}

/// Puts the token of what a reader has seen into a header; none where there is none.
pub(super) fn put_context(headers: &mut HeaderMap, context: &Bytes) {
    if !context.is_empty()
        && let Ok(value) = HeaderValue::from_str(&token::to_text(context))
    {
        headers.insert(CONTEXT, value);
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = match fault.reason {
            Reason::NotFound
            | Reason::UnknownKeyspace
            | Reason::UnknownResolver
            | Reason::UnknownNode
            | Reason::UnknownPlugin => StatusCode::NOT_FOUND,
            Reason::Invalid | Reason::BadContext | Reason::BadPlugin | Reason::Lawless | Reason::OperationRefused => {
                StatusCode::BAD_REQUEST
            }
            Reason::ContextNeeded => StatusCode::PRECONDITION_REQUIRED,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::Timeout | Reason::Unconfirmed => StatusCode::GATEWAY_TIMEOUT,
            Reason::UnderWay
            | Reason::Exists
            | Reason::TooManySiblings
            | Reason::StalePlan
            | Reason::Standing
            | Reason::NodeAlive
            | Reason::PluginUsed
            | Reason::NotArmed
            | Reason::Quarantined => StatusCode::CONFLICT,
            Reason::Internal | Reason::DataTypeFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Reason::QuorumLost
            | Reason::NoOwner
            | Reason::Busy
            | Reason::Forming
            | Reason::NotAdmitted
            | Reason::ClockOff
            | Reason::OwnerRefused
            | Reason::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            status,
            reason: fault.reason.word(),
            message: fault.message,
            tally: (fault.needed > 0).then_some([fault.acks, fault.needed, fault.owners, fault.hints]),
            passes: fault.reason.passes(),
            blames_input: fault.reason.blames_input(),
            context: fault.context,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.status.as_u16(), "reason": self.reason, "message": self.message });
        if let Some([acks, needed, owners, hints]) = self.tally {
            error["acks"] = acks.into();
            error["needed"] = needed.into();
            error["owners"] = owners.into();
            error["hints"] = hints.into();
        }
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        if self.passes {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
        }
        put_context(response.headers_mut(), &self.context);
        response
    }
}
