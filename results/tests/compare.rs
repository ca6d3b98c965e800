//! `holdfast-bench compare`, `list` and `show` on runs made from real records with known changes.
//!
//! Noise is drawn from seeds, so that the rate of false alarms is counted and not believed; a run here is a folder with a `run.json`.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "no programs are started here but the bench")]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{assert_refused, stderr};
use holdfast_results::archive::Record;
use holdfast_results::compare::TOLERANCE_PERCENT;
use holdfast_results::compare::judge::{Judgement, figures};
use holdfast_results::compare::side::Sample;
use holdfast_results::http::record::HttpRun;
use holdfast_results::run::{Run, SettingRecord};
use serde::Serialize;
use serde_json::Value;

const REFERENCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runs");

fn reference<R: serde::de::DeserializeOwned>(name: &str) -> R {
    let text = fs::read_to_string(format!("{REFERENCES}/{name}/run.json")).expect("a record");
    serde_json::from_str(&text).expect("of this schema")
}

/// Normal values from a seed: xorshift and twelve uniform ones.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 1, give or take `deviation`.
    fn factor(&mut self, deviation: f64) -> f64 {
        let sum: f64 = (0..12).map(|_| self.uniform()).sum();
        1.0 + deviation * (sum - 6.0)
    }
}

/// The million-connection record with noise on every figure that is judged.
fn noisy(noise: &mut Noise, deviation: f64) -> Run {
    let mut run: Run = reference("reference-1m");
    run.ramp.per_second *= noise.factor(deviation);
    let memory = &mut run.memory;
    for value in [
        &mut memory.server_rss_bytes_per_connection,
        &mut memory.client_rss_bytes_per_connection,
        &mut memory.slab_bytes_per_pair,
    ] {
        *value = value.map(|v| v * noise.factor(deviation));
    }
    run.cpu.server_seconds *= noise.factor(deviation);
    run.cpu.client_seconds *= noise.factor(deviation);
    let latency = &mut run.latency_us;
    for value in [
        &mut latency.connect.p50,
        &mut latency.connect.p99,
        &mut latency.lateness.p99,
    ] {
        *value = (*value as f64 * noise.factor(deviation)) as u64;
    }
    run
}

fn sample(name: String, run: Run) -> Sample {
    Sample {
        folder: PathBuf::from(&name),
        name,
        record: Record::Longconn(Box::new(run)),
    }
}

/// A folder of runs, removed afterwards.
struct Runs(PathBuf);

impl Runs {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("holdfast-compare-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    fn add(&self, name: &str, run: &impl Serialize) {
        let folder = self.0.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let text = serde_json::to_string(run).expect("writes");
        fs::write(folder.join("run.json"), text).expect("a record");
    }

