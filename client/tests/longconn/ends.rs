//! Every way an attempt or a connection can end, each made by a peer on purpose, and how the client
//! names it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use holdfast_telemetry::wire::{ClientReport, ServerReport};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::{Folder, Outcome, Server, client, count, own_address, sum, until};
use crate::peer::{Peer, reset};

/// The books balance: every attempt in one class, every opened connection in one.
fn assert_complete(report: &ClientReport) {
    assert!(report.is_final);
    assert_eq!(
        (report.open_now, report.connecting_now),
        (0, 0),
        "{report:?}"
    );
    assert_eq!(
        report.attempts,
        report.opened + sum(&report.failed),
        "{report:?}"
    );
    assert_eq!(report.opened, sum(&report.ended), "{report:?}");
}

/// Runs `users` for `run_time` and gives what became of them.
fn run(target: SocketAddr, users: u64, run_time: &str, more: &[&str]) -> Outcome<ClientReport> {
    let source = own_address().to_string();
    let users = users.to_string();
    let args = [
        &[
            "--users",
            &users,
            "--run-time",
            run_time,
            "--source",
            &source,
        ],
        more,
    ]
    .concat();
    let outcome = client(target, &args).outcome();
    assert_complete(&outcome.last());
    outcome
}

/// Bound but not listening: nobody else can get the port.
fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any_port.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A queue of one that nobody empties: the kernel drops what does not fit.
fn overrun() -> (Socket, SocketAddr) {
    let (socket, address) = bound();
    socket.listen(1).unwrap();
    (socket, address)
}

#[test]
fn accepted_and_closed_at_once_is_closed_by_server() {
    let peer = Peer::start(|_, _| None);
    let outcome = run(peer.address, 50, "1500ms", &[]);
    assert_eq!(
        count(&outcome.last().ended, "closed_by_server"),
        50,
        "{:?}",
        outcome.last()
    );
    assert_eq!((outcome.last().opened, outcome.code()), (50, Some(1)));
}

#[test]
fn accepted_and_reset_is_reset() {
    let peer = Peer::start(|_, stream| {
        // Not before the client has seen that it is open.
        std::thread::sleep(Duration::from_millis(20));
        reset(stream);
        None
    });
    let outcome = run(peer.address, 20, "2s", &[]);
    let last = outcome.last();
    assert_eq!(
        count(&last.ended, "reset") + count(&last.failed, "reset"),
        20,
        "{last:?}"
    );
    assert!(count(&last.ended, "reset") > 0, "{last:?}");
    assert_eq!(outcome.code(), Some(1));
}

#[test]
fn held_to_the_end_with_right_messages_however_split() {
    let peer = Peer::start(|_, mut stream| {
        stream.set_nodelay(true).unwrap();
        for piece in ["h", "ello", "hellohel", "lo"] {
            stream.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }
        Some(stream)
    });
    let running = client(
        peer.address,
        &["--users", "3", "--expect", "hello", "--source", "127.0.0.5"],
    );
    running.until("nine messages", |r| r.messages_received == 9);
    let outcome = peer.stop(running);
    let last = outcome.last();
    assert_complete(&last);
    assert_eq!(
        (
            count(&last.ended, "held"),
            last.messages_wrong,
            last.bytes_received
        ),
        (3, 0, 45),
        "{last:?}"
    );
    assert_eq!(outcome.code(), Some(0));
}

#[test]
fn wrong_bytes_are_wrong_data() {
    let peer = Peer::start(|number, mut stream| {
        stream
            .write_all(if number % 2 == 0 { b"ok" } else { b"oh" })
            .unwrap();
        Some(stream)
    });
    let running = client(peer.address, &["--users", "10", "--source", "127.0.0.6"]);
    running.until("all messages", |r| {
        r.messages_received + r.messages_wrong == 10
    });
    let outcome = peer.stop(running);
    let last = outcome.last();
    assert_complete(&last);
    assert_eq!(
        (last.messages_wrong, last.messages_received),
        (5, 5),
        "{last:?}"
    );
    assert_eq!(
        (count(&last.ended, "wrong_data"), count(&last.ended, "held")),
        (5, 5),
        "{last:?}"
    );
    assert_eq!(outcome.code(), Some(1));
}

