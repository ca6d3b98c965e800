//! The signals that programs started by this process begin with.
//!
//! A shell without job control ignores SIGINT and SIGQUIT in its background jobs, and a child
//! inherits that through exec(2). Such a child cannot be interrupted: Python, and so a Locust
//! master, leaves an ignored SIGINT ignored.
//! Invariants: a signal that this process ignores has no effect on it afterwards either. SIGHUP
//! stays ignored, so nohup(1) holds for children too.
//! Must not depend on: which programs are started.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_telemetry::proc::process::ignored_signals;
use nix::sys::signal::{SigSet, Signal};

/// Signals that ask a program for something, and that a child must not find ignored.
const RESET: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGALRM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
];

/// From now on children of this process begin with the default disposition of all signals but
/// SIGHUP, and with no signal blocked. Call this before the first thread is started: threads
/// inherit the mask.
pub fn reset_for_children() {
    // Neither fails: the kernel accepts every mask, and a handler for each of these signals.
    let _ = SigSet::empty().thread_set_mask();
    let ignored = ignored_signals();
    for signal in RESET {
        if ignored & (1 << (signal as i32 - 1)) != 0 {
            // exec(2) keeps an ignored signal ignored, and gives a handled one its default back.
            // Nobody reads the flag.
            let _ = signal_hook::flag::register(signal as i32, Arc::new(AtomicBool::new(false)));
        }
    }
}
