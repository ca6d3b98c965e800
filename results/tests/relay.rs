//! The real `holdfast-bench relay`: what it refuses, a small run through a relay that works and one
//! that loses a byte of each connection, and the report of its record.
//!
//! The programs are the real ones, built by `cargo build --workspace`; the lossy relay is a script.
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Stage, assert_interrupted, assert_named, assert_refused, send, stderr};
use holdfast_report::header::Verdict;
use holdfast_report::record::Record;
use holdfast_report::relay::record::{RELAY_RUN_SCHEMA, RelayRun, Standing};
use holdfast_report::report::{HTML, MARKDOWN};
use nix::sys::signal::Signal;

/// A relay that passes on what comes, but for the first byte of each upward stream.
const RELAY: &str = r#"
import re, socket, sys, threading
text = open(sys.argv[1]).read()
(listen, backend) = [(h, int(p)) for h, p in re.findall(r'address = "(.*):(\d+)"', text)]

def pump(source, sink, skip):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data[skip:])
            skip = 0
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass

server = socket.create_server(listen, backlog=512)
print('{"listening": true}', flush=True)
while True:
    client, _ = server.accept()
    other = socket.create_connection(backend)
    threading.Thread(target=pump, args=(client, other, 1), daemon=True).start()
    threading.Thread(target=pump, args=(other, client, 0), daemon=True).start()
"#;

const FLAGS: &[&str] = &[
    "relay",
    "--quick",
    "--slice",
    "200ms",
    "--no-competitors",
    "--no-namespace",
    "--subjects",
    "direct,holdfast",
];

/// One of our programs, built.
fn real(program: &str) -> String {
    let path = Path::new(env!("CARGO_BIN_EXE_holdfast-bench")).with_file_name(program);
    assert!(
        path.is_file(),
        "{program} is not built; next: cargo build --workspace"
    );
    path.display().to_string()
}

/// A stage of the real programs.
fn staged(name: &str) -> Stage {
    let exec = |program| format!(r#"exec {} "$@""#, real(program));
    Stage::new(
        name,
        &exec("holdfast-server"),
        &exec("holdfast-client"),
        FLAGS,
    )
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    let stage = Stage::new("flags", "", "", &["relay"]);
    for (args, words) in [
        (
            &["--scenarios", "request"][..],
            "\"request\" is no scenario",
        ),
        (&["--rounds", "0"], "0 is out of range"),
        (&["--slice", "1ms"], "a slice of 1ms"),
        (&["--subjects", "envoy"], "envoy"),
        (
            &["--scenarios", "storm", "--subjects", "direct"],
            "none of these scenarios",
        ),
        (
            &["--bin-dir", "/nowhere"],
            "/nowhere/holdfast-server is missing",
        ),
    ] {
        assert_refused(&stage.bench(args).output().expect("runs"), words);
    }
    assert!(!stage.runs().exists(), "a refusal leaves no run");
}

#[test]
fn a_small_run_measures_each_scenario_and_its_report_can_be_made_again() {
    let stage = staged("small");
    let output = stage
        .bench(&[
            "--scenarios",
            "requests-64,connections,messages,bulk-1",
            "--users",
            "50",
        ])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let run: RelayRun = stage.record();
    assert_eq!(
        (run.header.schema.as_str(), run.header.verdict),
        (RELAY_RUN_SCHEMA, Verdict::Pass)
    );
    assert_eq!(
        run.scenarios(),
        [
            "messages",
            "requests-64",
            "connections",
            "bulk-1-up",
            "bulk-1-down"
        ]
    );
    let value = |scenario: &str, subject: &str, figure: &str| {
        let entry = run.entry(scenario, subject).expect("an entry");
        entry
            .value(figure)
            .unwrap_or_else(|| panic!("{scenario} {subject} {figure}: {entry:?}"))
    };
    for (scenario, figure) in [
        ("messages", "cpu_us"),
        ("messages", "own_bytes"),
        ("messages", "kernel_bytes"),
        ("requests-64", "cpu_us"),
        ("requests-64", "load_cpu_us"),
        ("connections", "cpu_us"),
        ("bulk-1-up", "mb_per_cpu_second"),
        ("bulk-1-down", "mb_per_cpu_second"),
    ] {
        assert!(value(scenario, "holdfast", figure).is_finite());
    }
    assert_eq!(value("messages", "direct", "held"), 50.0);
    assert_eq!(value("messages", "holdfast", "held"), 50.0);
    // Fifty heartbeats a second.
    let rate = value("messages", "holdfast", "per_second");
    assert!((40.0..60.0).contains(&rate), "{rate}");
    let direct = run.entry("bulk-1-up", "direct").expect("direct");
    assert_eq!(direct.value("mb_per_cpu_second"), None, "there is no relay");
    assert!(run.commands["holdfast"].contains("relay --config"));
    // Nobody to compare with: targets are there, and not decided.
    assert!(run.goals.iter().all(|g| g.standing == Standing::Unknown));

    let folder = stage.runs().join("latest");
    let made = |name: &str| fs::read_to_string(folder.join(name)).expect("a report");
    let before = [made(HTML), made(MARKDOWN)];
    for words in ["requests-64", "Own memory per pair", "≤ 0.8 × haproxy"] {
        assert!(before.iter().all(|text| text.contains(words)), "{words}");
    }
    assert!(matches!(Record::read(&folder), Ok(Record::Relay(read)) if *read == run));
    holdfast_report::report::write(&folder).expect("made again");
    assert_eq!([made(HTML), made(MARKDOWN)], before);
    stage.assert_nothing_runs();
}

#[test]
fn interrupt_stops_all_and_leaves_a_record() {
    let stage = staged("interrupt");
    let bench = stage.start(&["--scenarios", "requests-64", "--slice", "60s"]);
    std::thread::sleep(Duration::from_secs(3));
    send(&bench, Signal::SIGINT);
    let output = bench.wait_with_output().expect("ends");
    let run: RelayRun = stage.record();
    assert_interrupted(&output, &run.header);
    stage.assert_nothing_runs();
}

#[test]
#[ignore = "needs python3: make test"]
fn relay_that_loses_a_byte_of_each_connection_fails_the_run() {
    // SIGTERM is how a relay is told to end, and it ends well then.
    let server = format!(
        r#"if [ "$1" != relay ]; then exec {} "$@"; fi
python3 "$(dirname "$0")/relay.py" "$3" & relay=$!
trap 'kill $relay; exit 0' TERM
wait"#,
        real("holdfast-server")
    );
    let stage = Stage::new("lossy", &server, "", FLAGS);
    stage.file("bin/relay.py", RELAY);
    let output = stage
        .bench(&["--scenarios", "bulk-64-up", "--rounds", "2"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let run: RelayRun = stage.record();
    assert_eq!(run.header.verdict, Verdict::Fail);
    // A byte of each of 64 connections, twice.
    assert_named(&run.header.reasons, "bytes_missing 128");
    let direct = run.entry("bulk-64-up", "direct").expect("direct");
    assert_eq!(direct.failures.len(), 0, "{:?}", direct.failures);
    stage.assert_nothing_runs();
}
