//! The limits of a long-connection run.
//!
//! Purpose: what cost users, what cost time, what was full, and what was asked for, in this order.
//! Invariants: those of [`super`]. What happened while all was closed limits nothing and is left
//! out.
//! Must not depend on: verdicts.

use holdfast_sysctl::cost::MEMORY_RESERVED_CGROUP_BYTES;

use super::hint::{raise, said, tune};
use super::{Bottleneck, BottleneckKind, Findings, cpu, share, weight};
use crate::run::{ProcessRecord, Run};

use holdfast_telemetry::units::{bytes, count, total};

/// A machine with less left than this is at its end.
const AVAILABLE_BYTES_LOW: u64 = 256 << 20;
/// A rate or a number of messages that is within this of what was asked for is what was asked for.
const KEPT: f64 = 0.97;
/// The same in time, for ramps of a second or two.
const KEPT_SECONDS: f64 = 0.15;
/// A table this full is a limit before it drops anything.
const TABLE_FULL: f64 = 0.95;

/// Everything that held `run` back, first things first.
#[must_use]
pub fn of_longconn(run: &Run) -> Vec<Bottleneck> {
    let mut found = Findings::default();
    let c = &run.connections;
    let is_whole = c.asked > 0
        && c.opened == c.asked
        && c.lost == 0
        && total(&c.failed) == 0
        && run.header.incidents.is_empty();
    let is_late = is_late(run);
    let is_paced = is_whole
        && run.asked.spawn_rate_per_second.is_some_and(|rate| {
            let due = run.asked.users as f64 / rate;
            run.ramp.seconds <= due / KEPT + KEPT_SECONDS
        });
    addresses(&mut found, run);
    descriptors(&mut found, run);
    memory(&mut found, run);
    socket_memory(&mut found, run);
    queues(&mut found, run);
    conntrack(&mut found, run);
    time_wait(&mut found, run);
    cpu::add(&mut found, run, !is_paced, is_late);
    if is_paced {
        let rate = run.asked.spawn_rate_per_second.unwrap_or_default();
        let evidence = format!(
            "kept the {} users a second asked for (all {} in {:.2} s): nothing limited it but --rate",
            rate,
            count(c.opened),
            run.ramp.seconds
        );
        let next = format!("holdfast-bench longconn --users {} --rate max", c.asked);
        let weight = if is_late {
            weight::PRESENT
        } else {
            weight::ASKED
        };
        found.add(weight, BottleneckKind::AskedRate, None, evidence, next);
    }
    let has_cause = found.0.iter().any(|(weight, _)| *weight >= weight::SLOWED);
    if !has_cause && is_whole && !is_late && run.asked.spawn_rate_per_second.is_none() {
        let evidence = format!(
            "all {} users opened in {:.2} s and were held, and nothing that is watched was full",
            count(c.opened),
            run.ramp.seconds
        );
        let next = format!(
            "holdfast-bench longconn --users {}",
            c.asked.saturating_mul(10)
        );
        found.add(
            weight::ASKED,
            BottleneckKind::AskedUsers,
            None,
            evidence,
            next,
        );
    } else if !has_cause && !is_paced {
        found.add(
            weight::SLOWED,
            BottleneckKind::Unknown,
            None,
            unknown(run),
            "see the reasons, series.csv and *.stderr.log in the run's folder".into(),
        );
    }
    found.into_list()
}

/// Heartbeats fell behind.
fn is_late(run: &Run) -> bool {
    let m = &run.messages;
    let has_round = run
        .hold
        .seconds
        .is_some_and(|s| s >= run.asked.every_seconds);
    m.missed > 0
        || (has_round
            && m.per_second
                .is_some_and(|rate| rate < KEPT * m.due_per_second))
}

fn unknown(run: &Run) -> String {
    let c = &run.connections;
    let why = match &run.header.incidents[..] {
        [first, ..] => first.clone(),
        [] => format!(
            "{} of {} users opened in {:.2} s",
            count(c.opened),
            count(c.asked),
            run.ramp.seconds
        ),
    };
    let busy = run
        .cpu
        .machine_busy_percent
        .or(run.cpu.ramp.map(|p| p.machine_busy_percent));
    let busy = busy.map_or_else(String::new, |busy| format!(", all cores {busy:.0}% busy"));
    format!("{why}; nothing that is watched was full{busy}")
}

fn kind(map: &std::collections::BTreeMap<String, u64>, name: &str) -> u64 {
    map.get(name).copied().unwrap_or(0)
}

