//! `report.html` and `report.md`: there after every run, right in their figures, bounded in size,
//! and made of any folder without a panic. What the page looks like in a browser is in
//! `report_page.rs`.
#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{LONGCONN_SERVER as SERVER, Stage, assert_named, assert_refused, send, stderr};
use holdfast_report::header::{Header, Verdict};
use holdfast_report::http::record::HTTP_RUN_SCHEMA;
use holdfast_report::proxy::record::PROXY_RUN_SCHEMA;
use holdfast_report::report::{self, HTML, MARKDOWN};
use holdfast_report::run::{RUN_SCHEMA, Run};
use holdfast_results::series::COLUMNS;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const FLAGS: &[&str] = &["longconn", "--users", "10", "--every", "1s", "--hold", "1s"];

/// Seven users open, two are refused, one times out; the ramp never ends if `RAMP` is false.
const CLIENT: &str = r#"
none='{"count":0,"p50":0,"p99":0,"p999":0,"max":0}'
line() { echo '{"schema":"holdfast.client.longconn/1","is_final":'$1',"at_us":'$2',"thread_count":1,"shard_count":1,"users_asked":10,"attempts":10,"opened":7,"failed":{"refused":2,"timed_out":1},"open_now":7,"connecting_now":0,"ended":{"held":6,"reset":1},"ramp_done":RAMP,"ramp_seconds":0.1,"messages_received":0,"messages_wrong":0,"messages_missed":0,"messages_sent":0,"bytes_received":0,"connect_us":'$none',"lateness_us":'$none',"anomalies":{}}'; }
trap 'line true 9000000; exit 0' TERM
at=1
while :; do line false $at; at=$((at + 200000)); sleep 0.2; done"#;

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The reference runs.
fn references() -> Vec<PathBuf> {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
    let folders = fs::read_dir(runs)
        .expect("runs")
        .flatten()
        .map(|entry| entry.path());
    let found: Vec<PathBuf> = folders
        .filter(|path| {
            path.file_name()
                .map(|name| name.to_string_lossy())
                .is_some_and(|name| name.starts_with("reference-"))
        })
        .collect();
    assert!(found.len() >= 4, "{found:?}");
    found
}

/// A folder of this test alone, empty.
fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("holdfast-report-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder");
    dir
}

fn again(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-bench"))
        .arg("report")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("runs")
}

