//! Draws the charts of README.md from the committed records: `make charts`.
//!
//! Usage: `charts RUNS INTO`, for instance `charts results/runs results/charts`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

use holdfast_report::report::readme_charts;

fn main() -> ExitCode {
    let folders: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [runs, into] = folders.as_slice() else {
        eprintln!("error: two folders are needed; next: charts results/runs results/charts");
        return ExitCode::from(2);
    };
    let write = |(name, svg): (String, String)| -> io::Result<()> {
        fs::create_dir_all(into)?;
        fs::write(into.join(name), svg)
    };
    let drawn = readme_charts::draw(runs);
    match drawn.and_then(|files| {
        let written: io::Result<()> = files.into_iter().try_for_each(write);
        written.map_err(|e| format!("{} cannot be written: {e}", into.display()))
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}; next: git restore results/runs");
            ExitCode::FAILURE
        }
    }
}
