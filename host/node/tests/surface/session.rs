//! Pipelined operations.

use super::fake::{FakeNode, HELD, key, until};
use bytes::Bytes;
use mks::grpc::SESSION_WINDOW;
use mks::metrics::Surface;
use mks_proto::v1::{
    BatchItem, BatchRequest, DeleteRequest, GetRequest, PutRequest, SessionOperation, SessionRequest, SessionResponse,
    SessionResult, session_operation::Operation, session_result,
};
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

struct Client {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
    window: usize,
}

impl Client {
    async fn connect(node: &FakeNode) -> Self {
        let (requests, outbound) = mpsc::channel(16);
        let mut responses = node.kv().await.session(ReceiverStream::new(outbound)).await.unwrap().into_inner();
        let welcome = responses.message().await.unwrap().unwrap().welcome.unwrap();
        assert_eq!(welcome.node, 1);
        Self { requests, responses, window: welcome.window as usize }
    }

    async fn send(&self, operations: impl IntoIterator<Item = (u64, Operation)>) {
        let operation = |(id, operation)| SessionOperation { id, operation: Some(operation) };
        let operations = operations.into_iter().map(operation).collect();
        self.requests.send(SessionRequest { operations }).await.unwrap();
    }

    /// Results until there are as many.
    async fn results(&mut self, count: usize) -> Vec<SessionResult> {
        let mut results = Vec::new();
        while results.len() < count {
            results.extend(self.responses.message().await.unwrap().expect("the session goes on").results);
        }
        results
    }

    async fn ending(mut self) -> Option<Status> {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

fn put(partition_key: impl Into<Bytes>, value: impl Into<Bytes>) -> Operation {
    Operation::Put(PutRequest { key: key(partition_key), value: value.into(), options: None })
}

fn get(partition_key: impl Into<Bytes>) -> Operation {
    Operation::Get(GetRequest { key: key(partition_key), options: None })
}

fn word(result: &SessionResult) -> (u64, String) {
    let word = match result.result.as_ref().unwrap() {
        session_result::Result::Written(_) => "written".into(),
        session_result::Result::Found(found) => {
            String::from_utf8(found.version.as_ref().unwrap().value.to_vec()).unwrap()
        }
        session_result::Result::Batch(batch) => format!("batch of {}", batch.results.len()),
        session_result::Result::Error(detail) => detail.reason.clone(),
        session_result::Result::NotFound(_) => "absent".into(),
        session_result::Result::Applied(_) => "applied".into(),
        session_result::Result::Viewed(viewed) => format!("viewed {:?}", viewed.answer),
    };
    (result.id, word)
}

fn words(results: &[SessionResult]) -> BTreeSet<(u64, String)> {
    results.iter().map(word).collect()
}

#[tokio::test]
async fn every_operation_is_answered_under_its_own_number() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    let items = vec![BatchItem { key: key("b"), ..BatchItem::default() }; 3];
    client.send([(1, put("a", "x"))]).await;
    client.results(1).await;
    client
        .send([
            (10, get("a")),
            (20, get("nowhere")),
            (30, Operation::Delete(DeleteRequest { key: key("c"), options: None })),
            (40, Operation::Batch(BatchRequest { items, options: None })),
            (50, get("timeout")),
        ])
        .await;
    let expected =
        [(10, "x"), (20, "absent"), (30, "written"), (40, "batch of 3"), (50, "TIMEOUT")].map(|(id, w)| (id, w.into()));
    assert_eq!(words(&client.results(5).await), expected.into());
}

#[tokio::test]
async fn a_slow_operation_does_not_hold_up_the_others() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    client.send([(1, put(HELD, "slow")), (2, put("fast", "v"))]).await;
    assert_eq!(client.results(1).await[0].id, 2);
    assert_eq!(node.release(), 1);
    assert_eq!(client.results(1).await[0].id, 1);
}

