//! Streams go one way, as they do between processes: what is sent on one arrives in order, a break loses what is on its
//! way, and only the sender hears of it. A cut link holds what is sent until it heals or the stream is given up.

use mks_logic::id::NodeId;
use mks_logic::message::Message;
use mks_logic::time::Hlc;

/// What a stream carries.
#[derive(Clone, Debug)]
pub enum Frame {
    /// It begins.
    Opened,
    /// Nothing to say.
    Clock,
    /// Something to say.
    Message(Box<Message>),
}

/// The way from one node to another.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Frames arrive.
    pub connected: bool,
    /// Counts connections: what was sent on an earlier one never arrives.
    pub connection: u32,
    /// Nothing arrives before this.
    pub last_arrival: u64,
    /// Faults that stop it now.
    pub cuts: u32,
    /// Further delay, microseconds.
    pub slow_us: u64,
    /// Sent while it was cut.
    pub held: Vec<(Hlc, Frame)>,
}

/// All streams.
#[derive(Clone, Debug)]
pub struct Network {
    nodes: usize,
    streams: Vec<Stream>,
}

impl Network {
    /// Nobody is connected.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { nodes, streams: vec![Stream::default(); nodes * nodes] }
    }

    fn at(&self, from: NodeId, to: NodeId) -> usize {
        (from.0 as usize - 1) * self.nodes + to.0 as usize - 1
    }

    /// The stream from one node to another.
    pub fn stream(&mut self, from: NodeId, to: NodeId) -> &mut Stream {
        let at = self.at(from, to);
        &mut self.streams[at]
    }

    /// All pairs of different nodes.
    #[must_use]
    pub fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        let ids = 1..=self.nodes as u64;
        ids.clone().flat_map(|a| ids.clone().map(move |b| (NodeId(a), NodeId(b)))).filter(|(a, b)| a != b).collect()
    }
}
