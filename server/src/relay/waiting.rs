//! Clients that have no backend yet.
//!
//! Invariants: an entry is there from the accept until the client is linked or has ended; a place
//! names an entry only together with its client, since it is used again.
//! Must not depend on: rings, how a backend is chosen.

use std::net::SocketAddr;

use holdfast_engine::{ConnId, DialId};

use super::class::Class;

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its turn to be given a backend.
    Start,
    /// A backend with fewer than `maxconn` connections.
    Queue,
    /// A connection to a backend.
    Connect(DialId),
    /// Some time before the next attempt.
    Rest,
    /// The end.
    End(Class),
}

/// One client.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The client.
    pub client: ConnId,
    /// Its address, where something needs it; else unspecified.
    pub source: SocketAddr,
    /// Its pool, by the thread's number.
    pub pool: u16,
    /// What it waits for.
    pub step: Step,
    /// Attempts to connect that failed.
    pub failures: u8,
    /// The backend of the last one.
    pub failed_backend: Option<u16>,
}

/// The waiting clients of a core thread.
#[derive(Debug, Default)]
pub struct Waiting {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Waiting {
    /// Adds a client.
    pub fn add(&mut self, entry: Entry) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = Some(entry);
                place
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() as u32 - 1
            }
        }
    }

    /// The entry at a place if it is this client's.
    pub fn get(&mut self, place: u32, client: ConnId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(place as usize)?.as_mut();
        entry.filter(|entry| entry.client == client)
    }

    /// The entry at a place.
    pub fn at(&mut self, place: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place as usize)?.as_mut()
    }

    /// Removes the entry at a place.
    pub fn remove(&mut self, place: u32) -> Option<Entry> {
        let entry = self.entries.get_mut(place as usize)?.take()?;
        self.free.push(place);
        if self.free.len() == self.entries.len() {
            // A storm is over: its memory goes back.
            if self.entries.capacity() > 1_024 {
                *self = Waiting::default();
            }
        }
        Some(entry)
    }

    /// Clients that wait.
    pub fn count(&self) -> u64 {
        (self.entries.len() - self.free.len()) as u64
    }
}
