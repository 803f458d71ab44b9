//! Bytes of states: one form for each value, so that equal states are equal bytes.
//!
//! ```
//! use mks_guest_sdk::codec::{Reader, Writer};
//!
//! let mut writer = Writer::default();
//! writer.number(300).bytes(b"milk");
//! let bytes = writer.finish();
//!
//! let mut reader = Reader::new(&bytes);
//! assert_eq!((reader.number()?, reader.bytes()?), (300, &b"milk"[..]));
//! reader.end()?;
//! # Ok::<(), mks_guest_sdk::codec::Malformed>(())
//! ```

use core::fmt;

/// These bytes are not what was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Malformed {}

impl From<Malformed> for String {
    fn from(malformed: Malformed) -> Self {
        malformed.0.into()
    }
}

/// Puts bytes together.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// One byte.
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    /// A number in as few bytes as it needs: seven bits each, the lowest first.
    pub fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.0.push(0x80 | (number & 0x7F) as u8);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    /// A length and as many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes alone; the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes bytes apart, front to back.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the first byte on.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.raw(1).map(|bytes| bytes[0])
    }

    /// See [`Writer::number`].
    ///
    /// # Errors
    /// At the end, beyond 64 bits, or when fewer bytes would have done.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if (bits << shift) >> shift != bits {
                return Err(Malformed("a number beyond 64 bits"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let is_least = byte != 0 || shift == 0;
                return if is_least { Ok(number) } else { Err(Malformed("a number in more bytes than it needs")) };
            }
        }
        Err(Malformed("a number beyond 64 bits"))
    }

    /// See [`Writer::bytes`].
    ///
    /// # Errors
    /// When there are fewer bytes than the length says.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed("a length beyond the end"))?;
        self.raw(length)
    }

    /// The same as text.
    ///
    /// # Errors
    /// Also when it is no UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        core::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text that is no UTF-8"))
    }

    /// See [`Writer::raw`].
    ///
    /// # Errors
    /// When there are fewer.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// True when everything was read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// When something is left.
    pub const fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes after the end")) }
    }
}

/// Appends `text` as a JSON string.
pub fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if (control as u32) < 0x20 => {
                let digit = |nibble: u32| char::from_digit(nibble, 16).unwrap_or('0');
                out.push_str("\\u00");
                out.extend([digit(control as u32 >> 4), digit(control as u32 & 0xF)]);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX] {
            let mut writer = Writer::default();
            writer.number(number).byte(7).bytes(b"xyz");
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            let read = (reader.number(), reader.byte(), reader.text());
            assert_eq!(read, (Ok(number), Ok(7), Ok("xyz")));
            assert!(reader.is_at_end() && reader.end().is_ok());
        }
    }

    #[test]
    fn a_number_has_one_form_only() {
        let numbers: [&[u8]; 4] = [&[0x80, 0], &[0xFF, 0x80, 0], &[0xFF; 10], &[0x80]];
        for bytes in numbers {
            assert!(Reader::new(bytes).number().is_err(), "{bytes:?}");
        }
        let most = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(Reader::new(&most).number(), Ok(u64::MAX));
    }

    #[test]
    fn lengths_beyond_the_end_and_bytes_after_it_are_malformed() {
        assert!(Reader::new(&[5, 1, 2]).bytes().is_err());
        assert!(Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0]).bytes().is_err());
        assert!(Reader::new(&[2, 0xC3, 0x28]).text().is_err());
        assert!(Reader::new(&[0]).end().is_err());
    }

    #[test]
    fn json_strings_are_escaped() {
        let mut out = String::new();
        push_json(&mut out, "a\"\\\n\u{1}\u{e4}");
        assert_eq!(out, "\"a\\\"\\\\\\n\\u0001\u{e4}\"");
    }
}