fn addresses(found: &mut Findings, run: &Run) {
    let c = &run.connections;
    let failed = kind(&c.failed, "no_address_left");
    if failed == 0 {
        return;
    }
    let cost = share(failed, c.asked);
    let evidence = format!(
        "{} of {} attempts found no combination of source address and port left; {} tries met a port in use{}",
        count(failed),
        count(c.asked),
        count(kind(&run.processes.client.anomalies, "address_in_use")),
        said(&run.header.lab, "net.ipv4.ip_local_port_range")
    );
    let next = "more source addresses, holdfast-bench longconn --source 127.0.1.0/24 (or without --source), and more ports (the client's --ports)".into();
    found.add(
        weight::COST + cost / 10.0,
        BottleneckKind::Ports,
        Some(cost),
        evidence,
        next,
    );
    let resting = run.kernel.time_wait_load_max;
    if resting >= failed {
        let evidence = format!(
            "up to {} connections in TIME_WAIT held ports while {} attempts found none",
            count(resting),
            count(failed)
        );
        let next = "more source addresses: holdfast-bench longconn --source 127.0.1.0/24".into();
        found.add(
            weight::COST + cost / 10.0 + 0.01,
            BottleneckKind::TimeWait,
            Some(cost),
            evidence,
            next,
        );
    }
}

fn descriptors(found: &mut Findings, run: &Run) {
    let c = &run.connections;
    let client = kind(&c.failed, "no_descriptor");
    let server = kind(&c.server_accept_failed, "no_descriptor");
    if client + server > 0 {
        let cost = share(client.saturating_add(server), c.asked);
        let limits = run.header.machine.rlimit_nofile;
        let evidence = format!(
            "{} attempts of the client and {} accepts of the server found no descriptor; limits {} soft, {} hard",
            count(client),
            count(server),
            count(limits.soft),
            count(limits.hard)
        );
        let next = "raise the limit: ulimit -Hn 1048576 as root, or holdfast-tune apply --persist and log in again".into();
        found.add(
            weight::COST + cost / 10.0,
            BottleneckKind::Descriptors,
            Some(cost),
            evidence,
            next,
        );
    }
    if c.server_refused_full > 0 {
        let cost = share(c.server_refused_full, c.asked);
        let evidence = format!(
            "the server turned {} connections away because it was full",
            count(c.server_refused_full)
        );
        let next =
            "a server that agrees to hold more: holdfast-server longconn --connections COUNT"
                .into();
        found.add(
            weight::COST + cost / 10.0,
            BottleneckKind::ServerCapacity,
            Some(cost),
            evidence,
            next,
        );
    }
}

fn memory(found: &mut Findings, run: &Run) {
    let c = &run.connections;
    let refused =
        kind(&c.failed, "no_memory").saturating_add(kind(&c.server_accept_failed, "no_memory"));
    let is_killed = |p: &ProcessRecord| p.signal == Some(9);
    let killed: Vec<&str> = [
        ("server", &run.processes.server),
        ("client", &run.processes.client),
    ]
    .into_iter()
    .filter(|(_, process)| run.kernel.oom_kills > 0 && is_killed(process))
    .map(|(name, _)| name)
    .collect();
    let available = run.memory.available_bytes_min;
    let cgroup = run.memory.cgroup_left_bytes_min;
    let is_cgroup_low = cgroup.is_some_and(|left| left < MEMORY_RESERVED_CGROUP_BYTES);
    let is_machine_low = available.is_some_and(|left| left < AVAILABLE_BYTES_LOW);
    if killed.is_empty() && refused == 0 && !is_cgroup_low && !is_machine_low {
        return;
    }
    let mut said = Vec::new();
    if !killed.is_empty() {
        said.push(format!(
            "the kernel killed the {} for memory",
            killed.join(" and the ")
        ));
    }
    if refused > 0 {
        said.push(format!("{} attempts or accepts found none", count(refused)));
    }
    let (what, left, next) = if is_cgroup_low && !is_machine_low {
        (
            BottleneckKind::MemoryCgroup,
            cgroup,
            "raise the control group's limit (memory.max, or memory.limit_in_bytes), or ask for fewer --users",
        )
    } else {
        (
            BottleneckKind::Memory,
            available,
            "fewer --users, or more memory: holdfast-tune plan --max says how many fit",
        )
    };
    if let Some(left) = left {
        said.push(format!("{} left at the least", bytes(left)));
    }
    let cost = if killed.is_empty() {
        share(refused, c.asked)
    } else {
        1.0
    };
    // What was low and cost nobody anything is still what stops more users.
    let weight = if cost > 0.0 {
        weight::COST
    } else {
        weight::SLOWED
    };
    found.add(
        weight + cost / 10.0,
        what,
        (cost > 0.0).then_some(cost),
        said.join(", "),
        next.into(),
    );
}

fn socket_memory(found: &mut Findings, run: &Run) {
    let k = &run.kernel;
    let aborted = kind(&k.load_counters, "TCPAbortOnMemory");
    let entered = kind(&k.load_counters, "TCPMemoryPressures");
    if aborted == 0 && entered == 0 && k.tcp_mem_pressure_seconds == 0 {
        return;
    }
    let seconds = run.ramp.seconds + run.hold.seconds.unwrap_or(0.0);
    let lasted = (k.tcp_mem_pressure_seconds as f64 / seconds.max(1.0)).min(1.0);
    let marks = run
        .header
        .machine
        .tcp_mem_pages
        .map_or_else(String::new, |[low, pressure, most]| {
            format!(" of net.ipv4.tcp_mem {low} {pressure} {most}")
        });
    let evidence = format!(
        "up to {} pages{marks}; under pressure in {} samples of {seconds:.0} s, entered {} times, {} connections aborted for it",
        count(k.tcp_mem_pages_max),
        count(k.tcp_mem_pressure_seconds),
        count(entered),
        count(aborted)
    );
    let cost = share(aborted, run.connections.asked);
    let (weight, share) = if aborted > 0 {
        (weight::COST + cost / 10.0, cost)
    } else {
        (weight::SLOWED + 0.2 * lasted, lasted)
    };
    let wanted = raise(&run.header.lab, "net.ipv4.tcp_mem", run.connections.asked);
    let next = wanted.unwrap_or_else(|| tune(run.connections.asked));
    found.add(
        weight,
        BottleneckKind::SocketMemory,
        Some(share),
        evidence,
        next,
    );
}

