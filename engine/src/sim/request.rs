//! How a simulated ring executes requests, at once and after they waited.
//!
//! Invariants: a request that must not wait is complete when `start` returns; a waiting one
//! completes when its socket or listener becomes ready, when it is cancelled, or spuriously where
//! the kernel has been seen to do so.
//! Must not depend on: the meaning of slots, handlers.

use super::fault::Fault;
use super::ring::SimRing;
use super::socket::{Owner, Stage};
use super::waiting::{For, Waiting};
use super::world::{Event, World};
use crate::ring::{Completion, Request};
use crate::token::{Op, Token};

/// Receives of one multishot request in one go: the kernel's bound.
const STREAM_RECEIVES_MAX: u64 = 32;

impl SimRing {
    fn socket_at(&self, slot: u32) -> Option<u32> {
        self.pages[slot as usize].socket
    }

    /// Starts a request. True if the request linked to it may start.
    pub(super) fn start(&mut self, world: &mut World, token: Token, request: Request) -> bool {
        world.note("start", [i64::from(self.number), 0, 0, 0], Some(token));
        match request {
            Request::PollListener { listener } => {
                let index = world.listener_index(listener);
                let rings = &mut world.listeners[index as usize].rings;
                if !rings.contains(&self.number) {
                    rings.push(self.number);
                }
                self.wait_for(world, token, For::Listener(index));
                true
            }
            Request::PollWaker { fd } => {
                let index = world.waker_index(fd);
                world.wakers[index as usize].ring = Some(self.number);
                self.wait_for(world, token, For::Waker(index));
                true
            }
            Request::Cancel { token: other } => {
                let result = self.cancel(world, other);
                self.end(token, result)
            }
            Request::Shutdown { .. } if world.strikes(Fault::ShutdownRefused) => {
                self.complete(token, -libc::EMFILE);
                true
            }
            Request::Shutdown { slot } => {
                self.shutdowns.push_back((token, slot));
                plan_worker(world, self.number);
                true
            }
            Request::Accept {
                listener,
                slot,
                tells_peer,
            } => {
                let page = &mut self.pages[slot as usize];
                assert!(
                    page.socket.is_none(),
                    "slot {slot} has a socket, and accepts"
                );
                match world.accept(listener, self.number) {
                    Ok(socket) => {
                        page.socket = Some(socket);
                        page.peer = tells_peer.then(|| world.source_of_peer(socket));
                        self.complete(token, 0);
                    }
                    Err(result) => self.complete(token, result),
                }
                true
            }
            Request::Socket { slot, .. } => {
                let page = &mut self.pages[slot as usize];
                assert!(
                    page.socket.is_none(),
                    "slot {slot} has a socket, and makes one"
                );
                if world.strikes(Fault::SocketFailed) {
                    let errno = world.random.pick(&[
                        libc::EMFILE,
                        libc::ENFILE,
                        libc::ENOMEM,
                        libc::ENOBUFS,
                    ]);
                    return self.end(token, -errno);
                }
                page.socket = Some(world.add_socket(Owner::Ring(self.number)));
                self.end(token, 0)
            }
            request => self.start_on_socket(world, token, request),
        }
    }

