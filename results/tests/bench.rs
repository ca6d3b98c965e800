//! The real `holdfast-bench`: what it refuses, and what it does with processes that fail, lie or
//! will not end.
//!
//! The server and client here are shell scripts that print report lines: no connection is ever
//! made, so no run can pass, and each test names what the bench must notice.
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{
    LONGCONN_SERVER as SERVER, Stage, assert_interrupted, assert_named, assert_refused, send,
    stderr,
};
use holdfast_report::header::Verdict;
use holdfast_report::run::{RUN_SCHEMA, Run};
use nix::sys::signal::Signal;

/// A stage whose bench runs shortly unless told otherwise.
fn staged(name: &str, server: &str, client: &str) -> Stage {
    const FLAGS: &[&str] = &[
        "longconn",
        "--users",
        "10",
        "--interval",
        "1s",
        "--hold",
        "1s",
    ];
    Stage::new(name, server, client, FLAGS)
}

const CLIENT: &str = r#"
line() { echo '{"schema":"holdfast.client.longconn/1","is_final":'$1',"at_us":1,"thread_count":1,"shard_count":1,"users_asked":10,"attempts":10,"opened":10,"failed":{},"open_now":10,"connecting_now":0,"ended":{"held":10},"ramp_done":true,"ramp_seconds":0.1,"messages_received":0,"messages_wrong":0,"messages_missed":0,"messages_sent":0,"bytes_received":0,"connect_us":{"count":0,"p50":0,"p99":0,"p999":0,"max":0},"lateness_us":{"count":0,"p50":0,"p99":0,"p999":0,"max":0},"anomalies":{}}'; }
trap 'line true; exit 0' TERM
while :; do line false; sleep 0.2; done"#;

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    let stage = staged("flags", SERVER, CLIENT);
    for (args, words) in [
        (&["--users", "0"][..], "zero users"),
        (&["--users", "many"], "'many' is not a count"),
        (&["--users", "99999999999"], "more than one machine"),
        (&["--users", "90000000"], "hold"),
        (&["--spawn-rate", "0"], "'0' is not a rate"),
        (&["--spawn-rate", "-5"], "'-5' is not a rate"),
        (&["--spawn-rate", "20M"], "a rate of 20000000"),
        (&["--spawn-rate", "NaN"], "'NaN' is not a rate"),
        (&["--spawn-rate", "fast"], "or max"),
        (&["--interval", "0s"], "an interval of 0s"),
        (&["--interval", "soon"], "--interval"),
        (&["--hold", "9000d"], "a hold of"),
        (&["--hold", "0s"], "a hold of 0s"),
        (&["--message", ""], "a message of 0 bytes"),
        (&["--name", "../../etc"], "cannot end a folder's name"),
        (&["--port", "0"], "--port"),
        (&["--server-threads", "0"], "0 is out of range"),
        (&["--nonsense"], "--nonsense"),
        (
            &["--bin-dir", "/nowhere"],
            "/nowhere/holdfast-server is missing",
        ),
        (
            &["--runs", "/proc/holdfast"],
            "results folder /proc/holdfast cannot be written",
        ),
    ] {
        assert_refused(&stage.bench(args).output().expect("runs"), words);
    }
    assert_eq!(entries(&stage.runs()), 0, "a refusal leaves no run");
}

#[test]
fn low_limits_are_named_before_anything_starts() {
    let stage = staged("limits", SERVER, CLIENT);
    let under = |script: &str, args: &[&str]| {
        let bench = stage.bench(args);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-euc", &format!("{script} \"$0\" \"$@\"")])
            .arg(bench.get_program())
            .args(bench.get_args());
        shell.output().expect("sh runs")
    };
    for limit in [6, 12, 63] {
        let output = under(&format!("ulimit -n {limit}; exec"), &[]);
        assert_refused(&output, "at least 64 are needed");
    }
    // Without CAP_IPC_LOCK rings count against the locked memory: 20,000 users take 90 rings of 256
    // at each end.
    let drop_privileges = match nix::unistd::geteuid().is_root() {
        true => "setpriv --bounding-set=-all --inh-caps=-all",
        false => "",
    };
    let script = format!("ulimit -l 1000; ulimit -n 256; exec {drop_privileges}");
    let output = under(&script, &["--users", "20000"]);
    assert_refused(&output, "locked memory (RLIMIT_MEMLOCK) of 1,000 KiB");
    assert_eq!(entries(&stage.runs()), 0);
    stage.assert_nothing_runs();
}

#[test]
fn old_names_of_flags_are_still_understood() {
    let stage = staged("aliases", SERVER, CLIENT);
    let old = ["--rate", "0", "--every", "2s", "--warm", "off"];
    assert_refused(
        &stage.bench(&old).output().expect("runs"),
        "'0' is not a rate",
    );
}

#[test]
fn a_process_that_refuses_is_quoted_and_leaves_no_run() {
    let stage = staged(
        "refusing",
        "echo noise >&2; echo 'error: port 999 is in use; next: ss -ltn' >&2; exit 2",
        CLIENT,
    );
    assert_refused(
        &stage.bench(&[]).output().expect("runs"),
        "error: port 999 is in use",
    );
    assert_eq!(entries(&stage.runs()), 0);

    let stage = staged(
        "refusing-client",
        SERVER,
        "echo 'error: malformed CIDR; next: --source auto' >&2; exit 2",
    );
    assert_refused(&stage.bench(&[]).output().expect("runs"), "malformed CIDR");
    assert_eq!(entries(&stage.runs()), 0);
    stage.assert_nothing_runs();
}

