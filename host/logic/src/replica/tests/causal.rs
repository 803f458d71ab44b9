//! Tests of causal keyspaces: writes that say what they have seen, and dots that owners mint.

use crate::digest::{Age, Range};
use crate::event::{ScrubOutcome, ScrubWork};
use crate::id::{Epoch, NodeId};
use crate::replica::*;
use crate::testing::{CARTS, Disk, PARTITION_BITS, Rules, formed, job, key, version};
use proptest::prelude::*;

fn cart() -> Key {
    Key { keyspace: CARTS, ..key("cart") }
}

/// The `at`th write, by its coordinator: it has no name yet.
fn named_here(at: u64, value: &str, past: &Context) -> WriteJob {
    let version = version(1, 0, Hlc(at), Some(value));
    WriteJob { mint: Some(at), past: past.clone(), policy: policy(), ..job(&cart(), version) }
}

fn policy() -> Policy {
    formed(1, (1, 1, 1)).keyspaces[&CARTS].policy()
}

/// The same write on its way to another owner, or coming back as a hint.
fn elsewhere(job: &WriteJob, counter: u64, fresh: bool) -> WriteJob {
    let mut job = WriteJob { mint: None, fresh, ..job.clone() };
    job.version.dot.counter = counter;
    job
}

fn absorbed(disk: &Disk, jobs: &[WriteJob]) -> Vec<WriteOutcome> {
    absorb(disk.ports(&Rules::Work), jobs).0
}

/// What a reader sees, and its context.
fn read(disk: &Disk) -> (Vec<String>, Context) {
    let record = disk.record(&cart());
    let text = |v: &Version| v.value.as_ref().map_or("deleted".into(), |v| String::from_utf8_lossy(v).into_owned());
    (record.versions().iter().map(text).collect(), record.context())
}

#[test]
fn writes_that_saw_nothing_are_siblings_and_one_that_saw_them_is_alone() {
    let disk = Disk::default();
    let nothing = Context::default();
    let both = [named_here(10, "milk", &nothing), named_here(11, "eggs", &nothing)];
    assert_eq!(absorbed(&disk, &both), [10, 11].map(|counter| WriteOutcome::Minted { counter }));
    let (seen, context) = read(&disk);
    assert_eq!((seen, context.spans().len()), (vec!["milk".into(), "eggs".into()], 1));
    assert_eq!(absorbed(&disk, &[named_here(12, "bread", &nothing)]), [WriteOutcome::Minted { counter: 12 }]);
    // It has seen milk and eggs, and nothing of the bread.
    assert_eq!(absorbed(&disk, &[named_here(20, "milk, eggs", &context)]), [WriteOutcome::Minted { counter: 13 }]);
    assert_eq!(read(&disk).0, ["bread", "milk, eggs"]);
    disk.restart();
    assert_eq!(read(&disk).0, ["bread", "milk, eggs"]);
}

#[test]
fn what_was_superseded_does_not_come_back_with_a_late_copy() {
    let (here, there) = (Disk::default(), Disk::default());
    let first = named_here(10, "milk", &Context::default());
    absorbed(&here, std::slice::from_ref(&first));
    let second = named_here(20, "eggs", &read(&here).1);
    assert_eq!(absorbed(&here, std::slice::from_ref(&second)), [WriteOutcome::Minted { counter: 11 }]);
    assert_eq!(absorbed(&there, &[elsewhere(&second, 11, true)]), [WriteOutcome::Held]);
    // Late, as a write of this moment and as a hint: it is held by what superseded it, and no stamp is asked for.
    for fresh in [true, false] {
        assert_eq!(absorbed(&there, &[elsewhere(&first, 10, fresh)]), [WriteOutcome::Held]);
        assert_eq!(read(&there), read(&here));
    }
}

#[test]
fn a_delete_that_saw_everything_leaves_nothing_to_see() {
    let disk = Disk::default();
    absorbed(&disk, &[named_here(10, "milk", &Context::default()), named_here(11, "eggs", &Context::default())]);
    let mut delete = named_here(20, "", &read(&disk).1);
    delete.version = version(1, 0, Hlc(20), None);
    absorbed(&disk, &[delete]);
    assert_eq!(read(&disk).0, ["deleted"]);
}

#[test]
fn a_write_stamped_anew_keeps_its_dot_and_what_saw_it_before_has_seen_it() {
    let disk = Disk::default();
    let first = named_here(10, "milk", &Context::default());
    absorbed(&disk, std::slice::from_ref(&first));
    let seen = read(&disk).1;
    let mut again = elsewhere(&first, 10, true);
    again.version.written = Hlc(30);
    assert_eq!(absorbed(&disk, std::slice::from_ref(&again)), [WriteOutcome::Held]);
    assert_eq!(disk.record(&cart()).latest(), Some(Hlc(30)));
    assert_eq!(
        absorbed(&disk, &[elsewhere(&first, 10, false)]),
        [WriteOutcome::Held],
        "the older stamp changes nothing"
    );
    assert_eq!(disk.record(&cart()).latest(), Some(Hlc(30)));
    absorbed(&disk, &[named_here(40, "eggs", &seen)]);
    assert_eq!(absorbed(&disk, &[again]), [WriteOutcome::Held]);
    assert_eq!(read(&disk).0, ["eggs"]);
}

