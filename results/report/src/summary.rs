//! What a person sees after a run: a page.
//!
//! Purpose: a record as aligned text, readable at a glance, verdict first and path last.
//! Invariants: nothing is computed here that the record does not hold; what is unknown shows as
//! `-`.
//! Must not depend on: how figures came about.

use std::fmt::Write as _;
use std::path::Path;

use crate::bottleneck;
use crate::run::{CpuPhase, Run};
use crate::verdict;

use holdfast_telemetry::units::{count, maybe_bytes, micros, per, total};
use holdfast_telemetry::wire::Latency;

/// The page after a run. `folder` is where its files are.
#[must_use]
pub fn page(run: &Run, folder: &Path) -> String {
    let c = &run.connections;
    let failed = total(&c.failed);
    let held = match run.hold.seconds {
        Some(seconds) => format!("held for {seconds:.0} s"),
        None => "open when it was cut short".into(),
    };
    let mut out = run.header.page(&format!(
        "{} of {} users {held}, {} failed, {} lost",
        count(c.held_at_end),
        count(c.asked),
        count(failed),
        count(c.lost)
    ));
    out.push('\n');
    let _ = writeln!(
        out,
        "  limit       {}",
        bottleneck::lines(&run.header.limits, "              ")
    );
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "  {name:<12}{text}");
    };
    row(
        "counts",
        format!(
            "client {}   server {}   kernel {}",
            count(c.held_at_end),
            count(c.server_open),
            count(c.kernel_established)
        ),
    );
    row(
        "ramp",
        format!(
            "{:.2} s   {}/s",
            run.ramp.seconds,
            count(run.ramp.per_second.round() as u64)
        ),
    );
    let m = &run.messages;
    row(
        "messages",
        format!(
            "sent {}   received {}   wrong {}   missed {}   {}/s (due {}/s)",
            m.sent.map_or("-".into(), count),
            count(m.received),
            count(m.wrong),
            count(m.missed),
            m.per_second.map_or("-".into(), |n| count(n.round() as u64)),
            count(m.due_per_second.round() as u64)
        ),
    );
    row("connect", latency(&run.latency_us.connect));
    let lateness = latency(&run.latency_us.lateness);
    let limit = micros(verdict::lateness_limit_us(run));
    row("lateness", format!("{lateness}   (limit p99.9 {limit})"));
    let memory = &run.memory;
    row(
        "memory",
        format!(
            "server {} a connection ({})   client {} ({})   slab {} a pair",
            per(memory.server_rss_bytes_per_connection),
            maybe_bytes(memory.server_rss_bytes),
            per(memory.client_rss_bytes_per_connection),
            maybe_bytes(memory.client_rss_bytes),
            per(memory.slab_bytes_per_pair)
        ),
    );
    row(
        "  growth",
        format!(
            "server {} a connection   client {}   machine {} a pair   least available {}",
            per(memory.server_rss_growth_bytes_per_connection),
            per(memory.client_rss_growth_bytes_per_connection),
            per(memory.machine_bytes_per_pair),
            maybe_bytes(memory.available_bytes_min)
        ),
    );
    row("cpu ramp", phase(run.cpu.ramp.as_ref()));
    row("cpu hold", phase(run.cpu.hold.as_ref()));
    let p = &run.processes;
    row(
        "processes",
        format!(
            "server {} threads, {} rings   client {} threads, {} rings",
            p.server.thread_count,
            p.server.shard_count,
            p.client.thread_count,
            p.client.shard_count
        ),
    );
    let hash = match run.header.lab.connection_hash_buckets {
        Some(n) if n > 0 => format!("{} connection buckets", count(n.unsigned_abs())),
        Some(n) => format!(
            "{} connection buckets shared with the host",
            count(n.unsigned_abs())
        ),
        None => "connection table unknown".into(),
    };
    row("network", format!("{}, {hash}", run.header.lab.namespace));
    for note in &run.header.lab.notes {
        row("", note.clone());
    }
    row("run", folder.display().to_string());
    out
}

fn latency(l: &Latency) -> String {
    if l.count == 0 {
        return "-".into();
    }
    format!(
        "p50 {}   p99 {}   p99.9 {}   max {}",
        micros(l.p50),
        micros(l.p99),
        micros(l.p999),
        micros(l.max)
    )
}

fn phase(cpu: Option<&CpuPhase>) -> String {
    cpu.map_or("-".into(), |cpu| {
        format!(
            "server {:.1} s   client {:.1} s   of {:.1} s   machine {:.0}% busy",
            cpu.server_seconds, cpu.client_seconds, cpu.seconds, cpu.machine_busy_percent
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_verdict_first_and_path_last() {
        let mut run = Run::default();
        run.header.reasons.push("1 of 2 users opened".into());
        let page = page(&run, Path::new("/runs/x"));
        assert!(page.starts_with("FAIL"));
        assert!(page.contains("- 1 of 2 users opened"));
        assert!(page.trim_end().ends_with("/runs/x"));
    }
}
