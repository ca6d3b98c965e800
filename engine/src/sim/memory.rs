//! A simulated ring's memory: receive buffers, the staging region and shared buffers, and the owner
//! of each part.
//!
//! Invariants checked here: a buffer is in the ring, named by a completion, or lent to the program,
//! never two of these; it is given back once; a half is emptied only when no pending request uses
//! it. Memory that is given back or emptied is overwritten, so that a use after that is detected.
//! Must not depend on: sockets, requests.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::{BUFFER_COUNT, Config};
use crate::ring::{Request, Shared, SharedBuffers, Staged};

/// Content of memory that has no owner.
const NOBODYS: u8 = 0xDB;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Not in use yet.
    Unused,
    Ring,
    Completion,
    Program,
}

#[derive(Debug)]
pub(super) struct Memory {
    buffers: Vec<u8>,
    buffer_bytes: usize,
    holders: Vec<Holder>,
    free: VecDeque<u16>,
    used_count: u16,
    count_max: u16,
    staging: Vec<u8>,
    staging_bytes: usize,
    staged_bytes: [usize; 2],
    shared: SharedBuffers,
    /// Pending requests, by the half they use.
    waiting: [usize; 2],
    /// Pending requests, by the receive buffer they read.
    reading: Vec<u8>,
}

impl Memory {
    pub fn new(config: &Config) -> Self {
        let mut memory = Memory {
            buffers: Vec::new(),
            buffer_bytes: config.buffer_bytes as usize,
            holders: Vec::new(),
            free: VecDeque::new(),
            used_count: 0,
            count_max: config.buffer_count_max,
            staging: vec![NOBODYS; 2 * config.staging_bytes],
            staging_bytes: config.staging_bytes,
            staged_bytes: [0; 2],
            shared: SharedBuffers::default(),
            waiting: [0; 2],
            reading: Vec::new(),
        };
        memory.add(BUFFER_COUNT);
        memory
    }

    /// Brings up to `more` buffers into use; returns how many.
    pub fn add(&mut self, more: u16) -> u16 {
        let from = self.used_count;
        self.used_count = self.count_max.min(from.saturating_add(more));
        let bytes = usize::from(self.used_count) * self.buffer_bytes;
        self.buffers.resize(bytes, NOBODYS);
        self.holders
            .resize(usize::from(self.used_count), Holder::Unused);
        self.reading.resize(usize::from(self.used_count), 0);
        for buffer in from..self.used_count {
            self.holders[usize::from(buffer)] = Holder::Ring;
            self.free.push_back(buffer);
        }
        self.used_count - from
    }

    pub fn used_count(&self) -> u16 {
        self.used_count
    }

    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    fn range(&self, buffer: u16) -> std::ops::Range<usize> {
        let from = usize::from(buffer) * self.buffer_bytes;
        from..from + self.buffer_bytes
    }

    /// The next buffer the kernel would fill.
    pub fn next_mut(&mut self) -> &mut [u8] {
        let buffer = *self.free.front().expect("the caller saw a free one");
        let range = self.range(buffer);
        &mut self.buffers[range]
    }

    /// Marks that buffer as filled and named by a completion.
    pub fn fill(&mut self) -> u16 {
        let buffer = self.free.pop_front().expect("the caller saw a free one");
        self.holders[usize::from(buffer)] = Holder::Completion;
        buffer
    }

    /// Marks the buffer of a reaped completion as lent to the program.
    pub fn lend(&mut self, buffer: u16) {
        let holder = &mut self.holders[usize::from(buffer)];
        assert_eq!(*holder, Holder::Completion);
        *holder = Holder::Program;
    }

    pub fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(length <= self.buffer_bytes);
        &self.buffers[self.range(buffer)][..length]
    }

    pub fn recycle(&mut self, buffer: u16) {
        let holder = &mut self.holders[usize::from(buffer)];
        assert_eq!(
            *holder,
            Holder::Program,
            "buffer {buffer} is given back by who does not have it"
        );
        assert_eq!(
            self.reading[usize::from(buffer)],
            0,
            "buffer {buffer} is given back while a request reads it"
        );
        *holder = Holder::Ring;
        self.free.push_back(buffer);
        let range = self.range(buffer);
        self.buffers[range].fill(NOBODYS);
    }

    /// Receive buffers lent to the program.
    pub fn lent_count(&self) -> u16 {
        let lent = self.holders.iter().filter(|h| **h == Holder::Program);
        lent.count() as u16
    }

    /// Asserts that all other buffers are in the ring.
    pub fn audit(&self) -> Result<(), String> {
        let with_ring = self.holders.iter().filter(|h| **h == Holder::Ring).count();
        match with_ring == self.free.len() {
            true => Ok(()),
            false => Err(format!(
                "{with_ring} and {} buffers are free",
                self.free.len()
            )),
        }
    }

    pub fn trim(&mut self) {
        assert!(
            self.holders
                .iter()
                .all(|h| matches!(h, Holder::Ring | Holder::Unused)),
            "memory is given back while a buffer is in use"
        );
        assert_eq!(
            self.waiting, [0; 2],
            "memory is given back while bytes are staged"
        );
        self.buffers.fill(0);
        self.staging.fill(0);
    }

    pub fn stage(&mut self, half: usize, bytes: &[u8]) -> Option<Staged> {
        if bytes.len() > self.staging_bytes - self.staged_bytes[half] {
            return None;
        }
        let offset = half * self.staging_bytes + self.staged_bytes[half];
        self.staging[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.staged_bytes[half] += bytes.len();
        Some(Staged {
            offset: offset as u32,
            length: bytes.len() as u32,
        })
    }

    pub fn staged(&self, staged: Staged) -> &[u8] {
        let offset = staged.offset as usize;
        &self.staging[offset..offset + staged.length as usize]
    }

    pub fn share(&mut self, half: usize, buffer: &Arc<[u8]>) -> u32 {
        self.shared.keep(half, buffer)
    }

    pub fn shared(&self, number: u32) -> &Arc<[u8]> {
        self.shared.get(number)
    }

    pub fn shared_bytes(&self, shared: Shared) -> &[u8] {
        self.shared.bytes(shared)
    }

    /// The half that a request reads, if any.
    fn half_of(&self, request: &Request) -> Option<usize> {
        match request {
            Request::SendStaged { staged, .. } => Some(staged.offset as usize / self.staging_bytes),
            Request::SendShared { shared, .. } => Some(shared.number as usize & 1),
            _ => None,
        }
    }

    /// A request was pushed: keeps the memory it reads until it has run.
    pub fn hold(&mut self, request: &Request) {
        if let Request::SendReceived { received, .. } = request {
            let buffer = usize::from(received.buffer);
            assert_eq!(
                self.holders[buffer],
                Holder::Program,
                "buffer {buffer} is sent from by who does not have it"
            );
            self.reading[buffer] += 1;
        }
        if let Some(half) = self.half_of(request) {
            self.waiting[half] += 1;
        }
    }

    /// The request has run: releases the memory it reads.
    pub fn release(&mut self, request: &Request) {
        if let Request::SendReceived { received, .. } = request {
            self.reading[usize::from(received.buffer)] -= 1;
        }
        if let Some(half) = self.half_of(request) {
            self.waiting[half] -= 1;
        }
    }

    pub fn unstage(&mut self, half: usize) {
        assert_eq!(
            self.waiting[half], 0,
            "half {half} is emptied while requests use it"
        );
        self.shared.empty(half);
        let from = half * self.staging_bytes;
        self.staging[from..from + self.staged_bytes[half]].fill(NOBODYS);
        self.staged_bytes[half] = 0;
    }
}
