//! Which writes of a key are known: exact sets of dots, as small as the gaps in them allow.
//!
//! The textbooks keep a version vector (the highest counter of each actor) and beside it a cloud of single dots for
//! what lies beyond a gap (Preguiça et al., "Dotted version vectors", 2012). Here it is one thing: per actor the
//! *spans* of counters that are in the set. A vector is one span per actor, a dot beyond a gap is a span of its own,
//! and a set without one dot, which a vector can't say at all and a cloud only dot by dot, costs one span more.

use crate::id::{Dot, Incarnation, NodeId};
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};

/// Most spans of one context: beyond it writes of the key are refused. A key costs one span for each opening of each
/// node that coordinated writes of it, and one for each gap.
pub const SPANS_MAX: usize = 4_096;

/// Neighbouring counters of one actor, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span {
    /// The coordinator of the writes.
    pub node: NodeId,
    /// The opening of its data directory.
    pub incarnation: Incarnation,
    /// The first counter.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl Span {
    const fn actor(&self) -> (NodeId, Incarnation) {
        (self.node, self.incarnation)
    }

    /// True when `next`, which does not come before it, leaves no gap after it.
    fn meets(&self, next: &Self) -> bool {
        self.actor() == next.actor() && next.first <= self.last.saturating_add(1)
    }
}

impl From<Dot> for Span {
    fn from(dot: Dot) -> Self {
        Self { node: dot.node, incarnation: dot.incarnation, first: dot.counter, last: dot.counter }
    }
}

/// A set of dots. Empty costs nothing: no allocation, and no byte where records are stored.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Context {
    /// In order, with gaps between those of one actor: equal sets are equal bytes.
    spans: Vec<Span>,
}

/// Bytes that are no context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the causal context is cut short or malformed")]
pub struct MalformedContext;

impl Context {
    /// True when no dot is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// True when it has more spans than are allowed.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.spans.len() > SPANS_MAX
    }

    /// Its spans, in order.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Bytes that it costs where records are stored or sent, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        16 * self.spans.len()
    }

    /// True when this dot is in it.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.spans_around(&Span::from(dot))
    }

    /// True when one of its spans has all of this one.
    fn spans_around(&self, inner: &Span) -> bool {
        let at = self.spans.partition_point(|s| (s.actor(), s.first) <= (inner.actor(), inner.first));
        let before = at.checked_sub(1).map(|at| self.spans[at]);
        before.is_some_and(|s| s.actor() == inner.actor() && inner.last <= s.last)
    }

    /// True when every dot of `other` is in it.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.spans.iter().all(|span| self.spans_around(span))
    }

    /// The highest counter of an actor, if there is any.
    #[must_use]
    pub fn highest(&self, node: NodeId, incarnation: Incarnation) -> Option<u64> {
        let at = self.spans.partition_point(|s| s.actor() <= (node, incarnation));
        let last = at.checked_sub(1).map(|at| self.spans[at]);
        last.filter(|s| s.actor() == (node, incarnation)).map(|s| s.last)
    }

    /// Puts one dot in.
    pub fn add(&mut self, dot: Dot) {
        if !self.covers(dot) {
            let span = Span::from(dot);
            let at = self.spans.partition_point(|s| *s < span);
            self.spans.insert(at, span);
            self.close_gaps();
        }
    }

    /// Puts all dots of `other` in. True when that changed something.
    pub fn unite(&mut self, other: &Self) -> bool {
        if self.includes(other) {
            return false;
        }
        self.spans.extend_from_slice(&other.spans);
        self.spans.sort_unstable();
        self.close_gaps();
        true
    }

    /// Makes one span of those that touch or overlap. They are in order.
    fn close_gaps(&mut self) {
        self.spans.dedup_by(|next, before| {
            let meets = before.meets(next);
            if meets {
                before.last = before.last.max(next.last);
            }
            meets
        });
    }

    /// Appends the byte form: varint count, then per span varint node, incarnation, first counter, further counters.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.spans.len() as u64);
        for span in &self.spans {
            put_varint(out, span.node.0);
            put_varint(out, span.incarnation.0);
            put_varint(out, span.first);
            put_varint(out, span.last - span.first);
        }
    }

    /// The byte form alone.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(1 + self.bytes());
        self.encode(&mut out);
        out.into()
    }

    /// Takes a byte form from the front of `bytes`. Only the one form that [`Self::encode`] gives is taken.
    ///
    /// # Errors
    /// [`MalformedContext`]; whatever the bytes are, there is no panic and no allocation beyond their own size.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, MalformedContext> {
        let mut spans: Vec<Span> = Vec::new();
        for _ in 0..get_varint(bytes)? {
            let (node, incarnation) = (NodeId(get_varint(bytes)?), Incarnation(get_varint(bytes)?));
            let first = get_varint(bytes)?;
            let last = first.checked_add(get_varint(bytes)?).ok_or(MalformedContext)?;
            let span = Span { node, incarnation, first, last };
            if spans.last().is_some_and(|before| *before >= span || before.meets(&span)) {
                return Err(MalformedContext);
            }
            spans.push(span);
        }
        Ok(Self { spans })
    }

    /// Reads a byte form that has nothing after it.
    ///
    /// # Errors
    /// [`MalformedContext`], also for what is too large.
    pub fn from_bytes(mut bytes: Bytes) -> Result<Self, MalformedContext> {
        let context = Self::decode(&mut bytes)?;
        if bytes.has_remaining() || context.is_too_large() { Err(MalformedContext) } else { Ok(context) }
    }
}

