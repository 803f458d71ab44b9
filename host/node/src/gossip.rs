//! The gossip socket: one UDP port, every datagram [sealed](seal).
//!
//! It carries bytes and proves their sender. What they mean, and whether the sender is a member, is for
//! [`mks_logic::member`] to say.

use bytes::Bytes;
use mks_logic::id::{Incarnation, NodeId};
use rand::TryRng;
use rand::rngs::SysRng;
use seal::{Opener, SEALED_BYTES_MAX, Sealer};
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

pub use seal::DropReason;

pub mod seal;

/// Is told of every datagram that was dropped, going out or coming in. Called from the socket's tasks: be quick.
pub type OnDrop = Arc<dyn Fn(DropReason) + Send + Sync>;

/// How long to wait after the system failed to receive, so that a lasting failure does not spin.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// Gossip over `socket`. Must be called within a tokio runtime.
///
/// `key` is the cluster's secret and `cluster` its id, both known to a node before it has an incarnation; until it has
/// one, it sends nothing.
///
/// # Errors
/// The socket can't be used without blocking, or the system has no random bytes.
pub fn open(
    socket: StdUdpSocket,
    key: &[u8; 32],
    me: NodeId,
    cluster: u128,
    on_drop: OnDrop,
) -> io::Result<(GossipSender, GossipReceiver)> {
    socket.set_nonblocking(true)?;
    let mut opening = [0; 16];
    SysRng.try_fill_bytes(&mut opening).map_err(io::Error::other)?;
    let sender = GossipSender {
        is_ipv6: socket.local_addr()?.is_ipv6(),
        socket: socket.try_clone()?,
        sealer: Sealer::new(key, me, cluster, opening),
        on_drop: on_drop.clone(),
    };
    let receiver = GossipReceiver {
        socket: UdpSocket::from_std(socket)?,
        opener: Opener::new(key, me, cluster),
        buffer: Box::new([0; SEALED_BYTES_MAX + 1]),
        on_drop,
    };
    Ok((sender, receiver))
}

/// The sending half.
pub struct GossipSender {
    /// Not tokio's: that one refuses to send until its reactor has seen the socket writable once.
    socket: StdUdpSocket,
    is_ipv6: bool,
    sealer: Sealer,
    on_drop: OnDrop,
}

impl fmt::Debug for GossipSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipSender").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl GossipSender {
    /// Seals `data` and sends it, now or never: gossip that waits is worth nothing. What can't be sent is counted.
    pub fn try_send(&self, to: SocketAddr, incarnation: Incarnation, data: &[u8]) {
        let mut datagram = [0; SEALED_BYTES_MAX];
        let sent = self
            .sealer
            .seal(incarnation, data, &mut datagram)
            .and_then(|len| self.socket.send_to(&datagram[..len], self.reachable(to)).map_err(|_| DropReason::NotSent));
        if let Err(reason) = sent {
            (self.on_drop)(reason);
        }
    }

    /// A socket of the sixth version reaches the fourth under mapped addresses only.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.is_ipv6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            _ => to,
        }
    }
}

/// The receiving half.
pub struct GossipReceiver {
    socket: UdpSocket,
    opener: Opener,
    /// One byte more than a datagram may have: what fills it is too long.
    buffer: Box<[u8; SEALED_BYTES_MAX + 1]>,
    on_drop: OnDrop,
}

