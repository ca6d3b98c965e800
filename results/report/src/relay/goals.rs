//! The project's targets for its relay, and how a run stands to them.
//!
//! Purpose: one table of rules; from it and the entries of a run the ratios to the floor and to the
//! best competitor, and a word for each target.
//! Invariants: a pure function of the record; both figures of a ratio are medians of one run. A
//! target that was not measured is neither met nor missed.
//! Must not depend on: processes, files, how figures are shown.

use std::fmt::Write as _;

use super::figures::{Aim, Kind};
use super::record::{DIRECT, Entry, FLOOR, Goal, OURS, RelayRun, Standing};
use crate::report::units::trimmed;

use holdfast_telemetry::units::round;

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// A number.
    Value,
    /// The bare relay loop.
    Floor,
    /// haproxy, with or without splice, whichever is better.
    Haproxy,
    /// The best of all competitors.
    Best,
}

/// One bound: so many times what it is held against, and the same of the stretch target.
type Bound = (Against, f64, Option<f64>);

/// Scenarios by the start of their name, a figure, and its bounds.
const RULES: &[(&str, &str, &[Bound])] = &[
    ("pairs-", "own_bytes", &[(Against::Value, 96.0, Some(76.0))]),
    ("pairs-", "held", &[(Against::Value, 1e6, None)]),
    (
        "connections",
        "cpu_us",
        &[(Against::Haproxy, 0.8, Some(0.7))],
    ),
    (
        "requests-",
        "cpu_us",
        &[
            (Against::Floor, 1.08, None),
            (Against::Best, 0.9, Some(0.75)),
        ],
    ),
    ("messages", "cpu_us", &[(Against::Haproxy, 0.7, None)]),
    ("messages", "own_bytes", &[(Against::Best, 1.0, None)]),
    ("bulk-", "mb_per_cpu_second", &[(Against::Best, 1.0, None)]),
    ("half-load", "added_p99_us", &[(Against::Best, 1.0, None)]),
    ("storm", "spread_percent", &[(Against::Value, 1.0, None)]),
    ("reloads", "lost", &[(Against::Value, 0.0, None)]),
];

/// All targets that `run` has scenarios for, in the order of measurement.
#[must_use]
pub fn goals(run: &RelayRun) -> Vec<Goal> {
    let mut goals = Vec::new();
    let scenarios = run.scenarios();
    // Of several sizes only the largest is held against the number of pairs.
    let largest = scenarios
        .iter()
        .filter_map(|name| name.strip_prefix("pairs-")?.parse::<u64>().ok())
        .max();
    for scenario in scenarios {
        for (start, figure, bounds) in RULES {
            let is_smaller = *figure == "held"
                && scenario.strip_prefix("pairs-") != largest.map(|n| n.to_string()).as_deref();
            if scenario.starts_with(start) && !is_smaller {
                goals.push(goal(run, scenario, figure, bounds));
            }
        }
    }
    goals
}

fn goal(run: &RelayRun, scenario: &str, figure: &str, bounds: &[Bound]) -> Goal {
    let is_more = Kind::of(figure).is_some_and(|kind| kind.aim == Aim::More);
    let value = |subject: &str| run.entry(scenario, subject)?.value(figure);
    let best_of = |is_one: &dyn Fn(&Entry) -> bool| -> Option<(String, f64)> {
        let others = run.entries.iter().filter(|e| {
            e.scenario == scenario
                && ![OURS, FLOOR, DIRECT].contains(&e.subject.as_str())
                && is_one(e)
        });
        let others = others.filter_map(|e| Some((e.subject.clone(), e.value(figure)?)));
        others.reduce(|a, b| if (b.1 > a.1) == is_more { b } else { a })
    };
    let best = best_of(&|_| true);
    let haproxy = best_of(&|e| e.subject.starts_with("haproxy"));
    let (ours, floor) = (value(OURS), value(FLOOR));
    let over = |other: Option<f64>| {
        let (a, b) = (ours?, other?);
        (b > 0.0).then(|| round(a / b, 3))
    };
    let mut target = String::new();
    // Whether ours is within the bounds, and within those of the stretch target.
    let (mut is_met, mut is_stretched) = (Some(true), Some(true));
    for (against, factor, stretch) in bounds {
        let (reference, name) = match against {
            Against::Value => (Some(1.0), ""),
            Against::Floor => (floor, " x floor"),
            Against::Haproxy => (haproxy.as_ref().map(|b| b.1), " x haproxy"),
            Against::Best => (best.as_ref().map(|b| b.1), " x best other"),
        };
        let sign = if is_more { ">=" } else { "<=" };
        let and = if target.is_empty() { "" } else { " and " };
        let _ = write!(target, "{and}{sign} {}{name}", trimmed(*factor, 2));
        if let Some(stretch) = stretch {
            let _ = write!(target, " (stretch {})", trimmed(*stretch, 2));
        }
        let is_within = |factor: f64| {
            let (ours, bound) = (ours?, factor * reference?);
            Some(if is_more {
                ours >= bound
            } else {
                ours <= bound
            })
        };
        is_met = both(is_met, is_within(*factor));
        is_stretched = both(is_stretched, is_within(stretch.unwrap_or(*factor)));
    }
    let has_stretch = bounds.iter().any(|(_, _, stretch)| stretch.is_some());
    let standing = match is_met {
        None => Standing::Unknown,
        Some(false) => Standing::Missed,
        Some(true) if has_stretch && is_stretched == Some(true) => Standing::Stretch,
        Some(true) => Standing::Met,
    };
    Goal {
        scenario: scenario.into(),
        figure: figure.into(),
        ours,
        floor,
        ours_over_floor: over(floor),
        ours_over_best: over(best.as_ref().map(|b| b.1)),
        best: best.as_ref().map(|b| b.1),
        best_subject: best.map(|b| b.0).unwrap_or_default(),
        target,
        standing,
    }
}

