//! Concurrent writes of a causal keyspace: nothing is lost before somebody who has seen it takes its place.

use bytes::Bytes;
use mks_proto::v1::{DeleteRequest, GetResponse, PutRequest, WriteOptions, WriteResponse};
use mks_tests_cluster::{Client, Cluster, get_request, key, put_request};
use std::collections::BTreeSet;
use std::process::Command;
use tonic::Code;

const CARTS: &str = "carts";

fn put(value: &str, context: &Bytes) -> PutRequest {
    let request = put_request(key(CARTS, "cart"), value.to_owned());
    let options = request.options.map(|options| WriteOptions { context: context.clone(), ..options });
    PutRequest { options, ..request }
}

async fn write(client: &Client, value: &str, context: &Bytes) -> WriteResponse {
    client.put_with(put(value, context)).await.unwrap()
}

async fn read(client: &Client) -> (BTreeSet<String>, Bytes) {
    let found: GetResponse = client.kv.clone().get(get_request(key(CARTS, "cart"))).await.unwrap().into_inner();
    let all = found.version.into_iter().chain(found.siblings);
    (all.map(|version| String::from_utf8(version.value.to_vec()).unwrap()).collect(), found.context)
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

async fn carts(cluster: &Cluster) -> [Client; 3] {
    let clients = [1, 2, 3].map(|id| cluster.node(id).client());
    clients[0].create_keyspace(CARTS, "keep-siblings").await.unwrap();
    for client in &clients {
        cluster.eventually("the keyspace is known", async |_| client.get_in(CARTS, "no cart").await.is_ok()).await;
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_are_shown_on_every_node_until_a_write_that_saw_them_takes_their_place() {
    let cluster = Cluster::of(3);
    let [one, two, three] = carts(&cluster).await;
    let nothing = Bytes::new();
    let milk = write(&one, "milk", &nothing).await;
    write(&two, "eggs", &nothing).await;
    for client in [&one, &two, &three] {
        assert_eq!(read(client).await.0, set(&["milk", "eggs"]));
    }
    let (_, both) = read(&three).await;
    // It knows its own write and not the other one.
    write(&one, "milk, bread", &milk.context).await;
    assert_eq!(read(&two).await.0, set(&["milk, bread", "eggs"]));
    write(&three, "milk, eggs", &both).await;
    let (seen, all) = read(&one).await;
    assert_eq!(seen, set(&["milk, bread", "milk, eggs"]), "the bread came after that read");
    write(&two, "milk, eggs, bread", &all).await;
    for client in [&one, &two, &three] {
        assert_eq!(read(client).await.0, set(&["milk, eggs, bread"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_superseded_while_a_node_was_dead_does_not_come_back_with_it() {
    let mut cluster = Cluster::of(3);
    let [one, two, _] = carts(&cluster).await;
    write(&one, "milk", &Bytes::new()).await;
    write(&two, "eggs", &Bytes::new()).await;
    let (_, context) = read(&two).await;
    cluster.node_mut(3).kill();
    write(&one, "both", &context).await;
    cluster.node_mut(3).start();
    cluster.wait_ready();
    let three = cluster.node(3).client();
    for client in [&one, &two, &three] {
        assert_eq!(read(client).await.0, set(&["both"]));
    }
    // A second life of the node names its writes anew.
    write(&three, "more", &Bytes::new()).await;
    let (seen, context) = read(&one).await;
    assert_eq!(seen, set(&["both", "more"]));
    let options = Some(WriteOptions { context, ..WriteOptions::default() });
    let delete = DeleteRequest { key: Some(key(CARTS, "cart")), options };
    three.kv.clone().delete(delete).await.unwrap();
    assert_eq!(one.get_in(CARTS, "cart").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_are_bounded_and_the_error_says_what_to_do() {
    let cluster = Cluster::of(3);
    let [one, two, _] = carts(&cluster).await;
    let mut refused = None;
    for number in 0..=64 {
        refused = one.put_with(put(&format!("write {number}"), &Bytes::new())).await.err();
    }
    let refused = refused.expect("the 65th is one too many");
    assert_eq!((refused.code, refused.reason()), (Code::ResourceExhausted, "TOO_MANY_SIBLINGS"), "{refused:?}");
    let (seen, context) = read(&two).await;
    assert_eq!(seen.len(), 64);
    write(&one, "all of them", &context).await;
    assert_eq!(read(&two).await.0, set(&["all of them"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_siblings_and_settles_them() {
    let cluster = Cluster::of(3);
    carts(&cluster).await;
    let addresses = cluster.addresses();
    let mks = |arguments: &[&str]| {
        let mut command = Command::new(mks_tests_cluster::mks_binary());
        command.args(["--addr", &addresses]).args(arguments).args(["--keyspace", CARTS]);
        let output = command.output().expect("mks runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(mks(&["put", "cart", "milk"]).0, Some(0));
    assert_eq!(mks(&["put", "cart", "eggs"]).0, Some(0));
    let (_, stdout, stderr) = mks(&["get", "cart"]);
    assert_eq!(stdout.lines().map(str::to_owned).collect::<BTreeSet<_>>(), set(&["milk", "eggs"]));
    let token = stderr.lines().find_map(|line| line.strip_prefix("context: ")).expect("a context").to_owned();
    let json: serde_json::Value = serde_json::from_str(&mks(&["--json", "get", "cart"]).1).unwrap();
    assert_eq!((json["context"].as_str(), json["siblings"].as_array().map(Vec::len)), (Some(&*token), Some(1)));
    let (status, _, stderr) = mks(&["del", "cart"]);
    assert!(status != Some(0) && stderr.contains("CONTEXT_NEEDED"), "{stderr}");
    let (status, _, stderr) = mks(&["put", "other cart", "milk", "--context", &token]);
    assert!(status != Some(0) && stderr.contains("BAD_CONTEXT"), "{stderr}");
    assert_eq!(mks(&["put", "cart", "milk, eggs", "--context", &token]).0, Some(0));
    let (_, stdout, stderr) = mks(&["get", "cart"]);
    assert_eq!(stdout.trim(), "milk, eggs");
    let token = stderr.lines().find_map(|line| line.strip_prefix("context: ")).expect("a context");
    assert_eq!(mks(&["del", "cart", "--context", token]).0, Some(0));
    assert_eq!(mks(&["get", "cart"]).0, Some(3));
}
