//! Context tokens: what a reader has seen of one key, in a form that clients keep and give back and can't make.
//!
//! ```text
//! 1 | context, as `mks_logic::context` writes it | BLAKE3 tag 32
//! ```
//!
//! The tag is over the version, the cluster, the keyspace, the key and the context, under a key that is derived from
//! the cluster key. A context that nobody gave could name writes that are still to come, and they would vanish; so a
//! token that was changed, made up, or given for another key or by another cluster is an error, never a context.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes};
use mks_logic::cluster::State;
use mks_logic::context::Context;
use mks_logic::event::{Operation, Request};
use mks_logic::id::Key;
use std::fmt;
use std::sync::Arc;

/// Longest token, bytes. Usual ones have less than a hundred.
pub const TOKEN_BYTES_MAX: usize = 128 << 10;

const FORMAT: u8 = 1;
const TAG: usize = blake3::OUT_LEN;

/// Separates tokens from every other use of the cluster key.
const KEY_CONTEXT: &str = "my-key-store 2026-11 causal context tokens, format 1";

/// Why bytes are no token of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadToken {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the context is {0} bytes, and none is longer than {TOKEN_BYTES_MAX}")]
    TooLong(usize),
    /// Not the text form of any bytes.
    #[error("the context is no base64url")]
    NotText,
    /// Of a later release, or no token at all.
    #[error("the context is none, or of a release that this node does not know")]
    Format,
    /// The tag is wrong.
    #[error("the context was not given by this cluster for this key, or was changed since")]
    Forged,
}

/// Seals and opens the tokens of one cluster.
pub struct Tokens {
    key: [u8; blake3::KEY_LEN],
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    /// `cluster_key` is the secret that all nodes share: a token of one is good at every other.
    #[must_use]
    pub fn new(cluster_key: &[u8; 32]) -> Self {
        Self { key: blake3::derive_key(KEY_CONTEXT, cluster_key) }
    }

    /// The token of a context.
    #[must_use]
    pub fn seal(&self, cluster: u128, key: &Key, context: &Context) -> Bytes {
        let mut token = vec![FORMAT];
        context.encode(&mut token);
        let tag = self.tag(cluster, key, &token);
        token.put_slice(tag.as_bytes());
        token.into()
    }

    /// The context of a token.
    ///
    /// # Errors
    /// [`BadToken`]; whatever the bytes are.
    pub fn open(&self, cluster: u128, key: &Key, token: &Bytes) -> Result<Context, BadToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BadToken::TooLong(token.len()));
        }
        if token.first() != Some(&FORMAT) || token.len() < 1 + TAG {
            return Err(BadToken::Format);
        }
        let sealed = token.slice(..token.len() - TAG);
        let tag: [u8; TAG] = token[sealed.len()..].try_into().map_err(|_| BadToken::Format)?;
        // In constant time: how much of a guess is right must not show.
        if self.tag(cluster, key, &sealed) != blake3::Hash::from(tag) {
            return Err(BadToken::Forged);
        }
        Context::from_bytes(sealed.slice(1..)).map_err(|_| BadToken::Format)
    }

    fn tag(&self, cluster: u128, key: &Key, sealed: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&cluster.to_be_bytes()).update(&key.keyspace.0.to_be_bytes());
        for part in [&key.partition_key, &key.sort_key] {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        hasher.update(sealed).finalize()
    }
}

