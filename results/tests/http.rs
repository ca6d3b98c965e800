//! The real `holdfast-bench http`: what it refuses, what it does with programs that fail or will
//! not end, and one small run of the real server and client.
//!
//! The stand-ins are shell scripts. A test of the real programs needs them built: `cargo build
//! --workspace` does.
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Stage, assert_interrupted, assert_named, assert_refused, send, stderr};
use holdfast_report::bottleneck::{self, BottleneckKind};
use holdfast_report::header::Verdict;
use holdfast_report::http::record::{Entry, HTTP_RUN_SCHEMA, HttpRun};
use nix::sys::signal::Signal;

/// A stage whose bench runs shortly unless told otherwise.
fn staged(name: &str, server: &str, client: &str) -> Stage {
    const FLAGS: &[&str] = &[
        "http",
        "--rounds",
        "1",
        "--slice",
        "300ms",
        "--no-competitors",
        "--scenarios",
        "keepalive-64",
        "--subjects",
        "holdfast",
    ];
    Stage::new(name, server, client, FLAGS)
}

const SERVER: &str = r#"
line() { echo '{"schema":"holdfast.server.http/1","is_final":'$1',"at_us":1,"listen":[],"thread_count":1,"shard_count":1,"capacity":10,"ring_slots":10,"open_now":0,"open_max":0,"accepted":0,"refused_full":0,"accept_failed":{},"closed":{},"responses":{"200":2000},"timed_out":{},"bytes_received":0,"anomalies":{}}'; }
trap 'line true; exit 0' TERM
line false
while :; do sleep 0.1; done"#;

/// Counts a thousand requests in each of its lives: the warm-up and the measurement.
const CLIENT: &str = r#"
none='{"count":0,"p50":0,"p99":0,"p999":0,"max":0}'
line() { echo '{"schema":"holdfast.client.http/1","is_final":'$1',"at_us":1,"thread_count":1,"shard_count":1,"users_asked":64,"attempts":64,"opened":64,"failed":{},"open_now":64,"connecting_now":0,"ramp_done":true,"ramp_seconds":0.1,"requests":1000,"pending_now":0,"outcomes":{"ok":1000},"responses":{"200":1000},"backlog_now":0,"backlog_max":0,"measured_seconds":0.5,"measured_ok":1000,"measured_failed":0,"latency_us":'$none',"latency_raw_us":'$none',"connect_us":'$none',"bytes_received":0,"anomalies":{}}'; }
trap 'line true; exit 0' TERM
line false
while :; do sleep 0.05; done"#;

fn only(run: &HttpRun) -> &Entry {
    assert_eq!(run.scenarios.len(), 1, "{:?}", run.scenarios);
    &run.scenarios[0]
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    let stage = staged("flags", SERVER, CLIENT);
    for (args, words) in [
        (
            &["--scenarios", "keepalive"][..],
            "\"keepalive\" is no scenario",
        ),
        (&["--rounds", "0"], "0 is out of range"),
        (&["--slice", "1ms"], "a slice of 1ms"),
        (&["--subjects", "apache"], "apache"),
        (&["--name", "../../etc"], "cannot end a folder's name"),
        (&["--generators", "wrk"], "none of these scenarios"),
        (
            &["--bin-dir", "/nowhere"],
            "/nowhere/holdfast-server is missing",
        ),
        (&["--runs", "/proc/holdfast"], "cannot be written"),
    ] {
        assert_refused(&stage.bench(args).output().expect("runs"), words);
    }
    assert!(!stage.runs().exists(), "a refusal leaves no run");
}

