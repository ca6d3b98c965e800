//! What would stop a run before it starts, each said in one line with the command that mends it.
//!
//! Invariants: a check reads, compares and answers; it never changes the machine and leaves nothing open. Only
//! `raise_nofile` acts, and on this process alone. Must not know who asks, nor what a connection costs in user space:
//! callers pass their figures in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::cost::RING_TABLE_COUNT_MAX;
use crate::{Machine, Shortfall, gibibytes, grouped};

/// The kernel that brought the `BIND` and `LISTEN` opcodes.
pub const KERNEL_BIND: (u32, u32) = (6, 11);
/// The kernel that brought `IORING_ACCEPT_DONTWAIT`.
pub const KERNEL_ACCEPT_DONTWAIT: (u32, u32) = (6, 10);
/// The kernel that brought `SETSOCKOPT` as a ring command.
pub const KERNEL_SETSOCKOPT: (u32, u32) = (6, 7);
/// The kernel that brought `DEFER_TASKRUN`.
pub const KERNEL_DEFER_TASKRUN: (u32, u32) = (6, 1);
/// The kernel that brought multishot receive.
pub const KERNEL_RECV_MULTISHOT: (u32, u32) = (6, 0);
/// The kernel that brought sockets made straight into a ring's table.
pub const KERNEL_SOCKET_DIRECT: (u32, u32) = (5, 19);

/// What `raise_nofile` found and left. Displays as the note to print before a run.
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

/// Raises the soft descriptor limit of this process to the hard one.
///
/// A ring's table is bounded by the limit when it is registered, so this comes before any ring.
pub fn raise_nofile() -> Result<Nofile, Shortfall> {
    let failed = |what: &str, errno: Errno| {
        Shortfall::new(
            format!("the descriptor limit cannot be {what}: {}", errno.desc()),
            "ulimit -Sn $(ulimit -Hn)",
        )
    };
    let (before, limit) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| failed("read", errno))?;
    if before < limit {
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
            .map_err(|errno| failed("raised", errno))?;
    }
    Ok(Nofile { before, limit })
}

/// Whether this process may make rings at all, as far as the sysctl goes.
pub fn check_io_uring(machine: &Machine) -> Result<(), Shortfall> {
    let whom = match machine.io_uring_disabled {
        0 => return Ok(()),
        1 if machine.io_uring_privileged => return Ok(()),
        1 => "unprivileged users",
        _ => "everybody",
    };
    Err(Shortfall::new(
        format!(
            "io_uring is disabled for {whom} (kernel.io_uring_disabled = {})",
            machine.io_uring_disabled
        ),
        "sysctl -w kernel.io_uring_disabled=0 (as root)",
    ))
}

/// Whether the kernel is recent enough for `feature`, which came with version `needed`.
pub fn check_kernel(machine: &Machine, feature: &str, needed: (u32, u32)) -> Result<(), Shortfall> {
    if machine.kernel_version >= needed {
        return Ok(());
    }
    let (major, minor) = needed;
    Err(Shortfall::new(
        format!(
            "{feature} needs Linux {major}.{minor} or later, this is {}",
            machine.kernel_release
        ),
        format!("boot a kernel of version {major}.{minor} or later, then: uname -r"),
    ))
}

/// How many connections fit into the memory usable now at `bytes_per_connection`, kernel and user space of every end on this
/// machine together; see [`Machine::memory_usable_bytes`].
pub fn memory_fits(machine: &Machine, bytes_per_connection: u64) -> u64 {
    machine.memory_usable_bytes() / bytes_per_connection.max(1)
}

/// Whether `connections` fit into the memory available; see [`memory_fits`].
pub fn check_memory(
    machine: &Machine,
    connections: u64,
    bytes_per_connection: u64,
) -> Result<(), Shortfall> {
    let fits = memory_fits(machine, bytes_per_connection);
    if connections <= fits {
        return Ok(());
    }
    let needed_bytes = connections.saturating_mul(bytes_per_connection);
    Err(Shortfall::new(
        format!(
            "memory holds {} connections at {} bytes each, {} asked, which need {}: {}",
            grouped(fits),
            grouped(bytes_per_connection),
            grouped(connections),
            gibibytes(needed_bytes),
            machine.memory_said(),
        ),
        format!(
            "ask for {} or fewer, or free memory (free -m shows it)",
            grouped(fits)
        ),
    ))
}

