//! The rounds of a trial as one: medians, with the least and the most beside them.
//!
//! Invariants: every figure is a median for itself, percentiles too; what went wrong in any round
//! is in the whole. What the system adds is compared within a round, direct and through it one
//! after the other, before the median is taken.
//! Must not depend on: how figures are taken, verdicts.

use std::collections::BTreeMap;

use super::record::{Added, Trial, Window};
use crate::http::record::{median, median_latency};

use holdfast_telemetry::units::round;
use holdfast_telemetry::wire::Latency;

/// One trial for each scenario and way, in the order they were first made.
#[must_use]
pub fn summed_up(measured: Vec<Trial>) -> Vec<Trial> {
    let mut groups: Vec<Vec<Trial>> = Vec::new();
    for trial in measured {
        let is_same = |group: &&mut Vec<Trial>| {
            let one = &group[0];
            (&one.scenario, one.is_proxied, &one.mode)
                == (&trial.scenario, trial.is_proxied, &trial.mode)
        };
        match groups.iter_mut().find(is_same) {
            Some(group) => group.push(trial),
            None => groups.push(vec![trial]),
        }
    }
    groups.into_iter().map(one).collect()
}

fn one(mut rounds: Vec<Trial>) -> Trial {
    if rounds.len() == 1 {
        return rounds.remove(0);
    }
    let good: Vec<&Trial> = rounds.iter().filter(|t| t.error.is_none()).collect();
    let (first, is_none) = (&rounds[0], good.is_empty());
    let middle = |figure: &dyn Fn(&Trial) -> Option<f64>| {
        median(good.iter().filter_map(|t| figure(t)).collect())
    };
    let bytes = |figure: fn(&Trial) -> Option<u64>| {
        middle(&|t| figure(t).map(|n| n as f64)).map(|n| n.round() as u64)
    };
    let sum = |counts: fn(&Trial) -> &BTreeMap<String, u64>| {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, n) in good.iter().flat_map(|t| counts(t)) {
            *sum.entry(kind.clone()).or_default() += n;
        }
        sum
    };
    let rates = || good.iter().map(|t| t.per_second);
    let windows = |of: fn(&Trial) -> Option<Window>| window(good.iter().filter_map(|t| of(t)));
    let agreements = good.iter().flat_map(|t| {
        t.agreements.iter().cloned().map(|mut agreement| {
            agreement.what += &format!(", round {}", t.round);
            agreement
        })
    });
    Trial {
        scenario: first.scenario.clone(),
        is_proxied: first.is_proxied,
        mode: first.mode.clone(),
        round: 0,
        users: first.users,
        opened: good.iter().map(|t| t.opened).min().unwrap_or(0),
        failed: sum(|t| &t.failed),
        outcomes: sum(|t| &t.outcomes),
        per_second: middle(&|t| Some(t.per_second)).map_or(0.0, |v| round(v, 1)),
        per_second_min: rates().reduce(f64::min),
        per_second_max: rates().reduce(f64::max),
        offered_per_second: good.iter().find_map(|t| t.offered_per_second),
        connect_us: median_latency(good.iter().map(|t| &t.connect_us)).unwrap_or_default(),
        latency_us: median_latency(good.iter().map(|t| &t.latency_us)).unwrap_or_default(),
        ramp: windows(|t| t.ramp),
        window: windows(|t| t.window),
        proxy_rss_base_bytes: bytes(|t| t.proxy_rss_base_bytes),
        proxy_rss_bytes: bytes(|t| t.proxy_rss_bytes),
        slab_growth_bytes: middle(&|t| t.slab_growth_bytes.map(|n| n as f64))
            .map(|n| n.round() as i64),
        agreements: agreements.collect(),
        limit: good
            .iter()
            .filter_map(|t| t.limit.clone())
            .min_by_key(|limit| limit.connections),
        error: first.error.clone().filter(|_| is_none),
        rounds,
    }
}

fn window(all: impl Iterator<Item = Window>) -> Option<Window> {
    let all: Vec<Window> = all.collect();
    let middle = |figure: fn(&Window) -> f64| median(all.iter().map(figure).collect());
    let seconds = |figure| middle(figure).map(|v| round(v, 3));
    let proxy = median(all.iter().filter_map(|w| w.proxy_cpu_seconds).collect());
    Some(Window {
        seconds: seconds(|w| w.seconds)?,
        count: middle(|w| w.count as f64)?.round() as u64,
        server_cpu_seconds: seconds(|w| w.server_cpu_seconds)?,
        client_cpu_seconds: seconds(|w| w.client_cpu_seconds)?,
        proxy_cpu_seconds: proxy.map(|v| round(v, 3)),
        machine_busy_percent: middle(|w| w.machine_busy_percent).map(|v| round(v, 1))?,
    })
}

