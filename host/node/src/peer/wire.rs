//! Control calls to other nodes, one channel for each address.

use super::{FRAME_BYTES_LIMIT, Trust};
use crate::epoch_log::{Kind, Wire, WireError};
use crate::plugins::Source;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks_logic::port::ResolverHash;
use mks_proto::v1::peer_client::PeerClient;
use mks_proto::v1::{ComponentPiece, ComponentRequest, ControlRequest};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// How long a piece of a component may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses whose channels are kept at most; members are far fewer.
const CHANNELS_MAX: usize = 1_024;

/// See [`Wire`]. Channels connect when they are used and again after a failure.
#[derive(Debug)]
pub struct PeerWire {
    trust: Trust,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl PeerWire {
    /// A wire of a node that holds the cluster key.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, channels: Mutex::new(BTreeMap::new()) }
    }

    fn channel(&self, address: &str) -> Result<Channel, WireError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let unreachable = |error: tonic::transport::Error| WireError::Unreachable {
            address: address.to_owned(),
            reason: format!("it is no address ({error})"),
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unreachable)?;
        let channel = endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl Wire for PeerWire {
    fn call<'a>(
        &'a self,
        address: &'a str,
        kind: Kind,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, WireError>> {
        Box::pin(async move {
            let mut client = PeerClient::new(self.channel(address)?)
                .max_decoding_message_size(FRAME_BYTES_LIMIT)
                .max_encoding_message_size(FRAME_BYTES_LIMIT);
            let mut request = Request::new(ControlRequest { kind: kind as u32, body: body.into() });
            self.trust.sign(request.metadata_mut());
            let answer =
                tokio::time::timeout(timeout, client.control(request)).await.map_err(|_| WireError::Timeout)?;
            answer.map(|answer| answer.into_inner().body).map_err(|status| match status.code() {
                Code::FailedPrecondition | Code::Unauthenticated => WireError::Refused(status.message().to_owned()),
                Code::DeadlineExceeded | Code::Cancelled => WireError::Timeout,
                _ => WireError::Unreachable { address: address.to_owned(), reason: reason(&status) },
            })
        })
    }
}

impl Source for PeerWire {
    fn piece<'a>(
        &'a self,
        address: &'a str,
        hash: ResolverHash,
        offset: u64,
    ) -> BoxFuture<'a, Result<(u64, Bytes), String>> {
        Box::pin(async move {
            let channel = self.channel(address).map_err(|error| error.to_string())?;
            let mut client = PeerClient::new(channel).max_decoding_message_size(FRAME_BYTES_LIMIT);
            let mut request = Request::new(ComponentRequest { hash: hash.0.to_vec().into(), offset });
            self.trust.sign(request.metadata_mut());
            let answer = tokio::time::timeout(PIECE_TIMEOUT, client.component(request)).await;
            let answer = answer.map_err(|_| "it did not answer in time".to_owned())?;
            let ComponentPiece { total, piece } = answer.map_err(|status| reason(&status))?.into_inner();
            Ok((total, piece))
        })
    }
}

/// The innermost cause: "connection refused" says more than "transport error".
fn reason(status: &tonic::Status) -> String {
    if status.code() == Code::Unimplemented {
        return "it is not a port for other nodes (listen.peer); perhaps it is one for clients".to_owned();
    }
    // A node that answers says it in its own words.
    let Some(mut error) = status.source() else { return status.message().to_owned() };
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
