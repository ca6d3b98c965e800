//! What a machine needs to hold a number of connections, and how many it can hold.
//!
//! A plan is calculated from a [`Machine`], its present [`Values`] and the settings of profiles: a
//! row for each setting, a [`Limit`] for each thing that bounds the number, the memory, the rings
//! and the source addresses. It has no other inputs, so that a described machine is planned for
//! like a real one.
//! Invariants: nothing is changed. `holds_now` never exceeds any limit; a limit that this program
//! can lift does not bound `holds_tuned`.
//! Must not depend on: how a plan is shown or applied.

use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_units::bytes;
use serde::Serialize;

use crate::cost::{
    BIND_BUCKET_BYTES, CLIENT_END_BYTES, CLOSING_BYTES, CONTROL_RING_LOCKED_BYTES,
    DIRECT_DESCRIPTOR_BYTES, OWN_BYTES_MAX, POLL_PARKED_BYTES, RING_LOCKED_BYTES,
    RING_TABLE_COUNT_MAX, SERVER_END_BYTES, SOCKET_BYTES,
};
use crate::ports::{SOURCE_PORTS, usable_ports_of};
use crate::preflight::{KERNEL_ACCEPT_DONTWAIT, KERNEL_BIND, memory_fits, rings_needed};
use crate::profile::{Role, built_in, joined};
use crate::setting::{Kind, Rule, Setting, Weight};
use crate::tables::{BOOT_HASH_KEY, CHILD_HASH_KEY, TIME_WAIT_MAX_KEY, hash_buckets};
use crate::values::{NOT_PERMITTED, Now, Values, check_writable};
use crate::{Machine, grouped};

/// Descriptors that a process opens per ring, and all others.
const DESCRIPTORS_PER_RING: u64 = 2;
const DESCRIPTORS_BASE: u64 = 64;
/// The kernel's defaults are enough for fewer connections than this.
const FEW_CONNECTIONS: u64 = 10_000;

/// The setting that decides who may set up rings; 1 excludes only unprivileged users.
const IO_URING_DISABLED: &str = "kernel.io_uring_disabled";

/// The input of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// Connections to hold at once.
    pub connections: u64,
    /// Which ends of them are on this machine.
    pub role: Role,
    /// How many addresses and ports clients connect to.
    pub targets: u64,
    /// The ports among them that are known: a client does not use them as source ports.
    pub target_ports: Vec<u16>,
    /// Wants values exactly as in the profile, even if that lowers a value that was raised.
    pub exact: bool,
    /// Other options of the command line, which the next command must repeat.
    pub options: String,
}

impl Request {
    /// `connections` to or from one unknown target, with the built-in profiles of `role`.
    pub fn new(role: Role, connections: u64) -> Self {
        Request {
            connections,
            role,
            targets: 1,
            target_ports: Vec::new(),
            exact: false,
            options: String::new(),
        }
    }
}

/// How a setting compares with the wanted value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Sufficient.
    Ok,
    /// Should be changed; the connections can be held without.
    Change,
    /// Too low to hold the connections.
    Stops,
    /// This kernel or network namespace lacks it.
    Absent,
    /// Absent, and the profile does not allow that.
    Missing,
    /// Should be changed, and cannot be from here.
    Locked,
    /// Should be changed, but not by this program: a boot parameter, or a limit that a login or a
    /// service starts with.
    ByHand,
}

impl Verdict {
    /// As shown.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Change => "change",
            Verdict::Stops => "STOPS",
            Verdict::Absent => "absent",
            Verdict::Missing => "missing",
            Verdict::Locked => "locked",
            Verdict::ByHand => "by hand",
        }
    }
}