impl FromIterator<Dot> for Context {
    fn from_iter<T: IntoIterator<Item = Dot>>(dots: T) -> Self {
        dots.into_iter().map(Span::from).collect()
    }
}

impl FromIterator<Span> for Context {
    fn from_iter<T: IntoIterator<Item = Span>>(spans: T) -> Self {
        let mut spans: Vec<Span> = spans.into_iter().filter(|span| span.first <= span.last).collect();
        spans.sort_unstable();
        let mut context = Self { spans };
        context.close_gaps();
        context
    }
}

/// Appends a number, seven bits to the byte, the low ones first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Takes a number from the front.
pub(crate) fn get_varint(bytes: &mut Bytes) -> Result<u64, MalformedContext> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| MalformedContext)?;
        let part = u64::from(byte & 0x7F);
        if shift == 63 && part > 1 {
            return Err(MalformedContext);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            // A last byte of nothing makes a second form of a number that has one already.
            return if byte == 0 && shift > 0 { Err(MalformedContext) } else { Ok(value) };
        }
    }
    Err(MalformedContext)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn dot((node, incarnation, counter): (u64, u64, u64)) -> Dot {
        Dot { node: NodeId(node), incarnation: Incarnation(incarnation), counter }
    }

    /// Few enough for neighbours and gaps.
    fn dots() -> impl Strategy<Value = BTreeSet<Dot>> {
        prop::collection::btree_set((1u64..3, 1u64..3, 0u64..12).prop_map(dot), 0..24)
    }

    fn all() -> impl Iterator<Item = Dot> {
        (1..3).flat_map(|n| (1..3).flat_map(move |i| (0..13).map(move |c| dot((n, i, c)))))
    }

    proptest! {
        /// Against a plain set of dots.
        #[test]
        fn a_context_is_a_set_of_dots(a in dots(), b in dots()) {
            let (mut united, other): (Context, Context) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(united.includes(&other), b.is_subset(&a));
            let mut one_by_one = Context::default();
            a.iter().for_each(|dot| one_by_one.add(*dot));
            prop_assert_eq!(&one_by_one, &united);
            prop_assert_eq!(united.unite(&other), !b.is_subset(&a));
            for dot in all() {
                prop_assert_eq!(united.covers(dot), a.contains(&dot) || b.contains(&dot), "{:?} in {:?}", dot, united);
            }
            for (node, incarnation) in [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(n, i)| (NodeId(n), Incarnation(i))) {
                let of = a.union(&b).filter(|dot| (dot.node, dot.incarnation) == (node, incarnation));
                prop_assert_eq!(united.highest(node, incarnation), of.map(|dot| dot.counter).max());
            }
        }

        /// Whatever the way to a set, its bytes are the same: digests of records depend on it.
        #[test]
        fn equal_sets_are_equal_bytes(a in dots(), b in dots(), c in dots()) {
            let context = |dots: &BTreeSet<Dot>| dots.iter().copied().collect::<Context>();
            let (mut left, mut right) = (context(&a), context(&c));
            left.unite(&context(&b));
            left.unite(&context(&c));
            right.unite(&context(&a));
            right.unite(&context(&b));
            prop_assert_eq!(left.to_bytes(), right.to_bytes());
            prop_assert_eq!(Context::from_bytes(left.to_bytes()), Ok(left));
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            if let Ok(context) = Context::from_bytes(bytes.clone().into()) {
                prop_assert_eq!(context.to_bytes().len(), bytes.len());
            }
        }
    }

    #[test]
    fn writes_without_a_gap_cost_one_span() {
        let context: Context = (5..10_000).map(|counter| dot((1, 1, counter))).collect();
        assert_eq!(context.spans().len(), 1);
        let without: Context = (5..10_000).filter(|c| *c != 77).map(|counter| dot((1, 1, counter))).collect();
        assert_eq!(without.spans().len(), 2);
    }

    #[test]
    fn another_form_of_the_same_set_is_refused() {
        let form = |spans: &[[u8; 4]]| {
            let bytes = [&[spans.len() as u8], spans.concat().as_slice()].concat();
            Context::from_bytes(bytes.into())
        };
        assert!(form(&[[1, 1, 5, 2], [1, 1, 9, 0]]).is_ok());
        for spans in [&[[1, 1, 5, 2], [1, 1, 8, 0]][..], &[[1, 1, 5, 2], [1, 1, 6, 0]], &[[2, 1, 5, 0], [1, 1, 5, 0]]] {
            assert_eq!(form(spans), Err(MalformedContext), "{spans:?}");
        }
        let many: Context = (0..=SPANS_MAX as u64).map(|i| dot((1, 1, 2 * i))).collect();
        assert!(many.is_too_large());
        assert_eq!(Context::from_bytes(many.to_bytes()), Err(MalformedContext));
    }
}
