//! Operations and questions of clients to data types, at one node.

use super::solo::{Solo, own_write, reply, sends, tag};
use crate::context::Context;
use crate::event::{Deed, Effect, Input, Question, Told, WriteJob};
use crate::id::{Incarnation, Key, NodeId};
use crate::message::{Message, ReadOutcome, Refused, WriteOutcome};
use crate::port::TypeError;
use crate::record::Record;
use crate::request::{Answer, OpError, Operation, Request};
use crate::testing::{TALLIES, formed, key, stranger, version};
use crate::time::Hlc;
use bytes::Bytes;

const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

fn tally() -> Key {
    Key { keyspace: TALLIES, ..key("tally") }
}

fn apply(text: &'static str) -> Request {
    Request { request_id: Some(7), ..Request::new(Operation::Apply { key: tally(), operation: text.into() }) }
}

fn view() -> Request {
    Request::new(Operation::View { key: tally(), question: Bytes::new() })
}

fn solo() -> Solo {
    Solo::member(1, &formed(3, (3, 2, 2)))
}

fn theirs() -> Record {
    Record::of(version(2, 7, Hlc(9), Some("2/2/7 x")))
}

/// Answers the read that comes first: our own disk holds nothing, another owner something.
fn read(solo: &mut Solo, effects: &[Effect]) -> Vec<Effect> {
    let job = effects.iter().find_map(|e| if let Effect::Read(job) = e { Some(job.job) } else { None }).unwrap();
    solo.feed(Input::Found { job, outcome: ReadOutcome::Record(Record::default()) });
    let (to, message) = sends(effects).remove(0);
    let Message::Read { tag, .. } = message else { panic!("{message:?}") };
    solo.found(to, tag, ReadOutcome::Record(theirs()))
}

fn applied(counter: u64) -> WriteOutcome {
    WriteOutcome::Applied { counter, state: "2/2/7 x\n1/1/40 a".into(), past: theirs().context(), reply: None }
}

fn writes(effects: &[Effect]) -> Vec<(NodeId, Bytes, Context)> {
    let write = |(to, message)| match message {
        Message::Write { version, past, .. } => Some((to, version.value.unwrap(), past)),
        _ => None,
    };
    sends(effects).into_iter().filter_map(write).collect()
}

#[test]
fn an_operation_starts_from_what_a_quorum_holds_and_its_result_goes_to_the_other_owners() {
    let mut solo = solo();
    let out = solo.ask(apply("a"));
    let out = read(&mut solo, &out);
    let Some(Effect::Write(job)) = out.iter().find(|e| matches!(e, Effect::Write(_))) else { panic!("{out:?}") };
    assert_eq!(
        (job.past.clone(), job.apply.as_ref().unwrap().seen.clone()),
        (theirs().context(), theirs().into_versions())
    );
    assert!(writes(&out).is_empty(), "nobody hears of it before our own disk has done it");
    let out = solo.feed(Input::Written { job: job.job, outcome: applied(40) });
    let mut told = writes(&out);
    told.sort_by_key(|(to, ..)| *to);
    let state = Bytes::from("2/2/7 x\n1/1/40 a");
    assert_eq!(told, [N2, N3].map(|to| (to, state.clone(), theirs().context())));
    let out = solo.written(N3, tag(&out), WriteOutcome::Held);
    assert!(matches!(reply(&out), Some(Ok(Answer::Applied { acks: 2, .. }))), "{out:?}");
    let out = solo.ask(apply("a"));
    let out = read(&mut solo, &out);
    assert!(matches!(reply(&out), Some(Ok(Answer::Applied { acks: 2, .. }))), "sent again, it is answered: {out:?}");
}

#[test]
fn what_the_type_refuses_is_told_and_may_be_tried_again() {
    let mut solo = solo();
    for error in [TypeError::Refused("no".into()), TypeError::Failed("trap".into())] {
        let out = solo.ask(apply("a"));
        let out = read(&mut solo, &out);
        let job = own_write(&out).0;
        let out = solo.feed(Input::Written { job, outcome: WriteOutcome::NotApplied(error.clone()) });
        assert_eq!(reply(&out), Some(Err(OpError::Type { error })));
    }
    let out = solo.ask(apply("a"));
    let out = read(&mut solo, &out);
    let done =
        |e: &Effect| matches!(e, Effect::Write(job) if matches!(job.apply.as_ref().unwrap().deed, Deed::Operate(_)));
    assert!(out.iter().any(done), "nothing was done before: {out:?}");
}

#[test]
fn an_operation_whose_outcome_is_unknown_is_not_done_again() {
    let mut solo = solo();
    let out = solo.ask(Request { deadline_ms: Some(100), ..apply("a") });
    let out = read(&mut solo, &out);
    let job = own_write(&out).0;
    solo.feed(Input::Written { job, outcome: applied(40) });
    let out = solo.after(200);
    assert!(matches!(reply(&out), Some(Err(OpError::Timeout { .. }))), "{out:?}");
    for refused in [Refused::Busy, Refused::DamagedRecord] {
        let out = solo.ask(apply("a"));
        let out = read(&mut solo, &out);
        let deed =
            |e: &Effect| if let Effect::Write(job) = e { job.apply.as_ref().map(|a| a.deed.clone()) } else { None };
        let Some(Deed::Again(dot)) = out.iter().find_map(deed) else { panic!("{out:?}") };
        assert_eq!(dot.counter, 40);
        // Somebody else must not be asked: it was done.
        let job = own_write(&out).0;
        let out = solo.feed(Input::Written { job, outcome: WriteOutcome::Refused(refused) });
        assert!(matches!(reply(&out), Some(Err(OpError::QuorumLost { acks: 0, .. }))), "{out:?}");
    }
}

