//! The greatest number that was ever offered: a high-water mark.
//!
//! Operation: `offer N`, with a whole number from -2^63 to 2^63 - 1. The empty question answers the greatest one, and
//! nothing before the first.

use mks_guest_sdk::Random;
use mks_guest_sdk::codec::{Malformed, Reader, Writer};
use mks_guest_sdk::data_type::{Change, Context, DataType, State, command};

/// The greatest number, if there was one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark(Option<i64>);

impl State for Mark {
    fn join(&mut self, other: Self) {
        *self = other.max(*self);
    }

    fn write(&self, out: &mut Writer) {
        if let Some(number) = self.0 {
            out.raw(&number.to_be_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.is_at_end() {
            return Ok(Self(None));
        }
        let bytes = reader.raw(8)?.try_into().map_err(|_| Malformed("a number has eight bytes"))?;
        Ok(Self(Some(i64::from_be_bytes(bytes))))
    }
}

/// See the [crate].
#[derive(Debug)]
pub struct Max;

impl DataType for Max {
    const NAME: &'static str = "max";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type State = Mark;

    fn update(_: &Context, _: &Mark, op: &[u8]) -> Result<Change<Mark>, String> {
        match command(op)? {
            ("offer", number) => {
                let number = number.parse().map_err(|_| format!("`{number}` is no number from -2^63 to 2^63 - 1"))?;
                Ok(Change::silent(Mark(Some(number))))
            }
            (other, _) => Err(format!("max knows `offer N`, not `{other}`")),
        }
    }

    fn query(state: &Mark, question: &[u8]) -> Result<Vec<u8>, String> {
        match command(question)? {
            ("", "") => Ok(state.0.map_or_else(String::new, |number| number.to_string()).into_bytes()),
            (other, _) => Err(format!("max answers the empty question, not `{other}`")),
        }
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        Some(format!("offer {}", i64::try_from(Random::new(seed).below(20)).ok()? - 10).into_bytes())
    }
}

mks_guest_sdk::export_data_type!(Max);

#[cfg(test)]
mod tests {
    use super::Max;
    use mks_guest_sdk::testing::{Replica, assert_data_type};

    #[test]
    fn the_greatest_offer_stays() {
        let (mut a, mut b) = (Replica::<Max>::new(1), Replica::<Max>::new(2));
        assert_eq!(a.query(""), Ok(String::new()));
        a.apply("offer -3").expect("taken");
        b.apply("offer 7").expect("taken");
        b.apply("offer -9").expect("taken");
        a.merge(&b);
        assert_eq!(a.query(""), Ok("7".into()));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let mut a = Replica::<Max>::new(1);
        for op in ["", "offer", "offer 1.5", "offer 9223372036854775808", "set 1"] {
            assert!(a.apply(op).is_err(), "{op}");
        }
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_data_type::<Max>();
    }
}
