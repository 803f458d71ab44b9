//! Parts of a node in one process.
#![allow(clippy::unwrap_used, reason = "helpers of tests may end the test")]

mod epoch_log;
mod raft_storage;
mod surface;
