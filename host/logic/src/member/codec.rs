//! How foca's datagrams look on the wire: varints throughout, so that a whole roster of usual ids fits in one.
//!
//! The version of this format is the version byte of the seal around it.

use crate::id::{Incarnation, NodeId};
use alloc::vec::Vec;
use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};

/// A member as foca names it.
///
/// Incarnations come from the epoch log, so a node that was declared down while alive may not mint one: it counts
/// `renewal` up instead and rejoins at once under the same incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) renewal: u32,
}

/// Rejoins within one incarnation. Identities beyond it are believed by nobody: no honest node comes near.
pub(super) const RENEWALS_MAX: u32 = 1 << 24;

impl Identity {
    /// The name of a member of which only the epoch log has spoken so far.
    pub(super) const fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Self { node, incarnation, renewal: 0 }
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        (self.renewal < RENEWALS_MAX).then(|| Self { renewal: self.renewal + 1, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.incarnation, self.renewal) > (adversary.incarnation, adversary.renewal)
    }
}

/// Why bytes are no datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the datagram ends too early")]
    Truncated,
    #[error("a number does not fit its field")]
    Overflow,
    #[error("there is no kind {0}")]
    UnknownKind(u8),
    #[error("bytes are left over")]
    Trailing,
    #[error("no room for another item")]
    NoRoom,
}

/// One datagram, read completely before anything of it is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Datagram {
    pub(super) header: Header<Identity>,
    /// `None` where the kind of message carries none.
    pub(super) updates: Option<Vec<Member<Identity>>>,
}

impl Datagram {
    /// Reads all of `data`.
    pub(super) fn read(mut data: &[u8]) -> Result<Self, WireError> {
        let header = read_header(&mut data)?;
        let updates = if data.is_empty() { None } else { Some(read_updates(&mut data)?) };
        if data.is_empty() { Ok(Self { header, updates }) } else { Err(WireError::Trailing) }
    }

    /// Writes the datagram over whatever `out` holds, in the one form that foca itself would have chosen.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.clear();
        write_header(&self.header, out)?;
        if let Some(updates) = &self.updates {
            out.put_u16(u16::try_from(updates.len()).map_err(|_| WireError::Overflow)?);
            for member in updates {
                write_member(member, out)?;
            }
        }
        Ok(())
    }
}

fn read_updates(data: &mut &[u8]) -> Result<Vec<Member<Identity>>, WireError> {
    let count = data.try_get_u16().map_err(|_| WireError::Truncated)?;
    // Nothing is reserved by the count: what a datagram can make us hold is bounded by its own bytes.
    let mut updates = Vec::new();
    for _ in 0..count {
        updates.push(read_member(data)?);
    }
    Ok(updates)
}

/// The codec that foca calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire;

impl foca::Codec<Identity> for Wire {
    type Error = WireError;

