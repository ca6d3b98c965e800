//! A chart of a report as a browser has it: its words, its table, and the shapes that were drawn.
//!
//! Purpose: reads charts back from a page, and compares what is drawn with the numbers in the table
//! under it.
//! Invariants: where a number belongs follows from the frame and the range that the page itself
//! names.
//! Must not depend on: which run it is of.

use std::collections::BTreeMap;

use serde_json::Value;

/// Everything a chart says and draws, as the browser has it.
pub const CHARTS: &str = r#"
const text = e => e ? e.textContent.trim() : null;
return [...document.querySelectorAll('figure')].map(f => {
  const svg = f.querySelector('svg.plot');
  const cells = row => [...row.children].map(text);
  const shape = e => ({ stroke: e.getAttribute('stroke'), fill: e.getAttribute('fill'), points: e.getAttribute('points'),
                        x: +e.getAttribute('x'), width: +e.getAttribute('width') });
  const labelled = (svg.getAttribute('aria-labelledby') || '').split(' ').map(id => text(document.getElementById(id)));
  return {
    id: f.id, kind: f.dataset.kind, caption: text(f.querySelector('figcaption p')), role: svg.getAttribute('role'), labelled,
    frame: svg.dataset.frame.split(' ').map(Number), range: svg.dataset.range.split(' ').map(Number),
    legend: [...f.querySelectorAll('.legend li')].map(li => ({ name: text(li), colour: li.querySelector('i').classList[0] })),
    head: cells(f.querySelector('thead tr')), rows: [...f.querySelectorAll('tbody tr')].map(cells),
    lines: [...svg.querySelectorAll('polyline')].map(shape), areas: [...svg.querySelectorAll('polygon')].map(shape),
    bars: [...svg.querySelectorAll('rect')].map(shape), words: [...svg.querySelectorAll('text')].map(text),
  };
});"#;

/// One chart, read back.
pub struct Chart(pub Value);

impl Chart {
    pub fn id(&self) -> &str {
        self.0["id"].as_str().expect("an id")
    }

    /// The table's rows: x, then a value for each line.
    pub fn rows(&self) -> Vec<Vec<Option<f64>>> {
        let cells = |row: &Value| texts(row).iter().map(|cell| cell.parse().ok()).collect();
        list(&self.0["rows"]).iter().map(cells).collect()
    }

    /// The figures of the bar with this name, if there is one.
    #[allow(dead_code, reason = "not every page has bars")]
    pub fn bar(&self, name: &str) -> Option<Vec<Option<f64>>> {
        let names = list(&self.0["rows"]);
        let row = names.iter().position(|row| texts(row)[0] == name)?;
        Some(self.rows()[row][1..].to_vec())
    }

    fn column(&self, name: &str) -> usize {
        texts(&self.0["head"])
            .iter()
            .position(|head| head == name)
            .unwrap_or_else(|| panic!("{}: no column {name}", self.id()))
    }

    /// x and value of the rows where the line has one.
    pub fn line(&self, name: &str) -> Vec<(f64, f64)> {
        let column = self.column(name);
        self.rows()
            .iter()
            .filter_map(|row| Some((row[0]?, row[column]?)))
            .collect()
    }

    pub fn at(&self, name: &str, x: f64) -> f64 {
        let found = self
            .line(name)
            .into_iter()
            .find(|(at, _)| (at - x).abs() < 1e-6);
        found
            .unwrap_or_else(|| panic!("{}: nothing of {name} at {x}", self.id()))
            .1
    }