    /// Starts a request that needs a socket in its slot.
    fn start_on_socket(&mut self, world: &mut World, token: Token, request: Request) -> bool {
        let slot = token.slot();
        let socket = self.socket_at(slot);
        self.memory.release(&request);
        let Some(socket) = socket else {
            assert!(token.op() != Op::Close, "slot {slot} is closed twice");
            self.complete(token, -libc::EBADF);
            return false;
        };
        match request {
            Request::ReuseAddress { .. } | Request::DelayFirstAck { .. } => self.end(token, 0),
            Request::SetOption { option, .. } => {
                let is_refused = world.strikes(Fault::OptionRefused);
                let errno = match option.name == libc::IP_TRANSPARENT {
                    true => libc::EPERM,
                    false => libc::EOPNOTSUPP,
                };
                self.end(token, if is_refused { -errno } else { 0 })
            }
            Request::ResetOnClose { .. } => {
                world.socket_mut(socket).resets_on_close = true;
                self.end(token, 0)
            }
            Request::Bind { source, .. } => {
                world.socket_mut(socket).source = Some(source);
                let result = if world.strikes(Fault::AddressTaken) {
                    -libc::EADDRINUSE
                } else if world.strikes(Fault::AddrNotAvailable) {
                    -world.random.pick(&[libc::EADDRNOTAVAIL, libc::EACCES])
                } else {
                    0
                };
                self.end(token, result)
            }
            Request::Connect { target, .. } => {
                match world.connect(socket, target) {
                    Ok(()) => self.wait_for(world, token, For::Connected(socket)),
                    Err(result) => self.complete(token, result),
                }
                true
            }
            Request::Poll { .. } if world.strikes(Fault::PollFailed) => {
                self.complete(token, -libc::ENOMEM);
                false
            }
            Request::Poll { writable, .. } => {
                let what = if writable {
                    For::Writable(socket)
                } else {
                    For::Readable(socket)
                };
                self.wait_for(world, token, what);
                true
            }
            Request::Watch { .. } if world.strikes(Fault::PollFailed) => {
                self.complete(token, -libc::ENOMEM);
                false
            }
            Request::Watch { .. } => {
                world.socket_mut(socket).watch_told = Some(0);
                world.socket_mut(socket).lacks_room = true;
                self.wait_for(world, token, For::Watch(socket));
                true
            }
            Request::Probe { .. } => {
                let result = world.probe(socket);
                self.complete(token, result);
                true
            }
            Request::OutQueue { .. } => {
                let result = match world.strikes(Fault::OutQueueUnknown) {
                    true => -libc::EOPNOTSUPP,
                    false => world.socket(socket).unsent.len() as i32,
                };
                self.complete(token, result);
                true
            }
            Request::Recv { .. } => {
                if self.recv(world, token, socket, false).is_none() {
                    self.complete(token, -libc::EAGAIN);
                }
                true
            }
            Request::RecvOneshot { .. } => {
                self.wait_for(world, token, For::Bytes(socket));
                true
            }
            Request::RecvMultishot { .. } => {
                self.wait_for(world, token, For::Stream(socket));
                true
            }
            Request::SendStatic { bytes, is_last, .. } => {
                let result = world.send(socket, bytes, is_last);
                self.end_send(token, result, bytes.len())
            }
            Request::SendStaged {
                staged, is_last, ..
            } => {
                let result = world.send(socket, self.memory.staged(staged), is_last);
                self.end_send(token, result, staged.length as usize)
            }
            Request::SendShared {
                shared, is_last, ..
            } => {
                let result = world.send(socket, self.memory.shared_bytes(shared), is_last);
                self.end_send(token, result, shared.length as usize)
            }
            Request::SendReceived { received, .. } => {
                let (from, length) = (received.offset as usize, received.length as usize);
                let bytes = &self.memory.bytes(received.buffer, from + length)[from..];
                let result = world.send(socket, bytes, false);
                self.end_send(token, result, length)
            }
            Request::Close { .. } => {
                self.check_close(slot);
                let page = &mut self.pages[slot as usize];
                page.socket = None;
                world.close(socket);
                self.end(token, 0)
            }
            Request::PollListener { .. }
            | Request::PollWaker { .. }
            | Request::Accept { .. }
            | Request::Socket { .. }
            | Request::Shutdown { .. }
            | Request::Cancel { .. } => unreachable!("started without a socket"),
        }
    }

    /// Checks that no request uses the slot that is closed: the kernel would allow it, the engine
    /// must not do it.
    fn check_close(&self, slot: u32) {
        let waiting = self.waiting.iter().map(|w| w.token);
        let shutting = self.shutdowns.iter().map(|(token, _)| *token);
        let linked = self.linked.iter().map(|(token, _)| *token);
        let is_of_slot = |t: &Token| t.op().has_slot() && t.slot() == slot;
        let found = waiting.chain(shutting).chain(linked).find(is_of_slot);
        assert!(
            found.is_none(),
            "slot {slot} is closed while a {:?} is under way",
            found.map(Token::op)
        );
    }

