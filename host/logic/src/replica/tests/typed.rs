//! Tests of data types: operations on what is here and what others hold, done once, and never half.

use crate::event::{Apply, Deed};
use crate::id::{Dot, Incarnation, NodeId};
use crate::port::TypeError;
use crate::replica::*;
use crate::testing::{Disk, Rules, TALLIES, formed, job, key, version};

fn tally() -> Key {
    Key { keyspace: TALLIES, ..key("tally") }
}

/// An operation that node 1 coordinates, and what it has read.
fn operate(at: u64, text: &'static str, seen: &Record) -> WriteJob {
    let apply =
        Some(Apply { seen: seen.versions().to_vec(), deed: Deed::Operate(Bytes::from_static(text.as_bytes())) });
    let policy = formed(1, (1, 1, 1)).keyspaces[&TALLIES].policy();
    let past = seen.context();
    WriteJob { mint: Some(at), past, policy, apply, ..job(&tally(), version(1, 0, Hlc(at), None)) }
}

/// What one disk made of an operation, on its way to the next one.
fn passed_on(job: &WriteJob, outcome: &WriteOutcome) -> WriteJob {
    let WriteOutcome::Applied { counter, state, past, .. } = outcome else { panic!("{outcome:?}") };
    let text = std::str::from_utf8(state).unwrap();
    let version = Version { dot: Dot { counter: *counter, ..job.version.dot }, ..version(1, 0, Hlc(1), Some(text)) };
    let version = Version { written: job.version.written, ..version };
    WriteJob { version, past: past.clone(), mint: None, apply: None, ..job.clone() }
}

fn absorbed(disk: &Disk, jobs: &[WriteJob]) -> Vec<WriteOutcome> {
    absorb(disk.ports(&Rules::Work), jobs).0
}

fn lines(disk: &Disk) -> Vec<String> {
    let record = disk.record(&tally());
    let states: Vec<&str> =
        record.versions().iter().map(|v| std::str::from_utf8(v.value.as_ref().unwrap()).unwrap()).collect();
    states.into_iter().map(Into::into).collect()
}

#[test]
fn each_operation_starts_from_the_one_before_it_also_within_one_commit() {
    let disk = Disk::default();
    let nothing = Record::default();
    let outcomes = absorbed(&disk, &[operate(10, "a", &nothing), operate(11, "b", &nothing)]);
    assert!(matches!(
        outcomes[..],
        [WriteOutcome::Applied { counter: 10, .. }, WriteOutcome::Applied { counter: 11, .. }]
    ));
    assert_eq!(lines(&disk), ["1/1/10 a\n1/1/11 b"]);
    disk.restart();
    absorbed(&disk, &[operate(12, "c", &nothing)]);
    assert_eq!(lines(&disk), ["1/1/10 a\n1/1/11 b\n1/1/12 c"], "read from the disk");
}

#[test]
fn what_others_hold_is_joined_and_its_place_taken() {
    let (here, there) = (Disk::default(), Disk::default());
    let first = operate(10, "a", &Record::default());
    let outcome = absorbed(&here, std::slice::from_ref(&first)).remove(0);
    let copy = passed_on(&first, &outcome);
    assert_eq!(absorbed(&there, &[copy]), [WriteOutcome::Held]);
    // Another coordinator, at the same time.
    let state = Some("2/2/7 x");
    let theirs = WriteJob { past: there.record(&tally()).context(), ..operate(12, "", &Record::default()) };
    let theirs =
        WriteJob { mint: None, apply: None, past: Context::default(), version: version(2, 7, Hlc(9), state), ..theirs };
    assert_eq!(absorbed(&there, std::slice::from_ref(&theirs)), [WriteOutcome::Held]);
    assert_eq!(lines(&there).len(), 2, "siblings stay, and no code ran");
    let next = operate(20, "b", &there.record(&tally()));
    let outcome = absorbed(&here, std::slice::from_ref(&next)).remove(0);
    assert_eq!(lines(&here), ["1/1/10 a\n1/1/11 b\n2/2/7 x"]);
    // The owner that had the siblings has one state, and so has one that hears of them later.
    let copy = passed_on(&next, &outcome);
    assert_eq!(absorbed(&there, &[copy, theirs]), [WriteOutcome::Held, WriteOutcome::Held]);
    assert_eq!((lines(&there), there.record(&tally()).digest()), (lines(&here), here.record(&tally()).digest()));
}

#[test]
fn a_type_that_refuses_or_fails_changes_nothing() {
    let disk = Disk::default();
    let nothing = Record::default();
    absorbed(&disk, &[operate(10, "a", &nothing)]);
    let before = disk.record(&tally());
    for (text, refused) in [("refuse", true), ("trap", false)] {
        let outcomes = absorbed(&disk, &[operate(20, text, &nothing)]);
        let is_refusal = matches!(&outcomes[..], [WriteOutcome::NotApplied(TypeError::Refused(_))]);
        let is_failure = matches!(&outcomes[..], [WriteOutcome::NotApplied(TypeError::Failed(_))]);
        assert_eq!((is_refusal, is_failure), (refused, !refused), "{outcomes:?}");
        assert_eq!(disk.record(&tally()), before);
    }
    // A state that is none is kept beside the others, for people to look at.
    let strange = WriteJob {
        mint: None,
        apply: None,
        version: version(2, 1, Hlc(5), Some("no state")),
        ..operate(5, "", &nothing)
    };
    assert_eq!(absorbed(&disk, &[strange]), [WriteOutcome::Held]);
    let outcomes = absorbed(&disk, &[operate(30, "b", &nothing)]);
    assert!(matches!(&outcomes[..], [WriteOutcome::NotApplied(TypeError::Failed(_))]), "{outcomes:?}");
    assert_eq!(lines(&disk).len(), 2);
}

#[test]
fn an_operation_that_was_done_is_written_again_and_not_done_again() {
    let disk = Disk::default();
    let nothing = Record::default();
    absorbed(&disk, &[operate(10, "a", &nothing), operate(11, "b", &nothing)]);
    let again = |at, counter| {
        let dot = Dot { node: NodeId(1), incarnation: Incarnation(1), counter };
        let apply = Some(Apply { seen: Vec::new(), deed: Deed::Again(dot) });
        WriteJob { apply, ..operate(at, "", &nothing) }
    };
    let outcomes = absorbed(&disk, &[again(20, 10)]);
    assert!(matches!(&outcomes[..], [WriteOutcome::Applied { counter: 12, reply: None, .. }]), "{outcomes:?}");
    assert_eq!(lines(&disk), ["1/1/10 a\n1/1/11 b"]);
    // What this disk does not know any more can't be said to be there.
    assert_eq!(absorbed(&disk, &[again(30, 77)]), [WriteOutcome::Refused(Refused::DamagedRecord)]);
}
