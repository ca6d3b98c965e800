//! Checks before a program starts: what would stop it, each as one line with the command that
//! removes the obstacle.
//!
//! Invariants: a check reads and compares; it never changes the machine and leaves nothing open.
//! Only [`raise_nofile`] acts, and on this process alone.
//! Must not depend on: which program asks, nor what a connection costs in user space: callers pass
//! their figures in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use holdfast_engine::config::SPARE_SLOTS;
use holdfast_engine::{SetupError, SetupErrorKind};
use holdfast_units::bytes;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::cost::{CONTROL_RING_LOCKED_BYTES, RING_LOCKED_BYTES, RING_TABLE_COUNT_MAX};
use crate::{Machine, grouped};

/// The first kernel with the `BIND` and `LISTEN` opcodes.
pub const KERNEL_BIND: (u32, u32) = (6, 11);
/// The first kernel with `IORING_ACCEPT_DONTWAIT`.
pub const KERNEL_ACCEPT_DONTWAIT: (u32, u32) = (6, 10);
/// The first kernel with `SETSOCKOPT` as a ring command.
pub const KERNEL_SETSOCKOPT: (u32, u32) = (6, 7);
/// The first kernel with `DEFER_TASKRUN`.
pub const KERNEL_DEFER_TASKRUN: (u32, u32) = (6, 1);
/// The first kernel with multishot receive.
pub const KERNEL_RECV_MULTISHOT: (u32, u32) = (6, 0);
/// The first kernel that creates sockets directly in a ring's table.
pub const KERNEL_SOCKET_DIRECT: (u32, u32) = (5, 19);

/// The least descriptor limit with which a program can start: standard streams, listeners, a ring
/// for each thread and the control plane's files.
pub const NOFILE_MIN: u64 = 64;

/// The descriptor limit before and after [`raise_nofile`]. Displays as the note to print before a
/// run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nofile {
    /// The soft limit before.
    pub before: u64,
    /// The limit in force now: the hard one.
    pub limit: u64,
}

impl fmt::Display for Nofile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.before < self.limit {
            write!(
                f,
                "descriptor limit {} raised to the hard limit {}",
                self.before, self.limit
            )
        } else {
            write!(f, "descriptor limit {}, soft and hard", self.limit)
        }
    }
}

/// Raises the soft descriptor limit of this process to the hard one, which bounds the table of a
/// ring when it is registered: call it before any ring is set up.
///
/// # Errors
/// When the limit cannot be read or raised, or is below [`NOFILE_MIN`].
pub fn raise_nofile() -> Result<Nofile, SetupError> {
    let failed = |what: &str, errno: Errno| {
        SetupError::from_io(
            format_args!("the descriptor limit cannot be {what}"),
            errno,
            "ulimit -Sn $(ulimit -Hn)",
        )
    };
    let (before, limit) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| failed("read", errno))?;
    if limit < NOFILE_MIN {
        return Err(SetupError::new(
            SetupErrorKind::LimitExceeded,
            format!("the descriptor limit is {limit}, at least {NOFILE_MIN} are needed"),
            "ulimit -n 20000 (as root, or in /etc/security/limits.conf), then start again",
        ));
    }
    if before < limit {
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
            .map_err(|errno| failed("raised", errno))?;
    }
    Ok(Nofile { before, limit })
}

/// Whether `kernel.io_uring_disabled` lets this process set up rings. Seccomp may still forbid it:
/// the engine's probe tells.
///
/// # Errors
/// When it does not.
pub fn check_io_uring(machine: &Machine) -> Result<(), SetupError> {
    let excluded = match machine.io_uring_disabled {
        0 => return Ok(()),
        1 if machine.io_uring_privileged => return Ok(()),
        1 => "unprivileged users",
        _ => "everybody",
    };
    Err(SetupError::new(
        SetupErrorKind::NotPermitted,
        format!(
            "io_uring is disabled for {excluded} (kernel.io_uring_disabled = {})",
            machine.io_uring_disabled
        ),
        "sysctl -w kernel.io_uring_disabled=0 (as root)",
    ))
}