#[test]
fn counts_that_agree_pass_and_others_do_not() {
    let stage = staged("agree", SERVER, CLIENT);
    let output = stage
        .bench(&["--json", "--name", "word"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let run: HttpRun = stage.record();
    assert_eq!(
        (
            run.header.schema.as_str(),
            run.header.name.as_str(),
            run.header.verdict
        ),
        (HTTP_RUN_SCHEMA, "http", Verdict::Pass)
    );
    let entry = only(&run);
    assert_eq!(
        (entry.rounds, entry.requests_per_second),
        (1, Some(2_000.0))
    );
    assert_eq!(entry.measured[0].requests, 1_000);
    let printed: HttpRun = serde_json::from_slice(&output.stdout).expect("run.json on stdout");
    assert_eq!(printed, run);
    let latest = fs::read_link(stage.runs().join("latest")).expect("a link");
    assert!(latest.display().to_string().ends_with("-http-word"));
    assert!(
        !stage.runs().join("latest/work").exists(),
        "nothing failed, nothing is kept"
    );
    stage.assert_nothing_runs();

    let lying = staged("lying", &SERVER.replace("2000", "1999"), CLIENT);
    let output = lying.bench(&[]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: HttpRun = lying.record();
    assert_named(&run.header.reasons, "the server 1,999 responses 200");
}

#[test]
fn dead_program_is_named_with_its_last_error_line() {
    for (name, server, client, kind) in [
        (
            "server",
            "echo 'cannot bind' >&2; exit 3",
            CLIENT,
            "server_did_not_start",
        ),
        (
            "client",
            SERVER,
            "echo 'cannot bind' >&2; exit 3",
            "client_died",
        ),
    ] {
        let stage = staged(&format!("dying-{name}"), server, client);
        let output = stage.bench(&[]).output().expect("runs");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let run: HttpRun = stage.record();
        assert_eq!(
            only(&run).failures.get(kind),
            Some(&1),
            "{:?}",
            only(&run).failures
        );
        assert_named(
            &run.header.reasons,
            &format!("the {name} exited with code 3: cannot bind"),
        );
        stage.assert_nothing_runs();
    }
}

#[test]
fn interrupt_stops_all_and_leaves_a_record() {
    let stage = staged("interrupt", SERVER, CLIENT);
    let bench = stage.start(&["--slice", "60s"]);
    std::thread::sleep(Duration::from_secs(2));
    let started = Instant::now();
    send(&bench, Signal::SIGINT);
    let output = bench.wait_with_output().expect("ends");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "within the slice of 60 s"
    );
    let run: HttpRun = stage.record();
    assert_interrupted(&output, &run.header);
    stage.assert_nothing_runs();
}

/// Our real programs, where the tests' own binaries are.
#[test]
fn a_small_run_of_the_real_server_and_client_passes() {
    let bench = Path::new(env!("CARGO_BIN_EXE_holdfast-bench"));
    let bin_dir = bench.parent().expect("a folder");
    for program in ["holdfast-server", "holdfast-client"] {
        assert!(
            bin_dir.join(program).is_file(),
            "{program} is not built; next: cargo build --workspace"
        );
    }
    let stage = staged("real", "", "");
    let output = stage
        .bench(&["--bin-dir", &bin_dir.display().to_string()])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let run: HttpRun = stage.record();
    let entry = only(&run);
    assert_eq!(
        (entry.subject.as_str(), entry.generator.as_str()),
        ("holdfast", "holdfast")
    );
    assert!(entry.requests_per_second.is_some_and(|rate| rate > 100.0));
    assert!(
        entry
            .server_cpu_seconds_per_million
            .is_some_and(|s| s > 0.0)
    );
    assert!(
        entry
            .client_cpu_seconds_per_million
            .is_some_and(|s| s > 0.0)
    );
    assert!(
        entry
            .latency_us
            .is_some_and(|l| l.count > 0 && l.p50 <= l.max)
    );
    // From the sending is never more than from the due time, and the report shows both.
    let (corrected, raw) = (entry.latency_us.expect("measured"), entry.latency_raw_us);
    assert!(raw.is_some_and(|raw| raw.count > 0 && raw.p99 <= corrected.p99));
    let page = fs::read_to_string(stage.runs().join("latest/report.html")).expect("a report");
    assert!(page.contains("<th>holdfast, corrected</th><th>holdfast, raw</th>"));
    assert!(entry.failures.is_empty(), "{:?}", entry.failures);
    // Sixty-four connections that ask as fast as they are answered: somebody's cores are full, or
    // others have them, or they are too few for a slice as short as this.
    let what = entry.limits.first().map(|l| l.what);
    let full = [
        BottleneckKind::ServerCpu,
        BottleneckKind::ClientCpu,
        BottleneckKind::Softirq,
        BottleneckKind::OtherPrograms,
        BottleneckKind::AskedUsers,
    ];
    assert!(
        what.is_some_and(|w| full.contains(&w)),
        "{:?}",
        entry.limits
    );
    assert_eq!(entry.limits, bottleneck::of_entry(entry));
    assert_eq!(run.header.limits, bottleneck::of_http(&run));
    assert_eq!(run.header.limits.first().map(|l| l.what), what);
    let counts = entry.measured[0].counts.expect("both ends are ours");
    assert!(counts.client_ok >= entry.measured[0].requests && counts.client_ok > 0);
    stage.assert_nothing_runs();
}
