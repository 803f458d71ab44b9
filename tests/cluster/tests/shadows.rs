//! Resolvers that are tried on real conflicts beside those that settle them, and decide nothing.

use crate::plugins_life::{FRAGILE_BYTES, ask, built, done, install, refusal, settled_by, shown};
use mks_tests_cluster::{Cluster, key, metric_sum, mks, put_request, skipped};
use serde_json::Value;

/// What a node tells of a plugin that shadows one keyspace.
fn shadow(cluster: &Cluster, id: u64, plugin: &str) -> Option<Value> {
    let shadows = shown(cluster, id, plugin)?["shadows"].clone();
    assert!(shadows.as_array().unwrap().len() <= 1, "{shadows}");
    shadows.get(0).cloned()
}

fn figure(cluster: &Cluster, id: u64, plugin: &str, name: &str) -> u64 {
    shadow(cluster, id, plugin).map_or(0, |shadow| shadow[name].as_u64().unwrap())
}

async fn put(cluster: &Cluster, id: u64, name: &str, value: &str) {
    cluster.node(id).client().put_with(put_request(key("docs", name.to_owned()), value.to_owned())).await.unwrap();
}

/// The value that readers see through all nodes.
async fn holds(cluster: &Cluster, name: &str, value: &str) {
    for id in 1..=3 {
        let found = cluster.node(id).client().get_in("docs", name).await.unwrap();
        assert_eq!(found.as_deref(), Some(value), "{name} through node {id}");
    }
}

/// A cluster with a keyspace where the last write wins, and these plugins.
async fn cluster_with(components: &[&std::path::Path]) -> Cluster {
    let cluster = Cluster::of(3);
    for component in components {
        done(&install(&cluster, 2, component));
    }
    done(&ask(&cluster, 1, &["keyspace", "create", "docs"]));
    settled_by(&cluster, "docs", "lww").await;
    cluster
}

