//! A few calls to the system that need no ring: the clock, the core a thread runs on, sleeping
//! until a ring has work.
//!
//! Must not depend on: slots, handlers, protocols.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::mailbox::Wake;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

/// Cores this process may run on, by number.
pub fn allowed_cores() -> Vec<usize> {
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count())
            .filter(|core| set.is_set(*core).unwrap_or(false))
            .collect(),
        Err(_) => vec![0],
    }
}

/// Pins the calling thread to `core`. A missing core is ignored: that costs speed only.
pub fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Takes the descriptors that this process was started with, and keeps them from being inherited
/// further. The first call gets them; later ones get none.
///
/// # Errors
/// One of them is not open.
pub fn take_inherited(numbers: &[RawFd]) -> std::io::Result<Vec<OwnedFd>> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    if IS_TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    for (place, number) in numbers.iter().enumerate() {
        if numbers[..place].contains(number) {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the call takes integers only; a number that is no descriptor gives EBADF.
        if unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let take = |number: &RawFd| {
        // SAFETY: it is open. Whoever started this process gave it away under this number, so
        // nothing else in this process owns it, and no number is taken twice.
        unsafe { OwnedFd::from_raw_fd(*number) }
    };
    Ok(numbers.iter().map(take).collect())
}

/// Connections that wait at a listener, from `tcpi_unacked` of TCP_INFO. 1 if unknown, so that the
/// caller tries to accept.
pub fn accept_queue_len(listener: RawFd) -> u32 {
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that large; both outlive
    // the call.
    let result = unsafe {
        libc::getsockopt(
            listener,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return 1;
    }
    // SAFETY: integers only, so the zeros it began with are a value too, however much of it was
    // written.
    unsafe { info.assume_init() }.tcpi_unacked
}

/// An event descriptor that wakes one thread. Each thread has two.
/// The first is signalled by the thread's rings when they have work; a thread with several rings
/// sleeps on it alone. It cannot poll the rings themselves: with DEFER_TASKRUN a ring does not
/// become readable when work is queued, but its event descriptor is signalled.
/// The second is signalled by other threads and polled by the thread's first ring, so that it also
/// ends the sleep of a thread with a single ring, which does not use the first.
#[derive(Debug)]
pub struct Waker {
    event: EventFd,
}

impl Waker {
    /// A waker that is not signalled.
    ///
    /// # Errors
    /// [`Error`] when no descriptor is left.
    pub fn new() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let event = EventFd::from_value_and_flags(0, flags).map_err(|errno| {
            Error::from_io(
                "no descriptor left for a thread",
                errno,
                "raise the descriptor limit: ulimit -n 20000",
            )
        })?;
        Ok(Waker { event })
    }

    /// The descriptor that rings signal.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Sleeps until a signal or until `timeout` has passed, and clears the signal.
    /// [`Duration::MAX`]: no timeout.
    pub fn wait(&self, timeout: Duration) {
        let mut fds = [PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        let timeout = (timeout < Duration::MAX).then(|| TimeSpec::from_duration(timeout));
        // Errors are EINTR and ENOMEM: both end the sleep, and the next turn continues.
        let _ = ppoll(&mut fds, timeout, None);
        self.clear();
    }
}

impl Wake for Waker {
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn wake(&self) {
        // Fails only after 2^64 - 2 signals that were not cleared.
        let _ = self.event.write(1);
    }

    fn clear(&self) {
        // Fails if there was no signal.
        let _ = self.event.read();
    }
}
