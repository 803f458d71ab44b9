//! Whole epoch logs in one process, joined by a network in memory.

mod forming;
mod living;
mod net;
mod strangers;