#[test]
fn dead_process_is_named_with_its_last_error_line() {
    let stage = staged("dying", "echo 'thread panicked' >&2; exit 3", CLIENT);
    let output = stage.bench(&[]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: Run = stage.record();
    assert_named(
        &run.header.reasons,
        "the server exited with code 3 during start: thread panicked",
    );
    assert!(stderr(&output).contains("server: thread panicked"));
}

#[test]
fn counts_that_the_kernel_denies_do_not_pass() {
    let stage = staged("lying", SERVER, CLIENT);
    let output = stage
        .bench(&["--json", "--name", "lie"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: Run = stage.record();
    assert_eq!(
        (run.header.schema.as_str(), run.header.verdict),
        (RUN_SCHEMA, Verdict::Fail)
    );
    assert_named(&run.header.reasons, "client 10, server 10, kernel 0");
    assert_eq!(
        (
            run.processes.server.exit_code,
            run.processes.client.exit_code
        ),
        (Some(0), Some(0))
    );
    let printed: Run = serde_json::from_slice(&output.stdout).expect("run.json on standard output");
    assert_eq!(printed, run);
    let latest = stage.runs().join("latest");
    assert!(
        fs::read_link(&latest)
            .expect("a link")
            .display()
            .to_string()
            .ends_with("-longconn-lie")
    );
    for file in ["series.csv", "server.json", "client.json"] {
        assert!(latest.join(file).is_file(), "{file}");
    }
    assert!(
        !latest.join("server.stderr.log").exists(),
        "an empty log is removed"
    );
    stage.assert_nothing_runs();
}

#[test]
fn interrupt_stops_all_and_leaves_a_record() {
    let stage = staged("interrupt", SERVER, CLIENT);
    let output = interrupted(&stage, &[Signal::SIGINT]);
    let run: Run = stage.record();
    assert_interrupted(&output, &run.header);
    stage.assert_nothing_runs();
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let stage = staged("nohup", SERVER, CLIENT);
    let bench = stage.bench(&["--hold", "3s"]);
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(bench.get_program()).args(bench.get_args());
    let child = nohup
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    wait_for_hold(&stage.runs());
    send(&child, Signal::SIGHUP);
    let output = child.wait_with_output().expect("ends");
    // The stand-ins hold no sockets, so the run falls short, but it was not interrupted.
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: Run = stage.record();
    let incidents = &run.header.incidents;
    assert!(!incidents.contains(&"interrupted".into()), "{incidents:?}");
    assert!(run.hold.seconds.is_some_and(|s| s >= 3.0));
    stage.assert_nothing_runs();
}

#[test]
fn second_interrupt_kills_hanging_processes() {
    let stage = staged(
        "stubborn",
        &SERVER.replace("trap 'line true; exit 0' TERM", "trap '' TERM"),
        CLIENT,
    );
    let started = Instant::now();
    let output = interrupted(&stage, &[Signal::SIGTERM, Signal::SIGTERM]);
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "killed at the second signal, not at the end of the grace"
    );
    let run: Run = stage.record();
    assert_eq!(
        run.processes.server.signal,
        Some(9),
        "{:?}",
        run.header.reasons
    );
    assert_named(&run.header.reasons, "was killed");
    stage.assert_nothing_runs();
}

/// Starts a long hold, sends `signals` a second apart once the hold has begun, and waits for the
/// end.
fn interrupted(stage: &Stage, signals: &[Signal]) -> Output {
    let bench = stage.start(&["--hold", "10m"]);
    for signal in std::iter::once(None).chain(signals.iter().map(|s| Some(*s))) {
        if let Some(signal) = signal {
            send(&bench, signal);
        } else {
            wait_for_hold(&stage.runs());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    bench.wait_with_output().expect("ends")
}

fn wait_for_hold(runs: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let is_held = fs::read_dir(runs)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                fs::read_to_string(entry.path().join("series.csv"))
                    .is_ok_and(|text| text.contains(",hold,"))
            });
        if is_held {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the hold did not begin");
}

/// A server that notes how it was started beside itself.
fn noting_server() -> String {
    format!("echo \"$*\" > \"$(dirname \"$0\")/../args\"\n{SERVER}")
}

#[track_caller]
fn assert_loopback_only(stage: &Stage) {
    let args = fs::read_to_string(stage.runs().with_file_name("args")).expect("noted");
    let words: Vec<&str> = args.split_whitespace().collect();
    let listens = words.windows(2).filter(|w| w[0] == "--listen");
    let addresses: Vec<std::net::SocketAddr> =
        listens.map(|w| w[1].parse().expect("an address")).collect();
    assert!(!addresses.is_empty(), "{args}");
    for address in addresses {
        assert!(address.ip().is_loopback(), "{args}");
        assert!(address.port() > 1_023, "{args}");
    }
}

#[test]
fn without_a_namespace_the_server_listens_on_loopback_and_an_unprivileged_port() {
    let stage = staged("loopback", &noting_server(), CLIENT);
    let output = stage.bench(&["--no-namespace"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: Run = stage.record();
    assert_eq!(run.header.lab.namespace, "host");
    assert!(!run.asked.targets[0].ends_with(":999"), "{:?}", run.asked);
    assert_loopback_only(&stage);
}

#[test]
#[ignore = "needs namespaces: make test"]
fn without_namespaces_the_run_uses_the_host_network_and_reports_it() {
    let stage = staged("forbidden", &noting_server(), CLIENT);
    let bench = stage.bench(&[]);
    let mut command = std::process::Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_net_namespaces; exec \"$@\"";
    command.args(["-Ur", "sh", "-c", script, "sh"]);
    command.arg(bench.get_program()).args(bench.get_args());
    let output = command.output().expect("unshare of util-linux");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no private network namespace") && said.contains("--no-namespace"));
    let run: Run = stage.record();
    assert_eq!(run.header.lab.namespace, "host");
    assert_loopback_only(&stage);
}
