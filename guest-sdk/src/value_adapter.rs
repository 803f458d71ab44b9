//! Adapters that see values: what they make of a value is what the engine keeps.
//!
//! ```
//! use mks_guest_sdk::adapter::{Config, OptionDoc, Refusal};
//! use mks_guest_sdk::value_adapter::{Opened, Row, Secrets, Started, Unreadable, ValueAdapter};
//!
//! /// Turns every bit, so that nobody who looks over a shoulder reads a value.
//! struct Negative;
//!
//! impl ValueAdapter for Negative {
//!     const NAME: &'static str = "negative";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const OPTIONS: &'static [OptionDoc] = &[];
//!     const SEES_KEYS: bool = false;
//!     type Scratch = ();
//!
//!     fn start(_: &Config, _: &Secrets) -> Result<Started, Refusal> {
//!         Ok(Started { settings: Vec::new(), form: "negative/1".into(), random_bytes: 0 })
//!     }
//!
//!     fn pack(_: &[u8], row: Row<'_>, (): &mut (), out: &mut Vec<u8>) {
//!         out.extend(row.value.iter().map(|byte| !byte));
//!     }
//!
//!     fn unpack(_: &[u8], row: Row<'_>, (): &mut (), out: &mut Vec<u8>) -> Result<(), Unreadable> {
//!         out.extend(row.value.iter().map(|byte| !byte));
//!         Ok(())
//!     }
//! }
//!
//! mks_guest_sdk::export_value_adapter!(Negative);
//!
//! let negative = Opened::<Negative>::start(&[], &[])?;
//! let packed = negative.pack(b"key", b"value", &[]);
//! assert_eq!(negative.unpack(b"key", &packed), Ok(b"value".to_vec()));
//! # Ok::<(), Refusal>(())
//! ```
//!
//! What a node stores depends on nothing but the arguments: a call may come in a fresh instance or in a warm one, and
//! values that were stored years ago come back to the code of today. So [`Started::form`] says which form that is, and
//! a new version of the code that leaves values in another form must say another one.

use crate::adapter::{Compression, Config, OptionDoc, Plan, Refusal, Sees, Tuning, check_names, description, owned};
use crate::bindings::seeing::exports::my_key_store::storage_adapter::values as wit;
use crate::bindings::storage_adapter::exports::my_key_store::storage_adapter::adapter;
use core::fmt;
use core::marker::PhantomData;

/// What the node needs to know before values come.
#[derive(Clone, PartialEq, Eq)]
pub struct Started {
    /// Handed to each later call; kept in memory only.
    pub settings: Vec<u8>,
    /// The form in which values are left: 1 to 128 printable ASCII characters. Who says the same can read them.
    pub form: String,
    /// Random bytes that each row of [`ValueAdapter::pack`] gets, at most 64.
    pub random_bytes: u32,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings may hold a key.
        f.debug_struct("Started").field("form", &self.form).finish_non_exhaustive()
    }
}

/// The contents of the files that the operator's config names as secrets: 32 bytes each.
pub struct Secrets(Vec<(String, Vec<u8>)>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Secrets {
    /// The secret of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, secret)| &secret[..])
    }

    /// Refuses what nobody asks for: a secret under a wrong name would be taken for missing.
    ///
    /// # Errors
    /// [`Refusal::Other`] with the name.
    pub fn only(&self, names: &[&str]) -> Result<(), Refusal> {
        match self.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) if names.is_empty() => Err(Refusal::Other(format!("it takes no secret, and got `{name}`"))),
            Some((name, _)) => Err(Refusal::Other(format!("it has no secret `{name}`; it knows {}", names.join(", ")))),
            None => Ok(()),
        }
    }
}

/// One value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    /// What tells it from all others of the store. Empty unless the adapter sees keys.
    pub name: &'a [u8],
    /// The value, or what [`ValueAdapter::pack`] made of it.
    pub value: &'a [u8],
    /// [`Started::random_bytes`] of them when it is packed, none when it is unpacked.
    pub random: &'a [u8],
}

