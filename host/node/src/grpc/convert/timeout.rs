//! The header `grpc-timeout`: how long the caller waits.

use crate::fault::{Fault, Reason};
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// The part of the caller's patience that is left for the answer to travel.
const TRAVEL_SHARE: u32 = 20;

/// How long the pump may take so that its answer, and not the caller's own alarm, ends the call. `None`: no header.
///
/// # Errors
/// When the header is not what gRPC prescribes (up to 8 digits and a unit), or the time is up already.
pub fn timeout_of(metadata: &MetadataMap) -> Result<Option<Duration>, Fault> {
    let Some(header) = metadata.get("grpc-timeout") else { return Ok(None) };
    let timeout = parse(header.as_bytes()).ok_or_else(|| {
        Fault::invalid(format!("grpc-timeout is {header:?}, it must be 1 to 8 digits and one of the units H M S m u n"))
    })?;
    if timeout.is_zero() {
        return Err(Fault::new(
            Reason::Timeout,
            "the deadline had passed when the request arrived; nothing was started",
        ));
    }
    Ok(Some(timeout - timeout / TRAVEL_SHARE))
}

fn parse(header: &[u8]) -> Option<Duration> {
    let (unit, digits) = header.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: &'static str) -> Result<Option<Duration>, Fault> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", header.parse().unwrap());
        timeout_of(&metadata)
    }

    #[test]
    fn every_unit_is_understood_and_leaves_time_for_the_answer() {
        assert_eq!(timeout_of(&MetadataMap::new()), Ok(None));
        for (header, ms) in [("1H", 3_420_000), ("2M", 114_000), ("3S", 2_850), ("200m", 190), ("40000u", 38)] {
            assert_eq!(of(header), Ok(Some(Duration::from_millis(ms))), "{header}");
        }
        assert_eq!(of("20n"), Ok(Some(Duration::from_nanos(19))));
    }

    #[test]
    fn a_malformed_timeout_is_refused() {
        for header in ["", "S", "5", "-1S", "1.5S", "123456789S", "1s", "1 S", "99999999999999999999H"] {
            assert_eq!(of(header).unwrap_err().reason, Reason::Invalid, "{header:?}");
        }
        assert_eq!(of("0S").unwrap_err().reason, Reason::Timeout);
    }
}