#[test]
fn a_dot_of_a_record_that_was_lost_is_never_minted_again() {
    let (disk, other) = (Disk::default(), Disk::default());
    let writes: Vec<WriteJob> = (10..13).map(|at| named_here(at, "v", &Context::default())).collect();
    absorbed(&disk, &writes);
    absorbed(&other, &[elsewhere(&writes[0], 10, true)]);
    disk.damage(&cart());
    disk.restart();
    let mend = ScrubWork::Mend { key: cart(), record: other.record(&cart()) };
    assert_eq!(crate::scrub::work(disk.ports(&Rules::Work), &mend), ScrubOutcome::Mended);
    // The other owner has heard of one of the three.
    absorbed(&disk, &[elsewhere(&writes[0], 10, false)]);
    assert_eq!(absorbed(&disk, &[named_here(50, "new", &Context::default())]), [WriteOutcome::Minted { counter: 50 }]);
    assert_eq!(
        absorbed(&disk, &[named_here(60, "newer", &Context::default())]),
        [WriteOutcome::Minted { counter: 51 }]
    );
}

#[test]
fn siblings_are_bounded_until_somebody_who_saw_them_writes() {
    let disk = Disk::default();
    for at in 1..=SIBLINGS_MAX as u64 {
        assert!(absorbed(&disk, &[named_here(at, "v", &Context::default())])[0].is_held());
    }
    let refused = WriteOutcome::Refused(Refused::TooManySiblings);
    assert_eq!(absorbed(&disk, &[named_here(100, "one more", &Context::default())]), [refused]);
    let (seen, context) = read(&disk);
    assert_eq!(seen.len(), SIBLINGS_MAX, "none was lost");
    assert!(absorbed(&disk, &[named_here(101, "all of them", &context)])[0].is_held());
    assert_eq!(read(&disk).0, ["all of them"]);
}

#[test]
fn a_context_out_of_the_future_is_refused_and_changes_nothing() {
    let disk = Disk::default();
    absorbed(&disk, &[named_here(10, "milk", &Context::default())]);
    let forged = [Dot { counter: 1 << 60, ..version(1, 0, Hlc(1), None).dot }].into_iter().collect();
    assert_eq!(absorbed(&disk, &[named_here(20, "lost?", &forged)]), [WriteOutcome::Refused(Refused::Damaged)]);
    assert_eq!(read(&disk).0, ["milk"]);
}

#[test]
fn what_a_resolver_drops_in_a_causal_keyspace_is_past() {
    let disk = Disk::default();
    let lww = formed(1, (1, 1, 1)).keyspaces[&crate::testing::LWW].policy();
    let settled =
        |at, value| WriteJob { policy: Policy { causal: true, ..lww }, ..named_here(at, value, &Context::default()) };
    absorbed(&disk, &[settled(10, "milk"), settled(11, "eggs")]);
    assert_eq!(read(&disk).0, ["eggs"]);
    let dropped = Dot { counter: 10, ..version(1, 0, Hlc(1), None).dot };
    assert!(disk.record(&cart()).past().covers(dropped));
}

#[test]
fn owners_keep_what_a_resolver_merges_for_readers_and_do_not_ask_it() {
    let disk = Disk::default();
    let policy = formed(1, (1, 1, 1)).keyspaces[&crate::testing::UNIONS].policy();
    let blind = |at, value| WriteJob { policy, ..named_here(at, value, &Context::default()) };
    let (_, figures) = absorb(disk.ports(&Rules::Fail), &[blind(10, "milk"), blind(11, "eggs")]);
    assert_eq!((read(&disk).0, figures.conflicts, figures.unsettled), (vec!["milk".to_string(), "eggs".into()], 0, 0));
    let merged = merge(&Rules::Fail, policy, [disk.record(&cart())]);
    assert_eq!(merged.versions().len(), 2);
    let more: Vec<WriteJob> = (20..20 + SIBLINGS_MAX as u64).map(|at| blind(at, "more")).collect();
    let outcomes: Vec<WriteOutcome> = more.iter().flat_map(|job| absorbed(&disk, std::slice::from_ref(job))).collect();
    let refused = WriteOutcome::Refused(Refused::TooManySiblings);
    assert!(outcomes.ends_with(&[refused.clone(), refused]), "{outcomes:?}");
}

