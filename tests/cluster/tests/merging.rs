//! Resolvers that merge siblings for readers: nothing that was written is missing in what they make of it, and what
//! a reader writes after that takes the place of all of it.

use crate::plugins::{build_as, folder};
use crate::plugins_life::{ask, done, install, refusal, shown};
use bytes::Bytes;
use mks_proto::v1::WriteOptions;
use mks_tests_cluster::{Client, Cluster, curl, get_request, key, mks, put_request, skipped};
use serde_json::Value;
use std::path::PathBuf;

async fn write(client: &Client, keyspace: &str, value: &str, context: &Bytes) {
    let request = put_request(key(keyspace, "k"), value.to_owned());
    let options = request.options.clone().map(|options| WriteOptions { context: context.clone(), ..options });
    client.put_with(mks_proto::v1::PutRequest { options, ..request }).await.unwrap();
}

/// Two clients that know nothing of one another write at the same time, through two nodes.
async fn write_both(cluster: &Cluster, keyspace: &str, values: [&str; 2]) {
    let clients = [1, 2].map(|id| cluster.node(id).client());
    let (nothing, [one, other]) = (Bytes::new(), values);
    tokio::join!(write(&clients[0], keyspace, one, &nothing), write(&clients[1], keyspace, other, &nothing));
}

/// What a reader gets through a node: all versions, and the context.
async fn read(cluster: &Cluster, id: u64, keyspace: &str) -> (Vec<String>, Bytes) {
    let (mut versions, context) =
        cluster.node(id).client().get_siblings(get_request(key(keyspace, "k"))).await.unwrap();
    versions.sort_unstable();
    (versions, context)
}

