//! The native test kit: the laws, and a few replicas to play with, in plain `cargo test`.
//!
//! The checks run the same histories as `mks plugin check` does against the component.
//!
//! ```
//! # use mks_guest_sdk::resolver::{Conflict, Resolver, Verdict};
//! use mks_guest_sdk::testing::{Options, check_resolver};
//!
//! /// Keeps the one in the middle: which one that is depends on who met first.
//! struct Middle;
//! # impl Resolver for Middle {
//! #     const NAME: &'static str = "middle";
//! #     const VERSION: &'static str = "0.0.1";
//! #     fn settle(conflict: Conflict<'_>) -> Verdict { Verdict::Keep(conflict.len() / 2) }
//! # }
//! let broken = check_resolver::<Middle>(&Options::default()).expect_err("it breaks a law");
//! println!("{broken}");
//! ```

use crate::data_type::{Context, DataType, Plain, PlainEffect, Summary, decode, encode};
use crate::resolver::{self, Resolver, Sibling, Verdict};
use crate::values::{self, Moment, Outcome, ValueResolver};
use core::fmt;
use core::marker::PhantomData;
use mks_laws::{Answer, DataType as TestedType, Effect, Life, Resolver as Tested, Update, Version};

pub use mks_laws::{Broken, Law, Options, Passed};

/// Looks for a history in which a resolver breaks a law.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn check_resolver<R: Resolver>(options: &Options) -> Result<Passed, Box<Broken>> {
    mks_laws::check_resolver(&ByMetadata::<R>(PhantomData), options)
}

/// The same for a resolver that looks at values.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn check_value_resolver<R: ValueResolver>(options: &Options) -> Result<Passed, Box<Broken>> {
    mks_laws::check_resolver(&ByValue::<R>(PhantomData), options)
}

/// The same for a data type.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn check_data_type<D: DataType>(options: &Options) -> Result<Passed, Box<Broken>> {
    mks_laws::check_data_type(&Native::<D> { diff: None, kind: PhantomData }, options)
}

/// The same for a data type with summaries.
///
/// # Errors
/// The smallest counterexample that was found.
pub fn check_delta_data_type<D: DataType<State: Summary>>(options: &Options) -> Result<Passed, Box<Broken>> {
    mks_laws::check_data_type(&Native::<D> { diff: Some(diff::<D>), kind: PhantomData }, options)
}

/// # Panics
/// With the smallest counterexample, when the resolver breaks a law.
#[track_caller]
pub fn assert_resolver<R: Resolver>() {
    passed(check_resolver::<R>(&Options::default()));
}

/// # Panics
/// With the smallest counterexample, when the resolver breaks a law.
#[track_caller]
pub fn assert_value_resolver<R: ValueResolver>() {
    passed(check_value_resolver::<R>(&Options::default()));
}

/// # Panics
/// With the smallest counterexample, when the data type breaks a law, or when it refuses all of its own samples.
#[track_caller]
pub fn assert_data_type<D: DataType>() {
    passed(check_data_type::<D>(&Options::default()));
}

/// # Panics
/// As [`assert_data_type`] does.
#[track_caller]
pub fn assert_delta_data_type<D: DataType<State: Summary>>() {
    passed(check_delta_data_type::<D>(&Options::default()));
}

#[track_caller]
fn passed(result: Result<Passed, Box<Broken>>) {
    match result {
        Ok(Passed { refused, writes, .. }) => {
            assert!(refused < writes, "every operation was refused, so nothing was checked: write a `sample`");
        }
        Err(broken) => panic!("{broken}"),
    }
}

