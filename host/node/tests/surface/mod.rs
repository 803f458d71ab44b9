//! The surfaces of a node over real sockets, in front of a pump that is a map.

mod admin;
mod causal;
mod fake;
mod hostile;
mod http;
mod kv;
mod plugins;
mod session;