    /// Completes a request that posts no completion on success.
    fn end(&mut self, token: Token, result: i32) -> bool {
        if result < 0 {
            self.complete(token, result);
        } else {
            self.finish_silently(token);
        }
        result >= 0
    }

    fn end_send(&mut self, token: Token, result: i32, length: usize) -> bool {
        if result == length as i32 {
            self.finish_silently(token);
        } else {
            self.complete(token, result);
        }
        true
    }

    /// Queues a request as waiting unless it completes now.
    fn wait_for(&mut self, world: &mut World, token: Token, what: For) {
        let waiting = Waiting { token, what };
        if !self.try_now(world, waiting) {
            self.waiting.push(waiting);
        }
    }

    /// Executes a waiting request if it can proceed. True if it is complete.
    fn try_now(&mut self, world: &mut World, waiting: Waiting) -> bool {
        let Waiting { token, what } = waiting;
        let is_ready = match what {
            For::Listener(index) => world.is_acceptable(index),
            For::Waker(index) => world.wakers[index as usize].is_signalled,
            For::Readable(socket) => {
                world.is_readable(socket) || world.strikes(Fault::PollSpurious)
            }
            For::Writable(socket) => {
                let mask = world.poll_mask(socket);
                let is_ready = mask != 0 || world.strikes(Fault::PollSpurious);
                if is_ready {
                    let room = libc::POLLOUT as i32;
                    self.complete(token, if mask == 0 { room } else { mask });
                }
                return is_ready;
            }
            For::Watch(socket) => return self.watch(world, token, socket),
            For::Bytes(socket) => return self.recv(world, token, socket, false).is_some(),
            For::Stream(socket) => return self.recv_stream(world, token, socket),
            For::Connected(socket) => match world.socket(socket).stage {
                Stage::Open => true,
                Stage::Dead => {
                    let errno = world.socket_mut(socket).error.take();
                    self.complete(token, -errno.unwrap_or(libc::ECONNRESET));
                    return true;
                }
                _ => return false,
            },
        };
        if is_ready {
            self.complete(token, i32::from(what.socket().is_none()));
        }
        is_ready
    }

    /// Reports new events to a poll. True if the poll is complete.
    fn watch(&mut self, world: &mut World, token: Token, socket: u32) -> bool {
        let mask = world.poll_mask(socket);
        let room = libc::POLLOUT as i32;
        let entry = world.socket_mut(socket);
        let has_room = entry.lacks_room && mask & room != 0;
        let is_new = has_room || entry.watch_told != Some(mask & !room);
        if mask == 0 || !is_new && !world.strikes(Fault::PollSpurious) {
            return false;
        }
        let entry = world.socket_mut(socket);
        entry.watch_told = Some(mask & !room);
        entry.lacks_room &= !has_room;
        let mut has_more = true;
        if !self.has_room() {
            world.faults.count(Fault::StreamEndedFull);
            has_more = false;
        }
        if !has_more {
            world.socket_mut(socket).watch_told = None;
        }
        self.done.push(Completion {
            token,
            result: mask,
            buffer: None,
            has_more,
            has_left: false,
        });
        !has_more
    }

    /// Receives into a buffer. `None` if nothing is there; else whether the request continues.
    fn recv(
        &mut self,
        world: &mut World,
        token: Token,
        socket: u32,
        is_stream: bool,
    ) -> Option<bool> {
        if !self.memory.has_free() {
            world.faults.count(Fault::NoBuffer);
            self.complete(token, -libc::ENOBUFS);
            return Some(false);
        }
        if world.strikes(Fault::RecvInterrupted) {
            self.complete(token, -libc::EINTR);
            return Some(false);
        }
        let result = world.recv(socket, self.memory.next_mut());
        if result == -libc::EAGAIN {
            return None;
        }
        let names_buffer = result > 0 || (result == 0 && world.strikes(Fault::EndWithBuffer));
        let mut has_more = is_stream && result > 0;
        if has_more && !self.has_room() {
            world.faults.count(Fault::StreamEndedFull);
            has_more = false;
        } else if has_more && world.strikes(Fault::StreamEnded) {
            has_more = false;
        }
        let buffer = names_buffer.then(|| self.memory.fill());
        self.done.push(Completion {
            token,
            result,
            buffer,
            has_more,
            has_left: result > 0 && world.has_left(socket),
        });
        Some(has_more)
    }

