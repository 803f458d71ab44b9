//! The byte form of everything that the epoch log stores or sends: a format byte, then postcard.

use mks_logic::port::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of every stored value and every message. Another number is another format.
const FORMAT: u8 = 6;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// Nothing at all.
    #[error("no bytes where a {0} was expected")]
    Empty(&'static str),
    /// Another format byte.
    #[error("format {found} of a {what}, this version reads format {FORMAT}")]
    Format {
        /// Of what.
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// The rest does not read.
    #[error("not a {what}: {error}")]
    Body {
        /// Of what.
        what: &'static str,
        /// Why not.
        error: String,
    },
}

/// Encodes `value`; `what` names it in errors.
pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, CodecError> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|error| CodecError::Body { what, error: error.to_string() })
}

/// Decodes what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes {
        [] => Err(CodecError::Empty(what)),
        [FORMAT, body @ ..] => {
            postcard::from_bytes(body).map_err(|error| CodecError::Body { what, error: error.to_string() })
        }
        [found, ..] => Err(CodecError::Format { what, found: *found }),
    }
}

impl From<CodecError> for StoreError {
    fn from(error: CodecError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_and_nothing_else_does() {
        let bytes = encode("pair", &(7u64, "x".to_owned())).unwrap();
        assert_eq!(decode::<(u64, String)>("pair", &bytes), Ok((7, "x".to_owned())));
        assert_eq!(decode::<(u64, String)>("pair", &[]), Err(CodecError::Empty("pair")));
        assert_eq!(decode::<(u64, String)>("pair", &[9, 7]), Err(CodecError::Format { what: "pair", found: 9 }));
        assert!(matches!(decode::<(u64, String)>("pair", &bytes[..2]), Err(CodecError::Body { .. })));
    }
}