#[derive(Clone, Debug)]
enum Act {
    /// A client that saw what it read last, or nothing, writes through an owner.
    Write {
        owner: usize,
        saw: Option<usize>,
    },
    Read {
        owner: usize,
    },
    /// One owner tells another what it holds, each version by itself.
    Tell {
        from: usize,
        to: usize,
    },
    Restart {
        owner: usize,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0usize..3, prop::option::of(0usize..3)).prop_map(|(owner, saw)| Act::Write { owner, saw }),
        (0usize..3).prop_map(|owner| Act::Read { owner }),
        (0usize..3, 0usize..3).prop_map(|(from, to)| Act::Tell { from, to }),
        (0usize..3).prop_map(|owner| Act::Restart { owner }),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Three owners, clients that read and write at any of them, and repairs in any order: in the end all owners hold
    /// the same, what nobody saw is there, what somebody saw and wrote over is not, and the sums are the same.
    #[test]
    fn owners_come_to_the_same_record_and_it_is_the_right_one(acts in acts()) {
        let disks = [Disk::default(), Disk::default(), Disk::default()];
        let tell = |from: usize, to: usize| {
            let (versions, past) = disks[from].record(&cart()).into_parts();
            for version in versions {
                let told = WriteJob { past: past.clone(), ..job(&cart(), version) };
                let told = WriteJob { fresh: false, policy: policy(), ..told };
                assert_eq!(absorbed(&disks[to], &[told]), [WriteOutcome::Held]);
            }
        };
        let (mut contexts, mut writes) = (vec![Context::default(); 3], Vec::new());
        for (at, act) in (100u64..).zip(acts) {
            match act {
                Act::Write { owner, saw } => {
                    let past = saw.map(|saw| contexts[saw].clone()).unwrap_or_default();
                    let mut write = named_here(at, &at.to_string(), &past);
                    (write.version.dot.node, write.fresh) = (NodeId(1 + owner as u64), false);
                    let outcomes = absorbed(&disks[owner], &[write]);
                    let WriteOutcome::Minted { counter } = outcomes[0] else { panic!("{outcomes:?}") };
                    let dot = Dot { node: NodeId(1 + owner as u64), counter, ..version(1, 0, Hlc(1), None).dot };
                    writes.push((at, dot, past));
                }
                Act::Read { owner } => contexts[owner] = disks[owner].record(&cart()).context(),
                Act::Tell { from, to } => tell(from, to),
                Act::Restart { owner } => disks[owner].restart(),
            }
        }
        for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
            tell(from, to);
        }
        let lives = |dot: Dot| !writes.iter().any(|(_, _, past)| past.covers(dot));
        let expected: Vec<u64> = writes.iter().filter(|(_, dot, _)| lives(*dot)).map(|(at, ..)| *at).collect();
        let partition = cart().place(PARTITION_BITS).partition;
        let (epoch, purged, closed) = (Epoch(1), Epoch(0), Epoch(0));
        let range = Range { partition, copies_min: 1, epoch, age: Age::Open, purged, closed };
        for disk in &disks {
            let mut there: Vec<u64> = read(disk).0.iter().map(|value| value.parse().unwrap()).collect();
            there.sort_unstable();
            prop_assert_eq!(&there, &expected);
            prop_assert_eq!(disk.record(&cart()), disks[0].record(&cart()));
            prop_assert_eq!(disk.digests(|d| d.sums(range)), disks[0].digests(|d| d.sums(range)));
            prop_assert_eq!(disk.recomputed().sums(range), disks[0].digests(|d| d.sums(range)));
        }
    }
}

#[test]
fn a_past_takes_nothing_away_before_all_that_took_its_place_is_here() {
    let (here, there) = (Disk::default(), Disk::default());
    let old = elsewhere(&named_here(10, "milk", &Context::default()), 10, false);
    absorbed(&there, std::slice::from_ref(&old));
    absorbed(&here, std::slice::from_ref(&old));
    let seen = read(&here).1;
    let one = elsewhere(&named_here(11, "eggs", &seen), 11, false);
    let two = elsewhere(&named_here(12, "bread", &Context::default()), 12, false);
    absorbed(&here, &[one.clone(), two.clone()]);
    // A comparison: each version by itself, and the past with the last of them. The disk refused the first.
    let last = WriteJob { past: seen, beside: vec![one.version.dot], ..two };
    assert_eq!(absorbed(&there, std::slice::from_ref(&last)), [WriteOutcome::Refused(Refused::Busy)]);
    assert_eq!(read(&there).0, ["milk"]);
    let first = WriteJob { past: Context::default(), ..one };
    assert_eq!(absorbed(&there, &[first, last]), [WriteOutcome::Held, WriteOutcome::Held]);
    assert_eq!(read(&there), read(&here));
    assert_eq!(read(&there).0, ["eggs", "bread"]);
}
