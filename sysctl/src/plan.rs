//! What a machine needs to hold so many connections, and what it can hold at all.
//!
//! A plan is worked out from a [`Machine`], its present [`Values`] and the settings of profiles: a row for each setting, a [`Limit`] for
//! each thing that bounds the number, the memory, the rings and the source addresses. Nothing else goes in, so that a described machine
//! is planned for like a real one.
//! Invariants: nothing is changed. `holds_now` never exceeds what any limit allows; a limit that this program can lift does not bound
//! `holds_tuned`.
//! Must not know: how a plan is shown or applied.

use serde::Serialize;

use crate::cost::{
    BIND_BUCKET_BYTES, CLIENT_END_BYTES, CLOSING_BYTES, DIRECT_DESCRIPTOR_BYTES, OWN_BYTES_MAX,
    POLL_PARKED_BYTES, RING_TABLE_COUNT_MAX, SERVER_END_BYTES, SOCKET_BYTES,
};
use crate::ports::{SOURCE_PORTS, usable_ports_of};
use crate::preflight::{KERNEL_ACCEPT_DONTWAIT, KERNEL_BIND, memory_fits, rings_needed};
use crate::profile::{Role, built_in, joined};
use crate::setting::{Kind, Rule, Setting, Weight};
use crate::tables::{BOOT_HASH_KEY, CHILD_HASH_KEY, TIME_WAIT_MAX_KEY, hash_buckets};
use crate::values::{NOT_PERMITTED, Now, Values, check_writable};
use crate::{Machine, Shortfall, gibibytes, grouped};

/// Descriptors that a process opens for each ring, and besides.
const DESCRIPTORS_PER_RING: u64 = 2;
const DESCRIPTORS_BESIDES: u64 = 64;
/// So few are no trouble to a kernel as it comes.
const FEW_CONNECTIONS: u64 = 10_000;

/// The setting that decides who may make rings; 1 stops only those without a privilege.
const IO_URING_DISABLED: &str = "kernel.io_uring_disabled";

/// What is asked of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// Connections to hold at once.
    pub connections: u64,
    /// Which ends of them are here.
    pub role: Role,
    /// Addresses and ports that clients connect to.
    pub targets: u64,
    /// Values exactly as the profile has them, even where that lowers what somebody raised.
    pub exact: bool,
    /// What else was said on the command line, so that the next command says it too.
    pub options: String,
}

/// How a setting stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Ok,
    /// Better as wanted; the connections can be held without.
    Change,
    /// With the present value, fewer connections than asked can be held.
    Stops,
    /// This kernel or namespace does not have it.
    Absent,
    /// As absent, and the profile does not say that it may be.
    Missing,
    /// It should be changed, and cannot be from here.
    Locked,
    /// It should be changed, and not by this program: a boot parameter, or a limit that a login or a service starts with.
    ByHand,
}

impl Verdict {
    /// As it is shown.
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
    /// What a shortfall of it means.
    pub weight: Weight,
    /// The present value.
    pub now: Option<String>,
    /// The value for the connections asked.
    pub wanted: String,
    /// What to write: the wanted value, and what the present one has above it. `None` where nothing is to be written.
    pub write: Option<String>,
    /// How it stands.
    pub verdict: Verdict,
    /// Connections that the present value suffices for, where it bounds them.
    pub holds: Option<u64>,
    /// What goes wrong without it, or why it cannot be had.
    pub why: String,
    /// Only root may change it, and this is not root.
    pub needs_root: bool,
    /// It cannot be had here, and the profile does not say that this may be: an `apply` that leaves it undone fails.
    pub is_failure: bool,
}

/// One thing that bounds the number of connections.
#[derive(Debug, Clone, Serialize)]
pub struct Limit {
    /// What it is.
    pub name: String,
    /// A kernel setting, not the machine itself.
    pub is_setting: bool,
    /// Connections it allows now; `None`: any number.
    pub now: Option<u64>,
    /// Connections it allows once `apply` has done what it can.
    pub tuned: Option<u64>,
    /// The figures behind it.
    pub why: String,
    /// What to type, or to change.
    pub next: String,
}

