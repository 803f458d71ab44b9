//! A whole cluster of real nodes (`mks-logic`) on one thread and from one seed, with doubles of everything around them:
//! network, disks, clocks, resolvers and the epoch log. Every seed draws its own cluster, faults and load.
//!
//! A run has phases: load under faults (safety), healing, and a bounded time in which everything must work (liveness).
//! What must hold is in [`invariants`], one file each; what clients do is in [`workloads`]; what goes wrong is a
//! variant of [`fault::Fault`]; what must be caught is a variant of [`mutation::Mutation`].
//!
//! **What is absent:** a real clock, thread, socket or disk, and any decision about data.

pub mod chores;
pub mod clients;
pub mod dice;
pub mod disk;
pub mod fault;
pub mod history;
pub mod invariants;
pub mod log;
pub mod machine;
pub mod mutation;
pub mod network;
pub mod plan;
pub mod rules;
pub mod run;
pub mod seals;
pub mod site;
pub mod sums;
pub mod trace;
pub mod trouble;
pub mod types;
pub mod workloads;
pub mod world;
