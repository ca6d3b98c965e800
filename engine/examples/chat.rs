//! A chat: every line a member sends goes to all members, on all threads. Run it with
//! `cargo run --release -p holdfast-engine --example chat -- 127.0.0.1:7777`, join it with
//! `nc 127.0.0.1 7777`.
//!
//! A line is one shared buffer. The thread that receives it sends it to every thread as a command,
//! and each thread sends it to its members in slices, so that 100,000 members need no queue entry
//! each. A member costs 24 bytes of slot, 4 of state and 16 in the list. One that does not read is
//! closed as `stalled`; those that send faster than lines can be delivered are not read for a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_engine::{CloseReason, Config, Conn, ConnId, Context, Engine, Handle, Handler};
use holdfast_engine::{allowed_cores, listen::listeners};

/// Sends to members in one turn of a thread.
const SLICE: usize = 1_024;
/// Lines under way, counted for each thread; less than a mailbox holds.
const LINES_MAX: usize = 1_024;
/// How long until a member that was not read is tried again, microseconds.
const RETRY_US: u64 = 1_000;

/// The members of one thread.
#[derive(Default)]
pub struct Chat {
    handle: Option<Handle<Arc<[u8]>>>,
    /// Lines that some thread has not delivered to all its members yet; shared by all threads.
    under_way: Arc<AtomicUsize>,
    members: Vec<Option<ConnId>>,
    /// Places in `members` that are free.
    free: Vec<u32>,
    lines: VecDeque<Arc<[u8]>>,
    /// The member that the first line goes to next.
    next: usize,
    /// Members that are not read for now.
    paused: Vec<ConnId>,
}

impl Chat {
    /// The members of a thread; all threads of an engine are given the same counter.
    pub fn new(under_way: Arc<AtomicUsize>) -> Self {
        Chat {
            under_way,
            ..Chat::default()
        }
    }

    fn broadcast(&self, line: &[u8]) {
        let handle = self.handle.as_ref().expect("the thread has started");
        self.under_way
            .fetch_add(handle.thread_count(), Ordering::Relaxed);
        // Threads that have ended have no members.
        let failed = handle.broadcast(Arc::from(line)).err();
        let count = failed.map_or(0, |threads| threads.len());
        self.under_way.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Handler for Chat {
    /// The place in `members`.
    type State = u32;
    type Report = ();
    type Command = Arc<[u8]>;

    fn on_start(&mut self, _: &mut Context<'_, u32>, handle: &Handle<Arc<[u8]>>) {
        self.handle = Some(handle.clone());
    }

    fn on_open(&mut self, conn: &mut Conn<'_, u32>) {
        let place = self.free.pop().unwrap_or_else(|| {
            if self.members.len() == self.members.capacity() {
                // Growing by an eighth wastes less than doubling.
                self.members.reserve_exact(self.members.len() / 8 + 64);
            }
            self.members.push(None);
            self.members.len() as u32 - 1
        });
        self.members[place as usize] = Some(conn.id());
        *conn.state = place;
    }

    fn on_bytes(&mut self, conn: &mut Conn<'_, u32>, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(length) = bytes[used..].iter().position(|byte| *byte == b'\n') {
            if self.under_way.load(Ordering::Relaxed) >= LINES_MAX {
                conn.pause_reading();
                self.paused.push(conn.id());
                break;
            }
            self.broadcast(&bytes[used..=used + length]);
            used += length + 1;
        }
        used
    }

    fn on_timer(&mut self, _: &mut Conn<'_, u32>) {}

    fn on_close(&mut self, _: &mut Context<'_, u32>, id: ConnId, place: &u32, _: CloseReason) {
        self.members[*place as usize] = None;
        self.free.push(*place);
        self.paused.retain(|paused| *paused != id);
    }

    fn on_command(&mut self, _: &mut Context<'_, u32>, line: Arc<[u8]>) {
        self.lines.push_back(line);
    }

    fn on_turn(&mut self, cx: &mut Context<'_, u32>) -> Option<u64> {
        let mut room = SLICE.min(cx.queue_room());
        while let Some(line) = self.lines.front() {
            let members = &self.members[self.next..];
            for id in members.iter().take(room).flatten() {
                cx.send(*id, Arc::clone(line)).expect("there is room");
            }
            self.next += members.len().min(room);
            room -= members.len().min(room);
            if self.next < self.members.len() {
                return Some(cx.now_us());
            }
            self.next = 0;
            self.lines.pop_front();
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
        if self.under_way.load(Ordering::Relaxed) < LINES_MAX {
            let count = self.paused.len().min(room);
            for id in self.paused.drain(..count) {
                cx.resume_reading(id).expect("there is room");
            }
        }
        (!self.paused.is_empty()).then(|| cx.now_us() + RETRY_US)
    }
}

#[allow(dead_code)] // Where tests use this file as a module.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7777".into());
    let cores = allowed_cores();
    let (listeners, bound) = listeners(&[address.parse()?], cores.len(), None)?;
    let config = Config::builder()
        .thread_count(cores.len())
        .cores(cores)
        .build()?;
    let chat = Chat::default();
    let make_chat = |_| Chat::new(Arc::clone(&chat.under_way));
    let engine = Engine::start(config, listeners, None, make_chat)?;
    println!("chatting on {}", bound[0]);
    Ok(engine.join()?)
}