/// Whether the kernel is recent enough for `feature`, which needs at least version `needed`.
///
/// # Errors
/// When it is older.
pub fn check_kernel(
    machine: &Machine,
    feature: &str,
    needed: (u32, u32),
) -> Result<(), SetupError> {
    if machine.kernel_version >= needed {
        return Ok(());
    }
    let (major, minor) = needed;
    Err(SetupError::new(
        SetupErrorKind::Unsupported,
        format!(
            "{feature} needs Linux {major}.{minor} or later, this is {}",
            machine.kernel_release
        ),
        format!("boot a kernel of version {major}.{minor} or later, then: uname -r"),
    ))
}

/// How many connections fit into the memory that is usable now, at `bytes_per_connection` for
/// kernel and user space of all ends on this machine; see [`Machine::memory_usable_bytes`].
pub fn memory_fits(machine: &Machine, bytes_per_connection: u64) -> u64 {
    machine.memory_usable_bytes() / bytes_per_connection.max(1)
}

/// Whether `connections` fit into the memory available; see [`memory_fits`].
///
/// # Errors
/// When they do not.
pub fn check_memory(
    machine: &Machine,
    connections: u64,
    bytes_per_connection: u64,
) -> Result<(), SetupError> {
    let fits = memory_fits(machine, bytes_per_connection);
    if connections <= fits {
        return Ok(());
    }
    let needed_bytes = connections.saturating_mul(bytes_per_connection);
    Err(SetupError::new(
        SetupErrorKind::OutOfMemory,
        format!(
            "memory holds {} connections at {} bytes each, {} asked, which need {}: {}",
            grouped(fits),
            grouped(bytes_per_connection),
            grouped(connections),
            bytes(needed_bytes),
            machine.memory_summary(),
        ),
        match fits {
            0 => "free memory (free -m shows it)".to_owned(),
            _ => format!(
                "ask for {} or fewer, or free memory (free -m shows it)",
                grouped(fits)
            ),
        },
    ))
}

/// How many rings hold `connections` at a descriptor limit of `limit`: one ring's table has at most
/// `limit` entries.
pub fn rings_needed(connections: u64, limit: u64) -> u64 {
    connections.div_ceil(limit.clamp(1, RING_TABLE_COUNT_MAX))
}

/// How many rings a process sets up for `connections` on `thread_count` threads at a descriptor
/// limit of `limit`: each thread has a ring or more, and each ring keeps [`SPARE_SLOTS`] entries of
/// its table free.
pub fn rings_of_process(connections: u64, thread_count: u64, limit: u64) -> u64 {
    let per_ring = limit
        .min(RING_TABLE_COUNT_MAX)
        .saturating_sub(u64::from(SPARE_SLOTS))
        .max(1);
    let share = connections.div_ceil(thread_count.max(1));
    share
        .div_ceil(per_ring)
        .max(1)
        .saturating_mul(thread_count.max(1))
}

/// How many rings fit into the locked memory of this user, beside the control planes of
/// `processes`; `None` for any number.
pub fn rings_in_locked_memory(machine: &Machine, processes: u64) -> Option<u64> {
    let bytes = machine.locked_memory_bytes?;
    let rings_bytes = bytes.saturating_sub(processes.saturating_mul(CONTROL_RING_LOCKED_BYTES));
    Some(rings_bytes / RING_LOCKED_BYTES)
}

