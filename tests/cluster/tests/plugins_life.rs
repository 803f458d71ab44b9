//! The life of a plugin on a running cluster: installed through any node, held by all, used, replaced, lost, and put
//! away.

use crate::plugins::{build_as, folder, json};
use mks_tests_cluster::{Cluster, Output, get_request, key, metric_sum, mks, put_request, skipped};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The template's rule: the biggest value stays.
const BIGGEST: &str = "conflict.keep_max_by_key(|version| (version.size, version.written, version.digest))";
const SMALLEST: &str = "conflict.keep_max_by_key(|version| (!version.size, version.written, version.digest))";
/// The same winners with other code.
const OTHER: &str =
    "conflict.keep_max_by_key(|version| (u64::from(version.size) + 1, version.written, version.digest))";
/// No history of the law check has values of this size.
pub(crate) const FRAGILE_BYTES: usize = 31_337;
const LAWLESS: &str = "Verdict::Keep(conflict.len() / 2)";

/// Components as an author would have built them.
pub(crate) struct Built {
    pub(crate) biggest: PathBuf,
    /// Version 0.2.0 of the same name.
    pub(crate) smallest: PathBuf,
    /// Version 0.1.0 of the same name, and other code.
    other: PathBuf,
    /// Traps when a version has [`FRAGILE_BYTES`].
    pub(crate) fragile: PathBuf,
    /// Never ends when a version has [`FRAGILE_BYTES`].
    pub(crate) endless: PathBuf,
    lawless: PathBuf,
    /// No code for keyspaces.
    adapter: PathBuf,
}

/// Built once for all tests; `Err` when this machine lacks what that needs.
pub(crate) fn built() -> Result<&'static Built, String> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    BUILT.get_or_init(all).as_ref().map_err(Clone::clone)
}

fn all() -> Result<Built, String> {
    let (folder, keep) = folder("biggest-life", "target");
    let place = folder.to_string_lossy();
    assert_eq!(mks(&["plugin", "new", "biggest", "--directory", &place]).status, 0);
    keep();
    let resolver = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    assert!(resolver.contains(BIGGEST));
    let make = |file: &str, (name, version): (&str, &str), source: &str| {
        build_as(&folder, file, (name, version), &source.replace("= \"biggest\"", &format!("= {name:?}")))
    };
    let with = |rule: &str| resolver.replace(BIGGEST, rule);
    let fragile = format!("assert!(conflict.iter().all(|version| version.size != {FRAGILE_BYTES})); {BIGGEST}");
    let endless = format!("while conflict.iter().any(|version| version.size == {FRAGILE_BYTES}) {{}} {BIGGEST}");
    let tuned = folder.join("tuned");
    let new = ["plugin", "new", "tuned", "--world", "storage-adapter", "--directory", &tuned.to_string_lossy()];
    let of_tuned = mks(&new);
    assert_eq!(of_tuned.status, 0, "{of_tuned:?}");
    Ok(Built {
        biggest: make("one.wasm", ("biggest", "0.1.0"), &resolver)?,
        smallest: make("two.wasm", ("biggest", "0.2.0"), &with(SMALLEST))?,
        other: make("other.wasm", ("biggest", "0.1.0"), &with(OTHER))?,
        fragile: make("fragile.wasm", ("fragile", "1.0.0"), &with(&fragile))?,
        endless: make("endless.wasm", ("endless", "1.0.0"), &with(&endless))?,
        lawless: make("lawless.wasm", ("lawless", "1.0.0"), &with(LAWLESS))?,
        adapter: make("tuned.wasm", ("tuned", "0.1.0"), &std::fs::read_to_string(tuned.join("src/lib.rs")).unwrap())?,
    })
}

/// What `mks --json` says through one node.
pub(crate) fn ask(cluster: &Cluster, id: u64, arguments: &[&str]) -> Output {
    let address = cluster.node(id).client_address().to_string();
    mks(&[&["--addr", &address, "--json"], arguments].concat())
}

pub(crate) fn done(output: &Output) -> Value {
    assert_eq!(output.status, 0, "{output:?}");
    json(output)
}

pub(crate) fn install(cluster: &Cluster, id: u64, component: &Path) -> Output {
    ask(cluster, id, &["plugin", "install", &component.to_string_lossy()])
}

