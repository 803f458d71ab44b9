use super::*;
use crate::id::{Incarnation, NodeId};
use crate::replica;
use crate::testing::{FIRST_CODE, LWW_CODE, Rules, UNION_CODE, UNIONS, key, version};
use crate::time::Hlc;
use alloc::vec;

fn shadow(active: ResolverHash, candidate: ResolverHash) -> Shadow {
    Shadow { active, candidate, runs: true }
}

/// So many conflicts of so many versions each, settled for the last one.
fn trial(keyspace: u32, conflicts: u64, versions: u64) -> Trial {
    let (mut columns, mut keys, mut verdicts) = (Columns::default(), Vec::new(), Vec::new());
    for i in 0..conflicts {
        for row in 0..versions {
            let dot = Dot { node: NodeId(row), incarnation: Incarnation(1), counter: i };
            columns.row(dot, row, 3, false, row);
        }
        columns.close();
        keys.push(Key { keyspace: KeyspaceId(keyspace), ..key(&format!("k{i}")) });
        verdicts.push(Verdict::Keep(versions as u32 - 1));
    }
    let settled = Settled::AtWrite { keys, conflicts: columns, verdicts };
    Trial { keyspace: KeyspaceId(keyspace), shadow: shadow(LWW_CODE, FIRST_CODE), settled }
}

fn book(keyspaces: u32) -> Book {
    let mut book = Book::default();
    book.turn(&(1..=keyspaces).map(|id| (KeyspaceId(id), shadow(LWW_CODE, FIRST_CODE))).collect());
    book
}

fn names(page: &Page) -> Vec<String> {
    page.samples.iter().map(|sample| String::from_utf8(sample.key.partition_key.to_vec()).unwrap()).collect()
}

#[test]
fn a_candidate_that_agrees_leaves_no_sample_and_one_that_fails_has_differed_from_nobody() {
    let agrees = Trial { shadow: shadow(FIRST_CODE, LWW_CODE), ..trial(1, 3, 2) };
    assert_eq!(agrees.run(&Rules::Work), Findings { conflicts: 3, ..Findings::default() });
    let mut book = book(1);
    for rules in [Rules::Fail, Rules::Nonsense, Rules::Short, Rules::Lack] {
        let findings = trial(1, 3, 2).run(&rules);
        assert_eq!((findings.conflicts, findings.differs, findings.samples.len()), (3, 0, 0), "{rules:?}");
        book.note(&trial(1, 3, 2), findings, 1);
    }
    book.pass_over(&trial(1, 5, 2));
    let page = book.of(KeyspaceId(1)).unwrap();
    assert_eq!(page.figures, Figures { conflicts: 12, differs: 0, failures: 12, dropped: 5 });
    assert!(page.failure.is_some());
}

#[test]
fn the_newest_samples_stay_and_no_keyspace_pushes_out_the_others() {
    let mut book = book(10);
    let run = |book: &mut Book, trial: Trial| book.note(&trial, trial.run(&Rules::Work), 7);
    run(&mut book, trial(1, 1, 2));
    run(&mut book, trial(2, 40, 2));
    let page = book.of(KeyspaceId(2)).unwrap();
    assert_eq!((page.figures.differs, page.samples.len(), page.samples[0].at_ms), (40, SAMPLES_MAX, 7));
    assert_eq!(names(page)[0], "k24");
    for keyspace in 3..=10 {
        run(&mut book, trial(keyspace, 40, 2));
    }
    assert_eq!(book.pages().map(|(_, page)| page.samples.len()).sum::<usize>(), SAMPLES_OF_ALL_MAX);
    assert_eq!(names(book.of(KeyspaceId(1)).unwrap()), ["k0"]);
    assert!(book.pages().all(|(_, page)| names(page).last().is_some_and(|last| last == "k39" || last == "k0")));
}

#[test]
fn of_many_versions_those_are_shown_about_which_the_two_differ() {
    let findings = trial(1, 1, 40).run(&Rules::Work);
    let sample = &findings.samples[0];
    assert_eq!((sample.versions_all, sample.versions.len()), (40, SAMPLE_VERSIONS_MAX));
    assert!(sample.versions.iter().any(|version| version.active));
    assert!(sample.versions.iter().any(|version| version.candidate));
}

#[test]
fn a_page_belongs_to_one_candidate_beside_one_resolver() {
    let mut book = book(2);
    let late = trial(1, 1, 2);
    book.note(&late, late.run(&Rules::Work), 1);
    book.turn(&[(KeyspaceId(1), Shadow { runs: false, ..shadow(LWW_CODE, FIRST_CODE) })].into());
    let page = book.of(KeyspaceId(1)).unwrap();
    assert!(page.figures.differs == 1 && !page.shadow.runs, "a quarantine forgets nothing");
    assert!(book.of(KeyspaceId(2)).is_none());
    book.turn(&[(KeyspaceId(1), shadow(FIRST_CODE, LWW_CODE))].into());
    book.note(&late, late.run(&Rules::Work), 1);
    book.pass_over(&late);
    let page = book.of(KeyspaceId(1)).unwrap();
    assert_eq!(page.figures, Figures::default(), "what was asked before is nothing to the next one");
}

#[test]
fn merges_differ_where_readers_would_see_something_else() {
    let key = Key { keyspace: UNIONS, ..key("cart") };
    let versions = [version(1, 1, Hlc(1), Some("a")), version(2, 1, Hlc(2), None), version(3, 1, Hlc(3), Some("ab"))];
    let siblings = replica::siblings(&key, &versions);
    let shadows: Shadows = [(UNIONS, shadow(LWW_CODE, UNION_CODE))].into();
    let run = |merged: Merged, rules: Rules| {
        Trial::at_read(&shadows, LWW_CODE, &key, &siblings, &merged).unwrap().run(&rules)
    };
    // The candidate says "aab".
    assert_eq!(run(Merged::Value("aab".into()), Rules::Work), Findings { conflicts: 1, ..Findings::default() });
    let findings = run(Merged::Kept(vec![0, 1]), Rules::Work);
    let sample = &findings.samples[0];
    assert_eq!((findings.differs, &sample.key, &sample.active), (1, &key, &None));
    assert_eq!(sample.candidate, Some(SampleValue { bytes: 3, head: "aab".into() }));
    assert_eq!(
        sample.versions.iter().map(|v| (v.active, v.candidate)).collect::<Vec<_>>(),
        [(true, false), (true, false), (false, false)]
    );
    let long = run(Merged::Value(vec![b'x'; 1_000].into()), Rules::Work);
    let value = long.samples[0].active.clone().unwrap();
    assert_eq!((value.bytes, value.head.len()), (1_000, SAMPLE_BYTES_MAX));
    for rules in [Rules::Fail, Rules::Nonsense, Rules::Short, Rules::Lack] {
        let findings = run(Merged::Kept(vec![0]), rules);
        assert!(findings.failure.is_some() && findings.differs == 0, "{rules:?}");
    }
    let other = Trial::at_read(&shadows, FIRST_CODE, &key, &siblings, &Merged::Kept(vec![0]));
    assert_eq!(other, None, "somebody else has merged them");
}

#[test]
fn what_waits_says_how_much_it_holds() {
    assert!(trial(1, 10, 2).bytes() > 10 * 2 * 40);
    assert_eq!(trial(1, 10, 2).conflicts(), 10);
}
