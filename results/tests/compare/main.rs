//! `holdfast-bench compare`, `list` and `show` on runs made from real records with known changes.
//!
//! Noise is drawn from seeds, so that the rate of false alarms is counted and not believed; a run
//! here is a folder with a `run.json`.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "no programs are started here but the bench")]
#[path = "../common/mod.rs"]
mod common;
mod gates;
mod noise;
mod past;
mod sides;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::stderr;
use holdfast_report::run::Run;
use serde::Serialize;

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
