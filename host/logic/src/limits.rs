//! Every bound of the node with its unit. Beyond a bound the answer is a clear error, never growth.

/// The bounds of one node. All of them come from its config; these are the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest partition key or sort key, bytes.
    pub key_bytes_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Most items of one batch.
    pub batch_items_max: usize,
    /// Most bytes of one batch, keys and values together.
    pub batch_bytes_max: usize,
    /// Operations that one node coordinates at the same time.
    pub operations_max: usize,
    /// Bytes of values that one node's coordinated operations may hold.
    pub operations_bytes_max: usize,
    /// Deadline of a request that names none, milliseconds.
    pub deadline_default_ms: u64,
    /// Longest deadline that a request may ask for, milliseconds.
    pub deadline_max_ms: u64,
    /// A read that has no quorum after this asks all owners, milliseconds.
    pub hedge_after_ms: u64,
    /// Request ids remembered by a coordinator, so that a retry is answered and not applied again.
    pub request_ids_max: usize,
    /// A stamp further ahead of our clock than this is refused, milliseconds.
    pub clock_offset_max_ms: u64,
    /// Jobs that wait for this node's disk; beyond it the node refuses writes and reads of its
    /// records, its peers' and its own clients' alike.
    pub disk_jobs_max: usize,
    /// Messages kept for when this node reaches the epoch that they were sent in.
    pub early_messages_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4 << 10,
            value_bytes_max: 4 << 20,
            batch_items_max: 1_000,
            batch_bytes_max: 16 << 20,
            operations_max: 16_384,
            operations_bytes_max: 256 << 20,
            deadline_default_ms: 5_000,
            deadline_max_ms: 60_000,
            hedge_after_ms: 20,
            request_ids_max: 65_536,
            clock_offset_max_ms: 500,
            disk_jobs_max: 65_536,
            early_messages_max: 4_096,
        }
    }
}
