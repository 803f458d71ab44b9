//! The simple client: one gRPC call per operation, one connection per node.

use super::load::{Load, Next, Outcome};
use super::session::{RECONNECT_PAUSE, reason_of};
use super::workload::Op;
use crate::cli::{connect, kv_client};
use mks_proto::v1::kv_client::KvClient;
use std::time::Instant;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

/// Keeps `slots` calls under way at one node until the load is over.
pub(super) async fn run(load: Load, address: String, slots: u32) {
    let channel = loop {
        match connect(&address).await {
            Ok(channel) => break channel,
            Err(_) if load.is_over() => return,
            Err(_) => {
                load.recorder().fail("UNREACHABLE");
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    };
    let mut calls = JoinSet::new();
    for _ in 0..slots {
        calls.spawn_local(one_after_the_other(load.clone(), kv_client(channel.clone())));
    }
    while calls.join_next().await.is_some() {}
}

async fn one_after_the_other(load: Load, mut client: KvClient<Channel>) {
    let mut idle_since = None;
    loop {
        let (op, due) = match load.next(idle_since) {
            Next::Send(op, due) => (op, due),
            Next::Wait(until) => {
                idle_since.get_or_insert_with(Instant::now);
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            Next::Stop => return,
        };
        idle_since = None;
        let kind = op.kind();
        let answer = match op {
            Op::Put(put) => client.put(put).await.map(drop),
            Op::Get(get) => client.get(get).await.map(drop),
        };
        let outcome = match answer {
            Ok(()) => Outcome::Done,
            Err(status) if status.code() == Code::NotFound && reason_of(&status) != "UNKNOWN_KEYSPACE" => {
                Outcome::Absent
            }
            Err(status) => {
                load.done(kind, due, Outcome::Failed(reason_of(&status)));
                if status.code() == Code::Unavailable {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                continue;
            }
        };
        load.done(kind, due, outcome);
    }
}