impl fmt::Debug for GossipReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipReceiver").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl GossipReceiver {
    /// Where the socket listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The next datagram whose seal is right: its sender, the sender's incarnation, and what it says. All others are
    /// counted and dropped. A flood of them can't keep the task from yielding, because tokio's budget counts each.
    ///
    /// Cancel safe: a call that is dropped loses no datagram.
    pub async fn recv(&mut self) -> (NodeId, Incarnation, Bytes) {
        loop {
            match self.socket.recv_from(&mut self.buffer[..]).await {
                Ok((len, _)) => match self.opener.open(&mut self.buffer[..len]) {
                    Ok(opened) => return (opened.from, opened.incarnation, Bytes::copy_from_slice(opened.data)),
                    Err(reason) => (self.on_drop)(reason),
                },
                Err(_) => {
                    (self.on_drop)(DropReason::NotReceived);
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use tokio::time::timeout;

    const KEY: [u8; 32] = [7; 32];
    /// Far longer than anything here takes: it only turns a hang into a failure.
    const PATIENCE: Duration = Duration::from_secs(20);

    type Drops = Arc<Mutex<BTreeMap<DropReason, u64>>>;

    fn open(node: u64) -> (GossipSender, GossipReceiver, Drops) {
        let drops = Drops::default();
        let counted = drops.clone();
        let on_drop = Arc::new(move |reason| *counted.lock().unwrap().entry(reason).or_insert(0) += 1);
        let (sender, receiver) =
            super::open(StdUdpSocket::bind("127.0.0.1:0").unwrap(), &KEY, NodeId(node), 1 << 100, on_drop).unwrap();
        (sender, receiver, drops)
    }

    #[tokio::test]
    async fn a_datagram_arrives_with_its_sender() {
        let (sender, _, _) = open(1);
        let (_, mut receiver, drops) = open(2);
        sender.try_send(receiver.local_addr().unwrap(), Incarnation(5), b"hello");
        let received = timeout(PATIENCE, receiver.recv()).await.unwrap();
        assert_eq!(received, (NodeId(1), Incarnation(5), Bytes::from_static(b"hello")));
        assert!(drops.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_datagram_is_counted_and_the_next_one_is_heard() {
        let (sender, _, _) = open(1);
        let (_, mut receiver, drops) = open(2);
        let address = receiver.local_addr().unwrap();
        let stranger = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        let mut right_header = [0; SEALED_BYTES_MAX];
        let forger = Sealer::new(&[8; 32], NodeId(3), 1 << 100, [1; 16]);
        let len = forger.seal(Incarnation(1), b"x", &mut right_header).unwrap();
        for bad in [&[][..], &[0; 10], &[0; 100], &[1; 65_507], &right_header[..len]] {
            stranger.send_to(bad, address).unwrap();
        }
        sender.try_send(address, Incarnation(5), b"hello");
        let (from, _, _) = timeout(PATIENCE, receiver.recv()).await.unwrap();
        assert_eq!(from, NodeId(1));
        let expected =
            [(DropReason::TooShort, 2), (DropReason::TooLong, 1), (DropReason::Version, 1), (DropReason::Forged, 1)];
        assert_eq!(*drops.lock().unwrap(), BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn a_flood_of_garbage_leaves_it_serving() {
        let (sender, _, _) = open(1);
        let (_, mut receiver, drops) = open(2);
        let address = receiver.local_addr().unwrap();
        let stranger = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        for round in 0u32..50 {
            for garbage in 0u32..100 {
                let bytes = (round * 100 + garbage).to_be_bytes().repeat(100);
                stranger.send_to(&bytes, address).unwrap();
            }
            // What overflows the socket's buffer is lost, as gossip may be: say it until it is heard.
            let heard = async {
                loop {
                    sender.try_send(address, Incarnation(5), b"hello");
                    if let Ok(received) = timeout(Duration::from_millis(50), receiver.recv()).await {
                        return received;
                    }
                }
            };
            assert_eq!(timeout(PATIENCE, heard).await.unwrap().0, NodeId(1));
        }
        assert!(drops.lock().unwrap().values().sum::<u64>() > 0);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_counted() {
        let (sender, receiver, drops) = open(1);
        let address = receiver.local_addr().unwrap();
        sender.try_send(address, Incarnation(0), b"too early");
        sender.try_send(address, Incarnation(5), &[0; SEALED_BYTES_MAX]);
        sender.try_send(([127, 0, 0, 1], 0).into(), Incarnation(5), b"port 0 is nowhere");
        let expected = [(DropReason::TooLong, 1), (DropReason::NoIncarnation, 1), (DropReason::NotSent, 1)];
        assert_eq!(*drops.lock().unwrap(), BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn a_dual_stack_socket_reaches_the_old_addresses() {
        let on_drop: OnDrop = Arc::new(|_| {});
        let Ok(socket) = StdUdpSocket::bind("[::]:0") else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let (sender, _) = super::open(socket, &KEY, NodeId(1), 1 << 100, on_drop).unwrap();
        let (_, mut receiver, _) = open(2);
        sender.try_send(receiver.local_addr().unwrap(), Incarnation(5), b"hello");
        assert_eq!(timeout(PATIENCE, receiver.recv()).await.unwrap().0, NodeId(1));
    }
}
