//! The terminal on standard error: what is drawn on it, what is typed into it, and its state
//! before.
//!
//! It is opened a second time, so that writing to it without ever waiting changes nothing for
//! whoever else writes there.
//! Invariants: nothing waits for a terminal that is not read but [`Tty::settle`], for a bounded
//! time. The state that was there before is put back by [`Tty::leave`], when the value is dropped,
//! and when a thread panics.
//! Must not depend on: what is drawn.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use ratatui::crossterm::cursor::{Hide, MoveToColumn, Show};
use ratatui::crossterm::queue;
use ratatui::crossterm::terminal::{
    Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen,
};
use terminal_size::{Height, Width, terminal_size_of};

/// Ctrl-Z as it is read where it is no signal.
const SUSPEND_KEY: u8 = 0x1a;
/// How long what is on its way to a terminal may take before the process is suspended.
const SUSPEND_WAIT: Duration = Duration::from_millis(200);

/// How the terminal is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One line, below what was there before.
    Line,
    /// All of it.
    Page,
}

/// What has to be put back. One a process: there is one standard error.
struct Held {
    file: File,
    before: Option<Termios>,
    mode: Mode,
}

static HELD: Mutex<Option<Held>> = Mutex::new(None);

impl Held {
    /// The bytes that end a mode.
    fn ending(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory cannot fail.
        let _ = match self.mode {
            Mode::Line => queue!(bytes, MoveToColumn(0), Clear(ClearType::FromCursorDown)),
            Mode::Page => queue!(bytes, EnableLineWrap, LeaveAlternateScreen, Show),
        };
        bytes
    }

    fn put_modes_back(&self) {
        // From the background this would stop the process; the shell has set modes of its own by
        // then.
        if let Some(before) = &self.before
            && is_foreground(&self.file)
        {
            let _ = tcsetattr(&self.file, SetArg::TCSANOW, before);
        }
    }
}

fn held() -> MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if this process may draw and read: no shell has taken the terminal from it.
fn is_foreground(file: &File) -> bool {
    // One that is not our controlling terminal is nobody's to take away.
    tcgetpgrp(file).map_or(true, |group| group == getpgrp())
}

/// What a thread that panics leaves behind is a terminal that can be used, with its last words on
/// it.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let held = match HELD.try_lock() {
                Ok(mut held) => held.take(),
                Err(TryLockError::Poisoned(held)) => held.into_inner().take(),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(held) = held {
                let _ = (&held.file).write_all(&held.ending());
                held.put_modes_back();
            }
            say(panic);
        }));
    });
}

/// Where what is drawn goes: into memory first, from there to the terminal as it takes it.
#[derive(Debug, Clone, Default)]
pub struct OutputBuffer(Rc<RefCell<Vec<u8>>>);

impl Write for OutputBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal.
#[derive(Debug)]
pub struct Tty {
    file: File,
    output: OutputBuffer,
    /// Standard input is a terminal: what is typed is meant for this process.
    is_typed_to: bool,
}

impl Tty {
    /// The terminal on standard error, if there is one that can be drawn on.
    #[must_use]
    pub fn open() -> Option<Self> {
        let is_able = std::env::var("TERM").is_ok_and(|t| !t.is_empty() && t != "dumb");
        if !is_able || !io::stderr().is_terminal() {
            return None;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open("/proc/self/fd/2")
            .ok()?;
        restore_on_panic();
        Some(Self {
            file,
            output: OutputBuffer::default(),
            is_typed_to: io::stdin().is_terminal(),
        })
    }

    /// Columns and rows.
    #[must_use]
    pub fn size(&self) -> (u16, u16) {
        terminal_size_of(&self.file).map_or((80, 24), |(Width(w), Height(h))| (w, h))
    }

    /// True if no shell has taken the terminal from this process.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        is_foreground(&self.file)
    }

    /// True if keys reach this process in a mode.
    #[must_use]
    pub fn has_keys(&self, mode: Mode) -> bool {
        self.is_typed_to || mode == Mode::Page
    }

    /// Where drawings go; [`Tty::flush`] sends them on.
    #[must_use]
    pub fn output(&self) -> OutputBuffer {
        self.output.clone()
    }

    /// Begins a mode, whatever was before.
    pub fn enter(&mut self, mode: Mode) {
        let mut held = held();
        let before = match held.take() {
            None => tcgetattr(&self.file).ok(),
            Some(earlier) => {
                let _ = self.output.write_all(&earlier.ending());
                earlier.put_modes_back();
                earlier.before
            }
        };
        if let Some(before) = &before
            && self.has_keys(mode)
        {
            let mut now = before.clone();
            // Ctrl-C stays a signal. Ctrl-Z becomes a key, since the terminal is put back before
            // the process stops.
            now.local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO);
            now.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            now.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            now.control_chars[SpecialCharacterIndices::VSUSP as usize] = 0;
            if mode == Mode::Page {
                // There is nothing to scroll away, so nothing to hold with Ctrl-S.
                now.input_flags.remove(InputFlags::IXON);
            }
            let _ = tcsetattr(&self.file, SetArg::TCSANOW, &now);
        }
        if mode == Mode::Page {
            let _ = queue!(self.output, EnterAlternateScreen, DisableLineWrap, Hide);
        }
        *held = self
            .file
            .try_clone()
            .ok()
            .map(|file| Held { file, before, mode });
    }

    /// Puts back what was there before, as far as the terminal takes it now.
    pub fn leave(&mut self) {
        if let Some(held) = held().take() {
            let _ = self.output.write_all(&held.ending());
            self.flush();
            held.put_modes_back();
        }
    }

    /// Sends on what the terminal takes without waiting.
    pub fn flush(&mut self) {
        let mut pending = self.output.0.borrow_mut();
        let mut sent = 0;
        while sent < pending.len() {
            match (&self.file).write(&pending[sent..]) {
                Ok(n) if n > 0 => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => sent = pending.len(),
                _ => break,
            }
        }
        pending.drain(..sent);
    }

    /// True if the terminal has taken all that was drawn.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.output.0.borrow().is_empty()
    }

    /// Waits until the terminal has taken all that was drawn, for a bounded time.
    pub fn settle(&mut self, longest: Duration) {
        let until = Instant::now() + longest;
        loop {
            self.flush();
            let left = until.saturating_duration_since(Instant::now());
            if self.is_settled() || left.is_zero() {
                return;
            }
            let left_ms = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut fds, PollTimeout::from(left_ms));
        }
    }

    /// Forgets what the terminal has not taken.
    pub fn give_up(&mut self) {
        self.output.0.borrow_mut().clear();
    }

    /// The letters typed since the last call, at most a few. `None` after Ctrl-Z: the terminal has
    /// been given back, the process is about to be stopped, and a mode has to be entered again when
    /// it goes on.
    pub fn keys(&mut self, mode: Mode) -> Option<Vec<u8>> {
        let mut typed = [0; 16];
        // With a terminal taken away between asking and reading, a read could stop the process: no
        // more than Ctrl-Z does.
        let count = match self.has_keys(mode) {
            true => (&self.file).read(&mut typed).unwrap_or(0),
            false => 0,
        };
        let typed = &typed[..count];
        if typed.contains(&SUSPEND_KEY) {
            self.leave();
            self.settle(SUSPEND_WAIT);
            // As the terminal would have done: the whole foreground group, which a shell will
            // continue or nobody stops.
            let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
            return None;
        }
        let is_function_key = typed.first() == Some(&0x1b);
        let letters = if is_function_key { &[] } else { typed };
        Some(letters.to_ascii_lowercase())
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.leave();
    }
}
