//! What a worker has to say: lines for its log on the master, and exceptions for the master's table of them.
//!
//! Invariants: memory and messages are bounded whatever happens: the last lines are kept, a text that repeats is said again only after
//! a minute, and a test has so many exceptions.
//! Must not know: where it is sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use holdfast_telemetry::output;

/// Lines kept.
const LINES_MAX: usize = 200;
/// Characters of a line.
const LINE_CHARS_MAX: usize = 500;
/// After how long the same text is said again.
const REPEAT: Duration = Duration::from_secs(60);
/// Exceptions of one test.
const EXCEPTIONS_MAX: usize = 20;

/// Lines and exceptions.
#[derive(Debug, Default)]
pub struct Journal {
    lines: VecDeque<String>,
    /// Texts said lately.
    said: VecDeque<(String, Instant)>,
    exceptions: Vec<String>,
    exception_count: usize,
    is_new: bool,
}

/// One line of bounded length.
fn bounded(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(LINE_CHARS_MAX).collect()
}

impl Journal {
    /// Adds a line, and says it on standard error too.
    pub fn say(&mut self, text: &str) {
        let text = bounded(text);
        self.said.retain(|(_, at)| at.elapsed() < REPEAT);
        if self.said.iter().any(|(said, _)| *said == text) {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "a line of a log has a date")]
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        output::log(&text);
        self.lines.push_back(format!("[{now}] holdfast: {text}"));
        self.said.push_back((text, Instant::now()));
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
        if self.said.len() > LINES_MAX {
            self.said.pop_front();
        }
        self.is_new = true;
    }

    /// Adds a line and an exception.
    pub fn except(&mut self, text: &str) {
        self.say(text);
        let text = bounded(text);
        if self.exception_count < EXCEPTIONS_MAX && !self.exceptions.contains(&text) {
            self.exception_count += 1;
            self.exceptions.push(text);
        }
    }

    /// A new test begins.
    pub fn begin(&mut self) {
        self.exception_count = 0;
    }

    /// Exceptions that were not sent yet.
    pub fn take_exceptions(&mut self) -> Vec<String> {
        std::mem::take(&mut self.exceptions)
    }

    /// The lines, if there are new ones.
    pub fn take_lines(&mut self) -> Option<impl Iterator<Item = &str>> {
        std::mem::take(&mut self.is_new).then(|| self.lines.iter().map(String::as_str))
    }
}
