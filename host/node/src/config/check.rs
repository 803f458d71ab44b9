//! Settings that are fine each and wrong together, or out of any sensible range.

use super::{Config, adapter};
use mks_logic::limits::Limits;

/// A complaint: the settings that it is about (the first one says where to look), and what to do.
pub(super) type Complaint = (&'static [&'static str], String);

/// Fjall's keys end at 64 KiB, and escaping can double the partition key.
const KEY_BYTES_CEILING: usize = 16 << 10;
/// One gRPC message carries a whole batch; beyond this a node would stall on a single one.
const BATCH_BYTES_CEILING: usize = 1 << 30;
/// With less an engine spends its time on flushing and reading again.
const STORAGE_BYTES_FLOOR: u64 = 1 << 20;

impl Config {
    /// All complaints, in the order of the file's sections.
    pub(super) fn complaints(&self) -> Vec<Complaint> {
        let mut out = Vec::new();
        self.check_node(&mut out);
        self.check_listen(&mut out);
        self.check_cluster(&mut out);
        self.check_storage(&mut out);
        check_limits(&self.limits, &mut out);
        self.check_rest(&mut out);
        out
    }

    fn check_node(&self, out: &mut Vec<Complaint>) {
        let node = &self.node;
        if node.id.0 == 0 {
            out.push((&["node.id"], "is missing; give this node a number of its own, 1 or more (--id 1)".into()));
        }
        if node.data_dir.as_os_str().is_empty() {
            out.push((&["node.data_dir"], "is missing; say where this node keeps its data (--data-dir PATH)".into()));
        }
        in_range(out, &["node.weight"], node.weight.into(), 1, 10_000);
        in_range(out, &["node.workers"], node.workers as u64, 1, 256);
        if node.zone.len() > 64 {
            out.push((&["node.zone"], format!("is {} bytes, the longest is 64", node.zone.len())));
        }
    }