    /// Receives as much as a multishot request does in one go. True if it is complete.
    fn recv_stream(&mut self, world: &mut World, token: Token, socket: u32) -> bool {
        let most = world.random.between(1, STREAM_RECEIVES_MAX);
        for _ in 0..most {
            match self.recv(world, token, socket, true) {
                None => return false,
                Some(true) => {}
                Some(false) => return true,
            }
        }
        // The request continues by itself.
        world.mail[self.number as usize].sockets.push(socket);
        false
    }

    /// Cancels a request: 0, or minus errno.
    fn cancel(&mut self, world: &mut World, token: Token) -> i32 {
        if self.linked.iter().any(|(t, _)| *t == token) {
            // Not started yet, so it cannot be found; it will start.
            world.faults.count(Fault::CancelBeforeStart);
            return -libc::ENOENT;
        }
        let Some(place) = self.waiting.iter().position(|w| w.token == token) else {
            world.faults.count(Fault::CancelNothing);
            return -libc::ENOENT;
        };
        if world.strikes(Fault::CancelLate) && self.try_now(world, self.waiting[place]) {
            self.waiting.remove(place);
            return -libc::ENOENT;
        }
        self.waiting.remove(place);
        self.complete(token, -libc::ECANCELED);
        0
    }

    /// Handles what network and workers did since the last entry.
    pub(super) fn work(&mut self, world: &mut World) {
        let number = self.number as usize;
        if world.mail[number].is_empty() {
            return;
        }
        let mail = std::mem::take(&mut world.mail[number]);
        for _ in 0..mail.workers {
            let (token, slot) = self.shutdowns.pop_front().expect("a worker has work");
            let result = match self.socket_at(slot) {
                Some(socket) => {
                    assert_eq!(
                        self.pages[slot as usize].under_way[Op::Shutdown as usize],
                        1,
                        "a worker shuts down what is not to be"
                    );
                    world.shut_down(socket)
                }
                None => -libc::EBADF,
            };
            self.complete(token, result);
        }
        let shuffles = world.strikes(Fault::WorkShuffled);
        let mut woken = Vec::new();
        for (place, waiting) in self.waiting.iter().enumerate() {
            let is_woken = match waiting.what {
                For::Listener(index) => mail.listeners.contains(&index),
                For::Waker(index) => mail.wakers.contains(&index),
                other => other.socket().is_some_and(|s| mail.sockets.contains(&s)),
            };
            if is_woken {
                woken.push(place);
            }
        }
        if shuffles {
            for last in (1..woken.len()).rev() {
                woken.swap(last, world.random.below(last as u64 + 1) as usize);
            }
        }
        let mut over = Vec::new();
        for place in woken {
            let waiting = self.waiting[place];
            if world.strikes(Fault::WorkLater) {
                let mail = &mut world.mail[number];
                match waiting.what {
                    For::Listener(index) => mail.listeners.push(index),
                    For::Waker(index) => mail.wakers.push(index),
                    other => mail.sockets.extend(other.socket()),
                }
            } else if self.try_now(world, waiting) {
                over.push(place);
            }
        }
        over.sort_unstable();
        for place in over.into_iter().rev() {
            self.waiting.swap_remove(place);
        }
    }
}

/// Schedules a worker.
fn plan_worker(world: &mut World, ring: u32) {
    let after_us = if world.strikes(Fault::ShutdownLate) {
        world.random.magnitude(10, 2_000_000)
    } else {
        world.random.below(50)
    };
    world.plan(after_us, Event::Worker(ring));
}
