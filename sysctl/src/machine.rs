//! Facts about this machine that limit how many connections it can hold, read once from `/proc` and
//! `/sys`.
//!
//! Invariants: reading changes nothing; every parser is a pure function of text, so that a
//! described machine can replace the real one. A fact that the kernel does not report takes the
//! value that limits nothing.
//! Must not depend on: what is going to run here: `preflight` compares.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_engine::{SetupError, SetupErrorKind, check_io_uring};
use holdfast_units::bytes;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::cost::{MEMORY_RESERVED_BYTES, MEMORY_RESERVED_CGROUP_BYTES};
use crate::routes;

/// This machine, as far as this process may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// Major and minor of the release.
    pub kernel_version: (u32, u32),
    /// The processor's name, or the architecture if it reports none.
    pub cpu_model: String,
    /// Cores this process may run on.
    pub core_count: usize,
    /// Total memory.
    pub memory_bytes: u64,
    /// Memory that can still be allocated (`MemAvailable`).
    pub memory_available_bytes: u64,
    /// Memory left below the limit of the memory cgroup this process is in; `None` without a limit.
    pub memory_cgroup_left_bytes: Option<u64>,
    /// Soft limit on open descriptors.
    pub nofile_soft: u64,
    /// Hard limit on open descriptors.
    pub nofile_hard: u64,
    /// Soft limit on locked memory, which rings count against; `None` without a limit, or with
    /// CAP_IPC_LOCK.
    #[serde(default)]
    pub locked_memory_bytes: Option<u64>,
    /// `kernel.io_uring_disabled`: 0 allows everybody, 1 only privileged processes, 2 nobody; 0 if
    /// the kernel lacks it.
    pub io_uring_disabled: u32,
    /// Whether this process may set up rings where `io_uring_disabled` is 1.
    pub io_uring_privileged: bool,
    /// Why the kernel refuses to set up a ring, whatever `io_uring_disabled` says (seccomp, for
    /// example); `None` if it does not.
    #[serde(default)]
    pub io_uring_refusal: Option<Refusal>,
    /// CAP_SYS_ADMIN in the initial user namespace: `fs.file-max` does not limit such a process.
    pub sys_admin: bool,
    /// IPv4 addresses that connections to other machines can come from; see
    /// [`routes::address_count`].
    pub address_count: u64,
    /// The network namespace, by the inode of `/proc/self/ns/net`.
    pub network_namespace: u64,
}

/// Why something is refused, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The likely cause, one line.
    pub cause: String,
    /// What to type or change.
    pub next_step: String,
}

impl Machine {
    /// Reads the facts of this machine. Call it before any thread is pinned: the cores are those of
    /// the main thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted or unreadable.
    pub fn read() -> Result<Self, SetupError> {
        let kernel_release = read_text("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let kernel_version = parse_kernel_version(&kernel_release)
            .ok_or_else(|| malformed("/proc/sys/kernel/osrelease", "not a version"))?;
        let status = read_text("/proc/self/status")?;
        let core_count = parse_core_count(&status)
            .ok_or_else(|| malformed("/proc/self/status", "no Cpus_allowed_list"))?;
        let memory = parse_memory(&read_text("/proc/meminfo")?)
            .ok_or_else(|| malformed("/proc/meminfo", "no MemTotal or MemAvailable"))?;
        let (nofile_soft, nofile_hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| {
            SetupError::from_io("the descriptor limit cannot be read", errno, "ulimit -n")
        })?;
        let io_uring_group = optional_number("/proc/sys/kernel/io_uring_group").unwrap_or(-1);
        let user_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();

        Ok(Self {
            kernel_version,
            kernel_release,
            cpu_model: parse_cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            core_count,
            memory_bytes: memory.total_bytes,
            memory_available_bytes: memory.available_bytes,
            memory_cgroup_left_bytes: cgroup_memory_left("self"),
            nofile_soft,
            nofile_hard,
            locked_memory_bytes: locked_memory_limit(&status, &user_map),
            io_uring_disabled: optional_number("/proc/sys/kernel/io_uring_disabled")
                .and_then(|value| u32::try_from(value).ok())
                .unwrap_or(0),
            io_uring_privileged: parse_io_uring_privileged(&status, &user_map, io_uring_group),
            io_uring_refusal: check_io_uring(false).err().map(|error| Refusal {
                cause: error.cause().to_owned(),
                next_step: error.next_step().to_owned(),
            }),
            sys_admin: parse_sys_admin(&status, &user_map),
            address_count: routes::address_count(),
            network_namespace: fs::metadata("/proc/self/ns/net").map_or(0, |m| m.ino()),
        })
    }
}

impl Machine {
    /// Memory that connections may take, bytes: what is available less a reserve for the system,
    /// or, within a memory cgroup, less a reserve for our own processes.
    pub fn memory_usable_bytes(&self) -> u64 {
        let machine = self
            .memory_available_bytes
            .saturating_sub(MEMORY_RESERVED_BYTES);
        let cgroup = self
            .memory_cgroup_left_bytes
            .map(|left| left.saturating_sub(MEMORY_RESERVED_CGROUP_BYTES));
        machine.min(cgroup.unwrap_or(u64::MAX))
    }

