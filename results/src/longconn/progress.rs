//! What people see of `holdfast-bench longconn` on its way: the figures of both ends.
//!
//! Must not depend on: how phases follow each other, how figures are shown.

use holdfast_sysctl::grouped;

use super::flags::SpawnRate;
use super::plan::Plan;

use holdfast_telemetry::live::{Counter, Percentiles, Snapshot};
use holdfast_telemetry::wire::{ClientReport, ServerReport};

/// One moment of a run.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// Phase of the run.
    pub phase: &'static str,
    /// Until the end of the hold, seconds; `None` before it.
    pub hold_left_seconds: Option<f64>,
    /// The server's latest line.
    pub server: Option<&'a ServerReport>,
    /// The client's latest line.
    pub client: Option<&'a ClientReport>,
}

impl Moment<'_> {
    /// Its figures; `processes` are the two ends by name and id.
    #[must_use]
    pub fn snapshot(&self, processes: Vec<(&'static str, u32)>) -> Snapshot {
        let flags = &self.plan.flags;
        let mut now = self.client.map_or_else(Snapshot::default, |client| {
            let rate = match flags.spawn_rate {
                SpawnRate::Max => None,
                SpawnRate::PerSecond(rate) => Some(rate),
            };
            let due = client.open_now as f64 / flags.interval.as_secs_f64();
            Snapshot {
                times: vec![
                    Percentiles::so_far("connect", client.connect_us),
                    Percentiles::so_far("lateness", client.lateness_us),
                ],
                ..Snapshot::from(client)
            }
            .with_target_rate("opened", rate)
            .with_target_rate("messages", Some(due))
        });
        if let Some(server) = self.server {
            let at = server.at_us as f64 / 1e6;
            now.counters.extend([
                Counter::new("accepted", server.accepted, at),
                Counter::new("sent", server.messages_sent, at),
            ]);
            now.groups.extend(Snapshot::from(server).groups);
        }
        Snapshot {
            title: format!("bench longconn {} users", grouped(self.plan.users)),
            left_seconds: self.left_seconds(),
            processes,
            ..now
        }
    }

    /// By the hold that is under way, or by the rate of the ramp.
    fn left_seconds(&self) -> Option<f64> {
        match (self.phase, self.plan.flags.spawn_rate, self.client) {
            ("hold", ..) => self.hold_left_seconds,
            ("ramp", SpawnRate::PerSecond(rate), Some(client)) => {
                let users = self.plan.users.saturating_sub(client.attempts);
                Some(users as f64 / rate + self.plan.hold.as_secs_f64())
            }
            _ => None,
        }
    }
}