/// Why there is no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// The bytes are not what was packed, or belong to another name.
    Damaged,
    /// They say that they were packed under another key, or in another form than [`Started::form`]: damage as well,
    /// but counted apart.
    Foreign,
}

/// A component that stands between values and an engine.
pub trait ValueAdapter {
    /// 1 to 64 characters out of a-z, 0-9 and `-`.
    const NAME: &'static str;
    /// For people; `env!("CARGO_PKG_VERSION")` suits.
    const VERSION: &'static str;
    /// All options that it understands. Others are refused before [`Self::start`] is asked.
    const OPTIONS: &'static [OptionDoc];
    /// Whether rows have names.
    const SEES_KEYS: bool;
    /// What the rows of one call may share, tables and buffers; `()` where there is nothing.
    type Scratch: Default;

    /// Reads the operator's options and secrets.
    ///
    /// # Errors
    /// When they can't be used; the node doesn't start and shows the reason.
    fn start(config: &Config, secrets: &Secrets) -> Result<Started, Refusal>;

    /// Appends to `out` what the engine shall keep in the place of a value: at most 1,024 bytes more than that.
    fn pack(settings: &[u8], row: Row<'_>, scratch: &mut Self::Scratch, out: &mut Vec<u8>);

    /// Appends the value to `out`. Any bytes may come.
    ///
    /// # Errors
    /// When they are no value; what was appended then does not count.
    fn unpack(settings: &[u8], row: Row<'_>, scratch: &mut Self::Scratch, out: &mut Vec<u8>) -> Result<(), Unreadable>;
}

/// An adapter that has read its options, natively: for the tests of a plugin.
pub struct Opened<A> {
    started: Started,
    adapter: PhantomData<A>,
}

impl<A: ValueAdapter> fmt::Debug for Opened<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(A::NAME).field("started", &self.started).finish()
    }
}

impl<A: ValueAdapter> Opened<A> {
    /// Starts an adapter the way a node does.
    ///
    /// # Errors
    /// Those of the adapter, and [`Refusal::UnknownOption`].
    pub fn start(options: &[(&str, &str)], secrets: &[(&str, &[u8])]) -> Result<Self, Refusal> {
        let options = owned(options);
        check_names(&options, A::OPTIONS)?;
        let secrets = secrets.iter().map(|(name, secret)| ((*name).to_owned(), secret.to_vec())).collect();
        let started = A::start(&Config::new(options, 0), &Secrets(secrets))?;
        Ok(Self { started, adapter: PhantomData })
    }

    /// What it said of itself.
    #[must_use]
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Packs one value.
    #[must_use]
    pub fn pack(&self, name: &[u8], value: &[u8], random: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        A::pack(&self.started.settings, Row { name, value, random }, &mut A::Scratch::default(), &mut out);
        out
    }

    /// Unpacks one value.
    ///
    /// # Errors
    /// When the bytes are none that the adapter packed under this name.
    pub fn unpack(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let mut out = Vec::new();
        let row = Row { name, value, random: &[] };
        A::unpack(&self.started.settings, row, &mut A::Scratch::default(), &mut out).map(|()| out)
    }
}

/// Fits a [`ValueAdapter`] to the generated traits.
#[doc(hidden)]
#[derive(Debug)]
pub struct Exported<A>(PhantomData<A>);

/// What a plan must say and nobody follows: the next adapter names the engine.
const NO_TUNING: Tuning = Tuning {
    cache_bytes: 0,
    memtable_bytes: 0,
    separate_values_from: None,
    compression: Compression::None,
    workers: 2,
};

impl<A: ValueAdapter> adapter::Guest for Exported<A> {
    fn describe() -> adapter::Description {
        description(A::NAME, A::VERSION, A::OPTIONS)
    }

