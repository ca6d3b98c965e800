//! Commands to core threads, by the public API.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use holdfast_engine::{
    Config, Conn, Context, Engine, Handle, Handler, SendError, Shutdown, listen,
};

/// Far more than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a handler is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Tell it to the test.
    Say(u32),
    /// Pass it on to another thread.
    Pass(usize, u32),
    /// Hang for so many milliseconds.
    Hang(u64),
}

/// Tells the test what it is told.
struct Obedient {
    said: Sender<(usize, u32)>,
    handle: Option<Handle<Order>>,
    count: u64,
}

impl Handler for Obedient {
    type State = ();
    type Report = u64;
    type Command = Order;

    fn on_start(&mut self, _: &mut Context<'_, ()>, handle: &Handle<Order>) {
        self.handle = Some(handle.clone());
    }

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_command(&mut self, cx: &mut Context<'_, ()>, order: Order) {
        self.count += 1;
        match order {
            Order::Say(number) => self
                .said
                .send((cx.thread(), number))
                .expect("the test waits"),
            Order::Pass(to, number) => {
                let handle = self.handle.as_ref().expect("it was started");
                handle.send(to, Order::Say(number)).expect("room");
            }
            Order::Hang(ms) => std::thread::sleep(Duration::from_millis(ms)),
        }
    }

    fn report(&mut self, report: &mut u64) {
        *report = self.count;
    }
}

/// A thread with several rings sleeps on its event descriptor, not in a ring.
#[test]
fn commands_wake_a_thread_with_several_rings() {
    let config = Config::builder().capacity(100).ring_slots(64).build();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listeners, bound) = listen::listeners(&[anywhere], 1, None).expect("a port");
    let (said, heard) = channel();
    let engine = Engine::start(config.expect("a config"), listeners, None, |_| Obedient {
        said: said.clone(),
        handle: None,
        count: 0,
    });
    let engine = engine.expect("an engine");
    let _peers: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(bound[0]).expect("a connection"))
        .collect();
    let since = Instant::now();
    while engine.reports().map(|r| r.stats.shard_count).sum::<u64>() < 2 {
        assert!(since.elapsed() < PATIENCE, "no second ring");
        std::thread::sleep(Duration::from_millis(10));
    }
    for number in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        engine.handle().send(0, Order::Say(number)).expect("room");
        assert_eq!(heard.recv_timeout(PATIENCE), Ok((0, number)));
    }
}

fn start(threads: usize, commands_max: usize) -> (Engine<u64, Order>, Receiver<(usize, u32)>) {
    let config = Config::builder()
        .capacity(10)
        .thread_count(threads)
        .commands_max(commands_max)
        .build()
        .expect("a config");
    let (said, heard) = channel();
    let engine = Engine::start(config, vec![], None, |_| Obedient {
        said: said.clone(),
        handle: None,
        count: 0,
    });
    (engine.expect("an engine"), heard)
}

#[test]
fn commands_wake_sleeping_threads_in_order_and_broadcasts_reach_all() {
    let (engine, heard) = start(3, 100);
    let handle = engine.handle();
    for round in 0..20 {
        // Most of these find the thread asleep.
        std::thread::sleep(Duration::from_millis(round % 4));
        let thread = round as usize % 3;
        for number in 0..5 {
            handle.send(thread, Order::Say(number)).expect("room");
        }
        for number in 0..5 {
            assert_eq!(heard.recv_timeout(PATIENCE), Ok((thread, number)));
        }
    }
    handle.broadcast(Order::Say(7)).expect("room");
    let mut all: Vec<_> = (0..3)
        .map(|_| heard.recv_timeout(PATIENCE).unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, [(0, 7), (1, 7), (2, 7)]);
    handle.send(0, Order::Pass(2, 9)).expect("room");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok((2, 9)));
    // What a thread did before it went to sleep is reported all the same.
    let since = Instant::now();
    while engine.reports().map(|r| r.handler).sum::<u64>() < 105 {
        assert!(since.elapsed() < PATIENCE, "not reported");
        std::thread::sleep(Duration::from_millis(10));
    }
    let counted: u64 = engine.reports().map(|r| r.stats.commands).sum();
    assert_eq!(counted, 105);
    engine.stop(Shutdown::Graceful);
    engine.join().expect("it ended");
}

#[test]
fn full_mailbox_and_ended_engine_return_the_command() {
    let (engine, heard) = start(1, 4);
    let handle = engine.handle();
    handle.send(0, Order::Hang(300)).expect("room");
    std::thread::sleep(Duration::from_millis(100));
    let results: Vec<_> = (0..6).map(|n| handle.send(0, Order::Say(n))).collect();
    assert!(results[..4].iter().all(Result::is_ok), "{results:?}");
    for (number, result) in results.into_iter().enumerate().skip(4) {
        assert_eq!(result, Err(SendError::Full(Order::Say(number as u32))));
    }
    for number in 0..4 {
        assert_eq!(heard.recv_timeout(PATIENCE), Ok((0, number)));
    }
    engine.stop(Shutdown::Graceful);
    engine.join().expect("it ended");
    let late = Order::Say(9);
    assert_eq!(handle.send(0, late), Err(SendError::Ended(late)));
    assert_eq!(
        handle.broadcast(late),
        Err(vec![(0, SendError::Ended(late))])
    );
}

#[test]
fn commands_that_race_with_the_end_are_given_or_returned() {
    for round in 0..20 {
        let (engine, heard) = start(2, 1_000_000);
        let handle = engine.handle();
        let accepted: u64 = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..2)
                .map(|thread| {
                    let handle = handle.clone();
                    scope.spawn(move || {
                        (0..)
                            .take_while(|n| handle.send(thread, Order::Say(*n)).is_ok())
                            .count() as u64
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_micros(round * 200));
            engine.stop(Shutdown::Immediate);
            senders.into_iter().map(|s| s.join().unwrap()).sum()
        });
        engine.join().expect("it ended");
        assert_eq!(heard.try_iter().count() as u64, accepted);
    }
}
