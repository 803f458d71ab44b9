//! Finding a node that answers, and telling apart why none did.

use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::kv_client::KvClient;
use mks_proto::v1::{Durability, ErrorDetail};
use serde_json::json;
use std::fmt;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// How long one node may take to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than the node's own deadline we wait: its answer says more than our own clock could.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);
/// A node answers within its own longest deadline (an hour at most, a minute usually), whatever the request.
const PATIENCE: Duration = Duration::from_secs(62);
/// Answers up to this size are taken in: a batch of get results is not limited by tonic's 4 MiB.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Longest name of whoever asks that a node takes.
const WHO_BYTES_MAX: usize = 64;

/// A client of `Kv`, as the commands use it.
pub(super) type Kv = KvClient<Channel>;

/// What to do when the connection breaks after the question was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    /// Ask the next node: nothing is changed by asking twice.
    Read,
    /// Say so: the change may have happened.
    Write,
}

/// The nodes that may be asked.
#[derive(Clone, Debug)]
pub struct Client {
    addresses: Vec<String>,
}

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line makes no sense in a way that only shows later.
    #[error("{0}")]
    Usage(String),
    /// The key is not there.
    #[error("not found")]
    NotFound,
    /// A node said no, or not enough owners did yes.
    #[error("{}", Refused(.0))]
    Refused(Box<ErrorDetail>),
    /// Nobody who can serve was there.
    #[error("no node could serve this:{}\nstart one, or name others with --addr HOST:PORT[,HOST:PORT]", Tries(.0))]
    Unreachable(Vec<(String, String)>),
    /// The connection broke after a write was sent.
    #[error(
        "lost {address} before it answered ({reason}); the write may have happened. With --request-id, sending it \
         again to the same node is safe; without, sending it again makes a new version"
    )]
    Lost {
        /// Who was asked.
        address: String,
        /// What broke.
        reason: String,
    },
    /// No answer although every deadline has passed.
    #[error("{0} did not answer within {ms} ms; a write may have happened", ms = .1.as_millis())]
    Silent(String, Duration),
    /// What was asked for goes on, and had not ended when our time was up.
    #[error("{0}")]
    Unfinished(String),
    /// Something failed on this side.
    #[error("{0:#}")]
    Local(#[from] anyhow::Error),
}

struct Tries<'a>(&'a [(String, String)]);

impl fmt::Display for Tries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(address, reason)| write!(f, "\n  {address}: {reason}"))
    }
}

struct Refused<'a>(&'a ErrorDetail);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorDetail { reason, message, .. } = self.0;
        if reason.is_empty() { f.write_str(message) } else { write!(f, "{message} [{reason}]") }
    }
}

impl Failure {
    /// See the help of `mks`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotFound => 3,
            Self::Silent(..) | Self::Unfinished(_) => 4,
            Self::Unreachable(_) | Self::Lost { .. } => 5,
            Self::Refused(detail) if is_quorum_missed(detail) => 4,
            Self::Refused(_) | Self::Local(_) => 1,
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let reason = match self {
            Self::Usage(_) => "USAGE",
            Self::NotFound => "NOT_FOUND",
            Self::Silent(..) => "SILENT",
            Self::Unfinished(_) => "UNFINISHED",
            Self::Unreachable(_) => "UNREACHABLE",
            Self::Lost { .. } => "CONNECTION_LOST",
            Self::Local(_) => "LOCAL",
            Self::Refused(detail) => return detail_json(detail),
        };
        json!({ "reason": reason, "message": self.to_string() })
    }
}

/// The parts of a refusal that scripts look at.
pub(super) fn detail_json(detail: &ErrorDetail) -> serde_json::Value {
    let ErrorDetail { reason, message, acks, needed, owners, hints, .. } = detail;
    json!({
        "reason": reason, "message": message, "acks": acks, "needed": needed, "owners": owners, "hints": hints,
    })
}

fn is_quorum_missed(detail: &ErrorDetail) -> bool {
    matches!(detail.reason.as_str(), "TIMEOUT" | "QUORUM_LOST" | "NO_LEADER" | "UNCONFIRMED")
        || detail.code == Code::DeadlineExceeded as u32
}

/// Reasons with which a node says that it did nothing at all, so that another one may be asked.
fn is_elsewhere(detail: &ErrorDetail) -> bool {
    matches!(detail.reason.as_str(), "FORMING" | "NOT_ADMITTED" | "NO_OWNER" | "CLOCK_OFF" | "BUSY" | "OWNER_REFUSED")
}

/// What a node said. Statuses without details come from proxies, old nodes and tonic itself.
fn detail_of(status: &Status) -> ErrorDetail {
    mks_proto::detail_of(status).unwrap_or_else(|| ErrorDetail {
        code: status.code() as u32,
        message: format!("{} ({:?})", status.message(), status.code()),
        ..ErrorDetail::default()
    })
}

impl Client {
    /// For nodes at these client addresses, in this order.
    ///
    /// # Errors
    /// When one of them is no address.
    pub fn new(addresses: &[String]) -> Result<Self, Failure> {
        let addresses: Vec<_> = addresses.iter().map(|text| text.trim().to_owned()).collect();
        for address in &addresses {
            endpoint(address)?;
        }
        Ok(Self { addresses })
    }

