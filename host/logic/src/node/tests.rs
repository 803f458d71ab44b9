//! Claims about one node that is fed by hand. Whole clusters live in `tests/sim`.

mod causal;
mod coordinator;
mod guest;
mod hints;
mod merging;
mod owner;
mod repair;
mod sloppy;
mod solo;