/// One setting in a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The setting.
    pub key: String,
    /// How it is set.
    pub kind: Kind,
    /// What an insufficient value does.
    pub weight: Weight,
    /// The present value.
    pub now: Option<String>,
    /// The wanted value.
    pub wanted: String,
    /// The value to write: the wanted one, without lowering the present one. `None` if there is
    /// nothing to write.
    pub write: Option<String>,
    /// The result of the comparison.
    pub verdict: Verdict,
    /// Connections that the present value is enough for, if it bounds them.
    pub holds: Option<u64>,
    /// What goes wrong without it, or why it cannot be set.
    pub why: String,
    /// Only root may change it, and this process is not root.
    pub needs_root: bool,
    /// It cannot be set here, and the profile does not allow that: `apply` fails.
    pub is_failure: bool,
}

/// One thing that bounds the number of connections.
#[derive(Debug, Clone, Serialize)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// True for a kernel setting, false for the machine itself.
    pub is_setting: bool,
    /// Connections it allows now; `None` for any number.
    pub now: Option<u64>,
    /// Connections it allows after `apply`.
    pub tuned: Option<u64>,
    /// The figures behind it.
    pub why: String,
    /// What to type or change.
    pub next: String,
}

/// Memory the connections take, bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Sockets with inode, file and directory entry.
    pub sockets_bytes: u64,
    /// Direct descriptors of the rings.
    pub descriptors_bytes: u64,
    /// Polls that wait for data.
    pub polls_bytes: u64,
    /// The client's bind buckets.
    pub bind_buckets_bytes: u64,
    /// Extra memory while all close at once.
    pub closing_bytes: u64,
    /// Our own, at most.
    pub own_bytes: u64,
    /// The sum.
    pub total_bytes: u64,
    /// Per connection.
    pub per_connection_bytes: u64,
    /// What connections can use now.
    pub usable_bytes: u64,
}

/// Source addresses of clients.
#[derive(Debug, Clone, Serialize)]
pub struct Sources {
    /// Connections from one address to all targets.
    pub per_address: u64,
    /// Addresses needed.
    pub needed: u64,
    /// Addresses of this machine that reach the targets.
    pub here: u64,
    /// How to get more.
    pub next: String,
}

/// A plan.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Its input.
    pub asked: Request,
    /// The settings, in the order of the profiles.
    pub rows: Vec<Row>,
    /// What bounds the number of connections, the tightest first.
    pub limits: Vec<Limit>,
    /// Connections that can be held now; `None` for any number.
    pub holds_now: Option<u64>,
    /// Connections that can be held after `apply`.
    pub holds_tuned: Option<u64>,
    /// Memory for the connections.
    pub memory: Memory,
    /// Rings of each end.
    pub rings: u64,
    /// Direct descriptors in one ring, at most.
    pub ring_slots: u64,
    /// Source addresses, if connections are opened on this machine.
    pub sources: Option<Sources>,
    /// Notes, one line each.
    pub notes: Vec<String>,
}

/// Memory of one connection for the ends that `role` has on this machine, bytes.
pub fn connection_bytes(role: Role) -> u64 {
    u64::from(role.serves()) * SERVER_END_BYTES + u64::from(role.opens()) * CLIENT_END_BYTES
}

