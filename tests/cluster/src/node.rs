//! One `mks start` process: its files, its ports, its life and its many deaths.

use crate::client::Client;
use crate::command::curl;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for what must happen; only failures take this long, and a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a test looks again.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a node's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 40;

/// Ports are the same on every node, addresses differ.
const CLIENT_PORT: u16 = 7401;
const PEER_PORT: u16 = 7402;
const HTTP_PORT: u16 = 7403;

/// The binary under test.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn mks_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MKS_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    // target/debug/deps/cluster-0123 -> target/debug/mks
    let beside = test.ancestors().nth(2).expect("cargo puts test binaries two directories deep").join("mks");
    assert!(beside.is_file(), "there is no {}: run ./dev test, or name a binary in MKS_BIN", beside.display());
    beside
}

/// A node that may or may not run. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    id: u64,
    address: Ipv4Addr,
    directory: PathBuf,
    arguments: Vec<String>,
    /// The network namespace that it runs in; `None`: this process's own.
    namespace: Option<String>,
    child: Option<Child>,
}

impl Node {
    /// A node that listens on `address` and keeps config, log and data in `directory`; nothing is started.
    pub(crate) fn new(id: u64, address: Ipv4Addr, directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).expect("the test's directory is writable");
        Self { id, address, directory, arguments: Vec::new(), namespace: None, child: None }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where clients speak gRPC.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        (IpAddr::V4(self.address), CLIENT_PORT).into()
    }

    /// Where other nodes speak gRPC, and gossip.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        (IpAddr::V4(self.address), PEER_PORT).into()
    }

    /// Where HTTP is.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        (IpAddr::V4(self.address), HTTP_PORT).into()
    }

    /// Where its records lie.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Its config file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("mks.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Everything it has logged so far, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of [`Node::log`], for people.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Replaces its config; counts from its next start.
    pub fn configure(&mut self, text: &str) {
        std::fs::write(self.config_path(), text).expect("the test's directory is writable");
    }

    /// Flags of its next start, after `--config`.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// From its next start on it runs in this network namespace.
    pub(crate) fn set_namespace(&mut self, name: String) {
        self.namespace = Some(name);
    }

    /// Starts the process and returns at once.
    pub fn start(&mut self) {
        assert!(!self.running(), "node {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path());
        let log: File = log.expect("the test's directory is writable");
        let mut command = match &self.namespace {
            // `ip` becomes the command: signals reach the node itself.
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(mks_binary());
                command
            }
            None => Command::new(mks_binary()),
        };
        command.arg("start").arg("--config").arg(self.config_path()).args(&self.arguments);
        // Settings of the person who runs the tests must not leak in.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MKS_")) {
            command.env_remove(name);
        }
        let copy = log.try_clone().expect("a file handle can be copied");
        let child = command.stdin(Stdio::null()).stdout(copy).stderr(log).spawn();
        self.child = Some(child.expect("the mks binary can be run"));
    }

    /// Whether the process lives.
    pub fn running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A process that is gone already is just as dead.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Sends a signal by its name, such as `TERM`.
    ///
    /// # Panics
    /// When the process does not live.
    pub fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("a node gets signals while it runs");
        let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
        assert!(status.expect("there is a kill command").success(), "node {} took no SIG{name}", self.id);
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub fn wait_exit(&mut self) -> ExitStatus {
        let begin = Instant::now();
        let child = self.child.as_mut().expect("only a started node can end");
        while begin.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.child = None;
                return status;
            }
            std::thread::sleep(POLL);
        }
        panic!("node {} still runs after {PATIENCE:?}; its log ends with\n{}", self.id, self.log_tail());
    }

    /// Asks the process to stop and waits for that.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit()
    }

    /// Starts the process and expects it to refuse: returns what it logged in this life.
    ///
    /// # Panics
    /// When it goes on running, or ends as if all were well.
    pub fn start_refused(&mut self) -> String {
        let before = self.log().len();
        self.start();
        let status = self.wait_exit();
        let log = self.log()[before..].to_owned();
        assert!(!status.success(), "node {} ended with success instead of an error:\n{log}", self.id);
        assert!(status.code().is_some(), "node {} died of a signal instead of an error:\n{log}", self.id);
        log
    }

    /// Whether it serves clients now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        curl(&[&self.url("/ready")]).status == 200
    }

    /// Waits until it serves clients.
    ///
    /// # Panics
    /// When it ends, or does not serve within [`PATIENCE`].
    pub fn wait_ready(&mut self) {
        let begin = Instant::now();
        while !self.is_ready() {
            assert!(self.running(), "node {} stopped; its log ends with\n{}", self.id, self.log_tail());
            assert!(
                begin.elapsed() < PATIENCE,
                "node {} does not serve after {PATIENCE:?}; its log ends with\n{}",
                self.id,
                self.log_tail()
            );
            std::thread::sleep(POLL);
        }
    }

    /// An HTTP address on this node.
    #[must_use]
    pub fn url(&self, path_and_query: &str) -> String {
        format!("http://{}{path_and_query}", self.http_address())
    }

    /// What `/metrics` says.
    #[must_use]
    pub fn metrics(&self) -> String {
        curl(&[&self.url("/metrics")]).text()
    }

    /// A gRPC client of this node, connected when it is first used.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::of(self.client_address())
    }

    /// Moves its data directory away, as an operator who lost a disk would find it.
    pub fn take_data_dir(&mut self, to: &Path) {
        std::fs::rename(self.data_dir(), to).expect("both directories lie in the test's own one");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
