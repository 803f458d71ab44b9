//! About how many different elements were added, in at most 4 KiB: 4,096 registers, a standard error of 1.6 %.
//!
//! Operation: `add X`; the reply says whether the estimate may have changed. The empty question answers the estimate.
//! Flajolet et al., "HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm", 2007, with 64 bits
//! of hash in place of 32, so that large counts need no correction.

use mks_guest_sdk::Random;
use mks_guest_sdk::codec::{Malformed, Reader, Writer};
use mks_guest_sdk::data_type::{Change, Context, DataType, State};
use std::collections::BTreeMap;

/// Bits of the hash that choose a register.
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The greatest rank: all other bits of the hash are zero.
const RANK_MAX: u8 = (64 - INDEX_BITS + 1) as u8;
/// With more registers than this the state lists all of them, a byte each, in place of those that are used, two or
/// three.
const LISTED_MAX: usize = REGISTERS / 3;
const LISTED: u8 = 0;
const ALL: u8 = 1;

/// The registers that are not zero: the longest run of zeroes, and one, among the hashes that fell to each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registers(BTreeMap<u16, u8>);

impl State for Registers {
    fn join(&mut self, other: Self) {
        for (index, rank) in other.0 {
            let held = self.0.entry(index).or_default();
            *held = rank.max(*held);
        }
    }

    fn write(&self, out: &mut Writer) {
        if self.0.len() <= LISTED_MAX {
            out.byte(LISTED);
            for (index, rank) in &self.0 {
                out.number(u64::from(*index)).byte(*rank);
            }
        } else {
            let all = (0..REGISTERS as u16).map(|index| self.0.get(&index).copied().unwrap_or_default());
            out.byte(ALL).raw(&all.collect::<Vec<u8>>());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut registers = BTreeMap::new();
        let mut add = |index: usize, rank: u8| match (u16::try_from(index), rank) {
            (Ok(index), 1..=RANK_MAX) if usize::from(index) < REGISTERS => {
                registers.insert(index, rank);
                Ok(())
            }
            _ => Err(Malformed("a register or a rank that is not there")),
        };
        match reader.byte()? {
            LISTED => {
                while !reader.is_at_end() {
                    let index = usize::try_from(reader.number()?).unwrap_or(REGISTERS);
                    add(index, reader.byte()?)?;
                }
            }
            ALL => {
                let ranks = reader.raw(REGISTERS)?.iter().enumerate().filter(|(_, rank)| **rank > 0);
                for (index, rank) in ranks {
                    add(index, *rank)?;
                }
            }
            _ => return Err(Malformed("neither some registers nor all of them")),
        }
        Ok(Self(registers))
    }
}

/// FNV-1a, and the finalizer of MurmurHash3, after which every bit depends on every byte.
fn hash(element: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    let mut hash = element.iter().fold(0xCBF2_9CE4_8422_2325, fold);
    for multiplier in [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(multiplier);
    }
    hash ^ (hash >> 33)
}

fn register(element: &[u8]) -> (u16, u8) {
    let hash = hash(element);
    let rank = (hash << INDEX_BITS).leading_zeros().min(64 - INDEX_BITS) + 1;
    ((hash >> (64 - INDEX_BITS)) as u16, rank as u8)
}

fn estimate(registers: &Registers) -> u64 {
    let count = REGISTERS as f64;
    let empty = REGISTERS - registers.0.len();
    let sum = registers.0.values().map(|rank| 0.5f64.powi(i32::from(*rank))).sum::<f64>() + empty as f64;
    let raw = 0.7213 / (1.0 + 1.079 / count) * count * count / sum;
    // Few elements are counted better by how many registers they left empty.
    let few = raw <= 2.5 * count && empty > 0;
    if few { (count * (count / empty as f64).ln()).round() as u64 } else { raw.round() as u64 }
}

/// See the [crate].
#[derive(Debug)]
pub struct HyperLogLog;

impl DataType for HyperLogLog {
    const NAME: &'static str = "hyperloglog";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type State = Registers;

    fn update(_: &Context, state: &Registers, op: &[u8]) -> Result<Change<Registers>, String> {
        // Elements are any bytes, so this is no text.
        let element = op.strip_prefix(b"add ").filter(|element| !element.is_empty());
        let (index, rank) = register(element.ok_or("hyperloglog knows `add X`, with an X of at least one byte")?);
        let changes = state.0.get(&index).is_none_or(|held| *held < rank);
        let delta = if changes { Registers(BTreeMap::from([(index, rank)])) } else { Registers::default() };
        Ok(Change { delta, reply: Some(changes.to_string().into_bytes()) })
    }

    fn query(state: &Registers, question: &[u8]) -> Result<Vec<u8>, String> {
        if question.is_empty() {
            Ok(estimate(state).to_string().into_bytes())
        } else {
            Err("hyperloglog answers the empty question".into())
        }
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        Some(format!("add {}", Random::new(seed).below(1_000)).into_bytes())
    }
}

mks_guest_sdk::export_data_type!(HyperLogLog);

#[cfg(test)]
mod tests {
    use super::{HyperLogLog, REGISTERS, Registers, estimate, register};
    use mks_guest_sdk::data_type::{State, decode, encode};
    use mks_guest_sdk::testing::{Replica, assert_data_type};

    fn of(elements: std::ops::Range<u32>) -> Registers {
        let mut registers = Registers::default();
        for element in elements {
            registers.join(Registers([register(element.to_string().as_bytes())].into()));
        }
        registers
    }

    #[test]
    fn estimates_are_within_five_percent() {
        for count in [0, 1, 10, 100, 1_000, 10_000, 100_000] {
            let estimate = estimate(&of(0..count)) as f64;
            let off = (estimate - f64::from(count)).abs();
            assert!(off <= f64::from(count) * 0.05, "{count}: {estimate}");
        }
    }

    #[test]
    fn what_both_have_seen_counts_once() {
        let mut both = of(0..6_000);
        both.join(of(3_000..9_000));
        assert_eq!(both, of(0..9_000));
    }

    #[test]
    fn few_and_many_registers_have_one_form_each() {
        for count in [0, 1, 100, 2_000, 50_000] {
            let registers = of(0..count);
            let bytes = encode(&registers);
            assert!(bytes.len() <= REGISTERS + 1);
            assert_eq!(decode::<Registers>(&bytes), Ok(registers));
        }
        assert!(decode::<Registers>(&[0, 5, 0]).is_err() && decode::<Registers>(&[0, 5, 99]).is_err());
        assert!(decode::<Registers>(&[[1].as_slice(), &[1; REGISTERS - 1]].concat()).is_err());
    }

    #[test]
    fn the_reply_says_whether_something_changed() {
        let mut a = Replica::<HyperLogLog>::new(1);
        assert_eq!(a.apply("add x"), Ok(Some(b"true".to_vec())));
        assert_eq!(a.apply("add x"), Ok(Some(b"false".to_vec())));
        assert_eq!(a.query(""), Ok("1".into()));
        assert!(a.apply("add ").is_err() && a.apply("x").is_err() && a.query("?").is_err());
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_data_type::<HyperLogLog>();
    }
}
