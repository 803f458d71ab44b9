//! Sums by bucket, in as much memory as there are some: a keyspace of a hundred records must not cost what one of a
//! million does, in each of its partitions.

use super::nothing;
use crate::id::BUCKETS;
use alloc::vec::Vec;

/// More sums than that lie in an array of all buckets.
const FEW_MAX: usize = 128;

/// Sums of some buckets; all others are zero.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// In order of the buckets, none of them zero.
    Few(Vec<(u16, u128)>),
    /// One for each bucket.
    Many(Vec<u128>),
}

impl Default for Part {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// However they lie.
impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Part {}

impl Part {
    /// Adds to a bucket's sum, wrapping.
    pub(super) fn add(&mut self, bucket: u16, sum: u128) {
        let bucket = bucket % BUCKETS as u16;
        match self {
            Self::Few(few) => match few.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
                Ok(at) => {
                    few[at].1 = few[at].1.wrapping_add(sum);
                    if few[at].1 == 0 {
                        few.remove(at);
                    }
                }
                Err(_) if sum == 0 => {}
                Err(at) if few.len() < FEW_MAX => few.insert(at, (bucket, sum)),
                Err(_) => {
                    let mut many = nothing();
                    few.iter().for_each(|(bucket, sum)| many[usize::from(*bucket)] = *sum);
                    many[usize::from(bucket)] = sum;
                    *self = Self::Many(many);
                }
            },
            Self::Many(many) => {
                let kept = &mut many[usize::from(bucket)];
                *kept = kept.wrapping_add(sum);
            }
        }
    }

    /// A bucket's sum.
    pub(super) fn get(&self, bucket: u16) -> u128 {
        match self {
            Self::Few(few) => few.binary_search_by_key(&bucket, |(bucket, _)| *bucket).map_or(0, |at| few[at].1),
            Self::Many(many) => many.get(usize::from(bucket)).copied().unwrap_or(0),
        }
    }

    /// Buckets whose sums are not zero, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, u128)> + '_ {
        let (few, many) = match self {
            Self::Few(few) => (&few[..], &[][..]),
            Self::Many(many) => (&[][..], &many[..]),
        };
        let many = many.iter().zip(0..).filter(|(sum, _)| **sum != 0).map(|(sum, bucket)| (bucket, *sum));
        few.iter().copied().chain(many)
    }

    /// About how many sums it keeps, as far as memory and the stored form go.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_adds_up_as_an_array_does(deltas in prop::collection::vec((0u16..300, 0u128..3), 0..900)) {
            let (mut part, mut plain) = (Part::default(), nothing());
            for (bucket, sum) in deltas {
                let sum = sum.wrapping_sub(1);
                part.add(bucket, sum);
                plain[usize::from(bucket)] = plain[usize::from(bucket)].wrapping_add(sum);
            }
            prop_assert!((0..BUCKETS as u16).all(|bucket| part.get(bucket) == plain[usize::from(bucket)]));
            let some = plain.iter().zip(0u16..).filter(|(sum, _)| **sum != 0);
            prop_assert!(part.iter().eq(some.map(|(sum, bucket)| (bucket, *sum))));
        }
    }
}
