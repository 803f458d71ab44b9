//! What a node refuses before anything is done: requests that contradict themselves, the keyspace or a limit.

use super::Node;
use crate::context::Context;
use crate::id::Key;
use crate::request::{Item, OpError, Operation, Request};
use alloc::format;
use bytes::Bytes;

impl Node {
    /// What can be refused before anything is done.
    pub(super) fn check(&self, request: &Request) -> Result<(), OpError> {
        if self.state.ring.is_none() {
            let (joined, expected) = (self.state.members.len() as u32, self.state.expect);
            return Err(OpError::Forming { joined, expected });
        }
        let bytes = request_bytes(request);
        let operations = match &request.operation {
            Operation::Batch { items } => items.len(),
            _ => 1,
        };
        // Alone, a request may exceed either: its own limits bound it, and it could never be served otherwise.
        let full = self.ops_bytes > 0 && self.ops_bytes + bytes > self.limits.operations_bytes_max;
        let running = self.operations();
        if full || running > 0 && running + operations > self.limits.operations_max {
            return Err(OpError::Busy { operations: running as u64 });
        }
        if request.deadline_ms == Some(0) {
            return Err(OpError::Invalid("the deadline has passed already; nothing was done".into()));
        }
        match &request.operation {
            Operation::Put { key, value } => self.check_write(request, key, Some(value), request.context.as_ref()),
            Operation::Delete { key } => self.check_write(request, key, None, request.context.as_ref()),
            Operation::Get { key } => self.check_plain(key).and_then(|()| self.check_key(request, key)),
            Operation::Batch { items } => self.check_batch(request, items, bytes),
            Operation::Apply { key, operation } => self.check_typed(request, key, ("the operation", operation)),
            Operation::View { key, question } => self.check_typed(request, key, ("the question", question)),
        }
    }

    /// Values of data types are changed and asked for by their types alone, and others never.
    fn check_typed(&self, request: &Request, key: &Key, (what, bytes): (&'static str, &Bytes)) -> Result<(), OpError> {
        too_large(what, bytes.len(), self.limits.value_bytes_max)?;
        self.check_key(request, key)?;
        let keyspace = self.keyspace(key.keyspace)?;
        if !keyspace.typed() {
            return Err(OpError::Invalid(format!(
                "keyspace {:?} has no data type; put and get values there, or make a keyspace with one: \
                 `mks keyspace create NAME --datatype pn-counter`",
                keyspace.name
            )));
        }
        if request.context.is_some() || request.ttl_ms.is_some() {
            return Err(OpError::Invalid("values of data types take no context and no lifetime".into()));
        }
        Ok(())
    }

    fn check_batch(&self, request: &Request, items: &[Item], bytes: usize) -> Result<(), OpError> {
        let limits = &self.limits;
        too_large("the number of items of a batch", items.len(), limits.batch_items_max)?;
        too_large("a batch", bytes, limits.batch_bytes_max)?;
        if items.is_empty() {
            return Err(OpError::Invalid("the batch is empty".into()));
        }
        let check = |item: &Item| self.check_write(request, &item.key, item.value.as_ref(), item.context.as_ref());
        items.iter().try_for_each(check)
    }

    fn check_write(
        &self,
        request: &Request,
        key: &Key,
        value: Option<&Bytes>,
        context: Option<&Context>,
    ) -> Result<(), OpError> {
        too_large("the value", value.map_or(0, Bytes::len), self.limits.value_bytes_max)?;
        self.check_plain(key)?;
        self.check_key(request, key)?;
        match (self.keyspace(key.keyspace)?.causal, context) {
            (false, Some(_)) => Err(OpError::Invalid(
                "this keyspace keeps no causal contexts; send the write without one, or make a causal keyspace".into(),
            )),
            (true, None) if value.is_none() => Err(OpError::ContextNeeded),
            _ => Ok(()),
        }
    }

    fn check_plain(&self, key: &Key) -> Result<(), OpError> {
        let keyspace = self.keyspace(key.keyspace)?;
        if !keyspace.typed() {
            return Ok(());
        }
        Err(OpError::Invalid(format!(
            "keyspace {:?} has the data type {}: change its values by operations (Apply, `mks apply`), ask for them by \
             questions (View, `mks view`); they are not put, got or deleted",
            keyspace.name, keyspace.resolver
        )))
    }

    fn check_key(&self, request: &Request, key: &Key) -> Result<(), OpError> {
        too_large("the partition key", key.partition_key.len(), self.limits.key_bytes_max)?;
        too_large("the sort key", key.sort_key.len(), self.limits.key_bytes_max)?;
        if key.partition_key.is_empty() {
            return Err(OpError::Invalid("the key is empty".into()));
        }
        self.keyspace(key.keyspace)?;
        // While the number of copies changes: what both tables have.
        let n = self.state.copies(key.keyspace).map_or(0, |(now, next)| now.n.min(next.n));
        if let Some(confirms) = request.node_confirms.filter(|confirms| *confirms == 0 || *confirms > n) {
            return Err(OpError::Invalid(format!(
                "node_confirms of {confirms} is impossible: this keyspace keeps {n} copies, so ask for 1 to {n}"
            )));
        }
        match request.quorum {
            Some(quorum) if quorum == 0 || quorum > n => Err(OpError::Invalid(format!(
                "a quorum of {quorum} is impossible: this keyspace keeps {n} copies, so ask for 1 to {n}"
            ))),
            _ => Ok(()),
        }
    }
}

fn too_large(what: &'static str, bytes: usize, max: usize) -> Result<(), OpError> {
    if bytes > max { Err(OpError::TooLarge { what, bytes: bytes as u64, max: max as u64 }) } else { Ok(()) }
}

/// Bytes of keys, values and contexts.
pub(super) fn request_bytes(request: &Request) -> usize {
    let of =
        |key: &Key, value: Option<&Bytes>| key.partition_key.len() + key.sort_key.len() + value.map_or(0, Bytes::len);
    let context = |context: &Option<Context>| context.as_ref().map_or(0, Context::bytes);
    match &request.operation {
        Operation::Put { key, value } => of(key, Some(value)) + context(&request.context),
        Operation::Get { key } | Operation::Delete { key } => of(key, None) + context(&request.context),
        Operation::Apply { key, operation: text } | Operation::View { key, question: text } => of(key, Some(text)),
        Operation::Batch { items } => items.iter().map(|i| of(&i.key, i.value.as_ref()) + context(&i.context)).sum(),
    }
}