    /// Where the chart's frame puts a value, in units of the drawing.
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let [left, top, right, bottom] = four(&self.0["frame"]);
        let [x_min, x_max, y_min, y_max] = four(&self.0["range"]);
        let is_log = self.column_zero() == "1 / (1 − quantile)";
        let scale = |v: f64| if is_log { v.ln() } else { v };
        let share = (scale(x) - scale(x_min)) / (scale(x_max) - scale(x_min));
        (
            left + share * (right - left),
            bottom - (y - y_min) / (y_max - y_min) * (bottom - top),
        )
    }

    fn column_zero(&self) -> String {
        texts(&self.0["head"])[0].clone()
    }

    /// Every number of the table is drawn where it belongs.
    pub fn assert_drawn(&self) {
        if self.0["kind"] == "bars" {
            return self.assert_bars_drawn();
        }
        let mut below = BTreeMap::new();
        for entry in list(&self.0["legend"]) {
            let name = entry["name"].as_str().expect("a name");
            let colour = match entry["colour"].as_str().expect("a colour") {
                "asked" => "#0000F2".to_string(),
                class => format!("#00000{}", &class[1..]),
            };
            let wanted = self.line(name);
            assert!(!wanted.is_empty(), "{}: {name} has no value", self.id());
            let area = list(&self.0["areas"])
                .into_iter()
                .find(|shape| shape["fill"] == colour.as_str());
            let (drawn, wanted) = match area {
                Some(area) => {
                    // The upper edge comes first, on top of the lines before.
                    let sum = |(x, y): (f64, f64)| {
                        let sum = below.entry(x.to_bits()).or_insert(0.0);
                        *sum += y;
                        (x, *sum)
                    };
                    let wanted: Vec<(f64, f64)> = wanted.into_iter().map(sum).collect();
                    (points(&area)[..wanted.len()].to_vec(), wanted)
                }
                None => {
                    let lines = list(&self.0["lines"]);
                    let line = lines
                        .iter()
                        .find(|shape| shape["stroke"] == colour.as_str());
                    (
                        points(
                            line.unwrap_or_else(|| panic!("{}: {name} is not drawn", self.id())),
                        ),
                        wanted,
                    )
                }
            };
            assert_eq!(drawn.len(), wanted.len(), "{}: {name}", self.id());
            for ((x, y), (at, value)) in drawn.iter().zip(&wanted) {
                let (px, py) = self.place(*at, *value);
                assert!(
                    (x - px).abs() <= 3.0 && (y - py).abs() <= 3.0,
                    "{}: {name} at {at}: {x} {y}, not {px} {py}",
                    self.id()
                );
            }
        }
    }

    fn assert_bars_drawn(&self) {
        let [left, _, right, _] = four(&self.0["frame"]);
        let most = four(&self.0["range"])[1];
        let (bars, rows) = (list(&self.0["bars"]), self.rows());
        assert_eq!(bars.len(), rows.len(), "{}", self.id());
        for (bar, row) in bars.iter().zip(&rows) {
            let wanted = row[1].expect("a value") / most * (right - left);
            let width = bar["width"].as_f64().expect("a width");
            assert!(
                (width - wanted).abs() <= 3.0,
                "{}: {width}, not {wanted}",
                self.id()
            );
        }
        let words = texts(&self.0["words"]);
        for row in list(&self.0["rows"]) {
            assert!(
                words.contains(&texts(&row)[0]),
                "{}: {row} has no name",
                self.id()
            );
        }
    }

    /// Who does not see it is told its name and its extremes.
    pub fn assert_told(&self) {
        assert_eq!(self.0["role"], "img", "{}", self.id());
        let told = texts(&self.0["labelled"]);
        assert!(
            told.len() == 2 && !told[0].is_empty(),
            "{}: {told:?}",
            self.id()
        );
        let wanted = if self.0["kind"] == "bars" {
            ": "
        } else {
            "max "
        };
        assert!(
            told[1].contains(wanted) && told[1].contains(|c: char| c.is_ascii_digit()),
            "{}: {told:?}",
            self.id()
        );
        assert!(
            self.0["caption"]
                .as_str()
                .is_some_and(|words| words.len() > 20),
            "{}",
            self.id()
        );
    }
}

pub fn list(value: &Value) -> Vec<Value> {
    value.as_array().expect("a list").clone()
}

pub fn texts(value: &Value) -> Vec<String> {
    list(value)
        .iter()
        .map(|v| v.as_str().unwrap_or_default().to_string())
        .collect()
}

fn four(value: &Value) -> [f64; 4] {
    let numbers: Vec<f64> = list(value).iter().filter_map(Value::as_f64).collect();
    numbers.try_into().expect("four numbers")
}

fn points(shape: &Value) -> Vec<(f64, f64)> {
    let pairs = shape["points"].as_str().expect("points").split_whitespace();
    pairs
        .map(|pair| pair.split_once(',').expect("a pair"))
        .map(|(x, y)| (x.parse().expect("x"), y.parse().expect("y")))
        .collect()
}
