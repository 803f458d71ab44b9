//! Causal contexts: only the one form of each is taken, and what they say of each other fits together.

use super::past;
use bytes::Bytes;
use mks_logic::context::Context;
use mks_logic::id::{Dot, Incarnation, NodeId};

pub fn run(input: &[u8]) {
    let Some((&split, body)) = input.split_first() else { return };
    let (one, other) = body.split_at(usize::from(split).min(body.len()));
    let (Some(one), other) = (read(one), read(other)) else { return };
    let Some(other) = other else { return };
    let mut both = one.clone();
    both.unite(&other);
    assert!(both.includes(&one) && both.includes(&other), "{one:?} and {other:?} are not in {both:?}");
    let mut turned = other.clone();
    turned.unite(&one);
    assert_eq!(both, turned, "the order matters");
    for span in one.spans().iter().chain(other.spans()) {
        for counter in [span.first, span.last] {
            let dot = Dot { node: span.node, incarnation: span.incarnation, counter };
            assert!(both.covers(dot) && (one.covers(dot) || other.covers(dot)), "{dot:?} of {both:?}");
        }
    }
    assert_eq!(read(&both.to_bytes()).is_none(), both.is_too_large());
}

fn read(bytes: &[u8]) -> Option<Context> {
    let context = Context::from_bytes(Bytes::copy_from_slice(bytes)).ok()?;
    assert_eq!(context.to_bytes(), bytes, "another form of {context:?} was taken");
    Some(context)
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let dot = |node, counter| Dot { node: NodeId(node), incarnation: Incarnation(3), counter };
    let wide: Context = [dot(1, u64::MAX), dot(u64::MAX, 1), dot(2, 5), dot(2, 6)].into_iter().collect();
    let pair = |one: &Context, other: &Context| {
        let (one, other) = (one.to_bytes(), other.to_bytes());
        [&[one.len() as u8], &one[..], &other[..]].concat()
    };
    vec![pair(&past(), &wide), pair(&wide, &past()), pair(&Context::default(), &past())]
}