/// Each round through the system with the same round without it.
pub fn pairs<'a>(
    through: &'a Trial,
    without: Option<&'a Trial>,
) -> Vec<(&'a Trial, Option<&'a Trial>)> {
    if through.rounds.is_empty() {
        return vec![(through, without)];
    }
    let direct = |round: u32| {
        let mut rounds = without?.rounds.iter();
        rounds.find(|t| t.round == round && t.error.is_none())
    };
    let good = through.rounds.iter().filter(|t| t.error.is_none());
    good.map(|t| (t, direct(t.round))).collect()
}

/// What is added in the middle of all rounds.
#[must_use]
pub fn middle(scenario: &str, rounds: &[Added]) -> Added {
    let all = |figure: fn(&Added) -> Option<f64>| rounds.iter().filter_map(figure);
    let of = |figure, digits| median(all(figure).collect()).map(|v| round(v, digits));
    let p50 = |a: &Added| a.latency_p50_us.map(|n| n as f64);
    let whole = |v: f64| v.round() as i64;
    Added {
        scenario: scenario.to_owned(),
        mode: None,
        latency_p50_us: of(p50, 0).map(whole),
        latency_p50_us_min: all(p50).reduce(f64::min).map(whole),
        latency_p50_us_max: all(p50).reduce(f64::max).map(whole),
        latency_p99_us: of(|a| a.latency_p99_us.map(|n| n as f64), 0).map(whole),
        rate_ratio: of(|a| a.rate_ratio, 3),
        rate_ratio_min: all(|a| a.rate_ratio).reduce(f64::min),
        rate_ratio_max: all(|a| a.rate_ratio).reduce(f64::max),
        cpu_us_per_connection: of(|a| a.cpu_us_per_connection, 2),
        cpu_us_per_message: of(|a| a.cpu_us_per_message, 2),
        bytes_per_connection: of(|a| a.bytes_per_connection, 1),
        kernel_bytes_per_connection: of(|a| a.kernel_bytes_per_connection, 1),
    }
}

/// What follows from the trials of each scenario.
#[must_use]
pub fn added(trials: &[Trial]) -> Vec<Added> {
    let is_measured = |t: &&Trial| t.error.is_none();
    let proxied = trials.iter().filter(is_measured).filter(|t| t.is_proxied);
    proxied
        .map(|through| {
            let without = trials.iter().filter(is_measured);
            let without = without
                .filter(|t| !t.is_proxied)
                .find(|t| t.scenario == through.scenario);
            let rounds = pairs(through, without);
            let rounds: Vec<Added> = rounds.into_iter().map(|(t, w)| compare(t, w)).collect();
            Added {
                mode: through.mode.clone(),
                ..middle(&through.scenario, &rounds)
            }
        })
        .collect()
}

