//! Commands among core threads and from outside, and their ledger: each is given to a handler once,
//! in the order of its sender, or returned to it.
//!
//! Must not depend on: what else a handler does.

use std::collections::HashMap;

use holdfast_engine::sim::{Node, Random};
use holdfast_engine::{Handle, Handler, SendError};

use crate::coverage::Coverage;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Who sends it: a number of its own for each sender and thread that is sent to.
    sender: u32,
    /// Of this sender: 1 is the first.
    number: u64,
}

/// Senders outside an engine are numbered from here by the thread they send to, those on a core
/// thread from 0.
const OUTSIDE: u32 = 1_000;
/// More than there are threads.
const THREADS_MAX: u32 = 8;

/// The notes of one handler.
pub(super) struct Notes {
    random: Random,
    one_in: u64,
    handle: Option<Handle<Note>>,
    thread: usize,
    /// By thread sent to: notes tried, and those that came back.
    tried: Vec<(u64, u64)>,
    /// The latest of each sender, and how many came.
    heard: HashMap<u32, (u64, u64)>,
    returned: HashMap<&'static str, u64>,
}

impl Notes {
    /// None sent yet.
    pub fn new(random: &mut Random) -> Self {
        // The numbers drawn elsewhere stay what they are.
        let mut random = Random::new(random.clone().next() ^ 0x4E4F_5445);
        Notes {
            one_in: random.magnitude(1, 200),
            random,
            handle: None,
            thread: 0,
            tried: Vec::new(),
            heard: HashMap::new(),
            returned: HashMap::new(),
        }
    }

    /// Its handler starts on a thread.
    pub fn on_start(&mut self, thread: usize, handle: &Handle<Note>) {
        self.thread = thread;
        self.tried = vec![(0, 0); handle.thread_count()];
        self.handle = Some(handle.clone());
    }

    /// A command came. At times others follow from it.
    pub fn on_command(&mut self, note: Note) {
        let (latest, count) = self.heard.entry(note.sender).or_default();
        assert!(
            note.number > *latest,
            "{note:?} comes after number {latest}"
        );
        *latest = note.number;
        *count += 1;
        if self.random.once_in(3) {
            self.may_send();
        }
    }

    /// Sends some, at times.
    pub fn may_send(&mut self) {
        if !self.random.once_in(self.one_in) {
            return;
        }
        let handle = self.handle.as_ref().expect("it was started");
        for _ in 0..self.random.magnitude(1, 8) {
            let to = self.random.below(handle.thread_count() as u64) as usize;
            let (tried, returned) = &mut self.tried[to];
            *tried += 1;
            let note = Note {
                sender: sender(self.thread, to),
                number: *tried,
            };
            if let Err(error) = handle.send(to, note) {
                *self.returned.entry(name(&error)).or_default() += 1;
                assert_eq!(error.into_command(), note, "it comes back");
                *returned += 1;
            }
        }
    }
}

/// What is sent from outside to a thread, with times until `last_us`.
pub(super) fn script(random: &mut Random, now_us: u64, thread: usize) -> Vec<(u64, Note)> {
    let count = match random.once_in(2) {
        true => random.magnitude(1, 60),
        false => 0,
    };
    let mut at_us = now_us;
    (1..=count)
        .map(|number| {
            // Some all at once.
            at_us += random.pick(&[0, 1, 1, 1]) * random.magnitude(1, 200_000);
            let sender = OUTSIDE + thread as u32;
            (at_us, Note { sender, number })
        })
        .collect()
}

/// Checks the notes of all threads of one engine. `notes` are a handler's.
pub(super) fn check<H: Handler<Command = Note>>(
    coverage: &mut Coverage,
    nodes: &mut [Node<'_, H>],
    notes: impl Fn(&mut H) -> &Notes,
) {
    let mut accepted: HashMap<u32, u64> = HashMap::new();
    for (thread, node) in nodes.iter_mut().enumerate() {
        let outside = node.outside();
        accepted.insert(OUTSIDE + thread as u32, outside.accepted_count());
        for error in outside.returned() {
            coverage.count(name(error), 1);
        }
        for (to, own) in notes(node.handler()).tried.iter().enumerate() {
            accepted.insert(sender(thread, to), own.0 - own.1);
        }
        for (name, count) in &notes(node.handler()).returned {
            coverage.count(name, *count);
        }
    }
    for node in nodes {
        for (sender, (_, count)) in &notes(node.handler()).heard {
            let accepted = accepted.remove(sender);
            assert_eq!(accepted, Some(*count), "accepted and given, of {sender}");
        }
    }
    let lost: u64 = accepted.values().sum();
    assert_eq!(lost, 0, "accepted and not given: {accepted:?}");
}

fn sender(thread: usize, to: usize) -> u32 {
    thread as u32 * THREADS_MAX + to as u32
}

fn name(error: &SendError<Note>) -> &'static str {
    match error {
        SendError::Full(_) => "commands_full",
        SendError::Ended(_) => "commands_ended",
        _ => "commands_otherwise_returned",
    }
}