/// Both hold. A bound that does not hold is certain, whatever is unknown beside it.
fn both(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Measured;
    use super::*;

    fn run(figures: &[(&str, &str, &str, f64)]) -> RelayRun {
        let mut run = RelayRun::default();
        for (scenario, subject, key, value) in figures {
            let mut measured = Measured::default();
            measured.add(key, Some(*value));
            run.entries.push(Entry {
                scenario: (*scenario).into(),
                subject: (*subject).into(),
                measured: vec![measured],
                ..Entry::default()
            });
        }
        run.sum_up();
        run
    }

    fn standing(figures: &[(&str, &str, &str, f64)]) -> Standing {
        let goals = goals(&run(figures));
        assert_eq!(goals.len(), 1, "{goals:?}");
        goals[0].standing
    }

    #[test]
    fn both_bounds_of_requests_count() {
        let requests = |ours: f64| {
            standing(&[
                ("requests-64", OURS, "cpu_us", ours),
                ("requests-64", FLOOR, "cpu_us", 5.0),
                ("requests-64", "haproxy", "cpu_us", 8.0),
                ("requests-64", "nginx", "cpu_us", 7.0),
            ])
        };
        // The floor allows 5.4, nginx 6.3; its stretch target is 5.25.
        assert_eq!(requests(5.2), Standing::Stretch);
        assert_eq!(requests(5.3), Standing::Met);
        assert_eq!(requests(5.5), Standing::Missed);
    }

    #[test]
    fn best_is_the_largest_where_more_is_better() {
        let run = run(&[
            ("bulk-1-up", OURS, "mb_per_cpu_second", 2_500.0),
            ("bulk-1-up", DIRECT, "mb_per_cpu_second", 9_000.0),
            ("bulk-1-up", "haproxy", "mb_per_cpu_second", 2_000.0),
            ("bulk-1-up", "haproxy-splice", "mb_per_cpu_second", 3_000.0),
        ]);
        let goal = &goals(&run)[0];
        assert_eq!(
            (goal.best_subject.as_str(), goal.ours_over_best),
            ("haproxy-splice", Some(0.833))
        );
        assert_eq!(goal.standing, Standing::Missed);
        assert_eq!(goal.target, ">= 1 x best other");
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let lonely = |key, value| [("connections", OURS, key, value)];
        assert_eq!(standing(&lonely("cpu_us", 3.0)), Standing::Unknown);
        let all = run(&[
            ("pairs-500000", OURS, "own_bytes", 80.0),
            ("pairs-1000000", OURS, "held", 1e6),
        ]);
        let found: Vec<_> = goals(&all)
            .iter()
            .map(|g| (g.scenario.clone(), g.figure.clone(), g.standing))
            .collect();
        assert_eq!(
            found,
            [
                ("pairs-500000".into(), "own_bytes".into(), Standing::Met),
                (
                    "pairs-1000000".into(),
                    "own_bytes".into(),
                    Standing::Unknown
                ),
                ("pairs-1000000".into(), "held".into(), Standing::Met),
            ]
        );
        assert_eq!(standing(&[("reloads", OURS, "lost", 0.0)]), Standing::Met);
        assert_eq!(
            standing(&[("storm", OURS, "spread_percent", 1.2)]),
            Standing::Missed
        );
    }
}
