//! The seal around every gossip datagram: who sent it, that nobody changed it, and that it is not an old one again.
//!
//! ```text
//! version 1 | cluster 8 | sender 8 | incarnation 8 | opening 16 | sequence 8 | sealed payload | tag 16
//!                                                   `------- nonce -------'
//! ```
//! All of it but payload and tag is in clear, and all of it is authenticated. Numbers are big-endian.
//!
//! - Nonces never repeat: the opening is random for each process, the sequence counts within it.
//! - A receiver takes each sequence number once. What is replayed to a receiver that restarted since, or to another
//!   node, names a receiver that is not there: the membership drops it by the incarnation inside the payload.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use mks_logic::id::{Incarnation, NodeId};
use mks_logic::member;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest sealed datagram, bytes: one Ethernet frame without fragments, tunnels allowed for.
pub const SEALED_BYTES_MAX: usize = 1_400;

/// Sequence numbers this far behind the highest one are taken for replays.
pub const REPLAY_WINDOW: u64 = 1_024;

/// Senders whose sequence numbers are remembered. Only holders of the key take a place.
pub const SENDERS_MAX: usize = 4_096;

const VERSION: u8 = 1;
const TAG: usize = 16;
const CLUSTER: Range<usize> = 1..9;
const SENDER: Range<usize> = 9..17;
const INCARNATION: Range<usize> = 17..25;
const NONCE: Range<usize> = 25..49;
const OPENING: Range<usize> = 25..41;
const SEQUENCE: Range<usize> = 41..49;
const HEADER: usize = NONCE.end;

const _: () = assert!(HEADER + member::DATAGRAM_BYTES_MAX + TAG <= SEALED_BYTES_MAX);

/// Separates gossip from every other use of the cluster key.
const KEY_CONTEXT: &str = "my-key-store 2026-11 gossip datagrams, format 1";

/// Why a datagram was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// Shorter than header and tag.
    TooShort,
    /// Longer than [`SEALED_BYTES_MAX`].
    TooLong,
    /// Not a format of ours.
    Version,
    /// Of another cluster.
    OtherCluster,
    /// It names this node as its sender: another node runs under our id, or our own words came back.
    OwnId,
    /// Its sender had no incarnation yet.
    NoIncarnation,
    /// From an opening of its sender's data directory that is over.
    Stale,
    /// Taken before, or too old to tell.
    Replayed,
    /// The tag is wrong: another key, or changed on the way.
    Forged,
    /// [`SENDERS_MAX`] senders are remembered already.
    Crowded,
    /// The system did not take it for sending: its buffer is full, or there is no way to the address.
    NotSent,
    /// The system failed to receive.
    NotReceived,
}

impl DropReason {
    /// All reasons, for those who count them.
    pub const ALL: [Self; 12] = [
        Self::TooShort,
        Self::TooLong,
        Self::Version,
        Self::OtherCluster,
        Self::OwnId,
        Self::NoIncarnation,
        Self::Stale,
        Self::Replayed,
        Self::Forged,
        Self::Crowded,
        Self::NotSent,
        Self::NotReceived,
    ];

    /// A short stable name, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::Version => "version",
            Self::OtherCluster => "other_cluster",
            Self::OwnId => "own_id",
            Self::NoIncarnation => "no_incarnation",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::Crowded => "crowded",
            Self::NotSent => "not_sent",
            Self::NotReceived => "not_received",
        }
    }
}

/// The cipher of one cluster: the cluster's id is part of its key.
fn cipher(key: &[u8; 32], cluster: u128) -> XChaCha20Poly1305 {
    let mut derivation = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    derivation.update(key).update(&cluster.to_be_bytes());
    XChaCha20Poly1305::new(&Key::from(*derivation.finalize().as_bytes()))
}

/// What of the cluster's id is shown in clear: enough to drop the neighbours' datagrams without work.
fn cluster_prefix(cluster: u128) -> [u8; 8] {
    ((cluster >> 64) as u64).to_be_bytes()
}

