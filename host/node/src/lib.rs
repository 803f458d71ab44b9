//! The shell around `mks-logic`: sockets, disks, clocks, processes. It acts, and decides nothing about data.

pub mod adapters;
pub mod bench;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod epoch_log;
pub mod fault;
pub mod gossip;
pub mod grpc;
pub mod handle;
pub mod http;
pub mod metrics;
pub mod net;
pub mod peer;
pub mod plugins;
pub mod pump;
pub mod status;
pub mod token;