    /// All of them.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Asks `Kv` of the first node that can serve.
    pub(super) async fn kv<T, F>(
        &self,
        retry: Retry,
        deadline: Option<Duration>,
        ask: impl Fn(KvClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(retry, deadline, |channel| ask(kv_client(channel))).await
    }

    /// Asks `Admin` of the first node that can serve.
    pub(super) async fn admin<T, F>(&self, retry: Retry, ask: impl Fn(AdminClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(retry, None, |channel| ask(AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)))
            .await
    }

    async fn ask<T, F>(
        &self,
        retry: Retry,
        deadline: Option<Duration>,
        ask: impl Fn(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let patience = deadline.map_or(PATIENCE, |deadline| deadline + DEADLINE_SLACK);
        let mut tries = Vec::with_capacity(self.addresses.len());
        for address in &self.addresses {
            let channel = match connect(address).await {
                Ok(channel) => channel,
                Err(reason) => {
                    tries.push((address.clone(), reason));
                    continue;
                }
            };
            let Ok(answer) = tokio::time::timeout(patience, ask(channel)).await else {
                return Err(Failure::Silent(address.clone(), patience));
            };
            let status = match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let detail = detail_of(&status);
            if is_elsewhere(&detail) {
                tries.push((address.clone(), detail.message));
            } else if is_another_port(&status) {
                tries.push((address.clone(), ANOTHER_PORT.to_owned()));
            } else if !is_connection_lost(&status) {
                return Err(Failure::Refused(Box::new(detail)));
            } else if retry == Retry::Write {
                return Err(Failure::Lost { address: address.clone(), reason: innermost(&status) });
            } else {
                tries.push((address.clone(), innermost(&status)));
            }
        }
        Err(Failure::Unreachable(tries))
    }
}

/// No node said this: the transport did.
fn is_connection_lost(status: &Status) -> bool {
    use std::error::Error as _;
    mks_proto::detail_of(status).is_none() && (status.code() == Code::Unavailable || status.source().is_some())
}

/// Somebody there speaks gRPC, and does not know what was asked: nothing happened.
fn is_another_port(status: &Status) -> bool {
    mks_proto::detail_of(status).is_none() && status.code() == Code::Unimplemented
}

const ANOTHER_PORT: &str = "it does not serve clients; it may be a node's port for other nodes, or an older node";

/// A request that changes something, with the name of whoever asks, for the history of epochs.
pub(super) fn signed<T>(request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    if let Ok(who) = who().parse() {
        request.metadata_mut().insert("mks-who", who);
    }
    request
}

/// User and host, as far as they are known, in visible ASCII.
fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|user| !user.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let host = host.unwrap_or_default();
    let who = format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.trim());
    who.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(WHO_BYTES_MAX).collect()
}

/// A `Kv` client that takes answers of any size.
pub(crate) fn kv_client(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    let wrong = |reason: String| Failure::Usage(format!("{address:?} is no address ({reason}); use HOST:PORT"));
    // Without a port http would silently mean 80.
    if !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Err(wrong("no port".to_owned()));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| wrong(error.to_string()))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

/// Connects to one node.
///
/// # Errors
/// The innermost reason, for people.
pub(crate) async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = endpoint(address).map_err(|failure| failure.to_string())?;
    endpoint.connect().await.map_err(|error| innermost(&error))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// Durability as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DurabilityArg {
    /// Survives the death of the process
    Os,
    /// Survives a power cut
    Sync,
}

/// As it travels; not given means the keyspace's.
#[must_use]
pub fn durability(choice: Option<DurabilityArg>) -> Durability {
    match choice {
        None => Durability::Unspecified,
        Some(DurabilityArg::Os) => Durability::Os,
        Some(DurabilityArg::Sync) => Durability::Sync,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str, code: Code) -> Failure {
        let detail = ErrorDetail { code: code as u32, reason: reason.into(), ..ErrorDetail::default() };
        Failure::Refused(Box::new(detail))
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        assert_eq!(refused("UNKNOWN_KEYSPACE", Code::NotFound).exit_code(), 1);
        assert_eq!(refused("TOO_LARGE", Code::InvalidArgument).exit_code(), 1);
        assert_eq!(refused("NO_LEADER", Code::Unavailable).exit_code(), 4);
        assert_eq!(refused("TIMEOUT", Code::DeadlineExceeded).exit_code(), 4);
        assert_eq!(refused("QUORUM_LOST", Code::Unavailable).exit_code(), 4);
        assert_eq!(Failure::NotFound.exit_code(), 3);
        assert_eq!(Failure::Unfinished(String::new()).exit_code(), 4);
        assert_eq!(Failure::Unreachable(Vec::new()).exit_code(), 5);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::Local(anyhow::anyhow!("x")).exit_code(), 1);
    }

    #[test]
    fn an_address_needs_a_port() {
        for address in ["localhost", ":7400", "host:port", "a b:1", ""] {
            assert!(matches!(Client::new(&[address.to_owned()]), Err(Failure::Usage(_))), "{address}");
        }
        Client::new(&["localhost:7400".to_owned(), "[::1]:7400".to_owned()]).unwrap();
    }

    #[test]
    fn a_refusal_says_what_was_left_behind_and_how_far_it_got() {
        let detail = ErrorDetail {
            reason: "TIMEOUT".into(),
            message: "1 of the 2 owners".into(),
            acks: 1,
            needed: 2,
            owners: 3,
            ..ErrorDetail::default()
        };
        let failure = Failure::Refused(Box::new(detail));
        assert_eq!(failure.to_string(), "1 of the 2 owners [TIMEOUT]");
        assert_eq!(failure.json()["acks"], 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nodes_that_cannot_be_reached_are_all_named() {
        // Port 1 of loopback: nobody listens there without being root.
        let client = Client::new(&["127.0.0.1:1".to_owned(), "[::1]:1".to_owned()]).unwrap();
        let answer =
            client.kv(Retry::Read, None, |mut kv| async move { kv.get(mks_proto::v1::GetRequest::default()).await });
        let failure = answer.await.unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("127.0.0.1:1: ") && text.contains("[::1]:1: ") && text.contains("--addr"), "{text}");
    }
}