    fn check_listen(&self, out: &mut Vec<Complaint>) {
        let listen = &self.listen;
        let sockets: [(&'static [&'static str], _, _); 3] = [
            (&["listen.client", "listen.advertise_client"], listen.client, &listen.advertise_client),
            (&["listen.peer", "listen.advertise_peer"], listen.peer, &listen.advertise_peer),
            (&["listen.http", "listen.advertise_http"], listen.http, &listen.advertise_http),
        ];
        for (index, (fields, socket, advertised)) in sockets.iter().enumerate() {
            let twin = sockets[..index].iter().find(|(_, other, _)| other == socket && socket.port() != 0);
            if let Some((other, ..)) = twin {
                out.push((*fields, format!("is {socket}, and so is {}; each needs a port of its own", other[0])));
            }
            if let Some(address) = advertised {
                if let Err(reason) = host_port(address) {
                    out.push((&fields[1..], reason));
                }
            } else if socket.ip().is_unspecified() && listen.advertise.is_none() {
                out.push((
                    *fields,
                    format!(
                        "{socket} means every interface, which nobody can dial; set listen.advertise to this host's \
                         name or IP"
                    ),
                ));
            }
        }
        if let Some(host) = &listen.advertise
            && (host.is_empty() || host.contains([' ', '/']) || host_port(host).is_ok())
        {
            out.push((&["listen.advertise"], format!("is {host:?}, but must be a host name or IP without a port")));
        }
    }

    fn check_cluster(&self, out: &mut Vec<Complaint>) {
        let cluster = &self.cluster;
        if cluster.key.is_some() && cluster.key_file.is_some() {
            out.push((
                &["cluster.key", "cluster.key_file"],
                "and cluster.key_file are both set; keep one of them".into(),
            ));
        }
        if cluster.bootstrap && !cluster.join.is_empty() {
            out.push((
                &["cluster.bootstrap", "cluster.join"],
                "founds a new cluster, cluster.join enters an old one; keep bootstrap on one node only, and join on \
                 all others"
                    .into(),
            ));
        }
        for address in &cluster.join {
            if let Err(reason) = host_port(address) {
                out.push((&["cluster.join"], reason));
            }
        }
        in_range(out, &["cluster.expect"], cluster.expect.into(), 1, 1_000);
        in_range(out, &["cluster.partition_bits"], cluster.partition_bits.into(), 1, 16);
        in_range(out, &["cluster.epoch_period_s"], cluster.epoch_period_s, 1, 86_400);
    }

    fn check_storage(&self, out: &mut Vec<Complaint>) {
        let storage = &self.storage;
        for (fields, reason) in adapter::complaints(storage) {
            out.push((fields, reason));
        }
        in_range(out, &["storage.memory_bytes"], storage.memory_bytes, STORAGE_BYTES_FLOOR, 1 << 40);
        in_range(out, &["storage.reserve_bytes"], storage.reserve_bytes, 0, 1 << 40);
    }

    fn check_rest(&self, out: &mut Vec<Complaint>) {
        let gossip = &self.gossip;
        in_range(out, &["gossip.probe_period_ms"], gossip.probe_period_ms, 10, 60_000);
        in_range(out, &["gossip.probe_timeout_ms"], gossip.probe_timeout_ms, 1, 60_000);
        in_range(out, &["gossip.gossip_period_ms"], gossip.gossip_period_ms, 10, 60_000);
        in_range(out, &["gossip.announce_period_ms"], gossip.announce_period_ms, 10, 3_600_000);
        in_range(out, &["gossip.fanout"], gossip.fanout.into(), 1, 16);
        at_most(out, &["gossip.probe_period_ms", "gossip.suspicion_ms"], gossip.probe_period_ms, gossip.suspicion_ms);
        if gossip.probe_timeout_ms >= gossip.probe_period_ms {
            let (timeout, period) = (gossip.probe_timeout_ms, gossip.probe_period_ms);
            out.push((
                &["gossip.probe_timeout_ms", "gossip.probe_period_ms"],
                format!(
                    "is {timeout}, but must be less than gossip.probe_period_ms ({period}): others are asked within it"
                ),
            ));
        }
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&self.log.level) {
            let level = &self.log.level;
            out.push((
                &["log.level"],
                format!("{level:?} is no log level ({error}); use error, warn, info, debug or trace"),
            ));
        }
    }
}

fn check_limits(limits: &Limits, out: &mut Vec<Complaint>) {
    let all = u64::MAX;
    in_range(out, &["limits.key_bytes_max"], limits.key_bytes_max as u64, 1, KEY_BYTES_CEILING as u64);
    in_range(out, &["limits.value_bytes_max"], limits.value_bytes_max as u64, 1, all);
    in_range(out, &["limits.batch_items_max"], limits.batch_items_max as u64, 1, all);
    in_range(out, &["limits.batch_bytes_max"], limits.batch_bytes_max as u64, 1, BATCH_BYTES_CEILING as u64);
    in_range(out, &["limits.operations_max"], limits.operations_max as u64, 1, 1 << 24);
    in_range(out, &["limits.deadline_default_ms"], limits.deadline_default_ms, 1, all);
    in_range(out, &["limits.deadline_max_ms"], limits.deadline_max_ms, 1, 3_600_000);
    in_range(out, &["limits.hedge_after_ms"], limits.hedge_after_ms, 1, 60_000);
    in_range(out, &["limits.hedge_after_min_ms"], limits.hedge_after_min_ms, 0, 60_000);
    in_range(out, &["limits.stand_in_after_ms"], limits.stand_in_after_ms, 1, 60_000);
    in_range(out, &["limits.request_ids_max"], limits.request_ids_max as u64, 1, 1 << 24);
    in_range(out, &["limits.clock_offset_max_ms"], limits.clock_offset_max_ms, 1, 60_000);
    in_range(out, &["limits.disk_jobs_max"], limits.disk_jobs_max as u64, 16, 1 << 24);
    in_range(out, &["limits.early_messages_max"], limits.early_messages_max as u64, 1, 1 << 20);
    in_range(out, &["limits.lingering_max"], limits.lingering_max as u64, 0, 1 << 24);
    in_range(out, &["limits.repair_after_ms"], limits.repair_after_ms, 1, 60_000);
    in_range(out, &["limits.repairs_max"], limits.repairs_max as u64, 0, 1 << 20);
    in_range(out, &["limits.hint_after_ms"], limits.hint_after_ms, 1, 60_000);
    in_range(out, &["limits.hint_window_max"], limits.hint_window_max as u64, 1, 1 << 16);
    in_range(out, &["limits.hint_window_bytes_max"], limits.hint_window_bytes_max as u64, 1, 64 << 20);
    in_range(out, &["limits.hint_retry_ms"], limits.hint_retry_ms, 1, 3_600_000);
    in_range(out, &["limits.move_retry_ms"], limits.move_retry_ms, 1, 3_600_000);
    check_sync(limits, out);
    let pairs: [(&'static [&'static str], u64, u64); 5] = [
        (
            &["limits.value_bytes_max", "limits.batch_bytes_max"],
            limits.value_bytes_max as u64,
            limits.batch_bytes_max as u64,
        ),
        (
            &["limits.batch_bytes_max", "limits.operations_bytes_max"],
            limits.batch_bytes_max as u64,
            limits.operations_bytes_max as u64,
        ),
        (
            &["limits.batch_items_max", "limits.operations_max"],
            limits.batch_items_max as u64,
            limits.operations_max as u64,
        ),
        (&["limits.deadline_default_ms", "limits.deadline_max_ms"], limits.deadline_default_ms, limits.deadline_max_ms),
        (&["limits.hedge_after_min_ms", "limits.hedge_after_ms"], limits.hedge_after_min_ms, limits.hedge_after_ms),
    ];
    for (fields, small, large) in pairs {
        at_most(out, fields, small, large);
    }
}

