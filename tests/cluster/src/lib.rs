//! A harness for tests of what a cluster promises: real `mks` processes on loopback, started, killed and asked as their
//! users would.
//!
//! **What is absent:** any knowledge of what is inside a node. Tests see processes, ports, files and exit codes; one of
//! them plays the bad disk of a stopped node, through the store's own front door.
//!
//! Clusters run on loopback, or, where it can be had, on hosts of their own whose cables can be cut ([`Hosts`]).
//!
//! The binary is `$MKS_BIN`, or the `mks` beside the test binary; `./dev test` builds it first. Every cluster has a
//! loopback network (127.x.y.0/24) of its own, so tests may run side by side and next to a local cluster.

mod causal;
mod client;
mod cluster;
mod command;
mod history;
mod hosts;
mod load;
mod node;
mod text;

pub use causal::{Carts, CausalHistory, CausalRead, CausalStory, CausalWrite, Siblings};
pub use client::{Client, Failure, get_request, key, put_request};
pub use cluster::{Cluster, NodeSetup};
pub use command::{Output, curl, mks, mks_at, mks_json, mks_patiently, python_venv, run, skipped};
pub use history::{Contest, History, Holdings, Read, Story, Write};
pub use hosts::Hosts;
pub use load::{Load, Report};
pub use node::{Node, PATIENCE, mks_binary};
pub use text::{metric, metric_sum};
