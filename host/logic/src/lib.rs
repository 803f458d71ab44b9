//! What a node of my-key-store decides.
//!
//! **What is absent:** a clock, a socket, a disk, a thread, a log line, a random hash order. The crate is `no_std`,
//! so the compiler itself keeps it so. Time and seeds are arguments; the world enters as [`event::Input`] and leaves
//! as [`event::Effect`]. Whoever runs it (the node's pump, a test, a simulator) supplies the two ports in [`port`].
//!
//! The modules are listed bottom up: each one imports only modules above it in this list, and a test checks that.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod batch;
pub mod cluster;
pub mod digest;
pub mod event;
pub mod exchange;
pub mod get;
pub mod id;
pub mod limits;
pub mod member;
pub mod message;
pub mod node;
pub mod outline;
pub mod port;
pub mod put;
pub mod quorum;
pub mod record;
pub mod replica;
pub mod request;
pub mod retry;
pub mod ring;
pub mod scrub;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod time;
pub mod version;
