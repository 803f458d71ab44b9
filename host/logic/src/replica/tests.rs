mod causal;
mod shadows;
mod typed;

use super::*;
use crate::digest::{Age, Range};
use crate::id::Epoch;
use crate::testing::{ALONE, Disk, FIRST, Rules, formed, job, key, version};
use crate::time::Hlc;
use crate::version::Version;
use proptest::prelude::*;

/// Absorbs the jobs as one group.
fn absorbed(disk: &Disk, rules: Rules, jobs: &[WriteJob]) -> (Vec<WriteOutcome>, Figures) {
    absorb(disk.ports(&rules), jobs)
}

fn put(name: &str, node: u64, written: u64) -> WriteJob {
    job(&key(name), version(node, written, Hlc(written), Some(&format!("{node} at {written}"))))
}

/// A write that repair or a hint brings.
fn old(job: WriteJob) -> WriteJob {
    WriteJob { fresh: false, ..job }
}

fn settled(disk: &Disk, name: &str) -> Vec<Version> {
    disk.record(&key(name)).into_versions()
}

proptest! {
    /// Whatever the order, the grouping and the repetitions, owners end with the same record.
    #[test]
    fn the_record_does_not_depend_on_order_grouping_or_repetition(
        writes in prop::collection::vec((1u64..4, 1u64..6), 1..8),
        shuffle in prop::collection::vec((any::<prop::sample::Index>(), 1usize..4), 1..12),
    ) {
        let jobs: Vec<_> = writes.iter().map(|(node, written)| old(put("k", *node, *written))).collect();
        let (one, other) = (Disk::default(), Disk::default());
        absorbed(&one, Rules::Work, &jobs);
        for (at, count) in shuffle {
            let from = at.index(jobs.len());
            absorbed(&other, Rules::Work, &jobs[from..jobs.len().min(from + count)]);
        }
        for job in jobs.iter().rev() {
            absorbed(&other, Rules::Work, std::slice::from_ref(job));
        }
        prop_assert_eq!(settled(&one, "k"), settled(&other, "k"));
    }
}

#[test]
fn a_group_is_one_commit_and_one_call_and_settles_each_key() {
    let disk = Disk::default();
    let jobs = [put("a", 1, 10), put("b", 1, 10), put("a", 2, 11), put("b", 2, 12)];
    let (outcomes, figures) = absorbed(&disk, Rules::Work, &jobs);
    assert_eq!(outcomes, vec![WriteOutcome::Held; 4]);
    assert_eq!(figures, Figures { conflicts: 2, unsettled: 0, written: 2 });
    let stats = disk.stats();
    assert_eq!((stats.batches, stats.fsyncs), (1, 1));
    assert_eq!(settled(&disk, "a"), [jobs[2].version.clone()]);
    assert_eq!(settled(&disk, "b"), [jobs[3].version.clone()]);
}

#[test]
fn a_fresh_write_below_what_is_there_is_told_the_stamp_and_writes_nothing() {
    let disk = Disk::default();
    absorbed(&disk, Rules::Work, &[put("k", 1, 10)]);
    for written in [9, 10] {
        let (outcomes, figures) = absorbed(&disk, Rules::Work, &[put("k", 2, written)]);
        assert_eq!(outcomes, [WriteOutcome::StaleStamp { latest: Hlc(10) }]);
        assert_eq!(figures.written, 0);
    }
    // Within a group as well: the second is below the first.
    let (outcomes, _) = absorbed(&disk, Rules::Work, &[put("k", 2, 20), put("k", 1, 15)]);
    assert_eq!(outcomes, [WriteOutcome::Held, WriteOutcome::StaleStamp { latest: Hlc(20) }]);
    assert_eq!(settled(&disk, "k").len(), 1);
}

#[test]
fn an_older_write_that_is_not_fresh_is_held_by_what_superseded_it() {
    let disk = Disk::default();
    absorbed(&disk, Rules::Work, &[put("k", 1, 10)]);
    let (outcomes, figures) = absorbed(&disk, Rules::Work, &[old(put("k", 2, 5))]);
    assert_eq!((outcomes, figures.written), (vec![WriteOutcome::Held], 0));
    assert_eq!(settled(&disk, "k")[0].written, Hlc(10));
}

#[test]
fn a_repeated_write_is_held_and_changes_nothing() {
    let disk = Disk::default();
    let once = put("k", 1, 10);
    let (outcomes, figures) = absorbed(&disk, Rules::Work, &[once.clone(), once.clone()]);
    assert_eq!((outcomes, figures.written), (vec![WriteOutcome::Held; 2], 1));
    let (outcomes, figures) = absorbed(&disk, Rules::Work, &[once]);
    assert_eq!((outcomes, figures), (vec![WriteOutcome::Held], Figures::default()));
}