    /// How [`memory_usable_bytes`](Self::memory_usable_bytes) was calculated, for messages.
    pub fn memory_summary(&self) -> String {
        match self.memory_cgroup_left_bytes {
            Some(left) if left < self.memory_available_bytes => format!(
                "{} left in the memory cgroup, {} of it reserved for the programs",
                bytes(left),
                bytes(MEMORY_RESERVED_CGROUP_BYTES)
            ),
            _ => format!(
                "{} available, {} of it reserved for the system",
                bytes(self.memory_available_bytes),
                bytes(MEMORY_RESERVED_BYTES)
            ),
        }
    }
}

const MOUNT_PROC: &str = "mount -t proc proc /proc (as root), if it is not mounted";

fn malformed(path: &str, why: &str) -> SetupError {
    SetupError::new(
        SetupErrorKind::Unsupported,
        format!("{path} cannot be parsed: {why}"),
        MOUNT_PROC,
    )
}

fn read_text(path: &str) -> Result<String, SetupError> {
    fs::read_to_string(path).map_err(|error| {
        SetupError::from_io(format_args!("{path} cannot be read"), error, MOUNT_PROC)
    })
}

fn optional_number(path: impl AsRef<Path>) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `6.18.44-fc-v657` -> (6, 18).
pub fn parse_kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The processor's name; ARM reports none in `/proc/cpuinfo`.
pub fn parse_cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| matches!(key.trim(), "model name" | "Model" | "uarch"))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, name)| name.split_whitespace().collect::<Vec<_>>().join(" "),
        )
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Counts `Cpus_allowed_list: 0-1,4`.
pub fn parse_core_count(status: &str) -> Option<usize> {
    status_field(status, "Cpus_allowed_list")?
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            last.checked_sub(first)?.checked_add(1)
        })
        .try_fold(0_usize, |sum, count| sum.checked_add(count?))
}

const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// CAP_SYS_ADMIN in the initial user namespace.
pub fn parse_sys_admin(status: &str, user_map: &str) -> bool {
    has_capability(status, user_map, CAP_SYS_ADMIN)
}

/// A capability in the initial user namespace, the only one the kernel asks for here.
fn has_capability(status: &str, user_map: &str, capability: u32) -> bool {
    let is_initial_namespace = user_map.split_whitespace().eq(["0", "0", "4294967295"]);
    let is_capable = status_field(status, "CapEff")
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .is_some_and(|mask| mask >> capability & 1 == 1);
    is_capable && is_initial_namespace
}

/// The limit on locked memory that io_uring applies to this process, bytes. The kernel looks at the
/// soft limit.
fn locked_memory_limit(status: &str, user_map: &str) -> Option<u64> {
    if has_capability(status, user_map, CAP_IPC_LOCK) {
        return None;
    }
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

/// The kernel's rule for `io_uring_disabled=1`: CAP_SYS_ADMIN in the initial user namespace, or
/// membership of `kernel.io_uring_group`.
pub fn parse_io_uring_privileged(status: &str, user_map: &str, io_uring_group: i64) -> bool {
    if parse_sys_admin(status, user_map) {
        return true;
    }
    // The last of the four `Gid` numbers is the file system's, which the kernel compares.
    let own = status_field(status, "Gid").and_then(|ids| ids.split_whitespace().nth(3));
    let others = status_field(status, "Groups")
        .unwrap_or_default()
        .split_whitespace();
    io_uring_group >= 0
        && own
            .into_iter()
            .chain(others)
            .any(|id| id.parse() == Ok(io_uring_group))
}

/// Two lines of `/proc/meminfo`.
#[derive(Debug, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`.
    pub total_bytes: u64,
    /// `MemAvailable`.
    pub available_bytes: u64,
}

/// Reads `/proc/meminfo`.
pub fn parse_memory(meminfo: &str) -> Option<Memory> {
    let bytes = |name| {
        let kibibytes: u64 = status_field(meminfo, name)?
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory {
        total_bytes: bytes("MemTotal")?,
        available_bytes: bytes("MemAvailable")?,
    })
}

