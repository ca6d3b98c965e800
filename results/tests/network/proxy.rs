//! The real `holdfast-bench proxy` with the real haproxy: its statistics agree with ours, its limit is found and named, and another
//! system may stand in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_results::proxy::record::{PROXY_RUN_SCHEMA, ProxyRun, Trial};
use holdfast_results::run::Verdict;

use crate::common::{assert_refused, stderr};

/// Where runs of one test go; gone afterwards.
struct Runs(PathBuf);

impl Runs {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("holdfast-proxy-{}-{name}", std::process::id())))
    }

    /// The bench, with no more than `descriptors` for each process, and the record it left.
    fn bench(&self, descriptors: u32, args: &[&str]) -> ProxyRun {
        let output = Command::new("prlimit")
            .arg(format!("--nofile={descriptors}:{descriptors}"))
            .args([env!("CARGO_BIN_EXE_holdfast-bench"), "proxy", "--runs"])
            .arg(&self.0)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("prlimit");
        let run = read(&self.0);
        assert_eq!(
            run.verdict,
            Verdict::Pass,
            "{:?} {}",
            run.reasons,
            stderr(&output)
        );
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        run
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read(runs: &Path) -> ProxyRun {
    let text = fs::read_to_string(runs.join("latest/run.json")).expect("a record");
    serde_json::from_str(&text).expect("of this schema")
}

/// What `who` counted of `what` in a trial.
#[track_caller]
fn counted(trial: &Trial, what: &str, who: &str) -> u64 {
    let found = trial.agreements.iter().find(|a| a.what == what);
    let agreement = found.unwrap_or_else(|| panic!("{what}: {:?}", trial.agreements));
    *agreement
        .by
        .get(who)
        .unwrap_or_else(|| panic!("{who}: {agreement:?}"))
}

#[test]
fn statistics_of_haproxy_agree_with_ours() {
    let runs = Runs::new("agree");
    let args = [
        "--users", "300", "--rate", "1000", "--every", "1s", "--hold", "2s", "--slice", "1s",
    ];
    let run = runs.bench(
        20_000,
        &[&args[..], &["--scenarios", "longconn,http-64,http-200"]].concat(),
    );
    assert_eq!(run.schema, PROXY_RUN_SCHEMA);
    assert!(run.version.is_some_and(|v| v.starts_with("HAProxy")));
    assert_eq!(run.trials.len(), 6);
    let [direct, through, .., waiting] = &run.trials[..] else {
        panic!("six trials");
    };
    for who in ["client", "server", "kernel_client", "kernel_backend"] {
        assert_eq!(
            counted(direct, "connections open at the end of the hold", who),
            300,
            "{who}"
        );
    }
    for who in [
        "client",
        "server",
        "kernel_client",
        "kernel_backend",
        "kernel_balancer_half",
        "haproxy_front",
        "haproxy_back",
    ] {
        assert_eq!(
            counted(through, "connections open at the end of the hold", who),
            300,
            "{who}"
        );
    }
    // Two bytes a heartbeat, `ok`.
    let messages = counted(through, "messages in all", "server");
    assert_eq!(
        counted(through, "bytes to clients", "haproxy_front"),
        2 * messages
    );
    assert!(messages >= 300, "{messages}");
    assert!(counted(waiting, "requests answered with 200", "haproxy_back") > 0);
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
fn where_haproxy_stops_is_found_and_named() {
    let runs = Runs::new("limit");
    let run = runs.bench(
        600,
        &[
            "--rate",
            "1000",
            "--every",
            "1s",
            "--hold",
            "2s",
            "--scenarios",
            "limit",
        ],
    );
    let trial = &run.trials[0];
    let limit = trial.limit.as_ref().expect("a limit");
    assert_eq!(limit.what, "descriptors", "{limit:?}");
    // Two descriptors each, and some for itself.
    assert!((200..300).contains(&limit.connections), "{limit:?}");
    // A fifth more than 300 were asked for; whom haproxy did not take never heard anything.
    assert_eq!((trial.users, trial.opened), (360, 360));
    assert_eq!(trial.outcomes["held"], limit.connections);
    assert_eq!(
        counted(
            trial,
            "connections open at the end of the hold",
            "haproxy_back"
        ),
        limit.connections
    );
}

#[test]
fn another_system_stands_in_a_lab_of_ones_own() {
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
    let run = read(&runs.0);
    assert_eq!(
        (output.status.code(), run.verdict),
        (Some(0), Verdict::Pass),
        "{:?} {}",
        run.reasons,
        stderr(&output)
    );
    assert_eq!(run.asked.system, "balancer:9000");
    assert_eq!(
        counted(
            &run.trials[1],
            "connections open at the end of the hold",
            "kernel_balancer_half"
        ),
        100
    );
}

#[test]
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
