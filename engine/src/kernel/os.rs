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

/// Keeps the calling thread on `core`. A core that is not there is left alone: speed suffers,
/// nothing else.
pub fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Takes the descriptors that this process was started with, and keeps them from being inherited further.
/// The first call gets them; later ones get none.
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
        // SAFETY: it is open. Whoever started this process gave it away under this number, so nothing
        // else in this process owns it, and no number is taken twice.
        unsafe { OwnedFd::from_raw_fd(*number) }
    };
    Ok(numbers.iter().map(take).collect())
}

/// Connections that wait at a listener: its TCP_INFO tells their number as `tcpi_unacked`. 1 if it
/// cannot be told, so that the caller tries.
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
///
/// One its rings signal when they have work, and a thread with several rings sleeps on it alone. A
/// ring whose work is deferred to its thread (DEFER_TASKRUN) does not become readable for `poll`
/// when work is queued, so such a thread cannot sleep on the rings themselves; their event
/// descriptor is signalled even so.
///
/// The other one other threads signal, and the thread's first ring polls it: so it ends a sleep in a
/// single ring as well, whose descriptor of the first kind nobody looks at.
#[derive(Debug)]
pub struct Waker {
    event: EventFd,
}

impl Waker {
    /// A waker nobody has signalled.
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

    /// What a ring is told to signal.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Sleeps until it is signalled or `timeout` is over, and clears it. [`Duration::MAX`] never is.
    pub fn wait(&self, timeout: Duration) {
        let mut fds = [PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        let timeout = (timeout < Duration::MAX).then(|| TimeSpec::from_duration(timeout));
        // An error here is a signal or a lack of memory; both end the sleep, and the next turn goes
        // on.
        let _ = ppoll(&mut fds, timeout, None);
        self.clear();
    }
}

impl Wake for Waker {
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn wake(&self) {
        // It fails only at 2^64 - 1 signals that nobody cleared.
        let _ = self.event.write(1);
    }

    fn clear(&self) {
        // It fails if there was no signal.
        let _ = self.event.read();
    }
}
