//! Pictures of a run's report: light, dark, and as a phone shows it. What `make report-shots` runs.
//!
//! Usage: `report_shots REPORT.html FOLDER`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

#[path = "../tests/common/browser.rs"]
#[allow(dead_code, reason = "the tests ask it for more")]
mod browser;

fn main() {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(report), Some(folder)) = (args.next(), args.next()) else {
        eprintln!("error: no report or no folder; next: make report-shots RUN=latest");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&folder).expect("a folder for the pictures");
    let browser = browser::Browser::start("shots");
    for (name, width, scheme) in [
        ("light", 1200, "light"),
        ("dark", 1200, "dark"),
        ("phone", 390, "light"),
        ("phone-dark", 390, "dark"),
    ] {
        browser.pretend(width, 900, scheme);
        browser.open(&report);
        let png = STANDARD.decode(browser.picture()).expect("base64");
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, png).expect("writes the picture");
        println!("{}", path.display());
    }
}
