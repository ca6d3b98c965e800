//! Simulated sockets, and how bytes travel between two of them.
//!
//! As in TCP: bytes arrive once and in order, or the connection ends with an error; a socket
//! accepts bytes while its buffer has room, the network while the peer's buffer has; the end of the
//! stream arrives after all bytes; closing with unread bytes resets.
//! Invariants: a socket is never reused for another connection, so its number identifies the
//! connection.
//! Must not depend on: rings, requests.

use std::collections::VecDeque;

use super::fault::Fault;
use super::socket::{Owner, Socket, Stage};
use super::world::{Event, World};
use crate::handler::CloseMode;

impl World {
    pub(super) fn add_socket(&mut self, owner: Owner) -> u32 {
        self.sockets.push(Socket {
            owner,
            stage: Stage::New,
            peer: None,
            target: None,
            source: None,
            unsent: VecDeque::new(),
            received: VecDeque::new(),
            is_ended: false,
            is_end_sent: false,
            has_peer_end: false,
            error: None,
            is_corked: false,
            resets_on_close: false,
            is_closed: false,
            is_cut: false,
            is_delivering: false,
            lacks_room: false,
            watch_told: None,
            unheard_turns: 0,
            connect_us: self.now_us(),
            ledger: None,
        });
        self.sockets.len() as u32 - 1
    }

    pub(super) fn socket(&self, id: u32) -> &Socket {
        &self.sockets[id as usize]
    }

    pub(super) fn socket_mut(&mut self, id: u32) -> &mut Socket {
        &mut self.sockets[id as usize]
    }

    /// A segment's delay.
    pub(super) fn delay_us(&mut self) -> u64 {
        let longest = self.link.delay_us_max;
        if self.strikes(Fault::SlowSegment) {
            return self.random.between(longest, longest * 20 + 200_000);
        }
        self.random.below(longest)
    }

    /// Notifies the requests that wait for a socket that its state changed.
    pub(super) fn wake(&mut self, id: u32) {
        match self.socket(id).owner {
            Owner::Nobody => {}
            Owner::Ring(ring) => self.mail[ring as usize].sockets.push(id),
            Owner::Raw(raw) => self.plan_raw(raw, 0),
        }
    }

    /// Connects two sockets and draws the faults that the network will inject.
    pub(super) fn join(&mut self, one: u32, other: u32) {
        for (id, peer) in [(one, other), (other, one)] {
            let socket = self.socket_mut(id);
            socket.stage = Stage::Open;
            socket.peer = Some(peer);
        }
    }

    /// May inject a fault; called each time something is sent.
    fn trouble(&mut self, id: u32) {
        for (fault, errno) in [
            (Fault::Reset, libc::ECONNRESET),
            (Fault::TimedOut, libc::ETIMEDOUT),
            (Fault::Unreachable, libc::EHOSTUNREACH),
            (Fault::Cut, 0),
        ] {
            if self.strikes(fault) {
                let after_us = self.random.magnitude(1, 3_000_000);
                let peer = self.socket(id).peer.unwrap_or(id);
                let victim = if self.random.once_in(2) { id } else { peer };
                let event = match errno {
                    0 => Event::Cut(victim),
                    errno => Event::Error(victim, errno),
                };
                self.plan(after_us, event);
            }
        }
    }

    /// Accepts bytes to send; returns their number, or minus errno.
    pub(super) fn send(&mut self, id: u32, bytes: &[u8], is_last: bool) -> i32 {
        let socket = self.socket_mut(id);
        if let Some(errno) = socket.error.take() {
            return -errno;
        }
        if socket.stage != Stage::Open || socket.is_ended {
            return -libc::EPIPE;
        }
        let room = self.link.unsent_max - self.socket(id).unsent.len();
        let mut count = bytes.len().min(room);
        if room == 0 {
            self.faults.count(Fault::SendFull);
        }
        if self.strikes(Fault::SendFailed) {
            return -libc::ENOMEM;
        }
        if self.strikes(Fault::SendNothing) {
            count = 0;
        } else if count > 1 && self.strikes(Fault::SendShort) {
            count = self.random.between(1, count as u64 - 1) as usize;
        }
        if count < bytes.len() {
            self.tell_of_room(id);
        }
        if count == 0 {
            // Whoever waits for room that is there is told at once.
            return -libc::EAGAIN;
        }
        self.trouble(id);
        let socket = self.socket_mut(id);
        socket.unsent.extend(&bytes[..count]);
        if let Some(ledger) = &mut socket.ledger {
            ledger.sent(&bytes[..count]);
        }
        socket.is_corked = is_last && count == bytes.len();
        if self.socket(id).is_corked {
            self.plan(200_000, Event::Uncork(id));
        } else {
            self.start_delivery(id);
        }
        count as i32
    }

