//! Data types: operations through all nodes at once count once each, whatever dies meanwhile.

use mks_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, KeyspaceDefinition, ReadOptions, ViewRequest, WriteOptions,
};
use mks_tests_cluster::{Client, Cluster, Failure, get_request, key, mks_at, put_request};
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

async fn apply_as(client: &Client, keyspace: &str, operation: &str, id: u128) -> Result<ApplyResponse, Failure> {
    let request_id = if id == 0 { Vec::new() } else { id.to_be_bytes().to_vec() };
    let options = WriteOptions { deadline_ms: Some(2_000), request_id: request_id.into(), ..WriteOptions::default() };
    let request =
        ApplyRequest { key: Some(key(keyspace, "k")), operation: operation.to_owned().into(), options: Some(options) };
    Ok(client.kv.clone().apply(request).await?.into_inner())
}

async fn apply(client: &Client, keyspace: &str, operation: &str) -> Result<ApplyResponse, Failure> {
    apply_as(client, keyspace, operation, 0).await
}

async fn view(client: &Client, keyspace: &str, question: &str) -> Result<String, Failure> {
    let options = ReadOptions { deadline_ms: Some(5_000), ..ReadOptions::default() };
    let question = question.to_owned().into();
    let request = ViewRequest { key: Some(key(keyspace, "k")), question, options: Some(options) };
    let answer = client.kv.clone().view(request).await?.into_inner().answer;
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

async fn keyspace(cluster: &Cluster, data_type: &str) -> Vec<Client> {
    let clients: Vec<Client> = [1, 2, 3].map(|id| cluster.node(id).client()).into();
    let definition = KeyspaceDefinition {
        name: data_type.to_owned(),
        data_type: Some(data_type.to_owned()),
        ..KeyspaceDefinition::default()
    };
    let made = clients[0].create_keyspace_with(definition).await.unwrap();
    let made = made.keyspace.unwrap();
    assert_eq!((made.data_type(), made.causal(), &made.resolver), (data_type, true, &None));
    for client in &clients {
        knows(cluster, client, data_type).await;
    }
    clients
}

async fn knows(cluster: &Cluster, client: &Client, keyspace: &str) {
    let unknown = |failure: Failure| failure.reason() == "UNKNOWN_KEYSPACE";
    cluster.eventually("the keyspace is known", async |_| !view(client, keyspace, "").await.is_err_and(unknown)).await;
}

/// What clients know of a counter.
#[derive(Default)]
struct Count {
    acked: AtomicU64,
    unknown: AtomicU64,
}

/// Adds until nobody may any more. What has no outcome is asked once more under its id.
async fn count(client: Client, count: &Count, seed: u128, times: u128) {
    for number in 1..=times {
        let id = seed << 32 | number;
        let mut outcome = apply_as(&client, "pn-counter", "add 1", id).await;
        if outcome.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            outcome = apply_as(&client, "pn-counter", "add 1", id).await;
        }
        match outcome {
            Ok(_) => count.acked.fetch_add(1, Ordering::Relaxed),
            Err(_) => count.unknown.fetch_add(1, Ordering::Relaxed),
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_equals_the_sum_of_its_acknowledged_additions_also_when_a_node_is_killed() {
    let mut cluster = Cluster::of(3);
    let clients = keyspace(&cluster, "pn-counter").await;
    let known = Count::default();
    let adders = |times| {
        clients.iter().cloned().enumerate().map(move |(i, client)| (client, i as u128 + 1, times)).collect::<Vec<_>>()
    };
    let work = |part: u128, times| {
        let all = adders(times).into_iter().map(|(client, seed, times)| count(client, &known, part << 8 | seed, times));
        futures_of(all.collect())
    };
    work(1, 20).await;
    let sum = 60.to_string();
    for client in &clients {
        assert_eq!(view(client, "pn-counter", "").await.unwrap(), sum, "nothing failed yet");
    }
    let (_, ()) = tokio::join!(work(2, 20), async {
        // In the middle of it.
        while known.acked.load(Ordering::Relaxed) < 80 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        cluster.node_mut(3).kill();
    });
    cluster.node_mut(3).start();
    cluster.wait_ready();
    let (acked, unknown) = (known.acked.load(Ordering::Relaxed), known.unknown.load(Ordering::Relaxed));
    assert!(acked >= 100, "{acked} acknowledged, {unknown} unknown");
    for client in [1, 2, 3].map(|id| cluster.node(id).client()) {
        let value: u64 = view(&client, "pn-counter", "").await.unwrap().parse().unwrap();
        assert!((acked..=acked + unknown).contains(&value), "{value} of {acked} to {}", acked + unknown);
    }
}

/// All of them at the same time, on this task.
async fn futures_of<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(move |cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_is_sent_again_counts_once_through_an_owner_and_through_a_stranger() {
    let cluster = Cluster::of(4);
    let client = cluster.node(1).client();
    keyspace(&cluster, "pn-counter").await;
    let mut sum = 0;
    for (round, id) in (1..=4).enumerate() {
        let client = cluster.node(id).client();
        knows(&cluster, &client, "pn-counter").await;
        for _ in 0..3 {
            apply_as(&client, "pn-counter", "add 5", 77 + round as u128).await.unwrap();
        }
        sum += 5;
    }
    assert_eq!(view(&client, "pn-counter", "").await.unwrap(), sum.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_keeps_what_nobody_removed_who_saw_it() {
    let mut cluster = Cluster::of(3);
    let clients = keyspace(&cluster, "or-set").await;
    for (i, client) in clients.iter().enumerate() {
        apply(client, "or-set", &format!("add item {i}")).await.unwrap();
    }
    // It was added elsewhere, and acknowledged: whoever removes it sees it.
    apply(&clients[2], "or-set", "remove item 0").await.unwrap();
    for client in &clients {
        assert_eq!(view(client, "or-set", "").await.unwrap(), r#"["item 1","item 2"]"#);
        assert_eq!(view(client, "or-set", "contains item 0").await.unwrap(), "false");
    }
    cluster.node_mut(2).kill();
    apply(&clients[0], "or-set", "remove item 1").await.unwrap();
    apply(&clients[2], "or-set", "add late").await.unwrap();
    cluster.node_mut(2).start();
    cluster.wait_ready();
    let two = cluster.node(2).client();
    apply(&two, "or-set", "add later").await.unwrap();
    for client in [1, 2, 3].map(|id| cluster.node(id).client()) {
        assert_eq!(view(&client, "or-set", "").await.unwrap(), r#"["item 2","late","later"]"#);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_type_is_an_error_that_says_what_to_do() {
    let cluster = Cluster::of(3);
    let clients = keyspace(&cluster, "max").await;
    let client = &clients[0];
    let refused = apply(client, "max", "add 3").await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::InvalidArgument, "OPERATION_REFUSED"), "{refused:?}");
    assert!(refused.message.contains("offer"), "it says what the type knows: {refused:?}");
    let absent = view(client, "max", "").await.unwrap_err();
    assert_eq!(absent.reason(), "NOT_FOUND", "a refused operation leaves nothing");
    apply(client, "max", "offer 3").await.unwrap();
    let refused = view(client, "max", "how many").await.unwrap_err();
    assert_eq!(refused.reason(), "OPERATION_REFUSED", "{refused:?}");

    let put = client.put_with(put_request(key("max", "k"), "5")).await.unwrap_err();
    let get = client.get_with(get_request(key("max", "k"))).await.unwrap_err();
    let delete = DeleteRequest { key: Some(key("max", "k")), options: None };
    let delete = Failure::from(client.kv.clone().delete(delete).await.unwrap_err());
    for failure in [put, get, delete] {
        assert_eq!((failure.code, failure.reason()), (Code::InvalidArgument, "INVALID"), "{failure:?}");
        assert!(failure.message.contains("mks apply"), "{failure:?}");
    }
    let plain = apply(client, "default", "add 3").await.unwrap_err();
    assert!(plain.reason() == "INVALID" && plain.message.contains("--datatype"), "{plain:?}");
    let wrong = |name: &str, data_type: &str| KeyspaceDefinition {
        name: name.to_owned(),
        data_type: Some(data_type.to_owned()),
        ..KeyspaceDefinition::default()
    };
    let unknown = client.create_keyspace_with(wrong("x", "no-such-type")).await.unwrap_err();
    assert_eq!(unknown.reason(), "UNKNOWN_RESOLVER", "{unknown:?}");
    assert!(unknown.message.contains("or-set"), "it says which there are: {unknown:?}");
    let with_ttl = KeyspaceDefinition { ttl_ms: Some(5), ..wrong("x", "max") };
    assert_eq!(client.create_keyspace_with(with_ttl).await.unwrap_err().reason(), "INVALID");
    let both = KeyspaceDefinition { resolver: Some("lww".into()), ..wrong("x", "max") };
    assert_eq!(client.create_keyspace_with(both).await.unwrap_err().reason(), "INVALID");
    assert_eq!(view(client, "max", "").await.unwrap(), "3", "nothing has changed");
}

fn json(addresses: &str, words: &[&str]) -> Value {
    let output = mks_at(addresses, &[words, &["--json"]].concat());
    assert_eq!(output.status, 0, "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_and_sets_have_commands_of_their_own() {
    let cluster = Cluster::of(1);
    let at = cluster.addresses();
    assert_eq!(json(&at, &["keyspace", "create", "hits", "--datatype", "pn-counter"])["data_type"], "pn-counter");
    assert_eq!(mks_at(&at, &["keyspace", "create", "tags", "--datatype", "or-set"]).status, 0);
    let hits = ["--keyspace", "hits"];
    let counted = |words: &[&str]| json(&at, &[words, &hits].concat());
    assert_eq!(counted(&["counter", "get", "page"])["value"], 0);
    assert_eq!(counted(&["counter", "add", "page", "5"])["acks"], 1);
    counted(&["counter", "add", "page", "-2"]);
    counted(&["counter", "add", "page"]);
    let got = counted(&["counter", "get", "page"]);
    assert_eq!((&got["value"], &got["found"]), (&Value::from(4), &Value::from(true)));
    assert_eq!(counted(&["view", "page"])["answer"], "4");
    counted(&["apply", "page", "add", "3"]);
    assert_eq!(mks_at(&at, &[&["counter", "get", "page"][..], &hits].concat()).text(), "7\n");
    let refused = mks_at(&at, &[&["apply", "page", "halve"][..], &hits].concat());
    assert_eq!(refused.status, 1, "{refused:?}");
    assert_eq!(mks_at(&at, &[&["view", "nobody"][..], &hits].concat()).status, 3);

    let tags = |words: &[&str]| json(&at, &[&["set"], words, &["--keyspace", "tags"]].concat());
    tags(&["add", "post", "red", "green", "dark blue"]);
    tags(&["rm", "post", "green"]);
    assert_eq!(tags(&["members", "post"])["members"], serde_json::json!(["dark blue", "red"]));
    assert_eq!(tags(&["members", "nobody"])["members"], serde_json::json!([]));
}
