//! Each limit in a record where it alone shows, and which comes first where several do.

use super::*;
use crate::run::CpuPhase;

use holdfast_telemetry::namespace::SettingRecord;
use holdfast_telemetry::proc::BusiestThread;

fn good() -> Run {
    let mut run = Run::default();
    run.header.machine.core_count = 2;
    (run.asked.users, run.asked.every_seconds) = (10_000, 30.0);
    let c = &mut run.connections;
    (c.asked, c.opened, c.held_at_end) = (10_000, 10_000, 10_000);
    run.ramp.seconds = 2.0;
    run.hold.seconds = Some(60.0);
    (run.messages.per_second, run.messages.due_per_second) = (Some(333.0), 333.3);
    run.cpu.ramp = Some(phase(2.5, 30.0, 20.0));
    run.header.lab.namespace = "private".into();
    run
}

/// So long a phase with these busiest threads of client and server, all else idle.
fn phase(seconds: f64, client: f64, server: f64) -> CpuPhase {
    let thread = |percent| {
        Some(BusiestThread {
            busy_percent: percent,
            wanted_percent: percent,
        })
    };
    CpuPhase {
        seconds,
        client_seconds: client / 100.0 * seconds,
        server_seconds: server / 100.0 * seconds,
        machine_busy_percent: (client + server) / 2.0,
        client_thread: thread(client),
        server_thread: thread(server),
        ..CpuPhase::default()
    }
}

/// What is found after one change to a good run; the list has to begin with `what`.
#[track_caller]
fn found(what: &[BottleneckKind], change: impl FnOnce(&mut Run)) -> Bottleneck {
    let mut run = good();
    change(&mut run);
    let list = of_longconn(&run);
    let names: Vec<BottleneckKind> = list.iter().map(|limit| limit.what).collect();
    assert_eq!(&names[..what.len().min(names.len())], what, "{list:#?}");
    list[0].clone()
}

fn count_of(run: &mut Run, name: &str, n: u64) {
    run.kernel.load_counters.insert(name.into(), n);
}

#[test]
fn each_bottleneck_is_first_when_alone() {
    found(&[BottleneckKind::AskedUsers], |_| {});
    found(&[BottleneckKind::AskedRate], |r| {
        r.asked.spawn_rate_per_second = Some(5_000.0);
    });
    found(&[BottleneckKind::AcceptQueue], |r| {
        count_of(r, "ListenOverflows", 5);
        count_of(r, "ListenDrops", 5);
    });
    found(&[BottleneckKind::SynQueue], |r| {
        count_of(r, "TCPReqQFullDrop", 5)
    });
    found(&[BottleneckKind::SynQueue], |r| {
        count_of(r, "ListenDrops", 5)
    });
    found(&[BottleneckKind::PacketBacklog], |r| {
        r.kernel.packets_dropped = 5
    });
    found(&[BottleneckKind::SocketMemory], |r| {
        r.kernel.tcp_mem_pressure_seconds = 30
    });
    found(&[BottleneckKind::Conntrack], |r| {
        (r.kernel.conntrack_count_max, r.kernel.conntrack_max) = (Some(99), Some(100));
    });
    found(&[BottleneckKind::Memory], |r| {
        r.memory.available_bytes_min = Some(1 << 20)
    });
    found(&[BottleneckKind::MemoryCgroup], |r| {
        r.memory.cgroup_left_bytes_min = Some(1 << 20)
    });
    found(&[BottleneckKind::Ports], |r| {
        r.connections.failed.insert("no_address_left".into(), 5);
    });
    found(&[BottleneckKind::TimeWait, BottleneckKind::Ports], |r| {
        r.connections.failed.insert("no_address_left".into(), 5);
        r.kernel.time_wait_load_max = 900;
    });
    found(&[BottleneckKind::Descriptors], |r| {
        r.connections
            .server_accept_failed
            .insert("no_descriptor".into(), 5);
    });
    found(&[BottleneckKind::ServerCapacity], |r| {
        r.connections.server_refused_full = 5
    });
    found(&[BottleneckKind::Unknown], |r| {
        r.header.incidents.push("interrupted".into())
    });
    found(&[BottleneckKind::Unknown], |r| {
        r.asked.spawn_rate_per_second = Some(10_000.0)
    });
    found(&[BottleneckKind::Unknown], |r| *r = Run::default());
}

