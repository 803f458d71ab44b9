//! What members say in gossip: a story of datagrams whose seals were right. Nothing that is dropped changes anything,
//! and what is sent is bounded.

use super::{parts, story};
use mks_logic::cluster::Member;
use mks_logic::id::{Incarnation, NodeId};
use mks_logic::member::{DATAGRAM_BYTES_MAX, Datagrams, GossipSettings, Membership};
use mks_logic::time::Now;
use mks_tests_sim::log::form;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const MEMBERS: u64 = 4;
const ME: NodeId = NodeId(1);
/// One datagram makes a node say no more than this: a few words to each member.
const ANSWERS_MAX: usize = 64;

static ROSTER: LazyLock<BTreeMap<NodeId, Member>> = LazyLock::new(|| form(MEMBERS).members);

fn now(mono_us: u64) -> Now {
    Now { mono_us, wall_ms: 1_800_000_000_000 + mono_us / 1_000 }
}

fn membership(me: NodeId) -> Membership {
    Membership::new(me, ROSTER[&me].incarnation, me.0, &GossipSettings::default())
}

pub fn run(input: &[u8]) {
    let (mut me, mut out, mut time) = (membership(ME), Datagrams::new(), 1_000_000);
    me.roster(now(time), &ROSTER, &mut out);
    // The first byte of a part says who speaks (0 to 7), in which incarnation, and how much later.
    for (what, datagram) in parts(input) {
        time += u64::from(what >> 5) * 150_000;
        me.tick(now(time), &mut out);
        out.clear();
        let from = NodeId(u64::from(what & 7));
        let known = ROSTER.get(&from).map_or(0, |member| member.incarnation.0);
        let incarnation = Incarnation(known + u64::from(what >> 3 & 3) % 3);
        let before = format!("{me:?}");
        let taken = me.datagram(now(time), from, incarnation, datagram, &mut out);
        let trusted = from != ME && ROSTER.contains_key(&from) && incarnation == ROSTER[&from].incarnation;
        assert!(trusted || taken.is_err(), "{from} in {incarnation} is nobody to believe");
        if taken.is_err() {
            assert_eq!(before, format!("{me:?}"), "a dropped datagram changed something");
        }
        assert!(out.len() <= ANSWERS_MAX, "{} datagrams answer one", out.len());
        let strays = out.iter().find(|(to, bytes)| !ROSTER.contains_key(to) || bytes.len() > DATAGRAM_BYTES_MAX);
        assert!(strays.is_none(), "not to be sent: {strays:?}");
        assert!(me.is_alive(ME) && !me.is_alive(NodeId(99)));
    }
    me.tick(now(time + 3_000_000), &mut out);
}

/// What four members really say to the first one, of whom the last one dies.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut members: Vec<Membership> = (1..=MEMBERS).map(|id| membership(NodeId(id))).collect();
    let mut heard: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut flying: Vec<(NodeId, NodeId, bytes::Bytes)> = Vec::new();
    for round in 0..60_u64 {
        let time = now(1_000_000 + round * 50_000);
        let mut out = Datagrams::new();
        for (from, to, bytes) in std::mem::take(&mut flying) {
            if to == ME {
                heard.push((from.0 as u8 | 0x20, bytes.to_vec()));
            }
            let dead = round > 20 && (to.0 == MEMBERS || from.0 == MEMBERS);
            if !dead {
                let incarnation = ROSTER[&from].incarnation;
                let _ = members[to.0 as usize - 1].datagram(time, from, incarnation, &bytes, &mut out);
                flying.extend(out.drain(..).map(|(next, bytes)| (to, next, bytes)));
            }
        }
        for (id, member) in (1..).zip(&mut members) {
            if round == 0 {
                member.roster(time, &ROSTER, &mut out);
            }
            member.tick(time, &mut out);
            flying.extend(out.drain(..).map(|(to, bytes)| (NodeId(id), to, bytes)));
        }
    }
    heard.chunks(6).map(|some| story(some.iter().cloned())).take(12).collect()
}
