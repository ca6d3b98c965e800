//! A few calls to the system that need no ring: the clock, the core a thread runs on, sleeping until a ring has work.
//!
//! Must not know: slots, handlers, protocols.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
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

/// Keeps the calling thread on `core`. A core that is not there is left alone: speed suffers, nothing else.
pub fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Sleeps until one of `rings` has work or `timeout` is over.
pub fn wait_any(rings: &[BorrowedFd<'_>], timeout: Duration) {
    let mut fds: Vec<PollFd<'_>> = rings
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // An error here is a signal or a lack of memory; both end the sleep, and the next turn goes on.
    let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None);
}