    fn encode_header(&mut self, header: &Header<Identity>, mut buf: impl BufMut) -> Result<(), WireError> {
        write_header(header, &mut buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, WireError> {
        read_header(&mut buf)
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut buf: impl BufMut) -> Result<(), WireError> {
        write_member(member, &mut buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, WireError> {
        read_member(&mut buf)
    }
}

/// Kinds of messages. foca's `Broadcast` is absent: nothing here sends or understands it.
mod kind {
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const INDIRECT_PING: u8 = 4;
    pub(super) const INDIRECT_ACK: u8 = 5;
    pub(super) const FORWARDED_ACK: u8 = 6;
    pub(super) const ANNOUNCE: u8 = 7;
    pub(super) const FEED: u8 = 8;
    pub(super) const GOSSIP: u8 = 9;
    pub(super) const TURN_UNDEAD: u8 = 10;
    /// What foca may name and this wire does not carry.
    pub(super) const BROADCAST: u8 = 11;
}

/// An item under construction: foca's buffers must stay clean when an item does not fit.
struct Item {
    bytes: [u8; Self::BYTES_MAX],
    len: usize,
}

impl Item {
    /// A header is the longest item: three identities of at most 25 bytes and a few small fields.
    const BYTES_MAX: usize = 96;

    const fn new() -> Self {
        Self { bytes: [0; Self::BYTES_MAX], len: 0 }
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.bytes[self.len] = byte;
        self.len += 1;
        self
    }

    fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8)
    }

    fn identity(&mut self, id: &Identity) -> &mut Self {
        self.number(id.node.0).number(id.incarnation.0).number(u64::from(id.renewal))
    }

    fn put(&self, buf: &mut impl BufMut) -> Result<(), WireError> {
        if buf.remaining_mut() < self.len {
            return Err(WireError::NoRoom);
        }
        buf.put_slice(&self.bytes[..self.len]);
        Ok(())
    }
}

fn write_header(header: &Header<Identity>, buf: &mut impl BufMut) -> Result<(), WireError> {
    let mut item = Item::new();
    item.identity(&header.src).number(u64::from(header.src_incarnation)).identity(&header.dst);
    match &header.message {
        Message::Ping(probe) => item.byte(kind::PING).byte(*probe),
        Message::Ack(probe) => item.byte(kind::ACK).byte(*probe),
        Message::PingReq { target, probe_number } => item.byte(kind::PING_REQ).byte(*probe_number).identity(target),
        Message::IndirectPing { origin, probe_number } => {
            item.byte(kind::INDIRECT_PING).byte(*probe_number).identity(origin)
        }
        Message::IndirectAck { target, probe_number } => {
            item.byte(kind::INDIRECT_ACK).byte(*probe_number).identity(target)
        }
        Message::ForwardedAck { origin, probe_number } => {
            item.byte(kind::FORWARDED_ACK).byte(*probe_number).identity(origin)
        }
        Message::Announce => item.byte(kind::ANNOUNCE),
        Message::Feed => item.byte(kind::FEED),
        Message::Gossip => item.byte(kind::GOSSIP),
        Message::TurnUndead => item.byte(kind::TURN_UNDEAD),
        Message::Broadcast => return Err(WireError::UnknownKind(kind::BROADCAST)),
    };
    item.put(buf)
}

fn read_header(buf: &mut impl Buf) -> Result<Header<Identity>, WireError> {
    let src = read_identity(buf)?;
    let src_incarnation = read_small(buf)?;
    let dst = read_identity(buf)?;
    let message = match read_byte(buf)? {
        kind::PING => Message::Ping(read_byte(buf)?),
        kind::ACK => Message::Ack(read_byte(buf)?),
        kind::PING_REQ => Message::PingReq { probe_number: read_byte(buf)?, target: read_identity(buf)? },
        kind::INDIRECT_PING => Message::IndirectPing { probe_number: read_byte(buf)?, origin: read_identity(buf)? },
        kind::INDIRECT_ACK => Message::IndirectAck { probe_number: read_byte(buf)?, target: read_identity(buf)? },
        kind::FORWARDED_ACK => Message::ForwardedAck { probe_number: read_byte(buf)?, origin: read_identity(buf)? },
        kind::ANNOUNCE => Message::Announce,
        kind::FEED => Message::Feed,
        kind::GOSSIP => Message::Gossip,
        kind::TURN_UNDEAD => Message::TurnUndead,
        other => return Err(WireError::UnknownKind(other)),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

fn write_member(member: &Member<Identity>, buf: &mut impl BufMut) -> Result<(), WireError> {
    let state = match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    };
    Item::new().identity(member.id()).number(u64::from(member.incarnation())).byte(state).put(buf)
}

fn read_member(buf: &mut impl Buf) -> Result<Member<Identity>, WireError> {
    let id = read_identity(buf)?;
    let incarnation = read_small(buf)?;
    let state = match read_byte(buf)? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        other => return Err(WireError::UnknownKind(other)),
    };
    Ok(Member::new(id, incarnation, state))
}

fn read_identity(buf: &mut impl Buf) -> Result<Identity, WireError> {
    Ok(Identity {
        node: NodeId(read_number(buf)?),
        incarnation: Incarnation(read_number(buf)?),
        renewal: read_small(buf)?,
    })
}

fn read_byte(buf: &mut impl Buf) -> Result<u8, WireError> {
    buf.try_get_u8().map_err(|_| WireError::Truncated)
}

fn read_small<T: TryFrom<u64>>(buf: &mut impl Buf) -> Result<T, WireError> {
    T::try_from(read_number(buf)?).map_err(|_| WireError::Overflow)
}

fn read_number(buf: &mut impl Buf) -> Result<u64, WireError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = read_byte(buf)?;
        let bits = u64::from(byte & 0x7F);
        if (bits << shift) >> shift != bits {
            return Err(WireError::Overflow);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(WireError::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> impl Strategy<Value = Identity> {
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(node, incarnation, renewal)| Identity {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            renewal,
        })
    }

    fn message() -> impl Strategy<Value = Message<Identity>> {
        let indirect = || (identity(), any::<u8>());
        prop_oneof![
            any::<u8>().prop_map(Message::Ping),
            any::<u8>().prop_map(Message::Ack),
            indirect().prop_map(|(target, probe_number)| Message::PingReq { target, probe_number }),
            indirect().prop_map(|(origin, probe_number)| Message::IndirectPing { origin, probe_number }),
            indirect().prop_map(|(target, probe_number)| Message::IndirectAck { target, probe_number }),
            indirect().prop_map(|(origin, probe_number)| Message::ForwardedAck { origin, probe_number }),
            Just(Message::Announce),
            Just(Message::Feed),
            Just(Message::Gossip),
            Just(Message::TurnUndead),
        ]
    }

    fn member() -> impl Strategy<Value = Member<Identity>> {
        let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
        (identity(), any::<u16>(), state).prop_map(|(id, incarnation, state)| Member::new(id, incarnation, state))
    }

    fn datagram() -> impl Strategy<Value = Datagram> {
        let updates = prop::option::of(prop::collection::vec(member(), 0..20));
        (identity(), any::<u16>(), identity(), message(), updates).prop_map(
            |(src, src_incarnation, dst, message, updates)| Datagram {
                header: Header { src, src_incarnation, dst, message },
                updates,
            },
        )
    }

    proptest! {
        #[test]
        fn a_datagram_reads_back(datagram in datagram()) {
            let mut bytes = Vec::new();
            datagram.write(&mut bytes).unwrap();
            prop_assert_eq!(Datagram::read(&bytes), Ok(datagram));
        }

        #[test]
        fn a_part_of_a_datagram_is_none(datagram in datagram(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            datagram.write(&mut bytes).unwrap();
            let header_only = Datagram { updates: None, ..datagram.clone() };
            match Datagram::read(&bytes[..cut.index(bytes.len())]) {
                // Cut exactly where the updates begin: whole again, as a message without any.
                Ok(read) => prop_assert_eq!(read, header_only),
                Err(error) => prop_assert_eq!(error, WireError::Truncated),
            }
        }

        #[test]
        fn what_reads_is_never_longer_when_written_again(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(datagram) = Datagram::read(&bytes) {
                let mut again = Vec::new();
                datagram.write(&mut again).unwrap();
                prop_assert!(again.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn an_item_that_does_not_fit_leaves_the_buffer_clean() {
        let member = Member::alive(Identity::new(NodeId(u64::MAX), Incarnation(u64::MAX)));
        let mut buf = Vec::new().limit(10);
        assert_eq!(write_member(&member, &mut buf), Err(WireError::NoRoom));
        assert!(buf.get_ref().is_empty());
    }

    #[test]
    fn a_number_beyond_64_bits_is_refused() {
        let mut bytes = &[0xFFu8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02][..];
        assert_eq!(read_number(&mut bytes), Err(WireError::Overflow));
    }

    #[test]
    fn the_longest_header_fits_an_item() {
        let longest = Identity { node: NodeId(u64::MAX), incarnation: Incarnation(u64::MAX), renewal: u32::MAX };
        let message = Message::PingReq { target: longest, probe_number: u8::MAX };
        let header = Header { src: longest, src_incarnation: u16::MAX, dst: longest, message };
        let mut bytes = Vec::new();
        write_header(&header, &mut bytes).unwrap();
        assert!(bytes.len() <= Item::BYTES_MAX);
    }
}
