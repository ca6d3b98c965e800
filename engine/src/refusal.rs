//! Why io_uring cannot be used here, and what to do.
//!
//! The kernel answers a refusal with one error number that has several causes: a sysctl, a seccomp
//! filter, a limit, a kernel that is too old. [`diagnose`] tells them apart by what it can read
//! about this process, so that the message names one of them.
//! Invariants: diagnosing is a pure function of the error number and of [`Circumstances`].
//! Must not depend on: rings, handlers, the rest of the engine but for its error.

use std::fs;
use std::io;

use crate::error::{SetupError, SetupErrorKind};

/// What one ring of the engine takes of the locked-memory limit, KiB, rounded up.
const RING_LOCKED_KIB: u64 = 64;

const CAP_IPC_LOCK: u64 = 1 << 14;
const CAP_SYS_ADMIN: u64 = 1 << 21;

const ALLOW_IN_SECCOMP: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
     (for a container: --security-opt seccomp=unconfined)";
const RAISE_MEMLOCK: &str = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit";

/// What decides between the causes of one error number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Circumstances {
    /// `kernel.io_uring_disabled`; 0 where the kernel has none.
    pub io_uring_disabled: u32,
    /// A seccomp filter is in force for this process.
    pub has_seccomp_filter: bool,
    /// Effective capabilities of this process.
    pub capabilities: u64,
    /// The kernel's release, as `uname -r` gives it.
    pub release: String,
    /// The soft limit on descriptors.
    pub descriptors_max: u64,
    /// The soft limit on locked memory, bytes; `u64::MAX` is none.
    pub locked_bytes_max: u64,
}

impl Circumstances {
    /// Reads them. What cannot be read counts as absent.
    pub fn read() -> Self {
        use nix::sys::resource::{Resource, getrlimit};
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let limit = |resource| getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft);
        Circumstances {
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled").unwrap_or(0),
            has_seccomp_filter: field("Seccomp:").is_some_and(|mode| mode == "2"),
            capabilities: field("CapEff:")
                .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
                .unwrap_or(0),
            release: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            descriptors_max: limit(Resource::RLIMIT_NOFILE),
            locked_bytes_max: limit(Resource::RLIMIT_MEMLOCK),
        }
    }

    fn is_disabled(&self) -> bool {
        match self.io_uring_disabled {
            0 => false,
            1 => self.capabilities & CAP_SYS_ADMIN == 0,
            _ => true,
        }
    }

    fn locked_memory_is_limited(&self) -> bool {
        self.locked_bytes_max < u64::MAX && self.capabilities & CAP_IPC_LOCK == 0
    }
}

/// Says why the kernel refused to set up a ring with `error`.
pub(crate) fn explain(error: io::Error) -> SetupError {
    diagnose(error, &Circumstances::read())
}

