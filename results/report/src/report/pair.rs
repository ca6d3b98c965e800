//! One scenario of a run of `proxy`, direct and through the system, and its charts.
//!
//! Invariants: no figure here is measured or judged anew; direct and through have the same colours
//! in every chart.
//! Must not depend on: how anything is drawn.

use super::chart::{Bar, Bars, Caption, Chart, Style, spread};
use super::document::Section;
use super::percentiles::{self, Curve};
use super::units::{Unit, decimal, known, signed_micros};
use crate::proxy::record::{Added, ProxyRun, Trial, Window};

use holdfast_telemetry::hosts::{BACKEND, BALANCER, client};
use holdfast_telemetry::units::count;
use holdfast_telemetry::wire::Latency;

/// Colours of the ways.
const DIRECT: usize = 0;
const THROUGH: usize = 1;
/// The other mode of the system.
const THROUGH_TCP: usize = 2;

/// One scenario, as far as it was measured.
pub struct Pair<'a> {
    pub scenario: &'a str,
    pub direct: Option<&'a Trial>,
    pub through: Option<&'a Trial>,
    /// Requests in TCP mode, beside HTTP mode.
    through_tcp: Option<&'a Trial>,
    pub added: Option<&'a Added>,
    /// What the system is called.
    system: &'a str,
}

/// The scenarios in the order in which they were measured.
pub fn pairs(run: &ProxyRun) -> Vec<Pair<'_>> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for trial in &run.trials {
        if pairs.iter().any(|p| p.scenario == trial.scenario) {
            continue;
        }
        let of = |way| {
            let same = |t: &&Trial| t.scenario == trial.scenario && t.way() == way;
            run.trials.iter().find(same)
        };
        let through = of("through");
        let mode = through.and_then(|t| t.mode.as_ref());
        pairs.push(Pair {
            scenario: &trial.scenario,
            direct: of("direct"),
            through,
            through_tcp: of("through-tcp"),
            added: run
                .added
                .iter()
                .find(|a| a.scenario == trial.scenario && a.mode.as_ref() == mode),
            system: &run.asked.system,
        });
    }
    pairs
}

