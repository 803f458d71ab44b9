//! Reads that a resolver merges, at one node.

use super::solo::{Solo, own_read, reply, sends};
use crate::context::Context;
use crate::event::{AskJob, Effect, Input, Question, Told};
use crate::id::{Key, NodeId};
use crate::limits::Limits;
use crate::message::{Message, ReadOutcome};
use crate::port::{Merged, ResolveError};
use crate::record::Record;
use crate::request::{Answer, Operation, Request};
use crate::testing::{UNIONS, formed, key, version};
use crate::time::Hlc;
use crate::version::Version;

fn union() -> Key {
    Key { keyspace: UNIONS, sort_key: "s".into(), ..key("k") }
}

fn get() -> Request {
    Request::new(Operation::Get { key: union() })
}

fn solo() -> Solo {
    Solo::member(1, &formed(3, (3, 2, 2)))
}

/// One of each owner's writes, and a delete.
fn milk() -> Version {
    version(1, 3, Hlc(7), Some("milk"))
}

fn eggs() -> Version {
    Version { expires_ms: 1 << 50, ..version(2, 7, Hlc(9), Some("eggs")) }
}

fn deleted() -> Version {
    version(3, 1, Hlc(8), None)
}

fn record(versions: impl IntoIterator<Item = Version>) -> Record {
    let mut record = Record::default();
    versions.into_iter().for_each(|version| record.insert(version));
    record
}

/// Reads: our own disk holds one record, another owner the other one.
fn read(solo: &mut Solo, request: Request, ours: &Record, theirs: &Record) -> Vec<Effect> {
    let out = solo.ask(request);
    solo.feed(Input::Found { job: own_read(&out), outcome: ReadOutcome::Record(ours.clone()) });
    let (to, message) = sends(&out).remove(0);
    let Message::Read { tag, .. } = message else { panic!("{message:?}") };
    solo.found(to, tag, ReadOutcome::Record(theirs.clone()))
}

fn asked(effects: &[Effect]) -> AskJob {
    let ask = |effect: &Effect| if let Effect::Ask(job) = effect { Some(job.clone()) } else { None };
    effects.iter().find_map(ask).unwrap_or_else(|| panic!("{effects:?}"))
}

fn told(solo: &mut Solo, job: &AskJob, merged: Result<Merged, ResolveError>) -> (Vec<Version>, Context) {
    found(&solo.feed(Input::Told { job: job.job, told: Told::Merge(merged) }))
}

fn found(effects: &[Effect]) -> (Vec<Version>, Context) {
    let Some(Ok(Answer::Found { versions, context })) = reply(effects) else { panic!("{effects:?}") };
    (versions, context.expect("the keyspace is causal"))
}

#[test]
fn a_reader_gets_one_value_in_the_place_of_siblings_and_the_context_of_all_of_them() {
    let mut solo = solo();
    let (ours, theirs) = (record([milk(), deleted()]), record([eggs(), deleted()]));
    let out = read(&mut solo, get(), &ours, &theirs);
    assert_eq!(reply(&out), None, "the resolver is asked first");
    let job = asked(&out);
    let Question::Merge(siblings) = &job.question else { panic!("{job:?}") };
    assert_eq!((&siblings.key[..], &siblings.values[..]), (&b"ks"[..], &["milk".into(), "eggs".into(), "".into()][..]));
    assert_eq!((siblings.versions.len(), &siblings.versions.marks[..]), (1, &[0, 0, 1][..]), "deletes are told");
    let (versions, context) = told(&mut solo, &job, Ok(Merged::Value("milk, eggs".into())));
    let [merged] = &versions[..] else { panic!("{versions:?}") };
    assert_eq!(merged.value, Some("milk, eggs".into()));
    assert!(merged.is_intact() && (merged.written, merged.expires_ms) == (Hlc(9), 1 << 50));
    assert_eq!(context, [milk(), eggs(), deleted()].map(|version| version.dot).into_iter().collect());
    assert!(solo.is_idle());
}

