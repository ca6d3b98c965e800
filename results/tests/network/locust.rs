//! The real `holdfast-bench locust`: a Locust master from PyPI, pdsh, and our workers on hosts of
//! the lab, with all counts equal, also when a worker is killed on the way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_report::header::Verdict;
use holdfast_report::run::Run;
use holdfast_telemetry::proc::{all_pids, command_line};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{assert_named, assert_refused, send, stderr};
use crate::runs::{self, Runs};

fn bench(runs: &Runs, args: &[&str]) -> Child {
    let locust = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/locust/.venv/bin/locust");
    assert!(
        locust.exists(),
        "{} is missing; next: make locust-venv",
        locust.display()
    );
    Command::new(env!("CARGO_BIN_EXE_holdfast-bench"))
        // How even a ramp is depends on what else runs here: that is for measurements.
        .args([
            "locust",
            "--every",
            "1s",
            "--ramp-tolerance",
            "1000",
            "--runs",
        ])
        .arg(&runs.0)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

/// Waits until the series has a row of the hold.
fn until_held(runs: &Runs) {
    let started = Instant::now();
    let is_held = || {
        let folders = fs::read_dir(&runs.0).into_iter().flatten().flatten();
        folders
            .filter_map(|folder| fs::read_to_string(folder.path().join("series.csv")).ok())
            .any(|text| text.contains(",hold,"))
    };
    while !is_held() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "the hold did not begin"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `who` counted of `what` in a run.
#[track_caller]
fn counted(run: &Run, what: &str, who: &str) -> u64 {
    let locust = run.locust.as_ref().expect("Locust's part");
    runs::counted(&locust.agreements, what, who)
}

#[test]
#[ignore = "needs Locust: make test"]
fn four_workers_and_the_master_count_the_same() {
    let runs = Runs::new("four");
    let output = bench(
        &runs,
        &["--users", "2000", "--rate", "1000", "--hold", "3s"],
    )
    .wait_with_output()
    .expect("ends");
    let run = runs.record::<Run>();
    assert_eq!(
        run.header.verdict,
        Verdict::Pass,
        "{:?} {}",
        run.header.reasons,
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(0));
    let c = &run.connections;
    assert_eq!(
        (
            c.asked,
            c.opened,
            c.held_at_end,
            c.server_open,
            c.kernel_established
        ),
        (2_000, 2_000, 2_000, 2_000, 2_000)
    );
    for who in ["workers", "server", "kernel_backend", "kernel_clients"] {
        assert_eq!(
            counted(&run, "users at the end of the hold", who),
            2_000,
            "{who}"
        );
    }
    assert_eq!(counted(&run, "connects in all", "locust"), 2_000);
    assert_eq!(
        counted(&run, "messages in all", "server"),
        counted(&run, "messages in all", "workers")
    );
    assert_eq!(counted(&run, "failures", "locust"), 0);
    let locust = run.locust.as_ref().expect("Locust's part");
    assert_eq!(locust.version, "locust 2.47.0");
    let open: Vec<_> = locust.workers.iter().map(|w| w.open).collect();
    assert_eq!(open, [500; 4]);
    // Every connect of every worker is in the merged histogram.
    assert_eq!(run.latency_us.connect.count, 2_000);
    let own = fs::read_to_string(runs.0.join("latest/workers.json")).expect("the workers' reports");
    let own: serde_json::Value = serde_json::from_str(&own).expect("JSON");
    let of = |host: &str| own[host]["runs"][0]["LongConn"]["lateness_us"].clone();
    let timed: Vec<_> = ["client1", "client2", "client3", "client4"].map(of).into();
    let sum: u64 = timed.iter().filter_map(|l| l["count"].as_u64()).sum();
    let max = timed.iter().filter_map(|l| l["max"].as_u64()).max();
    let merged = run.latency_us.lateness;
    assert_eq!((merged.count, Some(merged.max)), (sum, max), "{timed:?}");
    for file in [
        "locust.html",
        "locust_stats.csv",
        "locust_stats_history.csv",
        "locust.log",
        "histograms.hlog",
        "client4.hlog",
        "series.csv",
        "server.json",
        "workers.json",
    ] {
        assert!(runs.0.join("latest").join(file).is_file(), "{file}");
    }
}

#[test]
#[ignore = "needs Locust: make test"]
fn users_of_http_are_charted_and_counted() {
    let runs = Runs::new("http");
    let output = bench(
        &runs,
        &[
            "--users",
            "200",
            "--rate",
            "1000",
            "--hold",
            "16s",
            "--http",
            "--clients",
            "1",
        ],
    )
    .wait_with_output()
    .expect("ends");
    let run = runs.record::<Run>();
    // How near the chart comes in a few seconds on a busy machine is for measurements; that it was
    // read is for this test.
    let others: Vec<_> = run
        .header
        .reasons
        .iter()
        .filter(|r| !r.contains("the chart showed"))
        .collect();
    assert_eq!(others, Vec::<&String>::new(), "{}", stderr(&output));
    let requests = run
        .locust
        .as_ref()
        .and_then(|l| l.requests.as_ref())
        .expect("requests");
    assert!(
        requests.charted_per_second.is_some_and(|n| n > 0.0),
        "{requests:?}"
    );
    assert!(
        requests.server_per_second.is_some_and(|n| n > 0.0),
        "{requests:?}"
    );
    assert_eq!(
        counted(&run, "messages in Locust's table", "workers"),
        requests.outcomes["ok"]
    );
    assert_eq!(run.latency_us.lateness.count, requests.outcomes["ok"]);
}

#[test]
#[ignore = "needs Locust: make test"]
fn when_a_worker_is_killed_the_others_take_its_users() {
    let runs = Runs::new("killed");
    let bench = bench(
        &runs,
        &[
            "--users",
            "900",
            "--rate",
            "900",
            "--hold",
            "14s",
            "--clients",
            "3",
        ],
    );
    until_held(&runs);
    kill(
        Pid::from_raw(worker_in(&runs.0, "client2")),
        Signal::SIGKILL,
    )
    .expect("runs");
    let output = bench.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run = runs.record::<Run>();
    assert_named(
        &run.header.reasons,
        "the worker on client2 ended during hold",
    );
    let locust = run.locust.as_ref().expect("Locust's part");
    let open: Vec<_> = locust.workers.iter().map(|w| w.open).collect();
    assert_eq!(open, [450, 0, 450], "{:?}", run.header.reasons);
    for who in ["workers", "server", "kernel_backend", "kernel_clients"] {
        assert_eq!(
            counted(&run, "users at the end of the hold", who),
            900,
            "{who}"
        );
    }
}

/// A bench that holds 100 users for long, and its one worker.
fn held(runs: &Runs) -> (Child, i32) {
    let args = "--users 100 --rate 1000 --hold 10m --clients 1";
    let bench = bench(runs, &args.split(' ').collect::<Vec<_>>());
    until_held(runs);
    (bench, worker_in(&runs.0, "client1"))
}

#[test]
#[ignore = "needs Locust: make test"]
fn interrupt_stops_the_whole_run_and_leaves_a_record() {
    let runs = Runs::new("interrupt");
    let (bench, worker) = held(&runs);
    send(&bench, Signal::SIGINT);
    let output = bench.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let run = runs.record::<Run>();
    assert_eq!(run.header.verdict, Verdict::Fail);
    assert_named(&run.header.reasons, "interrupted");
    // All ended in order: last reports are there, nobody was cut off, and everybody counted the
    // same.
    let locust = run.locust.as_ref().expect("Locust's part");
    assert_eq!(locust.master.exit_code, Some(0), "{:?}", run.header.reasons);
    assert!(locust.workers.iter().all(|w| w.has_final_report));
    assert!(run.processes.server.has_final_report);
    assert_eq!(run.connections.ended["held"], 100, "{:?}", run.connections);
    assert_eq!(run.latency_us.connect.count, 100);
    for (what, others) in [
        (
            "users at the end of the hold",
            &["server", "kernel_backend"][..],
        ),
        ("connections in all", &["server"]),
        ("connects in all", &["locust"]),
        ("messages in all", &["server"]),
        ("failures", &["locust"]),
    ] {
        for who in others {
            assert_eq!(
                counted(&run, what, who),
                counted(&run, what, "workers"),
                "{what}: {who}"
            );
        }
    }
    assert_eq!(counted(&run, "connections in all", "workers"), 100);
    for file in ["report.html", "locust.html", "histograms.hlog"] {
        assert!(runs.0.join("latest").join(file).is_file(), "{file}");
    }
    assert!(
        !Path::new(&format!("/proc/{worker}")).exists(),
        "the worker is still there"
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn a_second_interrupt_ends_it_at_once() {
    let runs = Runs::new("interrupts");
    let (mut bench, worker) = held(&runs);
    // One that will not end in order.
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("runs");
    send(&bench, Signal::SIGINT);
    let mut lines = BufReader::new(bench.stderr.take().expect("piped")).lines();
    let is_heard = lines.any(|line| line.is_ok_and(|line| line.contains("once more: at once")));
    assert!(is_heard, "the interrupt was not heard");
    send(&bench, Signal::SIGINT);
    let output = bench.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130));
    let run = runs.record::<Run>();
    assert_named(
        &run.header.reasons,
        "the workers had not ended when all of it was interrupted again",
    );
    assert!(
        !Path::new(&format!("/proc/{worker}")).exists(),
        "the worker is still there"
    );
}

#[test]
#[ignore = "needs Locust: make test"]
fn the_page_is_served_outside_the_lab_while_it_runs() {
    let runs = Runs::new("page");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port();
    let web = format!("--web={port}");
    let bench = bench(
        &runs,
        &[
            "--users",
            "300",
            "--rate",
            "1000",
            "--hold",
            "6s",
            "--clients",
            "1",
            &web,
        ],
    );
    until_held(&runs);
    // A worker reports every three seconds.
    let started = Instant::now();
    loop {
        let page = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "20",
                &format!("http://127.0.0.1:{port}/stats/requests"),
            ])
            .output()
            .expect("curl");
        let said: serde_json::Value = serde_json::from_slice(&page.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", stderr(&page)));
        assert_eq!(said["workers"][0]["id"], "client1_holdfast", "{said}");
        let rows = said["stats"].as_array().expect("rows");
        let connects = rows.iter().find(|row| row["name"] == "connect");
        if said["user_count"] == 300 && connects.is_some_and(|row| row["num_requests"] == 300) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(8), "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let output = bench.wait_with_output().expect("ends");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{} {:?}",
        stderr(&output),
        runs.record::<Run>().header.reasons
    );
    assert!(stderr(&output).contains(&format!("http://127.0.0.1:{port}/")));
    assert!(runs.0.join("latest/locust.html").is_file());
    assert!(
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
        "still served"
    );
}

#[test]
fn what_cannot_be_run_is_refused_in_one_line() {
    for (args, words) in [
        (
            &["--locust", "/nowhere/locust"][..],
            "/nowhere/locust is missing",
        ),
        (&["--users", "0"], "--users"),
        (&["--hold", "1ms"], "--hold 1ms"),
        (&["--clients", "0"], "0 client hosts"),
        // 3,000,000 / 64,511 is 46.5.
        (
            &["--users", "3000000", "--clients", "1"],
            "need 47 addresses",
        ),
        (&["--ramp-tolerance=-1"], "tolerance of -1 percent"),
        (
            &["--bin-dir", "/nowhere"],
            "/nowhere/holdfast-server is missing",
        ),
    ] {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"));
        let output = bench.arg("locust").args(args).stdin(Stdio::null()).output();
        assert_refused(&output.expect("runs"), words);
    }
}

/// The process of the worker of `host` whose histograms go below `runs`, as this test's processes
/// are numbered.
fn worker_in(runs: &Path, host: &str) -> i32 {
    let identity = format!("{host}_holdfast");
    let runs = runs.display().to_string();
    let is_it = |pid: &u32| {
        let words = command_line(*pid);
        let words: Vec<_> = words.iter().map(|w| String::from_utf8_lossy(w)).collect();
        words[0].ends_with("holdfast-client")
            && words.contains(&identity.as_str().into())
            && words.iter().any(|word| word.contains(&runs))
    };
    let pid = all_pids().find(is_it).expect("a worker");
    i32::try_from(pid).expect("a process id")
}
