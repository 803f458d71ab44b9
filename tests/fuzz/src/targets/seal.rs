//! The seal around gossip: what opens is exactly what a holder of the key sealed, and once.

use mks::gossip::DropReason;
use mks::gossip::seal::{Opener, SEALED_BYTES_MAX, Sealer};
use mks_logic::id::{Incarnation, NodeId};

const KEY: [u8; 32] = [7; 32];
const CLUSTER: u128 = 0xC0FFEE << 64;
/// Where the sender, its incarnation and the name of its process stand.
const SENDER: std::ops::Range<usize> = 9..17;
const INCARNATION: std::ops::Range<usize> = 17..25;
const OPENING: std::ops::Range<usize> = 25..41;

fn opener() -> Opener {
    Opener::new(&KEY, NodeId(2), CLUSTER)
}

fn sealed(sealer: &Sealer, incarnation: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = [0; SEALED_BYTES_MAX];
    let length = sealer.seal(Incarnation(incarnation), payload, &mut out).ok()?;
    Some(out[..length].to_vec())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

pub fn run(input: &[u8]) {
    let mut datagram = input.to_vec();
    if let Ok(opened) = opener().open(&mut datagram) {
        let opening = input[OPENING].try_into().expect("16 bytes");
        let twin = Sealer::new(&KEY, NodeId(number(&input[SENDER])), CLUSTER, opening);
        // The seeds are the first that their sealers made.
        let again = sealed(&twin, number(&input[INCARNATION]), opened.data);
        assert_eq!(again.as_deref(), Some(input), "nobody who has the key sealed it");
    }
    as_payload(input);
}

/// The input as what is said, with one bit of the sealed form flipped on the way.
fn as_payload(input: &[u8]) {
    let Some((&[high, low, bit], payload)) = input.split_first_chunk() else { return };
    let Some(good) = sealed(&Sealer::new(&KEY, NodeId(1), CLUSTER, [9; 16]), 5, payload) else { return };
    let mut opener = opener();
    let mut bad = good.clone();
    let at = usize::from(u16::from_be_bytes([high, low])) % bad.len();
    bad[at] ^= 1 << (bit % 8);
    assert!(opener.open(&mut bad).is_err(), "bit {} of byte {at} was flipped", bit % 8);
    let mut first = good.clone();
    assert_eq!(opener.open(&mut first).map(|opened| opened.data.to_vec()), Ok(payload.to_vec()));
    assert_eq!(opener.open(&mut good.clone()), Err(DropReason::Replayed));
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let sealer = |node, opening| Sealer::new(&KEY, NodeId(node), CLUSTER, [opening; 16]);
    let texts: [(u64, &[u8]); 3] = [(1, b"hello"), (u64::MAX, b""), (3, &[0xFF; 200])];
    texts.into_iter().filter_map(|(node, text)| sealed(&sealer(node, node as u8), 5, text)).collect()
}