fn queues(found: &mut Findings, run: &Run) {
    let asked = run.connections.asked;
    let counter = |name: &str| kind(&run.kernel.load_counters, name);
    let add = |found: &mut Findings, dropped: u64, what, evidence, next| {
        let cost = share(dropped, asked).min(1.0);
        let weight = weight::SLOWED + (2.0 * cost).min(0.2);
        found.add(weight, what, Some(cost), evidence, next);
    };
    let overflows = counter("ListenOverflows");
    if overflows > 0 {
        let key = "net.core.somaxconn";
        let evidence = format!(
            "it was full {} times (ListenOverflows), {} SYNs were sent again after a second or more{}",
            count(overflows),
            count(counter("TCPSynRetrans")),
            said(&run.header.lab, key)
        );
        let next = raise(&run.header.lab, key, asked).unwrap_or_else(|| {
            "the server accepts too slowly: more --server-threads, or a lower --rate".into()
        });
        add(
            found,
            overflows,
            BottleneckKind::AcceptQueue,
            evidence,
            next,
        );
    }
    let (full, cookies) = (counter("TCPReqQFullDrop"), counter("SyncookiesSent"));
    let other = counter("ListenDrops").saturating_sub(overflows);
    let dropped = full.saturating_add(other);
    if dropped.saturating_add(cookies) > 0 {
        let key = "net.ipv4.tcp_max_syn_backlog";
        let evidence = format!(
            "{} SYNs dropped (TCPReqQFullDrop), {} other drops at the listener, {} SYNs answered with cookies{}",
            count(full),
            count(other),
            count(cookies),
            said(&run.header.lab, key)
        );
        let next = raise(&run.header.lab, key, asked)
            .unwrap_or_else(|| "a lower --rate, or more --server-threads".into());
        let cost = share(dropped, asked).min(1.0);
        // A cookie costs nobody time. And half-open connections pile up where the accept queue
        // takes none: that is the cause then.
        let weight = match (dropped, overflows) {
            (0, _) => weight::PRESENT,
            (_, 0) => weight::SLOWED + (2.0 * cost).min(0.2),
            _ => weight::SLOWED - 0.1,
        };
        found.add(weight, BottleneckKind::SynQueue, Some(cost), evidence, next);
    }
    if run.kernel.packets_dropped > 0 {
        let evidence = format!(
            "{} packets dropped because a core's queue of arrived ones was full (softnet_stat)",
            count(run.kernel.packets_dropped)
        );
        let next = format!("{} (net.core.netdev_max_backlog)", tune(asked));
        add(
            found,
            run.kernel.packets_dropped,
            BottleneckKind::PacketBacklog,
            evidence,
            next,
        );
    }
}

fn conntrack(found: &mut Findings, run: &Run) {
    let k = &run.kernel;
    let full = k
        .conntrack_count_max
        .zip(k.conntrack_max)
        .map(|(n, max)| share(n, max));
    if k.conntrack_drops == 0 && full.is_none_or(|full| full < TABLE_FULL) {
        return;
    }
    let evidence = format!(
        "{} packets dropped for want of room in the firewall's table; up to {} connections of {} tracked",
        count(k.conntrack_drops),
        k.conntrack_count_max.map_or("-".into(), count),
        k.conntrack_max.map_or("-".into(), count)
    );
    let weight = if k.conntrack_drops > 0 {
        weight::COST
    } else {
        weight::SLOWED
    };
    let key = "net.netfilter.nf_conntrack_max";
    let next = raise(&run.header.lab, key, run.connections.asked)
        .unwrap_or_else(|| tune(run.connections.asked));
    found.add(weight, BottleneckKind::Conntrack, full, evidence, next);
}

fn time_wait(found: &mut Findings, run: &Run) {
    let overflows = kind(&run.kernel.load_counters, "TCPTimeWaitOverflow");
    if overflows > 0 {
        let key = "net.ipv4.tcp_max_tw_buckets";
        let evidence = format!(
            "its table was full {} times (TCPTimeWaitOverflow){}",
            count(overflows),
            said(&run.header.lab, key)
        );
        let next = raise(&run.header.lab, key, run.connections.asked)
            .unwrap_or_else(|| tune(run.connections.asked));
        found.add(
            weight::PRESENT,
            BottleneckKind::TimeWait,
            None,
            evidence,
            next,
        );
    }
}

#[cfg(test)]
mod tests;
