//! A whole node among peers that say anything: a story of frames from two peers, requests of clients, and time that
//! passes. Whoever holds the cluster key may be wrong; the node goes on, and holds no more than its bounds.

use super::frame::{encoded, key, messages};
use super::{parts, request_of, story};
use mks::grpc::convert::{decode_request, encode_request};
use mks::peer::convert::from_wire;
use mks_logic::cluster::State;
use mks_logic::event::{Effect, Input, Operation, Ticket};
use mks_logic::hint;
use mks_logic::id::NodeId;
use mks_logic::limits::Limits;
use mks_logic::member::GossipSettings;
use mks_logic::message::{Message, Tag};
use mks_logic::mint::Mints;
use mks_logic::node::{Node, NodeOptions};
use mks_logic::purge;
use mks_logic::replica::{self, Ports};
use mks_logic::sync;
use mks_logic::time::{Hlc, Now};
use mks_proto::v1::Frame;
use mks_tests_sim::disk::Disk;
use mks_tests_sim::log::{PARTITION_BITS, form};
use mks_tests_sim::rules::Rules;
use mks_tests_sim::sums::Sums;
use prost::Message as _;
use std::sync::{Arc, LazyLock};

const ME: NodeId = NodeId(1);
/// Parts of one story that are played.
const PARTS_MAX: usize = 64;
/// Effects that one part may have in all: whatever one frame sets in motion comes to rest.
const EFFECTS_MAX: usize = 20_000;
const OPERATIONS_MAX: usize = 32;

static FORMED: LazyLock<Arc<State>> = LazyLock::new(|| Arc::new(form(3)));

struct Play {
    node: Node,
    disk: Disk,
    sums: Sums,
    mints: Mints,
    mono_us: u64,
    /// Questions that the node asked: an answer names one of them, or nothing answers anything.
    asked: Vec<Tag>,
    effects: Vec<Effect>,
}

impl Play {
    fn new() -> Self {
        let limits = Limits {
            operations_max: OPERATIONS_MAX,
            early_messages_max: 16,
            disk_jobs_max: 64,
            lingering_max: 16,
            repairs_max: 8,
            sync_period_ms: 500,
            sync_quiet_ms: 50,
            ..Limits::default()
        };
        // The opening that the roster knows: this process is admitted.
        let options = NodeOptions { me: ME, opening: 1, limits, gossip: GossipSettings::default(), seed: 1 };
        let disk = Disk::default();
        let keyspaces = FORMED.all_copies_max();
        let sums = Sums::open(&disk, keyspaces).expect("an empty disk reads");
        let mut play = Self {
            node: Node::new(options),
            disk,
            sums,
            mints: Mints::default(),
            mono_us: 5_000_000,
            asked: Vec::new(),
            effects: Vec::new(),
        };
        play.step(Input::Cluster(Arc::clone(&FORMED)));
        for peer in [NodeId(2), NodeId(3)] {
            play.step(Input::Link { peer, up: true });
            play.step(Input::Arrived { peer });
        }
        play
    }

    fn now(&self) -> Now {
        Now { mono_us: self.mono_us, wall_ms: 1_800_000_000_000 + self.mono_us / 1_000 }
    }

