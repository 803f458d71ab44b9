//! Data types that users install: from an empty folder to operations on a running cluster, to another version and back,
//! into quarantine and out of it.

use crate::plugins::{build_as, folder};
use crate::plugins_life::{ask, done, install, refusal, shown};
use mks_tests_cluster::{Cluster, Output, mks, skipped};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Components as an author would have built them, all of one name.
struct Built {
    words: PathBuf,
    /// Version 0.2.0: another answer to the same question.
    listed: PathBuf,
    /// Version 0.3.0: traps at one operation.
    fragile: PathBuf,
    /// Version 0.4.0: its join forgets.
    lawless: PathBuf,
}

/// Built once for all tests; `Err` when this machine lacks what that needs.
fn built() -> Result<&'static Built, String> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    BUILT.get_or_init(all).as_ref().map_err(Clone::clone)
}

fn all() -> Result<Built, String> {
    let (folder, keep) = folder("words", "target");
    let place = folder.to_string_lossy();
    let made = mks(&["plugin", "new", "words", "--world", "datatype", "--directory", &place]);
    assert_eq!(made.status, 0, "{made:?}");
    keep();
    let source = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    let make = |version: &str, from: &str, to: &str| {
        assert!(source.contains(from), "{from}");
        build_as(&folder, &format!("{version}.wasm"), ("words", version), &source.replace(from, to))
    };
    let add = "(\"add\", word) if !word.is_empty() =>";
    Ok(Built {
        words: make("0.1.0", add, add)?,
        listed: make("0.2.0", ".join(\" \")", ".join(\", \")")?,
        fragile: make("0.3.0", add, &format!("(\"add\", \"boom\") => panic!(\"boom\"),\n            {add}"))?,
        lawless: make(
            "0.4.0",
            "self.0.extend(other.0);",
            "if self.0.is_empty() {\n            self.0 = other.0;\n        }",
        )?,
    })
}

fn apply(cluster: &Cluster, id: u64, operation: &str) -> Output {
    let words: Vec<&str> = operation.split(' ').collect();
    ask(cluster, id, &[&["apply", "k"], &words[..], &["--keyspace", "notes"]].concat())
}

fn view(cluster: &Cluster, id: u64) -> Output {
    ask(cluster, id, &["view", "k", "--keyspace", "notes"])
}

/// What all nodes answer.
fn viewed(cluster: &Cluster, answer: &str) {
    for id in 1..=3 {
        assert_eq!(done(&view(cluster, id))["answer"], answer, "through node {id}");
    }
}