impl Plan {
    /// Calculates what `asked` needs on `machine`, whose present values are `values`.
    pub fn new(machine: &Machine, values: &Values, settings: &[Setting], asked: Request) -> Self {
        let tracked = match values.sysctl("net.netfilter.nf_conntrack_count") {
            Now::Is(count) => count.parse().ok(),
            _ => None,
        };
        let sources = asked.role.opens().then(|| sources(machine, values, &asked));
        let time_wait_max = match values.sysctl(TIME_WAIT_MAX_KEY) {
            Now::Is(count) => count.parse().unwrap_or(0),
            _ => 0,
        };
        let mut rows = Vec::new();
        let mut limits = machine_limits(machine, &asked, sources.as_ref());
        for setting in settings.iter().filter(|s| s.kind != Kind::Advice) {
            let is_hash = [CHILD_HASH_KEY, BOOT_HASH_KEY].contains(&setting.key.as_str());
            let wanted = is_hash
                .then(|| hash_buckets(settings, asked.connections, time_wait_max))
                .flatten()
                .map_or_else(
                    || setting.wanted(asked.connections),
                    |buckets| buckets.to_string(),
                );
            let mut row = row(setting, wanted, values, &asked);
            if setting.key == IO_URING_DISABLED
                && row.now.as_deref() == Some("1")
                && machine.io_uring_privileged
                && !asked.exact
            {
                // A hardened machine that lets this user set up rings: nothing to change.
                row.verdict = Verdict::Ok;
                row.write = None;
                row.is_failure = false;
            }
            let is_waived = (setting.unless.sys_admin && machine.sys_admin)
                || (setting.unless.untracked && tracked.unwrap_or(0) == 0u64);
            if is_waived && row.verdict == Verdict::Stops {
                row.verdict = Verdict::Change;
            }
            if !is_waived && setting.weight == Weight::Stops {
                limits.extend(limit_of(&row, &asked));
            }
            rows.push(row);
        }
        limits.sort_by_key(|limit| limit.now.unwrap_or(u64::MAX));
        let least = |of: fn(&Limit) -> Option<u64>| limits.iter().filter_map(of).min();
        let nofile = machine.nofile_hard.clamp(1, RING_TABLE_COUNT_MAX);
        Plan {
            holds_now: least(|limit| limit.now),
            holds_tuned: least(|limit| limit.tuned),
            memory: memory(machine, &asked),
            rings: rings_needed(asked.connections, nofile),
            ring_slots: nofile,
            sources,
            notes: notes(machine, values, &asked, tracked),
            asked,
            rows,
            limits,
        }
    }

    /// True if the connections can be held now.
    pub fn is_met(&self) -> bool {
        self.holds_now
            .is_none_or(|holds| holds >= self.asked.connections)
    }

    /// True if they can be held after `apply`.
    pub fn can_be_met(&self) -> bool {
        self.holds_tuned
            .is_none_or(|holds| holds >= self.asked.connections)
    }

    /// The limits that are too low for the connections.
    pub fn exceeded_limits(&self) -> impl Iterator<Item = &Limit> {
        let connections = self.asked.connections;
        self.limits
            .iter()
            .filter(move |limit| limit.now.is_some_and(|now| now < connections))
    }

    /// Warnings before a run: each setting that will stop it and at which count, and the settings
    /// that should be changed, one line each. Limits of the machine itself are errors of
    /// `preflight`, not warnings.
    pub fn warnings(&self) -> Vec<SetupError> {
        let mut warnings: Vec<SetupError> = self
            .exceeded_limits()
            .filter(|limit| limit.is_setting)
            .map(|limit| {
                SetupError::new(
                    SetupErrorKind::LimitExceeded,
                    limit.why.clone(),
                    limit.next.clone(),
                )
            })
            .collect();
        if self.asked.connections < FEW_CONNECTIONS {
            return warnings;
        }
        let low: Vec<&str> = self
            .rows
            .iter()
            .filter(|row| row.verdict == Verdict::Change && row.weight == Weight::Slows)
            .map(|row| row.key.as_str())
            .collect();
        if let [first, rest @ ..] = &low[..] {
            let which = match rest.len() {
                0 => format!("{first} is too low"),
                1 => format!("{first} and {} are too low", rest[0]),
                more => format!("{first} and {more} more settings are too low"),
            };
            warnings.push(SetupError::new(
                SetupErrorKind::LimitExceeded,
                format!(
                    "{which} for {} connections",
                    grouped(self.asked.connections)
                ),
                command("check", &self.asked),
            ));
        }
        warnings
    }
}

