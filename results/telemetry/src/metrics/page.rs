//! A page of metrics, and its text in the two formats scrapers understand.
//!
//! Invariants: a family is written once, with its help and type; its unit is the end of its name;
//! counters are named without the `_total` that the text adds. Label values are plain words and
//! numbers of ours: the text format's library escapes nothing.
//! Must not depend on: what is measured, who asks.

use std::borrow::Borrow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::buckets::Buckets;

/// The text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own text, version 0.0.4: what a scraper that names nothing gets.
    Prometheus,
}

impl Format {
    /// The one that fits a request's `Accept`.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    /// Its `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// One label and its value.
type Label = (&'static str, String);

#[derive(Debug, Clone)]
enum Value {
    Counter(u64),
    Seconds(f64),
    Gauge(f64),
    Histogram(Buckets),
    Info(Vec<Label>),
}

#[derive(Debug, Clone)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Option<Label>, Value)>,
}

/// Metrics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Page(Vec<Family>);

impl Page {
    /// A figure that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, MetricType::Gauge, [(None, Value::Gauge(value))]);
    }

    /// The same, by the values of one label.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (impl ToString, f64)>,
    ) {
        let values = values.into_iter();
        let samples = values.map(|(of, v)| (labelled(label, &of), Value::Gauge(v)));
        self.add(name, help, MetricType::Gauge, samples);
    }

    /// Events since the start.
    pub fn counter(&mut self, name: &'static str, help: &'static str, count: u64) {
        self.add(
            name,
            help,
            MetricType::Counter,
            [(None, Value::Counter(count))],
        );
    }

    /// The same, by the values of one label.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        counts: impl IntoIterator<Item = (impl ToString, impl Borrow<u64>)>,
    ) {
        let counts = counts.into_iter();
        let samples = counts.map(|(of, n)| (labelled(label, &of), Value::Counter(*n.borrow())));
        self.add(name, help, MetricType::Counter, samples);
    }

    /// Time since the start, by the values of one label or without any, seconds.
    pub fn seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        times: impl IntoIterator<Item = (Option<Label>, f64)>,
    ) {
        let times = times.into_iter().map(|(of, s)| (of, Value::Seconds(s)));
        self.add(name, help, MetricType::Counter, times);
    }

    /// How often what took how long.
    pub fn histogram(&mut self, name: &'static str, help: &'static str, buckets: &Buckets) {
        let value = Value::Histogram(buckets.clone());
        self.add(name, help, MetricType::Histogram, [(None, value)]);
    }

    /// What never changes, as labels of a 1.
    pub fn info(&mut self, name: &'static str, help: &'static str, labels: Vec<Label>) {
        self.add(name, help, MetricType::Info, [(None, Value::Info(labels))]);
    }

    /// Shows the family added last under its old name too.
    pub fn also_as(&mut self, old: &'static str, help: &'static str) {
        if let Some(family) = self.0.last().cloned() {
            self.0.push(Family {
                name: old,
                help,
                ..family
            });
        }
    }

    /// The families of another page behind those of this one.
    pub fn append(&mut self, mut other: Page) {
        self.0.append(&mut other.0);
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Option<Label>, Value)>,
    ) {
        self.0.push(Family {
            name,
            help,
            kind,
            samples: samples.into_iter().collect(),
        });
    }

    /// The text.
    #[must_use]
    pub fn text(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("a string takes all that is written");
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => without_open_metrics(&text),
        }
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in &self.0 {
            let (name, unit) = split_unit(family.name);
            let mut whole =
                encoder.encode_descriptor(name, family.help, unit.as_ref(), family.kind)?;
            for (label, value) in &family.samples {
                match label {
                    Some((label, of)) => {
                        value.write(&mut whole.encode_family(&[(*label, of.as_str())])?)?;
                    }
                    None => value.write(&mut whole)?,
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn write(&self, encoder: &mut MetricEncoder) -> fmt::Result {
        match self {
            Value::Counter(n) => encoder.encode_counter::<NoLabelSet, _, u64>(n, None),
            Value::Seconds(s) => encoder.encode_counter::<NoLabelSet, _, u64>(s, None),
            Value::Gauge(v) => encoder.encode_gauge(v),
            Value::Histogram(b) => encoder.encode_histogram::<NoLabelSet>(
                b.sum_seconds(),
                b.count(),
                &b.counts(),
                None,
            ),
            Value::Info(labels) => encoder.encode_info(labels),
        }
    }
}

fn labelled(label: &'static str, of: &impl ToString) -> Option<Label> {
    let of = of.to_string();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    assert!(
        of.bytes().all(is_plain),
        "a label value that needs no escape: {of}"
    );
    Some((label, of))
}

/// A name without the unit it ends with, and this unit.
fn split_unit(name: &str) -> (&str, Option<Unit>) {
    [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)]
        .into_iter()
        .find_map(|(end, unit)| Some((name.strip_suffix(end)?, Some(unit))))
        .unwrap_or((name, None))
}

/// OpenMetrics as Prometheus' older text: there a family has the name of its samples, and neither
/// units nor an end mark exist.
fn without_open_metrics(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    // The help stands before the type, and its name depends on it.
    let mut help = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), said) => help = said,
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (end, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    _ => ("", kind),
                };
                let help = help.take().unwrap_or_default();
                older += &format!("# HELP {name}{end} {help}\n# TYPE {name}{end} {kind}\n");
            }
            (Some("#"), ..) => {}
            _ => older = older + line + "\n",
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut page = Page::default();
        page.gauge("a_open", "Open now", 3.0);
        page.counters(
            "a_failures",
            "Failures",
            "kind",
            [("reset", 0), ("timed_out", 2)],
        );
        page.seconds("a_cpu_seconds", "Time", [(None, 1.5)]);
        page.info(
            "a_build",
            "What this is",
            vec![("version", "1.2".to_owned())],
        );
        page
    }

    #[test]
    fn text_follows_openmetrics() {
        let expected = "# HELP a_open Open now\n# TYPE a_open gauge\na_open 3.0\n\
            # HELP a_failures Failures\n# TYPE a_failures counter\n\
            a_failures_total{kind=\"reset\"} 0\na_failures_total{kind=\"timed_out\"} 2\n\
            # HELP a_cpu_seconds Time\n# TYPE a_cpu_seconds counter\n# UNIT a_cpu_seconds seconds\na_cpu_seconds_total 1.5\n\
            # HELP a_build What this is\n# TYPE a_build info\na_build_info{version=\"1.2\"} 1\n# EOF\n";
        assert_eq!(page().text(Format::OpenMetrics), expected);
    }

    #[test]
    fn text_follows_prometheus_0_0_4() {
        let expected = "# HELP a_open Open now\n# TYPE a_open gauge\na_open 3.0\n\
            # HELP a_failures_total Failures\n# TYPE a_failures_total counter\n\
            a_failures_total{kind=\"reset\"} 0\na_failures_total{kind=\"timed_out\"} 2\n\
            # HELP a_cpu_seconds_total Time\n# TYPE a_cpu_seconds_total counter\na_cpu_seconds_total 1.5\n\
            # HELP a_build_info What this is\n# TYPE a_build_info gauge\na_build_info{version=\"1.2\"} 1\n";
        assert_eq!(page().text(Format::Prometheus), expected);
    }

    #[test]
    fn openmetrics_is_sent_only_on_request() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(Format::accepted(other), Format::Prometheus);
        }
    }
}
