//! What stands in the path and query of an HTTP request: a path and a query, apart by a newline.

use bytes::Bytes;
use mks::http::params::{Params, keyspace_and_key};

const KNOWN: [&str; 9] = ["key", "value", "sort", "r", "w", "durability", "ttl_ms", "deadline_ms", "request_id"];

pub fn run(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    if let Ok(path) = std::str::from_utf8(&input[..end])
        && let Ok((keyspace, key)) = keyspace_and_key(path)
    {
        assert!(keyspace.len() + key.len() < path.len(), "decoding never grows");
        let encoded = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let again = format!("/v1/keyspaces/{}/keys/{}", encoded(keyspace.as_bytes()), encoded(&key));
        assert_eq!(keyspace_and_key(&again), Ok((keyspace, key)));
    }
    let query = input.get(end + 1..).unwrap_or_default();
    match Params::parse(query, &KNOWN) {
        Err(fault) => assert!(!fault.message.is_empty(), "a refusal says why"),
        Ok(mut params) => {
            let sizes = ["key", "value", "sort"].map(|name| params.take(name).map_or(0, |bytes| bytes.len()));
            assert!(sizes.iter().sum::<usize>() <= query.len(), "decoding never grows");
            if let Ok(options) = params.write_options(Bytes::new()) {
                assert!(matches!(options.request_id.len(), 0 | 16), "{options:?}");
            }
            let _ = params.read_options();
        }
    }
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "/v1/keyspaces/default/keys/some%2Fkey%20with%20%C3%BC+%00\nsort=%01&w=2&durability=sync&ttl_ms=9&deadline_ms=70",
        "/v1/keyspaces/a%20b/keys/%2Fetc%2f..%00+%FF\nr=1&deadline_ms=80",
        "/set\nkey=a%2525+b%00%ff&value=&request_id=0000000000000000000000000000000a",
        "/v1/keyspaces/%FF/keys/k\nw=-1&w=4294967296&=&&durability=disk",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
