//! Memory the host of a virtual machine must back before the clock runs.
//!
//! A virtual machine may give free memory back to its host within seconds (free page reporting); the first touch after that
//! costs a fault in the host: 14 us for 4 KiB on the machine this was written on, as against 8 KiB of kernel memory a pair.
//! A ramp would measure that. So the memory is taken first, as kernel memory of the kind sockets need (bytes queued in unix
//! sockets: unmovable pages), and given back step by step as the ramp takes it, too shortly before to be reported away again.
//! Invariants: what is held is bounded by what was asked and by memory available; all of it is given back when the value is
//! dropped; a machine that does not let us (no CAP_NET_ADMIN) is left cold, and the record says so.
//! Must not know: what the memory is for.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

/// What one pair of sockets holds at most.
const PAIR_BYTES: usize = 64 << 20;
/// Bytes queued at a time: what the kernel puts into one buffer's pages.
const CHUNK_BYTES: usize = 32 << 10;
/// How far the release runs ahead of the ramp.
const AHEAD_BYTES: u64 = 1 << 30;
/// How often the ramp is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// True if this machine gives free memory back to a host: a virtual machine whose kernel reports free pages.
#[must_use]
pub fn is_reporting_machine() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_virtual = cpuinfo
        .lines()
        .any(|l| l.starts_with("flags") && l.split_whitespace().any(|f| f == "hypervisor"));
    is_virtual && std::path::Path::new("/sys/module/page_reporting").exists()
}

/// Memory held until the ramp needs it.
#[derive(Debug, Default)]
pub struct Warm {
    pairs: Vec<(UnixStream, UnixStream)>,
    releaser: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Warm {
    /// Takes up to `bytes`, with a thread on each core; returns what it got.
    #[must_use]
    pub fn fill(bytes: u64) -> (Self, u64) {
        let thread_count = std::thread::available_parallelism().map_or(1, usize::from);
        let share = bytes as usize / thread_count;
        let parts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..thread_count)
                .map(|_| scope.spawn(move || fill_share(share)))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap_or_default())
                .collect()
        });
        let held = parts.iter().map(|(_, bytes)| *bytes as u64).sum();
        let pairs = parts.into_iter().flat_map(|(pairs, _)| pairs).collect();
        (
            Warm {
                pairs,
                releaser: None,
            },
            held,
        )
    }

    /// Gives back as the connections of this network namespace grow, `bytes_per_pair` for each pair, and a little ahead.
    pub fn release_with_ramp(&mut self, bytes_per_pair: u64) {
        let mut pairs = std::mem::take(&mut self.pairs);
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut released = 0;
            while !pairs.is_empty() && !stop.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string("/proc/self/net/sockstat").unwrap_or_default();
                let needed = tcp_in_use(&text) / 2 * bytes_per_pair + AHEAD_BYTES;
                while released < needed && pairs.pop().is_some() {
                    released += PAIR_BYTES as u64;
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        });
        self.releaser = Some((is_over, thread));
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        if let Some((is_over, thread)) = self.releaser.take() {
            is_over.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }
}

fn fill_share(bytes: usize) -> (Vec<(UnixStream, UnixStream)>, usize) {
    let chunk = vec![1u8; CHUNK_BYTES];
    let (mut pairs, mut held) = (Vec::new(), 0);
    while held < bytes {
        let Ok((mut writer, reader)) = UnixStream::pair() else {
            break;
        };
        // The kernel doubles it, and counts its own overhead against it.
        if setsockopt(&writer, SndBufForce, &PAIR_BYTES).is_err()
            || writer.set_nonblocking(true).is_err()
        {
            break;
        }
        let mut queued = 0;
        while queued < PAIR_BYTES {
            match writer.write(&chunk) {
                Ok(n) => queued += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        held += queued;
        pairs.push((writer, reader));
        if queued == 0 {
            break;
        }
    }
    (pairs, held)
}

/// Sockets in use, from /proc/net/sockstat.
fn tcp_in_use(text: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix("TCP: inuse "));
    line.and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sockstat() {
        let text = "sockets: used 9\nTCP: inuse 2000013 orphan 0 tw 3 alloc 2000014 mem 1\nUDP: inuse 1 mem 0\n";
        assert_eq!(tcp_in_use(text), 2_000_013);
        assert_eq!(tcp_in_use(""), 0);
    }

    #[test]
    fn takes_no_more_than_asked_for() {
        let (warm, held) = Warm::fill(1 << 20);
        assert!(held <= (2 + warm.pairs.len() as u64) * PAIR_BYTES as u64);
    }
}
