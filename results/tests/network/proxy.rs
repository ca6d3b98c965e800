//! The real `holdfast-bench proxy` with the real haproxy and the real nginx: what they count agrees
//! with ours, their limit is found and named, and another system may stand in their place.

use std::fs;
use std::process::{Command, Stdio};

use holdfast_report::bottleneck::BottleneckKind;
use holdfast_report::header::Verdict;
use holdfast_report::proxy::record::{PROXY_RUN_SCHEMA, ProxyRun, Trial};
use holdfast_report::report::{HTML, MARKDOWN};

use crate::common::{assert_refused, stderr};
use crate::runs::{Runs, counted};

/// As short as it may be where counts are compared.
const AGREE: [&str; 10] = [
    "--users", "300", "--rate", "1000", "--every", "1s", "--hold", "2s", "--slice", "1s",
];
/// Likewise where the system is to stop.
const LIMIT: [&str; 8] = [
    "--rate",
    "1000",
    "--every",
    "1s",
    "--hold",
    "2s",
    "--scenarios",
    "limit",
];

/// The bench, with no more than `descriptors` for each process, and the record it left.
fn bench(runs: &Runs, descriptors: u32, args: &[&str]) -> ProxyRun {
    let output = Command::new("prlimit")
        .arg(format!("--nofile={descriptors}:{descriptors}"))
        .args([env!("CARGO_BIN_EXE_holdfast-bench"), "proxy", "--runs"])
        .arg(&runs.0)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("prlimit");
    let run: ProxyRun = runs.record();
    assert_eq!(
        run.header.verdict,
        Verdict::Pass,
        "{:?} {}",
        run.header.reasons,
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    run
}

/// Each of `by` counted the 300 users that were asked for as open at the end of the hold.
#[track_caller]
fn assert_all_counted_300(trial: &Trial, by: &[&str]) {
    for who in by {
        assert_eq!(
            counted(
                &trial.agreements,
                "connections open at the end of the hold",
                who
            ),
            300,
            "{who}"
        );
    }
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn statistics_of_haproxy_agree_with_ours() {
    let runs = Runs::new("agree");
    let run = bench(
        &runs,
        20_000,
        &[
            &AGREE[..],
            &["--scenarios", "longconn,http-64,http-200", "--rounds", "2"],
        ]
        .concat(),
    );
    assert_eq!(run.header.schema, PROXY_RUN_SCHEMA);
    assert!(run.version.is_some_and(|v| v.starts_with("HAProxy")));
    let ways = run.trials.iter();
    let ways = ways.map(|t| (t.scenario.as_str(), t.mode.as_deref(), t.way()));
    let mut due = vec![
        ("longconn", None, "direct"),
        ("longconn", Some("tcp"), "through"),
    ];
    for scenario in ["http-64", "http-200"] {
        due.extend([
            (scenario, None, "direct"),
            (scenario, Some("http"), "through"),
            (scenario, Some("tcp"), "through-tcp"),
        ]);
    }
    assert_eq!(ways.collect::<Vec<_>>(), due);
    let [direct, through, .., waiting, in_tcp_mode] = &run.trials[..] else {
        panic!("eight trials");
    };
    // haproxy knows of no requests in TCP mode: client and server agree.
    for round in &in_tcp_mode.rounds {
        let by = &round.agreements[0].by;
        assert_eq!((round.agreements.len(), by.len()), (1, 2), "{round:?}");
    }
    assert_all_counted_300(
        direct,
        &["client", "server", "kernel_client", "kernel_backend"],
    );
    assert_all_counted_300(
        through,
        &[
            "client",
            "server",
            "kernel_client",
            "kernel_backend",
            "kernel_balancer_half",
            "haproxy_front",
            "haproxy_back",
        ],
    );
    // Two bytes a heartbeat, `ok`.
    let messages = counted(&through.agreements, "messages in all", "server");
    assert_eq!(
        counted(&through.agreements, "bytes to clients", "haproxy_front"),
        2 * messages
    );
    assert!(messages >= 300, "{messages}");
    // Long connections once, HTTP twice.
    assert_eq!((run.asked.rounds, through.rounds.len()), (2, 0));
    let [first, second] = &waiting.rounds[..] else {
        panic!("two rounds: {waiting:?}");
    };
    for round in [first, second] {
        let answered = counted(
            &round.agreements,
            "requests answered with 200",
            "haproxy_back",
        );
        assert!(answered > 0, "{round:?}");
    }
    let both = [first.per_second, second.per_second];
    assert_eq!(
        (waiting.per_second_min, waiting.per_second_max),
        (Some(both[0].min(both[1])), Some(both[0].max(both[1])))
    );
    assert!((waiting.per_second - f64::midpoint(both[0], both[1])).abs() < 0.1);
    assert!(through.limit.is_none() && waiting.limit.is_none());
    let held = &run.added[0];
    assert!(
        held.bytes_per_connection.is_some_and(|bytes| bytes > 0.0),
        "{held:?}"
    );
    assert!(
        held.cpu_us_per_connection.is_some_and(|us| us > 0.0),
        "{held:?}"
    );
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn where_haproxy_stops_is_found_and_named() {
    let runs = Runs::new("limit");
    let run = bench(&runs, 600, &LIMIT);
    let trial = &run.trials[0];
    let limit = trial.limit.as_ref().expect("a limit");
    assert_eq!(limit.what, BottleneckKind::Descriptors, "{limit:?}");
    let held = limit.connections.expect("it stopped at a number");
    // Two descriptors each, and some for itself.
    assert!((200..300).contains(&held), "{limit:?}");
    // A fifth more than 300 were asked for; whom haproxy did not take never heard anything.
    assert_eq!((trial.users, trial.opened), (360, 360));
    assert_eq!(trial.outcomes["held"], held);
    assert_eq!(
        counted(
            &trial.agreements,
            "connections open at the end of the hold",
            "haproxy_back"
        ),
        held
    );
    assert_eq!(run.header.limits[0].what, BottleneckKind::Descriptors);
    for name in [HTML, MARKDOWN] {
        assert!(runs.0.join("latest").join(name).is_file(), "{name}");
    }
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn what_passes_through_nginx_is_counted_as_sent() {
    let runs = Runs::new("nginx");
    let nginx = "--proxy nginx --scenarios longconn,http-64 --rounds 1".split(' ');
    let run = bench(
        &runs,
        20_000,
        &AGREE.into_iter().chain(nginx).collect::<Vec<_>>(),
    );
    assert_eq!(run.asked.system, "nginx");
    assert!(run.version.is_some_and(|v| v.starts_with("nginx version")));
    let [_, through, _, requests] = &run.trials[..] else {
        panic!("four trials");
    };
    assert_all_counted_300(
        through,
        &["client", "server", "kernel_client", "kernel_balancer_half"],
    );
    // What tries whether nginx is ready is no connection, and what is under way when the client
    // closes still comes.
    for (what, least) in [("connections opened in all", 300), ("messages in all", 300)] {
        let by = ["client", "server"].map(|who| counted(&through.agreements, what, who));
        assert!(by[0] == by[1] && by[0] >= least, "{what}: {by:?}");
    }
    assert!(counted(&requests.agreements, "requests answered with 200", "server") > 0);
    // Two buffers of 16 KiB and two connections; what nginx takes at its start is none of it.
    let held = &run.added[0];
    assert!(
        held.bytes_per_connection
            .is_some_and(|bytes| (1.0..65_536.0).contains(&bytes)),
        "{held:?}"
    );
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn where_nginx_stops_is_found_in_its_log() {
    let runs = Runs::new("nginx-limit");
    let run = bench(&runs, 600, &[&["--proxy", "nginx"], &LIMIT[..]].concat());
    let trial = &run.trials[0];
    let limit = trial.limit.as_ref().expect("a limit");
    assert_eq!(limit.what, BottleneckKind::Descriptors, "{limit:?}");
    assert!(limit.evidence.contains("Too many open files"), "{limit:?}");
    // 300 for each process at most, of which there is one a core.
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    assert_eq!(trial.users, 360 * cores);
    assert!(
        (200 * cores..300 * cores).contains(&limit.connections.expect("it stopped at a number")),
        "{limit:?}"
    );
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn nginx_without_its_stream_module_is_refused_in_one_line() {
    // The real nginx, and nothing where it looks for modules.
    let script = format!(
        "mount -t tmpfs none \"$(nginx -V 2>&1 | grep -o 'modules-path=[^ ]*' | cut -d= -f2)\" && exec {} proxy --proxy nginx",
        env!("CARGO_BIN_EXE_holdfast-bench")
    );
    let mut sh = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        sh.arg("--map-root-user");
    }
    sh.args(["--mount", "sh", "-c", &script]);
    let path = std::env::var("PATH").unwrap_or_default();
    sh.env("PATH", format!("{path}:/usr/sbin"));
    let output = sh.stdin(Stdio::null()).output().expect("unshare");
    assert_refused(&output, "nginx with its stream module is missing");
    assert!(
        stderr(&output).contains("apt-get install nginx-light libnginx-mod-stream"),
        "{}",
        stderr(&output)
    );
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn external_proxy_in_an_own_lab_is_measured() {
    let runs = Runs::new("target");
    fs::create_dir_all(&runs.0).expect("a folder");
    let config = runs.0.join("mine.cfg");
    fs::write(
        &config,
        "defaults\n mode tcp\n timeout connect 9s\n timeout client 1h\n timeout server 1h\n\
        listen all\n bind 10.77.2.1:9000\n server backend 10.77.1.1:7070\n",
    )
    .expect("a configuration");
    let script = format!(
        "ip netns exec balancer haproxy -db -q -f {} & sleep 1\n\
         {} proxy --target balancer:9000 --users 100 --rate 1000 --every 1s --hold 2s --scenarios longconn --runs {}",
        config.display(),
        env!("CARGO_BIN_EXE_holdfast-bench"),
        runs.0.display()
    );
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"))
        .args([
            "lab",
            "--clients",
            "1",
            "--users",
            "1000",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let run = runs.record::<ProxyRun>();
    assert_eq!(
        (output.status.code(), run.header.verdict),
        (Some(0), Verdict::Pass),
        "{:?} {}",
        run.header.reasons,
        stderr(&output)
    );
    assert_eq!(run.asked.system, "balancer:9000");
    assert_eq!(
        counted(
            &run.trials[1].agreements,
            "connections open at the end of the hold",
            "kernel_balancer_half"
        ),
        100
    );
}

#[test]
#[ignore = "needs haproxy and nginx: make test"]
fn what_cannot_be_tried_is_refused_in_one_line() {
    for (args, words) in [
        (&["--scenarios", "http"][..], "\"http\" is no scenario"),
        (&["--target", "balancer:7070"], "is not in a lab"),
        (&["--users", "70000"], "--users"),
        (&["--hold", "1ms"], "--hold 1ms"),
        (&["--name", "a b"], "cannot end a folder's name"),
        (
            &["--bin-dir", "/nowhere"],
            "/nowhere/holdfast-server is missing",
        ),
    ] {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"));
        let output = bench.arg("proxy").args(args).stdin(Stdio::null()).output();
        assert_refused(&output.expect("runs"), words);
    }
}
