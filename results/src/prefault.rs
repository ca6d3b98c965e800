//! Memory the host of a virtual machine must back before the clock runs.
//!
//! A virtual machine may give free memory back to its host within seconds (free page reporting);
//! the first touch after that costs a fault in the host: 14 us for 4 KiB on the machine this was
//! written on, as against 8 KiB of kernel memory a pair. A ramp would measure that. So the memory
//! is taken first, as kernel memory of the kind sockets need (bytes queued in unix sockets:
//! unmovable pages), and given back step by step as the ramp takes it, too shortly before to be
//! reported away again.
//! Invariants: what is held is bounded by what was asked and by memory available; all of it is
//! given back when the value is dropped; a machine that does not let us (no CAP_NET_ADMIN) is left
//! as it is, and the record says so.
//! Must not depend on: what the memory is for.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_telemetry::live::{Counter, Live};
use holdfast_telemetry::proc::{KernelSample, kernel, machine};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

/// Memory a pair of connections takes, all of it: what is touched and given back for each.
const PAIR_BYTES: u64 = 8_600;
/// What the client asks to be free for each user before it starts, rounded up.
const CLIENT_BYTES: u64 = 4_400;
/// Memory left alone besides.
const LEFT_BYTES: u64 = 1 << 30;
/// Fewer users than this ramp too shortly to be worth it.
const USERS_MIN: u64 = 100_000;
/// What one pair of unix sockets holds at most.
const UNIX_PAIR_BYTES: usize = 64 << 20;
/// Bytes queued at a time: what the kernel puts into one buffer's pages.
const CHUNK_BYTES: usize = 32 << 10;
/// How far the release runs ahead of the ramp.
const AHEAD_BYTES: u64 = 1 << 30;
/// How often the ramp is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

fn is_reporting_machine() -> bool {
    machine::is_virtual() && std::path::Path::new("/sys/module/page_reporting").exists()
}

/// True if a ramp of so many users gains by it: on a virtual machine whose kernel reports free
/// pages to its host.
#[must_use]
pub fn is_worth(users: u64) -> bool {
    users >= USERS_MIN && is_reporting_machine()
}

/// What to take for so many users, bytes. The client refuses to start unless memory for its own
/// sockets is free at that moment, so as much is left.
fn bytes_for(users: u64) -> u64 {
    let left_free = users * CLIENT_BYTES + LEFT_BYTES;
    let available = KernelSample::read().mem_available_bytes;
    (users * PAIR_BYTES).min(available.saturating_sub(left_free))
}

/// Memory held until the ramp needs it.
#[derive(Debug, Default)]
pub struct Prefaulted {
    pairs: Vec<(UnixStream, UnixStream)>,
    releaser: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Prefaulted {
    /// Takes up to `bytes`, with a thread on each core, and counts in `held` what it got.
    fn take(bytes: u64, held: &AtomicU64) -> Self {
        let thread_count = std::thread::available_parallelism().map_or(1, usize::from);
        let share = bytes as usize / thread_count;
        let pairs = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..thread_count)
                .map(|_| scope.spawn(move || fill_share(share, held)))
                .collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap_or_default())
                .collect()
        });
        Prefaulted {
            pairs,
            releaser: None,
        }
    }

    /// Gives back as the machine's sockets grow, and a little ahead.
    pub fn release_with_ramp(&mut self) {
        let mut pairs = std::mem::take(&mut self.pairs);
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut released = 0;
            let base = allocated();
            while !pairs.is_empty() && !stop.load(Ordering::Relaxed) {
                let grown = allocated().saturating_sub(base);
                let needed = grown / 2 * PAIR_BYTES + AHEAD_BYTES;
                while released < needed && pairs.pop().is_some() {
                    released += UNIX_PAIR_BYTES as u64;
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        });
        self.releaser = Some((is_over, thread));
    }
}

/// Memory that is being taken, by threads of its own.
#[derive(Debug)]
pub struct Prefaulting {
    started: Instant,
    held: Arc<AtomicU64>,
    filling: JoinHandle<Prefaulted>,
}

impl Prefaulting {
    /// Begins, for so many users, and says so.
    pub fn start(users: u64, live: &mut Live) -> Self {
        let bytes = bytes_for(users);
        live.note(format_args!(
            "prefaulting {:.1} GiB: the host of this virtual machine backs memory only when it is touched",
            bytes as f64 / f64::from(1 << 30)
        ));
        let held = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&held);
        Self {
            started: Instant::now(),
            held,
            filling: std::thread::spawn(move || Prefaulted::take(bytes, &counted)),
        }
    }

    /// Whether all of it is taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.filling.is_finished()
    }

    /// How far it is, for people.
    #[must_use]
    pub fn counter(&self) -> Counter {
        let mib = self.held.load(Ordering::Relaxed) >> 20;
        Counter::new("prefaulted MiB", mib, self.started.elapsed().as_secs_f64())
    }

    /// Waits for the rest; the memory, its bytes, and the seconds it took.
    #[must_use]
    pub fn join(self) -> (Prefaulted, (u64, f64)) {
        let memory = self.filling.join().unwrap_or_default();
        let seconds = self.started.elapsed().as_secs_f64();
        (memory, (self.held.load(Ordering::Relaxed), seconds))
    }
}

impl Drop for Prefaulted {
    fn drop(&mut self) {
        if let Some((is_over, thread)) = self.releaser.take() {
            is_over.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }
}

fn fill_share(bytes: usize, held: &AtomicU64) -> Vec<(UnixStream, UnixStream)> {
    let chunk = vec![1u8; CHUNK_BYTES];
    let (mut pairs, mut own) = (Vec::new(), 0);
    while own < bytes {
        let Ok((mut writer, reader)) = UnixStream::pair() else {
            break;
        };
        // The kernel doubles it, and counts its own overhead against it.
        if setsockopt(&writer, SndBufForce, &UNIX_PAIR_BYTES).is_err()
            || writer.set_nonblocking(true).is_err()
        {
            break;
        }
        let mut queued = 0;
        while queued < UNIX_PAIR_BYTES {
            match writer.write(&chunk) {
                Ok(n) => queued += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        own += queued;
        held.fetch_add(queued as u64, Ordering::Relaxed);
        pairs.push((writer, reader));
        if queued == 0 {
            break;
        }
    }
    pairs
}

/// TCP sockets there are now, of all namespaces.
fn allocated() -> u64 {
    kernel::tcp_sockets_allocated()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_on_the_way() {
        let prefaulting = Prefaulting::start(1, &mut Live::silent());
        while !prefaulting.is_done() {
            std::thread::yield_now();
        }
        let shown = prefaulting.counter();
        let (memory, (held, _)) = prefaulting.join();
        // None without the right to queue so much.
        assert_eq!(held > 0, !memory.pairs.is_empty() && held >= PAIR_BYTES / 2);
        assert_eq!(shown.total, held >> 20);
    }

    #[test]
    fn takes_no_more_than_asked_for() {
        let held = AtomicU64::new(0);
        let memory = Prefaulted::take(1 << 20, &held);
        assert!(held.into_inner() <= (2 + memory.pairs.len() as u64) * UNIX_PAIR_BYTES as u64);
    }
}
