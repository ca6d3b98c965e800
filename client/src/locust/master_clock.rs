//! The master's clock, estimated from the timestamps of its spawn requests. All times sent are by
//! it, so clocks need not agree.
//!
//! A timestamp is older than its arrival by the time on the way, so the largest of several offsets
//! is the best estimate.
//! Must not depend on: the use of a time.

use std::time::{SystemTime, UNIX_EPOCH};

/// An offset beyond this is no clock's error but a wrong timestamp; it is ignored. Seconds.
const OFFSET_MAX: f64 = 10.0 * 365.25 * 86_400.0;

/// The master's clock.
#[derive(Debug, Default)]
pub struct MasterClock {
    offset: Option<f64>,
}

impl MasterClock {
    /// This machine's time, seconds since 1970.
    fn local_now() -> f64 {
        #[expect(clippy::disallowed_methods, reason = "Locust's statistics have dates")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0.0, |now| now.as_secs_f64())
    }

    /// A spawn request with this timestamp has arrived.
    pub fn observe(&mut self, timestamp: f64) {
        let offset = timestamp - Self::local_now();
        if offset.abs() < OFFSET_MAX {
            self.offset = Some(self.offset.map_or(offset, |known| known.max(offset)));
        }
    }

    /// Forgets the offset: a new test begins, perhaps of another master.
    pub fn reset(&mut self) {
        self.offset = None;
    }

    /// The master's time, seconds since 1970.
    pub fn now(&self) -> f64 {
        Self::local_now() + self.offset.unwrap_or(0.0)
    }
}