    /// A send came short: a watch is told when there is room, also of room that is there.
    fn tell_of_room(&mut self, id: u32) {
        let socket = self.socket_mut(id);
        socket.lacks_room = true;
        if socket.watch_told.is_some() {
            self.wake(id);
        }
    }

    /// What a poll for room to send says: the kernel adds errors and the peer's end to each.
    pub(super) fn poll_mask(&self, id: u32) -> i32 {
        let socket = self.socket(id);
        let is_dead = socket.stage == Stage::Dead;
        let mut mask = 0;
        for (is_so, bit) in [
            (self.is_writable(id), libc::POLLOUT),
            (socket.has_peer_end || is_dead, libc::POLLRDHUP),
            (socket.error.is_some(), libc::POLLERR),
            (
                is_dead || socket.has_peer_end && socket.is_ended,
                libc::POLLHUP,
            ),
        ] {
            mask |= if is_so { i32::from(bit) } else { 0 };
        }
        mask
    }

    /// Result of sending nothing: 0, or minus errno.
    pub(super) fn probe(&mut self, id: u32) -> i32 {
        let socket = self.socket_mut(id);
        match socket.error.take() {
            Some(errno) => -errno,
            None if socket.stage != Stage::Open || socket.is_ended => -libc::EPIPE,
            None => 0,
        }
    }

    pub(super) fn uncork(&mut self, id: u32) {
        if std::mem::take(&mut self.socket_mut(id).is_corked) {
            self.start_delivery(id);
        }
    }

    fn start_delivery(&mut self, id: u32) {
        let socket = self.socket_mut(id);
        if !socket.is_delivering && socket.stage == Stage::Open {
            socket.is_delivering = true;
            let delay_us = self.delay_us();
            self.plan(delay_us, Event::Deliver(id));
        }
    }

    /// A segment arrives: bytes, or the end of the stream.
    pub(super) fn deliver(&mut self, id: u32) {
        let socket = self.socket_mut(id);
        socket.is_delivering = false;
        if socket.stage != Stage::Open || socket.is_corked {
            return;
        }
        let waiting = socket.unsent.len();
        if socket.is_cut {
            if waiting > 0 {
                // Retransmitted until the kernel gives up.
                let after_us = self.random.magnitude(100_000, 10_000_000);
                self.plan(after_us, Event::Error(id, libc::ETIMEDOUT));
            }
            return;
        }
        let peer = socket.peer.expect("an open socket has a peer");
        let (is_gone, has) = {
            let peer = self.socket(peer);
            let is_gone = peer.stage == Stage::Dead || (peer.is_closed && waiting > 0);
            (is_gone, peer.received.len())
        };
        if is_gone {
            // The socket is closed: it answers with a reset.
            self.send_reset_to(id);
            return;
        }
        let room = self.link.received_max.saturating_sub(has);
        let mut count = waiting.min(room);
        if waiting > 0 && room == 0 {
            // Continues when the program has read.
            self.faults.count(Fault::WindowClosed);
            return;
        }
        if count > 1 && self.strikes(Fault::SmallSegment) {
            count = self.random.between(1, count as u64 - 1) as usize;
        }
        if count > 0 {
            let socket = &mut self.sockets[id as usize];
            let bytes: VecDeque<u8> = socket.unsent.drain(..count).collect();
            self.socket_mut(peer).received.extend(bytes);
            self.note("deliver", [i64::from(id), count as i64, 0, 0], None);
            self.wake(id);
        }
        let socket = self.socket(id);
        let is_over = socket.unsent.is_empty();
        if !is_over {
            self.start_delivery(id);
        } else if socket.is_ended && !socket.is_end_sent {
            if count > 0 && self.random.once_in(2) {
                self.start_delivery(id);
            } else {
                self.socket_mut(id).is_end_sent = true;
                self.socket_mut(peer).has_peer_end = true;
                self.note("end", [i64::from(id), 0, 0, 0], None);
            }
        }
        self.wake(peer);
    }