/// Warnings before a program of `role` starts with a number of connections; see [`Plan::warnings`].
pub fn warnings(machine: &Machine, role: Role, connections: u64) -> Vec<SetupError> {
    let settings = joined(&built_in(role));
    let request = Request::new(role, connections);
    Plan::new(machine, &Values::Here, &settings, request).warnings()
}

/// The command that does `verb` for the same input.
pub fn command(verb: &str, asked: &Request) -> String {
    format!(
        "holdfast-tune {verb} --role {} --connections {}{}",
        asked.role.name(),
        asked.connections,
        asked.options
    )
}

fn row(setting: &Setting, wanted: String, values: &Values, asked: &Request) -> Row {
    let rule = if asked.exact {
        Rule::Exactly
    } else {
        setting.rule
    };
    let mut row = Row {
        key: setting.key.clone(),
        kind: setting.kind,
        weight: setting.weight,
        now: None,
        wanted,
        write: None,
        verdict: Verdict::Absent,
        holds: None,
        why: setting.why.clone(),
        needs_root: false,
        is_failure: false,
    };
    let now = match values.now(setting) {
        Now::Is(now) => now,
        Now::Absent => {
            row.why = absent(setting);
            if *values == Values::Here && setting.kind == Kind::Sysctl && !setting.may_be_missing()
            {
                row.why = "no such key: misspelt, or its module is not loaded".into();
                row.verdict = Verdict::Missing;
                row.is_failure = true;
            }
            return row;
        }
        Now::Unreadable(why) => {
            row.why = format!("cannot be read, so it could not be restored: {why}");
            row.verdict = Verdict::Locked;
            row.is_failure = !setting.is_set_elsewhere();
            return row;
        }
    };
    if setting.weight == Weight::Stops {
        row.holds = setting.holds(&now);
    }
    if setting.suffices(&now, &row.wanted, rule) {
        row.verdict = Verdict::Ok;
    } else if setting.kind == Kind::Sysctl {
        row.write = Some(setting.merged(&now, &row.wanted, rule));
        row.verdict = match setting.weight {
            Weight::Stops => Verdict::Stops,
            Weight::Slows | Weight::None => Verdict::Change,
        };
        if *values == Values::Here
            && let Err(why) = check_writable(&setting.key)
        {
            row.needs_root = why == NOT_PERMITTED;
            if !row.needs_root {
                row.write = None;
                row.why = match row.why.as_str() {
                    "" => why,
                    said => format!("{why}: {said}"),
                };
                row.verdict = Verdict::Locked;
                row.is_failure = !setting.is_set_elsewhere();
            }
        }
    } else {
        row.verdict = Verdict::ByHand;
    }
    row.now = Some(now);
    row
}

/// Why the key is absent.
fn absent(setting: &Setting) -> String {
    if let Some(until) = &setting.until {
        return format!("gone since Linux {until}: skipped");
    }
    if let Some(absent) = &setting.absent {
        return absent.clone();
    }
    match &setting.since {
        Some(since) => format!("not in this kernel or namespace: came with Linux {since}"),
        None => "not in this kernel or namespace".to_owned(),
    }
}

/// The limit that a setting of [`Weight::Stops`] sets.
fn limit_of(row: &Row, asked: &Request) -> Option<Limit> {
    let (Some(now), true) = (&row.now, row.verdict != Verdict::Absent) else {
        return None;
    };
    // A setting that does not count connections stops all of them, or none.
    let holds = match (row.holds, row.verdict) {
        (Some(holds), _) => Some(holds),
        (None, Verdict::Ok) => None,
        (None, _) => Some(0),
    };
    let can_change = row.write.is_some() || row.verdict == Verdict::Ok;
    Some(Limit {
        name: row.key.clone(),
        is_setting: true,
        now: holds,
        tuned: if can_change { None } else { holds },
        why: match holds {
            Some(0) if row.holds.is_none() => {
                format!("{} = {now} allows no connection: {}", row.key, row.why)
            }
            Some(count) => format!(
                "{} = {now} allows {} connections, {} asked",
                row.key,
                grouped(count),
                grouped(asked.connections)
            ),
            None => format!("{} = {now} bounds nothing", row.key),
        },
        next: command("apply", asked),
    })
}

