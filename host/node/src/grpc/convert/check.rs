//! Client requests, checked against the limits of this node and the cluster of this moment.

use crate::fault::{Fault, Reason};
use crate::token::{BadToken, Tokens};
use bytes::Bytes;
use mks_logic::cluster::{DEFAULT_KEYSPACE, Keyspace, State};
use mks_logic::context::Context;
use mks_logic::event::{Item, OpError, Operation, Request};
use mks_logic::id::{Key, KeyspaceId};
use mks_logic::limits::Limits;
use mks_logic::port;
use mks_proto::v1::{self, session_operation};
use std::time::Duration;

/// Turns messages of the contract into requests of `logic`, or says what is wrong with them.
#[derive(Clone, Copy, Debug)]
pub struct Checker<'a> {
    limits: &'a Limits,
    state: &'a State,
    tokens: &'a Tokens,
    timeout: Option<Duration>,
}

impl<'a> Checker<'a> {
    /// A checker for requests that come with no deadline but their own.
    #[must_use]
    pub const fn new(limits: &'a Limits, state: &'a State, tokens: &'a Tokens) -> Self {
        Self { limits, state, tokens, timeout: None }
    }

    /// The same for a caller who waits no longer than `timeout` altogether.
    #[must_use]
    pub const fn within(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    /// # Errors
    /// What is wrong with the request; nothing was started.
    pub fn put(self, request: v1::PutRequest) -> Result<Request, Fault> {
        let (key, keyspace) = self.key(request.key)?;
        self.value_size(&request.value)?;
        let options = request.options.unwrap_or_default();
        let context = self.context(&options.context, &key, keyspace)?;
        let request = self.write(Operation::Put { key, value: request.value }, options, &[keyspace])?;
        Ok(Request { context, ..request })
    }

    /// # Errors
    /// What is wrong with the request; nothing was started.
    pub fn delete(self, request: v1::DeleteRequest) -> Result<Request, Fault> {
        let (key, keyspace) = self.key(request.key)?;
        let options = request.options.unwrap_or_default();
        if options.ttl_ms.is_some() {
            return Err(Fault::invalid("ttl_ms is set on a delete: a delete has no lifetime, leave it out"));
        }
        let context = self.context(&options.context, &key, keyspace)?;
        let request = self.write(Operation::Delete { key }, options, &[keyspace])?;
        Ok(Request { context, ..request })
    }

    /// # Errors
    /// What is wrong with the request; nothing was started.
    pub fn get(self, request: v1::GetRequest) -> Result<Request, Fault> {
        let (key, keyspace) = self.key(request.key)?;
        self.read(Operation::Get { key }, request.options.unwrap_or_default(), keyspace)
    }

    /// # Errors
    /// What is wrong with the request; nothing was started.
    pub fn view(self, request: v1::ViewRequest) -> Result<Request, Fault> {
        let (key, keyspace) = self.key(request.key)?;
        size("the question", request.question.len(), self.limits.value_bytes_max)?;
        let operation = Operation::View { key, question: request.question };
        self.read(operation, request.options.unwrap_or_default(), keyspace)
    }

    /// # Errors
    /// What is wrong with the request; nothing was started.
    pub fn apply(self, request: v1::ApplyRequest) -> Result<Request, Fault> {
        let (key, keyspace) = self.key(request.key)?;
        size("the operation", request.operation.len(), self.limits.value_bytes_max)?;
        let options = request.options.unwrap_or_default();
        if !options.context.is_empty() {
            let message = "an operation takes no context: it changes what is there, whoever saw it; leave it out";
            return Err(Fault::new(Reason::BadContext, message));
        }
        if options.ttl_ms.is_some() {
            return Err(Fault::invalid("ttl_ms is set on an operation: values of data types have no lifetime"));
        }
        self.write(Operation::Apply { key, operation: request.operation }, options, &[keyspace])
    }

    fn read(self, operation: Operation, options: v1::ReadOptions, keyspace: &Keyspace) -> Result<Request, Fault> {
        Ok(Request {
            operation,
            quorum: options.r.map(|r| quorum("r", r, keyspace)).transpose()?,
            durability: None,
            deadline_ms: self.deadline_ms(options.deadline_ms)?,
            ttl_ms: None,
            request_id: None,
            context: None,
            sloppy: false,
            node_confirms: node_confirms(options.node_confirms, keyspace)?,
        })
    }

    /// # Errors
    /// What is wrong with the request; nothing was started, no item of it either.
    pub fn batch(self, request: v1::BatchRequest) -> Result<Request, Fault> {
        let (count, max) = (request.items.len(), self.limits.batch_items_max);
        if count == 0 {
            return Err(Fault::invalid("the batch is empty; give it at least one item"));
        }
        if count > max {
            let message = format!("the batch has {count} items, the limit is {max}; split it");
            return Err(Fault::new(Reason::TooLarge, message));
        }
        let mut bytes = 0;
        let mut keyspaces: Vec<&Keyspace> = Vec::with_capacity(1);
        let mut items = Vec::with_capacity(count);
        for (position, item) in request.items.into_iter().enumerate() {
            let (item, keyspace) = self.item(item).map_err(|fault| at_item(position, fault))?;
            bytes += item.key.partition_key.len() + item.key.sort_key.len() + item.value.as_ref().map_or(0, Bytes::len);
            if !keyspaces.iter().any(|known| std::ptr::eq(*known, keyspace)) {
                keyspaces.push(keyspace);
            }
            items.push(item);
        }
        size("the batch", bytes, self.limits.batch_bytes_max)?;
        let options = request.options.unwrap_or_default();
        if !options.context.is_empty() {
            let message = "a context is of one key, and this one is for a whole batch; give each item its own";
            return Err(Fault::new(Reason::BadContext, message));
        }
        self.write(Operation::Batch { items }, options, &keyspaces)
    }

    /// # Errors
    /// What is wrong with the operation; nothing was started.
    pub fn session(self, operation: Option<session_operation::Operation>) -> Result<Request, Fault> {
        match operation {
            Some(session_operation::Operation::Put(request)) => self.put(request),
            Some(session_operation::Operation::Get(request)) => self.get(request),
            Some(session_operation::Operation::Delete(request)) => self.delete(request),
            Some(session_operation::Operation::Batch(request)) => self.batch(request),
            Some(session_operation::Operation::Apply(request)) => self.apply(request),
            Some(session_operation::Operation::View(request)) => self.view(request),
            None => Err(Fault::invalid(
                "the operation is none of put, get, delete, batch, apply and view, or newer than this node",
            )),
        }
    }

    /// The key of `logic` and the keyspace it is in.
    ///
    /// # Errors
    /// When a part is missing, empty or too long, or there is no such keyspace.
    pub fn key(self, key: Option<v1::Key>) -> Result<(Key, &'a Keyspace), Fault> {
        let key = key.ok_or_else(|| Fault::invalid("the key is missing"))?;
        let (id, keyspace) = self.keyspace(&key.keyspace)?;
        if key.partition_key.is_empty() {
            return Err(Fault::invalid("the partition key is empty; it must have at least one byte"));
        }
        size("the partition key", key.partition_key.len(), self.limits.key_bytes_max)?;
        size("the sort key", key.sort_key.len(), self.limits.key_bytes_max)?;
        Ok((Key { keyspace: id, partition_key: key.partition_key, sort_key: key.sort_key }, keyspace))
    }

    fn keyspace(self, name: &str) -> Result<(KeyspaceId, &'a Keyspace), Fault> {
        let name = if name.is_empty() { DEFAULT_KEYSPACE } else { name };
        if let Some(found) = self.state.keyspace(name) {
            return Ok(found);
        }
        if self.state.ring.is_none() {
            let joined = u32::try_from(self.state.members.len()).unwrap_or(u32::MAX);
            return Err(OpError::Forming { joined, expected: self.state.expect }.into());
        }
        let message = format!("there is no keyspace named {name:?}; `mks keyspace list` shows those that exist");
        Err(Fault::new(Reason::UnknownKeyspace, message))
    }

    fn item(self, item: v1::BatchItem) -> Result<(Item, &'a Keyspace), Fault> {
        let (key, keyspace) = self.key(item.key)?;
        if let Some(value) = &item.value {
            self.value_size(value)?;
        }
        let context = self.context(&item.context, &key, keyspace)?;
        Ok((Item { key, value: item.value, context }, keyspace))
    }

    /// What the token of a write says that its writer has seen; no token, nothing.
    fn context(self, token: &Bytes, key: &Key, keyspace: &Keyspace) -> Result<Option<Context>, Fault> {
        if token.is_empty() {
            return Ok(None);
        }
        let bad = |message: String| Fault::new(Reason::BadContext, message);
        if !keyspace.causal {
            let name = &keyspace.name;
            return Err(bad(format!("keyspace {name:?} is not causal and gives no contexts; send the write without")));
        }
        let hint = |error: BadToken| bad(format!("{error}; read the key and send the context of that answer"));
        self.tokens.open(self.state.cluster, key, token).map(Some).map_err(hint)
    }

    fn value_size(self, value: &Bytes) -> Result<(), Fault> {
        size("the value", value.len(), self.limits.value_bytes_max)
    }

    fn write(self, operation: Operation, options: v1::WriteOptions, keyspaces: &[&Keyspace]) -> Result<Request, Fault> {
        let (mut quorum_of_all, mut confirms_of_all) = (None, None);
        for keyspace in keyspaces {
            quorum_of_all = options.w.map(|w| quorum("w", w, keyspace)).transpose()?;
            confirms_of_all = node_confirms(options.node_confirms, keyspace)?;
        }
        Ok(Request {
            operation,
            quorum: quorum_of_all,
            durability: durability(options.durability)?,
            deadline_ms: self.deadline_ms(options.deadline_ms)?,
            ttl_ms: options.ttl_ms,
            request_id: request_id(&options.request_id)?,
            context: None,
            sloppy: options.sloppy,
            node_confirms: confirms_of_all,
        })
    }

    /// The earlier of what the request says and what the transport says.
    fn deadline_ms(self, own: Option<u64>) -> Result<Option<u64>, Fault> {
        let max = self.limits.deadline_max_ms;
        match own {
            Some(0) => return Err(Fault::invalid("deadline_ms is 0; leave it out for the node's default")),
            Some(ms) if ms > max => {
                return Err(Fault::invalid(format!("deadline_ms is {ms}, this node waits {max} at most")));
            }
            _ => {}
        }
        let transport = self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(max).clamp(1, max));
        Ok(own.into_iter().chain(transport).min())
    }
}

