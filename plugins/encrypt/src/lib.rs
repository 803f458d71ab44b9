//! Values are encrypted with XChaCha20-Poly1305 on their way to the engine.
//!
//! The secret `key`, 32 bytes, comes from a file that the node's config names; the node keeps neither it nor what is
//! made of it on a disk. A value's table and key are authenticated with it, so that no disk passes one value off as
//! another's.
//! Not hidden are keys, how long a value is, and which values were written with the same secret.
//!
//! ```text
//! format  key id   nonce     the value, encrypted   tag
//! 1       8 bytes  24 bytes  as long as it is       16 bytes
//! ```
//!
//! The nonce is random, from the node: with 24 bytes it never comes twice. The key id is a hash of the secret: where it
//! differs, the value is foreign and not tried.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use mks_guest_sdk::adapter::{Config, OptionDoc, Refusal};
use mks_guest_sdk::value_adapter::{Row, Secrets, Started, Unreadable, ValueAdapter};

const SECRET: &str = "key";
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// First byte of what is packed.
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + ID_BYTES + NONCE_BYTES;
/// What the key and its id are derived with, so that neither is good for anything else that the same file may open.
const KEY_CONTEXT: &str = "my-key-store 2026 storage adapter encrypt: key";
const ID_CONTEXT: &str = "my-key-store 2026 storage adapter encrypt: key id";

/// See the [crate].
#[derive(Debug)]
pub struct Encrypt;

/// The settings: key, then key id.
struct Settings<'a> {
    key: &'a [u8; KEY_BYTES],
    id: &'a [u8; ID_BYTES],
}

impl<'a> Settings<'a> {
    fn read(settings: &'a [u8]) -> Self {
        let (key, id) = settings.split_first_chunk().expect("what `start` made");
        Self { key, id: id.try_into().expect("what `start` made") }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.key))
    }
}

impl ValueAdapter for Encrypt {
    const NAME: &'static str = "encrypt";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const OPTIONS: &'static [OptionDoc] = &[];
    const SEES_KEYS: bool = true;
    type Scratch = ();

    fn start(_: &Config, secrets: &Secrets) -> Result<Started, Refusal> {
        secrets.only(&[SECRET])?;
        let Some(secret) = secrets.get(SECRET) else {
            let reason = "it needs the secret `key`: name a file that `mks keygen FILE` has made, `secrets = { key = \
                          \"FILE\" }`";
            return Err(Refusal::Other(reason.into()));
        };
        if secret.len() != KEY_BYTES {
            return Err(Refusal::Other(format!("its key has {} bytes, and must have {KEY_BYTES}", secret.len())));
        }
        let key = blake3::derive_key(KEY_CONTEXT, secret);
        let id = &blake3::derive_key(ID_CONTEXT, secret)[..ID_BYTES];
        let shown: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let form = format!("xchacha20-poly1305/1 key {shown}");
        Ok(Started { settings: [&key, id].concat(), form, random_bytes: NONCE_BYTES as u32 })
    }

    fn pack(settings: &[u8], row: Row<'_>, (): &mut (), out: &mut Vec<u8>) {
        let settings = Settings::read(settings);
        let nonce: [u8; NONCE_BYTES] = row.random.try_into().expect("as many as `start` asked for");
        out.push(FORMAT);
        out.extend_from_slice(settings.id);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(row.value);
        let buffer = (&mut out[start..]).into();
        let tag = settings.cipher().encrypt_inout_detached(&XNonce::from(nonce), row.name, buffer);
        out.extend_from_slice(&tag.expect("a value is never as long as the cipher's stream"));
    }

    fn unpack(settings: &[u8], row: Row<'_>, (): &mut (), out: &mut Vec<u8>) -> Result<(), Unreadable> {
        let settings = Settings::read(settings);
        if row.value.len() < HEAD_BYTES + TAG_BYTES {
            return Err(Unreadable::Damaged);
        }
        let (head, rest) = row.value.split_at(HEAD_BYTES);
        let (body, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let (id, nonce) = head[1..].split_at(ID_BYTES);
        if head[0] != FORMAT {
            return Err(Unreadable::Damaged);
        }
        if id != settings.id {
            return Err(Unreadable::Foreign);
        }
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| Unreadable::Damaged)?;
        let tag: [u8; TAG_BYTES] = tag.try_into().map_err(|_| Unreadable::Damaged)?;
        let start = out.len();
        out.extend_from_slice(body);
        let buffer = (&mut out[start..]).into();
        let opened = settings.cipher().decrypt_inout_detached(&XNonce::from(nonce), row.name, buffer, &Tag::from(tag));
        opened.map_err(|_| Unreadable::Damaged)
    }
}

mks_guest_sdk::export_value_adapter!(Encrypt);

#[cfg(test)]
mod tests {
    use super::*;
    use mks_guest_sdk::value_adapter::Opened;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const NONCE: [u8; NONCE_BYTES] = [3; NONCE_BYTES];