/// A memory cgroup of this process or an ancestor, with the files that report its limit, use and
/// reclaimable cache.
#[derive(Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The directory of its files.
    pub folder: PathBuf,
    /// The file with its limit.
    pub limit_file: &'static str,
    /// The file with its use.
    pub used_file: &'static str,
    /// The line of `memory.stat` with the reclaimable cache.
    pub cache_key: &'static str,
}

/// The memory cgroups this process is in, its own first, of both versions: a hybrid system mounts
/// both. A path outside the mount (a container that sees the host's path) counts as the root of the
/// mount.
pub fn parse_cgroups(mountinfo: &str, membership: &str) -> Vec<Cgroup> {
    let mut cgroups = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<&str> = mount.split(' ').collect();
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let ([_, _, _, root, mount_point, ..], [kind, ..]) = (&mount[..], &filesystem[..]) else {
            continue;
        };
        let options = filesystem.last().copied().unwrap_or_default();
        let version_2 = *kind == "cgroup2";
        let version_1 = *kind == "cgroup" && options.split(',').any(|option| option == "memory");
        if !version_1 && !version_2 {
            continue;
        }
        let own = membership.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_memory = if version_2 {
                controllers.is_empty()
            } else {
                controllers
                    .split(',')
                    .any(|controller| controller == "memory")
            };
            is_memory.then_some(path)
        });
        let Some(own) = own else { continue };
        let below_root = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        let mount_point = Path::new(mount_point);
        for folder in mount_point
            .join(below_root)
            .ancestors()
            .take_while(|f| f.starts_with(mount_point))
        {
            let folder = folder.to_owned();
            cgroups.push(if version_2 {
                Cgroup {
                    folder,
                    limit_file: "memory.max",
                    used_file: "memory.current",
                    cache_key: "inactive_file",
                }
            } else {
                Cgroup {
                    folder,
                    limit_file: "memory.limit_in_bytes",
                    used_file: "memory.usage_in_bytes",
                    cache_key: "total_inactive_file",
                }
            });
        }
    }
    cgroups
}