    fn open(config: adapter::Config) -> Result<Plan, Refusal> {
        check_names(&config.options, A::OPTIONS)?;
        let sees = if A::SEES_KEYS { Sees::KeysAndValues } else { Sees::Values };
        Ok(Plan { engine: String::new(), sees, tuning: NO_TUNING })
    }
}

impl<A: ValueAdapter> wit::Guest for Exported<A> {
    fn start(config: wit::Config) -> Result<wit::Started, String> {
        let Started { settings, form, random_bytes } =
            A::start(&Config::new(config.options, 0), &Secrets(config.secrets)).map_err(in_words)?;
        Ok(wit::Started { settings, form, random_bytes })
    }

    fn pack(settings: Vec<u8>, rows: wit::Rows) -> wit::Packed {
        // Enough for what most adapters add, so that the answer is not moved while it grows.
        let mut values = Vec::with_capacity(rows.values.len() + rows.ends.len() * 64);
        let mut ends = Vec::with_capacity(rows.ends.len());
        let mut scratch = A::Scratch::default();
        for row in each(&rows) {
            A::pack(&settings, row, &mut scratch, &mut values);
            ends.push(end_of(&values));
        }
        wit::Packed { values, ends }
    }

    fn unpack(settings: Vec<u8>, rows: wit::Rows) -> wit::Unpacked {
        let mut values = Vec::with_capacity(rows.values.len());
        let mut ends = Vec::with_capacity(rows.ends.len());
        let mut outcomes = Vec::with_capacity(rows.ends.len());
        let mut scratch = A::Scratch::default();
        for row in each(&rows) {
            let start = values.len();
            let outcome = A::unpack(&settings, row, &mut scratch, &mut values);
            outcomes.push(match outcome {
                Ok(()) => wit::Outcome::Whole,
                Err(Unreadable::Damaged) => wit::Outcome::Damaged,
                Err(Unreadable::Foreign) => wit::Outcome::Foreign,
            });
            if outcome.is_err() {
                values.truncate(start);
            }
            ends.push(end_of(&values));
        }
        wit::Unpacked { values, ends, outcomes }
    }
}

/// Memory of a component ends long before this does.
fn end_of(values: &[u8]) -> u32 {
    u32::try_from(values.len()).unwrap_or(u32::MAX)
}

fn each(rows: &wit::Rows) -> impl Iterator<Item = Row<'_>> {
    let (mut name_start, mut start) = (0, 0);
    let random_bytes = rows.random.len() / rows.ends.len().max(1);
    rows.ends.iter().enumerate().map(move |(i, end)| {
        let end = *end as usize;
        let name_end = rows.name_ends.get(i).map_or(0, |end| *end as usize);
        let row = Row {
            name: &rows.names[name_start..name_end],
            value: &rows.values[start..end],
            random: &rows.random[i * random_bytes..(i + 1) * random_bytes],
        };
        (name_start, start) = (name_end, end);
        row
    })
}

fn in_words(refusal: Refusal) -> String {
    match refusal {
        Refusal::UnknownOption(name) => format!("it has no option `{name}`"),
        Refusal::BadValue(bad) => {
            format!("it can't use {} = \"{}\": it must be {}", bad.name, bad.value, bad.expected)
        }
        Refusal::BudgetTooSmall(bytes) => format!("the memory budget is too small, it needs at least {bytes} bytes"),
        Refusal::Other(reason) => reason,
    }
}