/// Memory the connections take, bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Sockets with inode, file and directory entry.
    pub sockets_bytes: u64,
    /// Direct descriptors of the rings.
    pub descriptors_bytes: u64,
    /// Polls that wait for bytes.
    pub polls_bytes: u64,
    /// The client's bind buckets.
    pub bind_buckets_bytes: u64,
    /// What they take on top when all close at once.
    pub closing_bytes: u64,
    /// Ours, at most.
    pub own_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// For each connection.
    pub per_connection_bytes: u64,
    /// What connections may take now.
    pub usable_bytes: u64,
}

/// What clients connect from.
#[derive(Debug, Clone, Serialize)]
pub struct Sources {
    /// Connections of one address to all targets.
    pub per_address: u64,
    /// Addresses needed.
    pub needed: u64,
    /// Addresses here that reach other machines.
    pub here: u64,
    /// Where to take them from.
    pub next: String,
}

/// A worked-out plan.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// What was asked.
    pub asked: Asked,
    /// The settings, in the order of the profiles.
    pub rows: Vec<Row>,
    /// What bounds the number, tightest first as things are now.
    pub limits: Vec<Limit>,
    /// Connections that can be held now; `None`: any number.
    pub holds_now: Option<u64>,
    /// Connections that can be held after `apply`, likewise.
    pub holds_tuned: Option<u64>,
    /// Memory for the connections asked.
    pub memory: Memory,
    /// Rings of each end, and the descriptors in one.
    pub rings: u64,
    /// Direct descriptors in one ring, at most.
    pub ring_slots: u64,
    /// Source addresses, where connections are opened here.
    pub sources: Option<Sources>,
    /// Worth knowing, one line each.
    pub notes: Vec<String>,
}

/// Memory of one connection with its ends in `role` here, bytes.
pub fn connection_bytes(role: Role) -> u64 {
    u64::from(role.serves()) * SERVER_END_BYTES + u64::from(role.opens()) * CLIENT_END_BYTES
}