impl Pair<'_> {
    /// Its messages are requests.
    pub fn is_http(&self) -> bool {
        self.scenario.starts_with("http")
    }

    /// What is counted a second.
    pub fn message(&self) -> &'static str {
        if self.is_http() {
            "request"
        } else {
            "heartbeat"
        }
    }

    /// Those that gave figures, by the way they took, and its colour.
    fn measured(&self) -> impl Iterator<Item = (&'static str, usize, &Trial)> {
        let all = [
            (DIRECT, self.direct),
            (THROUGH, self.through),
            (THROUGH_TCP, self.through_tcp),
        ];
        let trials = all
            .into_iter()
            .filter_map(|(colour, trial)| Some((colour, trial.filter(|t| t.error.is_none())?)));
        trials.map(|(colour, trial)| (trial.way(), colour, trial))
    }

    /// Its charts, and what a reader must know of it.
    pub fn section(&self) -> Section {
        let trials = || {
            let all = [self.direct, self.through, self.through_tcp];
            all.into_iter().flatten()
        };
        let users = trials().map(|t| t.users).max().unwrap_or(0);
        let mut words = format!("{} users, a connection each", count(users));
        if let Some(offered) = trials().find_map(|t| t.offered_per_second) {
            words += &format!("; they make {}/s due", decimal(offered));
        }
        let mut told = vec![words + "."];
        for trial in trials() {
            told.extend(trial.error.clone());
            told.extend(trial.rounds.iter().filter_map(|t| t.error.clone()));
            told.extend(trial.limit.as_ref().map(|limit| {
                let held = known(limit.connections, count);
                let what = limit.what.label();
                format!(
                    "Stopped at {held} connections by {what}: {}.",
                    limit.evidence
                )
            }));
        }
        let charts = [
            self.rate(),
            self.latency(),
            self.cpu("cpu-message", self.message(), |t| t.window),
            self.cpu("cpu-connection", "connection opened", |t| t.ramp),
            self.memory(),
            self.curves(
                "latency-curve",
                if self.is_http() {
                    "Latency by percentile"
                } else {
                    "Lateness by percentile"
                },
                |t| &t.latency_us,
            ),
            self.curves("connect-curve", "Connect time by percentile", |t| {
                &t.connect_us
            }),
        ];
        Section::new(self.scenario, told, charts)
    }

    fn caption(&self, id: &str, title: impl Into<String>, guidance: impl Into<String>) -> Caption {
        Caption::new(format!("{}-{id}", self.scenario), title, guidance)
    }

    fn bars(&self, figure: impl Fn(&Trial) -> Option<(f64, Option<f64>)>) -> Vec<Bar> {
        let bar = |(way, colour, trial): (&str, usize, &Trial)| {
            let (value, inner) = figure(trial)?;
            Some(Bar {
                name: way.into(),
                colour,
                value,
                inner,
                spread: of_rounds(trial, |t| Some(figure(t)?.0)),
            })
        };
        self.measured().filter_map(bar).collect()
    }

    fn rate(&self) -> Option<Chart> {
        let title = format!("{}s a second", capital(self.message()));
        let caption = self.caption(
            "rate",
            title,
            "Longer is better, up to the requested rate. The thin line shows minimum and maximum of the rounds.",
        );
        let bars = self.bars(|t| Some((t.per_second, None)));
        Bars::new(caption, Unit::PerSecond, ("rate", None), bars).map(Chart::Bars)
    }

    fn latency(&self) -> Option<Chart> {
        let (title, from) = if self.is_http() {
            ("Latency, p50 / p99", "From the time a request was due")
        } else {
            (
                "Lateness of messages, p50 / p99",
                "From the time a message was due",
            )
        };
        let mut guidance = format!("Shorter is better. {from}; the mark is p50, the end p99.");
        if let Some((p50, p99)) = self
            .added
            .and_then(|a| Some((a.latency_p50_us?, a.latency_p99_us?)))
        {
            guidance += &format!(
                " Added: {} and {}.",
                signed_micros(Some(p50)),
                signed_micros(Some(p99))
            );
        }
        let bars = self.bars(|t| {
            let l = &t.latency_us;
            (l.count > 0).then_some((l.p99 as f64, Some(l.p50 as f64)))
        });
        let caption = self.caption("latency", title, guidance);
        Bars::new(caption, Unit::Micros, ("p99", Some("p50")), bars).map(Chart::Bars)
    }

    /// Time on a core of each thing, host by host.
    fn cpu(&self, id: &str, thing: &str, window: fn(&Trial) -> Option<Window>) -> Option<Chart> {
        let mut bars = Vec::new();
        type Of = fn(&Window) -> Option<f64>;
        let hosts: [(String, Of); 3] = [
            (BACKEND.into(), |w| w.us_each(w.server_cpu_seconds)),
            (client(1), |w| w.us_each(w.client_cpu_seconds)),
            (BALANCER.into(), Window::proxy_cpu_us_each),
        ];
        for (host, of) in &hosts {
            for (way, colour, trial) in self.measured() {
                let value = window(trial).as_ref().and_then(of);
                bars.extend(value.map(|value| Bar {
                    name: format!("{host}, {way}"),
                    colour,
                    value,
                    spread: of_rounds(trial, |t| of(&window(t)?)),
                    ..Bar::default()
                }));
            }
        }
        let caption = self.caption(
            id,
            format!("CPU of a {thing}, on each host"),
            format!(
                "Shorter is better. Server on {BACKEND}, client on {}, {} on {BALANCER}.",
                client(1),
                self.system
            ),
        );
        Bars::new(caption, Unit::CpuMicros, ("each", None), bars).map(Chart::Bars)
    }

    fn memory(&self) -> Option<Chart> {
        let mut bars = Vec::new();
        let mut add = |name: String, colour, value: Option<f64>| {
            bars.extend(value.map(|value| Bar {
                name,
                colour,
                value,
                ..Bar::default()
            }));
        };
        let held = |t: &Trial| {
            t.limit
                .as_ref()
                .and_then(|l| l.connections)
                .unwrap_or(t.opened)
        };
        for (way, colour, trial) in self.measured() {
            let each = trial.slab_growth_bytes.filter(|_| held(trial) > 0);
            add(
                format!("kernel, {way}"),
                colour,
                each.map(|bytes| bytes as f64 / held(trial) as f64),
            );
        }
        add(
            format!("{}, its own", self.system),
            THROUGH,
            self.added.and_then(|a| a.bytes_per_connection),
        );
        let caption = self.caption(
            "memory",
            "Memory per connection",
            "Shorter is better. Growth of the kernel's slabs, of all hosts, and of the system's resident memory, over the connections held.",
        );
        Bars::new(caption, Unit::Bytes, ("each", None), bars).map(Chart::Bars)
    }

    fn curves(&self, id: &str, title: &str, of: fn(&Trial) -> &Latency) -> Option<Chart> {
        let curves = self.measured().map(|(way, colour, trial)| Curve {
            name: way.into(),
            style: Style::Plain,
            colour,
            latency: of(trial),
        });
        let curves: Vec<_> = curves.filter(|c| c.latency.count > 0).collect();
        let guidance =
            "p50, p99, p99.9 and maximum. The gap between the lines is what the system adds.";
        percentiles::chart(self.caption(id, title, guidance), &curves)
    }
}

/// Least and most of a figure in the rounds of a trial.
fn of_rounds(trial: &Trial, figure: impl Fn(&Trial) -> Option<f64>) -> Option<(f64, f64)> {
    let sound = trial.rounds.iter().filter(|t| t.error.is_none());
    spread(&sound.filter_map(figure).collect::<Vec<f64>>())
}

pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
