//! Parts of a node in one process.

mod epoch_log;
mod raft_storage;
mod surface;