/// Seals what this process sends. One per process and key: it owns the sequence numbers.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    me: NodeId,
    cluster: [u8; 8],
    opening: [u8; 16],
    sequence: AtomicU64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Sealer {
    /// `opening` must be random: it is what keeps nonces of different processes apart.
    #[must_use]
    pub fn new(key: &[u8; 32], me: NodeId, cluster: u128, opening: [u8; 16]) -> Self {
        let cluster_shown = cluster_prefix(cluster);
        Self { cipher: cipher(key, cluster), me, cluster: cluster_shown, opening, sequence: AtomicU64::new(0) }
    }

    /// Seals `data` into `out` and returns the length of the datagram.
    ///
    /// # Errors
    /// [`DropReason::NoIncarnation`] for incarnation zero, [`DropReason::TooLong`]; `out` then holds nothing of use.
    pub fn seal(
        &self,
        incarnation: Incarnation,
        data: &[u8],
        out: &mut [u8; SEALED_BYTES_MAX],
    ) -> Result<usize, DropReason> {
        if incarnation == Incarnation(0) {
            return Err(DropReason::NoIncarnation);
        }
        let end = HEADER + data.len();
        if end + TAG > SEALED_BYTES_MAX {
            return Err(DropReason::TooLong);
        }
        // Relaxed: only uniqueness counts, and fetch_add alone gives it.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        out[0] = VERSION;
        out[CLUSTER].copy_from_slice(&self.cluster);
        out[SENDER].copy_from_slice(&self.me.0.to_be_bytes());
        out[INCARNATION].copy_from_slice(&incarnation.0.to_be_bytes());
        out[OPENING].copy_from_slice(&self.opening);
        out[SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
        out[HEADER..end].copy_from_slice(data);
        let (header, payload) = out.split_at_mut(HEADER);
        let (payload, tail) = payload.split_at_mut(data.len());
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce(header), header, payload.into())
            .map_err(|_| DropReason::TooLong)?;
        tail[..TAG].copy_from_slice(&tag);
        Ok(end + TAG)
    }
}

/// Opens what others sealed.
pub struct Opener {
    cipher: XChaCha20Poly1305,
    me: NodeId,
    cluster: [u8; 8],
    senders: BTreeMap<NodeId, Heard>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("me", &self.me).field("senders", &self.senders.len()).finish_non_exhaustive()
    }
}

/// What was inside a datagram, and who certainly sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened<'a> {
    /// The sender.
    pub from: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// What it said.
    pub data: &'a [u8],
}

impl Opener {
    /// Takes what others of the same `key` and `cluster` say; `me` is not one of them.
    #[must_use]
    pub fn new(key: &[u8; 32], me: NodeId, cluster: u128) -> Self {
        Self { cipher: cipher(key, cluster), me, cluster: cluster_prefix(cluster), senders: BTreeMap::new() }
    }

    /// Opens a datagram in place. Whatever is not sealed right costs at most one authentication of
    /// [`SEALED_BYTES_MAX`] bytes, and leaves no trace.
    ///
    /// # Errors
    /// [`DropReason`], and nothing changed but the bytes.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, DropReason> {
        if datagram.len() < HEADER + TAG {
            return Err(DropReason::TooShort);
        }
        if datagram.len() > SEALED_BYTES_MAX {
            return Err(DropReason::TooLong);
        }
        let (header, sealed) = datagram.split_at_mut(HEADER);
        let claim = self.precheck(header)?;
        let (payload, tag) = sealed.split_at_mut(sealed.len() - TAG);
        // Not a panic on any input: the tail was split off at exactly TAG bytes.
        let tag = Tag::try_from(&*tag).map_err(|_| DropReason::TooShort)?;
        self.cipher
            .decrypt_inout_detached(&nonce(header), header, (&mut *payload).into(), &tag)
            .map_err(|_| DropReason::Forged)?;
        // Only now the claim is a fact, and may be remembered.
        let heard = self.senders.entry(claim.from).or_insert_with(|| Heard::new(&claim));
        if heard.incarnation < claim.incarnation {
            *heard = Heard::new(&claim);
        }
        heard.mark(claim.sequence);
        Ok(Opened { from: claim.from, incarnation: claim.incarnation, data: payload })
    }

    /// Everything that can be refused without touching the cipher.
    fn precheck(&self, header: &[u8]) -> Result<Claim, DropReason> {
        if header[0] != VERSION {
            return Err(DropReason::Version);
        }
        if header[CLUSTER] != self.cluster {
            return Err(DropReason::OtherCluster);
        }
        let mut opening = [0; 16];
        opening.copy_from_slice(&header[OPENING]);
        let from = NodeId(number(&header[SENDER]));
        let incarnation = Incarnation(number(&header[INCARNATION]));
        let claim = Claim { from, incarnation, opening, sequence: number(&header[SEQUENCE]) };
        if claim.from == self.me {
            return Err(DropReason::OwnId);
        }
        if claim.incarnation == Incarnation(0) {
            return Err(DropReason::NoIncarnation);
        }
        match self.senders.get(&claim.from) {
            None if self.senders.len() >= SENDERS_MAX => Err(DropReason::Crowded),
            None => Ok(claim),
            Some(heard) => heard.check(&claim).map(|()| claim),
        }
    }
}