/// The text form of a token, for headers, command lines and JSON.
#[must_use]
pub fn to_text(token: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

/// The token of a text form.
///
/// # Errors
/// [`BadToken::NotText`].
pub fn from_text(text: &[u8]) -> Result<Bytes, BadToken> {
    URL_SAFE_NO_PAD.decode(text).map(Bytes::from).map_err(|_| BadToken::NotText)
}

/// What turns the contexts in the reply to one request into tokens: the keys that they are for. Nothing, where none of
/// the keyspaces is causal.
#[derive(Debug, Default)]
pub struct Seals(Option<Box<Sealing>>);

#[derive(Debug)]
struct Sealing {
    tokens: Arc<Tokens>,
    cluster: u128,
    keys: Vec<Key>,
}

impl Seals {
    /// For the reply to this request.
    #[must_use]
    pub fn of(tokens: &Arc<Tokens>, state: &State, request: &Request) -> Self {
        let causal = |key: &Key| state.keyspaces.get(&key.keyspace).is_some_and(|keyspace| keyspace.causal);
        let keys = match &request.operation {
            Operation::Put { key, .. } | Operation::Get { key } | Operation::Delete { key } if causal(key) => {
                vec![key.clone()]
            }
            Operation::Batch { items } if items.iter().any(|item| causal(&item.key)) => {
                items.iter().map(|item| item.key.clone()).collect()
            }
            _ => return Self::default(),
        };
        Self(Some(Box::new(Sealing { tokens: Arc::clone(tokens), cluster: state.cluster, keys })))
    }

    /// The token of the context in the reply's part `part`, counted as the items of a batch are; empty: there is none.
    #[must_use]
    pub fn seal(&self, part: usize, context: Option<&Context>) -> Bytes {
        let of = |sealing: &Sealing, context: &Context| {
            let Sealing { tokens, cluster, keys } = sealing;
            keys.get(part).map(|key| tokens.seal(*cluster, key, context))
        };
        self.0.as_deref().zip(context).and_then(|(sealing, context)| of(sealing, context)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mks_logic::id::{Dot, Incarnation, KeyspaceId, NodeId};

    const CLUSTER: u128 = 7;

    fn key() -> Key {
        Key { keyspace: KeyspaceId(3), partition_key: "cart".into(), sort_key: "a".into() }
    }

    fn context() -> Context {
        (5..9).map(|counter| Dot { node: NodeId(1), incarnation: Incarnation(2), counter }).collect()
    }

    #[test]
    fn a_token_gives_its_context_back_on_every_node_and_is_short() {
        let token = Tokens::new(&[1; 32]).seal(CLUSTER, &key(), &context());
        assert_eq!(Tokens::new(&[1; 32]).open(CLUSTER, &key(), &token), Ok(context()));
        assert!(token.len() < 50, "{}", token.len());
        assert_eq!(from_text(to_text(&token).as_bytes()), Ok(token));
        assert_eq!(from_text(b"a token?"), Err(BadToken::NotText));
    }

    #[test]
    fn a_key_without_any_write_has_a_token_too() {
        let tokens = Tokens::new(&[1; 32]);
        let token = tokens.seal(CLUSTER, &key(), &Context::default());
        assert_eq!(tokens.open(CLUSTER, &key(), &token), Ok(Context::default()));
    }

    #[test]
    fn a_token_is_good_for_its_key_and_its_cluster_alone() {
        let tokens = Tokens::new(&[1; 32]);
        let token = tokens.seal(CLUSTER, &key(), &context());
        let keys = [
            Key { keyspace: KeyspaceId(4), ..key() },
            Key { partition_key: "carta".into(), sort_key: Bytes::new(), ..key() },
            Key { partition_key: "car".into(), sort_key: "ta".into(), ..key() },
        ];
        for other in keys {
            assert_eq!(tokens.open(CLUSTER, &other, &token), Err(BadToken::Forged), "{other:?}");
        }
        assert_eq!(tokens.open(CLUSTER + 1, &key(), &token), Err(BadToken::Forged));
        assert_eq!(Tokens::new(&[2; 32]).open(CLUSTER, &key(), &token), Err(BadToken::Forged));
    }

    #[test]
    fn a_token_that_was_changed_cut_or_made_up_is_none() {
        let tokens = Tokens::new(&[1; 32]);
        let token = tokens.seal(CLUSTER, &key(), &context());
        for at in 0..token.len() {
            let mut changed = token.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert!(tokens.open(CLUSTER, &key(), &changed.into()).is_err(), "{at}");
            assert!(tokens.open(CLUSTER, &key(), &token.slice(..at)).is_err(), "{at}");
        }
        let long = Bytes::from(vec![FORMAT; TOKEN_BYTES_MAX + 1]);
        assert_eq!(tokens.open(CLUSTER, &key(), &long), Err(BadToken::TooLong(long.len())));
    }
}
