//! Claims about the side that holds partitions.

use super::solo::{Solo, sends, stamp, write_of};
use crate::event::{Effect, Input};
use crate::id::{Epoch, Key, KeyspaceId, NodeId};
use crate::limits::Limits;
use crate::message::{Message, ReadOutcome, Refused, Tag, Want, WriteOutcome};
use crate::testing::{formed, key, stranger, version};
use crate::version::Version;

const N2: NodeId = NodeId(2);

fn read_of(key: &Key, epoch: Epoch) -> Message {
    Message::Read { tag: Tag(78), key: key.clone(), epoch, want: Want::Digest }
}

fn fresh(written_ms: u64) -> Version {
    version(2, 1, stamp(written_ms), Some("v"))
}

/// The only answer among the effects.
fn outcome(effects: &[Effect]) -> WriteOutcome {
    match &sends(effects)[..] {
        [(N2, Message::Written { tag: Tag(77), outcome })] => outcome.clone(),
        other => panic!("{other:?}"),
    }
}

fn refused(refused: Refused) -> WriteOutcome {
    WriteOutcome::Refused(refused)
}

#[test]
fn a_write_is_answered_when_the_disk_has_it() {
    let mut solo = Solo::member(1, &formed(3, (3, 2, 2)));
    let out = solo.hear(N2, write_of(&key("k"), fresh(0), true));
    let [Effect::Write(job)] = &out[..] else { panic!("{out:?}") };
    let done = solo.feed(Input::Written { job: job.job, outcome: WriteOutcome::Held });
    assert_eq!(outcome(&done), WriteOutcome::Held);
    assert_eq!(solo.feed(Input::Written { job: job.job, outcome: WriteOutcome::Held }), [], "a job is done once");
    assert_eq!(solo.node.load().jobs, 0);
}

#[test]
fn an_early_message_waits_for_its_epoch() {
    let mut state = formed(3, (3, 2, 2));
    let mut solo = Solo::member(1, &state);
    let early = Version { epoch: Epoch(3), ..fresh(0) };
    assert_eq!(solo.hear(N2, write_of(&key("k"), early, true)), []);
    assert_eq!(solo.hear(N2, read_of(&key("k"), Epoch(2))), []);
    state.epoch = Epoch(2);
    assert!(matches!(solo.learn(&state)[..], [Effect::Read(_)]));
    state.epoch = Epoch(3);
    assert!(matches!(solo.learn(&state)[..], [Effect::Write(_)]));
    assert!(solo.node.early.is_empty());
}

#[test]
fn early_messages_are_bounded() {
    let limits = Limits { early_messages_max: 1, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    let early = || Version { epoch: Epoch(3), ..fresh(0) };
    assert_eq!(solo.hear(N2, write_of(&key("k"), early(), true)), []);
    assert_eq!(outcome(&solo.hear(N2, write_of(&key("k"), early(), true))), refused(Refused::Busy));
    let out = solo.hear(N2, read_of(&key("k"), Epoch(3)));
    let busy = ReadOutcome::Refused(Refused::Busy);
    assert_eq!(sends(&out), [(N2, Message::Found { tag: Tag(78), outcome: busy })]);
}

#[test]
fn a_fresh_write_may_be_one_epoch_old_and_not_two() {
    let mut state = formed(3, (3, 2, 2));
    state.epoch = Epoch(5);
    let mut solo = Solo::member(1, &state);
    let of = |epoch| Version { epoch: Epoch(epoch), ..fresh(0) };
    assert!(matches!(solo.hear(N2, write_of(&key("k"), of(4), true))[..], [Effect::Write(_)]));
    let stale = WriteOutcome::StaleEpoch { current: Epoch(5) };
    assert_eq!(outcome(&solo.hear(N2, write_of(&key("k"), of(3), true))), stale);
    assert!(matches!(solo.hear(N2, write_of(&key("k"), of(3), false))[..], [Effect::Write(_)]), "a repair may be");
}

#[test]
fn a_stamp_from_the_future_is_refused() {
    let mut solo = Solo::member(1, &formed(3, (3, 2, 2)));
    assert!(matches!(solo.hear(N2, write_of(&key("k"), fresh(500), true))[..], [Effect::Write(_)]));
    let out = solo.hear(N2, write_of(&key("k"), fresh(501), true));
    assert_eq!(outcome(&out), refused(Refused::StampFromFuture));
}

#[test]
fn what_is_not_ours_is_refused() {
    let state = formed(4, (3, 2, 2));
    let away = ["a", "b", "c", "d", "e", "f"].map(key).into_iter().find(|k| stranger(&state, k).0 == 1).unwrap();
    let mut solo = Solo::member(1, &state);
    assert_eq!(outcome(&solo.hear(N2, write_of(&away, fresh(0), true))), refused(Refused::NotOwner));
    let unknown = Key { keyspace: KeyspaceId(9), ..key("k") };
    assert_eq!(outcome(&solo.hear(N2, write_of(&unknown, fresh(0), true))), refused(Refused::UnknownKeyspace));
    let long = Key { sort_key: vec![0; 5_000].into(), ..key("k") };
    assert_eq!(outcome(&solo.hear(N2, write_of(&long, fresh(0), true))), refused(Refused::Damaged));
    assert_eq!(solo.hear(NodeId(99), write_of(&key("k"), fresh(0), true)), [], "nobody answers a stranger");
    assert_eq!(solo.node.figures().nonsense, 2);
}

#[test]
fn beyond_its_disk_queue_an_owner_is_busy() {
    let limits = Limits { disk_jobs_max: 1, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    solo.hear(N2, write_of(&key("k"), fresh(0), true));
    assert_eq!(outcome(&solo.hear(N2, write_of(&key("k"), fresh(0), true))), refused(Refused::Busy));
}
