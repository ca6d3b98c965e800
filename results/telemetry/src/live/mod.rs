//! A run as it goes, for people: a line or a page on a terminal, a line now and then elsewhere.
//!
//! Purpose: [`Live`] takes a [`Snapshot`] a second, remembers how it went ([`history`]), looks at
//! the machine ([`machine`]) and shows both, as [`mod@line`] or [`page`], on the terminal
//! ([`screen`], [`tty`]).
//! Invariants: everything is gathered once a second, nothing a connection, and on a terminal only;
//! nothing waits for a terminal or pipe that is not read, but the end, for a bounded time.
//! Must not depend on: protocols, engines, what is machine-readable.

pub mod format;
pub mod history;
pub mod line;
pub mod machine;
pub mod page;
pub mod screen;
pub mod snapshot;
pub mod tty;

use std::fmt::Display;

use crate::output;
use history::History;
use machine::MachineSampler;
use screen::Screen;
use tty::{Mode, Tty};

pub use snapshot::{Counter, Group, Percentiles, Snapshot, Span};

/// Snapshots from one plain line to the next, where their phase is the same.
const LINE_EVERY: u32 = 5;

/// Flags of how a run is shown.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct LiveFlags {
    /// Show all figures on the whole terminal at once; the key l changes between that and a line at
    /// any time [default: off]
    #[arg(long)]
    pub live: bool,
    /// Show nothing on the way, only the final figures [default: off]
    #[arg(long, short, conflicts_with = "live")]
    pub quiet: bool,
}

/// What shows a run on standard error.
#[derive(Debug)]
pub struct Live {
    out: Out,
    history: History,
    machine: MachineSampler,
    now: Option<Snapshot>,
}

#[derive(Debug)]
enum Out {
    Nothing,
    /// A line now and then: how many snapshots since the last one, and its phase.
    Lines(u32, &'static str),
    Screen(Box<Screen>),
}

impl Live {
    /// Shows nothing, whatever it is told.
    #[must_use]
    pub fn silent() -> Self {
        Self::on(Out::Nothing)
    }

    /// As the flags want it, on standard error.
    ///
    /// # Errors
    /// One line, when the whole terminal is asked for and there is none.
    pub fn new(flags: LiveFlags) -> Result<Self, String> {
        if flags.quiet {
            return Ok(Self::silent());
        }
        let form = if flags.live { Mode::Page } else { Mode::Line };
        match Tty::open() {
            Some(tty) => Ok(Self::on(Out::Screen(Box::new(Screen::new(tty, form))))),
            None if flags.live => Err(
                "--live wants a terminal on standard error, of a TERM that can be drawn on; next: leave --live out"
                    .to_owned(),
            ),
            None => Ok(Self::on(Out::Lines(0, ""))),
        }
    }

    fn on(out: Out) -> Self {
        Self {
            out,
            history: History::default(),
            machine: MachineSampler::default(),
            now: None,
        }
    }

    /// True if it draws on a terminal, which somebody has to give back at the end.
    #[must_use]
    pub fn is_on_terminal(&self) -> bool {
        matches!(self.out, Out::Screen(_))
    }

    /// True if it shows nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        matches!(self.out, Out::Nothing)
    }

    /// Prints a note above the figures.
    pub fn note(&mut self, text: impl Display) {
        match &mut self.out {
            Out::Nothing => {}
            Out::Lines(..) => output::log(text),
            Out::Screen(screen) => screen.note(text),
        }
    }

    /// The figures of now. Called once a second.
    pub fn show(&mut self, now: Snapshot) {
        if matches!(self.out, Out::Nothing) {
            return;
        }
        self.history.add(&now);
        match &mut self.out {
            Out::Nothing => {}
            Out::Lines(count, phase) => {
                let is_new_phase = std::mem::replace(phase, now.phase) != now.phase;
                let is_due = is_new_phase || *count >= LINE_EVERY;
                *count = if is_due { 1 } else { *count + 1 };
                if is_due {
                    output::log(line::plain(&now, &self.history));
                }
            }
            Out::Screen(screen) => {
                let own = [("ours", std::process::id())];
                self.machine.sample(match &now.processes[..] {
                    [] => &own,
                    processes => processes,
                });
                screen.change();
            }
        }
        self.now = Some(now);
        self.tick();
    }

    /// Draws and reads what there is to. Called several times a second; true if somebody asks for
    /// the end.
    pub fn tick(&mut self) -> bool {
        match (&mut self.out, &self.now) {
            (Out::Screen(screen), Some(now)) => {
                screen.update(now, &self.history, &self.machine.now)
            }
            _ => false,
        }
    }

    /// Gives the terminal back: whatever is printed next stands on a line of its own.
    pub fn finish(&mut self) {
        self.now = None;
        if let Out::Screen(screen) = &mut self.out {
            screen.finish();
        }
    }
}