#[test]
fn a_run_that_fell_short_has_a_report_that_says_why() {
    let stage = Stage::new(
        "report-short",
        SERVER,
        &CLIENT.replace("RAMP", "true"),
        FLAGS,
    );
    let output = stage.bench(&["--name", "short"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let latest = stage.runs().join("latest");
    let run: Run = stage.record();
    for name in [HTML, MARKDOWN] {
        let text = read(&latest, name);
        for words in [
            "FAIL",
            "Why the run fell short",
            "7 of 10 users opened",
            "Repeat this run",
        ] {
            assert!(text.contains(words), "{name} lacks {words}");
        }
    }
    assert_eq!(run.header.verdict, Verdict::Fail);
    assert_named(&run.header.reasons, "7 of 10 users opened");
    // The kinds come second by second, from the series.
    let html = read(&latest, HTML);
    for kind in ["failed: refused", "failed: timed_out", "lost: reset"] {
        assert!(html.contains(&format!("<th>{kind}</th>")), "{kind}");
    }
    // The same again, from the files alone.
    let before = (html, read(&latest, MARKDOWN));
    for name in [HTML, MARKDOWN] {
        fs::remove_file(latest.join(name)).expect("was there");
    }
    let output = again(&["latest", "--runs", &stage.runs().display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((read(&latest, HTML), read(&latest, MARKDOWN)), before);
}

#[test]
fn an_interrupted_run_has_a_report() {
    let stage = Stage::new(
        "report-interrupted",
        SERVER,
        &CLIENT.replace("RAMP", "false"),
        FLAGS,
    );
    let bench = stage.start(&[]);
    let is_ramping = || {
        let folder = fs::read_dir(stage.runs()).ok()?.next()?.ok()?.path();
        Some(
            fs::read_to_string(folder.join("series.csv"))
                .ok()?
                .contains(",ramp,"),
        )
    };
    for _ in 0..600 {
        if is_ramping() == Some(true) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    send(&bench, Signal::SIGINT);
    let output = bench.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(read(&stage.runs().join("latest"), MARKDOWN).contains("interrupted"));
    assert!(read(&stage.runs().join("latest"), HTML).contains("interrupted"));
    stage.assert_nothing_runs();
}

#[test]
fn unwritable_report_is_a_warning_and_keeps_the_verdict() {
    // The client puts a folder where the page belongs.
    let client = format!(
        "mkdir -p \"$(ls -d \"$(dirname \"$0\")\"/../runs/*-longconn)/report.html\"\n{CLIENT}"
    );
    let stage = Stage::new(
        "report-blocked",
        SERVER,
        &client.replace("RAMP", "true"),
        FLAGS,
    );
    let output = stage.bench(&["--json"]).output().expect("runs");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("warning: no report: ") && said.contains("report.html cannot be written"),
        "{said}"
    );
    let printed: Run = serde_json::from_slice(&output.stdout)
        .expect("the record on standard output, and nothing else");
    assert_eq!(printed.header.reasons, stage.record::<Run>().header.reasons);
}

#[test]
fn every_reference_run_makes_a_small_page_that_needs_nothing_else() {
    for folder in references() {
        let report = report::make(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let run: Value = serde_json::from_str(&read(&folder, "run.json")).expect("a record");
        let verdict = run["verdict"].as_str().expect("a verdict").to_uppercase();
        for text in [&report.html, &report.markdown] {
            assert!(
                text.contains(&verdict)
                    && text.contains(run["machine"]["kernel"].as_str().expect("a kernel"))
            );
        }
        assert!(
            report.html.len() < 1 << 20,
            "{}: {} bytes",
            folder.display(),
            report.html.len()
        );
        for forbidden in ["<script", "@import", "url(", " src=", "<iframe"] {
            assert!(
                !report.html.contains(forbidden),
                "{}: {forbidden}",
                folder.display()
            );
        }
        assert!(
            !report.html.contains("NaN") && !report.html.contains(">inf"),
            "{}",
            folder.display()
        );
    }
}

#[test]
fn the_markdown_has_the_figures_of_the_page() {
    let folder = references()
        .into_iter()
        .find(|f| f.ends_with("reference-1m"))
        .expect("is there");
    let report = report::make(&folder).expect("a report");
    for figure in [
        "1,000,000",
        "43,481/s",
        "33,283/s",
        "1.3 ms",
        "39.2 B",
        "44.5 B",
        "8,362 B",
        "net.core.somaxconn",
        "TCPMemoryPressures",
    ] {
        assert!(
            report.markdown.contains(figure) && report.html.contains(figure),
            "{figure}"
        );
    }
    let fences = report
        .markdown
        .lines()
        .filter(|line| line.starts_with("```"))
        .count();
    assert!(fences > 0 && fences % 2 == 0, "{}", report.markdown);
}

#[test]
fn a_run_of_an_hour_stays_below_a_megabyte() {
    let folder = scratch("hour");
    let source = references()
        .into_iter()
        .find(|f| f.ends_with("reference-1m"))
        .expect("is there");
    fs::copy(source.join("run.json"), folder.join("run.json")).expect("copies");
    let mut series = COLUMNS.join(",") + "\n";
    for second in 0..3_600_u64 {
        let field = |column: &&str| match *column {
            "at_seconds" => format!("{second}.001"),
            "phase" => (if second < 1_800 { "ramp" } else { "hold" }).into(),
            "client_failed_by_kind" => format!("refused:{} reset:{}", second / 7, second / 11),
            "client_lost_by_class" => format!("wrong_data:{}", second / 13),
            // Neither steady nor alike in any two columns.
            name => (second * 1_234_567 + second * second % 9_973 * name.len() as u64).to_string(),
        };
        series += &(COLUMNS.iter().map(field).collect::<Vec<_>>().join(",") + "\n");
    }
    fs::write(folder.join("series.csv"), series).expect("writes");
    let log = read(&source, "histograms.hlog");
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("Tag="))
        .collect();
    let mut long = String::new();
    for (number, line) in lines.iter().cycle().take(7_200).enumerate() {
        let (tag, rest) = line.split_once(',').expect("a tag");
        let (_, rest) = rest.split_once(',').expect("a start");
        long += &format!("{tag},{}.000,{rest}\n", number / 2);
    }
    fs::write(folder.join("histograms.hlog"), long).expect("writes");
    let report = report::make(&folder).expect("a report");
    assert!(report.html.len() < 1 << 20, "{} bytes", report.html.len());
    assert!(report.html.contains("failed: refused") && report.html.contains("connect-curve"));
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn rounds_of_a_proxy_are_drawn_as_spread_and_told() {
    let folder = scratch("rounds");
    let source = references()
        .into_iter()
        .find(|f| f.ends_with("reference-proxy"))
        .expect("is there");
    let mut run: Value = serde_json::from_str(&read(&source, "run.json")).expect("a record");
    let trial = &mut run["trials"][4];
    assert_eq!(
        (&trial["scenario"], &trial["is_proxied"]),
        (&json!("http-64"), &json!(true))
    );
    let round = |number: u32, rate: f64| json!({ "round": number, "per_second": rate });
    trial["rounds"] = json!([round(1, 20_000.5), round(2, 26_596.3), round(3, 31_000.5)]);
    (trial["per_second_min"], trial["per_second_max"]) = (json!(20_000.5), json!(31_000.5));
    fs::write(folder.join("run.json"), run.to_string()).expect("writes");
    let report = report::make(&folder).expect("a report");
    assert!(
        report.markdown.contains("|26,596|20,001–31,001|"),
        "{}",
        report.markdown
    );
    assert!(
        report
            .html
            .contains("<td>through</td><td>26596.3</td><td>20000.5</td><td>31000.5</td>")
    );
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn text_from_outside_stays_text() {
    let folder = scratch("hostile");
    let hostile = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&|`*[x](javascript:alert(1))\n# not a heading";
    let mut run = serde_json::to_value(Run {
        header: Header {
            schema: RUN_SCHEMA.into(),
            ..Header::default()
        },
        ..Run::default()
    })
    .expect("a record");
    for path in [
        "/label",
        "/command",
        "/commit",
        "/started_at",
        "/machine/cpu",
        "/lab/namespace",
        "/processes/server/command",
    ] {
        *run.pointer_mut(path).expect(path) = json!(hostile);
    }
    run["reasons"] = json!([hostile]);
    run["connections"]["failed"] = json!({ hostile: 1 });
    run["lab"]["settings"] =
        json!([{ "key": hostile, "before": hostile, "after": "1", "why": hostile }]);
    run["limits"] = json!([
        { "what": "ports", "share": null, "evidence": hostile, "next": hostile },
        { "what": hostile, "evidence": hostile, "next": hostile },
        { "evidence": 1 },
        7
    ]);
    fs::write(folder.join("run.json"), run.to_string()).expect("writes");
    let series = format!(
        "at_seconds,phase,client_open,client_failed_by_kind\n1,{0},1,\n2,\"<script>\",2,<script>:3\n",
        "<b>ramp</b>"
    );
    fs::write(folder.join("series.csv"), series).expect("writes");
    assert_stays_text(&folder);

    let measured =
        json!({ "round": 1, "requests": 10, "requests_per_second": 5.0, "error": hostile });
    let latency = json!({ "count": 10, "p50": 1, "p99": 2, "p999": 3, "max": 4 });
    let entry = json!({
        "scenario": hostile, "subject": hostile, "generator": "holdfast", "requests_per_second": 5.0, "latency_us": latency,
        "failures": { hostile: 1 }, "measured": [measured],
    });
    let run = json!({
        "schema": HTTP_RUN_SCHEMA, "verdict": "fail", "notes": [hostile], "programs": { hostile: hostile }, "scenarios": [entry],
    });
    fs::write(folder.join("run.json"), run.to_string()).expect("writes");
    assert_stays_text(&folder);

    let trial = json!({
        "scenario": hostile, "is_proxied": true, "per_second": 5.0, "latency_us": latency, "error": hostile,
        "agreements": [{ "what": hostile, "by": { hostile: 1 }, "slack": 0 }],
    });
    let run = json!({
        "schema": PROXY_RUN_SCHEMA, "verdict": "fail", "version": hostile, "asked": { "system": hostile }, "trials": [trial],
        "network": { "subnet": hostile, "hosts": [{ "name": hostile, "addresses": [hostile] }] },
    });
    fs::write(folder.join("run.json"), run.to_string()).expect("writes");
    assert_stays_text(&folder);
    let _ = fs::remove_dir_all(&folder);
}

/// Nothing in the folder's files became markup of either report.
fn assert_stays_text(folder: &Path) {
    let report = report::make(folder).expect("a report");
    for tag in ["<script", "<img", "<b>"] {
        assert!(!report.html.contains(tag), "{tag} in the page");
    }
    assert!(report.html.contains("&lt;script&gt;"));
    // What Markdown shows outside of code, and what would begin a line there.
    assert!(
        report.markdown.lines().all(|line| !line.starts_with("# ")),
        "{}",
        report.markdown
    );
    let outside = report.markdown.split("````").step_by(2).collect::<String>();
    for tag in ["<script", "<img", "[x]("] {
        let bare = outside
            .match_indices(tag)
            .filter(|(at, _)| !outside[..*at].ends_with('\\'))
            .count();
        assert_eq!(bare, 0, "{tag} in the Markdown:\n{}", report.markdown);
    }
}

#[test]
fn damaged_run_folder_gives_partial_report_or_one_error_line() {
    let source = references()
        .into_iter()
        .find(|f| f.ends_with("reference-1m"))
        .expect("is there");
    let names = ["run.json", "series.csv", "histograms.hlog"];
    let whole = names.map(|name| fs::read(source.join(name)).expect("is there"));
    let folder = scratch("damaged");
    let lay = |contents: &[Option<&[u8]>; 3]| {
        for (name, content) in names.iter().zip(contents) {
            match content {
                Some(bytes) => fs::write(folder.join(name), bytes).expect("writes"),
                None => drop(fs::remove_file(folder.join(name))),
            }
        }
        match report::make(&folder) {
            Ok(report) => Some(report),
            Err(refusal) => {
                let line = refusal.to_string();
                assert!(line.contains("; next: ") && !line.contains('\n'), "{line}");
                None
            }
        }
    };
    let all = [0, 1, 2].map(|i| Some(whole[i].as_slice()));
    let sound = lay(&all).expect("a report");
    for (gone, name) in names.iter().enumerate() {
        let mut some = all;
        some[gone] = None;
        let report = lay(&some).expect("two of three are something");
        assert!(
            report.html.contains(&format!("{name} is missing")),
            "{name}"
        );
        assert!(report.html != sound.html);
    }
    assert_eq!(lay(&[None, None, None]), None, "nothing to report on");

    // Cut anywhere, as a full disk does; changed anywhere, as nobody should. The log is shortened:
    // each of its lines is as good.
    let lines = whole[2].split_inclusive(|byte| *byte == b'\n').take(30);
    let short = [
        whole[0].clone(),
        whole[1].clone(),
        lines.flatten().copied().collect(),
    ];
    let http = references()
        .into_iter()
        .find(|f| f.ends_with("reference-http-7-rounds"))
        .expect("is there");
    let http = fs::read(http.join("run.json")).expect("is there");
    let mut seed = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for round in 0..120 {
        let which = round % 4;
        let mut bytes = if which == 3 { &http } else { &short[which] }.clone();
        if random(2) == 0 {
            bytes.truncate(random(bytes.len()));
        } else {
            for _ in 0..1 + random(20) {
                let at = random(bytes.len());
                bytes[at] = b"0123456789-e.,:\"{}[]\n\0\xffxn"[random(25)];
            }
        }
        let mut some = [0, 1, 2].map(|i| Some(short[i].as_slice()));
        some[which % 3] = Some(&bytes);
        if let Some(report) = lay(&some) {
            assert!(report.html.ends_with("</html>") && report.html.len() < 1 << 20);
        }
    }
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn a_run_that_is_not_there_or_too_new_is_refused_in_one_line() {
    assert_refused(&again(&["no-such-run"]), "there is no run \"no-such-run\"");
    assert_refused(&again(&["--nonsense"]), "--nonsense");
    let folder = scratch("schema");
    let path = folder.display().to_string();
    assert_refused(
        &again(&[&path]),
        "holds nothing to report on: run.json is missing",
    );
    fs::write(folder.join("run.json"), r#"{"schema":"holdfast.run/99"}"#).expect("writes");
    assert_refused(&again(&[&path]), "has schema \"holdfast.run/99\"");
    assert_eq!(
        fs::read_dir(&folder).expect("a folder").count(),
        1,
        "a refusal writes nothing"
    );
    let _ = fs::remove_dir_all(&folder);
}
