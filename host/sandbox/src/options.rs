//! The bounds of a sandbox.

use std::path::PathBuf;

/// How to open a [`crate::Sandbox`]. Every field has a default; only `directory` is usually given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxOptions {
    /// The sandbox's own directory, for compiled code. Made when it is missing; emptied of what is not its own.
    pub directory: PathBuf,
    /// A resolver that has not answered a batch after this is interrupted, milliseconds. Rounded up to the next tick of
    /// the clock, and one tick more. Time in which its thread was given no processor does not count.
    pub resolver_deadline_ms: u64,
    /// The same for one call of a storage adapter, when the node starts.
    pub adapter_deadline_ms: u64,
    /// The same for the values of one group commit, or of one page of a scan, about 1 MiB at most.
    pub values_deadline_ms: u64,
    /// The same for one call of a data type.
    pub data_type_deadline_ms: u64,
    /// Most bytes of one state of a data type, of one operation and of one answer.
    pub state_bytes_max: usize,
    /// Data types that can be installed.
    pub data_types_max: usize,
    /// Most versions of one batch of conflicts.
    pub batch_rows_max: usize,
    /// Largest component, bytes.
    pub component_bytes_max: usize,
    /// Most memory of one instance, bytes; a multiple of 64 KiB.
    pub instance_bytes_max: usize,
    /// Instances that live at the same time, warm ones included. Beyond it a call fails.
    pub instances_max: u32,
    /// Resolvers that can be installed beside the built-in ones.
    pub resolvers_max: usize,
    /// Bytes that one answer may take on the host's side.
    pub answer_bytes_max: usize,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("data/plugins"),
            resolver_deadline_ms: 20,
            adapter_deadline_ms: 2_000,
            values_deadline_ms: 500,
            data_type_deadline_ms: 50,
            state_bytes_max: 4 << 20,
            data_types_max: 64,
            batch_rows_max: 100_000,
            component_bytes_max: 4 << 20,
            instance_bytes_max: 16 << 20,
            instances_max: 64,
            resolvers_max: 64,
            answer_bytes_max: 1 << 20,
        }
    }
}