#[test]
fn some_of_the_siblings_may_be_all_that_is_shown() {
    let mut solo = solo();
    let (ours, theirs) = (record([milk(), deleted()]), record([eggs()]));
    for (kept, shown) in [(vec![1], vec![eggs()]), (vec![0, 1], vec![milk(), eggs()]), (vec![2], vec![])] {
        let out = read(&mut solo, get(), &ours, &theirs);
        let (versions, context) = told(&mut solo, &asked(&out), Ok(Merged::Kept(kept)));
        assert_eq!(versions, shown);
        assert_eq!(context.spans().len(), 3, "a write with it replaces what was hidden as well");
    }
}

#[test]
fn nobody_is_asked_where_there_is_nothing_to_merge() {
    let mut solo = solo();
    let quick = |solo: &mut Solo, ours: &[Version], theirs: &[Version]| {
        found(&read(solo, get(), &record(ours.to_vec()), &record(theirs.to_vec()))).0
    };
    assert_eq!(quick(&mut solo, &[milk()], &[milk()]), [milk()]);
    assert_eq!(quick(&mut solo, &[deleted()], &[]), []);
    assert_eq!(quick(&mut solo, &[deleted()], &[version(1, 9, Hlc(3), None)]), [], "deletes alone");
    let expired = Version { expires_ms: 1, ..eggs() };
    assert_eq!(quick(&mut solo, &[milk()], &[expired]), [milk()]);
    let mut state = formed(3, (3, 2, 2));
    state.keyspaces.get_mut(&UNIONS).unwrap().quarantined = true;
    solo.learn(&state);
    assert_eq!(
        quick(&mut solo, &[milk(), deleted()], &[eggs()]),
        [milk(), eggs()],
        "in quarantine, siblings are shown"
    );
}

#[test]
fn a_resolver_that_fails_a_reader_leaves_it_all_siblings() {
    let mut solo = solo();
    let (ours, theirs) = (record([milk(), deleted()]), record([eggs()]));
    let failures = [
        Err(ResolveError::Failed("trap".into())),
        Err(ResolveError::Nonsense("too large".into())),
        Ok(Merged::Kept(Vec::new())),
        Ok(Merged::Kept(vec![3])),
    ];
    for failure in failures {
        let out = read(&mut solo, get(), &ours, &theirs);
        let (versions, context) = told(&mut solo, &asked(&out), failure.clone());
        let shown: Vec<Version> = versions.into_iter().filter(|version| !version.is_tombstone()).collect();
        assert_eq!(shown, [milk(), eggs()], "{failure:?}");
        assert_eq!(context.spans().len(), 3);
    }
    let out = read(&mut solo, Request { deadline_ms: Some(100), ..get() }, &ours, &theirs);
    let late = asked(&out);
    assert_eq!(found(&solo.after(200)).0, [milk(), eggs()], "it thinks too long");
    assert_eq!(solo.feed(Input::Told { job: late.job, told: Told::Merge(Ok(Merged::Kept(vec![0]))) }), []);
}

#[test]
fn a_full_queue_turns_the_question_away_and_not_the_reader() {
    let limits = Limits { disk_jobs_max: 1, ..Limits::default() };
    let mut solo = Solo::bounded(1, &formed(3, (3, 2, 2)), limits);
    let (ours, theirs) = (record([milk()]), record([eggs()]));
    let first = read(&mut solo, get(), &ours, &theirs);
    let job = asked(&first);
    // The next one's own read finds the queue full; two other owners answer it.
    let out = solo.ask(get());
    let mut last = Vec::new();
    for (to, message) in sends(&out) {
        let Message::Read { tag, .. } = message else { panic!("{message:?}") };
        last = solo.found(to, tag, ReadOutcome::Record(if to == NodeId(2) { ours.clone() } else { theirs.clone() }));
        for (to, message) in sends(&last) {
            let Message::Read { tag, .. } = message else { continue };
            last = solo.found(to, tag, ReadOutcome::Record(theirs.clone()));
        }
    }
    assert_eq!(found(&last).0, [milk(), eggs()]);
    assert_eq!(told(&mut solo, &job, Ok(Merged::Value("both".into()))).0.len(), 1);
}