#[test]
fn an_ack_of_what_is_there_already_is_as_durable_as_asked() {
    let disk = Disk::default();
    let weak = |job| WriteJob { durability: Durability::Os, ..job };
    absorbed(&disk, Rules::Work, &[weak(put("k", 1, 10))]);
    assert_eq!(disk.synced_record(&key("k")), Record::default());
    // The same write again, and one that it superseded, both with `sync`: neither needs a write, both an fsync.
    for job in [put("k", 1, 10), old(put("k", 2, 5))] {
        let disk = Disk::default();
        absorbed(&disk, Rules::Work, &[weak(put("k", 1, 10))]);
        let (outcomes, _) = absorbed(&disk, Rules::Work, &[job]);
        assert_eq!(outcomes, [WriteOutcome::Held]);
        disk.lose_power();
        assert_eq!(settled(&disk, "k")[0].written, Hlc(10));
    }
    // With `os` it needs neither.
    absorbed(&disk, Rules::Work, &[weak(put("k", 1, 10))]);
    assert_eq!((disk.stats().batches, disk.stats().fsyncs), (1, 0));
}

#[test]
fn one_job_that_asks_for_sync_syncs_the_group() {
    let disk = Disk::default();
    let weak = WriteJob { durability: Durability::Os, ..put("a", 1, 10) };
    absorbed(&disk, Rules::Work, &[weak, put("b", 1, 10)]);
    assert_eq!(disk.stats().fsyncs, 1);
    disk.lose_power();
    assert_eq!((settled(&disk, "a").len(), settled(&disk, "b").len()), (1, 1));
}

#[test]
fn a_full_disk_refuses_the_whole_group_and_writes_nothing() {
    let disk = Disk::default();
    absorbed(&disk, Rules::Work, &[put("a", 1, 10)]);
    disk.fail(Some(StoreError::Full("no room".into())));
    let (outcomes, _) = absorbed(&disk, Rules::Work, &[put("a", 2, 11), put("b", 1, 10), put("a", 2, 9)]);
    let full = WriteOutcome::Refused(Refused::DiskFull);
    assert_eq!(outcomes, [full.clone(), full, WriteOutcome::StaleStamp { latest: Hlc(11) }]);
    assert_eq!((settled(&disk, "a")[0].written, settled(&disk, "b").len()), (Hlc(10), 0));
    disk.fail(None);
    assert_eq!(absorbed(&disk, Rules::Work, &[put("b", 1, 10)]).0, [WriteOutcome::Held]);
}

#[test]
fn damage_is_refused_on_the_way_in_and_on_the_disk() {
    let disk = Disk::default();
    let mut damaged = put("k", 1, 10);
    damaged.version.digest ^= 1;
    let (outcomes, _) = absorbed(&disk, Rules::Work, &[damaged, put("k", 1, 11)]);
    assert_eq!(outcomes, [WriteOutcome::Refused(Refused::Damaged), WriteOutcome::Held]);
    disk.damage(&key("k"));
    disk.restart();
    let (outcomes, figures) = absorbed(&disk, Rules::Work, &[put("k", 1, 12), put("other", 1, 1)]);
    assert_eq!(outcomes, [WriteOutcome::Refused(Refused::DamagedRecord), WriteOutcome::Held]);
    assert_eq!(figures.written, 1, "a damaged record is not replaced by what one write knows");
}

#[test]
fn what_nobody_else_holds_is_replaced_by_what_a_client_writes() {
    let disk = Disk::default();
    let alone = |mut job: WriteJob| {
        job.key.keyspace = ALONE;
        job
    };
    let (first, second) = (alone(put("k", 1, 10)), alone(put("k", 1, 12)));
    absorbed(&disk, Rules::Work, std::slice::from_ref(&first));
    disk.damage(&first.key);
    disk.restart();
    let damaged = [WriteOutcome::Refused(Refused::DamagedRecord)];
    assert_eq!(absorbed(&disk, Rules::Work, &[old(second.clone())]).0, damaged);
    assert_eq!(absorbed(&disk, Rules::Work, std::slice::from_ref(&second)).0, [WriteOutcome::Held]);
    assert_eq!(disk.record(&first.key).versions(), [second.version]);
}

#[test]
fn a_namesake_is_replaced_only_where_the_record_is_known_to_be_wrong() {
    let disk = Disk::default();
    let right = put("k", 1, 10);
    let wrong = job(&key("k"), Version { dot: right.version.dot, ..put("k", 1, 11).version });
    absorbed(&disk, Rules::Work, std::slice::from_ref(&wrong));
    absorbed(&disk, Rules::Work, &[old(right.clone())]);
    assert_eq!(settled(&disk, "k"), [wrong.version]);
    absorbed(&disk, Rules::Work, &[WriteJob { replaces: true, ..old(right.clone()) }]);
    assert_eq!(settled(&disk, "k"), [right.version]);
    let stored = disk.digests(|digests| digests.partitions().next());
    let range = |age| Range {
        partition: stored.unwrap().0,
        copies_min: 1,
        epoch: Epoch(1),
        age,
        purged: Epoch(0),
        closed: Epoch(0),
    };
    let sums = |age| disk.digests(|digests| digests.sums(range(age)));
    assert_eq!(Age::ALL.map(sums), Age::ALL.map(|age| disk.recomputed().sums(range(age))));
}

