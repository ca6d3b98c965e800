//! How evenly connections come, as the backend's kernel counts them.
//!
//! Invariants: each count has the time it was read at: a late one is no wrong one.
//! Must not depend on: what is asked of a ramp.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_telemetry::proc::KernelSample;
use holdfast_testbed::network::Network;
use holdfast_testbed::network::layout::BACKEND;

/// A thread on the backend that notes its established connections every second, however busy this
/// program is.
#[derive(Debug, Default)]
pub(super) struct Watch {
    samples: Arc<Mutex<Vec<(f64, u64)>>>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// Begins to note.
    pub(super) fn start(network: &Network) -> Self {
        let watch = Self::default();
        let (samples, is_over) = (watch.samples.clone(), watch.is_over.clone());
        let backend = network.host(BACKEND).clone();
        std::thread::spawn(move || {
            let noted = backend.inside(|| {
                let started = Instant::now();
                for second in 0u32.. {
                    let due = started + Duration::from_secs(1) * second;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let before = started.elapsed();
                    let count = KernelSample::read().established;
                    let at = (before + started.elapsed()) / 2;
                    if let Ok(mut samples) = samples.lock() {
                        samples.push((at.as_secs_f64(), count));
                    }
                }
            });
            drop(noted);
        });
        watch
    }

    /// What was noted so far: seconds, connections.
    pub(super) fn samples(&self) -> Vec<(f64, u64)> {
        self.samples.lock().map(|s| s.clone()).unwrap_or_default()
    }

    /// Notes no more.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
