//! Where settings come from, layer over layer, and who is to blame for each.

use super::Config;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};

/// Environment variables that set something start with this and contain `__`: `MKS_NODE__ID`.
const ENV_PREFIX: &str = "MKS_";

/// The layers of a configuration, lowest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file, if there is one.
    pub file: Option<PathBuf>,
    /// Environment variables; those of other programs are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags of the command line, in order.
    pub flags: Vec<Flag>,
}

/// One flag that sets something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// As the operator typed it: `--data-dir`.
    pub name: String,
    /// What it sets: `node.data_dir`.
    pub field: String,
    /// To what. A list is written with commas.
    pub value: String,
}

/// Why a node does not start. One problem per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `mks.toml:12`, `environment variable MKS_NODE__ID`, `--id`, or empty where nobody set it.
    pub origin: String,
    /// What is wrong with what.
    pub reason: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong, nothing was started:")?;
        for Problem { origin, reason } in &self.problems {
            let colon = if origin.is_empty() { "" } else { ": " };
            write!(f, "\n  {origin}{colon}{reason}")?;
        }
        Ok(())
    }
}

impl ConfigError {
    fn one(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { problems: vec![Problem { origin: origin.into(), reason: reason.into() }] }
    }
}

impl Config {
    /// Reads all layers and checks the result.
    ///
    /// # Errors
    /// Every wrong setting with its origin: unknown, of the wrong type, out of range, or at odds with another.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) = &sources.file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::one(&name, format!("can't be read ({error})")))?;
            layers.add_file(&name, &text)?;
        }
        for (name, value) in &sources.environment {
            if let Some(field) = field_of_variable(name) {
                layers.set(&format!("environment variable {name}"), &field, value)?;
            }
        }
        for Flag { name, field, value } in &sources.flags {
            layers.set(name, field, value)?;
        }
        layers.finish()
    }

    /// What a file with this `text` says, checked as [`Self::load`] does; errors call it `name`.
    ///
    /// # Errors
    /// As of [`Self::load`].
    pub fn of_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        layers.add_file(name, text)?;
        layers.finish()
    }
}

/// `MKS_NODE__ID` sets `node.id`. Names without `__` are no settings: `MKS_ADDR`, or what Kubernetes injects.
fn field_of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(ENV_PREFIX)?;
    rest.contains("__").then(|| rest.to_lowercase().replace("__", "."))
}

/// The layers so far: the merged table is always one that deserializes.
#[derive(Default)]
struct Layers {
    table: toml::Table,
    config: Config,
    /// Who set a field last.
    origins: BTreeMap<String, String>,
}

impl Layers {
    fn add_file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let blame = |error: &toml::de::Error| {
            let line = error.span().map_or_else(String::new, |span| format!(":{}", line_of(text, span.start)));
            ConfigError::one(format!("{name}{line}"), one_line(error.message()))
        };
        self.config = toml::from_str(text).map_err(|error| blame(&error))?;
        self.table = toml::from_str(text).map_err(|error| blame(&error))?;
        let spanned = DeTable::parse(text).map_err(|error| blame(&error))?;
        for (section, value) in spanned.get_ref() {
            let DeValue::Table(fields) = value.get_ref() else { continue };
            for field in fields.keys() {
                let line = line_of(text, field.span().start);
                self.origins.insert(format!("{}.{}", section.get_ref(), field.get_ref()), format!("{name}:{line}"));
            }
        }
        Ok(())
    }

    /// Sets one field from text. What type the text has only the field knows, so the readings are tried in turn:
    /// as TOML, as a string, as a list with commas. The first error is the one that is told.
    fn set(&mut self, origin: &str, field: &str, text: &str) -> Result<(), ConfigError> {
        let mut first_error: Option<toml::de::Error> = None;
        for value in readings(text) {
            let mut table = self.table.clone();
            if !insert(&mut table, field, value) {
                return Err(ConfigError::one(origin, format!("sets {field:?}, which is no setting (section.field)")));
            }
            match table.clone().try_into() {
                Ok(config) => {
                    (self.table, self.config) = (table, config);
                    self.origins.insert(field.to_owned(), origin.to_owned());
                    return Ok(());
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let reason = first_error.map_or_else(String::new, |error| one_line(error.message()));
        Err(ConfigError::one(origin, format!("{field} = {text:?}: {reason}")))
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let problems: Vec<_> = self
            .config
            .complaints()
            .into_iter()
            .map(|(fields, reason)| {
                let set = fields.iter().find_map(|field| self.origins.get(*field));
                Problem { origin: set.cloned().unwrap_or_default(), reason: format!("{} {reason}", fields[0]) }
            })
            .collect();
        if problems.is_empty() { Ok(self.config) } else { Err(ConfigError { problems }) }
    }
}

fn readings(text: &str) -> Vec<toml::Value> {
    let mut out = Vec::with_capacity(3);
    // One value and nothing after it: a newline in the text must not smuggle in a second setting.
    if let Ok(mut table) = toml::from_str::<toml::Table>(&format!("value = {text}"))
        && table.len() == 1
        && let Some(value) = table.remove("value")
    {
        out.push(value);
    }
    out.push(toml::Value::String(text.to_owned()));
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    out.push(toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect()));
    out
}

/// Puts `value` at a dotted path; false when a step of the path is no table, or the path is only one step.
fn insert(table: &mut toml::Table, path: &str, value: toml::Value) -> bool {
    let Some((sections, field)) = path.rsplit_once('.') else { return false };
    let mut at = table;
    for section in sections.split('.') {
        let entry = at.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let Some(inner) = entry.as_table_mut() else { return false };
        at = inner;
    }
    at.insert(field.to_owned(), value);
    true
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn one_line(message: &str) -> String {
    message.trim().replace('\n', "; ")
}