#[test]
fn full_thread_is_a_bottleneck_and_the_fuller_side_comes_first() {
    // Of 2.5 s the ramp took 2: its thread was on a core all the time.
    let limit = found(&[BottleneckKind::ClientCpu], |r| {
        r.cpu.ramp = Some(phase(2.5, 78.0, 50.0));
        r.processes.client.thread_count = 1;
    });
    assert_eq!(limit.share, Some(0.975));
    assert!(limit.next.contains("--client-threads 2"), "{limit:?}");
    found(
        &[BottleneckKind::ServerCpu, BottleneckKind::ClientCpu],
        |r| {
            r.cpu.ramp = Some(phase(2.0, 92.0, 99.0));
        },
    );
    // A rate that was kept is the limit, however full the client was.
    found(
        &[BottleneckKind::AskedRate, BottleneckKind::ClientCpu],
        |r| {
            r.asked.spawn_rate_per_second = Some(5_000.0);
            r.cpu.ramp = Some(phase(2.0, 99.0, 50.0));
        },
    );
    // Heartbeats that are late are the hold's business.
    found(
        &[BottleneckKind::ServerCpu, BottleneckKind::AskedRate],
        |r| {
            r.asked.spawn_rate_per_second = Some(5_000.0);
            r.messages.missed = 1;
            r.cpu.hold = Some(phase(60.0, 20.0, 95.0));
        },
    );
    found(
        &[BottleneckKind::OtherPrograms, BottleneckKind::ClientCpu],
        |r| {
            let mut ramp = phase(2.0, 40.0, 5.0);
            ramp.machine_busy_percent = 100.0;
            ramp.client_thread = Some(BusiestThread {
                busy_percent: 40.0,
                wanted_percent: 99.0,
            });
            r.cpu.ramp = Some(ramp);
        },
    );
    found(&[BottleneckKind::Softirq], |r| {
        let ramp = r.cpu.ramp.as_mut().expect("a ramp");
        (ramp.core_busy_max_percent, ramp.core_softirq_max_percent) = (97.0, 70.0);
    });
    // Without figures of threads: an older record.
    found(
        &[BottleneckKind::ClientCpu, BottleneckKind::ServerCpu],
        |r| {
            let mut ramp = phase(2.0, 90.0, 80.0);
            ramp.machine_busy_percent = 94.0;
            (ramp.client_thread, ramp.server_thread) = (None, None);
            r.cpu.ramp = Some(ramp);
        },
    );
}

#[test]
fn lost_users_come_first_and_few_drops_after_full_cores() {
    let drops = |n| {
        move |r: &mut Run| {
            count_of(r, "ListenOverflows", n);
            r.cpu.ramp = Some(phase(2.0, 99.0, 50.0));
        }
    };
    found(
        &[BottleneckKind::ClientCpu, BottleneckKind::AcceptQueue],
        drops(10),
    );
    found(
        &[BottleneckKind::AcceptQueue, BottleneckKind::ClientCpu],
        drops(2_000),
    );
    found(
        &[BottleneckKind::Descriptors, BottleneckKind::AcceptQueue],
        |r| {
            drops(2_000)(r);
            r.connections.failed.insert("no_descriptor".into(), 1);
        },
    );
    // A SYN queue that is full because the accept queue is, is no limit of its own.
    found(
        &[BottleneckKind::AcceptQueue, BottleneckKind::SynQueue],
        |r| {
            count_of(r, "ListenOverflows", 500);
            count_of(r, "TCPReqQFullDrop", 9_000);
        },
    );
    // Cookies are a sign, and no cost.
    found(
        &[BottleneckKind::AskedUsers, BottleneckKind::SynQueue],
        |r| {
            count_of(r, "SyncookiesSent", 9_000);
        },
    );
}

#[test]
fn oom_kill_differs_from_other_kills() {
    let killed = |r: &mut Run| {
        r.processes.server.signal = Some(9);
        r.header
            .incidents
            .push("the server was ended by signal 9".into());
        r.memory.cgroup_left_bytes_min = Some(5 << 20);
    };
    let limit = found(&[BottleneckKind::MemoryCgroup], |r| {
        killed(r);
        r.kernel.oom_kills = 1;
    });
    assert!(limit.evidence.contains("killed the server"), "{limit:?}");
    let limit = found(&[BottleneckKind::MemoryCgroup], killed);
    assert!(!limit.evidence.contains("killed"), "{limit:?}");
}

#[test]
fn the_setting_and_the_command_are_named() {
    let set = |after: &str| SettingRecord {
        key: "net.core.somaxconn".into(),
        after: Some(after.into()),
        ..SettingRecord::default()
    };
    let overflow = |after: &'static str| {
        move |r: &mut Run| {
            count_of(r, "ListenOverflows", 5);
            r.header.lab.settings.push(set(after));
        }
    };
    let limit = found(&[BottleneckKind::AcceptQueue], overflow("16"));
    assert!(limit.evidence.contains("somaxconn = 16 here"), "{limit:?}");
    assert!(
        limit
            .next
            .starts_with("holdfast-bench longconn --sysctl net.core.somaxconn=65535; "),
        "{limit:?}"
    );
    let limit = found(&[BottleneckKind::AcceptQueue], overflow("65535"));
    assert!(limit.next.contains("--server-threads"), "{limit:?}");
    let limit = found(&[BottleneckKind::SocketMemory], |r| {
        r.kernel.tcp_mem_pressure_seconds = 9
    });
    assert!(
        limit
            .next
            .starts_with("holdfast-tune apply --role both --connections 10000"),
        "{limit:?}"
    );
}
