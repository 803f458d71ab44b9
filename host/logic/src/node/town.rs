//! A few nodes with disks and a network that delivers in order, unless a test cuts it.

use super::{Node, NodeOptions, SyncFigures};
use crate::cluster::{Entry, State};
use crate::digest::{Age, Range};
use crate::event::{Effect, Input, Ticket, WriteJob};
use crate::exchange::Work;
use crate::hint;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::limits::Limits;
use crate::member::GossipSettings;
use crate::message::{Message, ReadOutcome, Refused, WriteOutcome};
use crate::moves;
use crate::purge;
use crate::replica::{absorb, find};
use crate::request::Reply;
use crate::scrub;
use crate::sync::found;
use crate::testing::{Disk, PARTITION_BITS, Rules, Tallies, formed, job, key, version};
use crate::time::{Hlc, Now};
use crate::version::Version;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(super) struct Town {
    pub(super) state: State,
    pub(super) nodes: BTreeMap<NodeId, (Node, Disk)>,
    pub(super) now: Now,
    /// Messages in flight: from, to, what.
    pub(super) wire: VecDeque<(NodeId, NodeId, Message)>,
    /// Entries on their way into the epoch log.
    pub(super) log: VecDeque<Entry>,
    /// Messages delivered so far, and after how many the next ones are lost.
    pub(super) delivered: usize,
    pub(super) cut_after: usize,
    pub(super) records_read: usize,
    pub(super) replies: Vec<(Ticket, Reply)>,
    /// What is wrong with the resolvers of some nodes.
    pub(super) rules: BTreeMap<NodeId, Rules>,
}

const BIRTH_MS: u64 = 1_800_000_000_000;

impl Town {
    pub(super) fn new(limits: &Limits) -> Self {
        let state = formed(3, (3, 2, 2));
        let now = Now { mono_us: 0, wall_ms: BIRTH_MS };
        let mut town = Self {
            nodes: BTreeMap::new(),
            now,
            wire: VecDeque::new(),
            log: VecDeque::new(),
            delivered: 0,
            cut_after: usize::MAX,
            records_read: 0,
            replies: Vec::new(),
            rules: BTreeMap::new(),
            state,
        };
        for id in 1..=3 {
            let (opening, gossip, limits) = (u128::from(id), GossipSettings::default(), limits.clone());
            let node = Node::new(NodeOptions { me: NodeId(id), opening, limits, gossip, seed: id });
            town.nodes.insert(NodeId(id), (node, Disk::default()));
        }
        for id in [1, 2, 3].map(NodeId) {
            town.feed(id, Input::Cluster(Arc::new(town.state.clone())));
            for peer in [1, 2, 3].map(NodeId).into_iter().filter(|peer| *peer != id) {
                town.link(id, peer);
            }
        }
        town
    }

    /// Another node joins, and shall own its share.
    pub(super) fn join(&mut self, id: u64, limits: &Limits) {
        let member = formed(id, (3, 2, 2)).members.remove(&NodeId(id)).expect("the last one");
        self.state.members.insert(NodeId(id), member);
        self.state.asked += 1;
        let (opening, gossip, limits) = (u128::from(id), GossipSettings::default(), limits.clone());
        let node = Node::new(NodeOptions { me: NodeId(id), opening, limits, gossip, seed: id });
        self.nodes.insert(NodeId(id), (node, Disk::default()));
        self.tell();
        for peer in self.nodes.keys().copied().filter(|peer| peer.0 != id).collect::<Vec<_>>() {
            self.link(peer, NodeId(id));
            self.link(NodeId(id), peer);
        }
    }

    /// A stream to a peer is up, and with the one that comes from there its clock.
    fn link(&mut self, id: NodeId, peer: NodeId) {
        self.feed(id, Input::Link { peer, up: true });
        let clock = Hlc::from_ms(self.now.wall_ms);
        self.feed(id, Input::Clock { from: peer, clock });
    }

