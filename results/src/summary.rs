//! What a person sees: the page after a run, and the line during it.
//!
//! Purpose: a record as aligned text, readable at a glance, verdict first and path last.
//! Invariants: nothing is computed here that the record does not hold; what is unknown shows as `-`.
//! Must not know: how figures came about.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::limit;
use crate::run::{CpuPhase, Run, Verdict, total};
use crate::wire::Latency;

pub use holdfast_sysctl::grouped as count;

/// Bytes in the unit that reads best.
#[must_use]
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    let gib = f64::from(1u32 << 30);
    let mib = f64::from(1u32 << 20);
    if n >= gib {
        format!("{:.1} GiB", n / gib)
    } else {
        format!("{:.1} MiB", n / mib)
    }
}

/// Microseconds in the unit that reads best.
#[must_use]
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

fn per(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| {
        if v < 1_000.0 {
            format!("{v:.1} B")
        } else {
            format!("{} B", count(v.round() as u64))
        }
    })
}

fn maybe_bytes(value: Option<u64>) -> String {
    value.map_or("-".into(), bytes)
}

/// The page after a run. `folder` is where its files are.
#[must_use]
pub fn page(run: &Run, folder: &Path) -> String {
    let mut out = String::new();
    let c = &run.connections;
    let failed = total(&c.failed);
    let verdict = match run.verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
    };
    let held = match run.hold.seconds {
        Some(seconds) => format!("held for {seconds:.0} s"),
        None => "open when it was cut short".into(),
    };
    let _ = writeln!(
        out,
        "{verdict}  {}: {} of {} users {held}, {} failed, {} lost",
        run.name,
        count(c.held_at_end),
        count(c.asked),
        count(failed),
        count(c.lost)
    );
    for reason in &run.reasons {
        let _ = writeln!(out, "      - {reason}");
    }
    out.push('\n');
    let _ = writeln!(
        out,
        "  limit       {}",
        limit::lines(&run.limits, "              ")
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
    row("lateness", latency(&run.latency_us.lateness));
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
    let hash = match run.lab.connection_hash_buckets {
        Some(n) if n > 0 => format!("{} connection buckets", count(n.unsigned_abs())),
        Some(n) => format!(
            "{} connection buckets shared with the host",
            count(n.unsigned_abs())
        ),
        None => "connection table unknown".into(),
    };
    row("network", format!("{}, {hash}", run.lab.namespace));
    for note in &run.lab.notes {
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

/// The line during a run, on standard error: rewritten on a terminal, otherwise a new one every few seconds.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    shown: Option<Instant>,
}

/// What the line shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Glance<'a> {
    /// Phase of the run.
    pub phase: &'a str,
    /// Seconds since the start.
    pub seconds: f64,
    /// Connections open.
    pub open: u64,
    /// Users asked for.
    pub asked: u64,
    /// Opened a second, lately.
    pub opened_per_second: f64,
    /// Messages received a second, lately.
    pub messages_per_second: f64,
    /// Attempts that failed.
    pub failed: u64,
    /// Memory available.
    pub available_bytes: u64,
}

impl Progress {
    /// For this process's standard error.
    #[must_use]
    pub fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            shown: None,
        }
    }

    /// Shows `glance`; `is_change` forces a line where lines are rationed.
    pub fn show(&mut self, glance: &Glance<'_>, is_change: bool) {
        self.show_line(&glance.line(), is_change);
    }

    /// Shows any line; `is_change` forces it where lines are rationed.
    pub fn show_line(&mut self, line: &str, is_change: bool) {
        const LINE_EVERY: Duration = Duration::from_secs(5);
        if !self.is_terminal && !is_change && self.shown.is_some_and(|at| at.elapsed() < LINE_EVERY)
        {
            return;
        }
        self.shown = Some(Instant::now());
        let mut stderr = std::io::stderr();
        let _ = if self.is_terminal {
            write!(stderr, "\r\x1b[2K{line}")
        } else {
            writeln!(stderr, "{line}")
        };
        let _ = stderr.flush();
    }

    /// Ends the rewritten line, so that what follows starts on its own.
    pub fn finish(&mut self) {
        if self.is_terminal && self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }

    /// A line of words that stays.
    pub fn say(&mut self, words: &str) {
        self.finish();
        let _ = writeln!(std::io::stderr(), "{words}");
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Glance<'_> {
    fn line(&self) -> String {
        format!(
            "{:<5} {:>5.0} s  open {}/{}  {}/s  messages {}/s  failed {}  free {}",
            self.phase,
            self.seconds,
            count(self.open),
            count(self.asked),
            count(self.opened_per_second.max(0.0).round() as u64),
            count(self.messages_per_second.max(0.0).round() as u64),
            count(self.failed),
            bytes(self.available_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(micros(999), "999 us");
        assert_eq!(micros(1_500), "1.5 ms");
        assert_eq!(micros(2_000_000), "2.00 s");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(512 << 20), "512.0 MiB");
    }

    #[test]
    fn page_has_verdict_first_and_path_last() {
        let mut run = Run::default();
        run.reasons.push("1 of 2 users opened".into());
        let page = page(&run, Path::new("/runs/x"));
        assert!(page.starts_with("FAIL"));
        assert!(page.contains("- 1 of 2 users opened"));
        assert!(page.trim_end().ends_with("/runs/x"));
    }
}