/// Limits of the machine itself.
fn machine_limits(machine: &Machine, asked: &Request, sources: Option<&Sources>) -> Vec<Limit> {
    let connections = grouped(asked.connections);
    let mut limits = Vec::new();
    let bytes = connection_bytes(asked.role);
    if bytes > 0 {
        let fits = memory_fits(machine, bytes);
        limits.push(Limit {
            name: "memory".into(),
            is_setting: false,
            now: Some(fits),
            tuned: Some(fits),
            why: format!(
                "memory holds {} connections at {} bytes each ({}), {connections} asked",
                grouped(fits),
                grouped(bytes),
                machine.memory_summary()
            ),
            next:
                "free memory (free -m shows it), raise the memory cgroup's limit, or ask for fewer connections"
                    .into(),
        });
        let nofile = machine.nofile_hard;
        let slots = nofile.min(RING_TABLE_COUNT_MAX);
        let rings = nofile.saturating_sub(DESCRIPTORS_BASE) / DESCRIPTORS_PER_RING;
        let fits = rings.saturating_mul(slots);
        limits.push(Limit {
            name: "descriptors".into(),
            is_setting: false,
            now: Some(fits),
            tuned: Some(fits),
            why: format!(
                "a descriptor limit of {nofile} allows {} rings of {} connections, {} in all, {connections} asked",
                grouped(rings),
                grouped(slots),
                grouped(fits)
            ),
            next: "ulimit -Hn 1048576 (as root; for good: holdfast-tune apply --persist, then log in again)".into(),
        });
        limits.extend(locked_memory_limit(machine, asked, slots));
        if let Some(refusal) = &machine.io_uring_refusal {
            limits.push(Limit {
                name: "io_uring".into(),
                is_setting: false,
                now: Some(0),
                tuned: Some(0),
                why: refusal.cause.clone(),
                next: refusal.next_step.clone(),
            });
        }
        let needed = if asked.role.opens() {
            KERNEL_BIND
        } else {
            KERNEL_ACCEPT_DONTWAIT
        };
        if machine.kernel_version < needed {
            limits.push(Limit {
                name: "kernel".into(),
                is_setting: false,
                now: Some(0),
                tuned: Some(0),
                why: format!(
                    "Linux {} is too old: {} needs {}.{} or later",
                    machine.kernel_release,
                    asked.role.name(),
                    needed.0,
                    needed.1
                ),
                next: format!(
                    "boot a kernel of version {}.{} or later",
                    needed.0, needed.1
                ),
            });
        }
    }
    if let (Role::Client, Some(sources)) = (asked.role, sources) {
        let fits = sources.per_address.saturating_mul(sources.here);
        limits.push(Limit {
            name: "source addresses".into(),
            is_setting: false,
            now: Some(fits),
            tuned: Some(fits),
            why: format!(
                "{} source address{} allow{} {} connections to {}, {connections} asked",
                grouped(sources.here),
                if sources.here == 1 { "" } else { "es" },
                if sources.here == 1 { "s" } else { "" },
                grouped(fits),
                match asked.targets {
                    1 => "one target".to_owned(),
                    count => format!("{} targets", grouped(count)),
                }
            ),
            next: sources.next.clone(),
        });
    }
    limits
}

