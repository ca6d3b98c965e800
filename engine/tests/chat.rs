//! The example `chat` on real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::{CloseReason, Config, Engine, Shutdown, Stats, listen};

#[path = "../examples/chat.rs"]
mod chat;

/// Far more than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

type ChatEngine = Engine<(), Arc<[u8]>>;

fn start(threads: usize) -> (ChatEngine, Vec<SocketAddr>) {
    // A port for each thread, so that a test says where its members are.
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut all = Vec::new();
    let mut bound = Vec::new();
    for _ in 0..threads {
        let (listeners, addresses) = listen::listeners(&[anywhere], 1, None).expect("a port");
        all.extend(listeners);
        bound.extend(addresses);
    }
    let config = Config::builder()
        .capacity(1_000)
        .thread_count(threads)
        .ring_slots(100)
        .shared_bytes_max(100_000)
        .build();
    let under_way = Arc::default();
    let engine = Engine::start(config.expect("a config"), all, None, |_| {
        chat::Chat::new(Arc::clone(&under_way))
    });
    (engine.expect("an engine"), bound)
}

/// `count` members, in turns on all threads.
fn join(engine: &ChatEngine, bound: &[SocketAddr], count: usize) -> Vec<BufReader<TcpStream>> {
    let join = |number| {
        let member = TcpStream::connect(bound[number % bound.len()]).expect("a connection");
        member.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(member)
    };
    let members = (0..count).map(join).collect();
    wait_for(engine, |stats| stats.accepted == count as u64);
    members
}

fn stats(engine: &ChatEngine) -> Stats {
    let mut sum = Stats::default();
    engine.reports().for_each(|report| sum.merge(&report.stats));
    sum
}

fn wait_for(engine: &ChatEngine, holds: impl Fn(&Stats) -> bool) {
    let since = Instant::now();
    while !holds(&stats(engine)) {
        assert!(since.elapsed() < PATIENCE, "{:?}", stats(engine));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn members_on_all_threads_see_all_lines_in_order() {
    let (engine, bound) = start(2);
    // More than one ring holds, on both threads.
    let mut members = join(&engine, &bound, 140);
    const LINES: usize = 200;
    let senders: Vec<_> = members[..4]
        .iter()
        .map(|member| member.get_ref().try_clone().expect("a descriptor"))
        .collect();
    for (sender, mut stream) in senders.into_iter().enumerate() {
        std::thread::spawn(move || {
            for number in 0..LINES {
                // In pieces that do not end where lines do.
                write!(stream, "{sender} ").expect("sent");
                writeln!(stream, "{number}").expect("sent");
            }
        });
    }
    for member in &mut members {
        let mut next = [0; 4];
        for _ in 0..4 * LINES {
            let mut line = String::new();
            member.read_line(&mut line).expect("a line");
            let (sender, number) = line.trim_end().split_once(' ').expect("two numbers");
            let sender: usize = sender.parse().expect("a number");
            assert_eq!(number, next[sender].to_string(), "of {sender}");
            next[sender] += 1;
        }
        assert_eq!(next, [LINES; 4]);
    }
    assert_eq!(stats(&engine).stale_ids, 0);
    drop(members);
    engine.stop(Shutdown::Graceful);
    engine.join().expect("it ended");
}

#[test]
fn member_that_does_not_read_is_dropped_with_a_reason() {
    let (engine, bound) = start(2);
    let mut members = join(&engine, &bound, 2);
    let (reader, stalled) = (members.pop().expect("two"), members);
    let mut sender = reader.get_ref().try_clone().expect("a descriptor");
    let mut line = vec![b'x'; 10_000];
    line.push(b'\n');
    let reading = std::thread::spawn(move || {
        let mut reader = reader;
        let mut sink = [0; 65_536];
        while reader.read(&mut sink).is_ok_and(|count| count > 0) {}
    });
    let since = Instant::now();
    while stats(&engine).closed[CloseReason::Stalled as usize] == 0 {
        assert!(since.elapsed() < PATIENCE, "{:?}", stats(&engine));
        sender.write_all(&line).expect("the sender is read");
    }
    assert_eq!(stats(&engine).open_now, 1);
    drop((stalled, sender));
    engine.stop(Shutdown::Immediate);
    engine.join().expect("it ended");
    reading.join().expect("it read to the end");
}
