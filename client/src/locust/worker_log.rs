//! The worker's log: lines for the master's log view, and exceptions for its exception table.
//!
//! Invariants: memory and messages are bounded: only the last lines are kept, the same text is logged again only after a minute, and the
//! number of exceptions of a test is limited.
//! Must not depend on: the protocol that carries it.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use holdfast_telemetry::output;

const LINES_MAX: usize = 200;
const LINE_CHARS_MAX: usize = 500;
/// After how long the same text is logged again.
const REPEAT: Duration = Duration::from_secs(60);
const EXCEPTIONS_PER_TEST_MAX: usize = 20;

/// Lines and exceptions.
#[derive(Debug, Default)]
pub struct WorkerLog {
    lines: VecDeque<String>,
    /// Texts logged in the last minute.
    recent: VecDeque<(String, Instant)>,
    exceptions: Vec<String>,
    exception_count: usize,
    has_new_lines: bool,
}

/// One line of bounded length.
fn bounded(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(LINE_CHARS_MAX).collect()
}

impl WorkerLog {
    /// Adds a line, also to standard error.
    pub fn line(&mut self, text: &str) {
        let text = bounded(text);
        self.recent.retain(|(_, at)| at.elapsed() < REPEAT);
        if self.recent.iter().any(|(logged, _)| *logged == text) {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "a line of a log has a date")]
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        output::log(&text);
        self.lines.push_back(format!("[{now}] holdfast: {text}"));
        self.recent.push_back((text, Instant::now()));
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
        if self.recent.len() > LINES_MAX {
            self.recent.pop_front();
        }
        self.has_new_lines = true;
    }

    /// Adds a line and an exception.
    pub fn exception(&mut self, text: &str) {
        self.line(text);
        let text = bounded(text);
        if self.exception_count < EXCEPTIONS_PER_TEST_MAX && !self.exceptions.contains(&text) {
            self.exception_count += 1;
            self.exceptions.push(text);
        }
    }

    /// A new test begins.
    pub fn begin_test(&mut self) {
        self.exception_count = 0;
    }

    /// Exceptions since the last call.
    pub fn take_exceptions(&mut self) -> Vec<String> {
        std::mem::take(&mut self.exceptions)
    }

    /// All lines, if there are new ones since the last call.
    pub fn take_lines(&mut self) -> Option<impl Iterator<Item = &str>> {
        std::mem::take(&mut self.has_new_lines).then(|| self.lines.iter().map(String::as_str))
    }
}