    /// Runs `SIDE/1` to `SIDE/COUNT` with noise of one percent, changed by `change`.
    fn side(&self, side: &str, count: u64, seed: u64, change: impl Fn(&mut Run)) {
        for number in 1..=count {
            let mut run = noisy(&mut Noise::new(seed * 1_000 + number), 0.01);
            change(&mut run);
            self.add(&format!("{side}/{number}"), &run);
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    fn bench(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-bench"));
        command.args(args).arg("--runs").arg(&self.0);
        command.output().expect("runs")
    }

    #[track_caller]
    fn compares(&self, args: &[&str], code: i32) -> Output {
        let output = self.bench(&[&["compare"], args].concat());
        assert_eq!(
            output.status.code(),
            Some(code),
            "{} {}",
            stdout(&output),
            stderr(&output)
        );
        output
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The line of a figure in the table.
#[track_caller]
fn line(output: &Output, figure: &str) -> String {
    let text = stdout(output);
    let line = text
        .lines()
        .find(|l| l.trim_start().starts_with(&format!("{figure} ")));
    line.unwrap_or_else(|| panic!("no {figure} in {text}"))
        .to_string()
}

#[test]
fn a_regression_of_5_percent_is_caught_over_noise() {
    let runs = Runs::new("caught");
    for seed in 0..8 {
        runs.side("before", 5, 2 * seed, |_| {});
        runs.side("after", 5, 2 * seed + 1, |r| r.ramp.per_second *= 0.95);
        let output = runs.compares(&["before", "after"], 1);
        assert!(stdout(&output).starts_with("REGRESSION  5 runs before, 5 runs after: "));
        assert!(line(&output, "ramp.per_second").contains("WORSE"));
        // The same the other way round is none.
        let output = runs.compares(&["after", "before"], 0);
        assert!(line(&output, "ramp.per_second").contains("better"));
    }
    // Less than the tolerance fails nothing, whatever noise says.
    runs.side("after", 5, 1, |r| r.ramp.per_second *= 0.95);
    let output = runs.compares(&["before", "after", "--tolerance", "20"], 0);
    assert!(line(&output, "ramp.per_second").contains("small"));
}

/// Eight figures are judged, each alarms in one of 400 comparisons: fewer than one comparison in twenty may raise any alarm.
#[test]
fn noise_is_rarely_taken_for_a_change() {
    const DRAWS: u64 = 1_000;
    for (before, after) in [(2, 2), (1, 3), (3, 3), (5, 5), (2, 8)] {
        let mut noise = Noise::new(before * 100 + after);
        let mut alarms = 0;
        for _ in 0..DRAWS {
            let mut side = |count: u64, name: &str| -> Vec<Sample> {
                (0..count)
                    .map(|n| sample(format!("{name}{n}"), noisy(&mut noise, 0.08)))
                    .collect()
            };
            let (a, b) = (side(before, "a"), side(after, "b"));
            let figures = figures(&a, &b, TOLERANCE_PERCENT);
            alarms += u64::from(figures.iter().any(|f| f.judgement == Judgement::Worse));
        }
        assert!(
            alarms * 20 <= DRAWS,
            "{before} against {after}: {alarms} of {DRAWS}"
        );
    }
}

#[test]
fn faults_need_no_statistics() {
    let runs = Runs::new("faults");
    runs.side("before", 1, 1, |_| {});
    runs.side("after", 1, 2, |r| r.connections.lost = 1);
    let output = runs.compares(&["before", "after"], 1);
    assert!(line(&output, "connections.lost").contains("WORSE"));
}

#[test]
fn one_run_each_cannot_tell_and_says_so() {
    let runs = Runs::new("single");
    runs.side("before", 1, 1, |_| {});
    runs.side("after", 1, 2, |r| r.ramp.per_second *= 0.5);
    let output = runs.compares(&["before/1", "after/1"], 0);
    assert!(stdout(&output).starts_with("UNDECIDED"));
    assert!(line(&output, "ramp.per_second").contains("too few runs to tell"));
    assert!(stdout(&output).contains("give at least two on each side"));
    // A gate decides all the same.
    let gate = runs.file(
        "gate.toml",
        "[[metric]]\nname = \"ramp.per_second\"\nworse_percent_max = 10\n",
    );
    let output = runs.compares(&["before/1", "after/1", "--gate", &gate], 1);
    assert!(
        stdout(&output).contains("% worse, 10% allowed"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn rounds_within_one_http_run_are_its_noise() {
    let runs = Runs::new("rounds");
    let run = |seed, slower: f64| {
        let mut noise = Noise::new(seed);
        let mut run: HttpRun = reference("reference-http-7-rounds");
        for entry in &mut run.scenarios {
            for m in &mut entry.measured {
                m.requests = 100_000;
                m.server_cpu_seconds = noise.factor(0.01);
                m.client_cpu_seconds = noise.factor(0.01);
                m.requests_per_second = Some(88_000.0 * noise.factor(0.01));
                m.latency_us = None;
                if (entry.scenario.as_str(), entry.subject.as_str()) == ("pipeline-16", "holdfast")
                {
                    m.server_cpu_seconds *= slower;
                }
                if entry.subject == "nginx" {
                    m.server_cpu_seconds *= slower * slower;
                }
            }
            *entry = std::mem::take(entry).summed_up();
        }
        run
    };
    runs.add("before", &run(1, 1.0));
    runs.add("same", &run(2, 1.0));
    runs.add("after", &run(3, 1.05));
    runs.compares(&["before", "same"], 0);
    let output = runs.compares(&["before", "after"], 1);
    assert!(
        line(
            &output,
            "pipeline-16.holdfast.wrk.server_cpu_seconds_per_million"
        )
        .contains("WORSE")
    );
    // nginx became slower by 10%: nobody's regression.
    assert!(
        !line(
            &output,
            "pipeline-16.nginx.wrk.server_cpu_seconds_per_million"
        )
        .contains("WORSE")
    );
    assert!(stdout(&output).contains("noise is that of the rounds"));
}

#[test]
fn what_is_not_comparable_is_refused_by_name_unless_told_to() {
    let runs = Runs::new("refused");
    runs.side("before", 2, 1, |_| {});
    type Change = (&'static str, fn(&mut Run));
    let changes: [Change; 9] = [
        ("machine.kernel: 6.18.44-fc-v657 | 6.19", |r| {
            r.machine.kernel = "6.19".into()
        }),
        ("machine.cpu", |r| r.machine.cpu = "other".into()),
        ("machine.core_count: 2 | 4", |r| r.machine.core_count = 4),
        ("machine.memory_bytes", |r| r.machine.memory_bytes *= 2),
        ("asked.users: 1000000 | 5", |r| r.asked.users = 5),
        ("asked.every_seconds", |r| r.asked.every_seconds = 8.0),
        ("lab.settings.net.core.somaxconn: 65535 | 128", |r| {
            let is_it = |s: &&mut SettingRecord| s.key == "net.core.somaxconn";
            let setting = r.lab.settings.iter_mut().find(is_it);
            setting.expect("set there").after = Some("128".into());
        }),
        ("processes.client.thread_count: 2 | 1", |r| {
            r.processes.client.thread_count = 1
        }),
        ("interrupted: false | true", |r| {
            r.incidents.push("interrupted".into())
        }),
    ];
    for (words, change) in changes {
        runs.side("after", 2, 2, change);
        assert_refused(&runs.bench(&["compare", "before", "after"]), words);
        let output = runs.bench(&["compare", "before", "after", "--json"]);
        assert_eq!(output.status.code(), Some(2));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(json["outcome"], "not_comparable");
        let differences = json["differences"].as_array().expect("a list");
        assert!(
            differences
                .iter()
                .any(|d| d.as_str().is_some_and(|d| d.contains(words))),
            "{differences:?}"
        );
        let output = runs.compares(&["before", "after", "--anyway"], 0);
        assert!(stdout(&output).contains(&format!(
            "differs {}",
            words.split(':').next().expect("a key")
        )));
    }
    // What may differ: the commit, and where the records lie.
    runs.side("after", 2, 2, |r| r.commit = "another".into());
    runs.compares(&["before", "after"], 0);
    runs.add("http", &reference::<HttpRun>("reference-http"));
    assert_refused(
        &runs.bench(&["compare", "before", "http", "--anyway"]),
        "longconn cannot be compared with http",
    );
}

#[test]
fn sides_are_runs_folders_lists_and_latest() {
    let runs = Runs::new("sides");
    runs.side("before", 3, 1, |_| {});
    runs.side("after", 3, 2, |_| {});
    std::os::unix::fs::symlink("after/3", runs.0.join("latest")).expect("a link");
    fs::create_dir(runs.0.join("before/damaged")).expect("a folder");
    fs::write(runs.0.join("before/damaged/run.json"), "{").expect("a file");
    let count = |args: &[&str]| {
        let output = runs.compares(&[args, &["--json"]].concat(), 0);
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let length = |side: &str| json[side].as_array().map_or(0, Vec::len);
        (length("before"), length("after"), json["notes"].to_string())
    };
    let (before, after, notes) = count(&["before", "after/1,latest, after/2"]);
    assert_eq!((before, after), (3, 3));
    assert!(
        notes.contains("before/damaged is left out: run.json is damaged"),
        "{notes}"
    );
    assert_eq!(
        count(&["before/1,before/1,before", "after"]).0,
        3,
        "none twice"
    );
    for (args, words) in [
        (&["before", "nowhere"][..], "there is no run \"nowhere\""),
        (&["before", "before/damaged"], "run.json is damaged"),
        (&["before", "after,before/1"], "is on both sides"),
        (&["before", ","], "names no run"),
        (
            &["before", "after", "--tolerance", "-1"],
            "a tolerance of -1",
        ),
        (&["before"], "<AFTER>"),
    ] {
        assert_refused(&runs.bench(&[&["compare"], args].concat()), words);
    }
}

#[test]
fn gates_decide_and_bad_ones_are_refused() {
    let runs = Runs::new("gates");
    runs.side("before", 5, 1, |_| {});
    runs.side("after", 5, 2, |r| r.ramp.per_second *= 0.92);
    let with = |rule: &str, code: i32| {
        let gate = runs.file("gate.toml", &format!("[[metric]]\n{rule}\n"));
        stdout(&runs.compares(&["before", "after", "--gate", &gate], code))
    };
    with("name = 'ramp.per_second'\nworse_percent_max = 12", 0);
    assert!(with("name = 'ramp.per_second'\nworse_percent_max = 5", 1).contains("5% allowed"));
    with("name = 'ramp.per_second'\nmin = 1000", 0);
    assert!(with("name = 'ramp.per_second'\nmin = 1000000", 1).contains("is below 1000000"));
    assert!(with("name = 'memory.*'\nmax = 10", 1).contains("memory.slab_bytes_per_pair"));
    with("name = 'memory.*'\nmax = 100000", 0);
    // Nothing became slower in the other figures, and noise alone breaks no threshold.
    with("name = 'cpu.server_seconds'\nworse_percent_max = 0", 0);
    with(
        "name = 'ramp.per_second'\nbetter = 'lower'\nworse_percent_max = 0",
        0,
    );
    let output = runs.bench(&[
        "compare",
        "before",
        "after",
        "--json",
        "--gate",
        &runs.file(
            "gate.toml",
            "[[metric]]\nname = 'ramp.*'\nworse_percent_max = 5\n",
        ),
    ]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&json["outcome"], &json["gates"][0]["is_met"]),
        (&"regression".into(), &false.into())
    );

    for (text, words) in [
        ("", "missing field `metric`"),
        ("metric = []", "no [[metric]]"),
        ("[[metric]", "TOML parse error"),
        (
            "[[metric]]\nname = 'ramp.per_second'",
            "neither worse_percent_max",
        ),
        (
            "[[metric]]\nname = 'ramp.per_second'\nworst = 5",
            "unknown field",
        ),
        (
            "[[metric]]\nname = 'ramp.per_second'\nworse_percent_max = -5",
            "negative percentage",
        ),
        (
            "[[metric]]\nname = 'ramp.per_second'\nworse_percent_max = 'five'",
            "invalid type",
        ),
        (
            "[[metric]]\nname = 'ramp.per_secnd'\nworse_percent_max = 5",
            "no figure of these runs is called \"ramp.per_secnd\"",
        ),
        (
            "[[metric]]\nname = 'messages.per_second'\nworse_percent_max = 5",
            "which way is better",
        ),
    ] {
        let gate = runs.file("bad.toml", text);
        assert_refused(
            &runs.bench(&["compare", "before", "after", "--gate", &gate]),
            words,
        );
    }
    assert_refused(
        &runs.bench(&["compare", "before", "after", "--gate", "/nowhere"]),
        "the gate /nowhere",
    );
}

#[test]
fn the_page_has_both_sides_in_its_charts() {
    let runs = Runs::new("page");
    for (side, from) in [("before", "reference-1m"), ("after", "reference-2400k")] {
        runs.add(side, &reference::<Run>(from));
        let series = Path::new(REFERENCES).join(from).join("series.csv");
        fs::copy(series, runs.0.join(side).join("series.csv")).expect("a series");
    }
    runs.compares(&["before", "after", "--anyway"], 0);
    let page = fs::read_to_string(runs.0.join("after/compare.html")).expect("beside the run after");
    for words in [
        "Connections open",
        "Opened a second",
        "Lateness of heartbeats",
        "differs: asked.users: 1000000 | 2400000",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(
        page.matches("<figure").count(),
        7,
        "a chart for each figure over time"
    );
    assert!(page.contains("before: min") && page.contains("after: min"));
    let elsewhere = runs.file("elsewhere.html", "");
    runs.compares(&["before", "after", "--anyway", "--html", &elsewhere], 0);
    assert_eq!(fs::read_to_string(&elsewhere).expect("there"), page);
    runs.add("http", &reference::<HttpRun>("reference-http"));
    runs.add("http-after", &reference::<HttpRun>("reference-http"));
    runs.compares(&["http", "http-after"], 0);
    let page = fs::read_to_string(runs.0.join("http-after/compare.html")).expect("a page");
    assert!(
        page.contains("keepalive-64 by wrk, before") && page.contains("keepalive-64 by wrk, after")
    );
    assert_refused(
        &runs.bench(&["compare", "before", "after", "--html", "/nowhere/x.html"]),
        "asked.users",
    );
    let output = runs.bench(&[
        "compare",
        "before",
        "after",
        "--anyway",
        "--html",
        "/nowhere/x.html",
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn damaged_folders_are_listed_as_such_and_not_shown() {
    let runs = Runs::new("list");
    assert!(stdout(&runs.bench(&["list"])).starts_with("no runs in "));
    let at = |date: &str, change: fn(&mut Run)| {
        let mut run: Run = reference("reference-1m");
        run.started_at = format!("{date}T10:00:00Z");
        change(&mut run);
        run
    };
    runs.add("20260102T100000Z-longconn", &at("2026-01-02", |_| {}));
    runs.add(
        "reference-old",
        &at("2026-01-01", |r| {
            r.verdict = holdfast_results::run::Verdict::Fail
        }),
    );
    runs.add(
        "20260105T100000Z-longconn",
        &reference::<Run>("reference-1m"),
    );
    fs::write(
        runs.0.join("20260105T100000Z-longconn/run.json"),
        "{\"schema\":",
    )
    .expect("cut short");
    fs::create_dir(runs.0.join("20260104T100000Z-longconn")).expect("a folder");
    runs.add(
        "20260103T100000Z-other",
        &serde_json::json!({"schema": "other/1"}),
    );
    fs::write(runs.0.join("a-file"), "").expect("a file");
    std::os::unix::fs::symlink("20260102T100000Z-longconn", runs.0.join("latest")).expect("a link");

    let output = runs.bench(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let json: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let names: Vec<&str> = json.iter().filter_map(|l| l["run"].as_str()).collect();
    assert_eq!(
        names,
        [
            "20260105T100000Z-longconn",
            "20260104T100000Z-longconn",
            "20260103T100000Z-other",
            "20260102T100000Z-longconn",
            "reference-old",
        ]
    );
    let damage = |line: usize| {
        json[line]["damage"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    };
    assert!(damage(0).contains("run.json is damaged"));
    assert!(damage(1).contains("no run.json"));
    assert!(damage(2).contains("\"other/1\""));
    assert_eq!(
        (damage(3).as_str(), &json[3]["verdict"], &json[4]["verdict"]),
        ("", &"pass".into(), &"fail".into())
    );
    assert!(json[3]["size_bytes"].as_u64().is_some_and(|n| n > 1_000));

    let table = stdout(&runs.bench(&["list"]));
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(
        table.contains("1,000,000 of 1,000,000 users held")
            && table.contains("run.json is damaged")
    );

    for (run, words) in [
        ("20260105T100000Z-longconn", "run.json is damaged"),
        ("20260104T100000Z-longconn", "no run.json"),
        ("nowhere", "there is no run"),
    ] {
        assert_refused(&runs.bench(&["show", run]), words);
    }
    assert_refused(
        &Runs(PathBuf::from("/nowhere")).bench(&["list"]),
        "cannot be read",
    );
}

#[test]
fn a_run_is_shown_again_as_it_ended() {
    let runs = Runs::new("show");
    runs.add("longconn", &reference::<Run>("reference-1m"));
    runs.add("http", &reference::<HttpRun>("reference-http"));
    std::os::unix::fs::symlink("longconn", runs.0.join("latest")).expect("a link");
    let page = stdout(&runs.bench(&["show"]));
    assert!(
        page.starts_with("PASS  longconn: 1,000,000 of 1,000,000 users held"),
        "{page}"
    );
    // The record is older than limits: they follow from it all the same.
    assert!(page.contains("  limit       client CPU: "), "{page}");
    let page = stdout(&runs.bench(&["show", "http"]));
    assert!(
        page.starts_with("PASS  http: ") && page.contains("  limit       client CPU: "),
        "{page}"
    );
    let json: Run = serde_json::from_slice(&runs.bench(&["show", "longconn", "--json"]).stdout)
        .expect("the record");
    assert_eq!(json, reference::<Run>("reference-1m"));
}