/// Says why the kernel refused to set up a ring with `error` under these circumstances.
pub(crate) fn diagnose(error: io::Error, here: &Circumstances) -> SetupError {
    let release = &here.release;
    let (kind, cause, next_step) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if here.is_disabled() => (
            SetupErrorKind::NotPermitted,
            format!(
                "io_uring is disabled for {} (kernel.io_uring_disabled = {})",
                if here.io_uring_disabled == 1 {
                    "unprivileged users"
                } else {
                    "everybody"
                },
                here.io_uring_disabled
            ),
            "sysctl -w kernel.io_uring_disabled=0 (as root)".to_owned(),
        ),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if here.has_seccomp_filter => (
            SetupErrorKind::NotPermitted,
            format!("a seccomp filter refuses io_uring to this process ({error})"),
            ALLOW_IN_SECCOMP.to_owned(),
        ),
        Some(libc::EPERM | libc::EACCES) => (
            SetupErrorKind::NotPermitted,
            format!("a security policy refuses io_uring to this process ({error})"),
            "allow it in the policy: for SELinux, ausearch -m avc -ts recent".to_owned(),
        ),
        Some(libc::ENOSYS) => (
            SetupErrorKind::Unsupported,
            format!("this kernel ({release}) has no io_uring"),
            "run Linux 6.11 or newer, built with CONFIG_IO_URING".to_owned(),
        ),
        Some(libc::EINVAL) => (
            SetupErrorKind::Unsupported,
            format!("io_uring of this kernel ({release}) has no SINGLE_ISSUER with DEFER_TASKRUN"),
            "run Linux 6.11 or newer".to_owned(),
        ),
        Some(libc::ENOMEM) if here.locked_memory_is_limited() => (
            SetupErrorKind::LimitExceeded,
            format!(
                "the locked-memory limit of {} KiB (RLIMIT_MEMLOCK, shared by all processes of this user) leaves no room \
                 for a ring of about {RING_LOCKED_KIB} KiB",
                here.locked_bytes_max / 1024
            ),
            RAISE_MEMLOCK.to_owned(),
        ),
        Some(libc::ENOMEM) => (
            SetupErrorKind::OutOfMemory,
            "no memory for a ring".to_owned(),
            "free memory; see dmesg".to_owned(),
        ),
        Some(libc::EMFILE) => (
            SetupErrorKind::LimitExceeded,
            format!(
                "no descriptor left for a ring: the limit is {}",
                here.descriptors_max
            ),
            "raise the descriptor limit: ulimit -n 20000".to_owned(),
        ),
        Some(libc::ENFILE) => (
            SetupErrorKind::LimitExceeded,
            "no file left for a ring on this machine".to_owned(),
            "sysctl -w fs.file-max=4194304 (as root)".to_owned(),
        ),
        _ => return SetupError::from_io("io_uring cannot be set up", error, "see dmesg"),
    };
    SetupError::new(kind, cause, next_step).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32, here: &Circumstances) -> (SetupErrorKind, String) {
        let error = diagnose(io::Error::from_raw_os_error(errno), here);
        assert!(
            !error.next_step().is_empty(),
            "{error} says what to do next"
        );
        (error.kind(), error.to_string())
    }

    #[test]
    fn each_refusal_names_its_own_cause() {
        let plain = Circumstances {
            release: "6.18.0".to_owned(),
            descriptors_max: 3,
            locked_bytes_max: 64 * 1024,
            ..Circumstances::default()
        };
        let disabled = Circumstances {
            io_uring_disabled: 2,
            ..plain.clone()
        };
        let filtered = Circumstances {
            has_seccomp_filter: true,
            ..plain.clone()
        };
        let privileged = Circumstances {
            capabilities: CAP_IPC_LOCK,
            ..plain.clone()
        };
        let cases = [
            (libc::EPERM, &disabled, "kernel.io_uring_disabled = 2"),
            (libc::EPERM, &filtered, "seccomp"),
            (libc::EACCES, &filtered, "seccomp"),
            (libc::ENOSYS, &filtered, "seccomp"),
            (libc::EPERM, &plain, "security policy"),
            (libc::ENOSYS, &plain, "6.18.0"),
            (libc::EINVAL, &plain, "DEFER_TASKRUN"),
            (libc::ENOMEM, &plain, "RLIMIT_MEMLOCK"),
            (libc::EMFILE, &plain, "the limit is 3"),
            (libc::ENFILE, &plain, "fs.file-max"),
            (libc::EIO, &plain, "dmesg"),
        ];
        for (errno, here, expected) in cases {
            let (_, text) = said(errno, here);
            assert!(text.contains(expected), "{errno}: {text}");
        }
        let (kind, text) = said(libc::ENOMEM, &privileged);
        assert_eq!(kind, SetupErrorKind::OutOfMemory);
        assert!(!text.contains("MEMLOCK"), "{text}");
        // A filter does not explain that a sysctl forbids it.
        let both = Circumstances {
            has_seccomp_filter: true,
            ..disabled.clone()
        };
        assert!(said(libc::EPERM, &both).1.contains("io_uring_disabled"));
    }

    #[test]
    fn circumstances_of_this_process_are_read() {
        let here = Circumstances::read();
        assert!(!here.release.is_empty() && here.descriptors_max > 0);
        assert!(here.io_uring_disabled <= 2);
    }
}
