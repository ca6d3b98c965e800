//! Cores as the limit of a phase of a long-connection run.
//!
//! Purpose: whose threads never waited for work, and who had the cores they waited for.
//! Invariants: a side is full by its busiest thread, on a core or in the queue for one: neither
//! more threads that idle nor other programs hide it. Without figures of threads (an older record,
//! a kernel that does not tell), by the whole machine.
//! Must not depend on: what the phase was for.

use super::{BottleneckKind, Findings, weight};
use crate::header::Machine;
use crate::run::{CpuPhase, ProcessRecord, Run};

use holdfast_telemetry::proc::BusiestThread;

/// A thread that wants this much of a core, percent, has no more to give.
const FULL: f64 = 90.0;
/// Less than this of all cores, percent, taken by others is no limit.
const OTHERS_MIN: f64 = 20.0;
/// A side that was on a core for less than this, percent, was not what the cores were full of.
const BUSY_MIN: f64 = 10.0;
/// A core that spends this much in softirqs, percent, is the packets'.
const SOFTIRQ_MIN: f64 = 50.0;
/// A ramp shorter than this, seconds, says nothing about cores.
const RAMP_MIN: f64 = 0.3;

/// Adds what the cores of ramp and hold show. `is_slow` and `is_late`: more was asked for than
/// came, in each.
pub fn add(found: &mut Findings, run: &Run, is_slow: bool, is_late: bool) {
    if let Some(ramp) = run.cpu.ramp.filter(|_| run.ramp.seconds >= RAMP_MIN) {
        // The end of a ramp is noticed up to a second late, and nothing is done in that time.
        let stretch = (ramp.seconds / run.ramp.seconds).max(1.0);
        of_phase(found, run, "ramp", &ramp, stretch, is_slow);
    }
    if let Some(hold) = &run.cpu.hold {
        of_phase(found, run, "hold", hold, 1.0, is_late);
    }
}

struct Side<'a> {
    what: BottleneckKind,
    name: &'a str,
    seconds: f64,
    thread: Option<BusiestThread>,
    process: &'a ProcessRecord,
}

fn of_phase(
    found: &mut Findings,
    run: &Run,
    name: &str,
    phase: &CpuPhase,
    stretch: f64,
    is_short: bool,
) {
    let base = if is_short {
        weight::SLOWED
    } else {
        weight::PRESENT
    };
    let cores = run.header.machine.core_count.max(1) as f64;
    let of_machine = |seconds: f64| 100.0 * seconds / (cores * phase.seconds.max(1e-3));
    let sides = [
        Side {
            what: BottleneckKind::ClientCpu,
            name: "client",
            seconds: phase.client_seconds,
            thread: phase.client_thread,
            process: &run.processes.client,
        },
        Side {
            what: BottleneckKind::ServerCpu,
            name: "server",
            seconds: phase.server_seconds,
            thread: phase.server_thread,
            process: &run.processes.server,
        },
    ];
    let used = format!(
        "client {:.1} s, server {:.1} s of {:.1} s on {cores} cores",
        phase.client_seconds, phase.server_seconds, phase.seconds
    );
    let mut waited = 0.0_f64;
    for side in &sides {
        let (busy, wanted, evidence) = match side.thread {
            Some(thread) => {
                let busy = (thread.busy_percent * stretch).min(100.0);
                let wanted = (thread.wanted_percent * stretch).min(100.0);
                let evidence = format!(
                    "in the {name} the {}'s busiest thread was on a core {busy:.0}% of the time and waited for one {:.0}%; {used}",
                    side.name,
                    wanted - busy
                );
                (busy, wanted, evidence)
            }
            None => {
                let busy = (of_machine(side.seconds) * stretch).min(100.0);
                let all = (phase.machine_busy_percent * stretch).min(100.0);
                let evidence = format!("in the {name} all cores were {all:.0}% busy; {used}");
                (busy, all, evidence)
            }
        };
        if wanted >= FULL {
            waited = waited.max(wanted - busy);
        }
        if wanted >= FULL && busy >= BUSY_MIN {
            let more = more_cores(&run.header.machine, side.process, side.name);
            found.add(
                base + busy / 1e3,
                side.what,
                Some(busy / 100.0),
                evidence,
                more,
            );
        }
    }
    let others = phase.machine_busy_percent
        - of_machine(phase.server_seconds)
        - of_machine(phase.client_seconds);
    // Packets' time is not always counted to the process they are for.
    let is_packets = phase.softirq_percent >= others;
    if waited >= OTHERS_MIN && others >= OTHERS_MIN && !is_packets {
        let evidence =
            format!("in the {name} they took {others:.0}% of all cores while ours waited; {used}");
        let next = "end them (top shows them), and run it again".into();
        found.add(
            base + others / 1e3,
            BottleneckKind::OtherPrograms,
            Some(others / 100.0),
            evidence,
            next,
        );
    }
    let softirq = (phase.core_softirq_max_percent * stretch).min(100.0);
    if softirq >= SOFTIRQ_MIN && phase.core_busy_max_percent * stretch >= FULL {
        let evidence = format!(
            "in the {name} a core spent {softirq:.0}% of its time in softirqs (packets), all cores {:.0}%",
            phase.softirq_percent
        );
        let next = "spread packets over more cores (receive packet steering, a network card with more queues: holdfast-tune explain), or a machine with more".into();
        found.add(
            base + softirq / 1e3,
            BottleneckKind::Softirq,
            Some(softirq / 100.0),
            evidence,
            next,
        );
    }
}

fn more_cores(machine: &Machine, process: &ProcessRecord, name: &str) -> String {
    if process.thread_count > 0 && process.thread_count < machine.core_count {
        return format!(
            "holdfast-bench longconn --{name}-threads {} (of {} now), or leave the flag out",
            machine.core_count, process.thread_count
        );
    }
    match name {
        "client" => {
            "more cores, or clients on other machines: holdfast-client longconn --target SERVER:999".into()
        }
        _ => "more cores, or the server on a machine of its own: holdfast-server longconn --listen 0.0.0.0:999".into(),
    }
}
