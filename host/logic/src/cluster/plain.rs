//! Reads an entry within a signed one, which is never signed itself: bytes that say so would be read by a call within a
//! call for every three of them, until the stack ends and the process with it.

use super::Entry;
use alloc::boxed::Box;
use core::fmt;
use core::marker::PhantomData;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

/// For `deserialize_with`.
pub(super) fn entry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<Entry>, D::Error> {
    Entry::deserialize(Plain(deserializer)).map(Box::new)
}

/// Reads what `D` reads, but for an [`Entry::Signed`].
struct Plain<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Plain<D> {
    type Error = D::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let signed = variants.iter().position(|variant| *variant == "Signed");
        self.0.deserialize_enum(name, variants, PlainVisitor { visitor, signed })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("an entry is one of several kinds"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct PlainVisitor<V> {
    visitor: V,
    signed: Option<usize>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for PlainVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(PlainAccess { data, signed: self.signed })
    }
}

struct PlainAccess<A> {
    data: A,
    signed: Option<usize>,
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for PlainAccess<A> {
    type Error = A::Error;
    type Variant = A::Variant;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, A::Variant), A::Error> {
        // The log is written in a form that numbers the kinds.
        let (number, rest) = self.data.variant_seed(PhantomData::<u32>)?;
        if Some(number as usize) == self.signed {
            return Err(A::Error::custom("an entry is signed once"));
        }
        Ok((seed.deserialize(number.into_deserializer())?, rest))
    }
}
