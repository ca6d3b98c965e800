//! The heartbeat server: sends a message to each connection at an interval, spread evenly, and
//! drops or echoes what it receives.
//!
//! Each connection has a phase, a fraction of the interval. The fractions are multiples of the
//! golden ratio, of which any number of the first ones is spread evenly. So however fast
//! connections were opened, no tick has many heartbeats, and lateness never adds up.
//! Invariants: a heartbeat is never early; a peer that has not read one heartbeat when the next one
//! is due is aborted.
//! Must not depend on: rings, threads, clocks.

use holdfast_engine::{CloseReason, Conn, Handler};

/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Connections of one batch have the same phase: they were accepted one after the other and lie
/// side by side in memory, so sending to them in turn touches each page once.
const BATCH: u64 = 64;
/// The connections before this one are batches of one, so that few connections are spread evenly
/// too. A multiple of [`BATCH`].
const BATCH_FROM: u64 = 4_096;

/// What the server sends and when it gives up.
#[derive(Debug, Clone, Copy)]
pub struct HeartbeatConfig {
    /// The heartbeat.
    pub message: &'static [u8],
    /// Interval of the heartbeats, microseconds; 0 sends none.
    pub interval_us: u64,
    /// Longest silence of a peer, microseconds.
    pub idle_timeout_us: Option<u64>,
    /// Send back what is received.
    pub echo: bool,
}

/// Counters for the control plane.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeartbeatReport {
    /// Heartbeats skipped because this thread was more than an interval late.
    pub skipped: u64,
}

/// Milliseconds of engine time, wrapping after 49 days; compared by difference.
type Millis = u32;

/// State of a connection, 8 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnState {
    next_heartbeat_ms: Millis,
    last_received_ms: Millis,
}

/// The heartbeat server of one core thread.
pub struct HeartbeatServer {
    config: HeartbeatConfig,
    count: u64,
    report: HeartbeatReport,
}

impl HeartbeatServer {
    /// A server without connections.
    pub fn new(config: HeartbeatConfig) -> Self {
        HeartbeatServer {
            config,
            count: 0,
            report: HeartbeatReport::default(),
        }
    }

    /// When the next connection gets its first heartbeat: at its phase, within one interval from
    /// now.
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

    /// Sets the timer to the next heartbeat or the idle timeout, whichever is first. `heartbeat_us`
    /// is when the next heartbeat is due.
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
    type Command = ();

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
    use holdfast_engine::Recorder;

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
    fn first_heartbeats_of_any_number_of_connections_spread_evenly() {
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
    fn late_heartbeat_keeps_its_phase() {
        let mut server = server();
        let mut recorder = Recorder::default();
        let mut state = ConnState::default();
        let mut conn = Conn::new(&mut state, 100_000, false, &mut recorder);
        server.on_open(&mut conn);
        let first_ms = state.next_heartbeat_ms;
        for (late_ms, skips) in [(0, 0), (3, 0), (999, 0), (2_500, 2)] {
            let before = (state.next_heartbeat_ms, server.report.skipped);
            let now_us = u64::from(state.next_heartbeat_ms + late_ms) * 1_000;
            server.on_timer(&mut Conn::new(&mut state, now_us, false, &mut recorder));
            assert_eq!(state.next_heartbeat_ms, before.0 + 1_000 * (skips + 1));
            assert_eq!(server.report.skipped, before.1 + u64::from(skips));
            assert_eq!(state.next_heartbeat_ms % 1_000, first_ms % 1_000);
        }
    }
}