/// What a header says, not yet proved.
struct Claim {
    from: NodeId,
    incarnation: Incarnation,
    opening: [u8; 16],
    sequence: u64,
}

/// Which sequence numbers of one sender were taken: a bitmap that slides with the highest one.
struct Heard {
    incarnation: Incarnation,
    opening: [u8; 16],
    highest: u64,
    taken: [u64; REPLAY_WINDOW as usize / 64],
}

impl Heard {
    const fn new(claim: &Claim) -> Self {
        let taken = [0; REPLAY_WINDOW as usize / 64];
        Self { incarnation: claim.incarnation, opening: claim.opening, highest: 0, taken }
    }

    /// An incarnation belongs to one opening of one process, so a lower one is over, and a second opening under the
    /// same one is nobody that the epoch log admitted.
    fn check(&self, claim: &Claim) -> Result<(), DropReason> {
        if claim.incarnation > self.incarnation {
            return Ok(());
        }
        if claim.incarnation < self.incarnation || claim.opening != self.opening {
            return Err(DropReason::Stale);
        }
        let is_old = self.highest.saturating_sub(claim.sequence) >= REPLAY_WINDOW;
        let (word, bit) = Self::place(claim.sequence);
        if is_old || (claim.sequence <= self.highest && self.taken[word] & bit != 0) {
            return Err(DropReason::Replayed);
        }
        Ok(())
    }

    fn mark(&mut self, sequence: u64) {
        if sequence > self.highest {
            if sequence - self.highest >= REPLAY_WINDOW {
                self.taken.fill(0);
            } else {
                for passed in self.highest + 1..sequence {
                    let (word, bit) = Self::place(passed);
                    self.taken[word] &= !bit;
                }
            }
            self.highest = sequence;
        }
        let (word, bit) = Self::place(sequence);
        self.taken[word] |= bit;
    }

    const fn place(sequence: u64) -> (usize, u64) {
        let slot = sequence % REPLAY_WINDOW;
        ((slot / 64) as usize, 1 << (slot % 64))
    }
}

fn nonce(header: &[u8]) -> XNonce {
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(&header[NONCE]);
    nonce
}