impl Plan {
    /// Works out what `asked` needs on `machine`, whose present values are `values`.
    pub fn new(machine: &Machine, values: &Values, settings: &[Setting], asked: Asked) -> Self {
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
                // A machine hardened that far lets this user make rings: nothing to loosen.
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

    /// True if the connections asked can be held as things are.
    pub fn is_met(&self) -> bool {
        self.holds_now
            .is_none_or(|holds| holds >= self.asked.connections)
    }

    /// True if they can be held once `apply` has done what it can.
    pub fn can_be_met(&self) -> bool {
        self.holds_tuned
            .is_none_or(|holds| holds >= self.asked.connections)
    }

    /// The limits that keep the connections asked from being held now.
    pub fn in_the_way(&self) -> impl Iterator<Item = &Limit> {
        let connections = self.asked.connections;
        self.limits
            .iter()
            .filter(move |limit| limit.now.is_some_and(|now| now < connections))
    }

    /// What to say before a run: each setting that will stop it and at which count, and how many others could be better, one line
    /// each. What the machine itself bounds is refused by `preflight`, not said here.
    pub fn shortfalls(&self) -> Vec<Shortfall> {
        let mut said: Vec<Shortfall> = self
            .in_the_way()
            .filter(|limit| limit.is_setting)
            .map(|limit| Shortfall::new(limit.why.clone(), limit.next.clone()))
            .collect();
        if self.asked.connections < FEW_CONNECTIONS {
            return said;
        }
        let better: Vec<&str> = self
            .rows
            .iter()
            .filter(|row| row.verdict == Verdict::Change && row.weight == Weight::Slows)
            .map(|row| row.key.as_str())
            .collect();
        if let [first, rest @ ..] = &better[..] {
            let which = match rest.len() {
                0 => format!("{first} is below what suits"),
                1 => format!("{first} and {} are below what suits", rest[0]),
                more => format!("{first} and {more} more settings are below what suits"),
            };
            said.push(Shortfall::new(
                format!("{which} {} connections", grouped(self.asked.connections)),
                command("check", &self.asked),
            ));
        }
        said
    }
}

/// What to say before a program of `role` starts with so many connections; see [`Plan::shortfalls`].
pub fn shortfalls(machine: &Machine, role: Role, connections: u64) -> Vec<Shortfall> {
    let asked = Asked {
        connections,
        role,
        targets: 1,
        exact: false,
        options: String::new(),
    };
    let settings = joined(&built_in(role));
    Plan::new(machine, &Values::Here, &settings, asked).shortfalls()
}

/// The command that acts on what was asked.
pub fn command(verb: &str, asked: &Asked) -> String {
    format!(
        "holdfast-tune {verb} --role {} --connections {}{}",
        asked.role.name(),
        asked.connections,
        asked.options
    )
}

fn row(setting: &Setting, wanted: String, values: &Values, asked: &Asked) -> Row {
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
                row.why = "no such key here: misspelt, or its module is not loaded".into();
                row.verdict = Verdict::Missing;
                row.is_failure = true;
            }
            return row;
        }
        Now::Unreadable(why) => {
            row.why = format!("cannot be read, so it could not be put back: {why}");
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

/// Why there is no such key.
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

/// The limit a setting sets that stops.
fn limit_of(row: &Row, asked: &Asked) -> Option<Limit> {
    let (Some(now), true) = (&row.now, row.verdict != Verdict::Absent) else {
        return None;
    };
    // A setting that is no number of connections stops all of them, or none.
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

/// What the machine itself bounds.
fn machine_limits(machine: &Machine, asked: &Asked, sources: Option<&Sources>) -> Vec<Limit> {
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
                machine.memory_said()
            ),
            next:
                "free memory (free -m shows it), raise the memory cgroup's limit, or ask for fewer"
                    .into(),
        });
        let nofile = machine.nofile_hard;
        let rings = nofile.saturating_sub(DESCRIPTORS_BESIDES) / DESCRIPTORS_PER_RING;
        let fits = rings.saturating_mul(nofile.min(RING_TABLE_COUNT_MAX));
        limits.push(Limit {
            name: "descriptors".into(),
            is_setting: false,
            now: Some(fits),
            tuned: Some(fits),
            why: format!(
                "a descriptor limit of {nofile} allows {} rings of {} connections, {} in all, {connections} asked",
                grouped(rings),
                grouped(nofile.min(RING_TABLE_COUNT_MAX)),
                grouped(fits)
            ),
            next: "raise the hard limit (as root: ulimit -Hn 1048576, or holdfast-tune apply --persist and log in again)".into(),
        });
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

fn sources(machine: &Machine, values: &Values, asked: &Asked) -> Sources {
    // All targets listen on one port, which is not known: the last one stands for it.
    let ports = usable_ports_of(values, SOURCE_PORTS, &[*SOURCE_PORTS.end()]).len() as u64;
    let per_address = ports.saturating_mul(asked.targets.max(1));
    let needed = asked.connections.div_ceil(per_address.max(1));
    let here = machine.address_count;
    let next = if asked.role == Role::Both {
        "nothing to do: to targets on loopback, all of 127.0.0.0/8 is here as it stands".to_owned()
    } else if needed > here {
        format!(
            "give an interface {} more address{} (ip address add ADDRESS dev INTERFACE), or connect to more targets (--targets)",
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

fn memory(machine: &Machine, asked: &Asked) -> Memory {
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

fn notes(machine: &Machine, values: &Values, asked: &Asked, tracked: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(left) = machine.memory_cgroup_left_bytes
        && left < machine.memory_available_bytes
    {
        notes.push(format!(
            "a memory cgroup bounds this process: {} left of the machine's {}; what exceeds it is killed, not refused",
            gibibytes(left),
            gibibytes(machine.memory_available_bytes)
        ));
    }
    if values.sysctl("net.ipv4.tcp_mem") == Now::Absent {
        notes.push(
            "this is a network namespace of its own: net.* settings are its own, tcp_mem and the machine's are the host's"
                .into(),
        );
    }
    if tracked.is_some_and(|count| count == 0) && asked.role != Role::Host {
        notes.push(
            "no connection is tracked here now; the first firewall or NAT rule that asks for state makes nf_conntrack_max bite".into(),
        );
    }
    notes
}
