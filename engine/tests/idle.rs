//! An idle engine costs nothing. Alone in its process: it looks at all core threads of the process.

use std::time::{Duration, Instant};

use holdfast_engine::{Config, Conn, Engine, Handler, Shutdown};

/// Far more than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Silent;

impl Handler for Silent {
    type State = ();
    type Report = ();
    type Command = ();

    fn on_open(&mut self, _: &mut Conn<'_, ()>) {}

    fn on_bytes(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _: &mut Conn<'_, ()>) {}
}

#[test]
fn idle_threads_are_never_woken_and_stop_at_once() {
    let config = Config::builder().capacity(10).thread_count(2).build();
    let engine = Engine::start(config.expect("a config"), vec![], None, |_| Silent);
    let engine = engine.expect("an engine");
    // The first report comes after 200 ms.
    std::thread::sleep(Duration::from_millis(500));
    let before = sleeps();
    assert_eq!(before.len(), 2);
    std::thread::sleep(Duration::from_millis(1_000));
    assert_eq!(sleeps(), before, "woken for nothing");
    let since = Instant::now();
    engine.stop(Shutdown::Graceful);
    engine.join().expect("it ended");
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
}

/// How often each core thread has gone to sleep.
fn sleeps() -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let status = tasks.map(|task| {
        let path = task.expect("a thread").path().join("status");
        std::fs::read_to_string(path).unwrap_or_default()
    });
    status
        .filter(|text| text.starts_with("Name:\tcore-"))
        .map(|text| {
            let line = text
                .lines()
                .find(|l| l.starts_with("voluntary_ctxt_switches"));
            let count = line.and_then(|l| l.split_whitespace().nth(1));
            count.and_then(|n| n.parse().ok()).expect("a count")
        })
        .collect()
}