    /// Everybody hears of the state of the epoch log.
    pub(super) fn tell(&mut self) {
        let state = Arc::new(self.state.clone());
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.disk(id.0).digests(|digests| digests.learn(self.state.all_copies_max()));
            self.feed(id, Input::Cluster(Arc::clone(&state)));
        }
    }

    /// The leader does what is due.
    pub(super) fn lead(&mut self) {
        let due = self.state.due().expect("something is due");
        self.apply(&due);
    }

    pub(super) fn disk(&self, id: u64) -> &Disk {
        &self.nodes[&NodeId(id)].1
    }

    /// Writes to one node's disk alone, as if the others had been away.
    pub(super) fn write(&mut self, id: u64, name: &str, at: u64) {
        let version = Version { epoch: self.state.epoch, ..version(id, at, Hlc(at), Some("v")) };
        let jobs = [WriteJob { fresh: false, ..job(&key(name), version) }];
        let rules = self.rules.get(&NodeId(id)).copied().unwrap_or(Rules::Work);
        assert_eq!(absorb(self.disk(id).ports(&rules), &jobs).0, [WriteOutcome::Held]);
    }

    pub(super) fn feed(&mut self, id: NodeId, input: Input) {
        let rules = self.rules.get(&id).copied().unwrap_or(Rules::Work);
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let (node, disk) = self.nodes.get_mut(&id).expect("a node of the town");
            let mut out = Vec::new();
            node.step(self.now, input, &rules, &mut out);
            for effect in out {
                match effect {
                    Effect::Send { to, message } => self.wire.push_back((id, to, message)),
                    Effect::Write(job) => {
                        let outcome = absorb(disk.ports(&rules), core::slice::from_ref(&job)).0.remove(0);
                        if outcome == WriteOutcome::Refused(Refused::DamagedRecord) {
                            inputs.push_back(Input::Damaged { key: job.key });
                        }
                        inputs.push_back(Input::Written { job: job.job, outcome });
                    }
                    Effect::Read(job) => {
                        let outcome: ReadOutcome = find(disk.ports(&rules), &job.key, job.want);
                        if outcome == ReadOutcome::Refused(Refused::DamagedRecord) {
                            inputs.push_back(Input::Damaged { key: job.key });
                        }
                        inputs.push_back(Input::Found { job: job.job, outcome });
                    }
                    Effect::Ask(job) => {
                        let told = job.ask(&Tallies, &rules);
                        inputs.push_back(Input::Told { job: job.job, told });
                    }
                    Effect::Compare { job, work } => {
                        self.records_read += usize::from(!matches!(work, Work::Sums(_)));
                        let found = found(disk.ports(&rules), &work, 64 << 10);
                        inputs.push_back(Input::Compared { job, found });
                    }
                    Effect::Hint(job) => {
                        let outcome = hint::work(disk, core::slice::from_ref(&job)).remove(0);
                        inputs.push_back(Input::Hinted { job: job.job, outcome });
                    }
                    Effect::Scrub(job) => {
                        let outcome = scrub::work(disk.ports(&rules), &job.work);
                        inputs.push_back(Input::Scrubbed { job: job.job, outcome });
                    }
                    Effect::Reply { ticket, reply } => self.replies.push((ticket, reply)),
                    Effect::Move(job) => {
                        let outcome = moves::work(disk.ports(&rules), &job.work);
                        inputs.push_back(Input::Moved { job: job.job, outcome });
                    }
                    Effect::Seal(job) => {
                        let outcome = purge::work(disk.ports(&rules), &job.work);
                        inputs.push_back(Input::Sealed { job: job.job, outcome });
                    }
                    Effect::Propose { entry } => self.log.push_back(entry),
                    Effect::Datagram { .. } => {}
                }
            }
        }
    }

    pub(super) fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wire.pop_front() {
            self.delivered += 1;
            if self.delivered <= self.cut_after {
                let clock = Hlc::from_ms(self.now.wall_ms);
                self.feed(to, Input::Peer { from, clock, message });
            }
        }
        if let Some(entry) = self.log.pop_front() {
            self.apply(&entry);
        }
    }

    /// The epoch log has one more entry, and everybody hears of it at once. A refused one changes nothing.
    pub(super) fn apply(&mut self, entry: &Entry) {
        if self.state.apply(entry).is_ok() {
            self.tell();
        }
        self.deliver();
    }

    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.now.mono_us += 100_000;
            self.now.wall_ms += 100;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.feed(id, Input::Tick);
            }
            self.deliver();
        }
    }

    pub(super) fn repair(&mut self, id: u64) {
        self.feed(NodeId(id), Input::Repair { partition: None });
        self.deliver();
    }

    pub(super) fn figures(&self, id: u64) -> SyncFigures {
        self.nodes[&NodeId(id)].0.sync_figures()
    }

    pub(super) fn are_equal(&self) -> bool {
        let sums = |id: u64, partition| {
            let range = |age| Range {
                partition: PartitionId(partition),
                copies_min: 3,
                epoch: self.state.epoch,
                age,
                purged: Epoch(0),
                closed: Epoch(0),
            };
            self.disk(id).digests(|digests| Age::ALL.map(|age| digests.sums(range(age))))
        };
        (0..1 << PARTITION_BITS).all(|p| sums(1, p) == sums(2, p) && sums(2, p) == sums(3, p))
    }
}