#[test]
fn absent_messages_are_missed() {
    let peer = Peer::silent();
    let running = client(
        peer.address,
        &[
            "--users",
            "4",
            "--every",
            "200ms",
            "--run-time",
            "2s",
            "--source",
            "127.0.0.7",
        ],
    );
    until("all accepted", || peer.count() == 4);
    peer.answer_ends();
    let outcome = running.outcome();
    let last = outcome.last();
    assert_complete(&last);
    assert_eq!(
        (count(&last.ended, "missed_message"), outcome.code()),
        (4, Some(1)),
        "{last:?}"
    );
    // The first is due at the latest at 200 ms and missed 200 ms later: 9 of each user in 2 s,
    // fewer if it opened late.
    assert!((4..=36).contains(&last.messages_missed), "{last:?}");
}

#[test]
fn closed_port_is_refused() {
    let (_socket, address) = bound();
    let outcome = run(address, 30, "1s", &[]);
    let last = outcome.last();
    assert_eq!(
        (count(&last.failed, "refused"), last.opened, outcome.code()),
        (30, 0, Some(1)),
        "{last:?}"
    );
}

#[test]
fn no_answer_is_timed_out() {
    let (_socket, address) = overrun();
    let outcome = run(
        address,
        40,
        "3s",
        &["--connect-timeout", "1s", "--drain-timeout", "300ms"],
    );
    let last = outcome.last();
    // The queue takes two, and a few more whose handshakes cross.
    assert!(count(&last.failed, "timed_out") >= 30, "{last:?}");
    assert_eq!(
        count(&last.failed, "timed_out") + last.opened,
        40,
        "{last:?}"
    );
    // A server that never reads does not close: the connections were held, and aborted at the end.
    assert_eq!(count(&last.ended, "held"), last.opened, "{last:?}");
    assert_eq!(count(&last.closed, "aborted"), last.opened, "{last:?}");
    assert_eq!(outcome.code(), Some(1));
}

#[test]
fn an_end_while_connecting_is_cancelled() {
    let (_socket, address) = overrun();
    let outcome = run(address, 40, "1s", &["--drain-timeout", "300ms"]);
    let last = outcome.last();
    assert!(count(&last.failed, "cancelled") >= 30, "{last:?}");
    assert_eq!(
        count(&last.failed, "cancelled") + last.opened,
        40,
        "{last:?}"
    );
}

#[test]
fn foreign_source_address_is_counted_as_address_not_ours() {
    // TEST-NET-1 of RFC 5737: on no interface.
    let peer = Peer::silent();
    let running = client(
        peer.address,
        &["--users", "5", "--run-time", "1s", "--source", "192.0.2.1"],
    );
    let outcome = running.outcome();
    assert_complete(&outcome.last());
    assert_eq!(
        count(&outcome.last().failed, "address_not_ours"),
        5,
        "{:?}",
        outcome.last()
    );
}

#[test]
fn client_counts_each_loss_of_a_killed_server() {
    let folder = Folder::new("killed-server");
    let json = folder.file("client.json");
    let server = Server::start(&["--connections", "1000", "--every", "300ms"]);
    let source = own_address().to_string();
    let users = client(
        server.address,
        &[
            "--users", "500", "--every", "300ms", "--source", &source, "--json", &json,
        ],
    );
    users.until("messages for all", |r| {
        r.open_now == 500 && r.messages_received >= 500
    });
    server.running.signal(Signal::SIGKILL);
    let lost = users.until("all lost", |r| r.open_now == 0);
    assert_eq!(
        count(&lost.ended, "closed_by_server") + count(&lost.ended, "reset"),
        500,
        "{lost:?}"
    );
    let outcome = users.stop();
    assert_eq!(outcome.code(), Some(1));
    assert_complete(&outcome.last());
    assert_eq!(outcome.last().ended, lost.ended);
    let written: ClientReport =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written, outcome.last());
    let dead: Outcome<ServerReport> = server.running.outcome();
    assert_eq!(dead.code(), None, "killed");
}

#[test]
fn early_stop_leaves_figures() {
    for _ in 0..20 {
        let peer = Peer::silent();
        let users = client(peer.address, &["--source", "127.0.0.8"]);
        until("the first user", || peer.count() == 1);
        let outcome = peer.stop(users);
        assert_eq!(outcome.code(), Some(0), "not killed by the signal");
        assert_complete(&outcome.last());
    }
}
