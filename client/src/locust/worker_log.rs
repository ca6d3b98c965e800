//! The worker's log: lines for the master's log view, and exceptions for its exception table.
//!
//! Invariants: memory and messages are bounded: only the last lines are kept, the same text is
//! logged again only after a minute, and the numbers of lines in a minute and of exceptions of a
//! test are limited.
//! Must not depend on: the protocol that carries it.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use holdfast_telemetry::output;

const LINES_MAX: usize = 200;
const LINE_CHARS_MAX: usize = 500;
/// After how long the same text is logged again.
const REPEAT: Duration = Duration::from_secs(60);
/// More lines than this in one minute are left out and counted: a peer can cause any number.
const LINES_PER_MINUTE_MAX: u32 = 60;
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
    minute: Option<Minute>,
}

/// Lines logged in the minute from `since` on, and lines left out.
#[derive(Debug)]
struct Minute {
    since: Instant,
    line_count: u32,
    left_out: u64,
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
        self.end_minute();
        let minute = self.minute.get_or_insert_with(|| Minute {
            since: Instant::now(),
            line_count: 0,
            left_out: 0,
        });
        if minute.line_count == LINES_PER_MINUTE_MAX {
            minute.left_out += 1;
            return;
        }
        minute.line_count += 1;
        self.write(text);
    }

    /// Says how many lines were left out in a minute that is over.
    fn end_minute(&mut self) {
        let is_over = |minute: &mut Minute| minute.since.elapsed() >= Duration::from_secs(60);
        if let Some(minute) = self.minute.take_if(is_over)
            && minute.left_out > 0
        {
            self.write(format!("{} lines were left out", minute.left_out));
        }
    }

    fn write(&mut self, text: String) {
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
        self.end_minute();
        std::mem::take(&mut self.exceptions)
    }

    /// All lines, if there are new ones since the last call.
    pub fn take_lines(&mut self) -> Option<impl Iterator<Item = &str>> {
        std::mem::take(&mut self.has_new_lines).then(|| self.lines.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_minute_are_limited_and_those_left_out_are_counted() {
        let mut log = WorkerLog {
            minute: Some(Minute {
                since: Instant::now(),
                line_count: LINES_PER_MINUTE_MAX - 1,
                left_out: 0,
            }),
            ..WorkerLog::default()
        };
        for line in ["the last", "left out", "the last", "left out too"] {
            log.line(line);
        }
        assert_eq!(log.take_lines().map(Iterator::count), Some(1));
        let minute = log.minute.as_mut().expect("a minute");
        assert_eq!(minute.left_out, 2);
        minute.since -= Duration::from_secs(60);
        log.take_exceptions();
        let lines: Vec<_> = log.take_lines().expect("a new line").collect();
        assert!(lines[lines.len() - 1].ends_with("2 lines were left out"));
        log.line("the next");
        assert!(log.take_lines().is_some());
    }
}
