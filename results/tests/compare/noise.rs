//! What is a change, what is noise, and what nobody can tell.

use holdfast_report::compare::TOLERANCE_PERCENT;
use holdfast_report::compare::judge::{Judgement, figures};
use holdfast_report::compare::side::Sample;
use holdfast_report::http::record::HttpRun;
use holdfast_report::proxy::record::ProxyRun;
use holdfast_report::record::Record;

use super::*;

fn sample(name: String, run: Run) -> Sample {
    Sample {
        folder: PathBuf::from(&name),
        name,
        record: Record::Longconn(Box::new(run)),
    }
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

/// Eight figures are judged, each alarms in one of 400 comparisons: fewer than one comparison in
/// twenty may raise any alarm.
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
fn single_runs_are_reported_as_inconclusive() {
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

/// What stands between client and server is nobody's regression; our own way is.
#[test]
fn slower_proxy_is_reported_and_slower_server_is_a_regression() {
    let runs = Runs::new("proxies");
    for (side, direct, through) in [
        ("before", 1.0, 1.0),
        ("told", 1.0, 0.8),
        ("after", 0.8, 1.0),
    ] {
        for number in 1..=5_u64 {
            let mut noise = Noise::new(number + 100 * side.len() as u64);
            let mut run: ProxyRun = reference("reference-proxy");
            for trial in &mut run.trials {
                let factor = if trial.is_proxied { through } else { direct };
                trial.per_second *= factor * noise.factor(0.01);
            }
            runs.add(&format!("{side}/{number}"), &run);
        }
    }
    let output = runs.compares(&["before", "told"], 0);
    assert!(!line(&output, "http-64.through.per_second").contains("WORSE"));
    let output = runs.compares(&["before", "after"], 1);
    assert!(line(&output, "http-64.direct.per_second").contains("WORSE"));
    // Users who wait ask for no more than they are there for.
    assert!(!line(&output, "http-10000.direct.per_second").contains("WORSE"));
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