    /// One input, and everything that its effects lead to on this node.
    fn step(&mut self, input: Input) {
        self.node.step(self.now(), input, &Rules::Work, &mut self.effects);
        let mut done = 0;
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                done += 1;
                assert!(done < EFFECTS_MAX, "one input has no end of effects");
                if let Some(input) = self.carry_out(effect) {
                    self.node.step(self.now(), input, &Rules::Work, &mut self.effects);
                }
            }
        }
        assert!(self.node.operations() <= OPERATIONS_MAX, "{} operations", self.node.operations());
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        let ports = Ports {
            store: &self.disk,
            outlines: &self.disk,
            digests: &self.sums,
            mints: &self.mints,
            resolve: &Rules::Work,
            types: &Rules::Work,
            partition_bits: PARTITION_BITS,
        };
        match effect {
            Effect::Send { message, .. } => {
                self.asked.extend(question(&message));
                None
            }
            Effect::Write(job) => {
                let (outcomes, _) = replica::absorb(ports, std::slice::from_ref(&job));
                outcomes.into_iter().next().map(|outcome| Input::Written { job: job.job, outcome })
            }
            Effect::Read(job) => Some(Input::Found { job: job.job, outcome: replica::find(ports, &job.key, job.want) }),
            Effect::Hint(job) => {
                let outcomes = hint::work(&self.disk, std::slice::from_ref(&job));
                outcomes.into_iter().next().map(|outcome| Input::Hinted { job: job.job, outcome })
            }
            Effect::Seal(job) => Some(Input::Sealed { job: job.job, outcome: purge::work(ports, &job.work) }),
            Effect::Ask(job) => Some(Input::Told { job: job.job, told: job.ask(&Rules::Work, &Rules::Work) }),
            Effect::Compare { job, work } => Some(Input::Compared { job, found: sync::found(ports, &work, 4 << 10) }),
            _ => None,
        }
    }

    fn hear(&mut self, from: NodeId, frame: Frame) {
        let clock = Hlc(frame.clock);
        if frame.messages.is_empty() {
            self.step(Input::Clock { from, clock });
        }
        for message in frame.messages {
            let Ok(mut message) = from_wire(message) else { continue };
            if let (Some(tag), false) = (answer_tag(&mut message), self.asked.is_empty()) {
                *tag = self.asked[tag.0 as usize % self.asked.len()];
            }
            self.step(Input::Peer { from, clock, message });
        }
    }

    fn wait(&mut self, mono_us: u64) {
        let end = self.mono_us + mono_us;
        // Ends: each wake is later than the one before, or the node is asked no more than this.
        for _ in 0..1_000 {
            let Some(wake) = self.node.next_wake().filter(|wake| *wake <= end) else { break };
            self.mono_us = self.mono_us.max(wake);
            self.step(Input::Tick);
        }
        self.mono_us = end;
        self.step(Input::Tick);
    }
}

fn question(message: &Message) -> Option<Tag> {
    match message {
        Message::Write { tag, .. } | Message::Read { tag, .. } | Message::Forward { tag, .. } => Some(*tag),
        Message::Sync { tag, .. } => Some(*tag),
        _ => None,
    }
}

fn answer_tag(message: &mut Message) -> Option<&mut Tag> {
    match message {
        Message::Written { tag, .. } | Message::Found { tag, .. } | Message::Forwarded { tag, .. } => Some(tag),
        Message::Synced { tag, .. } => Some(tag),
        _ => None,
    }
}

pub fn run(input: &[u8]) {
    let mut play = Play::new();
    for (number, (what, part)) in parts(input).take(PARTS_MAX).enumerate() {
        match what % 8 {
            kind @ 0..=3 => {
                if let Ok(frame) = Frame::decode(part) {
                    play.hear(NodeId(2 + u64::from(kind % 2)), frame);
                }
            }
            4 | 5 => {
                if let Ok(request) = decode_request(part.to_vec().into()) {
                    play.step(Input::Client { ticket: Ticket(number as u64), request });
                }
            }
            6 => play.wait(u64::from(what / 8) * 50_000),
            _ => {
                let peer = NodeId(2 + u64::from(what / 8 % 2));
                play.step(Input::Link { peer, up: what & 0x10 != 0 });
                play.step(Input::Arrived { peer });
            }
        }
    }
    play.wait(120_000_000);
    let load = play.node.load();
    assert_eq!(play.node.operations(), 0, "operations without end: {load:?}");
}

fn request(operation: Operation) -> Vec<u8> {
    encode_request(&request_of(operation)).to_vec()
}

#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let put = request(Operation::Put { key: key("a"), value: "mine".into() });
    let get = request(Operation::Get { key: key("a") });
    let delete = request(Operation::Delete { key: key("a") });
    let mut seeds: Vec<Vec<u8>> = vec![
        story([(4, put.clone()), (6 + 8, Vec::new()), (5, get), (6 + 8 * 20, Vec::new())]),
        story([
            (4, put.clone()),
            (7, Vec::new()),
            (6 + 8 * 30, Vec::new()),
            (7 + 0x10, Vec::new()),
            (6 + 8 * 31, Vec::new()),
        ]),
        story([(4, delete), (1, encoded(vec![messages().remove(0)])), (6 + 8 * 31, Vec::new())]),
    ];
    for (number, message) in messages().into_iter().enumerate() {
        let frame = encoded(vec![message.clone(), message]);
        seeds.push(story([(4, put.clone()), ((number % 2) as u8, frame), (6 + 8 * 12, Vec::new())]));
    }
    seeds
}
