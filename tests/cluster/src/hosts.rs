//! Hosts of their own for nodes: network namespaces on one bridge, whose cables can be cut.
//!
//! ```text
//! this process --- hub (a namespace with a bridge and nft rules) --- host 1, host 2, ... (a namespace each)
//! ```
//!
//! The test reaches every host through the hub, whatever is cut between two hosts. There is no way out of it.
//! Everything is named after the process: it goes when [`Hosts`] is dropped, and what a killed test run left goes at
//! the next one.

use crate::command::run;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Namespaces are named so, then the process, then a number.
const PREFIX: &str = "mks-test-";
/// The host of the test itself; nodes have their ids.
const OUTSIDE: u8 = 254;
/// A network for measurements, which is routed nowhere (RFC 2544); the third byte is ours.
const NETWORK: [u8; 2] = [198, 18];
/// One table in the hub, seen by every packet between two hosts.
const RULES: &str =
    "table bridge cuts {\n chain forward {\n type filter hook forward priority 0; policy accept;\n }\n}\n";

/// A hub and hosts. Dropping it removes them.
#[derive(Debug)]
pub struct Hosts {
    /// What all names begin with.
    name: String,
    network: [u8; 3],
    count: u8,
}

impl Hosts {
    /// Hosts for nodes 1 to `count`.
    ///
    /// # Errors
    /// Why there can be none here: no rights, no `ip`, no `nft`, a kernel without bridges.
    pub fn make(count: u8) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = free_network(process + number)?;
        // Whatever is made from here on is removed by dropping it, also when the next step fails.
        let hosts = Self { name: format!("{PREFIX}{process}-{number}-"), network, count };
        let (hub, outside) = (hosts.hub(), format!("mks{process}o{number}"));
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "hub", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "hub", "up"])?;
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", "outside", "netns", &hub])?;
        ip(&["-n", &hub, "link", "set", "outside", "master", "hub", "up"])?;
        ip(&["address", "add", &format!("{}/24", hosts.address(OUTSIDE)), "dev", &outside])?;
        ip(&["link", "set", &outside, "up"])?;
        for host in 1..=count {
            let (name, port) = (hosts.namespace(host), format!("port{host}"));
            ip(&["netns", "add", &name])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "hub", "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{}/24", hosts.address(host)), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        hosts.rules(RULES)?;
        Ok(hosts)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.name)
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: u8) -> String {
        format!("{}{host}", self.name)
    }

    /// The address of a host.
    #[must_use]
    pub fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, host)
    }

    /// The first three bytes of all addresses.
    pub(crate) fn network(&self) -> [u8; 3] {
        self.network
    }

    /// From now on nothing that `from` sends reaches `to`; the other direction is as it was.
    ///
    /// # Panics
    /// When the rule can't be made: others could.
    pub fn cut(&self, from: u8, to: u8) {
        let (from, to) = (self.address(from), self.address(to));
        let rule = format!("add rule bridge cuts forward ip saddr {from} ip daddr {to} drop");
        self.rules(&rule).expect("a rule like the first ones");
    }

    /// Cuts a host off from all others, both ways.
    pub fn isolate(&self, host: u8) {
        for other in (1..=self.count).filter(|other| *other != host) {
            self.cut(host, other);
            self.cut(other, host);
        }
    }

    /// Every cable is whole again.
    ///
    /// # Panics
    /// See [`Hosts::cut`].
    pub fn heal(&self) {
        self.rules("flush chain bridge cuts forward").expect("rules can go as they came");
    }

    fn rules(&self, text: &str) -> Result<(), String> {
        let output = run("ip", &["netns", "exec", &self.hub(), "nft", "-f", "-"], text.as_bytes());
        if output.status == 0 { Ok(()) } else { Err(format!("nft refused a rule: {}", first_line(&output.stderr))) }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let mut names: Vec<String> = (1..=self.count).map(|host| self.namespace(host)).collect();
        names.push(self.hub());
        // The other ends of their cables go with them.
        names.iter().for_each(|name| remove(name));
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = run("ip", arguments, b"");
    let line = || {
        arguments.iter().fold(String::from("ip"), |mut line, word| {
            write!(line, " {word}").expect("a string grows");
            line
        })
    };
    if output.status == 0 { Ok(()) } else { Err(format!("{}: {}", line(), first_line(&output.stderr))) }
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or("it said nothing")
}

fn namespaces() -> Vec<String> {
    let listed = run("ip", &["netns", "list"], b"").text();
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(ToOwned::to_owned).collect()
}

/// Removes a namespace of ours. Processes in it are nodes of a test that is over: they end first.
fn remove(name: &str) {
    let left = run("ip", &["netns", "pids", name], b"").text();
    for process in left.split_whitespace() {
        drop(run("kill", &["-KILL", process], b""));
    }
    drop(run("ip", &["netns", "delete", name], b""));
}

/// Removes what test runs left that were killed themselves.
fn sweep() {
    for name in namespaces() {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(process) = process.and_then(|process| process.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{process}")).exists() {
            remove(&name);
        }
    }
}

/// A network that no interface of this machine is in.
fn free_network(start: u32) -> Result<[u8; 3], String> {
    let taken = run("ip", &["-4", "address", "show"], b"");
    if taken.status != 0 {
        return Err(format!("ip can't show addresses: {}", first_line(&taken.stderr)));
    }
    let taken = taken.text();
    let [a, b] = NETWORK;
    (0..250)
        .map(|offset| ((start + offset) % 250 + 1) as u8)
        .find(|c| !taken.contains(&format!(" {a}.{b}.{c}.")))
        .map(|c| [a, b, c])
        .ok_or_else(|| format!("no network in {a}.{b}.0.0/16 is free"))
}
