//! What a cluster of real processes promises. Each test is one claim, and its name says it.
//!
//! Tests need a runtime with more than one thread: the harness blocks while processes start and end.
#![allow(clippy::unwrap_used, reason = "a test that fails here shows the error and the logs of its nodes")]

mod adapters;
mod bad_input;
mod causal;
mod cli;
mod clocks;
mod config;
mod copies;
mod data_types;
mod engines;
mod failures;
mod floods;
mod forming;
mod healing;
mod http;
mod kills;
mod members;
mod mending;
mod merging;
mod moving;
mod partitions;
mod plugins;
mod plugins_life;
mod purging;
mod python;
mod quorums;
mod resolvers;
mod rolling;
mod scrub;
mod session;
mod shadows;
mod storage_shadow;
mod uploaded_types;