/// Comparisons with other owners.
fn check_sync(limits: &Limits, out: &mut Vec<Complaint>) {
    in_range(out, &["limits.sync_period_ms"], limits.sync_period_ms, 100, 30 * 86_400_000);
    in_range(out, &["limits.sync_sessions_max"], limits.sync_sessions_max as u64, 1, 256);
    in_range(out, &["limits.sync_served_max"], limits.sync_served_max as u64, 1, 1_024);
    in_range(out, &["limits.sync_bytes_per_second"], limits.sync_bytes_per_second, 16 << 10, 1 << 40);
    in_range(out, &["limits.sync_message_bytes_max"], limits.sync_message_bytes_max as u64, 16 << 10, 4 << 20);
    in_range(out, &["limits.sync_steps_max"], limits.sync_steps_max.into(), 8, 1 << 24);
    in_range(out, &["limits.sync_answer_ms"], limits.sync_answer_ms, 100, 3_600_000);
    in_range(out, &["limits.sync_quiet_ms"], limits.sync_quiet_ms, 0, 3_600_000);
    in_range(out, &["limits.scrub_period_ms"], limits.scrub_period_ms, 1_000, 365 * 86_400_000);
    in_range(out, &["limits.scrub_bytes_per_second"], limits.scrub_bytes_per_second, 0, 1 << 40);
}

fn in_range(out: &mut Vec<Complaint>, fields: &'static [&'static str], value: u64, min: u64, max: u64) {
    if value < min {
        out.push((fields, format!("is {value}, the least is {min}")));
    } else if value > max {
        out.push((fields, format!("is {value}, the most is {max}")));
    }
}

fn at_most(out: &mut Vec<Complaint>, fields: &'static [&'static str], small: u64, large: u64) {
    if small > large {
        out.push((
            fields,
            format!("is {small}, more than {} ({large}); lower the first or raise the second", fields[1]),
        ));
    }
}

/// Checks the form of an address that is dialled later; whether the name exists shows then.
fn host_port(address: &str) -> Result<(), String> {
    let wrong = || Err(format!("{address:?} is not host:port, as in 10.0.0.7:7401"));
    let Some((host, port)) = address.rsplit_once(':') else { return wrong() };
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() && !host.contains([' ', '/']) && !bare_ipv6 => Ok(()),
        _ => wrong(),
    }
}
