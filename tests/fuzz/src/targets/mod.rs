//! One reader each. `run` panics where a promise is broken, `seeds` are good inputs.

#[cfg(feature = "node")]
pub mod component;
#[cfg(feature = "node")]
pub mod config;
#[cfg(feature = "node")]
pub mod frame;
#[cfg(feature = "node")]
pub mod http;
pub mod context;
pub mod log;
pub mod member;
#[cfg(feature = "node")]
pub mod node;
pub mod record;
#[cfg(feature = "node")]
pub mod request;
#[cfg(feature = "node")]
pub mod seal;
pub mod stored;
#[cfg(feature = "node")]
pub mod token;

use bytes::Bytes;
use mks_logic::context::Context;
#[cfg(feature = "node")]
use mks_logic::event::{Operation, Request};
use mks_logic::id::{Dot, Epoch, Incarnation, NodeId};
use mks_logic::time::Hlc;
use mks_logic::version::{Version, value_digest};

/// An input that is a story: parts with a byte before each that says what to do with it.
///
/// Written as the byte, the length in two bytes and the part; a part that is cut short ends with the input.
fn parts(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = input.split_at_checked(3)?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]])).min(rest.len());
        let (part, rest) = rest.split_at(length);
        input = rest;
        Some((head[0], part))
    })
}

/// The input whose [`parts`] these are.
fn story<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = (u8, P)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (what, part) in parts {
        let part = part.as_ref();
        out.push(what);
        out.extend_from_slice(&(part.len() as u16).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// Two actors, one of them with a gap.
fn past() -> Context {
    let dot = |node, counter| Dot { node: NodeId(node), incarnation: Incarnation(1), counter };
    [dot(1, 1), dot(1, 2), dot(1, 7), dot(2, 300)].into_iter().collect()
}

/// A version that node `node` wrote.
fn version(node: u64, counter: u64, value: Option<&'static [u8]>) -> Version {
    Version {
        dot: Dot { node: NodeId(node), incarnation: Incarnation(1), counter },
        written: Hlc(1_800_000_000_000 << 16 | (counter & 0xFFFF)),
        epoch: Epoch(7),
        expires_ms: 0,
        digest: value_digest(value),
        value: value.map(Bytes::from_static),
    }
}

/// A request as a client's, with some of what it may choose.
#[cfg(feature = "node")]
fn request_of(operation: Operation) -> Request {
    Request { quorum: Some(2), deadline_ms: Some(800), request_id: Some(9), ..Request::new(operation) }
}
