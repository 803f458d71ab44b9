//! Why the sandbox refused.

use std::path::PathBuf;

/// What went wrong, in words for the operator or the author of a plugin. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The engine does not work on this machine with these options.
    #[error("plugins can't run here: {0}")]
    Engine(String),
    /// The directory for compiled code is of no use.
    #[error("the plugin directory {directory} can't be used: {reason}; make it writable for the node, or name another")]
    Directory {
        /// Where it is.
        directory: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The component's file can't be read.
    #[error("the component {component} can't be read: {reason}")]
    Unreadable {
        /// Its file.
        component: String,
        /// What the system said.
        reason: String,
    },
    /// More bytes than a component may have.
    #[error("the component {component} has {bytes} bytes, and {bytes_max} are allowed: strip it, or raise the limit")]
    TooLarge {
        /// Its name or file.
        component: String,
        /// What it has.
        bytes: u64,
        /// What is allowed.
        bytes_max: usize,
    },
    /// The bytes are not a valid component.
    #[error("{component} is no valid WebAssembly component: {reason}")]
    Malformed {
        /// Its name or file.
        component: String,
        /// What the validator said.
        reason: String,
    },
    /// It wants something from the host, which gives nothing.
    #[error(
        "the component {component} imports {import}: plugins get nothing from the node, no clock, no random numbers, no \
         files; {fix}"
    )]
    Import {
        /// Its name or file.
        component: String,
        /// The first import, by its full name.
        import: String,
        /// What to change.
        fix: &'static str,
    },
    /// It is of the right kind, and was built for a version of the contract that this node does not speak.
    #[error(
        "the component {component} was built for {found}, and this node speaks {expected}: build it again with the SDK of \
         the node's version (`mks plugin new` has it), or run a node of the plugin's"
    )]
    OtherVersion {
        /// Its name or file.
        component: String,
        /// The interface and version that this node speaks.
        expected: &'static str,
        /// The interface and version that the component exports.
        found: String,
    },
    /// It is a component, but not of the kind that is needed.
    #[error("the component {component} does not fit: it must export {expected} and exports {found}")]
    WrongWorld {
        /// Its name or file.
        component: String,
        /// The interface that was looked for.
        expected: &'static str,
        /// What is there, and where it differs.
        found: String,
    },
    /// It trapped, ran out of time or memory, or described itself in a way that can't be.
    #[error("the component {component} failed: {reason}")]
    Failed {
        /// Its name or file.
        component: String,
        /// How.
        reason: String,
    },
    /// As many data types are installed as can be.
    #[error("{0} data types are installed, and no more can be: raise data_types_max")]
    TooManyDataTypes(usize),
    /// As many resolvers are installed as can be.
    #[error("{0} resolvers are installed, and no more can be: raise resolvers_max")]
    TooManyResolvers(usize),
    /// No such built-in adapter.
    #[error("there is no built-in storage adapter `{name}`: use {known}, or the path of a component file")]
    UnknownAdapter {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The adapter does not know the option.
    #[error("the storage adapter {adapter} has no option `{option}`; it knows {known}")]
    UnknownOption {
        /// The adapter's name.
        adapter: String,
        /// The option that was given.
        option: String,
        /// The options that it has.
        known: String,
    },
    /// The adapter can't use the value.
    #[error("the storage adapter {adapter} can't use {option} = \"{value}\": it must be {expected}")]
    BadValue {
        /// The adapter's name.
        adapter: String,
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// The adapter refused for another reason.
    #[error("the storage adapter {adapter} refused: {reason}")]
    Refused {
        /// The adapter's name.
        adapter: String,
        /// In its own words.
        reason: String,
    },
    /// The adapter wants to see values, and has no way to.
    #[error(
        "the storage adapter {adapter} asks to see {sees} of every operation, and exports no {expected}: build it as a \
         `value-adapter`, or let it ask for none"
    )]
    Interception {
        /// The adapter's name.
        adapter: String,
        /// What it asked for.
        sees: &'static str,
        /// The interface that it lacks.
        expected: &'static str,
    },
    /// The adapter's plan is none that a node may follow.
    #[error("the plan of the storage adapter {adapter} can't be followed: {reason}")]
    BadPlan {
        /// The adapter's name.
        adapter: String,
        /// What is wrong with it.
        reason: String,
    },
}