#[test]
fn a_failing_resolver_keeps_every_version_until_a_working_one_settles_them() {
    for broken in [Rules::Fail, Rules::Nonsense, Rules::Short] {
        let disk = Disk::default();
        absorbed(&disk, broken, &[put("k", 1, 10)]);
        let (outcomes, figures) = absorbed(&disk, broken, &[put("k", 2, 11)]);
        assert_eq!(outcomes, [WriteOutcome::Held]);
        assert_eq!((figures.conflicts, figures.unsettled), (1, 1));
        assert_eq!(settled(&disk, "k").len(), 2);
        absorbed(&disk, Rules::Work, &[put("k", 1, 12)]);
        assert_eq!(settled(&disk, "k"), [put("k", 1, 12).version]);
    }
}

#[test]
fn unsettled_siblings_are_bounded() {
    let disk = Disk::default();
    for i in 1..=SIBLINGS_MAX as u64 {
        assert_eq!(absorbed(&disk, Rules::Fail, &[put("k", 1, i)]).0, [WriteOutcome::Held]);
    }
    let next = put("k", 1, 1_000);
    let (outcomes, _) = absorbed(&disk, Rules::Fail, &[next.clone(), put("other", 1, 1)]);
    assert_eq!(outcomes, [WriteOutcome::Refused(Refused::TooManySiblings), WriteOutcome::Held]);
    assert_eq!(settled(&disk, "k").len(), SIBLINGS_MAX, "and none of those was lost");
    assert_eq!(absorbed(&disk, Rules::Work, &[next]).0, [WriteOutcome::Held]);
    assert_eq!(settled(&disk, "k").len(), 1);
}

/// Two owners may hold more siblings together than each of them: they must be able to become equal.
#[test]
fn siblings_of_other_owners_are_taken_beyond_the_bound() {
    let disk = Disk::default();
    let theirs: Vec<WriteJob> = (1..=SIBLINGS_MAX as u64 + 9).map(|i| old(put("k", 1, i))).collect();
    let (outcomes, _) = absorbed(&disk, Rules::Fail, &theirs);
    assert!(outcomes.iter().all(|outcome| *outcome == WriteOutcome::Held), "{outcomes:?}");
    assert_eq!(settled(&disk, "k").len(), theirs.len());
    let (outcomes, _) = absorbed(&disk, Rules::Fail, &[put("k", 1, 1_000)]);
    assert_eq!(outcomes, [WriteOutcome::Refused(Refused::TooManySiblings)]);
}

#[test]
fn each_keyspace_is_settled_by_its_own_code() {
    let disk = Disk::default();
    let code = formed(1, (1, 1, 1)).keyspaces[&FIRST].resolver_hash;
    let first = |mut job: WriteJob| {
        job.key.keyspace = FIRST;
        WriteJob { policy: Policy { resolver: code, causal: false, role: Role::Resolver }, ..job }
    };
    let jobs = [first(put("k", 1, 10)), put("k", 1, 10), first(put("k", 2, 11)), put("k", 2, 11)];
    let (outcomes, _) = absorbed(&disk, Rules::Work, &jobs);
    assert_eq!(outcomes, vec![WriteOutcome::Held; 4]);
    assert_eq!(disk.record(&jobs[0].key).versions()[0].written, Hlc(10));
    assert_eq!(settled(&disk, "k")[0].written, Hlc(11));
}

#[test]
fn a_fresh_write_is_told_the_stamp_although_a_late_copy_of_it_came_first() {
    let disk = Disk::default();
    absorbed(&disk, Rules::Work, &[put("k", 1, 20)]);
    let late = put("k", 2, 10);
    let (outcomes, _) = absorbed(&disk, Rules::Work, &[old(late.clone()), late]);
    assert_eq!(outcomes, [WriteOutcome::Held, WriteOutcome::StaleStamp { latest: Hlc(20) }]);
}

#[test]
fn at_equal_clocks_a_delete_wins() {
    let disk = Disk::default();
    let delete = job(&key("k"), version(1, 1, Hlc(10), None));
    absorbed(&disk, Rules::Work, &[old(put("k", 2, 10)), old(delete)]);
    assert!(settled(&disk, "k")[0].is_tombstone());
}
