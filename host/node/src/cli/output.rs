//! What commands print: text for people or JSON for scripts, results on stdout, everything else on stderr.

use super::client::Failure;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};

/// Where results go.
#[derive(Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// `json`: for scripts.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// True when JSON was asked for.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one result: as one line of JSON, or as `text` makes it for people.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let mut line = if self.json { serde_json::to_string(value).map_err(anyhow::Error::from)? } else { text(value) };
        if !line.is_empty() && !line.ends_with('\n') {
            line.push('\n');
        }
        self.raw(line.as_bytes())
    }

    /// Bytes as they are.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::Local(error.into()))
    }

    /// One remark for people, on stderr.
    pub fn remark(&self, text: &str) {
        // A remark that nobody can read is no reason to stop.
        drop(writeln!(std::io::stderr(), "{text}"));
    }

    pub(super) fn failure(&self, failure: &Failure) {
        if self.json {
            self.remark(&serde_json::json!({ "error": failure.json() }).to_string());
        } else {
            self.remark(&format!("mks: {failure}"));
        }
    }
}

/// An empty table in the common style.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    table
}

/// A progress bar on stderr, only where a person looks at a terminal. `steps`: `None` when nobody knows how many.
#[must_use]
pub fn progress(what: &str, steps: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match steps {
        Some(_) => "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta} left",
        None => "{msg} {spinner} {human_pos} {per_sec} {elapsed}",
    };
    let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr_with_hz(4));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}