fn at_item(position: usize, fault: Fault) -> Fault {
    Fault {
        message: format!("item {position} of the batch: {}; nothing of the batch was started", fault.message),
        ..fault
    }
}

fn size(what: &'static str, bytes: usize, max: usize) -> Result<(), Fault> {
    if bytes <= max {
        return Ok(());
    }
    Err(OpError::TooLarge { what, bytes: bytes as u64, max: max as u64 }.into())
}

fn quorum(what: &str, asked: u32, keyspace: &Keyspace) -> Result<u8, Fault> {
    let n = keyspace.n;
    match u8::try_from(asked) {
        Ok(0) => Err(Fault::invalid(format!("{what} is 0; at least one owner must answer"))),
        Ok(quorum) if quorum <= n => Ok(quorum),
        _ => {
            let name = &keyspace.name;
            Err(Fault::invalid(format!("{what} is {asked}, but keyspace {name:?} has {n} owners for each key")))
        }
    }
}

/// Zero is the protocol's way to say nothing.
fn node_confirms(asked: u32, keyspace: &Keyspace) -> Result<Option<u8>, Fault> {
    if asked == 0 { Ok(None) } else { quorum("node_confirms", asked, keyspace).map(Some) }
}

/// A durability of the contract; `None`: the keyspace's.
///
/// # Errors
/// When the number is none that this node knows.
pub(crate) fn durability(number: i32) -> Result<Option<port::Durability>, Fault> {
    match v1::Durability::try_from(number) {
        Ok(v1::Durability::Unspecified) => Ok(None),
        Ok(v1::Durability::Os) => Ok(Some(port::Durability::Os)),
        Ok(v1::Durability::Sync) => Ok(Some(port::Durability::Sync)),
        Err(_) => {
            Err(Fault::invalid(format!("durability is {number}; known are 0 (the keyspace's), 1 (os), 2 (sync)")))
        }
    }
}

fn request_id(bytes: &[u8]) -> Result<Option<u128>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = <[u8; 16]>::try_from(bytes)
        .map_err(|_| Fault::invalid(format!("request_id has {} bytes; it must have 16, or none", bytes.len())))?;
    Ok(Some(u128::from_be_bytes(bytes)))
}
