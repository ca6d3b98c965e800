//! Listeners, and how connections are established.
//!
//! Invariants: an established connection waits at a listener, belongs to a program, or was reset
//! with the listener.
//! Must not depend on: rings' requests, the bytes on a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::fault::Fault;
use super::listener::{Host, Listener};
use super::socket::{Owner, Stage};
use super::world::{Event, World};

/// Descriptor of the first listener: a number that no real descriptor of the process has.
const FIRST_FD: RawFd = 1_000;

impl World {
    /// Adds a listener at `address`, in a group with others there; returns its descriptor.
    pub fn listen(&mut self, address: SocketAddr) -> RawFd {
        self.add_listener(address, Host::Queue)
    }

    pub(super) fn add_listener(&mut self, address: SocketAddr, host: Host) -> RawFd {
        self.listeners.push(Listener {
            address,
            host,
            is_open: true,
            queue: VecDeque::new(),
            descriptor_count: 1,
            rings: Vec::new(),
            raw: None,
        });
        FIRST_FD + self.listeners.len() as RawFd - 1
    }

    /// Makes an address answer nothing.
    pub fn be_silent(&mut self, address: SocketAddr) {
        self.link.silent.push(address);
    }

    /// The listener of a descriptor.
    pub(super) fn listener_index(&self, fd: RawFd) -> u32 {
        let index = fd - FIRST_FD;
        assert!(
            index >= 0 && (index as usize) < self.listeners.len(),
            "{fd} is no listener"
        );
        index as u32
    }

    /// Duplicates a listener's descriptor for another node.
    pub fn share_listener(&mut self, fd: RawFd) -> RawFd {
        let index = self.listener_index(fd);
        self.listeners[index as usize].descriptor_count += 1;
        fd
    }

    /// Closes a descriptor of a listener. Closing the last one ends the listener and resets the
    /// connections that wait there.
    pub(super) fn close_listener(&mut self, fd: RawFd) {
        let index = self.listener_index(fd);
        let listener = &mut self.listeners[index as usize];
        listener.descriptor_count -= 1;
        if listener.descriptor_count == 0 {
            self.end_listener(index);
        }
    }

    /// shutdown(2) on a listener: acts on all its descriptors.
    pub(super) fn shut_listener(&mut self, fd: RawFd) {
        let index = self.listener_index(fd);
        let count = self.listeners[index as usize].descriptor_count;
        assert!(
            count == 1,
            "a listener of {count} nodes is shut down by one of them"
        );
        self.close_listener(fd);
    }

    fn end_listener(&mut self, index: u32) {
        let listener = &mut self.listeners[index as usize];
        listener.is_open = false;
        for socket in std::mem::take(&mut listener.queue) {
            self.socket_mut(socket).is_closed = true;
            self.abort(socket);
        }
        self.wake_listener(index);
    }

    fn wake_listener(&mut self, index: u32) {
        for ring in &self.listeners[index as usize].rings {
            self.mail[*ring as usize].listeners.push(index);
        }
    }

    /// True if a poll reports the listener as readable.
    pub(super) fn is_acceptable(&self, index: u32) -> bool {
        let listener = &self.listeners[index as usize];
        !listener.is_open || !listener.queue.is_empty()
    }

    /// Connections that wait at a listener.
    pub(super) fn waiting(&mut self, fd: RawFd) -> u32 {
        let index = self.listener_index(fd);
        let count = self.listeners[index as usize].queue.len() as u32;
        if self.strikes(Fault::WaitingWrong) {
            // The count may be stale by then, or unknown: then the caller has to try.
            return self.random.between(1, u64::from(count) + 3) as u32;
        }
        count
    }

    /// Accepts a connection: the socket, or minus errno.
    pub(super) fn accept(&mut self, fd: RawFd, ring: u32) -> Result<u32, i32> {
        let index = self.listener_index(fd) as usize;
        if !self.listeners[index].is_open {
            return Err(-libc::EINVAL);
        }
        if self.strikes(Fault::AcceptFailed) {
            return Err(-self.random.pick(&[
                libc::EMFILE,
                libc::ENFILE,
                libc::ENOMEM,
                libc::ENOBUFS,
            ]));
        }
        let Some(socket) = self.listeners[index].queue.pop_front() else {
            self.faults.count(Fault::AcceptNothing);
            return Err(-libc::EAGAIN);
        };
        if self.strikes(Fault::AcceptLost) {
            self.socket_mut(socket).is_closed = true;
            self.abort(socket);
            return Err(-self
                .random
                .pick(&[libc::ECONNABORTED, libc::ENOMEM, libc::EPERM]));
        }
        self.socket_mut(socket).owner = Owner::Ring(ring);
        Ok(socket)
    }

    /// Where the peer of an accepted socket connected from. One that was not bound has one of few
    /// addresses.
    pub(super) fn source_of_peer(&self, socket: u32) -> SocketAddr {
        let peer = self
            .socket(socket)
            .peer
            .expect("an accepted one has a peer");
        let unbound = ([10, 0, 9, (peer % 4) as u8], 1_024 + (peer % 60_000) as u16);
        self.socket(peer).source.unwrap_or(unbound.into())
    }

