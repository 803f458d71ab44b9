//! Storage adapters: from the operator's options to the plan by which a node opens its native engine.
//!
//! ```
//! use mks_guest_sdk::adapter::{
//!     self, Compression, Config, OptionDoc, Plan, Refusal, Sees, StorageAdapter, TUNING_OPTIONS, Tuning,
//! };
//!
//! /// fjall, with half of the memory for the cache.
//! struct Half;
//!
//! impl StorageAdapter for Half {
//!     const NAME: &'static str = "half";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const OPTIONS: &'static [OptionDoc] = TUNING_OPTIONS;
//!
//!     fn open(config: &Config) -> Result<Plan, Refusal> {
//!         let tuning = config.tuning(Tuning {
//!             cache_bytes: config.memory_budget() / 2,
//!             memtable_bytes: config.memory_budget() / 16,
//!             separate_values_from: Some(4096),
//!             compression: Compression::Lz4,
//!             workers: 2,
//!         })?;
//!         Ok(Plan { engine: "fjall".into(), sees: Sees::None, tuning })
//!     }
//! }
//!
//! mks_guest_sdk::export_storage_adapter!(Half);
//!
//! let plan = adapter::open::<Half>(&[("cache", "32 MiB")], 128 << 20)?;
//! assert_eq!(plan.tuning.cache_bytes, 32 << 20);
//! # Ok::<(), Refusal>(())
//! ```

use crate::bindings::storage_adapter::exports::my_key_store::storage_adapter::adapter as wit;
use crate::bindings::storage_adapter::my_key_store::common::types::Info;
use core::marker::PhantomData;
use core::ops::RangeInclusive;

pub use wit::{BadValue, Compression, Plan, Refusal, Sees, Tuning};

/// One option that an adapter understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionDoc {
    /// Its name in the config file.
    pub name: &'static str,
    /// What it does, its unit and its default, in one line for people.
    pub help: &'static str,
}

/// The options that [`Config::tuning`] reads.
pub const TUNING_OPTIONS: &[OptionDoc] = &[
    OptionDoc { name: "cache", help: "block cache, a size such as 64 MiB; a share of the memory budget by default" },
    OptionDoc { name: "memtable", help: "a memtable is flushed at this size; a share of the memory budget by default" },
    OptionDoc {
        name: "separate_values_from",
        help: "values of this size and above lie apart from their keys, or never",
    },
    OptionDoc { name: "compression", help: "none or lz4" },
    OptionDoc { name: "workers", help: "threads for flushing and compaction, 2 to 64" },
];

/// Memtables that are full at the same time, at most.
pub const MEMTABLES_FULL_MAX: u64 = 7;

const KIB: u64 = 1 << 10;
const TIB: u64 = 1 << 40;

/// What the operator wrote, and how much memory there is.
#[derive(Clone, Debug)]
pub struct Config {
    options: Vec<(String, String)>,
    memory_budget: u64,
}

impl Config {
    pub(crate) fn new(options: Vec<(String, String)>, memory_budget: u64) -> Self {
        Self { options, memory_budget }
    }

    /// Bytes of memory that the cache and the memtables may take together.
    #[must_use]
    pub fn memory_budget(&self) -> u64 {
        self.memory_budget
    }

