//! The server: pushes a message to each connection at an interval, spread evenly, and drops or echoes what comes.
//!
//! The pushes of a connection lie on a grid of its own, a fraction of the interval away from everybody's zero; the fractions are the
//! multiples of the golden ratio, of which any number of the first ones spread evenly. So however fast connections came, no
//! tick is a storm, and lateness never adds up.
//! Invariants: a push is never early; one that was not taken when the next is due means the peer does not read: it is cut.
//! Must not know: rings, threads, clocks.

use holdfast_engine::{CloseReason, Conn, Handler};

/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Connections of one batch: they came one after the other, lie side by side in our memory and the kernel's, and are pushed
/// to one after the other, so that one page walked to serves several.
const BATCH: u64 = 64;
/// The connections before this one are each on their own, so that few are spread evenly too. A multiple of [`BATCH`].
const BATCH_FROM: u64 = 4_096;

/// What a server does.
#[derive(Debug, Clone, Copy)]
pub struct HeartbeatConfig {
    /// What is pushed.
    pub message: &'static [u8],
    /// Interval, microseconds; 0 pushes nothing.
    pub interval_us: u64,
    /// Longest silence of a peer, microseconds.
    pub idle_timeout_us: Option<u64>,
    /// Send back what comes.
    pub echo: bool,
}

/// What the control plane reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeartbeatReport {
    /// Pushes left out because this thread came more than an interval too late.
    pub skipped: u64,
}

/// Milliseconds of engine time, wrapping after 49 days; compared by difference.
type Millis = u32;

/// 8 bytes a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnState {
    next_heartbeat_ms: Millis,
    last_received_ms: Millis,
}

/// One thread's server.
pub struct HeartbeatServer {
    config: HeartbeatConfig,
    count: u64,
    report: HeartbeatReport,
}

impl HeartbeatServer {
    /// A server that has held nothing yet.
    pub fn new(config: HeartbeatConfig) -> Self {
        HeartbeatServer {
            config,
            count: 0,
            report: HeartbeatReport::default(),
        }
    }

    /// The first push of the next connection: at its place in the interval, within one interval from now.
    fn first_heartbeat_us(&mut self, now_us: u64) -> u64 {
        let interval_us = self.config.interval_us;
        let step = match self.count {
            few @ ..BATCH_FROM => few,
            many => many / BATCH,
        };
        let fraction = step.wrapping_mul(GOLDEN);
        self.count += 1;
        let place_us = ((u128::from(fraction) * u128::from(interval_us)) >> 64) as u64;
        let at_us = now_us - now_us % interval_us + place_us;
        if at_us <= now_us {
            at_us + interval_us
        } else {
            at_us
        }
    }

    /// Sets the timer to what comes first: the push or the end of patience. `heartbeat_us` is the time of the next push.
    fn set_timer(&self, conn: &mut Conn<'_, ConnState>, heartbeat_us: Option<u64>) {
        let now_us = conn.now_us();
        let idle_us = self.config.idle_timeout_us.map(|timeout_us| {
            let silent_us =
                u64::from(millis(now_us).wrapping_sub(conn.state.last_received_ms)) * 1_000;
            now_us + timeout_us.saturating_sub(silent_us)
        });
        if let Some(at_us) = heartbeat_us.into_iter().chain(idle_us).min() {
            conn.set_timer(at_us);
        }
    }
}

fn millis(us: u64) -> Millis {
    (us / 1_000) as Millis
}

impl Handler for HeartbeatServer {
    type State = ConnState;
    type Report = HeartbeatReport;

    fn on_open(&mut self, conn: &mut Conn<'_, ConnState>) {
        let now_us = conn.now_us();
        conn.state.last_received_ms = millis(now_us);
        let heartbeat_us = (self.config.interval_us > 0).then(|| self.first_heartbeat_us(now_us));
        conn.state.next_heartbeat_ms =
            heartbeat_us.map_or(0, |us| millis(us.next_multiple_of(1_000)));
        self.set_timer(conn, heartbeat_us);
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, ConnState>, bytes: &[u8]) -> usize {
        conn.state.last_received_ms = millis(conn.now_us());
        if self.config.echo {
            conn.send_copy(bytes);
        }
        bytes.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_, ConnState>) {
        let now_us = conn.now_us();
        let now_ms = millis(now_us);
        if let Some(timeout_us) = self.config.idle_timeout_us
            && u64::from(now_ms.wrapping_sub(conn.state.last_received_ms)) * 1_000 >= timeout_us
        {
            return conn.abort(CloseReason::Idle);
        }
        let mut heartbeat_us = None;
        if self.config.interval_us > 0 {
            let late_ms = now_ms.wrapping_sub(conn.state.next_heartbeat_ms) as i32;
            if late_ms >= 0 {
                if conn.is_blocked() {
                    return conn.abort(CloseReason::Stalled);
                }
                conn.send_static(self.config.message);
                let interval_ms = (self.config.interval_us / 1_000) as u32;
                let skipped = late_ms as u32 / interval_ms;
                self.report.skipped += u64::from(skipped);
                conn.state.next_heartbeat_ms = conn
                    .state
                    .next_heartbeat_ms
                    .wrapping_add(interval_ms * (skipped + 1));
            }
            let ahead_ms = conn.state.next_heartbeat_ms.wrapping_sub(now_ms) as i32;
            heartbeat_us = Some((now_us / 1_000 + ahead_ms.max(1) as u64) * 1_000);
        }
        self.set_timer(conn, heartbeat_us);
    }

    fn report(&mut self, report: &mut HeartbeatReport) {
        *report = self.report;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL_US: u64 = 1_000_000;

    fn server() -> HeartbeatServer {
        HeartbeatServer::new(HeartbeatConfig {
            message: b"ok",
            interval_us: INTERVAL_US,
            idle_timeout_us: None,
            echo: false,
        })
    }

    #[test]
    fn any_number_of_first_beats_spread_evenly() {
        for connections in [10, 1_000, 12_345] {
            let mut server = server();
            let mut tenths = [0u64; 10];
            for _ in 0..connections {
                let at_us = server.first_heartbeat_us(5_300_000);
                assert!(at_us > 5_300_000 && at_us <= 5_300_000 + INTERVAL_US);
                tenths[(at_us % INTERVAL_US / 100_000) as usize] += 1;
            }
            let even = connections / 10;
            let tolerated = if connections <= BATCH_FROM {
                2
            } else {
                3 * BATCH
            };
            assert!(
                tenths.iter().all(|n| n.abs_diff(even) <= tolerated),
                "{tenths:?}"
            );
        }
    }

    #[test]
    fn a_beat_keeps_to_its_grid_however_late_it_is() {
        let mut server = server();
        let mut outgoing = Vec::new();
        let mut state = ConnState::default();
        let mut conn = Conn::new(&mut state, 100_000, false, &mut outgoing);
        server.on_open(&mut conn);
        let first_ms = state.next_heartbeat_ms;
        for (late_ms, skips) in [(0, 0), (3, 0), (999, 0), (2_500, 2)] {
            let before = (state.next_heartbeat_ms, server.report.skipped);
            let now_us = u64::from(state.next_heartbeat_ms + late_ms) * 1_000;
            server.on_timer(&mut Conn::new(&mut state, now_us, false, &mut outgoing));
            assert_eq!(state.next_heartbeat_ms, before.0 + 1_000 * (skips + 1));
            assert_eq!(server.report.skipped, before.1 + u64::from(skips));
            assert_eq!(state.next_heartbeat_ms % 1_000, first_ms % 1_000);
        }
    }
}
