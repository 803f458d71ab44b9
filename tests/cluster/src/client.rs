//! A gRPC client of one node, with errors as a program sees them.

use bytes::Bytes;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::kv_client::KvClient;
use mks_proto::v1::{
    CreateKeyspaceRequest, DeleteRequest, ErrorDetail, GetRequest, GetResponse, Key, KeyspaceDefinition,
    KeyspaceResponse, MemberStatus, MembersRequest, PutRequest, ReadOptions, StatusRequest, StatusResponse, Version,
    WriteOptions, WriteResponse,
};
use std::net::SocketAddr;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// No call of a test takes longer; a node answers within the deadline of the request, which is shorter.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of tests may be larger than anything a node takes.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// Deadline of requests that do not name another one.
const DEADLINE_MS: u64 = 5_000;

/// A failed call: the code that every client sees, and the detail that a node adds.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The canonical code.
    pub code: Code,
    /// For people.
    pub message: String,
    /// `None` when no node made the error: the connection broke.
    pub detail: Option<ErrorDetail>,
}

impl Failure {
    /// The stable word for programs; empty when no node made the error.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.detail.as_ref().map_or("", |detail| &detail.reason)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned(), detail: mks_proto::detail_of(&status) }
    }
}

/// Names a key.
#[must_use]
pub fn key(keyspace: &str, partition_key: impl Into<Bytes>) -> Key {
    Key { keyspace: keyspace.to_owned(), partition_key: partition_key.into(), sort_key: Bytes::new() }
}

/// A put with a deadline; everything else is left to the keyspace.
#[must_use]
pub fn put_request(key: Key, value: impl Into<Bytes>) -> PutRequest {
    let options = WriteOptions { deadline_ms: Some(DEADLINE_MS), ..WriteOptions::default() };
    PutRequest { key: Some(key), value: value.into(), options: Some(options) }
}

/// A get with a deadline; everything else is left to the keyspace.
#[must_use]
pub fn get_request(key: Key) -> GetRequest {
    let options = ReadOptions { deadline_ms: Some(DEADLINE_MS), ..ReadOptions::default() };
    GetRequest { key: Some(key), options: Some(options) }
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    /// `mks.v1.Kv`, for requests that the methods below do not make.
    pub kv: KvClient<Channel>,
    /// `mks.v1.Admin`, likewise.
    pub admin: AdminClient<Channel>,
}

impl Client {
    /// A client of the node at `address`, connected when it is first used. Needs a tokio runtime around it.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URI");
        let channel = endpoint.timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).connect_lazy();
        let kv = KvClient::new(channel.clone());
        let admin = AdminClient::new(channel);
        Self {
            kv: kv.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
            admin: admin.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
        }
    }

    /// Puts with the defaults of the keyspace "default".
    ///
    /// # Errors
    /// Those of the node or of the connection, as for all methods.
    pub async fn put(&self, name: &str, value: &str) -> Result<WriteResponse, Failure> {
        self.put_with(put_request(key("", name.to_owned()), value.to_owned())).await
    }

    /// Puts as the request says.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn put_with(&self, request: PutRequest) -> Result<WriteResponse, Failure> {
        Ok(self.kv.clone().put(request).await?.into_inner())
    }

    /// Gets with the defaults of the keyspace "default"; `None` is an absent key.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn get(&self, name: &str) -> Result<Option<String>, Failure> {
        self.get_in("", name).await
    }

    /// Gets from a keyspace.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn get_in(&self, keyspace: &str, name: &str) -> Result<Option<String>, Failure> {
        self.get_with(get_request(key(keyspace, name.to_owned()))).await
    }

    /// Gets as the request says.
    ///
    /// # Errors
    /// See [`Client::put`].
    ///
    /// # Panics
    /// When there are siblings or the value is not text: callers expect neither.
    pub async fn get_with(&self, request: GetRequest) -> Result<Option<String>, Failure> {
        Ok(self.get_stamped(request).await?.map(|(value, _)| value))
    }

    /// Gets value and stamp as the request says.
    ///
    /// # Errors
    /// See [`Client::put`].
    ///
    /// # Panics
    /// See [`Client::get_with`].
    pub async fn get_stamped(&self, request: GetRequest) -> Result<Option<(String, u64)>, Failure> {
        match self.kv.clone().get(request).await {
            Ok(response) => {
                let response = response.into_inner();
                assert!(response.siblings.is_empty(), "unexpected siblings: {response:?}");
                let version = response.version.expect("a found key has a version");
                let value = String::from_utf8(version.value.to_vec()).expect("tests store text");
                Ok(Some((value, version.written)))
            }
            Err(status) if is_absence(&status) => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Gets all siblings as the request says, and the context of the answer; an absent key has one too.
    ///
    /// # Errors
    /// See [`Client::put`].
    ///
    /// # Panics
    /// When a value is not text.
    pub async fn get_siblings(&self, request: GetRequest) -> Result<(Vec<String>, Bytes), Failure> {
        match self.kv.clone().get(request).await {
            Ok(response) => {
                let GetResponse { version, siblings, context } = response.into_inner();
                let text = |version: Version| String::from_utf8(version.value.to_vec()).expect("tests store text");
                Ok((version.into_iter().chain(siblings).map(text).collect(), context))
            }
            Err(status) if is_absence(&status) => {
                let context = mks_proto::detail_of(&status).map(|detail| detail.context);
                Ok((Vec::new(), context.unwrap_or_default()))
            }
            Err(status) => Err(status.into()),
        }
    }

    /// Deletes with the defaults of the keyspace "default".
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn delete(&self, name: &str) -> Result<WriteResponse, Failure> {
        let request = DeleteRequest { key: Some(key("", name.to_owned())), options: None };
        Ok(self.kv.clone().delete(request).await?.into_inner())
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn status(&self) -> Result<StatusResponse, Failure> {
        Ok(self.admin.clone().status(StatusRequest {}).await?.into_inner())
    }

    /// What the node says of all members, by id.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn members(&self) -> Result<Vec<MemberStatus>, Failure> {
        let mut members = self.admin.clone().members(MembersRequest {}).await?.into_inner().members;
        members.sort_by_key(|member| member.node);
        Ok(members)
    }

    /// Creates a keyspace with a resolver.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn create_keyspace(&self, name: &str, resolver: &str) -> Result<KeyspaceResponse, Failure> {
        let definition = KeyspaceDefinition {
            name: name.to_owned(),
            resolver: Some(resolver.to_owned()),
            ..KeyspaceDefinition::default()
        };
        self.create_keyspace_with(definition).await
    }

    /// Creates a keyspace as the definition says.
    ///
    /// # Errors
    /// See [`Client::put`].
    pub async fn create_keyspace_with(&self, definition: KeyspaceDefinition) -> Result<KeyspaceResponse, Failure> {
        let request = CreateKeyspaceRequest { keyspace: Some(definition) };
        Ok(self.admin.clone().create_keyspace(request).await?.into_inner())
    }
}

/// An unknown keyspace has the code NOT_FOUND too, and is an error.
fn is_absence(status: &Status) -> bool {
    status.code() == Code::NotFound && mks_proto::detail_of(status).is_some_and(|detail| detail.reason == "NOT_FOUND")
}