/// Whether the kernel lets this user lock the memory of `rings` rings, of all `processes` together.
/// Rings of other processes of the user count against the same limit and are not known here:
/// setting up a ring may still fail.
///
/// # Errors
/// When the limit is too low.
pub fn check_locked_memory(
    machine: &Machine,
    processes: u64,
    rings: u64,
) -> Result<(), SetupError> {
    let (Some(fits), Some(limit)) = (
        rings_in_locked_memory(machine, processes),
        machine.locked_memory_bytes,
    ) else {
        return Ok(());
    };
    if rings <= fits {
        return Ok(());
    }
    let needed = rings
        .saturating_mul(RING_LOCKED_BYTES)
        .saturating_add(processes.saturating_mul(CONTROL_RING_LOCKED_BYTES));
    let needed_kib = needed.div_ceil(1024);
    Err(SetupError::new(
        SetupErrorKind::LimitExceeded,
        format!(
            "locked memory (RLIMIT_MEMLOCK) of {} KiB is enough for {} rings, {} needed",
            grouped(limit / 1024),
            grouped(fits),
            grouped(rings)
        ),
        format!(
            "ulimit -l {needed_kib} (as root, or memlock in /etc/security/limits.conf), then start again; \
             a higher descriptor limit needs fewer rings"
        ),
    ))
}

/// Whether the process can open the ordinary descriptors that the rings for `connections` need:
/// `per_ring` for each ring and `base` besides. Sockets in the rings' tables do not count. `limit`
/// is what [`raise_nofile`] left.
///
/// # Errors
/// When it cannot.
pub fn check_descriptors(
    limit: u64,
    connections: u64,
    per_ring: u64,
    base: u64,
) -> Result<(), SetupError> {
    let opens = |limit: u64| {
        rings_needed(connections, limit)
            .saturating_mul(per_ring)
            .saturating_add(base)
    };
    if opens(limit) <= limit {
        return Ok(());
    }
    let rings_max = limit.saturating_sub(base) / per_ring.max(1);
    let fits = rings_max.saturating_mul(limit.min(RING_TABLE_COUNT_MAX));
    // A higher limit never needs more rings, so bisection finds the least that suffices.
    let (mut too_low, mut enough) = (limit, opens(limit));
    while enough - too_low > 1 {
        let middle = too_low + (enough - too_low) / 2;
        if opens(middle) <= middle {
            enough = middle;
        } else {
            too_low = middle;
        }
    }
    Err(SetupError::new(
        SetupErrorKind::LimitExceeded,
        format!(
            "descriptor limit {limit} allows {} connections, {} asked",
            grouped(fits),
            grouped(connections)
        ),
        format!("ulimit -n {enough} (as root, or in /etc/security/limits.conf), then start again"),
    ))
}

/// Whether `addresses` source addresses with `ports_per_address` ports each reach `targets` with
/// `asked` connections: each combination of source address, source port and target holds one. All
/// are of one IP family.
///
/// # Errors
/// When they do not.
pub fn check_sources(
    addresses: u64,
    ports_per_address: u64,
    targets: &[SocketAddr],
    asked: u64,
) -> Result<(), SetupError> {
    let per_address = ports_per_address.saturating_mul(targets.len() as u64);
    let allowed = per_address.saturating_mul(addresses);
    if asked <= allowed {
        return Ok(());
    }
    if per_address == 0 {
        return Err(SetupError::new(
            SetupErrorKind::InvalidInput,
            "no target, or no source port that is not reserved",
            "give at least one target and one source port",
        ));
    }
    let needed = asked.div_ceil(per_address);
    let missing = needed - addresses;
    let plural = if missing == 1 { "" } else { "es" };
    let cause = format!(
        "source addresses allow {} connections to {}, {} asked",
        grouped(allowed),
        match targets.len() {
            1 => "one target".to_owned(),
            count => format!("{count} targets"),
        },
        grouped(asked)
    );
    let more = format!("{} more address{plural}", grouped(missing));
    let next = match range_of(needed, targets) {
        Some(Range {
            cidr,
            made_local_by: None,
        }) => format!("add --source {cidr} or {more}"),
        Some(Range {
            cidr,
            made_local_by: Some(command),
        }) => format!(
            "add {more} to an interface, or, if the target routes the range back here: \
             {command}; then add --source {cidr}"
        ),
        None => format!("add {more}, or more targets or ports"),
    };
    Err(SetupError::new(SetupErrorKind::LimitExceeded, cause, next))
}

/// A range of source addresses to propose, and the command that makes it usable if it is not yet.
struct Range {
    cidr: String,
    made_local_by: Option<String>,
}