    /// Starts to connect; `Err` if that fails at once.
    pub(super) fn connect(&mut self, id: u32, target: SocketAddr) -> Result<(), i32> {
        if self.strikes(Fault::PairTaken) {
            return Err(-libc::EADDRNOTAVAIL);
        }
        if self.strikes(Fault::ConnectFailed) {
            return Err(-self.random.pick(&[
                libc::ENETUNREACH,
                libc::EACCES,
                libc::EPERM,
                libc::ENOBUFS,
                libc::ECONNREFUSED,
                libc::EIO,
            ]));
        }
        let now_us = self.now_us();
        let socket = self.socket_mut(id);
        socket.stage = Stage::Connecting;
        socket.target = Some(target);
        socket.connect_us = now_us;
        let give_up_us = self.link.give_up_us;
        self.plan(give_up_us, Event::GiveUp(id));
        if self.strikes(Fault::ConnectUnreachable) {
            let errno =
                self.random
                    .pick(&[libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ECONNRESET]);
            let delay_us = self.delay_us();
            self.plan(delay_us, Event::Answer(id, errno));
        }
        self.send_syn(id);
        Ok(())
    }

    fn send_syn(&mut self, id: u32) {
        let delay_us = if self.strikes(Fault::SynLost) {
            self.link.syn_again_us
        } else {
            self.delay_us()
        };
        self.plan(delay_us, Event::Syn(id));
    }

    /// A SYN arrives.
    pub(super) fn on_syn(&mut self, id: u32) {
        let socket = self.socket(id);
        if socket.stage != Stage::Connecting || socket.peer.is_some() {
            return;
        }
        let target = socket.target.expect("who connects has a target");
        if self.link.silent.contains(&target) {
            return;
        }
        let open: Vec<u32> = (0..self.listeners.len() as u32)
            .filter(|i| {
                let listener = &self.listeners[*i as usize];
                listener.is_open && listener.address == target
            })
            .collect();
        if open.is_empty() {
            self.faults.count(Fault::ConnectRefused);
            let delay_us = self.delay_us();
            self.plan(delay_us, Event::Answer(id, libc::ECONNREFUSED));
            return;
        }
        let index = self.random.pick(&open);
        let backlog = self.link.backlog;
        if self.listeners[index as usize].queue.len() >= backlog {
            let again_us = self.link.syn_again_us;
            self.plan(again_us, Event::Syn(id));
            return;
        }
        let own = self.add_socket(Owner::Nobody);
        // The accepting side may send before the connecting one is open, which is when the SYN-ACK
        // arrives.
        self.socket_mut(own).stage = Stage::Open;
        self.socket_mut(own).peer = Some(id);
        self.socket_mut(id).peer = Some(own);
        self.note(
            "syn",
            [i64::from(id), i64::from(own), i64::from(index), 0],
            None,
        );
        let delay_us = self.delay_us();
        self.plan(delay_us, Event::Answer(id, 0));
        match self.listeners[index as usize].host {
            Host::Queue => {
                self.listeners[index as usize].queue.push_back(own);
                self.wake_listener(index);
            }
            Host::Raw => self.host_raw(own, index),
        }
    }

    /// The answer to a SYN arrives.
    pub(super) fn on_answer(&mut self, id: u32, errno: i32) {
        let socket = self.socket(id);
        let peer = socket.peer;
        if socket.stage != Stage::Connecting {
            if let (0, Some(peer), Stage::Dead) = (errno, peer, socket.stage) {
                // The attempt was given up meanwhile; the other side believes the connection open.
                self.send_reset_to(peer);
            }
            return;
        }
        match (errno, peer) {
            (0, Some(peer)) => {
                if self.socket(peer).stage == Stage::Dead {
                    // Reset before it was open.
                    return self.fail_connect(id, libc::ECONNRESET);
                }
                self.join(id, peer);
                // Bytes the peer has sent already follow.
                self.deliver(peer);
                self.wake(id);
            }
            (0, None) => {}
            (errno, _) => self.fail_connect(id, errno),
        }
    }

    pub(super) fn on_give_up(&mut self, id: u32) {
        if self.socket(id).stage == Stage::Connecting {
            self.faults.count(Fault::ConnectTimedOut);
            self.fail_connect(id, libc::ETIMEDOUT);
        }
    }

    fn fail_connect(&mut self, id: u32, errno: i32) {
        let socket = self.socket_mut(id);
        socket.stage = Stage::Dead;
        socket.error = Some(errno);
        if let Some(peer) = socket.peer
            && self.socket(peer).stage == Stage::Open
        {
            // The other side believed it open.
            let delay_us = self.delay_us();
            self.plan(delay_us, Event::Error(peer, libc::ECONNRESET));
        }
        self.note("fail", [i64::from(id), i64::from(errno), 0, 0], None);
        self.wake(id);
    }
}