/// Eight bytes as a number; the callers' ranges are eight long.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const KEY: [u8; 32] = [7; 32];
    const CLUSTER_ID: u128 = 0xABCD_EF01_2345_6789_0000_0000_0000_0001;

    fn sealer(node: u64, opening: u8) -> Sealer {
        Sealer::new(&KEY, NodeId(node), CLUSTER_ID, [opening; 16])
    }

    fn opener() -> Opener {
        Opener::new(&KEY, NodeId(2), CLUSTER_ID)
    }

    fn seal(sealer: &Sealer, incarnation: u64, data: &[u8]) -> Vec<u8> {
        let mut out = [0; SEALED_BYTES_MAX];
        let len = sealer.seal(Incarnation(incarnation), data, &mut out).unwrap();
        out[..len].to_vec()
    }

    fn open(opener: &mut Opener, datagram: &[u8]) -> Result<(u64, u64, Vec<u8>), DropReason> {
        let mut datagram = datagram.to_vec();
        opener.open(&mut datagram).map(|opened| (opened.from.0, opened.incarnation.0, opened.data.to_vec()))
    }

    #[test]
    fn what_was_sealed_opens_once() {
        let (sealer, mut opener) = (sealer(1, 1), opener());
        for data in [&b""[..], b"hello", &[3; member::DATAGRAM_BYTES_MAX]] {
            let datagram = seal(&sealer, 5, data);
            assert_eq!(open(&mut opener, &datagram), Ok((1, 5, data.to_vec())));
            assert_eq!(open(&mut opener, &datagram), Err(DropReason::Replayed));
        }
    }

    #[test]
    fn what_is_said_is_not_readable_on_the_wire() {
        let (sealer, secret) = (sealer(1, 1), b"a sentence that nobody shall read");
        let (first, second) = (seal(&sealer, 5, secret), seal(&sealer, 5, secret));
        assert!(!first.windows(8).any(|window| secret.windows(8).any(|part| part == window)));
        assert_ne!(first[HEADER..], second[HEADER..], "equal words look different");
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_does_no_harm() {
        let (sealer, mut opener) = (sealer(1, 1), opener());
        let datagram = seal(&sealer, 5, b"hello");
        let mut reasons = BTreeSet::new();
        for bit in 0..datagram.len() * 8 {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            reasons.insert(open(&mut opener, &damaged).unwrap_err());
        }
        assert!(reasons.contains(&DropReason::Forged) && reasons.contains(&DropReason::OtherCluster));
        assert_eq!(open(&mut opener, &datagram), Ok((1, 5, b"hello".to_vec())));
    }

    #[test]
    fn any_part_of_a_datagram_is_dropped() {
        let (sealer, mut opener) = (sealer(1, 1), opener());
        let datagram = seal(&sealer, 5, b"hello");
        for len in 0..datagram.len() {
            let expected = if len < HEADER + TAG { DropReason::TooShort } else { DropReason::Forged };
            assert_eq!(open(&mut opener, &datagram[..len]), Err(expected));
        }
        assert_eq!(open(&mut opener, &[0; SEALED_BYTES_MAX + 1]), Err(DropReason::TooLong));
        assert_eq!(open(&mut opener, &[0; SEALED_BYTES_MAX]), Err(DropReason::Version));
    }

    #[test]
    fn another_key_or_another_cluster_is_dropped() {
        let other_key = Sealer::new(&[8; 32], NodeId(1), CLUSTER_ID, [1; 16]);
        let other_cluster = Sealer::new(&KEY, NodeId(1), !CLUSTER_ID, [1; 16]);
        let same_prefix = Sealer::new(&KEY, NodeId(1), CLUSTER_ID + 1, [1; 16]);
        let mut opener = opener();
        assert_eq!(open(&mut opener, &seal(&other_key, 5, b"x")), Err(DropReason::Forged));
        assert_eq!(open(&mut opener, &seal(&other_cluster, 5, b"x")), Err(DropReason::OtherCluster));
        assert_eq!(open(&mut opener, &seal(&same_prefix, 5, b"x")), Err(DropReason::Forged));
        assert!(opener.senders.is_empty(), "a forger takes no place");
    }

    #[test]
    fn our_own_name_is_dropped() {
        assert_eq!(open(&mut opener(), &seal(&sealer(2, 1), 5, b"x")), Err(DropReason::OwnId));
    }

    #[test]
    fn who_has_no_incarnation_does_not_gossip() {
        let mut out = [0; SEALED_BYTES_MAX];
        assert_eq!(sealer(1, 1).seal(Incarnation(0), b"x", &mut out), Err(DropReason::NoIncarnation));
        let mut datagram = seal(&sealer(1, 1), 5, b"x");
        datagram[INCARNATION].fill(0);
        assert_eq!(open(&mut opener(), &datagram), Err(DropReason::NoIncarnation));
    }

    #[test]
    fn too_much_to_say_is_refused() {
        let mut out = [0; SEALED_BYTES_MAX];
        let data = [0; SEALED_BYTES_MAX - HEADER - TAG + 1];
        assert_eq!(sealer(1, 1).seal(Incarnation(5), &data, &mut out), Err(DropReason::TooLong));
        assert!(sealer(1, 1).seal(Incarnation(5), &data[1..], &mut out).is_ok());
    }

    #[test]
    fn disorder_within_the_window_is_fine_and_nothing_opens_twice() {
        let (sealer, mut opener) = (sealer(1, 1), opener());
        let datagrams: Vec<_> = (0..3 * REPLAY_WINDOW).map(|n| seal(&sealer, 5, &n.to_be_bytes())).collect();
        let window = REPLAY_WINDOW as usize;
        for (pair, chunk) in datagrams.chunks(2).enumerate() {
            for datagram in chunk.iter().rev() {
                assert!(open(&mut opener, datagram).is_ok(), "pair {pair}");
            }
        }
        assert!(datagrams.iter().all(|datagram| open(&mut opener, datagram) == Err(DropReason::Replayed)));
        // One that was overtaken by a whole window can't be told from a replay any more, one less can.
        let late: Vec<_> = (0..window + 1).map(|_| seal(&sealer, 5, b"late")).collect();
        assert!(open(&mut opener, &late[window]).is_ok());
        assert_eq!(open(&mut opener, &late[0]), Err(DropReason::Replayed));
        assert!(open(&mut opener, &late[1]).is_ok());
    }

    #[test]
    fn a_gap_longer_than_the_window_forgets_what_was_before() {
        let (sealer, mut opener) = (sealer(1, 1), opener());
        let first = seal(&sealer, 5, b"x");
        assert!(open(&mut opener, &first).is_ok());
        sealer.sequence.fetch_add(10 * REPLAY_WINDOW, Ordering::Relaxed);
        assert!(open(&mut opener, &seal(&sealer, 5, b"x")).is_ok());
        assert!(open(&mut opener, &seal(&sealer, 5, b"x")).is_ok());
        assert_eq!(open(&mut opener, &first), Err(DropReason::Replayed));
    }

    #[test]
    fn a_restart_is_heard_at_once_and_ends_what_was_before() {
        let (before, after, mut opener) = (sealer(1, 1), sealer(1, 2), opener());
        for _ in 0..100 {
            assert!(open(&mut opener, &seal(&before, 5, b"x")).is_ok());
        }
        let recorded = seal(&before, 5, b"never delivered");
        assert!(open(&mut opener, &seal(&after, 6, b"x")).is_ok());
        assert_eq!(open(&mut opener, &recorded), Err(DropReason::Stale));
        assert_eq!(open(&mut opener, &seal(&sealer(1, 3), 6, b"x")), Err(DropReason::Stale), "a second opening");
        assert!(open(&mut opener, &seal(&after, 6, b"x")).is_ok());
    }

    #[test]
    fn senders_are_bounded() {
        let mut opener = opener();
        for node in 10..10 + SENDERS_MAX as u64 {
            assert!(open(&mut opener, &seal(&sealer(node, 1), 1, b"")).is_ok());
        }
        assert_eq!(open(&mut opener, &seal(&sealer(9, 1), 1, b"")), Err(DropReason::Crowded));
        assert!(open(&mut opener, &seal(&sealer(10, 1), 2, b"")).is_ok(), "those who are known are heard");
    }

    #[test]
    fn the_form_on_the_wire_never_changes() {
        let datagram = seal(&sealer(1, 9), 5, b"hello");
        let mut expected = vec![1];
        expected.extend([0xAB, 0xCD, 0xEF, 0x01, 0x23, 0x45, 0x67, 0x89]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 5]);
        expected.extend([9; 16]);
        expected.extend([0; 8]);
        assert_eq!(datagram[..HEADER], expected);
        assert_eq!(blake3::hash(&datagram).to_hex()[..16], *WIRE_FIXTURE);
    }

    /// Nodes of different builds must understand each other: a change here needs another [`VERSION`].
    const WIRE_FIXTURE: &str = "0acfd3242fba2fe1";
}
