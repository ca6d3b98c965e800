//! Ten thousand peers that never finish a head: the others hardly notice, and all of them are cut.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::{Random, count, sum};
use crate::peer::{GET, HALF_GET, Peer, answers};
use crate::{Server, books};

const SLOW_COUNT: usize = 10_000;
const REQUESTS_PER_ROUND: usize = 4_000;
/// Each slow peer sends a byte in this time.
const BYTE_INTERVAL: Duration = Duration::from_secs(2);
const HEADER_TIMEOUT: &str = "15s";
/// No try begins after this, so that the last ends while the slow ones are still there.
const TRIES_MAX: Duration = Duration::from_secs(6);
/// Below this a difference is the machine's.
const P99_FLOOR: Duration = Duration::from_millis(1);

/// The 99th percentile of the times of a round of requests on a few kept connections.
fn p99(peers: &mut [Peer]) -> Duration {
    let peer_count = peers.len();
    let mut times: Vec<Duration> = (0..REQUESTS_PER_ROUND)
        .map(|number| {
            let since = Instant::now();
            assert_eq!(peers[number % peer_count].ask(GET).status, 200);
            since.elapsed()
        })
        .collect();
    times.sort();
    times[REQUESTS_PER_ROUND * 99 / 100]
}

fn median(mut times: [Duration; 3]) -> Duration {
    times.sort();
    times[1]
}

#[test]
#[ignore = "compares latencies, needs idle cores: make test"]
fn ten_thousand_slow_heads_time_out_without_disturbing_others() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    assert!(
        hard >= 12_000,
        "next: raise the hard limit, ulimit -Hn 12000"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit");
    // Two servers at the same time, so that their rounds can take turns on the same machine.
    let (alone, beset) = (
        Server::start(&[]),
        Server::start(&["--header-timeout", HEADER_TIMEOUT]),
    );
    let [mut at_alone, mut at_beset] =
        [&alone, &beset].map(|server| [(); 4].map(|()| Peer::new(server)));
    let began_at = Instant::now();
    let mut slow: Vec<TcpStream> = (0..SLOW_COUNT)
        .map(|_| {
            let mut peer = beset.connect();
            peer.write_all(HALF_GET).expect("taken");
            peer
        })
        .collect();
    beset.until_open(SLOW_COUNT as u64 + 4);

    let (is_dripping, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut tries = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(1);
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(BYTE_INTERVAL / (SLOW_COUNT as u32 / 100));
                if is_dripping.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        let place = random.below(SLOW_COUNT as u64) as usize;
                        let _ = (&slow[place]).write(b"x");
                    }
                }
            }
        });
        // What else this machine does can spoil a try, but hardly all there is time for.
        while tries.is_empty() || began_at.elapsed() < TRIES_MAX {
            let rounds = [(); 3].map(|()| {
                is_dripping.store(false, Ordering::Relaxed);
                let without = p99(&mut at_alone);
                is_dripping.store(true, Ordering::Relaxed);
                (without, p99(&mut at_beset))
            });
            let without = median(rounds.map(|round| round.0));
            let with = median(rounds.map(|round| round.1));
            tries.push((without, with));
            if with < 2 * without.max(P99_FLOOR) {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let (without, with) = tries[tries.len() - 1];
    assert!(
        with < 2 * without.max(P99_FLOOR),
        "without, with: {tries:?}"
    );
    // They were there all the time.
    assert_eq!(beset.running.fresh().open_now, SLOW_COUNT as u64 + 4);

    let asked = (tries.len() * 3 * REQUESTS_PER_ROUND) as u64;
    for peer in &mut slow {
        let heard = crate::common::read_to_end(peer).expect("an end in order");
        assert_eq!(answers(&heard, &[false])[0].status, 408);
    }
    drop(slow);
    drop((at_alone, at_beset));
    books(alone, asked);
    let report = books(beset, asked + SLOW_COUNT as u64);
    assert_eq!(count(&report.responses, "408"), SLOW_COUNT as u64);
    assert_eq!(count(&report.timed_out, "header"), SLOW_COUNT as u64);
    assert_eq!(sum(&report.timed_out), SLOW_COUNT as u64);
}
