//! What became of each figure.
//!
//! Purpose: both sides' values of a figure, how far they lie apart, and what that means: a change,
//! noise, or nothing one could tell.
//! Invariants: a figure is better or worse only beyond noise, beyond its grain and beyond the
//! tolerance. Faults, which should not be there at all, are worse as soon as there are any where
//! there were none.
//! Must not depend on: gates, how it is shown.

use serde::{Serialize, Serializer};

use super::metric::{self, Better, Metric};
use super::noise::{Side, band};
use super::side::Sample;
use crate::report::units::Unit;

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// As it was: within noise.
    Same,
    /// Beyond noise, and less than the tolerance.
    Small,
    /// Better.
    Better,
    /// Worse.
    Worse,
    /// Too few runs to tell.
    Unknown,
    /// Not judged: it only tells something.
    Told,
}

impl Judgement {
    /// As it is shown.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Same => "within noise",
            Self::Small => "small",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Unknown => "too few runs to tell",
            Self::Told => "",
        }
    }
}

/// A figure on both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Its unit.
    #[serde(serialize_with = "unit_name")]
    pub unit: Unit,
    /// Which way it should go.
    pub better: Better,
    /// Before.
    pub before: Side,
    /// After.
    pub after: Side,
    /// From the first median to the second; `null` from zero.
    pub change_percent: Option<f64>,
    /// How far that may be off by chance; `null`: unknown, or from zero.
    pub noise_percent: Option<f64>,
    /// The same in the figure's unit.
    pub noise: Option<f64>,
    /// What it means.
    pub judgement: Judgement,
    /// It counts what should not be there.
    pub is_fault: bool,
}

fn unit_name<S: Serializer>(unit: &Unit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(unit.name())
}

impl Figure {
    /// How much worse it became, percent; negative for better. Infinite from nothing to something
    /// that should not be.
    #[must_use]
    pub fn worse_percent(&self, better: Better) -> f64 {
        let change = self.after.median - self.before.median;
        let worse = match better {
            Better::Higher => -change,
            Better::Lower => change,
            Better::Neither => 0.0,
        };
        match self.before.median.abs() {
            base if base > 0.0 => 100.0 * worse / base,
            _ if worse > 0.0 => f64::INFINITY,
            _ => 0.0,
        }
    }

    /// Whether the medians lie further apart than chance explains; true where chance is unknown.
    #[must_use]
    pub fn is_beyond_noise(&self) -> bool {
        let change = (self.after.median - self.before.median).abs();
        self.noise.is_none_or(|noise| change > noise)
    }
}

/// All figures that both sides have, judged.
#[must_use]
pub fn figures(before: &[Sample], after: &[Sample], tolerance_percent: f64) -> Vec<Figure> {
    let of = |samples: &[Sample]| -> Vec<Vec<Metric>> {
        samples.iter().map(|s| metric::of(&s.record)).collect()
    };
    let (before, after) = (of(before), of(after));
    // One run each has no spread but that of its rounds.
    let is_single = before.len() == 1 && after.len() == 1;
    let side = |runs: &[Vec<Metric>], name: &str| {
        let found = runs
            .iter()
            .filter_map(|m| m.iter().find(|m| m.name == name));
        let found: Vec<&Metric> = found.collect();
        match found[..] {
            [one] if is_single && one.rounds.len() > 1 => Side::of(one.rounds.clone()),
            _ => Side::of(found.iter().map(|m| m.value).collect()),
        }
    };
    let mut figures: Vec<Figure> = Vec::new();
    for metric in before.iter().flatten() {
        if figures.iter().any(|f| f.name == metric.name) {
            continue;
        }
        if let (Some(a), Some(b)) = (side(&before, &metric.name), side(&after, &metric.name)) {
            figures.push(judged(metric, a, b, tolerance_percent));
        }
    }
    figures
}

fn judged(metric: &Metric, before: Side, after: Side, tolerance_percent: f64) -> Figure {
    let base = before.median;
    let percent = |value: f64| (base != 0.0).then(|| 100.0 * value / base.abs());
    let change = after.median - base;
    let noise = band(&before, &after).map(|noise| noise.max(metric.grain));
    let mut figure = Figure {
        name: metric.name.clone(),
        unit: metric.unit,
        better: metric.better,
        change_percent: percent(change),
        noise_percent: noise.and_then(percent),
        noise,
        judgement: Judgement::Told,
        is_fault: metric.is_fault,
        before,
        after,
    };
    figure.judgement = judgement(&figure, metric, tolerance_percent);
    figure
}

fn judgement(figure: &Figure, metric: &Metric, tolerance_percent: f64) -> Judgement {
    let most = |side: &Side| side.values.iter().copied().fold(0.0, f64::max);
    if metric.is_fault && most(&figure.before) == 0.0 {
        let has_any = most(&figure.after) > 0.0;
        return if has_any {
            Judgement::Worse
        } else {
            Judgement::Same
        };
    }
    if metric.better == Better::Neither {
        return Judgement::Told;
    }
    let change = (figure.after.median - figure.before.median).abs();
    if change <= metric.grain {
        return Judgement::Same;
    }
    let worse_percent = figure.worse_percent(metric.better);
    match figure.noise {
        None => Judgement::Unknown,
        Some(noise) if change <= noise => Judgement::Same,
        Some(_) if worse_percent.abs() < tolerance_percent => Judgement::Small,
        Some(_) if worse_percent > 0.0 => Judgement::Worse,
        Some(_) => Judgement::Better,
    }
}
