//! Conflicts that a candidate shall be asked about too.

use super::*;
use crate::cluster::Shadow;
use crate::shadow::{Book, Findings};
use crate::testing::{FIRST_CODE, LWW, LWW_CODE};

/// First-write-wins beside last-write-wins.
fn shadows() -> Shadows {
    [(LWW, Shadow { active: LWW_CODE, candidate: FIRST_CODE, runs: true })].into()
}

fn gathered(disk: &Disk, rules: Rules, shadows: &Shadows, jobs: &[WriteJob]) -> Vec<Trial> {
    absorb_shadowed(disk.ports(&rules), jobs, shadows).2
}

fn run(trials: &[Trial], rules: Rules) -> Findings {
    let [trial] = trials else { panic!("{trials:?}") };
    trial.run(&rules)
}

proptest! {
    /// What shadows a keyspace, and what becomes of its answers, changes nothing.
    #[test]
    fn a_candidate_changes_nothing(
        writes in prop::collection::vec((0u8..3, 1u64..4, 1u64..9, any::<bool>()), 1..12),
        size in 1usize..5,
        how in 0usize..5,
        breaks in any::<bool>(),
    ) {
        let rules = [Rules::Work, Rules::Fail, Rules::Nonsense, Rules::Short, Rules::Lack][how];
        let (one, other) = (Disk::default(), Disk::default());
        let mut book = Book::default();
        book.turn(&shadows());
        let jobs: Vec<WriteJob> = writes.iter().map(|(name, node, written, fresh)| {
            WriteJob { fresh: *fresh, ..put(&format!("k{name}"), *node, *written) }
        }).collect();
        for (i, group) in jobs.chunks(size).enumerate() {
            let error = (breaks && i == 1).then(|| StoreError::Io("it was told to".into()));
            one.fail(error.clone());
            other.fail(error.clone());
            let alone = absorb(one.ports(&Rules::Work), group);
            let (outcomes, figures, trials) = absorb_shadowed(other.ports(&Rules::Work), group, &shadows());
            prop_assert_eq!(alone, (outcomes, figures));
            prop_assert!(trials.is_empty() || error.is_none(), "what was not committed was settled by nobody");
            for trial in trials {
                let findings = trial.run(&rules);
                prop_assert_eq!(findings.failure.is_some(), how > 0);
                book.note(&trial, findings, 1);
            }
        }
        for name in ["k0", "k1", "k2"] {
            prop_assert_eq!(settled(&one, name), settled(&other, name));
        }
        let page = book.of(LWW).unwrap();
        if how > 0 {
            prop_assert_eq!((page.figures.differs, page.figures.failures), (0, page.figures.conflicts));
        }
    }
}

#[test]
fn each_conflict_is_told_with_its_key_its_versions_and_its_winners() {
    let disk = Disk::default();
    let jobs = [put("a", 1, 10), put("b", 1, 10), put("a", 2, 11), put("lonely", 1, 10)];
    let findings = run(&gathered(&disk, Rules::Work, &shadows(), &jobs), Rules::Work);
    assert_eq!((findings.conflicts, findings.differs, &findings.failure), (1, 1, &None));
    let sample = &findings.samples[0];
    assert_eq!((&sample.key, sample.versions_all), (&key("a"), 2));
    let told: Vec<_> = sample.versions.iter().map(|v| (v.dot, v.written, v.active, v.candidate)).collect();
    assert_eq!(told, [(jobs[0].version.dot, 10, false, true), (jobs[2].version.dot, 11, true, false)]);
    assert_eq!(sample.versions[0].size as usize, "1 at 10".len());
    // What lies in the store already is told as well.
    let findings = run(&gathered(&disk, Rules::Work, &shadows(), &[put("b", 3, 12)]), Rules::Work);
    assert_eq!(findings.samples[0].versions.len(), 2);
}

#[test]
fn only_what_was_settled_for_a_shadow_that_runs_is_told() {
    let conflict = [put("a", 1, 10), put("a", 2, 11)];
    let with = |change: fn(&mut Shadow)| {
        let mut all = shadows();
        all.values_mut().for_each(change);
        gathered(&Disk::default(), Rules::Work, &all, &conflict)
    };
    assert_eq!(with(|_| {}).len(), 1);
    assert_eq!(with(|shadow| shadow.runs = false), []);
    assert_eq!(with(|shadow| shadow.active = FIRST_CODE), [], "it was settled by what went before");
    for rules in [Rules::Fail, Rules::Nonsense, Rules::Short, Rules::Lack] {
        assert_eq!(gathered(&Disk::default(), rules, &shadows(), &conflict), [], "{rules:?} settles nothing");
    }
    let disk = Disk::default();
    disk.fail(Some(StoreError::Full("it was told to".into())));
    assert_eq!(gathered(&disk, Rules::Work, &shadows(), &conflict), [], "nothing was committed");
}
