//! The master's time, as its orders show it: what is sent carries it, so that a clock that is wrong here or there is no matter.
//!
//! An order's time lies before its arrival by the way it took, so of several the largest difference is the nearest to the truth.
//! Must not know: what is done with a time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A difference that no clock has by mistake, seconds: it is not believed.
const OFFSET_MAX: f64 = 10.0 * 365.25 * 86_400.0;

/// The master's clock.
#[derive(Debug, Default)]
pub struct Clock {
    offset: Option<f64>,
}

impl Clock {
    /// This machine's time, seconds since 1970.
    fn here() -> f64 {
        #[expect(clippy::disallowed_methods, reason = "Locust's statistics have dates")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0.0, |now| now.as_secs_f64())
    }

    /// An order with this time has arrived.
    pub fn hear(&mut self, timestamp: f64) {
        let offset = timestamp - Self::here();
        if offset.abs() < OFFSET_MAX {
            self.offset = Some(self.offset.map_or(offset, |known| known.max(offset)));
        }
    }

    /// What was heard is no longer believed: a new test begins, or another master.
    pub fn forget(&mut self) {
        self.offset = None;
    }

    /// The master's time, seconds since 1970.
    pub fn now(&self) -> f64 {
        Self::here() + self.offset.unwrap_or(0.0)
    }
}