/// One replica of a value of type `D`, for tests that tell a story.
///
/// ```
/// # use mks_guest_sdk::data_type::{Change, Context, DataType, State};
/// # use mks_guest_sdk::codec::{Malformed, Reader, Writer};
/// # use mks_guest_sdk::testing::Replica;
/// # #[derive(Clone, Default)]
/// # struct Most(u64);
/// # impl State for Most {
/// #     fn join(&mut self, other: Self) { self.0 = self.0.max(other.0); }
/// #     fn write(&self, out: &mut Writer) { out.number(self.0); }
/// #     fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> { Ok(Self(reader.number()?)) }
/// # }
/// # struct Bytes;
/// # impl DataType for Bytes {
/// #     const NAME: &'static str = "bytes";
/// #     const VERSION: &'static str = "1";
/// #     type State = Most;
/// #     fn update(_: &Context, _: &Most, op: &[u8]) -> Result<Change<Most>, String> {
/// #         Ok(Change::silent(Most(op.len() as u64)))
/// #     }
/// #     fn query(state: &Most, _: &[u8]) -> Result<Vec<u8>, String> { Ok(state.0.to_string().into_bytes()) }
/// # }
/// let (mut a, mut b) = (Replica::<Bytes>::new(1), Replica::<Bytes>::new(2));
/// a.apply("four")?;
/// b.apply("seventeen")?;
/// a.merge(&b);
/// assert_eq!(a.query("")?, "9");
/// # Ok::<(), String>(())
/// ```
pub struct Replica<D> {
    next: Context,
    state: Option<Vec<u8>>,
    kind: PhantomData<D>,
}

impl<D> fmt::Debug for Replica<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("next", &self.next).field("state", &self.state).finish()
    }
}

impl<D: DataType> Replica<D> {
    /// An empty replica on a node.
    #[must_use]
    pub fn new(node: u64) -> Self {
        let next = Context { node, incarnation: 1, counter: 1, now: 1_700_000_000_000 << 16 };
        Self { next, state: None, kind: PhantomData }
    }

