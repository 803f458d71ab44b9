//! Plans for the engine RocksDB.
//!
//! Half of the memory budget caches blocks, filters and indexes included; most of the rest holds memtables. Large
//! values go to blob files, so that compaction does not copy them again and again.

use mks_guest_sdk::adapter::{
    Compression, Config, OptionDoc, Plan, Refusal, Sees, StorageAdapter, TUNING_OPTIONS, Tuning,
};

const MIB: u64 = 1 << 20;
/// With less than this the engine flushes and rereads all the time.
const BUDGET_MIN: u64 = 4 * MIB;

/// See the [crate].
#[derive(Debug)]
pub struct RocksdbAdapter;

impl StorageAdapter for RocksdbAdapter {
    const NAME: &'static str = "rocksdb";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const OPTIONS: &'static [OptionDoc] = TUNING_OPTIONS;

    fn open(config: &Config) -> Result<Plan, Refusal> {
        let budget = config.memory_budget();
        if budget < BUDGET_MIN {
            return Err(Refusal::BudgetTooSmall(BUDGET_MIN));
        }
        let tuning = config.tuning(Tuning {
            cache_bytes: budget / 2,
            memtable_bytes: (budget / 16).min(64 * MIB),
            separate_values_from: Some(4 << 10),
            compression: Compression::Lz4,
            workers: 2,
        })?;
        Ok(Plan { engine: "rocksdb".into(), sees: Sees::None, tuning })
    }
}

mks_guest_sdk::export_storage_adapter!(RocksdbAdapter);

#[cfg(test)]
mod tests {
    use super::*;
    use mks_guest_sdk::adapter::{MEMTABLES_FULL_MAX, open};

    #[test]
    fn the_defaults_fit_every_budget_from_the_least() {
        for budget in [BUDGET_MIN, 64 * MIB, 256 * MIB, 1 << 34, 1 << 44] {
            let plan = open::<RocksdbAdapter>(&[], budget).expect("a plan");
            assert_eq!(plan.engine, "rocksdb");
            assert!(plan.tuning.cache_bytes + MEMTABLES_FULL_MAX * plan.tuning.memtable_bytes <= budget);
        }
    }

    #[test]
    fn a_budget_below_the_least_is_refused_with_the_least() {
        assert_eq!(open::<RocksdbAdapter>(&[], BUDGET_MIN - 1), Err(Refusal::BudgetTooSmall(BUDGET_MIN)));
    }

    #[test]
    fn an_option_is_obeyed_and_an_unknown_one_refused_by_name() {
        let plan =
            open::<RocksdbAdapter>(&[("separate_values_from", "64 KiB"), ("workers", "7")], 256 * MIB).expect("a plan");
        assert_eq!((plan.tuning.separate_values_from, plan.tuning.workers), (Some(64 << 10), 7));
        assert_eq!(open::<RocksdbAdapter>(&[("turbo", "1")], 256 * MIB), Err(Refusal::UnknownOption("turbo".into())));
    }

    #[test]
    fn the_adapter_wants_to_see_no_operation() {
        assert_eq!(open::<RocksdbAdapter>(&[], 256 * MIB).expect("a plan").sees, Sees::None);
    }
}
