//! What other threads tell a core thread: commands to its handler, and the order to shut down.
//!
//! A core thread without work sleeps in its ring, and a sender wakes it through a descriptor that
//! the ring polls. A thread that is awake looks into its mailbox every turn, so nobody wakes it, and
//! an empty mailbox costs it one load.
//!
//! No wake-up is lost. A sender first puts its command in and then looks whether the thread sleeps
//! ([`Mailbox::wake_sleeper`]); the thread first says that it sleeps and then looks whether there is
//! a command ([`Mailbox::may_sleep`]). Both do so around a sequentially consistent fence, and of two
//! such fences one is first. If it is the sender's, the thread sees the command and does not sleep.
//! If it is the thread's, the sender sees that it sleeps and signals the descriptor, which stays
//! signalled until the thread clears it: a thread that has not got to sleep yet does not sleep then.
//! `make loom` tries every order.
//!
//! Invariants: a command is given to the handler once, or returned to its sender; those of one
//! sender are given in the order they were sent; a thread never sleeps while its mailbox has a
//! command or an order it does not know.
//! Must not depend on: rings, handlers, what a command means.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

#[cfg(not(loom))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicUsize, fence},
};

// `make loom` tries every order in which threads may use a mailbox.
#[cfg(loom)]
use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicUsize, fence},
};

/// How an engine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Listeners are closed once the connections in their queues are accepted, nothing is dialled,
    /// and [`Handler::on_stop`](crate::Handler::on_stop) is called for every connection. Connections
    /// that take too long are aborted.
    Graceful,
    /// Every connection is aborted.
    Immediate,
}

/// What a core thread was ordered to do, beside its handler's commands. Orders are not taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ordered {
    /// Accept nothing any more, and go on.
    pub releases_listeners: bool,
    /// Shut down: the hardest way that was ordered.
    pub shutdown: Option<Shutdown>,
}

/// Why a command was not sent. It is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<C> {
    /// The thread has as many commands waiting as
    /// [`ConfigBuilder::commands_max`](crate::ConfigBuilder::commands_max) allows: send again later.
    Full(C),
    /// The thread has ended, so nobody takes commands any more.
    Ended(C),
}

impl<C> SendError<C> {
    /// The command.
    pub fn into_command(self) -> C {
        match self {
            SendError::Full(command) | SendError::Ended(command) => command,
        }
    }
}

impl<C> fmt::Debug for SendError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "Full(..)",
            SendError::Ended(_) => "Ended(..)",
        })
    }
}

impl<C> fmt::Display for SendError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "the mailbox of the core thread is full",
            SendError::Ended(_) => "the core thread has ended",
        })
    }
}

impl<C> std::error::Error for SendError<C> {}

/// Sends commands to the core threads of one engine, from any thread. Cloning is cheap, and clones
/// may outlive the engine: then every command comes back as [`SendError::Ended`].
pub struct Handle<C> {
    mailboxes: Arc<Vec<Mailbox<C>>>,
}

impl<C> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Handle {
            mailboxes: Arc::clone(&self.mailboxes),
        }
    }
}

impl<C> fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("thread_count", &self.thread_count())
            .finish_non_exhaustive()
    }
}

impl<C> Handle<C> {
    pub(crate) fn new(mailboxes: Vec<Mailbox<C>>) -> Self {
        Handle {
            mailboxes: Arc::new(mailboxes),
        }
    }

    pub(crate) fn mailbox(&self, thread: usize) -> &Mailbox<C> {
        &self.mailboxes[thread]
    }

    /// Core threads, numbered from 0.
    pub fn thread_count(&self) -> usize {
        self.mailboxes.len()
    }

    /// Sends a command to one thread: [`Handler::on_command`](crate::Handler::on_command) gets it,
    /// once. A thread that sleeps is woken at once; one that is busy takes it in its next turn, after
    /// [`ConfigBuilder::batch_delay`](crate::ConfigBuilder::batch_delay) at most. Commands of one
    /// sender to one thread arrive in order. A command to a thread that is just ending is still
    /// given to its handler; it is lost only if the thread panics or the kernel stops serving it.
    ///
    /// # Errors
    /// [`SendError`] with the command: the mailbox is full, or the thread has ended. Never waits.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn send(&self, thread: usize, command: C) -> Result<(), SendError<C>> {
        self.mailboxes[thread].send(command)
    }

    /// Sends a copy of a command to every thread.
    ///
    /// # Errors
    /// Each thread that did not take it, with the reason; the others did.
    pub fn broadcast(&self, command: C) -> Result<(), Vec<(usize, SendError<C>)>>
    where
        C: Clone,
    {
        let failed: Vec<_> = (0..self.thread_count())
            .filter_map(|thread| {
                let sent = self.send(thread, command.clone());
                sent.err().map(|error| (thread, error))
            })
            .collect();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed),
        }
    }

    /// Orders every thread to give its listeners up.
    pub(crate) fn release_listeners(&self) {
        let mailboxes = self.mailboxes.iter();
        mailboxes.for_each(|mailbox| mailbox.release_listeners());
    }

    /// Orders every thread to shut down.
    pub(crate) fn stop(&self, how: Shutdown) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.stop(how));
    }
}