    /// The text of an option, if it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(option, _)| option == name).map(|(_, value)| value.trim())
    }

    /// A size in bytes: `4096`, `64 KiB`, `32MiB`, `1 GiB`.
    ///
    /// # Errors
    /// [`Refusal::BadValue`] when it is no size, or outside of `range`.
    pub fn size(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match parse_size(text) {
            Some(size) if range.contains(&size) => Ok(Some(size)),
            _ => Err(bad(
                name,
                text,
                format!("a size from {} to {}", show_size(*range.start()), show_size(*range.end())),
            )),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`Refusal::BadValue`] when it is no number, or outside of `range`.
    pub fn number(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(bad(name, text, format!("a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    /// One of several words.
    ///
    /// # Errors
    /// [`Refusal::BadValue`] when it is none of them.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(bad(name, text, words.join(" or ")))
            }
        }
    }

    /// `default` with what the [`TUNING_OPTIONS`] say in its place.
    ///
    /// # Errors
    /// [`Refusal::BadValue`] for a value that can't be, [`Refusal::Other`] for settings that contradict each other.
    pub fn tuning(&self, default: Tuning) -> Result<Tuning, Refusal> {
        let separate = match self.text("separate_values_from") {
            Some("never") => None,
            Some(_) => self.size("separate_values_from", 64..=u64::from(u32::MAX))?.and_then(|n| u32::try_from(n).ok()),
            None => default.separate_values_from,
        };
        let tuning = Tuning {
            cache_bytes: self.size("cache", 64 * KIB..=TIB)?.unwrap_or(default.cache_bytes),
            memtable_bytes: self.size("memtable", 64 * KIB..=TIB)?.unwrap_or(default.memtable_bytes),
            separate_values_from: separate,
            compression: self
                .choice("compression", &[("none", Compression::None), ("lz4", Compression::Lz4)])?
                .unwrap_or(default.compression),
            workers: self.number("workers", 2..=64)?.unwrap_or(default.workers),
        };
        let memtables = tuning.memtable_bytes.saturating_mul(MEMTABLES_FULL_MAX);
        if tuning.cache_bytes.saturating_add(memtables) > self.memory_budget {
            return Err(Refusal::Other(format!(
                "a cache of {} and {MEMTABLES_FULL_MAX} memtables of {} need more than the memory budget of {}: \
                 lower them or raise the budget",
                show_size(tuning.cache_bytes),
                show_size(tuning.memtable_bytes),
                show_size(self.memory_budget)
            )));
        }
        Ok(tuning)
    }
}

fn bad(option: &str, value: &str, expected: String) -> Refusal {
    Refusal::BadValue(BadValue { name: option.into(), value: value.into(), expected })
}

/// `64 KiB` is 65536; `None` when it is no size.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The largest unit that shows the size without a fraction.
fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift) {
        Some((unit, shift)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// A component in front of a native storage engine.
pub trait StorageAdapter {
    /// 1 to 64 characters out of a-z, 0-9 and `-`.
    const NAME: &'static str;
    /// For people; `env!("CARGO_PKG_VERSION")` suits.
    const VERSION: &'static str;
    /// All options that it understands. Others are refused before [`Self::open`] is asked.
    const OPTIONS: &'static [OptionDoc];

    /// Makes the plan.
    ///
    /// # Errors
    /// When there can be none; the node doesn't start and shows the reason.
    fn open(config: &Config) -> Result<Plan, Refusal>;
}

/// Opens an adapter the way a node does, natively: for the tests of a plugin.
///
/// # Errors
/// Those of the adapter, and [`Refusal::UnknownOption`].
pub fn open<A: StorageAdapter>(options: &[(&str, &str)], memory_budget: u64) -> Result<Plan, Refusal> {
    <Exported<A> as wit::Guest>::open(wit::Config { options: owned(options), memory_budget })
}

pub(crate) fn owned(options: &[(&str, &str)]) -> Vec<(String, String)> {
    options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// Fits a [`StorageAdapter`] to the generated trait.
#[doc(hidden)]
#[derive(Debug)]
pub struct Exported<A>(PhantomData<A>);

impl<A: StorageAdapter> wit::Guest for Exported<A> {
    fn describe() -> wit::Description {
        description(A::NAME, A::VERSION, A::OPTIONS)
    }

    fn open(config: wit::Config) -> Result<Plan, Refusal> {
        check_names(&config.options, A::OPTIONS)?;
        A::open(&Config::new(config.options, config.memory_budget))
    }
}

pub(crate) fn description(name: &str, version: &str, options: &[OptionDoc]) -> wit::Description {
    let doc = |doc: &OptionDoc| wit::OptionDoc { name: doc.name.into(), help: doc.help.into() };
    wit::Description {
        info: Info { name: name.into(), version: version.into() },
        options: options.iter().map(doc).collect(),
    }
}

/// Refuses an option that nobody has documented.
pub(crate) fn check_names(given: &[(String, String)], known: &[OptionDoc]) -> Result<(), Refusal> {
    let is_known = |name: &str| known.iter().any(|option| option.name == name);
    match given.iter().find(|(name, _)| !is_known(name)) {
        Some((unknown, _)) => Err(Refusal::UnknownOption(unknown.clone())),
        None => Ok(()),
    }
}

/// Exports a type that implements [`adapter::StorageAdapter`](crate::adapter::StorageAdapter) as a component's adapter.
///
/// Once per crate. Outside of WebAssembly it only checks that the type fits.
#[macro_export]
macro_rules! export_storage_adapter {
    ($adapter:ty) => {
        const _: () = {
            const fn fits<A: $crate::adapter::StorageAdapter>() {}
            fits::<$adapter>();
        };
        #[cfg(target_arch = "wasm32")]
        mod __mks_export {
            use super::*;
            #[global_allocator]
            static ARENA: $crate::arena::Arena = $crate::arena::Arena::new();
            type Exported = $crate::adapter::Exported<$adapter>;
            $crate::bindings::storage_adapter::export!(Exported with_types_in $crate::bindings::storage_adapter);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const DEFAULT: Tuning = Tuning {
        cache_bytes: 32 * MIB,
        memtable_bytes: 4 * MIB,
        separate_values_from: Some(4096),
        compression: Compression::Lz4,
        workers: 2,
    };

    struct Plain;

    impl StorageAdapter for Plain {
        const NAME: &'static str = "plain";
        const VERSION: &'static str = "0.0.1";
        const OPTIONS: &'static [OptionDoc] = TUNING_OPTIONS;

        fn open(config: &Config) -> Result<Plan, Refusal> {
            Ok(Plan { engine: "memory".into(), sees: Sees::None, tuning: config.tuning(DEFAULT)? })
        }
    }

    fn tuning(options: &[(&str, &str)]) -> Result<Tuning, Refusal> {
        open::<Plain>(options, 64 * MIB).map(|plan| plan.tuning)
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let sizes = [("4096", 4096), ("64 KiB", 65536), ("32MiB", 32 << 20), ("1 GiB", 1 << 30), ("7 B", 7)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5 MiB", "-1", "1 MB", "99999999999999999999", "18446744073709551615 KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_shown_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 3 << 20, 1 << 40, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }

    #[test]
    fn without_options_the_defaults_hold() {
        assert_eq!(tuning(&[]), Ok(DEFAULT));
    }

    #[test]
    fn every_documented_option_changes_the_tuning() {
        let values = ["8 MiB", "2 MiB", "never", "none", "3"];
        assert_eq!(values.len(), TUNING_OPTIONS.len());
        for (option, value) in TUNING_OPTIONS.iter().zip(values) {
            assert_ne!(tuning(&[(option.name, value)]).expect(option.name), DEFAULT, "{}", option.name);
        }
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        assert_eq!(tuning(&[("cash", "8 MiB")]), Err(Refusal::UnknownOption("cash".into())));
    }

    #[test]
    fn a_value_out_of_range_says_what_would_be_right() {
        let Err(Refusal::BadValue(refusal)) = tuning(&[("workers", "65")]) else { panic!("accepted") };
        assert_eq!((refusal.name.as_str(), refusal.value.as_str()), ("workers", "65"));
        assert_eq!(refusal.expected, "a whole number from 2 to 64");
        for (option, value) in [("cache", "1 KiB"), ("memtable", "lots"), ("compression", "zip"), ("workers", "two")] {
            assert!(matches!(tuning(&[(option, value)]), Err(Refusal::BadValue(_))), "{option} = {value}");
        }
    }

    #[test]
    fn settings_that_need_more_than_the_budget_are_refused() {
        assert!(tuning(&[("cache", "36 MiB")]).is_ok(), "36 + 7 x 4 = 64");
        for options in [[("memtable", "5 MiB")], [("cache", "37 MiB")]] {
            assert!(matches!(tuning(&options), Err(Refusal::Other(_))), "{options:?}");
        }
    }
}
