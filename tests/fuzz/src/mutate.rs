//! Small changes of inputs: the same ones for the same seed, everywhere.

/// Longest input that is made; the readers' own bounds are tested elsewhere.
const BYTES_MAX: usize = 64 << 10;
/// Changes of one input at most.
const CHANGES_MAX: u64 = 5;
/// Numbers at which readers go wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0xFFFF_FFFF, i64::MAX as u64, u64::MAX - 1, u64::MAX];

/// Draws inputs out of others.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Equal seeds make equal inputs.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `end`, which is not 0: splitmix64.
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    /// One of the inputs, changed a little.
    #[must_use]
    pub fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs.get(self.below(inputs.len())).cloned().unwrap_or_default();
        for _ in 0..=self.below(CHANGES_MAX as usize) {
            self.change(&mut bytes, inputs);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match self.below(9) {
            0 if rest > 0 => bytes[at] ^= 1 << self.below(8),
            1 if rest > 0 => bytes[at] = self.below(256) as u8,
            2 => bytes.insert(at, self.below(256) as u8),
            3 => drop(bytes.drain(at..at + self.below(rest.min(16) + 1))),
            4 => bytes.truncate(at),
            5 => {
                let number = NUMBERS[self.below(NUMBERS.len())];
                let width = [1, 2, 4, 8][self.below(4)].min(rest);
                let form = if self.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
                let from = if form[0] == 0 { 8 - width } else { 0 };
                bytes[at..at + width].copy_from_slice(&form[from..from + width]);
            }
            6 => {
                // A number in digits, for texts.
                let number = NUMBERS[self.below(NUMBERS.len())].to_string();
                bytes.splice(at..at, number.into_bytes());
            }
            7 => {
                let end = at + self.below(rest + 1);
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                bytes.splice(at..at + self.below(rest + 1), other[from..to].iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_inputs_and_others_make_others() {
        let inputs = [b"hello".to_vec(), Vec::new(), vec![7; 300]];
        let draw = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..500).map(|_| mutator.mutate(&inputs)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let changed = draw(1).iter().filter(|input| !inputs.contains(input)).count();
        // Of an empty one little can be made.
        assert!(changed > 350, "only {changed} of 500 inputs are new");
    }
}
