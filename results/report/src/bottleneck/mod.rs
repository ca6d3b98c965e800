//! Who is the limit: what stopped a run from going faster or higher, from what the record shows.
//!
//! Purpose: one list for each run, first things first, each with its evidence and the command that
//! moves it.
//! Invariants: a pure function of the record: whoever has `run.json` can repeat it. The list is
//! never empty: where nothing watched shows, it says so. What cost users comes before what cost
//! time, and that before what was merely full; among equals the larger share comes first.
//! Must not depend on: processes, files, the kernel; whether the run passed.

mod cpu;
mod hint;
mod http;
mod longconn;
mod proxy;

use serde::{Deserialize, Serialize};

pub use http::{of_entry, of_http};
pub use longconn::of_longconn;
pub use proxy::{FULL_PERCENT as PROXY_FULL_PERCENT, next as proxy_next, of_proxy};

/// One thing that held a run back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// Which.
    pub what: BottleneckKind,
    /// How much of it, 0 to 1: of the users asked for that it cost, of the time it lasted, of a
    /// core that was taken.
    pub share: Option<f64>,
    /// Connections held when it was reached, where it stopped them at a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// What shows it, with the numbers.
    #[serde(alias = "words")]
    pub evidence: String,
    /// What to change, and the command.
    #[serde(default)]
    pub next: String,
}

macro_rules! vocabulary {
    ($($(#[$doc:meta])* $what:ident = $words:literal,)*) => {
        /// What can hold a run back.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum BottleneckKind { $($(#[$doc])* $what,)* }

        impl BottleneckKind {
            /// As people read it.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$what => $words,)* }
            }
        }
    };
}

vocabulary! {
    /// The client had no more time on cores to give.
    ClientCpu = "client CPU",
    /// The server had none.
    ServerCpu = "server CPU",
    /// The kernel's packet work took a core.
    Softirq = "softirq",
    /// Programs that are not part of the run had the cores.
    OtherPrograms = "other programs",
    /// Connections waited to be accepted, and no more could.
    AcceptQueue = "accept queue",
    /// SYNs were dropped, or answered with cookies, for want of room.
    SynQueue = "SYN queue",
    /// Packets were dropped before TCP saw them.
    PacketBacklog = "packet backlog",
    /// Connections in TIME_WAIT held the ports, or overflowed their table.
    TimeWait = "TIME_WAIT",
    /// No combination of source address and port was left.
    Ports = "ports",
    /// The machine's memory.
    Memory = "memory",
    /// The memory of a control group.
    MemoryCgroup = "memory cgroup",
    /// The kernel's memory for TCP (`tcp_mem`).
    SocketMemory = "socket memory",
    /// Descriptors, or tables of them.
    Descriptors = "descriptors",
    /// The firewall's table of connections.
    Conntrack = "conntrack",
    /// The server agreed to hold no more.
    ServerCapacity = "server capacity",
    /// The system under test agreed to pass on no more.
    #[serde(alias = "maxconn")]
    ProxyCapacity = "proxy capacity",
    /// Client, server and the system between them took all cores of the machine together.
    #[serde(alias = "cpu")]
    MachineCpu = "machine CPU",
    /// Nothing but the rate asked for.
    AskedRate = "asked rate",
    /// Nothing but the number of users asked for.
    AskedUsers = "asked users",
    /// Nothing that was watched.
    Unknown = "unknown",
}

/// What a limit weighs beside others. Within each, up to 0.1 is added for its share.
mod weight {
    /// It cost users.
    pub const COST: f64 = 2.0;
    /// All that was asked for came, as fast as asked for.
    pub const ASKED: f64 = 1.5;
    /// It cost time, where time was short.
    pub const SLOWED: f64 = 0.9;
    /// It was there, and cost nothing that shows.
    pub const PRESENT: f64 = 0.4;
}

/// Limits on their way to a list.
#[derive(Debug, Default)]
struct Findings(Vec<(f64, Bottleneck)>);

impl Findings {
    /// Adds one. `weight` is one of [`weight`], with what is added for its share.
    fn add(
        &mut self,
        weight: f64,
        what: BottleneckKind,
        share: Option<f64>,
        evidence: String,
        next: String,
    ) {
        let share = share.map(|share| (share.clamp(0.0, 1.0) * 1e3).round() / 1e3);
        let limit = Bottleneck {
            what,
            share,
            connections: None,
            evidence,
            next,
        };
        self.0.push((weight, limit));
    }

    fn has(&self, what: BottleneckKind) -> bool {
        self.0.iter().any(|(_, limit)| limit.what == what)
    }

    /// The list: the heaviest first, each only once, at its heaviest.
    fn into_list(mut self) -> Vec<Bottleneck> {
        self.0.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut list: Vec<Bottleneck> = Vec::new();
        for (_, limit) in self.0 {
            if list.iter().all(|seen| seen.what != limit.what) {
                list.push(limit);
            }
        }
        list
    }
}

/// A share, for counts that may be zero.
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// The list in two or three lines for people, each after `indent` but the first.
#[must_use]
pub fn lines(limits: &[Bottleneck], indent: &str) -> String {
    let Some((first, others)) = limits.split_first() else {
        return "-".into();
    };
    let mut text = format!("{}: {}", first.what.label(), first.evidence);
    if !first.next.is_empty() {
        text += &format!("\n{indent}next: {}", first.next);
    }
    if !others.is_empty() {
        let words: Vec<String> = others
            .iter()
            .map(|limit| match limit.share {
                Some(share) => format!("{} ({:.0}%)", limit.what.label(), 100.0 * share),
                None => limit.what.label().into(),
            })
            .collect();
        text += &format!("\n{indent}also: {}", words.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_has_each_kind_once_and_the_heaviest_first() {
        let mut found = Findings::default();
        for (weight, what) in [
            (weight::PRESENT, BottleneckKind::ClientCpu),
            (weight::COST, BottleneckKind::Ports),
            (weight::SLOWED, BottleneckKind::ClientCpu),
        ] {
            found.add(weight, what, Some(7.0), String::new(), String::new());
        }
        let list = found.into_list();
        let what: Vec<BottleneckKind> = list.iter().map(|limit| limit.what).collect();
        assert_eq!(what, [BottleneckKind::Ports, BottleneckKind::ClientCpu]);
        assert_eq!(list[0].share, Some(1.0));
    }

    #[test]
    fn lines_list_first_next_and_other_bottlenecks() {
        let limit = |what, share| Bottleneck {
            what,
            share,
            connections: None,
            evidence: "5 times".into(),
            next: "do it".into(),
        };
        let list = [
            limit(BottleneckKind::AcceptQueue, Some(0.5)),
            limit(BottleneckKind::ClientCpu, Some(0.97)),
            limit(BottleneckKind::TimeWait, None),
        ];
        assert_eq!(
            lines(&list, "  "),
            "accept queue: 5 times\n  next: do it\n  also: client CPU (97%), TIME_WAIT"
        );
        assert_eq!(lines(&[], ""), "-");
        let json = serde_json::to_string(&list[2]).expect("writes");
        assert!(
            json.contains(r#""what":"time_wait","share":null"#),
            "{json}"
        );
    }
}
