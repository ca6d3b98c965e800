//! What scripted peers do, and their state. How they do it is in `raw`.
//!
//! Must not depend on: the world, engines, protocols.

use std::collections::VecDeque;

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Step {
    /// Send bytes, in pieces of at most so many, chosen by chance.
    Send(Vec<u8>, usize),
    /// Do nothing for so many microseconds.
    Pause(u64),
    /// Wait until so many bytes were read in total, or the end.
    Await(usize),
    /// Wait for the peer's end.
    AwaitEnd,
    /// Send no more.
    HalfClose,
    /// End with a reset.
    Reset,
}

/// How a scripted peer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Whatever comes.
    All,
    /// Only so many bytes each time it acts.
    Slow(usize),
    /// Nothing.
    Never,
}

/// What a scripted peer does.
#[derive(Debug, Clone)]
pub struct Script {
    /// In order; then it closes.
    pub steps: Vec<Step>,
    /// Beside that.
    pub reading: Reading,
    /// Ends at the latest after so long.
    pub lasts_us: u64,
}

/// A scripted peer and how far it is.
#[derive(Debug)]
pub(super) struct Raw {
    pub socket: u32,
    pub steps: VecDeque<Step>,
    pub reading: Reading,
    pub until_us: u64,
    pub read_count: usize,
    pub has_ended: bool,
    pub paused_until_us: u64,
    /// When it acts next: events for other times are of plans since changed.
    pub acts_at_us: Option<u64>,
    pub scripts: Vec<Script>,
}