/// Waits until all nodes know what type a keyspace has.
async fn typed_by(cluster: &Cluster, data_type: &str) {
    for id in 1..=3 {
        let knows = async |cluster: &Cluster| {
            let all = done(&ask(cluster, id, &["keyspace", "list"]));
            all.as_array().unwrap().iter().any(|known| known["name"] == "notes" && known["data_type"] == data_type)
        };
        cluster.eventually(&format!("node {id} has the type {data_type}"), knows).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_data_type_is_installed_takes_operations_is_upgraded_rolled_back_and_removed() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_users_data_type_is_installed_takes_operations", &reason),
    };
    let mut cluster = Cluster::of(3);
    let (reason, said) = refusal(&install(&cluster, 1, &built.lawless));
    assert_eq!(reason, "LAWLESS", "{said}");
    let installed = done(&install(&cluster, 2, &built.words));
    assert!(installed["armed"].is_u64() && installed["role"] == "data type", "{installed}");
    let wrong = refusal(&ask(&cluster, 1, &["keyspace", "create", "notes", "--resolver", "words"]));
    assert_eq!(wrong.0, "UNKNOWN_RESOLVER", "{wrong:?}");
    done(&ask(&cluster, 1, &["keyspace", "create", "notes", "--datatype", "words"]));
    typed_by(&cluster, "words@0.1.0").await;
    std::thread::scope(|scope| {
        for (id, word) in [(1, "milk"), (2, "bread"), (3, "tea")] {
            let cluster = &cluster;
            scope.spawn(move || done(&apply(cluster, id, &format!("add {word}"))));
        }
    });
    viewed(&cluster, "bread milk tea");
    let here = shown(&cluster, 1, "words@0.1.0").unwrap();
    assert!(here["here"]["calls"].as_u64().unwrap() > 0 && here["keyspaces"][0] == "notes", "{here}");

    done(&install(&cluster, 1, &built.listed));
    for (data_type, answer) in [("words@0.2.0", "bread, milk, tea"), ("words@0.1.0", "bread milk tea")] {
        done(&ask(&cluster, 3, &["keyspace", "alter", "notes", "--datatype", data_type]));
        typed_by(&cluster, data_type).await;
        viewed(&cluster, answer);
    }
    let other = refusal(&ask(&cluster, 1, &["keyspace", "alter", "notes", "--datatype", "or-set"]));
    assert_eq!(other.0, "INVALID", "{other:?}");
    assert_eq!(refusal(&ask(&cluster, 3, &["plugin", "remove", "words@0.1.0"])).0, "PLUGIN_USED");
    done(&ask(&cluster, 3, &["plugin", "remove", "words@0.2.0"]));

    // A node that lost its plugins gets them from the others, and serves again.
    cluster.node_mut(3).kill();
    std::fs::remove_dir_all(cluster.node(3).data_dir().join("plugins")).unwrap();
    cluster.node_mut(3).start();
    cluster.wait_ready();
    let back = async |cluster: &Cluster| {
        let left = cluster.node(3).data_dir().join("plugins/components").read_dir().map_or(0, Iterator::count);
        left == 1 && shown(cluster, 3, "words@0.1.0").is_some_and(|shown| shown["here"]["ready"] == true)
    };
    cluster.eventually("node 3 has what is left of them", back).await;
    done(&apply(&cluster, 3, "add late"));
    viewed(&cluster, "bread late milk tea");
    let compared = done(&ask(&cluster, 1, &["repair"]));
    assert_eq!(compared["plugin_drift"], 0, "{compared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_type_that_keeps_trapping_is_quarantined_and_its_states_stay_for_the_version_before_it() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_data_type_that_keeps_trapping_is_quarantined", &reason),
    };
    let cluster = Cluster::of(3);
    for component in [&built.words, &built.fragile] {
        done(&install(&cluster, 1, component));
    }
    done(&ask(&cluster, 1, &["keyspace", "create", "notes", "--datatype", "words@0.3.0"]));
    typed_by(&cluster, "words@0.3.0").await;
    for (id, word) in [(1, "milk"), (2, "tea")] {
        done(&apply(&cluster, id, &format!("add {word}")));
    }
    for _ in 0..5 {
        let failed = refusal(&apply(&cluster, 1, "add boom"));
        assert_eq!(failed.0, "DATA_TYPE_FAILED", "{failed:?}");
    }
    for id in 1..=3 {
        let quarantined = async |cluster: &Cluster| {
            let output = view(cluster, id);
            output.status == 1 && refusal(&output).0 == "QUARANTINED"
        };
        cluster.eventually("all nodes ask it nothing any more", quarantined).await;
        let (reason, said) = refusal(&apply(&cluster, id, "add bread"));
        let way_out = "mks plugin alter words@0.3.0 --release";
        assert!(reason == "QUARANTINED" && said.contains(way_out), "{reason}: {said}");
        let warnings = cluster.node(id).client().status().await.unwrap().warnings.join("\n");
        assert!(warnings.contains("take no operations") && warnings.contains("notes"), "{warnings}");
    }
    done(&ask(&cluster, 2, &["keyspace", "alter", "notes", "--datatype", "words@0.1.0"]));
    typed_by(&cluster, "words@0.1.0").await;
    viewed(&cluster, "milk tea");
    done(&apply(&cluster, 1, "add boom"));
    viewed(&cluster, "boom milk tea");

    done(&ask(&cluster, 3, &["plugin", "alter", "words@0.3.0", "--release"]));
    done(&ask(&cluster, 3, &["keyspace", "alter", "notes", "--datatype", "words@0.3.0"]));
    typed_by(&cluster, "words@0.3.0").await;
    let asks = async |cluster: &Cluster| apply(cluster, 1, "add bread").status == 0;
    cluster.eventually("the node where it failed asks it again", asks).await;
    viewed(&cluster, "boom bread milk tea");
}
