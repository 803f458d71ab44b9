//! Who spent how much CPU, from `/proc`: the nodes, ourselves, and everybody else on the machine.

use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// `/proc` counts in ticks of 1/100 s on every architecture that Rust runs Linux on (USER_HZ).
const TICK_US: u64 = 10_000;

/// A node on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its process id.
    pub(super) pid: u32,
    /// Where it listens, if that is how it was found.
    pub(super) address: String,
}

/// CPU time so far, microseconds.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    servers: Vec<Option<u64>>,
    own: u64,
    machine: u64,
}

impl Sample {
    /// Now. What can't be read (a node that died) is `None` and stays so.
    pub(super) fn take(servers: &[Process]) -> Self {
        Self {
            servers: servers.iter().map(|server| process_us(&server.pid.to_string())).collect(),
            own: process_us("self").unwrap_or(0),
            machine: read("/proc/stat").as_deref().and_then(machine_us).unwrap_or(0),
        }
    }

    /// What was spent between two samples that lie `elapsed` apart.
    pub(super) fn since(&self, earlier: &Self, elapsed: Duration) -> Spent {
        let pairs = self.servers.iter().zip(&earlier.servers);
        let servers: Vec<_> = pairs.map(|(now, then)| Some((*now)?.saturating_sub((*then)?))).collect();
        let client = self.own.saturating_sub(earlier.own);
        let ours = client + servers.iter().flatten().sum::<u64>();
        let foreign = self.machine.saturating_sub(earlier.machine).saturating_sub(ours);
        Spent { servers, client, foreign_cores: foreign as f64 / elapsed.as_micros().max(1) as f64 }
    }
}

/// CPU time of an interval, microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spent {
    /// One per node, in the order of the sample; `None`: it could not be read both times.
    pub(super) servers: Vec<Option<u64>>,
    /// Ours.
    pub(super) client: u64,
    /// Cores busy with anything else: above 0.2 the figures are not worth much.
    pub(super) foreign_cores: f64,
}

impl Spent {
    /// All nodes together; `None` when there are none or one of them is unknown.
    pub(super) fn all_servers(&self) -> Option<u64> {
        if self.servers.is_empty() { None } else { self.servers.iter().copied().sum() }
    }
}

/// What one process spent, for the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ServerCpu {
    pub(super) pid: u32,
    pub(super) address: String,
    pub(super) cpu_us_per_op: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
}

/// User and system time of a process with all its threads, also those that ended.
fn process_us(pid: &str) -> Option<u64> {
    stat_us(&read(format!("/proc/{pid}/stat"))?)
}

fn stat_us(stat: &str) -> Option<u64> {
    // The name may hold anything, also `)` and blanks: what follows its last `)` is fields.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_US)
}

/// Time that all cores were not idle.
fn machine_us(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq + steal) * TICK_US)
}

/// Resident memory of a process.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = read(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The processes on this machine that listen on these addresses; addresses elsewhere have none.
pub(super) fn listeners(addresses: &[String]) -> Vec<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| read(path).unwrap_or_default());
    let sockets: Vec<_> = tables.iter().flat_map(|table| listening(table)).collect();
    let mut wanted = BTreeMap::new();
    for address in addresses {
        let Ok(targets) = address.to_socket_addrs() else { continue };
        let socket = targets.into_iter().find_map(|target| sockets.iter().find(|(bound, _)| serves(*bound, target)));
        if let Some((_, inode)) = socket {
            wanted.insert(format!("socket:[{inode}]"), address.clone());
        }
    }
    owners(&wanted)
}

/// Whether a listener bound to `bound` is the one that a connection to `target` reaches.
fn serves(bound: SocketAddr, target: SocketAddr) -> bool {
    bound.port() == target.port()
        && (bound.ip() == target.ip() || (bound.ip().is_unspecified() && target.ip().is_loopback()))
}

/// Local address and inode of every listening socket of a `/proc/net/tcp` table.
fn listening(table: &str) -> Vec<(SocketAddr, u64)> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            if *state == LISTEN { Some((socket_address(local)?, inode.parse().ok()?)) } else { None }
        })
        .collect()
}

/// `0100007F:1CE8`: the kernel prints each 32-bit word as it lies in memory.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

/// Which processes hold these sockets. Processes of other users can't be looked into and are passed over.
fn owners(wanted: &BTreeMap<String, String>) -> Vec<Process> {
    let mut found = BTreeMap::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for file in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(file.path()) else { continue };
            if let Some(address) = target.to_str().and_then(|name| wanted.get(name)) {
                found.insert(pid, address.clone());
            }
        }
    }
    found.into_iter().map(|(pid, address)| Process { pid, address }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 1 77 77 0 -1 4194304 100 0 0 0 250 50 7 7 20 0 4 0 100 1 1";
        assert_eq!(stat_us(stat), Some(3_000_000));
        assert_eq!(stat_us("77 (mks"), None);
    }

    #[test]
    fn idle_and_waiting_for_disks_is_not_busy() {
        assert_eq!(machine_us("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 1\n"), Some((1 + 2 + 3 + 6 + 7 + 8) * TICK_US));
        assert_eq!(machine_us("intr 1 2 3"), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_of_the_kernel_tables_read_well() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 \
                     00:00000000 00000000     0        0 1234 1\n   1: 0100007F:1CE9 00000000:0000 01 0:0 0:0 0 0 0 \
                     99 1\n";
        assert_eq!(listening(table), [("127.0.0.1:7400".parse().unwrap(), 1_234)]);
        let v6 = socket_address("00000000000000000000000001000000:1CE8").unwrap();
        assert_eq!(v6, "[::1]:7400".parse().unwrap());
        assert_eq!(socket_address("zz:1"), None);
    }

    #[test]
    fn the_owner_of_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let found = listeners(std::slice::from_ref(&address));
        assert_eq!(found, [Process { pid: std::process::id(), address }]);
        assert!(resident_bytes(std::process::id()).unwrap() > 100 << 10);
    }

    #[test]
    fn a_node_that_cannot_be_read_makes_the_sum_unknown() {
        let spent = |servers| Spent { servers, client: 0, foreign_cores: 0.0 };
        assert_eq!(spent(vec![Some(1), Some(2)]).all_servers(), Some(3));
        assert_eq!(spent(vec![Some(1), None]).all_servers(), None);
        assert_eq!(spent(vec![]).all_servers(), None);
    }
}
