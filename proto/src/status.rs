//! Where the details of an error travel: the trailer `grpc-status-details-bin`, which holds a `google.rpc.Status`,
//! whose `Any` holds an [`ErrorDetail`]. Client libraries of every language know how to unpack the first two.

use crate::v1::ErrorDetail;
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

const DETAIL_TYPE_URL: &str = "type.googleapis.com/mks.v1.ErrorDetail";

/// `google.rpc.Status`: <https://google.aip.dev/193>.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The status that carries `detail`: its code and message for every client, all of it for those that look.
#[must_use]
pub fn status_of(detail: &ErrorDetail) -> Status {
    let code = i32::try_from(detail.code).unwrap_or(Code::Unknown as i32);
    let any = Any { type_url: DETAIL_TYPE_URL.into(), value: detail.encode_to_vec().into() };
    let rpc = RpcStatus { code, message: detail.message.clone(), details: vec![any] };
    Status::with_details(Code::from_i32(code), detail.message.clone(), rpc.encode_to_vec().into())
}

/// The detail that [`status_of`] put into a status; `None` when the error was not made by a node (the connection
/// broke, a proxy answered) or the bytes are not one.
#[must_use]
pub fn detail_of(status: &Status) -> Option<ErrorDetail> {
    let rpc = RpcStatus::decode(status.details()).ok()?;
    let any = rpc.details.into_iter().find(|any| any.type_url == DETAIL_TYPE_URL)?;
    ErrorDetail::decode(any.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_survives_the_trip_through_a_status() {
        let detail = ErrorDetail {
            code: Code::DeadlineExceeded as u32,
            reason: "TIMEOUT".into(),
            message: "1 of 2".into(),
            acks: 1,
            needed: 2,
            owners: 3,
            hints: 1,
            context: Bytes::new(),
        };
        let status = status_of(&detail);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "1 of 2");
        assert_eq!(detail_of(&status), Some(detail));
    }

    #[test]
    fn a_status_of_somebody_else_has_no_detail() {
        assert_eq!(detail_of(&Status::unavailable("connection refused")), None);
        let garbage = Status::with_details(Code::Internal, "proxy", Bytes::from_static(b"\xff\x01garbage"));
        assert_eq!(detail_of(&garbage), None);
    }
}