#[test]
fn a_stranger_hands_a_retry_to_the_owner_that_had_it_and_to_nobody_else() {
    let state = formed(5, (3, 2, 2));
    let mut solo = Solo::member(stranger(&state, &tally()).0, &state);
    let out = solo.ask(Request { deadline_ms: Some(100), ..apply("a") });
    let (owner, message) = sends(&out).remove(0);
    let known = state.members[&owner].incarnation;
    assert!(matches!(message, Message::Forward { incarnation, .. } if incarnation == known), "{message:?}");
    let out = solo.after(200);
    assert!(matches!(reply(&out), Some(Err(OpError::Timeout { .. }))));
    let out = solo.ask(apply("a"));
    assert_eq!(sends(&out)[0].0, owner);
    let refused = "it does not own the partition".into();
    let out = solo.hear(owner, Message::Forwarded { tag: tag(&out), reply: Err(OpError::NotNamed { refused }) });
    assert!(matches!(reply(&out), Some(Err(OpError::Timeout { .. }))), "it may have been done before: {out:?}");
    solo.link(owner, false);
    assert!(matches!(solo.refusal(apply("a")), Err(OpError::Timeout { .. })), "nobody else is asked");
}

#[test]
fn another_opening_does_not_serve_what_was_handed_to_the_one_before() {
    let mut solo = solo();
    let handed = |incarnation| Message::Forward {
        tag: crate::message::Tag(5),
        request: apply("a"),
        remaining_ms: 50,
        incarnation: Incarnation(incarnation),
    };
    let out = solo.hear(N2, handed(9));
    let answers = sends(&out);
    assert!(matches!(&answers[..], [(N2, Message::Forwarded { reply: Err(OpError::NotNamed { .. }), .. })]), "{out:?}");
    assert!(solo.hear(N2, handed(1)).iter().any(|e| matches!(e, Effect::Read(_))));
}

#[test]
fn a_question_is_answered_by_the_type_from_all_that_a_quorum_holds() {
    let mut solo = solo();
    let out = solo.ask(view());
    let out = read(&mut solo, &out);
    let Some(Effect::Ask(job)) = out.iter().find(|e| matches!(e, Effect::Ask(_))) else { panic!("{out:?}") };
    let (states, text) = (vec!["2/2/7 x".into()], Bytes::new());
    assert_eq!(job.question, Question::View { states, text });
    let out = solo.feed(Input::Told { job: job.job, told: Told::View(Ok("1".into())) });
    assert_eq!(reply(&out), Some(Ok(Answer::Viewed { answer: Some("1".into()) })));
    let out = solo.ask(Request { deadline_ms: Some(100), ..view() });
    read(&mut solo, &out);
    let out = solo.after(200);
    assert!(
        matches!(reply(&out), Some(Err(OpError::Type { error: TypeError::Failed(_) }))),
        "it thinks too long: {out:?}"
    );
}

#[test]
fn a_data_type_in_quarantine_is_asked_nothing_and_what_is_stored_stays() {
    let mut state = formed(3, (3, 2, 2));
    let mut solo = Solo::member(1, &state);
    let quarantined = Err(OpError::Type { error: TypeError::Quarantined("tally".into()) });
    // While the key was read it failed once too often.
    let under_way = [solo.ask(apply("a")), solo.ask(view())];
    state.keyspaces.get_mut(&TALLIES).unwrap().quarantined = true;
    solo.learn(&state);
    for out in under_way {
        let out = read(&mut solo, &out);
        assert_eq!(reply(&out), Some(quarantined.clone()));
        // What was read mends this disk all the same.
        let asks = |effect: &Effect| matches!(effect, Effect::Ask(_) | Effect::Write(WriteJob { apply: Some(_), .. }));
        assert!(sends(&out).is_empty() && !out.iter().any(asks), "{out:?}");
    }
    assert_eq!([solo.refusal(apply("a")), solo.refusal(view())], [quarantined.clone(), quarantined]);
    state.keyspaces.get_mut(&TALLIES).unwrap().quarantined = false;
    solo.learn(&state);
    let out = solo.ask(apply("a"));
    let out = read(&mut solo, &out);
    assert!(out.iter().any(|effect| matches!(effect, Effect::Write(_))), "{out:?}");
}

#[test]
fn values_of_data_types_are_neither_put_nor_got_and_others_are_no_data_types() {
    let mut solo = solo();
    let typed = [
        Operation::Put { key: tally(), value: Bytes::new() },
        Operation::Get { key: tally() },
        Operation::Delete { key: tally() },
    ];
    let plain = [
        Operation::Apply { key: key("k"), operation: "a".into() },
        Operation::View { key: key("k"), question: Bytes::new() },
    ];
    for (operation, hint) in typed.into_iter().map(|o| (o, "mks apply")).chain(plain.map(|o| (o, "--datatype"))) {
        let Err(OpError::Invalid(text)) = solo.refusal(Request::new(operation)) else { panic!("it must be refused") };
        assert!(text.contains(hint), "{text}");
    }
}
