//! Gets a component from other members, piece by piece, and believes only its hash.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks_logic::port::ResolverHash;

/// How often each member is asked for what it may have, before a fetch is given up for now.
const ROUNDS: usize = 2;

/// Pieces of components of other nodes.
pub trait Source: Send + Sync + 'static {
    /// The bytes from `offset` on, as many as the other node likes to send at once, and how many there are in all.
    ///
    /// # Errors
    /// Why there are none, for people.
    fn piece<'a>(
        &'a self,
        address: &'a str,
        hash: ResolverHash,
        offset: u64,
    ) -> BoxFuture<'a, Result<(u64, Bytes), String>>;
}

/// Fetches a component of `total` bytes. What one member began another one may go on with.
///
/// # Errors
/// What the last member said, for people.
pub(super) async fn fetch(
    source: &dyn Source,
    addresses: &[String],
    hash: ResolverHash,
    total: u64,
    mut progress: impl FnMut(u64),
) -> Result<Vec<u8>, String> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut reason = "no other member has it".to_owned();
    for address in addresses.iter().cycle().take(addresses.len() * ROUNDS) {
        match go_on(source, address, hash, total, &mut bytes, &mut progress).await {
            Ok(()) if blake3::hash(&bytes) == blake3::Hash::from(hash.0) => return Ok(bytes),
            Ok(()) => {
                // Nobody knows whose piece was wrong.
                bytes.clear();
                reason = format!("{address}: what it sent is not what was asked for");
            }
            Err(why) => reason = format!("{address}: {why}"),
        }
    }
    Err(reason)
}

async fn go_on(
    source: &dyn Source,
    address: &str,
    hash: ResolverHash,
    total: u64,
    bytes: &mut Vec<u8>,
    progress: &mut impl FnMut(u64),
) -> Result<(), String> {
    while (bytes.len() as u64) < total {
        let (theirs, piece) = source.piece(address, hash, bytes.len() as u64).await?;
        let left = total - bytes.len() as u64;
        if theirs != total || piece.is_empty() || piece.len() as u64 > left {
            bytes.clear();
            return Err(format!("it has {theirs} bytes of it, and there are {total}"));
        }
        bytes.extend_from_slice(&piece);
        progress(bytes.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const WHOLE: &[u8] = b"the bytes of a component";

    /// Members that each send four bytes at a time, in a way of their own.
    #[derive(Default)]
    struct Members {
        asked: Mutex<Vec<(String, u64)>>,
    }

    impl Source for Members {
        fn piece<'a>(
            &'a self,
            address: &'a str,
            _: ResolverHash,
            offset: u64,
        ) -> BoxFuture<'a, Result<(u64, Bytes), String>> {
            self.asked.lock().unwrap().push((address.to_owned(), offset));
            let whole = WHOLE.len() as u64;
            let at = offset as usize;
            let piece = Bytes::copy_from_slice(&WHOLE[at.min(WHOLE.len())..(at + 4).min(WHOLE.len())]);
            Box::pin(async move {
                match address {
                    "breaks" if offset >= 8 => Err("the link broke".to_owned()),
                    "lies" => Ok((whole, Bytes::from(vec![b'x'; piece.len()]))),
                    "shorter" => Ok((whole - 1, piece)),
                    "empty" => Ok((whole, Bytes::new())),
                    "floods" => Ok((whole, Bytes::from(vec![b'x'; 1_000]))),
                    "gone" => Err("nobody there".to_owned()),
                    _ => Ok((whole, piece)),
                }
            })
        }
    }

    async fn fetch_from(members: &Members, addresses: &[&str]) -> Result<Vec<u8>, String> {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let hash = ResolverHash(*blake3::hash(WHOLE).as_bytes());
        let mut last = 0;
        fetch(members, &addresses, hash, WHOLE.len() as u64, |done| last = done).await
    }

    #[tokio::test]
    async fn what_one_member_began_another_goes_on_with() {
        let members = Members::default();
        assert_eq!(fetch_from(&members, &["breaks", "honest"]).await.as_deref(), Ok(WHOLE));
        let asked = members.asked.lock().unwrap();
        let of_honest: Vec<u64> = asked.iter().filter(|(who, _)| who == "honest").map(|(_, at)| *at).collect();
        assert_eq!(of_honest, [8, 12, 16, 20], "nothing is sent twice");
    }

    #[tokio::test]
    async fn members_that_send_something_else_are_not_believed() {
        for liar in ["lies", "shorter", "empty", "floods", "gone"] {
            let fetched = fetch_from(&Members::default(), &[liar, "honest"]).await;
            assert_eq!(fetched.as_deref(), Ok(WHOLE), "{liar}");
            let members = Members::default();
            let reason = fetch_from(&members, &[liar]).await.unwrap_err();
            assert!(reason.starts_with(liar), "{reason}");
            assert!(members.asked.lock().unwrap().len() <= 2 * WHOLE.len().div_ceil(4), "it ends");
        }
        assert_eq!(fetch_from(&Members::default(), &[]).await, Err("no other member has it".to_owned()));
    }

    #[tokio::test]
    async fn pieces_of_a_liar_spoil_those_of_others_only_once() {
        // The second begins where the first broke off, the first begins anew.
        assert_eq!(fetch_from(&Members::default(), &["breaks", "lies", "honest"]).await.as_deref(), Ok(WHOLE));
    }
}