    /// Receives up to `into.len()` bytes; returns their number, 0 at the end, or minus errno.
    pub(super) fn recv(&mut self, id: u32, into: &mut [u8]) -> i32 {
        let available = self.socket(id).received.len();
        if available == 0 {
            let socket = self.socket_mut(id);
            return match socket.error.take() {
                Some(errno) => -errno,
                None if socket.has_peer_end || socket.stage == Stage::Dead => 0,
                None => -libc::EAGAIN,
            };
        }
        let mut count = available.min(into.len());
        if count > 1 && self.strikes(Fault::RecvShort) {
            count = self.random.between(1, count as u64 - 1) as usize;
        }
        let socket = self.socket_mut(id);
        for (to, from) in into.iter_mut().zip(socket.received.drain(..count)) {
            *to = from;
        }
        if let Some(ledger) = &mut socket.ledger {
            ledger.received(&into[..count]);
        }
        // Now there is room for bytes the peer has sent.
        if let (Some(peer), Stage::Open) = (socket.peer, socket.stage)
            && !self.socket(peer).unsent.is_empty()
            && !self.socket(peer).is_corked
        {
            self.start_delivery(peer);
        }
        count as i32
    }

    pub(super) fn is_readable(&self, id: u32) -> bool {
        let socket = self.socket(id);
        !socket.received.is_empty()
            || socket.has_peer_end
            || socket.error.is_some()
            || socket.stage == Stage::Dead
    }

    pub(super) fn is_writable(&self, id: u32) -> bool {
        let socket = self.socket(id);
        let max = self.link.unsent_max;
        socket.error.is_some()
            || socket.stage == Stage::Dead
            || socket.is_ended
            || (socket.stage == Stage::Open
                && socket.unsent.len() < max
                && socket.unsent.len() <= max / 3 * 2)
    }

    /// True if bytes or the end can be received.
    pub(super) fn has_left(&self, id: u32) -> bool {
        !self.socket(id).received.is_empty() || self.socket(id).has_peer_end
    }

    /// Shuts down an engine's sending side: 0, or minus errno.
    pub(super) fn shut_down(&mut self, id: u32) -> i32 {
        if let Some(ledger) = &mut self.socket_mut(id).ledger {
            ledger.ended();
        }
        self.end_sending(id)
    }

    /// Shuts down the sending side: 0, or minus errno.
    pub(super) fn end_sending(&mut self, id: u32) -> i32 {
        let socket = self.socket_mut(id);
        if socket.stage != Stage::Open {
            return -libc::ENOTCONN;
        }
        socket.is_ended = true;
        socket.is_corked = false;
        self.start_delivery(id);
        self.wake(id);
        0
    }

    /// The program closes a socket.
    pub(super) fn close(&mut self, id: u32) {
        self.note("close", [i64::from(id), 0, 0, 0], None);
        let socket = self.socket_mut(id);
        assert!(!socket.is_closed, "a socket is closed twice");
        socket.is_closed = true;
        let is_unread = !socket.received.is_empty();
        let is_reset = socket.stage == Stage::Open && socket.resets_on_close && !socket.is_cut;
        let mode = socket.ledger.as_ref().and_then(|ledger| ledger.close_mode);
        let is_lost = is_reset && !socket.unsent.is_empty();
        self.resets_with_loss += u64::from(is_lost && mode == Some(CloseMode::ResetAfterSend));
        let socket = self.socket_mut(id);
        if socket.stage == Stage::Open && !socket.resets_on_close && !is_unread {
            self.end_sending(id);
        } else {
            if socket.stage == Stage::Open {
                self.faults.count(Fault::ResetByClose);
            }
            self.abort(id);
        }
        self.socket_mut(id).owner = Owner::Nobody;
    }

    /// Aborts a socket; its peer gets a reset.
    pub(super) fn abort(&mut self, id: u32) {
        let socket = self.socket_mut(id);
        let was_open = socket.stage == Stage::Open;
        socket.stage = Stage::Dead;
        socket.unsent.clear();
        let is_cut = socket.is_cut;
        if let Some(peer) = socket.peer
            && was_open
            && !is_cut
            && !self.strikes(Fault::ResetLost)
        {
            self.send_reset_to(peer);
        }
    }

    pub(super) fn send_reset_to(&mut self, id: u32) {
        let delay_us = self.delay_us();
        self.plan(delay_us, Event::Error(id, libc::ECONNRESET));
    }

    /// Sets an error on a socket.
    pub(super) fn fail(&mut self, id: u32, errno: i32) {
        let socket = self.socket_mut(id);
        if socket.stage != Stage::Open {
            return;
        }
        socket.stage = Stage::Dead;
        socket.unsent.clear();
        socket.error = Some(errno);
        self.note("error", [i64::from(id), i64::from(errno), 0, 0], None);
        self.wake(id);
    }

    /// Cuts a connection: it carries nothing from now on.
    pub(super) fn cut(&mut self, id: u32) {
        let peer = self.socket(id).peer;
        for id in [Some(id), peer].into_iter().flatten() {
            self.socket_mut(id).is_cut = true;
            if !self.socket(id).unsent.is_empty() {
                self.start_delivery(id);
            }
        }
    }
}
