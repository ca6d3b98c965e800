//! One child process: its lines, its end, its time on cores.
//!
//! Purpose: start a server or client, follow the reports on its standard output, end it within
//! bounds.
//! Invariants: a child is signalled by its id, and only while it has not been waited for, so the id
//! cannot be another's. It leads a process group of its own: a Ctrl-C reaches it through us, in
//! order. Its standard error goes to a file. Dropping a child that still runs kills it.
//! Must not depend on: phases of a run; what the figures in a report mean.

use std::cell::{Ref, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use holdfast_telemetry::report_line::Report;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::Notify;

/// What a child has said so far.
#[derive(Debug)]
pub struct Heard<R> {
    /// The latest report.
    pub latest: Option<R>,
    /// Reports so far.
    pub line_count: u64,
    /// The final report, as printed, with keys this version does not know.
    pub final_raw: Option<serde_json::Value>,
    /// The first line that was no report, if any.
    pub not_understood: Option<String>,
    /// Its standard output has ended.
    pub has_ended: bool,
}

impl<R> Default for Heard<R> {
    fn default() -> Self {
        Self {
            latest: None,
            line_count: 0,
            final_raw: None,
            not_understood: None,
            has_ended: false,
        }
    }
}

impl<R: Report> Heard<R> {
    fn line(&mut self, line: &str) {
        match R::read(line) {
            Ok(report) => {
                if report.is_final() {
                    self.final_raw = serde_json::from_str(line).ok();
                }
                R::absorb(&mut self.latest, report);
                self.line_count += 1;
            }
            Err(why) => {
                let start: String = line.chars().take(120).collect();
                self.not_understood
                    .get_or_insert(format!("{start:?}: {why}"));
            }
        }
    }
}

/// A running or ended child.
#[derive(Debug)]
pub struct Child<R> {
    /// `server` or `client`.
    pub name: &'static str,
    /// Its command line, quoted for a shell.
    pub command: String,
    process: std::process::Child,
    heard: Rc<RefCell<Heard<R>>>,
    exit: Option<ExitStatus>,
    cpu: Duration,
    stderr: PathBuf,
}

impl<R: Report> Child<R> {
    /// Starts `program`. Each report wakes `notify`; standard error goes to the file `stderr`.
    ///
    /// # Errors
    /// When the program cannot be started or the file not be made.
    pub fn start(
        name: &'static str,
        program: &Path,
        args: &[String],
        stderr: PathBuf,
        notify: Rc<Notify>,
    ) -> io::Result<Self> {
        let mut process = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr)?)
            .process_group(0)
            .spawn()?;
        let command = shell_line(program, args);
        let stdout = process.stdout.take().map(ChildStdout::from_std);
        let heard = Rc::new(RefCell::new(Heard::default()));
        let child = Self {
            name,
            command,
            process,
            heard: heard.clone(),
            exit: None,
            cpu: Duration::ZERO,
            stderr,
        };
        // From here on `child` is dropped, and so killed, if anything fails.
        let stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)??;
        tokio_uring::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                heard.borrow_mut().line(&line);
                notify.notify_one();
            }
            heard.borrow_mut().has_ended = true;
            notify.notify_one();
        });
        Ok(child)
    }

    /// What it has said so far. Hold the borrow across no await.
    #[must_use]
    pub fn heard(&self) -> Ref<'_, Heard<R>> {
        self.heard.borrow()
    }

    /// The same, for whoever looks on while this child is waited for.
    #[must_use]
    pub fn hearing(&self) -> Rc<RefCell<Heard<R>>> {
        Rc::clone(&self.heard)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, once [`Child::reap`] has seen that.
    #[must_use]
    pub fn exit(&self) -> Option<ExitStatus> {
        self.exit
    }

    /// Time on cores of its whole life; zero until it has ended.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.cpu
    }

    /// Takes notice of its end without waiting for it.
    pub fn reap(&mut self) {
        if self.exit.is_none() {
            // One child is reaped by one call here, and nothing else in this process reaps: the
            // growth is its own.
            let before = children_cpu();
            if let Ok(Some(status)) = self.process.try_wait() {
                self.exit = Some(status);
                self.cpu = children_cpu().saturating_sub(before);
            }
        }
    }

    /// Ended, and all it printed has been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.exit.is_some() && self.heard().has_ended
    }

    /// Sends `signal`, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.exit.is_none()
            && let Ok(pid) = i32::try_from(self.process.id())
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// How it ended, in words.
    #[must_use]
    pub fn end_in_words(&self) -> String {
        match self.exit {
            None => "still runs".into(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited with code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => format!("{status}"),
            },
        }
    }

    /// The last `line_count` lines of its standard error.
    #[must_use]
    pub fn stderr_tail(&self, line_count: usize) -> Vec<String> {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines[lines.len().saturating_sub(line_count)..]
            .iter()
            .map(|line| (*line).to_string())
            .collect()
    }

    /// Removes the file of its standard error if nothing is in it.
    pub fn tidy(&self) {
        if std::fs::metadata(&self.stderr).is_ok_and(|meta| meta.len() == 0) {
            let _ = std::fs::remove_file(&self.stderr);
        }
    }
}

impl<R> Drop for Child<R> {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// CPU time of all children waited for so far.
fn children_cpu() -> Duration {
    let micros = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(t.tv_sec().unsigned_abs())
            + Duration::from_micros(t.tv_usec().unsigned_abs())
    };
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |u| {
        micros(u.user_time()) + micros(u.system_time())
    })
}

/// Arguments of a program.
#[must_use]
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

/// A duration as one word that humantime reads.
#[must_use]
pub fn plain_time(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{}us", time.as_micros())
    }
}

/// A command line that a shell would read as these words.
#[must_use]
pub fn shell_line(program: &Path, args: &[String]) -> String {
    let program = program.display().to_string();
    std::iter::once(&program)
        .chain(args)
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c));
    if is_plain {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_telemetry::wire::{SERVER_SCHEMA, ServerHead, ServerReport};

    #[test]
    fn words_survive_a_shell() {
        let args = [
            "--message".to_string(),
            "it's ok".into(),
            String::new(),
            "30s".into(),
        ];
        assert_eq!(
            shell_line(Path::new("/bin/x"), &args),
            r"/bin/x --message 'it'\''s ok' '' 30s"
        );
    }

    #[test]
    fn lines_that_are_no_reports_are_kept_apart() {
        let mut heard = Heard::<ServerReport>::default();
        heard.line("hello");
        heard.line(r#"{"schema":"something/9"}"#);
        assert!(
            heard.latest.is_none()
                && heard
                    .not_understood
                    .as_ref()
                    .is_some_and(|l| l.contains("hello"))
        );
        let report = ServerReport {
            head: ServerHead {
                schema: SERVER_SCHEMA.into(),
                is_final: true,
                open_now: 3,
                ..ServerHead::default()
            },
            ..ServerReport::default()
        };
        heard.line(&serde_json::to_string(&report).expect("writes"));
        assert_eq!(
            (heard.latest.as_ref(), heard.line_count),
            (Some(&report), 1)
        );
        assert!(heard.final_raw.is_some());
    }
}