fn compare(through: &Trial, without: Option<&Trial>) -> Added {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let less = |of: fn(&Latency) -> u64| {
        let without = without.filter(|t| t.latency_us.count > 0)?;
        (through.latency_us.count > 0)
            .then(|| signed(of(&through.latency_us)) - signed(of(&without.latency_us)))
    };
    let held = through.limit.as_ref().and_then(|l| l.connections);
    let held = held.unwrap_or(through.opened);
    let each = |bytes: f64| (held > 0).then(|| round(bytes / held as f64, 1));
    let growth = through
        .proxy_rss_bytes
        .zip(through.proxy_rss_base_bytes)
        .map(|(now, base)| now as f64 - base as f64);
    let kernel = through
        .slab_growth_bytes
        .zip(without.and_then(|t| t.slab_growth_bytes))
        .map(|(through, without)| through as f64 - without as f64);
    Added {
        scenario: through.scenario.clone(),
        latency_p50_us: less(|l| l.p50),
        latency_p99_us: less(|l| l.p99),
        rate_ratio: without
            .filter(|t| t.per_second > 0.0)
            .map(|t| round(through.per_second / t.per_second, 3)),
        cpu_us_per_connection: through.ramp.and_then(|w| w.proxy_cpu_us_each()),
        cpu_us_per_message: through.window.and_then(|w| w.proxy_cpu_us_each()),
        bytes_per_connection: growth.and_then(each),
        kernel_bytes_per_connection: kernel.and_then(each),
        ..Added::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Agreement;

    fn trial(round: u32, is_proxied: bool, per_second: f64, p50: u64) -> Trial {
        Trial {
            scenario: "http-64".into(),
            is_proxied,
            round,
            users: 64,
            opened: 64,
            per_second,
            latency_us: Latency {
                count: 10,
                p50,
                ..Latency::default()
            },
            agreements: vec![Agreement::exact("answers", [("client", 1), ("server", 1)])],
            ..Trial::default()
        }
    }

    #[test]
    fn rounds_become_medians_and_differences_are_paired() {
        let mut bad = trial(3, true, 9_000.0, 500);
        bad.agreements[0].add("haproxy_front", 2);
        bad.opened = 63;
        bad.failed.insert("refused".into(), 1);
        let mut all = summed_up(vec![
            trial(1, false, 80_000.0, 100),
            trial(1, true, 20_000.0, 300),
            trial(2, false, 40_000.0, 200),
            trial(2, true, 30_000.0, 350),
            trial(3, false, 90_000.0, 120),
            bad,
        ]);
        let through = all.pop().expect("through the system");
        assert_eq!((all.len(), through.rounds.len()), (1, 3));
        assert_eq!(
            (
                through.per_second,
                through.per_second_min,
                through.per_second_max
            ),
            (20_000.0, Some(9_000.0), Some(30_000.0))
        );
        assert_eq!((all[0].per_second, all[0].latency_us.p50), (80_000.0, 120));
        // What went wrong in one round did.
        assert_eq!((through.opened, through.failed["refused"]), (63, 1));
        let short: Vec<_> = through
            .agreements
            .iter()
            .filter_map(Agreement::shortfall)
            .collect();
        assert!(
            short.len() == 1 && short[0].contains("answers, round 3"),
            "{short:?}"
        );
        all.push(through);
        let found = &added(&all)[0];
        // 0.25, 0.75 and 0.1; 200, 150 and 380: not those of the medians.
        assert_eq!(
            (found.rate_ratio_min, found.rate_ratio, found.rate_ratio_max),
            (Some(0.1), Some(0.25), Some(0.75))
        );
        assert_eq!(
            (
                found.latency_p50_us_min,
                found.latency_p50_us,
                found.latency_p50_us_max
            ),
            (Some(150), Some(200), Some(380))
        );
    }

    #[test]
    fn modes_of_one_scenario_are_apart() {
        let in_mode = |round, mode: &str, rate| Trial {
            mode: Some(mode.into()),
            ..trial(round, true, rate, 100)
        };
        let all = summed_up(vec![
            trial(1, false, 80_000.0, 100),
            in_mode(1, "http", 20_000.0),
            in_mode(1, "tcp", 40_000.0),
            trial(2, false, 80_000.0, 100),
            in_mode(2, "http", 20_000.0),
            in_mode(2, "tcp", 40_000.0),
        ]);
        assert_eq!(all.len(), 3);
        let found = added(&all);
        let found = found.iter().map(|a| (a.mode.as_deref(), a.rate_ratio));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [(Some("http"), Some(0.25)), (Some("tcp"), Some(0.5))]
        );
    }

    #[test]
    fn rounds_without_figures_are_left_out() {
        let dead = |round| Trial {
            error: Some("it died".into()),
            ..trial(round, true, 0.0, 0)
        };
        let all = summed_up(vec![
            trial(1, true, 10.0, 1),
            dead(2),
            trial(3, true, 20.0, 2),
        ]);
        assert_eq!((all[0].per_second, all[0].error.is_none()), (15.0, true));
        let all = summed_up(vec![dead(1), dead(2)]);
        assert_eq!(all[0].error.as_deref(), Some("it died"));
        let once = trial(1, true, 10.0, 1);
        assert_eq!(summed_up(vec![once.clone()]), [once]);
    }

    #[test]
    fn added_cost_is_the_difference() {
        let latency = |p50| Latency {
            count: 9,
            p50,
            p99: p50 * 3,
            ..Latency::default()
        };
        let direct = Trial {
            scenario: "http-64".into(),
            per_second: 50_000.0,
            latency_us: latency(100),
            ..Trial::default()
        };
        let through = Trial {
            is_proxied: true,
            opened: 64,
            per_second: 20_000.0,
            latency_us: latency(260),
            window: Some(Window {
                count: 100_000,
                proxy_cpu_seconds: Some(1.0),
                ..Window::default()
            }),
            proxy_rss_base_bytes: Some(10_000),
            proxy_rss_bytes: Some(138_000),
            ..direct.clone()
        };
        let found = &added(&[direct, through])[0];
        assert_eq!(
            (found.latency_p50_us, found.latency_p99_us),
            (Some(160), Some(480))
        );
        assert_eq!(found.rate_ratio, Some(0.4));
        assert_eq!(found.cpu_us_per_message, Some(10.0));
        assert_eq!(found.bytes_per_connection, Some(2_000.0));
        assert_eq!(found.cpu_us_per_connection, None);
    }
}
