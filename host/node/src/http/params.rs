//! Names and bytes from paths, query strings and forms: decoded once, never as text unless they must be.

use crate::fault::Fault;
use bytes::Bytes;
use mks_proto::v1::{Durability, ReadOptions, WriteOptions};
use percent_encoding::percent_decode;
use std::str::FromStr;

/// What stands in a query string or form.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, Bytes)>);

impl Params {
    /// Reads `name=value&...`. A name that is not in `known`, or there twice, is an error: a mistyped `w` must not
    /// silently become the default.
    ///
    /// # Errors
    /// The first parameter that is unknown or there twice.
    pub fn parse(text: &[u8], known: &[&str]) -> Result<Self, Fault> {
        let mut params: Vec<(String, Bytes)> = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let name = String::from_utf8_lossy(&decode_form(&pair[..end])).into_owned();
            if !known.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(Fault::invalid(format!("there is no parameter {name:?} here; known are {known}")));
            }
            if params.iter().any(|(other, _)| *other == name) {
                return Err(Fault::invalid(format!("the parameter {name:?} is there twice")));
            }
            params.push((name, decode_form(pair.get(end + 1..).unwrap_or_default())));
        }
        Ok(Self(params))
    }

    /// Takes the bytes of a parameter out.
    #[must_use]
    pub fn take(&mut self, name: &str) -> Option<Bytes> {
        let position = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(position).1)
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        let Some(bytes) = self.take(name) else { return Ok(None) };
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| {
            let text = String::from_utf8_lossy(&bytes);
            Fault::invalid(format!("{name} is {text:?}; it must be a whole number, not below zero and not huge"))
        })?;
        Ok(Some(number))
    }

    fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.take(name).as_deref() {
            None | Some(b"false") => Ok(false),
            Some(b"true" | b"") => Ok(true),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                Err(Fault::invalid(format!("{name} is {other:?}; it must be true or false")))
            }
        }
    }

    fn durability(&mut self) -> Result<Durability, Fault> {
        match self.take("durability").as_deref() {
            None => Ok(Durability::Unspecified),
            Some(b"os") => Ok(Durability::Os),
            Some(b"sync") => Ok(Durability::Sync),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                Err(Fault::invalid(format!("durability is {other:?}; it must be os or sync")))
            }
        }
    }

    fn request_id(&mut self) -> Result<Bytes, Fault> {
        let Some(hex) = self.take("request_id") else { return Ok(Bytes::new()) };
        let digits = hex.len() == 32 && hex.iter().all(u8::is_ascii_hexdigit);
        let id = std::str::from_utf8(&hex).ok().filter(|_| digits).and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let id = id.ok_or_else(|| Fault::invalid("request_id must be 32 hexadecimal digits"))?;
        Ok(Bytes::copy_from_slice(&id.to_be_bytes()))
    }

    /// What a write may choose, beside the context that its headers may have.
    ///
    /// # Errors
    /// The first one that does not read.
    pub fn write_options(&mut self, context: Bytes) -> Result<WriteOptions, Fault> {
        Ok(WriteOptions {
            w: self.number("w")?,
            durability: self.durability()?.into(),
            deadline_ms: self.number("deadline_ms")?,
            ttl_ms: self.number("ttl_ms")?,
            request_id: self.request_id()?,
            context,
            sloppy: self.flag("sloppy")?,
            node_confirms: self.number("node_confirms")?.unwrap_or_default(),
        })
    }

    /// What a read may choose.
    ///
    /// # Errors
    /// The first one that does not read.
    pub fn read_options(&mut self) -> Result<ReadOptions, Fault> {
        Ok(ReadOptions {
            r: self.number("r")?,
            deadline_ms: self.number("deadline_ms")?,
            node_confirms: self.number("node_confirms")?.unwrap_or_default(),
        })
    }
}

/// Keyspace and key of a path `/v1/keyspaces/{keyspace}/keys/{key}`. The key may be any bytes, percent-encoded.
///
/// # Errors
/// Another path, or a name of a keyspace that is no text.
pub fn keyspace_and_key(path: &str) -> Result<(String, Bytes), Fault> {
    let parts = path.strip_prefix("/v1/keyspaces/").and_then(|rest| rest.split_once("/keys/"));
    let (keyspace, key) = parts.ok_or_else(|| Fault::invalid("the path is not /v1/keyspaces/KEYSPACE/keys/KEY"))?;
    let keyspace = percent_decode(keyspace.as_bytes())
        .decode_utf8()
        .map_err(|_| Fault::invalid("the name of the keyspace is not UTF-8"))?;
    Ok((keyspace.into_owned(), percent_decode(key.as_bytes()).collect::<Vec<u8>>().into()))
}

/// Percent-encoding with `+` for a space, as forms and query strings have it.
fn decode_form(bytes: &[u8]) -> Bytes {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decoded_once() {
        let mut params = Params::parse(b"key=a%2525+b%00%ff&value=", &["key", "value"]).unwrap();
        assert_eq!(params.take("key").unwrap(), &b"a%25 b\0\xff"[..]);
        assert_eq!(params.take("value").unwrap(), &b""[..]);
        assert_eq!(params.take("value"), None);
    }

    #[test]
    fn a_key_in_a_path_may_be_any_bytes() {
        let (keyspace, key) = keyspace_and_key("/v1/keyspaces/a%20b/keys/%2Fetc%2f..%00+%FF").unwrap();
        assert_eq!(keyspace, "a b");
        assert_eq!(key, &b"/etc/..\0+\xff"[..]);
        assert!(keyspace_and_key("/v1/keyspaces/%FF/keys/k").is_err());
    }

    #[test]
    fn what_is_unknown_or_there_twice_is_refused() {
        for text in [&b"key=1&key=2"[..], b"kye=1", b"key=1&%ff=2", b"=1"] {
            assert!(Params::parse(text, &["key"]).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn options_that_are_no_numbers_are_refused() {
        let known = ["w", "durability", "deadline_ms", "ttl_ms", "request_id", "sloppy"];
        for text in
            ["sloppy=yes", "w=-1", "w=two", "w=", "w=4294967296", "durability=disk", "deadline_ms=1.5", "request_id=00"]
        {
            let mut params = Params::parse(text.as_bytes(), &known).unwrap();
            assert!(params.write_options(Bytes::new()).is_err(), "{text}");
        }
        let text = b"w=2&durability=os&request_id=000000000000000000000000000000ff&sloppy=true";
        let options = Params::parse(text, &known).unwrap().write_options(Bytes::new()).unwrap();
        assert_eq!((options.w, options.durability(), options.sloppy), (Some(2), Durability::Os, true));
        assert_eq!(options.request_id, &255u128.to_be_bytes()[..]);
    }
}