    /// Applies an operation and says what the client would be told.
    ///
    /// # Errors
    /// Those of the data type.
    pub fn apply(&mut self, op: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, String> {
        let PlainEffect { state, reply, .. } = Plain::<D>::update(&self.next, self.state.as_deref(), op.as_ref())?;
        self.next.counter += 1;
        self.next.now += 1;
        self.state = Some(state);
        Ok(reply)
    }

    /// Asks a question; a key that is not there has the default state.
    ///
    /// # Errors
    /// Those of the data type, and when the answer is no text.
    pub fn query(&self, question: impl AsRef<[u8]>) -> Result<String, String> {
        let default = encode(&D::State::default());
        let answer = Plain::<D>::query(self.state.as_deref().unwrap_or(&default), question.as_ref())?;
        String::from_utf8(answer).map_err(|error| error.to_string())
    }

    /// Takes in what another replica holds.
    ///
    /// # Panics
    /// When the states don't merge.
    pub fn merge(&mut self, other: &Self) {
        let states: Vec<&Vec<u8>> = self.state.iter().chain(&other.state).collect();
        if !states.is_empty() {
            self.state = Some(Plain::<D>::merge(&states).expect("states of the type itself"));
        }
        self.next.now = self.next.now.max(other.next.now);
    }

    /// The bytes that it holds.
    #[must_use]
    pub fn state(&self) -> Option<&[u8]> {
        self.state.as_deref()
    }
}

fn sibling(version: &Version) -> Sibling {
    Sibling {
        node: version.node,
        incarnation: version.incarnation,
        counter: version.counter,
        written: version.written,
        size: u32::try_from(version.value.len()).unwrap_or(u32::MAX),
        tombstone: version.tombstone,
        digest: version.digest(),
    }
}

struct ByMetadata<R>(PhantomData<R>);

impl<R: Resolver> Tested for ByMetadata<R> {
    fn by_metadata(&self, _: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, String> {
        let siblings: Vec<Vec<Sibling>> = batch.iter().map(|c| c.iter().map(sibling).collect()).collect();
        let conflicts: Vec<&[Sibling]> = siblings.iter().map(Vec::as_slice).collect();
        let answer = |verdict| match verdict {
            Verdict::Keep(row) => Answer::Keep(row),
            Verdict::KeepAll => Answer::KeepAll,
        };
        Ok(resolver::settle::<R>(&conflicts).into_iter().map(answer).collect())
    }

    fn by_value(&self, _: Life, _: &[Version]) -> Option<Result<Answer, String>> {
        None
    }

    fn settles_at_read(&self) -> bool {
        false
    }

    fn sample(&self, _: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
}

struct ByValue<R>(PhantomData<R>);

/// A [`ValueResolver`]'s first half, as a resolver by metadata.
struct FirstHalf<R>(PhantomData<R>);

impl<R: ValueResolver> Resolver for FirstHalf<R> {
    const NAME: &'static str = R::NAME;
    const VERSION: &'static str = R::VERSION;

    fn settle(conflict: resolver::Conflict<'_>) -> Verdict {
        // A row that is never there stands for "ask by value".
        R::by_metadata(conflict).unwrap_or(Verdict::Keep(conflict.len()))
    }
}

impl<R: ValueResolver> Tested for ByValue<R> {
    fn by_metadata(&self, life: Life, batch: &[&[Version]]) -> Result<Vec<Answer>, String> {
        let mut answers = ByMetadata::<FirstHalf<R>>(PhantomData).by_metadata(life, batch)?;
        for (answer, conflict) in answers.iter_mut().zip(batch) {
            if *answer == Answer::Keep(conflict.len()) {
                *answer = Answer::AskByValue;
            }
        }
        Ok(answers)
    }

    fn by_value(&self, _: Life, conflict: &[Version]) -> Option<Result<Answer, String>> {
        let versions: Vec<Sibling> = conflict.iter().map(sibling).collect();
        let values: Vec<&[u8]> = conflict.iter().map(|version| version.value.as_slice()).collect();
        Some(Ok(match values::settle::<R>(b"key", &versions, &values) {
            Outcome::Keep(row) => Answer::Keep(row),
            Outcome::KeepSome(rows) => Answer::KeepSome(rows),
            Outcome::KeepAll => Answer::KeepAll,
            Outcome::Merged(value) => Answer::Merged(value),
        }))
    }

    fn settles_at_read(&self) -> bool {
        R::WHEN == Moment::AtRead
    }

    fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(R::sample(seed))
    }
}

type Diff = fn(&[u8], &[u8]) -> Result<Option<Vec<u8>>, String>;

struct Native<D> {
    diff: Option<Diff>,
    kind: PhantomData<D>,
}

fn diff<D: DataType<State: Summary>>(ours: &[u8], theirs: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let summary = decode::<D::State>(theirs)?.summary();
    Ok(decode::<D::State>(ours)?.diff(&summary)?.as_ref().map(encode))
}

impl<D: DataType> TestedType for Native<D> {
    fn update(&self, _: Life, update: &Update<'_>) -> Result<Result<Effect, String>, String> {
        let Update { node, incarnation, counter, now, state, op } = *update;
        let effect = Plain::<D>::update(&Context { node, incarnation, counter, now }, state, op);
        Ok(effect.map(|PlainEffect { state, delta, reply }| Effect { state, delta, reply }))
    }

    fn merge(&self, _: Life, states: &[&[u8]]) -> Result<Result<Vec<u8>, String>, String> {
        Ok(Plain::<D>::merge(states))
    }

    fn query(&self, _: Life, state: &[u8], question: &[u8]) -> Result<Result<Vec<u8>, String>, String> {
        Ok(Plain::<D>::query(state, question))
    }

    fn validate(&self, _: Life, state: &[u8]) -> Result<Result<(), String>, String> {
        Ok(Plain::<D>::validate(state))
    }

    fn sample(&self, seed: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(D::sample(seed))
    }

    fn diff(&self, _: Life, ours: &[u8], theirs: &[u8]) -> Option<Result<Result<Option<Vec<u8>>, String>, String>> {
        self.diff.map(|diff| Ok(diff(ours, theirs)))
    }
}
