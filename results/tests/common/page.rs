//! A page of ours in a browser: what must hold of any of them, whatever it shows.
//!
//! Invariants: contrast is that of WCAG, computed from what the browser drew with.
//! Must not depend on: which run it is of.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::browser::Browser;
use crate::drawn::{CHARTS, Chart, list};

/// Opens a page and reads its charts back, by their names. Each is drawn as its numbers say and
/// told in words; nothing is on the console, and nothing but the page is asked for.
pub fn opened(browser: &Browser, page: &Path) -> BTreeMap<String, Chart> {
    browser.console();
    browser.requests();
    browser.open(page);
    let charts: Vec<Chart> = list(&browser.run(CHARTS)).into_iter().map(Chart).collect();
    assert!(charts.len() >= 3);
    for chart in &charts {
        chart.assert_drawn();
        chart.assert_told();
    }
    assert_eq!(
        browser.console(),
        Vec::<Value>::new(),
        "the console is silent"
    );
    let fetched = browser.requests();
    let name = page.file_name().expect("a name").to_string_lossy();
    let is_itself = |address: &String| address.starts_with("file://") && address.ends_with(&*name);
    assert!(fetched.iter().any(is_itself), "requests are seen at all");
    let others: Vec<_> = fetched
        .iter()
        .filter(|a| !is_itself(a) && !a.starts_with("data:"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    charts
        .into_iter()
        .map(|chart| (chart.id().to_string(), chart))
        .collect()
}

const LOOK: &str = r##"
const rgb = text => text.match(/[\d.]+/g).slice(0, 3).map(Number);
const luminance = text => { const [r, g, b] = rgb(text).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const card = luminance(getComputedStyle(document.querySelector('figure')).backgroundColor);
const of = (selector, what) => [...document.querySelectorAll(selector)].map(e => contrast(luminance(getComputedStyle(e)[what]), card));
const texts = [...document.querySelectorAll('svg.plot text')];
return {
  page: luminance(getComputedStyle(document.body).backgroundColor), card,
  ink: contrast(luminance(getComputedStyle(document.body).color), luminance(getComputedStyle(document.body).backgroundColor)),
  words: Math.min(...of('svg.plot text', 'fill'), ...of('figcaption p', 'color'), ...of('.tile .note', 'color')),
  lines: Math.min(...of('svg.plot polyline[stroke^="#00000"]', 'stroke'), ...of('svg.plot rect', 'fill')),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  letters: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.parentElement.getBoundingClientRect().width
                                     / e.ownerSVGElement.parentElement.viewBox.baseVal.width)),
  outside: texts.filter(e => { const t = e.getBoundingClientRect(), s = e.ownerSVGElement.parentElement.getBoundingClientRect();
                               return t.left < s.left - 2 || t.right > s.right + 2; }).map(e => e.textContent.trim()),
};"##;

/// Dark is dark, and all of it can be read, on a desk and on a phone.
pub fn assert_readable(browser: &Browser, page: &Path) {
    for (width, scheme) in [
        (1_200, "light"),
        (1_200, "dark"),
        (390, "light"),
        (390, "dark"),
    ] {
        browser.pretend(width, 850, scheme);
        browser.open(page);
        let look = browser.run(LOOK);
        let figure = |key: &str| {
            look[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{key}: {look}"))
        };
        let at = format!("{}, {width}, {scheme}: {look}", page.display());
        match scheme {
            "dark" => assert!(figure("page") < 0.02 && figure("card") < 0.03, "{at}"),
            _ => assert!(figure("page") > 0.85 && figure("card") > 0.85, "{at}"),
        }
        // WCAG: 7 for much text, 4.5 for any, 3 for what is drawn; the colours of lines are told
        // apart by names besides.
        assert!(
            figure("ink") > 7.0 && figure("words") > 4.5 && figure("lines") > 2.7,
            "{at}"
        );
        assert!(figure("overflow") <= 0.0, "{at}");
        assert!(figure("letters") >= 9.5, "{at}");
        assert_eq!(list(&look["outside"]), Vec::<Value>::new(), "{at}");
    }
}
