//! What a node of my-key-store decides.
//!
//! **What is absent:** a clock, a socket, a disk, a thread, a log line, a random hash order. The crate is `no_std`,
//! so the compiler itself keeps it so. Time and seeds are arguments; the world enters as [`event::Input`] and leaves
//! as [`event::Effect`]. Whoever runs it (the node's pump, a test, a simulator) supplies the two ports in [`port`].
//!
//! The modules are listed bottom up: each one imports only modules above it in this list, and a test checks that.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod id;
pub mod limits;
pub mod time;
pub mod port;
pub mod version;
pub mod context;
pub mod record;
pub mod ring;
pub mod cluster;
pub mod quorum;
pub mod latency;
pub mod outline;
pub mod mint;
pub mod digest;
pub mod note;
pub mod exchange;
pub mod request;
pub mod message;
pub mod event;
#[cfg(test)]
mod testing;
pub mod shadow;
pub mod replica;
pub mod hint;
pub mod sync;
pub mod scrub;
pub mod moves;
pub mod purge;
pub mod member;
pub mod retry;
pub mod put;
pub mod get;
pub mod batch;
pub mod node;
