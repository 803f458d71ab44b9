//! Quantities as people type them.

use crate::token;
use bytes::Bytes;
use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A duration with its unit: `250ms`, `2s`, `5m`, `1h`, `7d`.
///
/// # Errors
/// Says which forms there are.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; use a whole number with a unit: 250ms, 2s, 5m, 1h, 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(*factor).map(Duration::from_millis).ok_or_else(wrong)
}

/// A duration, or `never`, which is zero.
///
/// # Errors
/// As [`duration`]; zero itself is refused, because it reads like "at once".
pub(super) fn time_to_live(text: &str) -> Result<Duration, String> {
    if text == "never" {
        return Ok(Duration::ZERO);
    }
    match duration(text)? {
        Duration::ZERO => Err("a lifetime of zero makes no sense; `never` is for ever".to_owned()),
        lifetime => Ok(lifetime),
    }
}

/// Sixteen bytes as 32 hex digits, with or without the dashes of a UUID.
pub(super) fn request_id(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let wrong = || format!("{text:?} is no request id; use 32 hex digits or a UUID");
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).map_err(|_| wrong())
}

/// A context token, as `mks get` tells it.
pub(super) fn context(text: &str) -> Result<Bytes, String> {
    token::from_text(text.as_bytes()).map_err(|error| error.to_string())
}

/// Bytes in the largest binary unit that leaves a number above one.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    unreachable!("the last unit always returns")
}

/// Milliseconds in the two largest units: `3d 4h`, `12.5 s`.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..3_600_000 => format!("{}m {}s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..86_400_000 => format!("{}h {}m", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{}d {}h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

/// Milliseconds since 1970 as a date and time of day in UTC: `2026-11-25 13:15:13`.
pub(super) fn moment(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1_000 % 86_400);
    // Days since the first of March of the year 0, whose years end with their leap day; 400 years have 146,097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_its_unit() {
        for (text, ms) in [("250ms", 250), ("2s", 2_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["5", "", "s", "1.5s", "-1s", "1 s", "99999999999999999999s", "18446744073709551615d", "2x"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(time_to_live("never"), Ok(Duration::ZERO));
        assert!(time_to_live("0s").is_err());
    }

    #[test]
    fn a_request_id_is_sixteen_bytes() {
        let id = request_id("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((id[0], id[15]), (0x00, 0xff));
        for text in ["", "0011", "0011223344556677889900aabbccddeeff", "+0112233445566778899aabbccddeeff"] {
            assert!(request_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_reads_as_date_and_time() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_709_251_199_999, "2024-02-29 23:59:59"),
            (1_764_076_513_000, "2025-11-25 13:15:13"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(moment(ms), text);
        }
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(span(1_500), "1.5 s");
        assert_eq!(span(61_000), "1m 1s");
        assert_eq!(span(90_000_000), "1d 1h");
    }
}