/// How many rings hold `connections` at a descriptor limit of `limit`: one ring's table has at most `limit` entries.
pub fn rings_needed(connections: u64, limit: u64) -> u64 {
    connections.div_ceil(limit.clamp(1, RING_TABLE_COUNT_MAX))
}

/// Whether the process can open what the rings for `connections` need of ordinary descriptors: `per_ring` for each
/// ring and `base` besides. Sockets in the rings' tables do not count. `limit` is what [`raise_nofile`] left.
pub fn check_descriptors(
    limit: u64,
    connections: u64,
    per_ring: u64,
    base: u64,
) -> Result<(), Shortfall> {
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
    // A higher limit never needs more rings, so the least that does is found by halving.
    let (mut too_low, mut enough) = (limit, opens(limit));
    while enough - too_low > 1 {
        let middle = too_low + (enough - too_low) / 2;
        if opens(middle) <= middle {
            enough = middle;
        } else {
            too_low = middle;
        }
    }
    Err(Shortfall::new(
        format!(
            "descriptor limit {limit} allows {} connections, {} asked",
            grouped(fits),
            grouped(connections)
        ),
        format!("ulimit -n {enough} (as root, or in /etc/security/limits.conf), then start again"),
    ))
}

/// Whether `addresses` source addresses with `ports_per_address` ports each reach `targets` with `asked` connections:
/// each combination of source address, source port and target holds one. All are of one IP family.
pub fn check_sources(
    addresses: u64,
    ports_per_address: u64,
    targets: &[SocketAddr],
    asked: u64,
) -> Result<(), Shortfall> {
    let per_address = ports_per_address.saturating_mul(targets.len() as u64);
    let allowed = per_address.saturating_mul(addresses);
    if asked <= allowed {
        return Ok(());
    }
    if per_address == 0 {
        return Err(Shortfall::new(
            "no port or no target to connect to",
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
            "add {more} that an interface has, or, where the target routes it back here: \
             {command}; then add --source {cidr}"
        ),
        None => format!("add {more}, or more targets or ports"),
    };
    Err(Shortfall::new(cause, next))
}

/// A range of source addresses to propose, and the command after which it can be used if it cannot be at once.
struct Range {
    cidr: String,
    made_local_by: Option<String>,
}

/// The smallest range of `count` addresses or more that reaches the targets. It counts every address needed, not only
/// those missing, so that it suffices also where it overlaps the ones already given.
fn range_of(count: u64, targets: &[SocketAddr]) -> Option<Range> {
    let bits = count.checked_next_power_of_two()?.ilog2();
    if targets.iter().all(|target| target.is_ipv4()) {
        let loopback = targets.iter().all(|target| target.ip().is_loopback());
        // Each base is aligned to the largest range it serves. 198.18.0.0/15 is set aside for benchmarks.
        let base = match (loopback, bits) {
            (true, 0..=8) => Ipv4Addr::new(127, 0, 1, 0),
            (true, 9..=16) => Ipv4Addr::new(127, 1, 0, 0),
            (true, 17..=23) => Ipv4Addr::new(127, 128, 0, 0),
            (false, 0..=17) => Ipv4Addr::new(198, 18, 0, 0),
            _ => return None,
        };
        let cidr = format!("{base}/{}", 32 - bits);
        // All of 127.0.0.0/8 is local as it stands.
        let made_local_by = (!loopback).then(|| format!("ip route add local {cidr} dev lo"));
        Some(Range {
            cidr,
            made_local_by,
        })
    } else {
        // IPv6 loopback has one address. A local route alone does not let a source be bound, the sysctl does.
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

/// Whether this process may bind `addr`: the address is one of this machine's and the port is not privileged. Asks
/// the kernel by binding, without listening. A port in use passes: that is [`check_port_free`]'s.
pub fn check_port(addr: SocketAddr) -> Result<(), Shortfall> {
    match bound(addr) {
        Ok(()) | Err(Errno::EADDRINUSE) => Ok(()),
        Err(errno) => Err(port_shortfall(addr, errno)),
    }
}

/// As [`check_port`], and nobody listens there, not even a server of ours: their listeners would share the port and
/// each get a part of the connections. Connections still closing are in nobody's way, provided the listener that they
/// came from had SO_REUSEADDR.
pub fn check_port_free(addr: SocketAddr) -> Result<(), Shortfall> {
    bound(addr).map_err(|errno| port_shortfall(addr, errno))
}

/// Binds a socket of its own and closes it again. SO_REUSEADDR, as a server sets it: only a listener is in the way.
fn bound(addr: SocketAddr) -> Result<(), Errno> {
    let family = match addr.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))
}

fn port_shortfall(addr: SocketAddr, errno: Errno) -> Shortfall {
    let port = addr.port();
    match errno {
        Errno::EACCES => Shortfall::new(
            format!("port {port} is privileged and this process has no CAP_NET_BIND_SERVICE"),
            format!(
                "take a port above 1023, or (as root) setcap cap_net_bind_service=+ep PROGRAM, \
                 or sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
            ),
        ),
        Errno::EADDRINUSE => Shortfall::new(
            format!("{addr} is in use by another listener"),
            format!("ss -ltnp 'sport = :{port}' shows whose; stop it or take another port"),
        ),
        Errno::EADDRNOTAVAIL => Shortfall::new(
            format!("{} is not an address of this machine", addr.ip()),
            "ip -brief address shows those it has; 0.0.0.0 or [::] listens on all",
        ),
        Errno::EAFNOSUPPORT => Shortfall::new(
            format!(
                "this kernel has no IPv{}",
                if addr.is_ipv6() { 6 } else { 4 }
            ),
            "take an address of the other IP version",
        ),
        other => Shortfall::new(
            format!("{addr} cannot be bound: {}", other.desc()),
            "try another address or port",
        ),
    }
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
            nofile_soft: 1024,
            nofile_hard: 20_000,
            io_uring_disabled: 0,
            io_uring_privileged: true,
            sys_admin: true,
            address_count: 1,
            network_namespace: 1,
        }
    }

    fn said(result: Result<(), Shortfall>) -> String {
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
        assert_eq!(check_io_uring(&described(0, false)), Ok(()));
        assert_eq!(check_io_uring(&described(1, true)), Ok(()));
        assert_eq!(
            said(check_io_uring(&described(1, false))),
            "io_uring is disabled for unprivileged users (kernel.io_uring_disabled = 1); \
             next: sysctl -w kernel.io_uring_disabled=0 (as root)"
        );
        assert_eq!(
            said(check_io_uring(&described(2, true))),
            "io_uring is disabled for everybody (kernel.io_uring_disabled = 2); \
             next: sysctl -w kernel.io_uring_disabled=0 (as root)"
        );
    }

    #[test]
    fn kernel_too_old() {
        assert_eq!(
            check_kernel(&machine(), "the BIND opcode", KERNEL_BIND),
            Ok(())
        );
        assert_eq!(
            check_kernel(&machine(), "this very kernel", (6, 18)),
            Ok(())
        );
        // 6.8 is older than 6.11, though 8 follows 1 in a text.
        let older = Machine {
            kernel_release: "6.8.0-45-generic".to_owned(),
            kernel_version: (6, 8),
            ..machine()
        };
        assert_eq!(
            said(check_kernel(
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
        assert_eq!(
            check_memory(&machine(), 2_935_859, PAIR_POLL_PARKED_BYTES_MAX),
            Ok(())
        );
        // 10,000,000 x 8,229 = 82,290,000,000 bytes = 76.64 GiB.
        assert_eq!(
            said(check_memory(
                &machine(),
                10_000_000,
                PAIR_POLL_PARKED_BYTES_MAX
            )),
            "memory holds 2,935,859 connections at 8,229 bytes each, 10,000,000 asked, which need 76.6 GiB: \
             23.0 GiB available, 0.5 GiB of it left to the system; \
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
        assert_eq!(check_descriptors(4_096, 200_000, 2, 32), Ok(()));
        assert_eq!(check_descriptors(20_000, 1_000_000, 2, 32), Ok(()));
        // 977 rings x 2 + 32 = 1,986 > 1,024. 496 rings fit: 496 x 1,024 = 507,904.
        // 1,430: 700 rings x 2 + 32 = 1,432 is too many; 1,431: 699 rings, 1,430 is not.
        assert_eq!(
            said(check_descriptors(1_024, 1_000_000, 2, 32)),
            "descriptor limit 1024 allows 507,904 connections, 1,000,000 asked; \
             next: ulimit -n 1431 (as root, or in /etc/security/limits.conf), then start again"
        );
        assert_eq!(check_descriptors(1_024, 507_904, 2, 32), Ok(()));
        assert!(check_descriptors(1_024, 507_905, 2, 32).is_err());
        assert!(check_descriptors(1_430, 1_000_000, 2, 32).is_err());
        assert_eq!(check_descriptors(1_431, 1_000_000, 2, 32), Ok(()));
        assert!(said(check_descriptors(16, 1, 2, 32)).contains("allows 0 connections"));
    }

    #[test]
    fn sources_to_loopback_by_hand() {
        let loopback = target("127.0.0.1:8000");
        assert_eq!(
            check_sources(1, PORTS_PER_ADDRESS, &loopback, 64_511),
            Ok(())
        );
        // 1,000,000 / 64,511 = 15.5: 16 addresses.
        assert_eq!(
            check_sources(16, PORTS_PER_ADDRESS, &loopback, 1_000_000),
            Ok(())
        );
        assert_eq!(
            said(check_sources(1, PORTS_PER_ADDRESS, &loopback, 1_000_000)),
            "source addresses allow 64,511 connections to one target, 1,000,000 asked; \
             next: add --source 127.0.1.0/28 or 15 more addresses"
        );
        assert_eq!(
            said(check_sources(1, PORTS_PER_ADDRESS, &loopback, 64_512)),
            "source addresses allow 64,511 connections to one target, 64,512 asked; \
             next: add --source 127.0.1.0/31 or 1 more address"
        );
        // 2,400,000 / (64,511 x 2) = 18.6: 19 addresses, so 32 by the range.
        let two: Vec<SocketAddr> = ["127.0.0.1:8000", "127.0.0.1:8001"]
            .map(|t| t.parse().unwrap())
            .into();
        assert_eq!(
            said(check_sources(4, PORTS_PER_ADDRESS, &two, 2_400_000)),
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
            said(check_sources(1, 1, &loopback, 10_000_000)),
            "source addresses allow 1 connections to one target, 10,000,000 asked; \
             next: add 9,999,999 more addresses, or more targets or ports"
        );
    }

    #[test]
    fn sources_elsewhere() {
        assert_eq!(
            said(check_sources(
                1,
                PORTS_PER_ADDRESS,
                &target("192.0.2.7:80"),
                1_000_000
            )),
            "source addresses allow 64,511 connections to one target, 1,000,000 asked; \
             next: add 15 more addresses that an interface has, or, where the target routes it \
             back here: ip route add local 198.18.0.0/28 dev lo; then add --source 198.18.0.0/28"
        );
        assert_eq!(
            said(check_sources(
                1,
                PORTS_PER_ADDRESS,
                &target("[::1]:80"),
                1_000_000
            )),
            "source addresses allow 64,511 connections to one target, 1,000,000 asked; \
             next: add 15 more addresses that an interface has, or, where the target routes it \
             back here: ip -6 route add local fd00:1::/124 dev lo && sysctl -w \
             net.ipv6.ip_nonlocal_bind=1; then add --source fd00:1::/124"
        );
    }

    #[test]
    fn sources_of_nothing() {
        assert!(said(check_sources(1, PORTS_PER_ADDRESS, &[], 1)).contains("at least one target"));
        assert!(said(check_sources(1, 0, &target("127.0.0.1:1"), 1)).contains("source port"));
        assert!(check_sources(0, PORTS_PER_ADDRESS, &target("127.0.0.1:1"), 1).is_err());
        assert_eq!(check_sources(0, 0, &[], 0), Ok(()));
    }
}
