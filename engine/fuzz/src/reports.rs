//! A run's folder: `run.json`, `series.csv` and `histograms.hlog`, in any state that a crash, a
//! full disk or another program may leave.

use std::io;

use holdfast_report::report::render;
use holdfast_report::report::source::Source;

/// The three files one after the other, the byte 0x1e (record separator) between them; an empty one
/// is not there.
pub fn reports(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0x1e);
    let mut part = || match parts.next() {
        Some(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let files = [part(), part(), part()];
    match Source::of("fuzzed".into(), files) {
        Ok(source) => {
            let report = render(&source).expect("any source can be drawn");
            assert!(report.html.ends_with("</html>"));
            assert!(!report.html.contains("<script"), "text became markup");
        }
        Err(refusal) => {
            let line = refusal.to_string();
            assert!(line.contains("; next: ") && !line.contains('\n'), "{line}");
        }
    }
}
