//! Context tokens: what opens was sealed here, for this key, and a changed one never opens.

use super::past;
use bytes::Bytes;
use mks::token::{Tokens, from_text, to_text};
use mks_logic::context::Context;
use mks_logic::id::{Key, KeyspaceId};
use std::sync::LazyLock;

const CLUSTER: u128 = 0xC0FFEE;

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| Tokens::new(&[7; 32]));

fn key(name: &'static str) -> Key {
    Key { keyspace: KeyspaceId(3), partition_key: name.into(), sort_key: Bytes::new() }
}

pub fn run(input: &[u8]) {
    let open = |key: &Key, token: &[u8]| TOKENS.open(CLUSTER, key, &Bytes::copy_from_slice(token)).ok();
    let sealed = |context: &Context| TOKENS.seal(CLUSTER, &key("k"), context);
    if let Some(context) = open(&key("k"), input) {
        assert_eq!(sealed(&context), input, "nobody who has the key sealed it");
    }
    if let Ok(token) = from_text(input) {
        assert_eq!(from_text(to_text(&token).as_bytes()), Ok(token));
    }
    // The input as a context, with one bit of its token flipped on the way.
    let Some((&[high, low, bit], bytes)) = input.split_first_chunk() else { return };
    let Ok(context) = Context::from_bytes(Bytes::copy_from_slice(bytes)) else { return };
    let token = sealed(&context);
    assert_eq!(open(&key("k"), &token), Some(context));
    assert_eq!(open(&key("another"), &token), None, "it is for another key");
    let mut bad = token.to_vec();
    let at = usize::from(u16::from_be_bytes([high, low])) % bad.len();
    bad[at] ^= 1 << (bit % 8);
    assert_eq!(open(&key("k"), &bad), None, "bit {} of byte {at} was flipped", bit % 8);
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let token = TOKENS.seal(CLUSTER, &key("k"), &past());
    let empty = TOKENS.seal(CLUSTER, &key("k"), &Context::default());
    let text = to_text(&token).into_bytes();
    vec![token.to_vec(), empty.to_vec(), text, [&[0, 9, 3], &past().to_bytes()[..]].concat()]
}
