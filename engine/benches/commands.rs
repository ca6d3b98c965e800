//! Commands: how long one takes to a thread that sleeps, and how many a thread takes in a second.
//!
//! Unlike the other benchmarks these run an engine on the kernel.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::ItemsCount;
use holdfast_engine::{Config, Conn, Context, Engine, Handler, SendError};

/// Commands of one sample.
const COUNT: usize = 1_000_000;
/// Longer than a thread is busy with a command.
const REST: Duration = Duration::from_millis(3);

/// Tells when each command came that carries a time, and each [`COUNT`]th of the others.
struct Telling {
    heard: Sender<Duration>,
    count: usize,
}

impl Handler for Telling {
    type State = ();
    type Report = ();
    type Command = Option<Instant>;

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_command(&mut self, _: &mut Context<'_, ()>, sent_at: Option<Instant>) {
        if let Some(sent_at) = sent_at {
            let _ = self.heard.send(sent_at.elapsed());
            return;
        }
        self.count += 1;
        if self.count == COUNT {
            self.count = 0;
            let _ = self.heard.send(Duration::ZERO);
        }
    }
}

fn start() -> (Engine<(), Option<Instant>>, Receiver<Duration>) {
    let (heard, told) = channel();
    let config = Config::builder().capacity(100).build().expect("a config");
    let engine = Engine::start(config, vec![], None, |_| Telling {
        heard: heard.clone(),
        count: 0,
    });
    (engine.expect("an engine"), told)
}

/// From `send` to `on_command`, the thread asleep. Prints percentiles, which a mean does not show.
#[divan::bench(sample_count = 1, sample_size = 1)]
fn command_to_a_sleeping_thread(bencher: Bencher<'_, '_>) {
    let (engine, told) = start();
    let handle = engine.handle();
    let told = Mutex::new(told);
    bencher.bench(|| {
        let told = told.lock().expect("nobody panicked");
        let mut latencies: Vec<Duration> = (0..2_000)
            .map(|_| {
                std::thread::sleep(REST);
                handle.send(0, Some(Instant::now())).expect("room");
                told.recv().expect("the thread answers")
            })
            .collect();
        latencies.sort_unstable();
        let quantile = |per_mille: usize| latencies[latencies.len() * per_mille / 1_000];
        println!(
            "\ncommand to a sleeping thread: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
            quantile(500),
            quantile(990),
            quantile(999),
            latencies[latencies.len() - 1]
        );
    });
}

/// Commands from `senders` threads to one core thread, which are sent again when its mailbox is
/// full.
#[divan::bench(args = [1, 2], sample_count = 10, sample_size = 1)]
fn commands_sustained(bencher: Bencher<'_, '_>, senders: usize) {
    let (engine, told) = start();
    let handle = engine.handle();
    let told = Mutex::new(told);
    bencher.counter(ItemsCount::new(COUNT)).bench(|| {
        std::thread::scope(|scope| {
            for _ in 0..senders {
                scope.spawn(|| {
                    for _ in 0..COUNT / senders {
                        while let Err(SendError::Full(_)) = handle.send(0, None) {
                            std::thread::sleep(Duration::from_micros(100));
                        }
                    }
                });
            }
        });
        told.lock()
            .expect("nobody panicked")
            .recv()
            .expect("all came");
    });
}