#[tokio::test]
async fn malformed_operations_are_answered_in_line() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    client.send([(1, put("", "v")), (2, put("k", vec![0; (4 << 20) + 1])), (3, put("k", "v"))]).await;
    let expected = [(1, "INVALID"), (2, "TOO_LARGE"), (3, "written")].map(|(id, word)| (id, word.to_owned()));
    assert_eq!(words(&client.results(3).await), expected.into());
    let nothing = SessionOperation { id: 4, operation: None };
    client.requests.send(SessionRequest { operations: vec![nothing] }).await.unwrap();
    assert_eq!(word(&client.results(1).await[0]), (4, "INVALID".into()));
    assert_eq!(node.handle.metrics.malformed_count(Surface::Grpc), 3);
    assert_eq!(node.seen().len(), 1);
}

/// More than the window is sent, as one frame and as many; never more than the window is under way.
#[tokio::test]
async fn a_session_reads_no_further_than_its_window() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    assert_eq!(client.window, SESSION_WINDOW);
    let total = 2 * SESSION_WINDOW + 500;
    let requests = client.requests.clone();
    let writer = tokio::spawn(async move {
        let mut frames = vec![(0..SESSION_WINDOW + 300).collect::<Vec<_>>()];
        frames.extend((SESSION_WINDOW + 300..total).map(|id| vec![id]));
        for frame in frames {
            let operation = |id: usize| SessionOperation { id: id as u64, operation: Some(get(HELD)) };
            let operations = frame.into_iter().map(operation).collect();
            requests.send(SessionRequest { operations }).await.unwrap();
        }
    });
    let mut answered = BTreeSet::new();
    while answered.len() < total {
        let open = (total - answered.len()).min(SESSION_WINDOW);
        until("the window fills", || node.held() >= open).await;
        // Whoever would read on has had every chance.
        tokio::task::yield_now().await;
        assert_eq!(node.held(), open);
        let released = node.release();
        answered.extend(client.results(released).await.iter().map(|result| result.id));
    }
    assert_eq!(answered, (0..total as u64).collect());
    writer.await.unwrap();
}

#[tokio::test]
async fn large_results_are_split_into_responses_that_clients_accept() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    client.send([(0, put("held", vec![b'x'; 900 << 10]))]).await;
    until("it is held", || node.held() == 1).await;
    node.release();
    client.results(1).await;
    client.send((1..=40).map(|id| (id, get(HELD)))).await;
    until("all are held", || node.held() == 40).await;
    node.release();
    // A client library of ours refuses messages above 4 MiB, which would fail this.
    assert_eq!(client.results(40).await.len(), 40);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let node = FakeNode::start().await;
    let client = Client::connect(&node).await;
    client.send((0..10).map(|id| (id, get(HELD)))).await;
    until("they are under way", || node.held() == 10).await;
    assert_eq!(node.handle.metrics.sessions_open(), 1);
    drop(client);
    until("the session is closed", || node.handle.metrics.sessions_open() == 0).await;
    assert_eq!(node.release(), 10);
    node.kv().await.put(PutRequest { key: key("k"), value: "v".into(), options: None }).await.unwrap();
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_every_answer() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    client.send((0..5).map(|id| (id, get(HELD)))).await;
    let (closed, _) = mpsc::channel(1);
    client.requests = closed;
    until("they are under way", || node.held() == 5).await;
    node.release();
    assert_eq!(client.results(5).await.len(), 5);
    assert!(client.ending().await.is_none());
}

#[tokio::test]
async fn a_node_that_stops_answers_what_it_began() {
    let node = FakeNode::start().await;
    let mut client = Client::connect(&node).await;
    client.send([(1, put(HELD, "v"))]).await;
    until("it is under way", || node.held() == 1).await;
    node.stop();
    node.release();
    assert_eq!(word(&client.results(1).await[0]), (1, "written".into()));
    assert_eq!(client.ending().await.unwrap().code(), Code::Unavailable);
    node.stopped().await;
}