/// Waits until all nodes merge a keyspace with a resolver, and says that it is causal.
async fn merged_by(cluster: &Cluster, keyspace: &str, resolver: &str) {
    for id in 1..=3 {
        let merges = async |cluster: &Cluster| {
            let all = done(&ask(cluster, id, &["keyspace", "list"]));
            let mut all = all.as_array().unwrap().iter();
            all.any(|known| known["name"] == keyspace && known["resolver"] == resolver && known["causal"] == true)
        };
        cluster.eventually(&format!("node {id} merges {keyspace} with {resolver}"), merges).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_are_merged_for_readers_and_a_write_with_that_context_takes_the_place_of_all_of_them() {
    let cluster = Cluster::of(3);
    done(&ask(&cluster, 1, &["keyspace", "create", "carts", "--resolver", "cart-merge"]));
    merged_by(&cluster, "carts", "cart-merge").await;
    write_both(&cluster, "carts", ["1 bread\n2 milk", "3 milk\n1 tea"]).await;
    let mut context = Bytes::new();
    for id in 1..=3 {
        let (versions, seen) = read(&cluster, id, "carts").await;
        assert_eq!(versions, ["1 bread\n3 milk\n1 tea\n"], "through node {id}");
        context = seen;
    }
    let at = cluster.addresses();
    let got = mks(&["--addr", &at, "get", "k", "--keyspace", "carts"]);
    assert_eq!((got.status, &*got.text()), (0, "1 bread\n3 milk\n1 tea\n"));
    assert!(got.stderr.contains("context: ") && !got.stderr.contains("siblings"), "{got:?}");
    let url = format!("http://{}/v1/keyspaces/carts/keys/k", cluster.node(2).http_address());
    let web = curl(&["--include", &url]);
    assert_eq!(web.status, 200, "{web:?}");
    assert!(web.text().ends_with("1 bread\n3 milk\n1 tea\n") && web.text().contains("mks-context: "), "{web:?}");

    // One version alone is shown as it was written, so it is alone.
    write(&cluster.node(3).client(), "carts", "3 milk", &context).await;
    for id in 1..=3 {
        assert_eq!(read(&cluster, id, "carts").await.0, ["3 milk"], "through node {id}");
    }
    // What is no cart is not merged, and not lost.
    write(&cluster.node(1).client(), "carts", "a text", &Bytes::new()).await;
    let (versions, context) = read(&cluster, 2, "carts").await;
    assert_eq!(versions, ["3 milk", "a text"]);
    write(&cluster.node(2).client(), "carts", "4 milk", &context).await;
    assert_eq!(read(&cluster, 3, "carts").await.0, ["4 milk"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_missed_takes_part_in_what_is_read_through_it() {
    let mut cluster = Cluster::of(3);
    done(&ask(&cluster, 1, &["keyspace", "create", "carts", "--resolver", "cart-merge"]));
    merged_by(&cluster, "carts", "cart-merge").await;
    write(&cluster.node(3).client(), "carts", "1 tea", &Bytes::new()).await;
    cluster.node_mut(3).kill();
    write_both(&cluster, "carts", ["1 bread", "1 milk"]).await;
    cluster.node_mut(3).start();
    cluster.wait_ready();
    for id in 1..=3 {
        assert_eq!(read(&cluster, id, "carts").await.0, ["1 bread\n1 milk\n1 tea\n"], "through node {id}");
    }
}

/// Components as an author would have built them.
struct Built {
    lines: PathBuf,
    /// Version 0.2.0 of the same name: the last line first.
    reversed: PathBuf,
    /// Traps when it sees a line of a kind that no history of the law check has.
    fragile: PathBuf,
    /// Wants to settle as soon as versions meet.
    eager: PathBuf,
}

const POISON: &str = "poison for fragile resolvers";

fn built() -> Result<Built, String> {
    let (folder, keep) = folder("lines", "target");
    let place = folder.to_string_lossy();
    let made = mks(&["plugin", "new", "lines", "--world", "value-resolver", "--directory", &place]);
    assert_eq!(made.status, 0, "{made:?}");
    keep();
    let source = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    let change = |from: &str, to: &str| {
        assert!(source.contains(from), "{from}");
        source.replace(from, to)
    };
    let trap = format!("assert!(!lines.contains(&{POISON:?}.as_bytes()));\n        Outcome::Merged(");
    let fragile = change("Outcome::Merged(lines", &format!("{trap}lines")).replace("= \"lines\"", "= \"fragile\"");
    Ok(Built {
        lines: build_as(&folder, "one.wasm", ("lines", "0.1.0"), &source)?,
        reversed: build_as(
            &folder,
            "two.wasm",
            ("lines", "0.2.0"),
            &change("lines.into_iter().collect", "lines.into_iter().rev().collect"),
        )?,
        fragile: build_as(&folder, "fragile.wasm", ("fragile", "1.0.0"), &fragile)?,
        eager: build_as(&folder, "eager.wasm", ("lines", "0.3.0"), &change("Moment::AtRead", "Moment::AtWrite"))?,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_resolver_merges_is_upgraded_and_rolled_back_and_a_failing_one_leaves_siblings_to_readers() {
    let built = match built() {
        Ok(built) => built,
        Err(reason) => return skipped("a_users_resolver_merges_is_upgraded_and_rolled_back", &reason),
    };
    let cluster = Cluster::of(3);
    let (reason, said) = refusal(&install(&cluster, 1, &built.eager));
    assert!(reason == "BAD_PLUGIN" && said.contains("at-read"), "{reason}: {said}");
    for component in [&built.lines, &built.reversed, &built.fragile] {
        let installed = done(&install(&cluster, 1, component));
        assert!(installed["armed"].is_u64() && installed["role"] == "resolver that merges at read", "{installed}");
    }
    done(&ask(&cluster, 2, &["keyspace", "create", "lists", "--resolver", "lines@0.1.0"]));
    merged_by(&cluster, "lists", "lines@0.1.0").await;
    write_both(&cluster, "lists", ["milk\nbread", "milk\ntea"]).await;
    for id in 1..=3 {
        assert_eq!(read(&cluster, id, "lists").await.0, ["bread\nmilk\ntea"], "through node {id}");
    }
    for (resolver, shows) in [("lines@0.2.0", "tea\nmilk\nbread"), ("lines@0.1.0", "bread\nmilk\ntea")] {
        done(&ask(&cluster, 1, &["keyspace", "alter", "lists", "--resolver", resolver]));
        merged_by(&cluster, "lists", resolver).await;
        assert_eq!(read(&cluster, 3, "lists").await.0, [shows], "{resolver}");
    }
    done(&ask(&cluster, 2, &["plugin", "shadow", "lines@0.2.0", "--keyspace", "lists"]));
    for id in 1..=3 {
        let differs = async |cluster: &Cluster| {
            assert_eq!(read(cluster, id, "lists").await.0, ["bread\nmilk\ntea"], "whatever shadows it");
            shown(cluster, id, "lines@0.2.0").unwrap()["shadows"][0]["differs"].as_u64() > Some(0)
        };
        cluster.eventually("the other order is seen", differs).await;
        let sample = shown(&cluster, id, "lines@0.2.0").unwrap()["shadows"][0]["samples"][0].clone();
        let (ours, theirs) = (&sample["value"]["head"], &sample["shadow_value"]["head"]);
        assert_eq!((ours, theirs), (&"bread\nmilk\ntea".into(), &"tea\nmilk\nbread".into()), "{sample}");
    }
    let compared = done(&ask(&cluster, 1, &["repair"]));
    assert_eq!((&compared["plugin_drift"], &compared["failed"]), (&0.into(), &0.into()), "{compared}");

    done(&ask(&cluster, 1, &["keyspace", "alter", "lists", "--resolver", "fragile"]));
    merged_by(&cluster, "lists", "fragile@1.0.0").await;
    assert_eq!(read(&cluster, 2, "lists").await.0, ["bread\nmilk\ntea"]);
    write(&cluster.node(1).client(), "lists", POISON, &Bytes::new()).await;
    let all = ["milk\nbread", "milk\ntea", POISON];
    for _ in 0..6 {
        assert_eq!(read(&cluster, 2, "lists").await.0, all, "a trap decides nothing");
    }
    for id in 1..=3 {
        let quarantined = async |cluster: &Cluster| {
            shown(cluster, id, "fragile@1.0.0").is_some_and(|shown| shown["quarantine"].is_object())
        };
        cluster.eventually("the whole cluster knows", quarantined).await;
        let warnings = cluster.node(id).client().status().await.unwrap().warnings.join("\n");
        assert!(warnings.contains("readers get all siblings") && warnings.contains("lists"), "{warnings}");
        assert_eq!(read(&cluster, id, "lists").await.0, all, "through node {id}");
    }
    assert_eq!(shown(&cluster, 2, "fragile@1.0.0").unwrap()["here"]["failures"], Value::from(5));

    done(&ask(&cluster, 1, &["keyspace", "alter", "lists", "--resolver", "lines@0.1.0"]));
    merged_by(&cluster, "lists", "lines@0.1.0").await;
    let (versions, context) = read(&cluster, 3, "lists").await;
    assert_eq!(versions, [format!("bread\nmilk\n{POISON}\ntea")]);
    write(&cluster.node(3).client(), "lists", &versions[0], &context).await;
    done(&ask(&cluster, 1, &["keyspace", "alter", "lists", "--resolver", "keep-siblings"]));
    merged_by(&cluster, "lists", "keep-siblings").await;
    assert_eq!(read(&cluster, 1, "lists").await.0, versions, "one version is left of all of them");
}