/// Why an installation was refused.
pub(crate) fn refusal(output: &Output) -> (String, String) {
    assert_eq!(output.status, 1, "{output:?}");
    let error: Value = serde_json::from_str(output.stderr.lines().last().unwrap_or_default()).unwrap();
    let text = |field: &str| error["error"][field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

/// A plugin as a node shows it.
pub(crate) fn shown(cluster: &Cluster, id: u64, plugin: &str) -> Option<Value> {
    let all = done(&ask(cluster, id, &["plugin", "list"]));
    let mut all = all["plugins"].as_array().unwrap().iter();
    all.find(|shown| shown["plugin"] == plugin).cloned()
}

fn fingerprint(cluster: &Cluster, id: u64) -> String {
    done(&ask(cluster, id, &["plugin", "list"]))["fingerprint"].as_str().unwrap().to_owned()
}

/// Waits until all nodes settle a keyspace with a resolver.
pub(crate) async fn settled_by(cluster: &Cluster, keyspace: &str, resolver: &str) {
    for id in 1..=3 {
        let what = format!("node {id} settles {keyspace} with {resolver}");
        let settles = async |cluster: &Cluster| {
            let all = done(&ask(cluster, id, &["keyspace", "list"]));
            all.as_array().unwrap().iter().any(|known| known["name"] == keyspace && known["resolver"] == resolver)
        };
        cluster.eventually(&what, settles).await;
    }
}

/// Writes each value through another node, and reads what is left through all of them.
async fn contest(cluster: &Cluster, (keyspace, name): (&str, &str), values: &[&str], winner: &str) {
    for (id, value) in (1..).zip(values) {
        let put = put_request(key(keyspace, name.to_owned()), (*value).to_owned());
        cluster.node(id).client().put_with(put).await.unwrap();
    }
    for id in 1..=3 {
        let found = cluster.node(id).client().get_in(keyspace, name).await.unwrap();
        assert_eq!(found.as_deref(), Some(winner), "{keyspace} {name} through node {id}");
    }
}

/// How many versions of a key there are.
async fn versions(cluster: &Cluster, id: u64, keyspace: &str, name: &str) -> usize {
    let found = cluster.node(id).client().kv.get(get_request(key(keyspace, name.to_owned()))).await.unwrap();
    1 + found.into_inner().siblings.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_resolver_is_installed_settles_conflicts_is_upgraded_rolled_back_and_removed() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_users_resolver_is_installed_settles_conflicts", &reason),
    };
    let cluster = Cluster::of(3);
    let installed = done(&install(&cluster, 2, &built.biggest));
    assert_eq!((&installed["plugin"], &installed["waits"]), (&"biggest@0.1.0".into(), &Value::Array(vec![])));
    assert!(installed["armed"].as_u64().is_some(), "{installed}");
    let hash = installed["hash"].as_str().unwrap();
    for id in 1..=3 {
        let there = shown(&cluster, id, "biggest@0.1.0").unwrap();
        assert_eq!((there["hash"].as_str(), &there["here"]["ready"]), (Some(hash), &true.into()), "node {id}");
        assert_eq!(fingerprint(&cluster, id), fingerprint(&cluster, 1));
    }
    let again = done(&install(&cluster, 1, &built.biggest));
    assert_eq!(again["armed"], installed["armed"], "the same code again changes nothing");

    done(&ask(&cluster, 1, &["keyspace", "create", "docs", "--resolver", "biggest"]));
    settled_by(&cluster, "docs", "biggest@0.1.0").await;
    contest(&cluster, ("docs", "a"), &["a long value", "short", "also short"], "a long value").await;
    let here = shown(&cluster, 1, "biggest@0.1.0").unwrap();
    assert!(here["here"]["conflicts"].as_u64().unwrap() > 0, "it was asked: {here}");
    assert_eq!((&here["here"]["failures"], &here["keyspaces"][0]), (&0.into(), &"docs".into()));

    assert_eq!(refusal(&ask(&cluster, 3, &["plugin", "remove", "biggest"])).0, "PLUGIN_USED");
    done(&install(&cluster, 3, &built.smallest));
    let unclear = refusal(&ask(&cluster, 1, &["plugin", "remove", "biggest"]));
    assert!(unclear.0 == "UNKNOWN_PLUGIN" && unclear.1.contains("biggest@0.1.0, biggest@0.2.0"), "{unclear:?}");
    done(&ask(&cluster, 1, &["keyspace", "alter", "docs", "--resolver", "biggest@0.2.0"]));
    settled_by(&cluster, "docs", "biggest@0.2.0").await;
    contest(&cluster, ("docs", "b"), &["a long value", "short", "also short"], "short").await;
    done(&ask(&cluster, 2, &["keyspace", "alter", "docs", "--resolver", "biggest@0.1.0"]));
    settled_by(&cluster, "docs", "biggest@0.1.0").await;
    contest(&cluster, ("docs", "c"), &["a long value", "short", "also short"], "a long value").await;

    done(&ask(&cluster, 3, &["plugin", "remove", "biggest@0.2.0"]));
    for id in 1..=3 {
        let gone = async |cluster: &Cluster| {
            let left = cluster.node(id).data_dir().join("plugins/components").read_dir().unwrap().count();
            shown(cluster, id, "biggest@0.2.0").is_none() && left == 1
        };
        cluster.eventually("its code is gone from all disks", gone).await;
    }
    let told = done(&ask(&cluster, 1, &["epoch"])).to_string();
    for what in ["biggest@0.1.0 was installed through n2", "biggest@0.2.0 is armed", "biggest@0.2.0 was removed"] {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_waited_for_and_catches_up_and_of_two_codes_of_one_name_one_is_taken() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_node_that_is_away_is_waited_for_and_catches_up", &reason),
    };
    let mut cluster = Cluster::of(3);
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| install(&cluster, 1, &built.biggest));
        let other = scope.spawn(|| install(&cluster, 2, &built.other));
        (one.join().unwrap(), other.join().unwrap())
    });
    let (taken, refused) = if one.status == 0 { (&one, &other) } else { (&other, &one) };
    assert!(done(taken)["armed"].as_u64().is_some());
    let said = refusal(refused);
    assert!(said.0 == "EXISTS" && said.1.contains("give yours another version"), "{said:?}");

    cluster.node_mut(3).kill();
    let smallest = built.smallest.to_string_lossy();
    let waits = ask(&cluster, 1, &["plugin", "install", &smallest, "--wait", "2s"]);
    assert_eq!(waits.status, 4, "{waits:?}");
    assert!(waits.stderr.contains("node 3 does not have it"), "{waits:?}");
    assert_eq!(json(&waits)["waits"], serde_json::json!([3]));
    let early = refusal(&ask(&cluster, 2, &["keyspace", "create", "docs", "--resolver", "biggest@0.2.0"]));
    assert!(early.0 == "NOT_ARMED" && early.1.contains("n3"), "{early:?}");

    cluster.node_mut(3).start();
    cluster.wait_ready();
    let armed =
        async |cluster: &Cluster| shown(cluster, 3, "biggest@0.2.0").is_some_and(|shown| shown["armed"].is_u64());
    cluster.eventually("the node that was away has it too", armed).await;
    done(&ask(&cluster, 3, &["keyspace", "create", "docs", "--resolver", "biggest@0.2.0"]));
    settled_by(&cluster, "docs", "biggest@0.2.0").await;
    contest(&cluster, ("docs", "a"), &["a long value", "short", "also short"], "short").await;
    assert_eq!(fingerprint(&cluster, 3), fingerprint(&cluster, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_plugin_directory_is_filled_by_the_other_nodes() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_lost_or_damaged_plugin_directory_is_filled_by_the_other_nodes", &reason),
    };
    let mut cluster = Cluster::of(3);
    for component in [&built.biggest, &built.smallest] {
        done(&install(&cluster, 1, component));
    }
    done(&ask(&cluster, 1, &["keyspace", "create", "docs", "--resolver", "biggest@0.1.0"]));
    settled_by(&cluster, "docs", "biggest@0.1.0").await;
    let whole = fingerprint(&cluster, 1);
    let plugins = cluster.node(3).data_dir().join("plugins");
    let files = || -> Vec<PathBuf> {
        let files = plugins.join("components").read_dir().unwrap();
        files.map(|entry| entry.unwrap().path()).collect()
    };
    for (way, name) in ["all of it", "damaged", "under a running node"].into_iter().zip(["a", "b", "c"]) {
        match way {
            "all of it" => {
                cluster.node_mut(3).kill();
                std::fs::remove_dir_all(&plugins).unwrap();
                cluster.node_mut(3).start();
            }
            "damaged" => {
                cluster.node_mut(3).kill();
                let [one, other] = &files()[..] else { panic!("two components") };
                let mut bytes = std::fs::read(one).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(one, &bytes).unwrap();
                std::fs::write(other, &std::fs::read(other).unwrap()[..100]).unwrap();
                cluster.node_mut(3).start();
            }
            _ => std::fs::remove_dir_all(&plugins).unwrap(),
        }
        cluster.wait_ready();
        let back = async |cluster: &Cluster| {
            let ready = |name| shown(cluster, 3, name).is_some_and(|shown| shown["here"]["ready"] == true);
            fingerprint(cluster, 3) == whole && ready("biggest@0.1.0") && ready("biggest@0.2.0")
        };
        cluster.eventually(&format!("node 3 has both again ({way})"), back).await;
        assert!(metric_sum(&cluster.node(3).metrics(), "mks_plugin_fetched_bytes_total", &[]) > 10_000.0, "{way}");
        contest(&cluster, ("docs", name), &["a long value", "short", "also short"], "a long value").await;
        assert!(cluster.node(3).client().status().await.unwrap().warnings.is_empty(), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_no_node_has_any_more_decides_nothing_and_moves_nothing_until_it_is_installed_again() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("code_that_no_node_has_any_more_decides_nothing", &reason),
    };
    let mut cluster = Cluster::of(3);
    done(&install(&cluster, 1, &built.biggest));
    done(&ask(&cluster, 1, &["keyspace", "create", "docs", "--resolver", "biggest@0.1.0"]));
    settled_by(&cluster, "docs", "biggest@0.1.0").await;
    for node in cluster.nodes() {
        node.kill();
        std::fs::remove_dir_all(node.data_dir().join("plugins")).unwrap();
    }
    cluster.nodes().for_each(mks_tests_cluster::Node::start);
    cluster.wait_ready();
    let drifts = async |cluster: &Cluster| {
        let warnings = cluster.node(2).client().status().await.unwrap().warnings.join("\n");
        warnings.contains("PLUGIN_DRIFT") && warnings.contains("biggest@0.1.0") && warnings.contains("docs")
    };
    cluster.eventually("status says what is missing, and for whom", drifts).await;
    for (id, value) in [(1, "a long value"), (2, "short")] {
        let put = put_request(key("docs", "a"), value);
        cluster.node(id).client().put_with(put).await.unwrap();
    }
    assert_eq!(versions(&cluster, 3, "docs", "a").await, 2, "nobody decides without the code");
    let repaired = done(&ask(&cluster, 1, &["repair"]));
    assert_eq!((&repaired["clean"], &repaired["mended"]), (&0.into(), &0.into()), "{repaired}");
    assert!(repaired["plugin_drift"].as_u64().unwrap() > 0, "{repaired}");

    done(&install(&cluster, 3, &built.biggest));
    let works = async |cluster: &Cluster| {
        let ready = |id| shown(cluster, id, "biggest@0.1.0").is_some_and(|shown| shown["here"]["ready"] == true);
        (1..=3).all(ready)
    };
    cluster.eventually("all have it again", works).await;
    contest(&cluster, ("docs", "a"), &["the longest value of all", "tiny", "small"], "the longest value of all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_resolver_that_agrees_with_itself_is_refused_with_the_reason_and_leaves_nothing() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("what_is_no_resolver_that_agrees_with_itself_is_refused", &reason),
    };
    let cluster = Cluster::of(3);
    let whole = std::fs::read(&built.biggest).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = cluster.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let refused = [
        (file("empty.wasm", b""), "INVALID", "no bytes"),
        (file("text.wasm", b"a text"), "BAD_PLUGIN", "no valid WebAssembly component"),
        (file("half.wasm", &whole[..whole.len() / 2]), "BAD_PLUGIN", "no valid WebAssembly component"),
        (file("large.wasm", &vec![0; 5 << 20]), "TOO_LARGE", "4194304 are allowed"),
        (built.adapter.clone(), "BAD_PLUGIN", "tuned is a storage adapter"),
        (built.lawless.clone(), "LAWLESS", "breaks a law"),
    ];
    for (component, reason, said) in refused {
        let refused = refusal(&install(&cluster, 1, &component));
        assert!(refused.0 == reason && refused.1.contains(said), "{}: {refused:?}", component.display());
    }
    let huge = file("huge.wasm", b"");
    std::fs::File::options().write(true).open(&huge).unwrap().set_len(200 << 20).unwrap();
    let not_sent = install(&cluster, 1, &huge);
    assert!(not_sent.status == 2 && not_sent.stderr.contains("200.0 MiB"), "{not_sent:?}");

    done(&install(&cluster, 1, &built.biggest));
    for eighth in 0..8 {
        let mut bytes = whole.clone();
        let at = eighth * whole.len() / 8 + 3;
        bytes[at] ^= 0x10;
        let (reason, message) = refusal(&install(&cluster, 2, &file("flipped.wasm", &bytes)));
        // What still loads calls itself what the whole one does.
        assert!(["BAD_PLUGIN", "LAWLESS", "EXISTS"].contains(&&*reason), "byte {at}: {reason} {message}");
    }
    for id in 1..=3 {
        let known = done(&ask(&cluster, id, &["plugin", "list"]));
        assert_eq!(known["plugins"].as_array().map(Vec::len), Some(1), "{known}");
        let files = cluster.node(id).data_dir().join("plugins/components").read_dir().unwrap().count();
        assert_eq!(files, 1, "node {id} keeps nothing of what was refused");
        cluster.node(id).client().put("alive", "yes").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_keeps_trapping_is_quarantined_everywhere_by_one_entry_and_nothing_is_lost() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_resolver_that_keeps_trapping_is_quarantined_everywhere", &reason),
    };
    let cluster = Cluster::of(3);
    done(&install(&cluster, 1, &built.fragile));
    done(&install(&cluster, 1, &built.biggest));
    done(&ask(&cluster, 1, &["keyspace", "create", "docs", "--resolver", "fragile"]));
    settled_by(&cluster, "docs", "fragile@1.0.0").await;
    contest(&cluster, ("docs", "before"), &["a long value", "short", "also short"], "a long value").await;
    let trap = "x".repeat(FRAGILE_BYTES);
    for number in 0..5 {
        let name = format!("key {number}");
        for value in ["small", &trap] {
            let put = put_request(key("docs", name.clone()), value.to_owned());
            cluster.node(1 + number % 3).client().put_with(put).await.unwrap();
        }
        assert_eq!(versions(&cluster, 1, "docs", &name).await, 2, "a trap decides nothing");
    }
    for id in 1..=3 {
        let quarantined = async |cluster: &Cluster| {
            shown(cluster, id, "fragile@1.0.0").is_some_and(|shown| shown["quarantine"].is_object())
        };
        cluster.eventually("the whole cluster knows", quarantined).await;
    }
    let reason = shown(&cluster, 2, "fragile@1.0.0").unwrap()["quarantine"]["reason"].to_string();
    assert!(reason.contains("5 failures within a minute"), "{reason}");
    let events = done(&ask(&cluster, 2, &["epoch"]));
    let said = |event: &&Value| event["what"].as_str().unwrap().contains("was quarantined by");
    let times: Vec<&Value> = events["events"].as_array().unwrap().iter().filter(said).collect();
    assert!(times.len() == 1 && times[0]["times"] == 1, "one entry for all: {times:?}");
    let warnings = cluster.node(3).client().status().await.unwrap().warnings.join("\n");
    assert!(warnings.contains("quarantine") && warnings.contains("docs"), "{warnings}");

    // What it would have settled is kept; other keyspaces do not notice.
    for (id, value) in [(1, "a long value"), (2, "short")] {
        cluster.node(id).client().put_with(put_request(key("docs", "after"), value)).await.unwrap();
    }
    assert_eq!(versions(&cluster, 3, "docs", "after").await, 2);
    contest(&cluster, ("", "other"), &["a long value", "short", "last"], "last").await;
    let refused = refusal(&ask(&cluster, 1, &["keyspace", "create", "more", "--resolver", "fragile"]));
    assert_eq!(refused.0, "QUARANTINED", "{refused:?}");

    done(&ask(&cluster, 1, &["keyspace", "alter", "docs", "--resolver", "biggest"]));
    settled_by(&cluster, "docs", "biggest@0.1.0").await;
    contest(&cluster, ("docs", "after"), &["the longest value of all", "short", "tiny"], "the longest value of all")
        .await;
    contest(&cluster, ("docs", "key 0"), &["a", "b", "c"], &trap).await;
    let released = done(&ask(&cluster, 3, &["plugin", "alter", "fragile", "--release"]));
    assert_eq!(released["quarantine"], Value::Null);
    done(&ask(&cluster, 3, &["keyspace", "create", "more", "--resolver", "fragile"]));
    settled_by(&cluster, "more", "fragile@1.0.0").await;
    contest(&cluster, ("more", "a"), &["a long value", "short", "also short"], "a long value").await;
}
