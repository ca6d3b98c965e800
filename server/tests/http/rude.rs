//! Peers that reset, stop in the middle, or never read: they cost a bounded amount, and nobody else
//! notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

use crate::common::{Folder, count, sum};
use crate::peer::{GET, HALF_GET, Peer};
use crate::{MIB, Server, books};

const BODY_BYTES: usize = 20_000_000;
const DEAF_COUNT: u64 = 1_000;

#[test]
fn resets_in_the_middle_of_anything_are_counted_and_no_more() {
    let folder = Folder::new("http-resets");
    std::fs::write(folder.file("body"), vec![b'x'; BODY_BYTES]).unwrap();
    let server = Server::start(&["--body-file", &folder.file("body")]);
    let half_body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf";
    let half_chunk = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nhalf";
    let unfinished: [&[u8]; 4] = [b"", HALF_GET, half_body, half_chunk];
    let mut received = 0;
    for _ in 0..10 {
        let peers: Vec<Peer> = unfinished
            .iter()
            .map(|said| {
                let mut peer = Peer::new(&server);
                peer.say(said);
                received += said.len() as u64;
                peer
            })
            .collect();
        for peer in peers {
            peer.reset();
        }
        for said in [GET, &[GET; 50].concat()] {
            let mut peer = Peer::new(&server);
            peer.say(said);
            let mut piece = [0; 100_000];
            peer.stream.read_exact(&mut piece).expect("it began");
            peer.reset();
        }
    }
    let report = server
        .running
        .until("all are gone", |r| r.accepted == 60 && r.open_now == 0);
    assert_eq!(count(&report.closed, "reset"), 60, "{:?}", report.closed);
    assert!(report.bytes_received >= received);
    let mut polite = Peer::new(&server);
    assert_eq!(polite.ask(GET).body.len(), BODY_BYTES);
    assert_eq!(polite.finish(), b"");
    let answered = sum(&report.responses) + 1;
    assert!(answered > 20, "{answered}");
    let report = books(server, answered);
    assert_eq!(sum(&report.timed_out), 0);
}

#[test]
fn halves_that_end_in_order_are_not_answered() {
    let server = Server::start(&[]);
    let halves: [&[u8]; 3] = [
        HALF_GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for said in halves {
        let mut peer = Peer::new(&server);
        peer.say(said);
        assert_eq!(peer.finish(), b"");
    }
    let report = books(server, 0);
    assert_eq!(count(&report.closed, "peer_closed"), 3);
}

/// A peer whose kernel takes little: small segments keep the send buffer of the other side at its
/// least, or a thousand of them would fill the kernel's memory, which is not what is looked at
/// here.
fn small_peer(address: SocketAddr) -> TcpStream {
    let (family, flags) = (AddressFamily::Inet, SockFlag::SOCK_CLOEXEC);
    let socket = socket(family, SockType::Stream, flags, None).expect("a socket");
    setsockopt(&socket, sockopt::TcpMaxSeg, &1_000).expect("a socket");
    setsockopt(&socket, sockopt::RcvBuf, &4_096).expect("a socket");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("a connection");
    socket.into()
}

#[test]
fn thousand_peers_that_never_read_use_little_memory() {
    let folder = Folder::new("http-deaf");
    std::fs::write(folder.file("body"), vec![b'x'; BODY_BYTES]).unwrap();
    let server = Server::start(&["--body-file", &folder.file("body")]);
    let mut polite = Peer::new(&server);
    assert_eq!(polite.ask(GET).body.len(), BODY_BYTES);
    let rss_before = server.running.rss_bytes();
    let flood = [GET; 400].concat();
    let deaf: Vec<TcpStream> = (0..DEAF_COUNT)
        .map(|_| {
            let mut peer = small_peer(server.address);
            peer.write_all(GET).expect("taken");
            peer.set_nonblocking(true).expect("a socket");
            peer
        })
        .collect();
    // More requests than anybody will ever take the answers of, as much as the kernel takes.
    for mut peer in &deaf {
        let _ = peer.write(&flood);
    }
    let report = server.until_open(DEAF_COUNT + 1);
    assert_eq!(polite.ask(GET).body.len(), BODY_BYTES);
    let report_after = server.running.fresh();
    let grown = server.running.rss_bytes().saturating_sub(rss_before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes");
    // One that takes nothing is not read either.
    let answered = sum(&report_after.responses);
    assert!(answered <= sum(&report.responses) + 1 + DEAF_COUNT);
    drop(deaf);
    server.until_open(1);
    assert_eq!(polite.ask(GET).body.len(), BODY_BYTES);
    assert_eq!(polite.finish(), b"");
    let answered = sum(&server.running.fresh().responses);
    let report = books(server, answered);
    assert_eq!(count(&report.closed, "reset"), DEAF_COUNT, "{report:?}");
}

#[test]
fn flood_of_requests_is_paused_and_answered_when_the_peer_reads() {
    let server = Server::start(&[]);
    let mut other = Peer::new(&server);
    let answer_bytes = {
        let mut peer = Peer::new(&server);
        peer.say(GET);
        peer.finish().len()
    };
    let rss_before = server.running.rss_bytes();
    let mut peer = Peer::new(&server);
    peer.stream.set_nonblocking(true).expect("a socket");
    let flood = GET.repeat(2_000);
    let (mut written, mut progress_at) = (0, Instant::now());
    // The end of progress is the end of what the kernel's buffers take.
    while progress_at.elapsed() < Duration::from_secs(1) {
        assert!(written < 100_000_000, "the server reads without end");
        match peer.stream.write(&flood[written % flood.len()..]) {
            Ok(count) => {
                written += count;
                progress_at = Instant::now();
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(e) => panic!("cut after {written} bytes: {e}"),
        }
    }
    let grown = server.running.rss_bytes().saturating_sub(rss_before);
    assert!(grown < 8 * MIB, "grew by {grown} bytes");
    assert_eq!(other.ask(GET).status, 200);
    peer.stream.set_nonblocking(false).expect("a socket");
    let mut rest = peer.stream.try_clone().expect("a descriptor");
    let asked = written.div_ceil(GET.len());
    let last = GET[GET.len() - (asked * GET.len() - written)..].to_vec();
    let finishing = std::thread::spawn(move || {
        rest.write_all(&last).expect("taken when answers are read");
        rest.shutdown(Shutdown::Write).expect("open");
    });
    let heard = peer.hear_all();
    finishing.join().expect("no panic");
    // All answers are of one length, their dates too.
    assert_eq!(heard.len(), asked * answer_bytes, "{asked} requests");
    assert!(heard.ends_with(b"\r\n\r\nok"));
    drop((peer, other));
    books(server, asked as u64 + 2);
}
