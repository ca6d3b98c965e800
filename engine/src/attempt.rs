//! Attempts to connect that have an id: those that a handler may cancel. Attempts of the plan without an id are not here.
//!
//! Invariants: an id names one attempt from the request until its end is reported, and no other afterwards; an attempt is in a slot,
//! or waits to be started.
//! Must not depend on: rings, slots, handlers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::id::ConnId;
use crate::socket_options::SocketOptions;

/// Names one attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId {
    index: u32,
    generation: u32,
}

impl DialId {
    /// The id of every attempt that [`Context::dial_planned`](crate::Context::dial_planned) started: they cannot be told apart, and
    /// cost nothing.
    pub const PLANNED: DialId = DialId::planned(0);

    /// The id of every attempt that [`Context::dial_planned_to`](crate::Context::dial_planned_to) started to this group of targets.
    pub const fn planned(group: u16) -> Self {
        DialId {
            index: u32::MAX,
            generation: group as u32,
        }
    }

    /// The group of targets of an attempt of the plan; `None` for one that has an id of its own.
    pub fn planned_group(self) -> Option<u16> {
        (self.index == u32::MAX).then_some(self.generation as u16)
    }
}

/// The source address of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Source {
    /// The kernel chooses address and port. Needs no BIND, so any kernel that the engine runs on.
    #[default]
    Kernel,
    /// This address. With port 0 the kernel chooses the port when it connects (IP_BIND_ADDRESS_NO_PORT), so that one port serves any
    /// number of targets. A port that is given is not searched for: the attempt fails with
    /// [`OpenFailure::AddrExhausted`](crate::OpenFailure::AddrExhausted) if address, port and target are in use together. Needs Linux
    /// 6.11.
    Addr(SocketAddr),
    /// The same for an address that need not be this machine's (IP_TRANSPARENT), such as a client's. Answers must be routed back to
    /// this machine. Without CAP_NET_ADMIN or CAP_NET_RAW the attempt fails with
    /// [`OpenFailure::NotPermitted`](crate::OpenFailure::NotPermitted).
    Transparent(SocketAddr),
    /// The next free source address and port of the engine's [`DialPlan`](crate::DialPlan), of its first group. Needs Linux 6.11.
    Plan,
}

/// What to connect to, and how.
///
/// ```
/// use holdfast_engine::{Dial, Source};
///
/// let target = "127.0.0.1:7070".parse().unwrap();
/// let dial = Dial::to(target).from(Source::Addr("127.0.0.2:0".parse().unwrap()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    pub(crate) target: SocketAddr,
    pub(crate) source: Source,
    pub(crate) link: Option<ConnId>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) options: SocketOptions,
    pub(crate) delays_ack: bool,
}

impl Dial {
    /// To `target`, with a source that the kernel chooses.
    pub fn to(target: SocketAddr) -> Self {
        Dial {
            target,
            source: Source::Kernel,
            link: None,
            timeout: None,
            options: SocketOptions::default(),
            delays_ack: false,
        }
    }