/// The smallest range of at least `count` addresses that reaches the targets. It counts all
/// addresses needed, not only the missing ones, so that it suffices even if it overlaps those
/// already given.
fn range_of(count: u64, targets: &[SocketAddr]) -> Option<Range> {
    let bits = count.checked_next_power_of_two()?.ilog2();
    if targets.iter().all(|target| target.is_ipv4()) {
        let loopback = targets.iter().all(|target| target.ip().is_loopback());
        // Each base is aligned to the largest range it serves. 198.18.0.0/15 is reserved for
        // benchmarks.
        let base = match (loopback, bits) {
            (true, 0..=8) => Ipv4Addr::new(127, 0, 1, 0),
            (true, 9..=16) => Ipv4Addr::new(127, 1, 0, 0),
            (true, 17..=23) => Ipv4Addr::new(127, 128, 0, 0),
            (false, 0..=17) => Ipv4Addr::new(198, 18, 0, 0),
            _ => return None,
        };
        let cidr = format!("{base}/{}", 32 - bits);
        // All of 127.0.0.0/8 is local already.
        let made_local_by = (!loopback).then(|| format!("ip route add local {cidr} dev lo"));
        Some(Range {
            cidr,
            made_local_by,
        })
    } else {
        // IPv6 has one loopback address. A local route alone does not allow binding to a source
        // address, the setting does.
        let cidr = format!("fd00:1::/{}", 128 - bits);
        let made_local_by = Some(format!(
            "ip -6 route add local {cidr} dev lo && sysctl -w net.ipv6.ip_nonlocal_bind=1"
        ));
        Some(Range {
            cidr,
            made_local_by,
        })
    }
}

/// Whether this process may bind `addr`: the address is one of this machine's and the port is not
/// privileged. Binds to find out, without listening. A port in use passes: see [`check_port_free`].
///
/// # Errors
/// When it may not.
pub fn check_port(addr: SocketAddr) -> Result<(), SetupError> {
    match try_bind(addr) {
        Ok(()) | Err(Errno::EADDRINUSE) => Ok(()),
        Err(errno) => Err(port_error(addr, errno)),
    }
}

/// As [`check_port`], and nobody listens there, not even another server of ours: their listeners
/// would share the port and each get a part of the connections. Connections in TIME_WAIT do not
/// count if their listener had set SO_REUSEADDR.
///
/// # Errors
/// When it may not, or somebody listens.
pub fn check_port_free(addr: SocketAddr) -> Result<(), SetupError> {
    try_bind(addr).map_err(|errno| port_error(addr, errno))
}

/// Binds a new socket and closes it. With SO_REUSEADDR, as a server does: only a listener
/// conflicts.
fn try_bind(addr: SocketAddr) -> Result<(), Errno> {
    let family = match addr.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))
}