/// Bytes left below a limit: the kernel reclaims inactive cache before it refuses memory.
/// `max` (version 2) and the page-rounded largest number (version 1) mean no limit.
pub fn parse_memory_left(limit: &str, used: &str, stat: &str, cache_key: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok().filter(|&bytes| bytes < 1 << 62)?;
    let used: u64 = used.trim().parse().ok()?;
    let cache = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == cache_key)
        .and_then(|(_, bytes)| bytes.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// The least memory left in any cgroup of a process, named by its number in `/proc` or `self`;
/// `None` without a limit.
pub fn cgroup_memory_left(process: &str) -> Option<u64> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let membership = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    parse_cgroups(&mountinfo, &membership)
        .iter()
        .filter_map(|cgroup| {
            let text = |name: &str| fs::read_to_string(cgroup.folder.join(name)).ok();
            parse_memory_left(
                &text(cgroup.limit_file)?,
                &text(cgroup.used_file)?,
                &text("memory.stat").unwrap_or_default(),
                cgroup.cache_key,
            )
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nGid:\t1000\t1000\t1000\t1000\nGroups:\t27 998 \n\
        CapInh:\t0000000000000000\nCapEff:\t000001fffeffffff\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n";
    const STATUS_PLAIN: &str =
        "Gid:\t1000\t1000\t1000\t1000\nGroups:\t27 998 \nCapEff:\t0000000000000000\n";
    const INITIAL_MAP: &str = "         0          0 4294967295\n";

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read().unwrap();
        assert!(machine.kernel_version >= (3, 0), "{machine:?}");
        assert!(!machine.cpu_model.is_empty());
        assert!(machine.core_count >= 1);
        assert!(machine.memory_available_bytes > 0);
        assert!(machine.memory_available_bytes <= machine.memory_bytes);
        assert!(machine.nofile_soft <= machine.nofile_hard);
        assert!(machine.io_uring_disabled <= 2);
    }

    #[test]
    fn kernel_versions() {
        assert_eq!(parse_kernel_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_kernel_version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(parse_kernel_version("7.0-rc1"), Some((7, 0)));
        assert_eq!(parse_kernel_version("6.1+"), Some((6, 1)));
        assert_eq!(parse_kernel_version("six"), None);
        assert_eq!(parse_kernel_version(""), None);
    }

    #[test]
    fn cpu_models() {
        let x86 = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD  EPYC 7763\nstepping\t: 1\n";
        assert_eq!(parse_cpu_model(x86), "AMD EPYC 7763");
        let raspberry = "processor\t: 0\nCPU part\t: 0xd08\nModel\t\t: Raspberry Pi 4\n";
        assert_eq!(parse_cpu_model(raspberry), "Raspberry Pi 4");
        assert_eq!(parse_cpu_model("processor\t: 0\n"), std::env::consts::ARCH);
    }

    #[test]
    fn cores_allowed() {
        assert_eq!(parse_core_count(STATUS), Some(2));
        assert_eq!(parse_core_count("Cpus_allowed_list:\t3\n"), Some(1));
        assert_eq!(
            parse_core_count("Cpus_allowed_list:\t0-3,8,16-31\n"),
            Some(21)
        );
        assert_eq!(parse_core_count("Cpus_allowed_list:\t3-1\n"), None);
        let all = format!("Cpus_allowed_list:\t0-{}\n", usize::MAX);
        assert_eq!(parse_core_count(&all), None);
        assert_eq!(parse_core_count("Name:\tcat\n"), None);
    }

    #[test]
    fn memory_of_the_machine() {
        let meminfo = "MemTotal:       24684092 kB\nMemFree:        24195700 kB\nMemAvailable:   24365880 kB\n";
        let memory = Memory {
            total_bytes: 25_276_510_208,
            available_bytes: 24_950_661_120,
        };
        assert_eq!(parse_memory(meminfo), Some(memory));
        assert_eq!(parse_memory("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn io_uring_for_the_privileged() {
        assert!(parse_io_uring_privileged(STATUS, INITIAL_MAP, -1));
        // Root of a user namespace is not root to this rule.
        assert!(!parse_io_uring_privileged(STATUS, "0 1000 1\n", -1));
        assert!(!parse_io_uring_privileged(STATUS_PLAIN, INITIAL_MAP, -1));
        assert!(!parse_io_uring_privileged(STATUS_PLAIN, INITIAL_MAP, 5));
        assert!(parse_io_uring_privileged(STATUS_PLAIN, INITIAL_MAP, 1000));
        assert!(parse_io_uring_privileged(STATUS_PLAIN, INITIAL_MAP, 998));
    }

    fn folders(mountinfo: &str, membership: &str) -> Vec<(PathBuf, &'static str)> {
        parse_cgroups(mountinfo, membership)
            .into_iter()
            .map(|cgroup| (cgroup.folder, cgroup.limit_file))
            .collect()
    }

    #[test]
    fn cgroups_of_version_2_up_to_the_mount() {
        let mountinfo = "24 1 0:22 / /proc rw - proc proc rw\n\
            30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            folders(mountinfo, "0::/system.slice/holdfast.service\n"),
            [
                (
                    "/sys/fs/cgroup/system.slice/holdfast.service".into(),
                    "memory.max"
                ),
                ("/sys/fs/cgroup/system.slice".into(), "memory.max"),
                ("/sys/fs/cgroup".into(), "memory.max"),
            ]
        );
    }

    #[test]
    fn cgroups_of_a_hybrid_system() {
        let mountinfo = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = folders(mountinfo, "5:devices:/\n4:memory:/job\n0::/\n");
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/memory/job".into(), "memory.limit_in_bytes"),
                ("/sys/fs/cgroup/memory".into(), "memory.limit_in_bytes"),
                ("/sys/fs/cgroup/unified".into(), "memory.max"),
            ]
        );
    }

    #[test]
    fn cgroups_of_a_container() {
        // The container's cgroup is mounted as the root, but the membership tells the host's path.
        let mountinfo =
            "900 890 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let at_root = [("/sys/fs/cgroup/memory".into(), "memory.limit_in_bytes")];
        assert_eq!(folders(mountinfo, "4:memory:/docker/abc\n"), at_root);
        assert_eq!(folders(mountinfo, "4:memory:/elsewhere\n"), at_root);
    }

    #[test]
    fn memory_left_below_a_limit() {
        let stat = "anon 100\ninactive_file 300\nactive_file 50\n";
        assert_eq!(
            parse_memory_left("1000\n", "700\n", stat, "inactive_file"),
            Some(600)
        );
        assert_eq!(
            parse_memory_left("1000\n", "1200\n", "", "inactive_file"),
            Some(0)
        );
        assert_eq!(
            parse_memory_left("max\n", "700\n", stat, "inactive_file"),
            None
        );
        assert_eq!(
            parse_memory_left("9223372036854771712\n", "7\n", stat, "total_inactive_file"),
            None
        );
    }
}