/// A node tells of the keys about which the two differ, who keeps what, and no value; its metrics say the same.
fn tells_of_differences(cluster: &Cluster, id: u64, plugin: &str) {
    let told = shadow(cluster, id, plugin).unwrap();
    assert!(told["conflicts"].as_u64() > told["differs"].as_u64() && told["failures"] == 0, "{told}");
    for sample in told["samples"].as_array().unwrap() {
        assert!(sample["key"].as_str().unwrap().starts_with("other-"), "{sample}");
        let kept = |size: u64| {
            let mut versions = sample["versions"].as_array().unwrap().iter();
            let version = versions.find(|version| version["size"] == size).unwrap().clone();
            (version["kept"].clone(), version["shadow_keeps"].clone())
        };
        assert_eq!((kept(12), kept(5)), ((true.into(), false.into()), (false.into(), true.into())), "{sample}");
    }
    assert!(!told.to_string().contains("a long value"), "values are nobody's business here: {told}");
    let metrics = cluster.node(id).metrics();
    let labels = ["keyspace=\"docs\"", "plugin=\"biggest@0.2.0\""];
    assert!(metric_sum(&metrics, "mks_shadow_differs_total", &labels) > 0.0, "{metrics}");
    assert!(metric_sum(&metrics, "mks_shadow_conflicts_total", &labels) > 0.0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_is_compared_with_what_settles_and_changes_nothing_until_it_gets_the_keyspace() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_candidate_is_compared_with_what_settles", &reason),
    };
    let cluster = cluster_with(&[&built.biggest, &built.smallest]).await;
    let smallest = "biggest@0.2.0";
    assert_eq!(
        refusal(&ask(&cluster, 1, &["plugin", "shadow", smallest, "--keyspace", "nowhere"])).0,
        "UNKNOWN_KEYSPACE"
    );
    done(&ask(&cluster, 1, &["keyspace", "create", "carts", "--resolver", "cart-merge"]));
    let (reason, said) = refusal(&ask(&cluster, 1, &["plugin", "shadow", smallest, "--keyspace", "carts"]));
    assert!(reason == "INVALID" && said.contains("nothing to compare it with"), "{reason}: {said}");

    let on = done(&ask(&cluster, 3, &["plugin", "shadow", smallest, "--keyspace", "docs"]));
    assert_eq!((&on["shadows"][0]["keyspace"], &on["shadows"][0]["beside"]), (&"docs".into(), &"lww".into()));
    for id in 1..=3 {
        let mut round = 0;
        let differs = async |cluster: &Cluster| {
            round += 1;
            let (same, other) = (format!("same-{id}-{round}"), format!("other-{id}-{round}"));
            for (name, values) in [(&same, ["a long value", "short"]), (&other, ["short", "a long value"])] {
                put(cluster, id, name, values[0]).await;
                put(cluster, id, name, values[1]).await;
                holds(cluster, name, values[1]).await;
            }
            figure(cluster, id, smallest, "differs") > 0
        };
        cluster.eventually(&format!("node {id} sees that the two differ"), differs).await;
    }
    (1..=3).for_each(|id| tells_of_differences(&cluster, id, smallest));
    let address = cluster.node(1).client_address().to_string();
    let text = mks(&["--addr", &address, "plugin", "show", smallest]).text();
    assert!(text.contains("docs, beside lww") && text.contains("kept by biggest@0.2.0"), "{text}");
    assert_eq!(shown(&cluster, 1, smallest).unwrap()["here"]["conflicts"], 0, "it has settled nothing");

    // One shadow for one keyspace; it ends as it began, or when it gets the keyspace.
    done(&ask(&cluster, 1, &["plugin", "shadow", "biggest@0.1.0", "--keyspace", "docs"]));
    assert_eq!(refusal(&ask(&cluster, 1, &["plugin", "shadow", smallest, "--keyspace", "docs", "--off"])).0, "INVALID");
    let off = done(&ask(&cluster, 2, &["plugin", "shadow", "biggest@0.1.0", "--keyspace", "docs", "--off"]));
    assert_eq!(off["shadows"], Value::Array(Vec::new()));
    done(&ask(&cluster, 2, &["plugin", "shadow", smallest, "--keyspace", "docs"]));
    done(&ask(&cluster, 2, &["keyspace", "alter", "docs", "--resolver", smallest]));
    settled_by(&cluster, "docs", smallest).await;
    for id in 1..=3 {
        let gone = async |cluster: &Cluster| {
            let metrics = cluster.node(id).metrics();
            shadow(cluster, id, smallest).is_none() && !metrics.contains("mks_shadow_conflicts_total{")
        };
        cluster.eventually("nothing shadows the keyspace any more", gone).await;
    }
    put(&cluster, 1, "late", "short").await;
    put(&cluster, 2, "late", "a long value").await;
    holds(&cluster, "late", "short").await;
    let told = done(&ask(&cluster, 1, &["epoch"])).to_string();
    for what in ["biggest@0.2.0 shadows keyspace", "no more"] {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_traps_or_never_ends_changes_nothing_and_is_not_quarantined() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_candidate_that_traps_or_never_ends_changes_nothing", &reason),
    };
    let cluster = cluster_with(&[&built.fragile, &built.endless]).await;
    for plugin in ["fragile@1.0.0", "endless@1.0.0"] {
        done(&ask(&cluster, 1, &["plugin", "shadow", plugin, "--keyspace", "docs"]));
        let mut round = 0;
        // More failures within a minute than quarantine anybody who settles.
        let fails = async |cluster: &Cluster| {
            round += 1;
            let large = format!("{round:0>FRAGILE_BYTES$}");
            for id in 1..=3 {
                put(cluster, id, "large", &large).await;
            }
            holds(cluster, "large", &large).await;
            (1..=3).all(|id| figure(cluster, id, plugin, "failures") > 6)
        };
        cluster.eventually(&format!("{plugin} fails again and again"), fails).await;
        for id in 1..=3 {
            let told = shown(&cluster, id, plugin).unwrap();
            assert!(told["quarantine"].is_null() && told["here"]["failures"] == 0, "{told}");
            let shadow = &told["shadows"][0];
            assert!(shadow["differs"].as_u64() == Some(0) && shadow["failure"].is_string(), "{told}");
            let metrics = cluster.node(id).metrics();
            assert!(metric_sum(&metrics, "mks_shadow_failures_total", &["keyspace=\"docs\""]) > 6.0, "{metrics}");
            assert_eq!(metric_sum(&metrics, "mks_resolver_failures_total", &[]), 0.0, "node {id}");
            let warnings = cluster.node(id).client().status().await.unwrap().warnings;
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
    done(&ask(&cluster, 1, &["plugin", "remove", "endless"]));
    for id in 1..=3 {
        let gone = async |cluster: &Cluster| !cluster.node(id).metrics().contains("mks_shadow_conflicts_total{");
        cluster.eventually("the shadow goes with the plugin", gone).await;
    }
    put(&cluster, 1, "large", "small").await;
    holds(&cluster, "large", "small").await;
}
