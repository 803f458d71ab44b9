//! Numbers that look random and follow from a seed.

/// SplitMix64: equal seeds give equal numbers, on every machine and in every later version.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed; any will do.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the remainder is far below what a few thousand cases could show.
        if bound == 0 { 0 } else { self.bits() % bound }
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several; `None` of none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.below(from.len() as u64)).unwrap_or(0))
    }

    /// Bytes as clients write them: mostly short words that repeat, sometimes nothing, sometimes anything.
    pub fn value(&mut self) -> Vec<u8> {
        const WORDS: [&str; 8] = ["a", "b", "ab", "milk", "milk\nbread", "0", "17", "{\"n\": 1}"];
        match self.below(8) {
            0 => Vec::new(),
            1 => (0..self.below(24)).map(|_| self.bits().to_le_bytes()[0]).collect(),
            _ => self.pick(&WORDS).map(|word| word.as_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        // The reference values of SplitMix64 for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let numbers = [random.bits(), random.bits(), random.bits()];
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_bound_is_kept_and_none_gives_nothing() {
        let mut random = Random::new(7);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!((random.below(0), random.pick::<u8>(&[])), (0, None));
    }
}