    fn opened(secret: u8) -> Opened<Encrypt> {
        Opened::start(&[], &[(SECRET, &[secret; KEY_BYTES])]).expect("a good key")
    }

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..most)
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(name in bytes(40), value in bytes(3_000), nonce in any::<[u8; NONCE_BYTES]>()) {
            let packed = opened(1).pack(&name, &value, &nonce);
            prop_assert_eq!(packed.len(), value.len() + HEAD_BYTES + TAG_BYTES);
            prop_assert_eq!(opened(1).unpack(&name, &packed), Ok(value));
        }

        #[test]
        fn a_bit_that_turned_anywhere_is_noticed(value in bytes(300), at in any::<Index>(), bit in 0..8_u8) {
            let mut packed = opened(1).pack(b"name", &value, &NONCE);
            let at = at.index(packed.len());
            packed[at] ^= 1_u8 << bit;
            let of_another_key = (1..=ID_BYTES).contains(&at);
            let expected = if of_another_key { Unreadable::Foreign } else { Unreadable::Damaged };
            prop_assert_eq!(opened(1).unpack(b"name", &packed), Err(expected));
        }

        #[test]
        fn a_value_under_another_name_is_damaged(name in bytes(20), other in bytes(20), value in bytes(100)) {
            prop_assume!(name != other);
            let packed = opened(1).pack(&name, &value, &NONCE);
            prop_assert_eq!(opened(1).unpack(&other, &packed), Err(Unreadable::Damaged));
        }

        #[test]
        fn no_bytes_make_it_panic(value in bytes(200)) {
            let unreadable = opened(1).unpack(b"name", &value);
            prop_assert!(unreadable.is_err());
        }
    }

    #[test]
    fn another_key_is_told_from_damage_and_shows_in_the_form() {
        let packed = opened(1).pack(b"name", b"value", &NONCE);
        assert_eq!(opened(2).unpack(b"name", &packed), Err(Unreadable::Foreign));
        assert_ne!(opened(1).started().form, opened(2).started().form);
        assert_eq!(opened(1).started().form.split(' ').next(), Some("xchacha20-poly1305/1"));
    }

    #[test]
    fn neither_value_nor_secret_shows_in_what_is_kept() {
        let value = b"a value that nobody shall read";
        let packed = opened(1).pack(b"name", value, &NONCE);
        let shows = |piece: &[u8]| packed.windows(piece.len()).any(|window| window == piece);
        assert!(!shows(&value[..8]) && !shows(&[1; 8]));
        assert!(!format!("{:?}", opened(1)).contains("settings"));
    }

    #[test]
    fn a_missing_short_or_misnamed_key_is_refused() {
        let refused = |secrets: &[(&str, &[u8])]| match Opened::<Encrypt>::start(&[], secrets).map(|_| ()) {
            Err(Refusal::Other(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(&[]).contains("mks keygen"));
        assert!(refused(&[(SECRET, &[1; 31])]).contains("31 bytes"));
        assert!(refused(&[("kee", &[1; 32])]).contains("no secret `kee`"));
    }

    /// What was stored once must be read for ever.
    #[test]
    fn the_form_stays() {
        let packed = opened(1).pack(b"name", b"value", &NONCE);
        let hex: String = packed.iter().map(|byte| format!("{byte:02x}")).collect();
        // The form, the key's id, the random bytes; then the value with its tag.
        let head = "01d44d3cd0b4dede0d030303030303030303030303030303030303030303030303";
        assert_eq!(hex, head.to_owned() + "a0e0b8832661833e96971466ab06f0c2987fc802c5");
    }

    /// Made by libsodium (PyNaCl 1.6.2), with keys from BLAKE3 written after its paper in Python: no crate of ours had
    /// a hand in it. The secret's bytes are 0 to 31, those of the nonce 64 to 87.
    #[test]
    fn another_implementation_makes_the_same() {
        let (key_id, nonce) = ("1d2cd2854c36ca91", "404142434445464748494a4b4c4d4e4f5051525354555657");
        let encrypted = "c8fcbceb7a8a9def982ae6464581a75fb7d5fbdd003ecd445976b4914886cb800f47db1a08";
        let expected = ["01", key_id, nonce, encrypted, "9405d660eed8cae7315d0ce866a15073"].concat();
        let counted = |from: u8| std::array::from_fn::<u8, 32, _>(|i| from + i as u8);
        let encrypt = Opened::<Encrypt>::start(&[], &[(SECRET, &counted(0))]).expect("a good key");
        let (name, value) = (b"records\x01name", b"what was stored once is read for ever");
        let packed = encrypt.pack(name, value, &counted(64)[..NONCE_BYTES]);
        assert_eq!(packed.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert_eq!(encrypt.unpack(name, &packed), Ok(value.to_vec()));
    }
}