/// Wakes a thread that sleeps in its ring.
pub trait Wake: Send + Sync {
    /// What the ring polls: readable once [`Wake::wake`] was called, until [`Wake::clear`].
    fn fd(&self) -> RawFd;
    /// Makes the descriptor readable.
    fn wake(&self);
    /// Makes it unreadable again.
    fn clear(&self);
}

/// What other threads have told one core thread. See the file's head.
pub struct Mailbox<C> {
    queue: Mutex<Queue<C>>,
    /// Commands in the queue. Written under its lock.
    len: AtomicUsize,
    /// One bit for each kind of order.
    orders: AtomicU8,
    /// The thread sleeps or is about to, and nobody has woken it.
    is_sleeping: AtomicBool,
    capacity: usize,
    waker: Box<dyn Wake>,
}

const RELEASE_LISTENERS: u8 = 1;
const STOP: u8 = 2;
const ABORT: u8 = 4;

struct Queue<C> {
    commands: VecDeque<C>,
    has_ended: bool,
}

impl<C> Mailbox<C> {
    /// An empty mailbox for at most `capacity` commands.
    pub fn new(capacity: usize, waker: Box<dyn Wake>) -> Self {
        Mailbox {
            queue: Mutex::new(Queue {
                commands: VecDeque::new(),
                has_ended: false,
            }),
            len: AtomicUsize::new(0),
            orders: AtomicU8::new(0),
            is_sleeping: AtomicBool::new(false),
            capacity,
            waker,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<C>> {
        // Nothing in here panics half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: C) -> Result<(), SendError<C>> {
        {
            let mut queue = self.queue();
            if queue.has_ended {
                return Err(SendError::Ended(command));
            }
            if queue.commands.len() >= self.capacity {
                return Err(SendError::Full(command));
            }
            queue.commands.push_back(command);
            self.len.store(queue.commands.len(), Ordering::Release);
        }
        self.wake_sleeper();
        Ok(())
    }

    pub(crate) fn release_listeners(&self) {
        self.order(RELEASE_LISTENERS);
    }

    pub(crate) fn stop(&self, how: Shutdown) {
        self.order(match how {
            Shutdown::Graceful => STOP,
            Shutdown::Immediate => ABORT,
        });
    }

    fn order(&self, bit: u8) {
        self.orders.fetch_or(bit, Ordering::Release);
        self.wake_sleeper();
    }

    fn wake_sleeper(&self) {
        fence(Ordering::SeqCst);
        // One of several senders wakes it.
        let is_sleeping = self.is_sleeping.load(Ordering::Relaxed)
            && self
                .is_sleeping
                .compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_sleeping {
            self.waker.wake();
        }
    }

    /// What was ordered so far.
    pub(crate) fn ordered(&self) -> Ordered {
        let bits = self.orders.load(Ordering::Acquire);
        let shutdown = match bits & (STOP | ABORT) {
            0 => None,
            STOP => Some(Shutdown::Graceful),
            _ => Some(Shutdown::Immediate),
        };
        Ordered {
            releases_listeners: bits & RELEASE_LISTENERS != 0,
            shutdown,
        }
    }

    /// True if no command waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Moves the first commands, at most `max`, to the end of `taken`.
    pub(crate) fn take(&self, taken: &mut Vec<C>, max: usize) {
        let mut queue = self.queue();
        let count = queue.commands.len().min(max);
        taken.extend(queue.commands.drain(..count));
        self.len.store(queue.commands.len(), Ordering::Release);
    }

    /// Says that the thread is about to sleep; false if it must not, because there is a command, or
    /// an order other than `known`. After a sleep, [`Mailbox::has_woken`] must be called.
    pub(crate) fn may_sleep(&self, known: Ordered) -> bool {
        self.is_sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let may_sleep = self.is_empty() && self.ordered() == known;
        if !may_sleep {
            self.has_woken();
        }
        may_sleep
    }

    /// Says that the thread is awake.
    pub(crate) fn has_woken(&self) {
        // A swap where a store would do: loom does not order a store behind an exchange of another
        // thread.
        self.is_sleeping.swap(false, Ordering::Relaxed);
    }

    /// Takes no more commands; returns those that wait.
    pub(crate) fn end(&self) -> VecDeque<C> {
        let mut queue = self.queue();
        queue.has_ended = true;
        self.len.store(0, Ordering::Release);
        std::mem::take(&mut queue.commands)
    }

    /// What wakes the thread.
    pub(crate) fn waker(&self) -> &dyn Wake {
        &*self.waker
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Counts how often it was woken.
    struct Count(Arc<AtomicUsize>);

    impl Wake for Count {
        fn fd(&self) -> RawFd {
            -1
        }

        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn clear(&self) {}
    }

    fn handle(threads: usize, capacity: usize) -> (Handle<u32>, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailboxes =
            (0..threads).map(|_| Mailbox::new(capacity, Box::new(Count(Arc::clone(&wakes)))));
        (Handle::new(mailboxes.collect()), wakes)
    }

    #[test]
    fn full_mailbox_and_ended_thread_return_the_command() {
        let (handle, _) = handle(2, 2);
        assert_eq!(handle.send(0, 1), Ok(()));
        assert_eq!(handle.send(0, 2), Ok(()));
        assert_eq!(handle.send(0, 3), Err(SendError::Full(3)));
        assert_eq!(handle.broadcast(4), Err(vec![(0, SendError::Full(4))]));
        let mut taken = Vec::new();
        handle.mailbox(0).take(&mut taken, 1);
        assert_eq!(handle.send(0, 5), Ok(()));
        handle.mailbox(0).take(&mut taken, 10);
        assert_eq!(taken, [1, 2, 5]);
        assert_eq!(handle.mailbox(1).end(), [4], "the broadcast reached it");
        assert_eq!(handle.send(1, 6), Err(SendError::Ended(6)));
        assert!(handle.mailbox(0).is_empty() && handle.mailbox(1).is_empty());
    }

    #[test]
    fn only_a_sleeping_thread_is_woken_and_only_once() {
        let (handle, wakes) = handle(1, 10);
        let mailbox = handle.mailbox(0);
        handle.send(0, 1).expect("room");
        let none = Ordered::default();
        assert!(!mailbox.may_sleep(none), "there is a command");
        mailbox.take(&mut Vec::new(), 10);
        assert_eq!(wakes.load(Ordering::Relaxed), 0);
        assert!(mailbox.may_sleep(none));
        handle.send(0, 2).expect("room");
        handle.send(0, 3).expect("room");
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        mailbox.take(&mut Vec::new(), 10);
        handle.stop(Shutdown::Immediate);
        handle.stop(Shutdown::Graceful);
        assert!(!mailbox.may_sleep(none), "there is an order");
        let known = mailbox.ordered();
        assert_eq!(known.shutdown, Some(Shutdown::Immediate));
        assert!(mailbox.may_sleep(known));
        mailbox.has_woken();
        handle.stop(Shutdown::Immediate);
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Notify;
    use loom::thread;

    /// A descriptor that a thread sleeps on.
    struct Descriptor(Arc<Notify>);

    impl Wake for Descriptor {
        fn fd(&self) -> RawFd {
            -1
        }

        fn wake(&self) {
            self.0.notify();
        }

        fn clear(&self) {}
    }

    /// A core thread: takes commands and sleeps, until it is ordered to stop. Returns what it took.
    fn serve(handle: &Handle<u32>, descriptor: &Notify) -> Vec<u32> {
        let mailbox = handle.mailbox(0);
        let mut taken = Vec::new();
        loop {
            let ordered = mailbox.ordered();
            if !mailbox.is_empty() {
                mailbox.take(&mut taken, 1);
            }
            if ordered.shutdown.is_some() {
                taken.extend(mailbox.end());
                return taken;
            }
            if mailbox.may_sleep(ordered) {
                // Loom fails when everybody sleeps for ever.
                descriptor.wait();
                mailbox.has_woken();
            }
        }
    }

    fn run(senders: impl FnOnce(&Handle<u32>) -> Vec<u32>) {
        let descriptor = Arc::new(Notify::new());
        let waker = Box::new(Descriptor(Arc::clone(&descriptor)));
        let handle = Handle::new(vec![Mailbox::new(2, waker)]);
        let own = handle.clone();
        let core = thread::spawn(move || serve(&own, &descriptor));
        let sent = senders(&handle);
        let mut taken = core.join().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, sent, "each command is taken once or returned");
    }

    /// In every order a sleeping thread is woken, by a command as by the order to stop.
    #[test]
    fn no_wake_up_is_lost_in_any_order() {
        loom::model(|| {
            run(|handle| {
                handle.send(0, 1).expect("room");
                handle.stop(Shutdown::Graceful);
                vec![1]
            });
        });
    }

    /// In every order of a sender and a shutdown, a command is taken or returned.
    #[test]
    fn command_that_races_with_the_end_is_taken_once_or_returned() {
        loom::model(|| {
            run(|handle| {
                let other = handle.clone();
                let sender = thread::spawn(move || other.send(0, 1).is_ok());
                handle.stop(Shutdown::Immediate);
                match sender.join().unwrap() {
                    true => vec![1],
                    false => vec![],
                }
            });
        });
    }
}