/// The limit that locked memory sets: each process of this user locks memory for its rings and its
/// control plane.
fn locked_memory_limit(machine: &Machine, asked: &Request, slots: u64) -> Option<Limit> {
    let bytes = machine.locked_memory_bytes?;
    let processes = asked.role.ends();
    let rings = bytes.saturating_sub(processes * CONTROL_RING_LOCKED_BYTES)
        / (processes * RING_LOCKED_BYTES);
    let fits = rings.saturating_mul(slots);
    let rings_asked = rings_needed(asked.connections, slots);
    let needed = processes
        .saturating_mul(rings_asked.saturating_mul(RING_LOCKED_BYTES) + CONTROL_RING_LOCKED_BYTES);
    Some(Limit {
        name: "locked memory".into(),
        is_setting: false,
        now: Some(fits),
        tuned: Some(fits),
        why: format!(
            "locked memory (RLIMIT_MEMLOCK) of {} KiB allows {} rings of {} connections at each end, {} in all, {} asked",
            grouped(bytes / 1024),
            grouped(rings),
            grouped(slots),
            grouped(fits),
            grouped(asked.connections)
        ),
        next: format!(
            "ulimit -l {} (as root, or memlock in /etc/security/limits.conf), or raise the descriptor limit: fewer rings are needed",
            needed.div_ceil(1024)
        ),
    })
}

fn sources(machine: &Machine, values: &Values, asked: &Request) -> Sources {
    // An unknown port that all targets listen on is one port less, whichever it is.
    let unknown = [*SOURCE_PORTS.end()];
    let target_ports = match &asked.target_ports[..] {
        [] => &unknown,
        known => known,
    };
    let ports = usable_ports_of(values, SOURCE_PORTS, target_ports).len() as u64;
    let per_address = ports.saturating_mul(asked.targets.max(1));
    let needed = asked.connections.div_ceil(per_address.max(1));
    let here = machine.address_count;
    let next = if asked.role == Role::Both {
        "nothing to do: all of 127.0.0.0/8 is local, for targets on loopback".to_owned()
    } else if needed > here {
        format!(
            "give the interface that the targets are reached by {} more address{} (ip address add ADDRESS dev INTERFACE), or connect to more targets (--targets)",
            grouped(needed - here),
            if needed - here == 1 { "" } else { "es" }
        )
    } else {
        "nothing to do".to_owned()
    };
    Sources {
        per_address,
        needed,
        here,
        next,
    }
}

fn memory(machine: &Machine, asked: &Request) -> Memory {
    let ends = asked.connections.saturating_mul(asked.role.ends());
    let opened = asked
        .connections
        .saturating_mul(u64::from(asked.role.opens()));
    let per_connection_bytes = connection_bytes(asked.role);
    Memory {
        sockets_bytes: ends.saturating_mul(SOCKET_BYTES),
        descriptors_bytes: ends.saturating_mul(DIRECT_DESCRIPTOR_BYTES),
        polls_bytes: ends.saturating_mul(POLL_PARKED_BYTES),
        bind_buckets_bytes: opened.saturating_mul(BIND_BUCKET_BYTES),
        closing_bytes: ends.saturating_mul(CLOSING_BYTES),
        own_bytes: ends.saturating_mul(OWN_BYTES_MAX),
        total_bytes: asked.connections.saturating_mul(per_connection_bytes),
        per_connection_bytes,
        usable_bytes: machine.memory_usable_bytes(),
    }
}

fn notes(machine: &Machine, values: &Values, asked: &Request, tracked: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(left) = machine.memory_cgroup_left_bytes
        && left < machine.memory_available_bytes
    {
        notes.push(format!(
            "a memory cgroup limits this process: {} left of the machine's {}; the kernel kills a process that exceeds it",
            bytes(left),
            bytes(machine.memory_available_bytes)
        ));
    }
    if values.sysctl("net.ipv4.tcp_mem") == Now::Absent {
        notes.push(
            "this is not the initial network namespace: net.* settings are its own, tcp_mem and settings of the machine are the host's"
                .into(),
        );
    }
    if tracked.is_some_and(|count| count == 0) && asked.role != Role::Host {
        notes.push(
            "no connection is tracked now; the first stateful firewall or NAT rule makes nf_conntrack_max a limit".into(),
        );
    }
    notes
}