fn port_error(addr: SocketAddr, errno: Errno) -> SetupError {
    let port = addr.port();
    let (kind, cause, next_step) = match errno {
        Errno::EACCES => (
            SetupErrorKind::NotPermitted,
            format!("port {port} is privileged and this process has no CAP_NET_BIND_SERVICE"),
            format!(
                "choose a port above 1023, or (as root) setcap cap_net_bind_service=+ep PROGRAM, \
                 or sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
            ),
        ),
        Errno::EADDRINUSE => (
            SetupErrorKind::InUse,
            format!("{addr} is in use by another listener"),
            format!(
                "stop the process listening on that port (ss -ltnp 'sport = :{port}'), or choose another port"
            ),
        ),
        Errno::EADDRNOTAVAIL => (
            SetupErrorKind::AddressUnavailable,
            format!("{} is not an address of this machine", addr.ip()),
            "ip -brief address (lists its addresses), or listen on all of them: 0.0.0.0 or [::]"
                .to_owned(),
        ),
        Errno::EAFNOSUPPORT => (
            SetupErrorKind::Unsupported,
            format!(
                "this kernel has no IPv{}",
                if addr.is_ipv6() { 6 } else { 4 }
            ),
            "choose an address of the other IP version".to_owned(),
        ),
        other => (
            SetupErrorKind::Io,
            format!("{addr} cannot be bound: {}", other.desc()),
            "choose another address or port".to_owned(),
        ),
    };
    SetupError::new(kind, cause, next_step).with_source(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{PAIR_POLL_PARKED_BYTES_MAX, PORTS_PER_ADDRESS};

    const GIB: u64 = 1 << 30;

    fn machine() -> Machine {
        Machine {
            kernel_release: "6.18.44-fc-v657".to_owned(),
            kernel_version: (6, 18),
            cpu_model: "AMD EPYC".to_owned(),
            core_count: 2,
            memory_bytes: 24 * GIB,
            memory_available_bytes: 23 * GIB,
            memory_cgroup_left_bytes: None,
            locked_memory_bytes: None,
            io_uring_refusal: None,
            nofile_soft: 1024,
            nofile_hard: 20_000,
            io_uring_disabled: 0,
            io_uring_privileged: true,
            sys_admin: true,
            address_count: 1,
            network_namespace: 1,
        }
    }

    fn error(result: Result<(), SetupError>) -> String {
        result.unwrap_err().to_string()
    }

    fn target(text: &str) -> Vec<SocketAddr> {
        vec![text.parse().unwrap()]
    }

    #[test]
    fn nofile_note() {
        assert_eq!(
            Nofile {
                before: 1024,
                limit: 20_000
            }
            .to_string(),
            "descriptor limit 1024 raised to the hard limit 20000"
        );
        assert_eq!(
            Nofile {
                before: 20_000,
                limit: 20_000
            }
            .to_string(),
            "descriptor limit 20000, soft and hard"
        );
    }

    #[test]
    fn io_uring_disabled() {
        let described = |disabled, privileged| Machine {
            io_uring_disabled: disabled,
            io_uring_privileged: privileged,
            ..machine()
        };
        check_io_uring(&described(0, false)).unwrap();
        check_io_uring(&described(1, true)).unwrap();
        assert_eq!(
            error(check_io_uring(&described(1, false))),
            "io_uring is disabled for unprivileged users (kernel.io_uring_disabled = 1); \
             next: sysctl -w kernel.io_uring_disabled=0 (as root)"
        );
        assert_eq!(
            error(check_io_uring(&described(2, true))),
            "io_uring is disabled for everybody (kernel.io_uring_disabled = 2); \
             next: sysctl -w kernel.io_uring_disabled=0 (as root)"
        );
    }

    #[test]
    fn kernel_too_old() {
        check_kernel(&machine(), "the BIND opcode", KERNEL_BIND).unwrap();
        check_kernel(&machine(), "this very kernel", (6, 18)).unwrap();
        // 6.8 is older than 6.11, though 8 follows 1 in a text.
        let older = Machine {
            kernel_release: "6.8.0-45-generic".to_owned(),
            kernel_version: (6, 8),
            ..machine()
        };
        assert_eq!(
            error(check_kernel(
                &older,
                "the BIND opcode of io_uring",
                KERNEL_BIND
            )),
            "the BIND opcode of io_uring needs Linux 6.11 or later, this is 6.8.0-45-generic; \
             next: boot a kernel of version 6.11 or later, then: uname -r"
        );
    }

    #[test]
    fn memory_by_hand() {
        // 23 GiB less 0.5 GiB = 24,159,191,040 bytes; over 8,229 = 2,935,859.9.
        assert_eq!(
            memory_fits(&machine(), PAIR_POLL_PARKED_BYTES_MAX),
            2_935_859
        );
        check_memory(&machine(), 2_935_859, PAIR_POLL_PARKED_BYTES_MAX).unwrap();
        // 10,000,000 x 8,229 = 82,290,000,000 bytes = 76.64 GiB.
        assert_eq!(
            error(check_memory(
                &machine(),
                10_000_000,
                PAIR_POLL_PARKED_BYTES_MAX
            )),
            "memory holds 2,935,859 connections at 8,229 bytes each, 10,000,000 asked, which need 76.6 GiB: \
             23.0 GiB available, 512.0 MiB of it reserved for the system; \
             next: ask for 2,935,859 or fewer, or free memory (free -m shows it)"
        );
        let tiny = Machine {
            memory_available_bytes: 100 << 20,
            ..machine()
        };
        assert_eq!(memory_fits(&tiny, PAIR_POLL_PARKED_BYTES_MAX), 0);
        // 1 GiB - 64 MiB = 1,006,632,960 bytes; over 8,229 = 122,327.4.
        let in_cgroup = Machine {
            memory_cgroup_left_bytes: Some(GIB),
            ..machine()
        };
        assert_eq!(memory_fits(&in_cgroup, PAIR_POLL_PARKED_BYTES_MAX), 122_327);
        assert!(check_memory(&machine(), u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn locked_memory_by_hand() {
        let limited = |bytes| Machine {
            locked_memory_bytes: Some(bytes),
            ..machine()
        };
        check_locked_memory(&machine(), 1, u64::MAX).unwrap();
        // 8 MiB less 28 KiB: 8,164 KiB, over 56 KiB a ring: 145.8.
        assert_eq!(rings_in_locked_memory(&limited(8 << 20), 1), Some(145));
        check_locked_memory(&limited(8 << 20), 1, 145).unwrap();
        // 158 x 56 + 28 = 8,876.
        assert_eq!(
            error(check_locked_memory(&limited(8 << 20), 1, 158)),
            "locked memory (RLIMIT_MEMLOCK) of 8,192 KiB is enough for 145 rings, 158 needed; \
             next: ulimit -l 8876 (as root, or memlock in /etc/security/limits.conf), then start again; \
             a higher descriptor limit needs fewer rings"
        );
        assert_eq!(rings_in_locked_memory(&limited(0), 1), Some(0));
        assert!(check_locked_memory(&limited(0), 1, 1).is_err());
    }

    #[test]
    fn rings_of_a_process_by_hand() {
        // 10,000 a thread, 256 - 32 = 224 a ring: 45 rings.
        assert_eq!(rings_of_process(20_000, 2, 256), 90);
        assert_eq!(rings_of_process(1, 4, 20_000), 4);
        assert_eq!(rings_of_process(1_000_000, 1, 20_000), 51);
        assert_eq!(rings_of_process(5, 0, 0), 5);
    }

    #[test]
    fn rings_by_hand() {
        assert_eq!(rings_needed(1_000_000, 20_000), 50);
        assert_eq!(rings_needed(1_000_001, 20_000), 51);
        assert_eq!(rings_needed(200_000, 4_096), 49);
        // One ring's table ends at 2^20, whatever the limit.
        assert_eq!(rings_needed(2_400_000, 1 << 30), 3);
    }

    #[test]
    fn descriptors_by_hand() {
        // 49 rings x 2 + 32 = 130 of 4,096.
        check_descriptors(4_096, 200_000, 2, 32).unwrap();
        check_descriptors(20_000, 1_000_000, 2, 32).unwrap();
        // 977 rings x 2 + 32 = 1,986 > 1,024. 496 rings fit: 496 x 1,024 = 507,904.
        // 1,430: 700 rings x 2 + 32 = 1,432 is too many; 1,431: 699 rings, 1,430 is not.
        assert_eq!(
            error(check_descriptors(1_024, 1_000_000, 2, 32)),
            "descriptor limit 1024 allows 507,904 connections, 1,000,000 asked; \
             next: ulimit -n 1431 (as root, or in /etc/security/limits.conf), then start again"
        );
        check_descriptors(1_024, 507_904, 2, 32).unwrap();
        assert!(check_descriptors(1_024, 507_905, 2, 32).is_err());
        assert!(check_descriptors(1_430, 1_000_000, 2, 32).is_err());
        check_descriptors(1_431, 1_000_000, 2, 32).unwrap();
        assert!(error(check_descriptors(16, 1, 2, 32)).contains("allows 0 connections"));
    }

    #[test]
    fn sources_to_loopback_by_hand() {
        let loopback = target("127.0.0.1:8000");
        check_sources(1, PORTS_PER_ADDRESS, &loopback, 64_511).unwrap();
        // 1,000,000 / 64,511 = 15.5: 16 addresses.
        check_sources(16, PORTS_PER_ADDRESS, &loopback, 1_000_000).unwrap();
        assert_eq!(
            error(check_sources(1, PORTS_PER_ADDRESS, &loopback, 1_000_000)),
            "source addresses allow 64,511 connections to one target, 1,000,000 asked; \
             next: add --source 127.0.1.0/28 or 15 more addresses"
        );
        assert_eq!(
            error(check_sources(1, PORTS_PER_ADDRESS, &loopback, 64_512)),
            "source addresses allow 64,511 connections to one target, 64,512 asked; \
             next: add --source 127.0.1.0/31 or 1 more address"
        );
        // 2,400,000 / (64,511 x 2) = 18.6: 19 addresses, so 32 by the range.
        let two: Vec<SocketAddr> = ["127.0.0.1:8000", "127.0.0.1:8001"]
            .map(|t| t.parse().unwrap())
            .into();
        assert_eq!(
            error(check_sources(4, PORTS_PER_ADDRESS, &two, 2_400_000)),
            "source addresses allow 516,088 connections to 2 targets, 2,400,000 asked; \
             next: add --source 127.0.1.0/27 or 15 more addresses"
        );
    }

    #[test]
    fn ranges_are_aligned_and_end() {
        let loopback = target("127.0.0.1:8000");
        let proposed = |count| range_of(count, &loopback).map(|range| range.cidr);
        assert_eq!(proposed(1).unwrap(), "127.0.1.0/32");
        assert_eq!(proposed(256).unwrap(), "127.0.1.0/24");
        assert_eq!(proposed(257).unwrap(), "127.1.0.0/23");
        assert_eq!(proposed(65_536).unwrap(), "127.1.0.0/16");
        assert_eq!(proposed(65_537).unwrap(), "127.128.0.0/15");
        assert_eq!(proposed(1 << 23).unwrap(), "127.128.0.0/9");
        assert_eq!(proposed((1 << 23) + 1), None);
        // With one port each, ten million connections need ten million addresses.
        assert_eq!(
            error(check_sources(1, 1, &loopback, 10_000_000)),
            "source addresses allow 1 connections to one target, 10,000,000 asked; \
             next: add 9,999,999 more addresses, or more targets or ports"
        );
    }

    #[test]
    fn sources_elsewhere() {
        assert_eq!(
            error(check_sources(
                1,
                PORTS_PER_ADDRESS,
                &target("192.0.2.7:80"),
                1_000_000
            )),
            "source addresses allow 64,511 connections to one target, 1,000,000 asked; \
             next: add 15 more addresses to an interface, or, if the target routes the range back here: \
             ip route add local 198.18.0.0/28 dev lo; then add --source 198.18.0.0/28"
        );
        assert_eq!(
            error(check_sources(
                1,
                PORTS_PER_ADDRESS,
                &target("[::1]:80"),
                1_000_000
            )),
            "source addresses allow 64,511 connections to one target, 1,000,000 asked; \
             next: add 15 more addresses to an interface, or, if the target routes the range back here: \
             ip -6 route add local fd00:1::/124 dev lo && sysctl -w \
             net.ipv6.ip_nonlocal_bind=1; then add --source fd00:1::/124"
        );
    }

    #[test]
    fn sources_of_nothing() {
        assert!(error(check_sources(1, PORTS_PER_ADDRESS, &[], 1)).contains("at least one target"));
        assert!(error(check_sources(1, 0, &target("127.0.0.1:1"), 1)).contains("source port"));
        assert!(check_sources(0, PORTS_PER_ADDRESS, &target("127.0.0.1:1"), 1).is_err());
        check_sources(0, 0, &[], 0).unwrap();
    }
}