/// Exports a type that implements [`value_adapter::ValueAdapter`](crate::value_adapter::ValueAdapter) as a component.
///
/// Once per crate. Outside of WebAssembly it only checks that the type fits.
#[macro_export]
macro_rules! export_value_adapter {
    ($adapter:ty) => {
        const _: () = {
            const fn fits<A: $crate::value_adapter::ValueAdapter>() {}
            fits::<$adapter>();
        };
        #[cfg(target_arch = "wasm32")]
        mod __mks_export {
            use super::*;
            #[global_allocator]
            static ARENA: $crate::arena::Arena = $crate::arena::Arena::new();
            type Exported = $crate::value_adapter::Exported<$adapter>;
            $crate::bindings::storage_adapter::export!(Exported with_types_in $crate::bindings::storage_adapter);
            $crate::bindings::seeing::export!(Exported with_types_in $crate::bindings::seeing);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends the name and the random bytes, and can't read what does not end so.
    struct Labels;

    impl ValueAdapter for Labels {
        const NAME: &'static str = "labels";
        const VERSION: &'static str = "0.0.1";
        const OPTIONS: &'static [OptionDoc] = &[];
        const SEES_KEYS: bool = true;
        type Scratch = ();

        fn start(_: &Config, secrets: &Secrets) -> Result<Started, Refusal> {
            secrets.only(&[])?;
            Ok(Started { settings: vec![7], form: "labels/1".into(), random_bytes: 2 })
        }

        fn pack(settings: &[u8], row: Row<'_>, (): &mut (), out: &mut Vec<u8>) {
            out.extend([row.value, row.random, settings, row.name].concat());
        }

        fn unpack(settings: &[u8], row: Row<'_>, (): &mut (), out: &mut Vec<u8>) -> Result<(), Unreadable> {
            out.extend(b"rubbish");
            let rest = row.value.strip_suffix(row.name).ok_or(Unreadable::Damaged)?;
            let rest = rest.strip_suffix(settings).ok_or(Unreadable::Foreign)?;
            out.truncate(out.len() - 7);
            out.extend(&rest[..rest.len() - 2]);
            Ok(())
        }
    }

    /// Name, value and random bytes.
    type Parts<'a> = (&'a [u8], &'a [u8], &'a [u8]);

    fn columns(rows: &[Parts<'_>]) -> wit::Rows {
        let ends = |of: fn(&Parts<'_>) -> usize| {
            rows.iter().scan(0, move |end, row| Some(*end + of(row)).inspect(|next| *end = *next)).map(|end| end as u32)
        };
        wit::Rows {
            names: rows.iter().flat_map(|row| row.0.to_vec()).collect(),
            name_ends: ends(|row| row.0.len()).collect(),
            values: rows.iter().flat_map(|row| row.1.to_vec()).collect(),
            ends: ends(|row| row.1.len()).collect(),
            random: rows.iter().flat_map(|row| row.2.to_vec()).collect(),
        }
    }

    #[test]
    fn each_row_gets_its_own_name_value_and_random_bytes() {
        let rows = columns(&[(b"a", b"one", b"12"), (b"", b"", b"34"), (b"bc", b"three", b"56")]);
        let packed = <Exported<Labels> as wit::Guest>::pack(vec![7], rows);
        assert_eq!(packed.values, b"one12\x07a34\x07three56\x07bc");
        assert_eq!(packed.ends, [7, 10, 20]);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_empty_and_spoils_no_other() {
        let rows =
            columns(&[(b"a", b"one12\x07a", b""), (b"b", b"x", b""), (b"c", b"yc", b""), (b"d", b"12\x07d", b"")]);
        let unpacked = <Exported<Labels> as wit::Guest>::unpack(vec![7], rows);
        use wit::Outcome::{Damaged, Foreign, Whole};
        assert_eq!(unpacked.values, b"one");
        assert_eq!(unpacked.ends, [3, 3, 3, 3]);
        assert!(matches!(unpacked.outcomes[..], [Whole, Damaged, Foreign, Whole]));
    }

    #[test]
    fn a_secret_or_an_option_that_nobody_asks_for_is_refused_by_name() {
        let refused = Opened::<Labels>::start(&[], &[("key", b"x")]).map(|_| ());
        assert_eq!(refused, Err(Refusal::Other("it takes no secret, and got `key`".into())));
        let refused = Opened::<Labels>::start(&[("level", "9")], &[]).map(|_| ());
        assert_eq!(refused, Err(Refusal::UnknownOption("level".into())));
    }
}
