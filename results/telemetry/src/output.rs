//! Writing to standard output and standard error.
//!
//! Invariants: nothing here panics or waits without a bound, whoever reads or does not read. A line
//! for standard error is left out when writing it would wait, and the next line that is written
//! says how many were left out. What cannot be written to standard output, for instance to a full
//! disk, is an error; a reader that has closed its end is not, since that was its choice.
//! Must not depend on: what is written.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

/// A pipe that is ready takes this much without waiting (PIPE_BUF of pipe(7)), bytes.
const CHUNK_BYTES: usize = 4_096;
/// How long a reader of standard output may stop reading before it is given up.
pub const READER_WAIT: Duration = Duration::from_secs(10);
/// How long the last words of a program wait for a reader of standard error.
const LAST_LINE_WAIT: Duration = Duration::from_secs(1);

/// Lines for standard error that were left out since the last one that was written.
static LINES_LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Writes a line to standard error, unless that would wait. Line breaks in `text` stay.
pub fn log(text: impl Display) {
    write_log(&text, Duration::ZERO);
}

/// The same for the last words of a program: waits for up to a second.
pub fn log_last(text: impl Display) {
    write_log(&text, LAST_LINE_WAIT);
}

fn write_log(text: &dyn Display, wait: Duration) {
    let left_out = LINES_LEFT_OUT.swap(0, Ordering::Relaxed);
    let mut line = match left_out {
        0 => String::new(),
        n => format!("({n} lines were left out: standard error was not read)\n"),
    };
    line += &text.to_string();
    let mut end = line.len().min(CHUNK_BYTES - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push('\n');
    let stderr = io::stderr();
    if is_ready(stderr.as_fd(), wait) {
        // Without a reader or with a full disk, there is nobody left to tell.
        let _ = write(stderr.as_fd(), line.as_bytes());
    } else {
        LINES_LEFT_OUT.fetch_add(left_out + 1, Ordering::Relaxed);
    }
}

/// Writes all of `bytes` to standard output.
///
/// # Errors
/// In one line with the next step: it cannot be written, or nobody has read for [`READER_WAIT`].
pub fn print(bytes: &[u8]) -> Result<(), String> {
    let written = write_all(io::stdout().as_fd(), bytes, READER_WAIT);
    written.or_else(accept_closed_reader)
}

/// A reader that has closed its end chose not to read the rest.
fn accept_closed_reader(error: io::Error) -> Result<(), String> {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        ErrorKind::TimedOut => {
            Err("nobody reads standard output; next: redirect it to a file".to_owned())
        }
        _ => Err(format!(
            "cannot write to standard output ({error}); next: free space, or redirect it to another file"
        )),
    }
}

/// Writes all of `bytes`, waiting at most `wait` at a time for a reader.
///
/// # Errors
/// Those of the file; [`ErrorKind::TimedOut`] when nobody reads.
pub fn write_all(out: BorrowedFd, mut bytes: &[u8], wait: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match write_some(out, bytes, wait)? {
            0 => return Err(ErrorKind::TimedOut.into()),
            n => bytes = &bytes[n..],
        }
    }
    Ok(())
}

/// Writes what is taken without waiting longer than `wait`; 0 if that is nothing.
fn write_some(out: BorrowedFd, bytes: &[u8], wait: Duration) -> io::Result<usize> {
    let until = Instant::now() + wait;
    while is_ready(out, until.saturating_duration_since(Instant::now())) {
        // The descriptor itself: `Stdout` gathers what belongs to one line and would wait for all
        // of it, and a copy of the descriptor cannot be had when the process has none left.
        match write(out, &bytes[..bytes.len().min(CHUNK_BYTES)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(Errno::EINTR) => {}
            // Another process that shares the file has set it to non-blocking, and its reader is
            // slow.
            Err(Errno::EAGAIN) if Instant::now() < until => {}
            Err(Errno::EAGAIN) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(0)
}

/// True if a write of `CHUNK_BYTES` would not wait, now or within `wait`.
pub fn is_ready(out: BorrowedFd, wait: Duration) -> bool {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(out, PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) => return false,
            Err(Errno::EINTR) if !left.is_zero() => {}
            Err(Errno::EINTR) => return false,
            // Also where the reader is gone: the write says so at once.
            _ => return true,
        }
    }
}

/// Lines on standard output for a program that must not wait: a line is either left out or written
/// whole, if need be in parts.
#[derive(Debug, Default)]
pub struct LineWriter {
    /// The part of the last line that no reader has taken yet.
    pending: Vec<u8>,
    /// Why a line could not be written; said at the end.
    error: Option<String>,
}

impl LineWriter {
    /// Writes a line, or leaves it out while the reader has not taken the one before.
    pub fn write(&mut self, line: impl FnOnce() -> Vec<u8>) {
        self.send(Duration::ZERO);
        if self.pending.is_empty() && is_ready(io::stdout().as_fd(), Duration::ZERO) {
            self.pending = line();
            self.send(Duration::ZERO);
        }
    }

    /// Writes the last lines, waiting up to [`READER_WAIT`] for the reader.
    ///
    /// # Errors
    /// Why these or earlier lines could not be written.
    pub fn finish(&mut self, last: &[u8]) -> Result<(), String> {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(last);
        let written = print(&all);
        self.error.take().map_or(written, Err)
    }

    fn send(&mut self, wait: Duration) {
        while !self.pending.is_empty() {
            match write_some(io::stdout().as_fd(), &self.pending, wait) {
                Ok(0) => return,
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) => {
                    self.pending.clear();
                    self.error = accept_closed_reader(e).err();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn stopped_reader_is_an_error_after_a_bounded_wait() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let started = Instant::now();
        let bytes = vec![b'x'; 1 << 20];
        let error = write_all(writer.as_fd(), &bytes, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(!is_ready(writer.as_fd(), Duration::ZERO));
        drop(reader);
        assert!(is_ready(writer.as_fd(), Duration::ZERO));
        let error = write_all(writer.as_fd(), b"x", Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(accept_closed_reader(error), Ok(()));
    }

    #[test]
    fn slow_reader_gets_everything() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let expected = bytes.clone();
        let thread =
            std::thread::spawn(move || write_all(writer.as_fd(), &bytes, Duration::from_secs(10)));
        let mut read = Vec::new();
        let mut part = [0; 1_000];
        loop {
            match reader.read(&mut part).expect("reads") {
                0 => break,
                n => read.extend_from_slice(&part[..n]),
            }
        }
        thread.join().expect("no panic").expect("writes");
        assert!(read == expected);
    }

    #[test]
    fn full_disk_is_an_error_that_says_so() {
        let full = File::options().write(true).open("/dev/full");
        let full = full.expect("/dev/full");
        let error = write_all(full.as_fd(), b"x", READER_WAIT).unwrap_err();
        let line = accept_closed_reader(error).unwrap_err();
        assert!(
            line.contains("No space left") && line.contains("; next: "),
            "{line}"
        );
    }
}
