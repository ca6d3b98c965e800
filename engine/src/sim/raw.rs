//! Scripted peers: they speak to a simulated socket directly, as badly as they like.
//!
//! Invariants: a script ends; its socket is closed then.
//! Must not depend on: engines, protocols.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::listener::Host;
use super::script::{Raw, Reading, Script, Step};
use super::socket::{Owner, Stage};
use super::world::{Event, World};

impl World {
    /// A scripted peer connects to `target` after a time.
    pub fn connect_raw(&mut self, after_us: u64, target: SocketAddr, script: Script) {
        let raw = self.raws.len() as u32;
        let socket = self.add_socket(Owner::Raw(raw));
        self.add_raw(socket, script);
        self.raws[raw as usize].paused_until_us = self.now_us() + after_us;
        let socket = self.socket_mut(socket);
        socket.target = Some(target);
        self.plan_raw(raw, after_us);
    }

    /// Scripted peers listen at `address`; each newcomer meets one of `scripts`, by chance.
    pub fn listen_raw(&mut self, address: SocketAddr, scripts: Vec<Script>) -> RawFd {
        let fd = self.add_listener(address, Host::Raw);
        let index = self.listener_index(fd);
        // The scripts lie with a peer of their own, which is never on a socket.
        let socket = self.add_socket(Owner::Nobody);
        self.socket_mut(socket).is_closed = true;
        self.add_raw(
            socket,
            Script {
                steps: Vec::new(),
                reading: Reading::Never,
                lasts_us: 0,
            },
        );
        let raw = self.raws.len() - 1;
        self.raws[raw].scripts = scripts;
        self.listeners[index as usize].raw = Some(raw as u32);
        fd
    }

    pub(super) fn host_raw(&mut self, socket: u32, listener: u32) {
        let from = self.listeners[listener as usize]
            .raw
            .expect("a listener of scripted peers");
        let count = self.raws[from as usize].scripts.len() as u64;
        let choice = self.random.below(count) as usize;
        let script = self.raws[from as usize].scripts[choice].clone();
        let raw = self.raws.len() as u32;
        self.add_raw(socket, script);
        self.socket_mut(socket).owner = Owner::Raw(raw);
        self.plan_raw(raw, 0);
    }

    fn add_raw(&mut self, socket: u32, script: Script) {
        self.raws.push(Raw {
            socket,
            steps: script.steps.into(),
            reading: script.reading,
            until_us: self.now_us() + script.lasts_us,
            read_count: 0,
            has_ended: false,
            paused_until_us: 0,
            acts_at_us: None,
            scripts: Vec::new(),
        });
    }

    /// A scripted peer reads what it reads, and does what it can do now.
    pub(super) fn act(&mut self, id: u32) {
        let now_us = self.now_us();
        let raw = &mut self.raws[id as usize];
        if raw.acts_at_us != Some(now_us) {
            return;
        }
        raw.acts_at_us = None;
        let (socket, paused_until_us) = (raw.socket, raw.paused_until_us);
        if self.socket(socket).is_closed {
            return;
        }
        if now_us < paused_until_us {
            return self.plan_raw(id, paused_until_us - now_us);
        }
        match self.socket(socket).stage {
            Stage::New => {
                let target = self.socket(socket).target.expect("where it connects to");
                let until_us = self.raws[id as usize].until_us;
                self.plan_raw(id, until_us.saturating_sub(now_us) + 1);
                if self.connect(socket, target).is_err() {
                    self.close(socket);
                }
                return;
            }
            Stage::Connecting if now_us < self.raws[id as usize].until_us => return,
            Stage::Connecting | Stage::Dead => return self.close(socket),
            Stage::Open => {}
        }
        self.read_raw(id, socket);
        for _ in 0..8 {
            if now_us >= self.raws[id as usize].until_us {
                return self.close(socket);
            }
            let raw = &mut self.raws[id as usize];
            let Some(step) = raw.steps.front_mut() else {
                return self.close(socket);
            };
            match step {
                Step::Send(bytes, piece_max) => {
                    let piece_max = *piece_max as u64;
                    let count = bytes.len().min(self.random.between(1, piece_max) as usize);
                    let piece: Vec<u8> = bytes[..count].to_vec();
                    let sent = self.send(socket, &piece, false);
                    if sent < 0 && sent != -libc::EAGAIN {
                        return self.close(socket);
                    }
                    let Some(Step::Send(bytes, _)) = self.raws[id as usize].steps.front_mut()
                    else {
                        unreachable!("nobody else takes steps")
                    };
                    bytes.drain(..sent.max(0) as usize);
                    if bytes.is_empty() {
                        self.raws[id as usize].steps.pop_front();
                        continue;
                    }
                    let after_us = self.random.magnitude(1, 20_000);
                    return self.plan_raw(id, after_us);
                }
                Step::Pause(time_us) => {
                    let time_us = *time_us;
                    raw.paused_until_us = now_us + time_us;
                    raw.steps.pop_front();
                    return self.plan_raw(id, time_us);
                }
                Step::Await(count) if raw.read_count < *count && !raw.has_ended => break,
                Step::AwaitEnd if !raw.has_ended => break,
                Step::Await(_) | Step::AwaitEnd => {}
                Step::HalfClose => {
                    self.end_sending(socket);
                }
                Step::Reset => {
                    self.socket_mut(socket).resets_on_close = true;
                    return self.close(socket);
                }
            }
            self.raws[id as usize].steps.pop_front();
        }
        let until_us = self.raws[id as usize].until_us;
        let after_us = self.random.magnitude(50, 200_000);
        let after_us = after_us.min(until_us.saturating_sub(now_us)).max(1);
        self.plan_raw(id, after_us);
    }

    /// A scripted peer acts in `after_us`, or as soon as it was going to.
    pub(super) fn plan_raw(&mut self, id: u32, after_us: u64) {
        let at_us = self.now_us() + after_us;
        let raw = &mut self.raws[id as usize];
        if raw.acts_at_us.is_none_or(|us| us > at_us) {
            raw.acts_at_us = Some(at_us);
            self.plan(after_us, Event::Raw(id));
        }
    }

    fn read_raw(&mut self, id: u32, socket: u32) {
        let mut room = match self.raws[id as usize].reading {
            Reading::All => usize::MAX,
            Reading::Slow(count) => count,
            Reading::Never => return,
        };
        let mut piece = [0; 512];
        while room > 0 {
            let most = room.min(piece.len());
            match self.recv(socket, &mut piece[..most]) {
                0 => {
                    self.raws[id as usize].has_ended = true;
                    return;
                }
                count @ 1.. => {
                    self.raws[id as usize].read_count += count as usize;
                    room -= count as usize;
                }
                error => {
                    self.raws[id as usize].has_ended |= error != -libc::EAGAIN;
                    return;
                }
            }
        }
    }
}
