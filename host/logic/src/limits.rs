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
    /// A read that has no quorum after the time in which 99 of 100 recent reads had theirs asks all owners. It never
    /// waits longer than this, which is also what it waits before there are recent reads, milliseconds.
    pub hedge_after_ms: u64,
    /// And never less than this, milliseconds.
    pub hedge_after_min_ms: u64,
    /// An owner that has not answered a sloppy write after this is taken for absent: another node is asked to stand in
    /// for it, milliseconds.
    pub stand_in_after_ms: u64,
    /// Request ids remembered by a coordinator, so that a retry is answered and not applied again.
    pub request_ids_max: usize,
    /// A stamp further ahead of our clock than this is refused, milliseconds.
    pub clock_offset_max_ms: u64,
    /// Jobs that wait for this node's disk; beyond it the node refuses writes and reads of its
    /// records, its peers' and its own clients' alike.
    pub disk_jobs_max: usize,
    /// Messages kept for when this node reaches the epoch that they were sent in.
    pub early_messages_max: usize,
    /// How often each partition is compared with each other owner of it, milliseconds.
    pub sync_period_ms: u64,
    /// Comparisons that this node has under way of its own.
    pub sync_sessions_max: usize,
    /// Questions of other nodes' comparisons that this node works on at the same time.
    pub sync_served_max: usize,
    /// Bytes per second that this node's comparisons may send and receive.
    pub sync_bytes_per_second: u64,
    /// Bytes of one message of a comparison, about: one record or one bucket's sums may be more.
    pub sync_message_bytes_max: usize,
    /// Questions that one comparison may ask.
    pub sync_steps_max: u32,
    /// A question that has no answer after this ends its comparison, milliseconds.
    pub sync_answer_ms: u64,
    /// The open epoch of a partition is compared after no write came for this long, milliseconds.
    pub sync_quiet_ms: u64,
    /// How often this node looks at all of its own records, to find what its disk damaged, milliseconds.
    pub scrub_period_ms: u64,
    /// Bytes of records per second that it reads for that. Zero: it looks only when an operator asks.
    pub scrub_bytes_per_second: u64,
    /// Operations whose client has its reply, and that stay for the answers of late owners.
    pub lingering_max: usize,
    /// Bytes of values that those may hold.
    pub lingering_bytes_max: usize,
    /// A read waits this long after its reply for late owners, to mend them too; and a repair for its answer,
    /// milliseconds.
    pub repair_after_ms: u64,
    /// Repairs by reads that were sent and not answered yet; beyond it differences are left to later reads.
    pub repairs_max: usize,
    /// Bytes of their values.
    pub repairs_bytes_max: usize,
    /// An owner that has not answered a write this long after the client's reply is owed a hint, milliseconds.
    pub hint_after_ms: u64,
    /// Bytes of hints kept for one owner, keys and values; beyond it hints are dropped and the place needs sync.
    pub hint_bytes_per_owner_max: u64,
    /// Bytes of all hints.
    pub hint_bytes_max: u64,
    /// Hints that are on their way to one owner at the same time.
    pub hint_window_max: usize,
    /// Bytes of those; one hint alone may be larger.
    pub hint_window_bytes_max: usize,
    /// Pause after an owner refused hints or did not answer, and before the first one is tried, milliseconds.
    pub hint_retry_ms: u64,
    /// Places that are remembered as needing sync; beyond it everything does.
    pub needs_sync_max: usize,
    /// Pause before a part of a move that failed, or an entry of the epoch log that nobody hears of, is tried again,
    /// milliseconds.
    pub move_retry_ms: u64,
    /// Whether this node says that it is drained of epochs: where all do, tombstones are purged.
    pub seals: bool,
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
            hedge_after_min_ms: 1,
            stand_in_after_ms: 100,
            request_ids_max: 65_536,
            clock_offset_max_ms: 500,
            disk_jobs_max: 65_536,
            early_messages_max: 4_096,
            sync_period_ms: 60_000,
            sync_sessions_max: 4,
            sync_served_max: 16,
            sync_bytes_per_second: 32 << 20,
            sync_message_bytes_max: 256 << 10,
            sync_steps_max: 4_096,
            sync_answer_ms: 30_000,
            sync_quiet_ms: 5_000,
            scrub_period_ms: 3_600_000,
            scrub_bytes_per_second: 4 << 20,
            lingering_max: 8_192,
            lingering_bytes_max: 64 << 20,
            repair_after_ms: 500,
            repairs_max: 256,
            repairs_bytes_max: 16 << 20,
            hint_after_ms: 500,
            hint_bytes_per_owner_max: 256 << 20,
            hint_bytes_max: 1 << 30,
            hint_window_max: 256,
            hint_window_bytes_max: 1 << 20,
            hint_retry_ms: 1_000,
            needs_sync_max: 4_096,
            move_retry_ms: 1_000,
            seals: true,
        }
    }
}
