//! What the figures of one scenario are to each other.
//!
//! Purpose: the ratios that the project's aims are worded in.
//! Invariants: both figures of a ratio come from the same run, scenario and generator (for clients:
//! the same server).
//! Must not depend on: what a good ratio is.

use super::record::{Entry, Ratio};

use holdfast_telemetry::units::round;

/// One line for each scenario that has any ratio, in the order of `entries`.
#[must_use]
pub fn ratios(entries: &[Entry]) -> Vec<Ratio> {
    let mut names: Vec<&str> = Vec::new();
    for entry in entries {
        if !names.contains(&entry.scenario.as_str()) {
            names.push(&entry.scenario);
        }
    }
    names
        .into_iter()
        .map(|scenario| ratio(scenario, entries))
        .filter(|r| {
            *r != Ratio {
                scenario: r.scenario.clone(),
                generator: r.generator.clone(),
                ..Ratio::default()
            }
        })
        .collect()
}

fn ratio(scenario: &str, entries: &[Entry]) -> Ratio {
    let find = |subject: &str, generator: &str| {
        entries
            .iter()
            .find(|e| e.scenario == scenario && e.subject == subject && e.generator == generator)
    };
    let server = |subject, generator| find(subject, generator)?.server_cpu_seconds_per_million;
    let client = |subject, generator| find(subject, generator)?.client_cpu_seconds_per_million;
    let generator = ["wrk", "members"]
        .into_iter()
        .find(|generator| server("holdfast", *generator).is_some())
        .unwrap_or("holdfast");
    let over = |a: Option<f64>, b: Option<f64>| {
        let (a, b) = (a?, b?);
        (b > 0.0).then(|| round(a / b, 3))
    };
    let ours = server("holdfast", generator);
    Ratio {
        scenario: scenario.into(),
        generator: generator.into(),
        ours_over_floor: over(ours, server("floor", generator)),
        nginx_over_ours: over(server("nginx", generator), ours),
        haproxy_over_ours: over(server("haproxy", generator), ours),
        go_over_ours: over(server("go", generator), ours),
        tokio_over_ours: over(server("tokio", generator), ours),
        our_client_over_wrk: over(client("holdfast", "holdfast"), client("holdfast", "wrk")),
        our_client_over_wrk_on_nginx: over(client("nginx", "holdfast"), client("nginx", "wrk")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(scenario: &str, subject: &str, generator: &str, server: f64, client: f64) -> Entry {
        Entry {
            scenario: scenario.into(),
            subject: subject.into(),
            generator: generator.into(),
            server_cpu_seconds_per_million: Some(server),
            client_cpu_seconds_per_million: Some(client),
            ..Entry::default()
        }
    }

    #[test]
    fn same_generator_same_scenario() {
        let entries = [
            entry("a", "holdfast", "wrk", 3.6, 4.0),
            entry("a", "floor", "wrk", 3.0, 4.0),
            entry("a", "nginx", "wrk", 4.5, 5.0),
            entry("a", "holdfast", "holdfast", 9.9, 3.0),
            entry("a", "nginx", "holdfast", 9.9, 3.0),
            entry("b", "holdfast", "holdfast", 2.0, 3.0),
            entry("b", "go", "holdfast", 5.0, 3.0),
            entry("c", "nginx", "wrk", 5.0, 3.0),
        ];
        let found = ratios(&entries);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].ours_over_floor, Some(1.2));
        assert_eq!(found[0].nginx_over_ours, Some(1.25));
        assert_eq!(found[0].our_client_over_wrk, Some(0.75));
        assert_eq!(found[0].our_client_over_wrk_on_nginx, Some(0.6));
        assert_eq!(found[0].go_over_ours, None);
        assert_eq!(
            (found[1].generator.as_str(), found[1].go_over_ours),
            ("holdfast", Some(2.5))
        );
    }
}
