//! The page after a run of `locust`: that of long connections, and Locust's part of it.
//!
//! Invariants: nothing is computed here that the record does not hold; what is unknown shows as
//! `-`.
//! Must not depend on: how figures came about.

use std::fmt::Write as _;
use std::path::Path;

use crate::run::Run;
use crate::summary;

use holdfast_telemetry::units::count;

/// The page: verdict first, path last.
#[must_use]
pub fn page(run: &Run, folder: &Path) -> String {
    let page = summary::page(run, folder);
    let Some(locust) = &run.locust else {
        return page;
    };
    let percent = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v}%"));
    let mut own = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(own, "  {name:<12}{text}");
    };
    row(
        "master",
        format!(
            "{} of a core in the ramp, {} in the hold   {}",
            percent(locust.master.cpu_percent_ramp),
            percent(locust.master.cpu_percent_hold),
            locust.version
        ),
    );
    let workers: Vec<_> = locust
        .workers
        .iter()
        .map(|w| format!("{} {}", w.host, count(w.open)))
        .collect();
    row("workers", workers.join("   "));
    let bytes = locust.worker_bytes_per_user;
    row(
        "  memory",
        bytes.map_or("-".into(), |b| format!("{b} B a user beyond the start")),
    );
    row(
        "ramp, worst",
        format!(
            "{} from {} users a second, in {} whole seconds",
            percent(locust.ramp.worst_percent),
            count(locust.ramp.asked_per_second.round() as u64),
            locust.ramp.per_second.len()
        ),
    );
    if let Some(requests) = &locust.requests {
        let rate = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v}/s"));
        row(
            "requests",
            format!(
                "charted {}   counted by the server {}",
                rate(requests.charted_per_second),
                rate(requests.server_per_second)
            ),
        );
    }
    for table in &locust.table {
        row(
            "  table",
            format!(
                "{} {}: {}, {} failed",
                table.method,
                table.name,
                count(table.num_requests),
                count(table.num_failures)
            ),
        );
    }
    // Before the last line, which is the path.
    let at = page.trim_end().rfind('\n').map_or(0, |at| at + 1);
    format!("{}{own}{}", &page[..at], &page[at..])
}
