//! A terminal that shows a run: which form, when it is drawn, what keys do.
//!
//! Invariants: a drawing is begun only when the one before has been taken, at most four times a
//! second, and only when something changed. While a shell has the terminal, nothing is drawn or
//! read.
//! Must not depend on: how figures came about, how a form looks.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::MoveToColumn;
use ratatui::crossterm::queue;
use ratatui::crossterm::style::Print;
use ratatui::crossterm::terminal::{Clear, ClearType, DisableLineWrap, EnableLineWrap};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::format::Glyphs;
use super::history::History;
use super::line;
use super::machine::MachineSample;
use super::page::{LEAST, Page};
use super::snapshot::Snapshot;
use super::tty::{Mode, OutputBuffer, Tty};

/// Keys, sizes and what is unsent are looked at no more often than this.
const UPDATE_INTERVAL: Duration = Duration::from_millis(90);
/// Drawings are this far apart at least.
const DRAW_INTERVAL: Duration = Duration::from_millis(250);
/// Who was not asked for this long was stopped meanwhile, and others have used the terminal.
const STOPPED: Duration = Duration::from_secs(1);
/// How long the end waits for a terminal that is not read.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A screen.
#[derive(Debug)]
pub struct Screen {
    tty: Tty,
    form: Mode,
    /// What is on the terminal.
    shown: Option<Mode>,
    page: Option<Terminal<CrosstermBackend<OutputBuffer>>>,
    size: (u16, u16),
    is_changed: bool,
    drawn_at: Option<Instant>,
    updated_at: Instant,
    /// Remarks made while the page hid everything else.
    notes: Vec<String>,
    glyphs: Glyphs,
    is_coloured: bool,
}

impl Screen {
    /// A screen that has shown nothing yet.
    #[must_use]
    pub fn new(tty: Tty, form: Mode) -> Self {
        Self {
            size: tty.size(),
            tty,
            form,
            shown: None,
            page: None,
            is_changed: false,
            drawn_at: None,
            updated_at: Instant::now(),
            notes: Vec::new(),
            glyphs: Glyphs::of_locale(),
            is_coloured: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }

    /// Prints a note above the figures, or keeps it for the end of the page.
    pub fn note(&mut self, text: impl Display) {
        if self.shown == Some(Mode::Page) {
            self.notes.push(text.to_string());
        } else {
            self.print(&text.to_string());
        }
        self.is_changed = true;
    }

    /// There is something new to draw.
    pub fn change(&mut self) {
        self.is_changed = true;
    }

    /// Sends, reads and draws what there is to; true if somebody asks for the end.
    pub fn update(&mut self, now: &Snapshot, history: &History, machine: &MachineSample) -> bool {
        let since = self.updated_at.elapsed();
        if since < UPDATE_INTERVAL {
            return false;
        }
        self.updated_at = Instant::now();
        if !self.tty.is_ours() {
            self.shown = None;
            return false;
        }
        if since > STOPPED {
            self.shown = None;
            self.is_changed = true;
        }
        self.tty.flush();
        let size = self.tty.size();
        self.is_changed |= size != self.size || self.shown.is_none();
        let Some(is_end) = self.read_keys() else {
            return false;
        };
        let is_due = self.drawn_at.is_none_or(|at| at.elapsed() >= DRAW_INTERVAL);
        if self.is_changed && is_due && self.tty.is_settled() {
            self.draw(size, now, history, machine);
        }
        is_end
    }

    /// Gives the terminal back, with the remarks on it.
    pub fn finish(&mut self) {
        self.leave_page();
        self.tty.leave();
        self.tty.settle(LAST_WAIT);
        self.tty.give_up();
        self.shown = None;
    }

    /// True if somebody asks for the end; `None` if this process is about to be suspended.
    fn read_keys(&mut self) -> Option<bool> {
        let Some(shown) = self.shown else {
            return Some(false);
        };
        let Some(keys) = self.tty.keys(shown) else {
            self.shown = None;
            return None;
        };
        let mut is_end = false;
        for key in keys {
            match (key, self.form) {
                (b'l', form) => {
                    self.form = match form {
                        Mode::Line => Mode::Page,
                        Mode::Page => Mode::Line,
                    };
                    self.is_changed = true;
                }
                (b'q', Mode::Page) => is_end = true,
                _ => {}
            }
        }
        Some(is_end)
    }

    fn draw(
        &mut self,
        size: (u16, u16),
        now: &Snapshot,
        history: &History,
        machine: &MachineSample,
    ) {
        let is_roomy = size.0 >= LEAST.0 && size.1 >= LEAST.1;
        let mode = if is_roomy { self.form } else { Mode::Line };
        if self.shown != Some(mode) {
            self.leave_page();
            self.tty.enter(mode);
            self.shown = Some(mode);
        }
        match mode {
            Mode::Line => {
                // The cursor stays at the start of the line, so that all of it is cleared also
                // where a terminal that became narrower has folded it. One that becomes narrower
                // while this is on its way must not fold it at all.
                let columns = usize::from(size.0).saturating_sub(1);
                let hint = if self.tty.has_keys(mode) {
                    "l: all"
                } else {
                    ""
                };
                let line = line::fitted(now, history, machine, self.glyphs, hint, columns);
                let _ = queue!(
                    self.tty.output(),
                    MoveToColumn(0),
                    Clear(ClearType::FromCursorDown),
                    DisableLineWrap,
                    Print(line),
                    EnableLineWrap,
                    MoveToColumn(0)
                );
            }
            Mode::Page => {
                if size != self.size {
                    self.page = None;
                }
                let page = Page {
                    now,
                    history,
                    machine,
                    note: self.notes.last().map(String::as_str),
                    glyphs: self.glyphs,
                    is_coloured: self.is_coloured,
                };
                let output = self.tty.output();
                let terminal = self.page.get_or_insert_with(|| blank(output, size));
                // Drawing into memory cannot fail.
                let _ = terminal.draw(|frame| page.draw(frame));
            }
        }
        self.tty.flush();
        self.size = size;
        self.is_changed = false;
        self.drawn_at = Some(Instant::now());
    }

    fn leave_page(&mut self) {
        self.page = None;
        if self.shown == Some(Mode::Page) {
            self.tty.leave();
            for note in std::mem::take(&mut self.notes) {
                self.print(&note);
            }
        }
    }

    fn print(&mut self, text: &str) {
        let mut output = self.tty.output();
        if self.shown == Some(Mode::Line) {
            let _ = queue!(output, MoveToColumn(0), Clear(ClearType::FromCursorDown));
        }
        // Writing to memory cannot fail.
        let _ = writeln!(output, "{text}");
        self.tty.flush();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A page of a size with nothing on it.
fn blank(
    mut output: OutputBuffer,
    (columns, rows): (u16, u16),
) -> Terminal<CrosstermBackend<OutputBuffer>> {
    let _ = queue!(output, Clear(ClearType::All));
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns, rows));
    Terminal::with_options(CrosstermBackend::new(output), TerminalOptions { viewport })
        .expect("a fixed size is not asked of the terminal")
}
