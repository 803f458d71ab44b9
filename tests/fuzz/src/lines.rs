//! Inputs as lines of text.

/// `bytes` as one line, in the manner of Rust's byte strings.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The bytes behind a line that [`escaped`] wrote, or a person; `None` when an escape makes no sense.
#[must_use]
pub fn unescaped(line: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let mut digit = || char::from(rest.next()?).to_digit(16);
                    (digit()? * 16 + digit()?) as u8
                }
                same @ (b'\\' | b'"' | b'\'') => same,
                _ => return None,
            },
            plain => plain,
        };
        bytes.push(byte);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_the_bytes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let line = escaped(&all);
        assert!(line.is_ascii() && !line.contains('\n'));
        assert_eq!(unescaped(&line), Some(all));
        assert_eq!(unescaped(r"a\x0"), None);
        assert_eq!(unescaped(r"\q"), None);
    }
}