    /// The same from another source.
    #[must_use]
    pub fn from(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// The same with a limit of its own for the time that connecting takes, instead of
    /// [`ConfigBuilder::connect_timeout`](crate::ConfigBuilder::connect_timeout). At most 365 days.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// The same with options of the socket, which are set before it connects.
    #[must_use]
    pub fn options(mut self, options: SocketOptions) -> Self {
        self.options = options;
        self
    }

    /// The same, and the ACK that ends the handshake travels with the first bytes: one packet less for both sides. Of a partner
    /// ([`Conn::dial_partner`](crate::Conn::dial_partner)), only if its own [`Handler::on_open`](crate::Handler::on_open) sends
    /// something or the waiting connection has bytes at hand when it opens; otherwise the ACK leaves at once. Any other connection
    /// should send as soon as it opens: see [`ConfigBuilder::sends_on_open`](crate::ConfigBuilder::sends_on_open). Needs Linux 6.7.
    #[must_use]
    pub fn delay_ack(mut self) -> Self {
        self.delays_ack = true;
        self
    }

    /// The same as the partner of connection `id`: see [`Conn::dial_partner`](crate::Conn::dial_partner), which a callback of that
    /// connection uses instead, and [`Conn::forward`](crate::Conn::forward). The source must not be [`Source::Plan`]. The attempt fails
    /// with [`OpenFailure::Cancelled`](crate::OpenFailure::Cancelled) if the connection has closed, is closing or has a partner by the
    /// time it starts, and with [`OpenFailure::NoDescriptor`](crate::OpenFailure::NoDescriptor) if its ring is full: see
    /// [`ConfigBuilder::pairs`](crate::ConfigBuilder::pairs). If it fails for any other reason than the connection's own end,
    /// [`Handler::on_unlinked`](crate::Handler::on_unlinked) is called for the connection too.
    #[must_use]
    pub fn linked_to(mut self, id: ConnId) -> Self {
        self.link = Some(id);
        self
    }
}

/// One attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub dial: Dial,
    /// The handler does not want it any more.
    pub is_cancelled: bool,
    /// Shard and slot that it is in; `None` while it waits to be started.
    pub place: Option<(u16, u32)>,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    attempt: Option<Attempt>,
}

/// The attempts of a core thread that have an id.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_place: HashMap<(u16, u32), DialId>,
}

impl Attempts {
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub fn add(&mut self, dial: Dial) -> DialId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                generation: 0,
                attempt: None,
            });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.attempt = Some(Attempt {
            dial,
            is_cancelled: false,
            place: None,
        });
        DialId {
            index,
            generation: entry.generation,
        }
    }

    /// The attempt, unless it has ended.
    pub fn get_mut(&mut self, id: DialId) -> Option<&mut Attempt> {
        let entry = self.entries.get_mut(id.index as usize)?;
        entry
            .attempt
            .as_mut()
            .filter(|_| entry.generation == id.generation)
    }

    /// It has been started in a slot.
    pub fn place(&mut self, id: DialId, place: (u16, u32)) {
        self.get_mut(id).expect("it has not ended").place = Some(place);
        self.by_place.insert(place, id);
    }

    /// Takes what is in a slot out of it: its id, if it has one.
    pub fn displace(&mut self, place: (u16, u32)) -> Option<DialId> {
        if self.by_place.is_empty() {
            return None;
        }
        let id = self.by_place.remove(&place)?;
        self.get_mut(id).expect("it is in a slot").place = None;
        Some(id)
    }

    /// Where those are that are in a slot, and how many are in none.
    #[cfg(feature = "sim")]
    pub fn places(&self) -> (impl Iterator<Item = (u16, u32)>, usize) {
        let places = self.by_place.keys().copied();
        (places, self.len() - self.by_place.len())
    }

    /// It ends: the id is stale from now on.
    pub fn remove(&mut self, id: DialId) -> Option<Attempt> {
        let attempt = *self.get_mut(id)?;
        debug_assert!(attempt.place.is_none());
        let entry = &mut self.entries[id.index as usize];
        entry.attempt = None;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_one_attempt_until_it_ends() {
        let dial = Dial::to("127.0.0.1:80".parse().unwrap());
        let mut attempts = Attempts::default();
        let first = attempts.add(dial);
        attempts.place(first, (0, 7));
        assert_eq!(attempts.displace((0, 7)), Some(first));
        assert_eq!(attempts.displace((0, 7)), None);
        assert!(attempts.remove(first).is_some());
        let second = attempts.add(dial);
        assert_ne!(first, second);
        assert!(attempts.get_mut(first).is_none());
        assert!(attempts.remove(first).is_none());
        assert_eq!(attempts.len(), 1);
        assert!(attempts.get_mut(DialId::PLANNED).is_none());
    }
}
