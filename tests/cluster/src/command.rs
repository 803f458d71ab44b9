//! Programs that people use: the `mks` command line, curl, python.

use crate::node::mks_binary;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds until a program that hangs is killed; coreutils' `timeout` then says 124.
const COMMAND_SECONDS: &str = "60";
/// Installing packages may download some megabytes, and a first build of a plugin compiles a standard library.
const INSTALL_SECONDS: &str = "600";

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code of a program, or the HTTP status of curl (0: no answer).
    pub status: i32,
    /// Standard output, or the body.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program with some standard input, bounded in time.
///
/// # Panics
/// When it can't be run at all.
#[must_use]
pub fn run(program: impl AsRef<OsStr>, arguments: &[&str], input: &[u8]) -> Output {
    run_for(COMMAND_SECONDS, program.as_ref(), arguments, input)
}

fn run_for(seconds: &str, program: &OsStr, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(seconds).arg(program).args(arguments);
    // Settings of the person who runs the tests must not leak in.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MKS_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("coreutils' timeout can be run");
    let mut stdin = child.stdin.take().expect("it was asked for");
    // A program that ends without reading its input breaks the pipe, which is its right.
    drop(stdin.write_all(input));
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    Output {
        status: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs the `mks` command line.
#[must_use]
pub fn mks(arguments: &[&str]) -> Output {
    run(mks_binary(), arguments, b"")
}

/// Runs `mks --addr ADDRESSES ARGUMENTS`.
#[must_use]
pub fn mks_at(addresses: &str, arguments: &[&str]) -> Output {
    mks(&[&["--addr", addresses], arguments].concat())
}

/// The same with `--json`, for commands that must succeed.
#[must_use]
pub fn mks_json(addresses: &str, arguments: &[&str]) -> Value {
    let output = mks_at(addresses, &[&["--json"], arguments].concat());
    assert_eq!(output.status, 0, "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

/// The same for a command that compiles or installs something first.
#[must_use]
pub fn mks_patiently(arguments: &[&str]) -> Output {
    run_for(INSTALL_SECONDS, mks_binary().as_os_str(), arguments, b"")
}

/// Asks over HTTP with curl; the arguments are curl's own.
#[must_use]
pub fn curl(arguments: &[&str]) -> Output {
    let common = ["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"];
    let mut output = run("curl", &[&common, arguments].concat(), b"");
    let end = output.stdout.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    let status = String::from_utf8_lossy(&output.stdout[end..]).trim().parse();
    output.status = status.unwrap_or(0);
    output.stdout.truncate(end);
    output
}

/// A Python with these packages, kept in `directory` from run to run; `Err` says why there is none.
///
/// # Errors
/// The last words of the program that failed.
pub fn python_venv(directory: &Path, packages: &[&str]) -> Result<PathBuf, String> {
    let python = directory.join("bin/python");
    let ready = directory.join("ready");
    if ready.is_file() {
        return Ok(python);
    }
    let place = directory.to_string_lossy();
    let step = |program: &OsStr, arguments: &[&str]| {
        let output = run_for(INSTALL_SECONDS, program, arguments, b"");
        let words = output.stderr.trim().lines().last().unwrap_or("it said nothing").to_owned();
        if output.status == 0 { Ok(()) } else { Err(format!("{} failed: {words}", program.display())) }
    };
    step("python3".as_ref(), &["-m", "venv", "--clear", &place])?;
    step(python.as_ref(), &[&["-m", "pip", "install", "--quiet", "--prefer-binary"], packages].concat())?;
    std::fs::write(ready, "").map_err(|error| error.to_string())?;
    Ok(python)
}

/// Says that a test could not be run here and why. Past the test runner's capture, for the summary of `./dev test`.
pub fn skipped(test: &str, reason: &str) {
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: {reason}"));
}
